"""Bad input: scikit-learn's error class and message, and an estimator that is as it was before the call."""

import pickle
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn import neural_network as peer
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.utils._param_validation import InvalidParameterError

import nbnet
from nbnet import MLPClassifier, MLPRegressor
from tests.helpers import fit

X = np.random.default_rng(0).normal(size=(12, 3))
Y = np.arange(12) % 2
NAN, INF = np.where(np.eye(12, 3), np.nan, 1.0), np.where(np.eye(12, 3), np.inf, 1.0)
TINY = {"hidden_layer_sizes": (2,), "max_iter": 1, "random_state": 0}
BOTH = [MLPClassifier, MLPRegressor]


def tiny(cls=MLPClassifier, **changes):
    return cls(**{**TINY, **changes})


def same_error(call, ours, theirs):
    """Both raise an error of one class with one text (the names of sets' members may come in any order)."""
    errors = []
    for estimator in (ours, theirs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(Exception) as caught:
                call(estimator)
        errors.append(caught.value)
    assert type(errors[0]) is type(errors[1])
    assert str(errors[0]) == str(errors[1])


BAD_FITS = {
    "nan": (NAN, Y),
    "infinity": (INF, Y),
    "one dimension": (X[0], Y),
    "three dimensions": (X[None], Y),
    "lengths": (X, Y[:-1]),
    "no rows": (X[:0], Y[:0]),
    "no columns": (X[:, :0], Y),
    "text": ([["a", "b"], ["c", "d"]], [0, 1]),
    "complex": (X + 1j, Y),
    "nan in y": (X, np.where(Y, np.nan, 1.0)),
    "no y": (X, None),
    "y of three dimensions": (X, np.zeros((12, 2, 2))),
    "too large for float32": (np.full((12, 3), 1e300).astype(np.longdouble) ** 1.2, Y),
}


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("case", BAD_FITS)
def test_bad_data(cls, case):
    theirs = getattr(peer, cls.__name__)
    same_error(lambda estimator: estimator.fit(*BAD_FITS[case]), tiny(cls), tiny(theirs))


@pytest.mark.parametrize("y", [np.linspace(0, 1, 12), np.stack([Y, 2 * Y, Y], 1), [[0], [1, 2]] * 6], ids=str)
def test_bad_class_labels(y):
    same_error(lambda estimator: estimator.fit(X, y), tiny(), tiny(peer.MLPClassifier))


BAD_PARAMETERS = [
    {"hidden_layer_sizes": -1},
    {"hidden_layer_sizes": (0,)},
    {"hidden_layer_sizes": (3, -2)},
    {"alpha": -1},
    {"learning_rate_init": -1},
    {"learning_rate_init": "fast"},
    {"momentum": 2},
    {"momentum": -0.5},
    {"max_iter": 0},
    {"max_iter": -1},
    {"batch_size": -1},
    {"batch_size": 2.5},
    {"shuffle": "true"},
    {"beta_1": 1},
    {"beta_2": -0.5},
    {"epsilon": -0.5},
    {"validation_fraction": 1},
    {"n_iter_no_change": -1},
    {"tol": -1},
    {"power_t": -1},
    {"random_state": "abc"},
    {"warm_start": 3},
    {"max_fun": 0},
]


@pytest.mark.parametrize("parameters", BAD_PARAMETERS, ids=str)
def test_bad_parameters_as_scikit_learn(parameters):
    same_error(lambda estimator: estimator.fit(X, Y), tiny(**parameters), tiny(peer.MLPClassifier, **parameters))


@pytest.mark.parametrize(
    "parameters",
    [
        {"activation": "ghost"},
        {"activation": ("relu", "ghost")},
        {"activation": ("relu", "tanh", "relu")},
        {"solver": "lion"},
        {"learning_rate": "guess"},
        {"hidden_layer_sizes": (2.5,)},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"label_smoothing": 1.0},
        {"input_scaling": "minmax"},
        {"warmup_fraction": -1},
        {"max_grad_norm": 0.0},
        {"scoring": "best"},
        {"dtype": "float16"},
        {"n_jobs": 1.5},
        {"device": "tpu"},
        {"class_weight": "heavy"},
    ],
    ids=str,
)
def test_bad_parameters_of_our_own_are_named_with_their_value(parameters):
    ((name, value),) = parameters.items()
    estimator = tiny(**{"hidden_layer_sizes": (2, 2), **parameters})
    shown = value[-1] if isinstance(value, tuple) else value
    with pytest.raises(ValueError, match=f"(?s){name}.*{re.escape(repr(shown))}"):
        estimator.fit(X, Y)


@pytest.mark.parametrize(
    "parameters", [{"huber_delta": 0}, {"quantile": 1.0}, {"quantile": 0.0}, {"loss": "hinge"}], ids=str
)
def test_bad_parameters_of_the_regressor(parameters):
    with pytest.raises(InvalidParameterError, match=next(iter(parameters))):
        tiny(MLPRegressor, **parameters).fit(X, Y)


def test_poisson_needs_targets_of_zero_or_more():
    with pytest.raises(ValueError, match=r"loss='poisson' requires `y` >= 0, got -1"):
        tiny(MLPRegressor, loss="poisson").fit(X, Y - 1)


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("weights", [np.ones(5), np.ones((12, 1)), np.full(12, np.nan), np.full(12, np.inf)], ids=str)
def test_bad_weights_as_scikit_learn(cls, weights):
    theirs = getattr(peer, cls.__name__)
    same_error(lambda estimator: estimator.fit(X, Y, weights), tiny(cls), tiny(theirs))


def test_weights_that_are_all_zero():
    with pytest.raises(ValueError, match=r"^Sample weights must contain at least one non-zero number\.$"):
        tiny().fit(X, Y, np.zeros(12))


def test_negative_weights():
    with pytest.raises(ValueError, match=r"Negative values in data passed to `sample_weight`.*-2"):
        tiny().fit(X, Y, np.arange(-2, 10))
    with pytest.raises(ValueError, match="Negative values in data passed to `sample_weight_val`"):
        tiny().fit(X, Y, X_val=X, y_val=Y, sample_weight_val=np.arange(-2, 10))


def test_batch_larger_than_the_data_is_clipped_with_a_warning():
    with pytest.warns(UserWarning, match="Got `batch_size` less than 1 or larger than sample size"):
        clipped = fit(tiny(batch_size=50), X, Y)
    np.testing.assert_array_equal(clipped.params_, fit(tiny(batch_size=12), X, Y).params_)


def test_column_vector_y_warns():
    with pytest.warns(DataConversionWarning):
        fit(tiny(), X, Y[:, None])
    with pytest.warns(DataConversionWarning):
        fit(tiny(), X, Y, X_val=X, y_val=Y[:, None])


@pytest.mark.parametrize("cls", BOTH)
def test_before_fit(cls):
    with pytest.raises(NotFittedError):
        tiny(cls).predict(X)
    with pytest.raises(AttributeError, match="has no attribute 'coefs_'"):
        tiny(cls).coefs_  # noqa: B018
    assert not hasattr(tiny(cls), "intercepts_")


def test_wrong_input_after_fit():
    ours, theirs = fit(tiny(), X, Y), fit(tiny(peer.MLPClassifier), X, Y)
    for bad in (X[:, :2], NAN, INF, X[0], X[:0]):
        same_error(lambda estimator, bad=bad: estimator.predict(bad), ours, theirs)
        same_error(lambda estimator, bad=bad: estimator.partial_fit(bad, Y[: len(bad)]), ours, theirs)


def test_partial_fit_messages():
    def first_without_classes(estimator):
        estimator.partial_fit(X, Y)

    def unseen_class(estimator):
        estimator.partial_fit(X, Y, classes=[0, 1]).partial_fit(X, Y + 1)

    def other_classes(estimator):
        estimator.partial_fit(X, Y, classes=[0, 1]).partial_fit(X, Y, classes=[0, 1, 2])

    def early_stopping(estimator):
        estimator.set_params(early_stopping=True).partial_fit(X, Y, classes=[0, 1])

    def not_stochastic(estimator):
        estimator.set_params(solver="lbfgs").partial_fit(X, Y)

    for call in (first_without_classes, unseen_class, other_classes, early_stopping, not_stochastic):
        same_error(call, tiny(), tiny(peer.MLPClassifier))


def test_warm_start_with_other_classes():
    def call(estimator):
        fit(fit(estimator, X, Y), X, Y + 1)

    same_error(call, tiny(warm_start=True), tiny(peer.MLPClassifier, warm_start=True))


def test_warm_start_with_other_layers():
    estimator = fit(tiny(warm_start=True), X, Y)
    with pytest.raises(ValueError, match=r"layers of sizes \[3, 2, 1\].*hidden_layer_sizes=\(5,\)"):
        estimator.set_params(hidden_layer_sizes=(5,)).fit(X, Y)


def test_multilabel_and_single_label_do_not_mix():
    labels = np.stack([Y, 1 - Y], axis=1)
    with pytest.raises(ValueError, match="not fitted with multilabel input"):
        fit(tiny(), X, Y).partial_fit(X, labels)
    with pytest.raises(ValueError, match="fitted with multilabel targets, but `y` has one label a row"):
        fit(tiny(), X, labels).partial_fit(X, Y)
    with pytest.raises(ValueError, match="class_weight as a dict is not defined for multilabel targets"):
        tiny(class_weight={0: 2}).fit(X, labels)


def test_class_weight_messages():
    with pytest.raises(ValueError, match="class_weight 'balanced' is not supported for partial_fit"):
        tiny(class_weight="balanced").partial_fit(X, Y, classes=[0, 1])
    with pytest.raises(ValueError, match="at least one non-zero"):
        tiny(class_weight={0: 0, 1: 0}).fit(X, Y)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_validation_rows_come_with_targets(early_stopping):
    estimator = tiny(early_stopping=early_stopping)
    with pytest.raises(ValueError, match="X_val is provided, but y_val was not provided"):
        estimator.fit(X, Y, X_val=X)
    with pytest.raises(ValueError, match="y_val is provided, but X_val was not provided"):
        estimator.fit(X, Y, y_val=Y)
    with pytest.raises(ValueError, match="sample_weight_val is provided, but X_val was not provided"):
        estimator.fit(X, Y, sample_weight_val=Y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        estimator.fit(X, Y, X_val=X, y_val=Y[:-1])
    with pytest.raises(ValueError, match="Input X_val contains NaN"):
        estimator.fit(X, Y, X_val=NAN, y_val=Y)
    with pytest.raises(ValueError, match="X has 2 features, but MLPClassifier is expecting 3 features"):
        estimator.fit(X, Y, X_val=X[:, :2], y_val=Y)
    with pytest.raises(ValueError, match=r"`y_val` has classes not in `self.classes_`: \[2\]"):
        estimator.fit(X, Y, X_val=X, y_val=2 * Y)


def test_split_for_early_stopping_messages():
    rare = np.array([1] + 11 * [0])
    for y, parameters in ((rare, {}), (Y[:2], {})):
        same_error(
            lambda estimator, y=y: estimator.fit(X[: len(y)], y),
            tiny(early_stopping=True, **parameters),
            tiny(peer.MLPClassifier, early_stopping=True, **parameters),
        )
    same_error(
        lambda estimator: estimator.fit(X[:2], Y[:2]),
        tiny(MLPRegressor, early_stopping=True),
        tiny(peer.MLPRegressor, early_stopping=True),
    )


def test_float32_cannot_hold_everything():
    large = X.copy()
    large[0, 0] = 1e39
    for call in (
        lambda: tiny(dtype="float32").fit(large, Y),
        lambda: fit(tiny(dtype="float32"), X, Y).predict(large),
    ):
        with pytest.raises(ValueError, match=r"Input X contains infinity or a value too large for dtype\('float32'\)"):
            call()
    with pytest.raises(ValueError, match=r"Input y contains infinity or a value too large for dtype\('float32'\)"):
        tiny(MLPRegressor, dtype="float32").fit(X, large[:, 0])


def test_categorical_columns_are_named():
    frame = pd.DataFrame({"age": [20.0, 30.0], "city": ["Rome", "Oslo"], "kind": pd.Categorical(["a", "b"])})
    with pytest.raises(ValueError, match=r"could not convert string.*\['city', 'kind'\].*ColumnTransformer"):
        tiny().fit(frame, [0, 1])
    numbers = frame[["age"]].assign(grade=pd.Categorical([1, 2]), flag=[True, False])
    assert fit(tiny(), numbers, [0, 1]).n_features_in_ == 3


def test_unusual_formats_are_converted():
    for convert in (sp.coo_array, sp.lil_array, sp.dok_array, sp.bsr_array, lambda X: X.tolist(), np.float16):
        assert fit(tiny(), convert(X), Y).params_.dtype == np.float64
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        matrix = np.asmatrix(X)
    with pytest.raises(TypeError, match=r"np.matrix is not supported"):
        tiny().fit(matrix, Y)


def test_sparse_input_cannot_be_centered():
    with pytest.raises(ValueError, match="input_scaling='robust' would center sparse X"):
        tiny(input_scaling="robust").fit(sp.csr_array(X), Y)


@pytest.mark.parametrize(
    "call",
    [
        lambda estimator: estimator.fit(NAN, Y),
        lambda estimator: estimator.fit(X[:, :2], Y[:-1]),
        lambda estimator: estimator.fit(pd.DataFrame(X[:, :2], columns=["a", "b"]), Y + 5, -np.ones(12)),
        lambda estimator: estimator.set_params(hidden_layer_sizes=(0,)).fit(X, Y + 5),
        lambda estimator: estimator.partial_fit(X, Y, X_val=X, y_val=5 * Y),
        lambda estimator: estimator.fit(X[:, :2], Y + 5, X_val=NAN[:, :2], y_val=Y + 5),
        lambda estimator: estimator.set_params(solver="sgd", learning_rate_init=1e300).fit(X[:, :1], Y + 5),
    ],
)
def test_nothing_is_half_fitted(call):
    estimator = fit(tiny(input_scaling="standard", activation="identity"), X, Y)
    state = {key: value for key, value in vars(estimator).items() if key.endswith("_") or key.startswith("_")}
    before = {key: pickle.dumps(value) for key, value in state.items()}
    probabilities = estimator.predict_proba(X)
    with pytest.raises(ValueError):
        call(estimator)
    state = {key: value for key, value in vars(estimator).items() if key.endswith("_") or key.startswith("_")}
    assert {key: pickle.dumps(value) for key, value in state.items()} == before
    np.testing.assert_array_equal(estimator.predict_proba(X), probabilities)


def test_nothing_is_half_fitted_by_a_first_call():
    for call in (
        lambda estimator: estimator.fit(X, Y, -np.ones(12)),
        lambda estimator: estimator.partial_fit(NAN, Y, classes=[0, 1]),
    ):
        estimator = tiny()
        before = dict(vars(estimator))
        with pytest.raises(ValueError):
            call(estimator)
        assert vars(estimator) == before


def test_lazy_names():
    assert set(nbnet.__all__) <= set(dir(nbnet))
    with pytest.raises(AttributeError, match="has no attribute 'MLPTransformer'"):
        nbnet.MLPTransformer  # noqa: B018


@pytest.mark.parametrize("cls", [MLPClassifier, MLPRegressor])
def test_no_jobs_at_all(cls):
    """0 has no meaning, as in joblib; negative numbers count from the number of cores."""
    with pytest.raises(ValueError, match=r"The 'n_jobs' parameter .* Got 0 instead"):
        tiny(cls, n_jobs=0).fit(X, Y)
    fit(tiny(cls, n_jobs=-1), X, Y)
