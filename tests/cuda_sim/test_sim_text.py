"""Documents on the device: kernels equal naive twins in float64, whole sessions equal the CPU's."""

import numpy as np
import pytest

from nbnet import random
from nbnet.cpu import text_session as cpu
from nbnet.cpu.token_rows import Documents
from nbnet.cpu.tree import huffman_tree
from nbnet.cuda import embedding, embedding_updates, occurrences, product, text_streaming, tree
from nbnet.cuda import session as gpu_session
from nbnet.cuda import text_session as gpu
from nbnet.cuda.dense import matrix
from nbnet.cuda.launch import Queue, empty, upload
from nbnet.cuda.optimizers import n_largest
from nbnet.cuda.walk import Batch, Model, StepRule, Steps
from nbnet.epochs import EpochPlan, UpdateRule
from nbnet.network import (
    Activation,
    DenseSpec,
    EmbeddingSpec,
    EmbeddingTable,
    Loss,
    Optimizer,
    Pooling,
    aligned_zeros,
    build,
    initialize,
    put_below,
    put_tree_on_top,
)
from tests import reference, reference_text
from tests.cuda_sim import simulator

N_TABLE, N = 11, 13
KINDS = pytest.mark.parametrize(
    ("dtype", "order"), [(np.float32, "reversed"), (np.float64, "shuffled")], indirect=["order"]
)
POOLINGS = pytest.mark.parametrize("pooling", list(Pooling))
ROW_WEIGHTS, COUNT_WEIGHTS = np.linspace(0.5, 2, N_TABLE), np.sqrt(np.arange(256))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Tiles and blocks so small that there are several, with ragged ends."""
    monkeypatch.setattr(product, "TILES", (product.Tile(16, 16, 8, 4),))
    monkeypatch.setattr(gpu_session, "BLOCK_ROWS", 8)
    monkeypatch.setattr(embedding, "TURNS", 3)
    monkeypatch.setattr(embedding_updates, "TURNS", 3)
    monkeypatch.setattr(embedding_updates, "WARPS", 2)
    monkeypatch.setattr(embedding_updates, "BLOCKS_A_PROCESSOR", 2)
    monkeypatch.setattr(occurrences, "PIECE_BATCHES", 2)
    monkeypatch.setattr(simulator.module, "overflow", "ignore")  # the counter of dropout's masks wraps, as on the CPU


def make_documents(with_counts=True, longest=6):
    """Lists of (row, count), the second one empty and the fourth one long, and the same as arrays."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, longest + 1, N)
    lengths[1], lengths[3] = 0, N_TABLE if with_counts else 70
    lists = []
    for length in lengths:
        rows = rng.permutation(N_TABLE)[:length] if with_counts else rng.integers(0, 3, length)
        lists.append([(int(row), int(rng.integers(1, 4)) if with_counts else 1) for row in rows])
    flat = [token for document in lists for token in document]
    counts = [count for _, count in flat] if with_counts else []
    ids = np.array([row for row, _ in flat], np.int32)
    return lists, Documents(ids, np.array(counts, np.uint8), np.append(0, np.cumsum(lengths)))


class Problem:
    """A network over documents, for one backend or the other."""

    def __init__(self, pooling=Pooling.MEAN, *, dim=5, hidden=(), dropout=0.0, dtype=np.float32, labels="one", **kinds):
        self.dtype, self.n_outputs = dtype, kinds.get("n_outputs", 4)
        self.loss, self.options = kinds.get("loss", Loss.SOFTMAX_CROSS_ENTROPY), kinds.get("options", {})
        self.lists, self.documents = make_documents(kinds.get("with_counts", True))
        rng = np.random.default_rng(2)
        specs = [DenseSpec(n, Activation.TANH, dropout) for n in hidden]
        self.tree = huffman_tree([3, 1, 1, 2][: self.n_outputs]) if kinds.get("is_tree") else None
        if self.tree is None:
            dense = top = build(dim, [*specs, DenseSpec(self.n_outputs)])
        else:
            dense = build(dim, specs)
            top = put_tree_on_top(dense, hidden[-1] if hidden else dim, self.n_outputs)
        self.network = put_below(top, EmbeddingSpec(N_TABLE, dim, pooling, dropout))
        self.params = aligned_zeros(self.network.n_params, dtype)
        if dense.layers.size:
            self.params[: dense.n_params] = initialize(dense, dtype, 3)
        layer = self.network.layers[0]
        self.query = self.params[int(layer["bias_start"]) :][:dim]
        self.query[:] = rng.normal(size=dim)
        self.table = EmbeddingTable(self.params, layer)
        self.table[:] = rng.normal(size=(N_TABLE, dim))
        if self.tree is not None:
            start, stride = int(top.layers[-1]["weight_start"]), int(top.layers[-1]["in_stride"])
            units = self.params[start:][: (self.n_outputs - 1) * stride].reshape(-1, stride)
            self.units = units[:, : top.layers[-1]["n_in"]]
            self.units[:] = rng.normal(size=self.units.shape)
        self.weights = rng.uniform(0.5, 2, N)
        self.labels, self.starts = rng.integers(0, self.n_outputs, N), None
        if labels == "several":
            of_each = [rng.permutation(self.n_outputs)[: rng.integers(0, 4)] for _ in range(N)]
            self.labels, self.starts = np.concatenate(of_each), np.append(0, np.cumsum([len(own) for own in of_each]))
            self.weights[np.diff(self.starts) == 0] = 0

    def on(self, backend, **options):
        weights = {"row_weights": ROW_WEIGHTS, "count_weights": COUNT_WEIGHTS}
        options = {**weights, "label_smoothing": 0.0 if self.tree else 0.1, "n_jobs": 1, **self.options, **options}
        session = backend.open_session(self.network, self.params.copy(), self.loss, tree=self.tree, **options)
        targets = backend.as_targets(self.labels, None, self.weights, self.n_outputs, self.dtype, self.starts)
        return session, backend.as_texts(self.documents), targets


def train(session, texts, targets, optimizer, epochs=2, batch_size=5, **options):
    """Losses of some epochs."""
    session.prepare(UpdateRule(optimizer, batch_size, alpha=0.1, seed=9, nesterov=False, **options))
    n_batches = -(-N // batch_size)
    rates = np.linspace(0.1, 0.05, n_batches)
    orders = [random.permutation(1, epoch, N) for epoch in range(epochs)]
    return [
        session.train_epoch(texts, targets, EpochPlan(order, rates, 0 * rates, epoch * n_batches))
        for epoch, order in enumerate(orders)
    ]


def compare(problem, optimizer, deterministic=True, **options):
    """Everything that a session gives, on both backends."""
    results = []
    for backend in (cpu, gpu):
        session, texts, targets = problem.on(backend)
        session.deterministic = deterministic
        if backend is cpu:
            session.expect(texts)
        losses = train(session, texts, targets, optimizer, **options)
        found = losses, session.evaluate(texts, targets), session.predict(texts), session.transform(texts)
        results.append((session.params, session.moments, *found))
    limits = dict(rtol=1e-5, atol=1e-5) if problem.dtype == np.float32 else dict(rtol=1e-11, atol=1e-12)
    for expected, got in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, **limits)
    assert (results[1][0] != problem.params).any()
    assert results[1][4].dtype == problem.dtype


# ---------------------------------------------------------------- sessions


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.MAX, Pooling.ATTENTION])
@pytest.mark.parametrize("solver", ["SGD", "ADAGRAD", "ADAM"])
def test_every_solver(pooling, solver):
    compare(Problem(pooling), Optimizer[solver], epochs=1 + (solver == "ADAM"))


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.MAX, Pooling.ATTENTION])
@pytest.mark.parametrize("solver", ["SGD", "ADAGRAD"])
def test_steps_of_tokens_in_any_order(pooling, solver, monkeypatch):
    """The simulator's blocks come one after another: with adagrad, too, the order is the CPU's."""
    monkeypatch.setattr(gpu, "room_for", None)  # nothing is grouped
    compare(Problem(pooling), Optimizer[solver], deterministic=False)


@pytest.mark.parametrize("order", ["shuffled"], indirect=True)
@pytest.mark.parametrize(
    ("pooling", "solver"), [(Pooling.MEAN, "SGD"), (Pooling.MAX, "ADAGRAD"), (Pooling.ATTENTION, "ADAGRAD")]
)
def test_steps_of_equal_tokens_in_any_order(pooling, solver, order):
    """Equal tokens of a document have equal norms, or with max pooling all but one of zero: adagrad's steps too are
    those of any order."""
    problem = Problem(pooling, with_counts=False, dtype=np.float64)
    problem.table[:] = 0.1 * problem.table[:]
    compare(problem, Optimizer[solver], deterministic=False, epochs=1)


@POOLINGS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_training_needs_of_a_token_is_counted(pooling, dtype):
    taken = []
    for length in (10, 110):
        problem = Problem(pooling, dtype=dtype)
        starts = np.arange(N + 1) * length
        problem.documents = Documents(np.zeros(starts[-1], np.int32), np.ones(starts[-1], np.uint8), starts)
        before = simulator.memory_in_use()
        session, texts, targets = problem.on(gpu)
        session.prepare(UpdateRule(Optimizer.ADAGRAD, 5, nesterov=False))
        rows = session._training_rows(texts, targets, np.arange(N))
        taken.append(simulator.memory_in_use() - before)
        del session, texts, targets, rows
    assert 0 < taken[1] - taken[0] <= text_streaming.TOKEN_BYTES * 100 * N


def test_what_stays_in_order(monkeypatch):
    rooms = []
    monkeypatch.setattr(gpu, "room_for", lambda *sizes, of=gpu.room_for: rooms.append(sizes) or of(*sizes))
    compare(Problem(), Optimizer.ADAM, deterministic=False, epochs=1)
    compare(Problem(is_tree=True), Optimizer.SGD, deterministic=False, epochs=1)  # the tree's units
    assert len(rooms) == 2


@POOLINGS
def test_hidden_layers_dropout_and_several_labels(pooling):
    problem = Problem(pooling, hidden=(6, 3), dropout=0.3, dtype=np.float64, labels="several")
    compare(problem, Optimizer.ADAM, epochs=1)


@pytest.mark.parametrize("labels", ["one", "several"])
def test_one_vs_all(labels):
    compare(Problem(labels=labels, loss=Loss.SIGMOID_CROSS_ENTROPY), Optimizer.ADAGRAD, epochs=1)


@pytest.mark.parametrize(
    "options", [{"frozen": True}, {"sample_labels": True}], ids=lambda options: next(iter(options))
)
@pytest.mark.parametrize("is_tree", [False, True])
def test_options(options, is_tree):
    problem = Problem(Pooling.ATTENTION, labels="several", options=options, is_tree=is_tree)
    compare(problem, Optimizer.ADAGRAD, epochs=1 + ("sample_labels" in options))


@pytest.mark.parametrize("solver", ["SGD", "ADAGRAD", "ADAM"])
@pytest.mark.parametrize("hidden", [(), (6, 3)], ids=str)
def test_trees(hidden, solver):
    labels, momentum = ("several", {}) if hidden else ("one", {"momentum": 0.5})
    problem = Problem(hidden=hidden, dropout=0.2, is_tree=True, labels=labels)
    compare(problem, Optimizer[solver], epochs=1, **momentum)


def test_a_tree_of_one_class():
    compare(Problem(n_outputs=1, is_tree=True, hidden=(3,), options={"frozen": True}), Optimizer.SGD, epochs=1)


@pytest.mark.parametrize("pooling", [Pooling.SUM, Pooling.MAX, Pooling.ATTENTION])
def test_tokens_that_repeat_more_often_than_a_warp_has_lanes(pooling):
    problem = Problem(pooling, with_counts=False, options={"row_weights": None, "count_weights": None})
    problem.table[:] = 0.1 * problem.table[:]
    compare(problem, Optimizer.ADAGRAD, epochs=1)


def test_more_columns_than_a_warp_updates_at_once():
    compare(Problem(Pooling.ATTENTION, dim=131), Optimizer.ADAGRAD, epochs=1, batch_size=N)


@pytest.mark.parametrize("batch_size", [1, N])
def test_every_size_of_batch(batch_size):
    compare(Problem(Pooling.MAX), Optimizer.ADAM, epochs=1, batch_size=batch_size)


@pytest.mark.parametrize("is_tree", [False, True])
def test_threads_in_any_order_give_the_same_bits(is_tree):
    results = []
    for order in ("forward", "reversed", "shuffled"):
        simulator.set_order(order)
        session, texts, targets = Problem(Pooling.ATTENTION, hidden=(3,), dropout=0.2, is_tree=is_tree).on(gpu)
        losses = train(session, texts, targets, Optimizer.ADAGRAD, epochs=1)
        results.append(np.concatenate([session.params, session.moments, session.predict(texts).ravel(), losses]))
    simulator.set_order("forward")
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


@pytest.mark.parametrize("is_tree", [False, True])
def test_a_document_alone_or_among_others(is_tree):
    problem = Problem(Pooling.ATTENTION, is_tree=is_tree)
    session, texts, _ = problem.on(gpu)
    together, documents = session.predict(texts), problem.documents
    for i in (0, 1, 12):
        part = slice(documents.starts[i], documents.starts[i + 1])
        alone = Documents(documents.ids[part], documents.counts[part], documents.starts[i : i + 2] - part.start)
        np.testing.assert_array_equal(session.predict(gpu.as_texts(alone))[0], together[i])


def test_an_epoch_reads_one_small_array_back(monkeypatch):
    problem = Problem()
    session, texts, targets = problem.on(gpu)
    train(session, texts, targets, Optimizer.ADAGRAD, epochs=1)
    read = []
    copy = simulator.DeviceArray.copy_to_host
    monkeypatch.setattr(
        simulator.DeviceArray, "copy_to_host", lambda array, out=None: read.append(array.size) or copy(array, out)
    )
    session.train_epoch(texts, targets, EpochPlan(np.arange(N), np.full(3, 0.01), np.zeros(3), 3))
    assert session.largest_weight() > 0
    session.snapshot()
    assert read == [2 * 3 + n_largest(problem.params.size)]


def test_moments_go_on_and_snapshots_hold_the_table():
    problem = Problem()
    one, *data = problem.on(gpu)
    train(one, *data, Optimizer.ADAM, epochs=1)
    two = problem.on(gpu)[0]
    two.params[:] = one.params
    two.prepare(UpdateRule(Optimizer.ADAM, 5, alpha=0.1, seed=9))
    two.moments[:] = one.moments
    before, snapshot = two.params.copy(), two.snapshot()
    for session in (one, two):
        session.train_epoch(*data, EpochPlan(random.permutation(1, 1, N), np.full(3, 0.01), np.zeros(3), 3))
    np.testing.assert_array_equal(one.params, two.params)
    assert (two.params[-problem.table[:].size :] != before[-problem.table[:].size :]).any()
    two.restore(snapshot)
    np.testing.assert_array_equal(two.params, before)


def test_what_is_not_there():
    session, texts, targets = Problem().on(gpu)
    with pytest.raises(NotImplementedError, match="stochastic solvers only"):
        session.loss_and_gradient(texts, targets, 0.0)
    with simulator.memory_limit(64), pytest.raises(MemoryError, match="The GPU has no room for another 0 MiB"):
        session.predict(texts)


# ---------------------------------------------------------------- kernels


def run(put, *args):
    queue = Queue()
    put(queue, *args)
    queue.run()


def tolerance(dtype):
    return dict(rtol=2e-6, atol=2e-6) if dtype == np.float32 else dict(rtol=1e-12, atol=1e-13)


@POOLINGS
@KINDS
def test_pooled_vectors(pooling, dtype, order):
    problem = Problem(pooling, dim=37, dtype=dtype)
    session, texts, _ = problem.on(gpu)
    model = {"rows": problem.table[:].astype(float), "query": problem.query.astype(float)}
    name = pooling.name.lower()
    expected = [reference_text.pool(one, model, name, ROW_WEIGHTS, COUNT_WEIGHTS)[0] for one in problem.lists]
    np.testing.assert_allclose(session.transform(texts), expected, **tolerance(dtype))


def test_the_first_of_equal_tokens_is_chosen(order):
    problem = Problem(Pooling.MAX, dim=3)
    rows = np.full(problem.table.shape, 7.0)
    rows[5, 1] = 8
    problem.table[:] = rows
    session, texts, _ = problem.on(gpu)
    bags = session._bags_of(texts, N)
    x = matrix(empty(N * 16, np.float32), 0, 16)
    batch = Batch(empty(0, np.uint32), upload(np.zeros(3, np.uint32)))
    run(embedding.max_rows, bags.embedding, bags.documents, batch, x, bags.space.none, bags.space.choices, N)
    choices = bags.space.choices.copy_to_host().reshape(N, 16)[:, :3]
    for i, document in enumerate(problem.lists):
        first = problem.documents.starts[i] if document else embedding.NO_TOKEN
        fives = [first + q for q, (row, _) in enumerate(document) if row == 5]
        assert choices[i].tolist() == [first, fives[0] if fives else first, first]


@KINDS
def test_norms_of_gradients(dtype, order):
    rng, dim, stride = np.random.default_rng(0), 37, 48
    problem = Problem(Pooling.MAX, dim=dim, dtype=dtype)
    session, texts, _ = problem.on(gpu)
    bags = session._bags_of(texts, N)
    g = np.zeros((N, stride), dtype)
    g[:, :dim] = rng.normal(size=(N, dim))
    grad_x, batch = matrix(upload(g), 0, stride), Batch(empty(0, np.uint32), upload(np.zeros(3, np.uint32)))
    run(embedding.gradient_norms, grad_x, dim, bags.space.norms, N)
    np.testing.assert_allclose(bags.space.norms.copy_to_host(), (g.astype(float) ** 2).sum(axis=1) / dim, rtol=1e-6)
    starts, chosen = problem.documents.starts, np.full((N, stride), embedding.NO_TOKEN, np.uint32)
    expected = np.zeros(starts[-1])
    for i in range(N):
        if starts[i + 1] > starts[i]:
            chosen[i, :dim] = rng.integers(starts[i], starts[i + 1], dim)
            np.add.at(expected, chosen[i, :dim], g[i, :dim].astype(float) ** 2 / dim)
    bags.space.choices.copy_to_device(chosen.ravel())
    run(embedding_updates.chosen_norms, bags, batch, grad_x, N)
    np.testing.assert_allclose(bags.space.chosen.copy_to_host(), expected, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 5, 40])
@pytest.mark.parametrize("n_table", [1, 3])
def test_tokens_by_row(batch_size, n_table, monkeypatch):
    monkeypatch.setattr(occurrences, "PIECE_BATCHES", 1)
    _, documents = make_documents(with_counts=False)
    documents = documents._replace(ids=documents.ids % n_table)
    order = np.random.default_rng(0).permutation(N)[:10]
    found = occurrences.group_by_row(documents.ids, documents.starts, order, batch_size)
    expected = []
    for first in range(0, len(order), batch_size):
        groups = {}
        for place, document in enumerate(order[first : first + batch_size]):
            for p in range(documents.starts[document], documents.starts[document + 1]):
                groups.setdefault(int(documents.ids[p]), []).append((p, place))
        expected.append(sorted(groups.items()))
    got = []
    for first, last in zip(found.batches[:-1], found.batches[1:], strict=True):
        parts = [slice(found.starts[g], found.starts[g + 1]) for g in range(first, last)]
        pairs = [list(zip(found.tokens[part].tolist(), found.places[part].tolist(), strict=True)) for part in parts]
        got.append(list(zip(found.rows[first:last].tolist(), pairs, strict=True)))
    assert got == expected
    room = occurrences.room_for(-(-10 // batch_size), found.tokens.size)
    pieces = occurrences.group_in_pieces(documents.ids, documents.starts, order, batch_size, n_workers=2)
    assert len(list(occurrences.fill(room, pieces))) == -(-10 // batch_size)
    for into, values in zip(room, found, strict=True):
        np.testing.assert_array_equal(into.copy_to_host()[: values.size], values)
    nothing = occurrences.group_by_row(documents.ids[:0], np.zeros(N + 1, np.int64), order, batch_size)
    assert [part.size for part in nothing] == [-(-10 // batch_size) + 1, 0, 1, 0, 0]


@KINDS
def test_tree_kernels(dtype, order):
    problem = Problem(dim=37, is_tree=True, labels="several", dtype=dtype)
    session, _, targets = problem.on(gpu)
    layer, paths, units, (most, stride) = session.top, problem.tree, problem.units.astype(float), (9, 48)
    rng, params = np.random.default_rng(0), upload(problem.params)
    x, before = np.zeros((N, stride), dtype), np.zeros((N, stride), dtype)
    x[:, :37], before[:, :37] = rng.normal(size=(2, N, 37))
    rows = rng.permutation(N)
    batch = Batch(upload(rows.astype(np.uint32)), upload(np.array([0, 1, 0], np.uint32)))
    scales, losses = upload(np.array([np.nan, 0.7], dtype)), empty(N, dtype)
    slopes, grad_x = matrix(empty(N * most, dtype), 0, most), matrix(upload(before), 0, stride)
    on_device, above = tree.upload_tree(paths, dtype), params[: session.network.n_params]
    inputs = matrix(upload(x), 0, stride)
    run(tree.tree_loss, inputs, above, layer, on_device, targets, batch, scales, slopes, losses, N)
    run(tree.tree_backward, above, layer, on_device, targets, batch, slopes, grad_x, N)

    expected_losses, expected_slopes = np.zeros(N), np.full((N, most), np.nan)
    expected_back, ids, starts = np.zeros((N, stride)), [], [0]
    for i, row in enumerate(rows):
        own = problem.labels[problem.starts[row] : problem.starts[row + 1]]
        passed = [q for label in own for q in range(paths.starts[label], paths.starts[label + 1])]
        for k, q in enumerate(passed):
            sign = 2 * paths.turns[q] - 1
            margin = sign * (units[paths.units[q]] @ x[i, :37].astype(float))
            share = problem.weights[row] / len(own)
            expected_losses[i] += share * np.log1p(np.exp(-margin))
            expected_slopes[i, k] = -0.7 * share * sign / (1 + np.exp(margin))
            expected_back[i, :37] += expected_slopes[i, k] * units[paths.units[q]]
        ids += [int(paths.units[q]) for q in passed]
        starts.append(len(ids))
    expected_back *= before
    np.testing.assert_allclose(losses.copy_to_host(), expected_losses, **tolerance(dtype))
    np.testing.assert_allclose(slopes.data.copy_to_host().reshape(N, most), expected_slopes, **tolerance(dtype))
    np.testing.assert_allclose(grad_x.data.copy_to_host().reshape(N, stride), expected_back, **tolerance(dtype))

    groups = occurrences.room_for(1, len(ids))
    found = occurrences.group_by_row(np.array(ids, np.int32), np.array(starts), np.arange(N), N, most)
    list(occurrences.fill(groups, [found]))
    moments = upload(np.full(2 * above.size, 0.5, dtype))
    steps = Steps(*[upload(np.array([0.3], dtype))] * 3, upload(np.zeros(3, np.uint32)))
    rule = gpu_session.Rule(0, None, Optimizer.ADAGRAD, False, StepRule(*[dtype(0)] * 4), 0.0, 0)
    run(tree.tree_step, inputs, Model(None, above, None, moments, None), layer, groups, 3, slopes, steps, rule)
    squares = np.full(units.shape, 0.5)
    for i in range(N):
        for k in range(starts[i + 1] - starts[i]):
            unit, g = ids[starts[i] + k], expected_slopes[i, k] * x[i, :37]
            units[unit], squares[unit] = reference.adagrad_step(units[unit], g, squares[unit], 0.3)
    got = params.copy_to_host()[int(layer["weight_start"]) :][: 3 * stride].reshape(3, stride)
    np.testing.assert_allclose(got[:, :37], units, **tolerance(dtype))

    out, outputs = matrix(empty(N * 4, dtype), 0, 4), matrix(empty(N * 16, dtype), 0, 16)
    start = Batch(empty(0, np.uint32), upload(np.zeros(3, np.uint32)))
    run(tree.tree_probabilities, inputs, above, layer, on_device, outputs, start, out, N)
    right = 1 / (1 + np.exp(-x[:, :37] @ units.T))
    expected = np.ones((N, 4))
    for label in range(4):
        for q in range(paths.starts[label], paths.starts[label + 1]):
            expected[:, label] *= np.where(paths.turns[q] > 0, right, 1 - right)[:, paths.units[q]]
    np.testing.assert_allclose(out.data.copy_to_host().reshape(N, 4), expected, **tolerance(dtype))
