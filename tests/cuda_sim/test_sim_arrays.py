"""Input that lives on the GPU: used where it lies, checked by kernels, predictions beside it."""

import numpy as np
import pytest

from nbnet import ConvClassifier, MLPClassifier, MLPRegressor
from nbnet.cuda import arrays, product
from nbnet.cuda.arrays import device_array, to_host
from tests.cuda_sim import simulator
from tests.helpers import fit

RNG = np.random.default_rng(0)
X = RNG.normal(size=(15, 3)).astype(np.float32)
CLASSES = RNG.integers(0, 3, 15)
NUMBERS = np.abs(X[:, :2])


class Foreign:
    """Stands for an array of another library, such as CuPy: no NumPy function takes it."""

    def __init__(self, values, **changes):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype
        self.__cuda_array_interface__ = {
            "shape": values.shape,
            "typestr": values.dtype.str,
            "data": values.__array_interface__["data"],
            "strides": values.strides,
            "version": 3,
            **changes,
        }

    def __array__(self, *args, **kwargs):
        raise TypeError("implicit conversion to a NumPy array is not allowed")

    def __len__(self):
        return len(self.values)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(product, "TILES", (product.Tile(16, 16, 8, 4),))


def classifier(**parameters):
    return MLPClassifier((3,), max_iter=1, batch_size=8, random_state=0, device="cuda", **parameters)


def regressor(**parameters):
    return MLPRegressor("poisson", (), max_iter=1, batch_size=8, random_state=0, device="cuda", **parameters)


def same(on_gpu, on_host):
    assert on_gpu.__cuda_array_interface__["shape"] == on_host.shape
    np.testing.assert_array_equal(to_host(on_gpu), on_host)


def test_a_classifier(monkeypatch):
    uploaded, to_device = [], simulator.module.to_device
    weights = np.linspace(1, 2, 15)
    expected = fit(classifier(), X, CLASSES, sample_weight=weights, X_val=X[:5], y_val=CLASSES[:5])
    monkeypatch.setattr(simulator.module, "to_device", lambda array: uploaded.append(array.shape) or to_device(array))
    on_gpu = {"sample_weight": Foreign(weights), "X_val": Foreign(X[:5]), "y_val": Foreign(CLASSES[:5])}
    model = fit(classifier(), Foreign(X), Foreign(CLASSES), **on_gpu)
    assert (X.size,) not in uploaded
    np.testing.assert_array_equal(model.params_, expected.params_)
    assert model.history_["val_loss"] == expected.history_["val_loss"]
    same(model.predict(Foreign(X)), expected.predict(X))
    same(model.predict_proba(Foreign(X)), expected.predict_proba(X))
    same(model.predict_log_proba(Foreign(X)), expected.predict_log_proba(X))
    assert model.score(Foreign(X), Foreign(CLASSES)) == expected.score(X, CLASSES)
    assert type(model.predict(X)) is np.ndarray


def test_names_of_classes_come_back_on_the_host():
    names = np.array(["a", "b", "c"])[CLASSES]
    model = fit(classifier(), Foreign(X), names)
    np.testing.assert_array_equal(model.predict(Foreign(X)), model.predict(X))


@pytest.mark.parametrize("y", [NUMBERS, NUMBERS[:, 0]], ids=["two", "one"])
def test_a_regressor(y):
    expected, model = fit(regressor(), X, y), fit(regressor(), Foreign(X), Foreign(y))
    np.testing.assert_array_equal(model.params_, expected.params_)
    same(model.predict(Foreign(X)), expected.predict(X))
    assert model.score(Foreign(X), y) == expected.score(X, y)


@pytest.mark.parametrize(("of_X", "dtype"), [("float64", "float32"), ("float32", "float64")])
def test_kernels_convert(of_X, dtype):
    given = X.astype(of_X) / 3
    expected, model = (fit(regressor(dtype=dtype), x, NUMBERS) for x in (given, Foreign(given)))
    np.testing.assert_allclose(model.params_, expected.params_, rtol=1e-6, atol=1e-7)
    same(model.predict(Foreign(given)), expected.predict(given))
    large = np.full((3, 3), 1e300)
    if dtype == "float32":
        with pytest.raises(ValueError, match="Input X contains infinity or a value too large for"):
            model.predict(Foreign(large))


def test_held_out_rows_scorers_checkpoints_and_partial_fit(tmp_path):
    y = (X[:, 0] > 0).astype(int)
    settings = {"early_stopping": True, "validation_fraction": 0.3, "scoring": "balanced_accuracy"}
    expected, model = (fit(classifier(**settings), x, y, checkpoint=tmp_path / "of_a_fit") for x in (X, Foreign(X)))
    np.testing.assert_array_equal(model.params_, expected.params_)
    assert model.validation_scores_ == expected.validation_scores_
    for of_X, of_y in ((X, y), (Foreign(X), Foreign(y))):
        model = classifier().partial_fit(of_X, of_y, classes=[0, 1]).partial_fit(of_X, of_y)
        expected = model if of_X is X else expected
    same(model.predict(Foreign(X)), model.predict(X))
    assert model.t_ == 30


def test_fingerprints_see_the_values():
    from nbnet.checkpoints import digest_of_data

    table, other = (device_array(Foreign(values), 0, "X", 2, (np.float32,)) for values in (X, 2 * X))
    assert digest_of_data(table) == digest_of_data(X) != digest_of_data(other)
    np.testing.assert_array_equal(table[np.array([3, 0, 3])].copy_to_host(), X[[3, 0, 3]])


def with_(value):
    changed = X.copy()
    changed[7, 1] = value
    return changed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Foreign(X[0]), r"Expected 2D array, got 1D array instead: X on the GPU has the shape \(3,\)"),
        (Foreign(X.astype(np.int32)), "X on the GPU has the dtype int32; float32 or float64 is needed there"),
        (Foreign(X[:0]), r"Found array with 0 sample\(s\) \(shape=\(0, 3\)\) while a minimum of 1 is required"),
        (Foreign(X[:, :0]), r"Found array with 0 feature\(s\)"),
        (Foreign(np.asfortranarray(X)), r"X on the GPU has the strides \(4, 60\); C order is needed there"),
        (Foreign(X[:, ::2]), r"X on the GPU has the strides \(12, 8\)"),
        (Foreign(with_(np.nan)), "Input X contains NaN or infinity"),
        (Foreign(with_(-np.inf)), "Input X contains NaN or infinity"),
        (Foreign(X[:9]), r"Found input variables with inconsistent numbers of samples: \[9, 15\]"),
    ],
)
def test_what_cannot_be_used(given, message):
    model = classifier()
    with pytest.raises(ValueError, match=message):
        model.fit(given, CLASSES)
    assert "n_features_in_" not in vars(model)


def test_other_devices_and_settings(monkeypatch):
    with pytest.raises(ValueError, match="X is on a GPU, but device='cpu' computes on the CPU; set device='cuda'"):
        classifier().set_params(device="cpu").fit(Foreign(X), CLASSES)
    with pytest.raises(ValueError, match="input_scaling='robust' needs X on the host, but it is on a GPU"):
        classifier(input_scaling="robust").fit(Foreign(X), CLASSES)
    model = fit(classifier(), X, CLASSES)
    with pytest.raises(ValueError, match="X has 2 features, but MLPClassifier is expecting 3 features"):
        model.predict(Foreign(X[:, :2].copy()))
    monkeypatch.setattr(arrays, "gpu_of", lambda pointer: 1)
    with pytest.raises(ValueError, match="X_val is on GPU number 1, the estimator computes on number 0"):
        classifier().fit(X, CLASSES, X_val=Foreign(X), y_val=CLASSES)


IMAGES, OF_IMAGES = RNG.integers(0, 256, (7, 4, 3, 2)).astype(np.uint8), np.array([0, 1, 0, 1, 1, 0, 1])
KINDS = {
    "uint8": (IMAGES, None),
    "gray": (IMAGES[..., 0].astype(np.float32), None),
    "one channel": (np.lib.stride_tricks.as_strided(IMAGES[..., 0].copy(), (7, 4, 3, 1), (12, 3, 1, 12)), None),
    "flat": (IMAGES.reshape(7, -1).astype(np.float64), (4, -1, 2)),
}


def of_images(image_shape=None, **parameters):
    settings = {"max_iter": 2, "batch_size": 3, "random_state": 0, "device": "cuda", "conv_algorithm": "direct"}
    return ConvClassifier((2,), (), image_shape=image_shape, **settings | parameters)


@pytest.mark.parametrize("kind", list(KINDS))
def test_images(kind, monkeypatch):
    given, shape = KINDS[kind]
    uploaded, to_device = [], simulator.module.to_device
    expected = fit(of_images(shape), given, OF_IMAGES, X_val=given[:3], y_val=OF_IMAGES[:3])
    monkeypatch.setattr(simulator.module, "to_device", lambda array: uploaded.append(array.shape) or to_device(array))
    validation = {"X_val": Foreign(given[:3]), "y_val": Foreign(OF_IMAGES[:3])}
    model = fit(of_images(shape), Foreign(given), Foreign(OF_IMAGES), **validation)
    assert uploaded and (given.size,) not in uploaded
    np.testing.assert_array_equal(model.params_, expected.params_)
    assert model.history_["val_loss"] == expected.history_["val_loss"]
    same(model.predict(Foreign(given)), expected.predict(given))
    same(model.predict_proba(Foreign(given)), expected.predict_proba(given))
    same(model.transform(Foreign(given)), expected.transform(given))
    assert model.score(Foreign(given), Foreign(OF_IMAGES)) == expected.score(given, OF_IMAGES)


def test_images_held_out_scorers_and_partial_fit():
    settings = {"early_stopping": True, "validation_fraction": 0.3, "scoring": "accuracy"}
    expected, model = (fit(of_images(**settings), x, OF_IMAGES) for x in (IMAGES, Foreign(IMAGES)))
    np.testing.assert_array_equal(model.params_, expected.params_)
    assert model.validation_scores_ == expected.validation_scores_
    expected, model = (of_images().partial_fit(x, OF_IMAGES, classes=[0, 1]) for x in (IMAGES, Foreign(IMAGES)))
    np.testing.assert_array_equal(model.params_, expected.params_)


@pytest.mark.parametrize(
    ("given", "shape", "message"),
    [
        (Foreign(IMAGES[:, 0, 0].copy()), None, r"X has the shape \(7, 2\), but images come as"),
        (Foreign(IMAGES), (4, 3, 2), r"Expected 2D array, got 4D array instead: X on the GPU"),
        (
            Foreign(IMAGES.astype(int)),
            None,
            "X on the GPU has the dtype int64; float32, float64 or uint8 is needed there",
        ),
        (Foreign(IMAGES[:, :, ::-1]), None, "X on the GPU has the strides .*; C order is needed there"),
        (Foreign(np.where(IMAGES == IMAGES[3, 2, 1, 0], np.nan, IMAGES)), None, "Input X contains NaN or infinity"),
        (Foreign(IMAGES[:, :0]), None, "Found array with 0 feature"),
        (Foreign(np.array(1.0)), None, "Expected rows, got 0D array instead"),
    ],
)
def test_images_that_cannot_be_used(given, shape, message):
    model = of_images(shape)
    with pytest.raises(ValueError, match=message):
        model.fit(given, OF_IMAGES)
    assert "image_shape_" not in vars(model)
    model = fit(of_images(), IMAGES, OF_IMAGES)
    with pytest.raises(ValueError, match=r"Images of X have the shape \(2, 3, 2\)"):
        model.predict(Foreign(IMAGES[:, :2].copy()))
