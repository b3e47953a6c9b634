"""nbnet on a GPU beside PyTorch: ``python -m benchmarks.gpu [--budget SECONDS] [--out FILE]``.

Five tables: what a launch costs, products of matrices, steps of training of whole networks, epochs of each estimator,
and epochs of many small networks at once. PyTorch stands beside them where it is installed with CUDA: eager, and as one
captured graph, with TF32 off and on; its products are cuBLAS's. Rows that no time of the budget is left for are not
measured. Exit status 3 without a GPU.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from benchmarks import gpu_torch
from nbnet import ConvClassifier, MLPClassifier, TextEmbeddingClassifier, random
from nbnet.cuda.device import devices, why_no_cuda
from nbnet.epochs import EpochPlan, UpdateRule
from nbnet.network import Activation, DenseSpec, Loss, Optimizer, build, initialize

EPOCHS = 7  # of an estimator's fit
RUNS = 20  # of a product, and of a launch times 16, between two looks at the clock
PRODUCTS = [  # rows, columns, terms; the second is skinny
    (256, 512, 784),
    (128, 64, 8192),
    (1024, 1024, 1024),
    (4096, 1024, 1024),
    (4096, 4096, 4096),
]
PACKAGES = ("nbnet", "numba", "numba-cuda", "cuda-bindings", "cuda-core", "nvidia-cublas", "torch")
PRECISIONS = ("highest", "high")  # without and with TF32


class Case(NamedTuple):
    """A network and its batch."""

    sizes: tuple[int, ...]
    batch_size: int
    n_steps: int = 64  # of an epoch

    def __str__(self) -> str:
        return f"{'-'.join(map(str, self.sizes))}, batch {self.batch_size}"


CASES = [
    Case((20, 64, 32, 10), 32),
    Case((784, 100, 10), 200),
    Case((1000, 512, 512, 10), 256),
    Case((2048, 2048, 2048, 10), 1024),
]
SMALL = Case((64, 32, 10), 32)
TEAMS = (1, 32, 256, 1024)  # networks


class Peer(NamedTuple):
    """An estimator, what it learns, and the same network in PyTorch."""

    name: str
    model: Callable  # () -> estimator
    data: Callable  # () -> X, y, and what PyTorch's network takes
    torch_model: Callable  # (torch) -> module, optimizer
    batch_size: int


def tables():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(50_000, 100)).astype(np.float32), rng.integers(0, 10, 50_000)
    return X, y, X


def texts():
    """32 words each, of 20,000; PyTorch gets their numbers."""
    rng = np.random.default_rng(0)
    ids, y = rng.zipf(1.3, size=(20_000, 32)) % 20_000, rng.integers(0, 10, 20_000)
    return [" ".join(f"w{i}" for i in row) for row in ids], y, ids


def images():
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 256, (10_000, 28, 28, 1), dtype=np.uint8), rng.integers(0, 10, 10_000)
    return X, y, (X / np.float32(255)).transpose(0, 3, 1, 2).copy()


def text_classifier(**parameters):
    return TextEmbeddingClassifier(100, pooling="mean", ngram_range=(1, 1), target_loss=0.0, **parameters)


PEERS = [
    Peer("MLPClassifier", lambda: MLPClassifier((256, 128)), tables, gpu_torch.mlp, 200),
    Peer("TextEmbeddingClassifier", text_classifier, texts, gpu_torch.text, 256),
    Peer("the same, not deterministic", lambda: text_classifier(deterministic=False), texts, gpu_torch.text, 256),
    Peer("ConvClassifier", ConvClassifier, images, gpu_torch.conv, 64),
]


def main(arguments=None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=240.0, help="seconds in all")
    parser.add_argument("--out", type=Path, help="JSON file with everything that is printed")
    options = parser.parse_args(arguments)
    if reason := why_no_cuda():
        print(f"No benchmark on a GPU: {reason}.")
        return 3
    clock = Clock(options.budget)
    results = {"date": datetime.date.today().isoformat(), "machine": machine()}
    print("\n".join(f"{name}: {value}" for name, value in results["machine"].items()))
    for measure in (launches, products, steps, estimators, teams):
        name = measure.__name__
        print(f"\n{(measure.__doc__ or '').splitlines()[0]}", flush=True)
        results[name] = []
        for row in measure(clock):
            results[name].append(row)
            print("  ".join(f"{key} {number(value)}" for key, value in row.items()), flush=True)
    results["seconds"] = clock.spent()
    print(f"\n{clock.spent():.0f} s in all")
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


class Clock:
    """How much of the budget is left."""

    def __init__(self, budget: float):
        self.start, self.budget = time.perf_counter(), budget

    def spent(self) -> float:
        return time.perf_counter() - self.start

    def is_over(self) -> bool:
        return self.spent() > self.budget

    def median(self, call, seconds: float = 1.0, repeats: int = 7) -> float:
        """Median time of a call that ends with the GPU idle, in `seconds` or three calls; a first one is for warmth."""
        call()
        times, stop = [], self.spent() + seconds
        while len(times) < 3 or (len(times) < repeats and self.spent() < stop):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return statistics.median(times)


def number(value) -> str:
    """Three digits of a number; other values as they are."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def machine() -> dict:
    """Card, driver, versions."""
    found = {"GPU": devices()[0]}
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found["driver"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        found["driver"] = "unknown"
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


# ---------------------------------------------------------------- launches


def launches(clock: Clock):
    """What a kernel that does almost nothing costs, in microseconds: launched plainly, and in a graph."""
    from nbnet.cuda.jit import cuda
    from nbnet.cuda.launch import Queue, zeros
    from nbnet.cuda.losses import sum_of_batches

    x, runs = zeros(256, np.float32), 16 * RUNS
    row = {"kernels": runs}
    for name, capture in (("plain", False), ("graph", True)):
        queue = Queue(capture)
        sum_of_batches(queue, x, x, 256)

        def run(queue=queue):
            queue.run(runs)
            cuda.synchronize()

        run()
        row[f"{name} us"] = 1e6 * clock.median(run) / runs
    yield row


# ---------------------------------------------------------------- products


def products(clock: Clock):
    """Products of matrices in TFLOP/s: nbnet's own kernels, with long sums in parts, and cuBLAS; errors by float64."""
    from nbnet.cuda import blas
    from nbnet.cuda.dense import dense_forward, matrix
    from nbnet.cuda.jit import cuda
    from nbnet.cuda.launch import Queue, empty, upload
    from nbnet.cuda.product import Products

    torch, runs = gpu_torch.torch_on_gpu(), RUNS
    ways = [("own", None, "numba"), ("in parts", Products(), "numba")]
    if blas.handle() is not None:
        ways += [("nbnet's cuBLAS", Products("highest"), "cublas"), ("and TF32", Products("high"), "cublas")]
    for m, n, k in PRODUCTS:
        if clock.is_over():
            return
        rng = np.random.default_rng(0)
        network = build(k, [DenseSpec(n)])
        layer, params = network.layers[0], initialize(network, np.float32, 0)
        x = np.zeros((m, int(layer["in_stride"])), np.float32)
        x[:, :k] = rng.normal(size=(m, k))
        weight = params[: k * int(layer["out_stride"])].reshape(k, -1)[:, :n].astype(float)
        expected = x[:32, :k].astype(float) @ weight + params[int(layer["bias_start"]) :][:n]
        tera = 2e-12 * m * n * k
        row = {"rows, columns, terms": f"{m}, {n}, {k}"}
        on_device = matrix(upload(x), 0, layer["in_stride"]), upload(params)
        for name, how, gemm in ways:
            blas.GEMM = gemm
            y = matrix(empty(m * int(layer["out_stride"]), np.float32), 0, layer["out_stride"])
            queue = Queue(products=how)
            dense_forward(queue, *on_device, layer, y, empty(0, np.float32), m)

            def run(queue=queue):
                queue.run(runs)
                cuda.synchronize()

            run()
            row[name] = tera * runs / clock.median(run)
            got = y.data.copy_to_host().reshape(m, -1)[:32, :n]
            row[f"{name}, error"] = float(np.linalg.norm(got - expected) / np.linalg.norm(expected))
        blas.GEMM = "auto"
        if torch:
            a, b = (torch.randn(size, device="cuda") for size in ((m, k), (k, n)))
            for name, precision in (("PyTorch", "highest"), ("PyTorch, TF32", "high")):
                torch.set_float32_matmul_precision(precision)

                def multiply(a=a, b=b):
                    for _ in range(runs):
                        a @ b
                    torch.cuda.synchronize()

                row[name] = tera * runs / clock.median(multiply)
        yield row


# ---------------------------------------------------------------- whole networks


def steps(clock: Clock):
    """A step of training (forward, loss, backward, Adam) in microseconds, with TF32 off and on."""
    torch = gpu_torch.torch_on_gpu()
    for case in CASES:
        if clock.is_over():
            return
        n = case.batch_size * case.n_steps
        rng = np.random.default_rng(0)
        X = rng.normal(size=(n, case.sizes[0])).astype(np.float32)
        labels = rng.integers(0, case.sizes[-1], n)
        row = {"network": str(case)}
        for precision in PRECISIONS:
            row[f"nbnet {precision} us"] = 1e6 * clock.median(nbnet_epoch(case, X, labels, precision)) / case.n_steps
            for as_graph in (False, True) if torch else ():
                torch.set_float32_matmul_precision(precision)
                model, optimizer = gpu_torch.layers_and_adam(torch, case.sizes, as_graph)
                epoch = gpu_torch.epoch_of(torch, model, optimizer, X, labels, case.batch_size, as_graph)
                name = f"PyTorch {precision}{', graph' if as_graph else ''} us"
                row[name] = 1e6 * clock.median(epoch) / case.n_steps
        yield row


def nbnet_epoch(case: Case, X, labels, precision: str):
    """A function that trains one epoch."""
    from nbnet.cuda import session as gpu

    *hidden, n_outputs = case.sizes[1:]
    network = build(case.sizes[0], [*(DenseSpec(n, Activation.RELU) for n in hidden), DenseSpec(n_outputs)])
    session = gpu.Session(network, initialize(network, np.float32, 0), Loss.SOFTMAX_CROSS_ENTROPY)
    session.matmul_precision = precision
    rows = gpu.as_rows(X)
    targets = gpu.as_targets(labels, None, np.ones(len(X)), n_outputs, np.float32)
    session.prepare(UpdateRule(Optimizer.ADAM, case.batch_size, alpha=1e-4))
    order, rates, nothing = random.permutation(0, 0, len(X)), np.full(case.n_steps, 1e-3), np.zeros(case.n_steps)

    def epoch():
        session.train_epoch(rows, targets, EpochPlan(order, rates, nothing, 0))

    epoch()  # compiles, and makes the graph
    return epoch


# ---------------------------------------------------------------- estimators


def estimators(clock: Clock):
    """An epoch of each estimator in milliseconds, with its defaults; PyTorch with TF32 off and on."""
    torch = gpu_torch.torch_on_gpu()
    for peer in PEERS:
        if clock.is_over():
            return
        row = {"estimator": f"{peer.name}, batch {peer.batch_size}"}
        X, y, inputs = peer.data()
        for precision in PRECISIONS if "matmul_precision" in peer.model().get_params() else PRECISIONS[:1]:
            row[f"nbnet {precision} ms"] = 1e3 * epoch_seconds(peer, X, y, precision)
        for precision in PRECISIONS if torch else ():
            gpu_torch.allow_tf32(torch, precision == "high")
            for as_graph in (False, True):
                model, optimizer = peer.torch_model(torch, as_graph)
                epoch = gpu_torch.epoch_of(torch, model, optimizer, inputs, y, peer.batch_size, as_graph)
                row[f"PyTorch {precision}{', graph' if as_graph else ''} ms"] = 1e3 * clock.median(epoch)
        yield row


def epoch_seconds(peer: Peer, X, y, precision: str) -> float:
    """Median of the epochs of a fit, less the first two, which compile and make the graphs."""
    settings = {"max_iter": EPOCHS, "batch_size": peer.batch_size, "tol": 0.0, "n_iter_no_change": EPOCHS}
    model = peer.model().set_params(device="cuda", random_state=0, dtype="float32", **settings)
    if precision != "highest":
        model.set_params(matmul_precision=precision)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y)
    return statistics.median(model.history_["seconds"][2:])


# ---------------------------------------------------------------- many small networks


def teams(clock: Clock):
    """An epoch of many small networks at once in milliseconds, and of one as it is trained alone."""
    n = SMALL.batch_size * SMALL.n_steps
    rng = np.random.default_rng(0)
    X, labels = rng.normal(size=(n, SMALL.sizes[0])).astype(np.float32), rng.integers(0, SMALL.sizes[-1], n)
    for n_networks in TEAMS:
        if clock.is_over():
            return
        row = {"networks": n_networks, "of": str(SMALL)}
        row["together ms"] = 1e3 * clock.median(team_epoch(n_networks, X, labels))
        row["one alone ms"] = 1e3 * clock.median(nbnet_epoch(SMALL, X, labels, "highest"))
        yield row


def team_epoch(n_networks: int, X, labels):
    """A function that trains an epoch of so many networks."""
    from nbnet.cuda import session as gpu
    from nbnet.cuda import small_sessions

    *hidden, n_outputs = SMALL.sizes[1:]
    network = build(SMALL.sizes[0], [*(DenseSpec(n, Activation.RELU) for n in hidden), DenseSpec(n_outputs)])
    targets = small_sessions.as_targets(labels, None, np.ones(len(X)), n_outputs, np.float32)
    sessions = []
    for seed in range(n_networks):
        params = initialize(network, np.float32, seed)
        sessions.append(small_sessions.Session(network, params, Loss.SOFTMAX_CROSS_ENTROPY))
        sessions[-1].prepare(UpdateRule(Optimizer.ADAM, SMALL.batch_size, alpha=1e-4))
    team = small_sessions.Team(sessions, gpu.as_rows(X), [targets] * n_networks, [len(X)] * n_networks)
    order, rates, nothing = random.permutation(0, 0, len(X)), np.full(SMALL.n_steps, 1e-3), np.zeros(SMALL.n_steps)

    def epoch():
        team.train_epoch(
            {i: each.steps(targets, EpochPlan(order, rates, nothing, 0)) for i, each in enumerate(sessions)}
        )

    epoch()  # compiles
    return epoch


if __name__ == "__main__":
    sys.exit(main())
