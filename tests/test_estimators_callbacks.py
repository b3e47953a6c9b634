"""scikit-learn's callbacks, from its version 1.9 on."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nbnet import MLPClassifier

sklearn_callback = pytest.importorskip("sklearn.callback", reason="scikit-learn has callbacks from version 1.9 on")

rng = np.random.default_rng(0)
X = rng.normal(size=(20, 3))
Y = np.arange(20) % 2


def tiny(**changes):
    return MLPClassifier(**{"hidden_layer_sizes": (3,), "max_iter": 3, "random_state": 0, "batch_size": 5, **changes})


def fit(estimator, *args, **kwargs):
    """Fit; reaching max_iter is no news here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(*args, **kwargs)


class Recorder:
    """Keeps what it is told, and ends training after `stop_after` epochs."""

    def __init__(self, stop_after=None):
        self.stop_after, self.events, self.fitted = stop_after, [], []

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, X=None, metadata=None):
        self.events.append(f"begin {context.task_name}")
        self.metadata = metadata

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
        self.events.append(f"end {context.task_name}")
        self.fitted.append(fitted_estimator)
        return self.stop_after is not None and self.events.count("end epoch") >= self.stop_after


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_callbacks_see_each_epoch(solver):
    recorder = Recorder()
    weights = np.ones(20)
    estimator = fit(tiny(solver=solver).set_callbacks(recorder), X, Y, weights)
    epochs = 3 * ["begin epoch", "end epoch"]
    assert recorder.events == ["setup", "begin fit", *epochs, "end fit", "teardown"]
    assert recorder.metadata == {"sample_weight": weights}
    assert_array_equal(recorder.fitted[-1].predict_proba(X), estimator.predict_proba(X))
    first = recorder.fitted[0]
    assert_array_equal(first.predict_proba(X), fit(tiny(solver=solver, max_iter=1), X, Y).predict_proba(X))
    assert not np.shares_memory(recorder.fitted[-1].params_, estimator.params_)
    assert not hasattr(estimator, "_callback_fit_ctx")


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_callback_ends_training(solver):
    estimator = tiny(solver=solver, max_iter=10).set_callbacks(Recorder(stop_after=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator.fit(X, Y)
    assert estimator.n_iter_ == 2
    assert_array_equal(estimator.params_, fit(tiny(solver=solver, max_iter=2), X, Y).params_)


def test_callbacks_are_torn_down_after_an_error():
    recorder = Recorder()

    def failing_scorer(estimator, X, y):
        raise RuntimeError("no score")

    estimator = tiny(scoring=failing_scorer).set_callbacks(recorder)
    with pytest.raises(RuntimeError, match="no score"):
        estimator.fit(X, Y, X_val=X, y_val=Y)
    assert recorder.events[-1] == "teardown"
    assert not hasattr(estimator, "params_")
    assert estimator._skl_callbacks == [recorder]


def test_progress_bar_and_scoring_monitor(capsys):
    pytest.importorskip("rich")
    monitor = sklearn_callback.ScoringMonitor(scoring="accuracy")
    pipeline = make_pipeline(StandardScaler(), tiny().set_callbacks(monitor))
    pipeline.set_callbacks(sklearn_callback.ProgressBar())
    fit(pipeline, X, Y)
    assert "MLPClassifier" in capsys.readouterr().out
    assert monitor.get_logs().data_as_pandas["accuracy"].notna().sum() == 4
    search = GridSearchCV(tiny(), {"alpha": [0.1, 1.0]}, cv=2).set_callbacks(sklearn_callback.ProgressBar())
    assert fit(search, X, Y).best_params_["alpha"] in (0.1, 1.0)
