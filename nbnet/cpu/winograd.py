"""3x3 convolutions by Winograd's algorithm: 36 products of small matrices instead of one large one, 4 times fewer flop.

A tile of 4x4 outputs needs 6x6 inputs. With the fixed matrices B, G, A of F(4, 3)

    output = A' [(G w G') * (B' input B)] A

where * multiplies number by number; summed over input channels, each of the 36 numbers is a product of matrices:
(tiles, channels) by (channels, filters). The backward pass is the exact adjoint of the forward pass: ``A grad A'`` is
taken once and serves the gradients of filters and input.

Where a side leaves one or two outputs beyond its fours, the last tile has two: F(2, 3), at four of the six points of
F(4, 3), with an input transform scaled so that the same transformed filters fit. The points stand in the order 0, 1,
-1, infinity, 2, -2, so that the four come first; tiles in the order right edge, full, bottom edge, corner, so that each
of the 36 products needs one contiguous range of them.

Source: Lavin, Gray, Fast algorithms for convolutional neural networks, 2016, section 4.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..jit import cpu_inline, cpu_kernel
from .simd import (
    TILE_ROWS,
    lanes,
    shape,
    square_shape,
    tile_load,
    tile_rank1,
    tile_store,
    tile_transpose,
    tile_zeros,
    vectors_of,
)
from .simd_grid import grid_load, grid_store, grid_transform, plus
from .workers import share_of

POINTS = 6  # along a side of a full tile
N_PRODUCTS = POINTS * POINTS
GAP = 16  # elements between the 36 matrices; without them all stores of a tile fall into one set of the cache
PANEL_VECTORS = 2  # vectors in a row of a panel of transformed filters


# ---------------------------------------------------------------- transforms of a column


def _input_full(d):
    even, odd = plus(d[4], -4.0, d[2]), plus(d[3], -4.0, d[1])
    rest_even, rest_odd = d[4] - d[2], d[3] - d[1]
    return [
        plus(plus(d[4], -5.0, d[2]), 4.0, d[0]),
        even + odd,
        even - odd,
        plus(plus(d[5], -5.0, d[3]), 4.0, d[1]),
        plus(rest_even, 2.0, rest_odd),
        plus(rest_even, -2.0, rest_odd),
    ]


def _input_edge(d):
    return [4.0 * (d[0] - d[2]), -3.0 * (d[1] + d[2]), 3.0 * (d[1] - d[2]), d[3] - d[1]]


def _input_full_adjoint(v):
    sum_1, gap_1, sum_2, gap_2 = v[1] + v[2], v[1] - v[2], v[4] + v[5], v[4] - v[5]
    return [
        4.0 * v[0],
        plus(-2.0 * gap_2, 4.0, v[3] - gap_1),
        plus(-4.0 * sum_1, -5.0, v[0]) - sum_2,
        plus(plus(gap_1, 2.0, gap_2), -5.0, v[3]),
        v[0] + sum_1 + sum_2,
        v[3],
    ]


def _input_edge_adjoint(v):
    return [4.0 * v[0], plus(-1.0 * v[3], 3.0, v[2] - v[1]), plus(-3.0 * (v[1] + v[2]), -4.0, v[0]), v[3]]


def _output_full(m):
    sum_1, gap_1, sum_2, gap_2 = m[1] + m[2], m[1] - m[2], m[4] + m[5], m[4] - m[5]
    return [m[0] + sum_1 + sum_2, plus(gap_1, 2.0, gap_2), plus(sum_1, 4.0, sum_2), plus(gap_1, 8.0, gap_2) + m[3]]


def _output_edge(m):
    return [m[0] + m[1] + m[2], m[1] - m[2] + m[3]]


def _output_full_adjoint(y):
    even, odd = y[0] + y[2], y[1] + y[3]
    even_2, odd_2 = plus(y[0], 4.0, y[2]), plus(2.0 * y[1], 8.0, y[3])
    return [y[0], even + odd, even - odd, y[3], even_2 + odd_2, even_2 - odd_2]


def _output_edge_adjoint(y):
    return [y[0], y[0] + y[1], y[0] - y[1], y[1]]


def _filter(w):
    ends = w[0] + w[2]
    even, odd = plus((1 / 24) * w[0], 1 / 6, w[2]), (1 / 12) * w[1]
    return [0.25 * w[0], (-1 / 6) * (ends + w[1]), (-1 / 6) * (ends - w[1]), w[2], even + odd, even - odd]


def _filter_adjoint(u):
    sum_1, gap_1, sum_2, gap_2 = u[1] + u[2], u[1] - u[2], u[4] + u[5], u[4] - u[5]
    return [
        plus(plus(0.25 * u[0], -1 / 6, sum_1), 1 / 24, sum_2),
        plus((-1 / 6) * gap_1, 1 / 12, gap_2),
        plus(u[3], 1 / 6, sum_2 - sum_1),
    ]


input_transform = grid_transform("input_transform", "B' x B", {6: (6, _input_full), 4: (4, _input_edge)})
input_adjoint = grid_transform("input_adjoint", "B v B'", {6: (6, _input_full_adjoint), 4: (4, _input_edge_adjoint)})
output_transform = grid_transform("output_transform", "A' m A", {6: (4, _output_full), 4: (2, _output_edge)})
output_adjoint = grid_transform(
    "output_adjoint", "A y A'", {4: (6, _output_full_adjoint), 2: (4, _output_edge_adjoint)}
)
filter_transform = grid_transform("filter_transform", "G w G'", {3: (6, _filter)})
filter_adjoint = grid_transform("filter_adjoint", "G' u G", {6: (3, _filter_adjoint)})


# ---------------------------------------------------------------- tiles of a block of images


class Stack(NamedTuple):
    """36 matrices with a row a tile: element (t, c) of matrix p is ``data[start + p * step + t * stride + c]``."""

    data: np.ndarray
    start: int
    step: int
    stride: int


class Block(NamedTuple):
    """The tiles of some images: full ones down and across a side, and one edge tile more or none."""

    n_images: int
    full_down: int
    full_across: int
    edge_down: int
    edge_across: int


@cpu_inline
def block_of(n_images, height, width):
    """The tiles of `n_images` images with outputs of that size."""
    return Block(
        n_images,
        height // 4 + (1 if height % 4 == 3 else 0),
        width // 4 + (1 if width % 4 == 3 else 0),
        1 if 1 <= height % 4 <= 2 else 0,
        1 if 1 <= width % 4 <= 2 else 0,
    )


@cpu_inline
def stack_of(data, start, n_tiles, n_columns):
    """A stack of matrices (n_tiles, n_columns)."""
    return Stack(data, start, n_tiles * n_columns + GAP, n_columns)


@cpu_inline
def first_tiles(block):
    """Numbers of the first full tile, of the first one at the bottom, of the first in a corner, and of all tiles."""
    full = block.n_images * block.full_down * block.edge_across
    bottom = full + block.n_images * block.full_down * block.full_across
    corner = bottom + block.n_images * block.full_across * block.edge_down
    return full, bottom, corner, corner + block.n_images * block.edge_down * block.edge_across


@cpu_inline
def tiles_of_kind(block, at_bottom, at_right):
    """For the tiles at the bottom or not, at the right or not: number of the first; first row and number of rows of
    tiles; first column and number of columns."""
    full, bottom, corner, _ = first_tiles(block)
    first = corner if at_bottom and at_right else bottom if at_bottom else 0 if at_right else full
    down, n_down = (block.full_down, block.edge_down) if at_bottom else (0, block.full_down)
    across, n_across = (block.full_across, block.edge_across) if at_right else (0, block.full_across)
    return first, down, n_down, across, n_across


@cpu_inline
def tiles_of_product(block, number):
    """Range of the tiles that need product `number`: edge tiles have no points 2 and -2."""
    full, bottom, corner, n_tiles = first_tiles(block)
    first = full if number % POINTS >= 4 else 0
    if number // POINTS >= 4:
        return first, bottom
    return first, corner if number % POINTS >= 4 else n_tiles


# ---------------------------------------------------------------- one image in and out of a stack


@cpu_inline
def _input_tiles(grid, kind, x, image, block, n_channels, v):
    first, down, n_down, across, n_across = tiles_of_kind(block, kind[0], kind[1])
    for h in range(n_down):
        for w in range(n_across):
            source = x.start + 4 * ((down + h) * x.pitch + across + w) * x.stride
            target = v.start + (first + (image * n_down + h) * n_across + w) * v.stride
            for c in range(0, n_channels, lanes(v.data)):
                tile = input_transform(grid_load(grid, x.data, source + c, x.pitch * x.stride, x.stride))
                grid_store(tile, v.data, target + c, POINTS * v.step, v.step)


@cpu_kernel
def winograd_input(x, image, block, n_channels, v):
    """Transformed tiles ``B' x B`` of the image with number `image` in the block.

    Parameters
    ----------
    x : Map
        From the first window's first input on; zeros around the image.
    v : Stack (n_tiles, n_channels)
        Overwritten where this image's tiles are.
    """
    _input_tiles(shape(6, 6), (False, False), x, image, block, n_channels, v)
    _input_tiles(shape(6, 4), (False, True), x, image, block, n_channels, v)
    _input_tiles(shape(4, 6), (True, False), x, image, block, n_channels, v)
    _input_tiles(shape(4, 4), (True, True), x, image, block, n_channels, v)


@cpu_inline
def _output_tiles(grids, kind, m, image, block, n_channels, bias, z):
    first, down, n_down, across, n_across = tiles_of_kind(block, kind[0], kind[1])
    for h in range(n_down):
        for w in range(n_across):
            source = m.start + (first + (image * n_down + h) * n_across + w) * m.stride
            target = z.start + 4 * ((down + h) * z.pitch + across + w) * z.stride
            for c in range(0, n_channels, lanes(m.data)):
                tile = output_transform(grid_load(grids[0], m.data, source + c, POINTS * m.step, m.step))
                tile = tile + grid_load(grids[1], bias.data, bias.start + c, 0, 0)
                grid_store(tile, z.data, target + c, z.pitch * z.stride, z.stride)


@cpu_kernel
def winograd_output(m, image, block, n_channels, bias, z):
    """``A' m A + bias``: the convolution's output for one image, from its tiles' products.

    Parameters
    ----------
    m : Stack (n_tiles, n_channels)
    bias : Matrix
        One row.
    z : Map
        Overwritten, in whole tiles: one row and one column may be added.
    """
    _output_tiles((shape(6, 6), shape(4, 4)), (False, False), m, image, block, n_channels, bias, z)
    _output_tiles((shape(6, 4), shape(4, 2)), (False, True), m, image, block, n_channels, bias, z)
    _output_tiles((shape(4, 6), shape(2, 4)), (True, False), m, image, block, n_channels, bias, z)
    _output_tiles((shape(4, 4), shape(2, 2)), (True, True), m, image, block, n_channels, bias, z)


@cpu_inline
def _output_gradient_tiles(grid, kind, grad_z, image, block, n_channels, m):
    first, down, n_down, across, n_across = tiles_of_kind(block, kind[0], kind[1])
    for h in range(n_down):
        for w in range(n_across):
            source = grad_z.start + 4 * ((down + h) * grad_z.pitch + across + w) * grad_z.stride
            target = m.start + (first + (image * n_down + h) * n_across + w) * m.stride
            for c in range(0, n_channels, lanes(m.data)):
                tile = grid_load(grid, grad_z.data, source + c, grad_z.pitch * grad_z.stride, grad_z.stride)
                grid_store(output_adjoint(tile), m.data, target + c, POINTS * m.step, m.step)


@cpu_kernel
def winograd_output_gradient(grad_z, image, block, n_channels, m):
    """Gradient ``A grad_z A'`` of the tiles' products of one image; the adjoint of `winograd_output`.

    `grad_z` is zero in the row and the column that whole tiles may add.
    """
    _output_gradient_tiles(shape(4, 4), (False, False), grad_z, image, block, n_channels, m)
    _output_gradient_tiles(shape(4, 2), (False, True), grad_z, image, block, n_channels, m)
    _output_gradient_tiles(shape(2, 4), (True, False), grad_z, image, block, n_channels, m)
    _output_gradient_tiles(shape(2, 2), (True, True), grad_z, image, block, n_channels, m)


@cpu_inline
def _input_gradient_tiles(grid, kind, v, image, block, n_channels, grad_x):
    first, down, n_down, across, n_across = tiles_of_kind(block, kind[0], kind[1])
    for h in range(n_down):
        for w in range(n_across):
            source = v.start + (first + (image * n_down + h) * n_across + w) * v.stride
            target = grad_x.start + 4 * ((down + h) * grad_x.pitch + across + w) * grad_x.stride
            for c in range(0, n_channels, lanes(v.data)):
                tile = input_adjoint(grid_load(grid, v.data, source + c, POINTS * v.step, v.step))
                down_step, across_step = grad_x.pitch * grad_x.stride, grad_x.stride
                before = grid_load(grid, grad_x.data, target + c, down_step, across_step)
                grid_store(before + tile, grad_x.data, target + c, down_step, across_step)


@cpu_kernel
def winograd_input_gradient(v, image, block, n_channels, grad_x):
    """Gradient of one image's input, ``B v B'`` of its tiles, which overlap; the adjoint of `winograd_input`.

    Parameters
    ----------
    v : Stack (n_tiles, n_channels)
        Gradient of the transformed tiles.
    grad_x : Map
        Overwritten; from the first window's first input on, with all that windows reach.
    """
    height = 4 * block.full_down + 2 * block.edge_down + 2
    stop = grad_x.start + height * grad_x.pitch * grad_x.stride
    grad_x.data[grad_x.start : stop] = 0.0
    _input_gradient_tiles(shape(6, 6), (False, False), v, image, block, n_channels, grad_x)
    _input_gradient_tiles(shape(6, 4), (False, True), v, image, block, n_channels, grad_x)
    _input_gradient_tiles(shape(4, 6), (True, False), v, image, block, n_channels, grad_x)
    _input_gradient_tiles(shape(4, 4), (True, True), v, image, block, n_channels, grad_x)


# ---------------------------------------------------------------- the products


@cpu_inline
def panel_start(start, number, column, n_rows, n_columns):
    """Where the panel that begins with `column` of matrix `number` lies: panels (n_rows, panel's width), one after
    another."""
    return start + (number * n_columns + column) * n_rows


@cpu_inline
def _multiply_panel(tile_shape, x, number, tiles, weight, n_k, out, column):
    stride = vectors_of(tile_shape) * lanes(weight.data)
    x_start, out_start = x.start + number * x.step, out.start + number * out.step + column
    for t in range(tiles[0], tiles[1], TILE_ROWS):
        first = max(0, min(t, tiles[1] - TILE_ROWS))  # the last tile of rows begins earlier rather than being cut
        total = tile_zeros(tile_shape, out.data)
        for k in range(n_k):
            total = tile_rank1(
                total, x.data, x_start + first * x.stride + k, x.stride, weight.data, weight.start + k * stride
            )
        tile_store(total, out.data, out_start + first * out.stride, out.stride)


@cpu_kernel
def winograd_products(x, filters, start, out, block, n_k, n_columns):
    """``out[p] = x[p] @ filters[p]`` for the 36 products p, for the tiles that need each.

    Parameters
    ----------
    x : Stack (n_tiles, n_k)
    filters : array
        Panels of 36 matrices (n_k, n_columns) from `start` on.
    out : Stack (n_tiles, n_columns)
        Overwritten.

    Notes
    -----
    Cost: 2 * 36 n_tiles n_k n_columns flop, less what edge tiles save.
    """
    width = lanes(filters)
    for number in range(N_PRODUCTS):
        tiles = tiles_of_product(block, number)
        column = 0
        while column < n_columns:
            weight = Panel(filters, panel_start(start, number, column, n_k, n_columns))
            if n_columns - column >= 2 * width:
                _multiply_panel(shape(TILE_ROWS, 2), x, number, tiles, weight, n_k, out, column)
                column += 2 * width
            else:
                _multiply_panel(shape(TILE_ROWS, 1), x, number, tiles, weight, n_k, out, column)
                column += width


class Panel(NamedTuple):
    """A panel of a matrix; its rows follow each other."""

    data: np.ndarray
    start: int


@cpu_inline
def _filter_gradient_panel(tile_shape, v, m, number, tiles, n_in, column, grad):
    stride = vectors_of(tile_shape) * lanes(grad.data)
    v_start, m_start = v.start + number * v.step, m.start + number * m.step + column
    for k in range(0, n_in, TILE_ROWS):
        total = tile_load(tile_shape, grad.data, grad.start + k * stride, stride)
        for t in range(tiles[0], tiles[1]):
            total = tile_rank1(total, v.data, v_start + t * v.stride + k, 1, m.data, m_start + t * m.stride)
        tile_store(total, grad.data, grad.start + k * stride, stride)


@cpu_kernel
def winograd_filter_gradient(v, m, block, n_in, n_out, grads, start):
    """``grads[p] += v[p].T @ m[p]`` for the 36 products p: gradient of the transformed filters, in their layout.

    Parameters
    ----------
    v : Stack (n_tiles, n_in)
        Transformed input.
    m : Stack (n_tiles, n_out)
        Gradient of the products.
    """
    width = lanes(grads)
    for number in range(N_PRODUCTS):
        tiles = tiles_of_product(block, number)
        column = 0
        while column < n_out:
            grad = Panel(grads, panel_start(start, number, column, n_in, n_out))
            if n_out - column >= 2 * width:
                _filter_gradient_panel(shape(TILE_ROWS, 2), v, m, number, tiles, n_in, column, grad)
                column += 2 * width
            else:
                _filter_gradient_panel(shape(TILE_ROWS, 1), v, m, number, tiles, n_in, column, grad)
                column += width


# ---------------------------------------------------------------- filters


@cpu_inline
def in_panels(start, number, k, column, n_rows, n_columns, width):
    """Position of the vector at row k and `column` of matrix `number`, and the distance to the next row."""
    first = column // (PANEL_VECTORS * width) * (PANEL_VECTORS * width)
    stride = min(PANEL_VECTORS * width, n_columns - first)
    return panel_start(start, number, first, n_rows, n_columns) + k * stride + column - first, stride


@cpu_kernel
def winograd_filters(params, layer, filters, start, transposed_start, team):
    """This worker's share of the transformed filters ``G w G'`` and of their transposes, as panels.

    Parameters
    ----------
    layer : LAYER
    filters : array
        Overwritten: 36 matrices (in_channels, n_out) from `start` on, 36 (n_out, in_channels) from `transposed_start`.
    """
    n_in, n_out, row, width = layer["in_channels"], layer["n_out"], layer["out_stride"], lanes(filters)
    square = square_shape(params)
    first, last = share_of(n_in, 16, team)
    for k in range(first, last):
        for column in range(0, n_out, width):
            source = layer["weight_start"] + k * row + column
            tile = filter_transform(grid_load(shape(3, 3), params, source, 3 * n_in * row, n_in * row))
            target, _ = in_panels(start, 0, k, column, n_in, n_out, width)
            grid_store(tile, filters, target, POINTS * n_in * n_out, n_in * n_out)
    for number in range(N_PRODUCTS):
        for k in range(first, last, width):
            for column in range(0, n_out, width):
                source, stride = in_panels(start, number, k, column, n_in, n_out, width)
                tile = tile_transpose(tile_load(square, filters, source, stride))
                target, stride = in_panels(transposed_start, number, column, k, n_out, n_in, width)
                tile_store(tile, filters, target, stride)


@cpu_kernel
def winograd_filters_backward(grads, start, layer, out):
    """The filters' gradient ``G' u G`` from the gradients u of the transformed filters.

    Parameters
    ----------
    grads : array
        Panels, from `start` on, as `winograd_filter_gradient` leaves them.
    out : array
        Overwritten, from the layer's `weight_start` on.
    """
    n_in, n_out, row, width = layer["in_channels"], layer["n_out"], layer["out_stride"], lanes(grads)
    for k in range(n_in):
        for column in range(0, n_out, width):
            source, _ = in_panels(start, 0, k, column, n_in, n_out, width)
            tile = filter_adjoint(grid_load(shape(6, 6), grads, source, POINTS * n_in * n_out, n_in * n_out))
            target = layer["weight_start"] + k * row + column
            grid_store(tile, out, target, 3 * n_in * row, n_in * row)
