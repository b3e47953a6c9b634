"""Whole networks on the device equal the CPU's: gradients, epochs, evaluation, predictions."""

import numpy as np
import pytest
from scipy import sparse

from nbnet import random
from nbnet.cpu import session as cpu
from nbnet.cuda import launch, product
from nbnet.cuda import session as gpu
from nbnet.cuda.optimizers import LARGEST_BLOCKS, largest_magnitude, n_largest, sum_of_squares
from nbnet.epochs import EpochPlan, UpdateRule
from nbnet.network import Activation, DenseSpec, Loss, Optimizer, build, initialize
from tests.cuda_sim import simulator

OPTIMIZERS = {
    "sgd": (Optimizer.SGD, {"nesterov": False}),
    "nesterov": (Optimizer.SGD, {}),
    "adam": (Optimizer.ADAM, {}),
    "adamw": (Optimizer.ADAMW, {}),
    "adagrad": (Optimizer.ADAGRAD, {}),
}
N_ROWS = 21


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Tiles and blocks so small that there are several, with ragged ends."""
    monkeypatch.setattr(product, "TILES", (product.Tile(16, 16, 8, 4),))
    monkeypatch.setattr(gpu, "BLOCK_ROWS", 8)
    monkeypatch.setattr(cpu, "FULL_ROWS", 16)


class Problem:
    """A network and its data, for one backend or the other."""

    def __init__(self, loss, dtype=np.float32, hidden=Activation.TANH, sizes=(7, 19, 6, 3), dropout=0.0, kind="dense"):
        rng = np.random.default_rng(3)
        n_in, *n_outs = sizes
        self.loss, self.dtype = loss, dtype
        specs = [DenseSpec(n, hidden, dropout) for n in n_outs[:-1]]
        self.network = build(n_in, [*specs, DenseSpec(n_outs[-1])])
        self.X = rng.normal(size=(N_ROWS, n_in)).astype(dtype)
        if kind == "csr":
            self.X[np.abs(self.X) < 0.7] = 0
            self.X = sparse.csr_array(self.X)
        self.weights = rng.uniform(0.5, 2, N_ROWS)
        self.labels = self.values = None
        if loss == Loss.SOFTMAX_CROSS_ENTROPY:
            self.labels = rng.integers(0, n_outs[-1], N_ROWS)
        else:
            self.values = rng.integers(0, 2, (N_ROWS, n_outs[-1])) + 0.25 * (loss != Loss.SIGMOID_CROSS_ENTROPY)

    def on(self, backend, smoothing=0.0, parameter=0.3):
        params = initialize(self.network, self.dtype, 5)
        session = backend.Session(
            self.network, params, self.loss, loss_parameter=parameter, label_smoothing=smoothing, n_jobs=1
        )
        n_outputs = int(self.network.layers["n_out"][-1])
        targets = backend.as_targets(self.labels, self.values, self.weights, n_outputs, self.dtype)
        return session, backend.as_rows(self.X), targets


def train(session, rows, targets, optimizer, epochs=2, batch_size=8, alpha=0.1, decay=0.0, **options):
    """Losses of some epochs."""
    session.prepare(UpdateRule(optimizer, batch_size, alpha=alpha, seed=9, **options))
    n_batches = -(-N_ROWS // batch_size)
    rates = np.linspace(0.01, 0.005, n_batches)
    return [
        session.train_epoch(
            rows, targets, EpochPlan(random.permutation(1, epoch, N_ROWS), rates, decay * rates, epoch * n_batches)
        )
        for epoch in range(epochs)
    ]


def agree(got, expected, dtype):
    limits = dict(rtol=1e-5, atol=1e-5) if dtype == np.float32 else dict(rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(got, expected, **limits)


def compare(problem, optimizer, smoothing=0.0, **options):
    """Everything that a session gives, on both backends."""
    results = []
    for backend in (cpu, gpu):
        session, rows, targets = problem.on(backend, smoothing)
        full_loss, gradient = session.loss_and_gradient(rows, targets, 0.2)
        losses = train(session, rows, targets, optimizer, **options)
        evaluated, predictions = session.evaluate(rows, targets), session.predict(rows)
        results.append((full_loss, gradient, losses, evaluated, predictions, session.params, session.moments))
    for expected, got in zip(*results, strict=True):
        agree(got, expected, problem.dtype)
    assert results[1][4].dtype == problem.dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", list(Loss))
def test_every_loss(loss, dtype):
    compare(Problem(loss, dtype), Optimizer.ADAM, smoothing=0.1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sizes", [(7, 19, 6, 3), (7, 3)])
def test_sparse_rows(sizes, dtype):
    compare(Problem(Loss.SOFTMAX_CROSS_ENTROPY, dtype, sizes=sizes, kind="csr"), Optimizer.ADAM)


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.3])
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_optimizer(name, max_grad_norm):
    optimizer, options = OPTIMIZERS[name]
    decay = 0.3 if name == "adamw" else 0.0
    problem = Problem(Loss.SOFTMAX_CROSS_ENTROPY)
    compare(problem, optimizer, decay=decay, max_grad_norm=max_grad_norm, **options)


@pytest.mark.parametrize("hidden", list(Activation))
def test_every_activation_with_dropout(hidden):
    problem = Problem(Loss.SQUARED_ERROR, hidden=hidden, dropout=0.3)
    compare(problem, Optimizer.SGD, epochs=1)
    session, rows, targets = problem.on(gpu)
    train(session, rows, targets, Optimizer.ADAM, epochs=1)
    rest = session.params.copy()
    for row in problem.network.layers:
        for name, size in (("weight_start", row["n_in"] * row["out_stride"]), ("bias_start", row["out_stride"])):
            rest[row[name] : row[name] + size].reshape(-1, row["out_stride"])[:, : row["n_out"]] = 0
    assert not rest.any()  # pads stay zero


@pytest.mark.parametrize("batch_size", [1, 7, N_ROWS])
def test_every_size_of_batch(batch_size):
    compare(Problem(Loss.SIGMOID_CROSS_ENTROPY, sizes=(7, 5, 1)), Optimizer.ADAM, batch_size=batch_size)


def test_threads_in_any_order_give_the_same_bits():
    results = []
    for order in ("forward", "reversed", "shuffled"):
        simulator.set_order(order)
        session, rows, targets = Problem(Loss.SOFTMAX_CROSS_ENTROPY, dropout=0.2, kind="csr").on(gpu)
        losses = train(session, rows, targets, Optimizer.ADAM, max_grad_norm=0.5)
        results.append(np.concatenate([session.params, session.predict(rows).ravel(), losses]))
    simulator.set_order("forward")
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


def test_a_row_alone_or_in_a_batch():
    problem = Problem(Loss.SOFTMAX_CROSS_ENTROPY)
    session, rows, _ = problem.on(gpu)
    together = session.predict(rows)
    for i in (0, 9, 20):
        np.testing.assert_array_equal(session.predict(gpu.as_rows(problem.X[i : i + 1]))[0], together[i])
    assert session.predict(gpu.as_rows(problem.X[:0])).shape == (0, 3)


def test_what_is_written_to_the_parameters_counts():
    session, rows, targets = Problem(Loss.SQUARED_ERROR).on(gpu)
    params = session.params
    before = session.predict(rows)
    params[:] = 0
    session.params[:] = 0
    assert not session.predict(rows).any()
    session.params[:] = initialize(session.network, np.float32, 5)
    np.testing.assert_array_equal(session.predict(rows), before)
    train(session, rows, targets, Optimizer.ADAM)
    assert session.params is params  # trained in place
    assert (session.predict(rows) != before).all()


def test_snapshot_and_restore():
    session, rows, targets = Problem(Loss.SQUARED_ERROR).on(gpu)
    snapshot, before = session.snapshot(), session.params.copy()
    train(session, rows, targets, Optimizer.ADAM, epochs=1)
    assert (session.params != before).any()
    session.restore(snapshot)
    np.testing.assert_array_equal(session.params, before)
    train(session, rows, targets, Optimizer.ADAM, epochs=1)
    after = session.params.copy()
    assert session.snapshot(snapshot) is snapshot
    session.params[:] = 0
    session.restore(snapshot)
    np.testing.assert_array_equal(session.params, after)


def test_moments_go_on():
    one, *_ = started = Problem(Loss.SQUARED_ERROR).on(gpu)
    train(*started, Optimizer.ADAM, epochs=1)
    two, rows, targets = Problem(Loss.SQUARED_ERROR).on(gpu)
    two.params[:] = one.params
    two.prepare(UpdateRule(Optimizer.ADAM, 8, alpha=0.1, seed=9))
    two.moments[:] = one.moments
    order, rates = random.permutation(1, 1, N_ROWS), np.full(3, 0.01)
    for session, data in ((one, started[1:]), (two, (rows, targets))):
        session.train_epoch(*data, EpochPlan(order, rates, 0 * rates, 3))
    np.testing.assert_array_equal(one.params, two.params)


def test_an_epoch_reads_one_small_array_back(monkeypatch):
    session, rows, targets = Problem(Loss.SQUARED_ERROR).on(gpu)
    train(session, rows, targets, Optimizer.ADAM, epochs=1)
    read = []
    copy = simulator.DeviceArray.copy_to_host
    monkeypatch.setattr(
        simulator.DeviceArray, "copy_to_host", lambda array, out=None: read.append(array.size) or copy(array, out)
    )
    session.train_epoch(rows, targets, EpochPlan(np.arange(N_ROWS), np.full(3, 0.01), np.zeros(3), 3))
    assert session.largest_weight() > 0
    session.snapshot()
    assert read == [2 * 3 + n_largest(session.network.n_params)]


def test_rows_of_weight_zero_and_a_batch_of_them():
    problem = Problem(Loss.SOFTMAX_CROSS_ENTROPY)
    problem.weights[:8] = 0
    results = []
    for backend in (cpu, gpu):
        session, rows, targets = problem.on(backend)
        session.prepare(UpdateRule(Optimizer.SGD, 8, momentum=0.0))
        result = session.train_epoch(rows, targets, EpochPlan(np.arange(N_ROWS), np.full(3, 0.1), np.zeros(3), 0))
        results.append(np.append(session.params, result))
    agree(results[1], results[0], np.float32)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_largest_magnitude(bad, order):
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    for put, wanted in ((values[17], np.abs(values).max()), (np.float32(-50), 50), (np.float32(bad), np.inf)):
        values[17] = put
        for n_found in (1, n_largest(1000)):
            found, queue = launch.empty(n_found, np.float32), launch.Queue()
            largest_magnitude(queue, launch.upload(values), found)
            queue.run()
            assert found.copy_to_host().max() == wanted
    assert (n_largest(0), n_largest(1000), n_largest(10**9)) == (1, 4, LARGEST_BLOCKS)


def test_sum_of_squares(order):
    values = np.random.default_rng(0).normal(size=1056)
    squares, queue = launch.empty(2, np.float64), launch.Queue()
    sum_of_squares(queue, launch.upload(values), squares)
    queue.run()
    np.testing.assert_allclose(squares.copy_to_host(), [(values[:1024] ** 2).sum(), (values[1024:] ** 2).sum()])


def test_what_32_bits_cannot_count():
    network = build(2**16, [DenseSpec(2**14)])
    with pytest.raises(ValueError, match=r"the vector of parameters and moments has .* at most 2\*\*31 - 1"):
        gpu.Session(network, np.zeros(1, np.float32), Loss.SQUARED_ERROR)


def test_no_room_on_the_gpu():
    problem = Problem(Loss.SQUARED_ERROR)
    session, _, _ = problem.on(gpu)
    with simulator.memory_limit(256), pytest.raises(MemoryError, match="The GPU has no room for another 0 MiB"):
        problem.on(gpu)
    assert np.isfinite(session.predict(gpu.as_rows(problem.X))).all()
