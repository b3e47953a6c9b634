"""`device="cuda"` in the estimators: fits equal the CPU's, and what they leave works without a GPU."""

import pickle
import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from nbnet import MLPClassifier, MLPRegressor, trainer
from nbnet.cuda import device, product
from tests.cuda_sim import simulator
from tests.helpers import fit

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 5)).astype(np.float32)
CLASSES = np.array(["a", "b", "c"])[RNG.integers(0, 3, 30)]
BINARY = (X[:, 0] + X[:, 1] > 0).astype(int)
NUMBERS = np.abs(X[:, :2] @ [[1.0, 2.0], [0.5, -1.0]])


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(product, "TILES", (product.Tile(16, 16, 8, 4),))


def both(model, *args, **kwargs):
    """The model fitted on the CPU, and on the GPU."""
    return fit(model, *args, **kwargs), fit(clone(model).set_params(device="cuda"), *args, **kwargs)


def agree(cpu, gpu, limit=1e-5):
    assert type(gpu.params_) is np.ndarray and gpu.params_.dtype == cpu.params_.dtype
    np.testing.assert_allclose(gpu.params_, cpu.params_, rtol=0, atol=limit)
    for name in ("loss_curve_", "validation_scores_"):
        if getattr(cpu, name, None) is not None:
            np.testing.assert_allclose(getattr(gpu, name), getattr(cpu, name), rtol=0, atol=10 * limit)


def classifier(**parameters):
    settings = {"hidden_layer_sizes": (6,), "max_iter": 2, "batch_size": 8, "random_state": 0, **parameters}
    return MLPClassifier(**settings)


def regressor(**parameters):
    return MLPRegressor(hidden_layer_sizes=(6,), max_iter=2, batch_size=8, random_state=0, **parameters)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"solver": "sgd", "learning_rate": "invscaling", "momentum": 0.8},
        {"solver": "adamw", "alpha": 0.1, "warmup_fraction": 0.5, "learning_rate": "one_cycle"},
        {"dropout": 0.3, "label_smoothing": 0.1, "max_grad_norm": 0.2, "activation": "gelu"},
        {"class_weight": "balanced", "input_scaling": "robust", "hidden_layer_sizes": (6, 4), "activation": "tanh"},
        {"early_stopping": True, "validation_fraction": 0.3},
        {"solver": "lbfgs", "max_iter": 3, "dtype": "float64"},
        {"shuffle": False, "hidden_layer_sizes": ()},
    ],
    ids=lambda parameters: "-".join(parameters) or "defaults",
)
def test_classifier(parameters):
    weights = np.linspace(0.5, 2, 30)
    cpu, gpu = both(classifier(**parameters), X, CLASSES, sample_weight=weights)
    agree(cpu, gpu)
    np.testing.assert_allclose(gpu.predict_proba(X), cpu.predict_proba(X), atol=1e-5)
    assert list(gpu.predict(X)) == list(cpu.predict(X))


@pytest.mark.parametrize("y", [BINARY, np.stack([BINARY, 1 - BINARY, BINARY], axis=1)], ids=["binary", "multilabel"])
def test_sigmoids(y):
    agree(*both(classifier(), X, y, X_val=X[:9], y_val=y[:9]))


@pytest.mark.parametrize("loss", ["squared_error", "poisson", "huber", "quantile"])
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_regressor(loss, n_outputs):
    y = NUMBERS if n_outputs == 2 else NUMBERS[:, 0]
    cpu, gpu = both(regressor(loss=loss, quantile=0.3), X, y, X_val=X[:9], y_val=y[:9])
    agree(cpu, gpu)
    np.testing.assert_allclose(gpu.predict(X), cpu.predict(X), atol=1e-5)


@pytest.mark.parametrize("kind", ["float64", "fortran", "strided", "csr"])
def test_inputs(kind):
    given = {
        "float64": X.astype(np.float64),
        "fortran": np.asfortranarray(X),
        "strided": np.repeat(X, 2, axis=1)[:, ::2],
        "csr": sparse.csr_array(np.where(X > 0, X, 0)),
    }[kind]
    cpu, gpu = both(classifier(dtype="float32"), given, CLASSES)
    agree(cpu, gpu)
    np.testing.assert_allclose(gpu.predict_proba(given), cpu.predict_proba(given), atol=1e-5)


def test_partial_fit_goes_on():
    models = [classifier(), classifier(device="cuda")]
    for model in models:
        for _ in range(2):
            model.partial_fit(X, CLASSES, classes=["a", "b", "c"])
    agree(*models)
    assert models[1].t_ == 60


def test_the_result_needs_no_gpu(monkeypatch):
    gpu = fit(classifier(device="cuda"), X, CLASSES)
    expected = gpu.predict_proba(X)
    stored = pickle.dumps(gpu)
    trainer.say_once.cache_clear()
    monkeypatch.setattr(device, "_is_simulated", lambda: False)
    monkeypatch.setattr(device, "find_spec", lambda name: None)
    loaded = pickle.loads(stored)
    with pytest.warns(UserWarning, match="device='cuda' computes on the CPU"):
        np.testing.assert_allclose(loaded.predict_proba(X), expected, atol=1e-6)
    with pytest.raises(RuntimeError, match="numba-cuda is not installed"):
        loaded.fit(X, CLASSES)


def test_auto_takes_the_gpu():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        auto = fit(classifier(device="auto"), X, CLASSES)
    np.testing.assert_array_equal(auto.params_, fit(classifier(device="cuda:0"), X, CLASSES).params_)


def test_a_gpu_that_is_not_there():
    with pytest.raises(RuntimeError, match=r"device='cuda:3' cannot be used: there is no GPU number 3: .* shows 1"):
        classifier(device="cuda:3").fit(X, CLASSES)


def test_divergence_is_one_warning_and_the_last_good_weights(monkeypatch):
    monkeypatch.setattr(simulator.module, "overflow", "ignore")
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        regressor(device="cuda", solver="sgd", learning_rate_init=1e20).fit(1e3 * X, NUMBERS)
    model = fit(regressor(device="cuda", solver="sgd"), X, NUMBERS)
    model.set_params(warm_start=True, learning_rate_init=1e20)
    with pytest.warns(ConvergenceWarning, match="Training diverged in iteration"):
        model.fit(X, NUMBERS)
    assert np.isfinite(model.predict(X)).all()
