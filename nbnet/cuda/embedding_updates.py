"""Updates of an embedding: the gradients of a batch's tokens, and the solvers' steps on the rows that have one.

A warp has a row of the table and goes through the tokens of the batch that share it, in the order of documents and
tokens (see `occurrences`). Its lanes first have a token each, and then four columns each. Where the order does not
matter (`atomic_step`), a warp has a token, and adds to its row while others do.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numba
import numpy as np
from numba import int32, int64, uint32, uint64

from ..cpu.dense import Matrix
from ..network import Optimizer, Pooling
from .dense import row_number
from .embedding import TURNS
from .intrinsics import load4, store4
from .jit import cuda, cuda_kernel, device_function
from .launch import n_processors
from .maths import maths
from .product import n_blocks
from .reductions import ALL, WARP, warp_running_sum, warp_sum

WARPS = 8  # rows of the table that a block has at a time
BLOCKS_A_PROCESSOR = 16  # at most; each takes another row when it is done with one
COLUMNS = 4 * WARP  # that a warp updates at a time


class TokenGradients(NamedTuple):
    """What the gradients of a batch's tokens are made of."""

    grad_x: Matrix  # of the pooled vectors
    counts: object  # of the tokens, as in `Documents`
    weights: object  # of the tokens; attention: theirs
    slopes: object
    chosen: object
    norms: object
    products: object
    choices: object


def _token_gradients(bags, grad_x) -> TokenGradients:
    space = bags.space
    weights = space.attention if bags.embedding.pooling == Pooling.ATTENTION else space.weights
    known = space.slopes, space.chosen, space.norms, space.products, space.choices
    return TokenGradients(grad_x, bags.documents.counts, weights, *known)


def _n_step_blocks(n_groups: int) -> int:
    """Blocks that go through `n_groups` groups of tokens or fewer."""
    return max(1, min(n_blocks(n_groups, WARPS), BLOCKS_A_PROCESSOR * n_processors()))


@functools.cache
def _chosen_kernel(dtype, turns):
    zero = dtype(0)

    @cuda_kernel(WARP * turns)
    def chosen_norms(documents, batch, grad_x, choices, chosen, dim):
        i, lane, turn = uint32(cuda.blockIdx.x), uint32(cuda.threadIdx.x), uint32(cuda.threadIdx.y)
        row, first = row_number(batch, i), i * grad_x.stride
        p, stop = uint32(documents.starts[row] + turn), documents.starts[row + 1]
        while p < stop:
            total = zero
            for j in range(lane, dim, WARP):
                if choices[first + uint32(j)] == p:
                    g = grad_x.data[grad_x.start + first + uint32(j)]
                    total += g * g
            total = warp_sum(total)
            if lane == 0:
                chosen[p] = total / dtype(dim)
            p = uint32(p + uint32(turns))

    return chosen_norms


def chosen_norms(queue, bags, batch, grad_x, n_rows):
    """Max pooling: the mean square of each token's gradient, which is that of the document where it was chosen.

    Parameters
    ----------
    bags : Bags
        `chosen` is overwritten for the tokens of the batch.
    grad_x : Matrix (n_rows, dim)
    """
    kernel = _chosen_kernel(getattr(numba, grad_x.data.dtype.name), TURNS)
    space, dim = bags.space, np.uint32(bags.embedding.dim)
    queue.add(kernel, n_rows, (WARP, TURNS), bags.documents, batch, grad_x, space.choices, space.chosen, dim)


@functools.cache
def _token_norm(dtype, pooling):
    """A device function: mean square of a token's gradient.

    A token that occurs c times counts as c, each with a c-th of its gradient: the squares' sum is divided by c.
    """
    two, is_max, attends = dtype(2), pooling == Pooling.MAX, pooling == Pooling.ATTENTION

    @device_function
    def token_norm(of, p, place, weight, query_norm):
        if is_max:
            norm = of.chosen[p]
        else:
            norm = weight * weight * of.norms[place]
        if attends:
            slope = of.slopes[p]
            norm += slope * (two * weight * of.products[place] + slope * query_norm)
        if of.counts.size > 0:
            norm /= dtype(of.counts[p])
        return norm

    return token_norm


@functools.cache
def _token_step(dtype, optimizer, pooling):
    """A device function: factors of the document's gradient and of the query in a token's step, and the row's new sum
    of squares.

    All lanes of a warp call it, each with a token of one row, or none. Adagrad: the mean square of each token's
    gradient is added to the row's sum, one after another; the step is ``-rate / sqrt(sum)``.
    """
    token_norm, zero, one, root = _token_norm(dtype, pooling), dtype(0), dtype(1), maths(dtype.name).square_root
    is_max, attends = pooling == Pooling.MAX, pooling == Pooling.ATTENTION
    is_adagrad, is_sgd = optimizer == Optimizer.ADAGRAD, optimizer == Optimizer.SGD

    @device_function
    def token_step(of, inside, p, place, square, rate, query_norm):
        weight = norm = zero
        if inside:
            weight = one if is_max else of.weights[p]
            if is_adagrad:
                norm = token_norm(of, p, place, weight, query_norm)
        step = -rate if is_sgd else one
        if is_adagrad:
            total = square + warp_running_sum(norm)
            step, square = -rate / root(total), cuda.shfl_sync(ALL, total, WARP - 1)
        along = zero
        if attends and inside:
            along = step * of.slopes[p]
        return step * weight, along, square

    return token_step


@functools.cache
def _step_kernel(dtype, optimizer, pooling, warps):
    token_step, adam, zero = _token_step(dtype, optimizer, pooling), maths(dtype.name).adam, dtype(0)
    is_max, attends = pooling == Pooling.MAX, pooling == Pooling.ATTENTION
    is_adagrad, is_adam = optimizer == Optimizer.ADAGRAD, optimizer in (Optimizer.ADAM, Optimizer.ADAMW)
    needs_query_norm = is_adagrad and attends

    @device_function
    def adam_row(rows, moments, at, state, column, stride, g, rate, rule):
        at, mean_at = at + uint64(column), state + uint64(column)
        w, mean, square = rows[at], moments[mean_at], moments[mean_at + uint64(stride)]
        w, mean, square = adam(w, g, mean, square, rate, zero, rule.gap_1, rule.gap_2, rule.epsilon)
        rows[at], moments[mean_at], moments[mean_at + uint64(stride)] = w, mean, square

    @device_function
    def gradient4(of, at, p):
        """Four numbers of a document's gradient; with max pooling zero where token p was not chosen."""
        g0, g1, g2, g3 = load4(of.grad_x.data, of.grad_x.start + at)
        if is_max:
            g0 = g0 if of.choices[at] == p else zero
            g1 = g1 if of.choices[at + uint32(1)] == p else zero
            g2 = g2 if of.choices[at + uint32(2)] == p else zero
            g3 = g3 if of.choices[at + uint32(3)] == p else zero
        return g0, g1, g2, g3

    @cuda_kernel(WARP * warps)
    def embedding_step(rows, moments, query, of, occurrences, steps, rule, dim):
        lane, number, stride = uint32(cuda.threadIdx.x), steps.position[1], uint32(query.size)
        rate, query_norm = steps.rates[number], zero
        if needs_query_norm:
            for j in range(lane, stride, WARP):
                query_norm += query[j] * query[j]
            query_norm = warp_sum(query_norm) / dtype(dim)
        group = uint32(occurrences.batches[number] + uint32(cuda.blockIdx.x) * uint32(warps) + cuda.threadIdx.y)
        last, groups_at_once = occurrences.batches[number + 1], uint32(cuda.gridDim.x) * uint32(warps)
        while group < last:
            row, square = occurrences.rows[group], zero
            start, stop = occurrences.starts[group], occurrences.starts[group + 1]
            position, column = uint64(row) * uint64(stride), lane * uint32(4)
            for _ in range(0, stride, COLUMNS):
                is_used, w0, w1, w2, w3, along = column < stride, zero, zero, zero, zero, zero
                if is_adagrad:
                    square = moments[row]
                if is_used and not is_adam:
                    w0, w1, w2, w3 = load4(rows, position + uint64(column))
                first = start
                while first < stop:
                    own, p, place = uint32(first + lane), uint32(0), uint32(0)
                    if own < stop:
                        p, place = occurrences.tokens[own], occurrences.places[own]
                    factor, own_along, square = token_step(of, own < stop, p, place, square, rate, query_norm)
                    along += own_along
                    n = min(uint32(WARP), uint32(stop - first))
                    for one in range(n):
                        its_factor = cuda.shfl_sync(ALL, factor, int32(one))
                        its_place, its_token = uint32(cuda.shfl_sync(ALL, int32(place), int32(one))), p
                        if is_max:
                            its_token = uint32(cuda.shfl_sync(ALL, int32(p), int32(one)))
                        if is_used:
                            g0, g1, g2, g3 = gradient4(of, its_place * of.grad_x.stride + column, its_token)
                            w0, w1, w2, w3 = (
                                w0 + its_factor * g0,
                                w1 + its_factor * g1,
                                w2 + its_factor * g2,
                                w3 + its_factor * g3,
                            )
                    first = uint32(first + uint32(WARP))
                if attends:
                    along = warp_sum(along)
                    if is_used:
                        q0, q1, q2, q3 = load4(query, column)
                        w0, w1, w2, w3 = w0 + along * q0, w1 + along * q1, w2 + along * q2, w3 + along * q3
                if is_used:
                    if is_adam:
                        state = uint64(2) * position
                        adam_row(rows, moments, position, state, column, stride, w0, rate, rule)
                        adam_row(rows, moments, position, state, column + uint32(1), stride, w1, rate, rule)
                        adam_row(rows, moments, position, state, column + uint32(2), stride, w2, rate, rule)
                        adam_row(rows, moments, position, state, column + uint32(3), stride, w3, rate, rule)
                    else:
                        store4(rows, position + uint64(column), w0, w1, w2, w3)
                column = uint32(column + uint32(COLUMNS))
            if is_adagrad and lane == 0:
                moments[row] = square
            group = uint32(group + groups_at_once)

    return embedding_step


def embedding_step(queue, bags, grad_x, steps, rule):
    """One update of the rows of a batch's tokens.

    Parameters
    ----------
    bags : Bags
        The rows and their moments are updated.
    grad_x : Matrix (n, dim)
        Gradient of the pooled vectors; what else is known of it lies in ``bags.space``.
    steps : Steps
        The rates, with Adam's correction of the bias in them, and which step it is.

    Notes
    -----
    Source of adagrad's one sum for a row: Mudigere et al., Software-hardware co-design for fast and scalable training
    of deep learning recommendation models, ISCA 2022, section 4.1.3. Adam: Kingma, Ba 2015, algorithm 1, on the rows
    that have a gradient.
    """
    embedding, of = bags.embedding, _token_gradients(bags, grad_x)
    kernel = _step_kernel(getattr(numba, grad_x.data.dtype.name), rule.optimizer, embedding.pooling, WARPS)
    args = embedding.rows, embedding.moments, embedding.query, of, bags.groups, steps, rule.of_step
    queue.add(kernel, _n_step_blocks(bags.n_groups), (WARP, WARPS), *args, np.uint32(embedding.dim))


@functools.cache
def _atomic_kernel(dtype, optimizer, pooling, turns):
    token_norm, zero, one, root = _token_norm(dtype, pooling), dtype(0), dtype(1), maths(dtype.name).square_root
    is_max, attends, is_adagrad = pooling == Pooling.MAX, pooling == Pooling.ATTENTION, optimizer == Optimizer.ADAGRAD
    needs_query_norm = is_adagrad and attends

    @cuda_kernel(WARP * turns)
    def atomic_step(rows, moments, query, of, documents, batch, steps, dim):
        i, lane, turn = uint32(cuda.blockIdx.x), uint32(cuda.threadIdx.x), uint32(cuda.threadIdx.y)
        rate, stride, query_norm = steps.rates[steps.position[1]], uint32(query.size), zero
        if needs_query_norm:
            for j in range(lane, stride, WARP):
                query_norm += query[j] * query[j]
            query_norm = warp_sum(query_norm) / dtype(dim)
        number, g_start = row_number(batch, i), of.grad_x.start + i * of.grad_x.stride
        p, stop = uint32(documents.starts[number] + turn), documents.starts[number + 1]
        while p < stop:
            row, factor, along = uint64(documents.ids[p]), zero, zero
            if lane == 0:
                weight, step = one if is_max else of.weights[p], -rate
                if is_adagrad:
                    norm = token_norm(of, p, i, weight, query_norm)
                    step = -rate / root(cuda.atomic.add(moments, int64(row), norm) + norm)
                factor = step * weight
                if attends:
                    along = step * of.slopes[p]
            factor = cuda.shfl_sync(ALL, factor, 0)
            if attends:
                along = cuda.shfl_sync(ALL, along, 0)
            for column in range(lane, stride, WARP):
                change = factor * of.grad_x.data[g_start + uint32(column)]
                if is_max and of.choices[i * of.grad_x.stride + uint32(column)] != p:
                    change = zero
                if attends:
                    change += along * query[column]
                if change != zero:
                    cuda.atomic.add(rows, int64(row * uint64(stride) + uint64(column)), change)
            p = uint32(p + uint32(turns))

    return atomic_step


def atomic_step(queue, bags, batch, grad_x, steps, rule, n_rows):
    """`embedding_step` for sgd and adagrad without an order: each token's step is added to its row atomically.

    No row's tokens need to be known, and a frequent row has many warps. Adagrad's sum grows token by token as there,
    but who comes first, and how a sum is rounded, is up to the GPU.
    """
    embedding = bags.embedding
    kernel = _atomic_kernel(getattr(numba, grad_x.data.dtype.name), rule.optimizer, embedding.pooling, TURNS)
    args = embedding.rows, embedding.moments, embedding.query, _token_gradients(bags, grad_x), bags.documents, batch
    queue.add(kernel, n_rows, (WARP, TURNS), *args, steps, np.uint32(embedding.dim))
