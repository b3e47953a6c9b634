"""Fully connected layers on tiles: output, gradient of the input, gradient of the weight; dense and CSR input.

Every output is one chain of additions over k (or over the rows of the batch, for the weight), in order. So its bits
depend neither on the tile's shape nor on the rows beside it, and a CSR row gives the bits of the same row with its
zeros.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import scalar
from ..jit import cpu_inline, cpu_kernel
from ..network import Activation
from .simd import (
    TILE_ROWS,
    lanes,
    lanes_below,
    row_load,
    shape,
    square_shape,
    tile_load,
    tile_rank1,
    tile_store,
    tile_transpose,
    tile_zeros,
    vectors_of,
)
from .workers import share_of

K_BLOCK = 1024  # inputs in one pass of the forward product: a panel of weights then stays in the second cache
GRADIENT_ROWS = 512  # rows in one pass of the weight's gradient
PACKED_COLUMNS = 64  # inputs in one pass of the weight's gradient, where x is WIDE or more elements from row to row
WIDE = 256


class Matrix(NamedTuple):
    """A matrix inside a vector: element (i, j) is ``data[start + i * stride + j]``."""

    data: np.ndarray
    start: int
    stride: int


@cpu_inline
def panel(matrix, column):
    """The matrix from `column` on."""
    return Matrix(matrix.data, matrix.start + column, matrix.stride)


# ---------------------------------------------------------------- rows of X into the batch


@cpu_kernel
def gather(rows, order, i_start, i_stop, x):
    """``x[i] = rows[order[i]]`` for i in [i_start, i_stop), converted to x's type.

    Parameters
    ----------
    rows : Rows, dense
    order : int64 (n,)
        The batch's row numbers.
    x : Matrix
        Overwritten from column 0 to n_columns; the pads stay as they are (zero).
    """
    n, width = rows.n_columns, lanes(x.data)
    for i in range(i_start, i_stop):
        source = rows.start + order[i] * rows.row_stride
        target = x.start + i * x.stride
        if rows.column_stride == 1 and n >= width:
            for j in range(0, n - width + 1, width):
                tile_store(row_load(rows.values, source + j, x.data), x.data, target + j, 0)
            # the last vector overlaps the one before it
            tile_store(row_load(rows.values, source + n - width, x.data), x.data, target + n - width, 0)
        else:
            for j in range(n):
                x.data[target + j] = rows.values[source + j * rows.column_stride]


# ---------------------------------------------------------------- forward


@cpu_kernel
def activate_rows(activation, n_columns, n_vectors, y, slopes, n_rows):
    """On a tile just stored: z in `y` becomes activation(z); its slope goes where its gradient will be.

    Columns from `n_columns` on are pads: they become zero, whatever activation(0) is. Without slopes (no elements:
    prediction) only y is written.
    """
    vector = shape(1, 1)
    for i in range(n_rows):
        for j in range(0, n_vectors * lanes(y.data), lanes(y.data)):
            position = y.start + i * y.stride + j
            z = tile_load(vector, y.data, position, 0)
            out = scalar.activate(activation, z)
            if slopes.size > 0:
                tile_store(scalar.activation_slope(activation, z, out), slopes, position, 0)
            tile_store(lanes_below(out, n_columns - j, 0.0), y.data, position, 0)


@cpu_inline
def panel_vectors(n_left):
    """Vectors in the next panel of columns when `n_left` are left: three, but two and two rather than three and one."""
    return min(n_left, 3) if n_left != 4 else 2


@cpu_inline
def forward_panel(tile_shape, x, weight, bias_start, y, slopes, layer, bounds):
    """One panel of columns: see `dense_forward`; `bounds`: columns left, inputs [start, stop), rows [start, stop)."""
    n_columns, k_start, k_stop, i_start, i_stop = bounds
    last = k_stop == layer["n_in"]
    for i in range(i_start, i_stop, TILE_ROWS):
        position = y.start + i * y.stride
        if k_start == 0:
            total = tile_load(tile_shape, weight.data, bias_start, 0)
        else:
            total = tile_load(tile_shape, y.data, position, y.stride)
        x_position = x.start + i * x.stride
        for k in range(k_start, k_stop):
            total = tile_rank1(total, x.data, x_position + k, x.stride, weight.data, weight.start + k * weight.stride)
        if last and layer["activation"] == Activation.RELU:
            total = scalar.relu(total)
            tile_store(total, y.data, position, y.stride)
            if slopes.size > 0:
                tile_store(scalar.relu_slope(total), slopes, position, y.stride)
        else:
            tile_store(total, y.data, position, y.stride)
            if last and (layer["activation"] != Activation.IDENTITY or slopes.size > 0):
                tile = Matrix(y.data, position, y.stride)
                activate_rows(layer["activation"], n_columns, vectors_of(tile_shape), tile, slopes, TILE_ROWS)


@cpu_kernel
def dense_forward(x, params, layer, y, slopes, i_start, i_stop):
    """``y = activation(x @ weight + bias)`` for rows [i_start, i_stop).

    Parameters
    ----------
    x : Matrix (rows, n_in)
    params : (n_params,)
    layer : LAYER
    y : Matrix (rows, n_out)
        Overwritten, pads with zero, up to the next multiple of TILE_ROWS rows.
    slopes : (same as y.data) or (0,)
        Overwritten with the derivative of the activation at each output, at the position of the output; empty: not
        wanted.

    Notes
    -----
    Cost: 2 n_rows n_in n_out flop. Error: about 6e-8 sqrt(n_in) of the terms' size in float32.
    """
    n_vectors = (layer["n_out"] + lanes(params) - 1) // lanes(params)
    weight = Matrix(params, layer["weight_start"], layer["out_stride"])
    n_blocks = (layer["n_in"] + K_BLOCK - 1) // K_BLOCK
    block = (layer["n_in"] + n_blocks - 1) // n_blocks
    for k_start in range(0, layer["n_in"], block):
        k_stop = min(layer["n_in"], k_start + block)
        vector = 0
        while vector < n_vectors:
            column = vector * lanes(params)
            w, out, bias_start = panel(weight, column), panel(y, column), layer["bias_start"] + column
            bounds = layer["n_out"] - column, k_start, k_stop, i_start, i_stop
            width = panel_vectors(n_vectors - vector)
            if width == 3:
                forward_panel(shape(TILE_ROWS, 3), x, w, bias_start, out, slopes, layer, bounds)
            elif width == 2:
                forward_panel(shape(TILE_ROWS, 2), x, w, bias_start, out, slopes, layer, bounds)
            else:
                forward_panel(shape(TILE_ROWS, 1), x, w, bias_start, out, slopes, layer, bounds)
            vector += width


@cpu_inline
def sparse_panel(row_shape, rows, p_range, weight, bias_start, y, slopes, activation, n_columns):
    """One piece of one row: see `sparse_forward`."""
    total = tile_load(row_shape, weight.data, bias_start, 0)
    for p in range(p_range[0], p_range[1]):
        total = tile_rank1(total, rows.values, p, 0, weight.data, weight.start + rows.indices[p] * weight.stride)
    tile_store(total, y.data, y.start, 0)
    if activation != Activation.IDENTITY or slopes.size > 0:
        activate_rows(activation, n_columns, vectors_of(row_shape), y, slopes, 1)


@cpu_kernel
def sparse_forward(rows, order, params, layer, y, slopes, i_start, i_stop):
    """`dense_forward` for CSR rows ``order[i]``: only the entries that are there are read and multiplied."""
    n_vectors = (layer["n_out"] + lanes(params) - 1) // lanes(params)
    weight = Matrix(params, layer["weight_start"], layer["out_stride"])
    for i in range(i_start, i_stop):
        p_range = rows.indptr[order[i]], rows.indptr[order[i] + 1]
        row = Matrix(y.data, y.start + i * y.stride, y.stride)
        vector = 0
        while vector < n_vectors:
            column = vector * lanes(params)
            w, out, bias_start = panel(weight, column), panel(row, column), layer["bias_start"] + column
            left = layer["n_out"] - column
            width = panel_vectors(n_vectors - vector)
            if width == 3:
                sparse_panel(shape(1, 3), rows, p_range, w, bias_start, out, slopes, layer["activation"], left)
            elif width == 2:
                sparse_panel(shape(1, 2), rows, p_range, w, bias_start, out, slopes, layer["activation"], left)
            else:
                sparse_panel(shape(1, 1), rows, p_range, w, bias_start, out, slopes, layer["activation"], left)
            vector += width


# ---------------------------------------------------------------- backward


@cpu_kernel
def transpose_weight(params, layer, transposed, team):
    """This worker's share of ``transposed = weight.T``, by square tiles."""
    square, width = square_shape(params), lanes(params)
    n_down, n_across = (layer["n_in"] + width - 1) // width, (layer["n_out"] + width - 1) // width
    start, stop = share_of(n_down * n_across, 1, team)
    for number in range(start, stop):
        j = number // n_down * width
        k = number % n_down * width
        tile = tile_load(square, params, layer["weight_start"] + k * layer["out_stride"] + j, layer["out_stride"])
        tile_store(
            tile_transpose(tile), transposed, layer["transposed_start"] + j * layer["in_stride"] + k, layer["in_stride"]
        )


@cpu_inline
def backward_panel(tile_shape, grad_y, weight, grad_x, n_out, i_start, i_stop):
    """One panel of columns: see `dense_backward`."""
    for i in range(i_start, i_stop, TILE_ROWS):
        total = tile_zeros(tile_shape, grad_x.data)
        y_position = grad_y.start + i * grad_y.stride
        for j in range(n_out):
            total = tile_rank1(
                total, grad_y.data, y_position + j, grad_y.stride, weight.data, weight.start + j * weight.stride
            )
        position = grad_x.start + i * grad_x.stride
        tile_store(
            total * tile_load(tile_shape, grad_x.data, position, grad_x.stride), grad_x.data, position, grad_x.stride
        )


@cpu_kernel
def dense_backward(grad_y, transposed, layer, grad_x, i_start, i_stop):
    """``grad_x = slopes * (grad_y @ weight.T)`` for rows [i_start, i_stop): back through a layer and the one below's
    activation.

    Parameters
    ----------
    grad_y : Matrix (rows, n_out)
    transposed : (transposed_size,)
        Workspace with this layer's ``weight.T`` at `transposed_start`.
    layer : LAYER
    grad_x : Matrix (rows, n_in)
        Holds the slopes of the layer below; overwritten with the gradient of its affine map's output.

    Notes
    -----
    Cost: 2 n_rows n_in n_out flop.
    """
    n_vectors = (layer["n_in"] + lanes(transposed) - 1) // lanes(transposed)
    weight = Matrix(transposed, layer["transposed_start"], layer["in_stride"])
    vector = 0
    while vector < n_vectors:
        column = vector * lanes(transposed)
        w, out = panel(weight, column), panel(grad_x, column)
        width = panel_vectors(n_vectors - vector)
        if width == 3:
            backward_panel(shape(TILE_ROWS, 3), grad_y, w, out, layer["n_out"], i_start, i_stop)
        elif width == 2:
            backward_panel(shape(TILE_ROWS, 2), grad_y, w, out, layer["n_out"], i_start, i_stop)
        else:
            backward_panel(shape(TILE_ROWS, 1), grad_y, w, out, layer["n_out"], i_start, i_stop)
        vector += width


@cpu_inline
def weight_gradient_panel(tile_shape, x, grad_y, grad, n_rows, n_columns, accumulate):
    """``grad[k] = sum over i of x[i, k] * grad_y[i]`` for one panel of grad_y's columns and k < n_columns."""
    for k in range(0, n_columns, TILE_ROWS):
        position = grad.start + k * grad.stride
        if accumulate:
            total = tile_load(tile_shape, grad.data, position, grad.stride)
        else:
            total = tile_zeros(tile_shape, grad.data)
        for i in range(n_rows):
            total = tile_rank1(
                total, x.data, x.start + i * x.stride + k, 1, grad_y.data, grad_y.start + i * grad_y.stride
            )
        tile_store(total, grad.data, position, grad.stride)


@cpu_kernel
def weight_gradient_block(x, grad_y, grad, n_rows, n_columns, n_vectors, accumulate):
    """``grad[k] = sum over i of x[i, k] * grad_y[i]`` for k < n_columns and the first n_vectors of grad_y's columns."""
    vector = 0
    while vector < n_vectors:
        column = vector * lanes(grad.data)
        g, out = panel(grad_y, column), panel(grad, column)
        width = panel_vectors(n_vectors - vector)
        if width == 3:
            weight_gradient_panel(shape(TILE_ROWS, 3), x, g, out, n_rows, n_columns, accumulate)
        elif width == 2:
            weight_gradient_panel(shape(TILE_ROWS, 2), x, g, out, n_rows, n_columns, accumulate)
        else:
            weight_gradient_panel(shape(TILE_ROWS, 1), x, g, out, n_rows, n_columns, accumulate)
        vector += width


@cpu_kernel
def pack_columns(x, n_rows, n_columns, packed):
    """``packed[i, k] = x[i, k]`` for k < n_columns, in whole vectors, with PACKED_COLUMNS elements a row."""
    row_shape = shape(1, 1)
    for i in range(n_rows):
        for k in range(0, n_columns, lanes(packed)):
            tile_store(tile_load(row_shape, x.data, x.start + i * x.stride + k, 0), packed, i * PACKED_COLUMNS + k, 0)


@cpu_kernel
def dense_weight_gradient(x, grad_y, layer, grads, n_rows, k_range, packed, accumulate):
    """``grad_weight[k] = sum over i of x[i, k] * grad_y[i]`` for rows k in [k_range[0], k_range[1]) of the weight.

    Parameters
    ----------
    x : Matrix (n_rows, n_in)
    grad_y : Matrix (n_rows, n_out)
    layer : LAYER
    grads : (n_params,)
        Overwritten, or added to when `accumulate`, in whole tiles: the pads get zero.
    k_range : (int, int)
        Multiples of TILE_ROWS (the stop may be n_in).
    packed : (GRADIENT_ROWS * PACKED_COLUMNS,)
        This worker's scratch. Wide x is read column by column, a page away from row to row; so a few columns are first
        copied to lie together.

    Notes
    -----
    Cost: 2 n_rows n_in n_out flop.
    """
    n_vectors = (layer["n_out"] + lanes(grads) - 1) // lanes(grads)
    wide = layer["in_stride"] >= WIDE
    step = PACKED_COLUMNS if wide else max(1, k_range[1] - k_range[0])
    for i in range(0, n_rows, GRADIENT_ROWS):
        n = min(GRADIENT_ROWS, n_rows - i)
        rows_grad_y = Matrix(grad_y.data, grad_y.start + i * grad_y.stride, grad_y.stride)
        for k in range(k_range[0], k_range[1], step):
            n_columns = min(step, k_range[1] - k)
            columns = Matrix(x.data, x.start + i * x.stride + k, x.stride)
            if wide:
                pack_columns(columns, n, n_columns, packed)
                columns = Matrix(packed, 0, PACKED_COLUMNS)
            grad = Matrix(grads, layer["weight_start"] + k * layer["out_stride"], layer["out_stride"])
            weight_gradient_block(columns, rows_grad_y, grad, n, n_columns, n_vectors, accumulate or i > 0)


@cpu_kernel
def sparse_weight_gradient(rows, order, grad_y, layer, grads, n_rows, k_start, k_stop, accumulate):
    """`dense_weight_gradient` for CSR rows ``order[i]``; their columns must be sorted and unique."""
    row_shape, width = shape(1, 1), lanes(grads)
    if not accumulate:
        for position in range(
            layer["weight_start"] + k_start * layer["out_stride"],
            layer["weight_start"] + k_stop * layer["out_stride"],
            width,
        ):
            tile_store(tile_zeros(row_shape, grads), grads, position, 0)
    for i in range(n_rows):
        for p in range(rows.indptr[order[i]], rows.indptr[order[i] + 1]):
            k = rows.indices[p]
            if k_start <= k < k_stop:
                for column in range(0, layer["n_out"], width):
                    position = layer["weight_start"] + k * layer["out_stride"] + column
                    total = tile_load(row_shape, grads, position, 0)
                    y_position = grad_y.start + i * grad_y.stride + column
                    total = tile_rank1(total, rows.values, p, 0, grad_y.data, y_position)
                    tile_store(total, grads, position, 0)


@cpu_kernel
def bias_gradient(grad_y, layer, grads, n_rows, accumulate):
    """``grad_bias = sum over i of grad_y[i]``, overwritten or added to."""
    row_shape = shape(1, 1)
    for column in range(0, layer["n_out"], lanes(grads)):
        position = layer["bias_start"] + column
        total = tile_load(row_shape, grads, position, 0) if accumulate else tile_zeros(row_shape, grads)
        for i in range(n_rows):
            total = total + tile_load(row_shape, grad_y.data, grad_y.start + i * grad_y.stride + column, 0)
        tile_store(total, grads, position, 0)
