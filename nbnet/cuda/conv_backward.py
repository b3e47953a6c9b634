"""A batch backward through layers of the table."""

from __future__ import annotations

from ..network import LayerKind
from .batch_norm import batch_norm_backward, image_gradient_sums, sum_images
from .conv2d import conv2d_backward, conv2d_filter_gradient
from .conv_net import has_norm, statistics_of, sums_of
from .dense import matrix
from .pooling import Place, activation_backward, deliver, flatten_backward, pool_backward


def place_of(work, number):
    """Where a reader of layer `number` brings its gradient."""
    return Place(work.results[number].slopes, work.partials)


def gradient_of_conv(queue, layer, params, grads, own, work, n_images):
    """Gradient of a convolution's output; the skip gets its part, bias and batch norm theirs in `grads`."""
    sums, row = sums_of(layer, work), layer["out_stride"]
    activation_backward(queue, own.slopes, work.codes, layer, own.grad_z, sums, own.border, n_images)
    sum_images(queue, sums, 0, n_images, layer["n_out"], matrix(grads, layer["bias_start"], row))
    if layer["skip"] > 0:
        place, adds, leaves = place_of(work, layer["skip"]), layer["skip_adds"], layer["skip_leaves"]
        size = layer["height"], layer["width"], own.grad_z.stride
        deliver(queue, own.grad_z, place, adds, leaves, *size, n_images)
    if has_norm(layer):
        statistics = statistics_of(layer, own, 0)
        image_gradient_sums(queue, own.grad_z, own.z, statistics, layer, sums, n_images)
        scale = matrix(grads, layer["scale_start"], layer["bias_start"] - layer["scale_start"])
        sum_images(queue, sums, 1, n_images, layer["n_out"], scale)
        shares, params_layer = work.weights.shares, (params, layer)
        batch_norm_backward(queue, own.grad_z, own.z, statistics, scale, shares, params_layer, n_images)


def conv_layer_backward(queue, layers, params, grads, number, work, n_images):
    """A convolution of a batch backward."""
    layer, own = layers[number], work.results[number]
    x = work.results[layer["input"]].y
    gradient_of_conv(queue, layer, params, grads, own, work, n_images)
    conv2d_filter_gradient(queue, x, own.grad_z, layer, grads, work.pieces, own.tables, n_images)
    if layer["input"] > 0:
        place = place_of(work, layer["input"])
        conv2d_backward(queue, own.grad_z, params, layer, place, own.tables, n_images)


def pool_layer_backward(queue, layers, number, work, n_images):
    """A batch backward through a pooling that stands alone, or from the dense layers."""
    layer, own = layers[number], work.results[number]
    if layer["input"] == 0:
        return
    place = place_of(work, layer["input"])
    if layer["kind"] == LayerKind.FLATTEN:
        flatten_backward(queue, own.slopes, layers[layer["input"]], place, layer, n_images)
    else:
        pool_backward(queue, work.results[layer["input"]].y, own.y, own.slopes, layer, place, n_images)


def backward_layers(queue, layers, params, grads, work, n_images):
    """From the gradient of the last map to those of all filters, biases and batch norms."""
    for number in range(layers.size - 1, 0, -1):
        if layers[number]["kind"] == LayerKind.CONV2D:
            conv_layer_backward(queue, layers, params, grads, number, work, n_images)
        else:
            pool_layer_backward(queue, layers, number, work, n_images)
