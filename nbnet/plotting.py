"""Pictures of fitted estimators. matplotlib is optional: ``pip install nbnet[plot]``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted


def import_pyplot(caller: str) -> Any:
    """``matplotlib.pyplot``.

    Raises
    ------
    ImportError
        One line that says how to install it.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError(f"{caller} needs matplotlib: pip install nbnet[plot]") from None
    return plt


class HistoryDisplay:
    """Learning curves: training and validation loss, and the validation score on an axis of its own.

    Parameters
    ----------
    history : dict of list
        `history_` of an estimator.
    estimator_name : str or None, default=None
        Title.

    Attributes
    ----------
    ax_ : Axes
        Where the losses are drawn.
    score_ax_ : Axes or None
        Where the validation score is drawn; None without one.
    figure_ : Figure
        The figure of `ax_`.
    lines_ : list of Line2D
        The curves.
    """

    def __init__(self, history: Mapping[str, Sequence[float]], *, estimator_name: str | None = None):
        self.history = history
        self.estimator_name = estimator_name

    @classmethod
    def from_estimator(cls, estimator, *, ax=None, name: str | None = None, **line_kwargs) -> Self:
        """Draw the history of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            Fitted; or a Pipeline that ends with one.
        ax : Axes, default=None
            Where to draw; a new figure by default.
        name : str, default=None
            Title; the name of the class by default.
        **line_kwargs
            Passed to ``ax.plot``.

        Returns
        -------
        display : HistoryDisplay
            With the attributes listed above.
        """
        import_pyplot(f"{cls.__name__}.from_estimator")
        check_is_fitted(estimator)
        if hasattr(estimator, "steps"):
            estimator = estimator[-1]
        display = cls(estimator.history_, estimator_name=name or type(estimator).__name__)
        return display.plot(ax=ax, **line_kwargs)

    def plot(self, ax=None, **line_kwargs) -> Self:
        """Draw; see `from_estimator`."""
        plt = import_pyplot(f"{type(self).__name__}.plot")
        if ax is None:
            _, ax = plt.subplots()
        self.ax_, self.figure_, self.score_ax_, self.lines_ = ax, ax.figure, None, []
        self._curve(ax, "loss", "training loss", {"color": "C0", **line_kwargs})
        self._curve(ax, "val_loss", "validation loss", {"color": "C1", **line_kwargs})
        ax.set(xlabel="epoch", ylabel="loss", title=self.estimator_name)
        if np.isfinite(self.history["val_score"]).any():
            self.score_ax_ = ax.twinx()
            self._curve(
                self.score_ax_, "val_score", "validation score", {"color": "C2", "linestyle": "--", **line_kwargs}
            )
            self.score_ax_.set_ylabel("score")
        ax.legend(handles=self.lines_)
        return self

    def _curve(self, ax, key: str, label: str, line_kwargs: dict) -> None:
        values = np.asarray(self.history[key], dtype=float)
        if np.isfinite(values).any():
            self.lines_ += ax.plot(np.arange(1, len(values) + 1), values, label=label, **line_kwargs)
