"""A child process that measures one thing: ``python -m benchmarks.worker REQUEST`` with a JSON object.

It answers in JSON lines. The first line says that all is compiled and warm, or why it cannot be measured. Each line on
standard input then asks for one more measurement, so that the parent can let several peers take turns.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import resource
import sys
import time
import warnings

import numpy as np

from . import cases, peers, text_peers
from .memory import restart_peak, status_bytes


class Train:
    """Times one training of a case, in the setting that proves fastest."""

    def __init__(self, request: dict):
        self.case = cases.Case(**request["case"])
        self.data = cases.load(self.case)
        settings = peers.PEERS[request["peer"]](self.case, self.data, request["n_cores"])
        seconds, failures = {}, []
        for name, train in settings.items():
            try:
                train()
                seconds[name] = min(train()[0] for _ in range(2))
            except Exception as error:  # a setting that this version or machine cannot do
                failures.append(f"{name}: {error!r}")
        if not seconds:
            raise RuntimeError("; ".join(failures))
        self.setting = min(seconds, key=seconds.get)
        self.train = settings[self.setting]

    def measure(self) -> dict:
        seconds, predict_proba = self.train()
        accuracy = float((predict_proba(self.data.X_test).argmax(1) == self.data.y_test).mean())
        return {"seconds": seconds, "accuracy": accuracy}


class Predict(Train):
    """Times predict_proba on `n_rows` rows, from NumPy to NumPy."""

    def __init__(self, request: dict):
        super().__init__(request)
        _, self.predict_proba = self.train()
        self.X = self.data.X[: request["n_rows"]]
        self.n_calls = 1
        while self._seconds() < 0.1:
            self.n_calls *= 2

    def _seconds(self) -> float:
        start = time.perf_counter()
        for _ in range(self.n_calls):
            self.predict_proba(self.X)
        return time.perf_counter() - start

    def measure(self) -> dict:
        accuracy = float((self.predict_proba(self.data.X_test).argmax(1) == self.data.y_test).mean())
        return {"seconds": self._seconds() / self.n_calls, "accuracy": accuracy}


class GridSearch:
    """Times GridSearchCV over the digits, 24 candidates x 5 folds."""

    def __init__(self, request: dict):
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        X, y = load_digits(return_X_y=True)
        self.data = train_test_split((X / 16).astype(np.float32), y, test_size=0.2, random_state=0, stratify=y)
        self.request = request
        backends = ["loky"] if request["n_cores"] > 1 else ["sequential"]
        if request["peer"] == "nbnet" and request["n_cores"] > 1:
            backends.insert(0, "threading")
        self.setting = min(backends, key=self._warm_seconds)

    def _warm_seconds(self, backend: str) -> float:
        self._search(backend, cases.GRID | {"alpha": [1e-4]}, max_iter=2)  # compiles, starts the workers
        start = time.perf_counter()
        self._search(backend, cases.GRID | {"alpha": [1e-4]}, max_iter=2)
        return time.perf_counter() - start

    def _search(self, backend: str, grid: dict, max_iter: int):
        import joblib
        from sklearn.model_selection import GridSearchCV

        if self.request["peer"] == "nbnet":
            from nbnet import MLPClassifier
        else:
            from sklearn.neural_network import MLPClassifier

        X, _, y, _ = self.data
        search = GridSearchCV(
            MLPClassifier(max_iter=max_iter, n_iter_no_change=max_iter + 1, random_state=0),
            grid,
            cv=5,
            n_jobs=self.request["n_cores"],
        )
        with joblib.parallel_backend(backend, n_jobs=self.request["n_cores"]):
            return search.fit(X, y)

    def measure(self) -> dict:
        start = time.perf_counter()
        search = self._search(self.setting, cases.GRID, max_iter=self.request["max_iter"])
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "accuracy": float(search.score(self.data[1], self.data[3]))}


class Memory:
    """Peak memory of a fit above what the process held before it, beside the size of X. Linux only."""

    def __init__(self, request: dict):
        self.case = cases.Case(**request["case"])
        rng = np.random.default_rng(0)
        shape = self.case.n_rows, self.case.n_features
        self.X = rng.random(shape, dtype=np.float32)
        self.y = rng.integers(cases.N_CLASSES, size=shape[0])
        if request["peer"] == "nbnet":
            from nbnet import MLPClassifier
        else:
            from sklearn.neural_network import MLPClassifier
        self.setting = ""
        self.estimator = MLPClassifier(**peers.estimator_parameters(self.case))
        self.estimator.fit(self.X[:1000], self.y[:1000])

    def measure(self) -> dict:
        restart_peak()
        before = status_bytes("VmRSS")
        start = time.perf_counter()
        self.estimator.fit(self.X, self.y)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "bytes": status_bytes("VmHWM") - before, "X_bytes": self.X.nbytes}


class Products:
    """GFLOP/s of the products of a dense layer, NumPy's and the limit of the core."""

    def __init__(self, request: dict):
        from . import products

        self.setting = ""
        self.shape = request["shape"]
        self.measure_products = products.measure

    def measure(self) -> dict:
        return self.measure_products(*self.shape)


TASKS = {"train": Train, "predict": Predict, "grid_search": GridSearch, "memory": Memory, "products": Products}
TASKS |= text_peers.TASKS
PACKAGES = {
    "nbnet": ["numba", "llvmlite"],
    "scikit-learn": ["scikit-learn", "scipy"],
    "PyTorch": ["torch"],
    "PyTorch, one graph": ["torch"],
    "skorch": ["skorch", "torch"],
    "JAX": ["jax", "jaxlib"],
}


def blas_kernels() -> list[str]:
    """Which BLAS each loaded library uses, with the kernels that it chose and its threads."""
    import threadpoolctl

    return sorted(
        f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')} {pool['num_threads']} threads"
        for pool in threadpoolctl.threadpool_info()
        if pool["user_api"] == "blas"
    )


def main() -> None:
    request = json.loads(sys.argv[1])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, request["cores"])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    warnings.simplefilter("ignore")

    def answer(**values) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    try:
        task = TASKS[request["task"]](request)
    except ModuleNotFoundError as error:
        return answer(error=f"not installed ({error.name})")
    except FileNotFoundError as error:
        return answer(error=f"data not found ({error.filename})")
    except Exception as error:
        return answer(error=f"failed: {error!r}"[:300])
    packages = ["numpy", *PACKAGES.get(request["peer"], [])]
    answer(
        setting=task.setting,
        versions={name: importlib.metadata.version(name) for name in packages},
        blas=blas_kernels(),
        max_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    )
    for _ in sys.stdin:
        start, start_cpu = time.perf_counter(), time.process_time()
        found = task.measure()
        # what the processor did beside this process shows whether the machine was quiet
        answer(**found, total_seconds=time.perf_counter() - start, total_cpu=time.process_time() - start_cpu)


if __name__ == "__main__":
    main()
