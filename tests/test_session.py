"""Whole networks: gradients against the naive twin and central differences, epochs against a plain loop, same bits."""

import hashlib
import threading

import numpy as np
import pytest
from scipy import sparse

from nbnet import random
from nbnet.cpu import session as session_module
from nbnet.cpu.session import Session, as_rows, as_targets
from nbnet.cpu.workers import Workers
from nbnet.epochs import EpochPlan, UpdateRule
from nbnet.jit import JIT_DISABLED
from nbnet.network import Activation, DenseSpec, Loss, Optimizer, aligned_zeros, bias_of, build, initialize, weight_of
from tests import reference

NAMES = {loss: loss.name.lower() for loss in Loss}


class Problem:
    """A small network with data, its session, and its parameters as the naive twin wants them."""

    def __init__(
        self, loss, sizes=(7, 20, 5), hidden=Activation.TANH, n_rows=23, dtype=np.float64, dropout=0.0, **options
    ):
        rng = np.random.default_rng(3)
        n_in, *outputs = sizes
        specs = [DenseSpec(n, hidden, dropout) for n in outputs[:-1]] + [DenseSpec(outputs[-1])]
        self.network, self.loss, self.hidden, self.dtype = build(n_in, specs), loss, hidden, dtype
        self.params = initialize(self.network, dtype, 5)
        self.X = rng.normal(size=(n_rows, n_in)).astype(dtype)
        self.weights = rng.uniform(0.5, 2, n_rows)
        n_out = outputs[-1]
        if loss == Loss.SOFTMAX_CROSS_ENTROPY:
            self.target = rng.integers(0, n_out, n_rows)
            self.targets = as_targets(self.target, None, self.weights, n_out, dtype)
        else:
            self.target = rng.integers(0, 2, (n_rows, n_out)) + 0.25 * (loss != Loss.SIGMOID_CROSS_ENTROPY)
            self.targets = as_targets(None, self.target, self.weights, n_out, dtype)
        self.options = options
        self.session = Session(self.network, self.params, loss, **options)
        self.rows = as_rows(self.X)
        self.activations = [hidden.name.lower()] * (len(outputs) - 1) + ["identity"]

    def split(self, vector):
        layers = self.network.layers
        return (
            [weight_of(vector, row).astype(float) for row in layers],
            [bias_of(vector, row).astype(float) for row in layers],
        )

    def naive(self, weights, biases, rows=slice(None), masks=None):
        target, row_weights = self.target[rows], self.weights.astype(self.dtype)[rows].astype(float)
        return reference.loss_and_gradient(
            self.X[rows].astype(float), weights, biases, self.activations, NAMES[self.loss], target, row_weights,
            self.options.get("label_smoothing", 0.0), self.options.get("loss_parameter", 0.0), masks,
        )  # fmt: skip

    def pads(self, vector):
        rest = vector.copy()
        for row in self.network.layers:
            weight_of(rest, row)[:] = 0
            bias_of(rest, row)[:] = 0
        return rest


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss", list(Loss))
def test_loss_and_gradient_equal_the_naive_twin(loss, smoothing):
    problem = Problem(loss, loss_parameter=0.3, label_smoothing=smoothing)
    value, grads = problem.session.loss_and_gradient(problem.rows, problem.targets, 0.7)
    weights, biases = problem.split(problem.params)
    expected, grad_weights, grad_biases = problem.naive(weights, biases)
    if loss == Loss.POISSON:  # scikit-learn's constant: zero loss where the prediction is exact
        constant = (problem.target * np.log(np.maximum(problem.target, 1e-300)) - problem.target).sum(axis=1)
        expected += np.average(constant, weights=problem.weights)
    total = problem.weights.sum()
    expected += 0.35 * sum((w**2).sum() for w in weights) / total
    assert value == pytest.approx(expected, rel=1e-12)
    got_weights, got_biases = problem.split(grads)
    for got, want, weight in zip(got_weights, grad_weights, weights, strict=True):
        np.testing.assert_allclose(got, want + 0.7 * weight / total, atol=1e-13)
    for got, want in zip(got_biases, grad_biases, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-13)
    assert not problem.pads(grads).any()


@pytest.mark.parametrize("activation", [a for a in Activation if a not in (Activation.RELU, Activation.LEAKY_RELU)])
@pytest.mark.parametrize("loss", [Loss.SOFTMAX_CROSS_ENTROPY, Loss.SIGMOID_CROSS_ENTROPY, Loss.POISSON])
def test_gradient_equals_central_differences(loss, activation):
    problem = Problem(loss, sizes=(3, 5, 4, 3), hidden=activation, n_rows=6)
    _, grads = problem.session.loss_and_gradient(problem.rows, problem.targets, 0.1)
    h = 1e-5
    for row in problem.network.layers:
        for view, grad in (
            (weight_of(problem.params, row), weight_of(grads, row)),
            (bias_of(problem.params, row)[None], bias_of(grads, row)[None]),
        ):
            k, j = view.shape[0] // 2, view.shape[1] // 2
            kept, values = view[k, j], []
            for shift in (h, -h):
                view[k, j] = kept + shift
                values.append(problem.session.loss_and_gradient(problem.rows, problem.targets, 0.1)[0])
            view[k, j] = kept
            assert grad[k, j] == pytest.approx((values[0] - values[1]) / (2 * h), abs=1e-8)


def epoch_by_hand(
    problem, order, batch_size, rates, decays, alpha, kind, masks=None, max_grad_norm=None, state=None, step0=0
):
    """A plain loop over batches with the naive twins; returns parameters and the epoch's loss."""
    weights, biases = problem.split(problem.params)
    arrays = [*weights, *biases]
    state = state or [[np.zeros_like(a), np.zeros_like(a)] for a in arrays]
    total = 0.0
    for batch, start in enumerate(range(0, order.size, batch_size)):
        rows = order[start : start + batch_size]
        n = len(weights)
        batch_masks = masks(batch + step0, rows.size) if masks else None
        loss, grad_weights, grad_biases = problem.naive(arrays[:n], arrays[n:], rows, batch_masks)
        grads = [*grad_weights, *grad_biases]
        scale = 1 / problem.weights.astype(problem.dtype)[rows].sum()
        if kind != "adamw":
            loss += 0.5 * alpha * scale * sum((w**2).sum() for w in arrays[:n])
        total += loss * rows.size
        if max_grad_norm:
            norm = np.sqrt(sum((g**2).sum() for g in grads))
            grads = [g * min(1, max_grad_norm / norm) for g in grads]
        for k, g in enumerate(grads):
            if k < n and kind != "adamw":
                g = g + alpha * scale * arrays[k]
            if kind in ("sgd", "nesterov"):
                arrays[k], state[k][0] = reference.sgd_step(
                    arrays[k], g, state[k][0], rates[batch], 0.9, kind == "nesterov"
                )
            else:
                decay = decays[batch] if k < n else 0.0
                arrays[k], *state[k] = reference.adam_step(
                    arrays[k], g, *state[k], step0 + batch + 1, rates[batch], 0.9, 0.999, 1e-8, decay
                )
    return arrays, total / order.size


OPTIMIZERS = {"sgd": Optimizer.SGD, "nesterov": Optimizer.SGD, "adam": Optimizer.ADAM, "adamw": Optimizer.ADAMW}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("max_grad_norm", [0.0, 0.5])
@pytest.mark.parametrize("kind", list(OPTIMIZERS))
def test_epoch_equals_a_plain_loop(kind, max_grad_norm, dtype):
    problem = Problem(Loss.SOFTMAX_CROSS_ENTROPY, sizes=(7, 20, 9, 5), dtype=dtype)
    order = random.permutation(1, 0, 23)
    rates, alpha = np.linspace(0.01, 0.002, 4), 0.3
    decays = rates * alpha if kind == "adamw" else np.zeros(4)
    arrays, loss = epoch_by_hand(problem, order, 7, rates, decays, alpha, kind, max_grad_norm=max_grad_norm)
    problem.session.prepare(
        UpdateRule(OPTIMIZERS[kind], 7, nesterov=kind == "nesterov", alpha=alpha, max_grad_norm=max_grad_norm)
    )
    result = problem.session.train_epoch(problem.rows, problem.targets, EpochPlan(order, rates, decays, 0))
    weights, biases = problem.split(problem.params)
    tolerance = 2e-6 if dtype == np.float32 else 1e-10
    assert result == pytest.approx(loss, rel=tolerance)
    for got, want in zip([*weights, *biases], arrays, strict=True):
        np.testing.assert_allclose(got, want, atol=tolerance)
    assert not problem.pads(problem.params).any()
    n = problem.network.n_params
    assert not problem.pads(problem.session.moments[:n]).any() and not problem.pads(problem.session.moments[n:]).any()


@pytest.mark.parametrize("hidden", [Activation.RELU, Activation.IDENTITY, Activation.SOFTPLUS])
def test_dropout_equals_a_plain_loop(hidden):
    problem = Problem(Loss.SQUARED_ERROR, sizes=(7, 20, 9, 2), hidden=hidden, dropout=0.3)
    order, rates = np.arange(23), np.full(4, 0.01)

    def masks(step, n_rows):
        return [reference.dropout_mask(0.3, 99, step, number, n_rows, n) for number, n in enumerate((20, 9))]

    arrays, loss = epoch_by_hand(problem, order, 7, rates, rates, 0.0, "sgd", masks, step0=4)
    problem.session.prepare(UpdateRule(Optimizer.SGD, 7, nesterov=False, seed=99))
    result = problem.session.train_epoch(problem.rows, problem.targets, EpochPlan(order, rates, np.zeros(4), 4))
    weights, biases = problem.split(problem.params)
    assert result == pytest.approx(loss, rel=1e-10)
    for got, want in zip([*weights, *biases], arrays, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)
    assert not problem.pads(problem.params).any()


@pytest.mark.parametrize("hidden", list(Activation))
def test_pads_stay_zero_after_training(hidden):
    problem = Problem(Loss.SIGMOID_CROSS_ENTROPY, sizes=(5, 18, 3), hidden=hidden, dropout=0.2, dtype=np.float32)
    problem.session.prepare(UpdateRule(Optimizer.ADAM, 6, alpha=0.1))
    for epoch in range(2):
        order = random.permutation(0, epoch, 23)
        problem.session.train_epoch(
            problem.rows, problem.targets, EpochPlan(order, np.full(4, 0.01), np.zeros(4), 4 * epoch)
        )
    assert not problem.pads(problem.params).any()
    assert not problem.pads(problem.session.moments[: problem.network.n_params]).any()


@pytest.mark.parametrize("loss", list(Loss))
def test_evaluate_and_predict(loss):
    problem = Problem(loss, dropout=0.5, loss_parameter=0.3)
    problem.session.prepare(UpdateRule(Optimizer.SGD, 8))
    weights, biases = problem.split(problem.params)
    expected, _, _ = problem.naive(weights, biases)
    if loss == Loss.POISSON:
        constant = (problem.target * np.log(problem.target) - problem.target).sum(axis=1)
        expected += np.average(constant, weights=problem.weights)
    assert problem.session.evaluate(problem.rows, problem.targets) == pytest.approx(expected, rel=1e-12)
    xs, _ = reference.forward(problem.X, weights, biases, problem.activations)
    got = problem.session.predict(problem.rows)
    np.testing.assert_allclose(got, reference.inverse_link(NAMES[loss], xs[-1]), rtol=1e-12)
    assert problem.session.predict(as_rows(problem.X[:0])).shape == (0, 5)


def test_one_row_alone_or_in_a_batch():
    problem = Problem(Loss.SOFTMAX_CROSS_ENTROPY, sizes=(7, 40, 5), n_rows=150, dtype=np.float32)
    together = problem.session.predict(problem.rows)
    for i in range(0, 150, 13):
        np.testing.assert_array_equal(problem.session.predict(as_rows(problem.X[i : i + 1]))[0], together[i])


def digest(problem, n_jobs, rows=None, batch_size=24, **prepare):
    """Trains two epochs with `n_jobs` workers; a hash of parameters, losses and predictions."""
    params = aligned_zeros(problem.network.n_params, problem.dtype)
    params[:] = problem.params
    session = Session(problem.network, params, problem.loss, n_jobs=n_jobs)
    session.prepare(UpdateRule(Optimizer.ADAM, batch_size, alpha=0.1, **prepare))
    rows = problem.rows if rows is None else rows
    n = rows.n_rows
    n_batches = -(-n // batch_size)
    rates = np.full(n_batches, 0.01)
    plans = [EpochPlan(random.permutation(0, epoch, n), rates, 0 * rates, epoch * n_batches) for epoch in range(2)]
    losses = [session.train_epoch(rows, problem.targets, plan) for plan in plans]
    full = session.loss_and_gradient(rows, problem.targets, 0.1)
    losses += [full[0], session.evaluate(rows, problem.targets)]
    parts = [params, np.array(losses), full[1], session.predict(rows)]
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


@pytest.mark.slow_without_jit
@pytest.mark.parametrize("max_grad_norm", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["dense", "csr"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_bits_for_any_number_of_workers(dtype, kind, max_grad_norm):
    problem = Problem(Loss.SOFTMAX_CROSS_ENTROPY, sizes=(300, 40, 30, 5), n_rows=101, dtype=dtype, dropout=0.1)
    rows = problem.rows if kind == "dense" else as_rows(sparse.csr_array(np.where(problem.X > 0.5, problem.X, 0)))
    digests = {digest(problem, n, rows, seed=3, max_grad_norm=max_grad_norm) for n in (1, 2, 3, 8)}
    assert len(digests) == 1


@pytest.mark.slow_without_jit
def test_csr_trains_to_the_bits_of_dense():
    problem = Problem(Loss.SQUARED_ERROR, sizes=(60, 40, 2), n_rows=50, dtype=np.float32)
    problem.X[np.abs(problem.X) < 1] = 0
    assert digest(problem, 1, as_rows(sparse.csr_array(problem.X))) == digest(problem, 2, as_rows(problem.X))


def test_float64_rows_train_a_float32_network_without_a_copy():
    problem = Problem(Loss.SQUARED_ERROR, dtype=np.float32)
    X = problem.X.astype(np.float64)
    assert digest(problem, 1, as_rows(X)) == digest(problem, 1)


def test_an_epoch_in_pieces_gives_the_same_bits(monkeypatch):
    problem = Problem(Loss.SOFTMAX_CROSS_ENTROPY)
    whole = digest(problem, 1, batch_size=5)
    monkeypatch.setattr(session_module, "FLOP_A_CALL", 1.0)
    assert digest(problem, 1, batch_size=5) == whole


def test_rows_of_weight_zero_change_nothing():
    problem = Problem(Loss.SOFTMAX_CROSS_ENTROPY)
    problem.weights[::3] = 0
    weighted = as_targets(problem.target, None, problem.weights, 5, np.float64)
    kept = problem.weights > 0
    fewer = as_targets(problem.target[kept], None, problem.weights[kept], 5, np.float64)
    loss, grads = problem.session.loss_and_gradient(problem.rows, weighted, 0.1)
    other = Session(problem.network, problem.params, problem.loss)
    expected, expected_grads = other.loss_and_gradient(as_rows(problem.X[kept]), fewer, 0.1)
    assert loss == pytest.approx(expected, rel=1e-14)
    np.testing.assert_allclose(grads, expected_grads, atol=1e-16)


def test_a_batch_of_weight_zero_is_no_division_by_zero():
    problem = Problem(Loss.SOFTMAX_CROSS_ENTROPY)
    problem.session.prepare(UpdateRule(Optimizer.SGD, 8, momentum=0.0))
    before = problem.params.copy()
    nothing = as_targets(problem.target, None, np.zeros(23), 5, np.float64)
    result = problem.session.train_epoch(
        problem.rows, nothing, EpochPlan(np.arange(23), np.full(3, 0.1), np.zeros(3), 0)
    )
    assert result == 0
    np.testing.assert_array_equal(problem.params, before)


@pytest.mark.skipif(JIT_DISABLED, reason="one worker with the JIT off")
def test_an_error_in_one_worker_reaches_the_caller_and_frees_the_others():
    from nbnet.cpu.workers import barrier

    def kernel(team):
        if team.worker == 1:
            raise IndexError("out of range")
        assert not barrier(team)

    before = threading.active_count()
    with Workers(3) as workers, pytest.raises(IndexError, match="out of range"):
        workers.run(kernel)
    assert threading.active_count() == before
