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
from .walk import Batch, Mode, StepSize, Workspace
from .winograd import (
    N_PRODUCTS,
    block_of,
    first_tiles,
    lines_between,
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
from .workers import Team, barrier, flush_subnormals, restore_subnormals, share_of

SQUARES_BLOCK = 4096  # elements of the gradient in one partial sum of its norm

# Where a layer's intermediate results lie: in `Net.shared`, which the workers of a fit share, or in the worker's own
# `Net.scratch`. "An image": times the image's number in the batch.
PLACES = np.dtype(
    [
        ("group", np.int64),  # images that Winograd's products take together
        ("map_start", np.int64),  # shared, an image: first pixel of the output
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
    slopes_gap: int  # from an output to its slope, later its gradient; 0: prediction
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


# ---------------------------------------------------------------- where things are


@cpu_inline
def map_of(net, number, i, span):
    """The output of layer `number` for image i, from its first pixel on."""
    layer = net.layers[number]
    at = i if number == net.layers.size - 1 else i - span.shift
    start = net.places[number]["map_start"] + at * layer["map_size"]
    return Map(net.shared, start, layer["pitch"], layer["channel_stride"])


@cpu_inline
def gradient_map(net, number, i, span):
    """Its slopes, later its gradient."""
    image = map_of(net, number, i, span)
    return Map(image.data, image.start + net.slopes_gap, image.pitch, image.stride)


@cpu_inline
def has_norm(layer):
    """Whether the layer has batch norm."""
    return layer["kind"] == LayerKind.CONV2D and layer["scale_start"] != NONE


@cpu_inline
def z_of(net, number, i):
    """The convolution's output of image i: where batch norm keeps it, or in the scratch."""
    layer, places = net.layers[number], net.places[number]
    if has_norm(layer) and net.slopes_gap > 0:
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
def place_of(net, number, i, span, adds, leaves):
    """Where a reader of layer `number` brings its gradient."""
    return Place(gradient_map(net, number, i, span), net.partial_gap - net.slopes_gap, adds, leaves)


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
def read_images(net, images, order, change, span):
    """Images [span.start, span.stop) of a batch into the first layer's maps, changed at random in training."""
    height, width, channels = images.shape
    size = height * width * channels
    for i in range(span.start, span.stop):
        image = map_of(net, 0, i, span)
        if change is not None:
            plain, changed = Matrix(net.scratch, 0, size), Matrix(net.scratch, size, size)
            gather_image(images, order[i], Map(net.scratch, np.int64(0), width, channels))
            augment_rows(plain, changed, images.shape, order[i : i + 1], change.rule, change.seed, change.epoch, (0, 1))
            copy_image(net.scratch[size:], images.shape, image)
        else:
            gather_image(images, order[i], image)


# ---------------------------------------------------------------- forward


@cpu_inline
def finish_layer(net, number, i, span):
    """From the convolution's output of image i to the layer's output."""
    layer = net.layers[number]
    output = Output(map_of(net, number, i, span), net.slopes_gap, net.codes)
    skip = map_of(net, max(layer["skip"], 0), i, span)
    activation_forward(z_of(net, number, i), statistics_of(net, number, 2), skip, layer, output)


@cpu_inline
def transform_input(net, number, first, span, block, v):
    """Winograd's tiles of the input of some images."""
    layer = net.layers[number]
    for i in range(block.n_images):
        x = map_of(net, layer["input"], first + i, span)
        corner = pixel(x, -layer["padding"], -layer["padding"])
        winograd_input(corner, i, block, layer["in_channels"], v, between_of(net))


@cpu_inline
def stacks_of(net, number, block):
    """Winograd's tiles of input and their products, of a block of images."""
    layer, places = net.layers[number], net.places[number]
    n_tiles = max(TILE_ROWS, first_tiles(block)[3])
    v = stack_of(net.scratch, places["v_start"], n_tiles, layer["in_channels"])
    return v, stack_of(net.scratch, places["m_start"], n_tiles, layer["n_out"])


@cpu_inline
def conv_layer_forward(net, number, span):
    """A convolution of some images. Batch norm in training keeps its output, with each image's statistics; otherwise
    the layer is finished."""
    layer, places = net.layers[number], net.places[number]
    winograd = layer["algorithm"] == ConvAlgorithm.WINOGRAD
    if has_norm(layer):
        bias = Matrix(net.shared, places["zeros_start"], layer["out_stride"])
    else:
        bias = Matrix(net.params, layer["bias_start"], layer["out_stride"])
    for first in range(span.start, span.stop, places["group"]):
        n = min(places["group"], span.stop - first)
        block = block_of(n, layer["height"], layer["width"])
        v, m = stacks_of(net, number, block)
        if winograd:
            transform_input(net, number, first, span, block, v)
            filters = places["filters_start"]
            winograd_products(v, net.shared, filters, m, block, layer["in_channels"], layer["n_out"])
        for i in range(first, first + n):
            z = z_of(net, number, i)
            if winograd:
                winograd_output(m, i - first, block, layer["n_out"], bias, z, between_of(net))
            else:
                conv2d_forward(map_of(net, layer["input"], i, span), net.params, bias, layer, z)
            if has_norm(layer) and net.slopes_gap > 0:
                image_statistics(z, layer, sums_of(net, number, i))
            else:
                finish_layer(net, number, i, span)


@cpu_inline
def pool_layer_forward(net, number, span):
    """Some images through a pooling that stands alone, or on to the dense layers."""
    layer = net.layers[number]
    for i in range(span.start, span.stop):
        x = map_of(net, layer["input"], i, span)
        output = Output(map_of(net, number, i, span), net.slopes_gap, net.codes)
        if layer["kind"] == LayerKind.FLATTEN:
            flatten_forward(x, net.layers[layer["input"]], output)
        else:
            pool_forward(x, layer, output)


@cpu_kernel
def forward_segment(net, first, last, span):
    """Some images through layers [first, last); in training a layer `first - 1` with batch norm is finished before."""
    if has_norm(net.layers[first - 1]) and net.slopes_gap > 0:
        for i in range(span.start, span.stop):
            finish_layer(net, first - 1, i, span)
    for number in range(first, last):
        if net.layers[number]["kind"] == LayerKind.CONV2D:
            conv_layer_forward(net, number, span)
        else:
            pool_layer_forward(net, number, span)


@cpu_inline
def segment_end(layers, first):
    """Layers [first, end) are a segment: `end` is behind the first one with batch norm, or behind the last layer."""
    for number in range(first, layers.size):
        if has_norm(layers[number]):
            return number + 1
    return layers.size


@cpu_inline
def join_statistics(net, number, n_rows, team):
    """A batch norm layer's statistics of the batch, or the running ones if there are no rows, and what is multiplied
    and added with them; each worker has its own. The first worker moves the running statistics."""
    layer = net.layers[number]
    statistics = statistics_of(net, number, 0)
    if n_rows == 0:
        for c in range(2 * layer["out_stride"]):
            statistics.data[statistics.start + c] = net.params[layer["state_start"] + c]
    else:
        weights = net.scratch[net.weights_start : net.weights_start + n_rows]
        batch_statistics(sums_of(net, number, 0), weights, layer, statistics)
        if team.worker == 0:
            move_running_statistics(net.params, layer, statistics)
    norm_factors(net.params, layer, statistics, statistics_of(net, number, 2))


# ---------------------------------------------------------------- backward


@cpu_inline
def gradient_before_activation(net, number, i, span, sums):
    """Gradient of image i before the activation, into the scratch; its sums by channel into `sums`."""
    layer, grad = net.layers[number], gradient_map(net, number, i, span)
    activation_backward(grad, net.codes, -net.slopes_gap, layer, grad_z_of(net, number), sums)


@cpu_inline
def gradient_of_conv(net, number, i, span, running):
    """Gradient of a convolution's output, image i, into the scratch; the skip gets its part."""
    layer = net.layers[number]
    if has_norm(layer):  # the image's sums are known, and other workers may be reading them
        sums = Matrix(net.scratch, np.int64(0), layer["out_stride"])
    else:
        sums = sums_of(net, number, i)
    gradient_before_activation(net, number, i, span, sums)
    grad_z = grad_z_of(net, number)
    if layer["skip"] > 0:
        place = place_of(net, layer["skip"], i, span, layer["skip_adds"], layer["skip_leaves"])
        deliver(grad_z, place, layer["height"], layer["width"], layer["n_out"])
    if has_norm(layer):
        share = 0.0
        if not running:
            share = net.scratch[net.weights_start + i] / (layer["height"] * layer["width"])
        statistics, totals = statistics_of(net, number, 0), statistics_of(net, number, 4)
        batch_norm_backward(grad_z, z_of(net, number, i), statistics, totals, share, (net.params, layer))


@cpu_inline
def deliver_input(net, number, grad_x, i, span):
    """The gradient of a layer's input to the map below."""
    layer = net.layers[number]
    source = net.layers[layer["input"]]
    place = place_of(net, layer["input"], i, span, layer["input_adds"], layer["input_leaves"])
    deliver(grad_x, place, source["out_height"], source["out_width"], source["n_out"])


@cpu_inline
def direct_layer_backward(net, number, span, running, grads):
    """A convolution of some images backward, directly; its filters' gradient is added to `grads`."""
    layer, places = net.layers[number], net.places[number]
    source = net.layers[layer["input"]]
    grad_z = grad_z_of(net, number)
    for i in range(span.start, span.stop):
        gradient_of_conv(net, number, i, span, running)
        conv2d_filter_gradient(map_of(net, layer["input"], i, span), grad_z, layer, grads, net.scratch)
        if layer["input"] > 0:
            grad_x = grad_x_of(net, number)
            size = source["out_height"], source["out_width"]
            zeros = Matrix(net.shared, places["zeros_start"], layer["out_stride"])
            conv2d_backward(grad_z, zeros, places["transposed_start"], layer, grad_x, size)
            deliver_input(net, number, grad_x, i, span)


@cpu_inline
def winograd_layer_backward(net, number, span, running):
    """A convolution of some images backward by Winograd's algorithm; the transformed filters' gradient is added to in
    the scratch."""
    layer, places = net.layers[number], net.places[number]
    n_in, n_out = layer["in_channels"], layer["n_out"]
    for first in range(span.start, span.stop, places["group"]):
        block = block_of(min(places["group"], span.stop - first), layer["height"], layer["width"])
        v, m = stacks_of(net, number, block)
        transform_input(net, number, first, span, block, v)
        for i in range(block.n_images):
            gradient_of_conv(net, number, first + i, span, running)
            winograd_output_gradient(grad_z_of(net, number), i, block, n_out, m, between_of(net))
        winograd_filter_gradient(v, m, block, n_in, n_out, net.scratch, places["filter_grad_start"])
        if layer["input"] > 0:
            winograd_products(m, net.shared, places["transposed_start"], v, block, n_out, n_in)
            grad_x = grad_x_of(net, number)
            for i in range(block.n_images):
                winograd_input_gradient(v, i, block, n_in, grad_x, between_of(net))
                inside = pixel(grad_x, layer["padding"], layer["padding"])
                deliver_input(net, number, inside, first + i, span)


@cpu_inline
def pool_layer_backward(net, number, span):
    """Some images backward through a pooling that stands alone, or from the dense layers."""
    layer = net.layers[number]
    if layer["input"] == 0:
        return
    grad_x = grad_x_of(net, number)
    for i in range(span.start, span.stop):
        grad = gradient_map(net, number, i, span)
        if layer["kind"] == LayerKind.FLATTEN:
            flatten_backward(grad, net.layers[layer["input"]], grad_x)
        else:
            x, y = map_of(net, layer["input"], i, span), map_of(net, number, i, span)
            pool_backward(x, y, grad, layer, grad_x)
        deliver_input(net, number, grad_x, i, span)


@cpu_inline
def norm_gradient_sums(net, number, span):
    """What a batch norm layer must know of each image's gradient before it can go back."""
    layer = net.layers[number]
    for i in range(span.start, span.stop):
        gradient_before_activation(net, number, i, span, sums_of(net, number, i))
        statistics = statistics_of(net, number, 0)
        image_gradient_sums(grad_z_of(net, number), z_of(net, number, i), statistics, layer, sums_of(net, number, i))


@cpu_inline
def clear_filter_gradient(net, number, grads):
    """Zero where a layer's filters' gradient is summed up."""
    layer = net.layers[number]
    if layer["algorithm"] == ConvAlgorithm.WINOGRAD:
        start = net.places[number]["filter_grad_start"]
        net.scratch[start : start + N_PRODUCTS * layer["in_channels"] * layer["n_out"]] = 0.0
    else:
        grads[layer["weight_start"] : layer["weight_start"] + layer["n_in"] * layer["out_stride"]] = 0.0


@cpu_kernel
def backward_slice(net, last, first, images, running, grads):
    """Images [images[0], images[1]) backward through layers last, last - 1, ..., first; the filters' gradients into
    `grads`.

    A layer `first - 1` with batch norm, whose turn comes when all images are here, takes its sums.
    """
    for number in range(first, last + 1):
        if net.layers[number]["kind"] == LayerKind.CONV2D:
            clear_filter_gradient(net, number, grads)
    for start in range(images[0], images[1], net.block):
        span = Span(start, min(start + net.block, images[1]), np.int64(0))
        for number in range(last, first - 1, -1):
            layer = net.layers[number]
            if layer["kind"] != LayerKind.CONV2D:
                pool_layer_backward(net, number, span)
            elif layer["algorithm"] == ConvAlgorithm.WINOGRAD:
                winograd_layer_backward(net, number, span, running)
            else:
                direct_layer_backward(net, number, span, running, grads)
        if has_norm(net.layers[first - 1]):
            norm_gradient_sums(net, first - 1, span)
    for number in range(first, last + 1):
        layer = net.layers[number]
        if layer["kind"] == LayerKind.CONV2D and layer["algorithm"] == ConvAlgorithm.WINOGRAD:
            start = net.places[number]["filter_grad_start"]
            winograd_filters_backward(net.scratch, start, layer, grads, between_of(net))


@cpu_inline
def segment_begin(layers, last, summed):
    """Layers [begin, last] are a segment of the backward pass: it reaches down to the next batch norm, and takes that
    one's sums; with these (`summed`) the next segment begins with it."""
    begin = last if summed or not has_norm(layers[last]) else last + 1
    while begin > 1 and not has_norm(layers[begin - 1]):
        begin -= 1
    return begin


@cpu_inline
def join_gradient_sums(net, number, n_rows):
    """The batch's sums of a batch norm layer's gradient; each worker has its own."""
    sums, totals = sums_of(net, number, 0), statistics_of(net, number, 4)
    for row in range(2):
        total = Matrix(totals.data, totals.start + row * totals.stride, totals.stride)
        sum_images(sums, row, n_rows, net.layers[number]["n_out"], total)


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


@cpu_inline
def join_gradients(net, slices, grads, n_rows, team):
    """This worker's share of the image layers' gradient: rows of each filter; the last worker has biases and batch
    norm."""
    for number in range(1, net.layers.size):
        layer = net.layers[number]
        if layer["kind"] != LayerKind.CONV2D:
            continue
        k_start, k_stop = share_of(layer["n_in"], TILE_ROWS, team)
        start, row = layer["weight_start"], layer["out_stride"]
        sum_slices(slices, start + k_start * row, start + k_stop * row, grads)
        if team.worker == team.n_workers - 1:
            sums, n = sums_of(net, number, 0), layer["n_out"]
            sum_images(sums, np.int64(0), n_rows, n, Matrix(grads, layer["bias_start"], row))
            if has_norm(layer):
                sum_images(sums, np.int64(1), n_rows, n, Matrix(grads, layer["scale_start"], row))


@cpu_inline
def update_image_layers(model, work, step, rule, team):
    """The optimizer on this worker's rows of each filter; the last worker has biases and batch norm.

    `work` has `squares`: the sums of squares of the filters, as in `walk.update_rows`.
    """
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
            start = layer["scale_start"] if has_norm(layer) else layer["bias_start"]  # the bias follows the factors
            stop = layer["bias_start"] + layer["out_stride"]
            optimizer_step(model.params, model.grads, model.moments, start, stop, without_decay, rule)


@cpu_inline
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
def prepare_filters(net, team):
    """This worker's share of the filters in the forms that the kernels read."""
    for number in range(1, net.layers.size):
        layer, places = net.layers[number], net.places[number]
        if layer["kind"] == LayerKind.CONV2D:
            if layer["algorithm"] == ConvAlgorithm.WINOGRAD:
                starts = places["filters_start"], places["transposed_start"]
                winograd_filters(net.params, layer, net.shared, starts, between_of(net), team)
            elif net.slopes_gap > 0 and layer["input"] > 0:
                transpose_filters(net.params, layer, net.shared, places["transposed_start"], team)


@cpu_inline
def read_weights(net, weights, order):
    """The batch's sample weights, divided by their sum, into the scratch; True if batch norm must take the running
    statistics, because at most one row counts."""
    total, n_effective = 0.0, 0
    for i in range(order.size):
        weight = weights[order[i]]
        net.scratch[net.weights_start + i] = weight
        total += weight
        n_effective += weight > 0
    for i in range(order.size):
        if total > 0:
            net.scratch[net.weights_start + i] /= total
    return n_effective < 2


@cpu_inline
def own_net(net, worker):
    """The net with this worker's own scratch."""
    return Net(
        net.layers,
        net.params,
        net.places,
        net.shared,
        net.scratch[worker],
        net.codes,
        net.slopes_gap,
        net.partial_gap,
        net.weights_start,
        net.block,
    )


# ---------------------------------------------------------------- the loops


class Update(NamedTuple):
    """What the update of the image layers needs."""

    slices: np.ndarray  # (n_slices, parameters of the image layers): the filters' gradients of slices of the batch
    squares: np.ndarray  # of the image layers' weights, as in `walk.Workspace`
    norm_squares: np.ndarray  # of the gradient, a sum for each SQUARES_BLOCK elements
    max_grad_norm: float  # 0: no clipping


@cpu_inline
def train_forward(net, images, order, change, running, team):
    """This worker's rows of a batch through all image layers; False if another worker failed."""
    i_start, i_stop = share_of(order.size, TILE_ROWS, team)
    first = np.int64(1)
    while True:
        last = segment_end(net.layers, first)
        for start in range(i_start, i_stop, net.block):
            span = Span(start, min(start + net.block, i_stop), np.int64(0))
            if first == 1:
                read_images(net, images, order, change, span)
            forward_segment(net, first, last, span)
        if last == first or not has_norm(net.layers[last - 1]):
            return True
        if not barrier(team):  # all images' statistics are ready
            return False
        join_statistics(net, last - 1, 0 if running else order.size, team)
        first = last


@cpu_inline
def train_backward(net, slices, n_rows, running, team):
    """This worker's slices of a batch back through all image layers; False if another worker failed."""
    n_slices = slices.shape[0]
    s_start, s_stop = share_of(n_slices, 1, team)
    last, first, summed = net.layers.size - 1, net.layers.size, np.int64(0)
    while first > 1:
        first = segment_begin(net.layers, last, summed)
        for number in range(s_start, s_stop):
            images = number * n_rows // n_slices, (number + 1) * n_rows // n_slices
            backward_slice(net, last, first, images, running, slices[number])
        if not barrier(team):  # all slices and all images' sums are ready
            return False
        if first > 1:
            last, summed = first - 1, np.int64(1)
            join_gradient_sums(net, last, n_rows)
    return True


@cpu_inline
def train_dense(dense, rows, targets, batch, work, rule, record, team):
    """A batch through the dense layers, forward and backward to their inputs; False if another worker failed.

    `record`: the batch's Record, and the number of the step.
    """
    of_batch, number = record
    mode = Mode(work.slopes, rule.seed, np.uint64(number))
    i_start, i_stop = share_of(batch.order.size, TILE_ROWS, team)
    walk.forward(dense, rows, batch.order, work, mode, i_start, i_stop)
    walk.transpose_weights(dense, work, team)
    walk.loss_of_rows(dense, targets, batch, work, rule, of_batch, i_start, i_stop)
    if not barrier(team):  # the transposed weights are ready
        return False
    walk.backward(dense, work, i_start, i_stop)
    return barrier(team)  # all rows' gradients are ready


@cpu_inline
def train_update(models, rows, batch, works, step, rule, team):
    """The gradient of the image layers, and the update of all; False if another worker failed.

    `models`: of the image layers and of the dense ones; `works`: (Net, Update, Workspace).
    """
    model, dense = models
    net, update, work = works
    join_gradients(net, update.slices, model.grads, batch.order.size, team)
    clip = step.clip
    if update.max_grad_norm > 0.0:
        walk.gradients(dense, rows, batch.order, work, False, team)
        clip = clip_factor(model.grads, update.norm_squares, update.max_grad_norm, team)
        if clip < 0.0:
            return False
    step = StepSize(step.rate, step.l2, step.decay, clip)
    update_image_layers(model, update, step, rule, team)
    return walk.descend(dense, rows, batch.order, work, step, rule, team)


@cpu_kernel
def train_epoch(models, data, works, plan, rule, record, change, team):
    """Batches [plan.first, plan.last) of an epoch.

    Parameters
    ----------
    models : (Model, Model)
        Of the image layers and of the dense layers; the vectors are the same.
    data : (Images, Targets, Rows)
        The rows stand for those that the dense layers need not read: there are none.
    works : (Net, Update, Workspace)
        The workspace is that of the dense layers, whose inputs are the last image layer's output.
    plan : Plan
    rule : Rule
        Without clipping, which `Update` says.
    record : LossRecord
        Overwritten.
    change : Change or None
    """
    control = flush_subnormals()
    images, targets, rows = data
    net, update, work = works
    net = own_net(net, team.worker)
    for number in range(plan.first, plan.last):
        batch, start, stop = walk.batch_of(plan, number)
        of_batch = walk.record_of(record, work, start, stop, team), plan.step + number
        running = read_weights(net, targets.weights, batch.order)
        prepare_filters(net, team)
        if not barrier(team):  # the filters are ready
            break
        if not train_forward(net, images, batch.order, change, running, team):
            break
        if not train_dense(models[1], rows, targets, batch, work, rule, of_batch, team):
            break
        if not train_backward(net, update.slices, batch.order.size, running, team):
            break
        step = StepSize(plan.rates[number], plan.l2[number], plan.decays[number], 1.0)
        if not train_update(models, rows, batch, (net, update, work), step, rule, team):
            break
        if team.worker == 0:
            record.penalties[number] = update.squares.sum() + work.squares.sum()
    restore_subnormals(control)


@cpu_inline
def prediction_net(net, worker):
    """The net with this worker's own memory."""
    return Net(
        net.layers,
        net.params,
        net.places,
        net.shared[worker],
        net.scratch[worker],
        net.codes,
        net.slopes_gap,
        net.partial_gap,
        net.weights_start,
        net.block,
    )


@cpu_inline
def prediction_space(net, work, worker):
    """The worker's own workspace of the dense layers, whose inputs are the last image layer's maps."""
    own = walk.worker_space(work, worker)
    return Workspace(
        net.shared[worker][net.places[net.places.size - 1]["map_start"] :],
        own.input_slopes,
        own.outputs,
        own.slopes,
        own.none,
        own.transposed,
        own.pieces,
        own.packed,
        own.squares,
        own.capacity,
    )


@cpu_inline
def prepare_prediction(net, alone):
    """Filters, and batch norm's factors from the running statistics. `alone`: a team of one."""
    prepare_filters(net, alone)
    for number in range(1, net.layers.size):
        if has_norm(net.layers[number]):
            join_statistics(net, number, np.int64(0), alone)


@cpu_inline
def predict_features(net, images, order, change, n):
    """Rows `order`, n of them, through all image layers, a block at a time."""
    for start in range(0, n, net.block):
        span = Span(start, min(start + net.block, n), start)
        read_images(net, images, order, change, span)
        forward_segment(net, np.int64(1), net.layers.size, span)


@cpu_inline
def predict_dense(dense, rows, order, work, n):
    """Rows of a block through the dense layers."""
    walk.forward(dense, rows, order, work, Mode(work.none, np.uint64(0), np.uint64(0)), np.int64(0), n)


@cpu_kernel
def predict(dense, data, works, orders, change, result, team):
    """Predictions of all images, or the last layer's inputs, PREDICT_ROWS at a time through all layers.

    Parameters
    ----------
    dense : Model
        Of the dense layers.
    data : (Images, Targets, Rows)
        As for `train_epoch`; the targets are not read.
    works : (Net, Workspace)
        With a row a worker.
    orders : int64 (n_workers, PREDICT_ROWS)
        Overwritten.
    change : None
    result : (int, (n_rows, n))
        The loss, whose inverse link is applied, or NONE for the last layer's inputs; where they go.
    """
    control = flush_subnormals()
    images, _, rows = data
    net, work = prediction_net(works[0], team.worker), prediction_space(works[0], works[1], team.worker)
    prepare_prediction(net, Team(team.state, np.int64(0), np.int64(1)))
    loss, out = result
    last = dense.layers[dense.layers.size - 1]
    order = orders[team.worker]
    first, end = share_of(images.n_rows, TILE_ROWS, team)
    for start in range(first, end, walk.PREDICT_ROWS):
        n = min(walk.PREDICT_ROWS, end - start)
        for i in range(n):
            order[i] = start + i
        predict_features(net, images, order, change, n)
        predict_dense(dense, rows, order, work, n)
        if loss == NONE:
            copy_features(dense, work, out, start, n)
        else:
            apply_inverse_link(walk.output_of(last, work.outputs, work.capacity), loss, last["n_out"], out, start, n)
    restore_subnormals(control)


@cpu_inline
def copy_features(dense, work, out, start, n):
    """``out[start : start + n]`` = the last layer's inputs."""
    last = dense.layers.size - 1
    x, stride, position = work.inputs, dense.layers[0]["in_stride"], np.int64(0)
    if last > 0:
        x, stride = work.outputs, dense.layers[last - 1]["out_stride"]
        position = dense.layers[last - 1]["output_start"] * work.capacity
    for i in range(n):
        for j in range(out.shape[1]):
            out[start + i, j] = x[position + i * stride + j]


@cpu_kernel
def evaluate(dense, data, works, orders, change, result, team):
    """The loss of all images without dropout and changes; arguments as for `predict`, but `result` is (Rule,
    LossRecord)."""
    control = flush_subnormals()
    images, targets, rows = data
    net, work = prediction_net(works[0], team.worker), prediction_space(works[0], works[1], team.worker)
    prepare_prediction(net, Team(team.state, np.int64(0), np.int64(1)))
    rule, record = result
    order = orders[team.worker]
    first, end = share_of(images.n_rows, TILE_ROWS, team)
    for start in range(first, end, walk.PREDICT_ROWS):
        n = min(walk.PREDICT_ROWS, end - start)
        for i in range(n):
            order[i] = start + i
        predict_features(net, images, order, change, n)
        predict_dense(dense, rows, order, work, n)
        of_block = walk.record_of(record, works[1], start, start + n, team)
        walk.loss_of_rows(dense, targets, Batch(order, 1.0), work, rule, of_block, 0, n)
    restore_subnormals(control)
