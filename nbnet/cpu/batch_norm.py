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
from .simd_grid import tile_rows_sum

EPSILON = 1e-5
SIDE_BY_SIDE = 4  # pixels
MOMENTUM = 0.1  # share of a batch's statistics in the running ones


@cpu_inline
def mean_of_channel(z, layer, c, moments, share, squares):
    """One vector: the mean over an image's pixels of z, or of its squared distance from the mean in `moments`.

    SIDE_BY_SIDE pixels are summed apart, as a sum alone waits for the addition before.
    """
    vector, several = shape(1, 1), shape(SIDE_BY_SIDE, 1)
    mean = tile_load(vector, moments.data, moments.start + c, 0)
    means = tile_load(several, moments.data, moments.start + c, 0)
    total, totals = tile_zeros(vector, z.data), tile_zeros(several, z.data)
    whole = layer["width"] // SIDE_BY_SIDE * SIDE_BY_SIDE
    for h in range(layer["height"]):
        for w in range(0, whole, SIDE_BY_SIDE):
            values = tile_load(several, z.data, position_of(z, h, w, c), z.stride)
            if squares:
                values = values - means
                values = values * values
            totals = totals + values
        for w in range(whole, layer["width"]):
            value = tile_load(vector, z.data, position_of(z, h, w, c), 0)
            if squares:
                value = value - mean
                value = value * value
            total = total + value
    return (total + tile_rows_sum(totals)) * share


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
    share = 1.0 / (layer["height"] * layer["width"])
    for c in range(0, layer["n_out"], lanes(z.data)):
        mean = mean_of_channel(z, layer, c, moments, share, False)
        tile_store(mean, moments.data, moments.start + c, 0)
        square = mean_of_channel(z, layer, c, moments, share, True)
        tile_store(square, moments.data, moments.start + moments.stride + c, 0)


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
        Mean and variance; the latter becomes one over the deviation, which the backward pass wants.
    norm : Matrix (2, n_out)
        Overwritten; pads zero.
    """
    vector = shape(1, 1)
    for c in range(0, layer["n_out"], lanes(params)):
        mean = tile_load(vector, statistics.data, statistics.start + c, 0)
        position = statistics.start + statistics.stride + c
        inverse = 1.0 / scalar.square_root(tile_load(vector, statistics.data, position, 0) + EPSILON)
        tile_store(inverse, statistics.data, position, 0)
        factor = tile_load(vector, params, layer["scale_start"] + c, 0) * inverse
        shift = tile_load(vector, params, layer["bias_start"] + c, 0) - mean * factor
        tile_store(factor, norm.data, norm.start + c, 0)
        tile_store(shift, norm.data, norm.start + norm.stride + c, 0)


@cpu_kernel
def image_gradient_sums(grad, z, statistics, layer, sums):
    """Sums over an image's pixels that batch norm's gradient needs: ``sums[0]`` of the gradient, ``sums[1]`` of the
    gradient times the normalized z."""
    vector, several = shape(1, 1), shape(SIDE_BY_SIDE, 1)
    height, width = layer["height"], layer["width"]
    whole = width // SIDE_BY_SIDE * SIDE_BY_SIDE
    for c in range(0, layer["n_out"], lanes(z.data)):
        mean = tile_load(vector, statistics.data, statistics.start + c, 0)
        means = tile_load(several, statistics.data, statistics.start + c, 0)
        inverse = tile_load(vector, statistics.data, statistics.start + statistics.stride + c, 0)
        total, totals = tile_zeros(vector, z.data), tile_zeros(several, z.data)
        along, alongs = tile_zeros(vector, z.data), tile_zeros(several, z.data)
        for h in range(height):
            for w in range(0, whole, SIDE_BY_SIDE):
                gaps = tile_load(several, z.data, position_of(z, h, w, c), z.stride) - means
                gradients = tile_load(several, grad.data, position_of(grad, h, w, c), grad.stride)
                totals = totals + gradients
                alongs = scalar.fma(gaps, gradients, alongs)
            for w in range(whole, width):
                gap = tile_load(vector, z.data, position_of(z, h, w, c), 0) - mean
                gradient = tile_load(vector, grad.data, position_of(grad, h, w, c), 0)
                total = total + gradient
                along = scalar.fma(gap, gradient, along)
        tile_store(total + tile_rows_sum(totals), sums.data, sums.start + c, 0)
        tile_store((along + tile_rows_sum(alongs)) * inverse, sums.data, sums.start + sums.stride + c, 0)


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
def batch_norm_backward(grad, z, statistics, totals, share, params_layer, grad_z):
    """The gradient of batch norm's input.

    ``grad_z = factor * (grad - share * (totals[0] + normalized z * totals[1]))`` with ``factor = scale /
    sqrt(variance + EPSILON)``; `share` is the image's part in the statistics, a pixel: zero where they are the running
    ones.

    Parameters
    ----------
    grad, z : Map (height, width, n_out)
    statistics, totals : Matrix (2, n_out)
        Of the batch; see `norm_factors` and `image_gradient_sums`.
    share : float
    params_layer : ((n_params,), LAYER)
    grad_z : Map (height, width, n_out)
        Overwritten; may be `grad`.
    """
    params, layer = params_layer
    vector, height, width = shape(1, 1), layer["height"], layer["width"]
    for c in range(0, layer["n_out"], lanes(z.data)):
        mean = tile_load(vector, statistics.data, statistics.start + c, 0)
        inverse = tile_load(vector, statistics.data, statistics.start + statistics.stride + c, 0)
        factor = tile_load(vector, params, layer["scale_start"] + c, 0) * inverse
        along = tile_load(vector, totals.data, totals.start + totals.stride + c, 0) * inverse * share
        common = tile_load(vector, totals.data, totals.start + c, 0) * share
        for h in range(height):
            for w in range(width):
                gap = tile_load(vector, z.data, position_of(z, h, w, c), 0) - mean
                g = tile_load(vector, grad.data, position_of(grad, h, w, c), 0) - scalar.fma(gap, along, common)
                tile_store(factor * g, grad_z.data, position_of(grad_z, h, w, c), 0)
