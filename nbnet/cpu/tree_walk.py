"""The compiled loops over documents whose last layer is a tree of classes: see `tree` and `text_walk`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..jit import cpu_inline, cpu_kernel
from ..network import Pooling
from .dense import Matrix, dense_backward, dense_forward
from .dropout import dropout_forward
from .embedding_updates import embedding_step
from .simd import TILE_ROWS
from .text_walk import CACHE_LINE, document_gradients, n_documents, pool_batch, pool_block, pooled_dropout, update_query
from .tree import Tree, tree_backward, tree_loss, tree_probabilities, tree_step
from .walk import (
    PREDICT_ROWS,
    Batch,
    Mode,
    StepSize,
    batch_of,
    descend,
    output_of,
    record_of,
    transpose_weights,
    worker_space,
)
from .workers import barrier, flush_subnormals, restore_subnormals, share_of


class Top(NamedTuple):
    """The last layer: its row of the table, the tree, and a scratch."""

    layers: np.ndarray  # LAYER (1,)
    tree: Tree
    slopes: np.ndarray  # (n_workers, n_steps); in training worker 0's is everybody's
    units: np.ndarray  # (n_workers, n_units)


@cpu_inline
def last_input(model, work, stride):
    """What the tree reads: the last hidden layer's outputs, or the pooled vectors; and the gradient's place."""
    n_hidden = model.layers.size
    if n_hidden == 0:
        return Matrix(work.inputs, 0, stride), Matrix(work.input_slopes, 0, stride)
    layer = model.layers[n_hidden - 1]
    return output_of(layer, work.outputs, work.capacity), output_of(layer, work.slopes, work.capacity)


@cpu_inline
def hidden_forward(model, work, mode, i_start, i_stop):
    """Rows [i_start, i_stop) of the pooled vectors through the hidden layers, the last one's slopes included."""
    for number in range(model.layers.size):
        layer = model.layers[number]
        y = output_of(layer, work.outputs, work.capacity)
        if number == 0:
            x = Matrix(work.inputs, 0, layer["in_stride"])
        else:
            x = output_of(model.layers[number - 1], work.outputs, work.capacity)
        dense_forward(x, model.params, layer, y, mode.slopes, i_start, i_stop)
        if layer["dropout"] > 0.0 and mode.slopes.size > 0:
            dropout_forward(y, layer, mode.slopes, mode.seed, mode.step, np.uint64(number), i_start, i_stop)


@cpu_inline
def hidden_backward(model, work, i_start, i_stop):
    """From the gradient of the last hidden layer's affine map to that of the pooled vectors."""
    for number in range(model.layers.size - 1, -1, -1):
        layer = model.layers[number]
        grad_y = output_of(layer, work.slopes, work.capacity)
        if number == 0:
            grad_x = Matrix(work.input_slopes, 0, layer["in_stride"])
        else:
            grad_x = output_of(model.layers[number - 1], work.slopes, work.capacity)
        dense_backward(grad_y, work.transposed, layer, grad_x, i_start, i_stop)


@cpu_kernel
def train_epoch(model, ends, bags, targets, work, plan, rule, record, team):
    """Batches [plan.first, plan.last) of an epoch; see `text_walk.train_epoch`.

    Parameters
    ----------
    model : Model
        The hidden layers, of which there may be none; its vectors hold the tree's units too.
    ends : (LAYER (1,), Top)
        The embedding and the tree.
    """
    control = flush_subnormals()
    embedding, space, below, top = bags.embedding, bags.space, ends[0][0], ends[1]
    stride, layer, slopes = embedding.stride, top.layers[0], top.slopes[0]
    columns, tree_columns = share_of(stride, CACHE_LINE, team), share_of(layer["in_stride"], CACHE_LINE, team)
    x, grad_x = Matrix(work.inputs, 0, stride), Matrix(work.input_slopes, 0, stride)
    last, grad_last = last_input(model, work, layer["in_stride"])
    for number in range(plan.first, plan.last):
        batch, start, stop = batch_of(plan, number)
        order = batch.order
        of_batch = record_of(record, work, start, stop, team)
        mode = Mode(work.slopes, rule.seed, np.uint64(plan.step + number))
        rows = pool_batch(bags, order, x, columns, team)
        transpose_weights(model, work, team)
        if not barrier(team):  # the pooled vectors and the transposed weights are ready
            break
        pooled_dropout(below, x, grad_x, mode, rows)
        hidden_forward(model, work, mode, rows[0], rows[1])
        tree_loss(last, model.params, layer, top.tree, targets, batch, slopes, of_batch, rows)
        tree_backward(model.params, layer, top.tree, targets, order, slopes, grad_last, rows)
        hidden_backward(model, work, rows[0], rows[1])
        document_gradients(bags, order, x, grad_x, rows)
        if not barrier(team):  # all gradients are ready
            break
        step = StepSize(plan.rates[number], plan.l2[number], plan.decays[number], 1.0)
        if not embedding.frozen:
            embedding_step(bags, order, grad_x, space.norms[0], step.rate, rule, columns, team.worker)
        tree_step(last, model, layer, top.tree, targets, order, slopes, tree_columns, step, rule)
        if embedding.pooling == Pooling.ATTENTION and not update_query(model, below, bags, order, step, rule, team):
            break
        if not descend(model, None, order, work, step, rule, team):
            break
        if team.worker == 0:
            record.penalties[number] = work.squares.sum()
    restore_subnormals(control)


@cpu_kernel
def predict(model, top, bags, work, orders, out, team):
    """Probabilities of all classes for all documents; see `walk.predict`."""
    control = flush_subnormals()
    own, weights = worker_space(work, team.worker), bags.space.weights[team.worker]
    x, layer = Matrix(own.inputs, 0, bags.embedding.stride), top.layers[0]
    mode = Mode(work.none, np.uint64(0), np.uint64(0))
    last, _ = last_input(model, own, layer["in_stride"])
    first, end = share_of(n_documents(bags), TILE_ROWS, team)
    for start in range(first, end, PREDICT_ROWS):
        n = min(PREDICT_ROWS, end - start)
        pool_block(bags, own, orders[team.worker], start, n, x, weights)
        hidden_forward(model, own, mode, np.int64(0), n)
        tree_probabilities(last, model.params, layer, top.tree, top.units[team.worker], out, start, n)
    restore_subnormals(control)


@cpu_kernel
def evaluate(model, targets, top, bags, work, orders, record, team):
    """The loss of all documents without dropout, left in `record`; see `walk.evaluate`."""
    control = flush_subnormals()
    own, weights = worker_space(work, team.worker), bags.space.weights[team.worker]
    x, layer = Matrix(own.inputs, 0, bags.embedding.stride), top.layers[0]
    mode = Mode(work.none, np.uint64(0), np.uint64(0))
    last, _ = last_input(model, own, layer["in_stride"])
    first, end = share_of(n_documents(bags), TILE_ROWS, team)
    for start in range(first, end, PREDICT_ROWS):
        n = min(PREDICT_ROWS, end - start)
        block = Batch(pool_block(bags, own, orders[team.worker], start, n, x, weights), 1.0)
        hidden_forward(model, own, mode, np.int64(0), n)
        of_block = record_of(record, work, start, start + n, team)
        tree_loss(
            last,
            model.params,
            layer,
            top.tree,
            targets,
            block,
            top.slopes[team.worker],
            of_block,
            (np.int64(0), n),
        )
    restore_subnormals(control)
