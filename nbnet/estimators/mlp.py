"""`MLPClassifier` and `MLPRegressor`: scikit-learn's estimators of these names, trained by nbnet's engine."""

from __future__ import annotations

from numbers import Real
from typing import Self

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_array

from .. import trainer
from ..network import Loss
from .base_mlp import BaseMLP
from .classes import CLASS_WEIGHT, NO_LABELS, ClassesMixin
from .docs import documented
from .presets import TABULAR_REGRESSION
from .run import Encoded, Output
from .validation import cast_finite, validate_table


@documented
class MLPClassifier(ClassesMixin, BaseMLP):
    """Multi-layer perceptron classifier.

    Everything that `sklearn.neural_network.MLPClassifier` has, under the same names and with the same defaults, and
    more. The log-loss is minimized: softmax for three classes or more, one sigmoid for two classes, one for each label
    of a multilabel target.

    Parameters
    ----------
    {hidden_layer_sizes}

    {shared}

    class_weight : dict, "balanced" or None, default=None
        Weight of each class in the loss, as ``{{class_label: weight}}``; "balanced" weights by the inverse of the
        class's share. Multiplied with `sample_weight`. For multilabel targets "balanced" balances each label.

    {ours}

    Attributes
    ----------
    classes_ : ndarray (n_classes,)
        Class labels.

    {attributes}

    See Also
    --------
    MLPRegressor : The same network for numbers.

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from nbnet import MLPClassifier
    >>> X, y = make_classification(n_samples=100, random_state=1)
    >>> classifier = MLPClassifier(max_iter=300, random_state=1).fit(X, y)
    >>> classifier.predict(X[:1]).shape
    (1,)
    """

    _parameter_constraints: dict = {
        **BaseMLP._parameter_constraints,
        "class_weight": CLASS_WEIGHT,
    }

    def __init__(
        self,
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
        class_weight=None,
        dropout=0.0,
        label_smoothing=0.0,
        input_scaling=None,
        warmup_fraction=0.0,
        max_grad_norm=None,
        scoring=None,
        dtype=None,
        n_jobs=None,
        device="cpu",
        matmul_precision="highest",
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.class_weight = class_weight
        self.dropout = dropout
        self.label_smoothing = label_smoothing
        self.input_scaling = input_scaling
        self.warmup_fraction = warmup_fraction
        self.max_grad_norm = max_grad_norm
        self.scoring = scoring
        self.dtype = dtype
        self.n_jobs = n_jobs
        self.device = device
        self.matmul_precision = matmul_precision

    # ------------------------------------------------------------------ public

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X,
        y,
        sample_weight=None,
        *,
        X_val=None,
        y_val=None,
        sample_weight_val=None,
        checkpoint=None,
        checkpoint_every=1,
    ) -> Self:
        """Fit the model to X and y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input.
        y : array-like of shape (n_samples,) or indicator matrix (n_samples, n_labels)
            Class labels of any type, or a multilabel indicator matrix.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row: 0 is the row's absence, 2 the row twice.
        X_val, y_val : array-like, default=None
            Validation rows. Their loss and score are recorded after each epoch, and with ``early_stopping=True`` decide
            instead of a split of X.
        sample_weight_val : array-like of shape (n_val_samples,), default=None
            Weights of the validation rows.
        checkpoint : path, default=None
            File from which an interrupted fit goes on: after a crash, call `fit` again with the same data and
            parameters, and it ends with the bits of an uninterrupted one. It is removed when training is complete.
            `random_state` must be an integer.
        checkpoint_every : int, default=1
            Epochs from one writing of the file to the next.

        Returns
        -------
        self : MLPClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            For invalid input, for a `checkpoint` of another fit, or where no epoch had finite weights. The estimator
            is then as it was before.
        """
        kept = dict(checkpoint=checkpoint, checkpoint_every=checkpoint_every)
        return self._fit(X, y, sample_weight, X_val, y_val, sample_weight_val, incremental=False, **kept)

    @available_if(lambda self: self._stochastic_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X, y, sample_weight=None, classes=None, *, X_val=None, y_val=None, sample_weight_val=None
    ) -> Self:
        """Update the model with a single epoch over the given rows.

        Parameters
        ----------
        X, y, sample_weight, X_val, y_val, sample_weight_val
            As in `fit`. ``early_stopping=True`` needs X_val here: each call appends to `validation_scores_`, the best
            weights so far predict, and the next call goes on from the latest.
        classes : array-like of shape (n_classes,), default=None
            All classes, in the first call; y need not contain each of them.

        Returns
        -------
        self : MLPClassifier
            The fitted estimator.
        """
        return self._partial_fit(X, y, sample_weight, classes, X_val, y_val, sample_weight_val)


@documented
class MLPRegressor(RegressorMixin, BaseMLP):
    """Multi-layer perceptron regressor.

    Everything that `sklearn.neural_network.MLPRegressor` has, under the same names and with the same defaults, and
    more.

    Parameters
    ----------
    loss : {{"squared_error", "poisson", "huber", "quantile"}}, default="squared_error"
        Loss of one row, where r = y - prediction: "squared_error" is r**2 / 2; "poisson" is half the Poisson deviance,
        with the exponential as output activation, for y >= 0; "huber" is r**2 / 2 for abs(r) <= `huber_delta` and grows
        linearly from there; "quantile" is the pinball loss, whose minimum is the conditional quantile `quantile`.

    {hidden_layer_sizes}

    {shared}

    {ours}

    huber_delta : float, default=1.0
        Size of the residual from which "huber" is linear, in units of y.

    quantile : float, default=0.5
        The quantile that "quantile" estimates, between 0 and 1.

    Attributes
    ----------
    {attributes}

    See Also
    --------
    MLPClassifier : The same network for classes.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from nbnet import MLPRegressor
    >>> X, y = make_regression(n_samples=200, n_features=20, random_state=1)
    >>> regressor = MLPRegressor(random_state=1, max_iter=2000, tol=0.1).fit(X, y)
    >>> regressor.predict(X[:2]).shape
    (2,)
    """

    _tabular: dict = TABULAR_REGRESSION

    _parameter_constraints: dict = {
        **BaseMLP._parameter_constraints,
        "loss": [StrOptions({"squared_error", "poisson", "huber", "quantile"})],
        "huber_delta": [Interval(Real, 0, None, closed="neither")],
        "quantile": [Interval(Real, 0, 1, closed="neither")],
    }

    def __init__(
        self,
        loss="squared_error",
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
        dropout=0.0,
        label_smoothing=0.0,
        input_scaling=None,
        warmup_fraction=0.0,
        max_grad_norm=None,
        scoring=None,
        dtype=None,
        n_jobs=None,
        device="cpu",
        matmul_precision="highest",
        huber_delta=1.0,
        quantile=0.5,
    ):
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.dropout = dropout
        self.label_smoothing = label_smoothing
        self.input_scaling = input_scaling
        self.warmup_fraction = warmup_fraction
        self.max_grad_norm = max_grad_norm
        self.scoring = scoring
        self.dtype = dtype
        self.n_jobs = n_jobs
        self.device = device
        self.matmul_precision = matmul_precision
        self.huber_delta = huber_delta
        self.quantile = quantile

    # ------------------------------------------------------------------ targets

    def _validate_input(self, X, y, *, reset, incremental):
        X, y = validate_table(self, X, y, multi_output=True, y_numeric=True, reset=reset)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return X, y

    def _validate_y_val(self, y_val):
        y_val = check_array(y_val, ensure_2d=False, dtype="numeric", input_name="y_val", estimator=self)
        return column_or_1d(y_val, warn=True) if y_val.ndim == 2 and y_val.shape[1] == 1 else y_val

    def _encode(self, y, dtype, name="y"):
        values = cast_finite(y, dtype, name)
        if self.loss == "poisson" and values.min() < 0:
            raise ValueError(f"loss='poisson' requires `{name}` >= 0, got {values.min()}.")
        return Encoded(NO_LABELS, values.reshape(len(values), -1), y)

    def _output(self, encoded):
        loss = Loss[self.loss.upper()]
        parameter = {Loss.HUBER: self.huber_delta, Loss.QUANTILE: self.quantile}.get(loss, 0.0)
        return Output(loss, encoded.values.shape[1], "exp" if loss == Loss.POISSON else "identity", parameter)

    def _score_predictions(self, encoded, predictions, weights):
        return r2_score(encoded.values, predictions, sample_weight=weights)

    # ------------------------------------------------------------------ public

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X,
        y,
        sample_weight=None,
        *,
        X_val=None,
        y_val=None,
        sample_weight_val=None,
        checkpoint=None,
        checkpoint_every=1,
    ) -> Self:
        """Fit the model to X and y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row: 0 is the row's absence, 2 the row twice.
        X_val, y_val : array-like, default=None
            Validation rows. Their loss and score are recorded after each epoch, and with ``early_stopping=True`` decide
            instead of a split of X.
        sample_weight_val : array-like of shape (n_val_samples,), default=None
            Weights of the validation rows.
        checkpoint : path, default=None
            File from which an interrupted fit goes on: after a crash, call `fit` again with the same data and
            parameters, and it ends with the bits of an uninterrupted one. It is removed when training is complete.
            `random_state` must be an integer.
        checkpoint_every : int, default=1
            Epochs from one writing of the file to the next.

        Returns
        -------
        self : MLPRegressor
            The fitted estimator.

        Raises
        ------
        ValueError
            For invalid input, for a `checkpoint` of another fit, or where no epoch had finite weights. The estimator
            is then as it was before.
        """
        kept = dict(checkpoint=checkpoint, checkpoint_every=checkpoint_every)
        return self._fit(X, y, sample_weight, X_val, y_val, sample_weight_val, incremental=False, **kept)

    @available_if(lambda self: self._stochastic_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, sample_weight=None, *, X_val=None, y_val=None, sample_weight_val=None) -> Self:
        """Update the model with a single epoch over the given rows.

        Parameters
        ----------
        X, y, sample_weight, X_val, y_val, sample_weight_val
            As in `fit`. ``early_stopping=True`` needs X_val here: each call appends to `validation_scores_`, the best
            weights so far predict, and the next call goes on from the latest.

        Returns
        -------
        self : MLPRegressor
            The fitted estimator.
        """
        return self._fit(X, y, sample_weight, X_val, y_val, sample_weight_val, incremental=True)

    def predict(self, X) -> np.ndarray:
        """Predicted value of each row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Predicted values.
        """
        predictions = self._forward(X)
        return trainer.beside(X, predictions.ravel() if predictions.shape[1] == 1 else predictions)

    def score(self, X, y, sample_weight=None) -> float:
        """Coefficient of determination R2 of the predictions.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The true values.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row.

        Returns
        -------
        score : float
            At most 1.
        """
        return super().score(*self._on_host(X, y, sample_weight))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
