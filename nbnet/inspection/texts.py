"""The methods for networks over texts: f as a function of the vectors of a text's tokens.

The baseline is a text whose tokens have vectors of zero; the way to it multiplies all vectors by one factor. What a row
of the embedding contributes is shared out among its tokens; see `documents`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax

from ..estimators.reader import token_weights
from ..estimators.text_run import table_of
from ..network import Pooling, above
from .documents import Document, TokenReader
from .layers import Layers
from .methods import quadrature
from .outputs import Explained


class Bag:
    """The pooling of one text's entries.

    Parameters
    ----------
    pooling : Pooling
    vectors : float64 (n_entries, dim)
    weights : float64 (n_entries,)
        Positive.
    query : float64 (dim,)
        Of attention.
    """

    def __init__(self, pooling: Pooling, vectors: np.ndarray, weights: np.ndarray, query: np.ndarray):
        self.pooling, self.vectors, self.weights, self.query = pooling, vectors, weights, query
        if len(weights) and pooling in (Pooling.MEAN, Pooling.SQRTN):
            total = weights.sum() if pooling == Pooling.MEAN else np.sqrt((weights**2).sum())
            self.weights = weights / total

    def pooled(self, factors: np.ndarray) -> np.ndarray:
        """The text's vector (n, dim), with all token vectors multiplied by each of the factors (n,)."""
        if not len(self.weights):
            return np.zeros((len(factors), self.vectors.shape[1]))
        if self.pooling == Pooling.MAX:
            return factors[:, np.newaxis] * self.vectors.max(axis=0)
        if self.pooling == Pooling.ATTENTION:
            return factors[:, np.newaxis] * (self._attention(factors) @ self.vectors)
        return factors[:, np.newaxis] * (self.weights @ self.vectors)

    def credits(self, factors: np.ndarray, grad: np.ndarray) -> np.ndarray:
        """``e[q] . d f / d e[q]`` of each entry (n, n_entries), from the gradient (n, dim) by the pooled vector."""
        if not len(self.weights):
            return np.zeros((len(factors), 0))
        if self.pooling == Pooling.MAX:
            is_chosen = np.arange(len(self.vectors))[:, np.newaxis] == self.vectors.argmax(axis=0)
            return grad @ (self.vectors * is_chosen).T
        along = grad @ self.vectors.T
        if self.pooling == Pooling.ATTENTION:
            a, scores = self._attention(factors), self.vectors @ self.query
            mean = (a * along).sum(axis=1, keepdims=True)
            return a * (along + factors[:, np.newaxis] * (along - mean) * scores)
        return along * self.weights

    def _attention(self, factors: np.ndarray) -> np.ndarray:
        scores = factors[:, np.newaxis] * (self.vectors @ self.query) + np.log(self.weights)
        return np.exp(log_softmax(scores, axis=1))


class TextFunction:
    """f of texts, and what each token has to do with it.

    Parameters
    ----------
    estimator : TextEmbeddingClassifier
        Fitted.
    texts : list of str
    """

    def __init__(self, estimator, texts: list[str]):
        network, params = estimator.network_, estimator.params_
        below, dense = network.layers[0], above(network)
        self.pooling = Pooling(int(below["pooling"]))
        self.layers = Layers(dense.layers, params)
        self.table = table_of(params, network)
        query = int(below["bias_start"])
        self.query = params[query : query + int(below["n_out"])].astype(np.float64)
        weights = token_weights(estimator._index, estimator.idf_)
        self.row_weights, self.count_weights = weights["row_weights"], weights["count_weights"]
        reader = TokenReader(estimator._index)
        self.documents = [reader.read(text) for text in texts]
        self.bags = [self._bag(document, document.counts()) for document in self.documents]

    def _bag(self, document: Document, counts: np.ndarray) -> Bag:
        """Of the entries that occur; `counts` (n_entries,)."""
        ids, counts = document.ids[counts > 0], counts[counts > 0]
        weights = counts.astype(np.float64) if self.count_weights is None else self.count_weights[counts]
        if self.row_weights is not None:
            weights = weights * self.row_weights[ids]
        return Bag(self.pooling, self.table[ids].astype(np.float64), weights, self.query)

    def value(self, explained: Explained, factor: float = 1.0) -> np.ndarray:
        """f of each text (n,), with all vectors multiplied by `factor`."""
        pooled = np.concatenate([bag.pooled(np.array([factor])) for bag in self.bags])
        return explained.of(self.layers.forward(pooled)[0])[0]

    def integrated_gradients(self, explained: Explained, n_steps: int) -> list[np.ndarray]:
        """Values of each text's entries: the mean over factors from 0 to 1 of ``e . d f / d e``."""
        return self._mean_credits(explained, *quadrature(n_steps))

    def gradient_x_input(self, explained: Explained) -> list[np.ndarray]:
        """Values of each text's entries: ``e . d f / d e``."""
        return self._mean_credits(explained, np.ones(1), np.ones(1))

    def _mean_credits(self, explained, factors, weights) -> list[np.ndarray]:
        values = []
        for i, bag in enumerate(self.bags):
            z, kept = self.layers.forward(bag.pooled(factors))
            _, slopes = explained.of(z, np.repeat(i, len(factors)))
            values.append(weights @ bag.credits(factors, self.layers.backward(kept, slopes)))
        return values

    def occlusion(self, explained: Explained) -> list[np.ndarray]:
        """Values of each text's tokens: f less f without the token and without all n-grams that hold it."""
        values = []
        for i, document in enumerate(self.documents):
            bags = [self.bags[i]]
            for token in range(len(document.tokens)):
                kept = (document.firsts > token) | (document.stops <= token)
                bags.append(self._bag(document, document.counts(kept)))
            pooled = np.concatenate([bag.pooled(np.ones(1)) for bag in bags])
            f, _ = explained.of(self.layers.forward(pooled)[0], np.repeat(i, len(bags)))
            values.append(f[0] - f[1:])
        return values


class TokenValues(NamedTuple):
    """Values of entries as values of tokens: for each text an array, and what belongs to no token."""

    values: list[np.ndarray]
    rest: np.ndarray

    @classmethod
    def of(cls, documents: list[Document], values: list[np.ndarray]) -> TokenValues:
        pairs = [document.shared_out(of_text) for document, of_text in zip(documents, values, strict=True)]
        return cls([of_tokens for of_tokens, _ in pairs], np.array([rest for _, rest in pairs]))
