"""nbnet's image classifier beside PyTorch: ``python -m benchmarks.images``; see README.md here."""

from __future__ import annotations

import argparse
import json
import os
import warnings
from pathlib import Path

import numpy as np

from . import image_layers, image_quality, image_steps
from .compare import Options, machine
from .memory import restart_peak, status_bytes


def pin(cores: list[int]) -> None:
    """This process, and the threads that it starts, on these cores only. Linux only."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def steps() -> list[dict]:
    """Whole steps on one core, then on two."""
    options = Options()
    rows = []
    for cores in (options.one_core, options.two_cores)[: len(options.two_cores)]:
        pin(cores)
        rows += image_steps.step_rows(len(cores))
    for one, two in zip(rows, rows[len(rows) // 2 :], strict=False):
        print(f"{one['net']:30} {one['what']}: one core / two cores {one['nbnet'] / two['nbnet']:.2f}")
    return rows


def layers() -> list[dict]:
    """Single convolutions on one core."""
    pin(Options().one_core)
    return image_layers.layer_rows()


def memory() -> list[dict]:
    """Peak memory of a fit above its data; asked: 1.3 times the activations of a batch and 5 times the parameters.

    Activations are every layer's output, the convolutions' maps before pooling included.
    """
    from nbnet import ConvClassifier

    warnings.simplefilter("ignore")
    rows = []
    rng = np.random.default_rng(0)
    for shape, batch_size in (((28, 28, 1), 128), ((32, 32, 3), 512)):
        X = rng.integers(0, 256, (20_000, *shape)).astype(np.uint8)
        y = rng.integers(0, 10, len(X))
        model = ConvClassifier(batch_size=batch_size, max_iter=1, n_jobs=1)
        model.fit(X[:batch_size], y[:batch_size])
        before = status_bytes("VmRSS")
        restart_peak()
        model.fit(X, y)
        used = status_bytes("VmHWM") - before
        height, width, _ = shape
        pixels = height * width
        activations = 4 * batch_size * (pixels * 32 + pixels // 4 * (32 + 64) + pixels // 16 * 64 + 128 + 10)
        parameters = 4 * model.params_.size
        limit = 1.3 * activations + 5 * parameters
        rows.append({"shape": shape, "batch_size": batch_size, "used": used, "limit": limit})
        sizes = {"used": used, "limit": limit, "activations": activations}
        figures = [f"{name} {n / 2**20:.1f} MiB" for name, n in sizes.items()]
        print(f"{shape}, batch {batch_size}: {', '.join(figures)}: {'yes' if used <= limit else 'NO'}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="+", choices=["steps", "layers", "memory", "quality"])
    parser.add_argument("--models", nargs="+", default=[""], help="quality: words in the names of those wanted")
    parser.add_argument("--save", metavar="FILE", type=Path, help="keep the figures in this file's part on images")
    arguments = parser.parse_args()
    measures = {
        "steps": steps,
        "layers": layers,
        "memory": memory,
        "quality": lambda: image_quality.quality_rows(arguments.models),
    }
    # memory first: what an earlier measurement has freed would be taken again unseen
    wanted = sorted(arguments.what, key=lambda what: what != "memory")
    results = {what: measures[what]() for what in wanted}
    if arguments.save:
        everything = json.loads(arguments.save.read_text()) if arguments.save.exists() else {}
        kept = everything.setdefault("images", {})
        if "quality" in results:
            measured = {row["model"] for row in results["quality"]}
            results["quality"] += [row for row in kept.get("quality", []) if row["model"] not in measured]
        kept.update(results, machine=machine())
        arguments.save.write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
