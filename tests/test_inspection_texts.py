"""Attributions of texts: which tokens the network sees, their places, and the values that they get."""

import numpy as np
import pytest

from nbnet import TextEmbeddingClassifier
from nbnet.inspection import attributions
from nbnet.inspection.documents import TokenReader
from tests.helpers import fit

TEXTS = [
    "What a lovely film, it's a film!",
    "so dull, so long and so dull :)",
    "Élan déjà-vu: 东京 is in Japan",
    "lovely lovely lovely",
]
LABELS = ["good", "bad", "other", "good"]
NEW = [*TEXTS, "a long İstanbul film, lovely", "unseen", "", "so"]
SETTINGS = dict(max_iter=2, learning_rate_init=0.3, target_loss=None, random_state=0, n_jobs=1, n_buckets=64)
CUTS = {
    "pairs": {},
    "words": dict(ngram_range=(1, 1)),
    "triples": dict(ngram_range=(1, 3), sublinear_tf=False),
    "only triples": dict(ngram_range=(3, 3)),
    "parts": dict(subword_range=(2, 4)),
    "pairs of parts": dict(subword_range=(3, 3), ngram_range=(2, 2), boundary_tokens=False),
    "no boundaries": dict(boundary_tokens=False, token_weights=None),
    "stop words": dict(stop_words=["a", "so"], ngram_range=(1, 2)),
    "accents": dict(strip_accents="unicode"),
    "case": dict(lowercase=False),
    "pattern": dict(token_pattern=r"\w+"),
    "characters": dict(analyzer="char", ngram_range=(1, 2)),
    "callable": dict(analyzer=str.split, subword_range=(2, 2)),
}
NETWORKS = {
    "linear": {},
    "mean": dict(pooling="mean", hidden_layer_sizes=(3,), activation="tanh"),
    "sum": dict(pooling="sum", hidden_layer_sizes=(3,), activation="tanh"),
    "max": dict(pooling="max", hidden_layer_sizes=(3,), activation="tanh"),
    "attention": dict(pooling="attention", hidden_layer_sizes=(3,), activation="tanh"),
    "tree": dict(loss="hierarchical_softmax"),
    "tree above attention": dict(loss="hierarchical_softmax", pooling="attention"),
    "one against all": dict(loss="one_vs_all"),
}


def text_classifier(**settings):
    return fit(TextEmbeddingClassifier(6, dtype="float64", **{**SETTINGS, **settings}), TEXTS, LABELS)


@pytest.mark.parametrize("name", CUTS)
def test_the_rows_are_those_of_training_and_prediction(name):
    model = text_classifier(**CUTS[name])
    rows, reader = model._index.transform(NEW), TokenReader(model._index)
    for i, text in enumerate(NEW):
        document = reader.read(text)
        start, stop = rows.starts[i], rows.starts[i + 1]
        right = rows.ids[start:stop]
        if rows.counts.size:
            order = np.argsort(right)
            np.testing.assert_array_equal(document.ids, right[order])
            np.testing.assert_array_equal(document.counts(), rows.counts[start:stop][order])
        else:
            np.testing.assert_array_equal(np.sort(document.ids), np.sort(right))


@pytest.mark.parametrize("name", sorted({*CUTS} - {"characters"}))
def test_spans_are_where_tokens_stand(name):
    reader = TokenReader(text_classifier(**CUTS[name])._index)
    for text in NEW:
        document = reader.read(text)
        assert [text[first:stop] for first, stop in document.spans] == document.tokens
        assert (np.diff(document.spans.ravel()) >= 0).all()
        covered = "".join(document.tokens)
        if name in ("pairs", "accents", "case"):
            assert covered == "".join(text.split())


def test_tokens_are_read_as_the_network_reads_them():
    document = TokenReader(text_classifier()._index).read("It's Élan: 东京 :) <3")
    assert document.tokens == ["It's", "Élan", ":", "东", "京", ":)", "<3"]
    dropped = TokenReader(text_classifier(stop_words=["a", "so"])._index).read("So a film")
    assert dropped.tokens == ["film"]


def test_features_that_are_not_in_the_text_have_no_spans():
    model = text_classifier(analyzer="char", ngram_range=(1, 2))
    document = TokenReader(model._index).read("ab")
    assert document.spans is None
    assert document.tokens == ["a", "b", "ab"]
    model = text_classifier(strip_accents=lambda text: "x" + text)
    document = TokenReader(model._index).read("é film")
    assert (document.spans, document.tokens) == (None, ["xé", "film"])


def test_expanded_and_composed_letters_keep_their_places():
    reader = TokenReader(text_classifier(strip_accents="unicode")._index)
    text = "ﬁlm cafe\u0301 İs ok"
    assert reader.read(text).tokens == ["ﬁlm", "cafe\u0301", "İs", "ok"]


@pytest.mark.parametrize("output", ["logit", "probability"])
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_gradients(name, output):
    model = text_classifier(**NETWORKS[name])
    found = attributions(model, TEXTS, "bad", "gradient_x_input", output=output)
    if output == "probability":
        np.testing.assert_allclose(found.output, model.predict_proba(TEXTS)[:, 0], rtol=1e-9)
    elif name.startswith("tree"):
        np.testing.assert_allclose(found.output, model.predict_log_proba(TEXTS)[:, 0], rtol=1e-9)
    # all values of a text together are the derivative by a factor of all vectors
    slopes, table = [], model.embeddings_.copy()
    for factor in (1 + 1e-6, 1 - 1e-6):
        model.embeddings_ = factor * table
        slopes.append(attributions(model, TEXTS, "bad", "gradient_x_input", output=output).output)
    sums = [values.sum() + rest for values, rest in zip(found.values, found.rest, strict=True)]
    np.testing.assert_allclose(sums, (slopes[0] - slopes[1]) / 2e-6, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", NETWORKS)
def test_values_of_single_rows_against_central_differences(name):
    model = text_classifier(**NETWORKS[name], ngram_range=(1, 1), boundary_tokens=False)
    text = TEXTS[1]
    found = attributions(model, [text], "bad", "gradient_x_input")
    table = model.embeddings_
    for word, occurrences in (("so", 3), ("long", 1), (",", 1)):
        row, slopes = model.vocabulary_[word], []
        for factor in (1 + 1e-6, 1 - 1e-6):
            changed = table.copy()
            changed[row] *= factor
            model.embeddings_ = changed
            slopes.append(attributions(model, [text], "bad", "gradient_x_input").output[0])
        model.embeddings_ = table
        of_word = [v for v, token in zip(found.values[0], found.tokens[0], strict=True) if token == word]
        assert len(of_word) == occurrences
        np.testing.assert_allclose(sum(of_word), (slopes[0] - slopes[1]) / 2e-6, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_integrated_gradients_add_up(name):
    model = text_classifier(**NETWORKS[name])
    found = attributions(model, NEW, "good")
    sums = np.array([values.sum() for values in found.values]) + found.rest
    np.testing.assert_allclose(found.gap, found.output - found.baseline_output - sums, atol=1e-15)
    assert np.abs(found.gap).max() < 1e-8
    model.embeddings_ = np.zeros_like(model.embeddings_)
    zero = attributions(model, NEW, "good", "gradient_x_input").output
    np.testing.assert_allclose(found.baseline_output, zero)


@pytest.mark.parametrize("pooling", ["mean", "sqrtn", "sum", "max", "attention"])
def test_occlusion_leaves_out_the_token_and_its_ngrams(pooling):
    # neighbors apart, so that leaving a word out makes no new pair that has a row
    model = text_classifier(pooling=pooling, boundary_tokens=False, n_buckets=2**16)
    found = attributions(model, ["what a lovely film"], "good", "occlusion", output="probability")
    without = model.predict_proba(["a lovely film", "what zzz lovely film", "what a zzz film", "what a lovely"])
    classes = model.classes_.tolist()
    np.testing.assert_allclose(found.output[0] - found.values[0], without[:, classes.index("good")], rtol=1e-9)


def test_a_pair_is_shared_by_its_words_and_a_mark_of_the_beginning_is_not():
    model = text_classifier(ngram_range=(2, 2), n_buckets=2**16)
    found = attributions(model, ["lovely lovely"], "good", "gradient_x_input")
    # (begin, lovely) belongs to the first, (lovely, lovely) to both; (lovely, end) to the second
    np.testing.assert_array_equal(found.rest, 0.0)
    reader = TokenReader(model._index)
    document = reader.read("lovely lovely")
    assert sorted(zip(document.firsts.tolist(), document.stops.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 2)]
    values, rest = document.shared_out(np.array([2.0, 2.0, 2.0]))
    np.testing.assert_allclose(values, [3.0, 3.0])
    assert rest == 0.0


def test_texts_without_tokens_and_wrong_arguments():
    model = text_classifier(n_buckets=2**16)
    found = attributions(model, ["", "unseen"], "good")
    assert [len(values) for values in found.values] == [0, 1]
    np.testing.assert_array_equal(found.values[1], 0.0)
    with pytest.raises(ValueError, match="baseline must be None for texts"):
        attributions(model, TEXTS, baseline=0.0)
    with pytest.raises(ValueError, match="method='grad_cam' is for ConvClassifier"):
        attributions(model, TEXTS, method="grad_cam")
    with pytest.raises(TypeError, match="item 1 is int"):
        attributions(model, ["a", 1])


def test_labels_are_targets():
    indicator = np.array([[1, 0], [0, 1], [1, 1], [1, 0]])
    model = fit(TextEmbeddingClassifier(4, loss="one_vs_all", **SETTINGS), TEXTS, indicator)
    found = attributions(model, TEXTS, 1, output="probability")
    np.testing.assert_allclose(found.output, model.predict_proba(TEXTS)[:, 1], rtol=1e-4)


@pytest.mark.slow_without_jit
@pytest.mark.parametrize("pooling", ["sqrtn", "attention"])
@pytest.mark.parametrize("method", ["integrated_gradients", "gradient_x_input", "occlusion"])
def test_the_words_that_decide_are_found(method, pooling):
    rng = np.random.default_rng(3)
    words = np.array([f"w{k}" for k in range(50)], object)
    texts, labels = [], []
    for i in range(600):
        said = rng.choice(words, 8)
        said[rng.integers(8)] = ("excellent", "awful")[i % 2]
        texts.append(" ".join(said))
        labels.append(("good", "bad")[i % 2])
    model = TextEmbeddingClassifier(16, pooling=pooling, ngram_range=(1, 1), learning_rate_init=0.2, random_state=0)
    model.fit(texts, labels)
    found = attributions(model, texts[:200], method=method)
    best = [tokens[values.argmax()] for tokens, values in zip(found.tokens, found.values, strict=True)]
    right = np.isin(best, ["excellent", "awful"])
    assert right.mean() > 0.95
