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
from .batch_norm import sum_images
from .conv2d import transpose_filters
from .conv_backward import backward_slice, join_gradient_sums, segment_begin
from .conv_forward import forward_segment, join_statistics, read_images, segment_end
from .conv_net import Net, Span, between_of, has_norm, sums_of
from .dense import Matrix
from .losses import apply_inverse_link
from .optimizers import optimizer_step, sum_of_squares
from .simd import TILE_ROWS, lanes, shape, tile_load, tile_store
from .walk import Batch, Mode, StepSize, Workspace
from .winograd import winograd_filters
from .workers import Team, barrier, flush_subnormals, restore_subnormals, share_of

SQUARES_BLOCK = 4096  # elements of the gradient in one partial sum of its norm


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


@cpu_kernel
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
def prepare_filters(net, team):
    """This worker's share of the filters in the forms that the kernels read."""
    for number in range(1, net.layers.size):
        layer, places = net.layers[number], net.places[number]
        if layer["kind"] == LayerKind.CONV2D:
            if layer["algorithm"] == ConvAlgorithm.WINOGRAD:
                starts = places["filters_start"], places["transposed_start"]
                winograd_filters(net.params, layer, net.shared, starts, between_of(net), team)
            elif net.trains and layer["input"] > 0:
                transpose_filters(net.params, layer, net.shared, places["transposed_start"], team)


@cpu_kernel
def read_weights(net, weights, order) -> bool:
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
        net.trains,
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


@cpu_kernel
def train_forward(net, images, order, change, running, team) -> bool:
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


@cpu_kernel
def train_backward(net, slices, n_rows, running, team) -> bool:
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


@cpu_kernel
def train_dense(dense, targets, batch, work, rule, record, team) -> bool:
    """A batch through the dense layers, forward and backward to their inputs; False if another worker failed.

    `record`: the batch's Record, and the number of the step.
    """
    of_batch, number = record
    mode = Mode(work.slopes, rule.seed, np.uint64(number))
    i_start, i_stop = share_of(batch.order.size, TILE_ROWS, team)
    walk.dense_layers_forward(dense, work, mode, 0, i_start, i_stop)
    walk.transpose_weights(dense, work, team)
    walk.loss_of_rows(dense, targets, batch, work, rule, of_batch, i_start, i_stop)
    if not barrier(team):  # the transposed weights are ready
        return False
    walk.backward(dense, work, i_start, i_stop)
    return barrier(team)  # all rows' gradients are ready


@cpu_kernel
def train_update(models, batch, works, step, rule, team) -> bool:
    """The gradient of the image layers, and the update of all; False if another worker failed.

    `models`: of the image layers and of the dense ones; `works`: (Net, Update, Workspace).
    """
    model, dense = models
    net, update, work = works
    join_gradients(net, update.slices, model.grads, batch.order.size, team)
    clip, clipping = step.clip, update.max_grad_norm > 0.0
    if clipping:
        walk.gradients(dense, None, batch.order, work, False, team)
        clip = clip_factor(model.grads, update.norm_squares, update.max_grad_norm, team)
        if clip < 0.0:
            return False
    step = StepSize(step.rate, step.l2, step.decay, clip)
    update_image_layers(model, update, step, rule, team)
    return walk.update_layers(dense, None, batch.order, work, step, rule, clipping, team)


@cpu_kernel
def train_epoch(models, data, works, plan, rule, record, change, team):
    """Batches [plan.first, plan.last) of an epoch.

    Parameters
    ----------
    models : (Model, Model)
        Of the image layers and of the dense layers; the vectors are the same.
    data : (Images, Targets)
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
    images, targets = data
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
        if not train_dense(models[1], targets, batch, work, rule, of_batch, team):
            break
        if not train_backward(net, update.slices, batch.order.size, running, team):
            break
        step = StepSize(plan.rates[number], plan.l2[number], plan.decays[number], 1.0)
        if not train_update(models, batch, (net, update, work), step, rule, team):
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
        net.trains,
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


@cpu_kernel
def prepare_prediction(net, alone):
    """Filters, and batch norm's factors from the running statistics. `alone`: a team of one."""
    prepare_filters(net, alone)
    for number in range(1, net.layers.size):
        if has_norm(net.layers[number]):
            join_statistics(net, number, np.int64(0), alone)


@cpu_kernel
def predict_features(net, images, order, change, n):
    """Rows `order`, n of them, through all image layers, a block at a time."""
    for start in range(0, n, net.block):
        span = Span(start, min(start + net.block, n), start)
        read_images(net, images, order, change, span)
        forward_segment(net, np.int64(1), net.layers.size, span)


@cpu_kernel
def predict_dense(dense, work, n):
    """Rows of a block through the dense layers."""
    walk.dense_layers_forward(dense, work, Mode(work.none, np.uint64(0), np.uint64(0)), 0, np.int64(0), n)


@cpu_kernel
def predict(dense, data, works, orders, change, result, team):
    """Predictions of all images, or the last layer's inputs, PREDICT_ROWS at a time through all layers.

    Parameters
    ----------
    dense : Model
        Of the dense layers.
    data : (Images, Targets)
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
    images, _ = data
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
        predict_dense(dense, work, n)
        if loss == NONE:
            copy_features(dense, work, out, start, n)
        else:
            apply_inverse_link(walk.output_of(last, work.outputs, work.capacity), loss, last["n_out"], out, start, n)
    restore_subnormals(control)


@cpu_kernel
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
    images, targets = data
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
        predict_dense(dense, work, n)
        of_block = walk.record_of(record, works[1], start, start + n, team)
        walk.loss_of_rows(dense, targets, Batch(order, 1.0), work, rule, of_block, 0, n)
    restore_subnormals(control)
