"""Dense kernels equal the CPU's and float64 on ragged shapes, whatever the tile and the order of threads."""

import numpy as np
import pytest
from scipy import sparse

from nbnet.cpu import dense as cpu_dense
from nbnet.cpu.session import as_rows as cpu_rows
from nbnet.cuda import dense, product
from nbnet.cuda.dense import matrix
from nbnet.cuda.launch import Queue, empty, upload
from nbnet.cuda.product import Tile
from nbnet.cuda.session import as_rows
from nbnet.cuda.walk import Batch
from nbnet.network import Activation, DenseSpec, aligned_zeros, bias_of, build, round_up, weight_of
from tests import reference

SMALL = Tile(16, 16, 8, 4)
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
SHAPES = pytest.mark.parametrize(("n_in", "n_out", "n_rows"), [(1, 1, 1), (7, 17, 5), (33, 9, 19)])


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles so small that every case has edges of all kinds."""
    monkeypatch.setattr(product, "TILES", (SMALL,))


def tolerance(dtype, n):
    return dict(rtol=0, atol=(3e-7 if dtype == np.float32 else 1e-15) * (n + 10))


class Case:
    """A layer with random weights and rows, on the host; `got` brings a matrix back."""

    def __init__(self, n_in, n_out, n_rows, dtype, activation=Activation.IDENTITY):
        rng = np.random.default_rng(n_in + n_out)
        self.dtype, self.n_rows, self.capacity = dtype, n_rows, round_up(n_rows)
        self.network = build(n_in, [DenseSpec(n_out, activation)])
        self.layer = self.network.layers[0]
        self.params = aligned_zeros(self.network.n_params, dtype)
        self.weight, self.bias = weight_of(self.params, self.layer), bias_of(self.params, self.layer)
        self.weight[:] = rng.uniform(-1, 1, self.weight.shape)
        self.bias[:] = rng.uniform(-1, 1, self.bias.shape)
        self.x = rng.uniform(-1, 1, (n_rows, n_in)).astype(dtype)
        self.grad_y = rng.uniform(-1, 1, (n_rows, n_out)).astype(dtype)
        self.in_stride, self.out_stride = int(self.layer["in_stride"]), int(self.layer["out_stride"])

    def upload(self, values, stride):
        """A matrix on the device, its pads zero, the rows behind it NaN."""
        room = np.full((self.capacity, stride), np.nan, self.dtype)
        room[: self.n_rows] = 0
        room[: self.n_rows, : values.shape[1]] = values
        return matrix(upload(room), 0, stride)

    def empty(self, stride):
        return matrix(empty(self.capacity * stride, self.dtype), 0, stride)

    def got(self, of, n_columns, data=None):
        """The matrix's columns and its pads; the rows behind it are as they were."""
        room = (of.data if data is None else data).copy_to_host().reshape(self.capacity, -1)
        assert np.isnan(room[self.n_rows :]).all()
        return room[: self.n_rows, :n_columns], room[: self.n_rows, n_columns:]


def run(function, *args):
    queue = Queue()
    function(queue, *args)
    queue.run()


@DTYPES
@SHAPES
@pytest.mark.parametrize("activation", list(Activation))
def test_forward(n_in, n_out, n_rows, dtype, activation, small_tiles):
    case = Case(n_in, n_out, n_rows, dtype, activation)
    x, y, slopes = case.upload(case.x, case.in_stride), case.empty(case.out_stride), case.empty(case.out_stride)
    run(dense.dense_forward, x, upload(case.params), case.layer, y, slopes.data, n_rows)
    got, pads = case.got(y, n_out)
    assert not pads.any()
    name = activation.name.lower()
    expected = reference.dense_forward(*(a.astype(float) for a in (case.x, case.weight, case.bias)), name)
    np.testing.assert_allclose(got, expected, **tolerance(dtype, n_in))
    z = case.x.astype(float) @ case.weight + case.bias
    away = np.abs(z) > 1e-3  # from relu's kink
    got_slopes, _ = case.got(y, n_out, slopes.data)
    np.testing.assert_allclose(got_slopes[away], reference.ACTIVATIONS[name][1](z)[away], **tolerance(dtype, n_in))

    only_y = case.empty(case.out_stride)
    run(dense.dense_forward, x, upload(case.params), case.layer, only_y, empty(0, dtype), n_rows)
    np.testing.assert_array_equal(case.got(only_y, n_out)[0], got)


def test_forward_equals_the_cpu(order, small_tiles):
    case = Case(45, 33, 70, np.float32, Activation.TANH)
    x, y = case.upload(case.x, case.in_stride), case.empty(case.out_stride)
    run(dense.dense_forward, x, upload(case.params), case.layer, y, empty(0, np.float32), 70)
    of_cpu = [
        cpu_dense.Matrix(aligned_zeros(case.capacity * n, np.float32), 0, n) for n in (case.in_stride, case.out_stride)
    ]
    of_cpu[0].data.reshape(case.capacity, -1)[:70, :45] = case.x
    cpu_dense.dense_forward(of_cpu[0], case.params, case.layer, of_cpu[1], np.empty(0, np.float32), 0, 70)
    expected = of_cpu[1].data.reshape(case.capacity, -1)[:70, :33]
    np.testing.assert_allclose(case.got(y, 33)[0], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("tile", [*product.TILES, SMALL], ids=lambda tile: f"{tile.rows}x{tile.columns}")
def test_all_tiles_and_transposes_agree_to_the_bit(tile, monkeypatch):
    """Whatever the tile, a sum is one chain in order."""
    case = Case(17, 9, 21, np.float32, Activation.RELU)
    x, grad_y = case.upload(case.x, case.in_stride), case.upload(case.grad_y, case.out_stride)
    params, none, results = upload(case.params), empty(0, np.float32), []
    for tiles in ((tile,), (Tile(16, 16, 16, 4),)):
        monkeypatch.setattr(product, "TILES", tiles)
        y, grad_x, grads = case.empty(case.out_stride), case.upload(case.x, case.in_stride), upload(case.params)
        run(dense.dense_forward, x, params, case.layer, y, none, 21)
        run(dense.dense_backward, grad_y, params, case.layer, grad_x, 21)
        run(dense.dense_weight_gradient, x, grad_y, case.layer, grads, 21, False)
        results.append([case.got(y, 9)[0], case.got(grad_x, 17)[0], weight_of(grads.copy_to_host(), case.layer)])
    for got, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(got, expected)


@DTYPES
@SHAPES
def test_backward(n_in, n_out, n_rows, dtype, order, small_tiles):
    case = Case(n_in, n_out, n_rows, dtype)
    grad_y, grad_x = case.upload(case.grad_y, case.out_stride), case.upload(case.x, case.in_stride)
    run(dense.dense_backward, grad_y, upload(case.params), case.layer, grad_x, n_rows)
    got, pads = case.got(grad_x, n_in)
    expected = reference.dense_backward(*(a.astype(float) for a in (case.grad_y, case.weight, case.x)))
    np.testing.assert_allclose(got, expected, **tolerance(dtype, n_out))
    assert not pads.any()


@DTYPES
@SHAPES
def test_weight_and_bias_gradient(n_in, n_out, n_rows, dtype, order, small_tiles):
    case = Case(n_in, n_out, n_rows, dtype)
    x, grad_y = case.upload(case.x, case.in_stride), case.upload(case.grad_y, case.out_stride)
    grads = upload(np.zeros(case.network.n_params, dtype))
    for accumulate in (False, True):
        run(dense.dense_weight_gradient, x, grad_y, case.layer, grads, n_rows, accumulate)
        run(dense.bias_gradient, grad_y, case.layer, grads, n_rows, accumulate)
    check_gradients(case, grads.copy_to_host())


def check_gradients(case, grads):
    x, grad_y = case.x.astype(float), case.grad_y.astype(float)
    limit = tolerance(case.dtype, 2 * case.n_rows)
    np.testing.assert_allclose(weight_of(grads, case.layer), 2 * reference.dense_weight_gradient(x, grad_y), **limit)
    np.testing.assert_allclose(bias_of(grads, case.layer), 2 * reference.bias_gradient(grad_y), **limit)
    weight_of(grads, case.layer)[:] = 0
    bias_of(grads, case.layer)[:] = 0
    assert not grads.any()


def batch_of(order, first=0):
    return Batch(upload(np.asarray(order, np.uint32)), upload(np.array([first, 0, 0], np.uint32)))


@DTYPES
@pytest.mark.parametrize("source", [np.float32, np.float64])
@pytest.mark.parametrize("n_columns", [1, 17, 130])
def test_gather(n_columns, source, dtype):
    X = np.random.default_rng(0).normal(size=(9, n_columns)).astype(source)
    case = Case(n_columns, 1, 6, dtype)
    x, chosen = case.upload(np.zeros((6, n_columns)), case.in_stride), np.array([8, 0, 3, 3, 7, 1, 2])
    run(dense.gather, as_rows(X), batch_of(chosen, first=1), x, 6)
    got, pads = case.got(x, n_columns)
    np.testing.assert_array_equal(got, X[chosen[1:]].astype(dtype))
    assert not pads.any()
    run(dense.gather, as_rows(X), Batch(empty(0, np.uint32), upload(np.array([2, 0, 0], np.uint32))), x, 6)
    np.testing.assert_array_equal(case.got(x, n_columns)[0], X[2:8].astype(dtype))


@DTYPES
@pytest.mark.parametrize("activation", [Activation.RELU, Activation.LOGISTIC])
def test_sparse_rows_equal_dense_rows(activation, dtype, order, monkeypatch):
    monkeypatch.setattr(dense, "SPARSE_RANGES", 4)
    case = Case(33, 19, 11, dtype, activation)
    case.x[np.abs(case.x) < 0.6] = 0
    case.x[3] = 0
    chosen = np.random.default_rng(1).permutation(11)
    rows, batch = as_rows(sparse.csr_array(case.x)), batch_of(chosen)
    y, slopes = case.empty(case.out_stride), case.empty(case.out_stride)
    run(dense.sparse_forward, rows, batch, upload(case.params), case.layer, y, slopes.data, 11)
    got, pads = case.got(y, 19)
    name = activation.name.lower()
    expected = reference.dense_forward(*(a.astype(float) for a in (case.x, case.weight, case.bias)), name)[chosen]
    np.testing.assert_allclose(got, expected, **tolerance(dtype, 33))
    assert not pads.any()

    case.grad_y = case.grad_y[np.argsort(chosen)]  # as the reference sees it: in the order of x
    grad_y = case.upload(case.grad_y[chosen], case.out_stride)
    grads = upload(np.zeros(case.network.n_params, dtype))
    for accumulate in (False, True):
        run(dense.sparse_weight_gradient, rows, batch, grad_y, case.layer, grads, 11, accumulate)
        run(dense.bias_gradient, grad_y, case.layer, grads, 11, accumulate)
    check_gradients(case, grads.copy_to_host())


def test_64_bit_positions_of_a_large_sparse_matrix():
    X = sparse.csr_array(np.eye(3, dtype=np.float32))
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    rows = as_rows(X)
    assert rows.indices.dtype == np.int32 and rows.indptr.dtype == np.int32
    assert cpu_rows(X).indices.dtype == np.int64


@pytest.mark.parametrize(
    ("n_rows", "n_columns", "dtype", "expected"),
    [
        (4096, 4096, np.float32, 128),
        (1024, 1024, np.float32, 64),
        (256, 512, np.float32, 32),
        (4096, 4096, np.float64, 64),
    ],
)
def test_the_largest_tile_that_fills_the_gpu(n_rows, n_columns, dtype, expected, monkeypatch):
    monkeypatch.setattr(product, "n_processors", lambda: 132)
    assert product.choose_tile(n_rows, n_columns, dtype).rows == expected
