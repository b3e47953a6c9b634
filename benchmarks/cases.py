"""What is measured: the networks, their data, and the ratio to each peer that the project asks for."""

from __future__ import annotations

import gzip
import os
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
N_CLASSES = 10
LEARNING_RATE = 1e-3
ALPHA = 1e-4  # L2 penalty; a step's gradient gets alpha / batch_size * weight, in every peer


class Case(NamedTuple):
    """One network, trained with Adam for `epochs` passes over `n_rows` rows."""

    name: str
    n_rows: int
    n_features: int
    hidden: tuple[int, ...]
    batch_size: int
    epochs: int
    dtype: str = "float32"
    activation: str = "relu"
    data: str = "synthetic"
    asked: tuple[tuple[str, float], ...] = ()  # (peer, its time over nbnet's)

    @property
    def sizes(self) -> list[int]:
        """Columns of the input, of each hidden layer, of the output."""
        return [self.n_features, *self.hidden, N_CLASSES]

    @property
    def title(self) -> str:
        kind = "" if self.activation == "relu" else f" {self.activation}"
        kind += "" if self.dtype == "float32" else f" {self.dtype}"
        rows = "" if self.data == "synthetic" else f" {self.data}"
        return "-".join(map(str, self.sizes)) + f" batch {self.batch_size}" + kind + rows

    @property
    def flop(self) -> float:
        """Multiplications and additions of the products in all epochs; the first layer needs no input gradient."""
        products = [a * b for a, b in pairwise(self.sizes)]
        return self.epochs * self.n_rows * (6.0 * sum(products) - 2.0 * products[0])


SMALL = Case("mlp_small", 20_000, 20, (64, 32), 32, 10, asked=(("PyTorch", 20), ("scikit-learn", 15), ("JAX", 1.8)))
MIDDLE = Case("mlp_middle", 20_000, 784, (100,), 200, 5, asked=(("PyTorch", 1.6), ("scikit-learn", 1.6), ("JAX", 1.4)))
LARGE = Case(
    "mlp_large", 10_000, 1000, (512, 512), 256, 3, asked=(("PyTorch", 1.2), ("scikit-learn", 1.6), ("JAX", 1.1))
)
FASHION = MIDDLE._replace(name="fashion_mnist", n_rows=60_000, epochs=3, data="fashion_mnist")
FLOAT64 = MIDDLE._replace(name="float64", dtype="float64", asked=(("scikit-learn", 1.5),))

MLP_CASES = (SMALL, MIDDLE, LARGE, FASHION)
ACTIVATION_LIMIT = 1.15  # tanh or logistic over relu
GRID_SEARCH_ASKED = 6.0
PREDICT_ASKED = 2.0
TWO_CORES_ASKED = 1.7
SHARE_OF_PEAK_ASKED = 0.85
IMPORT_LIMIT, COLD_LIMIT, CACHED_LIMIT = 0.2, 12.0, 1.0  # seconds

GRID = {
    "hidden_layer_sizes": [(32,), (64,), (64, 32)],
    "learning_rate_init": [1e-3, 3e-3],
    "alpha": [1e-5, 1e-4, 1e-3, 1e-2],
}  # 24 candidates


class Data(NamedTuple):
    """Training and test rows; y are class numbers, int64."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def data_folder() -> Path:
    """Folder of data sets that do not ship with the package: `NBNET_DATA`, or ``../shared/data`` beside the root."""
    return Path(os.environ.get("NBNET_DATA", ROOT.parent / "shared" / "data"))


def load(case: Case) -> Data:
    """The case's rows in its dtype. FileNotFoundError where a data set is not there."""
    if case.data == "fashion_mnist":
        X, y, X_test, y_test = _fashion_mnist()
        X, y = X[: case.n_rows], y[: case.n_rows]
    else:
        X, y, X_test, y_test = _synthetic(case.n_rows, case.n_features)
    return Data(X.astype(case.dtype, copy=False), y, X_test.astype(case.dtype, copy=False), y_test)


def _synthetic(n_rows: int, n_features: int) -> Data:
    """Standard normal rows; the class is the largest of ten random linear functions."""
    rng = np.random.default_rng(0)
    n_test = n_rows // 5
    X = rng.standard_normal((n_rows + n_test, n_features), dtype=np.float32)
    y = (X @ rng.standard_normal((n_features, N_CLASSES)).astype(np.float32)).argmax(1)
    return Data(X[:n_rows].copy(), y[:n_rows].copy(), X[n_rows:].copy(), y[n_rows:].copy())


def _fashion_mnist() -> Data:
    def read(name: str, header: int) -> np.ndarray:
        with gzip.open(data_folder() / "fashion_mnist" / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=header)

    parts = []
    for prefix in ("train", "t10k"):
        parts.append(read(f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 784).astype(np.float32) / 255)
        parts.append(read(f"{prefix}-labels-idx1-ubyte.gz", 8).astype(np.int64))
    return Data(*parts)
