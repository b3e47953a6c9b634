"""Losses, links, sums and dropout on the device equal their naive twins in float64."""

import numpy as np
import pytest

from nbnet.cuda import losses
from nbnet.cuda.dense import matrix
from nbnet.cuda.dropout import dropout_forward
from nbnet.cuda.launch import Queue, empty, upload
from nbnet.cuda.session import as_targets
from nbnet.cuda.walk import Batch, LossRule, Rule, StepRule
from nbnet.network import DenseSpec, Loss, build
from tests import reference

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
SHAPES = pytest.mark.parametrize(("n_rows", "n_outputs"), [(1, 1), (7, 3), (5, 40)])
STRIDE = 48


def tolerance(dtype):
    return dict(rtol=2e-6, atol=2e-6) if dtype == np.float32 else dict(rtol=1e-13, atol=1e-14)


class Case:
    """Outputs of a batch that starts at position 2 of a shuffled order; targets of 9 + n_rows rows."""

    def __init__(self, loss, n_rows, n_outputs, dtype, smoothing=0.0):
        rng = np.random.default_rng(n_rows + n_outputs)
        n = n_rows + 9
        self.loss, self.n_rows, self.n_outputs, self.dtype = loss, n_rows, n_outputs, dtype
        self.z = (3 * rng.normal(size=(n_rows, n_outputs))).astype(dtype)
        self.weights = rng.uniform(0.5, 2, n).astype(dtype)
        order = rng.permutation(n).astype(np.uint32)
        self.rows = order[2 : 2 + n_rows]
        if loss == Loss.SOFTMAX_CROSS_ENTROPY:
            self.target = rng.integers(0, n_outputs, n)
            self.targets = as_targets(self.target, None, self.weights, n_outputs, dtype)
        else:
            self.target = rng.integers(0, 2, (n, n_outputs)) + 0.25 * (loss != Loss.SIGMOID_CROSS_ENTROPY)
            self.targets = as_targets(None, self.target, self.weights, n_outputs, dtype)
        self.batch = Batch(upload(order), upload(np.array([2, 1, 0], np.uint32)))
        self.smoothing = smoothing
        nothing = StepRule(*[dtype(0)] * 4)
        self.rule = Rule(int(loss), LossRule(dtype(0.3), dtype(smoothing)), 0, False, nothing, 0.0, 0)

    def upload(self, values):
        room = np.zeros((self.n_rows, STRIDE), self.dtype)
        room[:, : self.n_outputs] = values
        return matrix(upload(room), 0, STRIDE)

    def expected(self):
        z, target = self.z.astype(float), self.target[self.rows]
        if self.loss == Loss.SOFTMAX_CROSS_ENTROPY:
            return reference.softmax_cross_entropy(z, target, self.smoothing)
        if self.loss == Loss.SIGMOID_CROSS_ENTROPY:
            target = target * (1 - self.smoothing) + self.smoothing / 2
        value, slope = reference.LOSSES[self.loss.name.lower()]
        return value(z, target, 0.3).sum(axis=1), slope(z, target, 0.3)


@DTYPES
@SHAPES
@pytest.mark.parametrize("loss", list(Loss))
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses(loss, n_rows, n_outputs, dtype, smoothing):
    case = Case(loss, n_rows, n_outputs, dtype, smoothing)
    grad_z, left, queue = case.upload(0), empty(n_rows + 9, dtype), Queue()
    scales = upload(np.array([np.nan, 0.7], dtype))
    losses.apply_loss(queue, case.upload(case.z), case.targets, case.batch, scales, case.rule, grad_z, left, n_rows)
    queue.run()
    row_losses, slopes = case.expected()
    weights = case.weights[case.rows].astype(float)
    left = left.copy_to_host()
    np.testing.assert_allclose(left[2 : 2 + n_rows], weights * row_losses, **tolerance(dtype))
    assert np.isnan(left[:2]).all() and np.isnan(left[2 + n_rows :]).all()
    got = grad_z.data.copy_to_host().reshape(n_rows, STRIDE)
    np.testing.assert_allclose(got[:, :n_outputs], slopes * (0.7 * weights)[:, None], **tolerance(dtype))
    assert not got[:, n_outputs:].any()


@DTYPES
@pytest.mark.parametrize("loss", [Loss.SOFTMAX_CROSS_ENTROPY, Loss.SIGMOID_CROSS_ENTROPY])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_any_number_of_labels(loss, dtype, smoothing):
    n_rows, n_classes, rng = 5, 40, np.random.default_rng(0)
    case = Case(loss, n_rows, n_classes, dtype, smoothing)
    indicator = rng.random((n_rows + 9, n_classes)) < 0.1
    indicator[case.rows[0]], indicator[case.rows[1]] = loss == Loss.SOFTMAX_CROSS_ENTROPY, np.arange(n_classes) == 39
    starts = np.append(0, np.cumsum(indicator.sum(axis=1)))
    targets = as_targets(np.nonzero(indicator)[1], None, case.weights, n_classes, dtype, starts)
    grad_z, left, queue = case.upload(0), empty(n_rows + 9, dtype), Queue()
    scales = upload(np.array([np.nan, 0.7], dtype))
    losses.apply_loss(queue, case.upload(case.z), targets, case.batch, scales, case.rule, grad_z, left, n_rows)
    queue.run()
    z, target, weights = case.z.astype(float), indicator[case.rows].astype(float), case.weights[case.rows].astype(float)
    if loss == Loss.SOFTMAX_CROSS_ENTROPY:
        row_losses, slopes = reference.softmax_cross_entropy(z, target, smoothing)
    else:
        target = target * (1 - smoothing) + smoothing / n_classes
        value, slope = reference.LOSSES["sigmoid_cross_entropy"]
        row_losses, slopes = value(z, target, 0).sum(axis=1), slope(z, target, 0)
    np.testing.assert_allclose(left.copy_to_host()[2 : 2 + n_rows], weights * row_losses, **tolerance(dtype))
    got = grad_z.data.copy_to_host().reshape(n_rows, STRIDE)
    np.testing.assert_allclose(got[:, :n_classes], slopes * (0.7 * weights)[:, None], **tolerance(dtype))
    assert not got[:, n_classes:].any()


@DTYPES
@SHAPES
@pytest.mark.parametrize("loss", list(Loss))
def test_inverse_link(loss, n_rows, n_outputs, dtype):
    case = Case(loss, n_rows, n_outputs, dtype)
    out, queue = matrix(empty((n_rows + 3) * n_outputs, dtype), 0, n_outputs), Queue()
    losses.apply_inverse_link(queue, case.upload(case.z), loss, n_outputs, case.batch, out, n_rows)
    queue.run()
    got = out.data.copy_to_host().reshape(-1, n_outputs)
    expected = reference.inverse_link(loss.name.lower(), case.z.astype(float))
    np.testing.assert_allclose(got[2 : 2 + n_rows], expected, **tolerance(dtype))
    assert np.isnan(got[:2]).all() and np.isnan(got[2 + n_rows :]).all()


def test_a_logit_far_from_the_others():
    case = Case(Loss.SOFTMAX_CROSS_ENTROPY, 7, 3, np.float32)
    case.z[:, 1] = 1e4
    grad_z, left, queue = case.upload(0), empty(16, np.float32), Queue()
    scales = upload(np.ones(2, np.float32))
    losses.apply_loss(queue, case.upload(case.z), case.targets, case.batch, scales, case.rule, grad_z, left, 7)
    queue.run()
    row_losses = np.where(case.target[case.rows] == 1, 0, 1e4 - case.z[np.arange(7), case.target[case.rows]])
    np.testing.assert_allclose(left.copy_to_host()[2:9], case.weights[case.rows] * row_losses, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("n", "batch_size"), [(1, 1), (700, 300), (600, 300)])
def test_sum_of_batches(n, batch_size, order):
    values = np.random.default_rng(0).normal(size=n).astype(np.float32)
    sums, queue = empty(-(-n // batch_size), np.float32), Queue()
    losses.sum_of_batches(queue, upload(values), sums, batch_size)
    queue.run()
    expected = np.add.reduceat(values.astype(float), np.arange(0, n, batch_size))
    np.testing.assert_allclose(sums.copy_to_host(), expected, atol=1e-4)


@DTYPES
@pytest.mark.parametrize("n_columns", [1, 6, 37])
def test_dropout_has_the_masks_of_the_cpu(n_columns, dtype):
    network = build(3, [DenseSpec(n_columns, dropout=0.3), DenseSpec(1)])
    layer, values = network.layers[0], np.random.default_rng(0).normal(size=(5, STRIDE)).astype(dtype)
    y, slopes, queue = matrix(upload(values), 0, STRIDE), upload(2 * values), Queue()
    batch = Batch(empty(0, np.uint32), upload(np.array([0, 0, 11], np.uint32)))
    dropout_forward(queue, y, layer, slopes, 99, batch, 1, 5)
    queue.run()
    mask = np.ones((5, STRIDE))
    mask[:, :n_columns] = reference.dropout_mask(0.3, 99, 11, 1, 5, n_columns)
    np.testing.assert_allclose(y.data.copy_to_host().reshape(5, -1), values * mask, rtol=1e-6)
    np.testing.assert_allclose(slopes.copy_to_host().reshape(5, -1), 2 * values * mask, rtol=1e-6)
