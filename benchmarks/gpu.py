"""nbnet on a GPU beside PyTorch: ``python -m benchmarks.gpu [--budget SECONDS] [--out FILE]``.

Three tables: what a launch costs, products of matrices, and steps of training of whole networks. PyTorch stands beside
them where it is installed with CUDA: eager, and as one captured graph; its products are cuBLAS's, in float32 and with
TF32. Each row takes its share of the budget, and rows that no time is left for are not measured. Exit status 3 without
a GPU.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nbnet import random
from nbnet.cuda.device import devices, why_no_cuda
from nbnet.network import Activation, DenseSpec, Loss, Optimizer, build, initialize

RUNS = 20  # of a product, and of a launch times 16, between two looks at the clock
PRODUCTS = [(256, 512, 784), (1024, 1024, 1024), (4096, 1024, 1024), (4096, 4096, 4096)]  # rows, columns, terms
PACKAGES = ("nbnet", "numba", "numba-cuda", "cuda-bindings", "cuda-core", "torch")


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
    for name, measure in (("launches", launches), ("products", products), ("steps", steps)):
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


def torch_on_gpu():
    """PyTorch, if it is installed and sees the GPU."""
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


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
    """Products of matrices in TFLOP/s, and nbnet's error relative to float64."""
    from nbnet.cuda.dense import dense_forward, matrix
    from nbnet.cuda.jit import cuda
    from nbnet.cuda.launch import Queue, empty, upload

    torch, runs = torch_on_gpu(), RUNS
    for m, n, k in PRODUCTS:
        if clock.is_over():
            return
        rng = np.random.default_rng(0)
        network = build(k, [DenseSpec(n)])
        layer, params = network.layers[0], initialize(network, np.float32, 0)
        x = np.zeros((m, int(layer["in_stride"])), np.float32)
        x[:, :k] = rng.normal(size=(m, k))
        y = matrix(empty(m * int(layer["out_stride"]), np.float32), 0, layer["out_stride"])
        queue = Queue()
        dense_forward(
            queue, matrix(upload(x), 0, layer["in_stride"]), upload(params), layer, y, empty(0, np.float32), m
        )

        def run(queue=queue):
            queue.run(runs)
            cuda.synchronize()

        run()
        tera = 2e-12 * m * n * k
        row = {"rows, columns, terms": f"{m}, {n}, {k}", "nbnet": tera * runs / clock.median(run)}
        weight = params[: k * int(layer["out_stride"])].reshape(k, -1)[:, :n].astype(float)
        bias = params[int(layer["bias_start"]) :][:n]
        expected = x[:32, :k].astype(float) @ weight + bias
        got = y.data.copy_to_host().reshape(m, -1)[:32, :n]
        row["error"] = float(np.linalg.norm(got - expected) / np.linalg.norm(expected))
        if torch:
            a, b = (torch.randn(size, device="cuda") for size in ((m, k), (k, n)))
            for name, allowed in (("cuBLAS", False), ("cuBLAS, TF32", True)):
                torch.backends.cuda.matmul.allow_tf32 = allowed

                def multiply(a=a, b=b):
                    for _ in range(runs):
                        a @ b
                    torch.cuda.synchronize()

                row[name] = tera * runs / clock.median(multiply)
        yield row


# ---------------------------------------------------------------- whole networks


def steps(clock: Clock):
    """A step of training (forward, loss, backward, Adam) in microseconds."""
    for case in CASES:
        if clock.is_over():
            return
        n = case.batch_size * case.n_steps
        rng = np.random.default_rng(0)
        X = rng.normal(size=(n, case.sizes[0])).astype(np.float32)
        labels = rng.integers(0, case.sizes[-1], n)
        row = {"network": str(case)}
        row["nbnet us"] = 1e6 * clock.median(nbnet_epoch(case, X, labels)) / case.n_steps
        if torch := torch_on_gpu():
            torch.backends.cuda.matmul.allow_tf32 = False
            row["PyTorch us"] = 1e6 * clock.median(torch_epoch(torch, case, X, labels, False)) / case.n_steps
            row["PyTorch, graph us"] = 1e6 * clock.median(torch_epoch(torch, case, X, labels, True)) / case.n_steps
        yield row


def nbnet_epoch(case: Case, X, labels):
    """A function that trains one epoch."""
    from nbnet.cuda import session as gpu

    *hidden, n_outputs = case.sizes[1:]
    network = build(case.sizes[0], [*(DenseSpec(n, Activation.RELU) for n in hidden), DenseSpec(n_outputs)])
    session = gpu.Session(network, initialize(network, np.float32, 0), Loss.SOFTMAX_CROSS_ENTROPY)
    rows = gpu.as_rows(X)
    targets = gpu.as_targets(labels, None, np.ones(len(X)), n_outputs, np.float32)
    session.prepare(Optimizer.ADAM, case.batch_size, alpha=1e-4)
    order, rates, nothing = random.permutation(0, 0, len(X)), np.full(case.n_steps, 1e-3), np.zeros(case.n_steps)

    def epoch():
        session.train_epoch(rows, targets, order, rates, nothing, 0)

    epoch()  # compiles, and makes the graph
    return epoch


def torch_epoch(torch, case: Case, X, labels, as_graph: bool):
    """The same in PyTorch: rows gathered on the GPU, eager or with each step in one captured graph."""
    parts = []
    for n_in, n_out in zip(case.sizes[:-1], case.sizes[1:], strict=True):
        parts += [torch.nn.Linear(n_in, n_out), torch.nn.ReLU()]
    model = torch.nn.Sequential(*parts[:-1]).cuda()
    optimizer = torch.optim.Adam(model.parameters(), weight_decay=1e-4, fused=True, capturable=as_graph)
    loss_of = torch.nn.CrossEntropyLoss()
    x, y = torch.from_numpy(X).cuda(), torch.from_numpy(labels).cuda()
    order = torch.randperm(len(X), device="cuda")
    chosen = order[: case.batch_size].clone()

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss_of(model(x[chosen]), y[chosen]).backward()
        optimizer.step()

    if as_graph:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):  # what the first steps allocate must not be captured
            for _ in range(3):
                step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        step = graph.replay

    def epoch():
        for start in range(0, len(X), case.batch_size):
            chosen.copy_(order[start : start + case.batch_size])
            step()
        torch.cuda.synchronize()

    return epoch


if __name__ == "__main__":
    sys.exit(main())
