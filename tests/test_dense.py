"""Dense kernels equal their naive twins on odd sizes, keep pads at zero, and do not depend on rows beside."""

import itertools

import numpy as np
import pytest
from scipy import sparse

from nbnet.cpu import dense
from nbnet.cpu.dense import GRADIENT_ROWS, PACKED_COLUMNS, Matrix
from nbnet.cpu.session import as_rows
from nbnet.cpu.workers import Team
from nbnet.jit import JIT_DISABLED
from nbnet.network import Activation, DenseSpec, aligned_zeros, bias_of, build, round_up, weight_of
from tests import reference

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
SIZES = [(1, 1, 1), (7, 17, 5), (16, 48, 8), (33, 65, 9)] + ([] if JIT_DISABLED else [(600, 100, 37), (300, 64, 70)])
SHAPES = pytest.mark.parametrize(("n_in", "n_out", "n_rows"), SIZES)
ACTIVATIONS = pytest.mark.parametrize("activation", [Activation.IDENTITY, Activation.RELU, Activation.LOGISTIC])


def tolerance(dtype, n):
    return dict(rtol=0, atol=(3e-7 if dtype == np.float32 else 1e-15) * (n + 10))


class Case:
    """A layer with random weights and room for its rows."""

    def __init__(self, n_in, n_out, n_rows, dtype, activation=Activation.IDENTITY):
        rng = np.random.default_rng(n_in + n_out)
        self.network = build(n_in, [DenseSpec(n_out, activation)])
        self.layer = self.network.layers[0]
        self.params = aligned_zeros(self.network.n_params, dtype)
        self.weight, self.bias = weight_of(self.params, self.layer), bias_of(self.params, self.layer)
        self.weight[:] = rng.uniform(-1, 1, self.weight.shape)
        self.bias[:] = rng.uniform(-1, 1, self.bias.shape)
        self.capacity = round_up(n_rows)
        self.none = np.empty(0, dtype)
        self.x, self.x_view = self.matrix(n_rows, n_in, self.layer["in_stride"], dtype)
        self.y, self.y_view = self.matrix(n_rows, n_out, self.layer["out_stride"], dtype)
        self.slopes, self.slopes_view = self.matrix(n_rows, n_out, self.layer["out_stride"], dtype)
        self.x_view[:] = rng.uniform(-1, 1, self.x_view.shape)

    def matrix(self, n_rows, n_columns, stride, dtype):
        data = aligned_zeros(self.capacity * int(stride), dtype)
        return Matrix(data, 0, int(stride)), data.reshape(self.capacity, -1)[:n_rows, :n_columns]

    def pads(self, matrix, view):
        return matrix.data.reshape(self.capacity, -1)[: view.shape[0], view.shape[1] :]


@DTYPES
@SHAPES
@ACTIVATIONS
def test_forward(n_in, n_out, n_rows, dtype, activation):
    case = Case(n_in, n_out, n_rows, dtype, activation)
    dense.dense_forward(case.x, case.params, case.layer, case.y, case.slopes.data, 0, n_rows)
    name = activation.name.lower()
    expected = reference.dense_forward(*(a.astype(float) for a in (case.x_view, case.weight, case.bias)), name)
    np.testing.assert_allclose(case.y_view, expected, **tolerance(dtype, n_in))
    assert not case.pads(case.y, case.y_view).any()
    z = case.x_view.astype(float) @ case.weight + case.bias
    away = np.abs(z) > 1e-3  # from relu's kink
    slope = reference.ACTIVATIONS[name][1](z)
    np.testing.assert_allclose(case.slopes_view[away], slope[away], **tolerance(dtype, n_in))


@DTYPES
@SHAPES
def test_forward_of_a_row_does_not_depend_on_its_neighbours(n_in, n_out, n_rows, dtype):
    case = Case(n_in, n_out, n_rows, dtype, Activation.RELU)
    dense.dense_forward(case.x, case.params, case.layer, case.y, case.none, 0, n_rows)
    together = case.y_view.copy()
    for i in range(n_rows):
        one = Case(n_in, n_out, 1, dtype, Activation.RELU)
        one.params[:] = case.params
        one.x_view[:] = case.x_view[i]
        dense.dense_forward(one.x, one.params, one.layer, one.y, one.none, 0, 1)
        np.testing.assert_array_equal(one.y_view[0], together[i])


@DTYPES
@SHAPES
def test_backward(n_in, n_out, n_rows, dtype):
    case = Case(n_in, n_out, n_rows, dtype)
    rng = np.random.default_rng(1)
    case.y_view[:] = rng.uniform(-1, 1, case.y_view.shape)
    slopes = case.x_view.copy()
    transposed = aligned_zeros(case.network.transposed_size, dtype)
    for worker in range(3):
        dense.transpose_weight(case.params, case.layer, transposed, Team(np.zeros(24, np.int64), worker, 3))
    block = transposed[: round_up(n_out) * int(case.layer["in_stride"])].reshape(round_up(n_out), -1)
    np.testing.assert_array_equal(block[:n_out, :n_in], case.weight.T)
    dense.dense_backward(case.y, transposed, case.layer, case.x, 0, n_rows)
    expected = reference.dense_backward(case.y_view.astype(float), case.weight.astype(float), slopes.astype(float))
    np.testing.assert_allclose(case.x_view, expected, **tolerance(dtype, n_out))
    assert not case.pads(case.x, case.x_view).any()


@DTYPES
@SHAPES
@pytest.mark.parametrize("n_parts", [1, 3])
def test_weight_gradient(n_in, n_out, n_rows, dtype, n_parts):
    case = Case(n_in, n_out, n_rows, dtype)
    case.y_view[:] = np.random.default_rng(1).uniform(-1, 1, case.y_view.shape)
    grads = aligned_zeros(case.network.n_params, dtype)
    packed = aligned_zeros(GRADIENT_ROWS * PACKED_COLUMNS, dtype)
    cuts = [16 * (part * -(-n_in // 16) // n_parts) for part in range(n_parts)] + [n_in]
    for accumulate in (False, True):
        for start, stop in itertools.pairwise(cuts):
            dense.dense_weight_gradient(case.x, case.y, case.layer, grads, n_rows, (start, stop), packed, accumulate)
        dense.bias_gradient(case.y, case.layer, grads, n_rows, accumulate)
    x, grad_y = case.x_view.astype(float), case.y_view.astype(float)
    expected = 2 * reference.dense_weight_gradient(x, grad_y)
    np.testing.assert_allclose(weight_of(grads, case.layer), expected, **tolerance(dtype, 2 * n_rows))
    np.testing.assert_allclose(
        bias_of(grads, case.layer), 2 * reference.bias_gradient(grad_y), **tolerance(dtype, 2 * n_rows)
    )
    weight_of(grads, case.layer)[:] = 0
    bias_of(grads, case.layer)[:] = 0
    assert not grads.any()


@pytest.mark.slow_without_jit
@pytest.mark.parametrize("n_in", [40, 300])
def test_weight_gradient_of_many_rows_is_one_chain(n_in):
    n_rows = 2 * GRADIENT_ROWS + 7
    case = Case(n_in, 20, n_rows, np.float64)
    case.y_view[:] = np.random.default_rng(1).uniform(-1, 1, case.y_view.shape)
    grads = aligned_zeros(case.network.n_params, np.float64)
    packed = aligned_zeros(GRADIENT_ROWS * PACKED_COLUMNS, np.float64)
    dense.dense_weight_gradient(case.x, case.y, case.layer, grads, n_rows, (0, n_in), packed, False)
    np.testing.assert_allclose(weight_of(grads, case.layer), case.x_view.T @ case.y_view, atol=1e-11)


@DTYPES
@SHAPES
def test_csr_gives_the_bits_of_dense(n_in, n_out, n_rows, dtype):
    case = Case(n_in, n_out, n_rows, dtype, Activation.RELU)
    rng = np.random.default_rng(2)
    case.x_view[rng.random(case.x_view.shape) < 0.7] = 0
    rows = as_rows(sparse.csr_array(case.x_view))
    order = np.arange(n_rows)
    dense.dense_forward(case.x, case.params, case.layer, case.y, case.slopes.data, 0, n_rows)
    other = Case(n_in, n_out, n_rows, dtype, Activation.RELU)
    dense.sparse_forward(rows, order, case.params, case.layer, other.y, other.slopes.data, 0, n_rows)
    np.testing.assert_array_equal(other.y_view, case.y_view)
    np.testing.assert_array_equal(other.slopes_view, case.slopes_view)
    assert not other.pads(other.y, other.y_view).any()
    grads, sparse_grads = (aligned_zeros(case.network.n_params, dtype) for _ in range(2))
    sparse_grads[:] = 7  # overwritten where the weight is
    packed = aligned_zeros(GRADIENT_ROWS * PACKED_COLUMNS, dtype)
    dense.dense_weight_gradient(case.x, case.y, case.layer, grads, n_rows, (0, n_in), packed, False)
    dense.sparse_weight_gradient(rows, order, case.y, case.layer, sparse_grads, n_rows, 0, n_in, False)
    np.testing.assert_array_equal(weight_of(sparse_grads, case.layer), weight_of(grads, case.layer))


LAYOUTS = {
    "c": lambda x: x,
    "fortran": np.asfortranarray,
    "rows reversed": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "columns reversed": lambda x: np.ascontiguousarray(x[:, ::-1])[:, ::-1],
    "every other column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "every other row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "row of one": lambda x: np.broadcast_to(x[:1], x.shape),
    "unaligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("source", [np.float32, np.float64])
@pytest.mark.parametrize("n_columns", [1, 5, 16, 37])
def test_gather_reads_every_layout(layout, source, n_columns):
    x = np.random.default_rng(0).normal(size=(9, n_columns)).astype(source)
    X = LAYOUTS[layout](x)
    rows = as_rows(X)
    order = np.array([8, 0, 3, 3, 5])
    stride = round_up(n_columns)
    out = Matrix(aligned_zeros(16 * stride, np.float32), 0, stride)
    dense.gather(rows, order, 1, 5, out)
    got = out.data.reshape(16, stride)
    np.testing.assert_array_equal(got[1:5, :n_columns], np.asarray(X)[order[1:]].astype(np.float32))
    assert not got[0].any() and not got[5:].any() and not got[:, n_columns:].any()


def test_rows_are_a_view():
    X = np.arange(12.0).reshape(3, 4)
    assert np.shares_memory(as_rows(X).values, X)
    assert np.shares_memory(as_rows(X[:, ::-1]).values, X)
    assert as_rows(np.empty((0, 4))).n_rows == 0
    S = sparse.csr_array(X)
    assert np.shares_memory(as_rows(S).values, S.data)
