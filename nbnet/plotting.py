"""Pictures of fitted estimators. matplotlib is optional: ``pip install nbnet[plot]``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

SHOWN_FEATURES = 15
SHOWN_IMAGES = 8
# of the darkest blue and the darkest red, the ends of matplotlib's RdBu
NEGATIVE, POSITIVE = (33, 102, 172), (178, 24, 43)


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


class AttributionDisplay:
    """Attributions as a picture: bars for tables, colored text, heat maps over images. Red speaks for, blue against.

    In a notebook, colored texts show by themselves; ``print(display)`` colors them in a terminal.

    Parameters
    ----------
    attributions : Attributions
        Answer of `nbnet.inspection.attributions`.
    estimator_name : str or None, default=None
        Title.

    Attributes
    ----------
    figure_ : Figure
        What was drawn.
    axes_ : list of Axes
        One for a table, one for each image.
    """

    def __init__(self, attributions, *, estimator_name: str | None = None):
        self.attributions = attributions
        self.estimator_name = estimator_name

    @classmethod
    def from_estimator(cls, estimator, X, *, target=None, ax=None, name: str | None = None, **kwargs) -> Self:
        """Explain rows of X and draw tables and images; texts are drawn where they are shown or printed.

        Parameters
        ----------
        estimator : estimator
            Fitted estimator of nbnet, or a Pipeline that ends with one.
        X : array-like, images or sequence of str
            What to explain.
        target : label, int or array-like, default=None
            As in `nbnet.inspection.attributions`.
        ax : Axes, default=None
            Where to draw the bars of a table; a new figure by default.
        name : str, default=None
            Title; the name of the class by default.
        **kwargs
            Passed to `nbnet.inspection.attributions`: `method`, `output`, `baseline`, `n_steps`, `window`.

        Returns
        -------
        display : AttributionDisplay
            With the attributes listed above.
        """
        from .inspection import attributions  # which brings kernels: learning curves need none

        last = estimator[-1] if hasattr(estimator, "steps") else estimator
        found = attributions(estimator, X, target=target, **kwargs)
        display = cls(found, estimator_name=name or type(last).__name__)
        return display if display.attributions.kind == "text" else display.plot(ax)

    def plot(self, ax=None) -> Self:
        """Draw; see `from_estimator`. Of several rows of a table, bars are the mean size of their attributions; of
        texts, the sums over equal tokens."""
        plt = import_pyplot(f"{type(self).__name__}.plot")
        if self.attributions.kind == "image":
            return self._plot_images(plt)
        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        names, values, label = self._bars()
        order = np.argsort(-np.abs(values), kind="stable")[:SHOWN_FEATURES][::-1]
        colors = [_css(POSITIVE if value > 0 else NEGATIVE) for value in values[order]]
        ax.barh(range(len(order)), values[order], color=colors)
        ax.set_yticks(range(len(order)), [names[j] for j in order])
        ax.set(xlabel=label, title=self.estimator_name)
        self.figure_, self.axes_ = ax.figure, [ax]
        return self

    def _bars(self) -> tuple[list[str], np.ndarray, str]:
        found = self.attributions
        if found.kind == "text":
            names, places = np.unique([t for tokens in found.tokens for t in tokens], return_inverse=True)
            values = np.bincount(places, np.concatenate(found.values), len(names)) if len(names) else np.zeros(0)
            return names.tolist(), values, "attribution, added up over the texts"
        if len(found.values) == 1:
            return found.feature_names, found.values[0], f"attribution to {found.target[0]}"
        return found.feature_names, np.abs(found.values).mean(axis=0), "mean size of the attribution"

    def _plot_images(self, plt) -> Self:
        found = self.attributions
        n = min(len(found.values), SHOWN_IMAGES)
        images, heats = (_pictures(array[:n], found.image_shape) for array in (found.X, found.values))
        figure, axes = plt.subplots(1, n, squeeze=False, figsize=(2.2 * n, 2.5), layout="constrained")
        for ax, image, heat, target in zip(axes[0], images, heats, found.target, strict=False):
            heat = heat.sum(axis=2)
            largest = np.abs(heat).max() or 1.0
            ax.imshow(image.mean(axis=2), cmap="gray")
            ax.imshow(heat, cmap="RdBu_r", vmin=-largest, vmax=largest, alpha=0.85 * np.abs(heat) / largest)
            ax.set(title=str(target), xticks=[], yticks=[])
        figure.suptitle(self.estimator_name)
        self.figure_, self.axes_ = figure, axes[0].tolist()
        return self

    # ------------------------------------------------------------------ texts

    def _pieces(self, i: int) -> Iterator[tuple[str, float]]:
        """Pieces of a text and the share of each in the largest attribution of the text; 0 between tokens."""
        found = self.attributions
        shares = found.values[i] / (np.abs(found.values[i]).max(initial=0.0) or 1.0)
        if found.spans[i] is None:  # the tokens are not in the text as they are
            for token, share in zip(found.tokens[i], shares.tolist(), strict=True):
                yield from ((token, share), (" ", 0.0))
            return
        position = 0
        for (first, stop), share in zip(found.spans[i].tolist(), shares.tolist(), strict=True):
            yield from ((found.X[i][position:first], 0.0), (found.X[i][first:stop], share))
            position = stop
        yield found.X[i][position:], 0.0

    def _heading(self, i: int) -> str:
        found = self.attributions
        return f"{found.target[i]} ({found.output[i]:.3g})"

    def _check_text(self) -> None:
        if self.attributions.kind != "text":
            raise ValueError(
                f"Only texts can be colored, but these are attributions of kind {self.attributions.kind!r}."
            )

    def to_html(self) -> str:
        """The texts as HTML, tokens on a red or blue ground; a tooltip has the share in the largest attribution."""
        self._check_text()
        lines = []
        for i in range(len(self.attributions.X)):
            spans = "".join(_marked_html(text, share) if share else escape(text) for text, share in self._pieces(i))
            lines.append(f'<p style="white-space:pre-wrap"><b>{escape(self._heading(i))}</b> {spans}</p>')
        return "\n".join(lines)

    def to_ansi(self) -> str:
        """The texts for a terminal of 24-bit colors, a line each."""
        self._check_text()
        lines = []
        for i in range(len(self.attributions.X)):
            colored = "".join(_marked_ansi(text, share) if share else text for text, share in self._pieces(i))
            lines.append(f"{self._heading(i)}: {colored}")
        return "\n".join(lines)

    def _repr_html_(self) -> str | None:
        return self.to_html() if self.attributions.kind == "text" else None

    def __str__(self) -> str:
        return self.to_ansi() if self.attributions.kind == "text" else repr(self)


def _shade(share: float) -> tuple[int, int, int]:
    """White at 0, the darkest red at 1, the darkest blue at -1."""
    end = np.array(POSITIVE if share > 0 else NEGATIVE)
    return tuple(int(c) for c in np.rint(255 + (end - 255) * min(1.0, abs(share))))


def _ink(share: float) -> tuple[int, int, int]:
    """What can be read on that ground."""
    return (255, 255, 255) if abs(share) > 0.6 else (0, 0, 0)


def _css(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _marked_html(text: str, share: float) -> str:
    style = f"background:{_css(_shade(share))};color:{_css(_ink(share))}"
    return f'<span style="{style}" title="{share:+.2f}">{escape(text)}</span>'


def _marked_ansi(text: str, share: float) -> str:
    ink, ground = (";".join(map(str, color)) for color in (_ink(share), _shade(share)))
    return f"\x1b[38;2;{ink};48;2;{ground}m{text}\x1b[0m"


def _pictures(array: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
    return np.asarray(array, np.float64).reshape(len(array), *image_shape)
