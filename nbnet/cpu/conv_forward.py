"""Images into a batch, and some images forward through layers of the table."""

from __future__ import annotations

import numpy as np

from ..jit import cpu_inline, cpu_kernel
from ..network import ConvAlgorithm, LayerKind
from .augment import augment_rows
from .batch_norm import batch_statistics, image_statistics, move_running_statistics, norm_factors
from .conv2d import Map, conv2d_forward, pixel
from .conv_net import between_of, has_norm, map_of, output_of, stacks_of, statistics_of, sums_of, z_of
from .dense import Matrix
from .pooling import activation_forward, flatten_forward, pool_forward
from .simd import lanes, row_load, shape, tile_load, tile_store
from .winograd import block_of, winograd_input, winograd_output, winograd_products

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


@cpu_kernel
def finish_layer(net, number, i, span):
    """From the convolution's output of image i to the layer's output."""
    layer = net.layers[number]
    skip = map_of(net, max(layer["skip"], 0), i, span)
    norm, output = statistics_of(net, number, 2), output_of(net, number, i, span)
    activation_forward(z_of(net, number, i), norm, skip, layer, output)


@cpu_kernel
def transform_input(net, number, first, span, block, v):
    """Winograd's tiles of the input of some images."""
    layer = net.layers[number]
    for i in range(block.n_images):
        x = map_of(net, layer["input"], first + i, span)
        corner = pixel(x, -layer["padding"], -layer["padding"])
        winograd_input(corner, i, block, layer["in_channels"], v, between_of(net))


@cpu_kernel
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
            if has_norm(layer) and net.trains:
                image_statistics(z, layer, sums_of(net, number, i))
            else:
                finish_layer(net, number, i, span)


@cpu_kernel
def pool_layer_forward(net, number, span):
    """Some images through a pooling that stands alone, or on to the dense layers."""
    layer = net.layers[number]
    for i in range(span.start, span.stop):
        x = map_of(net, layer["input"], i, span)
        output = output_of(net, number, i, span)
        if layer["kind"] == LayerKind.FLATTEN:
            flatten_forward(x, net.layers[layer["input"]], output)
        else:
            pool_forward(x, layer, output)


@cpu_kernel
def forward_segment(net, first, last, span):
    """Some images through layers [first, last); in training a layer `first - 1` with batch norm is finished before."""
    if has_norm(net.layers[first - 1]) and net.trains:
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


@cpu_kernel
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
