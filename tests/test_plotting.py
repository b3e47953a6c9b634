"""HistoryDisplay."""

import sys

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nbnet import HistoryDisplay, MLPClassifier

X = np.random.default_rng(0).normal(size=(16, 2))
Y = (X[:, 0] > 0).astype(int)


def tiny(**changes):
    """A classifier that trains for three epochs and is done."""
    return MLPClassifier((3,), max_iter=3, learning_rate="linear", random_state=0, **changes)


def test_curves_of_a_fit_with_validation_rows():
    plt = pytest.importorskip("matplotlib.pyplot")
    classifier = tiny().fit(X, Y, X_val=X, y_val=Y)
    display = HistoryDisplay.from_estimator(classifier, alpha=0.5)
    assert [line.get_label() for line in display.lines_] == ["training loss", "validation loss", "validation score"]
    np.testing.assert_array_equal(display.lines_[0].get_ydata(), classifier.loss_curve_)
    np.testing.assert_array_equal(display.lines_[0].get_xdata(), [1, 2, 3])
    assert display.ax_.get_title() == "MLPClassifier"
    assert display.score_ax_.get_ylabel() == "score"
    plt.close(display.figure_)


def test_no_validation_rows_no_curves_of_them():
    plt = pytest.importorskip("matplotlib.pyplot")
    figure, ax = plt.subplots()
    pipeline = make_pipeline(StandardScaler(), tiny()).fit(X, Y)
    display = HistoryDisplay.from_estimator(pipeline, ax=ax, name="mine")
    assert len(display.lines_) == 1
    assert display.score_ax_ is None
    assert display.figure_ is figure
    assert ax.get_title() == "mine"
    plt.close(figure)


def test_unfitted_estimator():
    pytest.importorskip("matplotlib")
    with pytest.raises(NotFittedError):
        HistoryDisplay.from_estimator(tiny())


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(
        ImportError, match=r"^HistoryDisplay.from_estimator needs matplotlib: pip install nbnet\[plot\]$"
    ):
        HistoryDisplay.from_estimator(tiny())
