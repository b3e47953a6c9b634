"""`ConvClassifier`: what goes in, what comes out, what goes on from call to call."""

import pickle
import warnings

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from nbnet import Augmentation, ConvClassifier, ImagePreprocessor

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.slow_without_jit,
]

digits = load_digits()
BIG_X, BIG_Y = digits.images.astype(np.float32), digits.target
X, Y = BIG_X[:60], BIG_Y[:60]


def tiny(**changes):
    settings = {"conv_layers": (4, "max_pool", 3), "hidden_layer_sizes": (8,), "max_iter": 2, "batch_size": 16}
    return ConvClassifier(**{**settings, "random_state": 0, **changes})


def fit(estimator, *args, **kwargs):
    return estimator.fit(*args, **kwargs)


# ---------------------------------------------------------------- scikit-learn's checks


def test_scikit_learns_checks():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(ConvClassifier((4,), image_shape=(1, -1)))
    assert sum(result["status"] == "passed" for result in results) > 60
    assert not any(result["expected_to_fail"] for result in results)


# ---------------------------------------------------------------- learning


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch_norm": True},
        {"conv_layers": (8, ("residual", 16, 2), ("residual", 16), "global_avg_pool"), "hidden_layer_sizes": ()},
        {"conv_layers": ((6, 3), "avg_pool", (16, 2)), "padding": "valid", "activation": "tanh"},
        {"conv_layers": (), "hidden_layer_sizes": (32,)},
        {"solver": "sgd", "learning_rate_init": 0.1},
        {"augment": Augmentation(shift=1, rotation=5), "dropout": 0.1},
    ],
)
def test_digits_are_learned(changes):
    settings = {"conv_layers": (8, "max_pool", 16), "max_iter": 8, "batch_size": 32, "learning_rate_init": 0.01}
    model = ConvClassifier(**{**settings, "learning_rate": "one_cycle", "random_state": 0, **changes})
    model.fit(BIG_X[:900], BIG_Y[:900])
    assert model.score(BIG_X[900:], BIG_Y[900:]) > 0.88
    assert model.loss_curve_[-1] < model.loss_curve_[0]


@pytest.mark.parametrize("labels", [Y, Y > 4, np.array(list("abcdefghij"))[Y], Y * 2.0, np.zeros(60, int)])
def test_labels_of_any_type(labels):
    model = tiny(max_iter=60, learning_rate_init=0.01).fit(X, labels)
    assert_array_equal(model.classes_, np.unique(labels))
    assert model.predict(X).dtype == labels.dtype
    assert model.score(X, labels) > 0.9
    assert_allclose(model.predict_proba(X).sum(axis=1), 1, rtol=1e-5)


def test_several_labels_an_image():
    labels = np.stack([Y > 4, Y % 2, Y % 3 == 0], axis=1).astype(int)
    model = tiny(max_iter=80, learning_rate_init=0.01).fit(X, labels)
    assert model.predict(X).shape == labels.shape
    assert model.score(X, labels) > 0.9


# ---------------------------------------------------------------- input


def test_shapes_of_the_same_images_are_the_same():
    expected = tiny().fit(X, Y).params_
    assert_array_equal(tiny().fit(X[..., np.newaxis], Y).params_, expected)
    assert_allclose(tiny(dtype="float32").fit(X.tolist(), Y).params_, expected, atol=1e-5)
    for shape in ((8, 8), (8, -1), (-1, 8, 1)):
        flat = tiny(image_shape=shape).fit(X.reshape(60, 64), Y)
        assert flat.image_shape_ == (8, 8, 1)
        assert_array_equal(flat.params_, expected)


@pytest.mark.parametrize("change", [np.asfortranarray, lambda X: X[:, ::-1][:, ::-1], lambda X: X.T.copy().T])
def test_memory_layout_does_not_matter(change):
    expected = tiny().fit(X, Y)
    model = tiny().fit(change(X), Y)
    assert_array_equal(model.params_, expected.params_)
    assert_array_equal(model.predict_proba(change(X)), expected.predict_proba(X))


def test_bytes_are_computed_in_single_precision():
    model, expected = tiny().fit(X.astype(np.uint8), Y), tiny().fit(X, Y)
    assert model.params_.dtype == model.predict_proba(X.astype(np.uint8)).dtype == np.float32
    assert_array_equal(model.params_, expected.params_)
    assert tiny().fit(X.astype(np.float64), Y).params_.dtype == np.float64
    assert tiny(dtype="float32").fit(X.astype(np.int64), Y).params_.dtype == np.float32


def test_files_in_memory_maps(tmp_path):
    np.save(tmp_path / "images.npy", X)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    model, expected = tiny(early_stopping=True).fit(mapped, Y), tiny(early_stopping=True).fit(X, Y)
    assert_array_equal(model.params_, expected.params_)
    assert_array_equal(model.predict_proba(mapped), expected.predict_proba(X))


def test_channels_are_brought_to_one_scale():
    color = np.stack([X, 100 * X + 7, np.full_like(X, 3)], axis=3)
    model = tiny().fit(color, Y)
    assert_allclose(model.channel_mean_, color.mean(axis=(0, 1, 2)), rtol=1e-5)
    assert_allclose(model.channel_deviation_[:2], color.std(axis=(0, 1, 2))[:2], rtol=1e-5)
    assert model.channel_deviation_[2] == 1
    raw = tiny(normalize=False).fit(color, Y)
    assert_array_equal(raw.channel_mean_, 0)
    assert_array_equal(raw.channel_deviation_, 1)


def test_images_of_another_shape_are_refused():
    model = tiny().fit(X, Y)
    expected = model.predict(X)
    for other in (X[:, :7], np.stack([X, X], axis=3)):
        with pytest.raises(ValueError, match=r"is expecting \(8, 8, 1\) as in fit"):
            model.predict(other)
        with pytest.raises(ValueError, match="Images of X_val have the shape"):
            tiny().fit(X, Y, X_val=other, y_val=Y)
    with pytest.raises(ValueError, match="Input X_val contains NaN"):
        tiny().fit(X, Y, X_val=np.full_like(X, np.nan), y_val=Y)
    with pytest.raises(ValueError, match="is expecting"):
        model.partial_fit(X[:, :7], Y)
    assert_array_equal(model.predict(X), expected)


# ---------------------------------------------------------------- weights, validation, schedules


@pytest.mark.filterwarnings("ignore:Got `batch_size`")
def test_a_weight_of_zero_is_absence():
    weights = np.ones(60)
    weights[::3] = 0
    images = X.copy()
    images[::3] = 1e6  # must not enter the means either
    settings = {"batch_size": 100, "shuffle": False, "batch_norm": True, "dtype": "float64"}
    model = tiny(**settings).fit(images, Y, weights)
    expected = tiny(**settings).fit(X[weights > 0], Y[weights > 0])
    assert_allclose(model.channel_mean_, expected.channel_mean_)
    assert_allclose(model.predict_proba(X), expected.predict_proba(X), rtol=1e-7)


@pytest.mark.filterwarnings("ignore:Got `batch_size`")
@pytest.mark.parametrize("batch_norm", [False, True])
def test_weights_are_repeats(batch_norm):
    settings = {"batch_size": 1000, "dtype": "float64", "batch_norm": batch_norm}
    counts = np.arange(60) % 3 + 1
    model = tiny(**settings).fit(X, Y, counts)
    expected = tiny(**settings).fit(np.repeat(X, counts, axis=0), np.repeat(Y, counts))
    assert_allclose(model.predict_proba(X), expected.predict_proba(X), rtol=1e-7)


def test_balanced_classes_are_weighted():
    rare = np.flatnonzero((Y != 0) | (np.arange(60) < 20))
    images, labels = X[rare], Y[rare]
    counts = np.bincount(labels)
    weights = (len(labels) / (10 * counts))[labels]
    model = tiny(class_weight="balanced", normalize=False).fit(images, labels)
    assert_array_equal(model.params_, tiny(normalize=False).fit(images, labels, weights).params_)
    by_hand = tiny(class_weight=dict(enumerate(len(labels) / (10 * counts))), normalize=False).fit(images, labels)
    assert_array_equal(by_hand.params_, model.params_)


def test_validation_images_are_watched():
    model = tiny(max_iter=6, early_stopping=True, learning_rate_init=0.02).fit(X, Y, X_val=X[:30], y_val=Y[:30])
    assert len(model.history_["val_loss"]) == len(model.validation_scores_) == model.n_iter_
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert model.score(X[:30], Y[:30]) == model.best_validation_score_
    curves = tiny().fit(X, Y, X_val=X[:30], y_val=Y[:30])
    assert np.isfinite(curves.history_["val_score"]).all()
    assert curves.validation_scores_ is None
    assert_array_equal(curves.params_, tiny().fit(X, Y).params_)
    with pytest.raises(ValueError, match="y_val was not provided"):
        tiny().fit(X, Y, X_val=X)


@pytest.mark.parametrize("scoring", ["loss", "f1_macro", lambda model, X, y: model.score(X, y)])
def test_scores_for_early_stopping(scoring):
    model = tiny(early_stopping=True, scoring=scoring, validation_fraction=0.3).fit(X, Y)
    assert np.isfinite(model.validation_scores_).all()


def test_running_statistics_belong_to_the_best_epoch():
    settings = {"batch_norm": True, "early_stopping": True, "learning_rate_init": 0.3, "max_iter": 5}
    model = tiny(**settings).fit(X, Y, X_val=X, y_val=Y)
    assert model.score(X, Y) == model.best_validation_score_


# ---------------------------------------------------------------- going on


@pytest.mark.parametrize("batch_norm", [False, True])
def test_partial_fit_goes_on_as_fit_does(batch_norm):
    settings = {"batch_norm": batch_norm, "dropout": 0.2, "augment": {"shift": 1}}
    model = tiny(**settings)
    for _ in range(3):
        model.partial_fit(X, Y, classes=np.arange(10))
    expected = tiny(max_iter=3, **settings).fit(X, Y)
    assert_array_equal(model.params_, expected.params_)
    assert model.loss_curve_ == expected.loss_curve_


def test_partial_fit_keeps_the_first_scale():
    model = tiny().partial_fit(X, Y, classes=np.arange(12))
    mean = model.channel_mean_
    model.partial_fit(X + 100, Y)
    assert_array_equal(model.channel_mean_, mean)
    assert model.predict_proba(X).shape == (60, 12)
    with pytest.raises(ValueError, match="classes not in"):
        model.partial_fit(X, Y + 5)
    with pytest.raises(ValueError, match="does not support early_stopping"):
        model.set_params(early_stopping=True).partial_fit(X, Y)


def test_warm_start():
    model = tiny(warm_start=True).fit(X, Y)
    first = model.params_.copy()
    model.fit(X, Y)
    assert len(model.loss_curve_) == 4
    assert model.loss_curve_[2] < model.loss_curve_[0]
    assert not np.array_equal(model.params_, first)
    with pytest.raises(ValueError, match="ask for other layers than those of the fitted network"):
        model.set_params(conv_layers=(4, "avg_pool", 3)).fit(X, Y)
    with pytest.raises(ValueError, match="ask for other layers"):
        model.set_params(conv_layers=(4, "max_pool", 3), batch_norm=True).fit(X, Y)


def test_too_high_a_rate_is_reported():
    with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
        tiny(learning_rate_init=1e30, solver="sgd").fit(X, Y)
    model = tiny(warm_start=True).fit(X, Y)
    with pytest.warns(ConvergenceWarning, match="Training diverged"):
        model.set_params(learning_rate_init=1e30, solver="sgd").fit(X, Y)
    assert np.isfinite(model.predict_proba(X)).all()


# ---------------------------------------------------------------- parameters and features


def test_resnet():
    model = ConvClassifier.resnet(depth=14, width=4, max_iter=1, batch_size=30)
    blocks = [("residual", 4), ("residual", 4), ("residual", 8, 2), ("residual", 8), ("residual", 16, 2)]
    assert model.conv_layers == (4, *blocks, ("residual", 16), "global_avg_pool")
    assert (model.max_iter, model.batch_norm, model.solver) == (1, True, "adamw")
    assert model.fit(X, Y).transform(X).shape == (60, 16)
    for depth in (2, 9):
        with pytest.raises(ValueError, match="depth must be 8, 14, 20 or another 6 n"):
            ConvClassifier.resnet(depth)


def test_views_of_the_parameters():
    model = tiny(conv_layers=(4, ("residual", 6, 2)), batch_norm=True).fit(X, Y)
    shapes = [(3, 3, 1, 4), (1, 1, 4, 6), (3, 3, 4, 6), (3, 3, 6, 6), (96, 8), (8, 10)]
    assert [coef.shape for coef in model.coefs_] == shapes
    assert [bias.shape for bias in model.intercepts_] == [(shape[-1],) for shape in shapes]
    assert [norm.running_mean.shape for norm in model.batch_norms_] == [(4,), (6,), (6,), (6,)]
    before = model.predict_proba(X)
    model.coefs_[0][...] = 0
    model.batch_norms_[0].scale[...] = 0
    assert not np.array_equal(model.predict_proba(X), before)


def test_the_network_computes_what_its_parameters_say():
    """Against a plain convolution in NumPy."""
    model = tiny(conv_layers=((3, 3, 2),), hidden_layer_sizes=(), dtype="float64").fit(X, Y)
    images = np.pad((X - model.channel_mean_) / model.channel_deviation_, ((0, 0), (1, 1), (1, 1)))
    maps = np.empty((60, 4, 4, 3))
    for h in range(4):
        for w in range(4):
            window = images[:, 2 * h : 2 * h + 3, 2 * w : 2 * w + 3]
            maps[:, h, w] = np.einsum("ikl,klc->ic", window, model.coefs_[0][:, :, 0]) + model.intercepts_[0]
    features = np.maximum(maps, 0).reshape(60, -1)
    assert_allclose(model.transform(X), features, rtol=1e-10, atol=1e-12)
    logits = features @ model.coefs_[1] + model.intercepts_[1]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert_allclose(model.predict_proba(X), powers / powers.sum(axis=1, keepdims=True), rtol=1e-10)


def test_features():
    pandas = pytest.importorskip("pandas")
    model = tiny().fit(X, Y)
    features = model.transform(X)
    names = [f"convclassifier{i}" for i in range(8)]
    assert features.shape == (60, 8)
    assert list(model.get_feature_names_out()) == names
    frame = clone(model).set_output(transform="pandas").fit_transform(X, Y)
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == names
    assert_array_equal(frame.to_numpy(), features)
    assert tiny(hidden_layer_sizes=()).fit(X, Y).transform(X).shape == (60, 48)


# ---------------------------------------------------------------- promises


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_same_bits_for_any_number_of_workers(batch_norm):
    def params(n_jobs):
        settings = {"conv_layers": (5, "max_pool", ("residual", 7)), "augment": {"rotation": 10, "brightness": 0.2}}
        return tiny(n_jobs=n_jobs, batch_norm=batch_norm, dropout=0.3, **settings).fit(X, Y).params_

    expected = params(1)
    for n_jobs in (2, 3, None):
        assert_array_equal(params(n_jobs), expected)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_one_image_alone_or_in_a_batch(batch_norm):
    model = tiny(batch_norm=batch_norm, n_jobs=2).fit(X, Y)
    for name in ("predict_proba", "transform"):
        together = getattr(model, name)(X)
        alone = np.concatenate([getattr(model, name)(X[i : i + 1]) for i in range(60)])
        assert_array_equal(alone, together)


def test_pickles_and_other_processes():
    model = tiny(batch_norm=True, augment=Augmentation(horizontal_flip=0.5)).fit(X, Y)
    expected = model.predict_proba(X)
    assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), expected)
    for copy in joblib.Parallel(n_jobs=2)(joblib.delayed(fit)(clone(model), X, Y) for _ in range(2)):
        assert_array_equal(copy.predict_proba(X), expected)


def test_augmentation():
    plain, moved = tiny().fit(X, Y), tiny(augment={"shift": 2}).fit(X, Y)
    assert not np.array_equal(plain.params_, moved.params_)
    assert_array_equal(moved.params_, tiny(augment=Augmentation(shift=2)).fit(X, Y).params_)
    assert_array_equal(plain.params_, tiny(augment=Augmentation()).fit(X, Y).params_)


def test_in_a_pipeline_and_a_grid():
    pipeline = make_pipeline(ImagePreprocessor(size=6), tiny())
    search = GridSearchCV(pipeline, {"convclassifier__conv_layers": [(3,), (3, "max_pool")]}, cv=2, n_jobs=2)
    assert search.fit(X, Y).predict(X).shape == (60,)
    assert len(search.best_estimator_[-1].coefs_) == 3


def test_validation_images_go_through_the_pipeline():
    with config_context(enable_metadata_routing=True):
        last = tiny(early_stopping=True).set_fit_request(X_val=True, y_val=True)
        pipeline = Pipeline([("size", ImagePreprocessor(size=6)), ("net", last)], transform_input=["X_val"])
        pipeline.fit(X, Y, X_val=X[:20], y_val=Y[:20])
    assert pipeline[-1].image_shape_ == (6, 6, 1)
    assert pipeline.score(X[:20], Y[:20]) == pipeline[-1].best_validation_score_


def test_verbose(capsys):
    tiny(verbose=True).fit(X, Y)
    assert capsys.readouterr().out.startswith("Iteration 1, loss = ")


def test_callbacks_see_each_epoch():
    pytest.importorskip("sklearn.callback")
    scores = []

    class Recorder:
        def setup(self, estimator, context):
            pass

        def teardown(self, estimator, context):
            pass

        def on_fit_task_begin(self, estimator, context):
            pass

        def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
            scores.append(fitted_estimator.score(X, y))
            return len(scores) == 2

    model = tiny(max_iter=5).set_callbacks(Recorder()).fit(X, Y)
    assert model.n_iter_ == 2
    assert scores[-1] == model.score(X, Y)
