"""Files, explanations and ONNX in figures: ``python -m benchmarks.tools``; see README.md here.

The benchmarks are those of the asv suite, run in this process on one core.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from .bench_files import Checkpoints, Files
from .bench_inspection import Explain
from .bench_onnx import Onnx
from .compare import Options, machine, seconds_text
from .images import pin

GROUPS = {"files": [Files, Checkpoints], "explanations": [Explain], "onnx": [Onnx]}
PACKAGES = ("numba", "numpy", "safetensors", "joblib", "onnx", "onnxruntime")
RUNS = {1.0: 100, 3.0: 5, np.inf: 1}  # until so many seconds have passed, so many runs of one thing


def seconds_of(call) -> list[float]:
    """Seconds of some runs, behind one for warmth."""
    call()
    samples = []
    while len(samples) < next(most for seconds, most in RUNS.items() if sum(samples) < seconds):
        started = time.perf_counter()
        call()
        samples.append(time.perf_counter() - started)
    return samples


def rows_of(benchmark: type) -> list[dict]:
    """Figures of a class of the asv suite, with each choice of its parameters."""
    rows = []
    for parameters in itertools.product(*benchmark.params):
        case = benchmark()
        try:
            case.setup(*parameters)
        except NotImplementedError:  # asv's way to leave a choice out
            continue
        of = ", ".join(f"{name} {value}" for name, value in zip(benchmark.param_names, parameters, strict=True))
        for name in (name for name in vars(benchmark) if name.startswith(("time_", "track_"))):
            kind, what = name.split("_", 1)
            row = {"benchmark": benchmark.__name__, "what": what.replace("_", " "), "of": of}
            if kind == "time":
                samples = seconds_of(partial(getattr(case, name), *parameters))
                row |= {"seconds": statistics.median(samples), "fastest": min(samples)}
            else:
                row["bytes"] = getattr(case, name)(*parameters)
            rows.append(row)
            print(line_of(row), flush=True)
        if hasattr(case, "teardown"):
            case.teardown(*parameters)
    return rows


def line_of(row: dict) -> str:
    """A line of the table."""
    if "bytes" in row:
        figures = f"{row['bytes']:,} bytes"
    else:
        figures = f"{seconds_text(row['seconds']):8}  fastest {seconds_text(row['fastest'])}"
    return f"{row['benchmark']:11}  {row['what']:11}  {row['of']:43}  {figures}"


def show(part: dict) -> None:
    """The stored figures, as the guide has them."""
    about = None
    for group in part.values():
        machine = group["machine"]
        versions = ", ".join(f"{name} {number}" for name, number in group["versions"].items())
        of_group = f"{machine['cpu']}, one core, vectors of {machine['vector_bits']} bits; {machine['system']};\n"
        of_group += f"{versions}; {machine['date']}\n"
        if of_group != about:
            print(about := of_group)
        print("\n".join(map(line_of, group["rows"])) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", help=f"some of {', '.join(GROUPS)}; all by default")
    parser.add_argument("--save", metavar="FILE", type=Path, help="keep the figures in this file's part on tools")
    parser.add_argument("--load", metavar="FILE", type=Path, help="measure nothing, print what this file has")
    arguments = parser.parse_args()
    if arguments.load:
        show(json.loads(arguments.load.read_text())["tools"])
        return
    about, versions = machine(), {name: version(name) for name in PACKAGES}
    pin(Options().one_core)
    for group in arguments.groups or GROUPS:
        rows = [row for benchmark in GROUPS[group] for row in rows_of(benchmark)]
        if arguments.save:
            everything = json.loads(arguments.save.read_text()) if arguments.save.exists() else {}
            everything.setdefault("tools", {})[group] = {"machine": about, "versions": versions, "rows": rows}
            arguments.save.write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
