"""HistoryDisplay and AttributionDisplay."""

import re
import sys

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nbnet import AttributionDisplay, ConvClassifier, HistoryDisplay, MLPClassifier, TextEmbeddingClassifier

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


# ---------------------------------------------------------------- AttributionDisplay


def test_bars_of_one_row_have_signs_and_of_several_rows_have_sizes():
    plt = pytest.importorskip("matplotlib.pyplot")
    classifier = tiny().fit(X, Y)
    one = AttributionDisplay.from_estimator(classifier, X[:1], target=1, method="occlusion")
    values = one.attributions.values[0]
    widths = sorted(bar.get_width() for bar in one.axes_[0].patches)
    np.testing.assert_allclose(widths, np.sort(values))
    assert one.axes_[0].get_xlabel() == "attribution to 1"
    figure, ax = plt.subplots()
    several = AttributionDisplay.from_estimator(classifier, X, ax=ax, name="mine")
    names = [label.get_text() for label in ax.get_yticklabels()]
    sizes = dict(zip(names, (bar.get_width() for bar in ax.patches), strict=True))
    np.testing.assert_allclose([sizes["x0"], sizes["x1"]], np.abs(several.attributions.values).mean(axis=0))
    assert (several.figure_, ax.get_title()) == (figure, "mine")
    assert several._repr_html_() is None
    pipeline = make_pipeline(StandardScaler(), tiny()).fit(X, Y)
    assert AttributionDisplay.from_estimator(pipeline, X).axes_[0].get_title() == "MLPClassifier"
    with pytest.raises(ValueError, match="Only texts can be colored, but these are attributions of kind 'table'"):
        several.to_html()
    plt.close("all")


def test_heat_maps_lie_over_images():
    plt = pytest.importorskip("matplotlib.pyplot")
    images = np.random.default_rng(0).normal(size=(9, 4, 4, 3))
    classifier = ConvClassifier((2,), (), max_iter=2, learning_rate="linear", random_state=0).fit(images, Y[:9])
    display = AttributionDisplay.from_estimator(classifier, images, target=1, method="grad_cam")
    assert len(display.axes_) == 8
    image, heat = display.axes_[0].images
    np.testing.assert_allclose(image.get_array(), images[0].mean(axis=2))
    np.testing.assert_allclose(heat.get_array(), display.attributions.values[0].sum(axis=2))
    plt.close(display.figure_)


def spam_classifier(**settings):
    texts, labels = ["win <b>cash</b> now", "see you later"], ["spam", "ham"]
    return TextEmbeddingClassifier(4, max_iter=2, random_state=0, **settings).fit(texts, labels)


def test_texts_are_colored_in_html_and_in_a_terminal():
    display = AttributionDisplay.from_estimator(spam_classifier(), ["win <b>cash</b>  later", ""], target="spam")
    html = display._repr_html_()
    without_tags = re.sub(r"<[^>]*>", "", html)
    assert "win &lt;b&gt;cash&lt;/b&gt;  later" in without_tags
    values, tokens = display.attributions.values[0], display.attributions.tokens[0]
    strongest = tokens[np.abs(values).argmax()]
    assert re.search(rf'background:#(b2182b|2166ac);color:#ffffff" title="[+-]1.00">{strongest}<', html)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(display))
    assert plain.splitlines()[0].endswith("win <b>cash</b>  later")
    assert str(display).count("\x1b[38;2;") == len(tokens)


def test_features_that_are_not_in_the_text_are_colored_one_by_one():
    display = AttributionDisplay.from_estimator(spam_classifier(analyzer="char", ngram_range=(2, 2)), ["win"])
    plain = re.sub(r"\x1b\[[0-9;]*m", "", display.to_ansi())
    assert plain.endswith(": wi in ")


def test_bars_of_texts_add_up_tokens():
    plt = pytest.importorskip("matplotlib.pyplot")
    display = AttributionDisplay.from_estimator(spam_classifier(), ["win win", "win"], target="spam").plot()
    names = [label.get_text() for label in display.axes_[0].get_yticklabels()]
    assert names == ["win"]
    total = sum(values.sum() for values in display.attributions.values)
    np.testing.assert_allclose(display.axes_[0].patches[0].get_width(), total)
    plt.close(display.figure_)


def test_texts_need_no_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    display = AttributionDisplay.from_estimator(spam_classifier(), ["win"])
    assert "win" in str(display)
    with pytest.raises(ImportError, match=r"^AttributionDisplay.plot needs matplotlib: pip install nbnet\[plot\]$"):
        display.plot()
