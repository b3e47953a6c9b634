"""Embedding bags: the vectors of a document's tokens pooled into one, and back.

With the tokens q of a document, their vectors e[q] and their weights v[q] (of the row, times that of the count), the
pooled vector h is

    sum        h = sum of v[q] e[q]
    mean       h = sum of v[q] e[q] / sum of v[q]
    sqrtn      h = sum of v[q] e[q] / sqrt(sum of v[q]**2)
    max        h[j] = maximum of e[q, j]
    attention  h = sum of a[q] e[q], a = softmax of query . e[q] + log v[q]

A worker owns columns of the table, a cache line wide or more: no line of it ever moves between cores, and each number
is summed by one worker in the order of documents and tokens. A row costs no more than it is used: tokens that a batch
does not have are neither read nor written.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import scalar
from ..jit import cpu_inline, cpu_kernel
from ..network import Optimizer, Pooling
from ..random import Stream, philox
from .dense import Matrix
from .losses import LOWEST
from .simd import lanes, shape, tile_load, tile_store, tile_sum, tile_zeros
from .tokens import Documents


class Embedding(NamedTuple):
    """A table of `stride` elements a row, `dim` of them used, and how its rows are pooled and trained."""

    rows: np.ndarray  # (n_rows * stride,)
    query: np.ndarray  # (stride,): attention
    row_weights: np.ndarray  # (n_rows,), or (0,): all one
    count_weights: np.ndarray  # (256,): weight of a token that occurs so often in the document
    squares: np.ndarray  # (n_workers, n_rows): adagrad: a copy a worker, all equal; else (n_workers, 0)
    moments: np.ndarray  # (n_rows * 2 * stride,): adam's mean and mean square of each row; else (0,)
    pooling: int
    dim: int
    stride: int
    frozen: bool


class BagSpace(NamedTuple):
    """Workspace for the tokens of a batch, which lie one document after another."""

    weights: np.ndarray  # (n_workers, n_tokens)
    attention: np.ndarray  # (n_tokens,): attention: the a of the formula
    slopes: np.ndarray  # (n_tokens,): attention: derivative of the loss by each token's score
    steps: np.ndarray  # (n_workers, n_tokens): length of each token's step
    factors: np.ndarray  # (n_workers, n_tokens): of the document's gradient in each token's step
    norms: np.ndarray  # (n_workers, capacity): mean square of a document's gradient
    products: np.ndarray  # (capacity,): attention: mean of the gradient's product with the query
    # (capacity * stride,): max: number of the token chosen in each column; attention: the query's gradient
    choices: np.ndarray
    slots: np.ndarray  # (n_workers, n_tokens) int32: adam: where the token's row is summed up
    touched: np.ndarray  # (n_workers, n_tokens) int32: adam: row of each slot
    slot_of_row: np.ndarray  # (n_workers, n_rows) int32: adam: -1 between batches
    sums: np.ndarray  # (n_tokens * stride,): adam: gradient of each slot


class Bags(NamedTuple):
    """What the embedding of a training step needs."""

    documents: Documents
    embedding: Embedding
    space: BagSpace


# ---------------------------------------------------------------- the table


@cpu_kernel
def initialize_rows(rows, row_start, row_stop, dim, stride, bound, seed):
    """Rows [row_start, row_stop): uniform in (-bound, bound), from the seed, the row and the column only.

    Columns 4 b ... 4 b + 3 of row r are the words of Philox's counter (b, low half of r, high half of r, EMBEDDING).
    """
    stream = np.uint64(Stream.EMBEDDING)
    for row in range(row_start, row_stop):
        low, high = np.uint64(row) & np.uint64(0xFFFFFFFF), np.uint64(row) >> np.uint64(32)
        for block in range(0, dim, 4):
            words = philox(np.uint64(block // 4), low, high, stream, seed)
            for j in range(block, min(block + 4, dim)):
                rows[row * stride + j] = bound * (float(words[j - block]) / 2147483648.0 - 1.0)


# ---------------------------------------------------------------- weights of tokens


@cpu_kernel
def weigh_tokens(embedding, documents, order, weights):
    """Weight of every token of the documents `order`, divided as the pooling asks, into `weights` from 0 on."""
    k = np.int64(0)
    for d in range(order.size):
        first = k
        total = 0.0
        for q in range(documents.starts[order[d]], documents.starts[order[d] + 1]):
            weight = embedding.count_weights[1]
            if documents.counts.size > 0:
                weight = embedding.count_weights[documents.counts[q]]
            if embedding.row_weights.size > 0:
                weight = weight * embedding.row_weights[documents.ids[q]]
            weights[k] = weight
            total += weight * weight if embedding.pooling == Pooling.SQRTN else weight
            k += 1
        if embedding.pooling == Pooling.SQRTN:
            total = np.sqrt(total)
        if (embedding.pooling == Pooling.SQRTN or embedding.pooling == Pooling.MEAN) and total > 0.0:
            factor = 1.0 / total
            for q in range(first, k):
                weights[q] *= factor


@cpu_inline
def chunk_vectors(n_left):
    """Vectors of a row that are summed together when `n_left` are left."""
    return 7 if n_left >= 7 else 4 if n_left >= 4 else min(n_left, 2)


# ---------------------------------------------------------------- forward


@cpu_inline
def sum_columns(row_shape, embedding, column, documents, p_range, weights, k, x_data, position):
    """``x = sum over p of weights[k + p] * rows[ids[p]]`` for some columns of one document."""
    total = tile_zeros(row_shape, x_data)
    for p in range(p_range[0], p_range[1]):
        row = tile_load(row_shape, embedding.rows, np.int64(documents.ids[p]) * embedding.stride + column, 0)
        total = scalar.fma(row, weights[k + p - p_range[0]], total)
    tile_store(total, x_data, position, 0)


@cpu_kernel
def sum_rows(embedding, documents, row, weights, k, columns, x):
    """``x[0] = sum of weights[k + q] e[q]`` for the document `row` and columns [columns[0], columns[1])."""
    p_range = documents.starts[row], documents.starts[row + 1]
    column = columns[0]
    while column < columns[1]:
        width = chunk_vectors((columns[1] - column) // lanes(x.data))
        position = x.start + column
        if width == 7:
            sum_columns(shape(1, 7), embedding, column, documents, p_range, weights, k, x.data, position)
        elif width == 4:
            sum_columns(shape(1, 4), embedding, column, documents, p_range, weights, k, x.data, position)
        elif width == 2:
            sum_columns(shape(1, 2), embedding, column, documents, p_range, weights, k, x.data, position)
        else:
            sum_columns(shape(1, 1), embedding, column, documents, p_range, weights, k, x.data, position)
        column += width * lanes(x.data)


@cpu_kernel
def max_rows(embedding, documents, row, columns, x, choices):
    """``x[0, j] = maximum of e[q, j]`` and in `choices` the first token that has it; zero without tokens."""
    vector, width = shape(1, 1), lanes(x.data)
    start, stop = documents.starts[row], documents.starts[row + 1]
    for column in range(columns[0], columns[1], width):
        best, choice = tile_zeros(vector, x.data), tile_zeros(vector, x.data)
        for p in range(start, stop):
            value = tile_load(vector, embedding.rows, np.int64(documents.ids[p]) * embedding.stride + column, 0)
            larger = value - best if p > start else tile_zeros(vector, x.data) + 1.0
            best = scalar.where_positive(larger, value, best)
            choice = scalar.where_positive(larger, float(p - start), choice)
        tile_store(best, x.data, x.start + column, 0)
        if choices.data.size > 0:
            tile_store(choice, choices.data, choices.start + column, 0)


@cpu_kernel
def dot(x, x_start, y, y_start, n):
    """``sum over j < n of x[x_start + j] * y[y_start + j]``; n a multiple of a vector."""
    vector = shape(1, 1)
    total = tile_zeros(vector, x)
    for j in range(0, n, lanes(x)):
        total = scalar.fma(tile_load(vector, x, x_start + j, 0), tile_load(vector, y, y_start + j, 0), total)
    return tile_sum(total)


@cpu_kernel
def attend(embedding, documents, row, weights, k):
    """Turns the weights v of a document's tokens, from position k on, into ``a = softmax(query . e[q] + log v[q])``."""
    start, stop = documents.starts[row], documents.starts[row + 1]
    largest = LOWEST
    for p in range(start, stop):
        position = np.int64(documents.ids[p]) * embedding.stride
        score = dot(embedding.rows, position, embedding.query, np.int64(0), embedding.stride)
        score += np.log(weights[k + p - start])
        weights[k + p - start] = score
        largest = max(largest, score)
    total = 0.0
    for q in range(k, k + stop - start):
        weights[q] = np.exp(weights[q] - largest)
        total += weights[q]
    for q in range(k, k + stop - start):
        weights[q] /= total


@cpu_kernel
def documents_forward(bags, order, x, weights, choices, d_range, columns):
    """Pools documents [d_range[0], d_range[1]) of `order` into the rows of x, columns [columns[0], columns[1]).

    Parameters
    ----------
    x : Matrix (order.size, dim)
        Overwritten in whole vectors.
    weights : (n_tokens,)
        From `weigh_tokens`; with attention those of these documents become the attention.
    choices : Matrix
        Max pooling: overwritten for `add_chosen`; without elements: not wanted.
    """
    k = np.int64(0)
    for d in range(order.size):
        row = order[d]
        if d_range[0] <= d < d_range[1]:
            target = Matrix(x.data, x.start + d * x.stride, x.stride)
            if bags.embedding.pooling == Pooling.MAX:
                chosen = Matrix(choices.data, choices.start + d * choices.stride, choices.stride)
                max_rows(bags.embedding, bags.documents, row, columns, target, chosen)
            else:
                if bags.embedding.pooling == Pooling.ATTENTION:
                    attend(bags.embedding, bags.documents, row, weights, k)
                    for q in range(k, k + bags.documents.starts[row + 1] - bags.documents.starts[row]):
                        bags.space.attention[q] = weights[q]
                sum_rows(bags.embedding, bags.documents, row, weights, k, columns, target)
        k += bags.documents.starts[row + 1] - bags.documents.starts[row]


# ---------------------------------------------------------------- backward


@cpu_kernel
def attention_backward(bags, order, x, grad_x, d_range):
    """From the gradient g of a document's h: derivatives ``a[q] (g . e[q] - g . h)`` of its scores into `slopes`, their
    products with e[q] (the query's gradient) into `choices`, the mean of g * query into `products`."""
    embedding, documents, space = bags.embedding, bags.documents, bags.space
    stride, k = embedding.stride, np.int64(0)
    for d in range(order.size):
        row = order[d]
        start, stop = documents.starts[row], documents.starts[row + 1]
        if d_range[0] <= d < d_range[1]:
            g = grad_x.start + d * grad_x.stride
            along = dot(grad_x.data, g, x.data, x.start + d * x.stride, stride)
            space.products[d] = dot(grad_x.data, g, embedding.query, np.int64(0), stride) / embedding.dim
            for p in range(start, stop):
                score = dot(grad_x.data, g, embedding.rows, np.int64(documents.ids[p]) * stride, stride)
                space.slopes[k + p - start] = space.attention[k + p - start] * (score - along)
            query_gradient = Matrix(space.choices, d * stride, stride)
            sum_rows(embedding, documents, row, space.slopes, k, (np.int64(0), stride), query_gradient)
        k += stop - start


@cpu_kernel
def gradient_norms(grad_x, dim, stride, d_range, norms):
    """``norms[d] = mean over j of grad_x[d, j]**2``."""
    for d in range(d_range[0], d_range[1]):
        position = grad_x.start + d * grad_x.stride
        norms[d] = dot(grad_x.data, position, grad_x.data, position, stride) / dim


@cpu_inline
def token_norm(bags, norms, weights, k, d, query_norm):
    """Mean square of the gradient of a token of document d."""
    space = bags.space
    norm = weights[k] * weights[k] * norms[d]
    if bags.embedding.pooling == Pooling.ATTENTION:
        slope = space.slopes[k]
        norm += slope * (2.0 * weights[k] * space.products[d] + slope * query_norm)
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
            row = documents.ids[p]
            norm = weights[k] if is_max else token_norm(bags, norms, weights, k, d, query_norm)
            if documents.counts.size > 0:
                norm /= documents.counts[p]
            total = squares[row] + norm
            squares[row] = total
            steps[k] = total
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
def add_columns(row_shape, target, stride, column, ids, p_range, factors, k, grad_x, position):
    """``target[ids[p]] += factors[k + p] * grad_x`` for some columns of one document."""
    g = tile_load(row_shape, grad_x.data, position, 0)
    for p in range(p_range[0], p_range[1]):
        start = np.int64(ids[p]) * stride + column
        row = tile_load(row_shape, target, start, 0)
        tile_store(scalar.fma(g, factors[k + p - p_range[0]], row), target, start, 0)


@cpu_kernel
def add_to_rows(target, stride, ids, p_range, factors, k, columns, grad_x):
    """``target[ids[p]] += factors[k + p - p_range[0]] * grad_x[0]`` for p in p_range, columns [columns[0],
    columns[1])."""
    column = columns[0]
    while column < columns[1]:
        width = chunk_vectors((columns[1] - column) // lanes(target))
        position = grad_x.start + column
        if width == 7:
            add_columns(shape(1, 7), target, stride, column, ids, p_range, factors, k, grad_x, position)
        elif width == 4:
            add_columns(shape(1, 4), target, stride, column, ids, p_range, factors, k, grad_x, position)
        elif width == 2:
            add_columns(shape(1, 2), target, stride, column, ids, p_range, factors, k, grad_x, position)
        else:
            add_columns(shape(1, 1), target, stride, column, ids, p_range, factors, k, grad_x, position)
        column += width * lanes(target)


@cpu_kernel
def add_chosen(target, stride, ids, first, factors, k, columns, grad_x, choices):
    """Max pooling: ``target[ids[first + q], j] += factors[k + q] * grad_x[0, j]`` with q the choice of column j."""
    for j in range(columns[0], columns[1]):
        q = np.int64(choices.data[choices.start + j])
        target[np.int64(ids[first + q]) * stride + j] += factors[k + q] * grad_x.data[grad_x.start + j]


@cpu_kernel
def add_documents(target, ids, by_slot, bags, order, grad_x, factors, columns):
    """``target[row] += factor * g`` for each token's row, its factor and the row g of grad_x of its document.

    Parameters
    ----------
    target : (n_rows * stride,) or (n_tokens * stride,)
        Columns [columns[0], columns[1]) are added to.
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
                add_chosen(target, embedding.stride, ids, start, factors, k, used, g, choices)
        else:
            add_to_rows(target, embedding.stride, ids, (start, start + last - first), factors, k, columns, g)
        k += last - first


@cpu_kernel
def add_gradients(target, ids, by_slot, bags, order, grad_x, weights, steps, factors, columns):
    """Adds ``steps * gradient`` of each token to its row of `target`; see `add_documents`."""
    pooling, n_tokens = bags.embedding.pooling, count_tokens(bags.documents, order)
    if pooling == Pooling.MAX:
        add_documents(target, ids, by_slot, bags, order, grad_x, steps, columns)
    else:
        multiply(steps, weights, n_tokens, factors)
        add_documents(target, ids, by_slot, bags, order, grad_x, factors, columns)
    if pooling == Pooling.ATTENTION:
        multiply(steps, bags.space.slopes, n_tokens, factors)
        query = Matrix(bags.embedding.query, 0, 0)
        add_documents(target, ids, by_slot, bags, order, query, factors, columns)


@cpu_kernel
def count_tokens(documents, order):
    """Tokens of the documents `order`."""
    n = 0
    for d in range(order.size):
        n += documents.starts[order[d] + 1] - documents.starts[order[d]]
    return n


# ---------------------------------------------------------------- updates


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
            position, state = row * stride + column, 2 * row * stride + column
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
    target, ids, n = embedding.rows, documents.ids, 0
    slots, touched = space.slots[worker], space.touched[worker]
    if not at_once:
        n = assign_slots(documents, order, space.slot_of_row[worker], slots, touched)
        clear_slots(space.sums, embedding.stride, n, columns)
        target, ids = space.sums, slots
    add_gradients(target, ids, not at_once, bags, order, grad_x, weights, steps, factors, columns)
    if not at_once:
        adam_rows(embedding, space.sums, touched, n, columns, rate, rule)
