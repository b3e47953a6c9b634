"""What the table estimators share: constraints, fit, views of the parameters, prediction."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Self

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator
from sklearn.metrics import get_scorer_names
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import check_is_fitted

from .. import network, random, trainer
from ..network import ACTIVATION_CODES, DenseSpec, Network
from ..progress import PROGRESS_ATTRIBUTES
from ..schedules import LEARNING_RATES
from .callbacks import CALLBACK_ATTRIBUTES, CallbackHooks, CallbackSupportMixin, has_callbacks
from .presets import TABULAR
from .run import Encoded, Output, Table, TableRun, dense_rows
from .scaling import BLOCK_ROWS, InputScaler, InputScaling
from .validation import (
    check_activations,
    check_hidden_layer_sizes,
    check_range,
    check_validation_arguments,
    check_weights,
    validate_table,
    validate_validation_table,
)

SOLVERS = ("lbfgs", *trainer.STOCHASTIC_SOLVERS)


@contextmanager
def unchanged_on_error(estimator) -> Iterator[None]:
    """Give the estimator back as it was if the block raises: nothing is ever half-fitted."""
    before = vars(estimator).copy()
    try:
        yield
    except BaseException:
        kept = {key: value for key, value in vars(estimator).items() if key in CALLBACK_ATTRIBUTES}
        vars(estimator).clear()
        vars(estimator).update({key: value for key, value in before.items() if key not in CALLBACK_ATTRIBUTES})
        vars(estimator).update(kept)
        raise


class BaseMLP(CallbackSupportMixin, BaseEstimator, metaclass=ABCMeta):
    """Fully connected network over tables; see `MLPClassifier` and `MLPRegressor`."""

    _tabular: dict = TABULAR

    _parameter_constraints: dict = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATION_CODES)), list, tuple],
        "solver": [StrOptions(set(SOLVERS))],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions(set(LEARNING_RATES))],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "input_scaling": [StrOptions({str(member) for member in InputScaling}), None],
        "warmup_fraction": [Interval(Real, 0, 1, closed="left")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "scoring": [StrOptions({*get_scorer_names(), "loss"}), callable, None],
        "dtype": [StrOptions({"float32", "float64"}), None],
        "n_jobs": [Interval(Integral, None, -1, closed="right"), Interval(Integral, 1, None, closed="left"), None],
        "device": [StrOptions(set(trainer.DEVICES))],
    }

    @classmethod
    def tabular(cls, **overrides) -> Self:
        """Estimator with settings that do well on most tables: robust scaling, adamw, one cycle, dropout.

        Parameters
        ----------
        **overrides
            Parameters of the estimator to set otherwise, or in addition.

        Returns
        -------
        estimator : estimator
            An ordinary, unfitted estimator; `get_params` shows every setting.
        """
        return cls(**{**cls._tabular, **overrides})

    # ------------------------------------------------------------------ targets: each estimator knows its own

    @abstractmethod
    def _validate_input(self, X, y, *, reset: bool, incremental: bool):
        """Validated X and y; sets what the targets determine (classes_)."""

    @abstractmethod
    def _validate_y_val(self, y_val):
        """Validated targets of the validation rows."""

    @abstractmethod
    def _encode(self, y, dtype, name: str = "y") -> Encoded:
        """Numbers of validated targets."""

    @abstractmethod
    def _output(self, encoded: Encoded) -> Output:
        """Loss and last layer for such targets."""

    @abstractmethod
    def _score_predictions(self, encoded: Encoded, predictions: np.ndarray, weights: np.ndarray | None) -> float:
        """Score of the network's output; greater is better."""

    def _class_weights(self, encoded: Encoded, weights: np.ndarray, incremental: bool) -> np.ndarray | None:
        """Weight of each class; None where all count the same."""
        return None

    def _row_weights(self, encoded: Encoded, weights: np.ndarray, class_weights: np.ndarray | None) -> np.ndarray:
        """Sample weights times class weights."""
        return weights

    def _stratify(self, encoded: Encoded, rows: np.ndarray) -> np.ndarray | None:
        """Groups whose shares the split for early stopping keeps."""
        return None

    # ------------------------------------------------------------------ fit

    def _fit(self, X, y, sample_weight, X_val, y_val, sample_weight_val, *, incremental: bool) -> Self:
        with unchanged_on_error(self):
            hidden_layer_sizes = check_hidden_layer_sizes(self.hidden_layer_sizes)
            activations = check_activations(self.activation, len(hidden_layer_sizes))
            hidden = [DenseSpec(n, act, self.dropout) for n, act in zip(hidden_layer_sizes, activations, strict=True)]
            backend = trainer.backend_for(self.device)
            first_pass = "params_" not in vars(self) or not (self.warm_start or incremental)

            check_validation_arguments(X_val, y_val, sample_weight_val)
            table, class_weights = self._training_table(X, y, sample_weight, first_pass, incremental)
            dtype = self._fitted_dtype(table.X, first_pass)
            rows = np.arange(table.X.shape[0])
            if not table.loss_weights.all():
                rows = np.flatnonzero(table.loss_weights)  # a weight of 0 is the row's absence
            random_state = check_random_state(self.random_state)
            seed = random.draw_seed(random_state)
            held_out = None
            if X_val is not None:
                held_out = self._validation_table(X_val, y_val, sample_weight_val, class_weights, dtype)
            elif self.early_stopping and incremental:
                raise ValueError("partial_fit does not support early_stopping=True")
            elif self.early_stopping and self.solver != "lbfgs":
                rows, held_out_rows = self._split(table.encoded, rows, random_state)
                held_out = table.take(held_out_rows)

            output = self._output(table.encoded)
            new_network = network.build(table.X.shape[1], [*hidden, DenseSpec(output.n_outputs)])
            params = self._starting_params(new_network, first_pass, incremental, dtype, seed)
            if first_pass:
                self._learn_input_scaling(table, rows)
            self.n_outputs_, self.n_layers_ = output.n_outputs, len(hidden) + 2
            self.out_activation_ = output.activation
            run = TableRun(self, backend, new_network, output, params, seed)
            hooks = None
            if has_callbacks(self) and not incremental:
                hooks = CallbackHooks(self, self.max_iter, run.attributes, X, y, sample_weight)
            data = trainer.Data(run.training_rows(table.X), run.targets(table), rows)
            validation = None
            if held_out is not None:
                validation = trainer.Validation(run.rows(held_out.X), run.targets(held_out), run.scorer(held_out))
            if self.solver == "lbfgs":
                attributes = run.lbfgs(data, validation, hooks)
            else:
                attributes = run.stochastic(data, validation, hooks, first_pass, incremental)
            for name in PROGRESS_ATTRIBUTES:
                vars(self).pop(name, None)
            vars(self).update(attributes)
            if hooks is not None:
                hooks.fit_end(self.params_)
        return self

    def _fitted_dtype(self, X, first_pass: bool) -> np.dtype:
        """Precision of the fitted arrays: `dtype` if set, else the one fitted before, else that of X."""
        if self.dtype is not None:
            return np.dtype(self.dtype)
        return X.dtype if first_pass else self.params_.dtype

    def _training_table(self, X, y, sample_weight, first_pass: bool, incremental: bool):
        """Validated training rows, and the class weights learned from them; X keeps its precision."""
        X, y = self._validate_input(X, y, reset=first_pass, incremental=incremental)
        dtype = self._fitted_dtype(X, first_pass)
        check_range(X, dtype)
        weights = check_weights(sample_weight, X)
        encoded = self._encode(y, dtype)
        class_weights = self._class_weights(encoded, weights, incremental)
        loss_weights = check_weights(self._row_weights(encoded, weights, class_weights), X)
        return Table(X, encoded, weights, loss_weights), class_weights

    def _validation_table(self, X_val, y_val, sample_weight_val, class_weights, dtype) -> Table:
        """Validated rows of the user's validation set."""
        X_val = validate_validation_table(self, X_val, dtype)
        encoded = self._encode(self._validate_y_val(y_val), dtype, "y_val")
        weights = check_weights(sample_weight_val, X_val, "sample_weight_val")
        return Table(X_val, encoded, weights, check_weights(self._row_weights(encoded, weights, class_weights), X_val))

    def _split(self, encoded: Encoded, rows: np.ndarray, random_state) -> tuple[np.ndarray, np.ndarray]:
        """Rows to train on, and rows held out for early stopping."""
        training, held_out = train_test_split(
            rows,
            random_state=random_state,
            test_size=self.validation_fraction,
            stratify=self._stratify(encoded, rows),
        )
        if len(held_out) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        return training, held_out

    def _learn_input_scaling(self, table: Table, rows: np.ndarray) -> None:
        """Set, or remove, what `input_scaling` learns; later calls with the same model keep it."""
        for name in ("_input_scaler", "input_center_", "input_scale_"):
            vars(self).pop(name, None)
        if self.input_scaling is None:
            return
        if sp.issparse(table.X):
            raise ValueError(
                f"input_scaling={self.input_scaling!r} would center sparse X; scale it with MaxAbsScaler and set "
                "input_scaling=None."
            )
        self._input_scaler = InputScaler.fit(self.input_scaling, table.X, rows, table.loss_weights)
        self.input_center_, self.input_scale_ = self._input_scaler.center, self._input_scaler.scale

    def _starting_params(self, new_network: Network, first_pass: bool, incremental: bool, dtype, seed: int):
        """New parameters, or a copy of those to go on from."""
        if first_pass:
            return network.initialize(new_network, dtype, seed)
        sizes, fitted_sizes = layer_sizes(new_network), layer_sizes(self.network_)
        if sizes != fitted_sizes:
            raise ValueError(
                f"The fitted network has layers of sizes {fitted_sizes}, from input to output, but "
                f"hidden_layer_sizes={self.hidden_layer_sizes!r} and the data ask for {sizes}; fit with "
                "warm_start=False to start anew."
            )
        latest = vars(self).get("_latest_params") if incremental else None
        return trainer.aligned_copy(self.params_ if latest is None else latest, dtype)

    # ------------------------------------------------------------------ views of the parameters

    @property
    def coefs_(self) -> list[np.ndarray]:
        """Weight matrices (n_in, n_out), one a layer: views of `params_`. Assigning a list copies it in."""
        return self._views(network.weight_of, "coefs_")

    @coefs_.setter
    def coefs_(self, values) -> None:
        self._assign(network.weight_of, "coefs_", values)

    @property
    def intercepts_(self) -> list[np.ndarray]:
        """Bias vectors (n_out,), one a layer: views of `params_`. Assigning a list copies it in."""
        return self._views(network.bias_of, "intercepts_")

    @intercepts_.setter
    def intercepts_(self, values) -> None:
        self._assign(network.bias_of, "intercepts_", values)

    def _views(self, view_of, name: str) -> list[np.ndarray]:
        if "params_" not in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r} before fit")
        return [view_of(self.params_, row) for row in self.network_.layers]

    def _assign(self, view_of, name: str, values) -> None:
        views = self._views(view_of, name)
        values = [np.asarray(value) for value in values]
        shapes = [view.shape for view in views]
        if [value.shape for value in values] != shapes:
            raise ValueError(f"{name} must have the shapes {shapes}, got {[value.shape for value in values]}.")
        for view, value in zip(views, values, strict=True):
            view[...] = value
        self._latest_params = None

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        params = vars(self).get("params_")
        # unpickling may leave the vector off a cache line, or map a read-only file
        if params is not None and (params.ctypes.data % 64 or not params.flags.writeable):
            self.params_ = trainer.aligned_copy(params)

    # ------------------------------------------------------------------ predict

    def _is_canonical(self, X) -> bool:
        """Whether X needs no validation: for one row, scikit-learn's takes longer than the network."""
        fitted = vars(self)
        if (
            type(X) is not np.ndarray
            or "params_" not in fitted
            or "feature_names_in_" in fitted
            or X.dtype != self.params_.dtype
            or X.ndim != 2
            or X.shape[0] == 0
            or X.shape[1] != self.n_features_in_
        ):
            return False
        with np.errstate(over="ignore", invalid="ignore"):
            return bool(np.isfinite(X.sum()))  # where there is a NaN or an infinity, the sum is one

    def _forward(self, X) -> np.ndarray:
        """Output of the network (n_samples, n_outputs) for the user's X."""
        if not self._is_canonical(X):
            check_is_fitted(self)
            X = validate_table(self, X, reset=False)
            check_range(X, self.params_.dtype)
        backend = trainer.backend_for(self.device)
        session = backend.Session(self.network_, self.params_, self._loss, n_jobs=self.n_jobs)
        scaler = vars(self).get("_input_scaler")
        if scaler is None and X.dtype == self.params_.dtype:
            return session.predict(backend.as_rows(X))
        predictions = np.empty((X.shape[0], self.n_outputs_), self.params_.dtype)
        for start in range(0, X.shape[0], BLOCK_ROWS):
            if scaler is None:
                block = X[start : start + BLOCK_ROWS].astype(self.params_.dtype)
            else:
                block = scaler.transform(dense_rows(X, start, start + BLOCK_ROWS), self.params_.dtype)
            predictions[start : start + BLOCK_ROWS] = session.predict(backend.as_rows(block))
        return predictions

    def _stochastic_solver(self) -> bool:
        """Condition for `partial_fit`."""
        if self.solver not in trainer.STOCHASTIC_SOLVERS:
            raise AttributeError(
                f"partial_fit is only available for stochastic optimizers. {self.solver} is not stochastic."
            )
        return True

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def layer_sizes(of: Network) -> list[int]:
    """Number of units of each layer, input first."""
    return [int(of.layers["n_in"][0]), *map(int, of.layers["n_out"])]
