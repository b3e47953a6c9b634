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

from ..jit import cpu_function, cpu_inline, cpu_kernel
from .dense import panel
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
from .simd_grid import column_transform, grid_load, grid_store, plus
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


input_columns = column_transform("input_columns", "B' x", {6: (6, _input_full), 4: (4, _input_edge)})
input_adjoint = column_transform("input_adjoint", "B v", {6: (6, _input_full_adjoint), 4: (4, _input_edge_adjoint)})
output_columns = column_transform("output_columns", "A' m", {6: (4, _output_full), 4: (2, _output_edge)})
output_adjoint = column_transform("output_adjoint", "A y", {4: (6, _output_full_adjoint), 2: (4, _output_edge_adjoint)})
filter_columns = column_transform("filter_columns", "G w", {3: (6, _filter)})
filter_adjoint = column_transform("filter_adjoint", "G' u", {6: (3, _filter_adjoint)})


class Lines(NamedTuple):
    """Vectors on a grid: vector k of line j starts at ``data[start + k * along + j * across]``."""

    data: np.ndarray
    start: int
    along: int
    across: int


@cpu_inline
def turned(lines):
    """The grid with rows for columns."""
    return Lines(lines.data, lines.start, lines.across, lines.along)


@cpu_function
def input_lines(x, n, n_lines, y):
    """``B' x`` for lines of n = 6 or 4 vectors, two lines at a time."""
    for j in range(0, n_lines, 2):
        source, target = x.start + j * x.across, y.start + j * y.across
        if n == 6:
            tile = input_columns(grid_load(shape(6, 2), x.data, source, x.along, x.across))
            grid_store(tile, y.data, target, y.along, y.across)
        else:
            tile = input_columns(grid_load(shape(4, 2), x.data, source, x.along, x.across))
            grid_store(tile, y.data, target, y.along, y.across)


@cpu_function
def input_adjoint_lines(x, n, n_lines, y, adds):
    """``B x`` for lines of n = 6 or 4 vectors; added to y if `adds`."""
    for j in range(0, n_lines, 2):
        source, target = x.start + j * x.across, y.start + j * y.across
        if n == 6:
            tile = input_adjoint(grid_load(shape(6, 2), x.data, source, x.along, x.across))
            if adds:
                tile = tile + grid_load(shape(6, 2), y.data, target, y.along, y.across)
            grid_store(tile, y.data, target, y.along, y.across)
        else:
            tile = input_adjoint(grid_load(shape(4, 2), x.data, source, x.along, x.across))
            if adds:
                tile = tile + grid_load(shape(4, 2), y.data, target, y.along, y.across)
            grid_store(tile, y.data, target, y.along, y.across)


@cpu_function
def output_lines(x, n, n_lines, y, bias, adds):
    """``A' x`` for lines of n = 4 or 2 outputs from 6 or 4 points; plus the bias, one vector, if `adds`."""
    for j in range(0, n_lines, 2):
        source, target = x.start + j * x.across, y.start + j * y.across
        if n == 4:
            tile = output_columns(grid_load(shape(6, 2), x.data, source, x.along, x.across))
            if adds:
                tile = tile + grid_load(shape(4, 2), bias.data, bias.start, 0, 0)
            grid_store(tile, y.data, target, y.along, y.across)
        else:
            tile = output_columns(grid_load(shape(4, 2), x.data, source, x.along, x.across))
            if adds:
                tile = tile + grid_load(shape(2, 2), bias.data, bias.start, 0, 0)
            grid_store(tile, y.data, target, y.along, y.across)


@cpu_function
def output_adjoint_lines(x, n, n_lines, y):
    """``A x`` for lines of n = 4 or 2 outputs."""
    for j in range(0, n_lines, 2):
        source, target = x.start + j * x.across, y.start + j * y.across
        if n == 4:
            tile = output_adjoint(grid_load(shape(4, 2), x.data, source, x.along, x.across))
            grid_store(tile, y.data, target, y.along, y.across)
        else:
            tile = output_adjoint(grid_load(shape(2, 2), x.data, source, x.along, x.across))
            grid_store(tile, y.data, target, y.along, y.across)


@cpu_inline
def lines_between(scratch, start):
    """A tile in the scratch, of which one direction is transformed; N_PRODUCTS vectors."""
    return Lines(scratch, start, lanes(scratch), POINTS * lanes(scratch))


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
def tile_at(block, image, h, w):
    """Number of the tile in row h and column w of tiles of an image."""
    full, bottom, corner, _ = first_tiles(block)
    if h < block.full_down:
        if w < block.full_across:
            return full + (image * block.full_down + h) * block.full_across + w
        return image * block.full_down + h
    if w < block.full_across:
        return bottom + image * block.full_across + w
    return corner + image


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
def tile_lines(stack, tile, c):
    """The points of a tile, channels from c on: lines are rows of points."""
    return Lines(stack.data, stack.start + tile * stack.stride + c, stack.step, POINTS * stack.step)


@cpu_inline
def pixel_lines(image, h, w, c):
    """Pixels from the tile in row h and column w of tiles on: lines are rows of pixels."""
    start = image.start + 4 * (h * image.pitch + w) * image.stride + c
    return Lines(image.data, start, image.stride, image.pitch * image.stride)


@cpu_inline
def side_of(full, number):
    """Outputs along a side of a tile: those behind the full ones have two."""
    return 4 if number < full else 2


@cpu_kernel
def winograd_input(x, image, block, n_channels, v, between):
    """Transformed tiles ``B' x B`` of the image with number `image` in the block.

    Parameters
    ----------
    x : Map
        From the first window's first input on; zeros around the image.
    v : Stack (n_tiles, n_channels)
        Overwritten where this image's tiles are.
    between : Lines
        Scratch for a tile: one direction is transformed.
    """
    for h in range(block.full_down + block.edge_down):
        for w in range(block.full_across + block.edge_across):
            tile = tile_at(block, image, h, w)
            down, across = side_of(block.full_down, h) + 2, side_of(block.full_across, w) + 2
            for c in range(0, n_channels, lanes(v.data)):
                input_lines(pixel_lines(x, h, w, c), across, down, between)
                input_lines(turned(between), down, across, turned(tile_lines(v, tile, c)))


@cpu_kernel
def winograd_output(m, image, block, n_channels, bias, z, between):
    """``A' m A + bias``: the convolution's output for one image, from its tiles' products.

    Parameters
    ----------
    m : Stack (n_tiles, n_channels)
    bias : Matrix
        One row.
    z : Map
        Overwritten, in whole tiles: one row and one column may be added.
    between : Lines
        Scratch for a tile.
    """
    for h in range(block.full_down + block.edge_down):
        for w in range(block.full_across + block.edge_across):
            tile = tile_at(block, image, h, w)
            down, across = side_of(block.full_down, h), side_of(block.full_across, w)
            for c in range(0, n_channels, lanes(m.data)):
                shift = panel(bias, c)
                output_lines(tile_lines(m, tile, c), across, down + 2, between, shift, np.int64(0))
                target = turned(pixel_lines(z, h, w, c))
                output_lines(turned(between), down, across, target, shift, np.int64(1))


@cpu_kernel
def winograd_output_gradient(grad_z, image, block, n_channels, m, between):
    """Gradient ``A grad_z A'`` of the tiles' products of one image; the adjoint of `winograd_output`.

    `grad_z` is zero in the row and the column that whole tiles may add.
    """
    for h in range(block.full_down + block.edge_down):
        for w in range(block.full_across + block.edge_across):
            tile = tile_at(block, image, h, w)
            down, across = side_of(block.full_down, h), side_of(block.full_across, w)
            for c in range(0, n_channels, lanes(m.data)):
                output_adjoint_lines(pixel_lines(grad_z, h, w, c), across, down, between)
                output_adjoint_lines(turned(between), down, across + 2, turned(tile_lines(m, tile, c)))


@cpu_kernel
def winograd_input_gradient(v, image, block, n_channels, grad_x, between):
    """Gradient of one image's input, ``B v B'`` of its tiles, which overlap; the adjoint of `winograd_input`.

    Parameters
    ----------
    v : Stack (n_tiles, n_channels)
        Gradient of the transformed tiles.
    grad_x : Map
        Overwritten; from the first window's first input on, with all that windows reach.
    between : Lines
        Scratch for a tile.
    """
    height = 4 * block.full_down + 2 * block.edge_down + 2
    stop = grad_x.start + height * grad_x.pitch * grad_x.stride
    grad_x.data[grad_x.start : stop] = 0.0
    for h in range(block.full_down + block.edge_down):
        for w in range(block.full_across + block.edge_across):
            tile = tile_at(block, image, h, w)
            down, across = side_of(block.full_down, h) + 2, side_of(block.full_across, w) + 2
            for c in range(0, n_channels, lanes(v.data)):
                input_adjoint_lines(tile_lines(v, tile, c), across, down, between, np.int64(0))
                target = turned(pixel_lines(grad_x, h, w, c))
                input_adjoint_lines(turned(between), down, across, target, np.int64(1))


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
def winograd_filters(params, layer, filters, starts, between, team):
    """This worker's share of the transformed filters ``G w G'`` and of their transposes, as panels.

    Parameters
    ----------
    layer : LAYER
    filters : array
        Overwritten: 36 matrices (in_channels, n_out) from starts[0] on, 36 (n_out, in_channels) from starts[1].
    between : Lines
        Scratch for a tile.
    """
    n_in, n_out, row, width = layer["in_channels"], layer["n_out"], layer["out_stride"], lanes(filters)
    square = square_shape(params)
    first, last = share_of(n_in, 16, team)
    for k in range(first, last):
        for column in range(0, n_out, width):
            source = layer["weight_start"] + k * row + column
            tile = filter_columns(grid_load(shape(3, 3), params, source, n_in * row, 3 * n_in * row))
            grid_store(tile, between.data, between.start, between.along, between.across)
            tile = filter_columns(grid_load(shape(3, 6), between.data, between.start, between.across, between.along))
            target, _ = in_panels(starts[0], 0, k, column, n_in, n_out, width)
            grid_store(tile, filters, target, POINTS * n_in * n_out, n_in * n_out)
    for number in range(N_PRODUCTS):
        for k in range(first, last, width):
            for column in range(0, n_out, width):
                source, stride = in_panels(starts[0], number, k, column, n_in, n_out, width)
                tile = tile_transpose(tile_load(square, filters, source, stride))
                target, stride = in_panels(starts[1], number, column, k, n_out, n_in, width)
                tile_store(tile, filters, target, stride)


@cpu_kernel
def winograd_filters_backward(grads, start, layer, out, between):
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
            tile = filter_adjoint(grid_load(shape(6, 6), grads, source, n_in * n_out, POINTS * n_in * n_out))
            grid_store(tile, between.data, between.start, between.along, between.across)
            tile = filter_adjoint(grid_load(shape(6, 3), between.data, between.start, between.across, between.along))
            target = layer["weight_start"] + k * row + column
            grid_store(tile, out, target, 3 * n_in * row, n_in * row)
