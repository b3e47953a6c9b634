"""What the estimators have beyond scikit-learn's, and what they share with every estimator."""

import io
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.metrics import accuracy_score, log_loss, make_scorer, r2_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from nbnet import MLPClassifier, MLPRegressor
from nbnet.estimators.presets import TABULAR, TABULAR_REGRESSION
from tests.helpers import fit

rng = np.random.default_rng(0)
X = rng.normal(size=(18, 3))
Y = np.arange(18) % 3
Z = X @ [1.0, -2.0, 0.5]
TINY = {"hidden_layer_sizes": (3,), "max_iter": 2, "random_state": 0}
BOTH = [(MLPClassifier, Y), (MLPRegressor, Z)]


def tiny(cls=MLPClassifier, **changes):
    return cls(**{**TINY, **changes})


# -------------------------------------------------------------------------------- parameters as two arrays


def test_coefs_are_views_and_take_lists():
    estimator = fit(tiny(), X, Y)
    assert [coef.shape for coef in estimator.coefs_] == [(3, 3), (3, 3)]
    assert all(np.shares_memory(view, estimator.params_) for view in estimator.coefs_ + estimator.intercepts_)
    coefs = [np.full((3, 3), 2.0), np.zeros((3, 3))]
    estimator.coefs_ = coefs
    estimator.intercepts_ = [np.zeros(3), np.log([1.0, 2.0, 7.0])]
    assert_array_equal(estimator.coefs_[0], coefs[0])
    assert not np.shares_memory(estimator.coefs_[0], coefs[0])
    assert_allclose(estimator.predict_proba(X), np.tile([0.1, 0.2, 0.7], (18, 1)))
    estimator.coefs_[1][:] = 1.0  # through the view
    assert_array_equal(estimator.coefs_[1], np.ones((3, 3)))
    for wrong in ([coefs[0]], [coefs[0], np.zeros((3, 2))]):
        with pytest.raises(ValueError, match="coefs_ must have the shapes"):
            estimator.coefs_ = wrong


@pytest.mark.parametrize("cls, y", BOTH)
def test_pickles_joblib_and_clone(cls, y):
    estimator = fit(tiny(cls), X, y)
    buffer = io.BytesIO()
    joblib.dump(estimator, buffer)
    buffer.seek(0)
    for copy in (pickle.loads(pickle.dumps(estimator)), joblib.load(buffer)):
        assert_array_equal(copy.predict(X), estimator.predict(X))
        assert_array_equal(copy.params_, estimator.params_)
        assert copy.params_.ctypes.data % 64 == 0
        assert_array_equal(
            copy.partial_fit(X, y).params_, pickle.loads(pickle.dumps(estimator)).partial_fit(X, y).params_
        )
    assert_array_equal(fit(clone(estimator), X, y).params_, estimator.params_)
    wide = fit(tiny(cls, hidden_layer_sizes=(400,), max_iter=1), X, y)
    size = len(pickle.dumps(wide))
    assert size < 3.2 * wide.params_.nbytes + 20_000, "parameters once, and the optimizer's two moments"


def test_memory_mapped_model_predicts(tmp_path):
    estimator = fit(tiny(), X, Y)
    joblib.dump(estimator, tmp_path / "model.joblib")
    mapped = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    assert_array_equal(mapped.predict_proba(X), estimator.predict_proba(X))


def test_repr_and_html():
    assert repr(tiny(dropout=0.5)) == "MLPClassifier(dropout=0.5, hidden_layer_sizes=(3,), max_iter=2, random_state=0)"
    assert "MLPClassifier" in tiny()._repr_html_()
    for cls in (MLPClassifier, MLPRegressor):
        assert "{" not in cls.__doc__.replace("{class_label: weight}", "").replace('{"', "")


# -------------------------------------------------------------------------------- data types


@pytest.mark.parametrize("cls, y", BOTH)
@pytest.mark.parametrize(
    "dtype, given, expected",
    [
        (None, np.float64, np.float64),
        (None, np.float32, np.float32),
        (None, np.int8, np.float64),
        (None, np.uint16, np.float64),
        ("float32", np.float64, np.float32),
        ("float64", np.float32, np.float64),
    ],
)
def test_dtypes(cls, y, dtype, given, expected):
    data = (10 * X).astype(given) if np.dtype(given).kind != "u" else np.abs(10 * X).astype(given)
    for solver in ("adam", "lbfgs"):
        estimator = fit(tiny(cls, dtype=dtype, solver=solver), data, y)
        assert estimator.params_.dtype == estimator.coefs_[0].dtype == expected
        output = estimator.predict_proba(data) if cls is MLPClassifier else estimator.predict(data)
        assert output.dtype == expected
    assert fit(tiny(cls, dtype=dtype), data, y).partial_fit(X, y).params_.dtype == expected


@pytest.mark.parametrize(
    "labels",
    [
        ["x", "y", "z"],
        np.array([3, 7, 9], np.int8),
        np.array([0.0, 1.0, 5.0]),
        np.array(["b", "a", "c"], object),
        [-1, 0, 1],
    ],
    ids=str,
)
def test_labels_of_any_type(labels):
    y = np.asarray(labels)[Y]
    estimator = fit(tiny(), X, y)
    assert_array_equal(estimator.classes_, np.unique(y))
    assert estimator.predict(X).dtype == estimator.classes_.dtype
    incremental = tiny().partial_fit(X[:2], y[:2], classes=np.unique(y)).partial_fit(X, y)
    assert_array_equal(incremental.classes_, estimator.classes_)


def test_booleans_and_one_class():
    estimator = fit(tiny(), X, Y == 1)
    assert estimator.predict(X).dtype == bool
    only = fit(tiny(), X, np.full(18, "only"))
    assert_array_equal(only.predict(X), np.full(18, "only"))


# -------------------------------------------------------------------------------- targets


def test_multilabel_in_fit_and_partial_fit():
    labels = np.stack([X[:, 0] > 0, X[:, 1] > 0, X[:, 2] > 0], axis=1).astype(int)
    for y in (labels, sp.csr_array(labels)):
        estimator = fit(tiny(), X, y)
        assert estimator.predict_proba(X).shape == (18, 3)
        assert estimator.predict(X).shape == (18, 3)
    incremental = tiny().partial_fit(X, labels, classes=[0, 1, 2]).partial_fit(X, labels)
    assert incremental.out_activation_ == "logistic"
    assert incremental.n_outputs_ == 3
    balanced = fit(tiny(class_weight="balanced", early_stopping=True), X, labels)
    assert len(balanced.validation_scores_) == 2


def test_multi_output_regression():
    estimator = fit(tiny(MLPRegressor), X, np.stack([Z, -Z], axis=1))
    assert estimator.predict(X).shape == (18, 2)
    assert np.isfinite(estimator.score(X, np.stack([Z, -Z], axis=1)))


@pytest.mark.slow_without_jit
def test_quantile_and_huber_find_their_minima():
    y = np.random.default_rng(1).exponential(size=400)
    constant = np.zeros((400, 1))
    common = {
        "hidden_layer_sizes": (),
        "max_iter": 2000,
        "tol": 1e-7,
        "learning_rate": "linear",
        "alpha": 0.0,
        "random_state": 0,
    }
    for quantile in (0.1, 0.5, 0.9):
        estimator = MLPRegressor("quantile", quantile=quantile, batch_size=400, learning_rate_init=0.01, **common)
        assert_allclose(estimator.fit(constant, y).predict(constant[:1]), np.quantile(y, quantile), atol=0.05)
    large_delta = MLPRegressor("huber", huber_delta=100.0, learning_rate_init=0.01, batch_size=400, **common)
    assert_allclose(large_delta.fit(constant, y).predict(constant[:1]), y.mean(), atol=0.02)
    small_delta = MLPRegressor("huber", huber_delta=1e-3, learning_rate_init=0.5, batch_size=400, **common)
    assert_allclose(small_delta.fit(constant, y).predict(constant[:1]), np.median(y), atol=0.05)


# -------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("solver", ["lbfgs", "adam", "sgd"])
@pytest.mark.parametrize("cls, y", BOTH)
def test_weights_mean_repetition(cls, y, solver):
    weights = np.arange(18) // 3 % 3
    repeated = np.repeat(np.arange(18), weights)
    parameters = {"solver": solver, "batch_size": "auto", "max_iter": 3, "tol": 1e-9}
    weighted = fit(tiny(cls, **parameters), X, y, sample_weight=weights)
    alike = fit(tiny(cls, **parameters), X[repeated], y[repeated])
    assert_allclose(weighted.params_, alike.params_, rtol=1e-7, atol=1e-9)
    present = weights > 0
    absent = fit(
        tiny(
            cls,
            **parameters,
        ),
        X[present],
        y[present],
        sample_weight=weights[present],
    )
    assert_allclose(weighted.params_, absent.params_, rtol=1e-9)


def test_weight_zero_is_absence_in_every_part_of_a_fit():
    """Mini-batches, the split for early stopping and the scaling included: to the bit."""
    weights = (np.arange(18) % 5 > 0).astype(float)
    parameters = {"batch_size": 4, "early_stopping": True, "input_scaling": "robust", "class_weight": "balanced"}
    present = weights > 0
    weighted = fit(tiny(**parameters), X, Y, weights)
    absent = fit(tiny(**parameters), X[present], Y[present])
    assert_array_equal(weighted.params_, absent.params_)
    assert weighted.validation_scores_ == absent.validation_scores_


def test_class_weight_equals_sample_weight():
    by_class = fit(tiny(class_weight={0: 1.0, 1: 2.0, 2: 0.5}), X, Y)
    by_row = fit(tiny(), X, Y, sample_weight=np.array([1.0, 2.0, 0.5])[Y])
    assert_array_equal(by_class.params_, by_row.params_)
    rare = np.where(np.arange(18) < 3, "rare", "often")
    balanced = fit(tiny(class_weight="balanced"), X, rare)
    assert_allclose(balanced.params_, fit(tiny(), X, rare, np.where(rare == "rare", 3.0, 0.6)).params_)
    weights = rng.uniform(size=18)
    counts = {name: weights[rare == name].sum() for name in ("rare", "often")}
    balanced_weights = weights * weights.sum() / 2 / np.vectorize(counts.get)(rare)
    assert_allclose(
        fit(tiny(class_weight="balanced"), X, rare, weights).params_, fit(tiny(), X, rare, balanced_weights).params_
    )


# -------------------------------------------------------------------------------- validation, early stopping, history


def test_validation_rows_record_curves_only():
    plain = fit(tiny(), X, Y)
    watched = fit(tiny(), X, Y, X_val=X[:6], y_val=Y[:6], sample_weight_val=np.arange(1.0, 7.0))
    assert_array_equal(plain.params_, watched.params_)
    assert watched.validation_scores_ is None
    assert watched.best_validation_score_ is None
    history = watched.history_
    assert list(history) == ["loss", "val_loss", "val_score", "learning_rate", "seconds"]
    assert history["loss"] == watched.loss_curve_
    assert_allclose(history["val_loss"][-1], log_loss(Y[:6], watched.predict_proba(X[:6]), sample_weight=range(1, 7)))
    assert_allclose(history["val_score"][-1], accuracy_score(Y[:6], watched.predict(X[:6]), sample_weight=range(1, 7)))
    assert np.isnan(plain.history_["val_loss"]).all()
    assert len(pd.DataFrame(watched.history_)) == 2


def test_val_loss_has_the_class_weights_of_training():
    rare = np.where(np.arange(18) < 3, 1, 0)
    estimator = fit(tiny(class_weight="balanced"), X, rare, X_val=X[:6], y_val=rare[:6])
    weights = np.where(rare[:6] == 1, 3.0, 0.6)
    assert_allclose(
        estimator.history_["val_loss"][-1], log_loss(rare[:6], estimator.predict_proba(X[:6]), sample_weight=weights)
    )


def worst_label(y_true, y_pred):
    return min(np.mean(y_pred[y_true == label] == label) for label in np.unique(y_true))


@pytest.mark.parametrize(
    "scoring, score",
    [
        (None, lambda est: accuracy_score(Y[9:], est.predict(X[9:]))),
        ("loss", lambda est: -log_loss(Y[9:], est.predict_proba(X[9:]))),
        ("neg_log_loss", lambda est: -log_loss(Y[9:], est.predict_proba(X[9:]))),
        (make_scorer(worst_label), lambda est: worst_label(Y[9:], est.predict(X[9:]))),
        (lambda est, X, y: est.predict_proba(X)[:, 1].sum(), lambda est: est.predict_proba(X[9:])[:, 1].sum()),
    ],
)
def test_scoring_decides_and_the_best_weights_are_kept(scoring, score):
    estimator = tiny(early_stopping=True, scoring=scoring, max_iter=8, learning_rate_init=0.3, learning_rate="linear")
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    estimator.fit(frame[:9], Y[:9], X_val=frame[9:], y_val=Y[9:])
    best = int(np.argmax(estimator.validation_scores_))
    estimator_names = estimator.feature_names_in_
    assert_array_equal(estimator_names, ["a", "b", "c"])
    del estimator.feature_names_in_
    assert_allclose(score(estimator), estimator.validation_scores_[best])
    assert estimator.best_validation_score_ == estimator.validation_scores_[best]
    assert estimator.best_loss_ is None


def test_a_scorer_sees_the_precision_that_is_kept():
    """lbfgs computes in float64; what the scorer predicts with is what predicts after the fit."""
    seen = []

    def scoring(estimator, X, y):
        seen.append(estimator.predict_proba(X))
        return 0.0

    estimator = fit(tiny(solver="lbfgs", dtype="float32", scoring=scoring), X, Y, X_val=X, y_val=Y)
    assert seen[-1].dtype == np.float32
    assert_array_equal(seen[-1], estimator.predict_proba(X))


def test_regressor_scores_by_r2():
    estimator = fit(tiny(MLPRegressor, early_stopping=True), X[:9], Z[:9], X_val=X[9:], y_val=Z[9:])
    assert_allclose(max(estimator.validation_scores_), r2_score(Z[9:], estimator.predict(X[9:])))


def test_partial_fit_with_early_stopping_goes_on_from_the_latest():
    """The best weights predict; the path of the weights is the one without early stopping."""
    common = {"early_stopping": True, "scoring": "loss", "learning_rate_init": 0.5}
    watched = tiny(**common)
    plain = tiny(learning_rate_init=0.5)
    params = []
    for _ in range(8):
        watched.partial_fit(X[:9], Y[:9], classes=[0, 1, 2], X_val=X[9:], y_val=Y[9:])
        params.append(plain.partial_fit(X[:9], Y[:9], classes=[0, 1, 2]).params_)
        assert_array_equal(watched.params_, params[int(np.argmax(watched.validation_scores_))])
    assert len(watched.validation_scores_) == 8
    assert np.argmax(watched.validation_scores_) < 7, "the test needs a fit that gets worse"
    assert watched.loss_curve_ == plain.loss_curve_


# -------------------------------------------------------------------------------- going on


def test_epochs_of_partial_fit_are_those_of_fit():
    whole = fit(tiny(max_iter=4, batch_size=5), X, Y)
    steps = tiny(batch_size=5)
    for _ in range(4):
        steps.partial_fit(X, Y, classes=[0, 1, 2])
    assert_array_equal(whole.params_, steps.params_)
    assert whole.loss_curve_ == steps.loss_curve_


def test_warm_start_and_refit():
    estimator = fit(tiny(warm_start=True), X, Y)
    first = estimator.params_.copy()
    fit(estimator, X, Y)
    assert len(estimator.loss_curve_) == 4
    assert estimator.n_iter_ == 2
    assert estimator.t_ == 4 * 18
    assert (estimator.params_ != first).any()
    fit(estimator.set_params(warm_start=False), X[:, :2], Y % 2)
    assert_array_equal(estimator.params_, fit(tiny(), X[:, :2], Y % 2).params_)
    assert len(estimator.loss_curve_) == 2


def test_random_state():
    state = np.random.RandomState(0)
    first, second = fit(tiny(random_state=state), X, Y), fit(tiny(random_state=state), X, Y)
    assert (first.params_ != second.params_).any(), "an instance moves on"
    assert_array_equal(first.params_, fit(tiny(), X, Y).params_)
    unseeded = [fit(tiny(random_state=None), X, Y) for _ in range(2)]
    assert (unseeded[0].params_ != unseeded[1].params_).any()


# -------------------------------------------------------------------------------- ours


def test_activation_for_each_layer():
    estimator = fit(tiny(hidden_layer_sizes=(3, 2), activation=["tanh", "softplus"]), X, Y)
    hidden = np.tanh(X @ estimator.coefs_[0] + estimator.intercepts_[0])
    hidden = np.log1p(np.exp(hidden @ estimator.coefs_[1] + estimator.intercepts_[1]))
    logits = hidden @ estimator.coefs_[2] + estimator.intercepts_[2]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert_allclose(estimator.predict_proba(X), expected, rtol=1e-9)


def test_no_hidden_layer():
    estimator = fit(tiny(hidden_layer_sizes=()), X, Y)
    assert [coef.shape for coef in estimator.coefs_] == [(3, 3)]
    assert fit(tiny(hidden_layer_sizes=5), X, Y).coefs_[0].shape == (3, 5)


def test_adamw_decays_weights_only():
    """One step of adamw is one of adam without penalty, after weights (not biases) shrink by lr * alpha."""
    common = {"max_iter": 1, "learning_rate_init": 0.1, "warm_start": True}
    start = fit(tiny(**{**common, "learning_rate_init": 1e-9}), X, Y)
    decayed = fit(pickle.loads(pickle.dumps(start)).set_params(solver="adamw", alpha=0.5, **common), X, Y)
    plain = fit(pickle.loads(pickle.dumps(start)).set_params(solver="adam", alpha=0.0, **common), X, Y)
    for after, undecayed, before in zip(decayed.coefs_, plain.coefs_, start.coefs_, strict=True):
        assert_allclose(after, undecayed - 0.1 * 0.5 * before, rtol=1e-7, atol=1e-9)
    for after, undecayed in zip(decayed.intercepts_, plain.intercepts_, strict=True):
        assert_allclose(after, undecayed, rtol=1e-9)
    assert_allclose(decayed.loss_, plain.loss_), "alpha is no part of the loss"


@pytest.mark.parametrize("solver", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("learning_rate", ["linear", "cosine", "one_cycle"])
def test_schedules_end_without_a_warning(solver, learning_rate):
    estimator = tiny(solver=solver, learning_rate=learning_rate, warmup_fraction=0.2, batch_size=5, max_iter=3)
    rates = estimator.fit(X, Y).history_["learning_rate"]
    assert len(rates) == 3
    assert 0 < rates[-1] < rates[0] <= 1e-3


def test_dropout_label_smoothing_and_clipping_change_the_fit_and_not_the_prediction():
    plain = fit(tiny(), X, Y)
    for parameters in ({"dropout": 0.5}, {"label_smoothing": 0.2}, {"max_grad_norm": 1e-3, "solver": "sgd"}):
        estimator = fit(tiny(**parameters), X, Y)
        assert (estimator.params_ != plain.params_).any()
        assert_array_equal(estimator.predict_proba(X), estimator.predict_proba(X))
        assert_array_equal(estimator.params_, fit(tiny(**parameters), X, Y).params_)


@pytest.mark.parametrize("kind", ["standard", "robust"])
def test_input_scaling(kind):
    table = np.column_stack([1e6 + 100 * X[:, 0], X[:, 1] ** 3, np.full(18, 7.0), np.arange(18) == 4])
    estimator = fit(tiny(input_scaling=kind), table, Y)
    if kind == "standard":
        expected = StandardScaler().fit_transform(table)
    else:
        low, middle, high = np.quantile(table, [0.25, 0.5, 0.75], axis=0, method="inverted_cdf")
        spread = np.where(high > low, high - low, np.maximum(np.ptp(table, axis=0) / 2, 1e-300))
        z = (table - middle) / spread
        expected = z / np.sqrt(1 + (z / 3) ** 2)
    assert_allclose(estimator._input_scaler.transform(table, np.float64), expected, atol=1e-9)
    assert_allclose(estimator.params_, fit(tiny(), expected, Y).params_, rtol=1e-6, atol=1e-9)
    assert_allclose(estimator.predict_proba(table), fit(tiny(), expected, Y).predict_proba(expected), rtol=1e-6)
    assert_array_equal(estimator.input_center_.shape, (4,))
    changed = table.copy()
    changed[:, 2] = 1e9
    assert_array_equal(estimator.predict_proba(changed), estimator.predict_proba(table))
    # learned by the first partial_fit, fixed from then on
    incremental = tiny(input_scaling=kind).partial_fit(table, Y, classes=[0, 1, 2])
    center = incremental.input_center_.copy()
    incremental.partial_fit(table + 5, Y)
    assert_array_equal(incremental.input_center_, center)
    refitted = fit(estimator.set_params(input_scaling=None), table, Y)
    assert not hasattr(refitted, "input_center_")
    extreme = fit(tiny(input_scaling=kind), np.array([[1e300], [-1e300], [0.0]]), [0, 1, 0])
    assert np.isfinite(extreme.predict_proba([[1.7e308]])).all()


def test_input_scaling_with_weights_and_validation():
    weights = np.arange(18) % 3
    repeated = np.repeat(np.arange(18), weights)
    for kind in ("standard", "robust"):
        weighted = fit(tiny(input_scaling=kind), X, Y, weights)
        assert_allclose(weighted.input_center_, fit(tiny(input_scaling=kind), X[repeated], Y[repeated]).input_center_)
        watched = fit(
            tiny(input_scaling=kind, early_stopping=True, scoring="neg_log_loss"),
            X[:9],
            Y[:9],
            X_val=X[9:],
            y_val=Y[9:],
        )
        assert_allclose(max(watched.validation_scores_), -log_loss(Y[9:], watched.predict_proba(X[9:])))


@pytest.mark.parametrize("cls, y", BOTH)
def test_tabular(cls, y):
    estimator = cls.tabular(hidden_layer_sizes=(4,), max_iter=2, random_state=0, n_jobs=1)
    assert type(estimator) is cls
    overridden = {"hidden_layer_sizes": (4,), "max_iter": 2, "random_state": 0, "n_jobs": 1}
    preset = TABULAR if cls is MLPClassifier else TABULAR_REGRESSION
    assert estimator.get_params() == {**cls().get_params(), **preset, **overridden}
    estimator.fit(X, y)
    assert estimator.input_scale_.shape == (3,)
    with pytest.raises(TypeError, match="unexpected keyword argument 'depth'"):
        cls.tabular(depth=3)


@pytest.mark.slow_without_jit
def test_tabular_copes_with_outliers_and_scales():
    data, y = make_classification(600, 8, n_informative=4, random_state=0)
    data *= 10.0 ** np.arange(-4, 4)
    data[::50] *= 1e6
    tabular, default = MLPClassifier.tabular(random_state=0), MLPClassifier(random_state=0, max_iter=100)
    scores = [fit(estimator, data[:400], y[:400]).score(data[400:], y[400:]) for estimator in (tabular, default)]
    assert scores[0] > scores[1] + 0.05


# -------------------------------------------------------------------------------- scikit-learn's machinery


def test_metadata_routing_through_a_pipeline():
    with sklearn.config_context(enable_metadata_routing=True):
        classifier = tiny(early_stopping=True).set_fit_request(X_val=True, y_val=True, sample_weight=True)
        pipeline = Pipeline([("scale", StandardScaler()), ("mlp", classifier)], transform_input=["X_val"])
        pipeline.named_steps["scale"].set_fit_request(sample_weight=False)
        fit(pipeline, X[:9], Y[:9], X_val=X[9:], y_val=Y[9:], sample_weight=np.ones(9))
    scaler = StandardScaler().fit(X[:9])
    direct = fit(tiny(early_stopping=True), scaler.transform(X[:9]), Y[:9], X_val=scaler.transform(X[9:]), y_val=Y[9:])
    assert_array_equal(pipeline[-1].params_, direct.params_)
    assert pipeline[-1].validation_scores_ == direct.validation_scores_


def test_feature_names():
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    estimator = fit(make_pipeline(StandardScaler().set_output(transform="pandas"), tiny()), frame, Y)[-1]
    assert_array_equal(estimator.feature_names_in_, ["a", "b", "c"])
    with pytest.raises(ValueError, match="The feature names should match those that were passed during fit"):
        estimator.predict(frame.rename(columns={"a": "d"}))
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        estimator.predict(X)


def test_verbose_prints_one_line_an_epoch(capsys):
    fit(tiny(verbose=True), X, Y, X_val=X, y_val=Y)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["Iteration 1", "Iteration 2"]
    assert "loss = " in lines[0]
    assert "validation score = " in lines[0]
    fit(tiny(verbose=True, solver="lbfgs"), X, Y)
    assert capsys.readouterr().out.startswith("Iteration 1, loss = ")


def test_lbfgs_records_its_iterations():
    estimator = fit(tiny(solver="lbfgs", max_iter=4), X, Y, X_val=X[:6], y_val=Y[:6])
    assert len(estimator.history_["loss"]) == estimator.n_iter_ == 4
    assert_allclose(estimator.history_["loss"][-1], estimator.loss_)
    assert np.isfinite(estimator.history_["val_loss"]).all()
    assert not hasattr(estimator, "loss_curve_")


@pytest.mark.slow_without_jit
@pytest.mark.parametrize("make", [np.asarray, np.asfortranarray, sp.csr_array], ids=["c", "fortran", "csr"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_network_of_other_precision_than_x(make, solver):
    data = np.where(X > 0, X, 0)
    options = {"solver": solver, "max_iter": 3, "random_state": 0, "dtype": "float32"}
    reads_doubles = fit(MLPClassifier((5,), **options), make(data), Y)
    converted = fit(MLPClassifier((5,), **options), make(data.astype(np.float32)), Y)
    assert reads_doubles.params_.dtype == np.float32
    if solver == "adam":  # lbfgs computes in float64 and sees the digits that a conversion loses
        assert_array_equal(reads_doubles.params_, converted.params_)
    else:
        assert_allclose(reads_doubles.params_, converted.params_, atol=1e-4)
    assert_array_equal(
        reads_doubles.predict_proba(make(data)), reads_doubles.predict_proba(make(data.astype(np.float32)))
    )
