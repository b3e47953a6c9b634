"""`NetworkSearchCV` finds what scikit-learn's `GridSearchCV` finds, to the bit, and copies X for no fit."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, GroupKFold, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from nbnet import ConvClassifier, MLPClassifier, MLPRegressor, TextEmbeddingClassifier
from nbnet.cpu import session
from nbnet.estimators.shared import SharedRows
from nbnet.model_selection import NetworkSearchCV, last_step

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.slow_without_jit,
]

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 4)).astype(np.float32)
CLASSES = np.array(["a", "b", "c"])[RNG.permutation(np.arange(30) % 3)]
NUMBERS = X @ [1.0, 2.0, 0.0, -1.0]
WEIGHTS = RNG.integers(0, 3, 30) + 0.5
GROUPS = np.arange(30) % 5
GRID = {"alpha": [1e-4, 10.0], "hidden_layer_sizes": [(3,), (2, 2)]}


def classifier(**parameters):
    return MLPClassifier(**{"max_iter": 2, "batch_size": 8, "random_state": 0, **parameters})


def regressor(**parameters):
    return MLPRegressor(max_iter=2, batch_size=8, random_state=0, **parameters)


def assert_same(found, expected):
    """All that a search says but for its times."""
    assert found.cv_results_.keys() == expected.cv_results_.keys()
    for key, column in expected.cv_results_.items():
        if not key.endswith("_time"):
            np.testing.assert_array_equal(found.cv_results_[key], column)
    for name in ("best_index_", "best_params_", "best_score_", "n_splits_", "multimetric_", "n_features_in_"):
        assert getattr(found, name, None) == getattr(expected, name, None), name
    assert hasattr(found, "classes_") == hasattr(expected, "classes_")
    if hasattr(expected, "best_estimator_"):
        weights, expected_weights = (last_step(search.best_estimator_).params_ for search in (found, expected))
        np.testing.assert_array_equal(weights, expected_weights)


def search_both(estimator, grid, X, y, fit_params=None, **options):
    """NetworkSearchCV's and GridSearchCV's result, which are the same."""
    options = {"cv": 2, **options}
    searches = [cls(clone(estimator), grid, **options) for cls in (NetworkSearchCV, GridSearchCV)]
    found, expected = (search.fit(X, y, **(fit_params or {})) for search in searches)
    assert_same(found, expected)
    return found


# ---------------------------------------------------------------- the same numbers


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"solver": "lbfgs"},
        {"early_stopping": True, "validation_fraction": 0.3, "class_weight": "balanced"},
        {"input_scaling": "robust", "dropout": 0.3, "shuffle": False},
        {"dtype": "float64", "n_jobs": 2, "random_state": np.random.RandomState(0)},
    ],
    ids=lambda parameters: "-".join(parameters) or "defaults",
)
def test_parameters(parameters):
    search_both(classifier(**parameters), GRID, X, CLASSES, {"sample_weight": WEIGHTS})


@pytest.mark.parametrize("kind", ["float64", "fortran", "strided", "integers", "csr", "csc", "frame", "list"])
def test_inputs(kind):
    given = {
        "float64": X.astype(np.float64),
        "fortran": np.asfortranarray(X),
        "strided": np.repeat(X, 2, axis=1)[:, ::2],
        "integers": (4 * X).astype(int),
        "csr": sparse.csr_array(np.where(X > 0, X, 0)),
        "csc": sparse.csc_matrix(np.where(X > 0, X, 0)),
        "frame": pd.DataFrame(X, columns=["i", "j", "k", "l"]),
        "list": X.tolist(),
    }[kind]
    found = search_both(classifier(), {"alpha": [1e-4, 10.0]}, given, CLASSES)
    assert list(getattr(found, "feature_names_in_", [])) == (["i", "j", "k", "l"] if kind == "frame" else [])
    np.testing.assert_array_equal(found.predict_proba(given), found.best_estimator_.predict_proba(given))


@pytest.mark.parametrize("kind", ["binary", "multilabel", "numbers", "two numbers", "series"])
def test_targets(kind):
    y = {
        "binary": (CLASSES == "a").tolist(),
        "multilabel": np.stack([CLASSES == "a", NUMBERS > 0], axis=1).astype(int),
        "numbers": NUMBERS,
        "two numbers": np.stack([NUMBERS, X[:, 0]], axis=1),
        "series": pd.Series(NUMBERS),
    }[kind]
    search_both(classifier() if kind in ("binary", "multilabel") else regressor(), {"alpha": [1e-4, 10.0]}, X, y)


@pytest.mark.parametrize(
    "cv",
    [
        ShuffleSplit(2, random_state=0),
        [(np.array([3, 3, 4, 9, 9, 1, 0]), np.arange(10, 30)), (np.arange(20), [20, 21])],
        [(np.arange(30) < 20, np.arange(20, 30))],
        [(np.arange(-20, 0), np.arange(10))],
        [(np.flatnonzero(CLASSES != "a"), np.arange(10)), ([*range(20)], range(20, 30))],
    ],
    ids=["in any order", "rows twice", "masks", "counted from the end", "a class less"],
)
def test_splits(cv):
    search_both(classifier(class_weight="balanced", batch_size=5), {"alpha": [1e-4, 10.0]}, X, CLASSES, cv=cv)


def test_splits_that_can_be_had_only_once():
    def splits():
        yield np.arange(20), np.arange(20, 30)
        yield np.arange(10, 30), np.arange(10)

    found = NetworkSearchCV(classifier(), {"alpha": [1e-4, 10.0]}, cv=splits()).fit(X, CLASSES)
    assert_same(found, GridSearchCV(classifier(), {"alpha": [1e-4, 10.0]}, cv=splits()).fit(X, CLASSES))


def test_any_number_of_jobs():
    reference = NetworkSearchCV(classifier(), GRID, n_jobs=1, cv=3).fit(X, CLASSES)
    for n_jobs in (3, None, -1):
        assert_same(NetworkSearchCV(classifier(), GRID, n_jobs=n_jobs, cv=3).fit(X, CLASSES), reference)


@pytest.mark.filterwarnings("ignore:device='auto' computes on the CPU")
def test_any_device():
    reference = NetworkSearchCV(classifier(), GRID, cv=3).fit(X, CLASSES)
    assert_same(NetworkSearchCV(classifier(device="auto"), GRID, cv=3).fit(X, CLASSES), reference)


# ---------------------------------------------------------------- X is shared


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_no_fit_copies_x(monkeypatch, solver):
    trained_on, as_rows = [], session.as_rows

    def record(X):
        trained_on.append(X)
        return as_rows(X)

    monkeypatch.setattr(session, "as_rows", record)
    NetworkSearchCV(classifier(solver=solver), GRID, cv=3, n_jobs=2).fit(X, CLASSES)
    sizes = [len(rows) for rows in trained_on]
    assert sizes.count(30) == 1 and np.shares_memory(trained_on[sizes.index(30)], X)
    assert sizes.count(20) == (0 if solver == "adam" else 4 * 3)  # L-BFGS reads all rows that it is given
    assert sizes.count(10) == 4 * 3  # to score


def test_the_users_functions_see_what_the_user_gave():
    given, seen = pd.DataFrame(X), []

    class Splitter(ShuffleSplit):
        def split(self, X, y=None, groups=None):
            seen.append(X)
            return super().split(X, y, groups)

    def scorer(estimator, X, y):
        seen.append(X)
        return accuracy_score(y, estimator.predict(X))

    for return_train_score in (False, True):
        options = {"cv": Splitter(2, random_state=0), "scoring": scorer, "return_train_score": return_train_score}
        search_both(classifier(), {"alpha": [1e-4]}, given, CLASSES, **options)
    assert len(seen) == 2 * (1 + 2 + 1 + 4) and all(type(rows) is pd.DataFrame for rows in seen)


def test_slices_of_shared_rows():
    training, rows = np.array([2, 0]), SharedRows(X.tolist(), X)
    assert rows[training, ...] == [X[2].tolist(), X[0].tolist()]
    assert len(rows.split([training])) == 1
    part = rows[training, ...]
    assert type(part) is SharedRows and part.shape == (2, 4) and part.table is X
    assert part.given_rows() == rows[np.array([2, 0]), ...] and rows.given_rows() is rows.given
    assert rows[:1] == [X[0].tolist()]


# ---------------------------------------------------------------- scikit-learn's behaviors


def test_failing_fits():
    grid = {"alpha": [1e-4, -1.0]}
    results = []
    for cls in (NetworkSearchCV, GridSearchCV):
        with pytest.warns(FitFailedWarning, match="2 fits failed out of a total of 4"):
            with pytest.warns(UserWarning, match="non-finite"):
                results.append(cls(classifier(), grid, cv=2).fit(X, CLASSES))
    assert_same(*results)
    lowest = NetworkSearchCV(classifier(), grid, cv=2, error_score=-7)
    with pytest.warns(FitFailedWarning):
        assert lowest.fit(X, CLASSES).cv_results_["mean_test_score"][1] == -7
    with pytest.raises(ValueError, match="'alpha' parameter of MLPClassifier"):
        NetworkSearchCV(classifier(), grid, cv=2, error_score="raise").fit(X, CLASSES)
    with pytest.raises(ValueError, match=r"(?s)All the 4 fits failed.*Input X contains NaN"):
        NetworkSearchCV(classifier(), {"alpha": [1, 2]}, cv=2).fit(np.full_like(X, np.nan), CLASSES)


@pytest.mark.parametrize(
    "grid", ["alpha", [1], {"alpha": 1.0}, {"device": "cpu"}, {"alhpa": [1]}, {"alpha": []}], ids=str
)
def test_grids_that_are_none(grid):
    errors = []
    for cls in (NetworkSearchCV, GridSearchCV):
        with pytest.raises((TypeError, ValueError)) as error:
            cls(classifier(), grid, cv=2, error_score="raise").fit(X, CLASSES)
        errors.append((error.type, str(error.value).replace("NetworkSearchCV", "GridSearchCV")))
    assert errors[0] == errors[1]


def test_scores_and_refit():
    several = {"scoring": ["accuracy", "neg_log_loss"], "refit": "neg_log_loss", "return_train_score": True}
    search = search_both(classifier(), GRID, X, CLASSES, **several)
    assert search.score(X, CLASSES) < 0
    search_both(classifier(), GRID, X, CLASSES, scoring={"a": "accuracy"}, refit=lambda results: 2)
    unfitted = search_both(classifier(), GRID, X, CLASSES, refit=False)
    assert not hasattr(unfitted, "best_estimator_") and not hasattr(unfitted, "predict")


def test_groups_weights_and_routing():
    options = {"cv": GroupKFold(3), "scoring": "accuracy"}
    search_both(classifier(), GRID, X, CLASSES, {"groups": GROUPS, "sample_weight": WEIGHTS}, **options)
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = classifier().set_fit_request(sample_weight=True).set_score_request(sample_weight=False)
        search_both(estimator, GRID, X, CLASSES, {"groups": GROUPS, "sample_weight": WEIGHTS}, cv=GroupKFold(3))


def test_clone_pickle_and_parameters():
    search = NetworkSearchCV(classifier(), GRID, cv=2, verbose=0)
    assert search.get_params().keys() == GridSearchCV(classifier(), GRID).get_params().keys()
    copied = clone(search).fit(X, CLASSES)
    loaded = pickle.loads(pickle.dumps(copied))
    np.testing.assert_array_equal(loaded.predict(X), copied.predict(X))
    assert list(loaded.classes_) == ["a", "b", "c"]
    assert b"SharedRows" not in pickle.dumps(copied)


def test_verbose(capsys):
    NetworkSearchCV(classifier(), {"alpha": [1.0]}, cv=2, verbose=3, n_jobs=1).fit(X, CLASSES)
    printed = capsys.readouterr().out
    assert "Fitting 2 folds for each of 1 candidates" in printed and printed.count("[CV ") == 2


def test_other_estimators():
    piped = make_pipeline(StandardScaler(), classifier())
    search_both(piped, {"mlpclassifier__alpha": [1e-4, 10.0]}, X, CLASSES)

    class Verbatim(MLPClassifier):
        def fit(self, X, y):
            assert type(X) is np.ndarray
            return super().fit(X, y)

    search_both(Verbatim(max_iter=1, random_state=0), {"alpha": [1e-4]}, X, CLASSES)
    tree, grid = DecisionTreeClassifier(random_state=0), {"max_depth": [1, 3]}
    found, expected = (cls(tree, grid, cv=2).fit(X, CLASSES) for cls in (NetworkSearchCV, GridSearchCV))
    assert found.best_score_ == expected.best_score_


def test_texts_and_images():
    texts = [f"{label} {word}" for label, word in zip(CLASSES, ["x", "y", "z"] * 10, strict=True)]
    text = TextEmbeddingClassifier(4, n_buckets=16, max_iter=2, random_state=0)
    search_both(text, {"pooling": ["mean", "sum"]}, texts, CLASSES)
    images = X.reshape(-1, 2, 2)
    search_both(ConvClassifier((2,), max_iter=1, random_state=0), {"alpha": [0.0, 1.0]}, images, CLASSES)


def test_inside_another_search():
    inner = NetworkSearchCV(classifier(batch_size=4), {"alpha": [1e-4, 10.0]}, cv=2)
    outer = NetworkSearchCV(inner, {"cv": [2, 3]}, cv=2).fit(X, CLASSES)
    assert isinstance(outer.best_estimator_, NetworkSearchCV)


def test_callbacks_are_called():
    callback = pytest.importorskip("sklearn.callback", reason="scikit-learn < 1.9")
    search = NetworkSearchCV(classifier(), {"alpha": [1e-4]}, cv=2)
    search.set_callbacks(callback.ProgressBar())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search.fit(X, CLASSES)
    assert_same(search, GridSearchCV(classifier(), {"alpha": [1e-4]}, cv=2).fit(X, CLASSES))
