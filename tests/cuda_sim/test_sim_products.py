"""Products of training: sums in parts, and cuBLAS, for which a library stands that computes with NumPy."""

import ctypes

import numpy as np
import pytest

from nbnet import MLPRegressor
from nbnet.cpu import session as cpu
from nbnet.cuda import blas, dense, product
from nbnet.cuda import session as gpu
from nbnet.cuda.dense import matrix
from nbnet.cuda.launch import Queue, upload
from nbnet.cuda.product import End, Products, Tile, add_product
from nbnet.epochs import EpochPlan, UpdateRule
from nbnet.network import Activation, DenseSpec, Loss, Optimizer, build, initialize
from tests.helpers import fit

N_ROWS = 19
NUMBERS = {np.dtype("float32"): ctypes.c_float, np.dtype("float64"): ctypes.c_double}


class Library:
    """cuBLAS as far as nbnet calls it, with its rules: column by column, no workspace after a new stream."""

    def __init__(self):
        self.created, self.status, self.calls = 0, 0, []
        self.stream = self.workspace = self.math = None

    def cublasCreate_v2(self, handle):
        handle._obj.value = 77
        return self.created

    def cublasSetStream_v2(self, handle, stream):
        self.stream, self.workspace = stream.value or 0, None
        return 0

    def cublasSetWorkspace_v2(self, handle, workspace, size):
        self.workspace = workspace.value, size.value
        return 0

    def cublasSetMathMode(self, handle, math):
        self.math = math
        return 0

    def cublasGetProperty(self, kind, number):
        number._obj.value = (13, 2)[kind]
        return 0

    def cublasSgemm_v2(self, *args):
        return self._multiply(np.dtype("float32"), *args)

    def cublasDgemm_v2(self, *args):
        return self._multiply(np.dtype("float64"), *args)

    def _multiply(self, dtype, handle, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
        assert handle.value == 77 and self.workspace[1] == blas.WORKSPACE_BYTES
        assert alpha._obj.value == 1
        self.calls.append((dtype.name, self.math, m * n * k))
        if self.status:
            return self.status
        a = self._matrix(dtype, a, *((k, m) if trans_a else (m, k)), lda)
        b = self._matrix(dtype, b, *((n, k) if trans_b else (k, n)), ldb)
        c = self._matrix(dtype, c, m, n, ldc)
        found = (a.T if trans_a else a) @ (b.T if trans_b else b)
        c[:] = found if beta._obj.value == 0 else c + beta._obj.value * found
        return 0

    @staticmethod
    def _matrix(dtype, pointer, n_rows, n_columns, leading):
        assert leading >= n_rows
        n = (n_columns - 1) * leading + n_rows  # no element more is touched
        values = np.ctypeslib.as_array((NUMBERS[dtype] * n).from_address(pointer.value))
        size = dtype.itemsize
        return np.lib.stride_tricks.as_strided(values, (n_rows, n_columns), (size, leading * size))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(product, "TILES", (Tile(16, 16, 8, 4),))
    monkeypatch.setattr(gpu, "BLOCK_ROWS", 8)
    monkeypatch.setattr(cpu, "FULL_ROWS", 8)


@pytest.fixture
def library(monkeypatch):
    """All products of training go to the `Library`."""
    library = Library()
    monkeypatch.setattr(blas, "GEMM", "cublas")
    monkeypatch.setattr(blas, "library", lambda: library)
    monkeypatch.setattr(blas, "_of_thread", type(blas._of_thread)())
    monkeypatch.setattr(blas, "WORKSPACE_BYTES", 64)
    return library


@pytest.fixture
def parts(monkeypatch):
    """Sums of 16 terms and more are made in parts; the launches are counted."""
    monkeypatch.setattr(product, "n_processors", lambda: 12)
    monkeypatch.setattr(product, "PART_TERMS", 8)
    launched = []
    add = Queue.add
    monkeypatch.setattr(
        Queue, "add", lambda queue, kernel, *args: launched.append(kernel.__name__) or add(queue, kernel, *args)
    )
    return launched


def results(backend, dtype, hidden):
    """All that training computes with products."""
    rng = np.random.default_rng(3)
    network = build(17, [DenseSpec(21, hidden), DenseSpec(18, hidden), DenseSpec(3)])
    X, labels, weights = rng.normal(size=(N_ROWS, 17)).astype(dtype), rng.integers(0, 3, N_ROWS), np.ones(N_ROWS)
    session = backend.Session(network, initialize(network, dtype, 5), Loss.SOFTMAX_CROSS_ENTROPY, n_jobs=1)
    rows, targets = backend.as_rows(X), backend.as_targets(labels, None, weights, 3, dtype)
    loss, gradient = session.loss_and_gradient(rows, targets, 0.2)
    session.prepare(UpdateRule(Optimizer.SGD, 16))
    epoch = session.train_epoch(rows, targets, EpochPlan(np.arange(N_ROWS), np.full(2, 0.1), np.zeros(2), 0))
    return session, rows, np.concatenate([[loss, epoch], gradient, session.params])


@pytest.mark.parametrize(
    ("dtype", "hidden"), [(np.float32, Activation.RELU), (np.float64, Activation.LOGISTIC)], ids=["float32", "float64"]
)
def test_cublas_trains_as_the_cpu_does(library, dtype, hidden):
    session, rows, got = results(gpu, dtype, hidden)
    expected = results(cpu, dtype, hidden)[2]
    limit = 1e-5 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(got, expected, rtol=limit, atol=limit)
    # gradients in three blocks of rows, two steps; three layers forward, two back, three weights
    assert len(library.calls) == (3 + 2) * (3 + 2 + 3)
    assert {call[:2] for call in library.calls} == {(np.dtype(dtype).name, blas.DEFAULT_MATH)}
    session.predict(rows)
    assert len(library.calls) == 40  # a row has the bits that it has alone


@pytest.mark.parametrize(
    ("dtype", "hidden"), [(np.float32, Activation.RELU), (np.float64, Activation.LOGISTIC)], ids=["float32", "float64"]
)
def test_parts_train_as_the_cpu_does(parts, dtype, hidden):
    got, expected = (results(backend, dtype, hidden)[2] for backend in (gpu, cpu))
    limit = 1e-5 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(got, expected, rtol=limit, atol=limit)
    assert parts.count("product_part") == parts.count("finish") >= 20


def test_tf32_where_it_is_allowed(library):
    for dtype, precision, math in (
        ("float32", "highest", blas.DEFAULT_MATH),
        ("float32", "high", blas.TF32_MATH),
        ("float64", "high", blas.DEFAULT_MATH),
    ):
        multiply(17, 5, 9, np.dtype(dtype), Products(precision))
        assert library.calls[-1] == (dtype, math, 17 * 5 * 9)


@pytest.mark.parametrize(("precision", "math"), [("highest", blas.DEFAULT_MATH), ("high", blas.TF32_MATH)])
def test_the_parameter_of_the_estimators(library, precision, math):
    X = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    fit(MLPRegressor(hidden_layer_sizes=(), max_iter=1, device="cuda", matmul_precision=precision), X, X[:, 0])
    assert {call[1] for call in library.calls} == {math}


def multiply(n_rows, n_columns, n_terms, dtype, products):
    """``a @ b`` from the device, and from NumPy in float64."""
    rng = np.random.default_rng(0)
    a, b = np.zeros((n_rows, 48), dtype), np.zeros((n_terms, 32), dtype)
    a[:, :n_terms], b[:, :n_columns] = rng.normal(size=(n_rows, n_terms)), rng.normal(size=(n_terms, n_columns))
    c = matrix(upload(np.zeros((n_rows, 32), dtype)), 0, 32)
    queue = Queue(products=products)
    operands = matrix(upload(a), 0, 48), matrix(upload(b), 0, 32)
    sizes, end = (n_rows, n_columns, n_terms), End(dense.overwrite, accumulates=0.0)
    add_product(queue, *operands, dense.Stored(c), sizes, end, True, False)
    queue.run()
    return c.data.copy_to_host().reshape(n_rows, 32), a[:, :n_terms].astype(float) @ b.astype(float), queue


def test_large_products_only(library, monkeypatch):
    monkeypatch.setattr(blas, "GEMM", "auto")
    monkeypatch.setattr(blas, "WORTHWHILE_TERMS", {"highest": 1000, "high": 200})
    for sizes, precision, dtype, n_calls in (
        ((10, 9, 11), "highest", "float32", 0),
        ((10, 10, 10), "highest", "float32", 1),
        ((10, 9, 11), "high", "float32", 1),
        ((10, 9, 11), "high", "float64", 0),
        ((10, 3, 6), "high", "float32", 0),
    ):
        library.calls.clear()
        got, expected, _ = multiply(*sizes, np.dtype(dtype), Products(precision))
        np.testing.assert_allclose(got[:, : sizes[1]], expected[:, : sizes[1]], atol=1e-5)
        assert len(library.calls) == n_calls
    library.calls.clear()
    multiply(10, 10, 10, np.dtype("float32"), None)
    assert library.calls == []


def test_the_library_has_a_workspace_on_each_stream(library):
    handle = blas.handle()
    assert blas.handle() is handle
    _, _, queue = multiply(4, 4, 4, np.dtype("float32"), Products())
    launch = queue.launches[0]
    for stream, number in ((type("Builder", (), {"stream": type("Stream", (), {"handle": 5})})(), 5), (0, 0)):
        launch.kernel[1, 1, stream](*launch.args)
        assert library.stream == number and library.workspace is not None


def test_a_library_that_does_not_work(library):
    library.status = 13
    with pytest.raises(RuntimeError, match="cuBLAS failed with status 13"):
        multiply(4, 4, 4, np.dtype("float32"), Products())
    library.status = 3
    with pytest.raises(MemoryError, match="no room for what cuBLAS needs"):
        multiply(4, 4, 4, np.dtype("float32"), Products())
    blas._of_thread.__dict__.clear()
    library.created, library.calls = 1, []
    got, expected, _ = multiply(4, 4, 4, np.dtype("float32"), Products())
    np.testing.assert_allclose(got[:, :4], expected[:, :4], atol=1e-6)
    assert library.calls == []


def test_what_is_said_of_it(library, monkeypatch):
    assert blas.describe() == "cuBLAS 13.2 for large ones in training, else own kernels"
    monkeypatch.setattr(blas, "library", lambda: None)
    assert blas.describe() == "own kernels; cuBLAS is not installed"


# ---------------------------------------------------------------- parts


@pytest.mark.parametrize(
    ("sizes", "n_parts", "terms"),
    [
        ((256, 10, 4096), 8, 512),  # eight tiles, so at most 16 parts; as many as have 512 terms
        ((32, 32, 1024), 2, 512),
        ((32, 32, 1023), 1, 1023),
        ((32, 32, 100_000), 32, 3136),
        ((4096, 4096, 4096), 1, 4096),
        ((700, 100, 2048), 1, 2048),  # 88 tiles of 132
        ((1, 1, 1500), 2, 768),
    ],
)
def test_parts_where_tiles_are_few(sizes, n_parts, terms, monkeypatch):
    monkeypatch.setattr(product, "n_processors", lambda: 132)
    tile = Tile(32, 32, 32, 4)
    assert product.choose_parts(tile, sizes) == (n_parts, terms)
    assert (n_parts - 1) * terms < sizes[2] <= n_parts * terms


@pytest.mark.parametrize("n_terms", [16, 33, 40, 47])
def test_parts_add_up(n_terms, parts, order):
    results = [
        multiply(9, 21, n_terms, np.dtype("float32"), products)[0] for products in (Products(), Products(), None)
    ]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_allclose(results[0], results[2], rtol=0, atol=1e-5)
    assert not results[0][:, 21:].any()
    assert parts == ["product_part", "finish"] * 2 + ["product"]


def test_memory_is_shared_by_the_products_of_a_queue():
    products = Products()
    first, second = products.scratch(4, 32, np.dtype("float32")), products.scratch(3, 16, np.dtype("float32"))
    assert first.data is second.data and second.stride == 16
    assert products.scratch(8, 32, np.dtype("float32")).data is not first.data
    assert products.scratch(1, 16, np.dtype("float64")).data.dtype == np.float64
