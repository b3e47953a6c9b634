"""One call of fit or partial_fit, between validated tables and fitted attributes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from copy import copy
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.metrics import check_scoring

from .. import checkpoints, lbfgs, trainer
from ..network import Loss, Network
from ..progress import Progress
from .validation import cast_finite


class Encoded(NamedTuple):
    """Targets as numbers, one form for training and one for scoring.

    Attributes
    ----------
    labels : int32 (n_samples,)
        Class numbers for softmax cross-entropy; empty for other losses.
    values : float (n_samples, n_outputs)
        Targets of any other loss; (0, 0) for softmax.
    original : ndarray
        The validated y as scorers want it.
    """

    labels: np.ndarray
    values: np.ndarray
    original: Any

    def take(self, rows: np.ndarray) -> Encoded:
        """Some of the rows."""
        return Encoded(
            self.labels[rows] if self.labels.size else self.labels,
            self.values[rows] if self.values.size else self.values,
            self.original[rows],
        )

    def spread(self, numbers: np.ndarray, n: int) -> Encoded:
        """As rows `numbers` of `n`, the others with targets that mean nothing."""
        return Encoded(*(spread(part, numbers, n) if len(part) else part for part in self))


class Table(NamedTuple):
    """Validated rows, to train or to validate on.

    Attributes
    ----------
    X : ndarray or CSR (n_samples, n_features), or object ndarray (n_documents,) of texts
        Not scaled.
    encoded : Encoded or Labels
        Targets.
    weights : float64 (n_samples,)
        The sample weights, for scores.
    loss_weights : float64 (n_samples,)
        Sample weights times class weights, for the loss.
    """

    X: Any
    encoded: Encoded
    weights: np.ndarray
    loss_weights: np.ndarray

    def take(self, rows: np.ndarray) -> Table:
        """Some of the rows."""
        return Table(self.X[rows], self.encoded.take(rows), self.weights[rows], self.loss_weights[rows])

    def spread(self, numbers: np.ndarray) -> Table:
        """For targets and weights of the rows `numbers` of X only: those of all rows, the others with a weight of 0."""
        n = self.X.shape[0]
        weights, loss_weights = (spread(part, numbers, n) for part in (self.weights, self.loss_weights))
        return Table(self.X, self.encoded.spread(numbers, n), weights, loss_weights)


def spread(part: np.ndarray, numbers: np.ndarray, n: int) -> np.ndarray:
    """Array of `n` rows whose rows `numbers` are those of `part`; the others are zero."""
    whole = np.zeros((n, *part.shape[1:]), part.dtype)
    whole[numbers] = part
    return whole


def targets_of(table: Table, backend, n_outputs: int, dtype):
    """The backend's targets."""
    weights = cast_finite(table.loss_weights, dtype, "sample_weight")
    return backend.as_targets(table.encoded.labels, table.encoded.values, weights, n_outputs, dtype)


class Output(NamedTuple):
    """What the targets say about the last layer."""

    loss: Loss
    n_outputs: int
    activation: str  # scikit-learn's out_activation_
    loss_parameter: float = 0.0


def dense_rows(X, start: int, stop: int) -> np.ndarray:
    """Some rows of X as a dense array."""
    block = X[start:stop]
    return block.toarray() if sp.issparse(block) else block


class Run(ABC):
    """One call of fit or partial_fit, between validation and the fitted attributes.

    Parameters
    ----------
    estimator : estimator
        Read only.
    backend : module
        Where to compute.
    session : Session
        The network, with the parameters to start from.
    settings : Settings
        Of the training.
    seed : int
        Key of shuffles and dropout masks.
    """

    shared = None  # the `SharedRows` that X comes from
    starts_usable = False  # whether the parameters to start from predict sensibly
    largest_loss = np.inf  # an epoch of a greater loss has diverged
    target_loss = -np.inf  # training ends after an epoch of at most this loss
    keeps_snapshot = True  # of the last finite parameters, in case that training diverges
    checkpoint = None  # where training goes on from

    def __init__(self, estimator, backend, session, settings: trainer.Settings, seed: int):
        self.estimator, self.backend, self.session = estimator, backend, session
        self.settings, self.seed = settings, seed

    @abstractmethod
    def rows(self, X):
        """The backend's view of validated rows."""

    @abstractmethod
    def targets(self, table: Table):
        """The backend's targets."""

    @abstractmethod
    def attributes(self, params: np.ndarray) -> dict:
        """What makes an estimator predict with `params`."""

    def predict(self, session, rows) -> np.ndarray:
        """Output of the network as the estimator gives it."""
        return session.predict(rows)

    def scorer(self, table: Table):
        """``score(session, loss)`` on these rows, as `scoring` says."""
        scoring = self.estimator.scoring
        weights = None if (table.weights == 1).all() else table.weights
        if scoring == "loss":
            return lambda session, loss: -loss
        if scoring is None:
            rows = self.rows(table.X)
            score = self.estimator._score_predictions
            return lambda session, loss: score(table.encoded, self.predict(session, rows), weights)
        scorer = check_scoring(self.estimator, scoring=scoring)
        weights = {} if weights is None else {"sample_weight": weights}

        def score(session, loss):
            fitted = copy(self.estimator)
            vars(fitted).update(self.attributes(session.params))
            vars(fitted).pop("feature_names_in_", None)  # these rows are arrays by now
            return scorer(fitted, table.X, table.encoded.original, **weights)

        return score

    def training_rows(self, X):
        """The backend's view of the rows to train on."""
        return self.rows(X)

    def use(self, stack: ExitStack, path, every: int, data, first_pass: bool) -> None:
        """Go on from the checkpoint at `path`, if there is one, and write it; it is closed with the `stack`."""
        progress = self._progress(first_pass)
        start = self.session.params, progress.loss_curve, progress.validation_scores, progress.n_samples_seen
        fingerprint = checkpoints.fingerprint_of(self.estimator, data, start)
        self.checkpoint = stack.enter_context(checkpoints.opened(path, every, fingerprint))

    @property
    def n_iter_before(self) -> int:
        """Epochs of this fit that were made before it was interrupted."""
        has_some = self.checkpoint is not None and self.checkpoint.saved is not None
        return self.checkpoint.saved.progress["n_iter_"] if has_some else 0

    def _progress(self, first_pass: bool) -> Progress:
        """Where the curves begin."""
        return Progress.resume({} if first_pass else vars(self.estimator), self.estimator.early_stopping)

    def train(self, data, validation, hooks, first_pass: bool, incremental: bool) -> dict:
        """Train with the estimator's solver; returns the fitted attributes."""
        return self.stochastic(data, validation, hooks, first_pass, incremental)

    def stochastic(self, data, validation, hooks, first_pass: bool, incremental: bool) -> dict:
        """Train with a stochastic solver; returns the fitted attributes."""
        training = self.training(data, validation, hooks, first_pass, incremental)
        outcome = training.run(1 if incremental else self.estimator.max_iter, warn_at_max_iter=not incremental)
        return self.fitted(training, outcome, incremental)

    def training(self, data, validation, hooks, first_pass: bool, incremental: bool) -> trainer.StochasticTraining:
        """The training by a stochastic solver, before its first epoch."""
        estimator = self.estimator
        fitted = {} if first_pass else vars(estimator)
        progress = self._progress(first_pass)
        best_params = None
        if estimator.early_stopping and progress.best_validation_score > -np.inf:
            best_params = trainer.aligned_copy(estimator.params_, self.session.params.dtype)
        return trainer.StochasticTraining(
            self.session,
            data,
            self.settings,
            progress,
            fitted.get("_optimizer") if incremental else None,
            seed=self.seed,
            best_params=best_params,
            has_finite_epoch=self.starts_usable or not first_pass,
            largest_loss=self.largest_loss,
            target_loss=self.target_loss,
            keeps_snapshot=self.keeps_snapshot,
            validation=validation,
            hooks=hooks,
            checkpoint=self.checkpoint,
        )

    def fitted(self, training: trainer.StochasticTraining, outcome: trainer.Outcome, incremental: bool) -> dict:
        """The fitted attributes after a training."""
        attributes = {**self.attributes(outcome.params), **training.progress.attributes(), "_optimizer": outcome.state}
        if incremental and outcome.latest_params is not outcome.params:
            attributes["_latest_params"] = outcome.latest_params
        return attributes


class Job(NamedTuple):
    """A call of fit or partial_fit that is ready to train.

    Attributes
    ----------
    run : Run
        Network and starting point.
    table : Table
        Holds the training rows, and maybe others.
    rows : int (n_training_rows,)
        Their numbers.
    held_out : Table or None
        Rows to validate on.
    first : bool
        Whether training starts with new parameters.
    """

    run: Run
    table: Table
    rows: np.ndarray
    held_out: Table | None
    first: bool

    def data(self) -> tuple[trainer.Data, trainer.Validation | None]:
        """What to train on and what to validate on, on the run's device."""
        run, validation = self.run, None
        data = trainer.Data(run.training_rows(self.table.X), run.targets(self.table), self.rows)
        if self.held_out is not None:
            held_out = self.held_out
            validation = trainer.Validation(run.rows(held_out.X), run.targets(held_out), run.scorer(held_out))
        return data, validation


class TableRun(Run):
    """One call of fit or partial_fit of an MLP.

    Parameters
    ----------
    estimator, backend, seed
        As in `Run`.
    new_network : Network
        The layers.
    output : Output
        The loss.
    params : ndarray (n_params,)
        Starting point.
    """

    def __init__(self, estimator, backend, new_network: Network, output: Output, params, seed: int):
        self.network, self.loss, self.dtype = new_network, output.loss, params.dtype
        self.compute_dtype = np.dtype(np.float64) if estimator.solver == "lbfgs" else params.dtype
        session = backend.Session(
            new_network,
            params if params.dtype == self.compute_dtype else trainer.aligned_copy(params, self.compute_dtype),
            output.loss,
            loss_parameter=output.loss_parameter,
            label_smoothing=estimator.label_smoothing,
            n_jobs=estimator.n_jobs,
        )
        session.matmul_precision = estimator.matmul_precision  # a GPU's reads it
        super().__init__(estimator, backend, session, trainer.Settings.of(estimator), seed)

    def training_rows(self, X):
        """The backend's view of X, which is not copied unless the estimator scales; kernels convert what they read."""
        if "_input_scaler" in vars(self.estimator):
            return self.rows(X)
        return self.backend.as_rows(X) if self.shared is None else self.shared.on(self.backend, self.estimator.device)

    def rows(self, X):
        """The backend's view of X in the precision of the parameters, scaled where the estimator scales."""
        scaler = vars(self.estimator).get("_input_scaler")
        if scaler is not None:
            X = scaler.transform(dense_rows(X, 0, X.shape[0]), self.compute_dtype)
        return self.backend.as_rows(X.astype(self.compute_dtype, copy=False))

    def targets(self, table: Table):
        """The backend's targets."""
        return targets_of(table, self.backend, self.session.n_outputs, self.compute_dtype)

    def attributes(self, params: np.ndarray) -> dict:
        """What makes an estimator predict with `params`."""
        if params.dtype != self.dtype:
            params = trainer.aligned_copy(params, self.dtype)
        return {"params_": params, "network_": self.network, "_loss": self.loss, "_latest_params": None}

    def train(self, data, validation, hooks, first_pass, incremental):
        if self.estimator.solver == "lbfgs":
            return self.lbfgs(data, validation, hooks)
        return self.stochastic(data, validation, hooks, first_pass, incremental)

    def lbfgs(self, data, validation, hooks) -> dict:
        """Train with L-BFGS; returns the fitted attributes."""
        progress = Progress.start(early_stopping=False)
        params = lbfgs.minimize(self.session, data, self.settings, progress, validation=validation, hooks=hooks)
        kept = ("loss_", "n_iter_", "t_", "history_")
        progress_attributes = progress.attributes()
        return {
            **self.attributes(trainer.aligned_copy(params, self.dtype)),
            **{name: progress_attributes[name] for name in kept},
        }
