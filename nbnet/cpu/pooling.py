"""From a convolution's output to the layer's: batch norm's factors, skip, activation and max pooling in one pass; and
back. Poolings that stand alone.

Where max pooling is fused, the place of the largest value in its window is kept as a byte, and the slope of the
activation is that of the chosen value. Of equal values the first one counts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import scalar
from ..jit import cpu_inline, cpu_kernel
from ..network import NONE, Activation, LayerKind
from .conv2d import Map
from .simd import lanes, lanes_below, row_load, shape, tile_load, tile_store, tile_zeros
from .simd_grid import code_store


class Output(NamedTuple):
    """What a layer leaves of one image: its output `y`; if there is a gap, the slopes of the activation `slopes_gap`
    elements behind it, and the `codes` of max pooling at the positions of y."""

    y: Map
    slopes_gap: int
    codes: np.ndarray


@cpu_inline
def position_of(image, h, w, c):
    """Position of channel c of pixel (h, w)."""
    return image.start + (h * image.pitch + w) * image.stride + c


@cpu_inline
def before_activation(z, norm, skip, has, h, w, c):
    """One vector: ``z * factor + shift + skip``; has[0]: there are factors, has[1]: there is a skip."""
    vector = shape(1, 1)
    value = tile_load(vector, z.data, position_of(z, h, w, c), 0)
    if has[0]:
        factor = tile_load(vector, norm.data, norm.start + c, 0)
        value = scalar.fma(value, factor, tile_load(vector, norm.data, norm.start + norm.stride + c, 0))
    if has[1]:
        value = value + tile_load(vector, skip.data, position_of(skip, h, w, c), 0)
    return value


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
    # fields of the layer are read once: the compiler cannot know that stores leave them as they are
    activation, n_out, width = layer["activation"], layer["n_out"], lanes(z.data)
    pool_height, pool_width = layer["pool_height"], layer["pool_width"]
    has = layer["scale_start"] != NONE, layer["skip"] != NONE
    # of an activation that never falls, the largest value belongs to the largest input
    falls = activation == Activation.GELU or activation == Activation.SILU
    pools = pool_height * pool_width > 1
    for h in range(layer["out_height"]):
        for w in range(layer["out_width"]):
            for c in range(0, n_out, width):
                position = position_of(output.y, h, w, c)
                best = before_activation(z, norm, skip, has, h * pool_height, w * pool_width, c)
                if pools:
                    code = best * 0.0
                    highest = scalar.activate(activation, best) if falls else best
                    k = 0
                    for a in range(pool_height):
                        for b in range(pool_width):
                            other = before_activation(z, norm, skip, has, h * pool_height + a, w * pool_width + b, c)
                            value = scalar.activate(activation, other) if falls else other
                            gain = value - highest
                            best = scalar.where_positive(gain, other, best)
                            highest = scalar.where_positive(gain, value, highest)
                            code = scalar.where_positive(gain, float(k), code)
                            k += 1
                    if output.slopes_gap > 0:
                        code_store(code, output.codes, position)
                out = scalar.activate(activation, best)
                if output.slopes_gap > 0:
                    slope = scalar.activation_slope(activation, best, out)
                    tile_store(slope, output.y.data, position + output.slopes_gap, 0)
                tile_store(lanes_below(out, n_out - c, 0.0), output.y.data, position, 0)


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
    """Where an input's gradient goes: the map of its slopes, and what other readers of the same map leave there."""

    slopes: Map
    partial_gap: int  # behind the slopes
    adds: int
    leaves: int


@cpu_kernel
def deliver(grad_x, place, height, width, n_channels):
    """One reader's gradient of an input: ``slopes *= grad_x``, summed over all readers of the map.

    Readers come one after another. All but the first add what was left in `partial`; all but the last leave the sum
    there.
    """
    vector, step = shape(1, 1), lanes(grad_x.data)
    for h in range(height):
        for w in range(width):
            for c in range(0, n_channels, step):
                position = position_of(place.slopes, h, w, c)
                total = tile_load(vector, grad_x.data, position_of(grad_x, h, w, c), 0)
                if place.adds:
                    total = total + tile_load(vector, place.slopes.data, position + place.partial_gap, 0)
                if place.leaves:
                    tile_store(total, place.slopes.data, position + place.partial_gap, 0)
                else:
                    slope = tile_load(vector, place.slopes.data, position, 0)
                    tile_store(slope * total, place.slopes.data, position, 0)
