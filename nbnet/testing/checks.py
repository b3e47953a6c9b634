"""Checks that texts and images share. Each is a function of an unfitted estimator and of samples."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import joblib
import numpy as np
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.validation import has_fit_parameter

METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "transform")


class Samples(NamedTuple):
    """What the checks train and predict on.

    Attributes
    ----------
    X : list or ndarray (n_samples, ...)
    y : ndarray of str (n_samples,)
        Three classes.
    containers : sequence of callable
        ``container(X)`` is another form of the same samples.
    unreadable : dict
        What neither fit nor predict may take, by its description.
    comparable : dict
        Parameters that make weights comparable with repeats: steps on all samples at once, nothing counted but the
        loss.
    """

    X: Any
    y: np.ndarray
    containers: Sequence[Callable]
    unreadable: dict
    comparable: dict

    def rows(self, which) -> tuple[Any, np.ndarray]:
        """Some of the samples: a slice, numbers or a boolean array."""
        numbers = np.arange(len(self.y))[which]
        X = self.X[numbers] if isinstance(self.X, np.ndarray) else [self.X[i] for i in numbers]
        return X, self.y[numbers]


def run_checks(checks: Sequence[Callable], estimator: BaseEstimator, samples: Samples) -> None:
    """Raise AssertionError with the name of the first check that does not pass and what is wrong."""
    for check in checks:
        try:
            check(fresh(estimator), samples)
        except Exception as error:
            raise AssertionError(f"{check.__name__}: {type(error).__name__}: {error}") from error


# ---------------------------------------------------------------- parameters


def check_constructor(estimator, samples):
    """The constructor stores its parameters and does nothing else."""
    stored = vars(type(estimator)(**estimator.get_params(deep=False)))
    parameters = estimator.get_params(deep=False)
    extra = {name for name in stored if name not in parameters and not name.startswith("_")}
    assert not extra, f"attributes set in __init__ that are no parameters: {sorted(extra)}"
    for name, value in parameters.items():
        assert stored[name] is value, f"__init__ changes the parameter {name}"


def check_parameters(estimator, samples):
    """`get_params`, `set_params` and `clone` agree; an unknown parameter is a ValueError."""
    parameters = estimator.get_params()
    assert estimator.set_params(**parameters) is estimator, "set_params does not return self"
    assert repr(clone(estimator)) == repr(estimator), "clone has other parameters"
    with raises(ValueError, "set_params with an unknown name"):
        estimator.set_params(no_such_parameter=1)


def check_classifier(estimator, samples):
    """scikit-learn knows that it is a classifier; pages show it."""
    assert is_classifier(estimator), "is_classifier says no"
    assert "<div" in estimator._repr_html_(), "no HTML representation"


# ---------------------------------------------------------------- fit


def check_fit(estimator, samples):
    """`fit` returns self, learns, changes neither parameters nor data, warns of nothing but missing convergence."""
    X, y = copy.copy(samples.X), samples.y.copy()
    before = repr(estimator.get_params())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert estimator.fit(X, y) is estimator, "fit does not return self"
    assert repr(estimator.get_params()) == before, "fit changes parameters"
    np.testing.assert_array_equal(X, samples.X, "fit changes X")
    np.testing.assert_array_equal(y, samples.y, "fit changes y")
    assert estimator.score(X, y) > 0.5, "the training samples are not learned"
    public = {name for name in vars(estimator) if not name.startswith("_")} - set(estimator.get_params(deep=False))
    wrong = {name for name in public if not name.endswith("_")}
    assert not wrong or hasattr(estimator, "steps"), f"attributes of a fit must end in _: {sorted(wrong)}"
    assert getattr(estimator, "n_iter_", 1) >= 1, "n_iter_ is below 1"


def check_fit_again(estimator, samples):
    """A second fit on the same samples gives the same, one on others forgets the first."""
    first = outputs_of(fit(estimator, samples), samples.X)
    assert_same(outputs_of(fit(estimator, samples), samples.X), first, "a second fit")
    fit(estimator, samples, *samples.rows(slice(40)))
    assert_same(outputs_of(fit(estimator, samples), samples.X), first, "a fit after one on other samples")
    assert_same(outputs_of(fit(clone(estimator), samples), samples.X), first, "the fit of a clone")


def check_global_state(estimator, samples):
    """NumPy's global random state is not touched."""
    before = joblib.hash(np.random.get_state())  # noqa: NPY002
    outputs_of(fit(estimator, samples), samples.X)
    assert joblib.hash(np.random.get_state()) == before, "the global random state changes"  # noqa: NPY002


def check_containers(estimator, samples):
    """Containers of the same samples are the same."""
    expected = outputs_of(fit(estimator, samples), samples.X)
    for container in samples.containers:
        X = container(samples.X)
        name = getattr(container, "__name__", type(X).__name__)
        assert_same(outputs_of(fit(estimator, samples, X), X), expected, f"the fit on {name}")


def check_classes(estimator, samples):
    """Labels of any type come back as they went in."""
    numbers = np.unique(samples.y, return_inverse=True)[1]
    for labels in (
        samples.y,
        samples.y.astype(object),
        samples.y.tolist(),
        numbers,
        numbers.astype(np.uint8) * 100,
        numbers * 1.0,
        numbers > 0,
        np.where(numbers > 0, "yes", "no"),
    ):
        fitted = fit(estimator, samples, samples.X, labels)
        what = f"y of {np.asarray(labels).dtype}"
        np.testing.assert_array_equal(fitted.classes_, np.unique(labels), f"classes_ of {what}")
        predicted = fitted.predict(samples.X)
        assert predicted.dtype == np.asarray(labels).dtype, f"{what} comes back as {predicted.dtype}"
        assert predicted.shape == (len(labels),), f"predictions of {what} have the shape {predicted.shape}"
        assert (predicted == np.asarray(labels)).mean() > 0.5, f"{what} is not learned"


def check_one_class(estimator, samples):
    """One class is predicted always, or refused with a ValueError that says so."""
    labels = np.full(len(samples.y), "only")
    try:
        fit(estimator, samples, samples.X, labels)
    except ValueError as error:
        assert "class" in str(error), f"the message on one class does not speak of classes: {error}"
    else:
        np.testing.assert_array_equal(estimator.predict(samples.X), labels)


def check_sample_weights(estimator, samples):
    """Weights of one change nothing, a weight of 0 is the sample's absence, a whole weight so many repeats."""
    if not has_fit_parameter(estimator, "sample_weight"):
        return
    X, n = samples.X, len(samples.y)
    expected = outputs_of(fit(estimator, samples), X)
    assert_close(outputs_of(fit(estimator, samples, sample_weight=np.ones(n)), X), expected, "weights of one")
    present = np.arange(n) % 3 > 0
    without = outputs_of(fit(estimator, samples, *samples.rows(present)), X)
    weighted = outputs_of(fit(estimator, samples, sample_weight=present.astype(float)), X)
    assert_close(weighted, without, "weights of zero", 1e-5)
    if set(samples.comparable) <= set(estimator.get_params()):
        estimator.set_params(**samples.comparable)
    counts = np.arange(n) % 3 + 1
    repeated = outputs_of(fit(estimator, samples, *samples.rows(np.repeat(np.arange(n), counts))), X)
    weighted = outputs_of(fit(estimator, samples, sample_weight=counts), X)
    assert_close(weighted, repeated, "weights beside repeats", 1e-5)
    for weights in (np.ones(3), np.full(n, np.nan), np.ones((n, 2))):
        with raises(ValueError, f"sample_weight of shape {weights.shape} that starts with {weights.flat[0]}"):
            fit(estimator, samples, sample_weight=weights)


def check_partial_fit(estimator, samples):
    """Classes are declared in the first call; others are refused; samples in parts are learned."""
    if not hasattr(estimator, "partial_fit"):
        return
    with raises(ValueError, "a first partial_fit without classes"):
        estimator.partial_fit(samples.X, samples.y)
    for start in [0, 40] * 20:
        X, y = samples.rows(slice(start, start + 56))
        fitted = estimator.partial_fit(X, y, classes=np.unique(samples.y))
        assert fitted is estimator, "partial_fit does not return self"
    np.testing.assert_array_equal(estimator.classes_, np.unique(samples.y))
    assert estimator.score(samples.X, samples.y) > 0.5, "partial_fit does not learn"
    with raises(ValueError, "a class that was not declared"):
        estimator.partial_fit(samples.X[:2], [samples.y[0], "new"])


# ---------------------------------------------------------------- predict


def check_outputs(estimator, samples):
    """Shapes, classes and probabilities belong together."""
    fitted = fit(estimator, samples)
    outputs = outputs_of(fitted, samples.X)
    n, n_classes = len(samples.y), len(np.unique(samples.y))
    assert outputs["predict"].shape == (n,), f"predict has the shape {outputs['predict'].shape}"
    if "predict_proba" in outputs:
        probabilities = outputs["predict_proba"]
        assert probabilities.shape == (n, n_classes), f"predict_proba has the shape {probabilities.shape}"
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5, err_msg="sums of predict_proba")
        assert (probabilities >= 0).all(), "negative probabilities"
        best = fitted.classes_[probabilities.argmax(axis=1)]
        np.testing.assert_array_equal(outputs["predict"], best, "predict is not the most probable class")
        if "predict_log_proba" in outputs:
            logarithms = outputs["predict_log_proba"]
            np.testing.assert_allclose(logarithms, np.log(probabilities), rtol=1e-5, err_msg="predict_log_proba")
    score = (outputs["predict"] == samples.y).mean()
    np.testing.assert_allclose(fitted.score(samples.X, samples.y), score, err_msg="score is not the accuracy")


def check_order_and_subsets(estimator, samples):
    """What a sample gets does not depend on the other samples of the call."""
    fitted = fit(estimator, samples)
    together = outputs_of(fitted, samples.X)
    backwards = outputs_of(fitted, samples.X[::-1])
    assert_close({name: out[::-1] for name, out in backwards.items()}, together, "samples in reverse order", 1e-7)
    for i in (0, 17, 94):
        alone = outputs_of(fitted, samples.X[i : i + 1])
        assert_close(alone, {name: out[i : i + 1] for name, out in together.items()}, "a sample alone", 1e-7)


def check_nothing_learned_at_predict(estimator, samples):
    """Predictions change nothing that a pickle holds, and give the same twice."""
    fitted = fit(estimator, samples)
    before, first = joblib.hash(fitted), outputs_of(fitted, samples.X)
    assert_same(outputs_of(fitted, samples.X), first, "a second prediction")
    assert joblib.hash(fitted) == before, "predicting changes the estimator"


def check_pickles(estimator, samples):
    """Pickles and copies predict the same."""
    fitted = fit(estimator, samples)
    expected = outputs_of(fitted, samples.X)
    for what, other in (("pickle", pickle.loads(pickle.dumps(fitted))), ("deepcopy", copy.deepcopy(fitted))):
        assert_same(outputs_of(other, samples.X), expected, f"the {what}")
        assert_same(outputs_of(fit(other, samples), samples.X), expected, f"the {what}, fitted again")


def check_transform(estimator, samples):
    """Vectors have names, `set_output` gives data frames, `fit_transform` is `fit` and `transform`."""
    if not hasattr(estimator, "transform"):
        return
    vectors = fit(estimator, samples).transform(samples.X)
    names = estimator.get_feature_names_out()
    assert vectors.shape == (len(samples.y), len(names)), f"{len(names)} names for vectors of the shape {vectors.shape}"
    with quietly():
        both = clone(estimator).fit_transform(samples.X, samples.y)
    np.testing.assert_array_equal(both, vectors, "fit_transform")
    try:
        import pandas  # noqa: F401
    except ImportError:
        return
    frame = estimator.set_output(transform="pandas").transform(samples.X)
    assert list(frame.columns) == list(names), "set_output gives other names"
    np.testing.assert_array_equal(frame.to_numpy(), vectors, "set_output gives other vectors")


# ---------------------------------------------------------------- errors, tools


def check_not_fitted(estimator, samples):
    """Before fit there is a NotFittedError."""
    for name in METHODS:
        if hasattr(estimator, name):
            with raises(NotFittedError, f"{name} before fit"):
                getattr(estimator, name)(samples.X)


def check_invalid_input(estimator, samples):
    """What cannot be read is refused, in fit and in predict."""
    wrong = (TypeError, ValueError, AttributeError)  # the last by scikit-learn's vectorizers
    X, y = samples.X, samples.y
    fits = {what: (unreadable, y[: len(unreadable)]) for what, unreadable in samples.unreadable.items()} | {
        "y too short": (X, y[:-1]),
        "no y": (X, None),
        "y of real numbers": (X, np.linspace(0, 1, len(y))),
        "NaN in y": (X, np.where(y == y[0], 1.0, np.nan)),
    }
    for what, (bad_X, bad_y) in fits.items():
        before = set(vars(estimator))
        with raises(wrong, f"fit with {what}"):
            estimator.fit(bad_X, bad_y)
        left = set(vars(estimator)) - before
        assert not left or hasattr(estimator, "steps"), f"fit with {what} leaves {sorted(left)}"
    fitted = fit(estimator, samples)
    for what, unreadable in samples.unreadable.items():
        with raises(wrong, f"predict with {what}"):
            fitted.predict(unreadable)


def check_model_selection(estimator, samples):
    """Cross-validation and grid search work, in other processes too."""
    X, y = samples.X, samples.y
    with quietly():
        alone = cross_val_score(estimator, X, y, cv=2)
        two = cross_val_score(estimator, X, y, cv=2, n_jobs=2)
        search = GridSearchCV(estimator, {}, cv=2).fit(X, y)
    np.testing.assert_array_equal(alone, two, "scores depend on n_jobs")
    assert np.isfinite(alone).all(), "scores are not finite"
    np.testing.assert_array_equal(search.predict(X[:5]), search.best_estimator_.predict(X[:5]))


SHARED_CHECKS: list[Callable] = [
    check_constructor,
    check_parameters,
    check_classifier,
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
    check_transform,
    check_invalid_input,
    check_model_selection,
]

# ---------------------------------------------------------------- what the checks share


def fresh(estimator):
    """A clone whose random states are set."""
    estimator = clone(estimator)
    seeds = [name for name in estimator.get_params() if name.split("__")[-1] == "random_state"]
    return estimator.set_params(**dict.fromkeys(seeds, 0))


@contextmanager
def quietly():
    """Without warnings, which are the subject of `check_fit`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def fit(estimator, samples: Samples, X=None, y=None, **options):
    """The estimator, fitted on the samples or on other X and y."""
    with quietly():
        return estimator.fit(samples.X if X is None else X, samples.y if y is None else y, **options)


def outputs_of(estimator, X) -> dict[str, np.ndarray]:
    """What each of METHODS gives."""
    with quietly():
        outputs = {name: getattr(estimator, name)(X) for name in METHODS if hasattr(estimator, name)}
    return {name: np.asarray(output) for name, output in outputs.items()}


def assert_same(outputs, expected, what: str) -> None:
    """Equal to the last bit."""
    for name, output in outputs.items():
        np.testing.assert_array_equal(output, expected[name], f"{name} differs after {what}")


def assert_close(outputs, expected, what: str, rtol: float = 1e-6) -> None:
    """Equal but for rounding, relative to the largest value."""
    for name, output in outputs.items():
        if output.dtype.kind == "f":
            scale = np.abs(expected[name]).max()
            message = f"{name} differs for {what}"
            np.testing.assert_allclose(output, expected[name], rtol, rtol * scale, err_msg=message)


@contextmanager
def raises(errors, what: str):
    """Fail unless the block raises one of the errors."""
    try:
        with quietly():
            yield
    except errors:
        return
    raise AssertionError(f"no error for {what}")
