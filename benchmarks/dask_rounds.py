"""Accuracy of training in rounds over partitions, beside training on one machine for as many epochs.

``python -m benchmarks.dask_rounds DATA`` reads the folders `adult` and `fashion_mnist` below DATA. The outer step is
compared on a validation split of the training rows (the last sixth, shuffled); ``--test`` trains on all of them and
scores the test rows.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import nbnet
import nbnet.dask

OUTER_STEPS = ((1.0, 0.0), (1.0, 0.3), (1.0, 0.5), (1.0, 0.7), (0.7, 0.5), (0.7, 0.9))
SETTINGS = dict(hidden_layer_sizes=(100,), learning_rate="one_cycle", learning_rate_init=0.003)


def adult(folder: Path):
    """Categories one-hot, numbers standardized."""
    train, test = (pd.read_csv(folder / f"{part}.csv.gz") for part in ("train", "test"))
    numbers = train.columns[:-1][train.dtypes[:-1].map(lambda dtype: dtype.kind in "if")]
    others = [name for name in train.columns[:-1] if name not in set(numbers)]
    encoder = make_column_transformer(
        (StandardScaler(), list(numbers)),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), others),
    )
    X = encoder.fit_transform(train).astype(np.float32)
    rich = [frame["income"].str.startswith(">").to_numpy().astype(int) for frame in (train, test)]
    return X, rich[0], encoder.transform(test).astype(np.float32), rich[1]


def fashion_mnist(folder: Path):
    """Pixels from 0 to 1."""

    def values(name: str, skip: int) -> np.ndarray:
        return np.frombuffer(gzip.decompress((folder / name).read_bytes()), np.uint8, offset=skip)

    arrays = []
    for part in ("train", "t10k"):
        pixels = values(f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 784)
        arrays += [(pixels / 255).astype(np.float32), values(f"{part}-labels-idx1-ubyte.gz", 8).astype(int)]
    return arrays


def score_rounds(data, n_partitions: int, seed: int, outer_step: tuple, max_iter: int) -> float:
    """Accuracy in percent after training over partitions."""
    X, y, X_test, y_test = data
    sizes = -(-len(X) // n_partitions)
    learning_rate, momentum = outer_step
    model = nbnet.dask.MLPClassifier(
        **SETTINGS, max_iter=max_iter, random_state=seed, outer_learning_rate=learning_rate, outer_momentum=momentum
    )
    model.fit(da.from_array(X, chunks=(sizes, -1)), da.from_array(y, chunks=sizes))
    return 100 * model.model_.score(X_test, y_test)


def score_one(data, seed: int, max_iter: int) -> float:
    """Accuracy in percent after training on one machine."""
    X, y, X_test, y_test = data
    model = nbnet.MLPClassifier(**SETTINGS, max_iter=max_iter, random_state=seed).fit(X, y)
    return 100 * model.score(X_test, y_test)


def main() -> None:
    """Print one line a setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--test", action="store_true", help="score the test rows with the defaults")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    seeds, epochs = range(arguments.seeds), arguments.epochs
    dask.config.set(scheduler="synchronous")
    for load in (adult, fashion_mnist):
        X, y, X_test, y_test = load(arguments.data / load.__name__)
        order = np.random.default_rng(0).permutation(len(X))
        X, y = X[order], y[order]
        n = len(X) * 5 // 6
        data = (X, y, X_test, y_test) if arguments.test else (X[:n], y[:n], X[n:], y[n:])
        print(load.__name__, "one machine", np.round([score_one(data, seed, epochs) for seed in seeds], 2), flush=True)
        for n_partitions in (2, 4, 8):
            for outer_step in ((1.0, 0.0), (1.0, 0.7)) if arguments.test else OUTER_STEPS:
                scores = [score_rounds(data, n_partitions, seed, outer_step, epochs) for seed in seeds]
                print(load.__name__, n_partitions, outer_step, np.round(scores, 2), flush=True)


if __name__ == "__main__":
    main()
