"""Training of a linear layer over pooled documents, the common case: shared out by columns throughout.

A worker has columns of the table, and the rows of the layer's weight that belong to them. It pools its columns, and
multiplies them with its rows: what it hands to the others are partial scores of each class. All workers add these up in
the same order and repeat the loss; then each has what its own columns and rows need. So of the table and the weights
nothing ever moves between cores, and of a document only its scores and one number for its gradient's length.

The columns are cut into GROUPS parts by the table's width alone. Their scores are added as a tree, whoever computed
them: the bits do not depend on the number of workers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..jit import cpu_inline, cpu_kernel
from .dense import Matrix, bias_gradient, dense_weight_gradient, panel, panel_vectors
from .embedding import documents_forward, gradient_norms, prefetch_documents, weigh_tokens
from .embedding_updates import embedding_step
from .losses import prefetch_targets
from .optimizers import optimizer_step
from .simd import (
    TILE_ROWS,
    lanes,
    shape,
    square_shape,
    tile_load,
    tile_rank1,
    tile_store,
    tile_transpose,
    tile_zeros,
)
from .walk import Record, StepSize, batch_of, loss_of_rows, output_of, record_of, update_rows, worker_space
from .workers import barrier, flush_subnormals, restore_subnormals, share_of

GROUPS = 4
CACHE_LINE = 16  # elements; two lines of float64


class Exchange(NamedTuple):
    """What workers hand to each other, and where each keeps what it does not."""

    scores: np.ndarray  # (GROUPS, capacity * out_stride): partial scores
    norms: np.ndarray  # (GROUPS, capacity): partial sums of squares of the documents' gradients
    grads: np.ndarray  # (n_workers, capacity * stride): gradient of the pooled vectors, own columns
    losses: np.ndarray  # (n_workers, 2, capacity): of the workers whose losses nobody reads
    transposed: np.ndarray  # (n_workers, size of the workspace's): the transposed weight, own columns


@cpu_inline
def first_column(group, stride):
    """Column where a group begins."""
    return group * (stride // CACHE_LINE) // GROUPS * CACHE_LINE


@cpu_inline
def one_owner(pair, team):
    """Whether groups 2 pair and 2 pair + 1 have the same owner, who then has added the second to the first."""
    for worker in range(team.n_workers):
        first, last = worker * GROUPS // team.n_workers, (worker + 1) * GROUPS // team.n_workers
        if first <= 2 * pair and 2 * pair + 2 <= last:
            return True
    return False


@cpu_inline
def product_panel(tile_shape, x, weight, n_in, y, n_rows):
    """``y = x @ weight`` for one panel of columns."""
    for i in range(0, n_rows, TILE_ROWS):
        total = tile_zeros(tile_shape, y.data)
        for k in range(n_in):
            x_position = x.start + i * x.stride + k
            total = tile_rank1(total, x.data, x_position, x.stride, weight.data, weight.start + k * weight.stride)
        tile_store(total, y.data, y.start + i * y.stride, y.stride)


@cpu_kernel
def product(x, weight, n_in, y, n_out, n_rows):
    """``y = x @ weight`` for x (n_rows, n_in) and weight (n_in, n_out)."""
    n_vectors = (n_out + lanes(y.data) - 1) // lanes(y.data)
    vector = 0
    while vector < n_vectors:
        column = vector * lanes(y.data)
        width = panel_vectors(n_vectors - vector)
        if width == 3:
            product_panel(shape(TILE_ROWS, 3), x, panel(weight, column), n_in, panel(y, column), n_rows)
        elif width == 2:
            product_panel(shape(TILE_ROWS, 2), x, panel(weight, column), n_in, panel(y, column), n_rows)
        else:
            product_panel(shape(TILE_ROWS, 1), x, panel(weight, column), n_in, panel(y, column), n_rows)
        vector += width


@cpu_kernel
def add_scores(scores, groups, n):
    """The second half of each pair of groups in [groups[0], groups[1]) is added to the first, n elements."""
    vector = shape(1, 1)
    for group in range((groups[0] + 1) // 2 * 2, groups[1] - 1, 2):
        for j in range(0, n, lanes(scores)):
            total = tile_load(vector, scores[group], j, 0) + tile_load(vector, scores[group + 1], j, 0)
            tile_store(total, scores[group], j, 0)


@cpu_kernel
def total_scores(scores, params, layer, z, n_rows, team):
    """``z = bias + ((scores 0 + scores 1) + (scores 2 + scores 3))``."""
    vector = shape(1, 1)
    left, right = one_owner(0, team), one_owner(1, team)
    for i in range(n_rows):
        for j in range(0, layer["n_out"], lanes(z.data)):
            position = i * z.stride + j
            low, high = tile_load(vector, scores[0], position, 0), tile_load(vector, scores[2], position, 0)
            if not left:
                low = low + tile_load(vector, scores[1], position, 0)
            if not right:
                high = high + tile_load(vector, scores[3], position, 0)
            bias = tile_load(vector, params, layer["bias_start"] + j, 0)
            tile_store(bias + (low + high), z.data, z.start + position, 0)


@cpu_kernel
def transpose_rows(params, layer, transposed, k_start, k_stop):
    """``transposed = weight.T`` for rows [k_start, k_stop) of the weight, by square tiles."""
    square, width = square_shape(params), lanes(params)
    for k in range(k_start, k_stop, width):
        for j in range(0, layer["n_out"], width):
            tile = tile_load(square, params, layer["weight_start"] + k * layer["out_stride"] + j, layer["out_stride"])
            start = layer["transposed_start"] + j * layer["in_stride"] + k
            tile_store(tile_transpose(tile), transposed, start, layer["in_stride"])


@cpu_kernel
def gradient_columns(grad_z, transposed, layer, grad_x, columns, n_rows):
    """``grad_x = grad_z @ weight.T`` for columns [columns[0], columns[1]) of grad_x."""
    weight = Matrix(transposed, layer["transposed_start"], layer["in_stride"])
    column = columns[0]
    while column < columns[1]:
        width = panel_vectors((columns[1] - column) // lanes(transposed))
        w, out = panel(weight, column), panel(grad_x, column)
        if width == 3:
            product_panel(shape(TILE_ROWS, 3), grad_z, w, layer["n_out"], out, n_rows)
        elif width == 2:
            product_panel(shape(TILE_ROWS, 2), grad_z, w, layer["n_out"], out, n_rows)
        else:
            product_panel(shape(TILE_ROWS, 1), grad_z, w, layer["n_out"], out, n_rows)
        column += width * lanes(transposed)


@cpu_kernel
def partial_norms(grad_x, stride, groups, n_rows, norms):
    """``norms[g, d] = sum of grad_x[d, j]**2`` over the columns j of group g."""
    for group in range(groups[0], groups[1]):
        start, stop = first_column(group, stride), first_column(group + 1, stride)
        columns = Matrix(grad_x.data, grad_x.start + start, grad_x.stride)
        gradient_norms(columns, np.int64(1), stop - start, (np.int64(0), n_rows), norms[group])


@cpu_kernel
def total_norms(partial, dim, n_rows, norms):
    """Mean squares of the documents' gradients from the groups' sums."""
    for d in range(n_rows):
        norms[d] = ((partial[0, d] + partial[1, d]) + (partial[2, d] + partial[3, d])) / dim


@cpu_inline
def pool_and_score(model, bags, order, x, scores, groups, columns, worker):
    """This worker's columns of the pooled vectors, and the scores of its groups."""
    layer, stride, zero = model.layers[0], bags.embedding.stride, np.int64(0)
    weigh_tokens(bags.embedding, bags.documents, order, bags.space.weights[worker])
    choices = Matrix(bags.space.choices, 0, stride)
    documents_forward(bags, order, x, bags.space.weights[worker], choices, (zero, order.size), columns)
    for group in range(groups[0], groups[1]):
        k, k_stop = first_column(group, stride), first_column(group + 1, stride)
        weight = Matrix(model.params, layer["weight_start"] + k * layer["out_stride"], layer["out_stride"])
        y = Matrix(scores[group], 0, layer["out_stride"])
        product(panel(x, k), weight, k_stop - k, y, layer["n_out"], order.size)
    add_scores(scores, groups, order.size * layer["out_stride"])


@cpu_inline
def update_layer(model, own, work, order, step, rule, columns, team):
    """Gradient and update of this worker's rows of the weight; the last worker has the bias."""
    layer = model.layers[0]
    grad_z, x = output_of(layer, own.slopes, own.capacity), Matrix(own.inputs, 0, layer["in_stride"])
    k_stop = min(columns[1], layer["n_in"])
    packed = work.packed[team.worker]
    dense_weight_gradient(x, grad_z, layer, model.grads, order.size, (columns[0], k_stop), packed, False)
    update_rows(model, layer, work, np.int64(0), columns[0], k_stop, step, rule)
    if team.worker == team.n_workers - 1:
        start, stop = layer["bias_start"], layer["bias_start"] + layer["out_stride"]
        bias_gradient(grad_z, layer, model.grads, order.size, False)
        optimizer_step(model.params, model.grads, model.moments, start, stop, StepSize(step.rate, 0.0, 0.0, 1.0), rule)


@cpu_kernel
def train_epoch(model, exchange, bags, targets, work, plan, rule, record, team):
    """Batches [plan.first, plan.last) of an epoch of one layer over pooled documents.

    Parameters
    ----------
    model : Model
        One layer above the embedding.
    exchange : Exchange
        Overwritten.
    work : Workspace
        Inputs, outputs and slopes have one row a worker.
    """
    control = flush_subnormals()
    stride = bags.embedding.stride
    groups = share_of(GROUPS, 1, team)
    columns = first_column(groups[0], stride), first_column(groups[1], stride)
    own, layer = worker_space(work, team.worker), model.layers[0]
    transposed = exchange.transposed[team.worker]
    x, grad_x = Matrix(own.inputs, 0, stride), Matrix(exchange.grads[team.worker], 0, stride)
    z, grad_z = output_of(layer, own.outputs, own.capacity), output_of(layer, own.slopes, own.capacity)
    for number in range(plan.first, plan.last):
        batch, start, stop = batch_of(plan, number)
        n = stop - start
        prefetch_documents(bags.documents, plan.order, stop, plan.batch_size)
        prefetch_targets(targets, plan.order, stop, plan.batch_size)
        pool_and_score(model, bags, batch.order, x, exchange.scores, groups, columns, team.worker)
        transpose_rows(model.params, layer, transposed, columns[0], columns[1])
        if not barrier(team):  # all scores are ready, and all weights updated
            break
        if team.worker == 0 and number > plan.first:
            record.penalties[number - 1] = work.squares.sum()
        of_batch = record_of(record, work, start, stop, team)
        if team.worker > 0:
            losses = exchange.losses[team.worker]
            of_batch = Record(losses[0][:n], losses[1][:n], of_batch.pieces)
        total_scores(exchange.scores, model.params, layer, z, n, team)
        loss_of_rows(model, targets, batch, own, rule, of_batch, np.int64(0), n)
        gradient_columns(grad_z, transposed, layer, grad_x, columns, n)
        partial_norms(grad_x, stride, groups, n, exchange.norms)
        if not barrier(team):  # all norms are ready, and the scores and the bias read
            break
        step = StepSize(plan.rates[number], plan.l2[number], plan.decays[number], 1.0)
        if not bags.embedding.frozen:
            norms = bags.space.norms[team.worker]
            total_norms(exchange.norms, bags.embedding.dim, n, norms)
            embedding_step(bags, batch.order, grad_x, norms, step.rate, rule, columns, team.worker)
        update_layer(model, own, work, batch.order, step, rule, columns, team)
    if barrier(team) and team.worker == 0 and plan.last > plan.first:
        record.penalties[plan.last - 1] = work.squares.sum()
    restore_subnormals(control)
