"""nbnet against scikit-learn, from equal weights and without shuffling: the same curves and the same weights."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import neural_network as peer
from sklearn.exceptions import ConvergenceWarning

import nbnet

PEERS = {nbnet.MLPClassifier: peer.MLPClassifier, nbnet.MLPRegressor: peer.MLPRegressor}
rng = np.random.default_rng(0)
X = rng.normal(size=(17, 3))
TARGETS = {
    "binary": (X[:, 0] + 0.3 * rng.normal(size=17) > 0).astype(int),
    "multiclass": np.array(["a", "b", "c"])[np.digitize(X[:, 1], [-0.5, 0.5])],
    "multilabel": (X[:, :2] + 0.3 * rng.normal(size=(17, 2)) > 0).astype(int),
    "regression": X @ [1.0, -2.0, 0.5] + 0.1,
    "multi_output": X @ rng.normal(size=(3, 2)),
    "counts": rng.poisson(np.exp(0.5 * X[:, 0])).astype(float),
}
SMALL = {"hidden_layer_sizes": (4, 3), "shuffle": False, "random_state": 0, "warm_start": True}


def fit(estimator, *args, **kwargs):
    """Fit; reaching max_iter is no news here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(*args, **kwargs)


def twins(cls, y, X=X, **parameters):
    """Our estimator and scikit-learn's with the same weights, both to go on with `parameters`."""
    ours, theirs = (c(**SMALL, max_iter=1, learning_rate_init=1e-9, solver="sgd") for c in (cls, PEERS[cls]))
    for estimator in (ours, theirs):
        start = {k: v for k, v in parameters.items() if k in ("loss", "activation", "hidden_layer_sizes")}
        fit(estimator.set_params(**start), X, y)
        estimator.set_params(**{"learning_rate_init": 0.001, "solver": "adam", **parameters})
    theirs.coefs_ = [coef.copy() for coef in ours.coefs_]
    theirs.intercepts_ = [intercept.copy() for intercept in ours.intercepts_]
    theirs.best_loss_ = ours.best_loss_
    return ours, theirs


def assert_same_fit(ours, theirs, rtol=1e-9):
    """The same weights and curves."""
    for a, b in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        assert_allclose(a, b, rtol=rtol, atol=1e-12)
    assert_allclose(ours.loss_curve_[1:], theirs.loss_curve_[1:], rtol=rtol)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.t_ == theirs.t_
    assert ours.out_activation_ == theirs.out_activation_
    assert (ours.n_layers_, ours.n_outputs_) == (theirs.n_layers_, theirs.n_outputs_)
    assert_allclose(ours.predict_proba(X) if hasattr(ours, "classes_") else ours.predict(X),
                    theirs.predict_proba(X) if hasattr(ours, "classes_") else theirs.predict(X), rtol=1e-7)  # fmt: skip
    assert_array_equal(ours.predict(X).shape, theirs.predict(X).shape)


STOCHASTIC = [
    {"solver": "adam", "batch_size": 5},
    {"solver": "adam", "learning_rate_init": 0.02, "alpha": 0.5, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3},
    {"solver": "sgd", "batch_size": 5, "learning_rate_init": 0.05},
    {"solver": "sgd", "nesterovs_momentum": False, "learning_rate_init": 0.05},
    {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.05, "alpha": 0.1},
    {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1, "power_t": 0.3, "batch_size": 6},
]


@pytest.mark.parametrize("parameters", STOCHASTIC, ids=str)
def test_solvers(parameters):
    ours, theirs = twins(nbnet.MLPClassifier, TARGETS["multiclass"], max_iter=3, **parameters)
    for estimator in (ours, theirs):
        fit(estimator, X, TARGETS["multiclass"])
    assert_same_fit(ours, theirs)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("weighted", [False, True])
def test_targets_and_weights(target, weighted):
    cls = nbnet.MLPClassifier if target in ("binary", "multiclass", "multilabel") else nbnet.MLPRegressor
    y = TARGETS[target]
    parameters = {"loss": "poisson"} if target == "counts" else {}
    ours, theirs = twins(cls, y, max_iter=3, batch_size=7, **parameters)
    weights = rng.uniform(0.1, 3.0, size=17) if weighted else None
    for estimator in (ours, theirs):
        fit(estimator, X, y, sample_weight=weights)
    assert_same_fit(ours, theirs)


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_activations(activation):
    ours, theirs = twins(nbnet.MLPRegressor, TARGETS["regression"], max_iter=3, activation=activation)
    for estimator in (ours, theirs):
        fit(estimator, X, TARGETS["regression"])
    assert_same_fit(ours, theirs)


def test_partial_fit_keeps_the_optimizer():
    y = TARGETS["binary"]
    ours, theirs = twins(nbnet.MLPClassifier, y, batch_size=5)
    for estimator in (ours, theirs):
        fit(estimator.set_params(max_iter=2), X, y)
        estimator.partial_fit(X[:11], y[:11])
        estimator.partial_fit(X[3:], y[3:], sample_weight=np.arange(1.0, 15.0))
    assert_same_fit(ours, theirs)
    assert ours.n_iter_ == 1


@pytest.mark.slow_without_jit
@pytest.mark.parametrize("learning_rate", ["constant", "adaptive"])
def test_stopping_rules(learning_rate, capsys):
    """The same epoch count and the same lines about it; adaptive divides the rate until it is too small."""
    y = TARGETS["regression"]
    ours, theirs = twins(
        nbnet.MLPRegressor, y, solver="sgd", learning_rate=learning_rate, learning_rate_init=0.01, max_iter=500,
        tol=1e-2, n_iter_no_change=3, verbose=True,
    )  # fmt: skip
    printed = []
    for estimator in (ours, theirs):
        capsys.readouterr()
        estimator.fit(X, y)
        printed.append([line for line in capsys.readouterr().out.splitlines() if not line.startswith("Iteration")])
    assert_same_fit(ours, theirs, rtol=1e-7)
    assert printed[0] == printed[1]
    assert_allclose(ours.best_loss_, theirs.best_loss_)
    assert ours._no_improvement_count == theirs._no_improvement_count


@pytest.mark.slow_without_jit
@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("target", ["binary", "multiclass", "multilabel", "regression"])
def test_early_stopping_scores_as_scikit_learn_does(solver, target):
    """The split differs (other random numbers are drawn before it), so only the rule is compared here."""
    y = np.tile(TARGETS[target], (4, 1)) if TARGETS[target].ndim == 2 else np.tile(TARGETS[target], 4)
    cls = nbnet.MLPRegressor if target == "regression" else nbnet.MLPClassifier
    estimator = cls(
        hidden_layer_sizes=(8,),
        solver=solver,
        early_stopping=True,
        max_iter=300,
        random_state=0,
        learning_rate_init=0.02,
    )
    estimator.fit(np.tile(X, (4, 1)), y)
    assert estimator.best_loss_ is None
    assert estimator.best_validation_score_ == max(estimator.validation_scores_)
    assert len(estimator.validation_scores_) == len(estimator.loss_curve_) == estimator.n_iter_ < 300


@pytest.mark.slow_without_jit
@pytest.mark.parametrize("target", TARGETS)
def test_lbfgs(target):
    y = TARGETS[target]
    cls = nbnet.MLPClassifier if target in ("binary", "multiclass", "multilabel") else nbnet.MLPRegressor
    parameters = {"loss": "poisson"} if target == "counts" else {}
    # not to the end: after a hundred steps the rounding of scikit-learn's BLAS decides which minimum it finds
    parameters |= {"solver": "lbfgs", "max_iter": 30, "alpha": 0.5, "activation": "tanh", "tol": 1e-7}
    weights = rng.uniform(0.5, 2.0, size=17)
    ours, theirs = twins(cls, y, **parameters)
    for estimator in (ours, theirs):
        fit(estimator, X, y, sample_weight=weights)
    predict = "predict_proba" if hasattr(ours, "classes_") else "predict"
    assert ours.n_iter_ == theirs.n_iter_ == 30
    assert_allclose(ours.loss_, theirs.loss_, rtol=1e-9)
    assert_allclose(getattr(ours, predict)(X), getattr(theirs, predict)(X), rtol=1e-7, atol=1e-8)
    assert not hasattr(ours, "partial_fit")


def test_lbfgs_for_a_few_iterations():
    y = TARGETS["multiclass"]
    ours, theirs = twins(nbnet.MLPClassifier, y, solver="lbfgs", max_iter=2)
    messages = []
    for estimator in (ours, theirs):
        with pytest.warns(ConvergenceWarning) as caught:
            estimator.fit(X, y)
        messages.append(str(caught[0].message))
    assert messages[0] == messages[1]
    assert ours.n_iter_ == theirs.n_iter_ == 2
    for a, b in zip(ours.coefs_, theirs.coefs_, strict=True):
        assert_allclose(a, b, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("layout", ["csr", "csc", "fortran", "reversed", "float32"])
def test_layouts_of_x(layout):
    """Whatever holds the numbers, the fit is the same; float32 to its own precision."""
    convert = {
        "csr": sp.csr_array,
        "csc": sp.csc_matrix,
        "fortran": np.asfortranarray,
        "reversed": lambda X: np.ascontiguousarray(X[::-1, ::-1])[::-1, ::-1],
        "float32": np.float32,
    }[layout]
    sparse_X = np.where(np.abs(X) < 0.4, 0.0, X)
    parameters = {"hidden_layer_sizes": (4,), "max_iter": 2, "batch_size": 6, "random_state": 0}
    dense = fit(nbnet.MLPClassifier(**parameters), sparse_X, TARGETS["binary"])
    other = fit(nbnet.MLPClassifier(**parameters), convert(sparse_X), TARGETS["binary"])
    assert other.params_.dtype == (np.float32 if layout == "float32" else np.float64)
    assert_allclose(other.params_, dense.params_, rtol=1e-4 if layout == "float32" else 1e-12, atol=1e-6)
    assert_allclose(other.predict_proba(convert(sparse_X)), dense.predict_proba(sparse_X), rtol=1e-4)


def test_csr_with_unsorted_and_repeated_entries():
    ragged = sp.csr_array((np.array([1.0, 2.0, 0.5, 3.0]), np.array([2, 0, 2, 1]), np.array([0, 3, 4])), shape=(2, 3))
    parameters = {"hidden_layer_sizes": (4,), "max_iter": 1, "random_state": 0}
    ours = fit(nbnet.MLPClassifier(**parameters), ragged, [0, 1])
    dense = fit(nbnet.MLPClassifier(**parameters), ragged.toarray(), [0, 1])
    assert_allclose(ours.params_, dense.params_)
    assert ragged.nnz == 4, "the user's matrix is as it was"


def test_same_parameters_in_the_same_order():
    for ours, theirs in PEERS.items():
        known = theirs().get_params()
        assert {name: ours().get_params()[name] for name in known} == known
