"""What the estimators over Dask collections share: parameters, rounds until a stopping rule holds, lazy predictions."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from numbers import Integral, Real
from time import perf_counter
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from .. import random, trainer
from ..estimators.base import unchanged_on_error
from ..estimators.validation import check_validation_arguments
from ..progress import EpochRecord, Progress
from ..schedules import ends_at_max_iter
from . import collections
from .collections import Block
from .rounds import Pace

OWN_PARAMETERS = {"local_epochs": 0.25, "outer_learning_rate": 1.0, "outer_momentum": 0.6}
KEPT_ATTRIBUTES = ("classes_", "n_features_in_", "feature_names_in_", "n_iter_", "loss_curve_", "history_")


def constructor_of(local: type, **defaults):
    """`__init__` with the parameters of an ordinary estimator and `OWN_PARAMETERS`; `defaults` replace theirs."""
    own = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in {**OWN_PARAMETERS, **defaults}.items()
    ]
    of_local = inspect.signature(local.__init__)
    signature = of_local.replace(parameters=[*of_local.parameters.values(), *own])

    def __init__(self, *args, **parameters):
        bound = signature.bind(self, *args, **parameters)
        bound.apply_defaults()
        vars(self).update({name: value for name, value in bound.arguments.items() if name != "self"})

    __init__.__signature__ = signature
    return __init__


def constraints_of(local: type) -> dict:
    """Constraints of the parameters of `constructor_of`."""
    return {
        **local._parameter_constraints,
        "local_epochs": [Interval(Real, 0, 1, closed="neither"), Interval(Integral, 1, None, closed="left")],
        "outer_learning_rate": [Interval(Real, 0, None, closed="neither")],
        "outer_momentum": [Interval(Real, 0, 1, closed="left")],
    }


def validator(model, run, held_out) -> Callable[[], dict]:
    """Function that gives loss and score of the held-out rows under the history's keys, as the model is when called."""
    validation = trainer.Validation(run.rows(held_out.X), run.targets(held_out), run.scorer(held_out))

    def validate() -> dict[str, float]:
        run.session.params[:] = model.params_
        return trainer.validate(run.session, validation)

    return validate


class DistributedEstimator(BaseEstimator):
    """Trains an ordinary estimator, `model_`, in rounds over partitions."""

    _local: type  # the ordinary estimator

    # ------------------------------------------------------------------ fit

    def _fit(self, X, y, client, sample_weight, X_val, y_val, classes=None) -> Self:
        self._validate_params()
        self._check_parameters()
        check_validation_arguments(X_val, y_val, None)
        for collection, name in ((X, "X"), (y, "y"), (sample_weight, "sample_weight")):
            if collection is not None or name != "sample_weight":
                collections.check_collection(collection, name, self)
        with unchanged_on_error(self):
            partitions = collections.partitions_of(X, y, sample_weight, client)
            seed = random.draw_seed(check_random_state(self.random_state))
            model, rounds, held_out = self._prepare(partitions, client, classes, seed)
            self._train(model, rounds, None if X_val is None else validator(model, *held_out(X_val, y_val)))
            self.model_ = model.set_params(**self._local_parameters())
            for name in KEPT_ATTRIBUTES:
                vars(self).pop(name, None)
                if hasattr(model, name):
                    setattr(self, name, getattr(model, name))
        return self

    def _check_parameters(self) -> None:
        """Raise for what rounds over partitions cannot do."""
        without = {"solver": "lbfgs", "learning_rate": "adaptive", "early_stopping": True, "warm_start": True}
        for name, value in without.items():
            if getattr(self, name) == value:
                others = f"nbnet.{type(self).__name__}"
                raise ValueError(f"{name}={value!r} is not available over partitions; {others} has it.")

    def _local_parameters(self) -> dict:
        return {name: value for name, value in self.get_params(deep=False).items() if name not in OWN_PARAMETERS}

    def _prepare(self, partitions: list, client, classes, seed: int):
        """The ordinary estimator as it is before the first round, the rounds, and what reads validation rows.

        The latter is a function of X_val and y_val that returns a `Run` of the model and the validated rows.
        """
        raise NotImplementedError

    def _train(self, model, rounds, validate=None) -> None:
        """All rounds; sets the model's parameters and curves."""
        progress, pace = Progress.start(early_stopping=False), Pace.of(self.local_epochs)
        n_records, stopping = -(-self.max_iter // pace.n_epochs), False
        while progress.n_iter < n_records and not stopping:
            started, finite, results = perf_counter(), True, []
            while finite and len(results) < pace.n_parts:
                with np.errstate(over="ignore", invalid="ignore"):
                    results.append(rounds.run(progress.n_iter * pace.n_parts + len(results)))
                    params = rounds.params
                    finite = np.isfinite(results[-1][0]) and np.isfinite(params).all()
            losses, weights = zip(*results, strict=True)
            loss = float(np.average(losses, weights=weights)) if finite else np.nan
            scores = {}
            if finite:
                model.params_[:] = params
                scores = validate() if validate is not None else {}
            progress.record(EpochRecord(loss=loss, seconds=perf_counter() - started, **scores), rounds.n_rows)
            if self.verbose:
                print(trainer.verbose_line(progress, validate is not None))
            if not finite:
                self._report_divergence(progress.n_iter, rounds.starts_usable)
                break
            progress.update_best(self.tol)
            stopping = loss <= rounds.target_loss or progress.no_improvement_count > self.n_iter_no_change
        else:
            if not stopping and not ends_at_max_iter(self.learning_rate):
                warnings.warn(
                    f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization hasn't "
                    "converged yet.",
                    ConvergenceWarning,
                    stacklevel=4,
                )
        vars(model).update(progress.attributes())

    def _report_divergence(self, n_iter: int, starts_usable: bool) -> None:
        """Raise where there are no weights to go back to, else warn."""
        if n_iter == 1 and not starts_usable:
            raise ValueError(trainer.NON_FINITE_WEIGHTS)
        warnings.warn(
            f"Training diverged in iteration {n_iter}: loss or weights are no longer finite. The weights of the "
            f"iteration before are kept. Lower learning_rate_init={self.learning_rate_init:g} or "
            f"outer_learning_rate={self.outer_learning_rate:g}.",
            ConvergenceWarning,
            stacklevel=5,
        )

    # ------------------------------------------------------------------ predict

    def _call(self, method: str, X, *outputs: Block, **arguments):
        """``model_.method(X)``: lazy for a Dask collection, at once for anything else."""
        if not collections.is_collection(X):
            return getattr(self.model_, method)(X, **arguments)
        arrays = collections.lazy(self.model_, method, X, list(outputs), **arguments)
        return arrays[0] if len(arrays) == 1 else tuple(arrays)

    def _score(self, metric, X, y, sample_weight) -> float:
        y, predictions, sample_weight = map(collections.gathered, (y, self.predict(X), sample_weight))
        return float(metric(y, predictions, sample_weight=sample_weight))


class DistributedClassifier(ClassifierMixin, DistributedEstimator):
    """What the classifiers share."""

    def fit(self, X, y, client=None, *, sample_weight=None, classes=None, X_val=None, y_val=None) -> Self:
        """Fit the model in rounds over the partitions of X and y.

        Parameters
        ----------
        X : Dask array, dataframe, series or bag, or list of delayed partitions
            The input. Its partitions stay where they are computed.
        y : Dask array, series or bag, or list of delayed partitions
            Class labels, in partitions of the same sizes.
        client : distributed.Client, default=None
            The cluster; None takes the current client, or else the threads of this process.
        sample_weight : Dask array, series or bag, or list of delayed partitions, default=None
            Weight of each row, in partitions of the same sizes: 0 is the row's absence, 2 the row twice.
        classes : array-like of shape (n_classes,), default=None
            All classes; None gathers them from y.
        X_val, y_val : array-like, default=None
            Validation rows, in memory. Their loss and score are in `history_` after each epoch.

        Returns
        -------
        self : estimator
            `model_` is the fitted ordinary estimator.
        """
        return self._fit(X, y, client, sample_weight, X_val, y_val, classes)

    def predict(self, X):
        """Most probable class of each row.

        Parameters
        ----------
        X : Dask collection or array-like
            As in `fit`.

        Returns
        -------
        y : Dask array of shape (n_samples,), or ndarray where X is in memory
            Predicted classes.
        """
        check_is_fitted(self, "model_")
        return self._call("predict", X, Block((), self.classes_.dtype))

    def predict_proba(self, X):
        """Probability of each class.

        Parameters
        ----------
        X : Dask collection or array-like
            As in `fit`.

        Returns
        -------
        probabilities : Dask array of shape (n_samples, n_classes), or ndarray where X is in memory
            In the order of `classes_`.
        """
        check_is_fitted(self, "model_")
        return self._call("predict_proba", X, Block((max(2, len(self.classes_)),), self.model_.params_.dtype))

    def score(self, X, y, sample_weight=None) -> float:
        """Accuracy, computed at once."""
        return self._score(accuracy_score, X, y, sample_weight)
