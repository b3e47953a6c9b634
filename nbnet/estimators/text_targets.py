"""Documents with their labels, as a `TextEmbeddingClassifier` trains and scores them."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from sklearn.utils.validation import check_consistent_length

from ..tokens import check_texts
from .labels import class_weights_of, encode_labels, mean_of_labels, validate_labels
from .run import Table
from .text_run import LOSSES
from .validation import check_weights


class TextTargetsMixin:
    """From texts and y, one label a document or an indicator matrix, to a `Table`, and from probabilities to labels."""

    # ------------------------------------------------------------------ documents

    def _training_table(self, X, y, sample_weight, first: bool, incremental: bool):
        """Validated documents, and the class weights learned from them."""
        texts = self._validate_texts(X)
        targets = validate_labels(y, "y", self)
        check_consistent_length(texts, targets.y)
        if first:
            self._multilabel = targets.is_indicator
            self._sparse_labels = sp.issparse(targets.y)
            if not incremental:  # the first partial_fit has them from its caller
                self.classes_ = np.arange(targets.y.shape[1]) if self._multilabel else targets.values
        elif not incremental and not targets.is_indicator and set(targets.values) != set(self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. Previously "
                f"got {self.classes_}, `y` has {targets.values}"
            )
        weights = check_weights(sample_weight, texts)
        labels = self._encode(targets, "y")
        class_weights = None
        if self.class_weight == "balanced" and incremental:
            raise ValueError(
                "class_weight 'balanced' is not supported for partial_fit. In order to use 'balanced' weights, use "
                "compute_class_weight('balanced', classes=classes, y=y). Pass the resulting weights as the "
                "class_weight parameter."
            )
        if self.class_weight is not None:
            class_weights = class_weights_of(self.class_weight, labels, weights, self.classes_)
        return self._table(texts, labels, weights, class_weights), class_weights

    def _validation_table(self, X_val, y_val, sample_weight_val, class_weights) -> Table:
        texts = self._validate_texts(X_val)
        labels = self._encode(validate_labels(y_val, "y_val", self), "y_val")
        weights = check_weights(sample_weight_val, texts, "sample_weight_val")
        return self._table(texts, labels, weights, class_weights)

    def _validate_texts(self, X) -> np.ndarray:
        """The texts as an array of objects."""
        texts = check_texts(X)
        if not texts:
            raise ValueError(
                f"Found array with 0 sample(s) (shape=(0,)) while a minimum of 1 is required by {type(self).__name__}."
            )
        array = np.empty(len(texts), object)
        array[:] = texts
        return array

    def _encode(self, targets, name: str):
        if targets.is_indicator != self._multilabel:
            kinds = ("an indicator matrix", "one label a document")
            fitted, given = kinds if self._multilabel else kinds[::-1]
            raise ValueError(f"The estimator was fitted with {fitted}, but `{name}` has {given}.")
        return encode_labels(targets, self.classes_, name)

    def _table(self, texts, labels, weights, class_weights) -> Table:
        """Documents with their weights in the loss."""
        loss_weights = self._loss_weights(labels, weights, class_weights)
        if loss_weights is not weights:
            loss_weights = check_weights(loss_weights, texts)
        return Table(texts, labels, weights, loss_weights)

    def _loss_weights(self, labels, weights, class_weights) -> np.ndarray:
        """Sample weights times class weights; a distribution has nothing to learn from a document without labels."""
        loss_weights = weights if class_weights is None else weights * mean_of_labels(class_weights, labels)
        if self.loss == "one_vs_all" or labels.lengths.all():
            return loss_weights
        return loss_weights * (labels.lengths > 0)

    def _stratify(self, labels, documents):
        """Two classes keep their shares."""
        return labels.numbers[documents] if len(self.classes_) == 2 and not self._multilabel else None

    # ------------------------------------------------------------------ classes

    def _learn_prior(self, table: Table, first: bool, dtype) -> None:
        """Shares of the classes among the training documents of all calls."""
        counts, total = self._count_classes(table.encoded, table.loss_weights)
        if not first:
            counts, total = counts + self._class_counts[0], total + self._class_counts[1]
        self._class_counts = (counts, total)
        self.class_prior_ = (counts / total).astype(dtype)

    def _count_classes(self, labels, loss_weights: np.ndarray) -> tuple[np.ndarray, float]:
        """Weight of each class, of which a distribution shares one out among a document's labels, and of all."""
        weights = loss_weights if self.loss == "one_vs_all" else loss_weights / np.maximum(labels.lengths, 1)
        return labels.count(weights, len(self.classes_)), loss_weights.sum()

    def _score_predictions(self, labels, probabilities: np.ndarray, weights: np.ndarray | None) -> float:
        if self._multilabel:
            correct = (self._decide(probabilities) == labels.indicator(len(self.classes_))).all(axis=1)
        else:
            correct = probabilities.argmax(axis=1) == labels.numbers
        return float(np.average(correct, weights=weights))

    def _decide(self, probabilities: np.ndarray) -> np.ndarray:
        """Which labels a document has, boolean (n_documents, n_labels)."""
        chosen = probabilities >= 0.5
        if self._loss == LOSSES["softmax"]:  # shares of one: where several are likely, none reaches a half
            chosen[np.arange(len(chosen)), probabilities.argmax(axis=1)] = True
        return chosen
