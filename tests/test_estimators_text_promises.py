"""What is promised of every fit on texts: the same bits, whoever computes them, usable models whatever happens."""

import pickle
import signal
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from nbnet import TextEmbeddingClassifier, datasets
from nbnet.cpu.session import Session
from nbnet.cpu.text_session import TextSession
from nbnet.estimators import text_run
from nbnet.estimators.text import SOLVERS
from nbnet.estimators.text_run import LOSSES
from nbnet.jit import JIT_DISABLED

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

rng = np.random.default_rng(0)
WORDS = np.array([*"abcdefghijklmnopqrst", "\u00e9t\u00e9", "\u8336", "\u4e66", "na\u00efve", ":-)", "!", "2024"])
TEXTS = [" ".join(rng.choice(WORDS, rng.integers(0, 12))) for _ in range(60)]
Y = np.array([text.count("a") > text.count("b") for text in TEXTS]) + np.array(["\u8336" in text for text in TEXTS])
SMALL = {"embedding_dim": 20, "max_iter": 2, "random_state": 0, "batch_size": 7, "learning_rate_init": 0.1}


def small(**changes):
    return TextEmbeddingClassifier(**{**SMALL, **changes})


def digest(estimator):
    return joblib.hash((estimator.params_, estimator.vocabulary_, estimator.predict_proba(TEXTS)))


def fitted_digest(**changes):
    return digest(small(**changes).fit(TEXTS, Y))


@pytest.mark.slow_without_jit
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"solver": "adam", "pooling": "attention", "hidden_layer_sizes": (9,), "dropout": 0.2, "early_stopping": True},
        {"solver": "sgd", "subword_range": (2, 3), "pooling": "max", "loss": "one_vs_all", "momentum": 0.5},
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
    grid = {"ngram_range": [(1, 1), (1, 2)]}
    search = GridSearchCV(small(), grid, cv=2, n_jobs=2, refit=False).fit(TEXTS, Y)
    alone = GridSearchCV(small(n_jobs=1), grid, cv=2, refit=False).fit(TEXTS, Y)
    assert_array_equal(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])


@pytest.mark.slow_without_jit
def test_large_parallel_fit_has_the_bits_of_a_serial_one():
    """Enough texts that tokens are cut in blocks by several workers."""
    X, y = datasets.load_sms_spam(return_X_y=True)
    X, y = np.tile(X, 5), np.tile(y, 5)
    digests = {digest(TextEmbeddingClassifier(30, max_iter=1, random_state=0, n_jobs=n).fit(X, y)) for n in (1, 2, 3)}
    assert len(digests) == 1


def test_texts_are_predicted_independently():
    estimator = small().fit(TEXTS, Y)
    together = estimator.predict_proba(TEXTS)
    for n_jobs in (1, 2):
        estimator.set_params(n_jobs=n_jobs)
        assert_array_equal(np.concatenate([estimator.predict_proba([text]) for text in TEXTS]), together)
        assert_array_equal(estimator.predict_proba(TEXTS[::-1])[::-1], together)


@pytest.mark.slow_without_jit
def test_texts_are_predicted_in_blocks():
    estimator = small().fit(TEXTS, Y)
    many = TEXTS * 150
    assert_array_equal(estimator.predict_proba(many), np.tile(estimator.predict_proba(TEXTS), (150, 1)))
    assert_array_equal(estimator.transform(many), np.tile(estimator.transform(TEXTS), (150, 1)))


@pytest.mark.slow_without_jit
def test_sixteen_threads_predict_on_one_model():
    estimator = small().fit(TEXTS, Y)
    expected = estimator.predict_proba(TEXTS)
    with ThreadPoolExecutor(16) as pool:
        for result in pool.map(lambda _: estimator.predict_proba(TEXTS), range(200)):
            assert_array_equal(result, expected)


@pytest.mark.slow_without_jit
def test_eight_fits_at_once_in_threads():
    expected = [fitted_digest(random_state=seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda seed: fitted_digest(random_state=seed, n_jobs=2), range(8))) == expected


@pytest.mark.parametrize("load", ["pickle", "memory-mapped"])
def test_a_loaded_model_goes_on(load, tmp_path):
    """From a file mapped read-only as well."""
    estimator = small().partial_fit(TEXTS, Y, classes=[0, 1, 2])
    if load == "pickle":
        other = pickle.loads(pickle.dumps(estimator))
    else:
        joblib.dump(estimator, tmp_path / "model")
        other = joblib.load(tmp_path / "model", mmap_mode="r")
    assert_array_equal(other.predict_proba(TEXTS), estimator.predict_proba(TEXTS))
    for fitted in (estimator, other):
        fitted.partial_fit(["new words", *TEXTS], [1, *Y])
    assert digest(other) == digest(estimator)
    assert len(pickle.dumps(estimator)) < 3 * estimator.params_.nbytes + 20_000, "the parameters are pickled once"


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("hidden", [(), (5,)])
def test_a_learning_rate_of_a_million(solver, loss, hidden):
    estimator = small(
        learning_rate_init=1e6, solver=solver, loss=loss, hidden_layer_sizes=hidden, max_iter=20, target_loss=None
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator.fit(TEXTS, Y)
    messages = [str(warning.message) for warning in caught if warning.category is ConvergenceWarning]
    assert len(caught) == len(messages) == 1
    assert "Training diverged in iteration" in messages[0] and "learning_rate_init=1e+06" in messages[0]
    assert np.isfinite(estimator.params_).all()
    assert np.isfinite(estimator.predict_proba(TEXTS)).all()
    assert np.isnan(estimator.loss_curve_[-1])


def test_parameters_are_copied_after_each_epoch_only_where_training_may_diverge(monkeypatch):
    """If it diverges all the same, that is an error, and the estimator stays as it was."""
    copies, snapshot = [], TextSession.snapshot
    monkeypatch.setattr(TextSession, "snapshot", lambda *args: copies.append(args) or snapshot(*args))
    estimator = small().fit(TEXTS, Y)
    assert not copies
    words = TEXTS[0].split()
    for cautious in (
        {"learning_rate_init": 0.6},
        {"solver": "sgd"},
        {"solver": "adam"},
        {"hidden_layer_sizes": (3,)},
        {"alpha": 1e-3},
        {"pretrained_embeddings": (words, np.ones((len(words), estimator.embedding_dim)))},
    ):
        small(**cautious, max_iter=1, target_loss=100.0).fit(TEXTS, Y)
        assert copies
        copies.clear()
    small(warm_start=True, max_iter=1, target_loss=100.0).fit(TEXTS, Y).fit(TEXTS, Y)
    assert copies
    copies.clear()
    small().partial_fit(TEXTS, Y, classes=np.unique(Y)).partial_fit(TEXTS, Y)
    assert copies
    monkeypatch.setattr(text_run, "TAME_RATE", np.inf)
    before = joblib.hash(estimator)
    with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
        estimator.set_params(learning_rate_init=1e6, max_iter=20, target_loss=None).fit(TEXTS, Y)
    assert joblib.hash(estimator.set_params(**small().get_params())) == before


def test_a_failed_fit_changes_nothing():
    estimator = small().fit(TEXTS, Y)
    before = joblib.hash(estimator)
    for X, y in (([*TEXTS[:59], 1], Y), (TEXTS, Y[:3]), ([""] * 60, Y)):
        with pytest.raises((TypeError, ValueError)):
            estimator.fit(X, y)
        with pytest.raises((TypeError, ValueError)):
            estimator.partial_fit(X, y if len(y) == 3 else ["new"] * 60)
    assert joblib.hash(estimator) == before


@pytest.mark.slow_without_jit
@pytest.mark.skipif(sys.platform == "win32", reason="no signal to a thread")
def test_ctrl_c_in_the_middle_of_an_epoch(monkeypatch):
    """An epoch of many seconds ends at once, and what was learned until then predicts."""
    words = np.array([f"w{i}" for i in range(2000)])
    draws = np.random.default_rng(0).integers(0, 2000, size=(2000, 200))
    texts, labels = [" ".join(words[row]) for row in draws], draws[:, 0] % 20
    options = {"ngram_range": (1, 1), "solver": "sgd", "learning_rate_init": 1e-4, "batch_size": 1}
    estimator = TextEmbeddingClassifier(400, (1000, 1000), random_state=0, **options)
    small(solver="sgd", hidden_layer_sizes=(3,)).fit(TEXTS, Y)  # compiled by now, so that the signal meets training
    timer = threading.Timer(1.0, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    train_epoch = Session.train_epoch

    def train_until_the_signal(*args):
        timer.start()
        return train_epoch(*args)

    monkeypatch.setattr(Session, "train_epoch", train_until_the_signal)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.warns(UserWarning, match="^Training interrupted by user.$"):
            estimator.fit(texts, labels)
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
    assert estimator.n_iter_ == 0
    assert np.isfinite(estimator.predict_proba(texts[:10])).all()


UNICODE = st.text(st.characters(codec=None), max_size=30)
MIXED = st.lists(
    UNICODE | st.sampled_from(["a b", "b c \u8336", "a\u0301 :-)", "  ", "x" * 300]), min_size=2, max_size=12
)


@settings(max_examples=5 if JIT_DISABLED else 60, deadline=None)
@given(MIXED, st.sampled_from([{}, {"subword_range": (1, 4)}, {"lowercase": False}, {"analyzer": "char"}]))
def test_any_unicode(texts, changes):
    """Whatever the characters: a text is predicted alone as among others, and predictions are finite."""
    labels = np.arange(len(texts) + 1) % 3
    estimator = small(max_iter=1, batch_size="auto", **changes).fit(["a known text", *texts], labels)
    together = estimator.predict_proba(texts)
    assert np.isfinite(together).all()
    assert_array_equal(np.concatenate([estimator.predict_proba([text]) for text in texts]), together)
    assert all(isinstance(word, str) for word in estimator.vocabulary_)
    assert_array_equal(pickle.loads(pickle.dumps(estimator)).predict_proba(texts), together)
