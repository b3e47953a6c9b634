"""What is promised of every fit: the same bits, whoever computes them, and safety in threads and processes."""

import hashlib
import multiprocessing
import signal
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV
from sklearn.utils.estimator_checks import check_estimator

from nbnet import MLPClassifier, MLPRegressor

# Reaching max_iter is no news here. A mark, not warnings.catch_warnings in each call: that one is not safe in threads.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 5))
Y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).astype(int) + (X[:, 3] > 0.5)
SMALL = {"hidden_layer_sizes": (9, 6), "max_iter": 2, "random_state": 0, "batch_size": 16, "learning_rate": "linear"}


def small(cls=MLPClassifier, **changes):
    return cls(**{**SMALL, **changes})


def digest(estimator):
    """Of the parameters' bits."""
    return hashlib.sha256(np.ascontiguousarray(estimator.params_)).hexdigest()


def fitted_digest(**changes):
    return digest(small(**changes).fit(X, Y))


# -------------------------------------------------------------------------------- the same bits


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dropout": 0.3, "solver": "adamw", "early_stopping": True, "activation": "gelu"},
        {"solver": "lbfgs"},
        {"solver": "sgd", "max_grad_norm": 0.1, "dtype": "float32"},
    ],
    ids=str,
)
def test_same_bits_for_any_number_of_workers(changes):
    alone = fitted_digest(n_jobs=1, **changes)
    assert {fitted_digest(n_jobs=n_jobs, **changes) for n_jobs in (2, 3, 8, None)} == {alone}


@pytest.mark.slow_without_jit
@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_same_bits_in_joblib_workers(backend):
    digests = joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(fitted_digest)() for _ in range(3))
    assert set(digests) == {fitted_digest()}


@pytest.mark.slow_without_jit
def test_same_bits_in_grid_search():
    search = GridSearchCV(small(), {"alpha": [1e-4, 1.0]}, cv=2, n_jobs=2, refit=False).fit(X, Y)
    alone = GridSearchCV(small(n_jobs=1), {"alpha": [1e-4, 1.0]}, cv=2, refit=False).fit(X, Y)
    assert_array_equal(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])


@pytest.mark.slow_without_jit
def test_halving_search_with_epochs_as_the_resource():
    search = HalvingGridSearchCV(
        small(), {"alpha": [1e-4, 1.0], "learning_rate_init": [1e-3, 1e-2]}, resource="max_iter", min_resources=2,
        max_resources=8, cv=2, random_state=0,
    )  # fmt: skip
    search.fit(X, Y)
    assert search.best_estimator_.max_iter == search.n_resources_[-1] > search.n_resources_[0]
    assert search.n_iterations_ >= 2


@pytest.mark.parametrize("kind", ["dense", "csr", "scaled"])
def test_rows_are_predicted_independently(kind):
    estimator = small(input_scaling="robust" if kind == "scaled" else None).fit(X, Y)
    data = sp.csr_array(X) if kind == "csr" else X
    together = estimator.predict_proba(data)
    for n_jobs in (1, 2):
        estimator.set_params(n_jobs=n_jobs)
        single = np.concatenate([estimator.predict_proba(data[i : i + 1]) for i in range(0, 60, 7)])
        assert_array_equal(single, together[::7])
        assert_array_equal(estimator.predict_proba(data[5:38]), together[5:38])
    assert_array_equal(estimator.predict_proba(X[::-1] if kind != "csr" else data[::-1])[::-1], together)


# -------------------------------------------------------------------------------- threads and processes


@pytest.mark.slow_without_jit
def test_eight_fits_at_once_in_threads():
    expected = [fitted_digest(random_state=seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda seed: fitted_digest(random_state=seed, n_jobs=2), range(8))) == expected


@pytest.mark.slow_without_jit
def test_sixteen_threads_predict_on_one_model():
    estimator = small().fit(X, Y)
    expected = estimator.predict_proba(X)
    with ThreadPoolExecutor(16) as pool:
        for result in pool.map(lambda _: estimator.predict_proba(X), range(64)):
            assert_array_equal(result, expected)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_arithmetic_of_the_caller_is_as_before(n_jobs):
    """Kernels take numbers below the normal range for zero; the thread that called them does not afterwards."""
    for solver in ("adam", "lbfgs"):
        small(n_jobs=n_jobs, solver=solver).fit(X, Y, X_val=X, y_val=Y).predict(X)
        assert (np.full(64, 1e-40, np.float32) * np.float32(0.5) > 0).all()
        assert (np.full(64, 1e-310) * 0.5 > 0).all()


def _send_digests(connection, fitted):
    connection.send((fitted_digest(), fitted.predict_proba(X)))


@pytest.mark.slow_without_jit
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_fit_in_the_parent_then_in_a_child(method):
    """A child that is forked has the parent's memory, but none of its threads."""
    fitted = small(n_jobs=2).fit(X, Y)
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send_digests, args=(sender, fitted))
    child.start()
    assert receiver.poll(120), "the child hangs"
    child_digest, probabilities = receiver.recv()
    child.join()
    assert child_digest == digest(fitted)
    assert_array_equal(probabilities, fitted.predict_proba(X))


@pytest.mark.slow_without_jit
@pytest.mark.skipif(sys.platform == "win32", reason="no signal to a thread")
def test_ctrl_c_in_the_middle_of_an_epoch():
    """An epoch of many seconds ends at once, and what was learned until then predicts."""
    data = np.random.default_rng(0).normal(size=(40_000, 100))
    labels = (data[:, 0] > 0).astype(int)
    estimator = MLPClassifier((400, 400), batch_size=1, random_state=0)
    small().fit(X, Y % 2)  # compiled by now, so that the signal meets training
    timer = threading.Timer(1.0, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    timer.start()
    try:
        with pytest.warns(UserWarning, match="^Training interrupted by user.$"):
            estimator.fit(data, labels)
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
    assert estimator.n_iter_ == 0
    assert np.isfinite(estimator.predict_proba(data[:10])).all()


# -------------------------------------------------------------------------------- memory, conventions


@pytest.mark.slow_without_jit
@pytest.mark.parametrize("dtype", [None, "float32"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_memory_beside_x(early_stopping, dtype):
    """X is not copied, whatever the precision of the network; a fit needs the validation rows, and some bytes a row."""
    data = np.zeros((200_000, 50))
    labels = np.arange(200_000) % 2
    options = {"max_iter": 1, "n_jobs": 1, "early_stopping": early_stopping, "random_state": 0, "dtype": dtype}
    estimator = MLPClassifier((4,), **options)
    MLPClassifier((4,), **options).fit(data[:1000], labels[:1000])  # compiles
    tracemalloc.start()
    estimator.fit(data, labels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (0.1 * early_stopping + 0.35) * data.nbytes


@pytest.mark.slow_without_jit
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "estimator",
    [
        MLPClassifier(max_iter=100),
        MLPRegressor(max_iter=100),
        MLPClassifier((10,), solver="lbfgs"),
        MLPClassifier((10,), solver="sgd", max_iter=100),
        MLPClassifier((10,), solver="adamw", learning_rate="one_cycle", max_iter=50, learning_rate_init=0.03),
    ],
    ids=str,
)
def test_scikit_learns_checks(estimator):
    results = check_estimator(estimator, on_skip=None)
    assert sum(result["status"] == "passed" for result in results) >= 55


@pytest.mark.slow_without_jit
def test_no_architecture_compiles_anything_new():
    """Whatever the depth, width, activation, loss or solver: the kernels of one data type are compiled once."""
    walk = pytest.importorskip("nbnet.cpu.walk")
    kernels = {name: kernel for name, kernel in vars(walk).items() if hasattr(kernel, "signatures")}
    if not kernels:
        pytest.skip("the JIT is off")

    def count():
        return {name: len(kernel.signatures) for name, kernel in kernels.items()}

    for cls, y in ((MLPClassifier, Y), (MLPRegressor, X[:, 0])):
        small(cls, early_stopping=True).fit(X, y).predict(X)
        small(cls, solver="lbfgs").fit(X, y)
    before = count()
    for depth in range(5):
        for activation in ("relu", "gelu", "tanh", "identity"):
            changes = {"hidden_layer_sizes": range(3, 3 + 20 * depth, 20), "activation": activation}
            changes |= {"solver": ("sgd", "adam", "adamw", "lbfgs")[depth % 4], "dropout": 0.1 * depth}
            small(early_stopping=True, **changes).fit(X, Y).predict(X)
            small(MLPRegressor, loss=("huber", "quantile")[depth % 2], **changes).fit(X, X[:, 0])
    assert count() == before
