"""Convolutional networks beside PyTorch: whole steps of training and prediction.

Both sides take turns in one process; each figure is the best of several repetitions. PyTorch runs in the better of its
two memory layouts, with its fused Adam, on images that are float32 in memory already; nbnet reads bytes.
"""

from __future__ import annotations

import time

import numpy as np

from nbnet.cpu.conv_session import ConvSession, as_images, as_targets
from nbnet.epochs import EpochPlan, UpdateRule
from nbnet.image_network import ConvSpec, PoolSpec, ResidualSpec, build_images, initialize_images
from nbnet.network import Activation, DenseSpec, LayerKind, Loss, Optimizer

BATCH = 128
N_BATCHES = 8
REPETITIONS = 7
MAX_POOL, AVG_POOL = LayerKind.MAX_POOL, LayerKind.AVG_POOL


def best(functions: dict, repetitions: int = REPETITIONS) -> dict[str, float]:
    """Smallest time of each function in ms; they take turns."""
    times = dict.fromkeys(functions, np.inf)
    for _ in range(repetitions):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            times[name] = min(times[name], 1e3 * (time.perf_counter() - started))
    return times


# ---------------------------------------------------------------- whole steps


def plain(channels: int):
    """conv 32, pool, conv 64, pool, dense 128, dense 10."""
    specs = [ConvSpec(32), PoolSpec(MAX_POOL), ConvSpec(64), PoolSpec(MAX_POOL)]
    return specs, [DenseSpec(128, Activation.RELU), DenseSpec(10)]


def resnet8(channels: int):
    """ResNet-8 with batch norm: three blocks of 16, 32, 64 channels."""
    norm = dict(batch_norm=True)
    blocks = [ResidualSpec(16, **norm), ResidualSpec(32, 2, **norm), ResidualSpec(64, 2, **norm)]
    return [ConvSpec(16, **norm), *blocks, PoolSpec(AVG_POOL, None)], [DenseSpec(10)]


ASKED = {("train", 1): 2.6, ("train", 2): 2.5, ("infer", 1): 2.6}  # PyTorch's time over nbnet's, by cores
NETS = {
    "28x28x1, 32-pool-64-pool-128": (plain, (28, 28, 1), ASKED),
    "32x32x3, 32-pool-64-pool-128": (plain, (32, 32, 3), ASKED),
    "32x32x3, ResNet-8": (resnet8, (32, 32, 3), {("train", 1): 1.6}),
}


def nbnet_steps(build, shape, n_threads: int):
    """Functions that train and predict N_BATCHES batches."""
    n = BATCH * N_BATCHES
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 256, (n, *shape)).astype(np.uint8), rng.integers(0, 10, n)
    network = build_images(shape, *build(shape[2]))
    params = initialize_images(network, np.float32, 0)
    session = ConvSession(network, params, Loss.SOFTMAX_CROSS_ENTROPY, n_jobs=n_threads)
    rows = as_images(X, shape, np.full(shape[2], 128.0), np.full(shape[2], 64.0), np.float32)
    targets = as_targets(y, None, np.ones(n), 10, np.float32)
    session.prepare(UpdateRule(Optimizer.ADAM, BATCH))
    order, rates, decays = np.arange(n), np.full(N_BATCHES, 1e-3), np.zeros(N_BATCHES)
    return lambda: session.train_epoch(rows, targets, EpochPlan(order, rates, decays, 0)), lambda: session.predict(rows)


def torch_steps(build, shape, layout):
    """The same in PyTorch, images in float32 in memory already."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self, n_in, n_out, stride):
            super().__init__()
            self.main = nn.Sequential(
                nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(True),
                nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False), nn.BatchNorm2d(n_out),
            )  # fmt: skip
            self.skip = nn.Identity()
            if stride != 1 or n_in != n_out:
                self.skip = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

        def forward(self, x):
            return functional.relu(self.main(x) + self.skip(x), inplace=True)

    height, _, channels = shape
    if build is plain:
        model = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear((height // 4) ** 2 * 64, 128), nn.ReLU(), nn.Linear(128, 10),
        )  # fmt: skip
    else:
        model = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(True),
            Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(64, 10),
        )  # fmt: skip
    model = model.to(memory_format=layout)
    x = torch.randn(BATCH, channels, height, height).to(memory_format=layout)
    y = torch.randint(0, 10, (BATCH,))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def train():
        model.train()
        for _ in range(N_BATCHES):
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()

    def infer():
        model.eval()
        with torch.inference_mode():
            for _ in range(N_BATCHES):
                model(x)

    return train, infer


def step_rows(n_threads: int) -> list[dict]:
    """A step of each net, training and predicting; run with the process pinned to `n_threads` cores."""
    import torch

    torch.set_num_threads(n_threads)
    rows = []
    for name, (build, shape, asked) in NETS.items():
        functions = {}
        for side, pair in {
            "nbnet": nbnet_steps(build, shape, n_threads),
            "contiguous": torch_steps(build, shape, torch.contiguous_format),
            "channels_last": torch_steps(build, shape, torch.channels_last),
        }.items():
            for what, function in zip(("train", "infer"), pair, strict=True):
                function()
                functions[side, what] = function
        times = best(functions)
        for what in ("train", "infer"):
            layouts = {layout: times[layout, what] / N_BATCHES for layout in ("contiguous", "channels_last")}
            layout = min(layouts, key=layouts.get)
            rows.append(
                {
                    "net": name,
                    "what": what,
                    "cores": n_threads,
                    "nbnet": times["nbnet", what] / N_BATCHES,
                    "PyTorch": layouts[layout],
                    "layout": layout,
                    "asked": asked.get((what, n_threads)),
                }
            )
            print(step_line(rows[-1]), flush=True)
    return rows


def step_line(row: dict) -> str:
    """A row of `step_rows` as text."""
    ratio = row["PyTorch"] / row["nbnet"]
    asked = "" if row["asked"] is None else f", asked {row['asked']}: {'yes' if ratio >= row['asked'] else 'NO'}"
    cores = "1 core " if row["cores"] == 1 else f"{row['cores']} cores"
    times = f"nbnet {row['nbnet']:7.2f} ms  PyTorch {row['PyTorch']:7.2f} ms ({row['layout']})"
    return f"{row['net']:30} {row['what']} {cores} {times}  ratio {ratio:.2f}{asked}"
