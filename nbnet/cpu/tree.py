"""Hierarchical softmax: a class is the end of a path through a binary tree, each turn of which is a logistic unit.

With the units n on the path of class c, their turns t[n] (0 left, 1 right), weights w[n] and the layer's input x,

    log p(c) = sum over n of log logistic((2 t[n] - 1) w[n] . x)

A step costs the length of a path, log2(n_classes) for equal classes, instead of n_classes. Huffman's tree makes the
mean path as short as it can be. Units have no bias, as in fastText.

Source: Mikolov et al., Distributed representations of words and phrases and their compositionality, 2013, section 2.1;
the tree: Huffman, A method for the construction of minimum-redundancy codes, 1952.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np

from .. import scalar
from ..jit import cpu_inline, cpu_kernel
from .embedding import dot
from .losses import labels_of
from .optimizers import optimizer_step
from .simd import lanes, shape, tile_load, tile_store, tile_zeros
from .walk import StepSize


class Tree(NamedTuple):
    """Paths from the root to each class. Class c: positions [starts[c], starts[c + 1])."""

    starts: np.ndarray  # int64 (n_classes + 1,)
    units: np.ndarray  # int32: the units passed, the root (number 0) first
    turns: np.ndarray  # float64: 1 where the path goes right, 0 left


def huffman_tree(frequencies) -> Tree:
    """The tree in which frequent classes have short paths; ties go to what is older.

    Parameters
    ----------
    frequencies : array-like (n_classes,)
        At least 0.
    """
    n_classes = len(frequencies)
    heap = [(float(frequency), number) for number, frequency in enumerate(frequencies)]
    heapq.heapify(heap)
    parent = np.zeros(2 * n_classes - 1, np.int64)  # classes, then units from the leaves to the root
    turn = np.zeros(2 * n_classes - 1)
    for unit in range(n_classes, 2 * n_classes - 1):
        (left_frequency, left), (right_frequency, right) = heapq.heappop(heap), heapq.heappop(heap)
        parent[[left, right]], turn[right] = unit, 1.0
        heapq.heappush(heap, (left_frequency + right_frequency, unit))
    root = 2 * n_classes - 2
    starts, units, turns = [0], [], []
    for number in range(n_classes):
        path, node = [], number
        while node != root:
            path.append((root - parent[node], turn[node]))
            node = parent[node]
        units += [unit for unit, _ in reversed(path)]
        turns += [t for _, t in reversed(path)]
        starts.append(len(units))
    return Tree(np.array(starts, np.int64), np.array(units, np.int32), np.array(turns, np.float64))


@cpu_inline
def steps_of(tree, targets, order):
    """Units on the paths of all labels of the documents `order`."""
    n = 0
    for d in range(order.size):
        first, last = labels_of(targets, order[d])
        for p in range(first, last):
            label = targets.labels[p]
            n += tree.starts[label + 1] - tree.starts[label]
    return n


@cpu_inline
def unit_start(layer, unit):
    """Position of a unit's weights in the vector."""
    return layer["weight_start"] + np.int64(unit) * layer["in_stride"]


@cpu_kernel
def tree_loss(x, params, layer, tree, targets, batch, slopes, record, i_range):
    """Loss of rows [i_range[0], i_range[1]) and the derivative by each unit's output, weight and scale included.

    Parameters
    ----------
    x : Matrix (rows, n_in)
    slopes : (n_steps,)
        Overwritten for these rows: the batch's paths one after another.
    record : Record
        Overwritten. A row with several labels has the mean of their losses.
    """
    order, k = batch.order, np.int64(0)
    for i in range(order.size):
        first, last = labels_of(targets, order[i])
        loss = 0.0
        factor = 1.0 / max(last - first, 1)
        weight = targets.weights[order[i]] * batch.scale * factor
        for p in range(first, last):
            label = targets.labels[p]
            for q in range(tree.starts[label], tree.starts[label + 1]):
                if i_range[0] <= i < i_range[1]:
                    start = unit_start(layer, tree.units[q])
                    z = dot(x.data, x.start + i * x.stride, params, start, layer["in_stride"])
                    sign = 2.0 * tree.turns[q] - 1.0
                    margin = np.float64(z) * sign
                    small = np.exp(-abs(margin))
                    loss += factor * (max(-margin, 0.0) + np.log1p(small))
                    wrong = small / (1.0 + small) if margin > 0.0 else 1.0 / (1.0 + small)
                    slopes[k] = -weight * sign * wrong
                k += 1
        if i_range[0] <= i < i_range[1]:
            record.sums[i] = 1.0
            record.gaps[i] = loss


@cpu_kernel
def tree_backward(params, layer, tree, targets, order, slopes, grad_x, i_range):
    """``grad_x = grad_x * sum of slopes * w``: back through the units and, from its slopes, the layer below."""
    vector, k = shape(1, 1), np.int64(0)
    for i in range(order.size):
        first, last = labels_of(targets, order[i])
        k_first = k
        for p in range(first, last):
            label = targets.labels[p]
            k += tree.starts[label + 1] - tree.starts[label]
        if i_range[0] <= i < i_range[1]:
            for j in range(0, layer["n_in"], lanes(params)):
                total = tile_zeros(vector, params)
                q_slope = k_first
                for p in range(first, last):
                    label = targets.labels[p]
                    for q in range(tree.starts[label], tree.starts[label + 1]):
                        w = tile_load(vector, params, unit_start(layer, tree.units[q]) + j, 0)
                        total = scalar.fma(w, slopes[q_slope], total)
                        q_slope += 1
                position = grad_x.start + i * grad_x.stride + j
                tile_store(total * tile_load(vector, grad_x.data, position, 0), grad_x.data, position, 0)


@cpu_kernel
def tree_step(x, model, layer, tree, targets, order, slopes, columns, step, rule):
    """One update of some columns of the units passed, for each document one after another."""
    vector, k = shape(1, 1), np.int64(0)
    plain = StepSize(step.rate, 0.0, 0.0, 1.0)
    for i in range(order.size):
        first, last = labels_of(targets, order[i])
        for p in range(first, last):
            label = targets.labels[p]
            for q in range(tree.starts[label], tree.starts[label + 1]):
                start = unit_start(layer, tree.units[q])
                for j in range(columns[0], columns[1], lanes(model.grads)):
                    g = tile_load(vector, x.data, x.start + i * x.stride + j, 0) * slopes[k]
                    tile_store(g, model.grads, start + j, 0)
                optimizer_step(
                    model.params, model.grads, model.moments, start + columns[0], start + columns[1], plain, rule
                )
                k += 1


@cpu_kernel
def tree_probabilities(x, params, layer, tree, outputs, out, i_start, n_rows):
    """``out[i_start + i, c] = p(c)`` of row i of x.

    Parameters
    ----------
    outputs : (n_units,)
        Overwritten: probability of a turn to the right.
    """
    n_classes = tree.starts.size - 1
    for i in range(n_rows):
        for unit in range(n_classes - 1):
            start = unit_start(layer, unit)
            z = np.float64(dot(x.data, x.start + i * x.stride, params, start, layer["in_stride"]))
            outputs[unit] = 1.0 / (1.0 + np.exp(-z))
        for c in range(n_classes):
            p = 1.0
            for q in range(tree.starts[c], tree.starts[c + 1]):
                right = outputs[tree.units[q]]
                p *= right if tree.turns[q] > 0.0 else 1.0 - right
            out[i_start + i, c] = p
