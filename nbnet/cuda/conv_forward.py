"""Images into a batch, and a batch forward through layers of the table."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numba
import numpy as np
from numba import uint32, uint64

from ..network import LayerKind
from .augment import augment_rows
from .batch_norm import batch_statistics, image_statistics, move_running_statistics, norm_factors
from .conv2d import conv2d_activated, conv2d_forward
from .conv_net import has_norm, is_plain, maps_of, statistics_of, sums_of
from .dense import matrix, row_number
from .jit import cuda, cuda_kernel
from .pooling import Output, activation_forward, flatten_forward, pixel_position, pool_forward
from .product import n_blocks

THREADS = 128


class Images(NamedTuple):
    """Images on the GPU, one behind the other, uint8 or float. They are normalized as they are read: ``(value - mean) *
    scale``, by channel."""

    values: object
    mean: object  # (channels,)
    scale: object  # (channels,)
    n_rows: int  # uint32
    shape: tuple  # (height, width, channels), on the host


class HostImages(NamedTuple):
    """Images on the host, which come in pieces: see `streaming`. They keep their type on the way."""

    X: np.ndarray  # (n, height, width[, channels])
    mean: object
    scale: object
    n_rows: int  # uint32
    shape: tuple

    @property
    def n_columns(self) -> int:
        """Values of an image."""
        return math.prod(self.shape)

    def kind_on_gpu(self, kind):
        """Type of the values there, where the network computes in `kind`."""
        return self.X.dtype.type

    def on_gpu(self, values, *none) -> Images:
        """As kernels read the images of a buffer."""
        return Images(values, self.mean, self.scale, self.n_rows, self.shape)


# ---------------------------------------------------------------- images into the batch


@functools.cache
def _gather_kernel(dtype):
    @cuda_kernel(THREADS)
    def gather_images(values, mean, scale, batch, image, sizes):
        n_images, width, channels, n_values = sizes
        number = uint32(uint32(cuda.blockIdx.x) * uint32(THREADS) + uint32(cuda.threadIdx.x))
        i, e = uint32(number // n_values), uint32(number % n_values)
        if i < n_images:
            pixel, c = uint32(e // channels), uint32(e % channels)
            value = dtype(values[uint64(row_number(batch, i)) * uint64(n_values) + uint64(e)])
            at = pixel_position(image, i, uint32(pixel // width), uint32(pixel % width)) + c
            image.data[at] = (value - mean[c]) * scale[c]

    return gather_images


def gather_images(queue, images, batch, image, n_images):
    """``image = (X[order[i]] - mean) * scale`` for the images of a batch, converted to the type of the network.

    Parameters
    ----------
    images : Images
    batch : Batch
    image : Maps (height, width, channels)
        Overwritten; borders and pads stay as they are (zero).
    """
    height, width, channels = images.shape
    n_values = height * width * channels
    sizes = tuple(np.uint32(n) for n in (n_images, width, channels, n_values))
    kernel, grid = _gather_kernel(getattr(numba, image.data.dtype.name)), n_blocks(n_images * n_values, THREADS)
    queue.add(kernel, grid, THREADS, images.values, images.mean, images.scale, batch, image, sizes)


def read_images(queue, images, plan, work, change, n_images):
    """A batch of images into the first layer's maps, changed at random if there is a `change`: (Rule, seed)."""
    image = work.results[0].y
    if change is None:
        gather_images(queue, images, plan.batch_of_rows, image, n_images)
        return
    rule, seed = change
    height, width, channels = images.shape
    size = height * width * channels
    gather_images(queue, images, plan.batch_of_rows, maps_of(work.plain, 0, size, width, channels), n_images)
    plain = matrix(work.plain, 0, size)
    augment_rows(queue, plain, image, images.shape, plan.batch, rule, seed, n_images)


# ---------------------------------------------------------------- forward


def join_statistics(queue, params, layer, own, work, training, n_images):
    """A batch norm layer's statistics of the batch, or the running ones, and what is multiplied and added with them;
    training moves the running statistics."""
    statistics = statistics_of(layer, own, 0)
    n_summed = n_images if training else 0
    batch_statistics(queue, sums_of(layer, work), work.weights, params, layer, statistics, n_summed)
    if training:
        move_running_statistics(queue, params, layer, statistics)
    norm_factors(queue, params, layer, statistics, statistics_of(layer, own, 2))


def conv_layer_forward(queue, layers, params, number, work, training, n_images):
    """A convolution of a batch, with all that its row of the table asks for."""
    layer, own, tables = layers[number], work.results[number], work.results[number].tables
    x = work.results[layer["input"]].y
    if is_plain(layer):
        conv2d_activated(queue, x, params, layer, own.y, work.slopes, tables, n_images)
        return
    bias = None if has_norm(layer) else matrix(params, layer["bias_start"], layer["out_stride"])
    conv2d_forward(queue, x, params, bias, layer, own.z, tables, n_images)
    if has_norm(layer):
        if training:
            image_statistics(queue, own.z, layer, sums_of(layer, work), n_images)
        join_statistics(queue, params, layer, own, work, training, n_images)
    output = Output(own.y, work.slopes, work.codes)
    skip = work.results[max(layer["skip"], 0)].y
    activation_forward(queue, own.z, statistics_of(layer, own, 2), skip, layer, output, n_images)


def pool_layer_forward(queue, layers, number, work, n_images):
    """A batch through a pooling that stands alone, or on to the dense layers."""
    layer = layers[number]
    x, output = work.results[layer["input"]].y, Output(work.results[number].y, work.slopes, work.codes)
    if layer["kind"] == LayerKind.FLATTEN:
        flatten_forward(queue, x, layers[layer["input"]], output, n_images)
    else:
        pool_forward(queue, x, layer, output, n_images)


def forward_layers(queue, layers, params, work, training, n_images):
    """A batch through all image layers."""
    for number in range(1, layers.size):
        if layers[number]["kind"] == LayerKind.CONV2D:
            conv_layer_forward(queue, layers, params, number, work, training, n_images)
        else:
            pool_layer_forward(queue, layers, number, work, n_images)
