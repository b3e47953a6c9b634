"""The layer table and the vector: layout rules and initial weights."""

import numpy as np
import pytest

from nbnet.network import (
    LAYER,
    ODD_FROM,
    Activation,
    DenseSpec,
    aligned_zeros,
    bias_of,
    build,
    initialize,
    leading_dimension,
    round_up,
    weight_of,
)

SHAPES = [(1, [1]), (7, [17, 3]), (33, [64, 64, 10]), (300, [257, 1]), (784, [100, 10])]


@pytest.mark.parametrize("n", [1, 15, 16, 17, 100, 255, 256, 257, 512, 784, 1000, 1024])
def test_leading_dimension(n):
    stride = leading_dimension(n)
    assert stride >= n and stride % 16 == 0 and stride - n < 32
    if stride >= ODD_FROM:
        assert stride // 16 % 2 == 1


@pytest.mark.parametrize(("n_features", "sizes"), SHAPES)
def test_layout(n_features, sizes):
    network = build(n_features, [DenseSpec(n) for n in sizes])
    end = 0
    for row, n_in, n_out in zip(network.layers, [n_features, *sizes], sizes, strict=False):
        assert (row["n_in"], row["n_out"]) == (n_in, n_out)
        assert row["weight_start"] % 32 == 0 and row["bias_start"] % 32 == 0
        assert row["weight_start"] >= end
        assert row["bias_start"] >= row["weight_start"] + round_up(n_in) * row["out_stride"]
        end = row["bias_start"] + row["out_stride"]
    assert network.n_params >= end
    assert network.layers.dtype == LAYER


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [0, 1, 17, 1000])
def test_aligned_zeros(n, dtype):
    x = aligned_zeros(n, dtype)
    assert x.shape == (n,) and x.dtype == dtype and not x.any()
    assert x.ctypes.data % 64 == 0 or n == 0
    assert x.flags.writeable and x.flags.c_contiguous


@pytest.mark.parametrize(("n_features", "sizes"), SHAPES)
def test_views_share_the_vector_and_leave_the_pads(n_features, sizes):
    network = build(n_features, [DenseSpec(n) for n in sizes])
    params = aligned_zeros(network.n_params, np.float64)
    for row in network.layers:
        weight_of(params, row)[:] = 1
        bias_of(params, row)[:] = 1
        assert weight_of(params, row).shape == (row["n_in"], row["n_out"])
    assert params.sum() == sum((n_in + 1) * n_out for n_in, n_out in zip([n_features, *sizes], sizes, strict=False))


@pytest.mark.parametrize(("activation", "factor"), [(Activation.RELU, 6), (Activation.LOGISTIC, 2)])
def test_initial_weights(activation, factor):
    network = build(30, [DenseSpec(40, activation), DenseSpec(5)])
    params = initialize(network, np.float64, 1)
    for row in network.layers:
        bound = np.sqrt(factor / (row["n_in"] + row["n_out"]))
        weight = weight_of(params, row)
        assert np.abs(weight).max() <= bound
        assert abs(weight.mean()) < 0.2 * bound
        assert weight.std() == pytest.approx(bound / np.sqrt(3), rel=0.15)
        assert np.abs(bias_of(params, row)).max() <= bound
    n_values = sum((int(row["n_in"]) + 1) * int(row["n_out"]) for row in network.layers)
    assert np.count_nonzero(params) == n_values
    np.testing.assert_array_equal(params, initialize(network, np.float64, 1))
    assert not np.array_equal(params, initialize(network, np.float64, 2))
    np.testing.assert_array_equal(params.astype(np.float32), initialize(network, np.float32, 1))
