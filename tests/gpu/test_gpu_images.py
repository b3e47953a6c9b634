"""Networks over images on a real GPU: parity at real sizes, two runs bitwise equal. Skipped without one."""

import numpy as np
import pytest

from nbnet import Augmentation, ConvClassifier
from nbnet.cuda.device import why_no_cuda
from tests.helpers import fit

if REASON := why_no_cuda():
    pytest.skip(REASON, allow_module_level=True)

from nbnet.cuda import launch, streaming
from nbnet.cuda.jit import cuda

NETWORKS = {
    "plain": {"conv_layers": (32, "max_pool", 64, "max_pool")},
    "wide": {"conv_layers": (64, 128, "max_pool", 160, "avg_pool"), "hidden_layer_sizes": ()},
    "ragged": {"conv_layers": ((5, 5, 2), "max_pool", (7, 2), (3, 1)), "padding": "valid", "activation": "silu"},
    "dropout": {"conv_layers": ("avg_pool", 24, "global_avg_pool"), "dropout": 0.3, "activation": "tanh"},
    "batch_norm": {"conv_layers": (16, "max_pool", 32, "max_pool"), "batch_norm": True},
    "residual": {"conv_layers": (16, ("residual", 16), ("residual", 32, 2), "global_avg_pool"), "batch_norm": True},
    "changed": {"conv_layers": (16, "max_pool"), "augment": Augmentation(0.5, shift=2, rotation=10, brightness=0.2)},
}


def data(shape=(28, 26, 3), n=600, dtype=np.uint8):
    """Images, and their classes of three: the brightest third."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, n)
    X = rng.integers(0, 160, size=(n, *shape))
    for third in range(3):
        X[labels == third, third * shape[0] // 3 : (third + 1) * shape[0] // 3] += 80
    return X.astype(dtype), labels


def classifier(**parameters):
    # small steps of sgd: Adam's first steps have the size of the learning rate however small a gradient is
    settings = {"solver": "sgd", "learning_rate_init": 0.01, "batch_size": 70, "max_iter": 2, "random_state": 0}
    return ConvClassifier(**{**settings, "conv_algorithm": "direct", **parameters})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_fit_equals_the_cpus(name, dtype):
    X, labels = data()
    cpu, gpu = (fit(classifier(device=device, dtype=dtype, **NETWORKS[name]), X, labels) for device in ("cpu", "cuda"))
    limit = 1e-3 if dtype == "float32" else 1e-9
    np.testing.assert_allclose(gpu.loss_curve_, cpu.loss_curve_, rtol=limit)
    np.testing.assert_allclose(gpu.params_, cpu.params_, rtol=0, atol=limit)
    np.testing.assert_allclose(gpu.predict_proba(X), cpu.predict_proba(X), rtol=0, atol=10 * limit)
    np.testing.assert_allclose(gpu.transform(X), cpu.transform(X), rtol=0, atol=100 * limit)


def test_images_of_the_gpu_and_images_in_pieces(monkeypatch):
    """Used where they lie, and brought while the GPU computes: the same bits."""
    X, labels = data()
    model = classifier(device="cuda", **NETWORKS["changed"])
    expected = fit(model, X, labels).params_.copy()
    on_gpu = cuda.to_device(X)
    np.testing.assert_array_equal(fit(model, on_gpu, labels).params_, expected)
    probabilities = model.predict_proba(on_gpu)
    np.testing.assert_array_equal(cuda.as_cuda_array(probabilities).copy_to_host(), model.predict_proba(X))
    monkeypatch.setattr(streaming, "RESIDENT_SHARE", 0.0)
    monkeypatch.setattr(streaming, "PIECE_BYTES", 2 * 70 * X[0].nbytes)  # two batches: copies and launches overlap
    for _ in range(5):
        np.testing.assert_array_equal(fit(model, X, labels).params_, expected)


@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
def test_inputs(kind):
    X, labels = data(n=300, dtype=kind)
    cpu, gpu = (fit(classifier(device=device, dtype="float32"), X, labels) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(gpu.params_, cpu.params_, rtol=0, atol=1e-3)


def trained(X, labels):
    layers = (16, "max_pool", ("residual", 32, 2), "global_avg_pool")
    settings = {"batch_norm": True, "dropout": 0.2, "solver": "adamw", "augment": {"shift": 2}, "max_grad_norm": 1.0}
    model = fit(classifier(device="cuda", conv_layers=layers, **settings), X, labels)
    return np.concatenate([model.params_, model.predict_proba(X).ravel(), model.loss_curve_])


@pytest.mark.filterwarnings("error")  # a capture that fails says so
def test_two_runs_with_graphs_and_one_of_plain_launches_have_the_same_bits(monkeypatch):
    X, labels = data()
    with_graphs = trained(X, labels)
    np.testing.assert_array_equal(trained(X, labels), with_graphs)
    monkeypatch.setattr(launch, "SIMULATED", True)
    np.testing.assert_array_equal(trained(X, labels), with_graphs)


def test_an_image_alone_or_among_others():
    X, labels = data()
    model = fit(classifier(device="cuda", batch_norm=True), X, labels)
    together = model.predict_proba(X)
    for i in range(0, len(X), 100):
        np.testing.assert_array_equal(model.predict_proba(X[i : i + 1])[0], together[i])


def test_many_pixels_in_one_product():
    """More rows than a grid has blocks along its second axis."""
    X, labels = data((96, 96, 1), n=1500)
    model = fit(classifier(device="cuda", conv_layers=(8, "max_pool"), batch_size=1500, max_iter=1), X, labels)
    assert np.isfinite(model.predict_proba(X)).all()
