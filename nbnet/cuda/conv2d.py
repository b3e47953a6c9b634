"""Direct convolutions as products of windows: output, gradient of the input, gradient of the filters.

The windows are never copied: the block of a product reads the inputs of its windows where they lie, by tables of
positions (implicit GEMM). Rows of the products are pixels of all images of a batch. Every output is one chain of
additions over the window, in order, as on the CPU; only a filter's gradient is summed by slices of the batch's pixels,
which depend on the layer and the batch alone.

Source: Chetlur et al., cuDNN: efficient primitives for deep learning, 2014, section 3.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numba
import numpy as np
from numba import uint32

from ..cpu.dense import Matrix
from ..network import round_up
from .conv_net import Maps
from .dense import Activated, Stored, add_bias, end_of_layer, matrix, overwrite
from .gathered import Gathered, Layout
from .jit import cuda, cuda_kernel, device_function
from .launch import n_processors
from .pooling import deliver_four
from .product import End, Tile, finish_tile, multiply_tile, n_blocks
from .reductions import BLOCK

# Convolutions have many rows and few columns: a larger tile would need more registers than two blocks may have. In
# float64 only tiles whose sums fit in registers.
TILES = (
    Tile(128, 64, 8, 8),
    Tile(128, 32, 8, 8),
    Tile(64, 64, 16, 4),
    Tile(64, 32, 16, 4),
    Tile(64, 16, 16, 4),
    Tile(32, 32, 32, 4),
)
SHARE = {8: 0.91, 4: 0.79}  # of multiplications in the inner loop, by what a thread owns
WANTED_BLOCKS = 256  # of a filter's gradient
SLICE_TERMS = 256  # pixels that a slice of a filter's gradient has at least
MAX_SLICES = 64


def choose_tile(n_rows: int, n_columns: int, dtype) -> Tile:
    """The tile that wastes least, among those that give each multiprocessor a block; else the one of most blocks."""
    tiles = [tile for tile in TILES if dtype == np.float32 or tile.own == 4]

    def blocks(tile):
        return n_blocks(n_rows, tile.rows) * n_blocks(n_columns, tile.columns)

    def cost(tile):
        return blocks(tile) * tile.rows * tile.columns / SHARE[tile.own]

    enough = [tile for tile in tiles if blocks(tile) >= n_processors()]
    return min(enough, key=cost) if enough else max(tiles, key=lambda tile: (blocks(tile), -cost(tile)))


class Shape(NamedTuple):
    """Sizes of a product of windows."""

    n_rows: int
    n_columns: int
    n_terms: int
    n_stored: int  # columns that are stored: pads, too
    blocks_across: int
    slice_terms: int  # terms of a slice of the sum
    slice_size: int  # elements from one slice's result to the next one's


@functools.cache
def _product_kernel(dtype, tile, a_layout, b_layout, end, sliced):
    """A kernel: each block multiplies its tile, over its slice of the terms if `sliced`; `end` takes four sums of a row
    at a time."""
    multiply, finish = multiply_tile(dtype, tile, a_layout, b_layout), finish_tile(tile, end)
    n_own, tile_rows, tile_columns = tile.own**2, tile.rows, tile.columns

    @device_function
    def slice_of(operand, first):
        start, stride, terms = operand.start, operand.stride, operand.terms
        return Gathered(operand.data, start, stride, operand.sides, terms, first)

    @cuda_kernel(tile.threads)
    def convolution(a, b, out, shape):
        total = cuda.local.array(n_own, dtype)
        block = uint32(cuda.blockIdx.x)
        first_row = uint32(block // shape.blocks_across) * uint32(tile_rows)
        first_column = uint32(block % shape.blocks_across) * uint32(tile_columns)
        if sliced:
            first = uint32(uint32(cuda.blockIdx.y) * shape.slice_terms)
            sizes = shape.n_rows, shape.n_columns, min(shape.slice_terms, uint32(shape.n_terms - first))
            multiply(total, slice_of(a, first), slice_of(b, first), sizes, first_row, first_column)
            into = Stored(Matrix(out.y.data, out.y.start + uint32(cuda.blockIdx.y) * shape.slice_size, out.y.stride))
        else:
            sizes = shape.n_rows, shape.n_columns, shape.n_terms
            multiply(total, a, b, sizes, first_row, first_column)
            into = out
        finish(total, into, sizes, first_row, first_column, shape.n_stored)

    return convolution


def _add_product(queue, a, b, out, sizes, n_stored, layouts, end, slices=(1, 0)):
    """Launch a product of `sizes` (rows, columns, terms); `slices`: how many, and the elements of each result."""
    dtype = a.data.dtype
    n_slices, slice_size = slices
    tile = choose_tile(sizes[0], sizes[1], dtype)
    across = n_blocks(n_stored, tile.columns)
    slice_terms = n_blocks(sizes[2], n_slices)
    shape = Shape(*(np.uint32(n) for n in (*sizes, n_stored, across, slice_terms, slice_size)))
    kernel = _product_kernel(getattr(numba, dtype.name), tile, *layouts, end, n_slices > 1)
    queue.add(kernel, (across * n_blocks(sizes[0], tile.rows), n_slices), tile.threads, a, b, out, shape)


def _gathered(data, sides, terms, start=0, stride=0) -> Gathered:
    return Gathered(data, np.uint32(start), np.uint32(stride), sides, terms, np.uint32(0))


def _together(layer, x: Maps) -> int:
    """How many inputs of a window lie next to each other, on a multiple of 16 bytes."""
    return 4 if layer["in_channels"] % 4 == 0 and x.stride % 4 == 0 else 1


# ---------------------------------------------------------------- forward


class Placed(NamedTuple):
    """Where the output of a layer goes that only activates: row r of the product is the pixel at ``pixels[r]``."""

    y: Matrix
    slopes: object
    bias: Matrix
    pixels: object


@device_function
def _at_pixel(out, row):
    """The same for a product whose row 0 is this row."""
    return Activated(Matrix(out.y.data, out.pixels[row], out.y.stride), out.slopes, out.bias)


@functools.cache
def _placed(end):
    """The end of a dense layer, at the places of pixels."""
    store_row, revisit_row = end.store, end.revisit

    @device_function
    def store(out, sizes, row, column, z0, z1, z2, z3):
        store_row(_at_pixel(out, row), sizes, uint32(0), column, z0, z1, z2, z3)

    @device_function
    def revisit(out, sizes, row, column):
        revisit_row(_at_pixel(out, row), sizes, uint32(0), column)

    return End(store, revisit) if end.revisits else End(store)


def _add_forward(queue, x, params, layer, out, n_stored, end, tables, n_images):
    windows = _gathered(x.data, tables.windows, tables.taps)
    weight = matrix(params, layer["weight_start"], layer["out_stride"])
    sizes = n_images * layer["height"] * layer["width"], layer["n_out"], layer["n_in"]
    layouts = Layout(True, _together(layer, x)), False
    _add_product(queue, windows, weight, out, sizes, n_stored, layouts, end)


def conv2d_forward(queue, x, params, bias, layer, z, tables, n_images):
    """The convolution of a batch, bias included.

    Parameters
    ----------
    x : Maps
        Of the input; zeros around each image.
    params : (n_params,)
    bias : Matrix or None
        One row; None in front of batch norm, which has its own.
    layer : LAYER
    z : Maps (height, width, n_out)
        Overwritten, pads with zero.
    tables : Tables

    Notes
    -----
    Cost: 2 height width n_in n_out flop an image.
    """
    y = matrix(z.data, 0, z.stride)
    out, end = (Stored(y), End(overwrite)) if bias is None else (Activated(y, z.data, bias), End(add_bias))
    _add_forward(queue, x, params, layer, out, z.stride, end, tables, n_images)


def conv2d_activated(queue, x, params, layer, y, slopes, tables, n_images):
    """``activation(convolution + bias)`` of a batch, for a layer that does no more than that.

    Parameters
    ----------
    y : Maps (height, width, n_out)
        Overwritten, pads with zero.
    slopes : (same as y.data) or (0,)
        Overwritten with the derivative of the activation, at the position of the output; empty: not wanted.
    x, params, layer, tables
        As in `conv2d_forward`.
    """
    bias = matrix(params, layer["bias_start"], layer["out_stride"])
    end = end_of_layer(getattr(numba, params.dtype.name), int(layer["activation"]), slopes.size > 0)
    out = Placed(matrix(y.data, 0, y.stride), slopes, bias, tables.outputs)
    _add_forward(queue, x, params, layer, out, y.stride, _placed(end), tables, n_images)


# ---------------------------------------------------------------- gradient of the input


class Delivered(NamedTuple):
    """Where the gradient of a convolution's input goes: row r of the product is the pixel at ``pixels[r]``."""

    place: object  # `pooling.Place`
    pixels: object


@functools.cache
def _delivered(adds, leaves):
    deliver = deliver_four(adds, leaves)

    @device_function
    def store(out, sizes, row, column, v0, v1, v2, v3):
        deliver(out.place, uint32(out.pixels[row] + column), v0, v1, v2, v3)

    return End(store)


def conv2d_backward(queue, grad_z, params, layer, grad_x, tables, n_images):
    """Gradient of a convolution's input: ``grad_x[h, w] = sum over the windows that hold (h, w) of grad_z @ weight.T``,
    brought to the layer below (`pooling.deliver`).

    With stride s the pixels (h, w) of one remainder by s meet the same taps: each of the s * s remainders is a product
    of its own.

    Parameters
    ----------
    grad_z : Maps (height, width, n_out)
        Zeros around each image, `backward_border` pixels.
    params : (n_params,)
        The filters are read as they lie: no transposed copy.
    layer : LAYER
    grad_x : Place
    tables : Tables

    Notes
    -----
    Cost: 2 height width n_in n_out flop an image.
    """
    end = _delivered(bool(layer["input_adds"]), bool(layer["input_leaves"]))
    layouts = Layout(True, 4), Layout(True, 4, in_line=True)
    channels = layer["in_channels"]
    for part in tables.remainders:
        windows = _gathered(grad_z.data, part.windows, part.terms)
        start, stride = layer["weight_start"], layer["out_stride"]
        weight = _gathered(params, part.weights, part.weights, start, stride)
        out = Delivered(grad_x, part.pixels)
        sizes = n_images * part.n_pixels, channels, part.n_terms
        _add_product(queue, windows, weight, out, sizes, grad_x.slopes.stride, layouts, end)


# ---------------------------------------------------------------- gradient of the filters


def _most_slices(layer, n_images: int) -> int:
    n_terms = int(n_images * layer["height"] * layer["width"])
    n_elements = round_up(int(layer["n_in"]), 64) * round_up(int(layer["n_out"]), 64)
    return max(1, min(n_blocks(WANTED_BLOCKS, n_elements // 64**2), n_terms // SLICE_TERMS, MAX_SLICES))


def n_slices(layer, n_images: int) -> int:
    """Parts of the pixels of a batch over which a filter's gradient is summed, by layer and batch only."""
    n_terms = int(n_images * layer["height"] * layer["width"])
    return n_blocks(n_terms, n_blocks(n_terms, _most_slices(layer, n_images)))  # none is empty


def pieces_size(layer, n_images: int) -> int:
    """Elements that `conv2d_filter_gradient` needs at most of `sums`, for up to so many images."""
    slices = _most_slices(layer, n_images)
    return slices * int(layer["n_in"]) * round_up(int(layer["n_out"])) if slices > 1 else 0


def conv2d_filter_gradient(queue, x, grad_z, layer, grads, sums, tables, n_images):
    """A batch's gradient: ``grad_weight[k] = sum over images and (h, w) of x[h, w, k] * grad_z[h, w]``.

    Parameters
    ----------
    x : Maps
        Of the input; zeros around each image.
    grad_z : Maps (height, width, n_out)
        Pads zero.
    layer : LAYER
    grads : (n_params,)
        Overwritten, at the layer's `weight_start`.
    sums : vector
        Scratch of `pieces_size` elements.
    tables : Tables

    Notes
    -----
    Cost: 2 height width n_in n_out flop an image.
    """
    windows = _gathered(x.data, tables.taps, tables.windows)
    gradient = _gathered(grad_z.data, tables.gradients, tables.gradients, stride=1)
    layouts = Layout(False, _together(layer, x)), Layout(False, 4, in_line=True)
    sizes = layer["n_in"], layer["n_out"], n_images * layer["height"] * layer["width"]
    grad = matrix(grads, layer["weight_start"], layer["out_stride"])
    slices, width = n_slices(layer, n_images), round_up(int(layer["n_out"]))
    size = int(layer["n_in"]) * width
    into = matrix(sums, 0, width) if slices > 1 else grad
    _add_product(queue, windows, gradient, Stored(into), sizes, width, layouts, End(overwrite), (slices, size))
    if slices > 1:
        sum_slices(queue, into, grad, size, slices)


@functools.cache
def _sum_slices_kernel(dtype):
    @cuda_kernel(BLOCK)
    def sum_slices(slices, grad, size, n_slices):
        i = uint32(uint32(cuda.blockIdx.x) * uint32(BLOCK) + uint32(cuda.threadIdx.x))
        if i < size:
            total = dtype(0)
            for number in range(n_slices):
                total += slices.data[uint32(uint32(number) * size + i)]
            grad.data[grad.start + uint32(i // slices.stride) * grad.stride + i % slices.stride] = total

    return sum_slices


def sum_slices(queue, slices, grad, size, number):
    """``grad = sum over s < number of slices[s]``, in order.

    Parameters
    ----------
    slices : Matrix
        The first of `number`, of `size` elements each, one behind the other.
    grad : Matrix
        Overwritten.
    """
    kernel = _sum_slices_kernel(getattr(numba, grad.data.dtype.name))
    queue.add(kernel, n_blocks(size, BLOCK), BLOCK, slices, grad, np.uint32(size), np.uint32(number))
