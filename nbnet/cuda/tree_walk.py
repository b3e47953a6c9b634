"""Launches over documents whose last layer is a tree of classes: see `tree` and `text_walk`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..cpu.dense import Matrix
from ..cpu.tree import Tree
from .dense import dense_forward
from .dropout import dropout_forward
from .embedding import Bags
from .occurrences import Occurrences
from .text_walk import layers_above, pool, pool_batch, pooled_of, update_table
from .tree import tree_backward, tree_loss, tree_probabilities, tree_step
from .walk import backward, descend, gradients, input_of, next_batch, output_of


class Top(NamedTuple):
    """The last layer: its row of the table, the tree, and a scratch."""

    layer: np.void  # LAYER
    tree: Tree  # on the GPU
    slopes: Matrix  # (capacity, units on the paths of a document's labels at most)
    units: Matrix  # (capacity, n_units): prediction
    groups: Occurrences | None = None  # training: the slopes of each batch by unit
    n_groups: int = 0  # units that a batch passes at most


class TreeBags(NamedTuple):
    """Documents as the walk sees rows, from the bags below to the tree on top."""

    n_rows: int
    bags: Bags
    top: Top
    pieces: Callable | None = None  # as of `Bags`

    @property
    def stream(self):
        """As of `Bags`."""
        return self.bags.stream


def last_input(model, bags, work):
    """What the tree reads: the last hidden layer's outputs, or the pooled vectors; and the gradient's place."""
    if model.layers.size == 0:
        return pooled_of(bags, work)
    layer = model.layers[-1]
    return output_of(layer, work.outputs, work.capacity), output_of(layer, work.slopes, work.capacity)


def hidden_forward(queue, model, batch, work, slopes, seed, n_rows):
    """The pooled vectors through the hidden layers, the last one's slopes included."""
    for number, layer in enumerate(model.layers):
        y = output_of(layer, work.outputs, work.capacity)
        dense_forward(queue, input_of(model, work, number), model.params, layer, y, slopes, n_rows)
        if layer["dropout"] > 0.0 and slopes.size > 0:
            dropout_forward(queue, y, layer, slopes, seed, batch, number, n_rows)


def loss_of_rows(queue, model, rows, targets, plan, work, n_rows):
    """The loss of a batch and the slopes of its units."""
    x, top = last_input(model, rows.bags, work)[0], rows.top
    args = x, model.params, top.layer, top.tree, targets, plan.batch, plan.scales, top.slopes, plan.losses
    tree_loss(queue, *args, n_rows)


def train_step(queue, model, data, work, plan, rule, n_rows):
    """One batch of an epoch; see `text_walk.train_step`.

    Parameters
    ----------
    model : Model
        The hidden layers, of which there may be none; its vector has the tree's units and the table behind theirs.
    data : Data
        Its rows are `TreeBags`.
    """
    bags, top, model = data.rows.bags, data.rows.top, layers_above(model)
    x, grad_x = last_input(model, bags, work)
    pool_batch(queue, bags, plan, work, rule, n_rows)
    hidden_forward(queue, model, plan.batch, work, work.slopes, rule.seed, n_rows)
    loss_of_rows(queue, model, data.rows, data.targets, plan, work, n_rows)
    path = top.tree, data.targets, plan.batch, top.slopes
    tree_backward(queue, model.params, top.layer, *path, grad_x, n_rows)
    backward(queue, model, work, n_rows)
    update_table(queue, bags, plan, work, rule, model.grads, n_rows)
    tree_step(queue, x, model, top.layer, top.groups, top.n_groups, top.slopes, plan.steps, rule)
    gradients(queue, model, None, plan.batch, work, False, n_rows)
    descend(queue, model, plan, work, rule)
    next_batch(queue, plan, n_rows, work.squares)


def predict(queue, model, rows, work, plan, loss, out, n_rows):
    """Probabilities of all classes for the next `n_rows` documents; see `walk.predict`."""
    bags, top = rows.bags, rows.top
    pool(queue, bags, plan.batch_of_rows, pooled_of(bags, work)[0], n_rows)
    hidden_forward(queue, model, plan.batch, work, work.none, 0, n_rows)
    x, _ = last_input(model, bags, work)
    tree_probabilities(queue, x, model.params, top.layer, top.tree, top.units, plan.batch, out, n_rows)
    next_batch(queue, plan, n_rows, work.none)


def evaluate(queue, model, data, work, plan, rule, n_rows):
    """The loss of the next `n_rows` documents without dropout, left in `plan.losses`."""
    bags = data.rows.bags
    pool(queue, bags, plan.batch_of_rows, pooled_of(bags, work)[0], n_rows)
    hidden_forward(queue, model, plan.batch, work, work.none, 0, n_rows)
    loss_of_rows(queue, model, data.rows, data.targets, plan, work, n_rows)
    next_batch(queue, plan, n_rows, work.none)
