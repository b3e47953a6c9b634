"""scikit-learn's checks, done again for estimators of texts, which its own `check_estimator` skips.

Each check is a function of an unfitted estimator, raises AssertionError with what is wrong, and says in its docstring
what holds when it passes. They need nothing but the estimator's methods: a pipeline that begins with a vectorizer
passes them too.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from contextlib import contextmanager

import joblib
import numpy as np
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils import get_tags
from sklearn.utils.validation import has_fit_parameter

__all__ = ["check_text_estimator"]

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
METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "transform")

# What makes weights comparable with repeats: steps on all documents at once, nothing counted but the loss
COMPARABLE = {"dtype": "float64", "batch_size": 10_000, "solver": "sgd", "token_weights": None}


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
    for check in CHECKS:
        try:
            check(_fresh(estimator))
        except Exception as error:
            raise AssertionError(f"{check.__name__}: {type(error).__name__}: {error}") from error


# ---------------------------------------------------------------- parameters


def check_constructor(estimator):
    """The constructor stores its parameters and does nothing else."""
    stored = vars(type(estimator)(**estimator.get_params(deep=False)))
    parameters = estimator.get_params(deep=False)
    extra = {name for name in stored if name not in parameters and not name.startswith("_")}
    assert not extra, f"attributes set in __init__ that are no parameters: {sorted(extra)}"
    for name, value in parameters.items():
        assert stored[name] is value, f"__init__ changes the parameter {name}"


def check_parameters(estimator):
    """`get_params`, `set_params` and `clone` agree; an unknown parameter is a ValueError."""
    parameters = estimator.get_params()
    assert estimator.set_params(**parameters) is estimator, "set_params does not return self"
    assert repr(clone(estimator)) == repr(estimator), "clone has other parameters"
    with _raises(ValueError, "set_params with an unknown name"):
        estimator.set_params(no_such_parameter=1)


def check_tags(estimator):
    """scikit-learn knows that it is a classifier of strings; pages show it."""
    assert is_classifier(estimator), "is_classifier says no"
    tags = get_tags(estimator).input_tags
    assert tags.string or hasattr(estimator, "steps"), "the tag input_tags.string is not set"
    assert "<div" in estimator._repr_html_(), "no HTML representation"


# ---------------------------------------------------------------- fit


def check_fit(estimator):
    """`fit` returns self, learns, changes neither parameters nor data, warns of nothing but missing convergence."""
    texts, labels = list(TEXTS), LABELS.copy()
    before = repr(estimator.get_params())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert estimator.fit(texts, labels) is estimator, "fit does not return self"
    assert repr(estimator.get_params()) == before, "fit changes parameters"
    assert texts == TEXTS, "fit changes the texts"
    np.testing.assert_array_equal(labels, LABELS, "fit changes y")
    assert estimator.score(texts, labels) > 0.5, "the training texts are not learned"
    public = {name for name in vars(estimator) if not name.startswith("_")} - set(estimator.get_params(deep=False))
    wrong = {name for name in public if not name.endswith("_")}
    assert not wrong or hasattr(estimator, "steps"), f"attributes of a fit must end in _: {sorted(wrong)}"
    assert getattr(estimator, "n_iter_", 1) >= 1, "n_iter_ is below 1"


def check_fit_again(estimator):
    """A second fit on the same texts gives the same, one on other texts forgets the first."""
    first = _outputs(_fit(estimator))
    _assert_same(_outputs(_fit(estimator)), first, "a second fit")
    _fit(estimator, TEXTS[:40], LABELS[:40])
    _assert_same(_outputs(_fit(estimator)), first, "a fit after one on other texts")
    _assert_same(_outputs(_fit(clone(estimator))), first, "the fit of a clone")


def check_global_state(estimator):
    """NumPy's global random state is not touched."""
    before = joblib.hash(np.random.get_state())  # noqa: NPY002
    _outputs(_fit(estimator))
    assert joblib.hash(np.random.get_state()) == before, "the global random state changes"  # noqa: NPY002


def check_containers(estimator):
    """Lists, tuples, arrays and Series of the same texts are the same."""
    expected = _outputs(_fit(estimator))
    containers = [tuple, np.array, lambda texts: np.array(texts, dtype=object)]
    try:
        import pandas as pd
    except ImportError:
        pass
    else:
        containers.append(lambda texts: pd.Series(texts, index=range(100, 100 + len(texts))))
    for container in containers:
        texts = container(TEXTS)
        fitted = _fit(estimator, texts, LABELS)
        _assert_same(_outputs(fitted, texts), expected, f"the fit on a {type(texts).__name__}")


def check_classes(estimator):
    """Labels of any type come back as they went in."""
    numbers = np.unique(LABELS, return_inverse=True)[1]
    for labels in (
        LABELS,
        LABELS.astype(object),
        LABELS.tolist(),
        numbers,
        numbers.astype(np.uint8) * 100,
        numbers * 1.0,
        numbers > 0,
        np.where(numbers > 0, "yes", "no"),
    ):
        fitted = _fit(estimator, TEXTS, labels)
        what = f"y of {np.asarray(labels).dtype}"
        np.testing.assert_array_equal(fitted.classes_, np.unique(labels), f"classes_ of {what}")
        predicted = fitted.predict(TEXTS)
        assert predicted.dtype == np.asarray(labels).dtype, f"{what} comes back as {predicted.dtype}"
        assert predicted.shape == (len(TEXTS),), f"predictions of {what} have the shape {predicted.shape}"
        assert (predicted == np.asarray(labels)).mean() > 0.5, f"{what} is not learned"


def check_one_class(estimator):
    """One class is predicted always, or refused with a ValueError that says so."""
    labels = np.full(len(TEXTS), "only")
    try:
        _fit(estimator, TEXTS, labels)
    except ValueError as error:
        assert "class" in str(error), f"the message on one class does not speak of classes: {error}"
    else:
        np.testing.assert_array_equal(estimator.predict(TEXTS), labels)


def check_sample_weights(estimator):
    """Weights of one change nothing, a weight of 0 is the text's absence, a whole weight so many repeats."""
    if not has_fit_parameter(estimator, "sample_weight"):
        return
    expected = _outputs(_fit(estimator))
    _assert_close(_outputs(_fit(estimator, sample_weight=np.ones(len(TEXTS)))), expected, "weights of one")
    present = np.arange(len(TEXTS)) % 3 > 0
    without = _outputs(_fit(estimator, np.array(TEXTS)[present], LABELS[present]))
    _assert_close(_outputs(_fit(estimator, sample_weight=present.astype(float))), without, "weights of zero")
    if set(COMPARABLE) <= set(estimator.get_params()):
        estimator.set_params(**COMPARABLE)
    counts = np.arange(len(TEXTS)) % 3 + 1
    repeated = _outputs(_fit(estimator, np.repeat(TEXTS, counts), np.repeat(LABELS, counts)))
    _assert_close(_outputs(_fit(estimator, sample_weight=counts)), repeated, "weights beside repeats", 1e-5)
    for weights in (np.ones(3), np.full(len(TEXTS), np.nan), np.ones((len(TEXTS), 2))):
        with _raises(ValueError, f"sample_weight of shape {weights.shape} that starts with {weights.flat[0]}"):
            _fit(estimator, sample_weight=weights)


def check_partial_fit(estimator):
    """Classes are declared in the first call; others are refused; texts in parts are learned."""
    if not hasattr(estimator, "partial_fit"):
        return
    with _raises(ValueError, "a first partial_fit without classes"):
        estimator.partial_fit(TEXTS, LABELS)
    for start in [0, 40] * 20:
        half = slice(start, start + 56)
        fitted = estimator.partial_fit(TEXTS[half], LABELS[half], classes=np.unique(LABELS))
        assert fitted is estimator, "partial_fit does not return self"
    np.testing.assert_array_equal(estimator.classes_, np.unique(LABELS))
    assert estimator.score(TEXTS, LABELS) > 0.5, "partial_fit does not learn"
    with _raises(ValueError, "a class that was not declared"):
        estimator.partial_fit(TEXTS[:2], ["good", "new"])


# ---------------------------------------------------------------- predict


def check_outputs(estimator):
    """Shapes, classes and probabilities belong together."""
    fitted = _fit(estimator)
    outputs = _outputs(fitted)
    n_texts, n_classes = len(TEXTS), len(OPINIONS)
    assert outputs["predict"].shape == (n_texts,), f"predict has the shape {outputs['predict'].shape}"
    if "predict_proba" in outputs:
        probabilities = outputs["predict_proba"]
        assert probabilities.shape == (n_texts, n_classes), f"predict_proba has the shape {probabilities.shape}"
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5, err_msg="sums of predict_proba")
        assert (probabilities >= 0).all(), "negative probabilities"
        best = fitted.classes_[probabilities.argmax(axis=1)]
        np.testing.assert_array_equal(outputs["predict"], best, "predict is not the most probable class")
        if "predict_log_proba" in outputs:
            logarithms = outputs["predict_log_proba"]
            np.testing.assert_allclose(logarithms, np.log(probabilities), rtol=1e-5, err_msg="predict_log_proba")
    score = (outputs["predict"] == LABELS).mean()
    np.testing.assert_allclose(fitted.score(TEXTS, LABELS), score, err_msg="score is not the accuracy")


def check_order_and_subsets(estimator):
    """What a text gets does not depend on the other texts of the call."""
    fitted = _fit(estimator)
    together = _outputs(fitted)
    backwards = _outputs(fitted, TEXTS[::-1])
    _assert_close({name: out[::-1] for name, out in backwards.items()}, together, "texts in reverse order", 1e-7)
    for i in (0, 17, 94):
        alone = _outputs(fitted, TEXTS[i : i + 1])
        _assert_close(alone, {name: out[i : i + 1] for name, out in together.items()}, "a text alone", 1e-7)


def check_nothing_learned_at_predict(estimator):
    """Predictions change nothing that a pickle holds, and give the same twice."""
    fitted = _fit(estimator)
    before, first = joblib.hash(fitted), _outputs(fitted)
    _assert_same(_outputs(fitted), first, "a second prediction")
    assert joblib.hash(fitted) == before, "predicting changes the estimator"


def check_pickles(estimator):
    """Pickles and copies predict the same."""
    fitted = _fit(estimator)
    expected = _outputs(fitted)
    for what, other in (("pickle", pickle.loads(pickle.dumps(fitted))), ("deepcopy", copy.deepcopy(fitted))):
        _assert_same(_outputs(other), expected, f"the {what}")
        _assert_same(_outputs(_fit(other)), expected, f"the {what}, fitted again")


def check_awkward_texts(estimator):
    """Empty, unknown, broken and very long texts have finite predictions, in training too."""
    fitted = _fit(estimator)
    for name, output in _outputs(fitted, AWKWARD).items():
        finite = output.dtype.kind not in "fc" or np.isfinite(output).all()
        assert finite, f"{name} is not finite for awkward texts"
    labels = np.array(["bad", "good"])[np.arange(len(AWKWARD)) % 2]
    _outputs(_fit(estimator, TEXTS + AWKWARD, np.concatenate([LABELS, labels])), AWKWARD)


def check_transform(estimator):
    """Vectors have names, `set_output` gives data frames, `fit_transform` is `fit` and `transform`."""
    if not hasattr(estimator, "transform"):
        return
    vectors = _fit(estimator).transform(TEXTS)
    names = estimator.get_feature_names_out()
    assert vectors.shape == (len(TEXTS), len(names)), f"{len(names)} names for vectors of the shape {vectors.shape}"
    np.testing.assert_array_equal(clone(estimator).fit_transform(TEXTS, LABELS), vectors, "fit_transform")
    try:
        import pandas as pd
    except ImportError:
        return
    frame = estimator.set_output(transform="pandas").transform(pd.Series(TEXTS, index=range(5, 5 + len(TEXTS))))
    assert list(frame.columns) == list(names), "set_output gives other names"
    np.testing.assert_array_equal(frame.to_numpy(), vectors, "set_output gives other vectors")


# ---------------------------------------------------------------- errors, tools


def check_not_fitted(estimator):
    """Before fit there is a NotFittedError."""
    for name in METHODS:
        if hasattr(estimator, name):
            with _raises(NotFittedError, f"{name} before fit"):
                getattr(estimator, name)(TEXTS)


def check_invalid_input(estimator):
    """What cannot be read is refused, in fit and in predict."""
    wrong = (TypeError, ValueError, AttributeError)  # the last by scikit-learn's vectorizers
    fits = {
        "a single string as X": (TEXTS[0], LABELS),
        "no texts": ([], []),
        "None in X": ([*TEXTS[:-1], None], LABELS),
        "a number in X": ([*TEXTS[:-1], 3.5], LABELS),
        "a NaN in X": ([*TEXTS[:-1], np.nan], LABELS),
        "lists in X": ([[text] for text in TEXTS], LABELS),
        "y too short": (TEXTS, LABELS[:-1]),
        "no y": (TEXTS, None),
        "y of real numbers": (TEXTS, np.linspace(0, 1, len(TEXTS))),
        "NaN in y": (TEXTS, np.where(LABELS == "bad", 1.0, np.nan)),
    }
    for what, (X, y) in fits.items():
        with _raises(wrong, f"fit with {what}"):
            estimator.fit(X, y)
    fitted = _fit(estimator)
    for what in ("a single string as X", "None in X", "a number in X", "lists in X"):
        with _raises(wrong, f"predict with {what}"):
            fitted.predict(fits[what][0])


def check_model_selection(estimator):
    """Cross-validation and grid search work, in other processes too."""
    with _quietly():
        alone = cross_val_score(estimator, TEXTS, LABELS, cv=2)
        two = cross_val_score(estimator, TEXTS, LABELS, cv=2, n_jobs=2)
        search = GridSearchCV(estimator, {}, cv=2).fit(TEXTS, LABELS)
    np.testing.assert_array_equal(alone, two, "scores depend on n_jobs")
    assert np.isfinite(alone).all(), "scores are not finite"
    np.testing.assert_array_equal(search.predict(TEXTS[:5]), search.best_estimator_.predict(TEXTS[:5]))


CHECKS: list[Callable] = [
    check_constructor,
    check_parameters,
    check_tags,
    check_not_fitted,
    check_fit,
    check_fit_again,
    check_global_state,
    check_containers,
    check_classes,
    check_one_class,
    check_sample_weights,
    check_partial_fit,
    check_outputs,
    check_order_and_subsets,
    check_nothing_learned_at_predict,
    check_pickles,
    check_awkward_texts,
    check_transform,
    check_invalid_input,
    check_model_selection,
]

# ---------------------------------------------------------------- what the checks share


def _fresh(estimator):
    estimator = clone(estimator)
    seeds = [name for name in estimator.get_params() if name.split("__")[-1] == "random_state"]
    return estimator.set_params(**dict.fromkeys(seeds, 0))


@contextmanager
def _quietly():
    """Without warnings, which are the subject of `check_fit`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _fit(estimator, X=TEXTS, y=LABELS, **options):
    with _quietly():
        return estimator.fit(X, y, **options)


def _outputs(estimator, X=TEXTS) -> dict[str, np.ndarray]:
    with _quietly():
        outputs = {name: getattr(estimator, name)(X) for name in METHODS if hasattr(estimator, name)}
    return {name: np.asarray(output) for name, output in outputs.items()}


def _assert_same(outputs, expected, what: str) -> None:
    for name, output in outputs.items():
        np.testing.assert_array_equal(output, expected[name], f"{name} differs after {what}")


def _assert_close(outputs, expected, what: str, rtol: float = 1e-6) -> None:
    for name, output in outputs.items():
        if output.dtype.kind == "f":
            scale = np.abs(expected[name]).max()
            message = f"{name} differs for {what}"
            np.testing.assert_allclose(output, expected[name], rtol, rtol * scale, err_msg=message)


@contextmanager
def _raises(errors, what: str):
    try:
        with _quietly():
            yield
    except errors:
        return
    raise AssertionError(f"no error for {what}")
