"""Rounds of training: what a partition changes, how the changes are averaged, and what the outer step makes of them."""

from __future__ import annotations

from copy import copy
from typing import Any, NamedTuple

import numpy as np

from ..trainer import OptimizerState, aligned_copy
from .collections import Partition

NO_MOMENTS = np.empty(0)  # an optimizer that starts afresh, in the middle of a schedule


class Change(NamedTuple):
    """What one partition has learned in one round.

    Attributes
    ----------
    n_rows : int
        Rows of the partition.
    loss : float
        Its training loss in the last epoch of the round.
    change : ndarray (n_params,)
        Parameters behind the round, less those before it.
    """

    n_rows: int
    loss: float
    change: np.ndarray


class Plan(NamedTuple):
    """What rounds have in common: the model without parameters, the key of all seeds, epochs of a round."""

    model: Any
    seed: int
    local_epochs: int


def seed_of(seed: int, round_number: int, number: int) -> int:
    """The `random_state` of one partition in one round."""
    return int(np.random.SeedSequence([seed, round_number, number]).generate_state(1)[0])


def train(plan: Plan, params: np.ndarray, partition: Partition, round_number: int, number: int) -> Change | None:
    """One round on one partition; None where it has no rows.

    A pure function: another worker, or the same one again, gives the same bits. The schedule of learning rates goes on;
    moments of the optimizer begin anew: their means over the partitions, which would travel too, gained nothing.
    """
    n_rows = len(partition.X)
    if n_rows == 0:
        return None
    model, n_epochs = copy(plan.model), round_number * plan.local_epochs
    model.set_params(
        random_state=seed_of(plan.seed, round_number, number),
        batch_size=min(model.batch_size, n_rows),
        n_jobs=model.n_jobs or 1,
    )
    vars(model).update(
        params_=aligned_copy(params),
        t_=n_epochs * n_rows,
        _optimizer=OptimizerState(model.solver, NO_MOMENTS, n_epochs=n_epochs),
    )
    for _ in range(plan.local_epochs):
        model.partial_fit(partition.X, partition.y)
    return Change(n_rows, float(model.loss_curve_[-1]), model.params_ - params)


class OuterStep:
    """Nesterov's momentum on averaged changes: ``v = m v + d``, ``w += r (d + m v)``.

    Parameters
    ----------
    params : ndarray (n_params,)
        Where training starts.
    learning_rate, momentum : float
        r and m.
    plain : bool (n_params,)
        Parameters that are averaged and nothing else: what batch norm has counted.

    Notes
    -----
    Source: Douillard et al., DiLoCo: Distributed low-communication training of language models, 2023, algorithm 1;
    with r = 1 and m = 0 it is the averaging of Lin et al., Don't use large mini-batches, use local SGD, 2020.
    """

    def __init__(self, params: np.ndarray, learning_rate: float, momentum: float, plain: np.ndarray):
        self.params, self.velocity = params.astype(np.float64), np.zeros(params.size)
        self.learning_rate, self.momentum, self.plain = learning_rate, momentum, plain

    def apply(self, change: np.ndarray) -> None:
        """Move the parameters by what the mean `change` (n_params,) asks for."""
        self.velocity = self.momentum * self.velocity + change
        step = self.learning_rate * (change + self.momentum * self.velocity)
        self.params += np.where(self.plain, change, step)


def mean_change(changes: list[Change | None]) -> Change:
    """Mean of changes and losses by rows, summed in float64 in the order of the partitions."""
    changes = [change for change in changes if change is not None]
    n_rows = sum(change.n_rows for change in changes)
    mean, loss = np.zeros(changes[0].change.size), 0.0
    for change in changes:
        share = change.n_rows / n_rows
        mean += share * change.change
        loss += share * change.loss
    return Change(n_rows, loss, mean)
