"""Fully connected layers: output, gradient of the input, gradient of the weight; dense and CSR input.

Every function here puts launches into a queue; its kernels are made by factories, one for a precision, a tile and an
activation, and compiled when they are first used. As on the CPU, every output is one chain of additions over k (or over
the rows of the batch, for the weight), in order, whatever the tile: its bits depend neither on the tile nor on the rows
beside it. That holds for all but training, whose queues have `nbnet.cuda.product.Products`.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numba
import numpy as np
from numba import uint32, uint64

from ..cpu.dense import Matrix
from ..network import Activation
from .intrinsics import load4, store4
from .jit import cuda, cuda_kernel, device_function
from .maths import maths
from .product import End, add_product, n_blocks
from .reductions import WARP

GATHER_COLUMNS = 4 * WARP  # columns of a block of `gather` and `sparse_forward`
GATHER_ROWS = 4
SHORT = (Activation.IDENTITY, Activation.RELU, Activation.LEAKY_RELU)  # a few instructions each
COLUMN_SUMS = 8  # threads that add up one column of a bias's gradient
SPARSE_RANGES = 64  # ranges of inputs, each with blocks of its own, in the gradient of a weight under CSR rows


def matrix(data, start: int, stride: int) -> Matrix:
    """A matrix inside a vector, with numbers that kernels take as unsigned."""
    return Matrix(data, np.uint32(start), np.uint32(stride))


# ---------------------------------------------------------------- rows of X into the batch


@device_function
def row_number(batch, i):
    """Number of the row of X that is row i of a batch; without an order, rows come as they stand."""
    position = batch.position[0] + i
    return batch.order[position] if batch.order.size > 0 else position


@functools.cache
def _gather_kernel():
    @cuda_kernel(WARP * GATHER_ROWS)
    def gather(rows, batch, x, n_rows):
        i = uint32(cuda.blockIdx.x) * uint32(GATHER_ROWS) + uint32(cuda.threadIdx.y)
        if i < n_rows:
            source = uint64(row_number(batch, i)) * uint64(rows.n_columns)
            target = x.start + i * x.stride
            j = uint32(cuda.blockIdx.y) * uint32(GATHER_COLUMNS) + uint32(cuda.threadIdx.x)
            for _ in range(GATHER_COLUMNS // WARP):
                if j < rows.n_columns:
                    x.data[target + j] = rows.values[source + j]
                j += uint32(WARP)

    return gather


def gather(queue, rows, batch, x, n_rows):
    """``x[i] = rows[order[i]]`` for the rows of a batch, converted to x's type.

    Parameters
    ----------
    rows : Rows, dense
    batch : Batch
        Which rows: those from `position` on.
    x : Matrix
        Overwritten from column 0 to n_columns in the first `n_rows` rows; the pads stay as they are (zero).
    """
    grid = n_blocks(n_rows, GATHER_ROWS), n_blocks(rows.n_columns, GATHER_COLUMNS)
    queue.add(_gather_kernel(), grid, (WARP, GATHER_ROWS), rows, batch, x, np.uint32(n_rows))


# ---------------------------------------------------------------- forward


class Activated(NamedTuple):
    """Where a layer's output goes: `y`, and its slope to the same place in `slopes` (no elements: not wanted)."""

    y: Matrix
    slopes: object
    bias: Matrix


@device_function
def add_bias(out, sizes, row, column, z0, z1, z2, z3):
    b0, b1, b2, b3 = load4(out.bias.data, out.bias.start + column)
    store4(out.y.data, out.y.start + row * out.y.stride + column, z0 + b0, z1 + b1, z2 + b2, z3 + b3)


@functools.cache
def _activate(dtype, activation, with_slopes):
    """A device function: four values of a row become activations, and leave their slopes."""
    activate, slope = maths(dtype.name).activate, maths(dtype.name).activation_slope

    @device_function
    def activate_four(out, sizes, row, column, z0, z1, z2, z3):
        y0, y1 = activate(activation, z0), activate(activation, z1)
        y2, y3 = activate(activation, z2), activate(activation, z3)
        at = out.y.start + row * out.y.stride + column
        if with_slopes:
            s0, s1 = slope(activation, z0, y0), slope(activation, z1, y1)
            s2, s3 = slope(activation, z2, y2), slope(activation, z3, y3)
            store4(out.slopes, at, s0, s1, s2, s3)
        n_columns = sizes[1]
        y0 = y0 if column < n_columns else dtype(0)
        y1 = y1 if column + uint32(1) < n_columns else dtype(0)
        y2 = y2 if column + uint32(2) < n_columns else dtype(0)
        y3 = y3 if column + uint32(3) < n_columns else dtype(0)
        store4(out.y.data, at, y0, y1, y2, y3)

    return activate_four


@functools.cache
def end_of_layer(dtype, activation, with_slopes):
    """On a tile just stored: z in `y` becomes activation(z); its slope goes where its gradient will be.

    Columns from n_columns on are pads: they become zero, whatever activation(0) is. Returns the `End` of a product.
    """
    activate_four = _activate(dtype, activation, with_slopes)

    @device_function
    def at_once(out, sizes, row, column, z0, z1, z2, z3):
        b0, b1, b2, b3 = load4(out.bias.data, out.bias.start + column)
        activate_four(out, sizes, row, column, z0 + b0, z1 + b1, z2 + b2, z3 + b3)

    @device_function
    def later(out, sizes, row, column):
        z0, z1, z2, z3 = load4(out.y.data, out.y.start + row * out.y.stride + column)
        activate_four(out, sizes, row, column, z0, z1, z2, z3)

    return End(at_once) if activation in SHORT else End(add_bias, later)


def _activated(params, layer, y, slopes):
    """Where the layer's output goes and how."""
    bias = matrix(params, layer["bias_start"], layer["out_stride"])
    dtype = getattr(numba, params.dtype.name)
    return Activated(y, slopes, bias), end_of_layer(dtype, int(layer["activation"]), slopes.size > 0)


def dense_forward(queue, x, params, layer, y, slopes, n_rows):
    """``y = activation(x @ weight + bias)`` for the rows of a batch.

    Parameters
    ----------
    x : Matrix (rows, n_in)
    params : (n_params,)
    layer : LAYER
    y : Matrix (rows, n_out)
        Overwritten, pads with zero, in the first `n_rows` rows.
    slopes : (same as y.data) or (0,)
        Overwritten with the derivative of the activation at each output, at the position of the output; empty: not
        wanted.
    """
    weight = matrix(params, layer["weight_start"], layer["out_stride"])
    out, end = _activated(params, layer, y, slopes)
    add_product(queue, x, weight, out, (n_rows, layer["n_out"], layer["n_in"]), end, True, False)


@functools.cache
def _sparse_forward_kernel(dtype, end):
    store, revisit = end.store, end.revisit

    @cuda_kernel(WARP * GATHER_ROWS)
    def sparse_forward(rows, batch, weight, out, sizes):
        i = uint32(cuda.blockIdx.x) * uint32(GATHER_ROWS) + uint32(cuda.threadIdx.y)
        column = uint32(cuda.blockIdx.y) * uint32(GATHER_COLUMNS) + uint32(cuda.threadIdx.x) * uint32(4)
        if i < sizes[0] and column < out.y.stride:
            row = row_number(batch, i)
            z0 = z1 = z2 = z3 = dtype(0)
            for p in range(rows.indptr[row], rows.indptr[row + 1]):
                value = dtype(rows.values[p])
                w0, w1, w2, w3 = load4(
                    weight.data, uint64(weight.start) + uint64(rows.indices[p]) * uint64(weight.stride) + uint64(column)
                )
                z0 += value * w0
                z1 += value * w1
                z2 += value * w2
                z3 += value * w3
            store(out, sizes, i, column, z0, z1, z2, z3)
            revisit(out, sizes, i, column)

    return sparse_forward


def sparse_forward(queue, rows, batch, params, layer, y, slopes, n_rows):
    """`dense_forward` for CSR rows ``order[i]``: only the entries that are there are read and multiplied."""
    weight = matrix(params, layer["weight_start"], layer["out_stride"])
    out, end = _activated(params, layer, y, slopes)
    kernel = _sparse_forward_kernel(getattr(numba, params.dtype.name), end)
    grid = n_blocks(n_rows, GATHER_ROWS), n_blocks(layer["out_stride"], GATHER_COLUMNS)
    sizes = np.uint32(n_rows), np.uint32(layer["n_out"])
    queue.add(kernel, grid, (WARP, GATHER_ROWS), rows, batch, weight, out, sizes)


# ---------------------------------------------------------------- backward


class Stored(NamedTuple):
    """Where a product goes."""

    y: Matrix


@device_function
def _times_slopes(out, sizes, row, column, v0, v1, v2, v3):
    at = out.y.start + row * out.y.stride + column
    s0, s1, s2, s3 = load4(out.y.data, at)
    store4(out.y.data, at, v0 * s0, v1 * s1, v2 * s2, v3 * s3)


@device_function
def overwrite(out, sizes, row, column, v0, v1, v2, v3):
    store4(out.y.data, out.y.start + row * out.y.stride + column, v0, v1, v2, v3)


@device_function
def _add(out, sizes, row, column, v0, v1, v2, v3):
    at = out.y.start + row * out.y.stride + column
    s0, s1, s2, s3 = load4(out.y.data, at)
    store4(out.y.data, at, v0 + s0, v1 + s1, v2 + s2, v3 + s3)


def dense_backward(queue, grad_y, params, layer, grad_x, n_rows):
    """``grad_x = slopes * (grad_y @ weight.T)`` for the rows of a batch: back through a layer and the one below's
    activation.

    Parameters
    ----------
    grad_y : Matrix (rows, n_out)
    params : (n_params,)
        The weight is read as it lies: no transposed copy.
    layer : LAYER
    grad_x : Matrix (rows, n_in)
        Holds the slopes of the layer below; overwritten with the gradient of its affine map's output.
    """
    weight = matrix(params, layer["weight_start"], layer["out_stride"])
    sizes = n_rows, layer["n_in"], layer["n_out"]
    add_product(queue, grad_y, weight, Stored(grad_x), sizes, End(_times_slopes, reads=True), True, True)


def dense_weight_gradient(queue, x, grad_y, layer, grads, n_rows, accumulate):
    """``grad_weight[k] = sum over i of x[i, k] * grad_y[i]`` for all rows k of the weight.

    Parameters
    ----------
    x : Matrix (n_rows, n_in)
    grad_y : Matrix (n_rows, n_out)
    layer : LAYER
    grads : (n_params,)
        Overwritten, or added to when `accumulate`.
    """
    grad = Stored(matrix(grads, layer["weight_start"], layer["out_stride"]))
    sizes = layer["n_in"], layer["n_out"], n_rows
    end = End(_add, reads=True, accumulates=1.0) if accumulate else End(overwrite, accumulates=0.0)
    add_product(queue, x, grad_y, grad, sizes, end, False, False)


@functools.cache
def _sparse_gradient_kernel(dtype, accumulate):
    @cuda_kernel(WARP)
    def sparse_weight_gradient(rows, batch, grad_y, grad, sizes):
        n_rows, n_in, k_each = sizes
        column = uint32(cuda.blockIdx.x) * uint32(WARP) + uint32(cuda.threadIdx.x)
        k_start = uint32(uint32(cuda.blockIdx.y) * k_each)
        k_stop = min(n_in, uint32(k_start + k_each))
        if column < grad.stride:
            if not accumulate:
                for k in range(k_start, k_stop):
                    grad.data[uint64(grad.start) + uint64(k) * uint64(grad.stride) + uint64(column)] = dtype(0)
            for i in range(n_rows):
                row = row_number(batch, uint32(i))
                p, stop = rows.indptr[row], rows.indptr[row + 1]
                last = stop
                while p < last:  # columns are sorted: the first from k_start on, by bisection
                    middle = (p + last) // 2
                    if rows.indices[middle] < k_start:
                        p = middle + 1
                    else:
                        last = middle
                g = grad_y.data[grad_y.start + uint32(i) * grad_y.stride + column]
                while p < stop and rows.indices[p] < k_stop:
                    at = uint64(grad.start) + uint64(rows.indices[p]) * uint64(grad.stride) + uint64(column)
                    grad.data[at] += dtype(rows.values[p]) * g
                    p += 1

    return sparse_weight_gradient


def sparse_weight_gradient(queue, rows, batch, grad_y, layer, grads, n_rows, accumulate):
    """`dense_weight_gradient` for CSR rows ``order[i]``; their columns must be sorted and unique.

    A thread owns a column of the weight, in a range of its rows, and goes through the batch in order: no element is
    written by two, so no atomic addition and no other bits in the next run.
    """
    grad = matrix(grads, layer["weight_start"], layer["out_stride"])
    k_each = n_blocks(layer["n_in"], SPARSE_RANGES)
    grid = n_blocks(layer["out_stride"], WARP), n_blocks(layer["n_in"], k_each)
    kernel = _sparse_gradient_kernel(getattr(numba, grads.dtype.name), accumulate)
    sizes = np.uint32(n_rows), np.uint32(layer["n_in"]), np.uint32(k_each)
    queue.add(kernel, grid, WARP, rows, batch, grad_y, grad, sizes)


@functools.cache
def _bias_gradient_kernel(dtype, accumulate):
    n_sums = WARP * COLUMN_SUMS

    @cuda_kernel(n_sums)
    def bias_gradient(grad_y, grad, n_rows):
        sums = cuda.shared.array(n_sums, dtype)
        lane, part = uint32(cuda.threadIdx.x), uint32(cuda.threadIdx.y)
        column = uint32(cuda.blockIdx.x) * uint32(WARP) + lane
        total = dtype(0)
        if column < grad.stride:
            for i in range(part, n_rows, COLUMN_SUMS):
                total += grad_y.data[grad_y.start + uint32(i) * grad_y.stride + column]
        sums[part * uint32(WARP) + lane] = total
        cuda.syncthreads()
        if part == 0 and column < grad.stride:
            for other in range(1, COLUMN_SUMS):
                total += sums[uint32(other * WARP) + lane]
            if accumulate:
                total += grad.data[grad.start + column]
            grad.data[grad.start + column] = total

    return bias_gradient


def bias_gradient(queue, grad_y, layer, grads, n_rows, accumulate):
    """``grad_bias = sum over i of grad_y[i]``, overwritten or added to."""
    grad = matrix(grads, layer["bias_start"], layer["out_stride"])
    kernel = _bias_gradient_kernel(getattr(numba, grads.dtype.name), accumulate)
    queue.add(kernel, n_blocks(layer["out_stride"], WARP), (WARP, COLUMN_SUMS), grad_y, grad, np.uint32(n_rows))
