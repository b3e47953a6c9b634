"""Hierarchical softmax: a class is the end of a path through a binary tree. Formulas: `nbnet.cpu.tree`.

A warp has a document where losses are computed, and a unit where units are updated: for each document of the batch that
passes it, one after another, as on the CPU.
"""

from __future__ import annotations

import functools

import numba
import numpy as np
from numba import uint32

from ..cpu.dense import Matrix
from ..cpu.tree import Tree
from .dense import Stored, matrix, overwrite, row_number
from .jit import cuda, cuda_kernel
from .launch import check_size, upload
from .losses import labels_of
from .maths import maths
from .optimizers import update_of
from .product import End, add_product, n_blocks
from .reductions import WARP, warp_sum

ROWS = 4  # documents, or units, of a block
THREADS = 128


def upload_tree(tree: Tree, dtype) -> Tree:
    """The paths to all classes on the GPU."""
    check_size(tree.units.size, "the list of all classes' paths")
    return Tree(upload(tree.starts.astype(np.uint32)), upload(tree.units), upload(tree.turns.astype(dtype)))


@functools.cache
def _loss_kernel(dtype):
    zero, one, two = dtype(0), dtype(1), dtype(2)
    exp, log1p_unit = maths(dtype.name).exp, maths(dtype.name).log1p_unit

    @cuda_kernel(WARP * ROWS)
    def tree_loss(x, units, tree, targets, batch, scales, room, sizes):
        slopes, losses = room
        n_rows, n_in, most = sizes
        i, lane = uint32(cuda.blockIdx.x) * uint32(ROWS) + uint32(cuda.threadIdx.y), uint32(cuda.threadIdx.x)
        if i < n_rows:
            row, k, loss = row_number(batch, i), i * most, zero
            first, last = labels_of(targets, row)
            factor = one / dtype(last - first) if last > first + 1 else one
            weight = targets.weights[row] * scales[batch.position[1]] * factor
            for p in range(first, last):
                label = targets.labels[p]
                for q in range(tree.starts[label], tree.starts[label + 1]):
                    start, z = units.start + uint32(tree.units[q]) * units.stride, zero
                    for j in range(lane, n_in, WARP):
                        z += x.data[x.start + i * x.stride + uint32(j)] * units.data[start + uint32(j)]
                    z = warp_sum(z)
                    sign = two * tree.turns[q] - one
                    margin = z * sign
                    small = exp(-abs(margin))
                    loss += factor * (max(-margin, zero) + log1p_unit(small))
                    wrong = small / (one + small) if margin > zero else one / (one + small)
                    if lane == 0:
                        slopes[k] = -weight * sign * wrong
                    k += uint32(1)
            if lane == 0:
                losses[batch.position[0] + i] = targets.weights[row] * loss

    return tree_loss


def _units_of(params, layer) -> Matrix:
    """The weights of the units, a row each."""
    return matrix(params, layer["weight_start"], layer["in_stride"])


def tree_loss(queue, x, params, layer, tree, targets, batch, scales, slopes, losses, n_rows):
    """Loss of rows and the derivative by each unit's output, weight and scale included.

    Parameters
    ----------
    x : Matrix (rows, n_in)
    targets : Targets
    slopes : (n_rows, most)
        Overwritten: for each row those of the units on the paths of its labels, which are `most` or fewer.
    losses : (n,)
        Overwritten at the positions of these rows: weight times loss. A row with several labels has the mean of their
        losses.
    """
    sizes = np.uint32(n_rows), np.uint32(layer["n_in"]), np.uint32(slopes.stride)
    args = x, _units_of(params, layer), tree, targets.on_device, batch, scales, (slopes.data, losses), sizes
    queue.add(_loss_kernel(getattr(numba, params.dtype.name)), n_blocks(n_rows, ROWS), (WARP, ROWS), *args)


@functools.cache
def _backward_kernel(dtype):
    zero = dtype(0)

    @cuda_kernel(WARP * ROWS)
    def tree_backward(units, tree, targets, batch, slopes, grad_x, n_rows):
        i = uint32(cuda.blockIdx.x) * uint32(ROWS) + uint32(cuda.threadIdx.y)
        column = uint32(cuda.blockIdx.y) * uint32(WARP) + uint32(cuda.threadIdx.x)
        if i < n_rows and column < grad_x.stride:
            k, total = i * slopes.stride, zero
            first, last = labels_of(targets, row_number(batch, i))
            for p in range(first, last):
                label = targets.labels[p]
                for q in range(tree.starts[label], tree.starts[label + 1]):
                    at = units.start + uint32(tree.units[q]) * units.stride + column
                    total += units.data[at] * slopes.data[k]
                    k += uint32(1)
            grad_x.data[grad_x.start + i * grad_x.stride + column] *= total

    return tree_backward


def tree_backward(queue, params, layer, tree, targets, batch, slopes, grad_x, n_rows):
    """``grad_x = grad_x * sum of slopes * w``: back through the units and, from its slopes, the layer below."""
    kernel = _backward_kernel(getattr(numba, params.dtype.name))
    grid = n_blocks(n_rows, ROWS), n_blocks(layer["in_stride"], WARP)
    args = _units_of(params, layer), tree, targets.on_device, batch, slopes, grad_x, np.uint32(n_rows)
    queue.add(kernel, grid, (WARP, ROWS), *args)


@functools.cache
def _step_kernel(dtype, optimizer):
    (update, has_two), zero = update_of(dtype, optimizer, False), dtype(0)

    @cuda_kernel(WARP * ROWS)
    def tree_step(x, units, moments, occurrences, slopes, steps, rule, n_params):
        number = steps.position[1]
        rate, last = steps.rates[number], occurrences.batches[number + 1]
        group = occurrences.batches[number] + uint32(cuda.blockIdx.x) * uint32(ROWS) + uint32(cuda.threadIdx.y)
        column = uint32(cuda.blockIdx.y) * uint32(WARP) + uint32(cuda.threadIdx.x)
        if group < last and column < units.stride:
            at = units.start + occurrences.rows[group] * units.stride + column
            w, m, v = units.data[at], moments[at], zero
            if has_two:
                v = moments[n_params + at]
            for s in range(occurrences.starts[group], occurrences.starts[group + 1]):
                g = x.data[x.start + occurrences.places[s] * x.stride + column] * slopes[occurrences.tokens[s]]
                w, m, v = update(w, g, m, v, rate, zero, rule)
            units.data[at], moments[at] = w, m
            if has_two:
                moments[n_params + at] = v

    return tree_step


def tree_step(queue, x, model, layer, occurrences, n_groups, slopes, steps, rule):
    """One update of the units passed, for each document one after another.

    Parameters
    ----------
    x : Matrix (rows, n_in)
    occurrences : Occurrences
        The slopes of a batch by unit.
    n_groups : int
        Units that a batch passes at most.
    """
    params = model.params
    if not n_groups:
        return
    kernel = _step_kernel(getattr(numba, params.dtype.name), rule.optimizer)
    grid = n_blocks(n_groups, ROWS), n_blocks(layer["in_stride"], WARP)
    args = (
        _units_of(params, layer),
        model.moments,
        occurrences,
        slopes.data,
        steps,
        rule.of_step,
        np.uint32(params.size),
    )
    queue.add(kernel, grid, (WARP, ROWS), x, *args)


@functools.cache
def _probability_kernel(dtype):
    one, zero, logistic = dtype(1), dtype(0), maths(dtype.name).logistic

    @cuda_kernel(THREADS)
    def tree_probabilities(outputs, tree, batch, out):
        i, c = uint32(cuda.blockIdx.x), uint32(cuda.blockIdx.y) * uint32(THREADS) + uint32(cuda.threadIdx.x)
        if c < out.stride:
            p = one
            for q in range(tree.starts[c], tree.starts[c + 1]):
                right = logistic(outputs.data[outputs.start + i * outputs.stride + uint32(tree.units[q])])
                p *= right if tree.turns[q] > zero else one - right
            out.data[out.start + (batch.position[0] + i) * out.stride + c] = p

    return tree_probabilities


def tree_probabilities(queue, x, params, layer, tree, outputs, batch, out, n_rows):
    """``out[i_start + i, c] = p(c)`` of row i of x.

    Parameters
    ----------
    outputs : Matrix (n_rows, n_units)
        Overwritten: outputs of the units.
    out : Matrix (n_samples, n_classes)
        Overwritten from row `position` of the batch on.
    """
    n_units, n_classes = int(layer["n_out"]) - 1, int(layer["n_out"])
    if n_units:
        sizes = n_rows, n_units, layer["n_in"]
        add_product(queue, x, _units_of(params, layer), Stored(outputs), sizes, End(overwrite), True, True)
    kernel = _probability_kernel(getattr(numba, params.dtype.name))
    queue.add(kernel, (n_rows, n_blocks(n_classes, THREADS)), THREADS, outputs, tree, batch, out)
