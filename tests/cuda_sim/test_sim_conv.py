"""Networks over images on the device: kernels equal their naive twins in float64, fits the CPU's."""

import pickle

import numba
import numpy as np
import pytest
from sklearn.base import clone

from nbnet import Augmentation, ConvClassifier, trainer
from nbnet.cuda import conv2d, conv_session, device, pooling, product, reductions
from nbnet.cuda import session as of_tables
from nbnet.cuda.augment import sine_cosine
from nbnet.cuda.conv_backward import place_of
from nbnet.cuda.dense import matrix
from nbnet.cuda.launch import Queue, empty, upload, zeros
from nbnet.cuda.pooling import Output
from nbnet.epochs import EpochPlan, UpdateRule
from nbnet.image_network import ConvSpec, PoolSpec, ResidualSpec, build_images, initialize_images
from nbnet.network import Activation, DenseSpec, LayerKind, Loss, Optimizer, bias_of, weight_of
from tests import reference, reference_conv
from tests.cuda_sim import simulator
from tests.helpers import fit

MAX, AVG = LayerKind.MAX_POOL, LayerKind.AVG_POOL
N_IMAGES = 3  # in tests of kernels
RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, size=(5, 4, 3, 2)).astype(np.uint8)
Y = np.array([0, 1, 2, 0, 1])


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Tiles and blocks so small that there are several, with ragged ends."""
    monkeypatch.setattr(product, "TILES", (product.Tile(16, 16, 8, 4),))
    monkeypatch.setattr(conv2d, "TILES", (product.Tile(8, 8, 4, 4),))
    monkeypatch.setattr(conv2d, "SLICE_TERMS", 8)
    monkeypatch.setattr(reductions, "QUAD_THREADS", 16)
    monkeypatch.setattr(of_tables, "BLOCK_ROWS", 4)


# ---------------------------------------------------------------- kernels


class Case:
    """A layer of a network over images of `shape`, in the memory of a training."""

    def __init__(self, shape, specs, number, dtype=np.float32, padding="same"):
        self.dtype = np.dtype(dtype)
        self.network = build_images(shape, specs, [DenseSpec(2)], padding=padding)
        self.layer, self.number = self.network.layers[number], number
        self.source = self.network.layers[self.layer["input"]]
        self.params = initialize_images(self.network, dtype, 5)
        session = conv_session.ConvSession(self.network, self.params, Loss.SOFTMAX_CROSS_ENTROPY)
        self.work = session._training_workspace(N_IMAGES)
        self.own, self.below = self.work.results[number], self.work.results[self.layer["input"]]
        self.queue, self.rng = Queue(), np.random.default_rng(number)

    def random(self, row, height, width):
        """Values of a batch of maps, with ties; in float64."""
        return np.round(self.rng.normal(size=(N_IMAGES, height, width, row["n_out"])), 1)

    def view(self, maps, host, height, width, n_channels, n_images=N_IMAGES):
        """The pixels of maps in a vector of the host."""
        start, size, pitch, stride = (int(n) for n in maps[1:])
        item = host.itemsize
        strides = (size * item, pitch * stride * item, stride * item, item)
        shape = n_images, height, width, n_channels
        return np.lib.stride_tricks.as_strided(host[start:], shape, strides)

    def put(self, maps, values):
        """Write the pixels of maps, and of one more image that kernels must not read."""
        host = maps.data.copy_to_host()
        pixels = self.view(maps, host, *values.shape[1:], N_IMAGES + 1)
        pixels[:N_IMAGES], pixels[N_IMAGES] = values, 1e3
        maps.data.copy_to_device(host)

    def got(self, maps, height, width, n_channels):
        """The pixels of maps on the device; pads are zero."""
        host = maps.data.copy_to_host()
        whole = self.view(maps, host, height, width, int(maps.stride))
        assert not whole[..., n_channels:].any()
        return whole[..., :n_channels]

    @property
    def limits(self):
        return dict(rtol=0, atol=1e-5 if self.dtype == np.float32 else 1e-13)


GEOMETRIES = [  # height, width, channels, channels of the output, filter, stride, padding
    (5, 4, 4, 5, 3, 1, "same"),
    (5, 6, 3, 17, 3, 2, "same"),
    (4, 5, 8, 3, 1, 2, "same"),
    (7, 7, 1, 4, 5, 3, "same"),
    (4, 3, 2, 4, 2, 1, "valid"),
    (5, 5, 5, 2, 4, 2, "valid"),
]


def check_convolution(geometry, dtype=np.float32):
    """Forward, gradient of the input and of the filters of one convolution behind another one."""
    height, width, channels, n_out, k, stride, padding = geometry
    specs = [ConvSpec(channels, 1), ConvSpec(n_out, k, stride, Activation.TANH), PoolSpec(AVG, 1)]
    case = Case((height, width, 1), specs, 2, dtype, padding)
    layer, own, below, tables, queue = case.layer, case.own, case.below, case.own.tables, case.queue
    weight, bias = (f(case.params, layer).astype(float) for f in (weight_of, bias_of))
    x, slopes = (case.random(case.source, height, width) for _ in range(2))
    case.put(below.y, x)
    case.put(below.slopes, slopes)
    side, params = (int(layer["height"]), int(layer["width"])), upload(case.params)
    grad = case.random(layer, *side)

    z = own.z._replace(data=empty(N_IMAGES * int(own.z.size), dtype))
    bias_on_device = matrix(params, layer["bias_start"], layer["out_stride"])
    conv2d.conv2d_forward(queue, below.y, params, bias_on_device, layer, z, tables, N_IMAGES)
    conv2d.conv2d_activated(queue, below.y, params, layer, own.y, case.work.slopes, tables, N_IMAGES)
    queue.run()
    expected = reference_conv.conv2d_forward(x, weight, bias, k, stride, padding)
    np.testing.assert_allclose(case.got(z, *side, n_out), expected, **case.limits)
    np.testing.assert_allclose(case.got(own.y, *side, n_out), np.tanh(expected), **case.limits)
    slopes_of_own = case.view(own.slopes, own.slopes.data.copy_to_host(), *side, n_out)
    np.testing.assert_allclose(slopes_of_own, 1 - np.tanh(expected) ** 2, **case.limits)

    grads, queue = empty(case.params.size, dtype), Queue()
    own.grad_z.data.copy_to_device(np.zeros(own.grad_z.data.size, dtype))
    case.put(own.grad_z, grad)
    place, size = place_of(case.work, layer["input"]), conv2d.pieces_size(layer, N_IMAGES)
    pieces = empty(size, dtype)
    conv2d.conv2d_filter_gradient(queue, below.y, own.grad_z, layer, grads, pieces, tables, N_IMAGES)
    conv2d.conv2d_backward(queue, own.grad_z, params, layer, place, tables, N_IMAGES)
    queue.run()
    grad_x, grad_weight = reference_conv.conv2d_backward(x, weight, grad, k, stride, padding)
    np.testing.assert_allclose(case.got(below.slopes, height, width, channels), slopes * grad_x, **case.limits)
    np.testing.assert_allclose(weight_of(grads.copy_to_host(), layer), grad_weight, **case.limits)
    return conv2d.n_slices(layer, N_IMAGES)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_convolution(geometry):
    check_convolution(geometry)


def test_convolution_where_a_thread_owns_several_patches(monkeypatch):
    monkeypatch.setattr(conv2d, "TILES", (product.Tile(16, 16, 8, 8),))
    check_convolution((5, 6, 3, 17, 3, 2, "same"))


def test_convolution_in_any_order_of_threads(order):
    assert check_convolution((5, 4, 4, 5, 3, 1, "same"), np.float64) > 1


@pytest.mark.parametrize("activation", [Activation.RELU, Activation.GELU])
def test_activation_with_max_pooling(activation):
    case = Case((5, 7, 1), [ConvSpec(5, 1, activation=activation), PoolSpec(MAX, 2)], 1)
    layer, own, work, queue = case.layer, case.own, case.work, case.queue
    z, grad = case.random(layer, 5, 7), case.random(layer, 2, 3)
    case.put(own.z, z)
    output = Output(own.y, work.slopes, work.codes)
    pooling.activation_forward(queue, own.z, matrix(work.sums, 0, 0), own.y, layer, output, N_IMAGES)
    queue.run()
    value, slope = reference.ACTIVATIONS[activation.name.lower()]
    np.testing.assert_allclose(
        case.got(own.y, 2, 3, 5), reference_conv.pool_forward(value(z), (2, 2), "max"), **case.limits
    )
    slopes = case.view(own.slopes, own.slopes.data.copy_to_host(), 2, 3, 5)
    case.put(own.slopes, slopes * grad)
    own.grad_z.data.copy_to_device(np.full(own.grad_z.data.size, 7, case.dtype))
    case.put(own.slopes._replace(start=own.slopes.start + 5, stride=np.uint32(16)), np.zeros((3, 2, 3, 11)))
    sums, queue = matrix(work.sums, 0, layer["out_stride"]), Queue()
    pooling.activation_backward(queue, own.slopes, work.codes, layer, own.grad_z, sums, own.border, N_IMAGES)
    queue.run()
    chosen = reference_conv.pool_backward(value(z) if activation == Activation.GELU else z, grad, (2, 2), "max")
    np.testing.assert_allclose(case.got(own.grad_z, 5, 7, 5), chosen * slope(z), **case.limits)
    by_image = work.sums.copy_to_host()[: 6 * 16].reshape(3, 2, 16)[:, 0, :5]
    np.testing.assert_allclose(by_image, (chosen * slope(z)).sum(axis=(1, 2)), rtol=0, atol=2e-5)


def test_the_gradient_has_a_border_of_zeros():
    case = Case((4, 3, 1), [ConvSpec(2, 1), ConvSpec(2, 3, 1)], 2)
    own, work = case.own, case.work
    assert own.border == 1
    own.grad_z.data.copy_to_device(np.full(own.grad_z.data.size, 7, case.dtype))
    case.put(own.slopes, case.random(case.layer, 4, 3))
    sums = matrix(work.sums, 0, case.layer["out_stride"])
    pooling.activation_backward(case.queue, own.slopes, work.codes, case.layer, own.grad_z, sums, 1, N_IMAGES)
    case.queue.run()
    whole = own.grad_z.data.copy_to_host()[: N_IMAGES * 6 * 5 * 16].reshape(N_IMAGES, 6, 5, 16)
    assert whole[:, 1:-1, 1:-1, :2].any()
    whole[:, 1:-1, 1:-1] = 0
    assert not whole.any()


@pytest.mark.parametrize("kind", [MAX, AVG], ids=["max", "avg"])
def test_pooling_alone(kind):
    name = "max" if kind == MAX else "avg"
    case = Case((5, 7, 1), [ConvSpec(5, 1), PoolSpec(AVG, 1), PoolSpec(kind, 3)], 3)
    layer, own, below, work, queue = case.layer, case.own, case.below, case.work, case.queue
    x, slopes, grad = case.random(layer, 5, 7), case.random(layer, 5, 7), case.random(layer, 1, 2)
    case.put(below.y, x)
    case.put(below.slopes, slopes)
    pooling.pool_forward(queue, below.y, layer, Output(own.y, work.slopes, work.codes), N_IMAGES)
    queue.run()
    np.testing.assert_allclose(case.got(own.y, 1, 2, 5), reference_conv.pool_forward(x, (3, 3), name), **case.limits)
    queue = Queue()
    grad_maps = own.slopes._replace(data=zeros(own.slopes.data.size, case.dtype))
    case.put(grad_maps, grad)
    pooling.pool_backward(queue, below.y, own.y, grad_maps, layer, place_of(work, layer["input"]), N_IMAGES)
    queue.run()
    expected = slopes * reference_conv.pool_backward(x, grad, (3, 3), name)
    np.testing.assert_allclose(case.got(below.slopes, 5, 7, 5), expected, **case.limits)


def test_sine_and_cosine():
    compute = sine_cosine(numba.float64)
    angles = np.linspace(-np.pi, np.pi, 101)
    got = np.array([compute(np.float64(angle)) for angle in angles])
    np.testing.assert_allclose(got, np.stack([np.sin(angles), np.cos(angles)], axis=1), atol=2e-15)


def test_tiles():
    sizes = [(256 * 32 * 32, 128), (256 * 32 * 32, 32), (256 * 32 * 32, 16), (49, 7)]
    several = [product.Tile(*sizes) for sizes in [(128, 128, 8, 8), (128, 32, 8, 8), (64, 16, 16, 4), (32, 32, 32, 4)]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv2d, "TILES", tuple(several))
        patch.setattr(conv2d, "n_processors", lambda: 132)
        assert [conv2d.choose_tile(*size, np.float32) for size in sizes] == several
        assert conv2d.choose_tile(*sizes[0], np.float64).own == 4


# ---------------------------------------------------------------- whole networks


def classifier(**parameters):
    settings = dict(conv_layers=(3, "max_pool", 2), hidden_layer_sizes=(4,), max_iter=1, batch_size=3, random_state=0)
    return ConvClassifier(**{**settings, "conv_algorithm": "direct", **parameters})


def both(model, X=X, y=Y, **kwargs):
    """The model fitted on the CPU, and on the GPU."""
    return fit(model, X, y, **kwargs), fit(clone(model).set_params(device="cuda"), X, y, **kwargs)


def agree(cpu, gpu, X=X):
    assert type(gpu.params_) is np.ndarray and gpu.params_.dtype == cpu.params_.dtype
    np.testing.assert_allclose(gpu.params_, cpu.params_, rtol=0, atol=1e-5)
    np.testing.assert_allclose(gpu.loss_curve_, cpu.loss_curve_, rtol=1e-5)
    np.testing.assert_allclose(gpu.predict_proba(X), cpu.predict_proba(X), rtol=0, atol=1e-5)
    np.testing.assert_allclose(gpu.transform(X), cpu.transform(X), rtol=0, atol=1e-4)


NETWORKS = {
    "plain": {},
    "tanh-dropout": {"activation": "tanh", "dropout": 0.4, "solver": "sgd", "max_grad_norm": 0.5, "max_iter": 2},
    "batch_norm": {"conv_layers": (3, "max_pool", (2, 1, 2)), "batch_norm": True, "solver": "sgd", "max_iter": 2},
    "residual": {"conv_layers": (("residual", 3), ("residual", 3), "global_avg_pool"), "batch_norm": True},
    "residual-strided": {"conv_layers": (3, ("residual", 4, 2), "avg_pool"), "activation": "silu"},
    "adamw-padded": {"conv_layers": ((2, 3, 2),), "solver": "adamw", "alpha": 0.1, "activation": "gelu"},
    "no-convolution": {"conv_layers": (), "normalize": False, "solver": "sgd", "learning_rate_init": 1e-6},
    "valid-strided": {"conv_layers": ((3, 2), (16, 2, 2)), "padding": "valid", "hidden_layer_sizes": ()},
    "shift": {"augment": Augmentation(0.5, 0.5, shift=1, brightness=0.3), "conv_layers": (2,), "max_iter": 2},
    "rotation": {"augment": {"rotation": 30.0, "horizontal_flip": 0.5, "shift": 1}, "conv_layers": (2,)},
}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_fit(name):
    weights = np.linspace(0.5, 2, len(Y))
    agree(*both(classifier(**NETWORKS[name]), sample_weight=weights))


def test_poolings_on_poolings():
    X = np.random.default_rng(1).normal(size=(4, 9, 8, 1)).astype(np.float32)
    layers = (2, "max_pool", "max_pool", "avg_pool")
    agree(*both(classifier(conv_layers=layers, hidden_layer_sizes=()), X, Y[:4]), X=X)


@pytest.mark.parametrize("kind", ["float32", "float64", "int32", "strided", "flat"])
def test_inputs(kind):
    given = np.repeat(X, 2, axis=2)[:, :, ::2] if kind == "strided" else X
    given = X.reshape(5, -1) if kind == "flat" else given if kind == "strided" else X.astype(kind)
    shape = (4, 3, -1) if kind == "flat" else None
    agree(*both(classifier(conv_layers=(2,), image_shape=shape, dtype="float32"), given), X=given)


def test_float64_several_labels_and_a_validation_set():
    y = np.stack([Y == 0, Y > 0], axis=1).astype(int)
    model = classifier(conv_layers=(3, ("residual", 2, 2)), batch_norm=True, dtype="float64", early_stopping=True)
    cpu, gpu = both(model, y=y, X_val=X[::2], y_val=y[::2])
    np.testing.assert_allclose(gpu.params_, cpu.params_, rtol=0, atol=1e-12)
    np.testing.assert_allclose(gpu.history_["val_loss"], cpu.history_["val_loss"], rtol=1e-12)
    assert gpu.validation_scores_ == cpu.validation_scores_


def test_resnet():
    X, y = np.random.default_rng(2).normal(size=(3, 4, 5, 1)), [0, 1, 1]
    model = ConvClassifier.resnet(8, 2, max_iter=1, batch_size=3, random_state=0, conv_algorithm="direct")
    agree(*both(model, X, y), X=X)


def test_winograds_table():
    """The table of a network for Winograd's algorithm has wider borders; the results are the same."""
    auto, direct = (
        fit(classifier(conv_layers=(16, 16), device="cuda", conv_algorithm=algorithm, batch_size=2), X[:2], Y[:2])
        for algorithm in ("auto", "direct")
    )
    assert (auto.network_.layers["algorithm"] == 1).any() and not (direct.network_.layers["algorithm"] == 1).any()
    np.testing.assert_array_equal(auto.params_, direct.params_)


def test_partial_fit_goes_on():
    models = [classifier(batch_norm=True), classifier(batch_norm=True, device="cuda")]
    for model in models:
        for _ in range(2):
            model.partial_fit(X, Y, classes=[0, 1, 2])
    agree(*models)


def test_batches_where_at_most_one_image_counts():
    agree(*both(classifier(conv_layers=(3,), batch_norm=True, batch_size=2)))  # the last batch has one image
    cpu, gpu = both(classifier(conv_layers=(3,), batch_norm=True, batch_size=1), X[:2], Y[:2])
    agree(cpu, gpu)
    assert not gpu.batch_norms_[0].running_mean.any()


def test_threads_in_any_order_give_the_same_bits():
    results = []
    for order in ("forward", "reversed", "shuffled"):
        simulator.set_order(order)
        model = classifier(conv_layers=(2, ("residual", 3, 2)), batch_norm=True, device="cuda", augment={"shift": 1})
        results.append(np.append(fit(model, X, Y).params_, model.predict_proba(X)))
    simulator.set_order("forward")
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


def test_an_image_alone_or_among_others():
    model = fit(classifier(batch_norm=True, device="cuda"), X, Y)
    together = model.predict_proba(X)
    for i in (0, 4):
        np.testing.assert_array_equal(model.predict_proba(X[i : i + 1])[0], together[i])


def test_pads_and_borders_stay_zero():
    network = build_images((4, 3, 2), [ConvSpec(3, 3, 2), ResidualSpec(3)], [DenseSpec(3)])
    params = initialize_images(network, np.float32, 0)
    session = conv_session.ConvSession(network, params, Loss.SOFTMAX_CROSS_ENTROPY)
    session.prepare(UpdateRule(Optimizer.ADAM, 3))
    rows = conv_session.as_images(X, (4, 3, 2), np.zeros(2), np.ones(2), np.float32)
    targets = conv_session.as_targets(Y, None, np.ones(5), 3, np.float32)
    session.train_epoch(rows, targets, EpochPlan(np.arange(5), np.full(2, 0.01), np.zeros(2), 0))
    rest = session.params.copy()
    for row in network.layers:
        for name, size in (("weight_start", row["n_in"] * row["out_stride"]), ("bias_start", row["out_stride"])):
            rest[row[name] : row[name] + size].reshape(-1, max(row["out_stride"], 1))[:, : row["n_out"]] = 0
    assert not rest.any()
    work = session._training_workspace(3)
    outputs = work.outputs.copy_to_host()
    for row, own in zip(network.image_layers[:-1], work.results, strict=False):
        start, stride, pitch, border = (
            int(row[name]) for name in ("output_start", "channel_stride", "pitch", "border")
        )
        maps = outputs[start * work.capacity :][: int(row["map_size"]) * work.capacity].reshape(work.capacity, -1)
        n_lines = maps.shape[1] // (pitch * stride)
        lines = maps[:, : n_lines * pitch * stride].reshape(work.capacity, n_lines, pitch, stride)
        inside = slice(border, border + int(row["out_height"])), slice(border, border + int(row["out_width"]))
        pixels = lines[:, *inside, : row["n_out"]]
        np.testing.assert_array_equal(pixels[0, 0, 0, 0], outputs[int(own.y.start)])
        assert pixels[:2].any()
        pixels[:] = 0
        assert not maps.any()


def test_the_result_needs_no_gpu(monkeypatch):
    gpu = fit(classifier(batch_norm=True, device="cuda"), X, Y)
    expected, stored = gpu.predict_proba(X), pickle.dumps(gpu)
    trainer.say_once.cache_clear()
    monkeypatch.setattr(device, "_is_simulated", lambda: False)
    monkeypatch.setattr(device, "find_spec", lambda name: None)
    with pytest.warns(UserWarning, match="device='cuda' computes on the CPU"):
        np.testing.assert_allclose(pickle.loads(stored).predict_proba(X), expected, atol=1e-6)


def test_too_large():
    network = build_images((5, 4, 2), [ConvSpec(3)], [DenseSpec(2)])
    session = conv_session.ConvSession(network, np.zeros(network.n_params, np.float32), Loss.SOFTMAX_CROSS_ENTROPY)
    with pytest.raises(ValueError, match=r"the output of all layers for 16777216 images has .* at most 2\*\*31 - 1"):
        session._training_workspace(2**24)
    with simulator.memory_limit(2**10), pytest.raises(MemoryError, match="The GPU has no room for another"):
        session._training_workspace(64)
