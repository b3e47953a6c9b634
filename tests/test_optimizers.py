"""Update rules against naive twins, over ranges."""

import numpy as np
import pytest

from nbnet.cpu import optimizers
from nbnet.cpu.session import Session
from nbnet.cpu.walk import StepSize
from nbnet.network import DenseSpec, Loss, Optimizer, aligned_zeros, build
from tests import reference


def rule_for(optimizer, **changes):
    network = build(1, [DenseSpec(1)])
    session = Session(network, np.zeros(network.n_params), Loss.SQUARED_ERROR)
    values = dict(optimizer=int(optimizer), momentum=0.9, nesterov=False, gap_1=1 - 0.9, gap_2=1 - 0.999, epsilon=1e-8)
    return session._make_rule(**{**values, **changes})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["sgd", "nesterov", "adam", "adamw", "adagrad"])
def test_steps(kind, dtype):
    rng = np.random.default_rng(0)
    n, start, stop = 96, 16, 80
    params, grads, moments = (aligned_zeros(k, dtype) for k in (n, n, 2 * n))
    params[:], grads[:] = rng.normal(size=n), rng.normal(size=n)
    optimizer = Optimizer.SGD if kind == "nesterov" else Optimizer[kind.upper()]
    rule = rule_for(optimizer, nesterov=kind == "nesterov")
    decay = 0.01 if kind == "adamw" else 0.0
    w, g = params.astype(float), grads.astype(float)
    state = [np.zeros(n), np.zeros(n)]
    if optimizer == Optimizer.ADAGRAD:
        state[0][:] = moments[:n] = 1e-3
    for t in range(1, 4):
        rate, l2, clip = 0.1 / t, 0.02, 0.5
        applied = clip * g + l2 * w
        corrected = rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) if kind.startswith("adam") else rate
        squares = optimizers.optimizer_step(
            params, grads, moments, start, stop, StepSize(corrected, l2, decay, clip), rule
        )
        assert squares == pytest.approx((w[start:stop] ** 2).sum(), rel=1e-5)
        if optimizer == Optimizer.SGD:
            new, state[0] = reference.sgd_step(w, applied, state[0], rate, 0.9, kind == "nesterov")
        elif optimizer == Optimizer.ADAGRAD:
            new, state[0] = reference.adagrad_step(w, applied, state[0], rate)
        else:
            new, *state = reference.adam_step(w, applied, *state, t, rate, 0.9, 0.999, 1e-8, decay)
        w = np.where((np.arange(n) >= start) & (np.arange(n) < stop), new, w)
        np.testing.assert_allclose(params, w, atol=2e-6 if dtype == np.float32 else 1e-13)
    untouched = moments[0] if optimizer == Optimizer.ADAGRAD else 0
    assert (moments[:start] == untouched).all() and (moments[stop:n] == untouched).all()
    assert not moments[n + stop :].any()


def test_zero_stays_zero():
    for optimizer in Optimizer:
        params, grads, moments = (aligned_zeros(k, np.float32) for k in (32, 32, 64))
        moments[:32] = start = 1e-3 if optimizer == Optimizer.ADAGRAD else 0.0
        optimizers.optimizer_step(params, grads, moments, 0, 32, StepSize(0.1, 0.1, 0.1, 1.0), rule_for(optimizer))
        assert not params.any() and (moments[:32] == np.float32(start)).all() and not moments[32:].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sum_of_squares(dtype):
    x = np.random.default_rng(0).normal(size=128).astype(dtype)
    assert optimizers.sum_of_squares(x, 16, 112) == pytest.approx((x[16:112].astype(float) ** 2).sum(), rel=1e-5)
