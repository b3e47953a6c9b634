"""From a convolution's output to the layer's: batch norm's factors, skip, activation and max pooling in one pass; and
back. Poolings that stand alone.

A thread has four channels of a pixel, or of a window. Where max pooling is fused, the place of the largest value in its
window is kept as a byte, and the slope of the activation is that of the chosen value. Of equal values the first one
counts.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numba
import numpy as np
from numba import uint8, uint32

from ..network import Activation, LayerKind
from .conv_net import Maps, has_norm, has_pooling
from .intrinsics import load4, store4
from .jit import cuda, cuda_kernel, device_function
from .maths import maths
from .product import n_blocks
from .reductions import QUAD_THREADS, quad_block, quad_sums

THREADS = 128
FALLING = (Activation.GELU, Activation.SILU)  # of the others, the largest value belongs to the largest input


class Place(NamedTuple):
    """Where the gradient of a layer's input goes: to the slopes of that layer, or to what its readers leave to each
    other at the same positions."""

    slopes: Maps
    partials: object


@device_function
def pixel_position(maps, i, h, w):
    """Position of the first channel of pixel (h, w) of image i."""
    return uint32(maps.start + i * maps.size + (h * maps.pitch + w) * maps.stride)


@device_function
def place_of_thread(n_quads, height, width):
    """Image, row, column and first channel that this thread has, of maps of `height` x `width` pixels."""
    number = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
    pixel, channel = uint32(number // n_quads), uint32(number % n_quads) * uint32(4)
    row, w = uint32(pixel // width), uint32(pixel % width)
    return uint32(row // height), uint32(row % height), w, uint32(channel)


def _sizes(*sizes) -> tuple:
    return tuple(np.uint32(size) for size in sizes)


def add_pixels(queue, kernel, n_images, height, width, n_channels, *args):
    """Launch a kernel whose threads take four channels each, by `place_of_thread`."""
    n_quads = n_blocks(n_channels, 4)
    grid = n_blocks(n_images * int(height) * int(width) * n_quads, THREADS)
    queue.add(kernel, grid, THREADS, *args, _sizes(n_images, height, width, n_quads))


# ---------------------------------------------------------------- a gradient reaches the layer below


@functools.cache
def deliver_four(adds, leaves):
    """A device function: one reader's gradient of four channels of an input, at one position; see `deliver`."""

    @device_function
    def put(place, at, v0, v1, v2, v3):
        if adds:
            p0, p1, p2, p3 = load4(place.partials, at)
            v0, v1, v2, v3 = v0 + p0, v1 + p1, v2 + p2, v3 + p3
        if leaves:
            store4(place.partials, at, v0, v1, v2, v3)
        else:
            s0, s1, s2, s3 = load4(place.slopes.data, at)
            store4(place.slopes.data, at, v0 * s0, v1 * s1, v2 * s2, v3 * s3)

    return put


@functools.cache
def _deliver_kernel(adds, leaves):
    put = deliver_four(adds, leaves)

    @cuda_kernel(THREADS)
    def deliver(grad_x, place, sizes):
        n_images, height, width, n_quads = sizes
        i, h, w, channel = place_of_thread(n_quads, height, width)
        if i < n_images:
            v0, v1, v2, v3 = load4(grad_x.data, pixel_position(grad_x, i, h, w) + channel)
            put(place, pixel_position(place.slopes, i, h, w) + channel, v0, v1, v2, v3)

    return deliver


def deliver(queue, grad_x, place, adds, leaves, height, width, n_channels, n_images):
    """One reader's gradient of an input: ``slopes *= grad_x``, summed over all readers of the map.

    Readers come one after another. All but the first add (`adds`) what was left in `partials`; all but the last leave
    (`leaves`) the sum there.
    """
    kernel = _deliver_kernel(bool(adds), bool(leaves))
    add_pixels(queue, kernel, n_images, height, width, n_channels, grad_x, place)


# ---------------------------------------------------------------- behind a convolution


@functools.cache
def _activation_kernel(dtype, activation, normed, skips, pools, with_slopes):
    formulas = maths(dtype.name)
    activate, slope, fma = formulas.activate, formulas.activation_slope, formulas.fma
    falls = activation in FALLING

    @device_function
    def before_activation(value, z, norm, skip, i, h, w, channel):
        """Four values: ``z * factor + shift + skip``."""
        value[0], value[1], value[2], value[3] = load4(z.data, pixel_position(z, i, h, w) + channel)
        if normed:
            f0, f1, f2, f3 = load4(norm.data, norm.start + channel)
            s0, s1, s2, s3 = load4(norm.data, norm.start + norm.stride + channel)
            value[0], value[1] = fma(value[0], f0, s0), fma(value[1], f1, s1)
            value[2], value[3] = fma(value[2], f2, s2), fma(value[3], f3, s3)
        if skips:
            s0, s1, s2, s3 = load4(skip.data, pixel_position(skip, i, h, w) + channel)
            value[0], value[1], value[2], value[3] = value[0] + s0, value[1] + s1, value[2] + s2, value[3] + s3

    @cuda_kernel(THREADS)
    def activation_forward(z, norm, skip, y, slopes, codes, pool, sizes):
        best, other = cuda.local.array(4, dtype), cuda.local.array(4, dtype)
        highest, chosen = cuda.local.array(4, dtype), cuda.local.array(4, uint32)
        n_images, height, width, n_quads = sizes
        n_out, pool_height, pool_width = pool
        i, h, w, channel = place_of_thread(n_quads, height, width)
        if i < n_images:
            at = uint32(pixel_position(y, i, h, w) + channel)
            top, left = uint32(h * pool_height), uint32(w * pool_width)
            before_activation(best, z, norm, skip, i, top, left, channel)
            if pools:
                for e in range(4):
                    highest[e] = activate(activation, best[e]) if falls else best[e]
                    chosen[e] = uint32(0)
                for k in range(1, uint32(pool_height * pool_width)):
                    a, b = uint32(uint32(k) // pool_width), uint32(uint32(k) % pool_width)
                    before_activation(other, z, norm, skip, i, uint32(top + a), uint32(left + b), channel)
                    for e in range(4):
                        value = activate(activation, other[e]) if falls else other[e]
                        if value > highest[e]:
                            best[e], highest[e], chosen[e] = other[e], value, uint32(k)
                if with_slopes:
                    for e in range(4):
                        codes[at + uint32(e)] = uint8(chosen[e])
            for e in range(4):
                out = activate(activation, best[e])
                other[e] = slope(activation, best[e], out) if with_slopes else out
                best[e] = out if channel + uint32(e) < n_out else dtype(0)
            store4(y.data, at, best[0], best[1], best[2], best[3])
            if with_slopes:
                store4(slopes, at, other[0], other[1], other[2], other[3])

    return activation_forward


class Output(NamedTuple):
    """What a layer leaves: its output `y`; at the same positions the slopes of the activation (no elements: not wanted)
    and the `codes` of max pooling."""

    y: Maps
    slopes: object
    codes: object


def activation_forward(queue, z, norm, skip, layer, output, n_images):
    """``y = max over the window of activation(z * factor + shift + skip)`` for a batch.

    Parameters
    ----------
    z : Maps (height, width, n_out)
    norm : Matrix (2, n_out)
        Batch norm's factors and shifts; not read without batch norm.
    skip : Maps (height, width, n_out)
        Not read without a skip.
    layer : LAYER
    output : Output (out_height, out_width, n_out)
        Overwritten, pads of y with zero.
    """
    with_slopes = output.slopes.size > 0
    kernel = _activation_kernel(
        getattr(numba, z.data.dtype.name),
        int(layer["activation"]),
        bool(has_norm(layer)),
        bool(layer["skip"] >= 0),
        has_pooling(layer),
        with_slopes,
    )
    pool = _sizes(layer["n_out"], layer["pool_height"], layer["pool_width"])
    size = layer["out_height"], layer["out_width"], z.stride
    add_pixels(queue, kernel, n_images, *size, z, norm, skip, output.y, output.slopes, output.codes, pool)


@functools.cache
def _activation_gradient_kernel(dtype, pools):
    sums_of_quads, zero = quad_sums(dtype), dtype(0)

    @cuda_kernel(QUAD_THREADS)
    def activation_backward(grad, codes, grad_z, sums, window, sizes):
        i = uint32(cuda.blockIdx.x)
        channel = uint32(uint32(cuda.blockIdx.y) * uint32(cuda.blockDim.x) + uint32(cuda.threadIdx.x)) * uint32(4)
        height, width, border, pitch, n_pixels, n_channels = sizes
        pool_height, pool_width = window
        t0 = t1 = t2 = t3 = zero
        if channel < n_channels:
            first = uint32(grad_z.start + i * grad_z.size - border * (pitch + uint32(1)) * grad_z.stride)
            for pixel in range(cuda.threadIdx.y, n_pixels, cuda.blockDim.y):
                h, w = uint32(uint32(pixel) // pitch), uint32(uint32(pixel) % pitch)
                g0 = g1 = g2 = g3 = zero
                if h >= border and w >= border and h < border + height and w < border + width:
                    h, w = uint32(h - border), uint32(w - border)
                    at = pixel_position(grad, i, uint32(h // pool_height), uint32(w // pool_width)) + channel
                    g0, g1, g2, g3 = load4(grad.data, at)
                    if pools:
                        k = uint32((h % pool_height) * pool_width + w % pool_width)
                        g0 = g0 if codes[at] == k else zero
                        g1 = g1 if codes[at + uint32(1)] == k else zero
                        g2 = g2 if codes[at + uint32(2)] == k else zero
                        g3 = g3 if codes[at + uint32(3)] == k else zero
                t0, t1, t2, t3 = t0 + g0, t1 + g1, t2 + g2, t3 + g3
                store4(grad_z.data, uint32(first + uint32(pixel) * grad_z.stride + channel), g0, g1, g2, g3)
        t0, t1, t2, t3 = sums_of_quads(t0, t1, t2, t3)
        if cuda.threadIdx.y == 0 and channel < n_channels:
            store4(sums.data, uint32(sums.start + uint32(2) * i * sums.stride + channel), t0, t1, t2, t3)

    return activation_backward


def activation_backward(queue, grad, codes, layer, grad_z, sums, border, n_images):
    """Spreads the gradient of a batch's pooled output over the windows.

    Parameters
    ----------
    grad : Maps (out_height, out_width, n_out)
        Already multiplied by the slopes.
    codes : uint8 vector
        At the positions of `grad`.
    layer : LAYER
    grad_z : Maps (height, width, n_out)
        Overwritten, and `border` pixels around each image with zero.
    sums : Matrix (2 n_images, n_out)
        Row 2 i is overwritten with the sum of each channel of image i.
    """
    kernel = _activation_gradient_kernel(getattr(numba, grad.data.dtype.name), has_pooling(layer))
    height, width = (int(layer[name]) for name in ("height", "width"))
    pool = int(layer["pool_height"]), int(layer["pool_width"])
    covered = int(layer["out_height"]) * pool[0], int(layer["out_width"]) * pool[1]
    pitch = width + 2 * border
    sizes = _sizes(*covered, border, pitch, (height + 2 * border) * pitch, grad_z.stride)
    block = quad_block(grad_z.stride)
    grid = n_images, n_blocks(grad_z.stride, 4 * block[0])
    queue.add(kernel, grid, block, grad, codes, grad_z, sums, _sizes(*pool), sizes)


# ---------------------------------------------------------------- poolings that are layers of their own


@functools.cache
def _pool_kernel(dtype, is_max, with_slopes):
    one = dtype(1)

    @cuda_kernel(THREADS)
    def pool_forward(x, y, slopes, share, window, sizes):
        n_images, height, width, n_quads = sizes
        pool_height, pool_width = window
        i, h, w, channel = place_of_thread(n_quads, height, width)
        if i < n_images:
            top, left = uint32(h * pool_height), uint32(w * pool_width)
            t0, t1, t2, t3 = load4(x.data, pixel_position(x, i, top, left) + channel)
            for k in range(1, uint32(pool_height * pool_width)):
                a, b = uint32(uint32(k) // pool_width), uint32(uint32(k) % pool_width)
                v0, v1, v2, v3 = load4(x.data, pixel_position(x, i, uint32(top + a), uint32(left + b)) + channel)
                if is_max:
                    t0, t1, t2, t3 = max(t0, v0), max(t1, v1), max(t2, v2), max(t3, v3)
                else:
                    t0, t1, t2, t3 = t0 + v0, t1 + v1, t2 + v2, t3 + v3
            if not is_max:
                t0, t1, t2, t3 = t0 * share, t1 * share, t2 * share, t3 * share
            at = uint32(pixel_position(y, i, h, w) + channel)
            store4(y.data, at, t0, t1, t2, t3)
            if with_slopes:
                store4(slopes, at, one, one, one, one)

    return pool_forward


def _window_of(layer, dtype):
    """What a pooling's kernel reads: one over the window's size, and its sides."""
    window = int(layer["pool_height"]), int(layer["pool_width"])
    return dtype.type(1.0 / (window[0] * window[1])), _sizes(*window)


def pool_forward(queue, x, layer, output, n_images):
    """Max or mean of each window of a batch; the slopes are one."""
    dtype, is_max = x.data.dtype, bool(layer["kind"] == LayerKind.MAX_POOL)
    kernel = _pool_kernel(getattr(numba, dtype.name), is_max, output.slopes.size > 0)
    size = layer["out_height"], layer["out_width"], output.y.stride
    add_pixels(queue, kernel, n_images, *size, x, output.y, output.slopes, *_window_of(layer, dtype))


@functools.cache
def _pool_gradient_kernel(dtype, is_max, adds, leaves):
    put, zero = deliver_four(adds, leaves), dtype(0)

    @device_function
    def taken(g, top, value):
        """What a pixel takes of the rest `g` of its window's gradient: all, if it is the first of the largest value."""
        return g if is_max and value >= top else zero

    @cuda_kernel(THREADS)
    def pool_backward(x, y, grad, place, share, window, whole, sizes):
        n_images, down, across, n_quads = sizes
        pool_height, pool_width = window
        height, width, out_height, out_width = whole
        i, h, w, channel = place_of_thread(n_quads, down, across)
        if i < n_images:
            g0 = g1 = g2 = g3 = t0 = t1 = t2 = t3 = zero
            if h < out_height and w < out_width:  # else a part of a window, which gets nothing
                g0, g1, g2, g3 = load4(grad.data, pixel_position(grad, i, h, w) + channel)
                t0, t1, t2, t3 = load4(y.data, pixel_position(y, i, h, w) + channel)
            for a in range(uint32(h * pool_height), min(height, uint32((h + uint32(1)) * pool_height))):
                for b in range(uint32(w * pool_width), min(width, uint32((w + uint32(1)) * pool_width))):
                    v0, v1, v2, v3 = g0 * share, g1 * share, g2 * share, g3 * share
                    if is_max:
                        x0, x1, x2, x3 = load4(x.data, pixel_position(x, i, uint32(a), uint32(b)) + channel)
                        v0, v1, v2, v3 = taken(g0, t0, x0), taken(g1, t1, x1), taken(g2, t2, x2), taken(g3, t3, x3)
                        g0 = zero if x0 >= t0 else g0
                        g1 = zero if x1 >= t1 else g1
                        g2 = zero if x2 >= t2 else g2
                        g3 = zero if x3 >= t3 else g3
                    put(place, pixel_position(place.slopes, i, uint32(a), uint32(b)) + channel, v0, v1, v2, v3)

    return pool_backward


def pool_backward(queue, x, y, grad, layer, grad_x, n_images):
    """Gradient of the input of `pool_forward`: to the first largest value of a window, or to all alike.

    Parameters
    ----------
    x, y : Maps
        Input and output of the forward pass.
    grad : Maps (out_height, out_width, n_out)
    layer : LAYER
    grad_x : Place
        Overwritten or added to, as `deliver` does.
    """
    dtype, is_max = x.data.dtype, bool(layer["kind"] == LayerKind.MAX_POOL)
    adds, leaves = bool(layer["input_adds"]), bool(layer["input_leaves"])
    kernel = _pool_gradient_kernel(getattr(numba, dtype.name), is_max, adds, leaves)
    height, width = int(layer["height"]), int(layer["width"])
    share, window = _window_of(layer, dtype)
    whole = _sizes(height, width, layer["out_height"], layer["out_width"])
    size = n_blocks(height, int(window[0])), n_blocks(width, int(window[1])), grad.stride
    add_pixels(queue, kernel, n_images, *size, x, y, grad, grad_x, share, window, whole)


# ---------------------------------------------------------------- to and from the dense layers


@functools.cache
def _flatten_kernel(dtype, with_slopes):
    one = dtype(1)

    @cuda_kernel(THREADS)
    def flatten_forward(x, y, slopes, n_channels, sizes):
        n_images, height, width, n_quads = sizes
        i, h, w, channel = place_of_thread(n_quads, height, width)
        if i < n_images:
            source = pixel_position(x, i, h, w)
            target = uint32(y.start + i * y.size + (h * width + w) * n_channels)
            for c in range(channel, min(n_channels, uint32(channel + uint32(4)))):
                y.data[target + uint32(c)] = x.data[source + uint32(c)]
                if with_slopes:
                    slopes[target + uint32(c)] = one

    return flatten_forward


def flatten_forward(queue, x, source, output, n_images):
    """The pixels of a batch without pads, as rows of the dense layers' input; the slopes are one.

    `source` : LAYER, whose output is x.
    """
    kernel = _flatten_kernel(getattr(numba, x.data.dtype.name), output.slopes.size > 0)
    n = source["n_out"]
    size = source["out_height"], source["out_width"], n
    add_pixels(queue, kernel, n_images, *size, x, output.y, output.slopes, np.uint32(n))


@functools.cache
def _flatten_gradient_kernel(dtype, adds, leaves):
    put, zero = deliver_four(adds, leaves), dtype(0)

    @cuda_kernel(THREADS)
    def flatten_backward(grad, place, n_channels, sizes):
        n_images, height, width, n_quads = sizes
        i, h, w, channel = place_of_thread(n_quads, height, width)
        if i < n_images:
            at = uint32(grad.start + i * grad.size + (h * width + w) * n_channels + channel)
            v0 = grad.data[at] if channel < n_channels else zero
            v1 = grad.data[at + uint32(1)] if channel + uint32(1) < n_channels else zero
            v2 = grad.data[at + uint32(2)] if channel + uint32(2) < n_channels else zero
            v3 = grad.data[at + uint32(3)] if channel + uint32(3) < n_channels else zero
            put(place, pixel_position(place.slopes, i, h, w) + channel, v0, v1, v2, v3)

    return flatten_backward


def flatten_backward(queue, grad, source, grad_x, layer, n_images):
    """Gradient of the input of `flatten_forward`; its pads are zero.

    `layer` : LAYER, that of the flattening.
    """
    adds, leaves = bool(layer["input_adds"]), bool(layer["input_leaves"])
    kernel = _flatten_gradient_kernel(getattr(numba, grad.data.dtype.name), adds, leaves)
    n = source["n_out"]
    size = source["out_height"], source["out_width"], grad_x.slopes.stride
    add_pixels(queue, kernel, n_images, *size, grad, grad_x, np.uint32(n))
