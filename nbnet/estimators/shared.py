"""Rows of one table that many fits share: validated once, and read where they lie instead of being copied."""

from __future__ import annotations

import numpy as np
from sklearn.utils import _safe_indexing


class SharedRows:
    """Some rows of a table, which `fit` of a table's estimator takes in the place of X.

    In the place of the X of scikit-learn's searches it does what a search needs: it has a shape, and it is sliced by
    ``X[numbers]`` (see `split`).

    Parameters
    ----------
    given : array-like or sparse matrix (n_samples, n_features)
        X as the user gave it.
    table : ndarray or CSR (n_samples, n_features)
        The same, validated.
    numbers : int (n_rows,), default=None
        Which rows of it; None: all.

    Attributes
    ----------
    fitted : dict
        Estimators that are fitted to these rows already, by their `key_of`.
    fit_params : dict or None
        What `fit` will be given beside these rows and y; None: not known.
    """

    def __init__(self, given, table, numbers: np.ndarray | None = None):
        self.given, self.table, self._are_all = given, table, numbers is None
        self.numbers = np.arange(table.shape[0]) if numbers is None else np.ascontiguousarray(numbers, np.int64)
        self.shape = len(self.numbers), table.shape[1]
        self.fitted: dict[str, object] = {}
        self.fit_params: dict | None = None
        self._training_sets: dict[int, tuple[np.ndarray, SharedRows]] = {}
        self._on_devices: dict[tuple[str, str], object] = {}

    def split(self, training_sets: list[np.ndarray]) -> list[SharedRows]:
        """The rows of each training set. From now on ``X[numbers]`` with one of these very arrays gives them; any other
        slice is a copy, as ever."""
        parts = [SharedRows(self.given, self.table, numbers) for numbers in training_sets]
        for part in parts:
            part._on_devices = self._on_devices
        pairs = zip(training_sets, parts, strict=True)
        self._training_sets = {id(numbers): (numbers, part) for numbers, part in pairs}
        return parts

    def __getitem__(self, key):
        if isinstance(key, tuple) and key[1:] == (Ellipsis,):  # scikit-learn's way to say "these rows"
            numbers = key[0]
            if id(numbers) in self._training_sets:
                return self._training_sets[id(numbers)][1]
            return _safe_indexing(self.given, numbers)
        return self.given[key]

    def given_rows(self):
        """The rows, of the type that the user gave; a copy where they are not all."""
        return self.given if self._are_all else _safe_indexing(self.given, self.numbers)

    def on(self, backend, device: str):
        """The backend's view of all rows of the table, made once."""
        key = backend.__name__, device
        if key not in self._on_devices:
            self._on_devices[key] = backend.as_rows(self.table)
        return self._on_devices[key]

    def learned(self, estimator) -> dict | None:
        """Fitted attributes of an equal estimator that is fitted to these rows already; None if there is none."""
        found = self.fitted.get(key_of(estimator)) if self.fitted else None
        if found is None:
            return None
        parameters = found.get_params(deep=False)
        return {name: value for name, value in vars(found).items() if name not in parameters}


def key_of(estimator) -> str:
    """What tells estimators apart: equal where they have equal parameters."""
    return repr(sorted(estimator.get_params(deep=False).items()))
