"""``python -m nbnet demo | warm-up | info``."""

from __future__ import annotations

import argparse
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

EPOCHS = 60
IMAGE_EPOCHS = 15
REPEAT_BELOW = 1.0  # seconds: quicker fits are timed three times, and the best counts
DEMO_COLUMNS = ("data set", "rows", "estimator", "test score", "fit", "sklearn score", "sklearn fit", "ratio")
DEMO_WIDTHS = (20, 6, 23, 18, 9, 13, 11, 6)


class Task(NamedTuple):
    """One row of the demo's table; `models` gives an estimator of ours and its peer in scikit-learn."""

    name: str
    load: Callable
    scoring: str
    models: Callable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m nbnet", description="Neural networks for scikit-learn users.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("demo", help="train on real tables, texts and images beside scikit-learn and print one table")
    commands.add_parser("warm-up", help="compile everything once, so that no later fit has to (for container images)")
    commands.add_parser("info", help="print versions, vector width, cache folder and devices")
    command = parser.parse_args(arguments).command
    {"demo": demo, "warm-up": warm_up, "info": info}[command]()
    return 0


# ---------------------------------------------------------------- demo


def demo() -> None:
    """Train our estimators and scikit-learn's on the same rows, and print one table."""
    from . import __version__

    print(f"{_processor()}, {_n_cores()} cores; nbnet {__version__}, Python {platform.python_version()}")
    _report_compilation(_compile_for_demo)
    print(f"\nTables: one hidden layer of 100, {EPOCHS} epochs, float32, else defaults; scikit-learn the same.")
    print("Texts: defaults, beside TF-IDF of words and pairs of them (of characters for Chinese) and LinearSVC.")
    print(f"Images: two convolutions, {IMAGE_EPOCHS} epochs, beside scikit-learn's MLP on the pixels, {EPOCHS} epochs.")
    print("Every fifth row is for the test.\n")
    print(_table_line(DEMO_COLUMNS))
    print(_table_line(["-" * width for width in DEMO_WIDTHS]))
    start = time.perf_counter()
    for task in _demo_tasks():
        print(_table_line(_demo_row(task)), flush=True)
    print(
        f"\nIn all {time.perf_counter() - start:.1f} s. Fits: best of up to 3. Ratio: scikit-learn's time by nbnet's;"
    )
    print("scikit-learn's BLAS has one thread, its faster setting at these sizes.")
    print('On the CPU; device="cuda" trains on a GPU, which is not yet measured on a GPU.')


def _demo_tasks() -> list[Task]:
    from sklearn.datasets import load_breast_cancer, load_digits

    from . import datasets

    return [
        Task("breast cancer", load_breast_cancer, "accuracy", _networks),
        Task("german credit", datasets.load_german_credit, "roc_auc", _networks),
        Task("ai4i2020", datasets.load_ai4i2020, "roc_auc", _networks),
        Task("student performance", datasets.load_student_performance, "roc_auc", _networks),
        Task("digits", load_digits, "accuracy", _networks),
        Task("digits as images", load_digits, "accuracy", _image_models),
        Task("sms spam", datasets.load_sms_spam, "accuracy", _text_models),
        Task("chinese verse", datasets.load_poetry_genre_zh, "accuracy", partial(_text_models, analyzer="char")),
    ]


def _networks():
    from sklearn.neural_network import MLPClassifier as SklearnClassifier

    from . import MLPClassifier

    settings = {"max_iter": EPOCHS, "n_iter_no_change": EPOCHS, "random_state": 0}
    return MLPClassifier(**settings), SklearnClassifier(**settings)


def _image_models():
    from . import ConvClassifier

    settings = {"learning_rate": "one_cycle", "learning_rate_init": 0.01, "batch_size": 32, "random_state": 0}
    ours = ConvClassifier((32, "max_pool", 32), image_shape=(8, 8), max_iter=IMAGE_EPOCHS, **settings)
    return ours, _networks()[1]


def _text_models(analyzer: str = "word"):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    from . import TextEmbeddingClassifier

    vectorizer = TfidfVectorizer(analyzer=analyzer, ngram_range=(1, 2))
    return TextEmbeddingClassifier(random_state=0), make_pipeline(vectorizer, LinearSVC(random_state=0))


def _demo_row(task: Task) -> list[str]:
    from sklearn.metrics import get_scorer
    from threadpoolctl import threadpool_limits

    X, y = _prepare(task.load())
    is_test = np.arange(len(y)) % 5 == 4
    ours, peer = task.models()
    results = []
    for label, model in (("nbnet", ours), ("scikit-learn", peer)):
        with _status(f"{task.name}: {label} trains"):
            with threadpool_limits(1):  # the faster setting for scikit-learn's products at these sizes
                seconds = _time_fit(model, X[~is_test], y[~is_test])
            results.append((get_scorer(task.scoring)(model, X[is_test], y[is_test]), seconds))
    (score, seconds), (peer_score, peer_seconds) = results
    metric = {"roc_auc": "ROC AUC"}.get(task.scoring, task.scoring)
    return [
        task.name,
        f"{len(y):,}",
        type(ours).__name__,
        f"{score:.3f} {metric}",
        f"{seconds:.3f} s",
        f"{peer_score:.3f}",
        f"{peer_seconds:.3f} s",
        f"{peer_seconds / seconds:.1f}",
    ]


def _prepare(bunch) -> tuple[np.ndarray, np.ndarray]:
    """Float32 columns: numbers standardized, categories one-hot. Texts stay as they are."""
    from sklearn.compose import make_column_transformer
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    if bunch.data.ndim == 1:
        return bunch.data, bunch.target
    categorical = bunch.get("categorical_features", [])
    numeric = bunch.get("numeric_features", list(range(bunch.data.shape[1])))
    columns = make_column_transformer(
        (StandardScaler(), numeric),
        (OneHotEncoder(sparse_output=False, handle_unknown="ignore"), categorical),
    )
    return columns.fit_transform(bunch.data).astype(np.float32), bunch.target


def _time_fit(model, X: np.ndarray, y: np.ndarray) -> float:
    """Seconds of one fit; the best of three when it is quick."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        _fit(model, X, y)
        best = min(best, time.perf_counter() - start)
        if best > REPEAT_BELOW:
            break
    return best


def _fit(model, X, y, **kwargs):
    """Fit for a set number of epochs: that the optimizer has not converged by then is no news."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(X, y, **kwargs)


def _table_line(cells: Sequence[str]) -> str:
    columns = enumerate(zip(cells, DEMO_WIDTHS, strict=True))
    texts = [cell.ljust(width) if i in (0, 2, 3) else cell.rjust(width) for i, (cell, width) in columns]
    return "  ".join(texts).rstrip()


@contextmanager
def _status(text: str) -> Iterator[None]:
    """Show `text` on a terminal while the block runs."""
    if not sys.stdout.isatty():
        yield
        return
    print(f"{text} ...", end="\r", flush=True)
    try:
        yield
    finally:
        print(" " * (len(text) + 4), end="\r", flush=True)


# ---------------------------------------------------------------- compiling


def warm_up() -> None:
    """Compile every signature that a fit or a prediction can ask for: both dtypes, tables, texts, images."""
    _report_compilation(_compile_everything)


def _compile_for_demo() -> None:
    from . import ConvClassifier, MLPClassifier, TextEmbeddingClassifier

    X, y = _small_problem(np.float32)
    _fit(MLPClassifier((4,), max_iter=1), X, y).predict(X)
    _fit(ConvClassifier((4,), image_shape=(1, 3), max_iter=1), X, y).predict(X)
    texts, labels = _small_texts()
    _fit(TextEmbeddingClassifier(4, max_iter=1), texts, labels).predict(texts)


def _compile_everything() -> None:
    from scipy.sparse import csr_array

    for dtype in (np.float32, np.float64):
        X, y = _small_problem(dtype)
        inputs = {"dense": X, "CSR": csr_array(X), "CSR with 64-bit indices": csr_array(X)}
        wide = inputs["CSR with 64-bit indices"]
        wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
        for kind, rows in inputs.items():
            with _status(f"{np.dtype(dtype).name}, {kind}"):
                _compile_for_input(rows, y)
        with _status(f"{np.dtype(dtype).name}, texts"):
            _compile_for_texts(np.dtype(dtype).name)
    for kind in (np.uint8, np.float32, np.float64):
        with _status(f"images of {np.dtype(kind).name}"):
            _compile_for_images(kind)


def _compile_for_input(X, y: np.ndarray) -> None:
    from . import MLPClassifier, MLPRegressor

    for solver in ("adam", "adamw", "sgd", "lbfgs"):
        _fit(MLPClassifier((4,), solver=solver, max_iter=1), X, y).predict_proba(X)
    _fit(MLPClassifier((4,), dropout=0.1, max_grad_norm=1.0, max_iter=1), X, y, X_val=X, y_val=y)
    for loss in ("squared_error", "poisson", "huber", "quantile"):
        _fit(MLPRegressor(loss, (4,), max_iter=1), X, y.astype(X.dtype)).predict(X)


def _compile_for_texts(dtype: str) -> None:
    from . import TextEmbeddingClassifier

    texts, labels = _small_texts()
    for hidden, changes in (((), {"subword_range": (2, 3)}), ((4,), {"pooling": "attention", "dropout": 0.1})):
        for solver in ("adagrad", "adam"):
            model = TextEmbeddingClassifier(4, hidden, solver=solver, max_iter=1, dtype=dtype, **changes)
            _fit(model, texts, labels, X_val=texts, y_val=labels).predict(texts)
            model.partial_fit([*texts, "another"], [*labels, 0]).transform(texts)


def _compile_for_images(kind) -> None:
    from . import ConvClassifier

    X, y = _small_problem(np.float32)
    images = np.clip(100 + 50 * X, 0, 255).astype(kind).reshape(len(X), 1, 3)
    for augment in (None, {"rotation": 1.0}):
        model = ConvClassifier((4,), (4,), augment=augment, max_iter=1)
        _fit(model, images, y, X_val=images, y_val=y).transform(images)


def _small_texts() -> tuple[list[str], list[int]]:
    return ["one text", "and another", "caf\u00e9 \u8336", ""] * 8, [0, 1, 1, 0] * 8


def _small_problem(dtype) -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(0).normal(size=(32, 3)).astype(dtype)
    return X, (X[:, 0] > 0).astype(np.int64)


def _report_compilation(compile_kernels: Callable[[], None]) -> None:
    """Run `compile_kernels` and say what it compiled and where that is kept."""
    from .code_cache import cache_directory

    folder = cache_directory()
    before = _cached_files(folder)
    start = time.perf_counter()
    with _status("loading kernels, compiling those that are not in the cache (about 10 s the first time)"):
        compile_kernels()
    seconds = time.perf_counter() - start
    n_new = len(_cached_files(folder) - before)
    if folder is None:
        print(f"Compiled in {seconds:.1f} s; no folder can be written, so the next run compiles again.")
    elif n_new:
        print(f"Compiled {n_new} kernel signatures in {seconds:.1f} s into {folder}: the next run starts from there.")
    else:
        print(f"Nothing to compile: kernels loaded in {seconds:.1f} s from {folder}")


def _cached_files(folder: Path | None) -> set[str]:
    return set() if folder is None else {path.name for path in folder.glob("*.nbc")}


# ---------------------------------------------------------------- info


def info() -> None:
    """Print what a bug report should hold."""
    from . import __version__
    from .code_cache import cache_directory
    from .cpu.simd import VECTOR_WIDTH
    from .cuda.device import devices, why_no_cuda

    folder = cache_directory()
    lines = {"Python": platform.python_version(), "platform": platform.platform()}
    lines["nbnet"] = __version__
    for name in ("numba", "llvmlite", "numpy", "scipy", "scikit-learn", "joblib"):
        lines[name] = metadata.version(name)
    lines["processor"] = _processor()
    lines["cores"] = str(_n_cores())
    lines["vector width"] = f"{VECTOR_WIDTH} floats of 32 bits"
    lines["cache folder"] = "none: nothing can be written" if folder is None else str(folder)
    lines["cached kernels"] = str(len(_cached_files(folder)))
    lines["devices"] = ", ".join(["cpu", *devices()])
    lines["cuda"] = why_no_cuda() or "can be used"
    if devices():
        from .cuda import blas

        lines["products"] = blas.describe()
    for name, value in lines.items():
        print(f"{name + ':':<16}{value}")


def _processor() -> str:
    from llvmlite import binding
    from numba.core import config

    return config.CPU_NAME or binding.get_host_cpu_name()


def _n_cores() -> int:
    import joblib

    return joblib.cpu_count()


if __name__ == "__main__":
    sys.exit(main())
