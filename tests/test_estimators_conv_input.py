"""`ConvClassifier` refuses what it cannot read, and a smallest fit without compiled kernels."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError

from nbnet import ConvClassifier
from nbnet.estimators.conv_layers import ConvDefaults, parse_conv_layers
from nbnet.estimators.image_input import flat_image_shape
from nbnet.image_network import ConvSpec, PoolSpec, ResidualSpec
from nbnet.network import LayerKind

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 8, 8)).astype(np.float32)
Y = np.arange(60) % 3


def tiny(**changes):
    return ConvClassifier(**{"conv_layers": (4, "max_pool", 3), "hidden_layer_sizes": (8,), "max_iter": 2, **changes})


ERRORS = {
    "one image": (X[0], {}, "X has the shape (8, 8), but images come as"),
    "five axes": (X[np.newaxis, ..., np.newaxis], {}, "X has the shape (1, 60, 8, 8, 1)"),
    "no pixels": (X[:, :0], {}, "its images have no pixels"),
    "no images": (X[:0], {}, "Found array with 0 sample(s)"),
    "ragged": ([X[0], X[1, :5]], {}, "image 0 has (8, 8), image 1 has (5, 8)"),
    "ragged rows": ([X[0], [[1, 2], [3]]], {}, "Image 1 of X has rows of different lengths"),
    "objects": (np.array([X[0], X[1, :5]], dtype=object), {}, "image 1 has (5, 8)"),
    "NaN": (np.where(np.arange(60).reshape(60, 1, 1) == 37, np.nan, X), {}, "Input X contains NaN"),
    "infinity": (np.where(X == X[0, 0, 0], np.inf, X), {}, "Input X contains infinity"),
    "too large": (np.full((60, 8, 8), 1e200), {"dtype": "float32"}, "too large for dtype('float32')"),
    "flat without a shape": (X.reshape(60, 64), {}, "Flat rows need image_shape"),
    "images with a shape": (X, {"image_shape": (8, 8)}, "Found array with dim 3"),
    "shape that does not fit": (X.reshape(60, 64), {"image_shape": (7, 9)}, "does not multiply out to the 64 features"),
    "shape to infer": (X.reshape(60, 64), {"image_shape": (-1, 9)}, "image_shape=(-1, 9) does not multiply out"),
    "two to infer": (X.reshape(60, 64), {"image_shape": (-1, -1)}, "integers of which one may be -1"),
    "shape of one": (X.reshape(60, 64), {"image_shape": (64,)}, "image_shape must be (height, width)"),
    "pooled away": (X, {"conv_layers": (4, *["max_pool"] * 4)}, "layer 5 'max_pool': the image is already 1x1"),
    "valid": (X, {"conv_layers": (4, (5, 9)), "padding": "valid"}, "layer 2 (5, 9): the image is already 6x6"),
    "unknown pool": (X, {"conv_layers": (4, "mean_pool")}, "layer 2 'mean_pool' of conv_layers is unknown"),
    "no channels": (X, {"conv_layers": (0,)}, "layer 1 0 of conv_layers: channels, kernel size and stride"),
    "too many": (X, {"conv_layers": ((4, 3, 1, 1),)}, "layer 1 (4, 3, 1, 1) of conv_layers is unknown"),
    "no number": (X, {"conv_layers": (4.0,)}, "layer 1 4.0 of conv_layers is unknown"),
    "a truth": (X, {"conv_layers": (True,)}, "layer 1 True of conv_layers is unknown"),
    "no residual": (X, {"conv_layers": [("residual",)]}, "layer 1 ('residual',) of conv_layers is unknown"),
    "activations": (X, {"activation": ["relu"] * 2}, "2 entries for 3 convolutions and hidden layers"),
    "augmentation": (X, {"augment": {"flip": 0.5}}, "augment has the unknown keys ['flip']"),
    "augmentation's value": (X, {"augment": {"shift": -1}}, "shift=-1"),
    "kernel": (X, {"kernel_size": 0}, "'kernel_size' parameter"),
    "hidden": (X, {"hidden_layer_sizes": (0,)}, "hidden_layer_sizes must be > 0"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_what_and_leave_nothing(name):
    images, changes, message = ERRORS[name]
    model = tiny(**changes)
    before = dict(vars(model))
    with pytest.raises(ValueError) as error:
        model.fit(images, Y[: len(images)])
    assert message in str(error.value)
    assert vars(model) == before


def test_before_fit():
    for name in ("predict", "predict_proba", "transform"):
        with pytest.raises(NotFittedError):
            getattr(tiny(), name)(X)
    for name in ("coefs_", "intercepts_", "batch_norms_"):
        assert not hasattr(tiny(), name)


def test_entries_of_conv_layers():
    entries = [
        3,
        (4,),
        (5, 7),
        [6, 5, 2],
        ("residual", 8),
        ("residual", 9, 2),
        "max_pool",
        "avg_pool",
        "global_avg_pool",
    ]
    assert parse_conv_layers(entries, ConvDefaults(kernel_size=2, pool_size=4, batch_norm=True)) == [
        ConvSpec(3, 2, batch_norm=True),
        ConvSpec(4, 2, batch_norm=True),
        ConvSpec(5, 7, batch_norm=True),
        ConvSpec(6, 5, 2, batch_norm=True),
        ResidualSpec(8, batch_norm=True),
        ResidualSpec(9, 2, batch_norm=True),
        PoolSpec(LayerKind.MAX_POOL, 4),
        PoolSpec(LayerKind.AVG_POOL, 4),
        PoolSpec(LayerKind.AVG_POOL, None),
    ]


@pytest.mark.parametrize(
    ("image_shape", "expected"),
    [((4, 6), (4, 6, 1)), ((-1, 6), (4, 6, 1)), ((2, -1, 3), (2, 4, 3)), ([2, 4, -1], (2, 4, 3))],
)
def test_shapes_of_flat_images(image_shape, expected):
    assert flat_image_shape(image_shape, 24) == expected


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_smallest_fit():
    images, labels = X[:6, :3, :2], Y[:6]
    model = ConvClassifier(((2, 2),), (), batch_norm=True, augment={"shift": 1}, max_iter=1, random_state=0)
    model.fit(images, labels, X_val=images, y_val=labels)
    probabilities = model.predict_proba(images)
    assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert_array_equal(model.predict(images), probabilities.argmax(axis=1))
    assert model.transform(images).shape == (6, 12)
    assert np.isfinite(model.history_["val_loss"]).all()
