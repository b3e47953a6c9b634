"""Scaling of the columns of a table: `input_scaling`."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np

CLIP = 3.0  # the smooth clipping of "robust" keeps values in (-CLIP, CLIP)
BLOCK_ROWS = 4096


class InputScaling(StrEnum):
    """How the columns of X are brought to one scale."""

    STANDARD = "standard"
    ROBUST = "robust"


def weighted_quantile(column: np.ndarray, weights: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Smallest values at which the cumulated share of the weights reaches `q`: a weight of 2 counts as two rows."""
    order = np.argsort(column, kind="stable")
    cumulated = np.cumsum(weights[order], dtype=np.float64)
    position = np.searchsorted(cumulated, q * cumulated[-1] * (1.0 - 1e-12))
    return column[order[position]]


class InputScaler(NamedTuple):
    """``z = (x - center) * scale``, then for "robust" ``z / sqrt(1 + (z / 3)**2)``.

    A column that is constant in the training rows has scale 0: whatever it holds later carries no information that
    the network has learned.

    Attributes
    ----------
    kind : InputScaling
        Which of the two.
    center, scale : float64 (n_features,)
        Mean and one over the standard deviation, or median and one over the distance of the quartiles (2 over the
        range where the quartiles agree).
    """

    kind: InputScaling
    center: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, kind: str, X: np.ndarray, row_numbers: np.ndarray, weights: np.ndarray) -> InputScaler:
        """Learn from the rows `row_numbers` of X; `weights` has one entry for each row of X."""
        weights = weights[row_numbers].astype(np.float64)
        center, scale = np.empty(X.shape[1]), np.empty(X.shape[1])
        for k in range(X.shape[1]):
            column = X[row_numbers, k].astype(np.float64)
            largest = np.abs(column).max() or 1.0  # divided by it, no square and no difference overflows
            column /= largest
            if kind == InputScaling.STANDARD:
                middle = np.average(column, weights=weights)
                spread = np.sqrt(np.average((column - middle) ** 2, weights=weights))
                constant = spread <= 10 * np.finfo(np.float64).eps
            else:
                low, middle, high = weighted_quantile(column, weights, np.array([0.25, 0.5, 0.75]))
                spread = high - low if high > low else 0.5 * (column.max() - column.min())
                constant = spread == 0
            center[k] = middle * largest
            scale[k] = 0.0 if constant or spread * largest < np.finfo(np.float64).tiny else 1.0 / (spread * largest)
        return cls(InputScaling(kind), center, scale)

    def transform(self, X: np.ndarray, dtype) -> np.ndarray:
        """Scaled copy of X, computed in float64 by blocks of rows.

        Source of the smooth clipping: Holzmueller, Grinsztajn, Steinwart, Better by default: strong pre-tuned MLPs
        and boosted trees on tabular data, 2024, section 3.
        """
        scaled = np.empty(X.shape, dtype)
        for start in range(0, len(X), BLOCK_ROWS):
            z = (X[start : start + BLOCK_ROWS] - self.center) * self.scale
            if self.kind == InputScaling.ROBUST:
                z = np.clip(z, -1e100, 1e100)  # so that the square stays finite
                z /= np.sqrt(1.0 + (z / CLIP) ** 2)
            scaled[start : start + BLOCK_ROWS] = z
        return scaled

    def slope(self, X: np.ndarray) -> np.ndarray:
        """Derivative of each scaled value by the value: ``scale``, for "robust" ``scale / (1 + (z / 3)**2)**1.5``."""
        if self.kind == InputScaling.STANDARD:
            return np.broadcast_to(self.scale, X.shape)
        z = np.clip((X - self.center) * self.scale, -1e100, 1e100)
        return self.scale / (1.0 + (z / CLIP) ** 2) ** 1.5
