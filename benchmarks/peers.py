"""nbnet and its peers, each training the same network on the same rows in its fastest setting.

A peer is a function of (case, data, n_threads) that returns ``{setting: train}``. ``train()`` trains from fresh weights
and returns ``(seconds, predict_proba)``. The caller runs each setting once before timing, so compilation is left out,
and reports the fastest.

Only the work itself is timed: for PyTorch and JAX the bare loop over tensors that are already theirs, for nbnet,
scikit-learn and skorch the whole ``fit``, validation of the input included.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from .cases import ALPHA, LEARNING_RATE, Case, Data

Train = Callable[[], tuple[float, Callable[[np.ndarray], np.ndarray]]]
SEED = 1


def estimator_parameters(case: Case) -> dict:
    """Constructor arguments shared by nbnet's and scikit-learn's MLPClassifier."""
    return dict(
        hidden_layer_sizes=case.hidden,
        activation=case.activation,
        alpha=ALPHA,
        batch_size=case.batch_size,
        learning_rate_init=LEARNING_RATE,
        max_iter=case.epochs,
        n_iter_no_change=case.epochs + 1,  # never stops early
        random_state=SEED,
    )


def _fit(estimator, data: Data):
    start = time.perf_counter()
    estimator.fit(data.X, data.y)
    return time.perf_counter() - start, estimator.predict_proba


def nbnet(case: Case, data: Data, n_threads: int) -> dict[str, Train]:
    from nbnet import MLPClassifier

    return {f"n_jobs={n_threads}": lambda: _fit(MLPClassifier(**estimator_parameters(case), n_jobs=n_threads), data)}


def scikit_learn(case: Case, data: Data, n_threads: int) -> dict[str, Train]:
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    def trainer(limit: int) -> Train:
        def train():
            with threadpool_limits(limit):
                return _fit(MLPClassifier(**estimator_parameters(case)), data)

        return train

    return {f"{limit} BLAS threads": trainer(limit) for limit in sorted({1, n_threads})}


# ---------------------------------------------------------------- PyTorch


def _torch_threads(limit: int) -> None:
    """PyTorch's fastest state: `limit` threads, and subnormal moments of units that died count as zero."""
    import torch

    torch.set_num_threads(limit)
    torch.set_flush_denormal(True)


def _torch_model(case: Case):
    import torch

    activations = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh, "logistic": torch.nn.Sigmoid}
    layers = []
    for n_in, n_out in pairwise(case.sizes):
        layers += [torch.nn.Linear(n_in, n_out), activations[case.activation]()]
    return torch.nn.Sequential(*layers[:-1]).to(getattr(torch, case.dtype))


def _torch_batches(case: Case, data: Data):
    """Two ways to cut an epoch into batches: rows selected batch by batch, or all rows put in order first."""
    import torch

    X, y = torch.from_numpy(data.X), torch.from_numpy(data.y)

    def by_batch():
        for rows in torch.randperm(len(X)).split(case.batch_size):
            yield X.index_select(0, rows), y.index_select(0, rows)

    def by_epoch():
        order = torch.randperm(len(X))
        x_batches = X.index_select(0, order).split(case.batch_size)
        yield from zip(x_batches, y.index_select(0, order).split(case.batch_size), strict=True)

    return {"select by batch": by_batch, "select by epoch": by_epoch}


def _torch_predict(forward):
    import torch

    def predict_proba(X: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return torch.softmax(forward(torch.from_numpy(X)), 1).numpy()

    return predict_proba


def pytorch(case: Case, data: Data, n_threads: int) -> dict[str, Train]:
    """A plain training loop: cross_entropy, backward, fused Adam; the forward pass eager or through torch.compile."""
    import torch

    def trainer(batches, limit: int, compiled: bool) -> Train:
        torch.manual_seed(SEED)
        model = _torch_model(case)
        initial = {name: value.clone() for name, value in model.state_dict().items()}

        def loss_of(x, y):
            return torch.nn.functional.cross_entropy(model(x), y)

        loss_function = torch.compile(loss_of) if compiled else loss_of

        def train():
            _torch_threads(limit)
            torch.manual_seed(SEED)
            model.load_state_dict(initial)
            optimizer = torch.optim.Adam(
                model.parameters(), lr=LEARNING_RATE, weight_decay=ALPHA / case.batch_size, fused=True
            )
            start = time.perf_counter()
            for _ in range(case.epochs):
                for x, y in batches():
                    optimizer.zero_grad()
                    loss_function(x, y).backward()
                    optimizer.step()
            return time.perf_counter() - start, _torch_predict(model)

        return train

    batches = _torch_batches(case, data)
    settings = {}
    for limit in sorted({1, n_threads}):
        for name, batch in batches.items():
            settings[f"eager, {name}, {limit} threads"] = trainer(batch, limit, compiled=False)
        settings[f"torch.compile, select by batch, {limit} threads"] = trainer(
            batches["select by batch"], limit, compiled=True
        )
    return settings


def pytorch_one_graph(case: Case, data: Data, n_threads: int) -> dict[str, Train]:
    """Loss, gradient and a hand-written Adam, traced into one graph that torch.compile turns into one call a step."""
    import torch
    from torch.nn.functional import cross_entropy, linear

    activation = {"relu": torch.relu, "tanh": torch.tanh, "logistic": torch.sigmoid}[case.activation]

    def forward(params, x):
        for k in range(0, len(params) - 2, 2):
            x = activation(linear(x, params[k], params[k + 1]))
        return linear(x, params[-2], params[-1])

    gradient = torch.func.grad(lambda params, x, y: cross_entropy(forward(params, x), y))

    def step(params, first, second, rate, x, y):
        for p, m, v, g in zip(params, first, second, gradient(params, x, y), strict=True):
            g = g + ALPHA / case.batch_size * p
            m.lerp_(g, 0.1)
            v.lerp_(g * g, 0.001)
            p.sub_(rate * m / (v.sqrt() + 1e-8))

    compiled_step = torch.compile(step)
    torch.manual_seed(SEED)
    initial = [p.detach() for p in _torch_model(case).parameters()]

    def trainer(batches, limit: int) -> Train:
        def train():
            _torch_threads(limit)
            torch.manual_seed(SEED)
            params = [p.clone() for p in initial]
            first, second = [torch.zeros_like(p) for p in params], [torch.zeros_like(p) for p in params]
            t = 0
            start = time.perf_counter()
            with torch.no_grad():
                for _ in range(case.epochs):
                    for x, y in batches():
                        t += 1
                        rate = LEARNING_RATE * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
                        compiled_step(params, first, second, torch.tensor(rate, dtype=x.dtype), x, y)
            return time.perf_counter() - start, _torch_predict(lambda x: forward(params, x))

        return train

    return {
        f"{name}, {limit} threads": trainer(batch, limit)
        for limit in sorted({1, n_threads})
        for name, batch in _torch_batches(case, data).items()
    }


def skorch(case: Case, data: Data, n_threads: int) -> dict[str, Train]:
    """skorch with a data set that hands out whole batches (its default, row by row, takes several times as long)."""
    import torch
    from skorch import NeuralNetClassifier

    class Batches(torch.utils.data.Dataset):
        def __init__(self, X, y=None):
            self.X = torch.from_numpy(X)
            self.y = torch.zeros(len(X), dtype=torch.int64) if y is None else torch.from_numpy(y)

        def __len__(self):
            return len(self.X)

        def __getitems__(self, rows):
            rows = torch.tensor(rows)
            return self.X.index_select(0, rows), self.y.index_select(0, rows)

    def trainer(limit: int) -> Train:
        def train():
            _torch_threads(limit)
            torch.manual_seed(SEED)
            network = NeuralNetClassifier(
                _torch_model(case),
                criterion=torch.nn.CrossEntropyLoss,
                optimizer=torch.optim.Adam,
                optimizer__fused=True,
                optimizer__weight_decay=ALPHA / case.batch_size,
                lr=LEARNING_RATE,
                batch_size=case.batch_size,
                max_epochs=case.epochs,
                dataset=Batches,
                iterator_train__shuffle=True,
                iterator_train__collate_fn=lambda batch: batch,
                iterator_valid__collate_fn=lambda batch: batch,
                train_split=None,
                callbacks="disable",
                verbose=0,
            )
            return _fit(network, data)

        return train

    return {f"{limit} threads": trainer(limit) for limit in sorted({1, n_threads})}


# ---------------------------------------------------------------- JAX


def jax(case: Case, data: Data, n_threads: int) -> dict[str, Train]:
    """A whole epoch in one compiled lax.scan, state donated; the ragged last batch in the same program."""
    import jax
    import jax.numpy as jnp

    if case.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    activation = {"relu": jax.nn.relu, "tanh": jnp.tanh, "logistic": jax.nn.sigmoid}[case.activation]
    n_full = case.n_rows // case.batch_size
    dtype = jnp.dtype(case.dtype)

    def forward(params, x):
        for weight, bias in params[:-1]:
            x = activation(x @ weight + bias)
        weight, bias = params[-1]
        return x @ weight + bias

    def loss(params, x, y):
        logits = forward(params, x)
        return (jax.nn.logsumexp(logits, 1) - jnp.take_along_axis(logits, y[:, None], 1)[:, 0]).mean()

    def step(state, x, y):
        params, first, second, t = state
        gradient = jax.tree.map(lambda g, p: g + ALPHA / case.batch_size * p, jax.grad(loss)(params, x, y), params)
        t = t + 1
        rate = LEARNING_RATE * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        first = jax.tree.map(lambda m, g: m + 0.1 * (g - m), first, gradient)
        second = jax.tree.map(lambda v, g: v + 0.001 * (g * g - v), second, gradient)
        params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), params, first, second)
        return params, first, second, t

    def epoch(state, X, y, order, unroll):
        def select_and_step(state, rows):
            take = dict(mode="promise_in_bounds")
            return step(state, X.at[rows].get(**take), y.at[rows].get(**take))

        full, rest = order[: n_full * case.batch_size], order[n_full * case.batch_size :]
        state, _ = jax.lax.scan(
            lambda state, rows: (select_and_step(state, rows), None),
            state,
            full.reshape(n_full, case.batch_size),
            unroll=unroll,
        )
        return select_and_step(state, rest) if rest.size else state

    X, y = jax.device_put(data.X), jax.device_put(data.y.astype(np.int32))
    probabilities = jax.jit(lambda params, x: jax.nn.softmax(forward(params, x)))

    def initial():
        rng = np.random.default_rng(SEED)
        params = []
        for n_in, n_out in pairwise(case.sizes):
            bound = np.sqrt(6.0 / (n_in + n_out))
            params.append((jnp.asarray(rng.uniform(-bound, bound, (n_in, n_out)), dtype), jnp.zeros(n_out, dtype)))
        return params, jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params), jnp.zeros((), dtype)

    def trainer(unroll: int, options: dict) -> Train:
        compiled = jax.jit(
            lambda *arguments: epoch(*arguments, unroll), donate_argnums=0, compiler_options=options or None
        )

        def train():
            rng = np.random.default_rng(SEED)
            state = jax.block_until_ready(initial())
            start = time.perf_counter()
            for _ in range(case.epochs):
                state = compiled(state, X, y, rng.permutation(case.n_rows).astype(np.int32))
            jax.block_until_ready(state)
            return time.perf_counter() - start, lambda X: np.asarray(probabilities(state[0], X))

        return train

    return {
        f"unroll {unroll}, vectors {width or 'default'}": trainer(
            unroll, {"xla_cpu_prefer_vector_width": width} if width else {}
        )
        for unroll in (1, 4)
        for width in (None, 512)
    }


PEERS = {
    "nbnet": nbnet,
    "scikit-learn": scikit_learn,
    "PyTorch": pytorch,
    "PyTorch, one graph": pytorch_one_graph,
    "skorch": skorch,
    "JAX": jax,
}
