"""Tiles for images: grids of vectors that lie apart in two directions, and their transforms.

A tile of shape (m, n) is here a grid: m x n pixels, of each one vector of channels. `column_transform` makes an
intrinsic that multiplies each column by a small constant matrix, from plain Python.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..jit import JIT_DISABLED
from .simd import I64, Tile, _address, _call, _check, _data, _each, _load, _spread

GROUP = 3  # inputs side by side in `tile_rank1_groups`


def _place(builder, start, row_stride, column_stride, i, j):
    return builder.add(start, builder.add(builder.mul(row_stride, I64(i)), builder.mul(column_stride, I64(j))))


def _check_grid(context, builder, struct, tile, start, row_stride, column_stride):
    _check(context, builder, struct, start, start)
    last = _place(builder, start, row_stride, column_stride, tile.m - 1, tile.n - 1)
    _check(context, builder, struct, last, builder.add(last, I64(tile.lanes - 1)))


@intrinsic
def grid_load(typingctx, shape, array, start, row_stride, column_stride):
    """The grid whose vector (i, j) starts at position ``start + i * row_stride + j * column_stride``."""
    tile = Tile(shape.m, shape.n, array.dtype)

    def generate(context, builder, sig, args):
        struct = _data(context, builder, sig.args[1], args[1])
        _check_grid(context, builder, struct, tile, *args[2:])
        return _each(
            builder,
            tile,
            lambda k: _load(builder, tile, struct.data, _place(builder, *args[2:], k // tile.n, k % tile.n)),
        )

    return tile(shape, array, types.int64, types.int64, types.int64), generate


@intrinsic
def grid_store(typingctx, tile, array, start, row_stride, column_stride):
    """Writes a grid; positions as for `grid_load`."""

    def generate(context, builder, sig, args):
        struct = _data(context, builder, sig.args[1], args[1])
        _check_grid(context, builder, struct, tile, *args[2:])
        for k in range(tile.m * tile.n):
            position = _place(builder, *args[2:], k // tile.n, k % tile.n)
            store = builder.store(builder.extract_value(args[0], k), _address(builder, struct.data, tile, position))
            store.align = tile.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(tile, array, types.int64, types.int64, types.int64), generate


@intrinsic
def tile_rank1_groups(typingctx, tile, x, x_start, group_stride, w, w_start):
    """``tile[r, :] + x[x_start + r // GROUP * group_stride + r % GROUP] * w[w_start : w_start + width]``: part of
    a filter's gradient, from one pixel."""

    def generate(context, builder, sig, args):
        x_struct, w_struct = (_data(context, builder, sig.args[k], args[k]) for k in (1, 4))
        groups, rest = divmod(tile.m - 1, GROUP)
        _check(context, builder, x_struct, args[2], _place(builder, args[2], args[3], I64(1), groups, rest))
        _check(context, builder, w_struct, args[5], builder.add(args[5], I64(tile.n * tile.lanes - 1)))
        row = [_load(builder, tile, w_struct.data, builder.add(args[5], I64(j * tile.lanes))) for j in range(tile.n)]
        out = args[0]
        for r in range(tile.m):
            position = _place(builder, args[2], args[3], I64(1), r // GROUP, r % GROUP)
            value = _spread(builder, tile, builder.load(builder.gep(x_struct.data, [position])))
            for j in range(tile.n):
                k = r * tile.n + j
                total = builder.extract_value(out, k)
                out = builder.insert_value(
                    out, _call(builder, f"llvm.fma.{tile.suffix}", tile.vector, value, row[j], total), k
                )
        return out

    return tile(tile, x, types.int64, types.int64, w, types.int64), generate


@intrinsic
def tile_rows_sum(typingctx, tile):
    """Sum of a tile's rows, in order: a tile of one row."""
    row = Tile(1, tile.n, tile.dtype)

    def generate(context, builder, sig, args):
        def column(j):
            total = builder.extract_value(args[0], j)
            for i in range(1, tile.m):
                total = builder.fadd(total, builder.extract_value(args[0], i * tile.n + j))
            return total

        return _each(builder, row, column)

    return row(tile), generate


@intrinsic
def code_store(typingctx, tile, codes, start):
    """Writes a tile of one vector of small whole numbers as uint8."""

    def generate(context, builder, sig, args):
        struct = _data(context, builder, sig.args[1], args[1])
        _check(context, builder, struct, args[2], builder.add(args[2], I64(tile.lanes - 1)))
        integers = builder.fptoui(builder.extract_value(args[0], 0), ir.VectorType(ir.IntType(32), tile.lanes))
        vector = ir.VectorType(ir.IntType(8), tile.lanes)
        pointer = builder.bitcast(builder.gep(struct.data, [args[2]]), vector.as_pointer())
        builder.store(builder.trunc(integers, vector), pointer).align = 1
        return context.get_dummy_value()

    return types.void(tile, codes, types.int64), generate


# ---------------------------------------------------------------- transforms


class _Vector:
    """A vector of the code that is being generated, with the operators that transforms are written in."""

    def __init__(self, builder, tile, value):
        self.builder, self.tile, self.value = builder, tile, value

    def constant(self, number):
        """A vector with `number` in each lane."""
        return ir.Constant(self.tile.vector, [self.tile.element(number)] * self.tile.lanes)

    def __add__(self, other):
        return _Vector(self.builder, self.tile, self.builder.fadd(self.value, other.value))

    def __sub__(self, other):
        return _Vector(self.builder, self.tile, self.builder.fsub(self.value, other.value))

    def __rmul__(self, number):
        return _Vector(self.builder, self.tile, self.builder.fmul(self.constant(number), self.value))


def plus(x, number, y):
    """``x + number * y``; compiled: with one rounding."""
    if not isinstance(x, _Vector):
        return x + number * y
    name, operands = f"llvm.fma.{x.tile.suffix}", (x.constant(number), y.value, x.value)
    return _Vector(x.builder, x.tile, _call(x.builder, name, x.tile.vector, *operands))


def column_transform(name: str, doc: str, transforms: dict):
    """An intrinsic that multiplies each column of a grid by a small constant matrix.

    Parameters
    ----------
    transforms : dict
        From the number of values in a column to the number that it becomes and the function that makes them: list of
        values to list of values.
    """

    def typer(typingctx, tile):
        n_rows, function = transforms[tile.m]

        def generate(context, builder, sig, args):
            values = [_Vector(builder, tile, builder.extract_value(args[0], k)) for k in range(tile.m * tile.n)]
            columns = [function(values[j :: tile.n]) for j in range(tile.n)]
            return _each(builder, sig.return_type, lambda k: columns[k % tile.n][k // tile.n].value)

        return Tile(n_rows, tile.n, tile.dtype)(tile), generate

    def on_numpy(tile):
        return np.array(transforms[len(tile)][1](list(tile)))

    function = on_numpy if JIT_DISABLED else typer
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function if JIT_DISABLED else intrinsic(function)


# ---------------------------------------------------------------- the same on NumPy arrays: a grid is (m, n, lanes)


if JIT_DISABLED:
    from .simd_numpy import _flat, _row_slice, lanes

    def _positions(m, n, start, row_stride, column_stride):
        return [[start + i * row_stride + j * column_stride for j in range(n)] for i in range(m)]

    def grid_load(shape, array, start, row_stride, column_stride):
        flat, width = _flat(array), lanes(array)
        positions = _positions(shape.m, shape.n, start, row_stride, column_stride)
        return np.array([[flat[_row_slice(flat, p, width)] for p in row] for row in positions])

    def grid_store(tile, array, start, row_stride, column_stride):
        flat, width = _flat(array), lanes(array)
        for row, places in zip(tile, _positions(*tile.shape[:2], start, row_stride, column_stride), strict=True):
            for vector, position in zip(row, places, strict=True):
                flat[_row_slice(flat, position, width)] = vector

    def tile_rank1_groups(tile, x, x_start, group_stride, w, w_start):
        flat = _flat(x)
        places = [x_start + r // GROUP * group_stride + r % GROUP for r in range(tile.shape[0])]
        column = np.array([[flat[_row_slice(flat, place, 1)][0]] for place in places])
        flat = _flat(w)
        return tile + column * flat[_row_slice(flat, w_start, tile.shape[1])]

    def tile_rows_sum(tile):
        return tile.sum(axis=0, keepdims=True, dtype=tile.dtype)

    def code_store(tile, codes, start):
        codes[_row_slice(codes, start, tile.size)] = tile.reshape(-1)
