"""Accuracy of training in rounds over partitions, beside training on one machine for as many epochs.

``python -m benchmarks.dask_rounds DATA`` reads the folders `adult`, `fashion_mnist` and `ag_news_21k` below DATA. Rules
(``--local-epochs 0.25 1 --outer-momentum 0 0.7``) are compared on a validation split of the training rows (the last
sixth, shuffled); ``--test`` trains on all of them and scores the test rows. Of each setting: mean and standard
deviation over seeds, the epochs made, and the bytes of a round's changes.

``--workers 1 2`` times fits instead, with so many worker processes of one core each, beside one machine with one core.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import os
import pickle
from pathlib import Path
from time import perf_counter

import dask
import numpy as np
import pandas as pd
from dask.distributed import Client, LocalCluster
from sklearn.compose import make_column_transformer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import nbnet
import nbnet.dask

from . import text_data

TABLES = dict(hidden_layer_sizes=(100,), learning_rate="one_cycle", learning_rate_init=0.003, max_iter=10)
IMAGES = dict(learning_rate="one_cycle", learning_rate_init=0.003, max_iter=2)
PARTITIONS = (2, 4, 8)


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


def fashion_images(folder: Path):
    """The same as images."""
    X, y, X_test, y_test = fashion_mnist(folder.with_name("fashion_mnist"))
    return X.reshape(-1, 28, 28), y, X_test.reshape(-1, 28, 28), y_test


def ag_news_21k(folder: Path):
    """Texts and labels."""
    os.environ["NBNET_DATA"] = str(folder.parent)
    return [np.array(part, object) for part in text_data.load(folder.name)]


SETS = {
    adult: (nbnet.MLPClassifier, nbnet.dask.MLPClassifier, TABLES),
    fashion_mnist: (nbnet.MLPClassifier, nbnet.dask.MLPClassifier, TABLES),
    fashion_images: (nbnet.ConvClassifier, nbnet.dask.ConvClassifier, IMAGES),
    ag_news_21k: (nbnet.TextEmbeddingClassifier, nbnet.dask.TextEmbeddingClassifier, {}),  # until the target loss
}


def score(model, data, n_partitions: int) -> tuple[float, int, int]:
    """Accuracy in percent; epochs made; bytes that go to all partitions and back in a round, or 0."""
    X, y, X_test, y_test = data
    if not n_partitions:
        model.fit(X, y)
        return 100 * model.score(X_test, y_test), model.n_iter_, 0
    sizes, sent = [], nbnet.dask.collections.compute

    def counted(tasks, client):
        results = sent(tasks, client)
        sizes.append(sum(len(pickle.dumps(result)) for result in results))
        return results

    nbnet.dask.collections.compute = counted
    try:
        model.fit(*pieces_of(X, y, n_partitions))
    finally:
        nbnet.dask.collections.compute = sent
    return 100 * model.model_.score(X_test, y_test), model.n_iter_, sizes[-1]


def pieces_of(X, y, n_partitions: int) -> list[list]:
    """Delayed partitions of X and of y."""
    cuts = np.linspace(0, len(X), n_partitions + 1).astype(int).tolist()
    return [[dask.delayed(rows[a:b]) for a, b in itertools.pairwise(cuts)] for rows in (X, y)]


def seconds(fit, *arguments, repeats: int = 5) -> float:
    """Median time of a fit, after one that compiles and starts what it needs."""
    times = []
    for _ in range(repeats + 1):
        start = perf_counter()
        fit(*arguments)
        times.append(perf_counter() - start)
    return float(np.median(times[1:]))


def report_times(name: str, one, distributed, data, n_partitions: int, n_workers: list[int]) -> None:
    """Print the time of a fit on one core, and with each number of workers."""
    alone = seconds(one.fit, *data)
    print(f"{name}, one machine, one core: {alone:.2f} s", flush=True)
    for n in n_workers:
        with (
            LocalCluster(n_workers=n, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            pieces = [client.persist(part) for part in pieces_of(*data, n_partitions)]  # the data lie on the workers
            took = seconds(distributed.fit, *pieces, client)
        print(f"{name}, {n_partitions} partitions, {n} workers: {took:.2f} s", flush=True)


def report(name: str, results: list) -> None:
    """Print one line."""
    scores, n_iter, n_bytes = np.array(results).T
    line = f"{name:60} {scores.mean():6.2f} +- {scores.std(ddof=1) if scores.size > 1 else np.nan:.2f}"
    print(f"{line}  epochs {n_iter.mean():.1f}  back a round {n_bytes.mean() / 1e6:.2f} MB", flush=True)


def main() -> None:
    """Print one line a setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", default=[load.__name__ for load in SETS])
    parser.add_argument("--test", action="store_true", help="score the test rows")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="of each fit; default: 10, texts until their target loss")
    parser.add_argument("--partitions", type=int, nargs="+", default=PARTITIONS)
    parser.add_argument("--local-epochs", type=float, nargs="+", help="default: that of the estimator")
    parser.add_argument("--outer-momentum", type=float, nargs="+", help="default: that of the estimator")
    parser.add_argument("--workers", type=int, nargs="+", help="time fits with so many")
    arguments = parser.parse_args()
    if not arguments.workers:
        dask.config.set(scheduler="synchronous")
    for load, (one, distributed, settings) in SETS.items():
        if load.__name__ not in arguments.sets:
            continue
        X, y, X_test, y_test = load(arguments.data / load.__name__)
        order = np.random.default_rng(0).permutation(len(X))
        X, y = X[order], y[order]
        n = len(X) * 5 // 6
        data = (X, y, X_test, y_test) if arguments.test else (X[:n], y[:n], X[n:], y[n:])
        if arguments.epochs is not None:
            settings = settings | {"max_iter": arguments.epochs} | ({} if settings else {"target_loss": None})
        if arguments.workers:
            settings = settings | dict(n_jobs=1, random_state=0)
            for n in arguments.partitions:
                report_times(load.__name__, one(**settings), distributed(**settings), (X, y), n, arguments.workers)
            continue
        seeds = range(arguments.seeds)
        report(f"{load.__name__}, one machine", [score(one(**settings, random_state=s), data, 0) for s in seeds])
        defaults = distributed()
        rules = itertools.product(
            arguments.partitions,
            arguments.local_epochs or [defaults.local_epochs],
            arguments.outer_momentum or [defaults.outer_momentum],
        )
        for n_partitions, local_epochs, outer_momentum in rules:
            rule = dict(local_epochs=int(local_epochs) if local_epochs >= 1 else local_epochs)
            rule |= dict(outer_momentum=outer_momentum)
            models = [distributed(**settings, **rule, random_state=seed) for seed in seeds]
            results = [score(model, data, n_partitions) for model in models]
            report(f"{load.__name__}, {n_partitions} partitions, {rule}", results)


if __name__ == "__main__":
    main()
