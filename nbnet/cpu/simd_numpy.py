"""The names of `nbnet.cpu.simd` on NumPy arrays, for when the JIT is off: a tile is a matrix (m, n * lanes).

Slow and plain: it lets a debugger step through a kernel and coverage count its lines. Positions are always checked.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .simd import VECTOR_BYTES

__all__ = [
    "lanes",
    "lanes_below",
    "one_load",
    "one_store",
    "prefetch",
    "row_load",
    "shape",
    "square_shape",
    "tile_load",
    "tile_max",
    "tile_rank1",
    "tile_store",
    "tile_sum",
    "tile_transpose",
    "tile_zeros",
    "vectors_of",
]


class Shape(NamedTuple):
    """Rows and vectors in a row."""

    m: int
    n: int


def shape(m, n):
    return Shape(m, n)


def lanes(array):
    return VECTOR_BYTES // array.itemsize


def vectors_of(shape):
    return shape.n


def square_shape(array):
    return Shape(lanes(array), 1)


def _flat(array):
    flat = array.reshape(-1)
    assert np.shares_memory(flat, array) or not array.size, "a kernel's array must be contiguous"
    return flat


def _row_slice(array, start, width):
    if start < 0 or start + width > array.size:
        raise IndexError("tile beyond its array")
    return slice(start, start + width)


def one_load(array, position):
    flat = _flat(array)
    return flat[_row_slice(flat, int(position), 1)][0]


def one_store(value, array, position):
    flat = _flat(array)
    flat[_row_slice(flat, int(position), 1)] = value


def prefetch(array, position):
    pass


def tile_zeros(shape, array):
    return np.zeros((shape.m, shape.n * lanes(array)), array.dtype)


def tile_load(shape, array, start, stride):
    flat, width = _flat(array), shape.n * lanes(array)
    return np.stack([flat[_row_slice(flat, start + i * stride, width)] for i in range(shape.m)])


def row_load(array, start, like):
    flat = _flat(array)
    return flat[_row_slice(flat, start, lanes(like))].astype(like.dtype)[None]


def tile_store(tile, array, start, stride):
    flat = _flat(array)
    for i, row in enumerate(tile):
        flat[_row_slice(flat, start + i * stride, row.size)] = row


def tile_rank1(tile, x, x_start, x_stride, w, w_start):
    flat = _flat(x)
    column = np.array([[flat[_row_slice(flat, x_start + i * x_stride, 1)][0]] for i in range(tile.shape[0])])
    flat = _flat(w)
    return tile + column.astype(tile.dtype) * flat[_row_slice(flat, w_start, tile.shape[1])]


def lanes_below(tile, count, fill):
    return np.where(np.arange(tile.shape[1]) < count, tile, tile.dtype.type(fill))


def tile_sum(tile):
    return tile.sum(dtype=tile.dtype)


def tile_max(tile):
    return tile.max()


def tile_transpose(tile):
    return tile.T.copy()
