"""`attributions`: what each feature, token or pixel has to do with an output of a fitted network."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.base import is_classifier
from sklearn.pipeline import Pipeline
from sklearn.utils._param_validation import Interval, StrOptions, validate_params
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import ThreadpoolController

from ..estimators.base_mlp import BaseMLP
from ..estimators.conv import ConvClassifier
from ..estimators.text import TextEmbeddingClassifier
from ..tokens import check_texts
from . import methods
from .layers import Layers
from .outputs import Explained, function_of
from .texts import TextFunction, TokenValues

METHODS = ("integrated_gradients", "gradient_x_input", "occlusion", "grad_cam")
OUTPUTS = ("logit", "probability")


@dataclass(frozen=True)
class Attributions:
    """Answer of `attributions`.

    Attributes
    ----------
    values : ndarray, or list of ndarray
        Of the shape of X: what each feature or pixel adds to the output. For texts one array (n_tokens,) each.
    target : ndarray (n,)
        What was explained of each row: a class, a label, or the number of an output.
    output, baseline_output : ndarray (n,)
        The output at the rows of X and at the baseline.
    gap : ndarray (n,) or None
        Integrated gradients: ``output - baseline_output`` less the sum of the values (and `rest`). It vanishes as
        `n_steps` grows. None for other methods, which do not add up.
    baseline : ndarray or None
        What X was compared with, of its shape. None for texts, whose baseline has vectors of zero.
    method : str
    kind : {"table", "image", "text"}
    X : ndarray or list of str
        What the network was given: X itself, or what the steps of a pipeline before it have made of X.
    feature_names : list of str or None
        Of tables.
    image_shape : (height, width, channels) or None
        Of images.
    tokens : list of list of str, or None
        The tokens of each text, as they stand there.
    spans : list of ndarray (n_tokens, 2), or None
        First character and end of each token: ``X[i][first:end]``. None for a text whose analyzer (of the user's, or
        scikit-learn's) makes features that are not found in it.
    rest : ndarray (n,) or None
        Texts: what belongs to no token, but to the mark of a text's beginning and end.
    """

    values: Any
    target: np.ndarray
    output: np.ndarray
    baseline_output: np.ndarray
    gap: np.ndarray | None
    baseline: np.ndarray | None
    method: str
    kind: str
    X: Any
    feature_names: list[str] | None = None
    image_shape: tuple[int, int, int] | None = None
    tokens: list[list[str]] | None = None
    spans: list[np.ndarray | None] | None = None
    rest: np.ndarray | None = None


@validate_params(
    {
        "method": [StrOptions(set(METHODS))],
        "output": [StrOptions(set(OUTPUTS))],
        "n_steps": [Interval(Integral, 1, None, closed="left")],
        "window": [Interval(Integral, 1, None, closed="left"), None],
    },
    prefer_skip_nested_validation=True,
)
def attributions(
    model,
    X,
    target=None,
    method="integrated_gradients",
    *,
    output="logit",
    baseline=None,
    n_steps=50,
    window=None,
) -> Attributions:
    """What each feature, token or pixel has to do with an output of a fitted network.

    Parameters
    ----------
    model : estimator
        A fitted estimator of nbnet, a Pipeline that ends with one, or a search over either. Of a pipeline the last step
        is explained, in terms of what it is given.
    X : array-like, sparse matrix, images or sequence of str
        Rows as for ``model.predict``; some hundred at most is what this is made for.
    target : label, int or array-like of shape (n,), default=None
        What to explain, for all rows or for each: a class of a classifier, a label of a multilabel one, or the number
        of an output of a regressor. Where classes are no numbers, a number counts them in the order of `classes_`.
        None: the most probable class of each row; the output of a regressor, where it is the only one.
    method : {"integrated_gradients", "gradient_x_input", "occlusion", "grad_cam"}, default="integrated_gradients"
        With the output f, the input x and the baseline b:

        - "integrated_gradients": (x - b) times the mean gradient of f on the straight way from b to x. Values add up to
          f(x) - f(b).
        - "gradient_x_input": (x - b) times the gradient at x. A fiftieth of the time.
        - "occlusion": f(x) - f(x with the feature, the token with its n-grams, or a window of pixels from b). Asks
          nothing of the network's slopes.
        - "grad_cam": images: the last convolution's maps, weighted by the mean gradient of f; what is negative is cut.
          One map an image, the same in each channel.
    output : {"logit", "probability"}, default="logit"
        Whether f is the number before softmax, logistic or exp (of Poisson regression), or after. With a hierarchical
        softmax the logit is the logarithm of the probability.
    baseline : array-like, default=None
        A row, or as many as X has, to compare with, in the units of X. None: what the network sees as zero, that is
        `input_center_` or zeros for tables, `channel_mean_` for images. Texts have no other baseline than that.
    n_steps : int, default=50
        Points on the way, of Gauss and Legendre.
    window : int or None, default=None
        Side in pixels of the square that "occlusion" covers, moved by half of it; None: an eighth of the image's longer
        side.

    Returns
    -------
    attributions : Attributions

    Raises
    ------
    TypeError
        If the model is none of nbnet's.
    ValueError
        For a target, baseline or method that does not go with the model.

    Notes
    -----
    Computed in float64 by NumPy, whatever the model's precision; only the occlusion of images goes through the kernels
    that predict. A method is a definition, not the truth about a model: where two of them disagree, look closer.

    Examples
    --------
    >>> from nbnet import TextEmbeddingClassifier
    >>> from nbnet.inspection import attributions
    >>> texts = ["what a lovely film", "lovely, just lovely", "a dull film", "so dull and so long"]
    >>> labels = ["good", "good", "bad", "bad"]
    >>> classifier = TextEmbeddingClassifier(random_state=0).fit(texts, labels)
    >>> found = attributions(classifier, ["A lovely day."], target="good")
    >>> found.tokens[0]
    ['A', 'lovely', 'day', '.']
    >>> max(zip(found.values[0], found.tokens[0], strict=True))[1]
    'lovely'
    """
    model, X, names = last_step(model, X)
    if method == "grad_cam" and not isinstance(model, ConvClassifier):
        raise ValueError(f"method='grad_cam' is for ConvClassifier, not for {type(model).__name__}.")
    function = function_of(model, output)
    if isinstance(model, TextEmbeddingClassifier) and baseline is not None:
        raise ValueError("baseline must be None for texts: they are compared with vectors of zero.")
    # products are small beside the copies between them: a second thread gains nothing, and spins where cores are taken
    with blas().limit(limits=1, user_api="blas"):
        if isinstance(model, TextEmbeddingClassifier):
            return _of_texts(model, check_texts(X), target, function, method, n_steps)
        return _of_rows(model, X, names, target, function, method, baseline, n_steps, window)


@functools.cache
def blas() -> ThreadpoolController:
    """The libraries that NumPy multiplies with; finding them takes some milliseconds."""
    return ThreadpoolController()


def last_step(model, X) -> tuple[Any, Any, list[str] | None]:
    """The estimator that is explained, its input, and the names of the input's columns where they are known."""
    model = getattr(model, "best_estimator_", model)
    names = None
    if isinstance(model, Pipeline):
        before, model = model[:-1], model[-1]
        X = before.transform(X) if len(before) else X
        model = getattr(model, "best_estimator_", model)
        try:
            names = list(map(str, before.get_feature_names_out())) if len(before) else None
        except (AttributeError, ValueError):  # a step does not tell
            names = None
    if not isinstance(model, (BaseMLP, ConvClassifier, TextEmbeddingClassifier)):
        raise TypeError(
            "attributions explains MLPClassifier, MLPRegressor, ConvClassifier and TextEmbeddingClassifier of nbnet, "
            f"or a Pipeline that ends with one, got {type(model).__name__}."
        )
    check_is_fitted(model, "params_")
    if hasattr(model, "feature_names_in_"):
        names = list(map(str, model.feature_names_in_))
    return model, X, names


# ---------------------------------------------------------------- what is explained


def target_numbers(model, X, target, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Number of each row's output, and its name: a class, a label, or that number."""
    if not is_classifier(model):
        return _output_numbers(model, target, n)
    classes = model.classes_
    if target is None:
        numbers = np.minimum(model.predict_proba(X).argmax(axis=1), len(classes) - 1)
    else:
        known, are_numbers = classes.tolist(), classes.dtype.kind in "biuf"
        wanted = _one_a_row(target, n)
        numbers = np.array([_class_number(known, label, are_numbers) for label in wanted], np.int64)
    return numbers, classes[numbers]


def _class_number(known: list, label, are_numbers: bool) -> int:
    if label in known:
        return known.index(label)
    is_index = isinstance(label, Integral) and not isinstance(label, bool)
    if is_index and not are_numbers and 0 <= label < len(known):
        return int(label)
    raise ValueError(f"target={label!r} is not among the classes {known!r:.200}.")


def _output_numbers(model, target, n: int) -> tuple[np.ndarray, np.ndarray]:
    n_outputs = int(model.n_outputs_)
    if target is None:
        if n_outputs > 1:
            raise ValueError(f"target must be the number of an output, 0 to {n_outputs - 1}, got None.")
        target = 0
    numbers = _one_a_row(target, n)
    if not all(isinstance(k, Integral) and 0 <= k < n_outputs for k in numbers):
        raise ValueError(f"target must be the number of an output, 0 to {n_outputs - 1}, got {target!r}.")
    numbers = np.array(numbers, np.int64)
    return numbers, numbers


def _one_a_row(target, n: int) -> list:
    if np.ndim(target) == 0:
        return [target.item() if hasattr(target, "item") else target] * n
    if len(target) != n:
        raise ValueError(f"target has {len(target)} entries for {n} rows of X.")
    return np.asarray(target).tolist()


# ---------------------------------------------------------------- texts


def _of_texts(model, texts, target, function, method, n_steps) -> Attributions:
    numbers, names = target_numbers(model, texts, target, len(texts))
    explained, f, rest = Explained(function, numbers), TextFunction(model, texts), np.zeros(len(texts))
    if method == "occlusion":
        values = f.occlusion(explained)
    else:
        of_entries = (
            f.gradient_x_input(explained)
            if method == "gradient_x_input"
            else f.integrated_gradients(explained, n_steps)
        )
        values, rest = TokenValues.of(f.documents, of_entries)
    output, baseline_output = f.value(explained), f.value(explained, 0.0)
    gap = None
    if method == "integrated_gradients":
        gap = output - baseline_output - np.array([v.sum() for v in values]) - rest
    return Attributions(
        values=values,
        target=names,
        output=output,
        baseline_output=baseline_output,
        gap=gap,
        baseline=None,
        method=method,
        kind="text",
        X=texts,
        tokens=[document.tokens for document in f.documents],
        spans=[document.spans for document in f.documents],
        rest=rest,
    )


# ---------------------------------------------------------------- tables and images


class Standardized:
    """``(x - mean) / deviation``, channel by channel."""

    def __init__(self, mean, deviation):
        self.mean, self.deviation = mean, deviation

    def transform(self, x):
        return (x - self.mean) / self.deviation

    def slope(self, x):
        return 1.0 / self.deviation


class Scaled:
    """The `input_scaling` of an MLP."""

    def __init__(self, scaler):
        self.scaler = scaler

    def transform(self, x):
        return self.scaler.transform(x, np.float64)

    def slope(self, x):
        return self.scaler.slope(x)


def _of_rows(model, X, names, target, function, method, baseline, n_steps, window) -> Attributions:
    is_image = isinstance(model, ConvClassifier)
    given = model._validate_rows(X)
    given = given.toarray() if sp.issparse(given) else given
    n, of_row = len(given), model.image_shape_ if is_image else given.shape[1:]
    x = given.reshape(n, *of_row).astype(np.float64)
    scaling = _scaling_of(model)
    compared = _baseline_of(model, baseline, given).reshape(n, *of_row)
    numbers, targets = target_numbers(model, X, target, n)
    explained = Explained(function, numbers)
    f = methods.RowFunction(Layers(model.network_.layers, model.params_), explained, scaling)
    if method == "integrated_gradients":
        values = methods.integrated_gradients(f, x, compared, n_steps)
    elif method == "gradient_x_input":
        values = methods.gradient_x_input(f, x, compared)
    elif method == "grad_cam":
        values = methods.grad_cam(f, x, model.network_.layers)
    elif is_image:
        side = max(1, -(-max(of_row[:2]) // 8)) if window is None else window
        compiled = methods.CompiledFunction(model, explained)
        values = methods.occlude_windows(compiled, x, compared, side, max(1, side // 2))
    else:
        values = methods.occlude_features(f, x, compared)
    output, baseline_output = f.value(x), f.value(compared)
    gap = None
    if method == "integrated_gradients":
        gap = output - baseline_output - values.reshape(n, -1).sum(axis=1)
    if names is None and not is_image:
        names = [f"x{j}" for j in range(x.shape[1])]
    return Attributions(
        values=values.reshape(given.shape),
        target=targets,
        output=output,
        baseline_output=baseline_output,
        gap=gap,
        baseline=compared.reshape(given.shape),
        method=method,
        kind="image" if is_image else "table",
        X=given,
        feature_names=None if is_image else names,
        image_shape=of_row if is_image else None,
    )


def _scaling_of(model):
    if isinstance(model, ConvClassifier):
        return Standardized(model.channel_mean_, model.channel_deviation_)
    scaler = vars(model).get("_input_scaler")
    return Standardized(0.0, 1.0) if scaler is None else Scaled(scaler)


def _baseline_of(model, baseline, given: np.ndarray) -> np.ndarray:
    """The baseline of each row, of the shape of `given`."""
    if baseline is None and isinstance(model, ConvClassifier):
        return np.broadcast_to(model.channel_mean_, (len(given), *model.image_shape_)).reshape(given.shape)
    if baseline is None:
        baseline = vars(model).get("input_center_", 0.0)
    baseline = np.asarray(baseline, np.float64)
    if baseline.shape not in ((), given.shape[1:], given.shape):
        raise ValueError(
            f"baseline must have the shape {given.shape[1:]} of a row or {given.shape} of X, got {baseline.shape}."
        )
    if not np.isfinite(baseline).all():
        raise ValueError("baseline must be finite.")
    return np.broadcast_to(baseline, given.shape).copy()
