"""Texts in partitions: what they say of classes and tokens before the first round, and how they are kept."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.utils.multiclass import type_of_target

from .. import trainer
from ..estimators.labels import Labels, Targets, distinct, encode_labels
from ..estimators.reader import idf, n_workers_for
from ..estimators.run import Table
from ..estimators.text_run import smallest_loss
from ..token_counts import TokenCounts
from ..tokens import Documents, TokenIndex
from .collections import Partition


class LabelCounts(NamedTuple):
    """Classes of one partition.

    Attributes
    ----------
    is_indicator : bool
        Whether y is an indicator matrix.
    labels : ndarray
        The distinct classes; the numbers of an indicator matrix's columns.
    counts : float64
        Weight of the documents of each.
    """

    is_indicator: bool
    labels: np.ndarray
    counts: np.ndarray


def targets_of(y) -> Targets:
    """Targets of one partition."""
    y = y if sp.issparse(y) else np.asarray(y)
    if y.ndim == 1 or (y.shape[1] == 1 and not sp.issparse(y)):
        y = y.reshape(-1)
        return Targets(y, *distinct(y))
    if not type_of_target(y).startswith("multilabel"):
        raise ValueError("`y` must hold one label a document, or be an indicator matrix of zeros and ones.")
    return Targets(y)


def weights_of(partition: Partition) -> np.ndarray:
    """Sample weights of one partition."""
    return np.ones(len(partition.X)) if partition.weights is None else partition.weights


def count_labels(partition: Partition) -> LabelCounts | None:
    """Classes of one partition; None where it has no documents."""
    if len(partition.X) == 0:
        return None
    targets, weights = targets_of(partition.y), weights_of(partition)
    if targets.is_indicator:
        return LabelCounts(True, np.arange(targets.y.shape[1]), np.asarray(weights @ (targets.y != 0), np.float64))
    return LabelCounts(False, targets.values, np.bincount(targets.numbers, weights))


class Reading(NamedTuple):
    """What all partitions know before tokens are counted.

    Attributes
    ----------
    model : TextEmbeddingClassifier
        With `classes_`, not fitted yet.
    class_weights : ndarray (n_classes,) or None
    """

    model: Any
    class_weights: np.ndarray | None

    def table(self, partition: Partition, number: int) -> Table | None:
        """Documents of one partition that have a weight; None where there are none."""
        if len(partition.X) == 0:
            return None
        try:
            texts = self.model._validate_texts(partition.X)
        except (TypeError, ValueError) as error:
            raise type(error)(f"Partition {number} of X: {error}") from None
        labels, weights = encode_labels(targets_of(partition.y), self.model.classes_, "y"), weights_of(partition)
        loss_weights = self.model._loss_weights(labels, weights, self.class_weights)
        documents = np.flatnonzero(loss_weights)
        return Table(texts, labels, weights, loss_weights).take(documents) if documents.size else None

    def n_workers(self, texts: list[str]) -> int:
        """Workers that cut the texts of one partition."""
        backend = trainer.backend_for(self.model.device, "text_session")
        return n_workers_for(backend, texts, self.model.n_jobs or 1)


class ClassCounts(NamedTuple):
    """Weight of each class, float64 (n_classes,), and of all documents in the loss."""

    of_classes: np.ndarray
    total: float


class TextCounts(NamedTuple):
    """Tokens and classes of one partition's documents that have a weight.

    Attributes
    ----------
    tokens : TokenCounts
    class_counts : ClassCounts
    smallest_loss : float
        Mean loss of perfect predictions.
    """

    tokens: TokenCounts
    class_counts: ClassCounts
    smallest_loss: float


def count_texts(reading: Reading, partition: Partition, number: int) -> TextCounts | None:
    """Counts of one partition; None where no document has a weight."""
    table = reading.table(partition, number)
    if table is None:
        return None
    model, texts = reading.model, table.X.tolist()
    tokens = TokenIndex.count(model._analysis(), texts, reading.n_workers(texts))
    class_counts = ClassCounts(*model._count_classes(table.encoded, table.loss_weights))
    return TextCounts(tokens, class_counts, smallest_loss(model, table, len(model.classes_)))


class Cut(NamedTuple):
    """Documents of one round of one partition, cut into tokens.

    Attributes
    ----------
    rows : int32 (n_rows,)
        Rows of the embedding that they have, ascending.
    documents : Documents
        An id is a position in `rows`.
    labels : Labels
    weights : float64 (n_documents,)
        In the loss.
    row_weights : float64 (n_rows,) or None
    """

    rows: np.ndarray
    documents: Documents
    labels: Labels
    weights: np.ndarray
    row_weights: np.ndarray | None

    def writable(self) -> Cut:
        """The same in memory that can be written to: other machines' arrays cannot, and kernels ask for it."""
        documents, labels = (type(part)(*map(writable, part)) for part in (self.documents, self.labels))
        return self._replace(documents=documents, labels=labels, weights=writable(self.weights))


def writable(array: np.ndarray | None) -> np.ndarray | None:
    """`array`, or a copy of it that can be written to."""
    return array if array is None else np.require(array, requirements="W")


def cut(reading: Reading, index: TokenIndex, partition: Partition, number: int, n_parts: int) -> list[Cut | None]:
    """The documents of one partition, each in one of `n_parts` rounds that make up an epoch."""
    table = reading.table(partition, number)
    weights = idf(index) if reading.model.token_weights == "idf" else None
    cuts = []
    for part in range(n_parts):
        some = np.arange(part, 0 if table is None else len(table.X), n_parts)
        if not some.size:
            cuts.append(None)
            continue
        texts = table.X[some].tolist()
        documents = index.transform(texts, reading.n_workers(texts))
        rows, ids = np.unique(documents.ids, return_inverse=True)
        documents = documents._replace(ids=ids.astype(np.int32))
        labels = table.encoded.take(some)._replace(original=None)
        cuts.append(Cut(rows, documents, labels, table.loss_weights[some], None if weights is None else weights[rows]))
    return cuts


def rows_of(cuts: list[Cut | None]) -> list[np.ndarray | None]:
    """Rows of the embedding that each round needs."""
    return [None if one is None else one.rows for one in cuts]
