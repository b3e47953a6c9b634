"""Losses, their gradients and inverse links against naive twins."""

import numpy as np
import pytest

from nbnet.cpu import losses
from nbnet.cpu.dense import Matrix
from nbnet.cpu.session import Session, as_targets
from nbnet.cpu.walk import Record
from nbnet.network import DenseSpec, Loss, aligned_zeros, build, leading_dimension, round_up
from tests import reference

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
SIZES = pytest.mark.parametrize(("n_rows", "n_outputs"), [(1, 1), (5, 3), (9, 17), (33, 2)])


def rule_for(loss, smoothing=0.0, parameter=0.3):
    network = build(1, [DenseSpec(1)])
    session = Session(network, np.zeros(network.n_params), loss, loss_parameter=parameter, label_smoothing=smoothing)
    return session._make_rule()


def run(loss, z, targets, order, scale, smoothing):
    dtype = z.dtype
    n_rows, n_outputs = z.shape
    stride = leading_dimension(n_outputs)
    matrices = [Matrix(aligned_zeros(round_up(n_rows) * stride, dtype), 0, stride) for _ in range(2)]
    matrices[0].data.reshape(-1, stride)[:n_rows, :n_outputs] = z
    record = Record(np.ones(n_rows, dtype), np.full(n_rows, 7, dtype), np.zeros(64, dtype))
    losses.apply_loss(matrices[0], targets, order, scale, rule_for(loss, smoothing), matrices[1], record, (0, n_rows))
    grad = matrices[1].data.reshape(-1, stride)
    assert not grad[:n_rows, n_outputs:].any() and not grad[n_rows:].any()
    return np.log(record.sums) + record.gaps, grad[:n_rows, :n_outputs]


@DTYPES
@SIZES
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_softmax_cross_entropy(n_rows, n_outputs, dtype, smoothing):
    rng = np.random.default_rng(0)
    z = rng.normal(scale=3, size=(n_rows, n_outputs)).astype(dtype)
    labels, weights = rng.integers(0, n_outputs, 40), rng.random(40)
    order = rng.permutation(40)[:n_rows]
    targets = as_targets(labels, None, weights, n_outputs, dtype)
    values, grad = run(Loss.SOFTMAX_CROSS_ENTROPY, z, targets, order, 0.5, smoothing)
    expected, expected_grad = reference.softmax_cross_entropy(z.astype(float), labels[order], smoothing)
    tolerance = 2e-6 if dtype == np.float32 else 1e-14
    np.testing.assert_allclose(values, expected, rtol=tolerance, atol=tolerance)
    expected_grad *= 0.5 * targets.weights[order, None]
    np.testing.assert_allclose(grad, expected_grad, atol=tolerance)


@DTYPES
@SIZES
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("loss", [loss for loss in Loss if loss != Loss.SOFTMAX_CROSS_ENTROPY])
def test_elementwise_losses(loss, n_rows, n_outputs, dtype, smoothing):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n_rows, n_outputs)).astype(dtype)
    t, weights = rng.integers(0, 2, (40, n_outputs)).astype(dtype), rng.random(40)
    order = rng.permutation(40)[:n_rows]
    targets = as_targets(None, t, weights, n_outputs, dtype)
    values, grad = run(loss, z, targets, order, 2.0, smoothing)
    value, slope = reference.LOSSES[loss.name.lower()]
    goal = t[order].astype(float)
    if loss == Loss.SIGMOID_CROSS_ENTROPY:
        goal = goal * (1 - smoothing) + smoothing / 2
    exact = z.astype(float), goal, 0.3
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(values, value(*exact).sum(axis=1), rtol=tolerance, atol=tolerance)
    expected = slope(*exact) * 2 * targets.weights[order, None]
    np.testing.assert_allclose(grad, expected, rtol=tolerance, atol=tolerance)


@DTYPES
@SIZES
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("loss", [Loss.SOFTMAX_CROSS_ENTROPY, Loss.SIGMOID_CROSS_ENTROPY])
def test_lists_of_labels(loss, n_rows, n_outputs, dtype, smoothing):
    rng = np.random.default_rng(0)
    z = rng.normal(scale=3, size=(n_rows, n_outputs)).astype(dtype)
    indicator = rng.random((40, n_outputs)) < 0.3
    indicator[np.arange(40), rng.integers(0, n_outputs, 40)] = True
    labels, weights = np.nonzero(indicator)[1], rng.random(40)
    starts = np.append(0, np.cumsum(indicator.sum(axis=1)))
    order = rng.permutation(40)[:n_rows]
    targets = as_targets(labels, None, weights, n_outputs, dtype, starts)
    values, grad = run(loss, z, targets, order, 0.5, smoothing)
    exact = z.astype(float)
    if loss == Loss.SOFTMAX_CROSS_ENTROPY:
        expected, expected_grad = reference.softmax_cross_entropy(exact, indicator[order].astype(float), smoothing)
    else:
        value, slope = reference.LOSSES["sigmoid_cross_entropy"]
        goal = indicator[order] * (1 - smoothing) + smoothing / n_outputs
        expected, expected_grad = value(exact, goal, 0).sum(axis=1), slope(exact, goal, 0)
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(values, expected, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(grad, expected_grad * 0.5 * targets.weights[order, None], atol=tolerance)


@pytest.mark.parametrize("loss", list(Loss))
def test_huge_outputs_stay_finite(loss):
    z = np.array([[1e4, -1e4], [-1e4, 1e4]], np.float32)
    labels = [0, 0] if loss == Loss.SOFTMAX_CROSS_ENTROPY else None
    targets = as_targets(labels, np.ones((2, 2)), np.ones(2), 2, np.float32)
    values, grad = run(loss, z, targets, np.arange(2), 1.0, 0.0)
    assert np.isfinite(values).all() and np.isfinite(grad).all()


@DTYPES
@SIZES
@pytest.mark.parametrize("loss", list(Loss))
def test_inverse_link(loss, n_rows, n_outputs, dtype):
    z = np.random.default_rng(0).normal(size=(n_rows, n_outputs)).astype(dtype)
    stride = leading_dimension(n_outputs)
    matrix = Matrix(aligned_zeros(round_up(n_rows) * stride, dtype), 0, stride)
    matrix.data.reshape(-1, stride)[:n_rows, :n_outputs] = z
    out = np.full((n_rows + 2, n_outputs), 7, dtype)
    losses.apply_inverse_link(matrix, int(loss), n_outputs, out, 1, n_rows)
    expected = reference.inverse_link(loss.name.lower(), z.astype(float))
    np.testing.assert_allclose(out[1:-1], expected, rtol=2e-6 if dtype == np.float32 else 1e-14)
    assert np.all(out[0] == 7) and np.all(out[-1] == 7)
