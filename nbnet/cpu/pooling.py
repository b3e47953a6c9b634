"""From a convolution's output to the layer's: batch norm's factors, skip, activation and max pooling in one pass; and
back. Poolings that stand alone.

Where max pooling is fused, the place of the largest value in its window is kept as a byte, and the slope of the
activation is that of the chosen value. Of equal values the first one counts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import scalar
from ..jit import cpu_function, cpu_inline, cpu_kernel
from ..network import NONE, Activation, LayerKind
from .conv2d import Map
from .simd import lanes, lanes_below, row_load, shape, tile_load, tile_store, tile_zeros
from .simd_grid import code_store


class Output(NamedTuple):
    """What a layer leaves of one image: its output `y`; if there is a gap, the slopes of the activation `slopes_gap`
    elements behind it; in training the `codes` of max pooling, at the positions of y (else the array is empty)."""

    y: Map
    slopes_gap: int
    codes: np.ndarray


@cpu_inline
def position_of(image, h, w, c):
    """Position of channel c of pixel (h, w)."""
    return image.start + (h * image.pitch + w) * image.stride + c


class Source(NamedTuple):
    """A vector's worth of channels of all pixels, before the activation: ``z * factor + shift + skip``."""

    z: Map  # from the first of these channels on
    skip: Map  # likewise
    factor: object  # a vector
    shift: object  # a vector
    has_norm: bool
    has_skip: bool


@cpu_inline
def channels_from(image, c):
    """The map from channel c on."""
    return Map(image.data, image.start + c, image.pitch, image.stride)


@cpu_inline
def source_of(z, norm, skip, layer, c):
    """Channels from c on. Pads of factors and shifts are zero."""
    factor, shift = tile_zeros(shape(1, 1), z.data), tile_zeros(shape(1, 1), z.data)
    has_norm = layer["scale_start"] != NONE
    if has_norm:
        factor = tile_load(shape(1, 1), norm.data, norm.start + c, 0)
        shift = tile_load(shape(1, 1), norm.data, norm.start + norm.stride + c, 0)
    return Source(channels_from(z, c), channels_from(skip, c), factor, shift, has_norm, layer["skip"] != NONE)


@cpu_function
def before_activation(source, h, w):
    """One vector, of pixel (h, w)."""
    value = tile_load(shape(1, 1), source.z.data, position_of(source.z, h, w, 0), 0)
    if source.has_norm:
        value = scalar.fma(value, source.factor, source.shift)
    if source.has_skip:
        value = value + tile_load(shape(1, 1), source.skip.data, position_of(source.skip, h, w, 0), 0)
    return value


@cpu_kernel
def activated(activation, value):
    """The activation of one vector, for loops that have no room for all of them."""
    return scalar.activate(activation, value)


@cpu_function
def store_output(value, is_relu, n, output, position):
    """``relu(value)`` or `value`, and the slope; n channels of a vector are the image's."""
    if is_relu:
        value = scalar.relu(value)
    if output.slopes_gap > 0:
        slope = scalar.relu_slope(value) if is_relu else value * 0.0 + 1.0
        tile_store(slope, output.y.data, position + output.slopes_gap, 0)
    tile_store(lanes_below(value, n, 0.0), output.y.data, position, 0)


@cpu_kernel
def plain_forward(z, norm, skip, layer, output):
    """`activation_forward` without pooling, up to the activation."""
    is_relu, n_out = layer["activation"] == Activation.RELU, layer["n_out"]
    height, width = layer["height"], layer["width"]
    for c in range(0, n_out, lanes(z.data)):
        source = source_of(z, norm, skip, layer, c)
        for h in range(height):
            for w in range(width):
                value = before_activation(source, h, w)
                store_output(value, is_relu, n_out - c, output, position_of(output.y, h, w, c))


@cpu_inline
def pool_channels(source, layer, by_value, n, output, window):
    """Up to the activation, some channels of all pixels: the largest value of each window, and its place.

    `by_value`: compares what the activation makes of the values; n channels of the vectors are the image's.
    """
    pool_height, pool_width = window
    activation, is_relu = layer["activation"], layer["activation"] == Activation.RELU
    height, width = layer["out_height"], layer["out_width"]
    for h in range(height):
        for w in range(width):
            best = before_activation(source, h * pool_height, w * pool_width)
            highest = activated(activation, best) if by_value else best
            code, k = best * 0.0, 0
            for a in range(pool_height):
                for b in range(pool_width):
                    other = before_activation(source, h * pool_height + a, w * pool_width + b)
                    value = activated(activation, other) if by_value else other
                    gain = value - highest
                    best = scalar.where_positive(gain, other, best)
                    highest = scalar.where_positive(gain, value, highest)
                    code = scalar.where_positive(gain, float(k), code)
                    k += 1
            position = position_of(output.y, h, w, 0)
            if output.codes.size > 0:
                code_store(code, output.codes, position)
            store_output(best, is_relu, n, output, position)


@cpu_kernel
def pooled_forward(z, norm, skip, layer, output):
    """`activation_forward` with pooling, up to the activation."""
    activation, n_out, window = layer["activation"], layer["n_out"], (layer["pool_height"], layer["pool_width"])
    # of an activation that never falls, the largest value belongs to the largest input
    falls = activation == Activation.GELU or activation == Activation.SILU
    for c in range(0, n_out, lanes(z.data)):
        source = source_of(z, norm, skip, layer, c)
        out = Output(channels_from(output.y, c), output.slopes_gap, output.codes)
        if window[0] == 2 and window[1] == 2 and not falls:  # without loops, predictions are an eighth faster
            pool_channels(source, layer, False, n_out - c, out, (2, 2))
        else:
            pool_channels(source, layer, falls, n_out - c, out, window)


@cpu_kernel
def activate_map(layer, output):
    """The activation of what `y` holds, in place, and its slopes."""
    vector, activation, n_out = shape(1, 1), layer["activation"], layer["n_out"]
    for h in range(layer["out_height"]):
        for w in range(layer["out_width"]):
            for c in range(0, n_out, lanes(output.y.data)):
                position = position_of(output.y, h, w, c)
                value = tile_load(vector, output.y.data, position, 0)
                out = scalar.activate(activation, value)
                if output.slopes_gap > 0:
                    slope = scalar.activation_slope(activation, value, out)
                    tile_store(slope, output.y.data, position + output.slopes_gap, 0)
                tile_store(lanes_below(out, n_out - c, 0.0), output.y.data, position, 0)


@cpu_kernel
def activation_forward(z, norm, skip, layer, output):
    """``y = max over the window of activation(z * factor + shift + skip)`` for one image.

    Parameters
    ----------
    z : Map (height, width, n_out)
    norm : Matrix (2, n_out)
        Batch norm's factors and shifts; not read without batch norm.
    skip : Map (height, width, n_out)
        Not read without a skip.
    layer : LAYER
    output : Output (out_height, out_width, n_out)
        Overwritten, pads of y with zero.
    """
    if layer["pool_height"] * layer["pool_width"] > 1:
        pooled_forward(z, norm, skip, layer, output)
    else:
        plain_forward(z, norm, skip, layer, output)
    if layer["activation"] != Activation.RELU and layer["activation"] != Activation.IDENTITY:
        activate_map(layer, output)


@cpu_kernel
def activation_backward(grad, codes, codes_gap, layer, grad_z, sums):
    """Spreads the gradient of one image's pooled output over the windows.

    Parameters
    ----------
    grad : Map (out_height, out_width, n_out)
        Already multiplied by the slopes.
    codes : uint8 array
        `codes_gap` elements behind the positions of `grad`.
    layer : LAYER
    grad_z : Map (height, width, n_out)
        Overwritten.
    sums : Matrix (1, n_out)
        Overwritten with the sum of each channel.
    """
    vector, width, n_out = shape(1, 1), lanes(grad.data), layer["n_out"]
    out_height, out_width = layer["out_height"], layer["out_width"]
    pool_height, pool_width = layer["pool_height"], layer["pool_width"]
    pools = pool_height * pool_width > 1
    for c in range(0, n_out, width):
        total = tile_zeros(vector, grad.data)
        for h in range(out_height):
            for w in range(out_width):
                position = position_of(grad, h, w, c)
                g = tile_load(vector, grad.data, position, 0)
                total = total + g
                if not pools:
                    tile_store(g, grad_z.data, position_of(grad_z, h, w, c), 0)
                else:
                    gap = row_load(codes, position + codes_gap, g)
                    for a in range(pool_height):
                        for b in range(pool_width):
                            chosen = scalar.where_positive(0.25 - gap * gap, g, 0.0)
                            place = position_of(grad_z, h * pool_height + a, w * pool_width + b, c)
                            tile_store(chosen, grad_z.data, place, 0)
                            gap = gap - 1.0
        tile_store(total, sums.data, sums.start + c, 0)
    clear_rest(grad_z, layer)


@cpu_inline
def clear_rest(grad_x, layer):
    """Zero for the pixels that fill no window."""
    vector = shape(1, 1)
    covered_height = layer["out_height"] * layer["pool_height"]
    covered_width = layer["out_width"] * layer["pool_width"]
    for h in range(layer["height"]):
        for w in range(covered_width if h < covered_height else 0, layer["width"]):
            for c in range(0, layer["n_out"], lanes(grad_x.data)):
                tile_store(tile_zeros(vector, grad_x.data), grad_x.data, position_of(grad_x, h, w, c), 0)


# ---------------------------------------------------------------- poolings that are layers of their own


@cpu_kernel
def pool_forward(x, layer, output):
    """Max or mean of each window of one image; the slopes are one."""
    vector, width = shape(1, 1), lanes(x.data)
    pool_height, pool_width = layer["pool_height"], layer["pool_width"]
    share = 1.0 / (pool_height * pool_width)
    for h in range(layer["out_height"]):
        for w in range(layer["out_width"]):
            for c in range(0, layer["n_out"], width):
                total = tile_load(vector, x.data, position_of(x, h * pool_height, w * pool_width, c), 0)
                for k in range(1, pool_height * pool_width):
                    a, b = h * pool_height + k // pool_width, w * pool_width + k % pool_width
                    value = tile_load(vector, x.data, position_of(x, a, b, c), 0)
                    if layer["kind"] == LayerKind.MAX_POOL:
                        total = scalar.maximum(total, value)
                    else:
                        total = total + value
                if layer["kind"] == LayerKind.AVG_POOL:
                    total = total * share
                position = position_of(output.y, h, w, c)
                tile_store(total, output.y.data, position, 0)
                if output.slopes_gap > 0:
                    one = tile_zeros(vector, x.data) + 1.0
                    tile_store(one, output.y.data, position + output.slopes_gap, 0)


@cpu_kernel
def pool_backward(x, y, grad, layer, grad_x):
    """Gradient of the input of `pool_forward`: to the first largest value of a window, or to all alike.

    Parameters
    ----------
    x, y : Map
        Input and output of the forward pass.
    grad : Map (out_height, out_width, n_out)
    grad_x : Map (height, width, n_out)
        Overwritten.
    """
    vector, width = shape(1, 1), lanes(x.data)
    pool_height, pool_width = layer["pool_height"], layer["pool_width"]
    share = 1.0 / (pool_height * pool_width)
    for h in range(layer["out_height"]):
        for w in range(layer["out_width"]):
            for c in range(0, layer["n_out"], width):
                g = tile_load(vector, grad.data, position_of(grad, h, w, c), 0)
                top = tile_load(vector, y.data, position_of(y, h, w, c), 0)
                for k in range(pool_height * pool_width):
                    a, b = h * pool_height + k // pool_width, w * pool_width + k % pool_width
                    if layer["kind"] == LayerKind.MAX_POOL:
                        gap = top - tile_load(vector, x.data, position_of(x, a, b, c), 0)
                        part = scalar.where_positive(gap, 0.0, g)
                        g = scalar.where_positive(gap, g, 0.0)
                    else:
                        part = g * share
                    tile_store(part, grad_x.data, position_of(grad_x, a, b, c), 0)
    clear_rest(grad_x, layer)


# ---------------------------------------------------------------- to and from the dense layers


@cpu_kernel
def flatten_forward(x, source, output):
    """The pixels of one image without pads, as a row of the dense layers' input; the slopes are one."""
    n = source["n_out"]
    for h in range(source["out_height"]):
        for w in range(source["out_width"]):
            for c in range(n):
                position = output.y.start + (h * source["out_width"] + w) * n + c
                output.y.data[position] = x.data[position_of(x, h, w, c)]
                if output.slopes_gap > 0:
                    output.y.data[position + output.slopes_gap] = 1.0


@cpu_kernel
def flatten_backward(grad, source, grad_x):
    """Gradient of the input of `flatten_forward`; its pads are zero."""
    n, width = source["n_out"], lanes(grad.data)
    for h in range(source["out_height"]):
        for w in range(source["out_width"]):
            for c in range((n + width - 1) // width * width):
                value = grad.data[grad.start + (h * source["out_width"] + w) * n + c] if c < n else 0.0
                grad_x.data[position_of(grad_x, h, w, c)] = value


# ---------------------------------------------------------------- a gradient reaches the layer below


class Place(NamedTuple):
    """Where the gradient of a map goes, times the slope of the map's activation: in place of the slopes; or of the
    outputs, where these tell the slope. And what other readers of the same map leave to each other."""

    target: Map
    activation: int  # whose outputs `target` holds: RELU or IDENTITY; or NONE, for slopes
    partial_gap: int  # from the target on
    adds: int
    leaves: int


@cpu_inline
def times_slope(total, place, position):
    """``total * slope``, with what stands at `position` of the target."""
    if place.activation == Activation.IDENTITY:
        return total
    here = tile_load(shape(1, 1), place.target.data, position, 0)
    if place.activation == Activation.RELU:
        return scalar.where_positive(here, total, 0.0)
    return here * total


@cpu_kernel
def deliver(grad_x, place, height, width, n_channels):
    """One reader's gradient of an input: ``target = slope * grad_x``, summed over all readers of the map.

    Readers come one after another. All but the first add what was left in `partial`; all but the last leave the sum
    there. The last one is the last that needs the map's outputs.
    """
    vector = shape(1, 1)
    for c in range(0, n_channels, lanes(grad_x.data)):
        for h in range(height):
            for w in range(width):
                position = position_of(place.target, h, w, c)
                total = tile_load(vector, grad_x.data, position_of(grad_x, h, w, c), 0)
                if place.adds:
                    total = total + tile_load(vector, place.target.data, position + place.partial_gap, 0)
                if place.leaves:
                    tile_store(total, place.target.data, position + place.partial_gap, 0)
                else:
                    tile_store(times_slope(total, place, position), place.target.data, position, 0)
