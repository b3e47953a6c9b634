"""`MLPClassifier` and `MLPRegressor` in model files."""

from __future__ import annotations

import numpy as np
from sklearn.base import is_classifier

from ... import network
from ...model_files import Arrays, Fields, ModelFileError
from ...network import Loss, Network
from ..scaling import InputScaler, InputScaling
from .layers import LARGEST_WIDTH, decode_dense, dense_specs_of, encode_dense
from .names import describe_classes, describe_columns, restore_classes, restore_columns, restore_output

REGRESSION_LOSSES = {loss.name.lower(): loss for loss in Loss if loss >= Loss.SQUARED_ERROR}


def describe(estimator, header: dict, arrays: dict) -> None:
    """Add layers, scaling, names of columns, and what the targets are."""
    header["n_features"] = int(estimator.n_features_in_)
    header["layers"] = encode_dense(dense_specs_of(estimator.network_.layers))
    scaler = vars(estimator).get("_input_scaler")
    header["scaling"] = None if scaler is None else str(scaler.kind)
    if scaler is not None:
        arrays["input_center"], arrays["input_scale"] = scaler.center, scaler.scale
    describe_columns(estimator, header)
    if is_classifier(estimator):
        describe_classes(estimator, header, arrays)
    else:
        header["loss"] = Loss(estimator._loss).name.lower()


def restore(estimator, header: Fields, arrays: Arrays, dtype) -> Network:
    """Inverse of `describe`."""
    n_features, specs = header.integer("n_features", 1, LARGEST_WIDTH), decode_dense(header.items("layers"))
    if not specs:
        raise ModelFileError("it has no layers.")
    restore_scaling(estimator, header.choice("scaling", [None, *map(str, InputScaling)]), arrays, n_features)
    estimator.n_features_in_, estimator.n_layers_ = n_features, len(specs) + 1
    restore_columns(estimator, header)
    n_outputs = specs[-1].n_out
    if is_classifier(estimator):
        restore_classes(estimator, header, arrays, n_outputs)
    else:
        restore_output(estimator, REGRESSION_LOSSES[header.choice("loss", REGRESSION_LOSSES)], n_outputs)
    return network.build(n_features, specs)


def restore_scaling(estimator, kind: str | None, arrays: Arrays, n_features: int) -> None:
    """Set what `input_scaling` has learned."""
    if kind is None:
        return
    center, scale = (arrays.take(name, np.float64, (n_features,)).copy() for name in ("input_center", "input_scale"))
    if not np.isfinite(center).all() or not np.isfinite(scale).all():
        raise ModelFileError("the scaling has numbers that are not finite.")
    estimator._input_scaler = InputScaler(InputScaling(kind), center, scale)
    estimator.input_center_, estimator.input_scale_ = center, scale
