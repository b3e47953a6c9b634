"""GFLOP/s of the three products of a dense layer, beside NumPy's BLAS and the limit of the core."""

from __future__ import annotations

import time

import numba
import numpy as np

from nbnet import network
from nbnet.cpu import dense
from nbnet.cpu.simd import TILE_ROWS, TILE_VECTORS, VECTOR_BYTES, shape, tile_rank1, tile_store, tile_zeros

ROWS_MULTIPLE = 64  # buffers have room for whole tiles
PEAK_ROWS = TILE_ROWS - 1  # of the tile that measures the limit: its factors, which never change, stay in registers too


@numba.njit(nogil=True)
def fma_in_registers(x, n_steps):
    """`n_steps` rank-1 updates of one tile by numbers that stay in registers: multiply-adds and nothing else."""
    total = tile_zeros(shape(PEAK_ROWS, TILE_VECTORS), x)
    for _ in range(n_steps):
        total = tile_rank1(total, x, 0, 1, x, 0)
    tile_store(total, x, 0, x.size // PEAK_ROWS)


def _best_seconds(call, seconds_in_all: float = 0.3) -> float:
    """Fastest of the calls that fit into `seconds_in_all`, at least five, after one to warm up."""
    call()
    times, stop = [], time.perf_counter() + seconds_in_all
    while time.perf_counter() < stop or len(times) < 5:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def fma_peak(dtype: str = "float32", n_steps: int = 1_000_000) -> float:
    """GFLOP/s of one core that does nothing but multiply-adds on whole vectors."""
    x = network.aligned_zeros(4096, dtype)
    flop = 2.0 * n_steps * PEAK_ROWS * TILE_VECTORS * (VECTOR_BYTES // x.itemsize)
    return flop / _best_seconds(lambda: fma_in_registers(x, n_steps)) / 1e9


def measure(n_rows: int, n_in: int, n_out: int, dtype: str = "float32") -> dict[str, float]:
    """GFLOP/s of ``x @ weight + bias``, ``grad_y @ weight.T`` and ``x.T @ grad_y``; 2 n_rows n_in n_out flop each."""
    rng = np.random.default_rng(0)
    net = network.build(n_in, [network.DenseSpec(n_out)])
    layer = net.layers[0]
    params = network.initialize(net, dtype, seed=0)
    grads = np.zeros_like(params)
    transposed = network.aligned_zeros(net.transposed_size, dtype)

    def matrix(n_columns: int):
        stride = network.leading_dimension(n_columns)
        n = network.round_up(n_rows, ROWS_MULTIPLE)
        data = network.aligned_zeros(n * stride, dtype)
        view = data.reshape(n, stride)[:n_rows, :n_columns]
        view[:] = rng.standard_normal((n_rows, n_columns))
        return dense.Matrix(data, 0, stride), view

    x, x_view = matrix(n_in)
    y, _ = matrix(n_out)
    grad_y, grad_y_view = matrix(n_out)
    grad_x, grad_x_view = matrix(n_in)
    weight = np.ascontiguousarray(network.weight_of(params, layer))
    bias = network.bias_of(params, layer)
    transposed[: network.round_up(n_out) * int(layer["in_stride"])].reshape(-1, int(layer["in_stride"]))[
        :n_out, :n_in
    ] = weight.T
    none = np.empty(0, dtype)
    packed = network.aligned_zeros(dense.GRADIENT_ROWS * dense.PACKED_COLUMNS, dtype)
    x_numpy, grad_y_numpy = np.ascontiguousarray(x_view), np.ascontiguousarray(grad_y_view)
    y_numpy, grad_x_numpy = np.empty_like(grad_y_numpy), np.empty_like(x_numpy)
    grad_weight_numpy = np.empty_like(weight)

    calls = {
        "forward": lambda: dense.dense_forward(x, params, layer, y, none, 0, n_rows),
        "forward, BLAS": lambda: np.add(np.dot(x_numpy, weight, out=y_numpy), bias, out=y_numpy),
        # grad_x holds the slopes of the layer below: ones, anew each time, or repeated products would overflow
        "input gradient": lambda: (
            grad_x_view.fill(1),
            dense.dense_backward(grad_y, transposed, layer, grad_x, 0, n_rows),
        ),
        "input gradient, BLAS": lambda: np.dot(grad_y_numpy, weight.T, out=grad_x_numpy),
        "weight gradient": lambda: dense.dense_weight_gradient(
            x, grad_y, layer, grads, n_rows, (0, n_in), packed, False
        ),
        "weight gradient, BLAS": lambda: np.dot(x_numpy.T, grad_y_numpy, out=grad_weight_numpy),
    }
    flop = 2.0 * n_rows * n_in * n_out
    rates = {name: flop / _best_seconds(call) / 1e9 for name, call in calls.items()}
    rates["FMA peak"] = fma_peak(dtype)
    return rates
