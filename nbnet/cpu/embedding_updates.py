"""Updates of an embedding: the gradients of a batch's tokens, and the solvers' steps on the rows that have one.

A worker updates its own columns of every row, in the order of documents and tokens; what a solver keeps for a whole row
(adagrad's sum of squares) each worker computes for itself.
"""

from __future__ import annotations

import numpy as np

from .. import scalar
from ..jit import cpu_inline, cpu_kernel
from ..network import Optimizer, Pooling
from .dense import Matrix
from .embedding import Blocks, chunk_vectors, dot, place_of
from .simd import lanes, one_load, one_store, shape, tile_load, tile_store, tile_zeros


@cpu_inline
def token_norm(bags, norms, weights, k, d, query_norm):
    """Mean square of the gradient of a token of document d."""
    space = bags.space
    weight = one_load(weights, k)
    norm = weight * weight * norms[d]
    if bags.embedding.pooling == Pooling.ATTENTION:
        slope = space.slopes[k]
        norm += slope * (2.0 * weight * space.products[d] + slope * query_norm)
    return norm


@cpu_kernel
def chosen_norms(bags, order, grad_x, weights):
    """Max pooling: the mean square of each token's gradient, which is that of the document where it was chosen."""
    embedding, documents, choices = bags.embedding, bags.documents, bags.space.choices
    k = np.int64(0)
    for d in range(order.size):
        n = documents.starts[order[d] + 1] - documents.starts[order[d]]
        for q in range(k, k + n):
            weights[q] = 0.0
        if n > 0:
            for j in range(embedding.dim):
                g = grad_x.data[grad_x.start + d * grad_x.stride + j]
                weights[k + np.int64(choices[d * embedding.stride + j])] += g * g / embedding.dim
        k += n


@cpu_kernel
def adagrad_steps(bags, order, grad_x, norms, rate, weights, squares, steps):
    """Adds the mean square of each token's gradient to its row's sum, one after another; ``steps = -rate / sqrt(sum)``.

    A token that occurs c times counts as c, each with a c-th of its gradient: the squares' sum is divided by c.

    One sum for a row, not for each element, costs a hundredth of the memory and learns as well here (see the user
    guide's figures). Source: Mudigere et al., Software-hardware co-design for fast and scalable training of deep
    learning recommendation models, ISCA 2022, section 4.1.3 (row-wise AdaGrad).
    """
    documents, is_max = bags.documents, bags.embedding.pooling == Pooling.MAX
    if is_max:
        chosen_norms(bags, order, grad_x, weights)
    k = np.int64(0)
    query_norm = dot(bags.embedding.query, k, bags.embedding.query, k, bags.embedding.stride) / bags.embedding.dim
    for d in range(order.size):
        for p in range(documents.starts[order[d]], documents.starts[order[d] + 1]):
            row = np.int64(one_load(documents.ids, p))
            norm = one_load(weights, k) if is_max else token_norm(bags, norms, weights, k, d, query_norm)
            if documents.counts.size > 0:
                norm /= one_load(documents.counts, p)
            total = one_load(squares, row) + norm
            one_store(total, squares, row)
            one_store(total, steps, k)
            k += 1
    vector = shape(1, 1)
    for q in range(0, k, lanes(steps)):
        step = (tile_zeros(vector, steps) - rate) / scalar.square_root(tile_load(vector, steps, q, 0))
        tile_store(step, steps, q, 0)


@cpu_kernel
def multiply(x, y, n, product):
    """``product[k] = x[k] * y[k]`` for k < n, in whole vectors."""
    vector = shape(1, 1)
    for k in range(0, n, lanes(x)):
        tile_store(tile_load(vector, x, k, 0) * tile_load(vector, y, k, 0), product, k, 0)


@cpu_inline
def add_columns(row_shape, target, place, ids, p_range, factors, k, grad_x, position):
    """``target[ids[p]] += factors[k + p] * grad_x`` for some columns of one document."""
    g = tile_load(row_shape, grad_x.data, position, 0)
    for p in range(p_range[0], p_range[1]):
        start = place[0] + np.int64(one_load(ids, p)) * place[1]
        row = tile_load(row_shape, target, start, 0)
        tile_store(scalar.fma(g, one_load(factors, k + p - p_range[0]), row), target, start, 0)


@cpu_kernel
def add_to_rows(target, blocks, ids, p_range, factors, k, columns, grad_x):
    """``target[ids[p]] += factors[k + p - p_range[0]] * grad_x[0]`` for p in p_range, columns [columns[0],
    columns[1])."""
    column = columns[0]
    while column < columns[1]:
        place = place_of(blocks, column, columns[1])
        width = chunk_vectors((place[2] - column) // lanes(target))
        position = grad_x.start + column
        if width == 7:
            add_columns(shape(1, 7), target, place, ids, p_range, factors, k, grad_x, position)
        elif width == 4:
            add_columns(shape(1, 4), target, place, ids, p_range, factors, k, grad_x, position)
        elif width == 3:
            add_columns(shape(1, 3), target, place, ids, p_range, factors, k, grad_x, position)
        else:
            add_columns(shape(1, 1), target, place, ids, p_range, factors, k, grad_x, position)
        column += width * lanes(target)


@cpu_kernel
def add_chosen(target, blocks, ids, first, factors, k, columns, grad_x, choices):
    """Max pooling: ``target[ids[first + q], j] += factors[k + q] * grad_x[0, j]`` with q the choice of column j."""
    for j in range(columns[0], columns[1]):
        q = np.int64(choices.data[choices.start + j])
        start, pitch, _ = place_of(blocks, j, columns[1])
        target[start + np.int64(ids[first + q]) * pitch] += factors[k + q] * grad_x.data[grad_x.start + j]


@cpu_kernel
def add_documents(target, blocks, ids, by_slot, bags, order, grad_x, factors, columns):
    """``target[row] += factor * g`` for each token's row, its factor and the row g of grad_x of its document.

    Parameters
    ----------
    target : (n_rows * stride,) or (n_tokens * stride,)
        Columns [columns[0], columns[1]) are added to.
    blocks : Blocks
        Of `target`.
    ids : int32
        Row of `target` for each token: of all documents' tokens, or, `by_slot`, of the batch's.
    grad_x : Matrix
        A stride of 0: the same for all documents.
    factors : (n_tokens,)
    """
    documents, embedding = bags.documents, bags.embedding
    k = np.int64(0)
    for d in range(order.size):
        first, last = documents.starts[order[d]], documents.starts[order[d] + 1]
        start = k if by_slot else first
        g = Matrix(grad_x.data, grad_x.start + d * grad_x.stride, grad_x.stride)
        if embedding.pooling == Pooling.MAX:
            if last > first:
                choices = Matrix(bags.space.choices, d * embedding.stride, embedding.stride)
                used = columns[0], min(columns[1], embedding.dim)
                add_chosen(target, blocks, ids, start, factors, k, used, g, choices)
        else:
            add_to_rows(target, blocks, ids, (start, start + last - first), factors, k, columns, g)
        k += last - first


@cpu_kernel
def add_gradients(target, blocks, ids, by_slot, bags, order, grad_x, weights, steps, factors, columns):
    """Adds ``steps * gradient`` of each token to its row of `target`; see `add_documents`."""
    pooling, n_tokens = bags.embedding.pooling, count_tokens(bags.documents, order)
    if pooling == Pooling.MAX:
        add_documents(target, blocks, ids, by_slot, bags, order, grad_x, steps, columns)
    else:
        multiply(steps, weights, n_tokens, factors)
        add_documents(target, blocks, ids, by_slot, bags, order, grad_x, factors, columns)
    if pooling == Pooling.ATTENTION:
        multiply(steps, bags.space.slopes, n_tokens, factors)
        query = Matrix(bags.embedding.query, 0, 0)
        add_documents(target, blocks, ids, by_slot, bags, order, query, factors, columns)


@cpu_kernel
def count_tokens(documents, order):
    """Tokens of the documents `order`."""
    n = 0
    for d in range(order.size):
        n += documents.starts[order[d] + 1] - documents.starts[order[d]]
    return n


@cpu_kernel
def assign_slots(documents, order, slot_of_row, slots, touched):
    """Numbers the rows of a batch: ``touched[slots[k]]`` is the row of token k. Returns how many rows there are."""
    n, k = np.int64(0), np.int64(0)
    for d in range(order.size):
        for p in range(documents.starts[order[d]], documents.starts[order[d] + 1]):
            row = documents.ids[p]
            if slot_of_row[row] < 0:
                slot_of_row[row] = n
                touched[n] = row
                n += 1
            slots[k] = slot_of_row[row]
            k += 1
    for slot in range(n):
        slot_of_row[touched[slot]] = -1
    return n


@cpu_kernel
def clear_slots(sums, stride, n, columns):
    """Zeros in some columns of the first n slots."""
    vector = shape(1, 1)
    for slot in range(n):
        for column in range(columns[0], columns[1], lanes(sums)):
            tile_store(tile_zeros(vector, sums), sums, slot * stride + column, 0)


@cpu_kernel
def adam_rows(embedding, sums, touched, n, columns, rate, rule):
    """Adam on some columns of the rows ``touched[:n]`` with the gradients `sums`; rows without one stay as they are.

    Source: Kingma, Ba 2015, algorithm 1, on the rows that have a gradient ("lazy" or "sparse" Adam).
    """
    vector, stride = shape(1, 1), embedding.stride
    for slot in range(n):
        row = np.int64(touched[slot])
        for column in range(columns[0], columns[1], lanes(sums)):
            place, pitch, _ = place_of(embedding.blocks, column, columns[1])
            position, state = place + row * pitch, 2 * row * stride + column
            w = tile_load(vector, embedding.rows, position, 0)
            g = tile_load(vector, sums, slot * stride + column, 0)
            mean = tile_load(vector, embedding.moments, state, 0)
            square = tile_load(vector, embedding.moments, state + stride, 0)
            w, mean, square = scalar.adam(w, g, mean, square, rate, 0.0, rule.gap_1, rule.gap_2, rule.epsilon)
            tile_store(w, embedding.rows, position, 0)
            tile_store(mean, embedding.moments, state, 0)
            tile_store(square, embedding.moments, state + stride, 0)


@cpu_kernel
def embedding_step(bags, order, grad_x, norms, rate, rule, columns, worker):
    """One update of some columns of the rows of a batch's tokens.

    Parameters
    ----------
    grad_x : Matrix (n, dim)
        Gradient of the pooled vectors; of these columns at least, but for max pooling.
    norms : (n,)
        Its rows' mean squares.
    rate : float
        With Adam's correction of the bias in it.
    """
    embedding, space, documents = bags.embedding, bags.space, bags.documents
    weights = space.attention if embedding.pooling == Pooling.ATTENTION else space.weights[worker]
    steps, factors = space.steps[worker], space.factors[worker]
    n_tokens = count_tokens(documents, order)
    at_once = rule.optimizer == Optimizer.SGD or rule.optimizer == Optimizer.ADAGRAD
    if rule.optimizer == Optimizer.ADAGRAD:
        adagrad_steps(bags, order, grad_x, norms, rate, weights, embedding.squares[worker], steps)
    else:
        step = -rate if at_once else 1.0
        for k in range(n_tokens):
            steps[k] = step
    target, blocks, ids, n = embedding.rows, embedding.blocks, documents.ids, 0
    slots, touched = space.slots[worker], space.touched[worker]
    if not at_once:
        n = assign_slots(documents, order, space.slot_of_row[worker], slots, touched)
        clear_slots(space.sums, embedding.stride, n, columns)
        target, blocks, ids = space.sums, Blocks(embedding.stride, 0, 0), slots
    add_gradients(target, blocks, ids, not at_once, bags, order, grad_x, weights, steps, factors, columns)
    if not at_once:
        adam_rows(embedding, space.sums, touched, n, columns, rate, rule)
