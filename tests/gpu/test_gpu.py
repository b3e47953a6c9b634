"""On a real GPU: parity at real sizes, graphs against plain launches, two runs bitwise equal. Skipped without one."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone

from nbnet import MLPClassifier, MLPRegressor
from nbnet.cpu.session import Session as CpuSession
from nbnet.cpu.session import as_rows as cpu_rows
from nbnet.cpu.session import as_targets as cpu_targets
from nbnet.cuda.device import why_no_cuda
from nbnet.estimators.together import Fit, fit_together
from nbnet.estimators.validation import share
from nbnet.network import Activation, DenseSpec, Loss, build, initialize
from tests.helpers import fit

if REASON := why_no_cuda():
    pytest.skip(REASON, allow_module_level=True)

from nbnet.cuda import blas, launch, product, streaming
from nbnet.cuda import session as gpu
from nbnet.cuda.jit import cuda

N_ROWS = 3000
SIZES = [(20, 64, 32, 10), (784, 100, 10), (1000, 512, 512, 7), (33, 2048, 1)]


def data(n_features, n_rows=None, dtype=np.float32):
    """Rows, and their classes of three."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows or N_ROWS, n_features)).astype(dtype)
    return X, np.argmax(X[:, :3] + rng.normal(scale=0.3, size=(len(X), 3)), axis=1)


@pytest.mark.parametrize("kind", ["dense", "csr"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_gradient_and_predictions_equal_the_cpu(sizes, dtype, kind):
    n_in, *hidden, n_out = sizes
    X, labels = data(n_in, dtype=dtype)
    if kind == "csr":
        X = sparse.csr_array(np.where(np.abs(X) > 1, X, 0))
    specs = [DenseSpec(n, Activation.TANH) for n in hidden]
    network = build(n_in, [*specs, DenseSpec(n_out)])
    loss, what = (Loss.SOFTMAX_CROSS_ENTROPY, (labels, None)) if n_out > 2 else (Loss.HUBER, (None, labels[:, None]))
    results = []
    for session_type, as_rows, as_targets in (
        (CpuSession, cpu_rows, cpu_targets),
        (gpu.Session, gpu.as_rows, gpu.as_targets),
    ):
        session = session_type(network, initialize(network, dtype, 0), loss, loss_parameter=1.0)
        rows, targets = as_rows(X), as_targets(*what, np.ones(len(labels)), n_out, dtype)
        results.append((*session.loss_and_gradient(rows, targets, 0.1), session.predict(rows)))
    for expected, got in zip(*results, strict=True):
        size = np.abs(expected).max()
        np.testing.assert_allclose(got, expected, rtol=0, atol=size * (2e-5 if dtype == np.float32 else 1e-12))


@pytest.mark.parametrize("solver", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("activation", [member.name.lower() for member in Activation])
def test_an_epoch_equals_the_cpu(activation, solver):
    X, labels = data(50)
    settings = {"solver": solver, "activation": activation, "max_iter": 1, "random_state": 0, "dropout": 0.1}
    cpu, on_gpu = (fit(MLPClassifier((128, 64), device=device, **settings), X, labels) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(on_gpu.params_, cpu.params_, rtol=0, atol=1e-4)
    assert on_gpu.loss_ == pytest.approx(cpu.loss_, rel=1e-4)


@pytest.mark.parametrize("loss", ["squared_error", "poisson", "huber", "quantile"])
def test_losses_of_numbers(loss):
    X, labels = data(50)
    settings = {"loss": loss, "max_iter": 3, "random_state": 0}
    cpu, on_gpu = (fit(MLPRegressor(device=device, **settings), X, labels * 1.0) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(on_gpu.loss_curve_, cpu.loss_curve_, rtol=1e-3)


def trained(X, labels, **settings):
    settings = {"hidden_layer_sizes": (256, 128), "max_iter": 3, "random_state": 0, "device": "cuda", **settings}
    model = fit(MLPClassifier(**settings), X, labels)
    return np.concatenate([model.params_, model.predict_proba(X).ravel(), model.loss_curve_])


@pytest.mark.parametrize("kind", ["dense", "csr"])
def test_two_runs_have_the_same_bits(kind):
    X, labels = data(100)
    if kind == "csr":
        X = sparse.csr_array(np.where(np.abs(X) > 1, X, 0))
    settings = {"dropout": 0.2, "max_grad_norm": 1.0}
    np.testing.assert_array_equal(trained(X, labels, **settings), trained(X, labels, **settings))


@pytest.mark.filterwarnings("error")  # a capture that fails says so
def test_graphs_and_plain_launches_give_the_same_bits(monkeypatch):
    X, labels = data(100)
    with_graphs = trained(X, labels, batch_size=17)
    monkeypatch.setattr(launch, "SIMULATED", True)
    np.testing.assert_array_equal(trained(X, labels, batch_size=17), with_graphs)


def test_one_row_alone_or_among_all():
    X, labels = data(100)
    model = fit(MLPClassifier((300,), max_iter=1, random_state=0, device="cuda"), X, labels)
    together = model.predict_proba(X)
    for i in range(0, len(X), 500):
        np.testing.assert_array_equal(model.predict_proba(X[i : i + 1])[0], together[i])


@pytest.mark.parametrize("kind", ["dense", "csr"])
def test_an_X_without_room_gives_the_same_bits(kind, monkeypatch):
    X, labels = data(100)
    if kind == "csr":
        X = sparse.csr_array(np.where(np.abs(X) > 1, X, 0))
    expected = trained(X, labels)
    monkeypatch.setattr(streaming, "RESIDENT_SHARE", 0.0)
    monkeypatch.setattr(streaming, "PIECE_BYTES", 2**17)  # some batches: copies and launches overlap
    for _ in range(5):
        np.testing.assert_array_equal(trained(X, labels), expected)


def test_arrays_of_the_gpu_are_used_where_they_lie():
    X, labels = data(100)
    on_gpu, on_host = cuda.to_device(X), fit(MLPClassifier((64,), max_iter=2, random_state=0, device="cuda"), X, labels)
    model = fit(MLPClassifier((64,), max_iter=2, random_state=0, device="cuda"), on_gpu, cuda.to_device(labels))
    np.testing.assert_array_equal(model.params_, on_host.params_)
    probabilities = model.predict_proba(on_gpu)
    np.testing.assert_array_equal(cuda.as_cuda_array(probabilities).copy_to_host(), on_host.predict_proba(X))
    assert model.score(on_gpu, labels) == on_host.score(X, labels)
    for bad in (np.nan, np.inf):
        X[17, 3] = bad
        with pytest.raises(ValueError, match="Input X contains NaN or infinity"):
            model.predict(cuda.to_device(X))


def gradient(precision="highest", dtype=np.float32):
    """Of a network whose weights are skinny, over rows that do not come in whole tiles."""
    X, labels = data(300, 2900, dtype)
    network = build(300, [DenseSpec(130, Activation.TANH), DenseSpec(70, Activation.RELU), DenseSpec(3)])
    session = gpu.Session(network, initialize(network, dtype, 0), Loss.SOFTMAX_CROSS_ENTROPY)
    session.matmul_precision = precision
    targets = gpu.as_targets(labels, None, np.ones(len(labels)), 3, dtype)
    return session.loss_and_gradient(gpu.as_rows(X), targets, 0.1)[1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_in_parts_and_cublas_equal_own_kernels(dtype, monkeypatch):
    monkeypatch.setattr(blas, "GEMM", "numba")
    in_parts = gradient(dtype=dtype)
    monkeypatch.setattr(product, "MOST_PARTS", 1)
    expected = gradient(dtype=dtype)
    limit = np.abs(expected).max() * (1e-5 if dtype == np.float32 else 1e-13)
    np.testing.assert_allclose(in_parts, expected, rtol=0, atol=limit)
    if blas.handle() is None:
        pytest.skip("cuBLAS is not installed")
    monkeypatch.setattr(blas, "GEMM", "cublas")
    np.testing.assert_allclose(gradient(dtype=dtype), expected, rtol=0, atol=limit)
    rough = gradient("high", dtype)
    np.testing.assert_allclose(rough, expected, rtol=0, atol=np.abs(expected).max() * 1e-2)
    assert (rough == gradient(dtype=dtype)).all() == (dtype == np.float64)


@pytest.mark.filterwarnings("error")
def test_cublas_in_a_graph_and_launched_plainly(monkeypatch):
    if blas.handle() is None:
        pytest.skip("cuBLAS is not installed")
    monkeypatch.setattr(blas, "GEMM", "cublas")
    X, labels = data(100)
    with_graphs = trained(X, labels, batch_size=17)
    np.testing.assert_array_equal(trained(X, labels, batch_size=17), with_graphs)
    monkeypatch.setattr(launch, "SIMULATED", True)
    np.testing.assert_array_equal(trained(X, labels, batch_size=17), with_graphs)


def test_memory_comes_back_and_the_process_goes_on():
    X, labels = data(100)
    expected = trained(X, labels)
    with pytest.raises(MemoryError, match="The GPU has no room for another"):
        launch.empty(cuda.current_context().get_memory_info().total // 4 + 2**20, np.float32)
    np.testing.assert_array_equal(trained(X, labels), expected)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_many_small_networks_at_once(solver):
    """Teams of all folds and candidates end where fits alone end, and twice with the same bits."""
    X, labels = data(50)
    estimator = MLPClassifier((32, 16), solver=solver, max_iter=3, random_state=0, dropout=0.1, device="cuda")
    rows = share(X)
    runs = []
    for _ in range(2):
        fits = [Fit(clone(estimator).set_params(alpha=alpha), rows, labels) for alpha in np.geomspace(1e-4, 1, 40)]
        assert all(fit_together(fits))
        runs.append([made.estimator for made in fits])
    for first, second in zip(*runs, strict=True):
        np.testing.assert_array_equal(first.params_, second.params_)
    for made in runs[0][::13]:
        alone = clone(made).fit(X, labels)
        np.testing.assert_allclose(made.params_, alone.params_, rtol=0, atol=1e-4)
        np.testing.assert_allclose(made.loss_curve_, alone.loss_curve_, rtol=1e-4)
