"""Optimizers: one pass over the parameter vector, which knows no layers."""

from __future__ import annotations

import functools
import math

import numba
import numpy as np
from numba import uint32

from ..network import LayerKind, Optimizer
from .intrinsics import load4, store4
from .jit import cuda, cuda_kernel, device_function
from .launch import upload
from .maths import maths
from .product import n_blocks
from .reductions import BLOCK, block_max, block_sum

EACH = 4  # parameters of a thread
LARGEST_BLOCKS = 64  # of `largest_magnitude`, at most
FLAGGED = 32  # parameters that share a flag: tensors start at multiples of this
IS_WEIGHT, LEFT_ALONE = 1, 2


def flags_of_weights(network):
    """uint8 (n_params / 32,) on the GPU: IS_WEIGHT where a weight lies, which is penalized and decays; 0 at biases;
    LEFT_ALONE where a tree of classes lies, which has a kernel of its own."""
    flags = np.zeros(n_blocks(network.n_params, FLAGGED), np.uint8)
    for row in network.layers:
        is_tree = row["kind"] == LayerKind.TREE
        size = (row["n_out"] - 1) * row["in_stride"] if is_tree else row["n_in"] * row["out_stride"]
        stop = n_blocks(row["weight_start"] + size, FLAGGED)
        flags[row["weight_start"] // FLAGGED : stop] = LEFT_ALONE if is_tree else IS_WEIGHT
    return upload(flags)


def n_sums(n_params: int) -> int:
    """Blocks that a pass over the vector has, and partial sums that it leaves."""
    return n_blocks(n_params, EACH * BLOCK)


def n_largest(n: int) -> int:
    """Blocks of `largest_magnitude` that are worth having for `n` values."""
    return min(LARGEST_BLOCKS, max(1, n_blocks(n, BLOCK)))


@functools.cache
def update_of(dtype, optimizer, nesterov):
    """The update of one parameter ``w, m, v = update(w, g, m, v, rate, decay, rule)``, a device function, and whether
    there is a second moment v."""
    sgd, adam = maths(dtype.name).sgd_nesterov if nesterov else maths(dtype.name).sgd_momentum, maths(dtype.name).adam
    adagrad = maths(dtype.name).adagrad

    @device_function
    def sgd_update(w, g, velocity, unused, rate, decay, rule):
        w, velocity = sgd(w, g, velocity, rate, rule.momentum)
        return w, velocity, unused

    @device_function
    def adam_update(w, g, mean, square, rate, decay, rule):
        return adam(w, g, mean, square, rate, decay, rule.gap_1, rule.gap_2, rule.epsilon)

    @device_function
    def adagrad_update(w, g, square, unused, rate, decay, rule):
        w, square = adagrad(w, g, square, rate)
        return w, square, unused

    if optimizer == Optimizer.SGD:
        return sgd_update, False
    if optimizer == Optimizer.ADAGRAD:
        return adagrad_update, False
    return adam_update, True


@functools.cache
def _update_kernel(dtype, optimizer, nesterov):
    """A kernel that updates four parameters a thread.

    Leaves the sum of squares of each block's weights, before, in `squares`.
    """
    (update, has_two), sum_of_block, zero = update_of(dtype, optimizer, nesterov), block_sum(dtype), dtype(0)

    @cuda_kernel(BLOCK)
    def optimizer_step(params, grads, moments, is_weight, steps, clip, rule, squares):
        start = uint32((uint32(cuda.blockIdx.x) * uint32(BLOCK) + uint32(cuda.threadIdx.x)) * uint32(EACH))
        total = zero
        if start < uint32(params.size) and is_weight[start // uint32(FLAGGED)] != LEFT_ALONE:
            number = steps.position[1]
            rate, l2, decay = steps.rates[number], zero, zero
            weight = is_weight[start // uint32(FLAGGED)] == IS_WEIGHT
            if weight:
                l2, decay = steps.l2[number], steps.decays[number]
            w0, w1, w2, w3 = load4(params, start)
            if weight:
                total = w0 * w0 + w1 * w1 + w2 * w2 + w3 * w3
            factor = clip[0]
            g0, g1, g2, g3 = load4(grads, start)
            g0, g1, g2, g3 = g0 * factor + l2 * w0, g1 * factor + l2 * w1, g2 * factor + l2 * w2, g3 * factor + l2 * w3
            m0, m1, m2, m3 = load4(moments, start)
            v0 = v1 = v2 = v3 = zero
            if has_two:
                v0, v1, v2, v3 = load4(moments, uint32(params.size) + start)
            w0, m0, v0 = update(w0, g0, m0, v0, rate, decay, rule)
            w1, m1, v1 = update(w1, g1, m1, v1, rate, decay, rule)
            w2, m2, v2 = update(w2, g2, m2, v2, rate, decay, rule)
            w3, m3, v3 = update(w3, g3, m3, v3, rate, decay, rule)
            store4(params, start, w0, w1, w2, w3)
            store4(moments, start, m0, m1, m2, m3)
            if has_two:
                store4(moments, uint32(params.size) + start, v0, v1, v2, v3)
        total = sum_of_block(total)
        if cuda.threadIdx.x == 0:
            squares[cuda.blockIdx.x] = total

    return optimizer_step


def optimizer_step(queue, params, grads, moments, is_weight, steps, clip, rule, squares):
    """One update of params; leaves the sums of squares of the weights before it in `squares`.

    Parameters
    ----------
    params, grads : (n_params,)
    moments : (2 n_params,)
        SGD: the velocity, then nothing. Adam: the mean, then the mean square. Adagrad: the sum of squares, then
        nothing.
    is_weight : uint8 (n_params / 32,)
        From `flags_of_weights`: biases are neither penalized nor decay.
    steps : Steps
        Rate (with Adam's correction of the bias in it), l2 (times w: added to the gradient) and decay (times w: taken
        off the parameter; AdamW) of each step, and the position that says which step it is.
    clip : (1,)
        Factor of the gradient.
    rule : Rule
    squares : (n_sums,)
        Overwritten.
    """
    kernel = _update_kernel(getattr(numba, params.dtype.name), rule.optimizer, rule.nesterov)
    args = params, grads, moments, is_weight, steps, clip, rule.of_step, squares
    queue.add(kernel, n_sums(params.size), BLOCK, *args)


@functools.cache
def _squares_kernel(dtype):
    sum_of_block, zero = block_sum(dtype), dtype(0)

    @cuda_kernel(BLOCK)
    def sum_of_squares(x, squares):
        start = uint32((uint32(cuda.blockIdx.x) * uint32(BLOCK) + uint32(cuda.threadIdx.x)) * uint32(EACH))
        total = zero
        if start < uint32(x.size):
            x0, x1, x2, x3 = load4(x, start)
            total = x0 * x0 + x1 * x1 + x2 * x2 + x3 * x3
        total = sum_of_block(total)
        if cuda.threadIdx.x == 0:
            squares[cuda.blockIdx.x] = total

    return sum_of_squares


def sum_of_squares(queue, x, squares):
    """Sum of ``x[start:stop]**2``, of each block's part: partial sums in `squares` (n_sums,)."""
    queue.add(_squares_kernel(getattr(numba, x.dtype.name)), n_sums(x.size), BLOCK, x, squares)


@functools.cache
def _largest_kernel(dtype):
    max_of_block, infinite = block_max(dtype), dtype(math.inf)
    highest = dtype(np.finfo(dtype.name).max)

    @cuda_kernel(BLOCK)
    def largest_magnitude(x, largest):
        value = dtype(0)
        for i in range(cuda.blockIdx.x * BLOCK + cuda.threadIdx.x, x.size, cuda.gridDim.x * BLOCK):
            size = abs(x[i])
            value = max(value, size) if size <= highest else infinite  # what is not a number counts as infinite
        value = max_of_block(value)
        if cuda.threadIdx.x == 0:
            largest[cuda.blockIdx.x] = value

    return largest_magnitude


def largest_magnitude(queue, x, largest):
    """Largest absolute value in x, infinite where one is not finite: of each block's part, in `largest`
    (n_largest(x.size),)."""
    queue.add(_largest_kernel(getattr(numba, x.dtype.name)), largest.size, BLOCK, x, largest)
