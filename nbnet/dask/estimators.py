"""Estimators over Dask collections; what they fit is an ordinary estimator."""

from __future__ import annotations

import inspect
import warnings
from copy import copy
from numbers import Integral, Real
from time import perf_counter
from typing import Self

import dask
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from .. import random, trainer
from ..estimators import conv, mlp
from ..estimators.base import Call, unchanged_on_error
from ..estimators.image_input import flat_image_shape, shape_of_images
from ..progress import EpochRecord, Progress
from ..schedules import ends_at_max_iter
from . import collections
from .rounds import OuterStep, Plan, mean_change, train
from .statistics import check_shapes, merged_classes, merged_moments, merged_scaler, summarize

OWN_PARAMETERS = {"local_epochs": 1, "outer_learning_rate": 1.0, "outer_momentum": 0.7}
BATCH_ROWS, SMALLEST_BATCH = 200, 32  # of batch_size="auto": of all partitions together, and of each


def constructor_of(local: type):
    """`__init__` with the parameters of an ordinary estimator and `OWN_PARAMETERS`."""
    own = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in OWN_PARAMETERS.items()
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
        "local_epochs": [Interval(Integral, 1, None, closed="left")],
        "outer_learning_rate": [Interval(Real, 0, None, closed="neither")],
        "outer_momentum": [Interval(Real, 0, 1, closed="left")],
    }


class DistributedEstimator(BaseEstimator):
    """Trains an ordinary estimator, `model_`, in rounds over partitions."""

    _local: type  # the ordinary estimator

    # ------------------------------------------------------------------ fit

    def _fit(self, X, y, client, classes=None) -> Self:
        self._validate_params()
        self._check_parameters()
        collections.check_collection(X, "X", self)
        collections.check_collection(y, "y", self)
        with unchanged_on_error(self):
            partitions = collections.partitions_of(X, y, client)
            about = dask.delayed(summarize)
            wanted = is_classifier(self), self._scaling(), self._n_channels
            summaries = collections.compute([about(partition, *wanted) for partition in partitions], client)
            summaries = check_shapes(summaries, self)
            seed = random.draw_seed(check_random_state(self.random_state))
            model = self._start(summaries, classes, seed)
            batch_size = self.batch_size
            if batch_size == "auto":  # as many steps as on one machine, while the batches are worth a step
                batch_size = max(SMALLEST_BATCH, BATCH_ROWS // len(summaries))
            self._train(model, partitions, client, seed, batch_size)
            self.model_ = model.set_params(**self._local_parameters())
            for name in ("classes_", "n_features_in_", "feature_names_in_", "n_iter_", "loss_curve_", "history_"):
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

    def _scaling(self) -> str | None:
        """What `summarize` counts for the scale of the input."""
        return self.input_scaling

    def _n_channels(self, shape: tuple) -> int:
        raise NotImplementedError

    def _start(self, summaries, classes, seed: int):
        """The ordinary estimator as it is before the first round."""
        model = self._local(**self._local_parameters())
        first = summaries[0].first
        X, y = first.X, first.y
        if is_classifier(self):
            y, counts = merged_classes(summaries, classes)
            if self.class_weight == "balanced":
                present = counts > 0
                weights = counts.sum() / (present.sum() * counts[present])
                model.class_weight = dict(zip(y[present].tolist(), weights.tolist(), strict=True))
            # a few rows a class say all that a network needs; of one alone scikit-learn warns that they are numbers
            y = np.repeat(y, 3)
            X = _safe_indexing(X, [0] * len(y))
        table, _ = model._training_table(X, y, None, True, False)
        output = model._output(table.encoded)
        model.n_outputs_, model.out_activation_ = output.n_outputs, output.activation
        backend = trainer.backend_for(model.device, model._session_kind)
        call = Call(True, False, model._fitted_dtype(table.X, True), seed)
        run = model._prepare_run(backend, table, np.arange(len(y)), output, call)
        self._set_scale(model, summaries)
        fresh = Progress.start(early_stopping=False).attributes()
        vars(model).update({**run.attributes(run.session.params), **fresh, "_optimizer": None})
        return model

    def _set_scale(self, model, summaries) -> None:
        """Replace what the model has learned of the scale of the input by what all partitions say."""
        if self.input_scaling is not None:
            scaler = model._input_scaler = merged_scaler(self.input_scaling, summaries)
            model.input_center_, model.input_scale_ = scaler.center, scaler.scale

    def _averaged_only(self, model) -> np.ndarray:
        """Parameters that the outer step leaves to the mean, bool (n_params,)."""
        return np.zeros(model.params_.size, bool)

    def _train(self, model, partitions: list, client, seed: int, batch_size: int) -> None:
        """All rounds; sets the model's parameters and curves."""
        progress, train_on = Progress.start(early_stopping=False), dask.delayed(train)
        outer = OuterStep(model.params_, self.outer_learning_rate, self.outer_momentum, self._averaged_only(model))
        sent = copy(model)
        sent.params_, sent.batch_size = None, batch_size  # parameters travel anew in each round
        plan = dask.delayed(Plan(sent, seed, self.local_epochs), traverse=False)
        n_rounds, stopping = -(-self.max_iter // self.local_epochs), False
        while progress.n_iter < n_rounds and not stopping:
            started, round_number = perf_counter(), progress.n_iter
            params = outer.params.astype(model.params_.dtype)
            shared = dask.delayed(params, traverse=False)
            tasks = [train_on(plan, shared, part, round_number, number) for number, part in enumerate(partitions)]
            with np.errstate(over="ignore", invalid="ignore"):
                mean = mean_change(collections.compute(tasks, client))
                outer.apply(mean.change)
                finite = np.isfinite(mean.loss) and np.isfinite(outer.params.astype(params.dtype)).all()
            progress.record(
                EpochRecord(loss=mean.loss if finite else np.nan, seconds=perf_counter() - started), mean.n_rows
            )
            if self.verbose:
                print(trainer.verbose_line(progress, False))
            if not finite:
                self._report_divergence(round_number)
                break
            model.params_[:] = outer.params
            progress.update_best(self.tol)
            stopping = progress.no_improvement_count > self.n_iter_no_change
        else:
            if not stopping and not ends_at_max_iter(self.learning_rate):
                warnings.warn(
                    f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization hasn't "
                    "converged yet.",
                    ConvergenceWarning,
                    stacklevel=4,
                )
        vars(model).update(progress.attributes())

    def _report_divergence(self, round_number: int) -> None:
        """Raise where there is no round to go back to, else warn."""
        if round_number == 0:
            raise ValueError(trainer.NON_FINITE_WEIGHTS)
        warnings.warn(
            f"Training diverged in round {round_number + 1}: loss or weights are no longer finite. The weights of the "
            f"round before are kept. Lower learning_rate_init={self.learning_rate_init:g} or "
            f"outer_learning_rate={self.outer_learning_rate:g}.",
            ConvergenceWarning,
            stacklevel=5,
        )

    # ------------------------------------------------------------------ predict

    def _call(self, method: str, X, shape: tuple, dtype):
        """``model_.method(X)``: lazy for a Dask collection, at once for anything else."""
        if dask.is_dask_collection(X):
            return collections.lazy(self.model_, method, X, shape, dtype)
        return getattr(self.model_, method)(X)

    def _score(self, metric, X, y, sample_weight) -> float:
        (predictions,), (y, sample_weight) = dask.compute(self.predict(X)), dask.compute(y, sample_weight)
        return float(metric(y, predictions, sample_weight=sample_weight))


class DistributedClassifier(ClassifierMixin, DistributedEstimator):
    """What the classifiers share."""

    def fit(self, X, y, client=None, *, classes=None) -> Self:
        """Fit the model in rounds over the partitions of X and y.

        Parameters
        ----------
        X : Dask array or dataframe
            The input. Its partitions stay where they are computed.
        y : Dask array, series or bag
            Class labels, in partitions of the same sizes.
        client : distributed.Client, default=None
            The cluster; None takes the current client, or else the threads of this process.
        classes : array-like of shape (n_classes,), default=None
            All classes; None gathers them from y.

        Returns
        -------
        self : estimator
            `model_` is the fitted ordinary estimator.
        """
        return self._fit(X, y, client, classes)

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
        return self._call("predict", X, (), self.classes_.dtype)

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
        return self._call("predict_proba", X, (max(2, len(self.classes_)),), self.model_.params_.dtype)

    def score(self, X, y, sample_weight=None) -> float:
        """Accuracy, computed at once."""
        return self._score(accuracy_score, X, y, sample_weight)


class MLPClassifier(DistributedClassifier):
    """`nbnet.MLPClassifier` over Dask collections.

    A round trains the network for `local_epochs` on each partition by itself, from the same weights; the changes are
    averaged by rows, and an outer step with momentum adds them. The result depends on the partitions and
    `random_state`, never on the workers.

    Parameters
    ----------
    hidden_layer_sizes, activation, and all others of `nbnet.MLPClassifier`
        As there. `max_iter` counts epochs over all rows; `solver` "lbfgs", `learning_rate` "adaptive", `early_stopping`
        and `warm_start` are not available. ``input_scaling="robust"`` estimates quartiles from 1024 rows a partition.
        `batch_size` is that of one partition; "auto" shares 200 rows among the partitions, with 32 or more for each.
        `n_jobs` is that of one partition, None is 1.

    local_epochs : int, default=1
        Epochs on each partition in a round.

    outer_learning_rate : float, default=1.0
        Factor on the averaged change.

    outer_momentum : float, default=0.7
        Nesterov's momentum of the outer step, in [0, 1).

    Attributes
    ----------
    model_ : nbnet.MLPClassifier
        Fitted; it can be saved and pickled, and needs no Dask.
    classes_, n_features_in_, n_iter_, loss_curve_, history_
        Those of `model_`; one entry of the curves a round.
    """

    _local = mlp.MLPClassifier
    _parameter_constraints = constraints_of(_local)
    __init__ = constructor_of(_local)


class ConvClassifier(DistributedClassifier):
    """`nbnet.ConvClassifier` over Dask arrays of images.

    Trained as `nbnet.dask.MLPClassifier` is; `normalize` takes means and deviations over all partitions. The running
    statistics of batch norm are averaged.

    Parameters
    ----------
    conv_layers, hidden_layer_sizes, and all others of `nbnet.ConvClassifier`
        As there, but for what `nbnet.dask.MLPClassifier` names.

    local_epochs, outer_learning_rate, outer_momentum
        As in `nbnet.dask.MLPClassifier`.

    Attributes
    ----------
    model_ : nbnet.ConvClassifier
        Fitted; it can be saved and pickled, and needs no Dask.
    classes_, n_features_in_, n_iter_, loss_curve_, history_
        Those of `model_`; one entry of the curves a round.
    """

    _local = conv.ConvClassifier
    _parameter_constraints = constraints_of(_local)
    __init__ = constructor_of(_local)

    def transform(self, X):
        """Features of each image: what the output layer reads.

        Parameters
        ----------
        X : Dask array or array-like
            As in `fit`.

        Returns
        -------
        features : Dask array of shape (n, n_features), or ndarray where X is in memory
        """
        check_is_fitted(self, "model_")
        return self._call("transform", X, (self.model_._n_features_out,), self.model_.params_.dtype)

    def _scaling(self):
        return "channels" if self.normalize else None

    def _n_channels(self, shape):
        if self.image_shape is not None:
            return flat_image_shape(self.image_shape, *shape)[2]
        return shape_of_images(np.empty((0, *shape)), "X")[2]

    def _set_scale(self, model, summaries):
        if self.normalize:
            moments = merged_moments(summaries)
            deviation = moments.deviation
            model.channel_mean_, model.channel_deviation_ = moments.mean, np.where(deviation > 0, deviation, 1.0)

    def _averaged_only(self, model):
        marked = copy(model)
        marked.params_ = np.zeros_like(model.params_)
        for norm in marked.batch_norms_:
            norm.running_mean[:] = norm.running_variance[:] = 1.0
        return marked.params_ > 0


class MLPRegressor(RegressorMixin, DistributedEstimator):
    """`nbnet.MLPRegressor` over Dask collections, trained as `nbnet.dask.MLPClassifier` is.

    Parameters
    ----------
    loss, hidden_layer_sizes, and all others of `nbnet.MLPRegressor`
        As there, but for what `nbnet.dask.MLPClassifier` names.

    local_epochs, outer_learning_rate, outer_momentum
        As in `nbnet.dask.MLPClassifier`.

    Attributes
    ----------
    model_ : nbnet.MLPRegressor
        Fitted; it can be saved and pickled, and needs no Dask.
    n_features_in_, n_iter_, loss_curve_, history_
        Those of `model_`; one entry of the curves a round.
    """

    _local = mlp.MLPRegressor
    _parameter_constraints = constraints_of(_local)
    __init__ = constructor_of(_local)

    def fit(self, X, y, client=None) -> Self:
        """Fit the model in rounds over the partitions of X and y.

        Parameters
        ----------
        X : Dask array or dataframe
            The input. Its partitions stay where they are computed.
        y : Dask array, series or bag
            Targets, in partitions of the same sizes.
        client : distributed.Client, default=None
            The cluster; None takes the current client, or else the threads of this process.

        Returns
        -------
        self : MLPRegressor
            `model_` is the fitted ordinary estimator.
        """
        return self._fit(X, y, client)

    def predict(self, X):
        """Predicted value of each row.

        Parameters
        ----------
        X : Dask collection or array-like
            As in `fit`.

        Returns
        -------
        y : Dask array of shape (n_samples,) or (n_samples, n_outputs), or ndarray where X is in memory
        """
        check_is_fitted(self, "model_")
        n_outputs = self.model_.n_outputs_
        return self._call("predict", X, () if n_outputs == 1 else (n_outputs,), self.model_.params_.dtype)

    def score(self, X, y, sample_weight=None) -> float:
        """Coefficient of determination, computed at once."""
        return self._score(r2_score, X, y, sample_weight)
