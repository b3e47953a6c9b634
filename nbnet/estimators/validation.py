"""From what users pass to canonical arrays; messages are scikit-learn's where it has one."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from numbers import Integral

import numpy as np
import scipy.sparse as sp
from sklearn.utils import check_scalar
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import (
    _check_sample_weight,
    _check_y,
    check_array,
    check_consistent_length,
    validate_data,
)

from .. import trainer
from ..network import ACTIVATION_CODES, Activation
from .shared import SharedRows

TABLE_DTYPES = (np.float64, np.float32)
CATEGORICAL_HINT = (
    "{error} Columns that are not numeric: {columns}. Encode them first, for example with a ColumnTransformer that "
    "passes them through OneHotEncoder; the user guide has a recipe under 'Categorical columns'."
)


class DeviceOptions(StrOptions):
    """Constraint of `device`: "cpu", "cuda", "cuda:N" or "auto"."""

    def __init__(self):
        super().__init__({"cpu", "cuda", "auto"})

    def is_satisfied_by(self, val) -> bool:
        return super().is_satisfied_by(val) or (isinstance(val, str) and bool(re.fullmatch(r"cuda:[0-9]+", val)))

    def __str__(self) -> str:
        return "'cpu', 'auto', 'cuda' or 'cuda:N' with the number N of a GPU"


def check_hidden_layer_sizes(hidden_layer_sizes) -> list[int]:
    """Sizes of the hidden layers as a list."""
    sizes = list(hidden_layer_sizes) if hasattr(hidden_layer_sizes, "__iter__") else [hidden_layer_sizes]
    if any(size <= 0 for size in sizes):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
    if any(int(size) != size for size in sizes):
        raise ValueError(f"hidden_layer_sizes must be integers, got {sizes}.")
    return [int(size) for size in sizes]


def check_activations(
    activation: str | Sequence[str], n_layers: int, layers: str = "hidden layers"
) -> list[Activation]:
    """Activation of each of the layers."""
    names = [activation] * n_layers if isinstance(activation, str) else list(activation)
    unknown = [name for name in names if name not in ACTIVATION_CODES]
    if unknown:
        raise ValueError(f"activation has unknown entries {unknown}; known are {sorted(ACTIVATION_CODES)}.")
    if len(names) != n_layers:
        raise ValueError(f"activation has {len(names)} entries for {n_layers} {layers}: {names}.")
    return [ACTIVATION_CODES[name] for name in names]


def non_numeric_columns(X) -> list:
    """Names of a data frame's columns that do not hold numbers."""
    dtypes = getattr(X, "dtypes", None)
    if dtypes is None or not hasattr(X, "columns"):
        return []
    return [name for name, dtype in zip(X.columns, dtypes, strict=True) if getattr(dtype, "kind", "O") not in "biuf"]


def canonical_table(X):
    """CSR without duplicate entries for any sparse matrix; dense arrays pass."""
    if not sp.issparse(X):
        return X
    X = X.tocsr()
    if not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    return X


def share(X) -> SharedRows:
    """A table that many fits read, validated here, once.

    Raises
    ------
    ValueError
        scikit-learn's, where X is not valid.
    """
    return SharedRows(X, canonical_table(check_array(X, accept_sparse=["csr", "csc"], dtype=TABLE_DTYPES)))


def table_on_gpu(estimator, X, name: str = "X"):
    """Validated X of a GPU.

    Raises
    ------
    ValueError
        For what cannot be used there.
    """
    if estimator.input_scaling is not None:
        raise ValueError(f"input_scaling={estimator.input_scaling!r} needs {name} on the host, but it is on a GPU.")
    return array_on_gpu(estimator, X, name, 2, TABLE_DTYPES)


def array_on_gpu(estimator, X, name: str, n_dims: int | None, dtypes: tuple):
    """What a GPU holds, validated but for its shape where `n_dims` is None."""
    with trainer.faults_of(estimator.device):
        return trainer.validated_on_gpu(X, estimator.device, name, n_dims, dtypes)


def validate_beside(
    estimator, X, y="no_validation", *, reset, multi_output=False, y_numeric=False, ensure_2d=True, **options
):
    """`validate_data` for X that is valid itself, on a GPU: features and samples are compared, y is checked."""
    features = dict(reset=reset, skip_check_array=True, ensure_2d=ensure_2d)
    if isinstance(y, str):
        return validate_data(estimator, X, **features)
    X, y = validate_data(estimator, X, y, **features)
    y = _check_y(y, multi_output=multi_output, y_numeric=y_numeric, estimator=estimator)
    check_consistent_length(X, y)
    return X, y


def validate_table(estimator, X, y="no_validation", **options):
    """`validate_data` for tables: dense or CSR, with a hint where columns of a data frame are not numeric.

    `SharedRows` are valid. With the rows' y, the whole table comes back beside it; without, a copy of the rows.
    """
    if isinstance(X, SharedRows):
        if isinstance(y, str):
            validate_data(estimator, X.given, reset=options["reset"], skip_check_array=True)
            return X.table[X.numbers]
        y = validate_data(estimator, y=y, **options)
        validate_data(estimator, X.given, reset=options["reset"], skip_check_array=True)
        return X.table, y
    if trainer.is_on_gpu(X):
        return validate_beside(estimator, table_on_gpu(estimator, X), y, **options)
    try:
        checked = validate_data(estimator, X, y, accept_sparse=["csr", "csc"], dtype=TABLE_DTYPES, **options)
    except ValueError as error:
        columns = non_numeric_columns(X)
        if not columns or "convert" not in str(error):
            raise
        raise ValueError(CATEGORICAL_HINT.format(error=error, columns=columns)) from error
    if isinstance(checked, tuple):
        return canonical_table(checked[0]), checked[1]
    return canonical_table(checked)


def check_range(X, dtype: np.dtype) -> None:
    """Raise scikit-learn's ValueError where a value of X, already finite, is too large for `dtype`."""
    if X.dtype.kind != "f" or dtype == X.dtype or dtype == np.float64:
        return
    if _largest(X) > float(np.finfo(dtype).max):
        raise ValueError(f"Input X contains infinity or a value too large for {dtype!r}.")


def _largest(X) -> float:
    """Largest absolute value of a table."""
    if hasattr(X, "largest"):  # on a GPU, where validation has looked for it
        return X.largest
    values = X.data if sp.issparse(X) else X
    return max(values.max(), -values.min()) if values.size else 0.0


def validate_validation_table(estimator, X_val, dtype):
    """`X_val` as the training table is validated, under its own name in messages."""
    if trainer.is_on_gpu(X_val):
        return validate_data(estimator, table_on_gpu(estimator, X_val, "X_val"), reset=False, skip_check_array=True)
    validate_data(estimator, X_val, reset=False, skip_check_array=True)
    with np.errstate(over="ignore"):
        X_val = check_array(X_val, accept_sparse=["csr", "csc"], dtype=dtype, input_name="X_val", estimator=estimator)
    return canonical_table(X_val)


def check_validation_arguments(X_val, y_val, sample_weight_val) -> None:
    """`X_val` and `y_val` come together; `sample_weight_val` needs them."""
    if X_val is None and y_val is not None:
        raise ValueError("y_val is provided, but X_val was not provided.")
    if X_val is not None and y_val is None:
        raise ValueError("X_val is provided, but y_val was not provided.")
    if X_val is None and sample_weight_val is not None:
        raise ValueError("sample_weight_val is provided, but X_val was not provided.")
    if X_val is not None:
        check_consistent_length(X_val, y_val)


def check_checkpoint(estimator, checkpoint, checkpoint_every) -> None:
    """Raise where the arguments of fit, or the estimator's parameters, do not suit a checkpoint."""
    check_scalar(checkpoint_every, "checkpoint_every", Integral, min_val=1)
    if checkpoint is None:
        return
    if not isinstance(checkpoint, (str, os.PathLike)):
        raise TypeError(f"checkpoint must be a path, got {checkpoint!r}.")
    if estimator.solver == "lbfgs":
        raise ValueError("checkpoint needs a stochastic solver, but solver='lbfgs', whose state SciPy keeps to itself.")
    if not isinstance(estimator.random_state, Integral):
        raise ValueError(
            f"checkpoint needs an integer as random_state, got {estimator.random_state!r}: a fit that goes on must "
            "draw what it has drawn before."
        )


def check_weights(weights, X, name: str = "sample_weight") -> np.ndarray:
    """Weights, float64 (n_samples,): finite, at least 0, not all 0; ones for None."""
    n_samples = X.shape[0]
    if weights is None:
        return np.ones(n_samples)
    weights = _check_sample_weight(weights, X, dtype=np.float64)
    if (weights < 0).any():
        raise ValueError(f"Negative values in data passed to `{name}`: the smallest is {weights.min()}.")
    if not weights.any():  # scikit-learn < 1.9 lets them pass
        raise ValueError("Sample weights must contain at least one non-zero number.")
    return weights


def cast_finite(values: np.ndarray, dtype, name: str) -> np.ndarray:
    """C-contiguous copy in `dtype`.

    Raises
    ------
    ValueError
        scikit-learn's, where a value is too large for `dtype`.
    """
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(values, dtype=dtype)
    if not np.isfinite(cast).all():
        raise ValueError(f"Input {name} contains infinity or a value too large for {np.dtype(dtype)!r}.")
    return cast
