"""`TokenTagger`: what it learns, promises and refuses."""

import pickle
from collections import Counter
from itertools import chain, pairwise

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score

from nbnet import TokenTagger, load
from nbnet.metrics import entity_f1
from nbnet.tagging import TokenFeatures, shape_of, split_features
from tests.helpers import fit

FIRST = "Ada Alan Grace Edsger Barbara Donald".split()
LAST = "Byron Turing Hopper Dijkstra Liskov Knuth".split()
PLACES = "Paris Oslo Quito Cairo Lima".split()


def sentences(n, seed):
    """Persons of one or two names, then perhaps a place."""
    rng = np.random.default_rng(seed)
    X, y = [], []
    for _ in range(n):
        tokens, tags = [rng.choice(["yesterday", "today", "then"])], ["O"]
        tokens.append(rng.choice(FIRST))
        tags.append("B-person")
        if rng.random() < 0.5:
            tokens.append(rng.choice(LAST))
            tags.append("I-person")
        tokens += [rng.choice(["went", "flew", "came"]), "to"]
        tags += ["O", "O"]
        if rng.random() < 0.5:
            tokens.append(rng.choice(PLACES))
            tags.append("B-place")
        else:
            tokens.append("work")
            tags.append("O")
        X.append([str(token) for token in tokens])
        y.append(tags)
    return X, y


X, Y = sentences(120, 0)
X_TEST, Y_TEST = sentences(40, 1)
TINY = dict(embedding_dim=2, max_iter=1, random_state=0)


@pytest.fixture(scope="module")
def tagger():
    return fit(TokenTagger(random_state=0), X, Y)


@pytest.mark.slow_without_jit
def test_learns(tagger):
    assert tagger.score(X_TEST, Y_TEST) > 0.95
    assert tagger.score(X_TEST, Y_TEST) == entity_f1(Y_TEST, tagger.predict(X_TEST))
    assert set(tagger.classes_) == {"O", "B-person", "I-person", "B-place"}


@pytest.mark.slow_without_jit
def test_unknown_words_are_known_by_shape_and_neighbors(tagger):
    assert tagger.predict([["today", "Noam", "Chomsky", "flew", "to", "Rome"]]) == [
        ["O", "B-person", "I-person", "O", "O", "B-place"]
    ]


@pytest.mark.slow_without_jit
def test_predictions_are_bio_where_tokens_say_otherwise(tagger):
    again = pickle.loads(pickle.dumps(tagger)).set_params(transition_weight=0.0)
    given = [tokens for name in LAST for tokens in (["today", name, "went"], [name], ["Paris", name, name])]
    most_probable = [again.classes_[p.argmax(axis=1)].tolist() for p in again.predict_proba(given)]
    assert ["O", "I-person", "O"] in most_probable
    for tags in again.predict(given):
        for before, tag in pairwise(["O", *tags]):
            assert not tag.startswith("I-") or before in (tag, "B-" + tag[2:])


def test_tiny_fit_and_what_comes_out():
    tagger = fit(TokenTagger(**TINY), X[:3], Y[:3])
    given = [X[0], [], X[1]]
    tags, probabilities = tagger.predict(given), tagger.predict_proba(given)
    assert [len(of) for of in tags] == [len(of) for of in probabilities] == [len(X[0]), 0, len(X[1])]
    assert all(p.shape[1] == len(tagger.classes_) for p in probabilities)
    np.testing.assert_allclose(np.concatenate(probabilities).sum(axis=1), 1, rtol=1e-5)
    assert all(type(tag) is str for of in tags for tag in of)
    assert tagger.predict([]) == tagger.predict_proba([]) == []
    assert tagger.predict([[]]) == [[]]
    assert tagger.n_iter_ == len(tagger.loss_curve_) == 1


@pytest.mark.slow_without_jit
def test_same_bits_for_any_number_of_workers_and_alone_or_among_others(tagger):
    expected = np.concatenate(tagger.predict_proba(X_TEST))
    for n_jobs in (1, 2, 3):
        other = fit(TokenTagger(random_state=0, n_jobs=n_jobs), X, Y)
        np.testing.assert_array_equal(np.concatenate(other.predict_proba(X_TEST)), expected)
        assert other.predict(X_TEST) == tagger.predict(X_TEST)
    np.testing.assert_array_equal(np.concatenate([tagger.predict_proba([x])[0] for x in X_TEST]), expected)


@pytest.mark.slow_without_jit
def test_many_sentences_are_read_in_blocks(tagger, monkeypatch):
    expected = tagger.predict(X_TEST), np.concatenate(tagger.predict_proba(X_TEST))
    monkeypatch.setattr("nbnet.estimators.tagger.BLOCK", 7)
    assert tagger.predict(X_TEST) == expected[0]
    np.testing.assert_array_equal(np.concatenate(tagger.predict_proba(X_TEST)), expected[1])


@pytest.mark.slow_without_jit
def test_clone_and_pickle(tagger):
    again = pickle.loads(pickle.dumps(tagger))
    assert again.predict(X_TEST) == tagger.predict(X_TEST)
    copy = clone(tagger)
    assert copy.get_params() == tagger.get_params()
    assert not hasattr(copy, "classes_")


@pytest.mark.slow_without_jit
def test_model_selection():
    scores = cross_val_score(TokenTagger(max_iter=5, random_state=0), X, Y, cv=3)
    assert scores.min() > 0.9
    grid = {"max_iter": [1, 5], "embedding_dim": [2, 20]}
    search = GridSearchCV(TokenTagger(random_state=0), grid, cv=3).fit(X, Y)
    assert search.best_score_ > 0.9
    assert search.predict(X_TEST) == search.best_estimator_.predict(X_TEST)


@pytest.mark.slow_without_jit
def test_validation_sentences():
    tagger = fit(TokenTagger(random_state=0, max_iter=3), X, Y, X_val=X_TEST, y_val=Y_TEST)
    assert len(tagger.history_["val_loss"]) == 3
    for given in ({}, {"X_val": X_TEST, "y_val": Y_TEST}):
        stopped = fit(
            TokenTagger(random_state=0, early_stopping=True, max_iter=50, tol=0.1, n_iter_no_change=2), X, Y, **given
        )
        assert stopped.n_iter_ < 50
        assert stopped.score(X_TEST, Y_TEST) > 0.5


@pytest.mark.slow_without_jit
def test_any_tags_with_no_scheme():
    y = [["NAME" if token[0].isupper() else "WORD" for token in tokens] for tokens in X]
    tagger = fit(TokenTagger(tag_scheme=None, random_state=0), X, y)
    assert tagger.score(X, y) == 1.0
    assert np.isfinite(tagger.transitions_.after).all()


@pytest.mark.slow_without_jit
def test_transitions_decide_where_tokens_do_not():
    X_same = [["a"] * 6] * 30
    y_turns = [["one", "two"] * 3] * 30
    settings = dict(tag_scheme=None, window=0, random_state=0, transition_weight=1.0)
    assert fit(TokenTagger(**settings), X_same, y_turns).score(X_same, y_turns) == 1.0
    alone = fit(TokenTagger(**settings | {"transition_weight": 0.0}), X_same, y_turns)
    assert alone.score(X_same, y_turns) == 0.5


@pytest.mark.slow_without_jit
def test_chinese_by_characters():
    X_zh = [list("我昨天去了北京"), list("他在上海工作"), list("北京很大"), list("上海的天气好")] * 10
    y_zh = ["O O O O O B-地 I-地".split(), "O O B-地 I-地 O O".split(), "B-地 I-地 O O".split()]
    y_zh = [*y_zh, "B-地 I-地 O O O O".split()] * 10
    tagger = fit(TokenTagger(random_state=0), X_zh, y_zh)
    assert tagger.predict([list("我在北京工作")]) == ["O O B-地 I-地 O O".split()]


@pytest.mark.slow_without_jit
def test_entity_bias_trades_precision_for_recall(tagger):
    again = pickle.loads(pickle.dumps(tagger))
    n_tagged = [
        sum(tag != "O" for tags in again.set_params(entity_bias=bias).predict(X_TEST) for tag in tags)
        for bias in (-20.0, 20.0)
    ]
    assert n_tagged[0] < n_tagged[1]


def test_one_tag_and_nothing_to_score():
    tagger = fit(TokenTagger(**TINY, tag_scheme=None), [["a", "a"], ["a", "a"]], [["X", "X"], ["X", "X"]])
    assert tagger.predict([["b"]]) == [["X"]]
    assert tagger.score([[]], [[]]) == tagger.score([], []) == 1.0


# ---------------------------------------------------------------- weights


def test_a_sentence_of_weight_zero_is_absent():
    weighted = fit(TokenTagger(**TINY), X[:6], Y[:6], np.repeat([2.0, 0.0], 3))
    without = fit(TokenTagger(**TINY), X[:3], Y[:3], np.full(3, 2.0))
    assert_same(weighted, without)
    with pytest.raises(ValueError, match="no token to learn from"):
        TokenTagger(**TINY).fit([["a"], []], [["O"], []], [0.0, 1.0])


def test_weights_are_those_of_tokens_and_transitions():
    X_two, y_two = [["a", "a"], ["a", "a"]], [["B-x", "I-x"], ["O", "O"]]
    tagger = fit(TokenTagger(embedding_dim=2, max_iter=30, min_df=1, window=0, random_state=0), X_two, y_two, [9, 1])
    probabilities = dict(zip(tagger.classes_.tolist(), tagger.predict_proba([["a"]])[0][0], strict=True))
    assert probabilities["O"] < 0.3
    np.testing.assert_array_equal(tagger._transition_counts, [[0, 9, 0], [0, 0, 0], [0, 0, 1], [9, 0, 1]])
    assert tagger.score(X_two, y_two, [1, 0]) == 1.0


def test_weighted_score_of_tokens():
    tagger = fit(TokenTagger(**TINY, tag_scheme=None), [["a", "a"]] * 2, [["X", "X"]] * 2)
    tagger.classes_ = np.array(["X", "Y"])  # one that is never predicted
    tagger._transition_counts = np.array([[9.0, 0], [0, 0], [9, 0]])
    tagger.predict = lambda sentences: [["X"] * len(sentence) for sentence in sentences]
    given = [["a"], ["b", "c"], []], [["X"], ["Y", "X"], []]
    assert tagger.score(*given) == pytest.approx(2 / 3)
    assert tagger.score(*given, [1, 2, 5]) == pytest.approx(3 / 5)


def test_validation_sentences_have_weights():
    losses = [
        fit(TokenTagger(**TINY), X[:3], Y[:3], X_val=X_val, y_val=y_val, sample_weight_val=weights).history_["val_loss"]
        for X_val, y_val, weights in (
            (X_TEST[:2], Y_TEST[:2], [1.0, 0.0]),
            (X_TEST[:1], Y_TEST[:1], None),
            (X_TEST[:2], Y_TEST[:2], [1.0, 1.0]),
        )
    ]
    assert losses[0] == losses[1] != losses[2]


# ---------------------------------------------------------------- more sentences later


def assert_same(one, other):
    for name in ("first", "after"):
        np.testing.assert_array_equal(getattr(one.transitions_, name), getattr(other.transitions_, name))
    for a, b in zip(one.predict_proba(X_TEST), other.predict_proba(X_TEST), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow_without_jit
def test_partial_fit_learns_from_parts():
    tagger = TokenTagger(random_state=0, learning_rate="constant")
    for _ in range(3):
        for first in range(0, 120, 40):
            tagger.partial_fit(X[first : first + 40], Y[first : first + 40], classes=sorted({*chain(*Y)}))
    assert tagger.score(X_TEST, Y_TEST) > 0.95
    assert len(tagger.loss_curve_) == 9
    assert tagger._features.usage == Counter(3 * list(chain(*X)))
    np.testing.assert_array_equal(tagger._transition_counts.sum(), 3 * len(list(chain(*Y))))


def test_tags_are_texts_however_they_are_given(tmp_path):
    given = np.array(["B-x", "O"], object)
    tagger = TokenTagger(**TINY).partial_fit([["a", "a"]], np.array([["B-x", "O"]], object), classes=given)
    assert tagger.classes_.dtype.kind == "U"
    tagger.save(tmp_path / "tagger")
    assert load(tmp_path / "tagger").predict([["a"]]) == tagger.predict([["a"]])


def test_partial_fit_knows_new_words_and_keeps_what_it_was_on_errors():
    tagger = TokenTagger(**TINY)
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        tagger.partial_fit(X[:2], Y[:2])
    with pytest.raises(ValueError, match="'NN' is none of"):
        tagger.partial_fit(X[:2], Y[:2], classes=["O", "NN"])
    with pytest.raises(TypeError, match="classes has 1, int"):
        tagger.partial_fit(X[:2], Y[:2], classes=[1, 2])
    assert set(vars(tagger)) == set(tagger.get_params())
    tagger.partial_fit(X[:3], Y[:3], classes=["B-new", *set(chain(*Y))])
    network, kept = tagger.classifier_, pickle.loads(pickle.dumps(tagger))
    refused = {
        "early_stopping": (dict(early_stopping=True), Y[3:5], "early_stopping"),
        "window": (dict(window=1), Y[3:5], "window=1 differs"),
        "embedding_dim": (dict(embedding_dim=9), Y[3:5], "layers of sizes"),
        "tags": ({}, [["B-other"] * len(x) for x in X[3:5]], "B-other"),
    }
    for settings, y, match in refused.values():
        defaults = {name: tagger.get_params()[name] for name in settings}
        with pytest.raises(ValueError, match=match):
            tagger.set_params(**settings).partial_fit(X[3:5], y)
        tagger.set_params(**defaults)
        assert_same(tagger, kept)
    tagger.partial_fit([["Quux", "Quux"]], [["B-new", "O"]], X_val=X_TEST, y_val=Y_TEST)
    assert tagger._features.usage["Quux"] == 2
    assert len(tagger.history_["val_loss"]) == 2
    np.testing.assert_array_equal(network.params_, kept.classifier_.params_)  # the new vectors are others


# ---------------------------------------------------------------- features


def test_shape():
    assert shape_of("McDonald's-42北") == "XxXxxxxx'x-00c"


def test_features_of_a_token_and_its_neighbors():
    texts = TokenFeatures(Counter(), 1, 0, (1, 2)).documents([["New", "york2"]])
    first, second = (set(split_features(text)) for text in texts)
    assert {"token New", "lower new", "prefix n", "prefix ne", "suffix ew", "capital"} <= first
    assert {"+1 lower york2", "+1 shape xxxx0", "+1 runs x0", "-1 edge", "pair -  new"} <= first
    assert {"digit", "-1 lower new", "+1 edge", "pair - new york2", "pair + york2 "} <= second
    assert not any(feature.startswith(("+1 token", "+1 prefix")) for feature in first)
    alone = split_features(TokenFeatures(Counter(), 0, 0, None).documents([["New"]])[0])
    assert alone == ["token New", "lower new", "shape Xxx", "runs Xx", "capital", "seen 0", "seen 0 Xx", "small 0 Xx"]


def test_words_of_the_context_are_features_wherever_they_stand():
    documents = TokenFeatures(Counter(), 0, 2, None).documents([list("aBcbd"), ["e"], []])
    near = [[feature[5:] for feature in split_features(text) if feature.startswith("near ")] for text in documents]
    assert near == [["b", "c"], ["a", "c", "b"], ["a", "b", "d"], ["b", "c", "d"], ["c", "b"], []]


def test_own_occurrence_does_not_count_while_learning():
    features = TokenFeatures(Counter("aAabC"), 0, 0, None)
    learned, read = (
        [set(split_features(text)) for text in features.documents([["a", "A", "b", "C", "d"][:n]], learning)]
        for n, learning in ((4, True), (5, False))
    )
    assert ["seen 2" in of for of in learned] == [True, True, False, False]  # 2 others
    assert [{"seen 0", "small 0 x"} <= of for of in learned] == [False, False, True, False]
    assert ["small 1 X" in of for of in learned] == [False, True, False, False]
    assert ["seen 1" in of for of in read] == [False, False, True, True, False]
    assert ["seen 0" in of for of in read] == [False, False, False, False, True]


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("X", "y", "error", "match"),
    [
        ("a b", [["O"]], TypeError, "X must be a sequence of sentences, got str"),
        (["a b"], [["O"]], TypeError, r"sentence 0 of X is str \('a b'\).*list\(sentence\)"),
        ([["a"], 3], [["O"], ["O"]], TypeError, "sentence 1 of X is int"),
        ([["a"], ["b", None]], [["O"], ["O", "O"]], TypeError, "token 1 of sentence 1 of X is NoneType"),
        ([["a"]], [[1]], TypeError, "tag 0 of sentence 0 of y is int"),
        ([["a"]], [["O"], ["O"]], ValueError, "X has 1 sentences, but y has 2"),
        ([["a"], ["b", "c"]], [["O"], ["O"]], ValueError, "Sentence 1 has 2 tokens in X, but 1 tags in y"),
        ([["a"]], [["NN"]], ValueError, "'NN' is none of .* Pass tag_scheme=None"),
        ([["a", "b"]], [["O", "I-x"]], ValueError, "token 1 of sentence 0 'I-x' comes without 'B-x'"),
        ([["a", "b"]], [["B-y", "I-x"]], ValueError, "'I-x' comes without 'B-x'"),
        ([[], []], [[], []], ValueError, "no token to learn from: X has 2 sentences, all of them empty"),
        ([], [], ValueError, "no token to learn from: X has 0 sentences"),
    ],
)
def test_refused(X, y, error, match):
    with pytest.raises(error, match=match):
        TokenTagger(**TINY).fit(X, y)


def test_a_refused_fit_leaves_the_tagger_as_it_was():
    tagger = TokenTagger(**TINY)
    with pytest.raises(ValueError, match="affix_range must be two integers"):
        tagger.set_params(affix_range=(3, 1)).fit(X[:2], Y[:2])
    assert set(vars(tagger)) == set(tagger.get_params())


def test_unknown_tags_in_score():
    tagger = fit(TokenTagger(**TINY), X[:2], Y[:2])
    with pytest.raises(ValueError, match=r"y has tags that were not there in fit: \['B-event'\]"):
        tagger.score([["a"]], [["B-event"]])


def test_not_fitted():
    with pytest.raises(ValueError, match="not fitted"):
        TokenTagger().predict([["a"]])
