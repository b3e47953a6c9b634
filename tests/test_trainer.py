"""Schedules, batches, stopping rules, divergence, interruption and callbacks."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from nbnet import MLPClassifier, MLPRegressor, trainer
from nbnet.progress import EpochRecord, Progress
from nbnet.schedules import LEARNING_RATES, LearningRate, cosine, ends_at_max_iter, linear, one_cycle
from tests.helpers import fit

rng = np.random.default_rng(0)
X = rng.normal(size=(20, 3))
Y = np.arange(20) % 2
Z = X @ [1.0, -2.0, 0.5]
TINY = {"hidden_layer_sizes": (3,), "max_iter": 3, "random_state": 0, "batch_size": 5}


def tiny(cls=MLPClassifier, **changes):
    return cls(**{**TINY, **changes})


# -------------------------------------------------------------------------------- learning rates


def rates(schedule, *, solver="adam", warmup_fraction=0.0, max_iter=10, n_batches=5, reductions=0):
    """Rate of each step of a whole fit, in units of learning_rate_init."""
    rule = LearningRate(schedule, 1.0, 0.5, warmup_fraction, max_iter, solver)
    return np.concatenate([rule.rates(epoch, n_batches, 100 * epoch, reductions) for epoch in range(max_iter)])


def test_schedules_at_their_ends():
    progress = np.array([0.0, 0.5, 1.0])
    assert_allclose(linear(progress), [1, 0.5, 0])
    assert_allclose(cosine(progress), [1, 0.5, 0], atol=1e-15)
    assert_allclose(one_cycle(np.array([0.0, 0.3, 1.0])), [1 / 25, 1, 1 / 250_000])
    assert_allclose(one_cycle(np.array([0.15]))[0], (1 + 1 / 25) / 2)


@pytest.mark.parametrize("schedule", LEARNING_RATES)
def test_rates_of_a_whole_fit(schedule):
    values = rates(schedule)
    assert values.shape == (50,)
    assert (values > 0).all()
    assert values.max() <= 1.0
    if ends_at_max_iter(schedule):
        assert values[-1] < 0.1
    else:
        assert_array_equal(values, 1.0), "invscaling and adaptive are constant for adam"


def test_one_cycle_rises_for_as_long_as_the_warmup_says():
    assert np.argmax(rates("one_cycle")) == 15
    assert np.argmax(rates("one_cycle", warmup_fraction=0.1)) == 5


def test_warmup_rises_on_a_straight_line_from_the_first_step():
    values = rates("constant", warmup_fraction=0.2)
    assert_allclose(values[:10], np.arange(1, 11) / 10)
    assert_array_equal(values[10:], 1.0)
    values = rates("linear", warmup_fraction=0.2)
    assert np.argmax(values) in (9, 10)
    assert_allclose(values[10:], 1 - np.arange(40) / 40)


def test_schedules_of_sgd():
    assert_allclose(rates("invscaling", solver="sgd")[[0, 5, 10]], [1, 101**-0.5, 201**-0.5])
    assert_allclose(rates("adaptive", solver="sgd", reductions=2), 1 / 25)


def test_after_max_iter_epochs_the_last_factor_stays():
    rule = LearningRate("linear", 1.0, 0.5, 0.0, 10, "adam")
    assert_allclose(rule.rates(12, 5, 0, 0), 1 / 50)


def test_partial_fit_follows_the_schedule():
    whole = fit(tiny(learning_rate="cosine"), X, Y)
    steps = tiny(learning_rate="cosine")
    for _ in range(3):
        steps.partial_fit(X, Y, classes=[0, 1])
    assert steps.history_["learning_rate"] == whole.history_["learning_rate"]


# -------------------------------------------------------------------------------- parts


def test_batch_size():
    assert trainer.check_batch_size("auto", 50) == 50
    assert trainer.check_batch_size("auto", 500) == 200
    assert trainer.check_batch_size(7, 50) == 7


def test_progress_counts_epochs_without_improvement():
    progress = Progress.resume({}, early_stopping=False)
    improved = []
    for loss in (1.0, 0.9, 0.89, 0.7):
        progress.record(EpochRecord(loss=loss), 10)
        improved.append((progress.update_best(0.05), progress.no_improvement_count))
    assert improved == [(True, 0), (True, 0), (True, 1), (True, 0)]
    assert (progress.best_loss, progress.n_samples_seen, progress.n_iter) == (0.7, 40, 4)


def test_progress_compares_scores_with_early_stopping():
    progress = Progress.resume({}, early_stopping=True)
    improved = []
    for score in (0.5, 0.54, 0.6, np.nan, 0.1):
        progress.record(EpochRecord(loss=1.0, val_score=score), 10)
        improved.append((progress.update_best(0.05), progress.no_improvement_count))
    assert improved == [(True, 0), (True, 1), (True, 0), (False, 0), (False, 1)]
    assert progress.best_validation_score == 0.6
    assert progress.best_loss is None


def test_early_stopping_can_be_switched_between_calls():
    estimator = fit(tiny(warm_start=True), X, Y)
    fit(estimator.set_params(early_stopping=True), X, Y)
    assert len(estimator.validation_scores_) == 3
    assert len(estimator.loss_curve_) == 6
    fit(estimator.set_params(early_stopping=False), X, Y)
    assert estimator.validation_scores_ is None
    assert estimator.best_loss_ < np.inf


def test_another_solver_starts_with_fresh_moments():
    estimator = fit(tiny(), X, Y)
    estimator.set_params(solver="sgd").partial_fit(X, Y)
    assert estimator._optimizer.n_epochs == 1
    fit(estimator.set_params(solver="lbfgs", warm_start=True), X, Y)
    estimator.set_params(solver="adam").partial_fit(X, Y)
    assert len(estimator.loss_curve_) == 1


@pytest.mark.parametrize("early_stopping", [False, True])
def test_training_stops_where_nothing_improves(early_stopping, capsys):
    fit(tiny(tol=1e9, n_iter_no_change=2, max_iter=50, early_stopping=early_stopping, verbose=True), X, Y)
    last = capsys.readouterr().out.splitlines()[-1]
    watched = "Validation score" if early_stopping else "Training loss"
    assert last == f"{watched} did not improve more than tol=1000000000.000000 for 2 consecutive epochs. Stopping."


def test_adaptive_divides_the_rate_until_it_is_too_small(capsys):
    common = {"solver": "sgd", "learning_rate": "adaptive", "tol": 1e9, "n_iter_no_change": 1, "verbose": True}
    estimator = tiny(max_iter=50, learning_rate_init=1e-5, **common).fit(X, Y)
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("Iteration")]
    text = "Training loss did not improve more than tol=1000000000.000000 for 1 consecutive epochs."
    assert lines == [
        f"{text} Setting learning rate to 0.000002",
        f"{text} Setting learning rate to 0.000000",
        f"{text} Learning rate too small. Stopping.",
    ]
    assert_allclose(np.unique(estimator.history_["learning_rate"]), [4e-7, 2e-6, 1e-5])


# -------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("cls, y", [(MLPClassifier, Y), (MLPRegressor, Z)])
@pytest.mark.parametrize("solver", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_never_a_silent_nan(cls, y, solver, dtype, early_stopping):
    estimator = tiny(
        cls,
        solver=solver,
        learning_rate_init=1e6,
        dtype=dtype,
        early_stopping=early_stopping,
        hidden_layer_sizes=(3, 3),
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator.fit(X, y)
        except ValueError as error:
            assert str(error).startswith("Solver produced non-finite parameter weights. The input data may contain")
            assert not hasattr(estimator, "params_")
            return
    assert all(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    assert np.isfinite(estimator.params_).all()
    assert np.isfinite(estimator.predict_proba(X) if cls is MLPClassifier else estimator.predict(X)).all()
    if np.isnan(estimator.loss_curve_[-1]):
        assert len(caught) == 1
        assert np.isfinite(estimator.loss_)


def test_divergence_after_finite_epochs_keeps_the_last_finite_weights():
    estimator = fit(tiny(MLPRegressor, solver="sgd", warm_start=True, learning_rate_init=1e-3), X, Z)
    finite = estimator.params_.copy()
    estimator.set_params(learning_rate_init=1e30, early_stopping=True)
    with pytest.warns(ConvergenceWarning, match="Training diverged in iteration 1: .*learning_rate_init=1e") as caught:
        estimator.fit(X, Z)
    assert len(caught) == 1
    assert_array_equal(estimator.params_, finite)
    assert np.isnan(estimator.loss_curve_[-1])
    assert np.isnan(estimator.validation_scores_[-1])
    assert estimator.n_iter_ == 1
    estimator.set_params(learning_rate_init=1e-3, early_stopping=False).partial_fit(X, Z)  # the moments are fresh
    assert np.isfinite(estimator.params_).all()


def test_lbfgs_whose_loss_overflows_warns():
    with pytest.warns(ConvergenceWarning, match="lbfgs failed to converge"):
        estimator = tiny(MLPRegressor, solver="lbfgs").fit(X, np.full(20, 1e300))
    assert np.isfinite(estimator.predict(X)).all()


def test_lbfgs_with_non_finite_weights_raises(monkeypatch):
    def diverging(fun, start, **options):
        options["callback"](np.full_like(start, np.nan))
        raise KeyboardInterrupt

    monkeypatch.setattr("scipy.optimize.minimize", diverging)
    with (
        pytest.warns(UserWarning, match="Training interrupted by user"),
        pytest.raises(ValueError, match=r"^Solver produced non-finite parameter weights\. The input data may contain"),
    ):
        tiny(MLPRegressor, solver="lbfgs").fit(X, Z)


# -------------------------------------------------------------------------------- interruption


class InterruptingScorer:
    """Presses Ctrl-C when it is called for the n-th time."""

    def __init__(self, n):
        self.n = n

    def __call__(self, estimator, X, y):
        self.n -= 1
        if self.n <= 0:
            raise KeyboardInterrupt
        return -float(self.n)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("calls", [1, 3])
def test_ctrl_c_leaves_a_usable_model(solver, calls):
    estimator = tiny(solver=solver, scoring=InterruptingScorer(calls), max_iter=50)
    with pytest.warns(UserWarning, match="^Training interrupted by user.$"):
        estimator.fit(X, Y, X_val=X, y_val=Y)
    assert estimator.n_iter_ == calls - 1
    assert np.isfinite(estimator.predict_proba(X)).all()
    estimator.set_params(scoring=None, solver="adam").partial_fit(X, Y)


def test_ctrl_c_with_early_stopping_gives_the_best_weights():
    estimator = tiny(scoring=InterruptingScorer(4), early_stopping=True, max_iter=50)
    with pytest.warns(UserWarning, match="^Training interrupted by user.$"):
        estimator.fit(X, Y, X_val=X, y_val=Y)
    assert estimator.validation_scores_ == [-3.0, -2.0, -1.0]
    assert_array_equal(estimator.params_, fit(tiny(), X, Y).params_)
