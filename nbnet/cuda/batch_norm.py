"""Batch norm: ``y = scale * (z - mean) / sqrt(variance + EPSILON) + offset``, channel by channel.

As on the CPU each image's sums are taken apart and put together in a fixed order. A block has an image and some
channels, a thread four channels and every so many pixels.
"""

from __future__ import annotations

import functools

import numba
import numpy as np
from numba import uint32

from ..cpu.batch_norm import EPSILON, MOMENTUM
from ..network import round_up
from .intrinsics import load4, store4
from .jit import cuda, cuda_kernel, device_function
from .maths import maths
from .pooling import THREADS, add_pixels, pixel_position, place_of_thread
from .product import n_blocks
from .reductions import QUAD_THREADS, quad_block, quad_sums

CHANNELS = 128  # threads of a block that has channels only


@device_function
def _own_channel():
    """First of the four channels of a thread that sums."""
    return uint32(uint32(cuda.blockIdx.y) * uint32(cuda.blockDim.x) + uint32(cuda.threadIdx.x)) * uint32(4)


def _add_sums(queue, kernel, n_images, n_channels, *args):
    """Launch a kernel with a block for each image and each part of the channels."""
    block = quad_block(n_channels)
    queue.add(kernel, (n_images, n_blocks(n_channels, 4 * block[0])), block, *args)


@functools.cache
def _image_statistics_kernel(dtype):
    sums_of_quads, zero = quad_sums(dtype), dtype(0)

    @cuda_kernel(QUAD_THREADS)
    def image_statistics(z, moments, n_pixels, share):
        i, channel = uint32(cuda.blockIdx.x), uint32(_own_channel())
        start = uint32(z.start + i * z.size + channel)
        t0 = t1 = t2 = t3 = zero
        if channel < z.stride:
            for pixel in range(cuda.threadIdx.y, n_pixels, cuda.blockDim.y):
                v0, v1, v2, v3 = load4(z.data, start + uint32(pixel) * z.stride)
                t0, t1, t2, t3 = t0 + v0, t1 + v1, t2 + v2, t3 + v3
        t0, t1, t2, t3 = sums_of_quads(t0, t1, t2, t3)
        m0, m1, m2, m3 = t0 * share, t1 * share, t2 * share, t3 * share
        t0 = t1 = t2 = t3 = zero
        if channel < z.stride:
            for pixel in range(cuda.threadIdx.y, n_pixels, cuda.blockDim.y):
                v0, v1, v2, v3 = load4(z.data, start + uint32(pixel) * z.stride)
                v0, v1, v2, v3 = v0 - m0, v1 - m1, v2 - m2, v3 - m3
                t0, t1, t2, t3 = t0 + v0 * v0, t1 + v1 * v1, t2 + v2 * v2, t3 + v3 * v3
        t0, t1, t2, t3 = sums_of_quads(t0, t1, t2, t3)
        if cuda.threadIdx.y == 0 and channel < z.stride:
            at = uint32(moments.start + uint32(2) * i * moments.stride + channel)
            store4(moments.data, at, m0, m1, m2, m3)
            store4(moments.data, uint32(at + moments.stride), t0 * share, t1 * share, t2 * share, t3 * share)

    return image_statistics


def image_statistics(queue, z, layer, moments, n_images):
    """Mean over the pixels of each image and the mean squared distance from it, in two passes: no digits are lost where
    the mean is large.

    Parameters
    ----------
    z : Maps (height, width, n_out)
    moments : Matrix (2 n_images, n_out)
        Overwritten.
    """
    dtype, n_pixels = z.data.dtype, int(layer["height"] * layer["width"])
    kernel = _image_statistics_kernel(getattr(numba, dtype.name))
    _add_sums(queue, kernel, n_images, z.stride, z, moments, np.uint32(n_pixels), dtype.type(1.0 / n_pixels))


@functools.cache
def _batch_statistics_kernel(dtype):
    sums_of_quads, zero = quad_sums(dtype), dtype(0)

    @cuda_kernel(QUAD_THREADS)
    def batch_statistics(moments, weights, params, state_start, statistics, sizes):
        n_images, n_channels = sizes
        channel = uint32(_own_channel())
        inside = channel < n_channels
        t0 = t1 = t2 = t3 = zero
        if inside:
            for i in range(cuda.threadIdx.y, n_images, cuda.blockDim.y):
                m0, m1, m2, m3 = load4(moments.data, moments.start + uint32(2 * i) * moments.stride + channel)
                share = weights.shares[i]
                t0, t1, t2, t3 = t0 + m0 * share, t1 + m1 * share, t2 + m2 * share, t3 + m3 * share
        m0, m1, m2, m3 = sums_of_quads(t0, t1, t2, t3)
        t0 = t1 = t2 = t3 = zero
        if inside:
            for i in range(cuda.threadIdx.y, n_images, cuda.blockDim.y):
                at = uint32(moments.start + uint32(2 * i) * moments.stride + channel)
                g0, g1, g2, g3 = load4(moments.data, at)
                g0, g1, g2, g3 = g0 - m0, g1 - m1, g2 - m2, g3 - m3
                s0, s1, s2, s3 = load4(moments.data, uint32(at + moments.stride))
                share = weights.shares[i]
                t0, t1 = t0 + (s0 + g0 * g0) * share, t1 + (s1 + g1 * g1) * share
                t2, t3 = t2 + (s2 + g2 * g2) * share, t3 + (s3 + g3 * g3) * share
        t0, t1, t2, t3 = sums_of_quads(t0, t1, t2, t3)
        if cuda.threadIdx.y == 0 and inside:
            if weights.running[0] > 0:
                m0, m1, m2, m3 = load4(params, state_start + channel)
                t0, t1, t2, t3 = load4(params, state_start + statistics.stride + channel)
            store4(statistics.data, statistics.start + channel, m0, m1, m2, m3)
            store4(statistics.data, statistics.start + statistics.stride + channel, t0, t1, t2, t3)

    return batch_statistics


def batch_statistics(queue, moments, weights, params, layer, statistics, n_images):
    """Mean and variance of a batch from those of its images; the running ones, where these count.

    Parameters
    ----------
    moments : Matrix (2 n_images, n_out)
        Row 2 i and 2 i + 1: of image i; see `image_statistics`.
    weights : Weights
    params : (n_params,)
    layer : LAYER
    statistics : Matrix (2, n_out)
        Overwritten.
    """
    kernel, n_channels = _batch_statistics_kernel(getattr(numba, params.dtype.name)), round_up(int(layer["n_out"]))
    sizes, start = (np.uint32(n_images), np.uint32(n_channels)), np.uint32(layer["state_start"])
    _add_sums(queue, kernel, 1, n_channels, moments, weights, params, start, statistics, sizes)


def _add_channels(queue, kernel, layer, *args):
    """Launch a kernel with a thread for each channel, the layer's pads to the next multiple of 16 included."""
    n_channels = round_up(int(layer["n_out"]))
    queue.add(kernel, n_blocks(n_channels, CHANNELS), CHANNELS, *args, np.uint32(n_channels))


@functools.cache
def _running_kernel(dtype):
    momentum, fma = dtype(MOMENTUM), maths(dtype.name).fma

    @cuda_kernel(CHANNELS)
    def move_running_statistics(params, state_start, statistics, n_channels):
        c = uint32(uint32(cuda.blockIdx.x) * uint32(CHANNELS) + uint32(cuda.threadIdx.x))
        if c < n_channels:
            for row in range(2):
                at = uint32(uint32(row) * statistics.stride + c)
                moved = params[state_start + at]
                params[state_start + at] = fma(statistics.data[statistics.start + at] - moved, momentum, moved)

    return move_running_statistics


def move_running_statistics(queue, params, layer, statistics):
    """``running += MOMENTUM * (batch - running)`` for mean and variance; those that count themselves stay as they
    are."""
    kernel = _running_kernel(getattr(numba, params.dtype.name))
    _add_channels(queue, kernel, layer, params, np.uint32(layer["state_start"]), statistics)


@functools.cache
def _factors_kernel(dtype):
    square_root, one, epsilon = maths(dtype.name).square_root, dtype(1), dtype(EPSILON)

    @cuda_kernel(CHANNELS)
    def norm_factors(params, starts, statistics, norm, n_channels):
        c = uint32(uint32(cuda.blockIdx.x) * uint32(CHANNELS) + uint32(cuda.threadIdx.x))
        if c < n_channels:
            mean, at = statistics.data[statistics.start + c], uint32(statistics.start + statistics.stride + c)
            inverse = one / square_root(statistics.data[at] + epsilon)
            statistics.data[at] = inverse
            factor = params[starts[0] + c] * inverse
            norm.data[norm.start + c] = factor
            norm.data[norm.start + norm.stride + c] = params[starts[1] + c] - mean * factor

    return norm_factors


def norm_factors(queue, params, layer, statistics, norm):
    """Factors and shifts with which batch norm is ``z * factor + shift``.

    Parameters
    ----------
    statistics : Matrix (2, n_out)
        Mean and variance; the latter becomes one over the deviation, which the backward pass wants.
    norm : Matrix (2, n_out)
        Overwritten; pads zero.
    """
    starts = np.uint32(layer["scale_start"]), np.uint32(layer["bias_start"])
    _add_channels(queue, _factors_kernel(getattr(numba, params.dtype.name)), layer, params, starts, statistics, norm)


@functools.cache
def _gradient_sums_kernel(dtype):
    sums_of_quads, zero = quad_sums(dtype), dtype(0)

    @cuda_kernel(QUAD_THREADS)
    def image_gradient_sums(grad, z, statistics, sums, n_pixels):
        i, channel = uint32(cuda.blockIdx.x), uint32(_own_channel())
        inside = channel < z.stride
        t0 = t1 = t2 = t3 = zero
        if inside:
            m0, m1, m2, m3 = load4(statistics.data, statistics.start + channel)
            for pixel in range(cuda.threadIdx.y, n_pixels, cuda.blockDim.y):
                h, w = uint32(uint32(pixel) // z.pitch), uint32(uint32(pixel) % z.pitch)
                v0, v1, v2, v3 = load4(z.data, pixel_position(z, i, h, w) + channel)
                g0, g1, g2, g3 = load4(grad.data, pixel_position(grad, i, h, w) + channel)
                t0, t1, t2, t3 = t0 + (v0 - m0) * g0, t1 + (v1 - m1) * g1, t2 + (v2 - m2) * g2, t3 + (v3 - m3) * g3
        t0, t1, t2, t3 = sums_of_quads(t0, t1, t2, t3)
        if cuda.threadIdx.y == 0 and inside:
            s0, s1, s2, s3 = load4(statistics.data, statistics.start + statistics.stride + channel)
            at = uint32(sums.start + uint32(uint32(2) * i + uint32(1)) * sums.stride + channel)
            store4(sums.data, at, t0 * s0, t1 * s1, t2 * s2, t3 * s3)

    return image_gradient_sums


def image_gradient_sums(queue, grad, z, statistics, layer, sums, n_images):
    """Sums over an image's pixels that batch norm's gradient needs: row 1 of `sums` of the gradient times the
    normalized z; row 0, of the gradient alone, is there already (`activation_backward`). Of image i these are the rows
    2 i + 1 and 2 i."""
    kernel, n_pixels = _gradient_sums_kernel(getattr(numba, z.data.dtype.name)), layer["height"] * layer["width"]
    _add_sums(queue, kernel, n_images, z.stride, grad, z, statistics, sums, np.uint32(n_pixels))


@functools.cache
def _sum_images_kernel(dtype):
    sums_of_quads, zero = quad_sums(dtype), dtype(0)

    @cuda_kernel(QUAD_THREADS)
    def sum_images(sums, row, n_images, n_channels, total):
        channel = uint32(_own_channel())
        t0 = t1 = t2 = t3 = zero
        if channel < n_channels:
            for i in range(cuda.threadIdx.y, n_images, cuda.blockDim.y):
                at = sums.start + uint32(uint32(2 * i) + row) * sums.stride + channel
                v0, v1, v2, v3 = load4(sums.data, at)
                t0, t1, t2, t3 = t0 + v0, t1 + v1, t2 + v2, t3 + v3
        t0, t1, t2, t3 = sums_of_quads(t0, t1, t2, t3)
        if cuda.threadIdx.y == 0 and channel < n_channels:
            store4(total.data, total.start + channel, t0, t1, t2, t3)

    return sum_images


def sum_images(queue, sums, row, n_images, n_out, total):
    """``total = sum over images i of sums[2 i + row]``, in a fixed order; one row of n_out."""
    kernel = _sum_images_kernel(getattr(numba, total.data.dtype.name))
    args = sums, np.uint32(row), np.uint32(n_images), np.uint32(n_out), total
    _add_sums(queue, kernel, 1, n_out, *args)


@functools.cache
def _norm_gradient_kernel(dtype):
    @device_function
    def through(g, z, mean, inverse, scale, along, common, share):
        """One value of the gradient of z."""
        return scale * inverse * (g - share * (common + (z - mean) * inverse * along))

    @cuda_kernel(THREADS)
    def batch_norm_backward(grad, z, statistics, totals, shares, params, scale_start, sizes):
        n_images, height, width, n_quads = sizes
        i, h, w, channel = place_of_thread(n_quads, height, width)
        if i < n_images:
            share = shares[i] / dtype(uint32(height * width))
            at = uint32(pixel_position(grad, i, h, w) + channel)
            g0, g1, g2, g3 = load4(grad.data, at)
            z0, z1, z2, z3 = load4(z.data, pixel_position(z, i, h, w) + channel)
            m0, m1, m2, m3 = load4(statistics.data, statistics.start + channel)
            i0, i1, i2, i3 = load4(statistics.data, statistics.start + statistics.stride + channel)
            f0, f1, f2, f3 = load4(params, scale_start + channel)
            a0, a1, a2, a3 = load4(totals.data, totals.start + channel)
            c0, c1, c2, c3 = load4(totals.data, totals.start + totals.stride + channel)
            g0, g1 = through(g0, z0, m0, i0, f0, a0, c0, share), through(g1, z1, m1, i1, f1, a1, c1, share)
            g2, g3 = through(g2, z2, m2, i2, f2, a2, c2, share), through(g3, z3, m3, i3, f3, a3, c3, share)
            store4(grad.data, at, g0, g1, g2, g3)

    return batch_norm_backward


def batch_norm_backward(queue, grad, z, statistics, totals, shares, params_layer, n_images):
    """The gradient of batch norm's input, in place of that of its output.

    ``grad = factor * (grad - share * (totals[1] + normalized z * totals[0]))`` with ``factor = scale / sqrt(variance +
    EPSILON)``; `share` is the image's part in the statistics, a pixel: zero where they are the running ones.

    Parameters
    ----------
    grad, z : Maps (height, width, n_out)
    statistics : Matrix (2, n_out)
        Of the batch; see `norm_factors`.
    totals : Matrix (2, n_out)
        The gradients of scale and offset.
    shares : (n_images,)
        Of `Weights`.
    params_layer : ((n_params,), LAYER)
    """
    params, layer = params_layer
    kernel, start = _norm_gradient_kernel(getattr(numba, params.dtype.name)), np.uint32(layer["scale_start"])
    size = layer["height"], layer["width"], z.stride
    add_pixels(queue, kernel, n_images, *size, grad, z, statistics, totals, shares, params, start)
