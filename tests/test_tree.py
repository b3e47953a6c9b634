"""Hierarchical softmax: the tree, its kernels and training, against naive twins."""

import heapq

import numpy as np
import pytest

from nbnet.cpu.text_session import as_targets, as_texts, initialize_table
from nbnet.cpu.tree import huffman_tree
from nbnet.cpu.tree_session import TreeSession
from nbnet.epochs import EpochPlan, UpdateRule
from nbnet.network import (
    ACTIVATION_CODES,
    DenseSpec,
    EmbeddingSpec,
    Loss,
    Optimizer,
    Pooling,
    aligned_zeros,
    bias_of,
    build,
    initialize,
    put_below,
    put_tree_on_top,
    weight_of,
)
from tests import reference, reference_text
from tests.test_embedding import N_ROWS, query_of, random_documents, table_of


def make_session(pooling, dim, hidden, frequencies, dtype=np.float64, n_jobs=1, dropout=0.0):
    dense = build(dim, [DenseSpec(n, ACTIVATION_CODES["tanh"], dropout) for n in hidden])
    network = put_tree_on_top(dense, hidden[-1] if hidden else dim, len(frequencies))
    network = put_below(network, EmbeddingSpec(N_ROWS, dim, Pooling[pooling.upper()], dropout))
    params = aligned_zeros(network.n_params, dtype)
    if hidden:
        params[: dense.n_params] = initialize(dense, dtype, 3)
    initialize_table(network, params, 5)
    session = TreeSession(network, params, Loss.SOFTMAX_CROSS_ENTROPY, tree=huffman_tree(frequencies), n_jobs=n_jobs)
    table_of(session)[:] = 10 * table_of(session)[:]
    query_of(session)[:] = np.random.default_rng(1).normal(size=dim)
    units_of(session)[:] = np.random.default_rng(2).normal(size=units_of(session).shape)
    return session


def units_of(session):
    """View (n_units, n_in) of the tree's weights."""
    layer = session.top[0]
    start, stride, n_units = int(layer["weight_start"]), int(layer["in_stride"]), int(layer["n_out"]) - 1
    return session.params[start : start + n_units * stride].reshape(n_units, stride)[:, : int(layer["n_in"])]


def model_of(session):
    hidden = session.network.layers[:-1]
    return {
        "rows": table_of(session)[:],
        "query": query_of(session).copy(),
        "weights": [weight_of(session.params, row).copy() for row in hidden],
        "biases": [bias_of(session.params, row).copy() for row in hidden],
        "units": units_of(session).copy(),
    }


@pytest.mark.parametrize("frequencies", [[1], [1, 1], [5, 1, 1, 2], [0, 0, 3], list(range(1, 40))])
def test_tree(frequencies):
    tree = huffman_tree(frequencies)
    n_classes = len(frequencies)
    depths = np.diff(tree.starts)
    # the cost of the best code is the sum of all merged frequencies
    heap, cost = list(frequencies), 0
    heapq.heapify(heap)
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        cost += merged
        heapq.heappush(heap, merged)
    assert depths @ np.array(frequencies) == cost
    codes = [
        tuple(zip(tree.units[a:b], tree.turns[a:b], strict=True))
        for a, b in zip(tree.starts[:-1], tree.starts[1:], strict=True)
    ]
    assert len(set(codes)) == n_classes
    assert set(tree.units) == set(range(n_classes - 1))
    assert all(code[0][0] == 0 for code in codes if code)


@pytest.mark.parametrize("hidden", [[], [6]])
def test_probabilities(hidden):
    frequencies = [3, 1, 7, 2, 2, 9, 1]
    session = make_session("mean", 5, hidden, frequencies)
    _, documents = random_documents(150)
    texts = as_texts(documents)
    found = session.predict(texts)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-12)
    model = model_of(session)
    x = session.transform(texts)
    for weight, bias in zip(model["weights"], model["biases"], strict=True):
        x = np.tanh(x @ weight + bias)
    right = reference.logistic(x @ model["units"].T)
    for c in range(len(frequencies)):
        a, b = session.tree.starts[c : c + 2]
        units, turns = session.tree.units[a:b], session.tree.turns[a:b]
        expected = np.where(turns > 0, right[:, units], 1 - right[:, units]).prod(axis=1)
        np.testing.assert_allclose(found[:, c], expected, atol=1e-12)
    labels = np.arange(150) % 7
    targets = as_targets(labels, None, np.ones(150), 7, np.float64)
    assert session.evaluate(texts, targets) == pytest.approx(-np.log(found[np.arange(150), labels]).mean())


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
@pytest.mark.parametrize("solver", ["sgd", "adagrad", "adam"])
@pytest.mark.parametrize("hidden", [[], [6]])
def test_training(pooling, solver, hidden):
    n, dim, batch_size, rate = 9, 5, 4, 0.1
    frequencies = [3, 1, 7, 2, 2]
    lists, documents = random_documents(n)
    session = make_session(pooling, dim, hidden, frequencies)
    tree, model = session.tree, model_of(session)
    rng = np.random.default_rng(0)
    indicator = rng.random((n, 5)) < 0.4
    starts = np.append(0, np.cumsum(indicator.sum(axis=1)))
    targets = as_targets(np.nonzero(indicator)[1], None, np.ones(n), 5, np.float64, starts)
    session.prepare(UpdateRule(Optimizer[solver.upper()], batch_size, momentum=0.0))
    order = rng.permutation(n)
    result = session.train_epoch(as_texts(documents), targets, EpochPlan(order, np.full(3, rate), np.zeros(3), 0))

    ones, counts = np.ones(N_ROWS), np.arange(256.0)
    start = 1e-3 if solver == "adagrad" else 0.0
    state = {name: [[np.full_like(w, start), np.zeros_like(w)] for w in model[name]] for name in ("weights", "biases")}
    state["units"] = [[np.full(w.shape, start), np.zeros_like(w)] for w in model["units"]]
    state["query"] = [np.full(dim, start), np.zeros(dim)]
    rows_state = np.full(N_ROWS, 1e-3)
    if solver == "adam":
        rows_state = (np.zeros((N_ROWS, dim)), np.zeros((N_ROWS, dim)))

    def step(w, g, kept, t):
        if solver == "sgd":
            return w - rate * g
        if solver == "adagrad":
            w, kept[0] = reference.adagrad_step(w, g, kept[0], rate)
        else:
            w, kept[0], kept[1] = reference.adam_step(w, g, *kept, t, rate, 0.9, 0.999, 1e-8)
        return w

    losses = []
    for t, first in enumerate(range(0, n, batch_size), 1):
        batch = order[first : first + batch_size]
        chosen = [lists[i] for i in batch]
        pooled = [reference_text.pool(document, model, pooling, ones, counts) for document in chosen]
        xs, zs = reference.forward(
            np.array([h for h, _ in pooled]), model["weights"], model["biases"], ["tanh"] * len(hidden)
        )
        delta, steps = np.zeros_like(xs[-1]), []
        for i, row in enumerate(batch):
            labels = np.flatnonzero(indicator[row])
            losses.append(0.0)
            for label in labels:
                for q in range(tree.starts[label], tree.starts[label + 1]):
                    unit, turn = tree.units[q], tree.turns[q]
                    p = reference.logistic(model["units"][unit] @ xs[-1][i])
                    losses[-1] -= np.log(p if turn else 1 - p) / len(labels)
                    g = (p - turn) / len(labels)
                    delta[i] += g * model["units"][unit]
                    steps.append((unit, g * xs[-1][i]))
        grad_weights, grad_biases = [], []
        for number in range(len(hidden) - 1, -1, -1):
            delta = delta * (1 - np.tanh(zs[number]) ** 2)
            grad_weights.insert(0, xs[number].T @ delta)
            grad_biases.insert(0, delta.sum(axis=0))
            delta = delta @ model["weights"][number].T
        tokens = [backward(g) for (_, backward), g in zip(pooled, delta, strict=True)]
        grads = [g for g, _ in tokens]
        rows = reference_text.sparse_step(solver, model["rows"], chosen, grads, rows_state, rate, t)
        if pooling == "attention":
            model["query"] = step(model["query"], sum(query for _, query in tokens), state["query"], t)
        model["rows"] = rows
        for unit, g in steps:
            model["units"][unit] = step(model["units"][unit], g, state["units"][unit], t)
        for name, layer_grads in (("weights", grad_weights), ("biases", grad_biases)):
            model[name] = [step(w, g, s, t) for w, g, s in zip(model[name], layer_grads, state[name], strict=True)]
    assert result == pytest.approx(np.mean(losses), abs=1e-10)
    for name, values in model_of(session).items():
        for found, wanted in zip(values, model[name], strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-11, err_msg=name)


@pytest.mark.slow_without_jit
@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize("hidden", [[], [9]])
def test_same_bits_for_any_number_of_workers(pooling, hidden):
    _, documents = random_documents(40, longest=15)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, 40)
    targets = as_targets(labels, None, np.ones(40), 9, np.float32)
    results = []
    for n_jobs in (1, 2, 3, 8):
        session = make_session(pooling, 40, hidden, np.arange(1, 10), np.float32, n_jobs, dropout=0.2)
        session.prepare(UpdateRule(Optimizer.ADAGRAD, 17, seed=4))
        for epoch in range(2):
            session.train_epoch(
                as_texts(documents), targets, EpochPlan(np.arange(40), np.full(3, 0.1), np.zeros(3), 3 * epoch)
            )
        results.append((session.params, session.moments, session.predict(as_texts(documents))))
    for result in results[1:]:
        for first, other in zip(results[0], result, strict=True):
            np.testing.assert_array_equal(first, other)
