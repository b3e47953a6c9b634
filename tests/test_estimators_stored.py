"""`save` and `nbnet.load`: the same bits, whatever was fitted."""

import os
import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from helpers import fit
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state

import nbnet
from nbnet import Augmentation, ConvClassifier, MLPClassifier, MLPRegressor, TextEmbeddingClassifier, TokenTagger
from nbnet.estimators.stored import names
from nbnet.model_files import encode

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

rng = np.random.default_rng(0)
X = rng.normal(size=(24, 4))
Y = np.arange(24) % 3
IMAGES = rng.integers(0, 255, size=(12, 6, 6, 2)).astype(np.uint8)
KINDS = np.arange(12) % 3
WORDS = ["good", "bad", "film", "naïve", "中文", ":-)", "don't", "long", "\ud800", "a\u200bb"]
TEXTS = [" ".join(WORDS[(i * k) % 10] for k in (1, 2, 3, 7)) for i in range(12)]
LABELS = np.array(["no", "perhaps", "yes"])[KINDS]
SHORT = dict(max_iter=2, random_state=0)
OTHERWISE = {
    "_label_binarizer",
    "_optimizer",
    "_latest_params",
    "_reader",
    "_index",
    "_tree",
}  # by what they do
TEXT = dict(SHORT, embedding_dim=3, n_buckets=64)


def saved(model, folder):
    """The model, written and read."""
    path = os.path.join(folder, "model.safetensors")
    model.save(path)
    return nbnet.load(path)


def assert_same(loaded, model, X):
    """Equal attributes, but for what only training needs, and equal bits from all methods."""
    assert type(loaded) is type(model)
    assert set(vars(loaded)) == {*vars(model), "_optimizer"}
    parameters = model.get_params(deep=False)
    for name, value in parameters.items():
        assert encode(loaded.get_params(deep=False)[name]) == encode(value), name
    for name in set(vars(model)) - OTHERWISE - set(parameters):
        mine, other = getattr(loaded, name), getattr(model, name)
        if name == "network_":
            assert_array_equal(mine.layers, other.layers)
        elif name == "history_":
            assert mine.keys() == other.keys()
            for key in mine:
                assert_array_equal(mine[key], other[key])
        else:
            assert type(mine) is type(other), name
            for a, b in (
                zip(mine, other, strict=True) if name in ("_input_scaler", "_class_counts") else [(mine, other)]
            ):
                assert_array_equal(a, b, err_msg=name)
                assert getattr(a, "dtype", None) == getattr(b, "dtype", None), name
    assert loaded.params_.ctypes.data % 64 == 0
    for method in ("predict", "predict_proba", "transform"):
        if hasattr(model, method):
            mine, other = getattr(loaded, method)(X), getattr(model, method)(X)
            assert type(mine) is type(other)
            assert mine.dtype == other.dtype
            assert_array_equal(*(a.toarray() if sp.issparse(a) else a for a in (mine, other)))


# ---------------------------------------------------------------- tables

TABLES = {
    "default": (MLPClassifier((3,), **SHORT), Y),
    "float32": (MLPClassifier((3, 2), ["tanh", "gelu"], dtype="float32", dropout=0.25, **SHORT), Y),
    "no hidden layer": (MLPClassifier((), solver="sgd", batch_size=5, **SHORT), Y),
    "array of sizes": (MLPClassifier(np.array([2]), **SHORT), Y),
    "standard": (MLPClassifier((2,), input_scaling="standard", n_iter_no_change=np.inf, **SHORT), Y),
    "robust": (MLPClassifier.tabular(hidden_layer_sizes=(2,), **SHORT), Y),
    "stopped early": (MLPClassifier((2,), early_stopping=True, scoring="accuracy", **SHORT), Y % 2),
    "lbfgs": (MLPClassifier((2,), solver="lbfgs", **SHORT), Y),
    "one class": (MLPClassifier((2,), **SHORT), np.zeros(24)),
    "booleans": (MLPClassifier((2,), class_weight="balanced", **SHORT), Y > 0),
    "bytes": (MLPClassifier((2,), class_weight={3: 1.0, 4: 2.0, 5: 0.5}, **SHORT), (Y + 3).astype(np.uint8)),
    "floats": (MLPClassifier((2,), **SHORT), Y * 2.0),
    "texts": (MLPClassifier((2,), **SHORT), np.array(["a", "bé", "c" * 9])[Y]),
    "objects": (MLPClassifier((2,), **SHORT), np.array(["a", "bé", "中"], object)[Y]),
    "two objects": (MLPClassifier((2,), **SHORT), np.array(["a", "bé"], object)[Y % 2]),
    "labels": (MLPClassifier((2,), **SHORT), np.stack([Y > 0, Y > 1], axis=1).astype(int)),
    "sparse labels": (MLPClassifier((2,), **SHORT), sp.csr_matrix(np.stack([Y > 0, Y > 1, Y > 2], axis=1).astype(int))),
    "regression": (MLPRegressor(hidden_layer_sizes=(2,), **SHORT), X[:, 0]),
    "two outputs": (MLPRegressor("huber", (2,), huber_delta=0.5, **SHORT), X[:, :2]),
    "poisson": (MLPRegressor("poisson", (2,), **SHORT), Y),
    "quantile": (MLPRegressor("quantile", (2,), quantile=0.1, **SHORT), X[:, 0]),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(name, tmp_path):
    model, y = TABLES[name]
    model = fit(clone(model), X, y)
    loaded = saved(model, tmp_path)
    assert_same(loaded, model, X)
    clone(loaded)
    assert_same(pickle.loads(pickle.dumps(loaded)), model, X)
    fit(loaded, X, y)


def test_names_of_columns(tmp_path):
    frame = pd.DataFrame(X, columns=["a", "b", "中", "d"])
    model = fit(MLPClassifier((2,), **SHORT), frame, Y)
    loaded = saved(model, tmp_path)
    assert_same(loaded, model, frame)
    with pytest.raises(ValueError, match="feature names"):
        loaded.predict(frame[["b", "a", "中", "d"]])


def test_training_goes_on(tmp_path):
    model = fit(MLPClassifier((3,), solver="sgd", momentum=0.0, learning_rate_init=0.1, **SHORT), X, Y)
    loaded = saved(model, tmp_path)
    for one in (model, loaded):
        one.partial_fit(X, Y)
        one.set_params(warm_start=True).fit(X, Y)
    assert_array_equal(loaded.params_, model.params_)  # without momentum, no moments are missed
    assert loaded.loss_curve_ == model.loss_curve_


def test_moments_start_anew(tmp_path):
    model = fit(MLPClassifier((3,), solver="adam", **SHORT), X, Y)
    loaded = saved(model, tmp_path)
    without = pickle.loads(pickle.dumps(model))
    without._optimizer = None
    assert_array_equal(loaded.partial_fit(X, Y).params_, without.partial_fit(X, Y).params_)


def test_a_network_is_stored_as_it_was_fitted(tmp_path):
    model = fit(MLPClassifier((3,), "tanh", **SHORT), X, Y).set_params(hidden_layer_sizes=(9, 9), activation="relu")
    loaded = saved(model, tmp_path)
    assert loaded.hidden_layer_sizes == (9, 9)
    assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))


# ---------------------------------------------------------------- images

IMAGE_MODELS = {
    "default": ConvClassifier((3, "max_pool"), (4,), **SHORT),
    "residual": ConvClassifier(
        ((16, 5, 2), ("residual", 16), "avg_pool", ("residual", 8, 2), "global_avg_pool"), (), batch_norm=True, **SHORT
    ),
    "valid": ConvClassifier((16, 16, ("max_pool")), (), ["relu", "elu"], padding="valid", pool_size=1, **SHORT),
    "no layers": ConvClassifier((), (), normalize=False, dtype="float64", **SHORT),
    "augmented": ConvClassifier((2,), (), augment=Augmentation(horizontal_flip=0.5), dropout=0.5, **SHORT),
    "direct": ConvClassifier([16, 16], (3,), conv_algorithm="direct", augment={"shift": 1}, **SHORT),
}


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_images(name, tmp_path):
    model = fit(clone(IMAGE_MODELS[name]), IMAGES, KINDS)
    loaded = saved(model, tmp_path)
    assert_same(loaded, model, IMAGES)
    assert isinstance(loaded.augment, type(model.augment))
    fit(clone(loaded), IMAGES, KINDS)


def test_long_signals(tmp_path):
    signals = rng.normal(size=(3, 40_000)).astype(np.float32)
    model = fit(ConvClassifier(((2, 1, 100), "global_avg_pool"), (), image_shape=(1, -1), **SHORT), signals, [0, 1, 2])
    assert_same(saved(model, tmp_path), model, signals)


def test_flat_images_with_names(tmp_path):
    frame = pd.DataFrame(IMAGES.reshape(12, -1), columns=[f"pixel {i}" for i in range(72)])
    model = fit(ConvClassifier((2,), (), image_shape=(6, -1, 2), **SHORT), frame, KINDS)
    assert_same(saved(model, tmp_path), model, frame)


# ---------------------------------------------------------------- texts

TEXT_MODELS = {
    "default": TextEmbeddingClassifier(**TEXT),
    "parts of words": TextEmbeddingClassifier(subword_range=(2, 4), pooling="max", **TEXT),
    "attention": TextEmbeddingClassifier(hidden_layer_sizes=(3,), pooling="attention", solver="adam", **TEXT),
    "tree": TextEmbeddingClassifier(loss="hierarchical_softmax", **TEXT),
    "tree above layers": TextEmbeddingClassifier((3), (4,), loss="hierarchical_softmax", **{**SHORT, "n_buckets": 9}),
    "one vs all": TextEmbeddingClassifier(loss="one_vs_all", token_weights=None, dtype="float64", **TEXT),
    "characters": TextEmbeddingClassifier(analyzer="char_wb", ngram_range=(1, 3), **TEXT),
    "pairs only": TextEmbeddingClassifier(ngram_range=[2, 2], boundary_tokens=False, **TEXT),
    "words only": TextEmbeddingClassifier(ngram_range=(1, 1), sublinear_tf=False, min_df=2, max_features=4, **TEXT),
    "stop words": TextEmbeddingClassifier(stop_words={"good", "bad"}, lowercase=False, dropout=0.1, **TEXT),
    "a pattern": TextEmbeddingClassifier(token_pattern=r"(?u)\b\w+\b", strip_accents="unicode", **TEXT),
    "stopped early": TextEmbeddingClassifier(early_stopping=True, validation_fraction=0.3, **TEXT),
}


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_texts(name, tmp_path):
    model = fit(clone(TEXT_MODELS[name]), TEXTS, LABELS)
    loaded = saved(model, tmp_path)
    assert_same(loaded, model, [*TEXTS, "nothing known", "Good BAD film naïve"])
    assert loaded.vocabulary_ == model.vocabulary_
    assert_same(pickle.loads(pickle.dumps(loaded)), model, TEXTS)
    if model.vocabulary_:
        word = next(iter(model.vocabulary_))
        assert loaded.nearest_words(word, 3) == model.nearest_words(word, 3)
    before = loaded.network_.layers["n_in"][0]
    loaded.set_params(early_stopping=False)
    loaded.partial_fit(["one new word", "two new words"], LABELS[:2])
    assert loaded.network_.layers["n_in"][0] > before or name == "words only"


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("loss", ["softmax", "one_vs_all", "hierarchical_softmax"])
def test_texts_with_several_labels(loss, kind, tmp_path):
    y = np.stack([KINDS > 0, KINDS > 1, KINDS < 2], axis=1).astype(int)
    model = fit(TextEmbeddingClassifier(loss=loss, **TEXT), TEXTS, y if kind == "dense" else sp.csr_array(y))
    assert_same(saved(model, tmp_path), model, TEXTS)


def test_one_class_of_texts(tmp_path):
    for loss in ("softmax", "hierarchical_softmax"):
        model = fit(TextEmbeddingClassifier(loss=loss, **TEXT), TEXTS, ["all"] * 12)
        assert_same(saved(model, tmp_path), model, TEXTS)


def test_a_path_of_vectors_is_kept(tmp_path):
    vectors = tmp_path / "words.vec"
    vectors.write_text("good 1 2 3\nbad 4 5 6\n", encoding="utf-8")
    model = fit(TextEmbeddingClassifier(pretrained_embeddings=vectors, **TEXT), TEXTS, LABELS)
    loaded = saved(model, tmp_path)
    assert loaded.pretrained_embeddings == str(vectors)
    assert_array_equal(fit(clone(loaded), TEXTS, LABELS).params_, model.params_)


def test_a_vocabulary_that_has_grown(tmp_path):
    model = TextEmbeddingClassifier(loss="hierarchical_softmax", subword_range=(2, 3), **TEXT)
    model.partial_fit(TEXTS[:4], LABELS[:4], classes=np.unique(LABELS)).partial_fit(TEXTS[4:], LABELS[4:])
    loaded = saved(model, tmp_path)
    assert_same(loaded, model, TEXTS)


# ---------------------------------------------------------------- sentences

SENTENCES = [text.split() for text in TEXTS] + [[], ["", "film"]]
TAGS = [["B-x" if word in WORDS[:4] else "O" for word in sentence] for sentence in SENTENCES]
TAGGER = dict(embedding_dim=3, min_df=1, **SHORT)
TAGGERS = {
    "default": TokenTagger(**TAGGER),
    "deeper": TokenTagger(**TAGGER | {"hidden_layer_sizes": (3, 2)}, activation=["tanh", "relu"], dtype="float64"),
    "no affixes": TokenTagger(**TAGGER, window=0, context=0, affix_range=None, tag_scheme=None),
    "a list": TokenTagger(**TAGGER, affix_range=[2, 100], window=np.int64(1), early_stopping=True),
}


@pytest.mark.parametrize("name", TAGGERS)
def test_taggers(name, tmp_path):
    tagger = fit(clone(TAGGERS[name]), SENTENCES, TAGS)
    loaded = saved(tagger, tmp_path)
    assert set(vars(loaded)) == set(vars(tagger))
    assert encode(loaded.get_params()) == encode(tagger.get_params())
    given = [*SENTENCES, ["Something", "new", ""], []]
    assert loaded.predict(given) == tagger.predict(given)
    assert loaded.set_params(tag_scheme=None).predict(given) == tagger.set_params(tag_scheme=None).predict(given)
    for a, b in zip(loaded.predict_proba(given), tagger.predict_proba(given), strict=True):
        assert_array_equal(a, b)
    assert loaded.n_iter_ == tagger.n_iter_
    assert loaded.loss_curve_ == tagger.loss_curve_
    assert_array_equal(loaded.classes_, tagger.classes_)
    tagger.classifier_._optimizer = None
    for one in (tagger, loaded):
        one.set_params(early_stopping=False)
        one.partial_fit([["new", "film"]], [["O", "B-x"]])
    assert_array_equal(loaded.classifier_.params_, tagger.classifier_.params_)
    assert_array_equal(loaded.transitions_.after, tagger.transitions_.after)


def test_taggers_that_cannot_be_saved(tmp_path):
    with pytest.raises(NotFittedError):
        TokenTagger().save(tmp_path / "file")
    for changes in ({"window": 101}, {"context": 101}, {"affix_range": (1, 101)}):
        tagger = fit(TokenTagger(**TAGGER, **changes), SENTENCES[:2], TAGS[:2])
        with pytest.raises(ValueError, match=f"{next(iter(changes))}=.* goes beyond 100"):
            tagger.save(tmp_path / "file")


def test_loading_draws_nothing_from_numpys_generator(tmp_path):
    tagger = fit(TokenTagger(**TAGGER | {"random_state": None}), SENTENCES[:2], TAGS[:2])
    before = check_random_state(None).get_state()[2]
    saved(tagger, tmp_path)
    assert check_random_state(None).get_state()[2] == before


# ---------------------------------------------------------------- what no file can hold


def test_what_only_fit_needs_is_left_out_with_a_warning(tmp_path):
    def score(estimator, X, y):
        return 0.5

    vectors = {"good": np.ones(3), "bad": np.zeros(3)}
    model = TextEmbeddingClassifier(**TEXT).set_params(
        scoring=score, random_state=np.random.RandomState(0), pretrained_embeddings=vectors
    )
    model = fit(model, TEXTS, LABELS)
    with pytest.warns(UserWarning, match="None for pretrained_embeddings, random_state, scoring") as caught:
        model.save(tmp_path / "file")
    assert caught[0].filename == __file__
    loaded = nbnet.load(tmp_path / "file")
    assert loaded.scoring is loaded.random_state is loaded.pretrained_embeddings is None
    assert_array_equal(loaded.predict_proba(TEXTS), model.predict_proba(TEXTS))


def test_code_is_refused(tmp_path):
    for name, value in (("analyzer", str.split), ("strip_accents", str.upper)):
        model = fit(TextEmbeddingClassifier(**TEXT).set_params(**{name: value}), TEXTS, LABELS)
        with pytest.raises(ValueError, match=f"{name}=.* cannot be saved"):
            model.save(tmp_path / "file")
        model.set_params(**{name: TextEmbeddingClassifier().get_params()[name]})
        with pytest.raises(ValueError, match="vocabulary cannot be saved"):
            model.save(tmp_path / "file")
    assert os.listdir(tmp_path) == []


def test_labels_of_other_types(tmp_path):
    model = fit(MLPClassifier((2,), **SHORT), X, Y.astype(">i2"))
    assert_array_equal(saved(model, tmp_path).predict(X), model.predict(X))
    model = fit(MLPClassifier((2,), **SHORT), X, Y)
    model.classes_ = model.classes_.astype("m8[s]")
    with pytest.raises(ValueError, match="classes_ of type timedelta"):
        model.save(tmp_path / "file")


def test_models_that_cannot_be_saved(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(NotFittedError):
        MLPClassifier().save(path)
    model = fit(MLPClassifier((2,), **SHORT), X, Y)
    model.set_params(alpha=-1)
    with pytest.raises(ValueError, match="alpha"):
        model.save(path)
    model.set_params(alpha=0, n_jobs=1025)
    with pytest.raises(ValueError, match="n_jobs=1025"):
        model.save(path)
    model.set_params(n_jobs=None)
    model.intercepts_ = [np.full(2, np.nan), np.zeros(3)]
    with pytest.raises(ValueError, match="not finite"):
        model.save(path)

    class Own(MLPClassifier):
        def __init__(self):
            super().__init__((2,), max_iter=1)

        @classmethod
        def _get_param_names(cls):
            return MLPClassifier._get_param_names()

    with pytest.raises(ValueError, match="Own is none of the estimators"):
        fit(Own(), X, Y).save(path)
    assert os.listdir(tmp_path) == []


def test_vocabularies_that_take_memory_out_of_proportion(tmp_path):
    for changes in ({"n_buckets": 2**24 + 1}, {"subword_range": (2, 101)}, {"ngram_range": (1, 101)}):
        model = fit(TextEmbeddingClassifier(**{**TEXT, **changes}), TEXTS[:2], LABELS[:2])
        with pytest.raises(ValueError, match=next(iter(changes))):
            model.save(tmp_path / "file")


def test_labels_of_very_different_length(tmp_path, monkeypatch):
    monkeypatch.setattr(names, "WASTE", 100)
    y = np.array(["a", "b", "c" * 200])[Y]
    with pytest.raises(ValueError, match="the longest class label has 200 characters"):
        fit(MLPClassifier((2,), **SHORT), X, y).save(tmp_path / "file")
    model = fit(MLPClassifier((2,), **SHORT), X, y.astype(object))
    assert saved(model, tmp_path).classes_.tolist() == model.classes_.tolist()
