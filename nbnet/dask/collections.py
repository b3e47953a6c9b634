"""Between Dask collections and their partitions; where tasks are computed."""

from __future__ import annotations

from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np
from dask.delayed import Delayed
from sklearn.utils import _safe_indexing


class Partition(NamedTuple):
    """Rows that lie together on one machine, as the collections hold them; `weights` is float64 or None."""

    X: Any
    y: Any
    weights: np.ndarray | None = None


def is_collection(X) -> bool:
    """Whether X is a Dask collection of partitions, or a list of delayed ones."""
    if isinstance(X, (list, tuple)):
        return len(X) > 0 and all(isinstance(piece, Delayed) for piece in X)
    return hasattr(X, "to_delayed")


def check_collection(collection, name: str, estimator) -> None:
    """Raise where `collection` is no Dask collection of partitions."""
    if not is_collection(collection):
        raise TypeError(
            f"{name} must be a Dask array, bag or dataframe, got {type(collection).__name__}; for data in memory take "
            f"nbnet.{type(estimator).__name__}."
        )


def pieces_of(collection) -> tuple[list, list]:
    """Delayed partitions of a collection, and their numbers of rows, NaN where unknown."""
    if isinstance(collection, da.Array):
        whole_rows = collection.rechunk(dict.fromkeys(range(1, collection.ndim), -1))
        return whole_rows.to_delayed().ravel().tolist(), list(whole_rows.chunks[0])
    pieces = list(collection) if isinstance(collection, (list, tuple)) else collection.to_delayed()
    return pieces, [np.nan] * len(pieces)


def gathered(collection):
    """A collection as data in memory; anything else as it is."""
    if isinstance(collection, (list, tuple)) and is_collection(collection):
        return np.concatenate([np.asarray(in_memory(piece)) for piece in dask.compute(*collection)])
    return dask.compute(collection)[0]


def in_memory(piece):
    """One partition as it is, that of a bag as a list: bags may hold iterators, which can be read but once."""
    return piece if hasattr(piece, "shape") else list(piece)


def as_partition(X, y, weights, number: int) -> Partition:
    """Rows, targets and weights of one partition; rows of weight 0 are left out."""
    X, y = in_memory(X), in_memory(y)
    y = y if hasattr(y, "shape") else np.array(y)
    if len(X) != y.shape[0]:
        raise ValueError(f"Partition {number} has {len(X)} rows in X and {y.shape[0]} in y.")
    if weights is None:
        return Partition(X, y)
    weights = np.asarray(in_memory(weights), np.float64)
    if weights.shape != (len(X),):
        raise ValueError(f"Partition {number} has {len(X)} rows in X and sample_weight of shape {weights.shape}.")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(f"sample_weight must be finite and at least 0, which it is not in partition {number}.")
    if weights.all():
        return Partition(X, y, weights)
    kept = np.flatnonzero(weights)
    return Partition(_safe_indexing(X, kept), _safe_indexing(y, kept), weights[kept])


def partitions_of(X, y, weights, client) -> list:
    """Delayed `Partition` of each pair of partitions; they stay in the workers' memory."""
    X_pieces, X_sizes = pieces_of(X)

    def beside(collection, name: str) -> list:
        if isinstance(collection, da.Array) and collection.shape[0] == sum(X_sizes):  # NaN, unknown, equals nothing
            collection = collection.rechunk({0: tuple(X_sizes)})
        pieces, _ = pieces_of(collection)
        if len(pieces) != len(X_pieces):
            raise ValueError(
                f"X has {len(X_pieces)} partitions and {name} has {len(pieces)}; repartition one of them like the "
                "other."
            )
        return pieces

    y_pieces = beside(y, "y")
    weight_pieces = [None] * len(X_pieces) if weights is None else beside(weights, "sample_weight")
    join = dask.delayed(as_partition)
    return persist(
        [join(*parts, number) for number, parts in enumerate(zip(X_pieces, y_pieces, weight_pieces, strict=True))],
        client,
    )


def persist(tasks: list, client) -> list:
    """The delayed tasks, whose results are computed now and stay in the workers' memory."""
    return client.persist(tasks) if client is not None else list(dask.persist(*tasks))


def compute(tasks: list, client) -> list:
    """Results of delayed tasks, in their order."""
    # weights travel in the graph, of which Dask would warn: scattered to a worker, they could be lost with it
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
        if client is not None:
            return client.gather(client.compute(tasks))
        return list(dask.compute(*tasks))


class Block(NamedTuple):
    """Shape of a row, and type, of what a method returns."""

    shape: tuple
    dtype: Any


def called(model, method: str, piece, outputs: list[Block], arguments: dict) -> list[np.ndarray]:
    """What ``model.method(piece)`` returns, one array or several; a partition without rows gives none."""
    piece = in_memory(piece)
    if not len(piece):
        return [np.empty((0, *shape), dtype) for shape, dtype in outputs]
    arrays = getattr(model, method)(piece, **arguments)
    arrays = arrays if isinstance(arrays, tuple) else (arrays,)
    return [np.asarray(array, block.dtype) for array, block in zip(arrays, outputs, strict=True)]


def lazy(model, method: str, X, outputs: list[Block], **arguments) -> list[da.Array]:
    """Dask arrays (n_rows, *shape) of what ``model.method(X)`` returns, with those partitions of X that have rows."""
    shared, call = dask.delayed(model, traverse=False), dask.delayed(called)
    pieces, sizes = pieces_of(X)
    results = [call(shared, method, piece, outputs, arguments) for piece in pieces]
    arrays = []
    for number, (shape, dtype) in enumerate(outputs):
        blocks = [
            da.from_delayed(result[number], (size, *shape), dtype) for result, size in zip(results, sizes, strict=True)
        ]
        arrays.append(da.concatenate(blocks, allow_unknown_chunksizes=True))
    return arrays
