"""Direct convolutions on tiles: output, gradient of the input, gradient of the filters; one image a call.

The filters are a matrix with a row for each input of a window, in the order (filter's row, filter's column, channel).
Maps have borders of zeros where windows reach beyond the image; see `nbnet.image_network`. Every output is one chain of
additions over the window, in order, so its bits do not depend on the tile that it is in.

Tiles have TILE_ROWS pixels of one row. Where a row has fewer, the pixels behind it are computed as well and thrown
away: results go to a scratch map at least TILE_ROWS pixels wide.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..jit import cpu_inline, cpu_kernel
from .dense import Matrix, panel, panel_vectors
from .simd import (
    TILE_ROWS,
    lanes,
    lanes_below,
    shape,
    square_shape,
    tile_load,
    tile_rank1,
    tile_store,
    tile_transpose,
    tile_zeros,
    vectors_of,
)
from .simd_grid import GROUP, tile_rank1_groups
from .workers import share_of

# Rows of the tile of a filter's gradient: three groups. With 32 registers 9 x 3 sums, 3 vectors, 1 spread input.
FILTER_ROWS = 3 * GROUP
FILTER_VECTORS = 3 if TILE_ROWS == 8 else 1


class Map(NamedTuple):
    """One image's map: channel c of pixel (h, w) is ``data[start + (h * pitch + w) * stride + c]``."""

    data: np.ndarray
    start: int
    pitch: int
    stride: int


class Taps(NamedTuple):
    """Which inputs of a window meet which rows of a weight.

    Input (a, b, c), for a < n_down, b < n_across and c < n_channels, stands ``a * x_down + b * x_across + c`` elements
    behind the window's first one; its row of the weight starts ``a * w_down + b * w_across`` elements behind the first
    one, and c rows.
    """

    n_down: int
    n_across: int
    n_channels: int
    x_down: int
    x_across: int
    w_down: int
    w_across: int


@cpu_inline
def pixel(image, h, w):
    """The map from pixel (h, w) on."""
    return Map(image.data, image.start + (h * image.pitch + w) * image.stride, image.pitch, image.stride)


@cpu_inline
def padded(n):
    """The next multiple of 16."""
    return (n + 15) // 16 * 16


@cpu_inline
def every(image, step):
    """Every `step`-th pixel of each `step`-th row."""
    return Map(image.data, image.start, image.pitch, image.stride * step)


# ---------------------------------------------------------------- the product of windows and a weight


@cpu_inline
def correlate_panel(tile_shape, x, taps, weight, bias, y, size):
    """One panel of columns: see `correlate`."""
    for h in range(size[0]):
        for w in range(0, size[1], TILE_ROWS):
            first = max(0, min(w, size[1] - TILE_ROWS))  # the last tile begins earlier rather than being cut
            total = tile_load(tile_shape, bias.data, bias.start, 0)
            window = x.start + (h * x.pitch + first) * x.stride
            for a in range(taps.n_down):
                for b in range(taps.n_across):
                    position = window + a * taps.x_down + b * taps.x_across
                    row = weight.start + a * taps.w_down + b * taps.w_across
                    for c in range(taps.n_channels):
                        total = tile_rank1(total, x.data, position + c, x.stride, weight.data, row + c * weight.stride)
            tile_store(total, y.data, y.start + (h * y.pitch + first) * y.stride, y.stride)


@cpu_kernel
def correlate(x, taps, weight, bias, y, size, n_channels):
    """``y[h, w] = bias + sum over a window's inputs x[h, w, k] of x[h, w, k] * weight[k]``.

    Parameters
    ----------
    x : Map
        From the first window's first input on.
    taps : Taps
    weight, bias : Matrix
    y : Map
        Overwritten, whole vectors and whole tiles.
    size : (height, width)
        Of y.
    n_channels : int
        Of y.
    """
    width = lanes(weight.data)
    n_vectors = (n_channels + width - 1) // width
    vector = 0
    while vector < n_vectors:
        column = vector * width
        w, b = panel(weight, column), panel(bias, column)
        out = Map(y.data, y.start + column, y.pitch, y.stride)
        if n_vectors - vector >= 2:
            correlate_panel(shape(TILE_ROWS, 2), x, taps, w, b, out, size)
            vector += 2
        else:
            correlate_panel(shape(TILE_ROWS, 1), x, taps, w, b, out, size)
            vector += 1


@cpu_inline
def contiguous(x, layer):
    """Whether a row of the filter is one run of inputs: then `n_across` is 1 and `n_channels` is the run."""
    return x.stride == layer["in_channels"]


@cpu_kernel
def conv2d_forward(x, params, bias, layer, z):
    """The convolution of one image, bias included.

    Parameters
    ----------
    x : Map
        Of the input, from its first pixel on; zeros around it.
    params : (n_params,)
    bias : Matrix
        One row; zeros in front of batch norm.
    layer : LAYER
    z : Map (height, width, n_out)
        Overwritten, at least TILE_ROWS pixels a row.

    Notes
    -----
    Cost: 2 height width n_in n_out flop. Error: within 1e-5 of the largest output in float32.
    """
    k, channels, row = layer["kernel_size"], layer["in_channels"], layer["out_stride"]
    down, across = x.pitch * x.stride, x.stride
    if contiguous(x, layer):
        taps = Taps(k, 1, k * channels, down, 0, k * channels * row, 0)
    else:
        taps = Taps(k, k, channels, down, across, k * channels * row, channels * row)
    windows = every(pixel(x, -layer["padding"], -layer["padding"]), layer["stride"])
    weight = Matrix(params, layer["weight_start"], row)
    correlate(windows, taps, weight, bias, z, (layer["height"], layer["width"]), layer["n_out"])


# ---------------------------------------------------------------- gradient of the input


@cpu_kernel
def transpose_filters(params, layer, filters, start, team):
    """This worker's share of the transposed filters: for each tap a matrix (n_out, in_channels), both rounded up to a
    multiple of 16, pad columns zero, from `start` on in `filters`."""
    square, width = square_shape(params), lanes(params)
    channels, n_out = layer["in_channels"], layer["n_out"]
    stride, n_rows = padded(channels), padded(n_out)
    n_across = (channels + width - 1) // width
    n_down = (n_out + width - 1) // width
    n_taps = layer["kernel_size"] * layer["kernel_size"]
    first, last = share_of(n_taps * n_across * n_down, 1, team)
    for number in range(first, last):
        tap, rest = number // (n_across * n_down), number % (n_across * n_down)
        c, o = rest // n_down * width, rest % n_down * width
        source = layer["weight_start"] + (tap * channels + c) * layer["out_stride"] + o
        tile = tile_transpose(tile_load(square, params, source, layer["out_stride"]))
        target = start + (tap * n_rows + o) * stride + c
        tile_store(lanes_below(tile, channels - c, 0.0), filters, target, stride)


@cpu_kernel
def conv2d_backward(grad_z, zeros, start, layer, grad_x, size):
    """Gradient of a convolution's input: ``grad_x[h, w] = sum over the windows that hold (h, w) of grad_z @ weight.T``.

    With stride s the pixels (h, w) of one remainder by s meet the same taps: each of the s * s remainders is a product
    of its own.

    Parameters
    ----------
    grad_z : Map (height, width, n_out)
        From the first pixel on; zeros around it, `backward_border` pixels.
    zeros : Matrix
        One row of zeros, in place of a bias; its data hold the transposed filters, too.
    start : int
        Where they begin.
    layer : LAYER
    grad_x : Map (size[0], size[1], in_channels)
        Overwritten.
    size : (height, width)
        Of the input.

    Notes
    -----
    Cost: 2 height width n_in n_out flop.
    """
    k, s, n_out = layer["kernel_size"], layer["stride"], layer["n_out"]
    stride = padded(layer["in_channels"])
    tap = padded(n_out) * stride
    for h in range(min(s, size[0])):
        for w in range(min(s, size[1])):
            tap_h, tap_w = (h + layer["padding"]) % s, (w + layer["padding"]) % s  # the remainder's first tap
            n_down, n_across = (k - tap_h + s - 1) // s, (k - tap_w + s - 1) // s
            taps = Taps(
                max(0, n_down),
                max(0, n_across),
                n_out,
                -grad_z.pitch * grad_z.stride,
                -grad_z.stride,
                s * k * tap,
                s * tap,
            )
            windows = pixel(grad_z, (h + layer["padding"]) // s, (w + layer["padding"]) // s)
            weight = Matrix(zeros.data, start + (tap_h * k + tap_w) * tap, stride)
            remaining = (size[0] - h + s - 1) // s, (size[1] - w + s - 1) // s
            out = every(pixel(grad_x, h, w), s)
            correlate(windows, taps, weight, zeros, out, remaining, layer["in_channels"])


# ---------------------------------------------------------------- gradient of the filters


@cpu_inline
def filter_gradient_panel(tile_shape, x, grad_z, steps, size, sums):
    """``sums[r] = sum over pixels (h, w) of x[h, w, r] * grad_z[h, w]`` for the FILTER_ROWS inputs r of
    `tile_rank1_groups`.

    `steps` are the elements of x from row to row, from pixel to pixel and from group to group.
    """
    x_down, x_across, group = steps
    total = tile_zeros(tile_shape, grad_z.data)
    for h in range(size[0]):
        x_position = x.start + h * x_down
        z_position = grad_z.start + h * grad_z.pitch * grad_z.stride
        for w in range(size[1]):
            total = tile_rank1_groups(
                total, x.data, x_position + w * x_across, group, grad_z.data, z_position + w * grad_z.stride
            )
    tile_store(total, sums, 0, vectors_of(tile_shape) * lanes(sums))


@cpu_inline
def add_rows(sums, n_rows, n_vectors, grad):
    """Adds the first `n_rows` rows of `sums`, `n_vectors` wide, to a matrix."""
    vector, width = shape(1, 1), lanes(sums)
    for r in range(n_rows):
        for j in range(0, n_vectors * width, width):
            position = grad.start + r * grad.stride + j
            total = tile_load(vector, grad.data, position, 0)
            tile_store(total + tile_load(vector, sums, r * n_vectors * width + j, 0), grad.data, position, 0)


@cpu_kernel
def filter_gradient_rows(x, grad_z, steps, size, sums, grad, bounds):
    """Adds the first bounds[0] of FILTER_ROWS rows of a filter's gradient, bounds[1] columns wide, to `grad`."""
    n_vectors = (bounds[1] + lanes(sums) - 1) // lanes(sums)
    vector = 0
    while vector < n_vectors:
        column = vector * lanes(sums)
        g = Map(grad_z.data, grad_z.start + column, grad_z.pitch, grad_z.stride)
        width = min(panel_vectors(n_vectors - vector), FILTER_VECTORS)
        if width == 3:
            filter_gradient_panel(shape(FILTER_ROWS, 3), x, g, steps, size, sums)
        elif width == 2:
            filter_gradient_panel(shape(FILTER_ROWS, 2), x, g, steps, size, sums)
        else:
            filter_gradient_panel(shape(FILTER_ROWS, 1), x, g, steps, size, sums)
        add_rows(sums, bounds[0], width, panel(grad, column))
        vector += width


@cpu_kernel
def conv2d_filter_gradient(x, grad_z, layer, grads, sums):
    """Adds one image's part of the gradient: ``grad_weight[k] += sum over (h, w) of x[h, w, k] * grad_z[h, w]``.

    Parameters
    ----------
    x : Map
        Of the input, from its first pixel on; zeros around it.
    grad_z : Map (height, width, n_out)
        Pads zero.
    layer : LAYER
    grads : array
        Added to, at the layer's `weight_start`.
    sums : array
        Scratch of FILTER_ROWS * FILTER_VECTORS vectors.

    Notes
    -----
    Cost: 2 height width n_in n_out flop.
    """
    k, channels, row = layer["kernel_size"], layer["in_channels"], layer["out_stride"]
    size = layer["height"], layer["width"]
    corner = pixel(x, -layer["padding"], -layer["padding"])
    down, across = x.pitch * x.stride, x.stride
    if contiguous(x, layer) and k * channels == GROUP and k == FILTER_ROWS // GROUP:  # the whole filter is one tile
        steps = layer["stride"] * down, layer["stride"] * across, down
        grad = Matrix(grads, layer["weight_start"], row)
        bounds = np.int64(FILTER_ROWS), layer["n_out"]
        filter_gradient_rows(corner, grad_z, steps, size, sums, grad, bounds)
        return
    steps = layer["stride"] * down, layer["stride"] * across, np.int64(GROUP)
    n_across, run = (1, k * channels) if contiguous(x, layer) else (k, channels)
    for a in range(k):
        for b in range(n_across):
            for c in range(0, run, FILTER_ROWS):
                window = Map(x.data, corner.start + a * down + b * across + c, x.pitch, x.stride)
                grad = Matrix(grads, layer["weight_start"] + ((a * k + b) * channels + c) * row, row)
                bounds = min(FILTER_ROWS, run - c), layer["n_out"]
                filter_gradient_rows(window, grad_z, steps, size, sums, grad, bounds)
