"""Rows of one table that many fits share: validated once, and read where they lie instead of being copied."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from sklearn.utils import _safe_indexing


class SharedRows:
    """Some rows of a table, which `fit` of a table's estimator takes in the place of X.

    In the place of the X of scikit-learn's searches it does what a search needs: it has a shape, and it is sliced by
    ``X[numbers]`` (see `as_training_rows`).

    Parameters
    ----------
    given : array-like or sparse matrix (n_samples, n_features)
        X as the user gave it.
    table : ndarray or CSR (n_samples, n_features)
        The same, validated.
    numbers : int (n_rows,), default=None
        Which rows of it; None: all.
    """

    def __init__(self, given, table, numbers: np.ndarray | None = None):
        self.given, self.table = given, table
        self.numbers = np.arange(table.shape[0]) if numbers is None else np.ascontiguousarray(numbers, np.int64)
        self.shape = len(self.numbers), table.shape[1]
        self._training_sets: dict[int, np.ndarray] = {}

    def as_training_rows(self, sets: Iterable[np.ndarray]) -> None:
        """From now on ``X[numbers]`` with one of these very arrays is no copy; any other slice is one, as ever."""
        self._training_sets = {id(numbers): numbers for numbers in sets}

    def __getitem__(self, key):
        if isinstance(key, tuple) and key[1:] == (Ellipsis,):  # scikit-learn's way to say "these rows"
            numbers = key[0]
            if self._training_sets.get(id(numbers)) is numbers:
                return SharedRows(self.given, self.table, numbers)
            return _safe_indexing(self.given, numbers)
        return self.given[key]

    def given_rows(self):
        """The rows, of the type that the user gave; a copy where they are not all."""
        return self.given if len(self.numbers) == self.table.shape[0] else _safe_indexing(self.given, self.numbers)
