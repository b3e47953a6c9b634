"""Some images backward through layers of the table; the filters' gradients are summed up by slices of the batch."""

from __future__ import annotations

import numpy as np

from ..jit import cpu_inline, cpu_kernel
from ..network import ConvAlgorithm, LayerKind
from .batch_norm import batch_norm_backward, image_gradient_sums, sum_images
from .conv2d import conv2d_backward, conv2d_filter_gradient, pixel
from .conv_forward import transform_input
from .conv_net import (
    Span,
    between_of,
    grad_x_of,
    grad_z_of,
    gradient_map,
    has_norm,
    map_of,
    place_of,
    stacks_of,
    statistics_of,
    sums_of,
    z_of,
)
from .dense import Matrix
from .pooling import activation_backward, deliver, flatten_backward, pool_backward
from .winograd import (
    N_PRODUCTS,
    block_of,
    winograd_filter_gradient,
    winograd_filters_backward,
    winograd_input_gradient,
    winograd_output_gradient,
    winograd_products,
)


@cpu_inline
def gradient_before_activation(net, number, i, span, sums):
    """Gradient of image i before the activation, into the scratch; its sums by channel into `sums`."""
    layer, grad = net.layers[number], gradient_map(net, number, i, span)
    codes_gap = -net.places[number]["gradient_gap"]
    activation_backward(grad, net.codes, codes_gap, layer, grad_z_of(net, number), sums)


@cpu_kernel
def gradient_before_norm(net, number, i, span):
    """Gradient of batch norm's output of image i: where its reader has left it, or spread over pooling's windows."""
    layer = net.layers[number]
    if layer["pool_height"] * layer["pool_width"] == 1:
        return gradient_map(net, number, i, span)
    gradient_before_activation(net, number, i, span, Matrix(net.scratch, np.int64(0), layer["out_stride"]))
    return grad_z_of(net, number)


@cpu_kernel
def gradient_of_conv(net, number, i, span, running):
    """Gradient of a convolution's output, image i, into the scratch; the skip gets its part."""
    layer = net.layers[number]
    grad_z = grad = grad_z_of(net, number)
    if has_norm(layer):
        grad = gradient_before_norm(net, number, i, span)
    else:
        gradient_before_activation(net, number, i, span, sums_of(net, number, i))
    if layer["skip"] > 0:
        place = place_of(net, layer["skip"], i, span, layer["skip_adds"], layer["skip_leaves"])
        deliver(grad, place, layer["height"], layer["width"], layer["n_out"])
    if has_norm(layer):
        share = 0.0
        if not running:
            share = net.scratch[net.weights_start + i] / (layer["height"] * layer["width"])
        z, statistics, totals = z_of(net, number, i), statistics_of(net, number, 0), statistics_of(net, number, 4)
        batch_norm_backward(grad, z, statistics, totals, share, (net.params, layer), grad_z)


@cpu_kernel
def deliver_input(net, number, grad_x, i, span):
    """The gradient of a layer's input to the map below."""
    layer = net.layers[number]
    source = net.layers[layer["input"]]
    place = place_of(net, layer["input"], i, span, layer["input_adds"], layer["input_leaves"])
    deliver(grad_x, place, source["out_height"], source["out_width"], source["n_out"])


@cpu_kernel
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


@cpu_kernel
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


@cpu_kernel
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


@cpu_kernel
def norm_gradient_sums(net, number, span):
    """What a batch norm layer must know of each image's gradient before it can go back."""
    layer = net.layers[number]
    for i in range(span.start, span.stop):
        grad, z = gradient_before_norm(net, number, i, span), z_of(net, number, i)
        image_gradient_sums(grad, z, statistics_of(net, number, 0), layer, sums_of(net, number, i))


@cpu_kernel
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


@cpu_kernel
def join_gradient_sums(net, number, n_rows):
    """The batch's sums of a batch norm layer's gradient; each worker has its own."""
    sums, totals = sums_of(net, number, 0), statistics_of(net, number, 4)
    for row in range(2):
        total = Matrix(totals.data, totals.start + row * totals.stride, totals.stride)
        sum_images(sums, row, n_rows, net.layers[number]["n_out"], total)
