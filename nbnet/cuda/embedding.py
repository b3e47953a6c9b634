"""Embedding bags: the vectors of a document's tokens pooled into one, and back. Formulas: `nbnet.cpu.embedding`.

A block has a document and some of its columns; its warps take turns with the tokens, and their sums are added in order.
What is known of a token lies where the token lies among all documents, so nothing depends on the batch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np
from numba import uint32, uint64

from ..cpu.token_rows import Documents
from ..network import Pooling
from .dense import row_number
from .jit import cuda, cuda_kernel, device_function
from .losses import LOWEST
from .maths import maths
from .occurrences import Occurrences
from .product import n_blocks
from .reductions import WARP, warp_max, warp_sum
from .text_streaming import StreamedTexts

ROWS = 4  # documents of a block where a warp has one
TURNS = 8  # warps of a block that take turns with the tokens of a document
NO_TOKEN = 0xFFFFFFFF


class Embedding(NamedTuple):
    """A table of `stride` elements a row, `dim` of them used, and how its rows are pooled and trained."""

    rows: object  # (n_rows * stride,)
    query: object  # (stride,): attention
    row_weights: object  # (n_rows,), or (0,): all one
    count_weights: object  # (256,): weight of a token that occurs so often in the document
    moments: object  # adagrad: (n_rows,); adam: (n_rows * 2 * stride,), mean and mean square of each row; else (0,)
    pooling: Pooling
    dim: int
    stride: int
    kept: float  # share of the pooled vectors that dropout keeps
    frozen: bool


class BagSpace(NamedTuple):
    """What is known of tokens, each at its place among all documents, and of the documents of a batch."""

    weights: object  # (n_tokens,): from `weigh_tokens`
    attention: object  # (n_tokens,): attention: the a of the formula
    slopes: object  # (n_tokens,): attention: derivative of the loss by each token's score
    chosen: object  # (n_tokens,): max: mean square of the gradient of each token
    norms: object  # (capacity,): mean square of a document's gradient
    products: object  # (capacity,): attention: mean of the gradient's product with the query
    queries: object  # (capacity * stride,): attention: the query's gradient
    choices: object  # uint32 (capacity * stride,): max: the token chosen in each column
    none: object  # no elements: stands for slopes that nobody wants


class Bags(NamedTuple):
    """Documents as the walk sees rows: with the embedding that reads them, and what its training needs."""

    n_rows: int
    layer: np.void  # LAYER: the embedding's
    documents: Documents  # on the GPU
    embedding: Embedding
    space: BagSpace
    groups: Occurrences | None = None  # training: the tokens of each batch by row of the table; None: see `atomic_step`
    n_groups: int = 0  # rows of the table that a batch has at most
    pieces: Callable | None = None  # makes the documents of an order ready, and their groups, piece by piece
    stream: StreamedTexts | None = None  # where documents are not all there


# ---------------------------------------------------------------- weights of tokens


@functools.cache
def _weigh_kernel(dtype, pooling):
    zero, one, root = dtype(0), dtype(1), maths(dtype.name).square_root
    divides, squares = pooling in (Pooling.MEAN, Pooling.SQRTN), pooling == Pooling.SQRTN

    @cuda_kernel(WARP * ROWS)
    def weigh_tokens(row_weights, count_weights, documents, weights, n_documents):
        i = uint32(cuda.blockIdx.x) * uint32(ROWS) + uint32(cuda.threadIdx.y)
        if i < n_documents:
            first, stop = uint32(documents.starts[i] + uint32(cuda.threadIdx.x)), documents.starts[i + 1]
            total = zero
            for p in range(first, stop, WARP):
                weight = count_weights[1]
                if documents.counts.size > 0:
                    weight = count_weights[documents.counts[p]]
                if row_weights.size > 0:
                    weight *= row_weights[documents.ids[p]]
                weights[p] = weight
                total += weight * weight if squares else weight
            if divides:
                total = warp_sum(total)
                if squares:
                    total = root(total)
                factor = one / total if total > zero else one
                for p in range(first, stop, WARP):
                    weights[p] *= factor

    return weigh_tokens


def weigh_tokens(queue, embedding, documents, weights):
    """Weight of every token of the documents, divided as the pooling asks.

    Parameters
    ----------
    weights : (n_tokens,)
        Overwritten.
    """
    kernel = _weigh_kernel(getattr(numba, weights.dtype.name), embedding.pooling)
    n = documents.starts.size - 1
    args = embedding.row_weights, embedding.count_weights, documents, weights, np.uint32(n)
    queue.add(kernel, n_blocks(n, ROWS), (WARP, ROWS), *args)


# ---------------------------------------------------------------- forward


@functools.cache
def _sum_rows_kernel(dtype, turns):
    zero, one, n_sums = dtype(0), dtype(1), turns * WARP

    @device_function
    def term(rows, documents, weights, start, stop, p, column, stride):
        """Of token p; behind the last one, nothing times the first one: so that four can be on their way at once."""
        inside = p < stop
        q = p if inside else start
        weight = weights[q] if inside else zero
        return weight * rows[uint64(documents.ids[q]) * uint64(stride) + uint64(column)]

    @cuda_kernel(n_sums)
    def sum_rows(rows, documents, weights, batch, x, slopes):
        sums = cuda.shared.array(n_sums, dtype)
        i, lane, turn = uint32(cuda.blockIdx.x), uint32(cuda.threadIdx.x), uint32(cuda.threadIdx.y)
        column, row = uint32(cuda.blockIdx.y) * uint32(WARP) + lane, row_number(batch, i)
        start, stop = documents.starts[row], documents.starts[row + 1]
        total = zero
        if column < x.stride:
            p = uint32(start + turn)
            while p < stop:
                v0 = term(rows, documents, weights, start, stop, p, column, x.stride)
                v1 = term(rows, documents, weights, start, stop, uint32(p + uint32(turns)), column, x.stride)
                v2 = term(rows, documents, weights, start, stop, uint32(p + uint32(2 * turns)), column, x.stride)
                v3 = term(rows, documents, weights, start, stop, uint32(p + uint32(3 * turns)), column, x.stride)
                total = (((total + v0) + v1) + v2) + v3
                p = uint32(p + uint32(4 * turns))
        sums[turn * uint32(WARP) + lane] = total
        cuda.syncthreads()
        if turn == 0 and column < x.stride:
            for other in range(1, turns):
                total += sums[uint32(other * WARP) + lane]
            at = x.start + i * x.stride + column
            x.data[at] = total
            if slopes.size > 0:
                slopes[at] = one

    return sum_rows


def sum_rows(queue, embedding, documents, weights, batch, x, slopes, n_rows):
    """``x[i] = sum of weights[q] e[q]`` for the documents of a batch.

    Parameters
    ----------
    weights : (n_tokens,)
    x : Matrix (n_rows, dim)
        Overwritten, pads with zero.
    slopes : (same as x.data) or (0,)
        Overwritten with ones, for those who multiply by slopes; empty: not wanted.
    """
    kernel = _sum_rows_kernel(getattr(numba, x.data.dtype.name), TURNS)
    grid = n_rows, n_blocks(embedding.stride, WARP)
    queue.add(kernel, grid, (WARP, TURNS), embedding.rows, documents, weights, batch, x, slopes)


@functools.cache
def _max_rows_kernel(dtype, turns):
    zero, one, n_all, nothing = dtype(0), dtype(1), turns * WARP, uint32(NO_TOKEN)

    @cuda_kernel(n_all)
    def max_rows(rows, documents, batch, x, slopes, choices):
        values, tokens = cuda.shared.array(n_all, dtype), cuda.shared.array(n_all, uint32)
        i, lane, turn = uint32(cuda.blockIdx.x), uint32(cuda.threadIdx.x), uint32(cuda.threadIdx.y)
        column, row = uint32(cuda.blockIdx.y) * uint32(WARP) + lane, row_number(batch, i)
        start, stop = documents.starts[row], documents.starts[row + 1]
        best, choice = zero, nothing
        if column < x.stride:
            p = uint32(start + turn)
            while p < stop:
                value = rows[uint64(documents.ids[p]) * uint64(x.stride) + uint64(column)]
                if choice == nothing or value > best:
                    best, choice = value, p
                p = uint32(p + uint32(turns))
        values[turn * uint32(WARP) + lane], tokens[turn * uint32(WARP) + lane] = best, choice
        cuda.syncthreads()
        if turn == 0 and column < x.stride:
            for other in range(1, turns):
                value, p = values[uint32(other * WARP) + lane], tokens[uint32(other * WARP) + lane]
                if p != nothing and (value > best or (value == best and p < choice)):
                    best, choice = value, p
            at = x.start + i * x.stride + column
            x.data[at] = best
            if slopes.size > 0:
                slopes[at] = one
            if choices.size > 0:
                choices[at] = choice

    return max_rows


def max_rows(queue, embedding, documents, batch, x, slopes, choices, n_rows):
    """``x[i, j] = maximum of e[q, j]`` and in `choices` the first token that has it; zero without tokens."""
    kernel = _max_rows_kernel(getattr(numba, x.data.dtype.name), TURNS)
    grid = n_rows, n_blocks(embedding.stride, WARP)
    queue.add(kernel, grid, (WARP, TURNS), embedding.rows, documents, batch, x, slopes, choices)


@functools.cache
def _attend_kernel(dtype, turns):
    zero, exp = dtype(0), maths(dtype.name).exp

    @cuda_kernel(WARP * turns)
    def attend(rows, query, documents, weights, attention, batch):
        row, lane, turn = row_number(batch, uint32(cuda.blockIdx.x)), uint32(cuda.threadIdx.x), cuda.threadIdx.y
        start, stop = documents.starts[row], documents.starts[row + 1]
        p = uint32(start + uint32(turn))
        while p < stop:
            position, score = uint64(documents.ids[p]) * uint64(query.size), zero
            for j in range(lane, query.size, WARP):
                score += rows[position + uint64(j)] * query[j]
            score = warp_sum(score)
            if lane == 0:
                attention[p] = score + dtype(math.log(weights[p]))
            p = uint32(p + uint32(turns))
        cuda.syncthreads()
        if turn == 0:
            largest, total = dtype(LOWEST), zero
            for q in range(uint32(start + lane), stop, WARP):
                largest = max(largest, attention[q])
            largest = warp_max(largest)
            for q in range(uint32(start + lane), stop, WARP):
                attention[q] = exp(attention[q] - largest)
                total += attention[q]
            total = warp_sum(total)
            for q in range(uint32(start + lane), stop, WARP):
                attention[q] /= total

    return attend


def attend(queue, embedding, documents, weights, attention, batch, n_rows):
    """Turns the weights v of the tokens of a batch's documents into ``a = softmax(query . e[q] + log v[q])``."""
    kernel = _attend_kernel(getattr(numba, weights.dtype.name), TURNS)
    args = embedding.rows, embedding.query, documents, weights, attention, batch
    queue.add(kernel, n_rows, (WARP, TURNS), *args)


def documents_forward(queue, bags, batch, x, slopes, choices, n_rows):
    """Pools documents into the rows of x.

    Parameters
    ----------
    batch : Batch
        Which documents.
    x : Matrix (n_rows, dim)
        Overwritten, pads with zero.
    slopes : (same as x.data) or (0,)
        Overwritten with ones; empty: not wanted.
    choices : uint32 (same as x.data) or (0,)
        Max pooling: overwritten with the token chosen in each column; empty: not wanted.
    """
    documents, embedding, weights = bags.documents, bags.embedding, bags.space.weights
    if embedding.pooling == Pooling.MAX:
        max_rows(queue, embedding, documents, batch, x, slopes, choices, n_rows)
        return
    if embedding.pooling == Pooling.ATTENTION:
        attend(queue, embedding, documents, weights, bags.space.attention, batch, n_rows)
        weights = bags.space.attention
    sum_rows(queue, embedding, documents, weights, batch, x, slopes, n_rows)


# ---------------------------------------------------------------- backward


@functools.cache
def _attention_kernel(dtype, turns):
    zero = dtype(0)

    @cuda_kernel(WARP * turns)
    def attention_backward(rows, query, documents, space, batch, x, grad_x, dim, kept):
        i, lane, turn = uint32(cuda.blockIdx.x), uint32(cuda.threadIdx.x), uint32(cuda.threadIdx.y)
        row, g = row_number(batch, i), grad_x.start + i * grad_x.stride
        along = product = zero
        for j in range(lane, query.size, WARP):
            along += grad_x.data[g + uint32(j)] * x.data[x.start + i * x.stride + uint32(j)]
            product += grad_x.data[g + uint32(j)] * query[j]
        along, product = warp_sum(along) * kept, warp_sum(product)  # dropout has divided what it keeps of h
        if lane == 0 and turn == 0:
            space.products[i] = product / dtype(dim)
        p, stop = uint32(documents.starts[row] + turn), documents.starts[row + 1]
        while p < stop:
            position, score = uint64(documents.ids[p]) * uint64(query.size), zero
            for j in range(lane, query.size, WARP):
                score += grad_x.data[g + uint32(j)] * rows[position + uint64(j)]
            score = warp_sum(score)
            if lane == 0:
                space.slopes[p] = space.attention[p] * (score - along)
            p = uint32(p + uint32(turns))

    return attention_backward


def attention_backward(queue, bags, batch, x, grad_x, n_rows):
    """From the gradient g of a document's h: derivatives ``a[q] (g . e[q] - g . h)`` of its scores into `slopes`, their
    products with e[q] (the query's gradient) into `queries`, the mean of g * query into `products`."""
    embedding, documents, space = bags.embedding, bags.documents, bags.space
    kernel = _attention_kernel(getattr(numba, x.data.dtype.name), TURNS)
    factors = np.uint32(embedding.dim), x.data.dtype.type(embedding.kept)
    args = embedding.rows, embedding.query, documents, space, batch, x, grad_x, *factors
    queue.add(kernel, n_rows, (WARP, TURNS), *args)
    queries = grad_x._replace(data=space.queries)
    sum_rows(queue, embedding, documents, space.slopes, batch, queries, space.none, n_rows)


@functools.cache
def _norms_kernel(dtype):
    zero = dtype(0)

    @cuda_kernel(WARP * ROWS)
    def gradient_norms(grad_x, norms, sizes):
        n_rows, dim = sizes
        i = uint32(cuda.blockIdx.x) * uint32(ROWS) + uint32(cuda.threadIdx.y)
        if i < n_rows:
            total = zero
            for j in range(uint32(cuda.threadIdx.x), dim, WARP):
                g = grad_x.data[grad_x.start + i * grad_x.stride + uint32(j)]
                total += g * g
            total = warp_sum(total)
            if cuda.threadIdx.x == 0:
                norms[i] = total / dtype(dim)

    return gradient_norms


def gradient_norms(queue, grad_x, dim, norms, n_rows):
    """``norms[d] = mean over j of grad_x[d, j]**2`` for the rows of a batch."""
    kernel = _norms_kernel(getattr(numba, norms.dtype.name))
    sizes = np.uint32(n_rows), np.uint32(dim)
    queue.add(kernel, n_blocks(n_rows, ROWS), (WARP, ROWS), grad_x, norms, sizes)
