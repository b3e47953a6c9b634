"""Between Dask collections and their partitions; where tasks are computed."""

from __future__ import annotations

from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np


class Partition(NamedTuple):
    """Rows that lie together on one machine, as the collections hold them."""

    X: Any
    y: Any


def check_collection(collection, name: str, estimator) -> None:
    """Raise where `collection` is no Dask collection of partitions."""
    if not hasattr(collection, "to_delayed"):
        raise TypeError(
            f"{name} must be a Dask array, bag or dataframe, got {type(collection).__name__}; for data in memory take "
            f"nbnet.{type(estimator).__name__}."
        )


def pieces_of(collection) -> tuple[list, list]:
    """Delayed partitions of a collection, and their numbers of rows, NaN where unknown."""
    if isinstance(collection, da.Array):
        whole_rows = collection.rechunk(dict.fromkeys(range(1, collection.ndim), -1))
        return whole_rows.to_delayed().ravel().tolist(), list(whole_rows.chunks[0])
    pieces = collection.to_delayed()
    return pieces, [np.nan] * len(pieces)


def in_memory(piece):
    """One partition as it is, that of a bag as a list: bags may hold iterators, which can be read but once."""
    return piece if hasattr(piece, "shape") else list(piece)


def as_partition(X, y, number: int) -> Partition:
    """Rows and targets of one partition."""
    X, y = in_memory(X), in_memory(y)
    if len(X) != len(y):
        raise ValueError(f"Partition {number} has {len(X)} rows in X and {len(y)} in y.")
    return Partition(X, y if hasattr(y, "shape") else np.array(y))


def partitions_of(X, y, client) -> list:
    """Delayed `Partition` of each pair of partitions; they stay in the workers' memory."""
    X_pieces, X_sizes = pieces_of(X)
    if isinstance(y, da.Array) and y.shape[0] == sum(X_sizes):  # never where a size is unknown: NaN equals nothing
        y = y.rechunk({0: tuple(X_sizes)})
    y_pieces, _ = pieces_of(y)
    if len(X_pieces) != len(y_pieces):
        raise ValueError(
            f"X has {len(X_pieces)} partitions and y has {len(y_pieces)}; repartition one of them like the other."
        )
    join = dask.delayed(as_partition)
    pairs = [join(*pair, number) for number, pair in enumerate(zip(X_pieces, y_pieces, strict=True))]
    return client.persist(pairs) if client is not None else list(dask.persist(*pairs))


def compute(tasks: list, client) -> list:
    """Results of delayed tasks, in their order."""
    # weights travel in the graph, of which Dask would warn: scattered to a worker, they could be lost with it
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
        if client is not None:
            return client.gather(client.compute(tasks))
        return list(dask.compute(*tasks))


def called(model, method: str, piece, shape: tuple, dtype) -> np.ndarray:
    """``model.method(piece)``; a partition without rows gives none."""
    piece = in_memory(piece)
    return np.asarray(getattr(model, method)(piece)) if len(piece) else np.empty((0, *shape), dtype)


def lazy(model, method: str, X, shape: tuple, dtype) -> da.Array:
    """Dask array (n_rows, *shape) of ``model.method(X)``, with those partitions of X that have rows."""
    shared, call = dask.delayed(model, traverse=False), dask.delayed(called)
    blocks = [
        da.from_delayed(call(shared, method, piece, shape, dtype), (size, *shape), dtype)
        for piece, size in zip(*pieces_of(X), strict=True)
    ]
    return da.concatenate(blocks, allow_unknown_chunksizes=True)
