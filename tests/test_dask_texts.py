"""Texts over Dask collections: the vocabulary of one machine, and rounds that exchange the rows that were touched."""

import hashlib
import itertools
import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

import nbnet
from nbnet.cpu.text_session import TextSession
from nbnet.tokens import Analysis, TokenIndex

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")

import nbnet.dask as nd  # noqa: E402
from nbnet.dask import rounds, text_rounds  # noqa: E402

SUBJECTS = ("the ship sailed on a calm sea", "a judge read the law", "bread and butter with salt")
SIZES = (20, 0, 7, 33)
SMALL = dict(embedding_dim=8, random_state=0, max_iter=3, target_loss=None)


@pytest.fixture(autouse=True)
def in_turn():
    """One task after another."""
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def data():
    """Texts of three classes, of which the second part with texts lacks the last; some words occur in one part only."""
    random = np.random.default_rng(0)
    numbers = random.integers(0, 3, sum(SIZES))
    numbers[20:27] = random.integers(0, 2, 7)
    words = [SUBJECTS[number].split() for number in numbers]
    texts = [" ".join([*random.permutation(own)[:4], f"word{i // 15}"]) for i, own in enumerate(words)]
    texts[3] = ""
    return texts, np.array(["sea", "law", "food"])[numbers]


def parts_of(values, sizes=SIZES):
    """A list of delayed partitions."""
    return [dask.delayed(values[a:b]) for a, b in itertools.pairwise(np.cumsum([0, *sizes]).tolist())]


def indicator_of(labels):
    """Two labels for a third of the documents, none for one."""
    y = (labels[:, np.newaxis] == np.unique(labels)).astype(int)
    y[::3, 0], y[5] = 1, 0
    return y


def digest(model):
    """Of all that decides predictions."""
    fitted = model.model_
    arrays = [fitted.params_, np.array(fitted.loss_curve_), fitted.class_prior_, *fitted._index.to_arrays().values()]
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


# ---------------------------------------------------------------- vocabulary


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"min_df": 3},
        {"min_df": 0.1, "max_features": 5},
        {"subword_range": (3, 5), "min_df": 2},
        {"ngram_range": (2, 3), "subword_range": (3, 3), "boundary_tokens": False},
        {"analyzer": "char", "ngram_range": (1, 3)},
        {"stop_words": "english", "ngram_range": (1, 1)},
        {"token_pattern": r"\w+", "n_buckets": 50},
    ],
    ids=str,
)
def test_vocabulary_of_counts_is_that_of_all_texts(data, settings):
    texts, analysis = [*data[0], "Über das Meer", "海上的船"], Analysis(**settings)
    one = TokenIndex(analysis)
    documents = one.fit_transform(texts)
    counts = [TokenIndex.count(analysis, texts[a:b]) for a, b in itertools.pairwise([0, 9, 9, 40, len(texts)])]
    many = TokenIndex.from_counts(analysis, pickle.loads(pickle.dumps(counts)))
    for name, expected in one.to_arrays().items():
        np.testing.assert_array_equal(many.to_arrays()[name], expected, strict=True, err_msg=name)
    assert (many.words, many.n_documents) == (one.words, one.n_documents)
    for found, expected in zip(many.transform(texts), documents, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_what_partitions_say_together_is_what_one_machine_learns(data):
    texts, labels = data
    parameters = {**SMALL, "min_df": 2, "subword_range": (3, 4), "class_weight": "balanced"}
    one = nbnet.TextEmbeddingClassifier(**parameters).fit(texts, labels)
    many = nd.TextEmbeddingClassifier(**parameters).fit(parts_of(texts), parts_of(labels)).model_
    assert many.vocabulary_ == one.vocabulary_
    np.testing.assert_array_equal(many.idf_, one.idf_)
    np.testing.assert_allclose(many.class_prior_, one.class_prior_, rtol=1e-6)
    assert many.classes_.tolist() == one.classes_.tolist()


# ---------------------------------------------------------------- rounds


@pytest.mark.parametrize(
    ("parameters", "is_indicator"),
    [
        ({}, False),
        ({"loss": "hierarchical_softmax", "pooling": "mean"}, False),
        ({"loss": "one_vs_all", "hidden_layer_sizes": (5,), "pooling": "attention"}, True),
        ({"solver": "sgd", "learning_rate_init": 0.5, "token_weights": None, "min_df": 2}, True),
    ],
    ids=["softmax", "tree", "attention", "sgd"],
)
def test_one_partition_trains_as_one_machine_does(data, parameters, is_indicator):
    texts, labels = data
    y = indicator_of(labels) if is_indicator else labels
    parameters = {**SMALL, "shuffle": False, **parameters}
    one = nbnet.TextEmbeddingClassifier(**parameters).fit(texts, y)
    many = nd.TextEmbeddingClassifier(**parameters, local_epochs=1).fit([dask.delayed(texts)], [dask.delayed(y)])
    # changes pass through differences and sums
    np.testing.assert_allclose(many.model_.params_, one.params_, atol=1e-5)
    np.testing.assert_allclose(many.loss_curve_, one.loss_curve_, rtol=1e-4)


def test_a_row_is_averaged_over_the_partitions_that_have_it(data):
    model = nbnet.TextEmbeddingClassifier(**SMALL).fit(*data)
    layer, params = model.network_.layers[0], np.zeros_like(model.params_)
    n_above, stride = int(layer["weight_start"]), int(layer["out_stride"])
    plan = rounds.Plan(None, 0, rounds.Pace(1, 1))
    training = text_rounds.TextRounds(plan, [], [], None, model.network_, params, (0.5, 0.0), 4, -np.inf)

    def change(weight, value, squares):
        share = text_rounds.Share(np.full(n_above + 2 * stride, value, np.float32), np.array(squares, np.float32))
        return text_rounds.TextChange(weight, value, share)

    changes = [change(3.0, 2.0, [1, 2, 3]), change(1.0, 6.0, [10, 20, 30])]
    assert training._apply([np.array([0, 1]), np.array([1, 2])], changes) == (3.0, 4.0)
    table = params[n_above:].reshape(-1, stride)
    np.testing.assert_array_equal(params[:n_above], 0.5 * 3.0)
    np.testing.assert_array_equal(table[:3, 0], [0.5 * 2.0, 0.5 * 3.0, 0.5 * 6.0])
    assert not table[3:].any()
    assert training.squares_above.tolist() == [11]
    assert training.squares[:4].tolist() == [2, 3 + 20, 30, 0]


def test_rows_that_a_partition_does_not_have_stay_at_home(data, monkeypatch):
    shares, original = [], text_rounds.train

    def watched(plan, share, cuts, round_number, number):
        shares.append((number, round_number, share))
        return original(plan, share, cuts, round_number, number)

    monkeypatch.setattr(text_rounds, "train", watched)
    texts, labels = data
    model = nd.TextEmbeddingClassifier(**SMALL, local_epochs=0.5).fit(parts_of(texts), parts_of(labels)).model_
    shares[:6] = sorted(shares[:6], key=lambda share: (share[1], share[0]))
    assert [share[:2] for share in shares[:6]] == [(number, part) for part in (0, 1) for number in (0, 2, 3)]
    layer = model.network_.layers[0]
    stride, n_above = int(layer["out_stride"]), int(layer["weight_start"])
    for number, part, share in shares[:6]:
        first = sum(SIZES[:number])
        ids = model._index.transform(texts[first : first + SIZES[number]][part::2]).ids
        assert share.params.size == n_above + stride * np.unique(ids).size < model.params_.size
    assert not shares[0][2].squares.size and shares[3][2].squares.size


@pytest.mark.parametrize("local_epochs", [0.5, 1, 3])
def test_learning_rates_go_on_from_round_to_round(data, monkeypatch, local_epochs):
    seen, original = [], TextSession.train_epoch

    def watched(self, rows, targets, plan):
        seen.append(plan.rates)
        return original(self, rows, targets, plan)

    monkeypatch.setattr(TextSession, "train_epoch", watched)
    texts, labels = data[0][:20], data[1][:20]
    parameters = {**SMALL, "batch_size": 5, "learning_rate": "one_cycle"}
    nbnet.TextEmbeddingClassifier(**parameters).fit(texts, labels)
    expected, seen[:] = np.concatenate(seen), []
    model = nd.TextEmbeddingClassifier(**parameters, local_epochs=local_epochs)
    model.fit([dask.delayed(texts)], [dask.delayed(labels)])
    np.testing.assert_allclose(np.concatenate(seen), expected)


@pytest.mark.slow_without_jit
@pytest.mark.parametrize("local_epochs", [2, 0.25])
def test_collections_of_all_kinds_give_the_same_bits(data, local_epochs):
    db, dd = pytest.importorskip("dask.bag"), pytest.importorskip("dask.dataframe")
    texts, labels = data
    model = nd.TextEmbeddingClassifier(**SMALL, local_epochs=local_epochs, outer_momentum=0.5)
    sizes = (20, 20, 20)
    expected = clone(model).fit(parts_of(texts, sizes), parts_of(labels, sizes))
    if local_epochs < 1:
        frames = dd.from_pandas(pd.DataFrame({"text": texts, "label": labels}), npartitions=3)
        collections = [(frames["text"], frames["label"])]
    else:
        bags = db.from_sequence(texts, partition_size=20), db.from_sequence(labels.tolist(), partition_size=20)
        arrays = da.from_array(np.array(texts, object), chunks=20), da.from_array(labels, chunks=20)
        collections = [bags, arrays]
    for X, y in collections:
        fitted = clone(model).fit(X, y)
        assert digest(fitted) == digest(expected)
        assert fitted.predict(X).compute().tolist() == expected.model_.predict(texts).tolist()
    assert expected.n_iter_ == {2: 2, 0.25: 3}[local_epochs]
    assert digest(expected) != digest(clone(model).fit(parts_of(texts), parts_of(labels)))


def test_training_ends_at_the_target_loss(data):
    texts, labels = data
    model = nd.TextEmbeddingClassifier(**{**SMALL, "max_iter": 40, "target_loss": 0.3}, learning_rate_init=0.1)
    model.fit(parts_of(texts), parts_of(labels))
    assert 1 < model.n_iter_ < 40
    smoothed = np.array([0.8, 0, 0]) + 0.2 / 3
    least = -(smoothed * np.log(smoothed)).sum()
    assert model.loss_curve_[-1] <= least + 0.3 < model.loss_curve_[-2]


def test_validation_texts_are_scored_after_each_epoch(data):
    texts, labels = data
    X, y = parts_of(texts), parts_of(labels)
    model = nd.TextEmbeddingClassifier(**SMALL).fit(X, y, X_val=texts[:20], y_val=labels[:20])
    assert len(model.history_["val_loss"]) == 3
    assert model.history_["val_score"][-1] == model.score(texts[:20], labels[:20])
    assert digest(model) == digest(clone(model).fit(X, y))


def test_divergence_ends_with_the_weights_before_it(data):
    texts, labels = data
    model = nd.TextEmbeddingClassifier(**SMALL, local_epochs=1, outer_learning_rate=1e30)
    with pytest.warns(ConvergenceWarning, match="Training diverged in iteration 2"):
        model.fit(parts_of(texts), parts_of(labels))
    assert np.isnan(model.loss_curve_[-1]) and np.isfinite(model.model_.params_).all()
    with pytest.warns(ConvergenceWarning, match="Training diverged in iteration 1"):
        start = clone(model).set_params(outer_learning_rate=1e300).fit(parts_of(texts), parts_of(labels)).model_
    assert np.abs(start.embeddings_).max() <= 1 / 8


# ---------------------------------------------------------------- weights


def test_a_weight_of_zero_is_absence(data):
    texts, labels = data
    weights = np.ones(60)
    weights[[1, 25, 30]] = 0
    kept = np.flatnonzero(weights)
    model = nd.TextEmbeddingClassifier(**SMALL)
    whole = clone(model).fit(parts_of(texts), parts_of(labels), sample_weight=parts_of(weights))
    sizes = (19, 0, 6, 32)
    some = clone(model).fit(parts_of([texts[i] for i in kept], sizes), parts_of(labels[kept], sizes))
    assert digest(whole) == digest(some)
    by_class = clone(model).set_params(class_weight={"sea": 0.0, "law": 1.0, "food": 2.0})
    fitted = by_class.fit(parts_of(texts), parts_of(labels)).model_
    assert fitted.class_prior_[fitted.classes_.tolist().index("sea")] == 0


@pytest.mark.slow_without_jit
def test_weights_count(data):
    texts, labels = data
    weights = np.where(labels == "sea", 3.0, 1.0)
    X, y = parts_of(texts), parts_of(labels)
    model = nd.TextEmbeddingClassifier(**SMALL)
    by_row = clone(model).fit(X, y, sample_weight=parts_of(weights))
    by_class = clone(model).set_params(class_weight={"sea": 3.0, "law": 1.0, "food": 1.0}).fit(X, y)
    assert digest(by_row) == digest(by_class) != digest(clone(model).fit(X, y))


# ---------------------------------------------------------------- predictions


def test_predictions_are_lazy_and_equal_those_in_memory(data):
    texts, labels = data
    X, y = parts_of(texts), parts_of(labels)
    model = nd.TextEmbeddingClassifier(**SMALL).fit(X, y)
    for method in ("predict", "predict_proba", "transform"):
        lazy, expected = getattr(model, method)(X), getattr(model.model_, method)(texts)
        assert isinstance(lazy, da.Array) and (lazy.dtype, lazy.ndim) == (expected.dtype, expected.ndim)
        np.testing.assert_array_equal(lazy.compute(), expected)
        np.testing.assert_array_equal(getattr(model, method)(texts), expected)
    for threshold in (0.0, 0.4):
        for lazy, expected in zip(
            model.predict_top_k(X, k=2, threshold=threshold),
            model.model_.predict_top_k(texts, k=2, threshold=threshold),
            strict=True,
        ):
            np.testing.assert_array_equal(lazy.compute(), expected)
    assert model.score(X, y) == model.model_.score(texts, labels)


def test_indicator_matrices(data):
    texts, y = data[0], indicator_of(data[1])
    X = parts_of(texts)
    chunks = da.from_array(y, chunks=(SIZES, 2))
    model = nd.TextEmbeddingClassifier(**SMALL, loss="one_vs_all", learning_rate_init=0.5).fit(X, chunks)
    assert model.classes_.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(model.predict(X).compute(), model.model_.predict(texts))
    assert model.score(X, parts_of(y)) == model.model_.score(texts, y) > 0.3


def test_the_fitted_model_can_be_saved_and_goes_on(data, tmp_path):
    pytest.importorskip("safetensors")
    texts, labels = data
    model = nd.TextEmbeddingClassifier(**SMALL).fit(parts_of(texts), parts_of(labels)).model_
    expected = model.predict_proba(texts)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(nbnet.load(tmp_path / "model").predict_proba(texts), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(texts), expected)
    assert not np.array_equal(model.partial_fit(texts, labels).predict_proba(texts), expected)


# ---------------------------------------------------------------- errors


def test_errors_name_what_is_wrong(data):
    texts, labels = data
    X, y = parts_of(texts), parts_of(labels)
    model = nd.TextEmbeddingClassifier(**SMALL)
    with pytest.raises(TypeError, match=r"Partition 2 of X: Texts must be str, but item 4 is float"):
        model.fit(parts_of([*texts[:24], np.nan, *texts[25:]]), y)
    with pytest.raises(TypeError, match="X must be a Dask array, bag or dataframe, got list"):
        model.fit(texts, y)
    with pytest.raises(ValueError, match="one label a document, or be an indicator matrix of zeros and ones"):
        model.fit(X, da.from_array(np.arange(180).reshape(60, 3), chunks=(SIZES, 3)))
    with pytest.raises(ValueError, match=r"indicator matrix of one width.* widths \[3, None\]"):
        model.fit(X, [*y[:3], dask.delayed(indicator_of(labels)[27:])])
    with pytest.raises(ValueError, match=r"not in `classes`=\['law', 'sea'\]: \['food'\]"):
        model.fit(X, y, classes=["law", "sea"])
    with pytest.raises(ValueError, match=r"Found array with 0 sample\(s\)"):
        model.fit(parts_of([], (0, 0)), parts_of(labels, (0, 0)))
    with pytest.raises(ValueError, match="Empty vocabulary"):
        clone(model).set_params(min_df=100, ngram_range=(1, 1), boundary_tokens=False).fit(X, y)
    with pytest.raises(ValueError, match="non-zero"):
        clone(model).set_params(class_weight=dict.fromkeys(("sea", "law", "food"), 0.0)).fit(X, y)
    assert not hasattr(model, "model_")
