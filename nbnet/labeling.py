"""Fewer labels: learn from samples without one, find those that are wrong, choose what to label next.

All three take samples of any kind that the estimator takes: tables, raw texts, images.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Self

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, _fit_context, clone, is_classifier
from sklearn.model_selection import check_cv, cross_val_predict
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, assert_all_finite, check_random_state, column_or_1d, get_tags
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions, validate_params
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _num_samples, check_consistent_length, check_is_fitted

from .estimators.base import unchanged_on_error

UNLABELED = -1


# ---------------------------------------------------------------- samples without labels


class SelfTrainingClassifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """Classifier that labels what has no label as it learns.

    The estimator is fitted on the samples that have labels. Those of the others that it is sure of get the label that
    it predicts, and so on. What `sklearn.semi_supervised.SelfTrainingClassifier` does, with its parameters and
    attributes, for raw texts and images as well, and for labels that are strings.

    Parameters
    ----------
    estimator : estimator
        Classifier with `predict_proba`.
    threshold : float, default=0.75
        Probability above which a prediction becomes a label; for ``criterion="threshold"``.
    criterion : {"threshold", "k_best"}, default="threshold"
        Whether all predictions above the threshold become labels, or the `k_best` most probable ones.
    k_best : int, default=10
        Labels that an iteration adds.
    max_iter : int or None, default=10
        Most iterations; None: until nothing more is labeled.
    verbose : bool, default=False
        Whether to print a line after each iteration.

    Attributes
    ----------
    estimator_ : estimator
        Fitted on all samples that have labels in the end.
    classes_ : ndarray (n_classes,)
        Class labels.
    transduction_ : ndarray (n_samples,)
        The labels of the final fit; as in y for a sample that has got none.
    labeled_iter_ : ndarray (n_samples,)
        Iteration in which each sample has got its label: 0 for those of y, -1 for none.
    n_iter_ : int
        Iterations.
    termination_condition_ : {"max_iter", "no_change", "all_labeled"}
        Why they ended.

    See Also
    --------
    select_to_label : What to label next by hand.

    Notes
    -----
    A network is surer of itself than it should be, and what it labels wrongly it learns: see `termination_condition_`,
    keep some labels apart to score with, and calibrate if need be.

    References
    ----------
    Yarowsky, Unsupervised word sense disambiguation rivaling supervised methods, 1995.

    Examples
    --------
    >>> from nbnet import TextEmbeddingClassifier
    >>> from nbnet.labeling import SelfTrainingClassifier
    >>> texts = ["a lovely film", "a lovely play", "a dull film", "a dull play", "lovely music", "dull music", "music"]
    >>> labels = ["good", "good", "bad", "bad", None, None, None]
    >>> classifier = SelfTrainingClassifier(TextEmbeddingClassifier(random_state=0), threshold=0.6)
    >>> classifier.fit(texts, labels).transduction_.tolist()
    ['good', 'good', 'bad', 'bad', 'good', 'bad', None]
    """

    _parameter_constraints: dict = {
        "estimator": [HasMethods(["fit"])],
        "threshold": [Interval(Real, 0.0, 1.0, closed="left")],
        "criterion": [StrOptions({"threshold", "k_best"})],
        "k_best": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left"), None],
        "verbose": ["verbose"],
    }

    def __init__(self, estimator, threshold=0.75, criterion="threshold", k_best=10, max_iter=10, verbose=False):
        self.estimator = estimator
        self.threshold = threshold
        self.criterion = criterion
        self.k_best = k_best
        self.max_iter = max_iter
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y) -> Self:
        """Fit to samples of which some have no label.

        Parameters
        ----------
        X : array-like, sparse matrix, images or sequence of str
            The samples, as `estimator` takes them.
        y : array-like of shape (n_samples,)
            Labels; -1, None or NaN where there is none.

        Returns
        -------
        self : SelfTrainingClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            If no sample has a label.
        """
        X, labels = as_samples(X), Labels(y)
        check_consistent_length(X, labels.values)
        n_unlabeled = int((~labels.known).sum())
        if n_unlabeled == len(labels.values):
            raise ValueError("y has no labels: all its entries are -1, None or NaN.")
        if n_unlabeled == 0:
            warnings.warn("y contains no unlabeled samples", UserWarning, stacklevel=2)
        if self.criterion == "k_best" and self.k_best > n_unlabeled:
            warnings.warn(
                f"k_best={self.k_best} is larger than the number of unlabeled samples, {n_unlabeled}: all of them will "
                "be labeled in the first iteration.",
                UserWarning,
                stacklevel=2,
            )
        with unchanged_on_error(self):
            self.labeled_iter_ = np.where(labels.known, 0, UNLABELED)
            self.n_iter_, self.termination_condition_ = 0, None
            self._fit_labeled(X, labels)
            while self.termination_condition_ is None:
                if labels.known.all():
                    self.termination_condition_ = "all_labeled"
                elif self.n_iter_ == self.max_iter:
                    self.termination_condition_ = "max_iter"
                else:
                    self._label(X, labels)
            self.transduction_ = labels.natural() if labels.known.all() else labels.values
            self.classes_ = self.estimator_.classes_
            for name in ("n_features_in_", "feature_names_in_"):
                if hasattr(self.estimator_, name):
                    setattr(self, name, getattr(self.estimator_, name))
        return self

    def _fit_labeled(self, X, labels: Labels) -> None:
        self.estimator_ = clone(self.estimator)
        self.estimator_.fit(_safe_indexing(X, np.flatnonzero(labels.known)), labels.natural())

    def _label(self, X, labels: Labels) -> None:
        """One iteration: labels for some of the samples without one, and a new fit."""
        self.n_iter_ += 1
        unlabeled = np.flatnonzero(~labels.known)
        probabilities = self.estimator_.predict_proba(_safe_indexing(X, unlabeled))
        best = probabilities.max(axis=1)
        if self.criterion == "threshold":
            chosen = np.flatnonzero(best > self.threshold)
        else:
            chosen = np.argsort(-best, kind="stable")[: self.k_best]
        if not chosen.size:
            self.termination_condition_ = "no_change"
            return
        labels.add(unlabeled[chosen], self.estimator_.classes_[probabilities[chosen].argmax(axis=1)])
        self.labeled_iter_[unlabeled[chosen]] = self.n_iter_
        if self.verbose:
            print(f"End of iteration {self.n_iter_}, added {chosen.size} new labels.")
        self._fit_labeled(X, labels)

    def predict(self, X) -> np.ndarray:
        """Classes of samples.

        Parameters
        ----------
        X : array-like, sparse matrix, images or sequence of str
            As in `fit`.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            Predicted classes.
        """
        check_is_fitted(self)
        return self.estimator_.predict(X)

    def predict_proba(self, X) -> np.ndarray:
        """Probability of each class.

        Parameters
        ----------
        X : array-like, sparse matrix, images or sequence of str
            As in `fit`.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        check_is_fitted(self)
        return self.estimator_.predict_proba(X)

    def predict_log_proba(self, X) -> np.ndarray:
        """Logarithm of `predict_proba`.

        Parameters
        ----------
        X : array-like, sparse matrix, images or sequence of str
            As in `fit`.

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        check_is_fitted(self)
        return self.estimator_.predict_log_proba(X)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self.estimator).input_tags
        return tags


def as_samples(X):
    """X in a form that some samples can be taken from."""
    if isinstance(X, (str, bytes)):
        raise ValueError("A sequence of samples expected, string object received.")
    if sp.issparse(X):
        return X.tocsr()
    return X if hasattr(X, "__getitem__") else np.asarray(X)


class Labels:
    """Labels of samples, some of which have none.

    Parameters
    ----------
    y : array-like (n_samples,)

    Attributes
    ----------
    values : ndarray (n_samples,)
        Numbers if all of y are, else objects; what says that there is no label is left as it is.
    known : ndarray of bool (n_samples,)
        Which samples have a label: not -1, None or NaN.
    """

    def __init__(self, y):
        self._given_as_objects = np.dtype(object) == getattr(y, "dtype", None)
        self.values = column_or_1d(y, dtype=None if hasattr(y, "dtype") else object, warn=True).copy()
        if self.values.dtype.kind in "US":
            self.values = self.values.astype(object)
        if self.values.dtype == object:
            self.known = np.array([not _is_no_label(label) for label in self.values.tolist()], bool)
        else:
            self.known = (self.values != UNLABELED) & (self.values == self.values)
            assert_all_finite(self.values[self.known], input_name="y")

    def add(self, samples: np.ndarray, labels: np.ndarray) -> None:
        self.values[samples], self.known[samples] = labels, True

    def natural(self) -> np.ndarray:
        """The labels that there are, in the type that NumPy gives their list; as objects if y was one of words."""
        values = self.values[self.known]
        if values.dtype != object:
            return values
        typed = np.array(values.tolist())
        return values if self._given_as_objects and typed.dtype.kind not in "biuf" else typed


def _is_no_label(label) -> bool:
    if label is None or type(label).__name__ == "NAType":
        return True
    is_number = isinstance(label, Real) and not isinstance(label, bool)
    return is_number and (label == UNLABELED or label != label)


# ---------------------------------------------------------------- wrong labels


@dataclass(frozen=True)
class LabelErrors:
    """Answer of `rank_label_errors`.

    Attributes
    ----------
    order : ndarray (n_samples,)
        Numbers of the samples, those whose label is most likely wrong first.
    scores : ndarray (n_samples,)
        How well each label fits, from 0 to 1.
    is_error : ndarray of bool (n_samples,)
        Whether confident learning counts the label as wrong: the sample is confidently of another class.
    suggested : ndarray (n_samples,)
        That other class; the label itself where nothing speaks against it.
    probabilities : ndarray (n_samples, n_classes)
        Out of fold: each by a network that was fitted without the sample.
    classes : ndarray (n_classes,)
        Columns of `probabilities`.
    """

    order: np.ndarray
    scores: np.ndarray
    is_error: np.ndarray
    suggested: np.ndarray
    probabilities: np.ndarray
    classes: np.ndarray


@validate_params(
    {
        "estimator": [HasMethods(["fit", "predict_proba"])],
        "cv": ["cv_object"],
        "n_jobs": [Integral, None],
        "method": [StrOptions({"margin", "self_confidence"})],
    },
    prefer_skip_nested_validation=True,
)
def rank_label_errors(estimator, X, y, cv=5, n_jobs=None, *, method="self_confidence") -> LabelErrors:
    """Which labels are most likely wrong.

    Networks that were fitted on the other folds say how probable each class of a sample is. With the mean probability
    t[j] that samples labeled j have of j:

    - "self_confidence": the score is the probability of the label.
    - "margin": it is ``(1 + p[label] - largest of the other p) / 2``, where p are the probabilities less t, shifted and
      scaled to sum to one, so that a class of which networks are never sure counts as others do.

    A label counts as wrong if the most probable class among those with a probability of at least t is another one, and
    the most probable class of all is not the label either.

    Parameters
    ----------
    estimator : estimator
        Classifier with `predict_proba`; it is cloned, not fitted.
    X : array-like, sparse matrix, images or sequence of str
        The samples, as the estimator takes them.
    y : array-like of shape (n_samples,)
        Their labels.
    cv : int, splitter or iterable, default=5
        Folds, as in `sklearn.model_selection.cross_val_predict`.
    n_jobs : int or None, default=None
        Folds at a time.
    method : {"self_confidence", "margin"}, default="self_confidence"
        What to rank by. On sets that the default was tried on it found more than "margin".

    Returns
    -------
    errors : LabelErrors

    References
    ----------
    Northcutt, Jiang, Chuang, Confident learning: estimating uncertainty in dataset labels, 2021, eq. 1 and 2.

    Kuan, Mueller, Model-agnostic label quality scoring to detect real-world label errors, 2022.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from nbnet import MLPClassifier
    >>> from nbnet.labeling import rank_label_errors
    >>> X, y = load_iris(return_X_y=True)
    >>> y[20] = 2
    >>> mlp = MLPClassifier((16,), solver="lbfgs", alpha=1.0, max_iter=1000, random_state=0)
    >>> found = rank_label_errors(mlp, X, y)
    >>> found.order[0].item(), found.suggested[20].item()
    (20, 0)
    """
    X, y = as_samples(X), column_or_1d(y, warn=True)
    check_classification_targets(y)
    check_consistent_length(X, y)
    classes, labels = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"y has one class only, {classes.tolist()[0]!r}: no label can be wrong.")
    folds = check_cv(cv, y, classifier=is_classifier(estimator))
    p = cross_val_predict(estimator, X, y, cv=folds, n_jobs=n_jobs, method="predict_proba")
    rows = np.arange(len(y))
    thresholds = np.array([p[labels == j, j].mean() for j in range(len(classes))])

    confident = np.where(p >= thresholds - 1e-6, p, -1.0)  # a class of equal probabilities reaches its own mean
    best = np.where(confident.max(axis=1) >= 0.0, confident.argmax(axis=1), labels)
    is_error = (best != labels) & (p.argmax(axis=1) != labels)

    if method == "self_confidence":
        scores = p[rows, labels]
    else:
        fair = p - thresholds + thresholds.max()
        fair /= fair.sum(axis=1, keepdims=True)
        others = fair.copy()
        others[rows, labels] = -np.inf
        scores = 0.5 * (1.0 + fair[rows, labels] - others.max(axis=1))
    order = np.argsort(scores, kind="stable")
    suggested = classes[np.where(is_error, best, labels)]
    return LabelErrors(order, scores, is_error, suggested, p, classes)


# ---------------------------------------------------------------- what to label next


@validate_params(
    {
        "model": [HasMethods(["predict_proba"])],
        "n": [Interval(Integral, 1, None, closed="left")],
        "strategy": [StrOptions({"margin", "entropy", "diverse"})],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def select_to_label(model, X, n, strategy="margin", *, random_state=None) -> np.ndarray:
    """Which samples to label by hand next.

    Parameters
    ----------
    model : estimator
        Fitted classifier with `predict_proba`.
    X : array-like, sparse matrix, images or sequence of str
        Samples without labels.
    n : int
        How many to choose.
    strategy : {"margin", "entropy", "diverse"}, default="margin"
        - "margin": the two most probable classes are nearly equally probable.
        - "entropy": the probabilities are spread over many classes.
        - "diverse": uncertain, and different from each other. By the gradient that the loss would have by the last
          layer's weights if the most probable class were right: the first sample has the longest one, each later one is
          drawn in proportion to the squared distance from those drawn already. What the last layer reads is taken from
          the model's `transform`, and without one from X itself.
    random_state : int, RandomState instance or None, default=None
        For "diverse".

    Returns
    -------
    chosen : ndarray of shape (n,)
        Numbers of samples, the most useful first.

    References
    ----------
    Ash, Zhang, Krishnamurthy, Langford, Agarwal, Deep batch active learning by diverse, uncertain gradient lower
    bounds, 2020, algorithm 1.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from nbnet import MLPClassifier
    >>> from nbnet.labeling import select_to_label
    >>> X, y = load_iris(return_X_y=True)
    >>> mlp = MLPClassifier((16,), solver="lbfgs", alpha=1.0, max_iter=1000, random_state=0).fit(X[::10], y[::10])
    >>> bool((y[select_to_label(mlp, X, 10)] > 0).all())  # the first kind is told from the others easily
    True
    """
    n_samples = _num_samples(X)
    if n > n_samples:
        raise ValueError(f"n={n} samples cannot be chosen from {n_samples}.")
    p = np.asarray(model.predict_proba(X), np.float64)
    if strategy == "diverse":
        return _diverse(p, _features(model, X), n, check_random_state(random_state))
    if strategy == "entropy":
        certainty = (p * np.log(np.maximum(p, np.finfo(np.float64).tiny))).sum(axis=1)
    else:
        best = np.sort(p, axis=1)[:, -2:]
        certainty = best[:, -1] - best[:, 0]
    return np.argsort(certainty, kind="stable")[:n]


def _features(model, X) -> np.ndarray:
    """What the last layer reads of each sample, float64 (n_samples, n_features)."""
    if hasattr(model, "transform"):
        X = model.transform(X)
    elif isinstance(model, Pipeline) and len(model) > 1:
        X = model[:-1].transform(X)
    X = X.toarray() if sp.issparse(X) else np.asarray(X)
    return X.reshape(len(X), -1).astype(np.float64)


def _diverse(p: np.ndarray, features: np.ndarray, n: int, random_state) -> np.ndarray:
    """k-means++ among the outer products of ``p - one_hot(argmax p)`` and the features, which are never made."""
    slopes = p.copy()
    slopes[np.arange(len(p)), p.argmax(axis=1)] -= 1.0
    norms = (slopes**2).sum(axis=1) * (features**2).sum(axis=1)
    chosen = [int(norms.argmax())]
    distances = np.full(len(p), np.inf)
    while len(chosen) < n:
        last = chosen[-1]
        products = (slopes @ slopes[last]) * (features @ features[last])
        distances = np.minimum(distances, np.maximum(norms + norms[last] - 2.0 * products, 0.0))
        distances[chosen] = 0.0
        total = distances.sum()
        if total > 0.0:
            chosen.append(int(random_state.choice(len(p), p=distances / total)))
        else:  # the rest are copies of what is chosen, or certain
            rest = np.setdiff1d(np.arange(len(p)), chosen)
            chosen.append(int(rest[0]))
    return np.array(chosen)
