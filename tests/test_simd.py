"""Tiles against NumPy: every operation, both precisions, several shapes."""

import numpy as np
import pytest

from nbnet import scalar
from nbnet.cpu import simd
from nbnet.cpu.simd import (
    lanes,
    lanes_below,
    one_load,
    one_store,
    row_load,
    shape,
    square_shape,
    tile_load,
    tile_max,
    tile_rank1,
    tile_store,
    tile_sum,
    tile_transpose,
    tile_zeros,
    vectors_of,
)
from nbnet.jit import BOUNDS_CHECKED, JIT_DISABLED, cpu_kernel

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def numbers(n, dtype, seed=0):
    return np.random.default_rng(seed).normal(size=n).astype(dtype)


@cpu_kernel
def copy_tile(x, y, start, stride):
    tile_store(tile_load(shape(3, 2), x, start, stride), y, 0, 2 * lanes(x))
    return vectors_of(shape(3, 2))


@DTYPES
@pytest.mark.parametrize(("start", "stride"), [(0, 64), (5, 70), (3, 0)])
def test_load_and_store(dtype, start, stride):
    x = numbers(400, dtype)
    width = 2 * lanes_of(dtype)
    y = np.zeros(3 * width, dtype)
    assert copy_tile(x, y, start, stride) == 2
    expected = [x[start + i * stride : start + i * stride + width] for i in range(3)]
    np.testing.assert_array_equal(y, np.concatenate(expected))


def lanes_of(dtype):
    return simd.VECTOR_BYTES // np.dtype(dtype).itemsize


@cpu_kernel
def combine(x, y, out, value):
    s = shape(2, 1)
    stride = lanes(x)
    a, b = tile_load(s, x, 0, stride), tile_load(s, y, 0, stride)
    results = (
        a + b,
        a - b,
        a * b,
        a / b,
        a + value,
        value - a,
        2 * a,
        scalar.fma(a, b, a),
        scalar.fma(a, 0.5, 1.0),
        scalar.maximum(a, b),
        scalar.minimum(a, 0.0),
        scalar.where_positive(a, b, -1.0),
        scalar.square_root(b * b),
        scalar.nearest_integer(a),
        scalar.power_of_two(scalar.nearest_integer(a)),
        tile_zeros(s, x) + 3.0,
        lanes_below(a, 3, 9.0),
    )
    for k, result in enumerate(results):
        tile_store(result, out, k * 2 * stride, stride)
    return tile_sum(a), tile_max(a)


@DTYPES
def test_elementwise(dtype):
    n = 2 * lanes_of(dtype)
    a, b = numbers(n, dtype, 1), numbers(n, dtype, 2)
    out = np.zeros(17 * n, dtype)
    total, largest = combine(a, b, out, 0.25)
    out = out.reshape(17, n)
    below = np.where(np.arange(n) % lanes_of(dtype) < 3, a, dtype(9))
    expected = [
        a + b,
        a - b,
        a * b,
        a / b,
        a + dtype(0.25),
        dtype(0.25) - a,
        2 * a,
        a * b + a,
        a * dtype(0.5) + 1,
        np.maximum(a, b),
        np.minimum(a, 0),
        np.where(a > 0, b, dtype(-1)),
        np.sqrt(b * b),
        np.rint(a),
        2.0 ** np.rint(a),
        np.full(n, 3),
        below,
    ]
    for row, want in zip(out, expected, strict=True):
        epsilon = 4 * np.finfo(dtype).eps
        np.testing.assert_allclose(row, want.astype(dtype), rtol=epsilon, atol=epsilon)
    assert total == pytest.approx(a.sum(dtype=np.float64), rel=1e-5)
    assert largest == a.max()


@cpu_kernel
def outer(x, w, out, n):
    total = tile_zeros(shape(4, 2), w)
    for k in range(n):
        total = tile_rank1(total, x, k, n, w, k * 2 * lanes(w))
    tile_store(total, out, 0, 2 * lanes(w))


@pytest.mark.parametrize("source", [np.float32, np.float64, np.uint8, np.int32])
@DTYPES
def test_rank1_sums_a_product_and_converts(dtype, source):
    n, width = 5, 2 * lanes_of(dtype)
    x = (10 * np.random.default_rng(0).random((4, n))).astype(source)
    w = numbers(n * width, dtype).reshape(n, width)
    out = np.zeros((4, width), dtype)
    outer(x.ravel(), w.ravel(), out.reshape(-1), n)
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(out, x.astype(dtype) @ w, rtol=tolerance, atol=tolerance)


@cpu_kernel
def convert(x, y):
    tile_store(row_load(x, 1, y), y, 0, 0)


@pytest.mark.parametrize("source", [np.float32, np.float64, np.uint8, np.int16])
@DTYPES
def test_row_load_converts(dtype, source):
    x = (100 * np.random.default_rng(0).random(64)).astype(source)
    y = np.zeros(lanes_of(dtype), dtype)
    convert(x, y)
    np.testing.assert_array_equal(y, x[1 : 1 + y.size].astype(dtype))


@cpu_kernel
def copy_elements(x, positions, y):
    for i in range(positions.size):
        one_store(one_load(x, one_load(positions, i)), y, i)


@pytest.mark.parametrize("kind", [np.int32, np.uint8])
@DTYPES
def test_elements(dtype, kind):
    x, y = numbers(260, dtype), np.zeros(3, dtype)
    copy_elements(x.reshape(13, 20), np.array([0, 255, 77], kind), y)
    np.testing.assert_array_equal(y, x[[0, 255, 77]])


@cpu_kernel
def transpose(x, y):
    s = square_shape(x)
    tile_store(tile_transpose(tile_load(s, x, 0, lanes(x))), y, 0, lanes(x))


@DTYPES
def test_transpose(dtype):
    n = lanes_of(dtype)
    x = numbers(n * n, dtype)
    y = np.zeros_like(x)
    transpose(x, y)
    np.testing.assert_array_equal(y.reshape(n, n), x.reshape(n, n).T)


@pytest.mark.skipif(not (BOUNDS_CHECKED or JIT_DISABLED), reason="positions are checked under NUMBA_BOUNDSCHECK only")
@pytest.mark.parametrize(("start", "stride"), [(-1, 64), (399, 0), (0, 200)])
def test_a_tile_beyond_its_array_is_an_error(start, stride):
    y = np.zeros(6 * lanes_of(np.float32), np.float32)
    with pytest.raises(IndexError, match="tile beyond its array"):
        copy_tile(numbers(400, np.float32), y, start, stride)


@pytest.mark.skipif(not (BOUNDS_CHECKED or JIT_DISABLED), reason="positions are checked under NUMBA_BOUNDSCHECK only")
@pytest.mark.parametrize("position", [-1, 10])
def test_an_element_beyond_its_array_is_an_error(position):
    with pytest.raises(IndexError, match="tile beyond its array"):
        copy_elements(numbers(10, np.float32), np.array([0, position]), np.zeros(2, np.float32))


def test_width_follows_the_host():
    assert simd.VECTOR_BYTES in (16, 32, 64)
    assert simd.VECTOR_WIDTH * 4 == simd.VECTOR_BYTES
    assert 16 % simd.TILE_ROWS == 0  # a weight's rows are padded to 16
