"""The compiled loops that walk the layer table: one training epoch, one gradient, one prediction.

Adding a layer means one branch in `forward`, one in `backward` and one in `layer_gradient`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..jit import cpu_inline, cpu_kernel
from .dense import (
    Matrix,
    bias_gradient,
    dense_backward,
    dense_forward,
    dense_weight_gradient,
    gather,
    sparse_forward,
    sparse_weight_gradient,
    transpose_weight,
)
from .dropout import dropout_forward
from .losses import apply_inverse_link, apply_loss
from .optimizers import optimizer_step, sum_of_squares
from .simd import TILE_ROWS
from .workers import barrier, flush_subnormals, restore_subnormals, share_of

UPDATE_ROWS = 64  # rows of a weight whose gradient is still in the second cache when they are updated
PREDICT_ROWS = 128  # rows that go through all layers together in prediction; fewer read large weights too often


class Rows(NamedTuple):
    """X as kernels read it, without a copy. Dense: element (i, j) is ``values[start + i * row_stride + j *
    column_stride]``. CSR (`indptr` has elements): scikit-learn's and SciPy's three arrays, sorted, without repeats."""

    values: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    start: int
    row_stride: int
    column_stride: int
    n_rows: int
    n_columns: int


class Targets(NamedTuple):
    """What to learn: class numbers `labels`, int32, or for the losses on numbers `values` (n, n_outputs); the other one
    is empty. With `label_starts` (n + 1,) row r has any number of labels, ``labels[label_starts[r] : label_starts[r +
    1]]``; without (empty) it has one. `weights` (n,)."""

    labels: np.ndarray
    label_starts: np.ndarray
    values: np.ndarray
    weights: np.ndarray
    n_outputs: int


class Data(NamedTuple):
    """Rows and what to learn from them."""

    rows: Rows
    targets: Targets


class Model(NamedTuple):
    """The two arrays of a network and what training keeps beside the parameters, all at the same positions."""

    layers: np.ndarray
    params: np.ndarray
    grads: np.ndarray
    moments: np.ndarray


class Workspace(NamedTuple):
    """Memory for `capacity` rows: `outputs` and `slopes` hold layer l's rows from ``output_start * capacity`` on."""

    inputs: np.ndarray
    input_slopes: np.ndarray  # as `slopes`, for the inputs: where layers of another kind lie below; else no elements
    outputs: np.ndarray
    slopes: np.ndarray  # first the activations' slopes, then the gradients in their place
    none: np.ndarray  # no elements: stands for slopes that nobody wants
    transposed: np.ndarray
    pieces: np.ndarray  # (n_workers, 64)
    packed: np.ndarray  # (n_workers, GRADIENT_ROWS * PACKED_COLUMNS)
    squares: np.ndarray  # sums of squares, one a block of TILE_ROWS rows of a weight, then one a bias
    capacity: int


class Rule(NamedTuple):
    """What stays the same in all steps of a fit."""

    loss: int
    loss_parameter: float
    label_smoothing: float
    optimizer: int
    momentum: float
    nesterov: bool
    gap_1: float  # 1 - beta_1
    gap_2: float  # 1 - beta_2
    epsilon: float
    max_grad_norm: float  # 0: no clipping
    seed: int  # uint64


class StepSize(NamedTuple):
    """What one update multiplies with; see `optimizer_step`."""

    rate: float
    l2: float
    decay: float
    clip: float


class Plan(NamedTuple):
    """The steps of an epoch; this call does batches [first, last)."""

    order: np.ndarray  # int64 (n,): batch b is order[b * batch_size : (b + 1) * batch_size]
    rates: np.ndarray  # float64 (n_batches,), the correction of Adam's bias in it
    l2: np.ndarray  # float64 (n_batches,)
    decays: np.ndarray  # float64 (n_batches,)
    scales: np.ndarray  # float64 (n_batches,): one over the sum of the batch's weights
    batch_size: int
    first: int
    last: int
    step: int  # number of the epoch's first step


class Batch(NamedTuple):
    """Row numbers of a step, and the factor of its gradients."""

    order: np.ndarray
    scale: float


class Record(NamedTuple):
    """What a batch's loss leaves: see `losses`."""

    sums: np.ndarray
    gaps: np.ndarray
    pieces: np.ndarray


class LossRecord(NamedTuple):
    """What an epoch leaves: ``sums[p]`` and ``gaps[p]`` of the row at position p of the order, and the sum of squares
    of all weights before each step."""

    sums: np.ndarray
    gaps: np.ndarray
    penalties: np.ndarray


class Mode(NamedTuple):
    """How to go forward: for training, `slopes` are wanted and dropout draws from (seed, step); else no elements."""

    slopes: np.ndarray
    seed: int  # uint64
    step: int  # uint64


@cpu_inline
def output_of(layer, data, capacity):
    """The matrix of a layer's outputs (or slopes) in the workspace."""
    return Matrix(data, layer["output_start"] * capacity, layer["out_stride"])


@cpu_inline
def read_inputs(model, rows, order, work, i_start, i_stop):
    """Dense rows [i_start, i_stop) of a batch into the workspace; CSR rows are read where they lie."""
    if rows.indptr.size == 0:
        gather(rows, order, i_start, i_stop, Matrix(work.inputs, 0, model.layers[0]["in_stride"]))


@cpu_inline
def forward(model, rows, order, work, mode, i_start, i_stop):
    """Rows [i_start, i_stop) of a batch through all layers, from CSR rows or the workspace's inputs."""
    first = 0
    if rows.indptr.size > 0:
        layer = model.layers[0]
        y = output_of(layer, work.outputs, work.capacity)
        slopes = mode.slopes if model.layers.size > 1 else work.none
        sparse_forward(rows, order, model.params, layer, y, slopes, i_start, i_stop)
        drop(layer, y, mode, first, i_start, i_stop)
        first = 1
    dense_layers_forward(model, work, mode, first, i_start, i_stop)


@cpu_inline
def dense_layers_forward(model, work, mode, first, i_start, i_stop):
    """Rows [i_start, i_stop) through the layers from number `first` on; the last one's slopes are never wanted."""
    n_layers, slopes = model.layers.size, mode.slopes
    for number in range(first, n_layers):
        layer = model.layers[number]
        y = output_of(layer, work.outputs, work.capacity)
        if number == 0:
            x = Matrix(work.inputs, 0, layer["in_stride"])
        else:
            x = output_of(model.layers[number - 1], work.outputs, work.capacity)
        wanted = slopes if number < n_layers - 1 else work.none
        dense_forward(x, model.params, layer, y, wanted, i_start, i_stop)
        drop(layer, y, mode, number, i_start, i_stop)


@cpu_inline
def drop(layer, y, mode, number, i_start, i_stop):
    """Dropout of a layer's outputs in training."""
    if layer["dropout"] > 0.0 and mode.slopes.size > 0:
        dropout_forward(y, layer, mode.slopes, mode.seed, mode.step, np.uint64(number), i_start, i_stop)


@cpu_inline
def first_transposed(work):
    """Number of the first layer through which gradients go back."""
    return 0 if work.input_slopes.size > 0 else 1


@cpu_inline
def transpose_weights(model, work, team):
    """This worker's share of all transposed weights that `backward` reads."""
    for number in range(first_transposed(work), model.layers.size):
        transpose_weight(model.params, model.layers[number], work.transposed, team)


@cpu_inline
def backward(model, work, i_start, i_stop):
    """From the gradient of the last layer's output to that of every layer's affine map, and of the inputs where they
    have slopes; rows [i_start, i_stop)."""
    for number in range(model.layers.size - 1, first_transposed(work) - 1, -1):
        layer = model.layers[number]
        grad_y = output_of(layer, work.slopes, work.capacity)
        if number == 0:
            grad_x = Matrix(work.input_slopes, 0, layer["in_stride"])
        else:
            grad_x = output_of(model.layers[number - 1], work.slopes, work.capacity)
        dense_backward(grad_y, work.transposed, layer, grad_x, i_start, i_stop)


@cpu_inline
def reads_csr(rows, number):
    """Whether layer `number` reads CSR rows. None in place of `rows`: layers of another kind lie below, and the
    compiler leaves out what is about CSR."""
    if rows is not None:
        return number == 0 and rows.indptr.size > 0
    return False


@cpu_inline
def layer_gradient(model, rows, order, work, number, k_start, k_stop, accumulate, team):
    """Gradient of rows [k_start, k_stop) of one layer's weight."""
    layer = model.layers[number]
    grad_y = output_of(layer, work.slopes, work.capacity)
    if reads_csr(rows, number):
        sparse_weight_gradient(rows, order, grad_y, layer, model.grads, order.size, k_start, k_stop, accumulate)
    else:
        if number == 0:
            x = Matrix(work.inputs, 0, layer["in_stride"])
        else:
            x = output_of(model.layers[number - 1], work.outputs, work.capacity)
        packed = work.packed[team.worker]
        dense_weight_gradient(x, grad_y, layer, model.grads, order.size, (k_start, k_stop), packed, accumulate)


@cpu_inline
def gradients(model, rows, order, work, accumulate, team):
    """This worker's share of the gradient: a range of rows of each weight; the last worker has the biases."""
    for number in range(model.layers.size):
        layer = model.layers[number]
        k_start, k_stop = share_of(layer["n_in"], TILE_ROWS, team)
        layer_gradient(model, rows, order, work, number, k_start, k_stop, accumulate, team)
        if team.worker == team.n_workers - 1:
            bias_gradient(output_of(layer, work.slopes, work.capacity), layer, model.grads, order.size, accumulate)


@cpu_inline
def loss_of_rows(model, targets, batch, work, rule, record, i_start, i_stop):
    """The loss of rows [i_start, i_stop) and the gradient of the last layer's output."""
    last = model.layers[model.layers.size - 1]
    z, grad_z = output_of(last, work.outputs, work.capacity), output_of(last, work.slopes, work.capacity)
    apply_loss(z, targets, batch.order, batch.scale, rule, grad_z, record, (i_start, i_stop))


@cpu_inline
def backpropagate(model, data, batch, work, rule, mode, record, team):
    """Forward, loss and backward of one batch; False if another worker failed.

    The rows of the batch belong to one worker from gather to backward, so no layer waits for another worker.
    """
    i_start, i_stop = share_of(batch.order.size, TILE_ROWS, team)
    read_inputs(model, data.rows, batch.order, work, i_start, i_stop)
    forward(model, data.rows, batch.order, work, mode, i_start, i_stop)
    transpose_weights(model, work, team)
    loss_of_rows(model, data.targets, batch, work, rule, record, i_start, i_stop)
    if not barrier(team):  # the transposed weights are ready
        return False
    backward(model, work, i_start, i_stop)
    return barrier(team)  # all rows' gradients are ready


@cpu_inline
def clip_factor(model, work, rule, team):
    """min(1, max_grad_norm / norm of the gradient); -1 if another worker failed."""
    block = 0
    for number in range(model.layers.size):
        layer = model.layers[number]
        k_start, k_stop = share_of(layer["n_in"], TILE_ROWS, team)
        for k in range(k_start, k_stop, TILE_ROWS):
            start = layer["weight_start"] + k * layer["out_stride"]
            stop = layer["weight_start"] + min(k + TILE_ROWS, k_stop) * layer["out_stride"]
            work.squares[block + k // TILE_ROWS] = sum_of_squares(model.grads, start, stop)
        block += (layer["n_in"] + TILE_ROWS - 1) // TILE_ROWS
    if team.worker == team.n_workers - 1:
        for number in range(model.layers.size):
            start = model.layers[number]["bias_start"]
            stop = start + model.layers[number]["out_stride"]
            work.squares[block + number] = sum_of_squares(model.grads, start, stop)
    if not barrier(team):
        return -1.0
    norm = np.sqrt(work.squares.sum())
    if not barrier(team):  # all have read the squares
        return -1.0
    return rule.max_grad_norm / norm if norm > rule.max_grad_norm else 1.0


@cpu_inline
def update_rows(model, layer, work, block, k_start, k_stop, step, rule):
    """The optimizer on rows [k_start, k_stop) of a weight; leaves their sums of squares from `block` on."""
    for k in range(k_start, k_stop, TILE_ROWS):
        start = layer["weight_start"] + k * layer["out_stride"]
        stop = layer["weight_start"] + min(k + TILE_ROWS, k_stop) * layer["out_stride"]
        work.squares[block + k // TILE_ROWS] = optimizer_step(
            model.params, model.grads, model.moments, start, stop, step, rule
        )


@cpu_inline
def descend(model, rows, order, work, step, rule, team):
    """Gradient, clipped where the rule says so, and update of this worker's part; False if another worker failed."""
    clipping = rule.max_grad_norm > 0.0
    if clipping:
        gradients(model, rows, order, work, False, team)
        step = StepSize(step.rate, step.l2, step.decay, clip_factor(model, work, rule, team))
        if step.clip < 0.0:
            return False
    return update_layers(model, rows, order, work, step, rule, clipping, team)


@cpu_inline
def update_layers(model, rows, order, work, step, rule, ready, team):
    """Gradient and update of this worker's rows of each weight, UPDATE_ROWS at a time while they are in the cache.

    `ready`: the gradient is there, since clipping needed all of it, and only the update is left. False if another
    worker failed.
    """
    block = 0
    for number in range(model.layers.size):
        layer = model.layers[number]
        k_start, k_stop = share_of(layer["n_in"], TILE_ROWS, team)
        together = k_stop if reads_csr(rows, number) else UPDATE_ROWS
        for k in range(k_start, k_stop, max(1, together)):
            k_next = min(k + together, k_stop)
            if not ready:
                layer_gradient(model, rows, order, work, number, k, k_next, False, team)
            update_rows(model, layer, work, block, k, k_next, step, rule)
        block += (layer["n_in"] + TILE_ROWS - 1) // TILE_ROWS
        if team.worker == team.n_workers - 1:
            start, stop = layer["bias_start"], layer["bias_start"] + layer["out_stride"]
            if not ready:
                bias_gradient(output_of(layer, work.slopes, work.capacity), layer, model.grads, order.size, False)
            without_decay = StepSize(step.rate, 0.0, 0.0, step.clip)
            optimizer_step(model.params, model.grads, model.moments, start, stop, without_decay, rule)
    if team.worker == team.n_workers - 1:
        work.squares[block:] = 0.0
    return barrier(team)  # the parameters are ready


@cpu_inline
def batch_of(plan, number):
    """One step of an epoch: its batch and the positions [start, stop) of its rows in the order."""
    start = number * plan.batch_size
    stop = min(start + plan.batch_size, plan.order.size)
    return Batch(plan.order[start:stop], plan.scales[number]), start, stop


@cpu_inline
def record_of(record, work, start, stop, team):
    """Where this worker leaves the losses of the rows at positions [start, stop)."""
    return Record(record.sums[start:stop], record.gaps[start:stop], work.pieces[team.worker])


@cpu_kernel
def train_epoch(model, data, work, plan, rule, record, team):
    """Batches [plan.first, plan.last) of an epoch.

    Parameters
    ----------
    model : Model
        `params` and `moments` are updated, `grads` overwritten.
    record : LossRecord
        Overwritten.
    """
    control = flush_subnormals()
    for number in range(plan.first, plan.last):
        batch, start, stop = batch_of(plan, number)
        of_batch = record_of(record, work, start, stop, team)
        mode = Mode(work.slopes, rule.seed, np.uint64(plan.step + number))
        if not backpropagate(model, data, batch, work, rule, mode, of_batch, team):
            break
        step = StepSize(plan.rates[number], plan.l2[number], plan.decays[number], 1.0)
        if not descend(model, data.rows, batch.order, work, step, rule, team):
            break
        if team.worker == 0:
            record.penalties[number] = work.squares.sum()
    restore_subnormals(control)


@cpu_kernel
def full_gradient(model, data, work, everything, rule, record, team):
    """Gradient of the loss over all rows of the batch `everything`, `work.capacity` rows at a time; `model.grads` is
    overwritten."""
    control = flush_subnormals()
    mode = Mode(work.slopes, rule.seed, np.uint64(0))
    order = everything.order
    for start in range(0, order.size, work.capacity):
        stop = min(start + work.capacity, order.size)
        of_block = record_of(record, work, start, stop, team)
        block = Batch(order[start:stop], everything.scale)
        if not backpropagate(model, data, block, work, rule, mode, of_block, team):
            break
        gradients(model, data.rows, block.order, work, start > 0, team)
        if not barrier(team):
            break
    restore_subnormals(control)


@cpu_inline
def worker_space(work, worker):
    """One worker's own part of a workspace whose arrays have a row a worker."""
    return Workspace(
        work.inputs[worker],
        work.none,
        work.outputs[worker],
        work.slopes[worker],
        work.none,
        work.transposed,
        work.pieces,
        work.packed,
        work.squares,
        work.capacity,
    )


@cpu_kernel
def predict(model, rows, work, orders, loss, out, team):
    """Predictions of all rows, PREDICT_ROWS at a time through all layers.

    Parameters
    ----------
    work : Workspace
        Inputs, outputs and slopes have one row a worker.
    orders : int64 (n_workers, PREDICT_ROWS)
        Overwritten.
    out : (n_rows, n_outputs)
        Overwritten.
    """
    control = flush_subnormals()
    own = worker_space(work, team.worker)
    mode = Mode(work.none, np.uint64(0), np.uint64(0))
    last = model.layers[model.layers.size - 1]
    order = orders[team.worker]
    first, end = share_of(rows.n_rows, TILE_ROWS, team)
    for start in range(first, end, PREDICT_ROWS):
        n = min(PREDICT_ROWS, end - start)
        for i in range(n):
            order[i] = start + i
        read_inputs(model, rows, order, own, 0, n)
        forward(model, rows, order, own, mode, 0, n)
        apply_inverse_link(output_of(last, own.outputs, own.capacity), loss, last["n_out"], out, start, n)
    restore_subnormals(control)


@cpu_kernel
def evaluate(model, data, work, orders, rule, record, team):
    """The loss of all rows without dropout, left in `record`; the workspace is as for `predict`."""
    control = flush_subnormals()
    own = worker_space(work, team.worker)
    mode = Mode(work.none, np.uint64(0), np.uint64(0))
    order = orders[team.worker]
    first, end = share_of(data.rows.n_rows, TILE_ROWS, team)
    for start in range(first, end, PREDICT_ROWS):
        n = min(PREDICT_ROWS, end - start)
        for i in range(n):
            order[i] = start + i
        read_inputs(model, data.rows, order, own, 0, n)
        forward(model, data.rows, order, own, mode, 0, n)
        of_block = record_of(record, work, start, start + n, team)
        loss_of_rows(model, data.targets, Batch(order, 1.0), own, rule, of_block, 0, n)
    restore_subnormals(control)
