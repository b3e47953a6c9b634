"""The vocabulary of a `TextEmbeddingClassifier`: how it is learned, and the vectors of its words."""

from __future__ import annotations

from copy import copy
from numbers import Integral

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..tokens import BOUNDARY_WORDS, Analysis, TokenIndex
from .reader import idf, n_workers_for
from .run import Table


class VocabularyMixin:
    """What an estimator of texts knows of tokens: its `_index`, a `TokenIndex`, says which rows they have."""

    # ------------------------------------------------------------------ learning

    def _analysis(self) -> Analysis:
        """How texts are cut, checked."""
        for name in ("ngram_range", "subword_range"):
            bounds = getattr(self, name)
            if bounds is None:
                continue
            if len(bounds) != 2 or not all(isinstance(n, Integral) for n in bounds) or not 1 <= bounds[0] <= bounds[1]:
                raise ValueError(f"{name} must be two integers (shortest, longest) from 1 on, got {bounds!r}.")
        return Analysis(
            analyzer=self.analyzer,
            lowercase=self.lowercase,
            strip_accents=self.strip_accents,
            stop_words=self.stop_words,
            token_pattern=self.token_pattern,
            ngram_range=tuple(self.ngram_range),
            subword_range=None if self.subword_range is None else tuple(self.subword_range),
            boundary_tokens=self.boundary_tokens,
            min_df=self.min_df,
            max_features=self.max_features,
            n_buckets=self.n_buckets,
            merge_repeats=self.sublinear_tf,
        )

    def _learn_vocabulary(self, backend, analysis: Analysis, table: Table, first: bool):
        """Set the index of tokens and what follows from it; returns the backend's view of the documents."""
        texts = table.X.tolist()
        n_workers = n_workers_for(backend, texts, self.n_jobs)
        if first:
            self._index = TokenIndex(analysis)
            documents = self._index.fit_transform(texts, n_workers)
        else:
            self._index = copy(self._index)
            documents = self._index.extend_transform(texts, n_workers)
        self.idf_ = idf(self._index) if self.token_weights == "idf" else None
        return backend.as_texts(documents)

    # ------------------------------------------------------------------ words

    @property
    def vocabulary_(self) -> dict[str, int]:
        """Row in `embeddings_` of each word, as it is written after lower-casing and the like."""
        self._params()
        rows = zip(self._index.words, self._index.word_rows.tolist(), strict=True)
        return {word: row for word, row in rows if word not in BOUNDARY_WORDS}

    def word_vector(self, word: str) -> np.ndarray:
        """Vector of a word: that of its row plus those of its subwords.

        Parameters
        ----------
        word : str
            Lower-cased and the like as in a text.

        Returns
        -------
        vector : ndarray of shape (embedding_dim,)

        Raises
        ------
        KeyError
            If neither the word nor a subword of it is known.
        """
        check_is_fitted(self, "params_")
        rows = self._index.rows_of_word(word)
        if not rows.size:
            raise KeyError(word)
        return self._embedding_table()[rows].sum(axis=0)

    def nearest_words(self, word, k: int = 10) -> list[tuple[str, float]]:
        """Words of the vocabulary whose vectors point most nearly the same way.

        Parameters
        ----------
        word : str or array-like of shape (embedding_dim,)
            A word, which is not among the answers itself, or a vector.
        k : int, default=10
            How many.

        Returns
        -------
        neighbors : list of (word, cosine)
            The nearest first.
        """
        vector = self.word_vector(word) if isinstance(word, str) else np.asarray(word, self.params_.dtype)
        own = self._index.row_of(word) if isinstance(word, str) else None
        words = {name: row for name, row in self.vocabulary_.items() if row != own}
        vectors = self._embedding_table()[list(words.values())]
        if self.subword_range is not None:
            vectors = np.array([self.word_vector(name) for name in words]).reshape(vectors.shape)
        lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(vector)
        cosines = np.divide(vectors @ vector, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        nearest = np.argsort(-cosines, kind="stable")[:k]
        names = list(words)
        return [(names[i], float(cosines[i])) for i in nearest]
