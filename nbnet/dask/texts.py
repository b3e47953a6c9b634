"""`TextEmbeddingClassifier` over Dask collections of texts; what it fits is the ordinary estimator."""

from __future__ import annotations

from copy import copy

import dask
import numpy as np
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from .. import trainer
from ..estimators import text
from ..estimators.reader import Reader, idf
from ..estimators.text_run import BATCH_SIZE, LOSSES, TextRun, starting_params
from ..tokens import TokenIndex
from . import collections
from .base import DistributedClassifier, constraints_of, constructor_of
from .collections import Block
from .rounds import Pace, Plan
from .statistics import merged_classes
from .text_partitions import LabelCounts, Reading, TextCounts, count_labels, count_texts, cut, rows_of
from .text_rounds import TextRounds


class TextEmbeddingClassifier(DistributedClassifier):
    """`nbnet.TextEmbeddingClassifier` over Dask bags, series or arrays of texts.

    The vocabulary, with `min_df`, `max_features` and inverse document frequencies, is that of the texts of all
    partitions, one behind the other, on one machine. Rounds are as in `nbnet.dask.MLPClassifier`, but that a partition
    receives and changes only the rows of the embedding that its texts have; a row's changes are averaged over the
    partitions that have it. Adagrad's sums of squares are those of all partitions together.

    Parameters
    ----------
    embedding_dim, hidden_layer_sizes, and all others of `nbnet.TextEmbeddingClassifier`
        As there. `learning_rate` "adaptive", `early_stopping` and `warm_start` are not available. `n_jobs` is that of
        one partition, None is 1. `batch_size` is that of one partition. The moments of "adam" begin anew in each round.

    local_epochs, outer_learning_rate
        As in `nbnet.dask.MLPClassifier`.

    outer_momentum : float, default=0.0
        Nesterov's momentum of the outer step, in [0, 1).

    Attributes
    ----------
    model_ : nbnet.TextEmbeddingClassifier
        Fitted; it can be saved and pickled, and needs no Dask.
    classes_, n_iter_, loss_curve_, history_
        Those of `model_`.
    """

    _local = text.TextEmbeddingClassifier
    _parameter_constraints = constraints_of(_local)
    __init__ = constructor_of(_local, outer_momentum=0.0)

    # ------------------------------------------------------------------ fit

    def _prepare(self, partitions, client, classes, seed):
        model, pace = self._local(**self._local_parameters()), Pace.of(self.local_epochs)
        analysis, backend = model._analysis(), trainer.backend_for(self.device, "text_session")
        count = dask.delayed(count_labels)
        labels = collections.compute([count(partition) for partition in partitions], client)
        class_weights = self._learn_classes(model, [of_part for of_part in labels if of_part is not None], classes)

        reader = copy(model)
        reader.pretrained_embeddings = None  # which only the driver reads
        reading, count = dask.delayed(Reading(reader, class_weights), traverse=False), dask.delayed(count_texts)
        tasks = [count(reading, partition, number) for number, partition in enumerate(partitions)]
        counts = [of_part for of_part in collections.compute(tasks, client) if of_part is not None]
        self._learn_tokens(model, backend, counts)
        n_outputs, dtype = len(model.classes_), model.class_prior_.dtype
        model.network_, model.params_ = starting_params(model, backend, model._index, n_outputs, None, dtype, seed)

        index, cutting = dask.delayed(model._index, traverse=False), dask.delayed(cut)
        tasks = [cutting(reading, index, partition, n, pace.n_parts) for n, partition in enumerate(partitions)]
        cuts = collections.persist(tasks, client)
        rows = collections.compute([dask.delayed(rows_of)(of_part) for of_part in cuts], client)

        sent = copy(model)  # a partition has rows and weights of its own, and numbers for tokens
        sent.params_ = sent.network_ = sent.idf_ = sent.pretrained_embeddings = sent.target_loss = None
        sent._index = TokenIndex(analysis)
        sent.batch_size = BATCH_SIZE if self.batch_size == "auto" else self.batch_size
        sent.max_iter = self.max_iter * pace.n_parts  # so that the learning rate's schedule spans all rounds
        plan, outer_step = Plan(sent, seed, pace), (self.outer_learning_rate, self.outer_momentum)
        start, ending = (model.network_, model.params_.copy()), (model._index.n_documents, self._target_loss(counts))
        rounds = TextRounds(plan, cuts, rows, client, *start, outer_step, *ending)

        def held_out(X_val, y_val):
            table = model._validation_table(X_val, y_val, None, class_weights)
            return TextRun(model, backend, model.params_, table, seed), table

        return model, rounds, held_out

    def _learn_classes(self, model, labels: list[LabelCounts], classes) -> np.ndarray | None:
        """Set the model's classes; returns their weights, None where all count the same."""
        if not labels:
            raise ValueError(
                f"Found array with 0 sample(s) (shape=(0,)) while a minimum of 1 is required by {type(self).__name__}."
            )
        widths = {of_part.labels.size if of_part.is_indicator else None for of_part in labels}
        if len(widths) > 1:
            raise ValueError(
                "y must have one label a document in all partitions, or be an indicator matrix of one width, but its "
                f"partitions have the widths {sorted(widths, key=str)}."
            )
        model._multilabel, model._sparse_labels = labels[0].is_indicator, False
        model.classes_, counts = merged_classes(labels, classes)
        if not model._multilabel:
            check_classification_targets(np.repeat(model.classes_, 3))
        if self.class_weight == "balanced":
            return np.divide(counts.sum(), len(counts) * counts, out=np.zeros_like(counts), where=counts > 0)
        if self.class_weight is not None:
            return compute_class_weight(self.class_weight, classes=model.classes_, y=model.classes_)
        return None

    def _learn_tokens(self, model, backend, counts: list[TextCounts]) -> None:
        """Set what the model learns of its texts before training."""
        if not counts:
            raise ValueError("Sample weights must contain at least one non-zero number.")  # one machine's words
        model._index = TokenIndex.from_counts(model._analysis(), [of_part.tokens for of_part in counts])
        model.idf_ = idf(model._index) if self.token_weights == "idf" else None
        class_counts, total = (sum(column) for column in zip(*(part.class_counts for part in counts), strict=True))
        model._class_counts, model._loss = (class_counts, total), LOSSES[self.loss]
        model.class_prior_ = (class_counts / total).astype(self.dtype or np.float32)
        model._tree = backend.huffman_tree(class_counts) if self.loss == "hierarchical_softmax" else None

    def _target_loss(self, counts: list[TextCounts]) -> float:
        """Loss at which training ends."""
        if self.target_loss is None:
            return -np.inf
        weights = [of_part.class_counts.total for of_part in counts]
        return self.target_loss + np.average([of_part.smallest_loss for of_part in counts], weights=weights)

    def _train(self, model, rounds, validate=None) -> None:
        super()._train(model, rounds, validate)
        model._reader, model._optimizer, model._latest_params = Reader(model, model.params_), None, None

    # ------------------------------------------------------------------ predict

    def predict(self, X):
        """Most probable class of each text, or its labels.

        Parameters
        ----------
        X : Dask collection or sequence of str
            As in `fit`.

        Returns
        -------
        y : Dask array of shape (n_documents,) or (n_documents, n_labels), or ndarray where X is in memory
            As `nbnet.TextEmbeddingClassifier.predict` has them.
        """
        check_is_fitted(self, "model_")
        block = Block((len(self.classes_),), np.int64) if self.model_._multilabel else Block((), self.classes_.dtype)
        return self._call("predict", X, block)

    def predict_proba(self, X):
        """Probability of each class.

        Parameters
        ----------
        X : Dask collection or sequence of str
            As in `fit`.

        Returns
        -------
        probabilities : Dask array of shape (n_documents, n_classes), or ndarray where X is in memory
            In the order of `classes_`.
        """
        check_is_fitted(self, "model_")
        return self._call("predict_proba", X, Block((len(self.classes_),), self.model_.params_.dtype))

    def predict_top_k(self, X, k=1, threshold=0.0):
        """The `k` most probable classes of each text, the most probable first.

        Parameters
        ----------
        X : Dask collection or sequence of str
            As in `fit`.
        k : int, default=1
            Classes a text, at most as many as there are.
        threshold : float, default=0.0
            Classes of a smaller probability are left out.

        Returns
        -------
        labels, probabilities : Dask arrays of shape (n_documents, k), or ndarrays where X is in memory
            As `nbnet.TextEmbeddingClassifier.predict_top_k` has them; labels of objects with any `threshold`.
        """
        check_is_fitted(self, "model_")
        labels = Block((k,), np.dtype(object) if threshold > 0 else self.classes_.dtype)
        return self._call("predict_top_k", X, labels, Block((k,), self.model_.params_.dtype), k=k, threshold=threshold)

    def transform(self, X):
        """Vector of each text: its pooled tokens.

        Parameters
        ----------
        X : Dask collection or sequence of str
            As in `fit`.

        Returns
        -------
        vectors : Dask array of shape (n_documents, embedding_dim), or ndarray where X is in memory
        """
        check_is_fitted(self, "model_")
        return self._call("transform", X, Block((self.model_._n_features_out,), self.model_.params_.dtype))
