"""The checks for estimators of texts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import get_tags

from .checks import SHARED_CHECKS, Samples, fit, outputs_of, run_checks

SUBJECTS = [
    "the film",
    "this book",
    "that long song",
    "der Tisch",
    "la caf\u00e9t\u00e9ria",
    "\u8fd9\u672c\u4e66",
    "the plot",
    "the meal",
]
OPINIONS = {
    "bad": ["was dull and far too long", "is awful , really awful !", "bored me", "is a mess : ("],
    "good": ["was lovely from start to end", "is great fun !", "made me smile : )", "is nice and clever"],
    "so-so": ["was neither here nor there", "is average", "might please some people", "left me undecided ..."],
}
TEXTS = [f"{subject} {opinion}" for subject in SUBJECTS for opinions in OPINIONS.values() for opinion in opinions]
LABELS = np.array([label for _ in SUBJECTS for label, opinions in OPINIONS.items() for _ in opinions])
AWKWARD = [
    "",
    " \t\r\n",
    "\x00 nul \x00",
    "\ud800 lone surrogates \udfff",
    "\U0001f600\U0001f44d\U0001f3fd",
    "e\u0301 combining",
    "\u202e right to left \u0634\u0643\u0631\u0627",
    "unheardofword",
    "x" * 10_000,
    "film " * 3_000,
    "I\u0307\u0130\u0131\u00df\u03a3\u03c2",
]


def an_array_of_objects(texts):
    """As `numpy.array` of strings of any length."""
    return np.array(texts, dtype=object)


def a_series(texts):
    """With an index of its own; without pandas a list."""
    try:
        import pandas as pd
    except ImportError:
        return list(texts)
    return pd.Series(texts, index=range(100, 100 + len(texts)))


SAMPLES = Samples(
    X=TEXTS,
    y=LABELS,
    containers=(tuple, np.array, an_array_of_objects, a_series),
    unreadable={
        "a single string as X": TEXTS[0],
        "no texts": [],
        "None in X": [*TEXTS[:-1], None],
        "a number in X": [*TEXTS[:-1], 3.5],
        "a NaN in X": [*TEXTS[:-1], np.nan],
        "lists in X": [[text] for text in TEXTS],
    },
    comparable={"dtype": "float64", "batch_size": 10_000, "solver": "sgd", "token_weights": None},
)


def check_text_estimator(estimator: BaseEstimator) -> None:
    """Raise AssertionError where a classifier of texts does not behave as scikit-learn's estimators do.

    Parameters
    ----------
    estimator : estimator
        Unfitted; not changed. Where it has a `random_state`, it is set.

    Raises
    ------
    AssertionError
        With the name of the check and what is wrong.

    Examples
    --------
    >>> from nbnet import TextEmbeddingClassifier
    >>> from nbnet.testing import check_text_estimator
    >>> check_text_estimator(TextEmbeddingClassifier(embedding_dim=8))
    """
    run_checks(TEXT_CHECKS, estimator, SAMPLES)


def check_tags_of_texts(estimator, samples):
    """scikit-learn knows that it reads strings."""
    tags = get_tags(estimator).input_tags
    assert tags.string or hasattr(estimator, "steps"), "the tag input_tags.string is not set"


def check_awkward_texts(estimator, samples):
    """Empty, unknown, broken and very long texts have finite predictions, in training too."""
    fitted = fit(estimator, samples)
    for name, output in outputs_of(fitted, AWKWARD).items():
        finite = output.dtype.kind not in "fc" or np.isfinite(output).all()
        assert finite, f"{name} is not finite for awkward texts"
    labels = np.array(["bad", "good"])[np.arange(len(AWKWARD)) % 2]
    outputs_of(fit(estimator, samples, TEXTS + AWKWARD, np.concatenate([LABELS, labels])), AWKWARD)


TEXT_CHECKS: list[Callable] = [*SHARED_CHECKS, check_tags_of_texts, check_awkward_texts]
