"""Rounds of training: what a partition changes, how the changes are averaged, and what the outer step makes of them."""

from __future__ import annotations

from copy import copy
from typing import Any, NamedTuple

import dask
import numpy as np
from sklearn.utils import _safe_indexing

from .. import random
from ..trainer import OptimizerState, aligned_copy
from . import collections
from .collections import Partition

NO_MOMENTS = np.empty(0)  # an optimizer that starts afresh, in the middle of a schedule


class State(NamedTuple):
    """What a round starts from: parameters, and moments of the optimizer, empty before the first round."""

    params: np.ndarray
    moments: np.ndarray


class Pace(NamedTuple):
    """How long a round is: `n_epochs` over a partition, or one of `n_parts` of an epoch."""

    n_epochs: int
    n_parts: int

    @classmethod
    def of(cls, local_epochs: float) -> Pace:
        """From the parameter of the estimators."""
        if local_epochs >= 1:
            return cls(int(local_epochs), 1)
        n_parts = round(1 / local_epochs)
        if abs(n_parts * local_epochs - 1) > 1e-6:
            raise ValueError(f"local_epochs must be one over an integer where it is below 1, got {local_epochs}.")
        return cls(1, n_parts)

    def epochs_before(self, round_number: int) -> int:
        """Epochs, or parts of an epoch, behind the partitions before a round."""
        return round_number * self.n_epochs

    def rows(self, seed: int, round_number: int, n_rows: int) -> np.ndarray | None:
        """Rows of a partition that a round trains on; None: all. The parts of an epoch hold each row once."""
        if self.n_parts == 1:
            return None
        epoch, part = divmod(round_number, self.n_parts)
        order = random.permutation(seed, epoch, n_rows)
        return np.sort(order[part * n_rows // self.n_parts : (part + 1) * n_rows // self.n_parts])


class Change(NamedTuple):
    """What one partition has learned in one round.

    Attributes
    ----------
    weight : float
        Rows it has trained on, or the sum of their weights.
    loss : float
        Its training loss in the last epoch of the round.
    change : ndarray (n_params,)
        Parameters behind the round, less those before it.
    moments : ndarray
        Moments of the optimizer behind the round.
    """

    weight: float
    loss: float
    change: np.ndarray
    moments: np.ndarray


class Plan(NamedTuple):
    """What rounds have in common: the model without parameters, the key of all seeds, the length of a round."""

    model: Any
    seed: int
    pace: Pace


def seed_of(seed: int, round_number: int, number: int) -> int:
    """The `random_state` of one partition in one round."""
    return int(np.random.SeedSequence([seed, round_number, number]).generate_state(1)[0])


def train(plan: Plan, state: State, partition: Partition, round_number: int, number: int) -> Change | None:
    """One round on one partition; None where it has no rows.

    A pure function: another worker, or the same one again, gives the same bits. The schedule of learning rates goes on,
    and so do the moments of the optimizer, from their means over the partitions.
    """
    rows = plan.pace.rows(seed_of(plan.seed, 0, number), round_number, len(partition.X))
    if rows is not None:
        partition = Partition(*(None if part is None else _safe_indexing(part, rows) for part in partition))
    n_rows = len(partition.X)
    if n_rows == 0:
        return None
    model, n_epochs = copy(plan.model), plan.pace.epochs_before(round_number)
    model.set_params(
        random_state=seed_of(plan.seed, round_number, number),
        batch_size=min(model.batch_size, n_rows),
        n_jobs=model.n_jobs or 1,
    )
    n_steps = n_epochs * -(-n_rows // model.batch_size)  # of this partition, or one more or less
    vars(model).update(
        params_=aligned_copy(state.params),
        t_=n_epochs * n_rows,
        _optimizer=OptimizerState(model.solver, state.moments, n_steps, n_epochs),
    )
    # np.array copies: other machines' arrays are read-only, and kernels are compiled for others
    weights = None if partition.weights is None else np.array(partition.weights)
    for _ in range(plan.pace.n_epochs):
        model.partial_fit(partition.X, partition.y, sample_weight=weights)
    weight = n_rows if weights is None else float(weights.sum())
    n_moments = state.params.size * (1 if model.solver == "sgd" else 2)  # sgd has velocities only
    return Change(weight, model.loss_curve_[-1], model.params_ - state.params, moments_of(model)[:n_moments])


def moments_of(model) -> np.ndarray:
    """Moments of a model's optimizer, not a number where its training has diverged."""
    return np.full(2 * model.params_.size, np.nan) if model._optimizer is None else model._optimizer.moments


class OuterStep:
    """Nesterov's momentum on averaged changes: ``v = m v + d``, ``w += r (d + m v)``.

    Parameters
    ----------
    params : float (n_params,)
        Where training starts; updated in place.
    learning_rate, momentum : float
        r and m.
    plain : bool (n_params,) or None
        Parameters that are averaged and nothing else: what batch norm has counted.

    Notes
    -----
    Source: Douillard et al., DiLoCo: Distributed low-communication training of language models, 2023, algorithm 1;
    with r = 1 and m = 0 it is the averaging of Lin et al., Don't use large mini-batches, use local SGD, 2020.
    """

    def __init__(self, params: np.ndarray, learning_rate: float, momentum: float, plain: np.ndarray | None = None):
        self.params, self.velocity = params, np.zeros_like(params if momentum else params[:0])
        self.learning_rate, self.momentum, self.plain = learning_rate, momentum, plain

    def apply(self, change: np.ndarray) -> None:
        """Move the parameters by what the mean `change` (n_params,) asks for."""
        step = self.learning_rate * change
        if self.momentum:  # a pass over all vectors of a vocabulary takes as long as their training
            self.velocity *= self.momentum
            self.velocity += change
            step += self.learning_rate * self.momentum * self.velocity
        if self.plain is not None:
            step[self.plain] = change[self.plain]
        self.params += step


def mean_change(changes: list[Change | None]) -> Change | None:
    """Means by weight, summed in float64 in the order of the partitions; None where there is no change."""
    changes = [change for change in changes if change is not None]
    if not changes:
        return None
    weight = sum(change.weight for change in changes)
    loss, mean, moments = 0.0, np.zeros(changes[0].change.size), np.zeros(changes[0].moments.size)
    for change in changes:
        share = change.weight / weight
        loss += share * change.loss
        mean += share * change.change
        moments += share * change.moments
    return Change(weight, loss, mean, moments)


class Rounds:
    """Training of a network for tables or images.

    Parameters
    ----------
    plan : Plan
    partitions : list of delayed Partition
    client : Client or None
    params : ndarray (n_params,)
        Where training starts.
    outer_step : tuple (learning_rate, momentum, plain)
        As in `OuterStep`.
    n_rows : int
        Of an epoch.
    """

    target_loss = -np.inf  # training ends behind an epoch of at most this loss
    starts_usable = False  # whether the parameters to start from predict sensibly

    def __init__(self, plan: Plan, partitions: list, client, params: np.ndarray, outer_step: tuple, n_rows: int):
        self.partitions, self.client, self.dtype, self.n_rows = partitions, client, params.dtype, n_rows
        self.outer = OuterStep(params.astype(np.float64), *outer_step)
        self.plan, self.moments = dask.delayed(plan, traverse=False), NO_MOMENTS

    @property
    def params(self) -> np.ndarray:
        """The parameters reached so far, in the model's precision."""
        return self.outer.params.astype(self.dtype)

    def run(self, round_number: int) -> tuple[float, float]:
        """One round; returns its loss and the weight of its rows."""
        task, shared = dask.delayed(train), dask.delayed(State(self.params, self.moments), traverse=False)
        tasks = [task(self.plan, shared, part, round_number, number) for number, part in enumerate(self.partitions)]
        mean = mean_change(collections.compute(tasks, self.client))
        if mean is None:  # no partition has a row in this part of the epoch
            return 0.0, 0.0
        self.outer.apply(mean.change)
        self.moments = mean.moments.astype(self.dtype)
        return mean.loss, mean.weight
