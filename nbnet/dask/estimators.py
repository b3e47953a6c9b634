"""Estimators of tables and images over Dask collections; what they fit is an ordinary estimator."""

from __future__ import annotations

from copy import copy
from typing import Self

import dask
import numpy as np
from sklearn.base import RegressorMixin, is_classifier
from sklearn.metrics import r2_score
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted

from .. import trainer
from ..estimators import conv, mlp
from ..estimators.base import Call
from ..estimators.image_input import flat_image_shape, shape_of_images
from ..progress import Progress
from . import collections
from .base import DistributedClassifier, DistributedEstimator, constraints_of, constructor_of
from .collections import Block
from .rounds import Pace, Plan, Rounds
from .statistics import check_shapes, merged_classes, merged_moments, merged_scaler, summarize

BATCH_ROWS, SMALLEST_BATCH = 200, 16  # of batch_size="auto": of all partitions together, and of each


class TableEstimator(DistributedEstimator):
    """An estimator of rows of X, be they of a table or images."""

    def _prepare(self, partitions, client, classes, seed):
        about, wanted = dask.delayed(summarize), (is_classifier(self), self._scaling(), self._n_channels)
        summaries = collections.compute([about(partition, *wanted) for partition in partitions], client)
        summaries = check_shapes(summaries, self)
        (model, run, class_weights), pace = self._start(summaries, classes, seed), Pace.of(self.local_epochs)
        sent = copy(model)
        sent.params_, sent.batch_size = None, self.batch_size  # parameters travel anew in each round
        n_rows = sum(summary.n_rows for summary in summaries)
        if sent.batch_size == "auto":  # as many steps as on one machine, while the batches are worth a step
            sent.batch_size = max(SMALLEST_BATCH, BATCH_ROWS // len(summaries))
        sent.max_iter = self.max_iter * pace.n_parts  # so that the learning rate's schedule spans all rounds
        outer_step = self.outer_learning_rate, self.outer_momentum, self._averaged_only(model)
        rounds = Rounds(Plan(sent, seed, pace), partitions, client, model.params_, outer_step, n_rows)

        def held_out(X_val, y_val):
            return run, model._validation_table(X_val, y_val, None, class_weights, model.params_.dtype)

        return model, rounds, held_out

    def _scaling(self) -> str | None:
        """What `summarize` counts for the scale of the input."""
        return self.input_scaling

    def _n_channels(self, shape: tuple) -> int:
        raise NotImplementedError

    def _start(self, summaries, classes, seed: int):
        """The ordinary estimator as it is before the first round, its `Run`, and the weights of its classes."""
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
        table, class_weights = model._training_table(X, y, None, True, False)
        output = model._output(table.encoded)
        model.n_outputs_, model.out_activation_ = output.n_outputs, output.activation
        backend = trainer.backend_for(model.device, model._session_kind)
        call = Call(True, False, model._fitted_dtype(table.X, True), seed)
        run = model._prepare_run(backend, table, np.arange(len(y)), output, call)
        self._set_scale(model, summaries)
        fresh = Progress.start(early_stopping=False).attributes()
        vars(model).update({**run.attributes(run.session.params), **fresh, "_optimizer": None})
        return model, run, class_weights

    def _set_scale(self, model, summaries) -> None:
        """Replace what the model has learned of the scale of the input by what all partitions say."""
        if self.input_scaling is not None:
            scaler = model._input_scaler = merged_scaler(self.input_scaling, summaries)
            model.input_center_, model.input_scale_ = scaler.center, scaler.scale

    def _averaged_only(self, model) -> np.ndarray:
        """Parameters that the outer step leaves to the mean, bool (n_params,)."""
        return np.zeros(model.params_.size, bool)


class MLPClassifier(DistributedClassifier, TableEstimator):
    """`nbnet.MLPClassifier` over Dask collections.

    A round trains the network on a quarter (`local_epochs`) of each partition's rows by itself, from the same weights;
    the changes, and the moments of the optimizer, are averaged by the weights of the rows, and an outer step with
    momentum adds the changes. The result depends on the partitions and `random_state`, never on the workers.

    Parameters
    ----------
    hidden_layer_sizes, activation, and all others of `nbnet.MLPClassifier`
        As there. `max_iter` counts epochs over all rows; `solver` "lbfgs", `learning_rate` "adaptive", `early_stopping`
        and `warm_start` are not available. ``input_scaling="robust"`` estimates quartiles from 1024 rows a partition.
        `batch_size` is that of one partition; "auto" shares 200 rows among the partitions, with 16 or more for each.
        `n_jobs` is that of one partition, None is 1.

    local_epochs : int or float, default=0.25
        Epochs on each partition in a round; below 1 one over an integer: the parts of an epoch have each row once.

    outer_learning_rate : float, default=1.0
        Factor on the averaged change.

    outer_momentum : float, default=0.6
        Nesterov's momentum of the outer step, in [0, 1).

    Attributes
    ----------
    model_ : nbnet.MLPClassifier
        Fitted; it can be saved and pickled, and needs no Dask.
    classes_, n_features_in_, n_iter_, loss_curve_, history_
        Those of `model_`; one entry of the curves an epoch, or a round if that is longer.
    """

    _local = mlp.MLPClassifier
    _parameter_constraints = constraints_of(_local)
    __init__ = constructor_of(_local)


class ConvClassifier(DistributedClassifier, TableEstimator):
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
        Those of `model_`; one entry of the curves an epoch, or a round if that is longer.
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
        return self._call("transform", X, Block((self.model_._n_features_out,), self.model_.params_.dtype))

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


class MLPRegressor(RegressorMixin, TableEstimator):
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
        Those of `model_`; one entry of the curves an epoch, or a round if that is longer.
    """

    _local = mlp.MLPRegressor
    _parameter_constraints = constraints_of(_local)
    __init__ = constructor_of(_local)

    def fit(self, X, y, client=None, *, sample_weight=None, X_val=None, y_val=None) -> Self:
        """Fit the model in rounds over the partitions of X and y.

        Parameters
        ----------
        X : Dask array or dataframe, or list of delayed partitions
            The input. Its partitions stay where they are computed.
        y : Dask array, dataframe, series or bag, or list of delayed partitions
            Targets, in partitions of the same sizes.
        client : distributed.Client, default=None
            The cluster; None takes the current client, or else the threads of this process.
        sample_weight : Dask array, series or bag, or list of delayed partitions, default=None
            Weight of each row, in partitions of the same sizes: 0 is the row's absence, 2 the row twice.
        X_val, y_val : array-like, default=None
            Validation rows, in memory. Their loss and score are in `history_` after each epoch.

        Returns
        -------
        self : MLPRegressor
            `model_` is the fitted ordinary estimator.
        """
        return self._fit(X, y, client, sample_weight, X_val, y_val)

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
        return self._call("predict", X, Block(() if n_outputs == 1 else (n_outputs,), self.model_.params_.dtype))

    def score(self, X, y, sample_weight=None) -> float:
        """Coefficient of determination, computed at once."""
        return self._score(r2_score, X, y, sample_weight)
