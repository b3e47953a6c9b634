"""What all partitions say together before the first round: classes, columns, means and deviations."""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import numpy as np
from sklearn.utils import _safe_indexing

from ..estimators.scaling import InputScaler, InputScaling
from .collections import Partition

BLOCK_ROWS = 1 << 14
SAMPLE_ROWS = 1024  # of each partition, from which quartiles are estimated


class Moments(NamedTuple):
    """Mean and squared deviations of columns, which two sets of rows can merge.

    Attributes
    ----------
    n : float
        Rows, or the sum of their weights.
    mean, squares : float64 (n_columns,)
        Mean, and sum of the squared deviations from it.
    largest : float64 (n_columns,)
        Largest absolute value.
    """

    n: float
    mean: np.ndarray
    squares: np.ndarray
    largest: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, weights: np.ndarray) -> Moments:
        """Moments of the columns of (n_rows, n_columns), of one row or more, with `weights` (n_rows,)."""
        blocks = (slice(i, i + BLOCK_ROWS) for i in range(0, len(values), BLOCK_ROWS))
        return reduce(Moments.plus, (cls._of_block(values[b].astype(np.float64), weights[b]) for b in blocks))

    @classmethod
    def _of_block(cls, block: np.ndarray, weights: np.ndarray) -> Moments:
        n = float(weights.sum())
        mean = weights @ block / n
        return cls(n, mean, weights @ (block - mean) ** 2, np.abs(block).max(axis=0))

    def plus(self, other: Moments) -> Moments:
        """Moments of the rows of both.

        Source: Chan, Golub, LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.
        """
        n, gap = self.n + other.n, other.mean - self.mean
        squares = self.squares + other.squares + gap**2 * (self.n * other.n / n)
        return Moments(n, self.mean + gap * (other.n / n), squares, np.maximum(self.largest, other.largest))

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation; 0 where nothing but rounding differs."""
        deviation = np.sqrt(self.squares / self.n)
        return np.where(deviation <= 10 * np.finfo(np.float64).eps * self.largest, 0.0, deviation)


class Summary(NamedTuple):
    """What one partition says.

    Attributes
    ----------
    n_rows : int
    shape : tuple
        Of one row.
    first : Partition
        The first row.
    labels : ndarray or None
        Its distinct classes; None for a regressor.
    counts : float64 or None
        Weight of the rows of each.
    moments : Moments or None
        Of columns or channels.
    sample, sample_weights : ndarray or None
        Rows at equal distances, and how many rows each stands for.
    """

    n_rows: int
    shape: tuple
    first: Partition
    labels: np.ndarray | None
    counts: np.ndarray | None
    moments: Moments | None
    sample: np.ndarray | None
    sample_weights: np.ndarray | None


def summarize(partition: Partition, is_classifier: bool, scaling: str | None, n_channels) -> Summary | None:
    """Summary of one partition; None where it has no rows.

    Parameters
    ----------
    partition : Partition
    is_classifier : bool
    scaling : {"standard", "robust", "channels"} or None
        What the scale of the input needs.
    n_channels : callable
        ``n_channels(shape)`` of images whose rows have this shape.
    """
    X, y, weights = partition
    n_rows = len(X)
    if n_rows == 0:
        return None
    weights = np.ones(n_rows) if weights is None else weights
    labels = counts = moments = sample = sample_weights = None
    if is_classifier:
        if np.ndim(y) != 1:
            raise ValueError(f"y must have one label a row, but a partition has the shape {np.shape(y)}.")
        labels, numbers = np.unique(np.asarray(y), return_inverse=True)
        counts = np.bincount(numbers, weights)
    values, shape = np.asarray(X), np.shape(X)[1:]
    if scaling == "channels":
        channels = values.reshape(-1, n_channels(shape))
        moments = Moments.of(channels, np.repeat(weights, len(channels) // n_rows))
    elif scaling == InputScaling.STANDARD:
        moments = Moments.of(values, weights)
    elif scaling == InputScaling.ROBUST:
        n_sample = min(SAMPLE_ROWS, n_rows)
        rows = np.arange(n_sample) * n_rows // n_sample
        sample = values[rows].astype(np.float64)
        sample_weights = weights[rows] * (weights.sum() / weights[rows].sum())
    first = Partition(_safe_indexing(X, [0]), np.asarray(y)[:1])
    return Summary(n_rows, shape, first, labels, counts, moments, sample, sample_weights)


def check_shapes(summaries: list[Summary | None], estimator) -> list[Summary]:
    """The summaries of partitions with rows, all of which have rows of one shape."""
    filled = [(number, summary) for number, summary in enumerate(summaries) if summary is not None]
    if not filled:
        raise ValueError(
            f"Found array with 0 sample(s) in {len(summaries)} partitions while a minimum of 1 is required by "
            f"{type(estimator).__name__}."
        )
    first_number, first = filled[0]
    for number, summary in filled:
        if summary.shape != first.shape:
            raise ValueError(
                f"Rows of partition {number} of X have the shape {summary.shape}, those of partition {first_number} "
                f"{first.shape}."
            )
    return [summary for _, summary in filled]


def merged_classes(summaries: list[Summary], classes) -> tuple[np.ndarray, np.ndarray]:
    """All classes, sorted, and the weight of the rows of each; `classes` are those that the caller names, or None."""
    found = np.unique(np.concatenate([summary.labels for summary in summaries]))
    if classes is not None:
        classes = np.unique(classes)
        unknown = np.setdiff1d(found, classes)
        if unknown.size:
            raise ValueError(f"`y` has classes not in `classes`={classes.tolist()}: {unknown.tolist()}.")
        found = classes
    counts = np.zeros(len(found))
    for summary in summaries:
        counts[np.searchsorted(found, summary.labels)] += summary.counts
    return found, counts


def merged_moments(summaries: list[Summary]) -> Moments:
    """Moments of all rows, merged in the order of the partitions."""
    return reduce(Moments.plus, [summary.moments for summary in summaries])


def merged_scaler(kind: str, summaries: list[Summary]) -> InputScaler:
    """Scaler of the columns: from the moments of all rows, or from quartiles of the samples, weighted by rows."""
    if kind == InputScaling.ROBUST:
        samples = np.concatenate([summary.sample for summary in summaries])
        weights = np.concatenate([summary.sample_weights for summary in summaries])
        return InputScaler.fit(kind, samples, np.arange(len(samples)), weights)
    moments = merged_moments(summaries)
    deviation = moments.deviation
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 0)
    return InputScaler(InputScaling(kind), moments.mean, scale)
