"""`TextEmbeddingClassifier`: what its parameters and methods do."""

import gzip

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

import nbnet.estimators.labels
from nbnet import TextEmbeddingClassifier, datasets
from nbnet.estimators.text import SOLVERS
from nbnet.estimators.text_run import LOSSES, POOLINGS
from nbnet.plotting import HistoryDisplay

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

TEXTS = ["a good film", "a bad film", "good , good plot !", "an awful bad plot", "nice", "so so"] * 3
Y = np.array(["pos", "neg", "pos", "neg", "pos", "neg"] * 3)
LABELS = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0]] * 3)
SMALL = {"embedding_dim": 5, "random_state": 0, "max_iter": 8, "batch_size": 4, "learning_rate_init": 0.1}
SMALL |= {"label_smoothing": 0.0}


def small(**changes):
    return TextEmbeddingClassifier(**{**SMALL, **changes})


# -------------------------------------------------------------------------------- networks and losses


@pytest.mark.parametrize("pooling", sorted(POOLINGS))
@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("hidden", [(), (4,)])
def test_all_kinds_of_networks(pooling, loss, solver, hidden):
    estimator = small(pooling=pooling, loss=loss, solver=solver, hidden_layer_sizes=hidden, dropout=0.1).fit(TEXTS, Y)
    probabilities = estimator.predict_proba(TEXTS)
    assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert (probabilities >= 0).all() and probabilities.dtype == np.float32
    assert estimator.loss_curve_[-1] < estimator.loss_curve_[0] or hidden or solver != "adagrad"


@pytest.mark.parametrize("loss", ["hierarchical_softmax", "softmax"])
def test_one_label_of_each_text_in_each_epoch(loss):
    labels = np.tile([[1, 1, 0], [0, 0, 1]], (9, 1))
    texts = ["red and green", "blue"] * 9
    options = dict(loss=loss, sample_labels=True, max_iter=40, target_loss=None, label_smoothing=0.0)
    estimator = small(**options).fit(texts, labels)
    assert_allclose(estimator.predict_proba(texts[:2]), [[0.5, 0.5, 0], [0, 0, 1]], atol=0.2)
    assert_array_equal(estimator.predict_proba(texts), small(**options).fit(texts, labels).predict_proba(texts))
    shared = small(**options | {"sample_labels": False}).fit(texts, labels)
    assert (shared.params_ != estimator.params_).any()
    both = small(**options | {"loss": "one_vs_all"}).fit(texts, labels).predict_proba(texts[:2])
    assert_array_equal(both > 0.5, labels[:2])


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("container", [np.array, sp.csr_array, sp.csc_matrix])
def test_labels_by_an_indicator_matrix(loss, container):
    estimator = small(loss=loss, max_iter=60, target_loss=None).fit(TEXTS, container(LABELS))
    probabilities, predicted = estimator.predict_proba(TEXTS), estimator.predict(TEXTS)
    assert sp.issparse(predicted) == (container is not np.array)
    predicted = predicted.toarray() if sp.issparse(predicted) else predicted
    expected = probabilities >= 0.5
    if loss == "one_vs_all":
        assert_array_equal(predicted, LABELS)
        assert_allclose(estimator.class_prior_, LABELS.mean(axis=0))
    else:
        expected[np.arange(18), probabilities.argmax(axis=1)] = True
        assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
        likely = LABELS / np.maximum(LABELS.sum(axis=1, keepdims=True), 1)
        has_labels = LABELS.any(axis=1)
        assert_allclose(probabilities[has_labels], likely[has_labels], atol=0.2)
        assert_allclose(estimator.class_prior_, likely[has_labels].mean(axis=0), rtol=1e-6)
    assert_array_equal(predicted, expected)
    assert_array_equal(estimator.classes_, [0, 1, 2])
    assert estimator.score(TEXTS, container(LABELS)) == accuracy_score(LABELS, predicted)


def test_texts_without_labels_are_absent_for_softmax():
    with_them = small().fit(TEXTS, LABELS)
    has_labels = LABELS.any(axis=1)
    without = small().fit(np.array(TEXTS)[has_labels], LABELS[has_labels])
    assert_array_equal(with_them.params_, without.params_)
    assert "awful" not in with_them.vocabulary_


def test_one_class():
    estimator = small().fit(TEXTS, np.full(18, 7))
    assert_array_equal(estimator.predict_proba(TEXTS), np.ones((18, 1)))
    assert_array_equal(estimator.predict(TEXTS), np.full(18, 7))


def test_probabilities_of_one_vs_all_against_its_definition():
    estimator = small(loss="one_vs_all", dtype="float64").fit(TEXTS, Y)
    logits = estimator.transform(TEXTS) @ estimator.coefs_[0] + estimator.intercepts_[0]
    sigmoids = 1 / (1 + np.exp(-logits))
    assert_allclose(estimator.predict_proba(TEXTS), sigmoids / sigmoids.sum(axis=1, keepdims=True), rtol=1e-10)


# -------------------------------------------------------------------------------- tokens and their weights


def test_vector_of_a_text_against_its_definition():
    estimator = small(pooling="mean", ngram_range=(1, 1), boundary_tokens=False, dtype="float64").fit(TEXTS, Y)
    rows, vectors = estimator.vocabulary_, estimator.embeddings_
    n_texts, with_word = len(TEXTS), {word: sum(word in text.split() for text in TEXTS) for word in rows}
    weights = {word: np.log((1 + n_texts) / (1 + with_word[word])) + 1 for word in rows}
    for word, row in rows.items():
        assert estimator.idf_[row] == pytest.approx(weights[word])
        assert_array_equal(estimator.word_vector(word), vectors[row])
    weights["good"] *= 1 + np.log(2)
    words = ["good", "plot", "!"]
    expected = sum(weights[word] * vectors[rows[word]] for word in words) / sum(weights[word] for word in words)
    assert_allclose(estimator.transform(["Good GOOD plot!"])[0], expected, rtol=1e-10)
    plain = clone(estimator).set_params(token_weights=None, sublinear_tf=False).fit(TEXTS, Y)
    rows, vectors = plain.vocabulary_, plain.embeddings_
    expected = (2 * vectors[rows["good"]] + vectors[rows["plot"]]) / 3
    assert_allclose(plain.transform(["good good plot"])[0], expected, rtol=1e-10)
    assert plain.idf_ is None


def test_the_default_weights_are_those_of_tfidf():
    estimator = small(ngram_range=(1, 1), boundary_tokens=False, token_pattern=r"(?u)\b\w\w+\b").fit(TEXTS, Y)
    peer = TfidfVectorizer(sublinear_tf=True).fit(TEXTS)
    assert set(estimator.vocabulary_) == set(peer.vocabulary_)
    for word, row in estimator.vocabulary_.items():
        assert estimator.idf_[row] == pytest.approx(peer.idf_[peer.vocabulary_[word]])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, {"a", "good", "film", "bad", ",", "plot", "!", "an", "awful", "nice", "so"}),
        ({"lowercase": False, "max_features": 2}, {"good", "so"}),
        ({"min_df": 6}, {"good", "film", "bad", "plot", "a"}),
        ({"stop_words": ["good", "a"], "min_df": 0.3}, {"film", "bad", "plot"}),
        ({"token_pattern": "[a-z]{4,}"}, {"good", "film", "plot", "awful", "nice"}),
        ({"analyzer": str.split, "min_df": 3, "max_features": 3}, {"good", "bad", "film"}),
        ({"analyzer": "char", "ngram_range": (1, 1), "max_features": 2}, {" ", "o"}),
    ],
    ids=["everything", "cased", "min_df", "stop_words", "token_pattern", "callable", "char"],
)
def test_vocabulary(changes, words):
    if "max_features" in changes:
        assert len(small(**changes).fit(TEXTS, Y).vocabulary_) == changes["max_features"]
    else:
        assert set(small(**changes).fit(TEXTS, Y).vocabulary_) == words


def test_analyzers_and_subwords_know_parts_of_unknown_words():
    for changes in ({"analyzer": "char_wb", "ngram_range": (2, 3)}, {"subword_range": (3, 4)}):
        estimator = small(**changes, max_iter=40, target_loss=None).fit(TEXTS, Y)
        assert estimator.predict(["goodness", "badly"]).tolist() == ["pos", "neg"]
    assert small().fit(TEXTS, Y).predict_proba(["goodness"])[0] == pytest.approx([0.5, 0.5], abs=0)


def test_bigrams_tell_word_order():
    texts, labels = ["dog bites man", "man bites dog"] * 10, [0, 1] * 10
    assert small(max_iter=30).fit(texts, labels).score(texts, labels) == 1.0
    assert small(max_iter=30, ngram_range=(1, 1)).fit(texts, labels).score(texts, labels) == 0.5


@pytest.mark.parametrize("text", ["", " \n", "unheard words", "\x00", "\ud800", "\u00e9"])
def test_an_unknown_text_gets_the_prior(text):
    for changes in ({}, {"boundary_tokens": False}, {"sublinear_tf": False}, {"loss": "one_vs_all"}):
        weights = np.where(Y == "pos", 3.0, 1.0)
        estimator = small(**changes).fit(TEXTS, Y, weights)
        assert_array_equal(estimator.class_prior_, [0.25, 0.75])
        assert_array_equal(estimator.predict_proba([text, "good", text])[[0, 2]], [[0.25, 0.75]] * 2)


# -------------------------------------------------------------------------------- weights, validation, more data


def test_a_weight_of_zero_is_absence():
    present = np.arange(18) % 3 > 0
    part = small().fit(np.array(TEXTS)[present], Y[present])
    with_others = [text if here else text + " absent" for text, here in zip(TEXTS, present, strict=True)]
    for texts in (TEXTS, with_others):
        estimator = small().fit(texts, Y, present.astype(float))
        assert_array_equal(estimator.params_, part.params_)
        assert estimator.vocabulary_ == part.vocabulary_


def test_class_weight():
    balanced = small(class_weight="balanced").fit(TEXTS[:9], Y[:9])
    by_hand = small().fit(TEXTS[:9], Y[:9], np.where(Y[:9] == "pos", 9 / (2 * 5), 9 / (2 * 4)))
    assert_allclose(balanced.params_, by_hand.params_, atol=1e-6)
    assert_allclose(balanced.class_prior_, [0.5, 0.5])
    by_dict = small(class_weight={"pos": 5.0}).fit(TEXTS, Y)
    assert_array_equal(by_dict.params_, small().fit(TEXTS, Y, np.where(Y == "pos", 5.0, 1.0)).params_)
    several = small(class_weight={0: 3.0, 2: 2.0}).fit(TEXTS, LABELS)
    weights = [2.5, 1, 2, 1, 2, 3] * 3
    assert_allclose(several.params_, small().fit(TEXTS, LABELS, weights).params_, atol=1e-6)
    with pytest.raises(ValueError, match="compute_class_weight"):
        small(class_weight="balanced").partial_fit(TEXTS, Y, classes=["neg", "pos"])


def test_validation_texts_are_recorded():
    estimator = small(verbose=True).fit(TEXTS, Y, X_val=TEXTS[:6], y_val=Y[:6], sample_weight_val=[1, 1, 1, 1, 1, 0])
    history = estimator.history_
    assert len(history["val_loss"]) == estimator.n_iter_ and np.isfinite(history["val_loss"]).all()
    assert history["val_score"][-1] == estimator.score(TEXTS[:5], Y[:5])
    assert estimator.validation_scores_ is None
    pytest.importorskip("matplotlib")
    assert HistoryDisplay.from_estimator(estimator) is not None


@pytest.mark.parametrize("labels", [Y, LABELS], ids=["classes", "labels"])
@pytest.mark.parametrize("scoring", [None, "loss", "f1_macro"])
@pytest.mark.filterwarnings("ignore:F-score is ill-defined")
def test_early_stopping(labels, scoring):
    estimator = small(early_stopping=True, validation_fraction=0.3, n_iter_no_change=2, max_iter=50, scoring=scoring)
    estimator.fit(TEXTS, labels)
    assert estimator.best_validation_score_ == max(estimator.validation_scores_)
    assert len(estimator.validation_scores_) == estimator.n_iter_ <= 50
    given = clone(estimator).fit(TEXTS, labels, X_val=TEXTS[:4], y_val=labels[:4])
    if scoring is None:
        assert given.best_validation_score_ == given.score(TEXTS[:4], labels[:4])


def test_words_of_held_out_texts_are_unknown():
    texts = [f"word{i} common" for i in range(20)]
    estimator = small(early_stopping=True, validation_fraction=0.5).fit(texts, np.arange(20) % 2)
    assert len(estimator.vocabulary_) == 11


def test_partial_fit_adds_words_and_rows():
    estimator = small().partial_fit(TEXTS, Y, classes=["neg", "new", "pos"])
    assert estimator.class_prior_.tolist() == [0.5, 0, 0.5]
    rows, before = estimator.vocabulary_, estimator.embeddings_.copy()
    unchanged = estimator.word_vector("nice").copy()
    estimator.partial_fit(["a brand new thing"] * 18, ["new"] * 18)
    assert {word: estimator.vocabulary_[word] for word in rows} == rows
    assert set(estimator.vocabulary_) - set(rows) == {"brand", "new", "thing"}
    assert estimator.embeddings_.shape[0] > before.shape[0]
    assert_array_equal(estimator.word_vector("nice"), unchanged)
    assert_allclose(estimator.class_prior_, [0.25, 0.5, 0.25])
    assert estimator.idf_.size == estimator.embeddings_.shape[0]
    assert len(estimator.loss_curve_) == 2
    for _ in range(20):
        estimator.partial_fit(["a brand new thing"] * 3 + TEXTS, ["new"] * 3 + Y.tolist())
    assert estimator.predict(["brand new"]) == ["new"]


def test_partial_fit_is_one_epoch_of_fit():
    options = {"learning_rate": "constant", "target_loss": None}
    fitted = small(max_iter=1, **options).fit(TEXTS, Y)
    part = small(**options).partial_fit(TEXTS, Y, classes=["neg", "pos"])
    assert_array_equal(part.params_, fitted.params_)


def test_partial_fit_with_early_stopping_keeps_the_best():
    estimator = small(early_stopping=True)
    for _ in range(4):
        estimator.partial_fit(TEXTS, Y, classes=["neg", "pos"], X_val=TEXTS[:6], y_val=Y[:6])
        assert estimator.score(TEXTS[:6], Y[:6]) == max(estimator.validation_scores_)
    with pytest.raises(ValueError, match="does not support early_stopping"):
        small(early_stopping=True).partial_fit(TEXTS, Y, classes=["neg", "pos"])


def test_warm_start():
    estimator = small(warm_start=True, target_loss=None).fit(TEXTS, Y)
    before, loss = estimator.vocabulary_, estimator.loss_
    estimator.fit([*TEXTS, "something more"], [*Y, "pos"])
    assert estimator.loss_ < loss and len(estimator.loss_curve_) == 16
    assert set(estimator.vocabulary_) - set(before) == {"something", "more"}
    with pytest.raises(ValueError, match="same classes"):
        estimator.fit(TEXTS, np.where(Y == "pos", "other", Y))
    with pytest.raises(ValueError, match="layers of sizes"):
        estimator.set_params(hidden_layer_sizes=(3,)).fit(TEXTS, Y)
    with pytest.raises(ValueError, match="cut texts into tokens"):
        estimator.set_params(hidden_layer_sizes=(), ngram_range=(1, 3)).fit(TEXTS, Y)
    assert len(estimator.loss_curve_) == 16, "a failed fit leaves the estimator as it was"
    assert_array_equal(estimator.predict(TEXTS), Y)


# -------------------------------------------------------------------------------- top k, vectors, neighbors


def test_predict_top_k():
    estimator = small(dtype="float64").fit(TEXTS, np.array(["a", "b", "c", "d", "e", "f"] * 3))
    probabilities = estimator.predict_proba(TEXTS)
    labels, top = estimator.predict_top_k(TEXTS, 3)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :3]
    assert_array_equal(labels, estimator.classes_[order])
    assert_array_equal(top, np.take_along_axis(probabilities, order, axis=1))
    assert_array_equal(labels[:, 0], estimator.predict(TEXTS))
    threshold = float(np.median(top))
    some, some_top = estimator.predict_top_k(TEXTS, 3, threshold=threshold)
    assert_array_equal(some_top, np.where(top >= threshold, top, 0))
    assert_array_equal(some, np.where(top >= threshold, labels, None))
    for wrong in ({"k": 0}, {"k": 7}, {"threshold": 1.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            estimator.predict_top_k(TEXTS, **wrong)


@pytest.mark.parametrize("changes", [{}, {"subword_range": (2, 3)}], ids=str)
def test_nearest_words(changes):
    estimator = small(**changes).fit(TEXTS, Y)
    words = sorted(estimator.vocabulary_)
    vectors = np.array([estimator.word_vector(word) for word in words])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors[words.index("good")]
    expected = [words[i] for i in np.argsort(-cosines) if words[i] != "good"]
    found = estimator.nearest_words("Good", 4)
    assert [word for word, _ in found] == expected[:4]
    assert_allclose([cosine for _, cosine in found], np.sort(cosines)[::-1][1:5], rtol=1e-5)
    assert estimator.nearest_words(estimator.word_vector("good"), 1)[0][0] == "good"


def test_word_vector():
    estimator = small().fit(TEXTS, Y)
    with pytest.raises(KeyError, match="unheard"):
        estimator.word_vector("unheard")
    with_subwords = small(subword_range=(2, 3)).fit(TEXTS, Y)
    assert np.isfinite(with_subwords.word_vector("goodly")).all()
    rows = with_subwords._index.rows_of_word("good")
    assert rows.size > 1
    assert_allclose(with_subwords.word_vector("good"), with_subwords.embeddings_[rows].sum(axis=0))


def test_vectors_in_front_of_another_estimator():
    pipeline = make_pipeline(small(), KNeighborsClassifier(1)).fit(TEXTS, Y)
    assert pipeline.score(TEXTS, Y) == 1.0
    assert pipeline[0].get_feature_names_out()[-1] == "textembeddingclassifier4"


def test_in_a_grid_search():
    search = GridSearchCV(small(), {"ngram_range": [(1, 1), (1, 2)], "pooling": ["mean", "max"]}, cv=2)
    search.fit(TEXTS, Y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


# -------------------------------------------------------------------------------- pretrained vectors

VECTORS = {"good": np.arange(5.0), "Film": np.full(5, 2.0), "film": np.full(5, 3.0), "unused": np.ones(5)}
VECTORS |= {"Bad": np.full(5, 4.0), "BAD": np.full(5, 5.0)}


class KeyedVectors:
    key_to_index = {word: i for i, word in enumerate(VECTORS)}
    vectors = np.array(list(VECTORS.values()))

    def __getitem__(self, word):
        return self.vectors[self.key_to_index[word]]


def vec_file(folder, header=True, packed=False):
    lines = [f"{len(VECTORS)} 5"] if header else []
    lines += [f"{word} {' '.join(map(str, vector))} " for word, vector in VECTORS.items()]
    path = folder / ("x.vec.gz" if packed else "x.vec")
    content = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


@pytest.mark.parametrize("kind", ["mapping", "keyed", "pair", "file", "file without header", "gzip", "str"])
def test_pretrained_embeddings(kind, tmp_path):
    source = {
        "mapping": lambda: VECTORS,
        "keyed": KeyedVectors,
        "pair": lambda: (list(VECTORS), np.array(list(VECTORS.values()))),
        "file": lambda: vec_file(tmp_path),
        "file without header": lambda: vec_file(tmp_path, header=False),
        "gzip": lambda: vec_file(tmp_path, packed=True),
        "str": lambda: str(vec_file(tmp_path)),
    }[kind]()
    estimator = small(pretrained_embeddings=source, freeze_embeddings=True).fit(TEXTS, Y)
    assert_array_equal(estimator.word_vector("good"), VECTORS["good"])
    assert_array_equal(estimator.word_vector("film"), VECTORS["film"])  # not that of Film
    assert_array_equal(estimator.word_vector("bad"), VECTORS["Bad"])  # there is none in lower case
    assert not estimator.word_vector("nice").any()
    assert "unused" not in estimator.vocabulary_
    trained = small(pretrained_embeddings=source).fit(TEXTS, Y)
    assert 0 < abs(trained.word_vector("film") - VECTORS["film"]).max() < 1
    assert trained.word_vector("nice").any()


def test_frozen_vectors_and_new_words():
    source = {**VECTORS, "late": np.ones(5)}
    estimator = small(pretrained_embeddings=source, freeze_embeddings=True, batch_size="auto")
    estimator.partial_fit(TEXTS, Y, classes=["neg", "pos"])
    with pytest.raises(ValueError, match="read-only"):
        estimator.embeddings_[estimator.vocabulary_["good"]] = 9
    changed = estimator.embeddings_.copy()
    changed[estimator.vocabulary_["good"]] = 9
    estimator.embeddings_ = changed
    with pytest.raises(ValueError, match=r"embeddings_ must have the shape \(\d+, 5\), got \(5,\)"):
        estimator.embeddings_ = changed[0]
    estimator.partial_fit(["too late , good"], ["neg"])
    assert_array_equal(estimator.word_vector("late"), np.ones(5))
    assert_array_equal(estimator.word_vector("good"), np.full(5, 9))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("2 3\ngood 1 2 3\nfilm 4 x 6\n", "x.vec, line 3: not a number"),
        ("2 3\ngood 1 2 3\nfilm 4 5\n", "x.vec, line 3: expected a word and 3 numbers"),
        ("good 1 2 3\n\n", "x.vec, line 2: expected a word and 3 numbers"),
        ("good 1 2\n", r"vectors of 2 numbers .*line 1.*embedding_dim=3"),
        ("good 1 nan 2\n", "x.vec, line 1: not all numbers are finite"),
    ],
)
def test_broken_files_of_vectors(content, message, tmp_path):
    path = tmp_path / "x.vec"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        small(embedding_dim=3, pretrained_embeddings=path).fit(TEXTS, Y)


def test_other_broken_vectors():
    with pytest.raises(ValueError, match=r"vectors of 5 numbers \(word 'good'\), but embedding_dim=6"):
        small(embedding_dim=6, pretrained_embeddings=VECTORS).fit(TEXTS, Y)
    with pytest.raises(ValueError, match=r"2 words come with an array of shape \(3, 5\)"):
        small(pretrained_embeddings=(["a", "b"], np.ones((3, 5)))).fit(TEXTS, Y)


# -------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("X", "y", "error", "message"),
    [
        ("a text", Y, ValueError, "Iterable over raw text documents expected, string object received"),
        ([*TEXTS[:17], None], Y, TypeError, "item 17 is NoneType"),
        ([b"bytes", *TEXTS[1:]], Y, TypeError, "item 0 is bytes"),
        ([[text] for text in TEXTS], Y, TypeError, "item 0 is list"),
        (np.array(TEXTS)[:, np.newaxis], Y, ValueError, "one-dimensional"),
        ([], [], ValueError, "0 sample"),
        (TEXTS, Y[:5], ValueError, "inconsistent numbers of samples"),
        (TEXTS, None, ValueError, "requires y to be passed"),
        (TEXTS, [["a"], ["b", "c"]] * 9, ValueError, "legacy multi-label"),
        (TEXTS, np.linspace(0, 1, 18), ValueError, "Unknown label type"),
        (TEXTS, np.tile([[1, 2]], (18, 1)) * np.arange(18)[:, np.newaxis], ValueError, "one label a document"),
        (TEXTS, np.full(18, np.nan), ValueError, "NaN"),
        ([""] * 18, Y, ValueError, "Empty vocabulary"),
    ],
)
def test_bad_input(X, y, error, message):
    with pytest.raises(error, match=message):
        small().fit(X, y)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ngram_range": (2, 1)}, "ngram_range must be two integers"),
        ({"subword_range": (0, 3)}, "subword_range must be two integers"),
        ({"ngram_range": (1, 1), "min_df": 19}, "Empty vocabulary"),
        ({"loss": "hinge"}, "loss"),
        ({"solver": "lbfgs"}, "solver"),
        ({"hidden_layer_sizes": (0,)}, "hidden_layer_sizes"),
        ({"activation": ["tanh"]}, "activation has 1 entries"),
        ({"device": "gpu"}, "The 'device' parameter .* must be .*'cuda:N'"),
        ({"embedding_dim": 0}, "embedding_dim"),
    ],
)
def test_bad_parameters(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes).fit(TEXTS, Y)


@pytest.mark.parametrize("dtype", [str, object, int])
def test_distinct_labels_in_pieces(dtype, monkeypatch):
    monkeypatch.setattr(nbnet.estimators.labels, "LISTED_AT_ONCE", 3)
    y = np.array([10, 2, 10, 3, 3, 100, 2]).astype(dtype)
    values, numbers = nbnet.estimators.labels.distinct(y)
    assert_array_equal(values, np.unique(y))
    assert_array_equal(values[numbers], y)


def test_labels_of_other_kinds_than_fitted():
    estimator = small(warm_start=True).fit(TEXTS, Y)
    with pytest.raises(ValueError, match="fitted with one label a document, but `y_val` has an indicator matrix"):
        estimator.fit(TEXTS, Y, X_val=TEXTS, y_val=LABELS)
    with pytest.raises(ValueError, match="`y_val` has classes not in"):
        estimator.fit(TEXTS, Y, X_val=TEXTS, y_val=[*Y[:17], "other"])
    several = small(warm_start=True).fit(TEXTS, LABELS)
    with pytest.raises(ValueError, match="`y` has 2 labels, but the estimator has 3 classes"):
        several.fit(TEXTS, LABELS[:, :2])
    with pytest.raises(ValueError, match=r"not in `self\.classes_`"):
        small().partial_fit(TEXTS, Y, classes=["neg", "other"])


# -------------------------------------------------------------------------------- quality


@pytest.mark.slow_without_jit
@pytest.mark.parametrize(
    ("load", "least", "changes"),
    [
        ("load_sms_spam", 0.98, {}),
        ("load_sms_spam", 0.97, {"pooling": "attention", "hidden_layer_sizes": (16,), "solver": "adam", "max_iter": 5}),
        ("load_sms_spam", 0.97, {"subword_range": (3, 5), "early_stopping": True, "max_iter": 5}),
        ("load_poetry_genre_zh", 0.68, {}),
    ],
    ids=str,
)
def test_quality_on_real_texts(load, least, changes):
    X, y = getattr(datasets, load)(return_X_y=True)
    is_test = np.arange(len(y)) % 5 == 4
    estimator = TextEmbeddingClassifier(random_state=0, **changes).fit(X[~is_test], y[~is_test])
    assert estimator.score(X[is_test], y[is_test]) > least


# -------------------------------------------------------------------------------- scikit-learn's machinery


def test_metadata_reaches_fit_through_a_pipeline():
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = small(early_stopping=True).set_fit_request(sample_weight=True, X_val=True, y_val=True)
        pipeline = Pipeline([("same", FunctionTransformer(np.asarray)), ("text", estimator)], transform_input=["X_val"])
        pipeline.fit(TEXTS, Y, sample_weight=np.where(Y == "pos", 3.0, 1.0), X_val=TEXTS[:6], y_val=Y[:6])
    assert_allclose(pipeline[-1].class_prior_, [0.25, 0.75])
    assert pipeline[-1].best_validation_score_ == pipeline.score(TEXTS[:6], Y[:6])


def test_callbacks_see_each_epoch():
    pytest.importorskip("sklearn.callback")
    seen = []

    class Recorder:
        def setup(self, estimator, context):
            pass

        teardown = on_fit_task_begin = setup

        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            if context.task_name == "epoch":
                seen.append(fitted_estimator.predict_proba(TEXTS))
            return len(seen) == 3

    estimator = small().set_callbacks(Recorder()).fit(TEXTS, Y)
    assert estimator.n_iter_ == len(seen) == 3
    assert_array_equal(seen[-1], estimator.predict_proba(TEXTS))
    assert (seen[0] != seen[1]).any()


def test_texts_without_any_label():
    estimator = small(loss="one_vs_all").fit(TEXTS, np.zeros((len(TEXTS), 2), int))
    assert (estimator.predict_proba(TEXTS) < 0.5).all()
    assert not estimator.predict(TEXTS).any()
