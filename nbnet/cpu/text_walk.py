"""The compiled loops over documents: the embedding below, the layers of `nbnet.cpu.walk` above it."""

from __future__ import annotations

import numpy as np

from ..jit import cpu_inline, cpu_kernel
from ..network import Pooling
from .dense import Matrix
from .dropout import dropout_forward
from .embedding import (
    attention_backward,
    documents_forward,
    gradient_norms,
    initialize_rows,
    weigh_tokens,
)
from .embedding_updates import embedding_step
from .losses import apply_inverse_link
from .optimizers import optimizer_step
from .simd import TILE_ROWS, lanes, shape, tile_load, tile_store, tile_zeros
from .walk import (
    PREDICT_ROWS,
    Batch,
    Mode,
    StepSize,
    backward,
    batch_of,
    dense_layers_forward,
    descend,
    loss_of_rows,
    output_of,
    record_of,
    transpose_weights,
    worker_space,
)
from .workers import barrier, flush_subnormals, restore_subnormals, share_of

DROPOUT_NUMBER = np.uint64(2**24)  # the embedding's number where dropout wants a layer's; no other layer has it
CACHE_LINE = 16  # elements: columns are shared out in whole cache lines (two of float64)


@cpu_kernel
def initialize(rows, blocks, first_row, n_rows, dim, seed, team):
    """Rows of the table from `first_row` on, uniform in (-1 / dim, 1 / dim); see `initialize_rows`."""
    start, stop = share_of(n_rows - first_row, 1, team)
    initialize_rows(rows, blocks, first_row + start, first_row + stop, dim, 1.0 / dim, seed)


@cpu_inline
def pool_batch(bags, order, x, columns, team):
    """This worker's part of the pooled vectors: its columns of all documents; with attention all columns of its own.

    Returns this worker's documents [start, stop) of the later phases.
    """
    embedding, space, zero = bags.embedding, bags.space, np.int64(0)
    d_start, d_stop = share_of(order.size, TILE_ROWS, team)
    choices = Matrix(space.choices, 0, embedding.stride)
    weights = space.weights[team.worker]
    weigh_tokens(embedding, bags.documents, order, weights)
    if embedding.pooling == Pooling.ATTENTION:
        documents_forward(bags, order, x, weights, choices, (d_start, d_stop), (zero, embedding.stride))
    else:
        documents_forward(bags, order, x, weights, choices, (zero, order.size), columns)
    return d_start, d_stop


@cpu_kernel
def fill_ones(matrix, n_columns, i_start, i_stop):
    """Ones in whole vectors."""
    vector = shape(1, 1)
    for i in range(i_start, i_stop):
        for j in range(0, n_columns, lanes(matrix.data)):
            tile_store(tile_zeros(vector, matrix.data) + 1.0, matrix.data, matrix.start + i * matrix.stride + j, 0)


@cpu_kernel
def add_up_rows(x, n_rows, stride, columns, total, start):
    """``total[start + j] = sum over i of x[i * stride + j]`` for columns [columns[0], columns[1])."""
    vector = shape(1, 1)
    for j in range(columns[0], columns[1], lanes(x)):
        s = tile_zeros(vector, x)
        for i in range(n_rows):
            s = s + tile_load(vector, x, i * stride + j, 0)
        tile_store(s, total, start + j, 0)


@cpu_inline
def pooled_dropout(layer, x, grad_x, mode, rows):
    """Dropout of the pooled vectors of some rows, whose slopes it leaves in grad_x."""
    fill_ones(grad_x, layer["n_out"], rows[0], rows[1])
    if layer["dropout"] > 0.0:
        dropout_forward(x, layer, grad_x.data, mode.seed, mode.step, DROPOUT_NUMBER, rows[0], rows[1])


@cpu_inline
def document_gradients(bags, order, x, grad_x, rows):
    """What the embedding's update needs to know of the gradients of some rows."""
    gradient_norms(grad_x, bags.embedding.dim, bags.embedding.stride, rows, bags.space.norms[0])
    if bags.embedding.pooling == Pooling.ATTENTION:
        attention_backward(bags, order, x, grad_x, rows)


@cpu_inline
def update_query(model, layer, bags, order, step, rule, team):
    """One update of this worker's columns of attention's query; False if another worker failed."""
    if not barrier(team):  # all have read the query
        return False
    stride, start = bags.embedding.stride, layer["bias_start"]
    columns = share_of(stride, CACHE_LINE, team)
    add_up_rows(bags.space.choices, order.size, stride, columns, model.grads, start)
    plain = StepSize(step.rate, 0.0, 0.0, 1.0)
    optimizer_step(model.params, model.grads, model.moments, start + columns[0], start + columns[1], plain, rule)
    return True


@cpu_kernel
def train_epoch(model, below, bags, targets, work, plan, rule, record, team):
    """Batches [plan.first, plan.last) of an epoch; see `walk.train_epoch`.

    Three phases a batch: the pooled vectors by columns; everything from them to their gradients by documents; updates,
    those of the table by columns again.

    Parameters
    ----------
    model : Model
        The layers above the embedding; its vectors hold the query of attention.
    below : LAYER (1,)
        The embedding.
    bags : Bags
        The rows of the table that the batches touch, and their state, are updated.
    """
    control = flush_subnormals()
    embedding, space, layer = bags.embedding, bags.space, below[0]
    stride = embedding.stride
    columns = share_of(stride, CACHE_LINE, team)
    x, grad_x = Matrix(work.inputs, 0, stride), Matrix(work.input_slopes, 0, stride)
    for number in range(plan.first, plan.last):
        batch, start, stop = batch_of(plan, number)
        order = batch.order
        of_batch = record_of(record, work, start, stop, team)
        mode = Mode(work.slopes, rule.seed, np.uint64(plan.step + number))
        rows = pool_batch(bags, order, x, columns, team)
        transpose_weights(model, work, team)
        if not barrier(team):  # the pooled vectors and the transposed weights are ready
            break
        pooled_dropout(layer, x, grad_x, mode, rows)
        dense_layers_forward(model, work, mode, 0, rows[0], rows[1])
        loss_of_rows(model, targets, batch, work, rule, of_batch, rows[0], rows[1])
        backward(model, work, rows[0], rows[1])
        document_gradients(bags, order, x, grad_x, rows)
        if not barrier(team):  # all gradients are ready
            break
        step = StepSize(plan.rates[number], plan.l2[number], plan.decays[number], 1.0)
        if not embedding.frozen:
            embedding_step(bags, order, grad_x, space.norms[0], step.rate, rule, columns, team.worker)
        if embedding.pooling == Pooling.ATTENTION and not update_query(model, layer, bags, order, step, rule, team):
            break
        if not descend(model, None, order, work, step, rule, team):
            break
        if team.worker == 0:
            record.penalties[number] = work.squares.sum()
    restore_subnormals(control)


@cpu_inline
def n_documents(bags):
    """How many documents there are."""
    return bags.documents.starts.size - 1


@cpu_inline
def pool_block(bags, own, order, start, n, x, weights):
    """Documents start ... start + n - 1 into the first n rows of x."""
    for i in range(n):
        order[i] = start + i
    block, stride = order[:n], bags.embedding.stride
    weigh_tokens(bags.embedding, bags.documents, block, weights)
    nothing, zero = Matrix(own.none, 0, stride), np.int64(0)
    documents_forward(bags, block, x, weights, nothing, (zero, n), (zero, stride))
    return block


@cpu_kernel
def predict(model, bags, work, orders, loss, out, team):
    """Predictions of all documents; see `walk.predict`."""
    control = flush_subnormals()
    own, weights = worker_space(work, team.worker), bags.space.weights[team.worker]
    x = Matrix(own.inputs, 0, bags.embedding.stride)
    mode = Mode(work.none, np.uint64(0), np.uint64(0))
    last = model.layers[model.layers.size - 1]
    first, end = share_of(n_documents(bags), TILE_ROWS, team)
    for start in range(first, end, PREDICT_ROWS):
        n = min(PREDICT_ROWS, end - start)
        pool_block(bags, own, orders[team.worker], start, n, x, weights)
        dense_layers_forward(model, own, mode, 0, np.int64(0), n)
        apply_inverse_link(output_of(last, own.outputs, own.capacity), loss, last["n_out"], out, start, n)
    restore_subnormals(control)


@cpu_kernel
def evaluate(model, targets, bags, work, orders, rule, record, team):
    """The loss of all documents without dropout, left in `record`; see `walk.evaluate`."""
    control = flush_subnormals()
    own, weights = worker_space(work, team.worker), bags.space.weights[team.worker]
    x = Matrix(own.inputs, 0, bags.embedding.stride)
    mode = Mode(work.none, np.uint64(0), np.uint64(0))
    first, end = share_of(n_documents(bags), TILE_ROWS, team)
    for start in range(first, end, PREDICT_ROWS):
        n = min(PREDICT_ROWS, end - start)
        block = pool_block(bags, own, orders[team.worker], start, n, x, weights)
        dense_layers_forward(model, own, mode, 0, np.int64(0), n)
        of_block = record_of(record, work, start, start + n, team)
        loss_of_rows(model, targets, Batch(block, 1.0), own, rule, of_block, np.int64(0), n)
    restore_subnormals(control)


@cpu_kernel
def pool(bags, work, orders, out, team):
    """Pooled vectors of all documents.

    Parameters
    ----------
    out : (n_rows * stride,)
        Overwritten.
    """
    control = flush_subnormals()
    own, stride = worker_space(work, team.worker), bags.embedding.stride
    first, end = share_of(n_documents(bags), TILE_ROWS, team)
    for start in range(first, end, PREDICT_ROWS):
        n = min(PREDICT_ROWS, end - start)
        x = Matrix(out, start * stride, stride)
        pool_block(bags, own, orders[team.worker], start, n, x, bags.space.weights[team.worker])
    restore_subnormals(control)
