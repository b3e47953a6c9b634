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
from ..network import Pooling
from ..random import Stream, philox
from .dense import Matrix
from .losses import LOWEST
from .simd import lanes, one_load, one_store, prefetch, shape, tile_load, tile_store, tile_sum, tile_zeros
from .token_rows import Documents

LINE_BYTES = 64  # of a cache


class Blocks(NamedTuple):
    """Where the rows of a table lie: columns [0, split) one row behind the other, and so the rest of the columns, from
    position `middle` on; see `network.EmbeddingTable`."""

    stride: int  # of both blocks together
    split: int
    middle: int  # number of rows * split


class Embedding(NamedTuple):
    """A table of `stride` elements a row, `dim` of them used, and how its rows are pooled and trained."""

    rows: np.ndarray  # (n_rows * stride,)
    blocks: Blocks
    query: np.ndarray  # (stride,): attention
    row_weights: np.ndarray  # (n_rows,), or (0,): all one
    count_weights: np.ndarray  # (256,): weight of a token that occurs so often in the document
    squares: np.ndarray  # (n_workers, n_rows): adagrad: a copy a worker, all equal; else (n_workers, 0)
    moments: np.ndarray  # (n_rows * 2 * stride,): adam's mean and mean square of each row; else (0,)
    pooling: int
    dim: int
    stride: int
    kept: float  # share of the pooled vectors that dropout keeps
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


@cpu_inline
def place_of(blocks, column, stop):
    """Of columns from `column` on: position in row 0, elements from row to row, and the end, before `stop`, of those
    that lie side by side."""
    if column < blocks.split:
        return column, blocks.split, min(stop, blocks.split)
    return blocks.middle + column - blocks.split, blocks.stride - blocks.split, stop


@cpu_kernel
def initialize_rows(rows, blocks, row_start, row_stop, dim, bound, seed):
    """Rows [row_start, row_stop): uniform in (-bound, bound), from the seed, the row and the column only.

    Columns 4 b ... 4 b + 3 of row r are the words of Philox's counter (b, low half of r, high half of r, EMBEDDING).
    """
    stream = np.uint64(Stream.EMBEDDING)
    for row in range(row_start, row_stop):
        low, high = np.uint64(row) & np.uint64(0xFFFFFFFF), np.uint64(row) >> np.uint64(32)
        for block in range(0, dim, 4):
            words = philox(np.uint64(block // 4), low, high, stream, seed)
            start, pitch, _ = place_of(blocks, block, dim)  # a split is a multiple of four
            for j in range(min(4, dim - block)):
                rows[start + row * pitch + j] = bound * (float(words[j]) / 2147483648.0 - 1.0)


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
                weight = one_load(embedding.count_weights, one_load(documents.counts, q))
            if embedding.row_weights.size > 0:
                weight = weight * one_load(embedding.row_weights, one_load(documents.ids, q))
            one_store(weight, weights, k)
            total += weight * weight if embedding.pooling == Pooling.SQRTN else weight
            k += 1
        if embedding.pooling == Pooling.SQRTN:
            total = np.sqrt(total)
        if (embedding.pooling == Pooling.SQRTN or embedding.pooling == Pooling.MEAN) and total > 0.0:
            factor = 1.0 / total
            for q in range(first, k):
                weights[q] *= factor


@cpu_kernel
def prefetch_documents(documents, order, start, n):
    """Asks for the tokens of the n documents from position `start` of the order on, and for where those of the n
    documents behind them begin; called for each batch in turn, no batch waits for memory."""
    for i in range(start, min(start + n, order.size)):
        first, stop = documents.starts[order[i]], documents.starts[order[i] + 1]
        for p in range(first, stop, LINE_BYTES // 4):
            prefetch(documents.ids, p)
        if documents.counts.size > 0:
            for p in range(first, stop, LINE_BYTES):
                prefetch(documents.counts, p)
    for i in range(start + n, min(start + 2 * n, order.size)):
        prefetch(documents.starts, order[i])


@cpu_inline
def chunk_vectors(n_left):
    """Vectors of a row that are summed together when `n_left` are left."""
    return 7 if n_left >= 7 else 3 if n_left == 6 or n_left == 3 else 4 if n_left >= 4 else 1


# ---------------------------------------------------------------- forward


@cpu_inline
def sum_columns(row_shape, rows, place, documents, p_range, weights, k, x_data, position):
    """``x = sum over p of weights[k + p] * rows[ids[p]]`` for some columns of one document."""
    total = tile_zeros(row_shape, x_data)
    for p in range(p_range[0], p_range[1]):
        row = tile_load(row_shape, rows, place[0] + np.int64(one_load(documents.ids, p)) * place[1], 0)
        total = scalar.fma(row, one_load(weights, k + p - p_range[0]), total)
    tile_store(total, x_data, position, 0)


@cpu_kernel
def sum_rows(embedding, documents, row, weights, k, columns, x):
    """``x[0] = sum of weights[k + q] e[q]`` for the document `row` and columns [columns[0], columns[1])."""
    p_range, rows = (documents.starts[row], documents.starts[row + 1]), embedding.rows
    column = columns[0]
    while column < columns[1]:
        place = place_of(embedding.blocks, column, columns[1])
        width = chunk_vectors((place[2] - column) // lanes(x.data))
        position = x.start + column
        if width == 7:
            sum_columns(shape(1, 7), rows, place, documents, p_range, weights, k, x.data, position)
        elif width == 4:
            sum_columns(shape(1, 4), rows, place, documents, p_range, weights, k, x.data, position)
        elif width == 3:
            sum_columns(shape(1, 3), rows, place, documents, p_range, weights, k, x.data, position)
        else:
            sum_columns(shape(1, 1), rows, place, documents, p_range, weights, k, x.data, position)
        column += width * lanes(x.data)


@cpu_kernel
def max_rows(embedding, documents, row, columns, x, choices):
    """``x[0, j] = maximum of e[q, j]`` and in `choices` the first token that has it; zero without tokens."""
    vector, width = shape(1, 1), lanes(x.data)
    start, stop = documents.starts[row], documents.starts[row + 1]
    for column in range(columns[0], columns[1], width):
        best, choice = tile_zeros(vector, x.data), tile_zeros(vector, x.data)
        place, pitch, _ = place_of(embedding.blocks, column, columns[1])
        for p in range(start, stop):
            value = tile_load(vector, embedding.rows, place + np.int64(documents.ids[p]) * pitch, 0)
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


@cpu_inline
def dot_row(embedding, row, y, start):
    """``sum over j of rows[row, j] * y[start + j]``."""
    blocks = embedding.blocks
    pitch = blocks.stride - blocks.split
    left = dot(embedding.rows, row * blocks.split, y, start, blocks.split)
    return left + dot(embedding.rows, blocks.middle + row * pitch, y, start + blocks.split, pitch)


@cpu_kernel
def attend(embedding, documents, row, weights, k):
    """Turns the weights v of a document's tokens, from position k on, into ``a = softmax(query . e[q] + log v[q])``."""
    start, stop = documents.starts[row], documents.starts[row + 1]
    largest = LOWEST
    for p in range(start, stop):
        score = dot_row(embedding, np.int64(documents.ids[p]), embedding.query, np.int64(0))
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
            # dropout has divided what it keeps of h by its share
            along = dot(grad_x.data, g, x.data, x.start + d * x.stride, stride) * embedding.kept
            space.products[d] = dot(grad_x.data, g, embedding.query, np.int64(0), stride) / embedding.dim
            for p in range(start, stop):
                score = dot_row(embedding, np.int64(documents.ids[p]), grad_x.data, g)
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
