"""What `MLPClassifier` and `MLPRegressor` share: tables in, scaling, views of the parameters, prediction."""

from __future__ import annotations

from numbers import Integral
from typing import Self

import numpy as np
import scipy.sparse as sp
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from .. import network, trainer
from ..network import DenseSpec, Network
from .base import BaseNetwork, Call
from .presets import TABULAR
from .run import Table, TableRun, dense_rows
from .scaling import BLOCK_ROWS, InputScaler, InputScaling
from .validation import (
    check_activations,
    check_hidden_layer_sizes,
    check_range,
    validate_table,
    validate_validation_table,
)

SOLVERS = ("lbfgs", *trainer.STOCHASTIC_SOLVERS)


class BaseMLP(BaseNetwork):
    """Fully connected network over tables; see `MLPClassifier` and `MLPRegressor`."""

    _tabular: dict = TABULAR

    _parameter_constraints: dict = {
        **BaseNetwork._parameter_constraints,
        "solver": [StrOptions(set(SOLVERS))],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "input_scaling": [StrOptions({str(member) for member in InputScaling}), None],
        "matmul_precision": [StrOptions({"highest", "high"})],
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

    # ------------------------------------------------------------------ fit

    def _validate_rows(self, X, y="no_validation", *, reset=False, **options):
        return validate_table(self, X, y, reset=reset, **options)

    def _validate_rows_val(self, X_val, dtype):
        return validate_validation_table(self, X_val, dtype)

    def _prepare_run(self, backend, table, rows, output, call):
        hidden_layer_sizes = check_hidden_layer_sizes(self.hidden_layer_sizes)
        activations = check_activations(self.activation, len(hidden_layer_sizes))
        hidden = [DenseSpec(n, act, self.dropout) for n, act in zip(hidden_layer_sizes, activations, strict=True)]
        new_network = network.build(table.X.shape[1], [*hidden, DenseSpec(output.n_outputs)])
        params = self._starting_params(new_network, call)
        if call.first:
            self._learn_input_scaling(table, rows)
        self.n_layers_ = len(hidden) + 2
        return TableRun(self, backend, new_network, output, params, call.seed)

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

    def _starting_params(self, new_network: Network, call: Call) -> np.ndarray:
        """New parameters, or a copy of those to go on from."""
        if call.first:
            return network.initialize(new_network, call.dtype, call.seed)
        sizes, fitted_sizes = layer_sizes(new_network), layer_sizes(self.network_)
        if sizes != fitted_sizes:
            raise ValueError(
                f"The fitted network has layers of sizes {fitted_sizes}, from input to output, but "
                f"hidden_layer_sizes={self.hidden_layer_sizes!r} and the data ask for {sizes}; fit with "
                "warm_start=False to start anew."
            )
        return trainer.aligned_copy(self._latest if call.incremental else self.params_, call.dtype)

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

    @trainer.reporting_faults
    def _forward(self, X) -> np.ndarray:
        """Output of the network (n_samples, n_outputs) for the user's X."""
        if not self._is_canonical(X):
            check_is_fitted(self)
            if not hasattr(type(X), "as_rows"):  # of a GPU, validated before
                X = validate_table(self, X, reset=False)
            check_range(X, self.params_.dtype)
        backend = trainer.backend_for(self.device, fitted=True)
        session = backend.Session(self.network_, self.params_, self._loss, n_jobs=self.n_jobs)
        scaler = vars(self).get("_input_scaler")
        if hasattr(type(X), "as_rows") or (scaler is None and X.dtype == self.params_.dtype):  # a GPU's kernels convert
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
