"""Whole networks over images: gradients against the naive twin and central differences, the same bits, edges."""


import numpy as np
import pytest

from nbnet.cpu.conv_session import ConvSession, as_images, as_targets
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
from nbnet.network import Activation, DenseSpec, LayerKind, Loss, Optimizer, bias_of, weight_of
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
        self.session.prepare(Optimizer.SGD, batch_size or n, momentum=0.0, nesterov=False, **prepare)
        loss = self.session.train_epoch(self.rows, self.targets, np.arange(n), np.ones(1), np.zeros(1), 0).loss
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
