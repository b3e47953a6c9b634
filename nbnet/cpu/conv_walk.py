"""The compiled loops over the image rows of the layer table: forward, backward, updates.

A few images at a time go through all layers of a segment, so that what lies between two layers stays in the cache. A
segment ends where something needs the whole batch: at the statistics of batch norm, and behind the last image layer,
where the dense layers take over (`nbnet.cpu.walk`).

Gradients of filters are summed by slices of the batch, which depend on the batch alone; slices, and the images' own
sums for biases and batch norm, are added in order. So the bits are the same for any number of workers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..jit import cpu_inline, cpu_kernel
from ..network import NONE, ConvAlgorithm, LayerKind
from . import walk
from .augment import augment_rows
from .batch_norm import (
    batch_norm_backward,
    batch_statistics,
    image_gradient_sums,
    image_statistics,
    move_running_statistics,
    norm_factors,
    sum_images,
)
from .conv2d import Map, conv2d_backward, conv2d_filter_gradient, conv2d_forward, padded, pixel, transpose_filters
from .dense import Matrix
from .losses import apply_inverse_link
from .optimizers import optimizer_step, sum_of_squares
from .pooling import (
    Output,
    Place,
    activation_backward,
    activation_forward,
    deliver,
    flatten_backward,
    flatten_forward,
    pool_backward,
    pool_forward,
)
from .simd import TILE_ROWS, lanes, row_load, shape, tile_load, tile_store
from .walk import Batch, Mode, StepSize
from .winograd import (
    block_of,
    first_tiles,
    stack_of,
    winograd_filter_gradient,
    winograd_filters,
    winograd_filters_backward,
    winograd_input,
    winograd_input_gradient,
    winograd_output,
    winograd_output_gradient,
    winograd_products,
)
from .workers import barrier, flush_subnormals, restore_subnormals, share_of

SQUARES_BLOCK = 4096  # elements of the gradient in one partial sum of its norm

PLACES = np.dtype(
    [
        ("group", np.int64),  # images that Winograd's products take together
        ("z_start", np.int64),  # batch norm: in `z`, per image; else in the worker's scratch
        ("z_pitch", np.int64),
        ("z_size", np.int64),  # elements of an image
        ("grad_z_start", np.int64),  # first pixel, in the scratch; around it zeros that stay zero
        ("grad_z_pitch", np.int64),
        ("grad_x_start", np.int64),  # in the scratch
        ("grad_x_pitch", np.int64),
        ("v_start", np.int64),  # Winograd's tiles of input, in the scratch
        ("m_start", np.int64),  # and their products
        ("filter_grad_start", np.int64),  # gradient of Winograd's filters, in the scratch
        ("filters_start", np.int64),  # Winograd's filters, in `filters`
        ("transposed_start", np.int64),  # transposed filters, in `filters`
        ("sums_start", np.int64),  # in `sums`, per image: two rows
        ("statistics_start", np.int64),  # in `statistics`: six rows
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


class ImageWork(NamedTuple):
    """Memory for the image layers. Maps hold `capacity` images, the last layer's as many as the dense layers want."""

    places: np.ndarray  # PLACES, a row for each image layer
    outputs: np.ndarray
    slopes: np.ndarray  # first the activations' slopes, then the gradients in their place; no elements in prediction
    partial: np.ndarray  # what a map's readers leave to each other
    codes: np.ndarray  # uint8
    z: np.ndarray
    sums: np.ndarray
    filters: np.ndarray  # zeros first
    slices: np.ndarray  # (n_slices, parameters of the image layers)
    scratch: np.ndarray  # (n_workers, ...)
    statistics: np.ndarray  # (n_workers, ...)
    weights: np.ndarray  # (n_workers, capacity): sample weights of the batch
    squares: np.ndarray  # as in `walk.Workspace`, of the image layers
    norm_squares: np.ndarray  # of the gradient, a sum for each SQUARES_BLOCK elements
    capacity: int
    block: int  # images that go through a segment together


class Change(NamedTuple):
    """Random changes of training images: see `augment`."""

    active: bool
    rule: tuple  # AugmentRule
    seed: int  # uint64
    epoch: int  # uint64


class Span(NamedTuple):
    """Images [start, stop) of a batch; image i lies at ``i - shift`` in all maps but the last layer's."""

    start: int
    stop: int
    shift: int


class BatchSums(NamedTuple):
    """What batch norm knows of a batch."""

    n_rows: int
    weight_sum: float
    running: bool  # whether the running statistics stand for the batch's


# ---------------------------------------------------------------- where things are


@cpu_inline
def map_of(model, work, number, data, i, span):
    """The map of image i in layer `number`, from its first pixel on, in `data` (outputs or slopes)."""
    layer = model.layers[number]
    at = i if number == model.layers.size - 1 else i - span.shift
    start = layer["output_start"] * work.capacity + at * layer["map_size"]
    start += layer["border"] * (layer["pitch"] + 1) * layer["channel_stride"]
    return Map(data, start, layer["pitch"], layer["channel_stride"])


@cpu_inline
def z_of(model, work, number, i, span, kept, team):
    """The convolution's output of image i: where batch norm keeps it, or in the scratch."""
    layer, places = model.layers[number], work.places[number]
    if kept:
        start = places["z_start"] * work.capacity + (i - span.shift) * places["z_size"]
        return Map(work.z, start, places["z_pitch"], layer["channel_stride"])
    return Map(work.scratch[team.worker], 0, places["z_pitch"], layer["channel_stride"])


@cpu_inline
def has_norm(layer):
    """Whether the layer has batch norm."""
    return layer["kind"] == LayerKind.CONV2D and layer["scale_start"] != NONE


@cpu_inline
def statistics_of(work, layer, places, row, team):
    """Two rows of a layer's statistics: 0 mean and variance, 2 factors and shifts, 4 sums of gradients."""
    start = places["statistics_start"] + row * layer["out_stride"]
    return Matrix(work.statistics[team.worker], start, layer["out_stride"])


@cpu_inline
def sums_of(work, layer, places, i):
    """Two rows of sums over the pixels of image i."""
    return Matrix(work.sums, places["sums_start"] * work.capacity + 2 * i * layer["out_stride"], layer["out_stride"])


@cpu_inline
def place_of(model, work, number, i, span, adds, leaves):
    """Where a reader of layer `number` brings its gradient."""
    return Place(map_of(model, work, number, work.slopes, i, span), work.partial, adds, leaves)


# ---------------------------------------------------------------- images into the batch


@cpu_kernel
def gather_image(images, number, image):
    """``image = (X[number] - mean) * scale``, converted to the type of the network.

    Parameters
    ----------
    images : Images
    number : int
    image : Map (height, width, channels)
        Overwritten; borders and pads stay as they are (zero).
    """
    height, width, channels = images.shape
    n, step = width * channels, lanes(image.data)
    flat = images.deep == 1 and images.across == channels and image.stride == channels and n >= step
    for h in range(height):
        source = images.start + number * images.row_stride + h * images.down
        target = image.start + h * image.pitch * image.stride
        if flat:
            for j in range(0, n, step):
                j = min(j, n - step)  # the last vector overlaps the one before it
                value = row_load(images.values, source + j, image.data)
                mean, scale = tile_load(shape(1, 1), images.mean, j, 0), tile_load(shape(1, 1), images.scale, j, 0)
                tile_store((value - mean) * scale, image.data, target + j, 0)
        else:
            for w in range(width):
                for c in range(channels):
                    value = images.values[source + w * images.across + c * images.deep]
                    j = w * channels + c
                    image.data[target + w * image.stride + c] = (value - images.mean[j]) * images.scale[j]


@cpu_inline
def copy_image(source, size, target):
    """Pixels without pads into a map."""
    height, width, channels = size
    for h in range(height):
        for w in range(width):
            for c in range(channels):
                position = target.start + (h * target.pitch + w) * target.stride + c
                target.data[position] = source[(h * width + w) * channels + c]


@cpu_kernel
def read_images(model, work, images, order, change, span, team):
    """Images [span.start, span.stop) of a batch into the first layer's maps, changed at random in training."""
    height, width, channels = images.shape
    size = height * width * channels
    scratch = work.scratch[team.worker]
    for i in range(span.start, span.stop):
        image = map_of(model, work, 0, work.outputs, i, span)
        if change.active:
            gather_image(images, order[i], Map(scratch, 0, width, channels))
            plain, changed = Matrix(scratch, 0, size), Matrix(scratch, size, size)
            augment_rows(plain, changed, images.shape, order[i : i + 1], change.rule, change.seed, change.epoch, (0, 1))
            copy_image(scratch[size:], images.shape, image)
        else:
            gather_image(images, order[i], image)


# ---------------------------------------------------------------- forward


@cpu_kernel
def finish_layer(model, work, number, i, span, kept, team):
    """From the convolution's output of image i to the layer's output."""
    layer, places = model.layers[number], work.places[number]
    output = Output(map_of(model, work, number, work.outputs, i, span), work.slopes, work.codes)
    skip = map_of(model, work, max(layer["skip"], 0), work.outputs, i, span)
    norm = statistics_of(work, layer, places, 2, team)
    activation_forward(z_of(model, work, number, i, span, kept, team), norm, skip, layer, output)


@cpu_kernel
def conv_layer_forward(model, work, number, span, training, team):
    """A convolution of some images. Batch norm in training keeps its output, with each image's statistics; otherwise
    the layer is finished."""
    layer, places = model.layers[number], work.places[number]
    scratch = work.scratch[team.worker]
    kept = training and layer["scale_start"] != NONE
    bias = Matrix(model.params, layer["bias_start"], 0)
    if layer["scale_start"] != NONE:
        bias = Matrix(work.filters, 0, 0)
    for first in range(span.start, span.stop, places["group"]):
        n = min(places["group"], span.stop - first)
        block = block_of(n, layer["height"], layer["width"])
        n_tiles = max(TILE_ROWS, first_tiles(block)[3])
        m = stack_of(scratch, places["m_start"], n_tiles, layer["n_out"])
        if layer["algorithm"] == ConvAlgorithm.WINOGRAD:
            v = stack_of(scratch, places["v_start"], n_tiles, layer["in_channels"])
            transform_input(model, work, number, first, span, block, v)
            filters = places["filters_start"]
            winograd_products(v, work.filters, filters, m, block, layer["in_channels"], layer["n_out"])
        for i in range(first, first + n):
            z = z_of(model, work, number, i, span, kept, team)
            if layer["algorithm"] == ConvAlgorithm.WINOGRAD:
                winograd_output(m, i - first, block, layer["n_out"], bias, z)
            else:
                x = map_of(model, work, layer["input"], work.outputs, i, span)
                conv2d_forward(x, model.params, bias, layer, z)
            if kept:
                image_statistics(z, layer, sums_of(work, layer, places, i))
            else:
                finish_layer(model, work, number, i, span, kept, team)


@cpu_inline
def transform_input(model, work, number, first, span, block, v):
    """Winograd's tiles of the input of some images."""
    layer = model.layers[number]
    for i in range(block.n_images):
        x = map_of(model, work, layer["input"], work.outputs, first + i, span)
        winograd_input(pixel(x, -layer["padding"], -layer["padding"]), i, block, layer["in_channels"], v)


@cpu_kernel
def layer_forward(model, work, number, span, training, team):
    """Some images through one layer."""
    layer = model.layers[number]
    if layer["kind"] == LayerKind.CONV2D:
        conv_layer_forward(model, work, number, span, training, team)
        return
    for i in range(span.start, span.stop):
        x = map_of(model, work, layer["input"], work.outputs, i, span)
        output = Output(map_of(model, work, number, work.outputs, i, span), work.slopes, work.codes)
        if layer["kind"] == LayerKind.FLATTEN:
            flatten_forward(x, model.layers[layer["input"]], output)
        else:
            pool_forward(x, layer, output)


@cpu_inline
def next_norm(model, number):
    """Number of the first layer from `number` on that has batch norm, or the number of layers."""
    while number < model.layers.size and not has_norm(model.layers[number]):
        number += 1
    return number


@cpu_kernel
def join_statistics(model, work, number, batch, team):
    """A batch norm layer's statistics of the batch, or the running ones, and what is multiplied and added with them;
    each worker has its own. The first worker moves the running statistics."""
    layer, places = model.layers[number], work.places[number]
    statistics = statistics_of(work, layer, places, 0, team)
    if batch.running:
        for c in range(2 * layer["out_stride"]):
            statistics.data[statistics.start + c] = model.params[layer["state_start"] + c]
    else:
        weights = work.weights[team.worker, : batch.n_rows]
        batch_statistics(sums_of(work, layer, places, 0), weights, batch.weight_sum, layer, statistics)
        if team.worker == 0:
            move_running_statistics(model.params, layer, statistics)
    norm_factors(model.params, layer, statistics, statistics_of(work, layer, places, 2, team))


@cpu_kernel
def forward_segment(model, work, first, last, span, training, team):
    """Some images through layers [first, last); a layer `first - 1` with batch norm is finished before."""
    if training and has_norm(model.layers[first - 1]):
        for i in range(span.start, span.stop):
            finish_layer(model, work, first - 1, i, span, True, team)
    for number in range(first, last):
        layer_forward(model, work, number, span, training, team)


@cpu_inline
def forward_training(model, data, work, order, change, batch, team):
    """This worker's rows of a batch through all image layers; False if another worker failed."""
    i_start, i_stop = share_of(order.size, TILE_ROWS, team)
    first = 1
    while True:
        norm = next_norm(model, first)
        last = min(norm + 1, model.layers.size)
        for start in range(i_start, i_stop, work.block):
            span = Span(start, min(start + work.block, i_stop), 0)
            if first == 1:
                read_images(model, work, data.rows, order, change, span, team)
            forward_segment(model, work, first, last, span, True, team)
        if norm == model.layers.size:
            return True
        if not barrier(team):  # all images' statistics are ready
            return False
        join_statistics(model, work, norm, batch, team)
        first = last


# ---------------------------------------------------------------- backward


@cpu_inline
def gradient_of_z(model, work, number, i, span, team):
    """Gradient of image i before the activation, into the scratch; its sums by channel into `sums`."""
    layer, places = model.layers[number], work.places[number]
    grad_z = Map(work.scratch[team.worker], places["grad_z_start"], places["grad_z_pitch"], layer["channel_stride"])
    grad = map_of(model, work, number, work.slopes, i, span)
    activation_backward(grad, work.codes, layer, grad_z, sums_of(work, layer, places, i))
    return grad_z


@cpu_kernel
def gradient_of_conv(model, work, number, i, span, batch, team):
    """Gradient of a convolution's output, image i, left in the scratch; the skip gets its part."""
    layer, places = model.layers[number], work.places[number]
    grad_z = gradient_of_z(model, work, number, i, span, team)
    if layer["skip"] > 0:
        place = place_of(model, work, layer["skip"], i, span, layer["skip_adds"], layer["skip_leaves"])
        deliver(grad_z, place, layer["height"], layer["width"], layer["n_out"])
    if layer["scale_start"] != NONE:
        share = 0.0
        if not batch.running:
            share = work.weights[team.worker, i] / (batch.weight_sum * layer["height"] * layer["width"])
        z = z_of(model, work, number, i, span, True, team)
        statistics = statistics_of(work, layer, places, 0, team)
        totals = statistics_of(work, layer, places, 4, team)
        batch_norm_backward(grad_z, z, statistics, totals, share, (model.params, layer))
    return grad_z


@cpu_inline
def deliver_input(model, work, layer, grad_x, i, span):
    """The gradient of a layer's input to the map below."""
    source = model.layers[layer["input"]]
    place = place_of(model, work, layer["input"], i, span, layer["input_adds"], layer["input_leaves"])
    deliver(grad_x, place, source["out_height"], source["out_width"], source["n_out"])


@cpu_inline
def grad_x_of(layer, places, scratch, n_channels):
    """Scratch for the gradient of an image's input."""
    return Map(scratch, places["grad_x_start"], places["grad_x_pitch"], padded(n_channels))


@cpu_kernel
def direct_layer_backward(model, work, number, span, batch, grads, team):
    """A convolution of some images backward, directly; its filters' gradient is added to `grads`."""
    layer, places, scratch = model.layers[number], work.places[number], work.scratch[team.worker]
    for i in range(span.start, span.stop):
        grad_z = gradient_of_conv(model, work, number, i, span, batch, team)
        x = map_of(model, work, layer["input"], work.outputs, i, span)
        conv2d_filter_gradient(x, grad_z, layer, grads, scratch)
        if layer["input"] > 0:
            source = model.layers[layer["input"]]
            grad_x = grad_x_of(layer, places, scratch, layer["in_channels"])
            size = source["out_height"], source["out_width"]
            conv2d_backward(grad_z, work.filters, places["transposed_start"], layer, grad_x, size)
            deliver_input(model, work, layer, grad_x, i, span)


@cpu_kernel
def winograd_layer_backward(model, work, number, span, batch, team):
    """A convolution of some images backward by Winograd's algorithm; the transformed filters' gradient is added to in
    the scratch."""
    layer, places, scratch = model.layers[number], work.places[number], work.scratch[team.worker]
    n_in, n_out = layer["in_channels"], layer["n_out"]
    for first in range(span.start, span.stop, places["group"]):
        block = block_of(min(places["group"], span.stop - first), layer["height"], layer["width"])
        n_tiles = max(TILE_ROWS, first_tiles(block)[3])
        v, m = stack_of(scratch, places["v_start"], n_tiles, n_in), stack_of(scratch, places["m_start"], n_tiles, n_out)
        transform_input(model, work, number, first, span, block, v)
        for i in range(block.n_images):
            grad_z = gradient_of_conv(model, work, number, first + i, span, batch, team)
            winograd_output_gradient(grad_z, i, block, n_out, m)
        winograd_filter_gradient(v, m, block, n_in, n_out, scratch, places["filter_grad_start"])
        if layer["input"] > 0:
            winograd_products(m, work.filters, places["transposed_start"], v, block, n_out, n_in)
            grad_x = grad_x_of(layer, places, scratch, n_in)
            for i in range(block.n_images):
                winograd_input_gradient(v, i, block, n_in, grad_x)
                inside = pixel(grad_x, layer["padding"], layer["padding"])
                deliver_input(model, work, layer, inside, first + i, span)


@cpu_kernel
def pool_layer_backward(model, work, number, span, team):
    """Some images backward through a pooling that stands alone, or from the dense layers."""
    layer, places, scratch = model.layers[number], work.places[number], work.scratch[team.worker]
    source = model.layers[layer["input"]]
    if layer["input"] == 0:
        return
    for i in range(span.start, span.stop):
        grad = map_of(model, work, number, work.slopes, i, span)
        grad_x = grad_x_of(layer, places, scratch, source["n_out"])
        if layer["kind"] == LayerKind.FLATTEN:
            flatten_backward(grad, source, grad_x)
        else:
            x = map_of(model, work, layer["input"], work.outputs, i, span)
            y = map_of(model, work, number, work.outputs, i, span)
            pool_backward(x, y, grad, layer, grad_x)
        deliver_input(model, work, layer, grad_x, i, span)


@cpu_kernel
def layer_backward(model, work, number, span, batch, grads, team):
    """Some images backward through one layer."""
    layer = model.layers[number]
    if layer["kind"] != LayerKind.CONV2D:
        pool_layer_backward(model, work, number, span, team)
    elif layer["algorithm"] == ConvAlgorithm.WINOGRAD:
        winograd_layer_backward(model, work, number, span, batch, team)
    else:
        direct_layer_backward(model, work, number, span, batch, grads, team)


@cpu_kernel
def norm_gradient_sums(model, work, number, span, team):
    """What a batch norm layer must know of each image's gradient before it can go back."""
    layer, places = model.layers[number], work.places[number]
    for i in range(span.start, span.stop):
        grad = gradient_of_z(model, work, number, i, span, team)
        z = z_of(model, work, number, i, span, True, team)
        statistics = statistics_of(work, layer, places, 0, team)
        image_gradient_sums(grad, z, statistics, layer, sums_of(work, layer, places, i))


@cpu_inline
def filter_gradient_of(layer, places, scratch, grads):
    """Where a layer's filters' gradient is summed up: array and range."""
    if layer["algorithm"] == ConvAlgorithm.WINOGRAD:
        size = 36 * layer["in_channels"] * layer["n_out"]
        return scratch[places["filter_grad_start"] : places["filter_grad_start"] + size]
    return grads[layer["weight_start"] : layer["weight_start"] + layer["n_in"] * layer["out_stride"]]


@cpu_kernel
def backward_slice(model, work, last, first, images, batch, grads, team):
    """Images [images[0], images[1]) backward through layers last, last - 1, ..., first.

    A layer `first - 1` with batch norm, whose turn comes when all images are here, takes its sums.
    """
    scratch = work.scratch[team.worker]
    for number in range(first, last + 1):
        layer = model.layers[number]
        if layer["kind"] == LayerKind.CONV2D:
            filter_gradient_of(layer, work.places[number], scratch, grads)[:] = 0.0
    for start in range(images[0], images[1], work.block):
        span = Span(start, min(start + work.block, images[1]), 0)
        for number in range(last, first - 1, -1):
            layer_backward(model, work, number, span, batch, grads, team)
        if has_norm(model.layers[first - 1]):
            norm_gradient_sums(model, work, first - 1, span, team)
    for number in range(first, last + 1):
        layer = model.layers[number]
        if layer["kind"] == LayerKind.CONV2D and layer["algorithm"] == ConvAlgorithm.WINOGRAD:
            winograd_filters_backward(scratch, work.places[number]["filter_grad_start"], layer, grads)


@cpu_inline
def backward_training(model, work, batch, team):
    """This worker's slices of a batch back through all image layers; False if another worker failed."""
    n_slices = work.slices.shape[0]
    s_start, s_stop = share_of(n_slices, 1, team)
    last, summed = model.layers.size - 1, False
    while True:
        # A segment reaches down to the next batch norm, and takes that one's sums; the next segment begins with it.
        first = last if summed or not has_norm(model.layers[last]) else last + 1
        while first > 1 and not has_norm(model.layers[first - 1]):
            first -= 1
        for number in range(s_start, s_stop):
            images = number * batch.n_rows // n_slices, (number + 1) * batch.n_rows // n_slices
            backward_slice(model, work, last, first, images, batch, work.slices[number], team)
        if not barrier(team):  # all slices and all images' sums are ready
            return False
        if first == 1:
            return True
        last, summed = first - 1, True
        layer, places = model.layers[last], work.places[last]
        sums, totals = sums_of(work, layer, places, 0), statistics_of(work, layer, places, 4, team)
        for row in range(2):
            total = Matrix(totals.data, totals.start + row * totals.stride, totals.stride)
            sum_images(sums, row, 2, batch.n_rows, layer["n_out"], total)


# ---------------------------------------------------------------- update


@cpu_kernel
def sum_slices(slices, start, stop, grads):
    """``grads[start:stop] = sum over s of slices[s, start:stop]``, in order."""
    row = shape(1, 1)
    for i in range(start, stop, lanes(grads)):
        total = tile_load(row, slices[0], i, 0)
        for s in range(1, slices.shape[0]):
            total = total + tile_load(row, slices[s], i, 0)
        tile_store(total, grads, i, 0)


@cpu_kernel
def join_gradients(model, work, batch, team):
    """This worker's share of the image layers' gradient: rows of each filter; the last worker has biases and batch
    norm."""
    for number in range(1, model.layers.size):
        layer, places = model.layers[number], work.places[number]
        if layer["kind"] != LayerKind.CONV2D:
            continue
        k_start, k_stop = share_of(layer["n_in"], TILE_ROWS, team)
        start, row = layer["weight_start"], layer["out_stride"]
        sum_slices(work.slices, start + k_start * row, start + k_stop * row, model.grads)
        if team.worker == team.n_workers - 1:
            sums, n = sums_of(work, layer, places, 0), layer["n_out"]
            sum_images(sums, 0, 2, batch.n_rows, n, Matrix(model.grads, layer["bias_start"], 0))
            if layer["scale_start"] != NONE:
                sum_images(sums, 1, 2, batch.n_rows, n, Matrix(model.grads, layer["scale_start"], 0))


@cpu_kernel
def update_image_layers(model, work, step, rule, team):
    """The optimizer on this worker's rows of each filter; the last worker has biases and batch norm."""
    block = 0
    without_decay = StepSize(step.rate, 0.0, 0.0, step.clip)
    for number in range(1, model.layers.size):
        layer = model.layers[number]
        if layer["kind"] != LayerKind.CONV2D:
            continue
        k_start, k_stop = share_of(layer["n_in"], TILE_ROWS, team)
        walk.update_rows(model, layer, work, block, k_start, k_stop, step, rule)
        block += (layer["n_in"] + TILE_ROWS - 1) // TILE_ROWS
        if team.worker == team.n_workers - 1:
            start, row = layer["bias_start"], layer["out_stride"]
            optimizer_step(model.params, model.grads, model.moments, start, start + row, without_decay, rule)
            if layer["scale_start"] != NONE:
                start = layer["scale_start"]
                optimizer_step(model.params, model.grads, model.moments, start, start + row, without_decay, rule)


@cpu_kernel
def clip_factor(grads, squares, max_grad_norm, team):
    """min(1, max_grad_norm / norm of the whole gradient); -1 if another worker failed."""
    if not barrier(team):
        return -1.0
    start, stop = share_of(squares.size, 1, team)
    for number in range(start, stop):
        first = number * SQUARES_BLOCK
        squares[number] = sum_of_squares(grads, first, min(first + SQUARES_BLOCK, grads.size))
    if not barrier(team):
        return -1.0
    norm = np.sqrt(squares.sum())
    return max_grad_norm / norm if norm > max_grad_norm else 1.0


@cpu_kernel
def prepare_filters(model, work, with_transposes, team):
    """This worker's share of the filters in the forms that the kernels read."""
    for number in range(1, model.layers.size):
        layer, places = model.layers[number], work.places[number]
        if layer["kind"] == LayerKind.CONV2D:
            if layer["algorithm"] == ConvAlgorithm.WINOGRAD:
                starts = places["filters_start"], places["transposed_start"]
                winograd_filters(model.params, layer, work.filters, starts[0], starts[1], team)
            elif with_transposes and layer["input"] > 0:
                transpose_filters(model.params, layer, work.filters, places["transposed_start"], team)


@cpu_inline
def batch_sums(work, targets, order, team):
    """The sample weights of a batch, and what batch norm makes of them."""
    total, n_effective = 0.0, 0
    for i in range(order.size):
        weight = targets.weights[order[i]]
        work.weights[team.worker, i] = weight
        total += weight
        n_effective += weight > 0
    return BatchSums(order.size, total, n_effective < 2)


# ---------------------------------------------------------------- the loops


@cpu_kernel
def train_epoch(models, data, works, plan, rules, record, change, team):
    """Batches [plan.first, plan.last) of an epoch.

    Parameters
    ----------
    models : (Model, Model)
        Of the image layers and of the dense layers; the vectors are the same.
    data : Data
        `rows` are Images.
    works : (ImageWork, Workspace, Rows)
        Of the image layers; of the dense layers, whose inputs are the last image layer's output; no rows, in place of
        those that the dense layers need not read.
    plan : Plan
    rules : (Rule, float)
        Without clipping, and the largest norm of the gradient (0: no clipping).
    record : LossRecord
        Overwritten.
    change : Change
    """
    control = flush_subnormals()
    model, dense = models
    work, dense_work, rows = works
    rule, max_grad_norm = rules
    for number in range(plan.first, plan.last):
        batch, start, stop = walk.batch_of(plan, number)
        of_batch = walk.record_of(record, dense_work, start, stop, team)
        mode = Mode(dense_work.slopes, rule.seed, np.uint64(plan.step + number))
        sums = batch_sums(work, data.targets, batch.order, team)
        prepare_filters(model, work, True, team)
        if not barrier(team):  # the filters are ready
            break
        if not forward_training(model, data, work, batch.order, change, sums, team):
            break
        i_start, i_stop = share_of(batch.order.size, TILE_ROWS, team)
        walk.forward(dense, rows, batch.order, dense_work, mode, i_start, i_stop)
        walk.transpose_weights(dense, dense_work, team)
        walk.loss_of_rows(dense, data.targets, batch, dense_work, rule, of_batch, i_start, i_stop)
        if not barrier(team):  # the transposed weights are ready
            break
        walk.backward(dense, dense_work, i_start, i_stop)
        if not barrier(team):  # all rows' gradients are ready
            break
        if not backward_training(model, work, sums, team):
            break
        join_gradients(model, work, sums, team)
        clip = 1.0
        if max_grad_norm > 0.0:
            walk.gradients(dense, rows, batch.order, dense_work, False, team)
            clip = clip_factor(model.grads, work.norm_squares, max_grad_norm, team)
            if clip < 0.0:
                break
        step = StepSize(plan.rates[number], plan.l2[number], plan.decays[number], clip)
        update_image_layers(model, work, step, rule, team)
        if not walk.descend(dense, rows, batch.order, dense_work, step, rule, team):
            break
        if team.worker == 0:
            record.penalties[number] = work.squares.sum() + dense_work.squares.sum()
    restore_subnormals(control)


@cpu_inline
def worker_images(work, worker):
    """One worker's own part of a workspace for prediction, whose outputs have a row a worker."""
    return ImageWork(
        work.places,
        work.outputs[worker],
        work.slopes,
        work.partial,
        work.codes,
        work.z,
        work.sums,
        work.filters,
        work.slices,
        work.scratch,
        work.statistics,
        work.weights,
        work.squares,
        work.norm_squares,
        work.capacity,
        work.block,
    )


@cpu_kernel
def prepare_prediction(model, work, team):
    """Filters, and factors of batch norm from the running statistics; False if another worker failed."""
    prepare_filters(model, work, False, team)
    for number in range(1, model.layers.size):
        if has_norm(model.layers[number]):
            join_statistics(model, work, number, BatchSums(0, 0.0, True), team)
    return barrier(team)


@cpu_inline
def forward_block(models, images, works, order, change, n, team):
    """The rows `order`, n of them, through all layers, without slopes and dropout."""
    model, dense = models
    work, dense_work, rows = works
    for start in range(0, n, work.block):
        span = Span(start, min(start + work.block, n), start)
        read_images(model, work, images, order, change, span, team)
        forward_segment(model, work, 1, model.layers.size, span, False, team)
    mode = Mode(dense_work.none, np.uint64(0), np.uint64(0))
    walk.forward(dense, rows, order, dense_work, mode, 0, n)


@cpu_kernel
def predict(models, images, works, orders, change, result, team):
    """Predictions of all images, or the last layer's inputs, PREDICT_ROWS at a time through all layers.

    Parameters
    ----------
    works : (ImageWork, Workspace, Rows)
        With a row a worker.
    orders : int64 (n_workers, PREDICT_ROWS)
        Overwritten.
    change : Change
        Not active.
    result : (int, (n_rows, n))
        The loss, whose inverse link is applied, or NONE for the last layer's inputs; where they go.
    """
    control = flush_subnormals()
    model, dense = models
    work, dense_work, rows = works
    own = worker_images(work, team.worker), walk.worker_space(dense_work, team.worker), rows
    loss, out = result
    last = dense.layers[dense.layers.size - 1]
    order = orders[team.worker]
    first, end = share_of(images.n_rows, TILE_ROWS, team)
    if prepare_prediction(model, work, team):
        for start in range(first, end, walk.PREDICT_ROWS):
            n = min(walk.PREDICT_ROWS, end - start)
            for i in range(n):
                order[i] = start + i
            forward_block(models, images, own, order, change, n, team)
            if loss == NONE:
                copy_features(dense, own[1], out, start, n)
            else:
                z = walk.output_of(last, own[1].outputs, own[1].capacity)
                apply_inverse_link(z, loss, last["n_out"], out, start, n)
    restore_subnormals(control)


@cpu_kernel
def copy_features(dense, work, out, start, n):
    """``out[start : start + n]`` = the last layer's inputs."""
    last = dense.layers.size - 1
    x, stride = work.inputs, dense.layers[0]["in_stride"]
    position = 0
    if last > 0:
        x, stride = work.outputs, dense.layers[last - 1]["out_stride"]
        position = dense.layers[last - 1]["output_start"] * work.capacity
    for i in range(n):
        for j in range(out.shape[1]):
            out[start + i, j] = x[position + i * stride + j]


@cpu_kernel
def evaluate(models, data, works, orders, change, rule, record, team):
    """The loss of all images without dropout and changes, left in `record`; the workspaces are as for `predict`."""
    control = flush_subnormals()
    model, dense = models
    work, dense_work, rows = works
    own = worker_images(work, team.worker), walk.worker_space(dense_work, team.worker), rows
    order = orders[team.worker]
    first, end = share_of(data.rows.n_rows, TILE_ROWS, team)
    if prepare_prediction(model, work, team):
        for start in range(first, end, walk.PREDICT_ROWS):
            n = min(walk.PREDICT_ROWS, end - start)
            for i in range(n):
                order[i] = start + i
            forward_block(models, data.rows, own, order, change, n, team)
            of_block = walk.record_of(record, dense_work, start, start + n, team)
            walk.loss_of_rows(dense, data.targets, Batch(order, 1.0), own[1], rule, of_block, 0, n)
    restore_subnormals(control)
