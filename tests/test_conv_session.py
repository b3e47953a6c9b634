"""Whole networks over images: gradients against the naive twin and central differences, the same bits, edges."""

import hashlib

import numpy as np
import pytest

from nbnet import random, trainer
from nbnet.cpu.conv_session import ConvSession, as_images, as_targets, channel_statistics
from nbnet.epochs import EpochPlan, UpdateRule
from nbnet.image_network import (
    ConvSpec,
    PoolSpec,
    ResidualSpec,
    build_images,
    initialize_images,
    running_mean_of,
    running_variance_of,
    scale_of,
)
from nbnet.images import Augmentation, augment_rule
from nbnet.network import Activation, DenseSpec, LayerKind, Loss, Optimizer, aligned_zeros, bias_of, weight_of
from nbnet.progress import Progress
from tests import reference
from tests.reference_conv import ImageLayers

RELU, TANH = Activation.RELU, Activation.TANH
MAX, AVG = LayerKind.MAX_POOL, LayerKind.AVG_POOL
CLASSES = 3


class Problem:
    """A small network with images, its session, and its twin."""

    def __init__(self, shape, specs, dense=(5,), n=6, dtype=np.float64, padding="same", hidden=TANH, **options):
        rng = np.random.default_rng(3)
        algorithm = options.pop("algorithm", "auto")
        self.specs, self.padding, self.dtype, self.hidden = specs, padding, dtype, hidden
        dense_specs = [DenseSpec(width, hidden) for width in dense] + [DenseSpec(CLASSES)]
        self.network = build_images(shape, specs, dense_specs, padding=padding, algorithm=algorithm)
        self.params = initialize_images(self.network, dtype, 5)
        for row in self.convs:
            if row["scale_start"] >= 0:
                scale_of(self.params, row)[:] = rng.uniform(0.5, 1.5, row["n_out"])
                bias_of(self.params, row)[:] = rng.normal(size=row["n_out"])
        self.X = rng.normal(size=(n, *shape)).astype(dtype)
        self.target = rng.integers(0, CLASSES, n)
        self.weights = rng.uniform(0.5, 2, n)
        self.mean, self.deviation = rng.normal(size=shape[2]), rng.uniform(0.5, 2, shape[2])
        self.rows = as_images(self.X, shape, self.mean, self.deviation, dtype)
        self.session = ConvSession(self.network, self.params, Loss.SOFTMAX_CROSS_ENTROPY, **options)

    @property
    def convs(self):
        return [row for row in self.network.layers if row["kind"] == LayerKind.CONV2D]

    @property
    def targets(self):
        return as_targets(self.target, None, self.weights, CLASSES, self.dtype)

    def arrays(self, params):
        for row in self.convs:
            norm = [None] * 3
            if row["scale_start"] >= 0:
                norm = [f(params, row).astype(float) for f in (scale_of, running_mean_of, running_variance_of)]
            yield weight_of(params, row).astype(float), bias_of(params, row).astype(float), *norm

    def dense_arrays(self, params):
        layers = self.network.dense.layers
        return [[f(params, row).astype(float) for row in layers] for f in (weight_of, bias_of)]

    def naive(self, params, training=True, rows=slice(None)):
        """Loss and gradients: of convolutions (weight, bias, scale), of dense weights and biases; the twin itself."""
        twin = ImageLayers(self.specs, self.padding, self.arrays(params), self.X.shape[3])
        x = (self.X[rows].astype(float) - self.mean) / self.deviation
        weights = self.weights[rows]
        features = twin.forward(x, weights if training else None)
        names = [self.hidden.name.lower()] * (len(self.network.dense.layers) - 1) + ["identity"]
        dense = self.dense_arrays(params)
        loss, grad_weights, grad_biases, grad_x = dense_gradients(features, *dense, names, self.target[rows], weights)
        _, grads = twin.backward(grad_x)
        return loss, grads, grad_weights, grad_biases

    def step(self, batch_size=None, **prepare):
        """The gradient, as the parameters' change in one step of SGD with rate 1."""
        before, n = self.params.copy(), len(self.X)
        self.session.prepare(UpdateRule(Optimizer.SGD, batch_size or n, momentum=0.0, nesterov=False, **prepare))
        loss = self.session.train_epoch(self.rows, self.targets, EpochPlan(np.arange(n), np.ones(1), np.zeros(1), 0))
        return loss, before - self.params, before

    def pads(self, vector):
        rest = vector.copy()
        for row in self.network.layers:
            if row["kind"] in (LayerKind.CONV2D, LayerKind.DENSE):
                weight_of(rest, row)[:] = 0
                bias_of(rest, row)[:] = 0
            if row["kind"] == LayerKind.CONV2D and row["scale_start"] >= 0:
                for f in (scale_of, running_mean_of, running_variance_of):
                    f(rest, row)[:] = 0
        return rest


def dense_gradients(x, weights, biases, activations, target, sample_weights):
    """Loss, gradients of the dense layers and of their input."""
    xs, zs = [x], []
    for weight, bias, name in zip(weights, biases, activations, strict=True):
        zs.append(xs[-1] @ weight + bias)
        xs.append(reference.ACTIVATIONS[name][0](zs[-1]))
    p = reference.softmax(zs[-1])
    share = sample_weights / sample_weights.sum()
    loss = -np.sum(share * np.log(p[np.arange(len(x)), target]))
    grad = share[:, None] * (p - np.eye(p.shape[1])[target])
    grad_weights, grad_biases = [], []
    for k in range(len(weights) - 1, -1, -1):
        grad_weights.insert(0, xs[k].T @ grad)
        grad_biases.insert(0, grad.sum(axis=0))
        grad = grad @ weights[k].T
        if k:
            grad = grad * reference.ACTIVATIONS[activations[k - 1]][1](zs[k - 1])
    return loss, grad_weights, grad_biases, grad


def check_gradient(problem, tolerance, **prepare):
    """One step of the session against the twin."""
    loss, change, before = problem.step(**prepare)
    expected, grads, grad_weights, grad_biases = problem.naive(before)
    assert loss == pytest.approx(expected, rel=tolerance)
    for row, (grad_weight, grad_bias, grad_scale) in zip(problem.convs, grads, strict=True):
        np.testing.assert_allclose(weight_of(change, row), grad_weight, atol=tolerance)
        np.testing.assert_allclose(bias_of(change, row), grad_bias, atol=tolerance)
        if grad_scale is not None:
            np.testing.assert_allclose(scale_of(change, row), grad_scale, atol=tolerance)
    for row, weight, bias in zip(problem.network.dense.layers, grad_weights, grad_biases, strict=True):
        np.testing.assert_allclose(weight_of(change, row), weight, atol=tolerance)
        np.testing.assert_allclose(bias_of(change, row), bias, atol=tolerance)
    assert not problem.pads(problem.params).any()


C = ConvSpec
CASES = {
    "plain": ((9, 7, 1), [C(3), PoolSpec(MAX), C(5), PoolSpec(MAX)]),
    "wide": ((8, 12, 3), [C(16), PoolSpec(MAX, 3), C(17, 1)]),
    "no convolution": ((5, 4, 2), []),
    "pool first": ((9, 8, 3), [PoolSpec(MAX), C(4, activation=TANH), PoolSpec(AVG, 3)]),
    "pools": ((12, 12, 2), [C(3), PoolSpec(MAX), PoolSpec(MAX, 3), C(4, activation=TANH)]),
    "global": ((7, 6, 2), [C(16, 5, activation=TANH), PoolSpec(AVG, None)]),
    "strides": ((11, 9, 2), [C(4, 3, 2, TANH), C(5, 5, 3), C(3, 1, 2)]),
    "even filters": ((9, 10, 1), [C(4, 2, activation=TANH), C(3, 4, 2)]),
    "large filter": ((9, 8, 1), [C(4, 7, activation=TANH), C(3, 9)]),
    "one pixel": ((1, 1, 3), [C(4, activation=TANH), C(5, activation=TANH)]),
    "row": ((1, 21, 1), [C(4, activation=TANH), C(3, 5, 2)]),
    "norm": ((7, 9, 2), [C(4, batch_norm=True), PoolSpec(MAX), C(17, activation=TANH, batch_norm=True)]),
    "norm and not": ((8, 6, 2), [C(4), C(4, batch_norm=True, activation=TANH), PoolSpec(AVG), C(3), C(2)]),
    "residual": ((6, 7, 3), [C(4, activation=TANH), ResidualSpec(4, 1, TANH), ResidualSpec(5, 2, TANH)]),
    "residual norm": ((7, 8, 2), [ResidualSpec(2, 1, TANH, True), ResidualSpec(6, 2, TANH, True), PoolSpec(AVG, None)]),
    "residual on images": ((6, 6, 3), [ResidualSpec(3, 1, TANH), PoolSpec(MAX)]),
    "winograd": ((9, 6, 1), [C(32, activation=TANH), C(32), PoolSpec(MAX), C(48, activation=TANH)]),
}
WINOGRAD = {
    f"winograd {height}x{width}": ((height, width, 32), [C(32, activation=TANH), C(32, activation=TANH)])
    for height, width in ((1, 3), (4, 8), (5, 7), (6, 10), (14, 11))
}


@pytest.mark.parametrize("name", list(CASES))
def test_gradient_equals_the_naive_twin(name):
    check_gradient(Problem(*CASES[name]), 1e-11)


@pytest.mark.slow_without_jit
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("name", list(WINOGRAD))
def test_winograd_gradient_equals_the_naive_twin(name, padding):
    if padding == "valid" and name in ("winograd 1x3", "winograd 4x8"):
        pytest.skip("nothing would be left")
    check_gradient(Problem(*WINOGRAD[name], n=5, padding=padding), 1e-11)


def train(problem, n_jobs, dtype=np.float32, epochs=2, batch_size=16, **prepare):
    """Trains some epochs with `n_jobs` workers; the session."""
    params = aligned_zeros(problem.network.n_params, dtype)
    params[:] = problem.params
    options = dict(augment=problem.session.augment, n_jobs=n_jobs)
    session = ConvSession(problem.network, params, Loss.SOFTMAX_CROSS_ENTROPY, **options)
    session.prepare(UpdateRule(Optimizer.ADAM, batch_size, alpha=0.1, seed=3, **prepare))
    n = problem.rows.n_rows
    n_batches = -(-n // batch_size)
    for epoch in range(epochs):
        order, rates = random.permutation(0, epoch, n), np.full(n_batches, 0.01)
        loss = session.train_epoch(
            problem.rows, problem.targets, EpochPlan(order, rates, np.zeros(n_batches), epoch * n_batches)
        )
    return session, loss


def digest(problem, n_jobs, **settings):
    session, loss = train(problem, n_jobs, **settings)
    losses = np.array([loss, session.evaluate(problem.rows, problem.targets)])
    parts = [session.params, losses, session.predict(problem.rows), session.transform(problem.rows)]
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


BITS = {
    "plain": ((10, 10, 32), [C(32), PoolSpec(MAX), C(20, 5)]),
    "norm": ((9, 8, 3), [C(16, batch_norm=True), ResidualSpec(32, 2, RELU, True), ResidualSpec(32, 1, RELU, True)]),
}


@pytest.mark.slow_without_jit
@pytest.mark.parametrize("max_grad_norm", [0.0, 0.1])
@pytest.mark.parametrize("name", list(BITS))
def test_same_bits_for_any_number_of_workers(name, max_grad_norm):
    rule = augment_rule(Augmentation(horizontal_flip=0.5, shift=1), np.zeros(BITS[name][0][2]))
    problem = Problem(*BITS[name], dense=(20,), n=53, dtype=np.float32, augment=rule)
    assert len({digest(problem, n, max_grad_norm=max_grad_norm) for n in (1, 2, 3, 8)}) == 1


@pytest.mark.slow_without_jit
@pytest.mark.parametrize("name", list(BITS))
def test_one_image_alone_or_in_a_batch(name):
    problem = Problem(*BITS[name], n=150, dtype=np.float32)
    together = problem.session.predict(problem.rows)
    for i in range(0, 150, 13):
        alone = problem.rows._replace(start=problem.rows.start + i * problem.rows.row_stride, n_rows=1)
        np.testing.assert_array_equal(problem.session.predict(alone)[0], together[i])


@pytest.mark.parametrize("name", ["norm", "residual", "winograd", "wide"])
def test_pads_and_borders_stay_zero(name):
    problem = Problem(*CASES[name], dtype=np.float32)
    session, _ = train(problem, 1, batch_size=4)
    assert not problem.pads(session.params).any()
    n = problem.network.n_params
    assert not problem.pads(session.moments[:n]).any()
    net, layers = session._net, session.image_layers
    capacity = session._work.capacity
    for row in layers[:-1]:
        start = int(row["output_start"]) * capacity
        maps = net.shared[start : start + int(row["map_size"]) * capacity].reshape(capacity, -1)
        rows = maps.shape[1] // int(row["pitch"] * row["channel_stride"])
        maps = maps[:, : rows * int(row["pitch"] * row["channel_stride"])]
        maps = maps.reshape(capacity, rows, int(row["pitch"]), -1).copy()
        b = int(row["border"])
        maps[:, b : b + row["out_height"], b : b + row["out_width"], : row["n_out"]] = 0
        assert not maps.any()


@pytest.mark.parametrize("name", ["norm", "residual norm", "plain"])
def test_evaluate_predict_and_transform(name):
    problem = Problem(*CASES[name])
    if name != "plain":
        train_state = np.random.default_rng(0).uniform(0.5, 2, problem.session.state.size)
        for row in problem.convs:
            for f in (running_mean_of, running_variance_of):
                f(problem.params, row)[:] = train_state[: row["n_out"]]
    loss, *_ = problem.naive(problem.params, training=False)
    assert problem.session.evaluate(problem.rows, problem.targets) == pytest.approx(loss, rel=1e-12)
    twin = ImageLayers(problem.specs, "same", problem.arrays(problem.params), problem.X.shape[3])
    x = twin.forward((problem.X - problem.mean) / problem.deviation)
    (w1, w2), (b1, b2) = problem.dense_arrays(problem.params)
    hidden = np.tanh(x @ w1 + b1)
    np.testing.assert_allclose(problem.session.transform(problem.rows), hidden, atol=1e-12)
    np.testing.assert_allclose(problem.session.predict(problem.rows), reference.softmax(hidden @ w2 + b2), rtol=1e-11)
    assert problem.session.predict(problem.rows._replace(n_rows=0)).shape == (0, CLASSES)


def test_running_statistics_move_by_a_tenth():
    problem = Problem((5, 4, 2), [C(3, batch_norm=True)])
    before = problem.params.copy()
    problem.session.prepare(UpdateRule(Optimizer.SGD, 6, momentum=0.0))
    problem.session.train_epoch(problem.rows, problem.targets, EpochPlan(np.arange(6), np.zeros(1), np.zeros(1), 0))
    twin = ImageLayers(problem.specs, "same", problem.arrays(before), 2)
    twin.forward((problem.X - problem.mean) / problem.deviation, problem.weights)
    mean, variance, _ = twin.steps[0].statistics
    row = problem.convs[0]
    np.testing.assert_allclose(running_mean_of(problem.params, row), 0.1 * mean, atol=1e-14)
    np.testing.assert_allclose(running_variance_of(problem.params, row), 0.9 + 0.1 * variance, atol=1e-14)


def test_a_batch_with_one_effective_row_takes_the_running_statistics():
    problem = Problem((5, 4, 2), [C(3, activation=TANH, batch_norm=True), C(2, activation=TANH, batch_norm=True)])
    problem.weights[1:] = 0
    state = problem.session.state.copy()
    check_gradient(problem, 1e-12)
    np.testing.assert_array_equal(problem.session.state, state)


def test_rows_of_weight_zero_change_nothing():
    problem = Problem(*CASES["norm"], n=8)
    problem.weights[::3] = 0
    _, change, _ = problem.step()
    kept = np.flatnonzero(problem.weights)
    other = Problem(*CASES["norm"], n=8)
    other.X, other.target, other.weights = other.X[kept], other.target[kept], problem.weights[kept]
    other.rows = as_images(other.X, other.X.shape[1:], other.mean, other.deviation, np.float64)
    _, expected, _ = other.step()
    np.testing.assert_allclose(change, expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_input_of_any_type_and_layout(dtype):
    problem = Problem((4, 6, 3), [C(4)], dtype=dtype)
    X = np.random.default_rng(1).integers(0, 256, (6, 4, 6, 3)).astype(np.uint8)
    expected = None
    forms = [X, X.astype(np.float32), X.astype(np.float64), np.asfortranarray(X), X.astype(np.int64), X[::-1][::-1]]
    forms += [np.repeat(X, 2, axis=2)[:, :, ::2], X.reshape(6, -1), np.asfortranarray(X.reshape(6, -1))]
    for form in forms:
        rows = as_images(form, (4, 6, 3), [100.0, 120.0, 140.0], [50.0, 60.0, 70.0], dtype)
        got = problem.session.predict(rows)
        expected = got if expected is None else expected
        np.testing.assert_array_equal(got, expected)


def test_channel_statistics():
    X = np.random.default_rng(0).integers(0, 256, (600, 3, 2, 2)).astype(np.uint8)
    X[..., 1] = 7
    mean, deviation = channel_statistics(X, (3, 2, 2))
    np.testing.assert_allclose(mean, X.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(deviation, [X[..., 0].std(), 1.0])


@pytest.mark.slow_without_jit
def test_the_trainer_drives_it():
    rng = np.random.default_rng(0)
    problem = Problem(
        (8, 8, 1), [C(8, batch_norm=True), PoolSpec(MAX), C(16), PoolSpec(AVG, None)], n=120, dtype=np.float32
    )
    problem.X[:] = rng.normal(size=problem.X.shape)
    problem.target = np.arange(120) % 3
    for i, label in enumerate(problem.target):  # a bright line: across, down, none
        if label < 2:
            problem.X[i, 3] += 3 * (label == 0)
            problem.X[i, :, 4] += 3 * (label == 1)
    defaults = dict(
        solver="adam", alpha=1e-4, batch_size=32, learning_rate="one_cycle", learning_rate_init=0.01, power_t=0.5,
        max_iter=15, shuffle=True, tol=1e-4, verbose=False, momentum=0.9, nesterovs_momentum=True, early_stopping=True,
        beta_1=0.9, beta_2=0.999, epsilon=1e-8, n_iter_no_change=20, max_fun=0, warmup_fraction=0.0, max_grad_norm=None,
    )  # fmt: skip
    data = trainer.Data(problem.rows, problem.targets, np.arange(120))
    validation = trainer.Validation(problem.rows, problem.targets, lambda session, loss: -loss)
    training = trainer.StochasticTraining(
        problem.session, data, trainer.Settings(**defaults), Progress.start(early_stopping=True), None, seed=1,
        validation=validation,
    )  # fmt: skip
    outcome = training.run(15)
    best = ConvSession(problem.network, outcome.params, Loss.SOFTMAX_CROSS_ENTROPY)
    assert best.evaluate(problem.rows, problem.targets) == pytest.approx(-training.progress.best_validation_score)
    assert np.mean(best.predict(problem.rows).argmax(axis=1) == problem.target) > 0.95


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([C(4), PoolSpec(MAX), PoolSpec(MAX), PoolSpec(MAX)], "layer 4 'max_pool': the image is already 1x1"),
        ([C(4), C(4, 6)], "layer 2 'conv 6x6, 4': the image is already 2x3"),
    ],
)
def test_what_leaves_nothing_is_named(specs, message):
    with pytest.raises(ValueError, match=message):
        build_images((4, 5, 1), specs, [DenseSpec(2)], padding="valid" if len(specs) == 2 else "same")


def test_entries_are_shown_as_written():
    with pytest.raises(ValueError, match=r"layer 2 \(8, 5\): the image is already 3x3"):
        build_images((3, 3, 1), [C(4, 1), C(8, 5)], [DenseSpec(2)], padding="valid", entries=[(4, 1), (8, 5)])
