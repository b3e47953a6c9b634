"""Networks over texts on a real GPU: parity at real sizes, two runs bitwise equal. Skipped without one."""

import numpy as np
import pytest

from nbnet import TextEmbeddingClassifier
from nbnet.cuda.device import why_no_cuda
from tests.helpers import fit

if REASON := why_no_cuda():
    pytest.skip(REASON, allow_module_level=True)

from nbnet.cuda import launch, streaming

NETWORKS = {
    "default": {},
    "wide": {"embedding_dim": 300, "pooling": "mean"},
    "sgd": {"solver": "sgd", "pooling": "sum", "learning_rate_init": 0.01, "momentum": 0.9, "ngram_range": (1, 1)},
    "hidden": {"hidden_layer_sizes": (64, 32), "dropout": 0.3, "activation": "tanh", "sublinear_tf": False},
    "max": {"pooling": "max", "embedding_dim": 40},
    "attention": {"pooling": "attention", "learning_rate_init": 0.1},
    "one_vs_all": {"loss": "one_vs_all", "token_weights": None},
    "tree": {"loss": "hierarchical_softmax"},
    "deep_tree": {"loss": "hierarchical_softmax", "solver": "sgd", "momentum": 0.5, "hidden_layer_sizes": (20,)},
}


def data(n=3000, n_classes=40):
    """Texts of words as frequent as words are, an empty one among them, and their classes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, n_classes, n)
    texts = []
    for label, length in zip(labels, rng.geometric(1 / 40, n), strict=True):
        words = rng.zipf(1.2, length) % 20000 + (rng.random(length) < 0.1) * (20000 + label)
        texts.append(" ".join(f"w{word}" for word in words))
    texts[7] = ""
    return texts, labels


def classifier(**parameters):
    settings = {"max_iter": 2, "random_state": 0, "target_loss": None, "batch_size": 64}
    return TextEmbeddingClassifier(**{**settings, **parameters})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_fit_equals_the_cpus(name, dtype):
    texts, labels = data()
    cpu, gpu = (
        fit(classifier(device=device, dtype=dtype, **NETWORKS[name]), texts, labels) for device in ("cpu", "cuda")
    )
    limit = 1e-3 if dtype == "float32" else 1e-9
    np.testing.assert_allclose(gpu.loss_curve_, cpu.loss_curve_, rtol=limit)
    np.testing.assert_allclose(gpu.params_, cpu.params_, rtol=0, atol=limit)
    np.testing.assert_allclose(gpu.predict_proba(texts), cpu.predict_proba(texts), rtol=0, atol=10 * limit)
    np.testing.assert_allclose(gpu.transform(texts), cpu.transform(texts), rtol=0, atol=100 * limit)


@pytest.mark.parametrize("pooling", ["sqrtn", "max", "attention"])
def test_adam(pooling):
    texts, labels = (
        data()
    )  # in float64: Adam's first steps have the size of the learning rate however small a gradient is
    settings = {"solver": "adam", "dtype": "float64", "pooling": pooling, "learning_rate_init": 0.001}
    cpu, gpu = (fit(classifier(device=device, **settings), texts, labels) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(gpu.loss_curve_, cpu.loss_curve_, rtol=1e-6)


@pytest.mark.parametrize("loss", ["softmax", "hierarchical_softmax", "one_vs_all"])
def test_several_labels_a_text(loss):
    texts, labels = data()
    indicator = np.eye(40, dtype=int)[labels] | np.eye(40, dtype=int)[np.roll(labels, 1)]
    settings = {"loss": loss, "sample_labels": True, "dtype": "float64"}
    cpu, gpu = (fit(classifier(device=device, **settings), texts, indicator) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(gpu.params_, cpu.params_, rtol=0, atol=1e-9)


def trained(**parameters):
    texts, labels = data()
    model = fit(classifier(device="cuda", **parameters), texts, labels)
    return np.concatenate([model.params_, model.predict_proba(texts).ravel(), model.loss_curve_])


@pytest.mark.parametrize("name", list(NETWORKS))
def test_two_runs_have_the_same_bits(name):
    np.testing.assert_array_equal(trained(**NETWORKS[name]), trained(**NETWORKS[name], n_jobs=1))


@pytest.mark.filterwarnings("error")  # a capture that fails says so
@pytest.mark.parametrize("name", ["attention", "tree"])
def test_graphs_and_plain_launches_give_the_same_bits(name, monkeypatch):
    with_graphs = trained(batch_size=17, **NETWORKS[name])
    monkeypatch.setattr(launch, "SIMULATED", True)
    np.testing.assert_array_equal(trained(batch_size=17, **NETWORKS[name]), with_graphs)


@pytest.mark.parametrize("name", ["default", "attention", "deep_tree"])
def test_one_text_alone_or_among_all(name):
    texts, labels = data()
    model = fit(classifier(device="cuda", max_iter=1, **NETWORKS[name]), texts, labels)
    together = model.predict_proba(texts)
    for i in (0, 7, 1500):
        np.testing.assert_array_equal(model.predict_proba(texts[i : i + 1])[0], together[i])


@pytest.mark.parametrize("pooling", ["sqrtn", "max", "attention"])
def test_sgd_in_any_order_rounds_otherwise_and_no_more(pooling):
    settings = {"solver": "sgd", "dtype": "float64", "pooling": pooling, "learning_rate_init": 0.01}
    np.testing.assert_allclose(trained(deterministic=False, **settings), trained(**settings), rtol=0, atol=1e-9)


@pytest.mark.parametrize("pooling", ["sqrtn", "attention"])
def test_adagrad_in_any_order_learns_as_well(pooling):
    texts, labels = data()
    losses = [
        fit(classifier(device="cuda", pooling=pooling, deterministic=choice), texts, labels).loss_curve_
        for choice in (True, False)
    ]
    np.testing.assert_allclose(*losses, rtol=0.01)


@pytest.mark.parametrize("name", ["default", "attention", "tree"])
def test_texts_in_pieces_give_the_same_bits(name, monkeypatch):
    with_room = trained(**NETWORKS[name])
    monkeypatch.setattr(streaming, "RESIDENT_SHARE", 0.0)
    monkeypatch.setattr(streaming, "PIECE_BYTES", 2**19)
    np.testing.assert_array_equal(trained(**NETWORKS[name]), with_room)
