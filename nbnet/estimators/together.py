"""Fits of many small networks on one GPU at once, each to the result that it would have alone."""

from __future__ import annotations

from numbers import Integral
from time import perf_counter
from typing import NamedTuple

import numpy as np

from .. import trainer
from .base_mlp import BaseMLP
from .callbacks import has_callbacks
from .run import Job
from .shared import SharedRows


class Fit(NamedTuple):
    """A fit to make: its arguments, which hold all there is to know."""

    estimator: BaseMLP  # not fitted
    rows: SharedRows
    y: object
    sample_weight: object = None


class _Member(NamedTuple):
    """A fit that is ready to train."""

    fit: Fit
    job: Job
    training: trainer.StochasticTraining

    @property
    def key(self) -> tuple:
        """Members with equal keys can train in the same launches."""
        return self.fit.estimator.device, self.training.session.key

    @property
    def bytes(self) -> int:
        """What it takes on the GPU, X apart."""
        targets = self.training.data.targets
        return self.training.session.bytes + sum(
            part.nbytes for part in (targets.labels, targets.values, targets.weights)
        )


def why_alone(estimator: BaseMLP) -> str:
    """Which of its parameters keeps an estimator from being trained with others; empty: none."""
    if estimator.device == "cpu":
        return "device='cpu'"
    if estimator.solver == "lbfgs":
        return "solver='lbfgs'"
    if not isinstance(estimator.random_state, Integral | None):
        return f"random_state={estimator.random_state!r}"  # moves on from fit to fit
    for name in ("early_stopping", "input_scaling", "verbose"):
        if getattr(estimator, name):
            return f"{name}={getattr(estimator, name)!r}"
    return "callbacks" if has_callbacks(estimator) else ""


def fit_together(fits: list[Fit]) -> list[bool]:
    """Make those of the fits, which share one X, that can be made in the same launches.

    Parameters
    ----------
    fits : list of Fit
        Their estimators are fitted, but for those that are to be fitted alone: because X is sparse, because of settings
        that `why_alone` names or of a network that is too large, or because training diverges or `fit` raises an error.

    Returns
    -------
    done : list of bool
        Whether each one has been made.
    """
    teams: dict[tuple, list[_Member]] = {}
    for fit in fits:
        if (member := _prepared(fit)) is not None:
            teams.setdefault(member.key, []).append(member)
    made = set()
    for members in teams.values():
        made |= _train(members)
    return [id(fit) in made for fit in fits]


def _prepared(fit: Fit) -> _Member | None:
    """The fit, ready to train; None where it is to be made alone."""
    estimator = fit.estimator
    try:
        estimator._validate_params()
        if why_alone(estimator) or not isinstance(fit.rows.table, np.ndarray):
            return None
        backend = trainer.backend_of_teams(estimator.device)
        if backend is None:
            return None
        job = estimator._prepare_fit(backend, fit.rows, fit.y, fit.sample_weight, (None, None, None), False)
        if job.run.session.why_alone():
            return None
        return _Member(fit, job, job.run.training(*job.data(), None, job.first, False))
    except Exception:  # whatever it is: made alone, the fit raises it again, where its caller expects it
        return None


def _train(members: list[_Member]) -> set[int]:
    """Train members with equal keys, as many at once as the GPU has room for; returns the ids of the fits made."""
    shared, device = members[0].fit.rows, members[0].fit.estimator.device
    alone, teams = trainer.backend_for(device), trainer.backend_of_teams(device)  # which make it this thread's GPU
    at_once = max(1, teams.BYTES // max(member.bytes for member in members))
    made = set()
    for start in range(0, len(members), at_once):
        some = members[start : start + at_once]
        sessions, targets = zip(*((m.training.session, m.training.data.targets) for m in some), strict=True)
        sizes = [member.training.n_samples for member in some]
        try:
            rows = shared.on(alone, device)  # the fits that are made alone read the same X
            if not teams.can_train_on(rows):
                break
            team = teams.Team(sessions, rows, targets, sizes)
        except MemoryError:  # one network alone may have room
            break
        with trainer.faults_of(device):
            made |= {id(some[number].fit) for number in _train_team(team, some)}
    return made


def _train_team(team, members: list[_Member]) -> list[int]:
    """Train all epochs of a team and fit the estimators; returns the numbers of those that have not diverged."""
    active, made = dict(enumerate(members)), []
    while active:
        started = perf_counter()
        plans = {number: member.training.plan_epoch() for number, member in active.items()}
        losses = team.train_epoch(
            {number: team.sessions[number].steps(team.targets[number], plan) for number, plan in plans.items()}
        )
        for number, loss in losses.items():
            member, training = active[number], active[number].training
            if not np.isfinite(loss) or not team.sessions[number].largest_weight() <= trainer.LARGE_WEIGHT:
                del active[number]  # alone, it tells its story itself
                continue
            training.record_epoch(plans[number], loss, started)
            stopping = training.update_stopping_rule()
            if stopping or training.progress.n_iter == training.settings.max_iter:
                del active[number]
                try:
                    if not stopping:
                        training.warn_at_max_iter()
                except Warning:  # which is an error if the user says so: the fit raises it when it is made alone
                    continue
                team.download(number)
                _finish(member)
                made.append(number)
    return made


def _finish(member: _Member) -> None:
    """Set the fitted attributes."""
    training = member.training
    params, state = training.session.params, training.state._replace(moments=training.session.moments)
    outcome = trainer.Outcome(params, params, state)
    member.fit.estimator._finish_fit(member.job.run.fitted(training, outcome, False))
