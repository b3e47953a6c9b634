"""Walks the image rows of the layer table on the host, and the dense ones through `nbnet.cuda.walk`: one training step,
one prediction. The functions have the arguments of those of `nbnet.cuda.walk`."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numba
import numpy as np
from numba import uint32

from ..network import NONE
from . import walk
from .conv_backward import backward_layers
from .conv_forward import forward_layers, read_images
from .dense import dense_backward, matrix, row_number
from .jit import cuda, cuda_kernel
from .losses import apply_inverse_link
from .product import n_blocks
from .reductions import BLOCK, block_sum


class Model(NamedTuple):
    """The image layers, and the dense ones, which have the same vectors."""

    layers: np.ndarray  # on the host
    dense: walk.Model
    params: object
    augment: object  # augment.Rule or None


@functools.cache
def _weights_kernel(dtype):
    sum_of_block, zero, one = block_sum(dtype), dtype(0), dtype(1)

    @cuda_kernel(BLOCK)
    def read_weights(sample_weights, batch, scales, weights, n_images):
        count, scale = zero, scales[batch.position[1]]
        for i in range(cuda.threadIdx.x, n_images, BLOCK):
            count += one if sample_weights[row_number(batch, uint32(i))] > 0 else zero
        running = sum_of_block(count) < dtype(2)
        for i in range(cuda.threadIdx.x, n_images, BLOCK):
            share = sample_weights[row_number(batch, uint32(i))] * scale
            weights.shares[i] = zero if running else share
        if cuda.threadIdx.x == 0:
            weights.running[0] = one if running else zero

    return read_weights


def read_weights(queue, sample_weights, plan, weights, n_images):
    """The batch's sample weights, divided by their sum, into `weights`; batch norm must take the running statistics
    where at most one image counts."""
    kernel = _weights_kernel(getattr(numba, sample_weights.dtype.name))
    queue.add(kernel, 1, BLOCK, sample_weights, plan.batch, plan.scales, weights, np.uint32(n_images))


def last_gradient(model, work):
    """The gradient of the dense layers' inputs: that of the last map."""
    return matrix(work.slopes, work.results[-1].slopes.start, model.dense.layers["in_stride"][0])


def train_step(queue, model, data, work, plan, rule, n_rows):
    """One batch of an epoch; run again, the queue does the next one. As `walk.train_step`, over `Images`."""
    dense, without_rows = model.dense, walk.Data(None, data.targets)
    change = None if model.augment is None else (model.augment, rule.seed)
    read_weights(queue, data.targets.on_device.weights, plan, work.weights, n_rows)
    read_images(queue, data.rows, plan, work, change, n_rows)
    forward_layers(queue, model.layers, model.params, work, True, n_rows)
    walk.backpropagate(queue, dense, without_rows, plan, work.dense, rule, n_rows)
    walk.gradients(queue, dense, None, plan.batch, work.dense, False, n_rows)
    first = dense.layers[0]
    grad_y = walk.output_of(first, work.dense.slopes, work.dense.capacity)
    dense_backward(queue, grad_y, model.params, first, last_gradient(model, work), n_rows)
    backward_layers(queue, model.layers, model.params, dense.grads, work, n_rows)
    walk.descend(queue, dense, plan, work.dense, rule)
    walk.next_batch(queue, plan, n_rows, work.dense.squares)


def predict_features(queue, model, rows, work, plan, n_rows):
    """The next images through all image layers, with running statistics and without changes."""
    read_images(queue, rows, plan, work, None, n_rows)
    forward_layers(queue, model.layers, model.params, work, False, n_rows)


@functools.cache
def _copy_kernel():
    @cuda_kernel(BLOCK)
    def copy_features(x, batch, out, n_rows):
        number = uint32(uint32(cuda.blockIdx.x) * uint32(BLOCK) + uint32(cuda.threadIdx.x))
        i, j = uint32(number // out.stride), uint32(number % out.stride)
        if i < n_rows:
            out.data[out.start + (batch.position[0] + i) * out.stride + j] = x.data[x.start + i * x.stride + j]

    return copy_features


def copy_features(queue, x, batch, out, n_rows):
    """``out[position + i] = x[i]``, for the rows of a batch; out has no pads."""
    grid = n_blocks(n_rows * int(out.stride), BLOCK)
    queue.add(_copy_kernel(), grid, BLOCK, x, batch, out, np.uint32(n_rows))


def predict(queue, model, rows, work, plan, loss, out, n_rows):
    """Predictions of the next `n_rows` images through all layers, or for a loss of NONE what the last layer reads."""
    dense = model.dense
    predict_features(queue, model, rows, work, plan, n_rows)
    walk.forward(queue, dense, None, plan.batch, work.dense, work.dense.none, 0, n_rows)
    if loss == NONE:
        copy_features(queue, walk.input_of(dense, work.dense, dense.layers.size - 1), plan.batch, out, n_rows)
    else:
        last = dense.layers[-1]
        z = walk.output_of(last, work.dense.outputs, work.dense.capacity)
        apply_inverse_link(queue, z, loss, last["n_out"], plan.batch, out, n_rows)
    walk.next_batch(queue, plan, n_rows, work.dense.none)


def evaluate(queue, model, data, work, plan, rule, n_rows):
    """The loss of the next `n_rows` images without dropout and changes, left in `plan.losses`."""
    predict_features(queue, model, data.rows, work, plan, n_rows)
    walk.forward(queue, model.dense, None, plan.batch, work.dense, work.dense.none, 0, n_rows)
    walk.loss_of_rows(queue, model.dense, data.targets, plan, work.dense, rule, n_rows)
    walk.next_batch(queue, plan, n_rows, work.dense.none)
