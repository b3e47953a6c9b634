"""Test accuracy on images, over some seeds, beside PyTorch at equal architecture, epochs, batches and solver."""

from __future__ import annotations

import gzip
import statistics
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nbnet import Augmentation, ConvClassifier

from .cases import data_folder


class ImageSet(NamedTuple):
    """Images and labels; the validation part may be None."""

    train: tuple
    test: tuple
    validation: tuple | None = None


def fashion_mnist() -> ImageSet:
    folder = data_folder() / "fashion_mnist"

    def read(name: str, skip: int) -> np.ndarray:
        return np.frombuffer(gzip.open(folder / name).read(), np.uint8, offset=skip)

    parts = [
        (read(f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28), read(f"{part}-labels-idx1-ubyte.gz", 8))
        for part in ("train", "t10k")
    ]
    return ImageSet(*parts)


def npz(name: str, validation: bool = False) -> ImageSet:
    with np.load(data_folder() / name / f"{name}.npz") as z:
        parts = [(z[f"X_{part}"], z[f"y_{part}"]) for part in ("train", "test", "val")[: 2 + validation]]
    return ImageSet(*parts)


class Quality(NamedTuple):
    """A model on a set: how it is made, the percentage asked for, how many seeds, and whether PyTorch stands beside."""

    data: Callable[[], ImageSet]
    make: Callable[[int], ConvClassifier]
    asked: float | None
    n_seeds: int = 3
    torch_epochs: int | None = None


FLIP_AND_SHIFT = Augmentation(horizontal_flip=0.5, shift=4)
QUALITY = {
    "fashion_mnist, plain, 4 epochs": Quality(
        fashion_mnist,
        lambda seed: ConvClassifier(max_iter=4, batch_size=128, learning_rate="one_cycle", random_state=seed),
        90.5,
        torch_epochs=4,
    ),
    "fashion_mnist, batch norm and augmentation, 20 epochs": Quality(
        fashion_mnist,
        lambda seed: ConvClassifier(
            max_iter=20,
            batch_size=128,
            learning_rate="one_cycle",
            learning_rate_init=0.004,  # on a sixth of the training part 93.0, with 0.001 92.5
            batch_norm=True,
            augment=Augmentation(horizontal_flip=0.5, shift=2),
            dropout=0.2,
            random_state=seed,
        ),
        92.5,
    ),
    "cifar10_small, plain": Quality(
        lambda: npz("cifar10_small"),
        lambda seed: ConvClassifier(max_iter=15, batch_size=64, learning_rate="one_cycle", random_state=seed),
        57.0,
        n_seeds=8,
        torch_epochs=15,
    ),
    "cifar10_small, dropout": Quality(
        lambda: npz("cifar10_small"),
        lambda seed: ConvClassifier(
            max_iter=20, batch_size=64, learning_rate="one_cycle", dropout=0.3, random_state=seed
        ),
        57.0,
    ),
    "cifar10_small, resnet(8, 16) and augmentation": Quality(
        lambda: npz("cifar10_small"),
        lambda seed: ConvClassifier.resnet(depth=8, width=16, max_iter=60, augment=FLIP_AND_SHIFT, random_state=seed),
        68.0,
    ),
    "pneumonia_balanced, early stopping": Quality(
        lambda: npz("pneumonia_balanced", validation=True),
        lambda seed: ConvClassifier(max_iter=30, early_stopping=True, n_iter_no_change=5, random_state=seed),
        84.0,
        5,
    ),
}


def torch_accuracy(data: ImageSet, n_epochs: int, batch_size: int, seed: int) -> float:
    """The default network in PyTorch: same layers, Adam with the same one-cycle schedule, L2 penalty, scaling."""
    import torch
    from torch import nn
    from torch.nn import functional

    torch.manual_seed(seed)
    X, y = data.train
    channels = 1 if X.ndim == 3 else X.shape[-1]

    def tensor(images):
        images = images.reshape(len(images), *images.shape[1:3], channels).astype(np.float32)
        return torch.from_numpy(((images - mean) / deviation).transpose(0, 3, 1, 2).copy())

    pixels = X.reshape(-1, channels).astype(np.float64)
    mean, deviation = pixels.mean(0).astype(np.float32), pixels.std(0).astype(np.float32)
    x, target = tensor(X), torch.from_numpy(y.astype(np.int64))
    model = nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear((X.shape[1] // 4) * (X.shape[2] // 4) * 64, 128), nn.ReLU(), nn.Linear(128, 10),
    ).to(memory_format=torch.channels_last)  # fmt: skip
    n_batches = -(-len(x) // batch_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1e-3, total_steps=n_epochs * n_batches, cycle_momentum=False
    )
    for _ in range(n_epochs):
        order = torch.randperm(len(x))
        for start in range(0, len(x), batch_size):
            rows = order[start : start + batch_size]
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(
                model(x[rows].contiguous(memory_format=torch.channels_last)), target[rows]
            ).backward()
            optimizer.step()
            schedule.step()
    with torch.inference_mode():
        test = tensor(data.test[0])
        labels = torch.cat([model(part).argmax(1) for part in test.split(1000)]).numpy()
    return float(np.mean(labels == data.test[1]))


def quality_rows(names: list[str]) -> list[dict]:
    """Accuracy of the models with one of these words in their name, over the model's seeds."""
    rows = []
    for name, of in QUALITY.items():
        if not any(word in name for word in names):
            continue
        data = of.data()
        line = {"model": name, "asked": of.asked, "nbnet": [], "seconds": []}
        for seed in range(of.n_seeds):
            model, validation = of.make(seed), {}
            if data.validation is not None:
                validation = dict(X_val=data.validation[0], y_val=data.validation[1])
            started = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.fit(*data.train, **validation)
            line["seconds"].append(time.perf_counter() - started)
            line["nbnet"].append(float(model.score(*data.test)))
        if of.torch_epochs is not None:
            line["PyTorch"] = [
                torch_accuracy(data, of.torch_epochs, model.batch_size, seed) for seed in range(of.n_seeds)
            ]
        rows.append(line)
        print(quality_line(line), flush=True)
    return rows


def _percent(scores: list[float]) -> str:
    deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
    return f"{100 * statistics.mean(scores):.2f} +-{100 * deviation:.2f}"


def quality_line(row: dict) -> str:
    """A row of `quality_rows` as text."""
    asked = "" if row["asked"] is None else f"  asked {row['asked']}: "
    if asked:
        asked += "yes" if 100 * statistics.mean(row["nbnet"]) >= row["asked"] else "NO"
    beside = f"  PyTorch {_percent(row['PyTorch'])}" if "PyTorch" in row else ""
    return (
        f"{row['model']:55} nbnet {_percent(row['nbnet'])}{asked}{beside}  "
        f"fit {statistics.median(row['seconds']):.0f} s"
    )
