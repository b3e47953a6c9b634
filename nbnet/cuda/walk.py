"""Walks the layer table on the host and puts the launches of a step into a queue: one training step, one gradient, one
prediction.

Adding a layer means one branch in `forward`, one in `backward` and one in `gradients`.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numba
import numpy as np
from numba import uint32

from .dense import (
    bias_gradient,
    dense_backward,
    dense_forward,
    dense_weight_gradient,
    gather,
    matrix,
    sparse_forward,
    sparse_weight_gradient,
)
from .dropout import dropout_forward
from .jit import cuda, cuda_kernel
from .losses import apply_inverse_link, apply_loss
from .optimizers import optimizer_step, sum_of_squares
from .reductions import BLOCK, block_sum


class Rows(NamedTuple):
    """X on the GPU: row by row without gaps, or CSR (`indptr` has elements), sorted, without repeats."""

    values: object
    indices: object
    indptr: object
    n_rows: int  # uint32
    n_columns: int  # uint32


class DeviceTargets(NamedTuple):
    """What kernels read of `Targets`."""

    labels: object
    label_starts: object
    values: object
    weights: object


class Targets(NamedTuple):
    """What to learn, on the GPU and, for what is computed before and after an epoch, on the host as on the CPU."""

    on_device: DeviceTargets
    host: object
    n_outputs: int


class Data(NamedTuple):
    """Rows and what to learn from them."""

    rows: Rows
    targets: Targets


class Model(NamedTuple):
    """The two arrays of a network and what training keeps beside the parameters, all at the same positions."""

    layers: np.ndarray  # on the host
    params: object
    grads: object
    moments: object
    is_weight: object  # see `optimizers.flags_of_weights`


class Workspace(NamedTuple):
    """Memory for `capacity` rows: `outputs` and `slopes` hold layer l's rows from ``output_start * capacity`` on."""

    inputs: object
    input_slopes: object  # as `slopes`, for the inputs: where layers of another kind lie below; else no elements
    outputs: object
    slopes: object  # first the activations' slopes, then the gradients in their place
    none: object  # no elements: stands for slopes that nobody wants
    squares: object  # partial sums of squares
    clip: object  # (1,)
    capacity: int


class LossRule(NamedTuple):
    """What a loss's kernel reads."""

    loss_parameter: float
    label_smoothing: float


class StepRule(NamedTuple):
    """What an optimizer's kernel reads."""

    momentum: float
    gap_1: float  # 1 - beta_1
    gap_2: float  # 1 - beta_2
    epsilon: float


class Rule(NamedTuple):
    """What stays the same in all steps of a fit."""

    loss: int
    of_loss: LossRule
    optimizer: int
    nesterov: bool
    of_step: StepRule
    max_grad_norm: float  # 0: no clipping
    seed: int


class Batch(NamedTuple):
    """Which rows a step has."""

    order: object  # uint32 (n,): row numbers; no elements: rows come as they stand
    position: object  # uint32 (3,): the step's first position in the order, its number in the epoch, and in the fit


class Steps(NamedTuple):
    """Step sizes of an epoch, one a step; see `optimizer_step`."""

    rates: object
    l2: object
    decays: object
    position: object  # as `Batch.position`


class Plan(NamedTuple):
    """The steps of an epoch."""

    batch: Batch
    steps: Steps
    scales: object  # (n_batches,): one over the sum of the batch's weights
    losses: object  # (n,): left there, for each position of the order
    penalties: object  # (n_batches,): left there, the sum of squares of all weights before each step
    source: object = None  # a Batch: where the rows are, if it is not where `batch` says; targets are where that says

    @property
    def batch_of_rows(self) -> Batch:
        """Which rows of X a step has."""
        return self.batch if self.source is None else self.source


def output_of(layer, data, capacity):
    """The matrix of a layer's outputs (or slopes) in the workspace."""
    return matrix(data, layer["output_start"] * capacity, layer["out_stride"])


def input_of(model, work, number):
    """The matrix that a layer reads."""
    if number == 0:
        return matrix(work.inputs, 0, model.layers[0]["in_stride"])
    return output_of(model.layers[number - 1], work.outputs, work.capacity)


def is_sparse(rows) -> bool:
    """Whether rows are CSR, which are read where they lie."""
    return rows is not None and rows.indptr.size > 0


def forward(queue, model, rows, batch, work, slopes, seed, n_rows):
    """`n_rows` rows of a batch through all layers; for training `slopes` are wanted and dropout draws.

    Without `rows` (None) the first layer's inputs are there already.
    """
    n_layers = model.layers.size
    for number, layer in enumerate(model.layers):
        y = output_of(layer, work.outputs, work.capacity)
        wanted = slopes if number < n_layers - 1 else work.none
        if number == 0 and is_sparse(rows):
            sparse_forward(queue, rows, batch, model.params, layer, y, wanted, n_rows)
        else:
            if number == 0 and rows is not None:
                gather(queue, rows, batch, input_of(model, work, 0), n_rows)
            dense_forward(queue, input_of(model, work, number), model.params, layer, y, wanted, n_rows)
        if layer["dropout"] > 0.0 and wanted.size > 0:
            dropout_forward(queue, y, layer, slopes, seed, batch, number, n_rows)


def backward(queue, model, work, n_rows):
    """From the gradient of the last layer's output to that of every layer's affine map, and of the inputs where they
    have slopes."""
    first = 0 if work.input_slopes.size > 0 else 1
    for number in range(model.layers.size - 1, first - 1, -1):
        layer = model.layers[number]
        grad_y = output_of(layer, work.slopes, work.capacity)
        if number == 0:
            grad_x = matrix(work.input_slopes, 0, layer["in_stride"])
        else:
            grad_x = output_of(model.layers[number - 1], work.slopes, work.capacity)
        dense_backward(queue, grad_y, model.params, layer, grad_x, n_rows)


def gradients(queue, model, rows, batch, work, accumulate, n_rows):
    """The gradient of all weights and biases, overwritten or added to."""
    for number, layer in enumerate(model.layers):
        grad_y = output_of(layer, work.slopes, work.capacity)
        if number == 0 and is_sparse(rows):
            sparse_weight_gradient(queue, rows, batch, grad_y, layer, model.grads, n_rows, accumulate)
        else:
            x = input_of(model, work, number)
            dense_weight_gradient(queue, x, grad_y, layer, model.grads, n_rows, accumulate)
        bias_gradient(queue, grad_y, layer, model.grads, n_rows, accumulate)


def loss_of_rows(queue, model, targets, plan, work, rule, n_rows):
    """The loss of a batch and the gradient of the last layer's output."""
    last = model.layers[-1]
    z, grad_z = output_of(last, work.outputs, work.capacity), output_of(last, work.slopes, work.capacity)
    apply_loss(queue, z, targets, plan.batch, plan.scales, rule, grad_z, plan.losses, n_rows)


def backpropagate(queue, model, data, plan, work, rule, n_rows):
    """Forward, loss and backward of one batch."""
    forward(queue, model, data.rows, plan.batch_of_rows, work, work.slopes, rule.seed, n_rows)
    loss_of_rows(queue, model, data.targets, plan, work, rule, n_rows)
    backward(queue, model, work, n_rows)


@functools.cache
def _clip_kernel(dtype):
    sum_of_block, one = block_sum(dtype), dtype(1)

    @cuda_kernel(BLOCK)
    def clip_factor(squares, max_grad_norm, clip):
        total = dtype(0)
        for block in range(cuda.threadIdx.x, squares.size, BLOCK):
            total += squares[block]
        norm = dtype(math.sqrt(sum_of_block(total)))
        if cuda.threadIdx.x == 0:
            clip[0] = max_grad_norm / norm if norm > max_grad_norm else one

    return clip_factor


def clip_factor(queue, model, work, rule):
    """min(1, max_grad_norm / norm of the gradient), into ``work.clip[0]``."""
    sum_of_squares(queue, model.grads, work.squares)
    kernel = _clip_kernel(getattr(numba, work.clip.dtype.name))
    queue.add(kernel, 1, BLOCK, work.squares, work.clip.dtype.type(rule.max_grad_norm), work.clip)


def descend(queue, model, plan, work, rule):
    """The update of all parameters by their gradient, which is clipped first where the rule says so."""
    if rule.max_grad_norm > 0.0:
        clip_factor(queue, model, work, rule)
    args = model.params, model.grads, model.moments, model.is_weight
    optimizer_step(queue, *args, plan.steps, work.clip, rule, work.squares)


@functools.cache
def _next_batch_kernel(dtype):
    sum_of_block = block_sum(dtype)

    @cuda_kernel(BLOCK)
    def next_batch(position, batch_size, n_steps, squares, penalties):
        total = dtype(0)
        for block in range(cuda.threadIdx.x, squares.size, BLOCK):
            total += squares[block]
        total = sum_of_block(total)
        if cuda.threadIdx.x == 0:
            if squares.size > 0:
                penalties[position[1]] = total
            position[0] += batch_size
            position[1] += uint32(1)
            position[2] += n_steps

    return next_batch


def next_batch(queue, plan, batch_size, squares):
    """Moves the position to the next batch; `squares` are what a step has left of the weights, or no elements outside
    training, where no step is counted and dropout keeps its masks."""
    kernel = _next_batch_kernel(getattr(numba, plan.penalties.dtype.name))
    n_steps = np.uint32(squares.size > 0)
    queue.add(kernel, 1, BLOCK, plan.batch.position, np.uint32(batch_size), n_steps, squares, plan.penalties)


def train_step(queue, model, data, work, plan, rule, n_rows):
    """One batch of an epoch; run again, the queue does the next one.

    Parameters
    ----------
    model : Model
        `params` and `moments` are updated, `grads` overwritten.
    plan : Plan
        Its position moves on; its record is written.
    n_rows : int
        Rows of the batch.
    """
    backpropagate(queue, model, data, plan, work, rule, n_rows)
    gradients(queue, model, data.rows, plan.batch_of_rows, work, False, n_rows)
    descend(queue, model, plan, work, rule)
    next_batch(queue, plan, n_rows, work.squares)


def full_gradient(queue, model, data, work, plan, rule, accumulate, n_rows):
    """Gradient of the loss over the next `n_rows` rows; `model.grads` is overwritten or added to."""
    backpropagate(queue, model, data, plan, work, rule, n_rows)
    gradients(queue, model, data.rows, plan.batch_of_rows, work, accumulate, n_rows)
    next_batch(queue, plan, n_rows, work.none)


def predict(queue, model, rows, work, plan, loss, out, n_rows):
    """Predictions of the next `n_rows` rows through all layers.

    Parameters
    ----------
    out : Matrix (n_samples, n_outputs)
        Overwritten in these rows.
    """
    forward(queue, model, rows, plan.batch_of_rows, work, work.none, 0, n_rows)
    last = model.layers[-1]
    z = output_of(last, work.outputs, work.capacity)
    apply_inverse_link(queue, z, loss, last["n_out"], plan.batch, out, n_rows)
    next_batch(queue, plan, n_rows, work.none)


def evaluate(queue, model, data, work, plan, rule, n_rows):
    """The loss of the next `n_rows` rows without dropout, left in `plan.losses`."""
    forward(queue, model, data.rows, plan.batch_of_rows, work, work.none, 0, n_rows)
    loss_of_rows(queue, model, data.targets, plan, work, rule, n_rows)
    next_batch(queue, plan, n_rows, work.none)
