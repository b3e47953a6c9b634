"""Search for the best parameters of nbnet's networks: scikit-learn's search, in threads, over one X."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Self

import joblib
import numpy as np
import scipy.sparse as sp
from joblib import parallel_config
from joblib.parallel import get_active_backend
from sklearn import get_config
from sklearn.base import clone, is_classifier
from sklearn.model_selection import GridSearchCV, ParameterGrid, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing

from .estimators.base import BaseNetwork
from .estimators.callbacks import has_callbacks
from .estimators.mlp import MLPClassifier, MLPRegressor
from .estimators.shared import SharedRows, key_of
from .estimators.tagger import TokenTagger
from .estimators.text import TextEmbeddingClassifier
from .estimators.together import Fit, fit_together
from .estimators.validation import share
from .trainer import is_on_gpu


class NetworkSearchCV(GridSearchCV):
    """`sklearn.model_selection.GridSearchCV` for nbnet's networks: the same numbers, with one X for all fits.

    Parameters, attributes and methods are those of `GridSearchCV`; so are the results, on the CPU to the bit. What
    differs is how the fits are made:

    - They run in threads of this process, each with one thread of its own. Networks compute outside Python's global
      lock, so nothing is copied to other processes and no process has to start.
    - For `MLPClassifier` and `MLPRegressor`, X is validated once, and all fits read it where it lies; `GridSearchCV`
      makes a copy of the training rows for each fit. Other estimators, pipelines among them, are given such copies.
    - With ``device="cuda"``, small networks with equal layers are trained at once, in the same launches; their results
      agree with those of separate fits to rounding. The user guide says which ones.

    Parameters
    ----------
    estimator : estimator
        A network of nbnet, or a pipeline that ends in one. Any other estimator is searched as `GridSearchCV` does it.
    param_grid : dict or list of dict
        Values to try of each parameter; of a list, each grid.
    scoring : str, callable, list, tuple or dict, default=None
        What is best; None: the estimator's own score.
    n_jobs : int, default=None
        Fits at once; -1: as many as there are cores. None: what a surrounding `joblib.parallel_config` says, else as
        many as there are cores; one inside a worker of joblib. It never changes a result. Fits on a GPU run one after
        the other.
    refit : bool, str or callable, default=True
        Whether to fit the best candidate to all rows; with several scores, by which one; a callable picks a candidate.
    cv : int, splitter or iterable, default=None
        How the rows are split; None: five folds.
    verbose : int, default=0
        More lines for a larger number.
    pre_dispatch : int or str, default="2*n_jobs"
        Fits that wait for a thread, at most.
    error_score : "raise" or number, default=np.nan
        Score of a fit that fails.
    return_train_score : bool, default=False
        Whether to score the training rows too.

    Attributes
    ----------
    cv_results_ : dict of ndarray
        A column for each parameter, time and score, a row for each candidate.
    best_estimator_, best_score_, best_params_, best_index_ : estimator, float, dict, int
        The best candidate: fitted to all rows, its mean score, its parameters, its row.
    scorer_ : callable or dict
        What scored.
    n_splits_ : int
        Splits.
    refit_time_ : float
        Seconds of the last fit.
    multimetric_ : bool
        Whether there were several scores.
    classes_ : ndarray (n_classes,)
        Class labels of the best estimator.
    n_features_in_, feature_names_in_ : int, ndarray
        Columns of X, where the best estimator knows them.

    See Also
    --------
    sklearn.model_selection.GridSearchCV : Explains every parameter and attribute at length.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from nbnet import MLPClassifier
    >>> from nbnet.model_selection import NetworkSearchCV
    >>> X, y = load_iris(return_X_y=True)
    >>> mlp = MLPClassifier(max_iter=50, learning_rate="one_cycle", learning_rate_init=0.01, random_state=0)
    >>> search = NetworkSearchCV(mlp, {"hidden_layer_sizes": [(2,), (32,)]}).fit(X, y)
    >>> search.best_params_
    {'hidden_layer_sizes': (32,)}
    """

    def fit(self, X, y=None, **params) -> Self:
        """Fit and score every candidate on every split, then the best one to all rows.

        Parameters
        ----------
        X : array-like or sparse matrix (n_samples, ...)
            What the estimator takes.
        y : array-like (n_samples,) or (n_samples, n_outputs), default=None
            Targets.
        **params
            Passed on to the estimator's `fit`, the scorer and the splitter, as `GridSearchCV` does: `sample_weight`,
            `groups`.

        Returns
        -------
        self : NetworkSearchCV
            The fitted search.
        """
        if not isinstance(last_step(self.estimator), (BaseNetwork, TextEmbeddingClassifier, TokenTagger)):
            return super().fit(X, y, **params)
        on_gpu = any(device != "cpu" for device in devices(self.estimator, self.param_grid))
        X = self._shared(X, y)
        if on_gpu and isinstance(X, SharedRows) and not get_config()["enable_metadata_routing"]:
            X.fit_params = {name: value for name, value in params.items() if name != "groups"}
        with parallel_config("sequential" if on_gpu else "threading", n_jobs=n_jobs_of_context()):
            return super().fit(X, y, **params)

    def _shared(self, X, y):
        """X, as `SharedRows` where all that reads it can read these."""
        if (
            type(self.estimator) not in (MLPClassifier, MLPRegressor)
            or isinstance(self.cv, Iterator)  # which gives its splits only once
            or y is None
            or sp.issparse(y)
            or is_on_gpu(X)
            or is_on_gpu(y)
            or (self.return_train_score and has_own_scorer(self.scoring))
            or has_callbacks(self)
            or has_callbacks(self.estimator)
            or get_config()["array_api_dispatch"]
        ):
            return X
        try:
            return share(X)
        except (TypeError, ValueError):  # the fits say what is wrong with X, as the user wants to hear it
            return X

    def _run_search(self, evaluate_candidates, *, callback_ctx=None) -> None:
        if not isinstance(self.cv, Iterator):
            splits = Splits(self.cv, self.estimator, ParameterGrid(self.param_grid))
            evaluate_candidates = partial(evaluate_candidates, cv=splits)
        if callback_ctx is None:  # scikit-learn < 1.9
            super()._run_search(evaluate_candidates)
        else:
            super()._run_search(evaluate_candidates, callback_ctx=callback_ctx)


class Splits:
    """A splitter that tells `SharedRows` which of its arrays of row numbers are training sets.

    scikit-learn asks for the splits once, before all fits; so this is also when those fits are made that go together.
    """

    def __init__(self, cv, estimator, candidates: Iterable[dict]):
        self.cv, self.estimator, self.candidates = cv, estimator, candidates

    def split(self, X, y=None, **params) -> Iterator[tuple]:
        """Pairs (training rows, test rows), as the splitter gives them for the user's X."""
        splitter = check_cv(self.cv, y, classifier=is_classifier(self.estimator))
        if not isinstance(X, SharedRows):
            return splitter.split(X, y, **params)
        splits = [(np.asarray(training), test) for training, test in splitter.split(X.given, y, **params)]
        training_sets = [training for training, _ in splits if are_row_numbers(training, X.shape[0])]
        parts = X.split(training_sets)
        if X.fit_params is not None and X.fit_params.keys() <= {"sample_weight"}:
            self._fit_together(training_sets, parts, y, X.fit_params.get("sample_weight"))
        return iter(splits)

    def _fit_together(self, training_sets, parts: list[SharedRows], y, sample_weight) -> None:
        """Make the fits that share launches on a GPU, and leave them with the rows that they are made on."""
        fits = []
        for training, rows in zip(training_sets, parts, strict=True):
            y_of_rows = _safe_indexing(y, training)
            weight_of_rows = None if sample_weight is None else _safe_indexing(sample_weight, training)
            for parameters in self.candidates:
                try:
                    estimator = clone(self.estimator).set_params(**clone(parameters, safe=False))
                except ValueError:  # the search says that there is no such parameter
                    return
                fits.append(Fit(estimator, rows, y_of_rows, weight_of_rows))
        for fit, done in zip(fits, fit_together(fits), strict=True):
            if done:
                fit.rows.fitted[key_of(fit.estimator)] = fit.estimator


def are_row_numbers(numbers: np.ndarray, n_rows: int) -> bool:
    """Whether these are numbers of rows, counted from the first; no mask, none counted from the last."""
    return numbers.dtype.kind in "iu" and bool(((numbers >= 0) & (numbers < n_rows)).all())


def has_own_scorer(scoring) -> bool:
    """Whether a function of the user's may see X: any but scikit-learn's, which have names."""
    if isinstance(scoring, dict):
        return any(has_own_scorer(scorer) for scorer in scoring.values())
    return callable(scoring)


def last_step(estimator):
    """The estimator that learns from y."""
    return estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator


def devices(estimator, param_grid) -> list:
    """All values of the parameter `device` in a search; of a grid that is none, scikit-learn says so."""
    found = [getattr(last_step(estimator), "device", "cpu")]
    for grid in param_grid if isinstance(param_grid, list) else [param_grid]:
        for name, values in grid.items() if isinstance(grid, dict) else ():
            if str(name).rpartition("__")[2] == "device" and isinstance(values, Sequence | np.ndarray):
                found += list(values)
    return found


def n_jobs_of_context() -> int:
    """Fits at once for ``n_jobs=None``."""
    backend, n_jobs = get_active_backend()
    if backend.nesting_level:
        return 1
    return n_jobs if n_jobs != 1 else joblib.cpu_count()
