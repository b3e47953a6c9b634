"""`device="cuda"` in `TextEmbeddingClassifier`: fits equal the CPU's, and what they leave works without a GPU."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from nbnet import TextEmbeddingClassifier, trainer
from nbnet.cuda import device, embedding, embedding_updates, product
from tests.cuda_sim import simulator
from tests.helpers import fit

RNG = np.random.default_rng(0)
WORDS = np.array("the a film was good bad so dull lovely 好 片 !".split())
TEXTS = [" ".join(RNG.choice(WORDS, RNG.integers(1, 6))) for _ in range(20)]
CLASSES = np.array(["a", "b", "c"])[RNG.integers(0, 3, 20)]
LABELS = np.eye(4, dtype=int)[RNG.integers(0, 4, 20)] | np.eye(4, dtype=int)[RNG.integers(0, 4, 20)]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(product, "TILES", (product.Tile(16, 16, 8, 4),))
    monkeypatch.setattr(embedding, "TURNS", 2)
    monkeypatch.setattr(embedding_updates, "TURNS", 2)
    monkeypatch.setattr(embedding_updates, "WARPS", 1)
    monkeypatch.setattr(embedding_updates, "BLOCKS_A_PROCESSOR", 4)
    monkeypatch.setattr(simulator.module, "overflow", "ignore")


def classifier(**parameters):
    settings = {"embedding_dim": 6, "max_iter": 2, "batch_size": 8, "random_state": 0, "ngram_range": (1, 1)}
    return TextEmbeddingClassifier(**{**settings, **parameters})


def both(model, *args, **kwargs):
    """The model fitted on the CPU, and on the GPU."""
    return fit(model, *args, **kwargs), fit(clone(model).set_params(device="cuda"), *args, **kwargs)


def agree(cpu, gpu, texts=TEXTS):
    assert type(gpu.params_) is np.ndarray and gpu.params_.dtype == cpu.params_.dtype
    np.testing.assert_allclose(gpu.params_, cpu.params_, rtol=0, atol=1e-5)
    np.testing.assert_allclose(gpu._optimizer.moments, cpu._optimizer.moments, rtol=1e-4, atol=1e-5)
    for name in ("loss_curve_", "validation_scores_"):
        if getattr(cpu, name, None) is not None:
            np.testing.assert_allclose(getattr(gpu, name), getattr(cpu, name), rtol=0, atol=1e-4)
    np.testing.assert_allclose(gpu.predict_proba(texts), cpu.predict_proba(texts), atol=1e-5)
    np.testing.assert_allclose(gpu.transform(texts), cpu.transform(texts), atol=1e-5)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"pooling": "attention", "solver": "adam", "hidden_layer_sizes": (4,), "dropout": 0.3, "activation": "tanh"},
        {"loss": "hierarchical_softmax", "pooling": "mean", "ngram_range": (1, 2), "class_weight": "balanced"},
        {"pooling": "max", "solver": "sgd", "early_stopping": True, "validation_fraction": 0.3, "alpha": 0.1},
        {"deterministic": False, "pooling": "attention", "solver": "sgd"},
        {"loss": "one_vs_all", "sublinear_tf": False, "token_weights": None, "dtype": "float64"},
    ],
    ids=lambda parameters: "-".join(parameters) or "defaults",
)
def test_one_label_a_text(parameters):
    agree(*both(classifier(**parameters), TEXTS, CLASSES, sample_weight=np.linspace(0.5, 2, 20)))


@pytest.mark.parametrize("loss", ["softmax", "hierarchical_softmax", "one_vs_all"])
def test_several_labels_a_text(loss):
    model = classifier(loss=loss, sample_labels=True, max_iter=1)
    agree(*both(model, TEXTS, LABELS, X_val=TEXTS[:5], y_val=LABELS[:5]))


def test_partial_fit_adds_words():
    models = [classifier(solver="adam"), classifier(solver="adam", device="cuda")]
    for model in models:
        model.partial_fit(TEXTS[:10], CLASSES[:10], classes=["a", "b", "c"])
        model.partial_fit([text + " indeed" for text in TEXTS[10:]], CLASSES[10:])
    assert "indeed" in models[1].vocabulary_
    agree(*models)


def test_predictions_follow_the_parameters():
    cpu, gpu = both(classifier(), TEXTS, CLASSES)
    for model in (cpu, gpu):
        model.coefs_[0][:] *= 2
        changed = model.embeddings_.copy()
        changed[3] = 5
        model.embeddings_ = changed
    assert gpu._reader._kept is None  # no memory of the GPU is held between two calls
    np.testing.assert_allclose(gpu.predict_proba(TEXTS), cpu.predict_proba(TEXTS), atol=1e-5)
    gpu.set_params(device="cpu")
    np.testing.assert_allclose(gpu.predict_proba(TEXTS), cpu.predict_proba(TEXTS), atol=1e-5)
    assert gpu._reader._kept is not None


def test_no_room_is_one_sentence_and_leaves_the_estimator_unfitted():
    model = classifier(device="cuda")
    with simulator.memory_limit(256), pytest.raises(MemoryError, match="The GPU has no room for another"):
        model.fit(TEXTS, CLASSES)
    assert not hasattr(model, "params_")


def test_the_result_needs_no_gpu(monkeypatch):
    gpu = fit(classifier(device="auto"), TEXTS, CLASSES)
    expected = gpu.predict_proba(TEXTS)
    stored = pickle.dumps(gpu)
    trainer.say_once.cache_clear()
    monkeypatch.setattr(device, "_is_simulated", lambda: False)
    monkeypatch.setattr(device, "find_spec", lambda name: None)
    with pytest.warns(UserWarning, match="device='auto' computes on the CPU"):
        loaded = pickle.loads(stored)
    np.testing.assert_allclose(loaded.predict_proba(TEXTS), expected, atol=1e-6)


def test_divergence_is_one_warning_and_the_last_good_weights():
    model = classifier(device="cuda", solver="sgd", learning_rate_init=1e20)
    with pytest.warns(ConvergenceWarning, match="Training diverged in iteration 1"):
        model.fit(TEXTS, CLASSES)
    assert np.isfinite(model.predict_proba(TEXTS)).all()
