"""Embedding bags, and training over documents, against naive twins."""

import numpy as np
import pytest

from nbnet.cpu.text_session import TextSession, as_targets, as_texts, initialize_table
from nbnet.cpu.token_rows import Documents
from nbnet.epochs import EpochPlan, UpdateRule
from nbnet.network import (
    ACTIVATION_CODES,
    DenseSpec,
    EmbeddingSpec,
    EmbeddingTable,
    Loss,
    Optimizer,
    Pooling,
    aligned_zeros,
    bias_of,
    build,
    initialize,
    put_below,
    table_split,
    weight_of,
)
from tests import reference, reference_text

POOLINGS = pytest.mark.parametrize("pooling", [member.name.lower() for member in Pooling])
N_ROWS = 23


def random_documents(n, seed=0, longest=6):
    """Documents as lists of (row, count), the second one empty, and as arrays."""
    rng = np.random.default_rng(seed)
    lists = []
    for number in range(n):
        rows = rng.permutation(N_ROWS)[: 0 if number == 1 else rng.integers(1, longest + 1)]
        lists.append([(int(row), int(rng.integers(1, 4))) for row in rows])
    flat = [token for document in lists for token in document]
    ids = np.array([row for row, _ in flat], np.int32)
    counts = np.array([count for _, count in flat], np.uint8)
    return lists, Documents(ids, counts, np.cumsum([0, *map(len, lists)]))


def table_of(session):
    return EmbeddingTable(session.params, session.below[0])


def pads_of(params, layer):
    """The elements of the table's rows that are no columns."""
    stride, dim, n_rows = int(layer["out_stride"]), int(layer["n_out"]), int(layer["n_in"])
    right = stride - table_split(stride)
    return params[int(layer["weight_start"]) :][n_rows * (stride - right) :].reshape(n_rows, right)[:, dim - stride :]


def query_of(session):
    layer = session.below[0]
    return session.params[int(layer["bias_start"]) :][: int(layer["n_out"])]


def make_session(pooling, dim, hidden, n_outputs, loss, dtype=np.float64, n_jobs=1, dropout=0.0, **options):
    specs = [*(DenseSpec(n, ACTIVATION_CODES["tanh"]) for n in hidden), DenseSpec(n_outputs)]
    dense = build(dim, specs)
    network = put_below(dense, EmbeddingSpec(N_ROWS, dim, Pooling[pooling.upper()], dropout))
    params = aligned_zeros(network.n_params, dtype)
    params[: dense.n_params] = initialize(dense, dtype, 3)
    initialize_table(network, params, 5)
    session = TextSession(network, params, loss, n_jobs=n_jobs, **options)
    table_of(session)[:] = 10 * table_of(session)[:]  # so that nonlinearities are seen
    query_of(session)[:] = np.random.default_rng(1).normal(size=dim)
    return session


def model_of(session):
    params = session.params
    return {
        "rows": table_of(session)[:].astype(float),
        "query": query_of(session).astype(float),
        "weights": [weight_of(params, row).astype(float) for row in session.network.layers],
        "biases": [bias_of(params, row).astype(float) for row in session.network.layers],
    }


def targets_of(loss, n, n_outputs, dtype=np.float64):
    """Targets for the engine and for the twin."""
    rng = np.random.default_rng(2)
    if loss == Loss.SOFTMAX_CROSS_ENTROPY:
        labels = rng.integers(0, n_outputs, n)
        return as_targets(labels, None, np.ones(n), n_outputs, dtype), labels
    indicator = rng.random((n, n_outputs)) < 0.4
    starts = np.append(0, np.cumsum(indicator.sum(axis=1)))
    targets = as_targets(np.nonzero(indicator)[1], None, np.ones(n), n_outputs, dtype, starts)
    return targets, indicator.astype(float)


@POOLINGS
@pytest.mark.parametrize("dim", [1, 7, 17, 33])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pooled_vectors(pooling, dim, dtype):
    lists, documents = random_documents(9)
    row_weights, count_weights = np.linspace(0.5, 2, N_ROWS), np.log(np.arange(256) + 1.0)
    options = {"row_weights": row_weights, "count_weights": count_weights}
    session = make_session(pooling, dim, [], 2, Loss.SOFTMAX_CROSS_ENTROPY, dtype, **options)
    model = model_of(session)
    expected = [reference_text.pool(document, model, pooling, row_weights, count_weights)[0] for document in lists]
    found = session.transform(as_texts(documents))
    np.testing.assert_allclose(found, expected, atol=1e-6 if dtype == np.float32 else 1e-13)
    assert not found[1].any()


def test_repeats_one_by_one():
    """Without counts, repeated tokens count as often as they stand there."""
    documents = Documents(np.array([3, 4, 3], np.int32), np.empty(0, np.uint8), np.array([0, 3]))
    session = make_session("mean", 5, [], 2, Loss.SOFTMAX_CROSS_ENTROPY)
    rows = model_of(session)["rows"]
    np.testing.assert_allclose(session.transform(as_texts(documents))[0], (2 * rows[3] + rows[4]) / 3, atol=1e-14)


@POOLINGS
@pytest.mark.parametrize("solver", ["sgd", "adagrad", "adam"])
@pytest.mark.parametrize("hidden", [[], [6]])
@pytest.mark.parametrize("loss", [Loss.SOFTMAX_CROSS_ENTROPY, Loss.SIGMOID_CROSS_ENTROPY])
def test_training(pooling, solver, hidden, loss):
    n, dim, n_outputs, batch_size, rate, smoothing = 13, 20, 3, 4, 0.1, 0.2  # 20: columns in both blocks
    lists, documents = random_documents(n)
    row_weights, count_weights = np.linspace(0.5, 2, N_ROWS), np.sqrt(np.arange(256))
    options = {"row_weights": row_weights, "count_weights": count_weights, "label_smoothing": smoothing}
    session = make_session(pooling, dim, hidden, n_outputs, loss, **options)
    model, texts = model_of(session), as_texts(documents)
    targets, target = targets_of(loss, n, n_outputs)
    session.prepare(UpdateRule(Optimizer[solver.upper()], batch_size, momentum=0.0))
    dense = ["weights", "biases"]
    if solver == "adam":
        state = {"rows": (np.zeros((N_ROWS, dim)), np.zeros((N_ROWS, dim))), "query": [0.0, 0.0]}
        state |= {name: [[0.0, 0.0] for _ in model[name]] for name in dense}
    else:
        state = {"rows": np.full(N_ROWS, 1e-3), "query": [1e-3]} | {
            name: [[1e-3] for _ in model[name]] for name in dense
        }

    def step(w, g, kept, t):
        if solver == "sgd":
            return w - rate * g
        if solver == "adagrad":
            w, kept[0] = reference.adagrad_step(w, g, kept[0], rate)
        else:
            w, kept[0], kept[1] = reference.adam_step(w, g, kept[0], kept[1], t, rate, 0.9, 0.999, 1e-8)
        return w

    activations, t = [*["tanh"] * len(hidden), "identity"], 0
    for epoch in range(2):
        order = np.random.default_rng(epoch).permutation(n)
        expected = []
        for start in range(0, n, batch_size):
            batch = order[start : start + batch_size]
            chosen, t = [lists[i] for i in batch], t + 1
            losses, grad_weights, grad_biases, grad_query, tokens = reference_text.losses_and_gradients(
                chosen,
                model,
                pooling,
                activations,
                loss.name.lower(),
                target[batch],
                row_weights,
                count_weights,
                smoothing,
            )
            expected.append(losses)
            rows = reference_text.sparse_step(solver, model["rows"], chosen, tokens, state["rows"], rate, t)
            query = step(model["query"], grad_query, state["query"], t) if pooling == "attention" else model["query"]
            for name, grads in zip(dense, [grad_weights, grad_biases], strict=True):
                model[name] = [step(w, g, s, t) for w, g, s in zip(model[name], grads, state[name], strict=True)]
            model |= {"rows": rows, "query": query}
        n_batches = len(expected)
        rates, zeros = np.full(n_batches, rate), np.zeros(n_batches)
        result = session.train_epoch(texts, targets, EpochPlan(order, rates, zeros, epoch * n_batches))
        assert result == pytest.approx(np.concatenate(expected).mean(), abs=1e-10)
        for name, values in model_of(session).items():
            for found, wanted in zip(np.atleast_1d(values) if name == "rows" else values, model[name], strict=True):
                np.testing.assert_allclose(found, wanted, atol=1e-11, err_msg=name)
    assert not pads_of(session.params, session.below[0]).any()


@pytest.mark.parametrize("pooling", ["sqrtn", "attention"])
def test_gradients_with_dropout_are_central_differences(pooling):
    n, dim, step = 7, 5, 1e-6
    _, documents = random_documents(n)
    session = make_session(pooling, dim, [4], 3, Loss.SOFTMAX_CROSS_ENTROPY, dropout=0.4)
    targets, _ = targets_of(Loss.SOFTMAX_CROSS_ENTROPY, n, 3)
    session.prepare(UpdateRule(Optimizer.SGD, n, momentum=0.0, seed=2))
    start, texts = session.params.copy(), as_texts(documents)

    def loss_at(params, rate=0.0):
        session.params[:] = params
        one = np.ones(1)
        return session.train_epoch(texts, targets, EpochPlan(np.arange(n), rate * one, 0 * one, 0))

    loss_at(start, rate=1.0)
    gradient = start - session.params
    rng = np.random.default_rng(3)
    for i in rng.permutation(np.flatnonzero(gradient))[:40]:
        shift = np.zeros_like(start)
        shift[i] = step
        slope = n * (loss_at(start + shift) - loss_at(start - shift)) / (2 * step)
        assert gradient[i] == pytest.approx(slope, rel=1e-6, abs=1e-8)


@pytest.mark.slow_without_jit
@POOLINGS
@pytest.mark.parametrize("solver", list(Optimizer))
@pytest.mark.parametrize(("hidden", "dropout"), [([], 0.0), ([9], 0.2)])
def test_same_bits_for_any_number_of_workers(pooling, solver, hidden, dropout):
    _, documents = random_documents(40, longest=15)
    targets, _ = targets_of(Loss.SOFTMAX_CROSS_ENTROPY, 40, 5, np.float32)
    results = []
    for n_jobs in (1, 2, 3, 8):
        session = make_session(pooling, 71, hidden, 5, Loss.SOFTMAX_CROSS_ENTROPY, np.float32, n_jobs, dropout)
        session.prepare(UpdateRule(solver, 17, momentum=0.5, seed=4))
        for epoch in range(2):
            session.train_epoch(
                as_texts(documents), targets, EpochPlan(np.arange(40), np.full(3, 0.1), np.zeros(3), 3 * epoch)
            )
        results.append((session.params, session.moments, session.predict(as_texts(documents))))
    for result in results[1:]:
        for first, other in zip(results[0], result, strict=True):
            np.testing.assert_array_equal(first, other)


@POOLINGS
def test_a_document_alone_or_among_others(pooling):
    _, documents = random_documents(300)
    session = make_session(pooling, 19, [5], 3, Loss.SOFTMAX_CROSS_ENTROPY, np.float32)
    together = session.predict(as_texts(documents))
    for number in (0, 1, 129, 299):
        start, stop = documents.starts[number : number + 2]
        alone = Documents(documents.ids[start:stop], documents.counts[start:stop], np.array([0, stop - start]))
        np.testing.assert_array_equal(session.predict(as_texts(alone))[0], together[number])


def test_frozen():
    _, documents = random_documents(20)
    targets, _ = targets_of(Loss.SOFTMAX_CROSS_ENTROPY, 20, 3)
    session = make_session("mean", 5, [], 3, Loss.SOFTMAX_CROSS_ENTROPY, frozen=True)
    before = model_of(session)
    session.prepare(UpdateRule(Optimizer.ADAGRAD, 8))
    session.train_epoch(as_texts(documents), targets, EpochPlan(np.arange(20), np.full(3, 0.1), np.zeros(3), 0))
    after = model_of(session)
    np.testing.assert_array_equal(before["rows"], after["rows"])
    assert (before["weights"][0] != after["weights"][0]).any()


@pytest.mark.parametrize("dim", [6, 38])
def test_initial_rows_do_not_depend_on_their_number(dim):
    tables = []
    for n_rows, first in ((7, 0), (12, 0), (12, 7)):
        network = put_below(build(dim, [DenseSpec(2)]), EmbeddingSpec(n_rows, dim))
        params = aligned_zeros(network.n_params, np.float32)
        initialize_table(network, params, 9, first)
        tables.append(EmbeddingTable(params, network.layers[0])[:])
        assert not pads_of(params, network.layers[0]).any()
    np.testing.assert_array_equal(tables[0], tables[1][:7])
    np.testing.assert_array_equal(tables[1][7:], tables[2][7:])
    assert not tables[2][:7].any()
    assert 0.9 < abs(tables[1]).max() * dim < 1
