"""The image layers of a network in use: where their results lie, and what travels between the loops over them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..jit import cpu_inline
from ..network import NONE, LayerKind
from .conv2d import Map, padded
from .dense import Matrix
from .pooling import Output, Place
from .simd import TILE_ROWS
from .winograd import first_tiles, lines_between, stack_of

# Where a layer's intermediate results lie: in `Net.shared`, which the workers of a fit share, or in the worker's own
# `Net.scratch`. "An image": times the image's number in the batch.
PLACES = np.dtype(
    [
        ("group", np.int64),  # images that Winograd's products take together
        ("map_start", np.int64),  # shared, an image: first pixel of the output
        ("gradient_gap", np.int64),  # from an output to its slope, later its gradient; 0: in place of the output
        ("z_start", np.int64),  # shared, an image: what batch norm keeps of training; else in the scratch
        ("z_pitch", np.int64),
        ("z_size", np.int64),  # elements of an image
        ("sums_start", np.int64),  # shared, an image: two rows of sums over its pixels
        ("filters_start", np.int64),  # shared: Winograd's filters
        ("transposed_start", np.int64),  # shared: transposed filters
        ("zeros_start", np.int64),  # shared: a bias of zeros
        ("grad_z_start", np.int64),  # scratch: first pixel; around it zeros that stay zero
        ("grad_z_pitch", np.int64),
        ("grad_x_start", np.int64),  # scratch
        ("grad_x_pitch", np.int64),
        ("between_start", np.int64),  # scratch: a tile of Winograd's, half transformed
        ("v_start", np.int64),  # scratch: Winograd's tiles of input
        ("m_start", np.int64),  # scratch: and their products
        ("filter_grad_start", np.int64),  # scratch: gradient of Winograd's filters
        ("statistics_start", np.int64),  # scratch: six rows
    ],
    align=True,
)


class Images(NamedTuple):
    """Images as kernels read them, without a copy: channel c of pixel (h, w) of image i is ``values[start + i *
    row_stride + h * down + w * across + c * deep]``. They are normalized as they are read: ``(value - mean) * scale``,
    with `mean` and `scale` (width * channels,) for a row of pixels."""

    values: np.ndarray
    start: int
    row_stride: int
    down: int
    across: int
    deep: int
    n_rows: int
    shape: tuple  # (height, width, channels)
    mean: np.ndarray
    scale: np.ndarray


class Net(NamedTuple):
    """The image layers in use, as one worker sees them."""

    layers: np.ndarray
    params: np.ndarray
    places: np.ndarray  # PLACES, a row for each image layer
    shared: np.ndarray
    scratch: np.ndarray  # in a `Workspace` of the session (n_workers, ...), in kernels this worker's row
    codes: np.ndarray  # uint8, at the positions of the outputs
    trains: bool
    partial_gap: int  # from an output to what its readers leave to each other of its gradient
    weights_start: int  # scratch: sample weights of the batch, divided by their sum
    block: int  # images that go through a segment together


class Change(NamedTuple):
    """Random changes of training images: see `augment`."""

    rule: tuple  # AugmentRule
    seed: int  # uint64
    epoch: int  # uint64


class Span(NamedTuple):
    """Images [start, stop) of a batch; image i lies at ``i - shift`` in all maps but the last layer's."""

    start: int
    stop: int
    shift: int


@cpu_inline
def map_of(net, number, i, span):
    """The output of layer `number` for image i, from its first pixel on."""
    layer = net.layers[number]
    at = i if number == net.layers.size - 1 else i - span.shift
    start = net.places[number]["map_start"] + at * layer["map_size"]
    return Map(net.shared, start, layer["pitch"], layer["channel_stride"])


@cpu_inline
def gradient_map(net, number, i, span):
    """Its slopes, later its gradient; or the output, later its gradient."""
    image = map_of(net, number, i, span)
    return Map(image.data, image.start + net.places[number]["gradient_gap"], image.pitch, image.stride)


@cpu_inline
def has_norm(layer):
    """Whether the layer has batch norm."""
    return layer["kind"] == LayerKind.CONV2D and layer["scale_start"] != NONE


@cpu_inline
def z_of(net, number, i):
    """The convolution's output of image i: where batch norm keeps it, or in the scratch."""
    layer, places = net.layers[number], net.places[number]
    if has_norm(layer) and net.trains:
        start = places["z_start"] + i * places["z_size"]
        return Map(net.shared, start, places["z_pitch"], layer["channel_stride"])
    return Map(net.scratch, np.int64(0), places["z_pitch"], layer["channel_stride"])


@cpu_inline
def grad_z_of(net, number):
    """The gradient of a convolution's output, of the image in work."""
    layer, places = net.layers[number], net.places[number]
    return Map(net.scratch, places["grad_z_start"], places["grad_z_pitch"], layer["channel_stride"])


@cpu_inline
def grad_x_of(net, number):
    """The gradient of a layer's input, of the image in work."""
    places, source = net.places[number], net.layers[net.layers[number]["input"]]
    return Map(net.scratch, places["grad_x_start"], places["grad_x_pitch"], padded(source["n_out"]))


@cpu_inline
def between_of(net):
    """Scratch for a tile of Winograd's."""
    return lines_between(net.scratch, net.places[0]["between_start"])


@cpu_inline
def statistics_of(net, number, row):
    """Two rows of a layer's statistics: 0 mean and variance, 2 factors and shifts, 4 sums of gradients."""
    stride = net.layers[number]["out_stride"]
    return Matrix(net.scratch, net.places[number]["statistics_start"] + row * stride, stride)


@cpu_inline
def sums_of(net, number, i):
    """Two rows of sums over the pixels of image i."""
    stride = net.layers[number]["out_stride"]
    return Matrix(net.shared, net.places[number]["sums_start"] + 2 * i * stride, stride)


@cpu_inline
def output_of(net, number, i, span):
    """What layer `number` leaves of image i."""
    return Output(map_of(net, number, i, span), net.places[number]["gradient_gap"], net.codes)


@cpu_inline
def place_of(net, number, i, span, adds, leaves):
    """Where a reader of layer `number` brings its gradient."""
    gap = net.places[number]["gradient_gap"]
    activation = net.layers[number]["activation"] if gap == 0 else NONE
    return Place(gradient_map(net, number, i, span), activation, net.partial_gap - gap, adds, leaves)


@cpu_inline
def stacks_of(net, number, block):
    """Winograd's tiles of input and their products, of a block of images."""
    layer, places = net.layers[number], net.places[number]
    n_tiles = max(TILE_ROWS, first_tiles(block)[3])
    v = stack_of(net.scratch, places["v_start"], n_tiles, layer["in_channels"])
    return v, stack_of(net.scratch, places["m_start"], n_tiles, layer["n_out"])
