"""How long nbnet takes to start: import, first fit without a cache, first fit of a new process with the cache.

Each figure is from a process of its own. Environment and core come from the caller.
``python -m benchmarks.startup`` prints the first fits of tables, texts and images, compiled by one process and by as
many as there are cores.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile

from .cases import ROOT

TIMED_IMPORT = """
import time
start = time.perf_counter()
{statements}
print(time.perf_counter() - start)
"""
PROBLEMS = {
    "tables": """
from {package} import MLPClassifier
def models():
    for hidden in ((64, 32), (30, 20, 10)):
        yield MLPClassifier(hidden, max_iter=1, n_iter_no_change=2)
def data(rng, y):
    return rng.random((1000, 20)).astype({dtype!r})
""",
    "texts": """
from {package} import TextEmbeddingClassifier
def models():
    for dim in (100, 30):
        yield TextEmbeddingClassifier(dim, max_iter=1, dtype={dtype!r})
def data(rng, y):
    return ["spam and " * (1 + i) + "eggs" * i for i in y]
""",
    "images": """
from {package} import ConvClassifier
def models():
    for layers in ((8, "max_pool", 16, "max_pool"), (4, (8, 5))):
        yield ConvClassifier(layers, max_iter=1, dtype={dtype!r})
def data(rng, y):
    return rng.integers(256, size=(1000, 16, 16)).astype("uint8")
""",
}
FIRST_FIT = """
import json, time
import numpy as np
start = time.perf_counter()
{problem}
imported = time.perf_counter() - start
rng = np.random.default_rng(0)
y = rng.integers(3, size=1000)
X, seconds = data(rng, y), []
for model in models():
    times = [time.perf_counter()]
    for call in (lambda: model.fit(X, y), lambda: model.predict(X)):
        call()
        times.append(time.perf_counter())
    seconds.append(np.diff(times).tolist())
print(json.dumps([imported, *seconds]))
"""
IMPORTS = {
    "sklearn, numba": "import sklearn, numba",
    "sklearn, numba, nbnet": "import sklearn, numba, nbnet",
    "sklearn.neural_network, numba": "import sklearn.neural_network, numba",
    "sklearn.neural_network, numba, nbnet.MLPClassifier": (
        "import sklearn.neural_network, numba\nfrom nbnet import MLPClassifier"
    ),
}


def run_python(source: str, env: dict[str, str]) -> str:
    """What `source` prints in a new process."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", source], cwd=ROOT, env=env, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return done.stdout


def import_seconds(env: dict[str, str], n_repeats: int = 5) -> dict[str, float]:
    """Median seconds of each of `IMPORTS`, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for repeat in range(n_repeats + 1):
        for name, statements in IMPORTS.items():
            value = float(run_python(TIMED_IMPORT.format(statements=statements), env))
            if repeat:  # the first round fills the disk cache
                seconds[name].append(value)
    return {name: statistics.median(values) for name, values in seconds.items()}


def first_fit_seconds(env: dict[str, str], dtype: str = "float32", problem: str = "tables") -> dict[str, float]:
    """Seconds of the first fit and predict of a process, import left out: with an empty cache, then with what it left.

    ``fit`` is the first fit alone, ``another network`` a second, different architecture in the process that compiled:
    it must compile nothing.
    """
    source = FIRST_FIT.format(problem=PROBLEMS[problem].format(package="nbnet", dtype=dtype))
    with tempfile.TemporaryDirectory() as folder:
        env = env | {"NBNET_CACHE_DIR": folder, "NUMBA_CACHE_DIR": folder}
        imported_cold, cold, another = json.loads(run_python(source, env))
        cached = [json.loads(run_python(source, env)) for _ in range(3)]
    return {
        "cold": sum(cold),
        "fit": cold[0],
        "cached": statistics.median(sum(first) for _, first, _ in cached),
        "another network": sum(another),
        "import, cold": imported_cold,
    }


def main() -> None:
    """Print the table."""
    print(f"{'seconds':28}{'first fit':>12}{'and predict':>12}{'from cache':>12}{'another one':>12}")
    for problem in PROBLEMS:
        for processes in ("1", ""):
            env = dict(os.environ) | {"NBNET_COMPILE_PROCESSES": processes}
            took = first_fit_seconds(env, problem=problem)
            title = f"{problem}, {'one process' if processes else 'all cores'}"
            figures = (took[name] for name in ("fit", "cold", "cached", "another network"))
            print(f"{title:28}" + "".join(f"{seconds:12.2f}" for seconds in figures))


if __name__ == "__main__":
    main()
