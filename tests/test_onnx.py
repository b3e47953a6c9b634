"""ONNX graphs give what the estimators give, in onnxruntime, on real data."""

import sys

import numpy as np
import pandas as pd
import pytest
from helpers import fit
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_digits
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import nbnet
from nbnet import ConvClassifier, MLPClassifier, MLPRegressor, TextEmbeddingClassifier
from nbnet.datasets import load_german_credit
from nbnet.network import ACTIVATION_CODES

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.slow_without_jit

DIGITS, KINDS = load_digits(return_X_y=True)
IMAGES = DIGITS.reshape(-1, 8, 8).astype(np.uint8)
CREDIT, GOOD = load_german_credit(return_X_y=True, as_frame=True)
SHORT = dict(max_iter=3, random_state=0)
TOLERANCE = 1e-5  # what is promised of probabilities


def run(graph, X):
    """Outputs of a graph."""
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: X})


def assert_equal_outputs(model, X, graph=None, given=None, tolerance=TOLERANCE):
    """Labels and probabilities, or values, of graph and model."""
    outputs = run(graph or nbnet.to_onnx(model), X if given is None else given)
    if not hasattr(model, "predict_proba"):
        expected = model.predict(X)
        np.testing.assert_allclose(outputs[0].reshape(expected.shape), expected, rtol=tolerance, atol=tolerance)
        return
    labels, probabilities = outputs
    expected = model.predict_proba(X)
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=tolerance)
    predicted = model.predict(X)
    assert labels.shape == predicted.shape
    if predicted.ndim == 1 and len(model.classes_) > 1:
        ordered = np.sort(expected, axis=1)
        sure = ordered[:, -1] - ordered[:, -2] > 2 * tolerance
    else:
        sure = np.abs(expected - 0.5).min(axis=1) > tolerance
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(labels[sure], predicted[sure].astype(labels.dtype))


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", sorted(ACTIVATION_CODES))
def test_activations(activation, dtype):
    X = DIGITS.astype(dtype)
    model = fit(MLPClassifier((20, 10), activation, learning_rate_init=0.01, **SHORT), X, KINDS)
    assert_equal_outputs(model, X, tolerance=TOLERANCE if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("scaling", ["standard", "robust"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scaling_is_part_of_the_graph(dtype, scaling):
    X = CREDIT.select_dtypes("number").to_numpy(dtype) + 1e6  # digits that float32 would lose in the difference
    model = fit(MLPClassifier((10,), input_scaling=scaling, **SHORT), X, GOOD)
    assert_equal_outputs(model, X)


def test_an_input_that_is_wider_than_the_network():
    X = CREDIT.select_dtypes("number").to_numpy(np.float64) + 1e6
    model = fit(MLPClassifier((10,), input_scaling="standard", dtype="float32", **SHORT), X, GOOD)
    assert_equal_outputs(model, X, nbnet.to_onnx(model, input_dtype="float64"))


@pytest.mark.parametrize("loss", ["squared_error", "poisson", "huber", "quantile"])
def test_regression(loss):
    X, y = load_diabetes(return_X_y=True)
    assert_equal_outputs(fit(MLPRegressor(loss, (8,), input_scaling="standard", **SHORT), X, y / 100), X)
    several = np.stack([y, y + X[:, 0]], axis=1) / 100
    assert_equal_outputs(fit(MLPRegressor(loss, (), **SHORT), X, several), X)


TARGETS = {
    "numbers": KINDS.astype(np.int16),
    "two numbers": KINDS % 2 + 5,
    "texts": np.array(list("zyxwvutsrq"))[KINDS],
    "objects": np.array(["no", "naïve"], object)[KINDS % 2],
    "floats": KINDS * 2.0,
    "booleans": KINDS > 4,
    "one class": np.zeros(len(KINDS), int),
    "labels": np.stack([KINDS > 3, KINDS % 2, KINDS > 6], axis=1).astype(int),
}


@pytest.mark.parametrize("name", TARGETS)
def test_targets(name):
    model = fit(MLPClassifier((8,), **SHORT), DIGITS, TARGETS[name])
    assert_equal_outputs(model, DIGITS)
    assert_equal_outputs(model, DIGITS[:1])


# ---------------------------------------------------------------- images

IMAGE_MODELS = {
    "default": ConvClassifier(**SHORT),
    "batch norm": ConvClassifier((16, "max_pool", 32), batch_norm=True, **SHORT),
    "residual": ConvClassifier.resnet(8, 16, **SHORT),
    "strides": ConvClassifier(((8, 5, 2), (8, 2, 1), (8, 1, 2)), (), activation="gelu", **SHORT),
    "even filters": ConvClassifier(((8, 4), (8, 2, 2), (4, 6, 3)), (8,), activation="silu", **SHORT),
    "valid": ConvClassifier(((8, 3), ("residual", 8, 2), "avg_pool"), (8,), padding="valid", **SHORT),
    "pool of three": ConvClassifier((8, "max_pool", 16), (), "silu", pool_size=3, **SHORT),
    "pools alone": ConvClassifier(("max_pool", 8, "avg_pool"), (), **SHORT),
    "two pools": ConvClassifier((8, "max_pool", "max_pool"), (), **SHORT),
    "global": ConvClassifier((8, "global_avg_pool"), (), normalize=False, **SHORT),
    "no layers": ConvClassifier((), (4,), **SHORT),
    "float64": ConvClassifier((8, "max_pool"), dtype="float64", **SHORT),
}


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_images(name):
    X = IMAGES[:600, :, 1:]  # not square
    model = fit(clone(IMAGE_MODELS[name]), X, KINDS[:600])
    given = X[..., np.newaxis]
    assert_equal_outputs(model, X, given=given.astype(np.float32))
    assert_equal_outputs(model, X, nbnet.to_onnx(model, input_dtype=np.uint8), given=given)


def test_channels_and_two_classes():
    X = np.stack([IMAGES, IMAGES[:, ::-1], IMAGES.transpose(0, 2, 1)], axis=3)[:600]
    model = fit(ConvClassifier((8, "max_pool", ("residual", 16)), batch_norm=True, **SHORT), X, KINDS[:600] > 4)
    assert_equal_outputs(model, X, given=X.astype(np.float32))


def test_flat_images():
    X = DIGITS[:600].astype(np.float32)
    model = fit(ConvClassifier((8, "max_pool"), image_shape=(8, -1), **SHORT), X, KINDS[:600])
    assert_equal_outputs(model, X)


# ---------------------------------------------------------------- pipelines


@pytest.fixture
def skl2onnx():
    module = pytest.importorskip("skl2onnx")
    from nbnet.onnx import register_converters

    register_converters()
    return module


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", TARGETS)
def test_pipelines(name, dtype, skl2onnx):
    X = DIGITS.astype(dtype)
    pipeline = fit(make_pipeline(StandardScaler(), MLPClassifier((8,), **SHORT)), X, TARGETS[name])
    graph = skl2onnx.to_onnx(pipeline, X[:1], options={"zipmap": False})
    labels, probabilities = run(graph, X)
    np.testing.assert_allclose(probabilities, pipeline.predict_proba(X), rtol=0, atol=TOLERANCE)
    assert (labels == pipeline.predict(X).astype(labels.dtype)).mean() > 0.99


@pytest.mark.parametrize("outputs", ["one", "two"])
def test_pipelines_for_regression(outputs, skl2onnx):
    X, y = load_diabetes(return_X_y=True)
    y = y if outputs == "one" else np.stack([y, -y], axis=1)
    pipeline = fit(make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(8,), **SHORT)), X, y)
    values = run(skl2onnx.to_onnx(pipeline, X[:1]), X)[0]
    np.testing.assert_allclose(values.reshape(y.shape), pipeline.predict(X), rtol=1e-5, atol=1e-5)


def test_pipelines_with_images(skl2onnx):
    X = DIGITS[:600].astype(np.float32)
    conv = ConvClassifier((8, "max_pool"), image_shape=(8, 8), **SHORT)
    pipeline = fit(make_pipeline(StandardScaler(), conv), X, KINDS[:600])
    graph = skl2onnx.to_onnx(pipeline, X[:1], options={"zipmap": False})
    np.testing.assert_allclose(run(graph, X)[1], pipeline.predict_proba(X), rtol=0, atol=TOLERANCE)


def test_german_credit_with_its_categories(skl2onnx):
    numbers = list(CREDIT.select_dtypes("number"))
    frame = CREDIT.astype({name: np.float32 if name in numbers else object for name in CREDIT})
    others = [name for name in frame if name not in numbers]
    columns = ColumnTransformer(
        [("numbers", StandardScaler(), numbers), ("others", OneHotEncoder(sparse_output=False), others)]
    )
    pipeline = fit(make_pipeline(columns, MLPClassifier((16,), dtype="float32", **SHORT)), frame, GOOD)
    types = skl2onnx.common.data_types
    initial = [
        (name, types.FloatTensorType([None, 1]) if name in numbers else types.StringTensorType([None, 1]))
        for name in frame
    ]
    graph = skl2onnx.convert_sklearn(pipeline, initial_types=initial, options={"zipmap": False})
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {name: frame[[name]].to_numpy(np.float32 if name in numbers else object) for name in frame}
    probabilities = session.run(None, given)[1]
    np.testing.assert_allclose(probabilities, pipeline.predict_proba(frame), rtol=0, atol=TOLERANCE)


# ---------------------------------------------------------------- what cannot be done


def test_graphs_are_valid_and_say_who_made_them():
    graph = nbnet.to_onnx(fit(MLPClassifier((4,), **SHORT), pd.DataFrame(DIGITS).rename(columns=str), KINDS))
    onnx.checker.check_model(graph, full_check=True)
    assert (graph.producer_name, graph.producer_version) == ("nbnet", nbnet.__version__)
    assert [node.name for node in graph.graph.output] == ["label", "probabilities"]
    used = {name for node in graph.graph.node for name in node.input}
    assert {constant.name for constant in graph.graph.initializer} <= used


def test_other_estimators_and_unfitted_ones():
    with pytest.raises(NotFittedError):
        nbnet.to_onnx(MLPClassifier())
    for other in (TextEmbeddingClassifier(), StandardScaler()):
        with pytest.raises(ValueError, match=f"not for {type(other).__name__}"):
            nbnet.to_onnx(other)


def test_missing_packages_are_named(monkeypatch):
    from nbnet.onnx import register_converters

    model = fit(MLPClassifier((4,), **SHORT), DIGITS, KINDS)
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'nbnet\[onnx\]'"):
        nbnet.to_onnx(model)
    with pytest.raises(ImportError, match="pip install skl2onnx"):
        register_converters()
