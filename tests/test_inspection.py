"""Attributions of tables and images: outputs, gradients, sums, against definitions, captum and planted signals."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nbnet import ConvClassifier, MLPClassifier, MLPRegressor
from nbnet.inspection import attributions
from tests.helpers import fit
from tests.reference_conv import conv2d_forward

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3))
CLASSES = np.array(["a", "b", "c"])[np.arange(12) % 3]
COUNTS = RNG.poisson(3.0, size=12).astype(float)
LABELS = RNG.integers(0, 2, size=(12, 3))
SETTINGS = dict(max_iter=1, learning_rate_init=0.1, random_state=0, n_jobs=1)


def mlp(y=CLASSES, **settings):
    return fit(MLPClassifier((5, 4), "tanh", **{**SETTINGS, **settings}), X, y)


def regressor(y=COUNTS, **settings):
    return fit(MLPRegressor(hidden_layer_sizes=(5,), activation="softplus", **{**SETTINGS, **settings}), X, y)


TABLES = {
    "three classes": lambda: mlp(),
    "two classes": lambda: mlp(CLASSES != "a"),
    "labels": lambda: mlp(LABELS),
    "standard": lambda: mlp(input_scaling="standard"),
    "robust": lambda: mlp(input_scaling="robust"),
    "no hidden layer": lambda: fit(MLPClassifier((), **SETTINGS), X, CLASSES),
    "regression": lambda: regressor(),
    "counts": lambda: regressor(loss="poisson"),
    "two outputs": lambda: regressor(np.stack([COUNTS, X[:, 0]], axis=1)),
}
IMAGES = RNG.normal(size=(6, 7, 6, 2))
KINDS = CLASSES[:6]
CONVOLUTIONS = {
    "pools": dict(conv_layers=(3, "max_pool", "avg_pool")),
    "average": dict(conv_layers=((4, 3, 2), "global_avg_pool"), hidden_layer_sizes=()),
    "valid": dict(conv_layers=((3, 4, 2), (2, 2)), padding="valid"),
    "even": dict(conv_layers=((3, 2), (2, 4, 3)), batch_norm=True),
    "wide": dict(conv_layers=(16, 16, "max_pool"), hidden_layer_sizes=()),  # Winograd's; no flattening
    "residual": dict(conv_layers=(("residual", 2), ("residual", 4, 2), "avg_pool"), batch_norm=True),
    "only pools": dict(conv_layers=("max_pool",)),
}


def conv(activation="tanh", **settings):
    model = ConvClassifier(activation=activation, **{"hidden_layer_sizes": (4,), **SETTINGS, **settings})
    return fit(model, IMAGES, KINDS)


def parts_of(name):
    """A fitted model, rows, and what its output is called in its own methods."""
    if name in TABLES:
        return TABLES[name](), X[:5]
    return conv(**CONVOLUTIONS[name]), IMAGES[:2]


def prediction_of(model, rows, target):
    if not hasattr(model, "classes_"):
        return model.predict(rows).reshape(len(rows), -1)[:, target]
    return model.predict_proba(rows)[:, model.classes_.tolist().index(target)]


def first_target(model):
    return model.classes_[-1].item() if hasattr(model, "classes_") else 0


ALL = [*TABLES, *CONVOLUTIONS]


@pytest.mark.parametrize("name", ALL)
def test_what_is_explained_is_what_the_model_predicts(name):
    model, rows = parts_of(name)
    target = first_target(model)
    found = attributions(model, rows, target, "gradient_x_input", output="probability")
    np.testing.assert_allclose(found.output, prediction_of(model, rows, target), rtol=1e-9)
    assert (found.target == target).all()
    assert found.values.shape == rows.shape
    logits = attributions(model, rows, target, "gradient_x_input").output
    if name in ("two classes", "labels"):
        np.testing.assert_allclose(1 / (1 + np.exp(-logits)), found.output)
    elif name == "counts":
        np.testing.assert_allclose(np.exp(logits), found.output)
    elif name in ("regression", "two outputs"):
        np.testing.assert_array_equal(logits, found.output)
    else:
        others = [attributions(model, rows, c, "gradient_x_input").output for c in model.classes_]
        np.testing.assert_allclose(np.exp(logits) / np.exp(others).sum(axis=0), found.output)


@pytest.mark.parametrize("output", ["logit", "probability"])
@pytest.mark.parametrize("name", ALL)
def test_gradients_against_central_differences(name, output):
    model, rows = parts_of(name)
    target = first_target(model)
    # with a baseline at a distance of one, gradient x input is the gradient
    found = attributions(model, rows, target, "gradient_x_input", output=output, baseline=rows - 1.0)

    def f(changed):
        return attributions(model, changed, target, "gradient_x_input", output=output).output

    places = list(itertools.product(*map(range, rows.shape[1:])))
    for place in places[:: max(1, len(places) // 20)]:
        step = np.zeros(rows.shape)
        step[:, *place] = 1e-5
        slope = (f(rows + step) - f(rows - step)) / 2e-5
        np.testing.assert_allclose(found.values[:, *place], slope, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ALL)
def test_integrated_gradients_add_up(name):
    model, rows = parts_of(name)
    found = attributions(model, rows, first_target(model), n_steps=100)
    at_baseline = attributions(model, found.baseline, first_target(model), "gradient_x_input").output
    np.testing.assert_allclose(found.baseline_output, at_baseline)
    sums = found.values.reshape(len(rows), -1).sum(axis=1)
    np.testing.assert_allclose(found.gap, found.output - found.baseline_output - sums)
    largest = 0.03 if "max_pool" in CONVOLUTIONS.get(name, {}).get("conv_layers", ()) else 1e-6  # slopes jump there
    assert np.abs(found.gap).max() < largest


def test_default_baselines():
    found = attributions(TABLES["robust"](), X[:2])
    np.testing.assert_allclose(found.baseline, np.tile(np.median(X, axis=0), (2, 1)), atol=0.5)
    np.testing.assert_array_equal(attributions(TABLES["labels"](), X[:2]).baseline, 0.0)
    model = conv()
    np.testing.assert_array_equal(attributions(model, IMAGES[:1]).baseline[0, 3, 4], model.channel_mean_)


def test_a_linear_model_has_one_answer():
    model = TABLES["no hidden layer"]()
    baseline = np.array([0.5, -1.0, 2.0])
    right = (X - baseline) * model.coefs_[0][:, 1]
    for method in ("integrated_gradients", "gradient_x_input", "occlusion"):
        found = attributions(model, X, "b", method, baseline=baseline)
        np.testing.assert_allclose(found.values, right, rtol=1e-9)


def test_occlusion_of_windows_is_what_its_definition_says():
    model, baseline = conv(), np.full(IMAGES.shape[1:], 0.3)
    found = attributions(model, IMAGES[:2], "b", "occlusion", window=3, baseline=baseline)
    total, count = np.zeros(IMAGES[:2].shape), np.zeros((7, 6, 1))
    for top in range(0, 5):
        for left in range(0, 4):
            changed = IMAGES[:2].copy()
            changed[:, top : top + 3, left : left + 3] = 0.3
            gone = found.output - attributions(model, changed, "b", "gradient_x_input").output
            total[:, top : top + 3, left : left + 3] += gone[:, None, None, None]
            count[top : top + 3, left : left + 3] += 1
    np.testing.assert_allclose(found.values, total / count)


def test_grad_cam_of_a_layer_that_is_averaged_is_its_weighted_sum():
    model = conv("relu", conv_layers=((4, 3), "global_avg_pool"), hidden_layer_sizes=(), normalize=False)
    found = attributions(model, IMAGES[:3], "c", "grad_cam")
    filters, weight = model.coefs_
    z = conv2d_forward(IMAGES[:3], filters.reshape(-1, 4), model.intercepts_[0], 3, 1, "same")
    heat = np.maximum((np.maximum(z, 0) * weight[:, 2]).sum(axis=3) / (7 * 6), 0)
    np.testing.assert_allclose(found.values[..., 0], heat, rtol=1e-6, atol=1e-12)
    np.testing.assert_array_equal(found.values[..., 0], found.values[..., 1])
    assert found.gap is None


# ---------------------------------------------------------------- targets, inputs, errors


def test_targets_by_name_number_and_row():
    model = mlp()
    by_default = attributions(model, X, method="gradient_x_input")
    np.testing.assert_array_equal(by_default.target, model.predict(X))
    by_name = attributions(model, X, model.predict(X), "gradient_x_input")
    by_number = attributions(model, X, model.predict_proba(X).argmax(axis=1), "gradient_x_input")
    np.testing.assert_array_equal(by_name.values, by_default.values)
    np.testing.assert_array_equal(by_number.values, by_default.values)


def test_numbers_that_are_classes_are_classes():
    model = mlp(np.where(CLASSES == "a", 7, 3))
    assert attributions(model, X[:1], 7).target.tolist() == [7]
    with pytest.raises(ValueError, match=r"target=1 is not among the classes \[3, 7\]"):
        attributions(model, X[:1], 1)


def test_a_float32_model_is_explained_to_its_precision():
    model = fit(MLPClassifier((5,), **SETTINGS), X.astype("f4"), CLASSES)
    found = attributions(model, X[:4].astype("f4"), output="probability")
    np.testing.assert_allclose(found.output, model.predict_proba(X[:4].astype("f4")).max(axis=1), rtol=1e-5)


def test_sparse_rows_and_flat_images():
    model = mlp()
    dense, sparse = attributions(model, X[:2]), attributions(model, sp.csr_array(X[:2]))
    np.testing.assert_array_equal(dense.values, sparse.values)
    flat_rows = IMAGES.reshape(6, -1)
    flat = fit(ConvClassifier((2,), (3,), image_shape=(7, 6, 2), **SETTINGS), flat_rows, KINDS)
    found = attributions(flat, flat_rows[:2], "a")
    assert found.values.shape == (2, 84)
    assert found.image_shape == (7, 6, 2)
    network = fit(ConvClassifier((2,), (3,), **SETTINGS), IMAGES, KINDS)
    flat, images = (attributions(m, r, "a", "occlusion") for m, r in ((flat, flat_rows), (network, IMAGES)))
    np.testing.assert_allclose(flat.values, images.values.reshape(6, -1), rtol=1e-9)


def test_pipelines_and_searches_are_explained_by_their_last_step():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=["age", "income", "debt"])
    pipeline = fit(make_pipeline(StandardScaler(), MLPClassifier((3,), **SETTINGS)), frame, CLASSES)
    found = attributions(pipeline, frame, "a")
    assert found.feature_names == ["age", "income", "debt"]
    scaled = pipeline[0].transform(frame)
    np.testing.assert_array_equal(found.values, attributions(pipeline[-1], scaled, "a").values)
    search = fit(GridSearchCV(pipeline, {"mlpclassifier__alpha": [0.1]}, cv=2), frame, CLASSES)
    assert attributions(search, frame, "a").feature_names == ["age", "income", "debt"]
    assert attributions(mlp(), X).feature_names == ["x0", "x1", "x2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(target="d"), "target='d' is not among the classes"),
        (dict(target=["a", "b"]), "target has 2 entries for 12 rows"),
        (dict(method="grad_cam"), "method='grad_cam' is for ConvClassifier, not for MLPClassifier"),
        (dict(baseline=[1.0, 2.0]), r"baseline must have the shape \(3,\) of a row"),
        (dict(baseline=np.nan), "baseline must be finite"),
        (dict(n_steps=0), "n_steps"),
        (dict(output="loss"), "output"),
    ],
)
def test_errors_say_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        attributions(mlp(), X, **arguments)


def test_errors_of_other_models():
    with pytest.raises(TypeError, match=r"explains MLPClassifier.*got StandardScaler"):
        attributions(StandardScaler().fit(X), X)
    with pytest.raises(ValueError, match="target must be the number of an output, 0 to 1, got None"):
        attributions(TABLES["two outputs"](), X)
    with pytest.raises(ValueError, match="method='grad_cam' needs a convolution"):
        attributions(conv(conv_layers=("max_pool",)), IMAGES, method="grad_cam")


# ---------------------------------------------------------------- captum


def torch_mlp(torch, model):
    layers = []
    for weight, bias in zip(model.coefs_, model.intercepts_, strict=True):
        linear = torch.nn.Linear(*weight.shape).double()
        linear.weight.data, linear.bias.data = torch.tensor(weight.T.copy()), torch.tensor(bias.copy())
        layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


class TorchConv:
    """Two convolutions, the first one pooled, and an output layer; channels first inside."""

    def __init__(self, torch, model):
        self.torch, self.model = torch, model
        self.weights = [torch.tensor(w.transpose(3, 2, 0, 1).copy()) for w in model.coefs_[:2]]
        self.biases = [torch.tensor(b.copy()) for b in model.intercepts_]
        self.last = torch.tensor(model.coefs_[2].copy())

    def maps(self, x):
        F = self.torch.nn.functional
        x = F.max_pool2d(F.relu(F.conv2d(x, self.weights[0], self.biases[0], padding=1)), 2)
        return F.relu(F.conv2d(x, self.weights[1], self.biases[1], padding=1))

    def __call__(self, x):
        return self.maps(x).permute(0, 2, 3, 1).reshape(len(x), -1) @ self.last + self.biases[2]


@pytest.mark.filterwarnings("ignore")
def test_tables_as_captum_has_them():
    torch, captum = pytest.importorskip("torch"), pytest.importorskip("captum.attr")
    model = fit(MLPClassifier((6, 5), **SETTINGS), X, CLASSES)
    network, rows = torch_mlp(torch, model), torch.tensor(X, requires_grad=True)
    baseline, options = torch.full((1, 3), 0.25, dtype=torch.double), dict(target=1)
    theirs = captum.IntegratedGradients(network).attribute(rows, baseline, n_steps=20, **options)
    ours = attributions(model, X, "b", baseline=[0.25] * 3, n_steps=20)
    np.testing.assert_allclose(ours.values, theirs.detach().numpy(), rtol=1e-6, atol=1e-8)  # their points are float32
    theirs = captum.InputXGradient(network).attribute(rows, **options)
    ours = attributions(model, X, "b", "gradient_x_input")
    np.testing.assert_allclose(ours.values, theirs.detach().numpy(), rtol=1e-8, atol=1e-12)
    theirs = captum.FeatureAblation(network).attribute(rows, baseline, **options)
    ours = attributions(model, X, "b", "occlusion", baseline=[0.25] * 3)
    np.testing.assert_allclose(ours.values, theirs.detach().numpy(), rtol=1e-8, atol=1e-12)


@pytest.mark.filterwarnings("ignore")
def test_images_as_captum_has_them():
    torch, captum = pytest.importorskip("torch"), pytest.importorskip("captum.attr")
    model = conv("relu", conv_layers=(3, "max_pool", 4), hidden_layer_sizes=(), normalize=False)
    network = TorchConv(torch, model)
    images = torch.tensor(IMAGES.transpose(0, 3, 1, 2).copy(), requires_grad=True)

    def ours(method, **options):
        return attributions(model, IMAGES, "b", method, **options).values.transpose(0, 3, 1, 2)

    theirs = captum.IntegratedGradients(network).attribute(images, target=1, n_steps=20).detach().numpy()
    np.testing.assert_allclose(ours("integrated_gradients", n_steps=20), theirs, rtol=1e-6, atol=1e-8)
    theirs = captum.Occlusion(network).attribute(images, (2, 4, 4), (2, 2, 2), target=1).detach().numpy()
    np.testing.assert_allclose(ours("occlusion", window=4), theirs, rtol=1e-6, atol=1e-7)  # added up in float32

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.maps = torch.nn.Identity()

        def forward(self, x):
            return self.maps(network.maps(x)).permute(0, 2, 3, 1).reshape(len(x), -1) @ network.last + network.biases[2]

    net = Net()
    theirs = captum.LayerGradCam(net, net.maps).attribute(images, target=1, relu_attributions=True).detach()
    theirs = torch.nn.functional.interpolate(theirs, (7, 6), mode="bilinear").numpy()
    np.testing.assert_allclose(ours("grad_cam")[:, :1], theirs, rtol=1e-5, atol=1e-9)


# ---------------------------------------------------------------- planted signals


@pytest.mark.slow_without_jit
@pytest.mark.parametrize("method", ["integrated_gradients", "gradient_x_input", "occlusion"])
def test_the_columns_that_decide_are_found(method):
    rng = np.random.default_rng(1)
    table = rng.normal(size=(600, 10))
    model = MLPClassifier((16,), learning_rate_init=0.01, max_iter=30, learning_rate="linear", random_state=0)
    model.fit(table, table[:, 2] - table[:, 7] > 0)
    found = attributions(model, table[:100], True, method)
    size = np.abs(found.values).mean(axis=0)
    assert set(np.argsort(size)[-2:].tolist()) == {2, 7}
    assert np.corrcoef(found.values[:, 2], table[:100, 2])[0, 1] > 0.9
    assert np.corrcoef(found.values[:, 7], table[:100, 7])[0, 1] < -0.9


@pytest.mark.slow_without_jit
@pytest.mark.parametrize("method", ["integrated_gradients", "gradient_x_input", "occlusion", "grad_cam"])
def test_the_spot_that_decides_is_found(method):
    rng = np.random.default_rng(2)
    images = rng.normal(size=(400, 12, 12)).astype("f4")
    has_spot, places = rng.random(400) < 0.5, rng.integers(0, 9, size=(400, 2))
    for i in np.flatnonzero(has_spot):
        h, w = places[i]
        images[i, h : h + 3, w : w + 3] += 3.0
    model = ConvClassifier(
        (8, "max_pool", 8, "global_avg_pool"),
        (),
        max_iter=15,
        batch_size=32,
        learning_rate="one_cycle",
        learning_rate_init=0.02,
        random_state=0,
    ).fit(images, has_spot)
    found = attributions(model, images[has_spot], True, method, window=3 if method == "occlusion" else None)
    hits = 0
    for heat, (h, w) in zip(found.values, places[has_spot], strict=True):
        top, left = np.unravel_index(heat.argmax(), heat.shape)
        hits += h - 1 <= top <= h + 3 and w - 1 <= left <= w + 3
    assert hits / has_spot.sum() > 0.9
