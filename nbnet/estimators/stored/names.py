"""Classes, outputs and the names of columns in model files."""

from __future__ import annotations

import numpy as np
from sklearn.preprocessing import LabelBinarizer

from ...model_files import TYPE_NAMES, Arrays, Fields, ModelFileError
from ...network import Loss

WASTE = 2**24  # characters that short labels may waste: NumPy gives each the room of the longest
OUT_ACTIVATIONS = {Loss.SOFTMAX_CROSS_ENTROPY: "softmax", Loss.SIGMOID_CROSS_ENTROPY: "logistic", Loss.POISSON: "exp"}


def describe_labels(classes: np.ndarray, header: dict, arrays: dict) -> None:
    """Class labels: numbers as an array, texts in the header."""
    header["labels"] = None
    if classes.dtype.newbyteorder("<").str in TYPE_NAMES:
        arrays["classes"] = classes
        return
    labels = classes.tolist()
    if not all(isinstance(label, str) for label in labels):
        raise ValueError(
            f"classes_ of type {classes.dtype} cannot be saved: labels must be numbers, booleans or texts."
        )
    if classes.dtype.kind != "O":
        check_lengths(labels)
    header["labels"] = {"object": classes.dtype.kind == "O", "texts": labels}


def restored_labels(header: Fields, arrays: Arrays) -> np.ndarray:
    """Inverse of `describe_labels`: sorted, each once."""
    if "classes" in arrays:
        header.choice("labels", (None,))
        classes = arrays.take("classes", tuple(TYPE_NAMES), (None,)).copy()
    else:
        fields = header.fields("labels")
        labels, is_object = fields.texts("texts"), fields.value("object", bool)
        fields.finish()
        if not is_object:
            check_lengths(labels)
        classes = np.array(labels, object if is_object else np.str_)
    if not classes.size or not np.array_equal(np.unique(classes), classes):
        raise ModelFileError("the class labels are not sorted, or not each there once.")
    return classes


def check_lengths(labels: list[str]) -> None:
    """Raise where an array of these texts takes memory out of proportion to them."""
    lengths = [len(label) for label in labels]
    if max(lengths, default=0) * len(lengths) > sum(lengths) + WASTE:
        raise ModelFileError(f"the longest class label has {max(lengths)} characters, out of proportion to the others.")


def describe_classes(estimator, header: dict, arrays: dict) -> None:
    """What `ClassesMixin` has learned."""
    describe_labels(estimator.classes_, header, arrays)
    header["targets"] = estimator._label_binarizer.y_type_
    header["sparse_targets"] = bool(estimator._label_binarizer.sparse_input_)


def restore_classes(estimator, header: Fields, arrays: Arrays, n_outputs: int) -> None:
    """Inverse of `describe_classes`, and what follows from them for the output."""
    classes = restored_labels(header, arrays)
    targets = header.choice("targets", ("binary", "multiclass", "multilabel-indicator"))
    if targets == "binary":
        fits = n_outputs == 1 and len(classes) <= 2
    else:
        fits = n_outputs == len(classes) and (n_outputs > 2 or targets != "multiclass")
    if not fits:
        raise ModelFileError(f"{n_outputs} outputs do not fit {len(classes)} classes of {targets} targets.")
    binarizer = LabelBinarizer()
    binarizer.y_type_, binarizer.sparse_input_ = targets, header.value("sparse_targets", bool)
    binarizer.classes_ = np.arange(n_outputs) if targets == "multilabel-indicator" else classes
    estimator.classes_, estimator._label_binarizer = classes, binarizer
    loss = Loss.SOFTMAX_CROSS_ENTROPY if targets == "multiclass" else Loss.SIGMOID_CROSS_ENTROPY
    restore_output(estimator, loss, n_outputs)


def restore_output(estimator, loss: Loss, n_outputs: int) -> None:
    """What follows from the loss."""
    estimator._loss, estimator.n_outputs_ = loss, n_outputs
    estimator.out_activation_ = OUT_ACTIVATIONS.get(loss, "identity")


def describe_columns(estimator, header: dict) -> None:
    """Names of the columns of X, if it had some."""
    names = vars(estimator).get("feature_names_in_")
    header["feature_names"] = None if names is None else list(names)


def restore_columns(estimator, header: Fields) -> None:
    """Inverse of `describe_columns`, for an estimator with `n_features_in_`."""
    if header.entries.get("feature_names", "") is None:
        header.take("feature_names")
        return
    names = header.texts("feature_names")
    if len(names) != estimator.n_features_in_:
        raise ModelFileError(f"{len(names)} columns have names, but there are {estimator.n_features_in_}.")
    estimator.feature_names_in_ = np.array(names, object)
