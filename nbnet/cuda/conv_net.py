"""The image layers of a network in use: where their results lie, and the tables that products of windows read.

Maps lie as on the CPU (`nbnet.image_network`), borders of zeros included, so that no kernel needs a case for the
image's edge; the maps of a batch lie one behind the other. What the CPU computes of a window as it goes, the host
writes into tables, once in a fit: where each window begins, and how far behind that each of its inputs lies.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..cpu.dense import Matrix
from ..network import NONE, LayerKind, round_up
from .launch import upload


class Maps(NamedTuple):
    """Maps of a batch: channel c of pixel (h, w) of image i is ``data[start + i * size + (h * pitch + w) * stride +
    c]``."""

    data: object
    start: int
    size: int
    pitch: int
    stride: int


class Weights(NamedTuple):
    """What the images of a batch count for in batch norm."""

    shares: object  # (n_images,): sample weights divided by their sum; zeros where the running statistics count
    running: object  # (1,): 1 where they do


class Remainder(NamedTuple):
    """The pixels of a convolution's input that meet the same taps; see `conv2d.conv2d_backward`."""

    n_pixels: int  # of an image
    n_terms: int  # of each pixel's sum
    windows: object  # (n_images * n_pixels,): where the pixel's window begins in the output's gradient
    pixels: object  # (n_images * n_pixels,): where the pixel is in the input's map
    terms: object  # (n_terms,): behind the window's begin
    weights: object  # (n_terms,): behind the first row of the weight that belongs to the pixel's channel


class Tables(NamedTuple):
    """Positions that a convolution's products read; uint32 on the GPU."""

    windows: object  # (n_images * height * width,): where each output's window begins in the input's maps
    taps: object  # (n_in,): behind that
    outputs: object  # (n_images * height * width,): pixels of the output, where no pooling is in between
    gradients: object  # (n_images * height * width,): pixels of the gradient
    remainders: tuple  # of Remainder


class Work(NamedTuple):
    """Memory for `capacity` images: `slopes` and `partials` are as `outputs`, and without elements in prediction."""

    outputs: object  # the maps of all layers
    slopes: object  # first the activations' slopes, then the gradients in their place
    partials: object  # what several readers of one map leave to each other of its gradient
    codes: object  # uint8: which pixel of its window max pooling has chosen
    results: tuple  # of Results, one a layer
    sums: object  # two rows of sums over the pixels of each image, of the layer in work
    pieces: object  # a filter's gradient, by slices of the batch
    plain: object  # images before they are changed at random
    weights: Weights
    dense: object  # `walk.Workspace` of the dense layers, whose inputs are the last map
    capacity: int


class Results(NamedTuple):
    """Where one layer's results lie."""

    y: Maps
    slopes: Maps
    z: Maps  # the convolution's output where the layer does more than activate it
    grad_z: Maps  # its gradient; around it zeros that `activation_backward` writes
    border: int  # of grad_z
    statistics: object  # four rows of a layer with batch norm; see `statistics_of`
    tables: Tables | None  # of a convolution


def has_norm(layer) -> bool:
    """Whether the layer has batch norm."""
    return layer["kind"] == LayerKind.CONV2D and layer["scale_start"] != NONE


def has_pooling(layer) -> bool:
    """Whether the layer pools in windows."""
    return int(layer["pool_height"]) * int(layer["pool_width"]) > 1


def is_plain(layer) -> bool:
    """Whether a convolution's output becomes the layer's where the product stores it."""
    return not (has_norm(layer) or has_pooling(layer) or layer["skip"] != NONE)


def statistics_of(layer, own: Results, row: int) -> Matrix:
    """Two rows of a layer's statistics: 0 mean and one over the deviation, 2 factors and shifts."""
    stride = int(layer["out_stride"])
    return Matrix(own.statistics, np.uint32(row * stride), np.uint32(stride))


def sums_of(layer, work: Work) -> Matrix:
    """Two rows of sums over the pixels of each image, of the layer in work."""
    return Matrix(work.sums, np.uint32(0), np.uint32(layer["out_stride"]))


def maps_of(data, start: int, size: int, pitch: int, stride: int) -> Maps:
    """Maps with numbers that kernels take as unsigned."""
    return Maps(data, *(np.uint32(n) for n in (start, size, pitch, stride)))


def output_maps(layer, data, capacity: int) -> Maps:
    """The maps of a layer's outputs, or of what lies at the same positions."""
    inside = layer["border"] * (layer["pitch"] + 1) * layer["channel_stride"]
    start = layer["output_start"] * capacity + inside
    return maps_of(data, start, layer["map_size"], layer["pitch"], layer["channel_stride"])


def z_maps(layer, data) -> Maps:
    """The maps of a convolution's output, without borders."""
    height, width, stride = int(layer["height"]), int(layer["width"]), round_up(int(layer["n_out"]))
    return maps_of(data, 0, height * width * stride, width, stride)


def gradient_maps(layer, data, border: int) -> Maps:
    """The maps of the gradient of a convolution's output, with `border` pixels of zeros on each side."""
    height, pitch = int(layer["height"]) + 2 * border, int(layer["width"]) + 2 * border
    stride = round_up(int(layer["n_out"]))
    return maps_of(data, border * (pitch + 1) * stride, height * pitch * stride, pitch, stride)


# ---------------------------------------------------------------- tables


def positions(maps: Maps, n_images: int, rows, columns) -> np.ndarray:
    """Positions of the pixels (rows[j], columns[k]) of some images, image by image and row by row."""
    start, size, pitch, stride = (int(n) for n in maps[1:])
    rows, columns = np.asarray(rows, np.int64), np.asarray(columns, np.int64)
    of_image = start + (rows[:, None] * pitch + columns).ravel() * stride
    of_batch = (np.arange(n_images)[:, None] * size + of_image).ravel()
    assert of_batch.size == 0 or of_batch.min() >= 0
    return of_batch.astype(np.uint32)


def offsets(n_down: int, n_across: int, n_each: int, down: int, across: int) -> np.ndarray:
    """``a * down + b * across + c`` for all a < n_down, b < n_across, c < n_each, in this order."""
    a, b, c = np.arange(n_down)[:, None, None], np.arange(n_across)[:, None], np.arange(n_each)
    return (a * down + b * across + c).ravel()


def _taps_of(position: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """First tap that meets a pixel of the padded input, and how many do."""
    first = position % stride
    return first, max(0, -(-(kernel_size - first) // stride))


def _window_starts(first: int, size: int, layer) -> np.ndarray:
    """First output, along an axis, whose window holds the pixels first, first + stride, ... below `size`; may be
    negative."""
    k, stride, padding = (int(layer[name]) for name in ("kernel_size", "stride", "padding"))
    _, n_taps = _taps_of(first + padding, k, stride)
    return (np.arange(first, size, stride) + padding) // stride - max(n_taps - 1, 0)


def backward_border(layer, source) -> int:
    """Pixels of zeros around the gradient of a convolution's output, so that that of its input can be read there."""
    k, stride, padding = (int(layer[name]) for name in ("kernel_size", "stride", "padding"))
    border = 0
    for axis in ("height", "width"):
        size, size_in = int(layer[axis]), int(source["out_" + axis])
        for first in range(min(stride, size_in)):
            starts = _window_starts(first, size_in, layer)
            _, n_taps = _taps_of(first + padding, k, stride)
            border = max(border, -int(starts.min()), int(starts.max()) + max(n_taps - 1, 0) - (size - 1))
    return border


def _remainder(layer, source, own: Results, below: Maps, n_images: int, first: tuple[int, int]) -> Remainder:
    """The pixels first, first + stride, ... of both axes."""
    k, stride, padding = (int(layer[name]) for name in ("kernel_size", "stride", "padding"))
    sides = int(source["out_height"]), int(source["out_width"])
    (tap_h, n_down), (tap_w, n_across) = (_taps_of(n + padding, k, stride) for n in first)
    pitch, across = int(own.grad_z.pitch), int(own.grad_z.stride)
    n_out, channels, row = round_up(int(layer["n_out"]), 4), int(layer["in_channels"]), int(layer["out_stride"])
    # taps are added in order, and a later one meets an earlier output: the window is read from its last row on
    last = (max(n_down - 1, 0) * pitch + max(n_across - 1, 0)) * across
    terms = last + offsets(n_down, n_across, n_out, -pitch * across, -across)
    weights = offsets(n_down, n_across, n_out, stride * k * channels * row, stride * channels * row)
    weights += (tap_h * k + tap_w) * channels * row
    rows, columns = (np.arange(n, side, stride) for n, side in zip(first, sides, strict=True))
    starts = (_window_starts(n, side, layer) for n, side in zip(first, sides, strict=True))
    return Remainder(
        rows.size * columns.size,
        terms.size,
        upload(positions(own.grad_z, n_images, *starts)),
        upload(positions(below, n_images, rows, columns)),
        upload(terms.astype(np.uint32)),
        upload(weights.astype(np.uint32)),
    )


def make_tables(layer, source, own: Results, below: Results, n_images: int, training: bool) -> Tables:
    """All tables of a convolution over the layer `source`."""
    k, stride, padding = (int(layer[name]) for name in ("kernel_size", "stride", "padding"))
    height, width = int(layer["height"]), int(layer["width"])
    nothing = upload(np.zeros(0, np.uint32))
    corners = (np.arange(n) * stride - padding for n in (height, width))
    pixel, pitch = int(below.y.stride), int(below.y.pitch)
    inside = np.arange(height), np.arange(width)
    remainders = ()
    if training and layer["input"] > 0:
        sides = min(stride, int(source["out_height"])), min(stride, int(source["out_width"]))
        remainders = tuple(
            _remainder(layer, source, own, below.slopes, n_images, (h, w))
            for h in range(sides[0])
            for w in range(sides[1])
        )
    return Tables(
        upload(positions(below.y, n_images, *corners)),
        upload(offsets(k, k, int(layer["in_channels"]), pitch * pixel, pixel).astype(np.uint32)),
        upload(positions(own.y, n_images, *inside)) if is_plain(layer) else nothing,
        upload(positions(own.grad_z, n_images, *inside)) if training else nothing,
        remainders,
    )
