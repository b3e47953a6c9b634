"""Batch norm: ``y = scale * (z - mean) / sqrt(variance + EPSILON) + offset``, channel by channel.

Mean and variance are those of the batch's pixels, an image counting by its sample weight; in prediction, and in a batch
where at most one row has a weight, they are running averages. Each image's sums are taken while it is in the cache and
kept apart; the batch's are put together from them in the order of the images, so they do not depend on who computed
them.

Source: Ioffe, Szegedy, Batch normalization, 2015, algorithms 1 and 2; Chan, Golub, LeVeque, Updating formulae and a
pairwise algorithm for computing sample variances, 1979, for means and squares of parts.
"""

from __future__ import annotations

from .. import scalar
from ..jit import cpu_inline, cpu_kernel
from .pooling import position_of
from .simd import lanes, lanes_below, shape, tile_load, tile_store, tile_zeros

EPSILON = 1e-5
MOMENTUM = 0.1  # share of a batch's statistics in the running ones


@cpu_inline
def add_to(sums, position, value):
    """``sums[position:] += value``, one vector."""
    tile_store(tile_load(shape(1, 1), sums, position, 0) + value, sums, position, 0)


@cpu_kernel
def image_statistics(z, layer, moments):
    """Mean over the pixels of one image and the mean squared distance from it, in two passes: no digits are lost where
    the mean is large.

    Parameters
    ----------
    z : Map (height, width, n_out)
    moments : Matrix (2, n_out)
        Overwritten.
    """
    vector, width = shape(1, 1), lanes(z.data)
    share = 1.0 / (layer["height"] * layer["width"])
    for c in range(0, layer["n_out"], width):
        mean, square = moments.start + c, moments.start + moments.stride + c
        tile_store(tile_zeros(vector, z.data), moments.data, mean, 0)
        tile_store(tile_zeros(vector, z.data), moments.data, square, 0)
    for h in range(layer["height"]):
        for w in range(layer["width"]):
            for c in range(0, layer["n_out"], width):
                add_to(moments.data, moments.start + c, tile_load(vector, z.data, position_of(z, h, w, c), 0))
    for c in range(0, layer["n_out"], width):
        mean = moments.start + c
        tile_store(tile_load(vector, moments.data, mean, 0) * share, moments.data, mean, 0)
    for h in range(layer["height"]):
        for w in range(layer["width"]):
            for c in range(0, layer["n_out"], width):
                gap = tile_load(vector, z.data, position_of(z, h, w, c), 0)
                gap = gap - tile_load(vector, moments.data, moments.start + c, 0)
                add_to(moments.data, moments.start + moments.stride + c, gap * gap * share)


@cpu_kernel
def batch_statistics(moments, weights, layer, statistics):
    """Mean and variance of a batch from those of its images.

    Parameters
    ----------
    moments : Matrix (2 n_images, n_out)
        Row 2 i and 2 i + 1: of image i; see `image_statistics`.
    weights : (n_images,)
        With the sum one.
    statistics : Matrix (2, n_out)
        Overwritten.
    """
    vector, width = shape(1, 1), lanes(moments.data)
    for c in range(0, layer["n_out"], width):
        mean = tile_zeros(vector, moments.data)
        for i in range(weights.size):
            image = tile_load(vector, moments.data, moments.start + 2 * i * moments.stride + c, 0)
            mean = mean + image * weights[i]
        variance = tile_zeros(vector, moments.data)
        for i in range(weights.size):
            position = moments.start + 2 * i * moments.stride + c
            gap = tile_load(vector, moments.data, position, 0) - mean
            square = tile_load(vector, moments.data, position + moments.stride, 0)
            variance = variance + scalar.fma(gap, gap, square) * weights[i]
        tile_store(mean, statistics.data, statistics.start + c, 0)
        tile_store(variance, statistics.data, statistics.start + statistics.stride + c, 0)


@cpu_kernel
def move_running_statistics(params, layer, statistics):
    """``running += MOMENTUM * (batch - running)`` for mean and variance."""
    vector = shape(1, 1)
    for row in range(2):
        for c in range(0, layer["n_out"], lanes(params)):
            position = layer["state_start"] + row * layer["out_stride"] + c
            running = tile_load(vector, params, position, 0)
            batch = tile_load(vector, statistics.data, statistics.start + row * statistics.stride + c, 0)
            moved = scalar.fma(batch - running, MOMENTUM, running)
            tile_store(lanes_below(moved, layer["n_out"] - c, 0.0), params, position, 0)


@cpu_kernel
def norm_factors(params, layer, statistics, norm):
    """Factors and shifts with which batch norm is ``z * factor + shift``.

    Parameters
    ----------
    statistics : Matrix (2, n_out)
        Mean and variance.
    norm : Matrix (2, n_out)
        Overwritten; pads zero.
    """
    vector = shape(1, 1)
    for c in range(0, layer["n_out"], lanes(params)):
        mean = tile_load(vector, statistics.data, statistics.start + c, 0)
        variance = tile_load(vector, statistics.data, statistics.start + statistics.stride + c, 0)
        scale = tile_load(vector, params, layer["scale_start"] + c, 0)
        factor = scale / scalar.square_root(variance + EPSILON)
        shift = tile_load(vector, params, layer["bias_start"] + c, 0) - mean * factor
        tile_store(factor, norm.data, norm.start + c, 0)
        tile_store(shift, norm.data, norm.start + norm.stride + c, 0)


@cpu_inline
def normalized(z, statistics, h, w, c):
    """One vector of ``(z - mean) / sqrt(variance + EPSILON)``."""
    vector = shape(1, 1)
    mean = tile_load(vector, statistics.data, statistics.start + c, 0)
    variance = tile_load(vector, statistics.data, statistics.start + statistics.stride + c, 0)
    return (tile_load(vector, z.data, position_of(z, h, w, c), 0) - mean) / scalar.square_root(variance + EPSILON)


@cpu_kernel
def image_gradient_sums(grad, z, statistics, layer, sums):
    """Row 1 of `sums`: the sum over one image's pixels of the gradient times the normalized z; row 0, the sum of the
    gradient alone, is there already (`activation_backward`)."""
    vector, width = shape(1, 1), lanes(z.data)
    start = sums.start + sums.stride
    for c in range(0, layer["n_out"], width):
        tile_store(tile_zeros(vector, z.data), sums.data, start + c, 0)
    for h in range(layer["height"]):
        for w in range(layer["width"]):
            for c in range(0, layer["n_out"], width):
                g = tile_load(vector, grad.data, position_of(grad, h, w, c), 0)
                add_to(sums.data, start + c, g * normalized(z, statistics, h, w, c))


@cpu_kernel
def sum_images(sums, row, n_images, n_out, total):
    """``total = sum over images i of sums[2 i + row]``, in order; one row of n_out."""
    vector = shape(1, 1)
    for c in range(0, n_out, lanes(sums.data)):
        value = tile_zeros(vector, sums.data)
        for i in range(n_images):
            value = value + tile_load(vector, sums.data, sums.start + (2 * i + row) * sums.stride + c, 0)
        tile_store(value, total.data, total.start + c, 0)


@cpu_kernel
def batch_norm_backward(grad, z, statistics, totals, share, params_layer):
    """The gradient of batch norm's input, in place of that of its output.

    ``grad = factor * (grad - share * (totals[0] + normalized z * totals[1]))`` with ``factor = scale / sqrt(variance +
    EPSILON)``; `share` is the image's part in the statistics, a pixel: zero where they are the running ones.

    Parameters
    ----------
    grad, z : Map (height, width, n_out)
    statistics, totals : Matrix (2, n_out)
        Of the batch; see `image_gradient_sums`.
    share : float
    params_layer : ((n_params,), LAYER)
    """
    params, layer = params_layer
    vector, width = shape(1, 1), lanes(z.data)
    for h in range(layer["height"]):
        for w in range(layer["width"]):
            for c in range(0, layer["n_out"], width):
                variance = tile_load(vector, statistics.data, statistics.start + statistics.stride + c, 0)
                scale = tile_load(vector, params, layer["scale_start"] + c, 0)
                factor = scale / scalar.square_root(variance + EPSILON)
                position = position_of(grad, h, w, c)
                g = tile_load(vector, grad.data, position, 0)
                common = tile_load(vector, totals.data, totals.start + c, 0)
                along = tile_load(vector, totals.data, totals.start + totals.stride + c, 0)
                common = scalar.fma(normalized(z, statistics, h, w, c), along, common)
                tile_store(factor * (g - common * share), grad.data, position, 0)
