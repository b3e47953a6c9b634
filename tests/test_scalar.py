"""The maths on tiles against NumPy in long double."""

import numpy as np
import pytest

from nbnet import scalar
from nbnet.cpu.simd import lanes, shape, tile_load, tile_store
from nbnet.jit import JIT_DISABLED, cpu_kernel
from nbnet.network import Activation, Loss
from tests import reference


@cpu_kernel
def activate_all(x, y, slopes, activation):
    s = shape(1, 1)
    for i in range(0, x.size, lanes(x)):
        z = tile_load(s, x, i, 0)
        out = scalar.activate(activation, z)
        tile_store(out, y, i, 0)
        tile_store(scalar.activation_slope(activation, z, out), slopes, i, 0)


@cpu_kernel
def loss_all(z, t, values, slopes, loss, parameter):
    s = shape(1, 1)
    for i in range(0, z.size, lanes(z)):
        a, b = tile_load(s, z, i, 0), tile_load(s, t, i, 0)
        tile_store(scalar.loss_value(loss, a, b, parameter), values, i, 0)
        tile_store(scalar.loss_slope(loss, a, b, parameter), slopes, i, 0)


@cpu_kernel
def exponentials(x, e, m, log):
    s = shape(1, 1)
    for i in range(0, x.size, lanes(x)):
        t = tile_load(s, x, i, 0)
        tile_store(scalar.exp(t), e, i, 0)
        tile_store(scalar.expm1(t), m, i, 0)
        tile_store(scalar.log1p_unit(scalar.exp(0.0 - scalar.maximum(t, 0.0 - t))), log, i, 0)


def points(dtype, limit=20.0):
    n = 64 if JIT_DISABLED else 16384
    tiny = np.logspace(-30, 0, n)
    return np.concatenate([np.linspace(-limit, limit, 2 * n), tiny, -tiny]).astype(dtype)


def ulps(result, exact):
    result, exact = np.asarray(result), np.asarray(exact, np.longdouble)
    unit = np.spacing(np.maximum(np.abs(exact).astype(result.dtype), np.finfo(result.dtype).tiny))
    return float(np.max(np.abs(result.astype(np.longdouble) - exact) / unit))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exponentials_within_their_stated_error(dtype):
    x = points(dtype)
    e, m, log = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    exponentials(x, e, m, log)
    exact = x.astype(np.longdouble)
    assert ulps(e, np.exp(exact)) <= 1.5
    assert ulps(m, np.expm1(exact)) <= 3
    assert ulps(log, np.log1p(np.exp(-np.abs(exact)))) <= 4  # the exponential inside has its own error


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp_stays_finite_beyond_its_range(dtype):
    x = np.tile(np.array([-1e30, -1000, -90, 90, 1000, 1e30, 0, 1], dtype), 16)
    e, m, log = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    exponentials(x, e, m, log)
    assert np.isfinite(e).all() and np.isfinite(m).all() and np.isfinite(log).all()
    assert e[6] == 1 and m[6] == 0
    assert np.all(np.diff(e[:6]) >= 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", list(Activation))
def test_activation_and_slope(activation, dtype):
    x = points(dtype)
    y, slopes = np.zeros_like(x), np.zeros_like(x)
    activate_all(x, y, slopes, int(activation))
    value, slope = reference.ACTIVATIONS[activation.name.lower()]
    exact = x.astype(np.float64)
    tolerance = 4e-7 if dtype == np.float32 else 1e-14
    np.testing.assert_allclose(y, value(exact), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(slopes, slope(exact), rtol=4 * tolerance, atol=4 * tolerance)


@pytest.mark.parametrize("activation", list(Activation))
def test_slope_is_the_derivative(activation):
    x = np.linspace(-4, 4, 64) + 1e-3  # no kink on a point
    h = 1e-6
    high, low, y, slopes, unused = (np.zeros_like(x) for _ in range(5))
    activate_all(x + h, high, unused, int(activation))
    activate_all(x - h, low, unused, int(activation))
    activate_all(x, y, slopes, int(activation))
    np.testing.assert_allclose(slopes, (high - low) / (2 * h), atol=1e-8)


@pytest.mark.parametrize("activation", list(Activation))
def test_not_a_number_is_not_hidden(activation):
    x = np.full(64, np.nan, np.float32)
    y, slopes = np.zeros_like(x), np.zeros_like(x)
    activate_all(x, y, slopes, int(activation))
    assert np.isnan(y).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", [loss for loss in Loss if loss != Loss.SOFTMAX_CROSS_ENTROPY])
def test_loss_and_slope(loss, dtype):
    rng = np.random.default_rng(0)
    z, t = rng.normal(size=64).astype(dtype), rng.random(64).astype(dtype)
    values, slopes = np.zeros_like(z), np.zeros_like(z)
    loss_all(z, t, values, slopes, int(loss), 0.3)
    value, slope = reference.LOSSES[loss.name.lower()]
    tolerance = 1e-6 if dtype == np.float32 else 1e-14
    exact = z.astype(np.float64), t.astype(np.float64), 0.3
    np.testing.assert_allclose(values, value(*exact), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(slopes, slope(*exact), rtol=tolerance, atol=tolerance)
