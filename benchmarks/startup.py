"""How long nbnet takes to start: import, first fit without a cache, first fit of a new process with the cache.

Each figure is from a process of its own. Environment and core come from the caller.
"""

from __future__ import annotations

import json
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
FIRST_FIT = """
import json, time
import numpy as np
start = time.perf_counter()
from {package} import MLPClassifier
imported = time.perf_counter() - start
rng = np.random.default_rng(0)
X = rng.random((1000, 20)).astype({dtype!r})
y = rng.integers(3, size=1000)
seconds = []
for hidden in ((64, 32), (30, 20, 10)):
    start = time.perf_counter()
    MLPClassifier(hidden, max_iter=1, n_iter_no_change=2).fit(X, y).predict(X)
    seconds.append(time.perf_counter() - start)
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


def first_fit_seconds(env: dict[str, str], dtype: str = "float32") -> dict[str, float]:
    """Seconds of the first fit and predict of a process, import left out: with an empty cache, then with what it left.

    ``another network`` is a second, different architecture in the process that compiled: it must compile nothing.
    """
    source = FIRST_FIT.format(package="nbnet", dtype=dtype)
    with tempfile.TemporaryDirectory() as folder:
        env = env | {"NBNET_CACHE_DIR": folder, "NUMBA_CACHE_DIR": folder}
        imported_cold, cold, another = json.loads(run_python(source, env))
        cached = [json.loads(run_python(source, env)) for _ in range(3)]
    return {
        "cold": cold,
        "cached": statistics.median(first for _, first, _ in cached),
        "another network": another,
        "import, cold": imported_cold,
    }
