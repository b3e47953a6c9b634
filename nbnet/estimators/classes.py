"""Targets that are classes or labels: encoding, weights, scores, predictions; shared by the classifiers."""

from __future__ import annotations

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import (
    _check_partial_fit_first_call,
    check_classification_targets,
    type_of_target,
    unique_labels,
)
from sklearn.utils.validation import check_array

from .. import trainer
from ..network import Loss
from .base import unchanged_on_error
from .run import Encoded, Output

NO_LABELS = np.empty(0, np.int32)
CLASS_WEIGHT = [dict, StrOptions({"balanced"}), None]  # the constraint of `class_weight`


class ClassesMixin(ClassifierMixin):
    """What a `BaseNetwork` needs to be a classifier, with one output a class or label, or one for two classes."""

    # ------------------------------------------------------------------ targets

    @property
    def _multilabel(self) -> bool:
        return self._label_binarizer.y_type_.startswith("multilabel")

    def _validate_input(self, X, y, *, reset, incremental):
        X, y = self._validate_rows(X, y, multi_output=True, reset=reset)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        # classes_ are learned by fit and by the first partial_fit; every other call must fit to them
        if "classes_" not in vars(self) or not (self.warm_start or incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            # the binarizer makes strings of objects
            self.classes_ = np.unique(y) if y.ndim == 1 else self._label_binarizer.classes_
        else:
            classes = unique_labels(y)
            if self.warm_start:
                if set(classes) != set(self.classes_):
                    raise ValueError(
                        "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                        f"Previously got {self.classes_}, `y` has {classes}"
                    )
            elif len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
                raise ValueError(
                    f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {classes}."
                )
        return X, y

    def _validate_y_val(self, y_val):
        y_val = check_array(y_val, accept_sparse="csr", ensure_2d=False, dtype=None, input_name="y_val", estimator=self)
        if y_val.ndim == 2 and y_val.shape[1] == 1:
            y_val = column_or_1d(y_val, warn=True)
        check_classification_targets(y_val)
        unknown = np.setdiff1d(unique_labels(y_val), self.classes_)
        if len(unknown):
            raise ValueError(f"`y_val` has classes not in `self.classes_`: {unknown}.")
        return y_val

    def _encode(self, y, dtype, name="y"):
        multilabel = y.ndim == 2 and type_of_target(y).startswith("multilabel")
        if multilabel != self._multilabel:
            if multilabel:
                raise ValueError("The object was not fitted with multilabel input.")
            raise ValueError(f"The estimator was fitted with multilabel targets, but `{name}` has one label a row.")
        if multilabel:
            return Encoded(NO_LABELS, self._label_binarizer.transform(y).astype(dtype), y)
        labels = np.searchsorted(self.classes_, y).astype(np.int32)
        if self._label_binarizer.y_type_ == "multiclass":
            return Encoded(labels, np.empty((0, 0), dtype), y)
        return Encoded(NO_LABELS, labels.astype(dtype)[:, np.newaxis], y)

    def _output(self, encoded):
        if self._label_binarizer.y_type_ == "multiclass":
            return Output(Loss.SOFTMAX_CROSS_ENTROPY, len(self.classes_), "softmax")
        return Output(Loss.SIGMOID_CROSS_ENTROPY, encoded.values.shape[1], "logistic")

    def _class_weights(self, encoded, weights, incremental):
        """(n_classes,), or for multilabel (n_labels, 2): weight of the label's absence and presence."""
        if self.class_weight is None:
            return None
        if self._multilabel:
            if isinstance(self.class_weight, dict):
                raise ValueError("class_weight as a dict is not defined for multilabel targets; use sample_weight.")
            present = weights @ encoded.values
            counts = np.stack([weights.sum() - present, present], axis=1)
        else:
            if isinstance(self.class_weight, dict):
                return compute_class_weight(self.class_weight, classes=self.classes_, y=encoded.original)
            counts = np.bincount(class_numbers(encoded), weights, len(self.classes_))
        if incremental:
            raise ValueError(
                "class_weight 'balanced' is not supported for partial_fit. In order to use 'balanced' weights, use "
                "compute_class_weight('balanced', classes=classes, y=y). Pass the resulting weights as the "
                "class_weight parameter."
            )
        total = counts.sum(axis=-1, keepdims=True)
        return np.divide(total, counts.shape[-1] * counts, out=np.zeros_like(counts), where=counts > 0)

    def _row_weights(self, encoded, weights, class_weights):
        if class_weights is None:
            return weights
        if self._multilabel:
            return weights * np.where(encoded.values > 0, class_weights[:, 1], class_weights[:, 0]).prod(axis=1)
        return weights * class_weights[class_numbers(encoded)]

    def _stratify(self, encoded, rows):
        """Binary targets only, as in scikit-learn; as text, so that its message names the class alike."""
        if self._multilabel or encoded.labels.size:
            return None
        return np.where(encoded.values[rows, 0] > 0, "True", "False")

    def _score_predictions(self, encoded, predictions, weights):
        if encoded.labels.size:
            correct = predictions.argmax(axis=1) == encoded.labels
        else:
            correct = ((predictions > 0.5) == (encoded.values > 0.5)).all(axis=1)
        return float(np.average(correct, weights=weights))

    # ------------------------------------------------------------------ predict

    def _partial_fit(self, X, y, sample_weight, classes, X_val, y_val, sample_weight_val):
        with unchanged_on_error(self):
            y = trainer.on_host(y)
            if _check_partial_fit_first_call(self, classes):
                multilabel = type_of_target(y).startswith("multilabel")
                self._label_binarizer = LabelBinarizer().fit(y if multilabel else classes)
            return self._fit(X, y, sample_weight, X_val, y_val, sample_weight_val, incremental=True)

    def predict(self, X) -> np.ndarray:
        """Most probable class of each row.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, ...)
            As in `fit`.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_labels)
            Predicted classes.
        """
        return trainer.beside(X, self._chosen(self._forward(X)))

    def _chosen(self, predictions: np.ndarray) -> np.ndarray:
        """The classes that the network's output says."""
        if self._multilabel:
            return self._label_binarizer.inverse_transform(predictions)
        if self.out_activation_ == "softmax":
            return self.classes_[predictions.argmax(axis=1)]
        if len(self.classes_) == 1:
            return np.repeat(self.classes_, len(predictions))
        return self.classes_[(predictions[:, 0] > 0.5).astype(np.intp)]

    def predict_proba(self, X) -> np.ndarray:
        """Probability of each class.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, ...)
            As in `fit`.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        return trainer.beside(X, self._probabilities(X))

    def _probabilities(self, X) -> np.ndarray:
        """`predict_proba` on the host."""
        predictions = self._forward(X)
        if (self._multilabel and self.n_outputs_ > 1) or self.out_activation_ == "softmax":
            return predictions
        return np.concatenate([1 - predictions, predictions], axis=1)

    def predict_log_proba(self, X) -> np.ndarray:
        """Logarithm of `predict_proba`.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, ...)
            As in `fit`.

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        probabilities = self._probabilities(X)
        return trainer.beside(X, np.log(probabilities, out=probabilities))

    def score(self, X, y, sample_weight=None) -> float:
        """Share of the rows whose predicted class, or all of whose labels, are right.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            As in `fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            The true classes.
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
        tags.classifier_tags.multi_label = True
        return tags


def class_numbers(encoded: Encoded) -> np.ndarray:
    """Number of each row's class, for two classes or more."""
    return encoded.labels if encoded.labels.size else encoded.values[:, 0].astype(np.intp)
