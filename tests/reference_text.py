"""Slow, obvious twins of the kernels over documents, in float64 NumPy. Never imported by the package.

A document is a list of (row, count). A model is a dictionary: `rows` (n_rows, dim), `query` (dim,), and `weights` and
`biases` of the dense layers above.
"""

import numpy as np

from tests import reference


def token_weights(document, row_weights, count_weights):
    return np.array([row_weights[row] * count_weights[count] for row, count in document])


def pool(document, model, pooling, row_weights, count_weights):
    """The pooled vector; and the matrix (tokens, dim) -> gradient of each token's vector, as a function of h's."""
    dim = model["rows"].shape[1]
    if not document:
        return np.zeros(dim), lambda g: (np.zeros((0, dim)), np.zeros(dim))
    vectors = model["rows"][[row for row, _ in document]]
    v = token_weights(document, row_weights, count_weights)
    if pooling == "max":
        choice = vectors.argmax(axis=0)

        def backward(g):
            grads = np.zeros_like(vectors)
            grads[choice, np.arange(dim)] = g
            return grads, np.zeros(dim)

        return vectors.max(axis=0), backward
    if pooling == "attention":
        scores = vectors @ model["query"] + np.log(v)
        a = np.exp(scores - scores.max())
        a /= a.sum()
        h = a @ vectors

        def backward(g):
            slopes = a * (vectors @ g - h @ g)
            return np.outer(a, g) + np.outer(slopes, model["query"]), slopes @ vectors

        return h, backward
    v = v / {"mean": v.sum(), "sqrtn": np.sqrt((v**2).sum()), "sum": 1.0}[pooling]
    return v @ vectors, lambda g: (np.outer(v, g), np.zeros(dim))


def losses_and_gradients(documents, model, pooling, activations, loss, target, row_weights, count_weights, smoothing):
    """Loss of each document, and the gradients of their sum: of the dense layers, of the query, of each token."""
    pooled = [pool(document, model, pooling, row_weights, count_weights) for document in documents]
    xs, zs = reference.forward(np.array([h for h, _ in pooled]), model["weights"], model["biases"], activations)
    if loss == "softmax_cross_entropy":
        losses, delta = reference.softmax_cross_entropy(xs[-1], target, smoothing)
    else:
        value, slope = reference.LOSSES[loss]
        goal = target * (1 - smoothing) + smoothing / target.shape[1]
        losses, delta = value(xs[-1], goal, 0).sum(axis=1), slope(xs[-1], goal, 0)
    grad_weights, grad_biases = [], []
    for number in range(len(activations) - 1, -1, -1):
        grad_weights.insert(0, xs[number].T @ delta)
        grad_biases.insert(0, delta.sum(axis=0))
        delta = delta @ model["weights"][number].T
        if number:
            delta = delta * reference.ACTIVATIONS[activations[number - 1]][1](zs[number - 1])
    tokens = [backward(g) for (_, backward), g in zip(pooled, delta, strict=True)]
    grad_query = sum(query for _, query in tokens)
    return losses, grad_weights, grad_biases, grad_query, [grads for grads, _ in tokens]


def sparse_step(solver, rows, documents, grads, state, rate, t, betas=(0.9, 0.999), epsilon=1e-8):
    """Update of the touched rows; `state`: squares (n_rows,) for adagrad, (mean, square) (n_rows, dim) for adam."""
    rows = rows.copy()
    if solver == "adam":
        total = np.zeros_like(rows)
        for document, tokens in zip(documents, grads, strict=True):
            for (row, _), g in zip(document, tokens, strict=True):
                total[row] += g
        for row in sorted({row for document in documents for row, _ in document}):
            rows[row], state[0][row], state[1][row] = reference.adam_step(
                rows[row], total[row], state[0][row], state[1][row], t, rate, *betas, epsilon
            )
        return rows
    for document, tokens in zip(documents, grads, strict=True):
        for (row, count), g in zip(document, tokens, strict=True):
            if solver == "sgd":
                rows[row] -= rate * g
            else:
                state[row] += (g**2).mean() / count
                rows[row] -= rate * g / np.sqrt(state[row])
    return rows
