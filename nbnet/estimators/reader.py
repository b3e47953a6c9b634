"""From texts to vectors and probabilities, by one fitted model."""

from __future__ import annotations

from functools import partial

import numpy as np

from .. import trainer
from ..network import Loss
from ..tokens import BOUNDARY_WORDS, TokenIndex

BLOCK = 4096  # documents that are read at a time: memory of a prediction does not grow with their number
FLOP_A_CHARACTER = 50.0  # what cutting a character from a text, and finding the row of its word, is worth
COUNTS = 256  # a token's repeats in a document are counted up to 255


def idf(index: TokenIndex) -> np.ndarray:
    """``log((1 + n) / (1 + df)) + 1`` of each row: scikit-learn's smoothed inverse document frequency."""
    return np.log((1.0 + index.n_documents) / (1.0 + index.document_frequency)) + 1.0


def token_weights(index: TokenIndex, row_weights: np.ndarray | None) -> dict:
    """Weights as a `TextSession` takes them; merged repeats of a token weigh 1 + log(count)."""
    counts = np.concatenate([[0.0], 1.0 + np.log(np.arange(1, COUNTS))]) if index.analysis.merge_repeats else None
    return {"row_weights": row_weights, "count_weights": counts}


def open_session(backend, estimator, params: np.ndarray, **options):
    """A session of the estimator's network."""
    weights = token_weights(estimator._index, estimator.idf_)
    return backend.open_session(estimator.network_, params, estimator._loss, tree=estimator._tree, **weights, **options)


def n_workers_for(backend, texts, n_jobs: int | None) -> int:
    """Workers that cut the texts into tokens."""
    return backend.choose_n_workers(n_jobs, FLOP_A_CHARACTER * sum(map(len, texts)))


class Reader:
    """A fitted `TextEmbeddingClassifier` in use.

    Parameters
    ----------
    estimator : TextEmbeddingClassifier
        With its fitted attributes, but for `params_`.
    params : ndarray (n_params,) or None
        None: each call of `probabilities` brings a session.
    """

    def __init__(self, estimator, params: np.ndarray | None):
        self.device = estimator.device
        self.backend = self._select_device()
        self.index, self.prior = estimator._index, estimator.class_prior_
        weights = token_weights(self.index, estimator.idf_)
        of_network = estimator.network_, params, estimator._loss
        self._open = partial(self.backend.open_session, *of_network, tree=estimator._tree, **weights)
        shares_params = getattr(self.backend, "SHARES_PARAMS", True)
        # a GPU's session has a copy of the parameters: it is opened for a call, whatever they are by then
        self._kept = self._open() if params is not None and shares_params else None
        # classes that exclude each other have probabilities that sum to 1, whatever the loss
        self.normalize = not estimator._multilabel and estimator._loss == Loss.SIGMOID_CROSS_ENTROPY
        rules = self.index.analysis.rules()
        self.n_boundary_rows = len(BOUNDARY_WORDS) if rules.boundary_tokens and rules.first_n == 1 else 0

    def _select_device(self):
        """The backend; a GPU becomes that of this thread."""
        return trainer.backend_for(self.device, "text_session", fitted=True)

    def documents(self, texts: list[str], n_jobs: int | None):
        """The backend's view of texts."""
        return self.backend.as_texts(self.index.transform(texts, n_workers_for(self.backend, texts, n_jobs)))

    def probabilities(self, session, rows) -> np.ndarray:
        """Probability of each class (n_documents, n_classes), of `documents`."""
        out = session.predict(rows)
        if self.normalize:
            total = out.sum(axis=1, keepdims=True)
            out = np.divide(out, total, out=np.tile(self.prior, (len(out), 1)), where=total > 0)
        ids, starts = rows.documents.ids, rows.documents.starts
        for i in (starts[1:] - starts[:-1] <= self.n_boundary_rows).nonzero()[0]:
            if (ids[starts[i] : starts[i + 1]] < self.n_boundary_rows).all():
                out[i] = self.prior
        return out

    def predict(self, texts: list[str], n_jobs: int | None) -> np.ndarray:
        """Probability of each class (n_documents, n_classes)."""
        return self._in_blocks(texts, n_jobs, self.probabilities)

    def transform(self, texts: list[str], n_jobs: int | None) -> np.ndarray:
        """Pooled vectors (n_documents, dim)."""
        return self._in_blocks(texts, n_jobs, lambda session, rows: session.transform(rows))

    @trainer.reporting_faults
    def _in_blocks(self, texts, n_jobs, compute) -> np.ndarray:
        session = self._kept
        if session is None:
            self._select_device()
            session = self._open()
        session.n_jobs = n_jobs
        if len(texts) <= BLOCK:
            return compute(session, self.documents(texts, n_jobs))
        blocks = (texts[start : start + BLOCK] for start in range(0, len(texts), BLOCK))
        return np.concatenate([compute(session, self.documents(block, n_jobs)) for block in blocks])
