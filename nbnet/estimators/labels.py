"""Labels of documents: one of many classes, or any number of them by an indicator matrix."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.utils import column_or_1d
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_array

LISTED_AT_ONCE = 1 << 14  # an array's labels as str take several times the room of their numbers


class Labels(NamedTuple):
    """Labels of documents as numbers of classes.

    Attributes
    ----------
    numbers : int32 (n_labels,)
        Class numbers, one document behind the other.
    starts : int64 (n_documents + 1,)
        Where those of each document begin.
    original : ndarray or CSR
        The validated y as scorers want it.
    """

    numbers: np.ndarray
    starts: np.ndarray
    original: Any

    @property
    def lengths(self) -> np.ndarray:
        """Number of labels of each document."""
        return np.diff(self.starts)

    @property
    def single(self) -> bool:
        """Whether every document has exactly one label."""
        return bool((self.lengths == 1).all())

    def take(self, documents: np.ndarray) -> Labels:
        """Labels of some of the documents."""
        lengths = self.lengths[documents]
        starts = np.append(0, np.cumsum(lengths))
        positions = np.arange(starts[-1]) + np.repeat(self.starts[documents] - starts[:-1], lengths)
        return Labels(self.numbers[positions], starts, self.original[documents])

    def count(self, weights: np.ndarray, n_classes: int) -> np.ndarray:
        """Sum of the documents' weights for each class."""
        return np.bincount(self.numbers, np.repeat(weights, self.lengths), n_classes)

    def indicator(self, n_classes: int) -> np.ndarray:
        """Boolean (n_documents, n_classes)."""
        out = np.zeros((self.starts.size - 1, n_classes), bool)
        out[np.repeat(np.arange(len(out)), self.lengths), self.numbers] = True
        return out


class Targets(NamedTuple):
    """Validated y, one label a document or an indicator matrix.

    Attributes
    ----------
    y : ndarray (n_documents,) or (n_documents, n_classes) or CSR
    values : ndarray or None
        The distinct labels, sorted; None for an indicator matrix.
    numbers : ndarray (n_documents,) or None
        ``values[numbers]`` is y.
    """

    y: Any
    values: np.ndarray | None = None
    numbers: np.ndarray | None = None

    @property
    def is_indicator(self) -> bool:
        """Whether y is an indicator matrix."""
        return self.values is None


def distinct(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``np.unique(y, return_inverse=True)``; a dictionary takes a tenth of its time where y has strings."""
    if y.dtype.kind not in "UO":
        return np.unique(y, return_inverse=True)
    numbers: dict = {}
    first_seen = np.empty(len(y), np.int32)
    for start in range(0, len(y), LISTED_AT_ONCE):
        labels = y[start : start + LISTED_AT_ONCE].tolist()
        first_seen[start : start + len(labels)] = [numbers.setdefault(label, len(numbers)) for label in labels]
    values, ranks = np.unique(np.array(list(numbers), y.dtype), return_inverse=True)
    return values, ranks[first_seen]


def validate_labels(y, name: str, estimator) -> Targets:
    """`y` as an array of labels, or as an indicator matrix, dense or CSR."""
    if y is None:
        raise ValueError(
            f"{type(estimator).__name__} requires y to be passed, but the target y is None."  # scikit-learn's words
        )
    if isinstance(y, (list, tuple)) and any(isinstance(item, (list, tuple, set)) for item in y):
        check_classification_targets(y)  # says what to do with lists of labels, of which no array can be made
    strings = isinstance(y, list) and set(map(type, y)) == {str}
    if strings:
        y = np.array(y, object)  # an array of type str has room for the longest label everywhere
    y = check_array(y, accept_sparse="csr", ensure_2d=False, dtype=None, input_name=name, estimator=estimator)
    if y.ndim == 2 and y.shape[1] == 1 and not sp.issparse(y):
        y = column_or_1d(y, warn=True)
    if y.ndim == 1:
        values, numbers = distinct(y)
        values = values.astype(str) if strings else values
        # the distinct labels say what kind of target it is, unless there are so many that scikit-learn warns
        check_classification_targets(y if 2 * len(values) > len(y) else np.repeat(values, 3))
        return Targets(y, values, numbers)
    check_classification_targets(y)
    if type_of_target(y) == "multiclass-multioutput":
        raise ValueError(f"`{name}` must hold one label a document, or be an indicator matrix of zeros and ones.")
    return Targets(y)


def encode_labels(targets: Targets, classes: np.ndarray, name: str) -> Labels:
    """Validated labels as numbers of `classes`.

    Raises
    ------
    ValueError
        For labels that are none of the classes, and for an indicator matrix of another width.
    """
    y = targets.y
    if targets.is_indicator:
        if y.shape[1] != len(classes):
            raise ValueError(f"`{name}` has {y.shape[1]} labels, but the estimator has {len(classes)} classes.")
        table = sp.csr_array(y, copy=True)
        table.sum_duplicates()
        table.eliminate_zeros()
        return Labels(table.indices.astype(np.int32), table.indptr.astype(np.int64), y)
    unknown = np.setdiff1d(targets.values, classes)
    if unknown.size:
        raise ValueError(f"`{name}` has classes not in `self.classes_`: {unknown}. `self.classes_` has {classes}.")
    numbers = np.searchsorted(classes, targets.values)[targets.numbers]
    return Labels(numbers.astype(np.int32), np.arange(len(y) + 1), y)


def class_weights_of(class_weight, labels: Labels, weights: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Weight of each class; "balanced": the weight of all documents by n_classes times that of the class's."""
    if isinstance(class_weight, dict):
        return compute_class_weight(class_weight, classes=classes, y=classes[labels.numbers])
    counts = labels.count(weights, len(classes))
    return np.divide(counts.sum(), len(classes) * counts, out=np.zeros_like(counts), where=counts > 0)


def mean_of_labels(of_classes: np.ndarray, labels: Labels) -> np.ndarray:
    """For each document the mean of its labels' values; 1 where it has none."""
    lengths = labels.lengths
    sums = np.bincount(np.repeat(np.arange(lengths.size), lengths), of_classes[labels.numbers], lengths.size)
    return np.divide(sums, lengths, out=np.ones(lengths.size), where=lengths > 0)
