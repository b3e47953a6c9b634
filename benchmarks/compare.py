"""nbnet beside its peers, one table: ``python -m benchmarks.compare``; see README.md in this folder."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from . import cases, startup
from .peers import PEERS

NBNET = "nbnet"
TOP_PEERS = ["scikit-learn", "PyTorch", "PyTorch, one graph", "skorch", "JAX"]


class Options:
    """What the user asked for, and what follows from it."""

    def __init__(self, quick: bool = False, peers: list[str] | None = None, avx2: bool = True):
        self.quick = quick
        self.peers = TOP_PEERS if peers is None else peers
        self.avx2 = avx2 and platform.machine() in ("x86_64", "AMD64")
        self.n_repeats = 3 if quick else 7
        available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count()))
        self.one_core = available[-1:]
        self.two_cores = available[-2:]

    def case(self, case: cases.Case) -> cases.Case:
        """The case, shortened when quick."""
        return case._replace(epochs=max(1, case.epochs // 3)) if self.quick else case


# ---------------------------------------------------------------- children


def child_environment(n_cores: int, isa: str = "native", cache: str | None = None) -> dict[str, str]:
    """Environment of a child: threads as many as cores, no setting of this shell that slows a peer down."""
    env = dict(os.environ)
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "XLA_FLAGS", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"):
        env.pop(name, None)
    for name in ("OMP", "OPENBLAS", "MKL", "NUMBA", "NUMEXPR", "VECLIB_MAXIMUM"):
        env[f"{name}_NUM_THREADS"] = str(n_cores)
    env["PYTHONWARNINGS"] = "ignore"
    env["JAX_PLATFORMS"] = "cpu"
    if isa == "avx2":
        env |= {
            "NUMBA_CPU_NAME": "haswell",
            "NUMBA_CPU_FEATURES": "",  # or Numba adds what the host has, AVX-512 included
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
            "OPENBLAS_CORETYPE": "Haswell",
            "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
            "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR",
        }
    if cache is not None:
        env |= {"NBNET_CACHE_DIR": cache, "NUMBA_CACHE_DIR": cache}
    return env


class Child:
    """A `benchmarks.worker` that is warm and waits for its turn; `error` says why there is none."""

    def __init__(self, request: dict, env: dict[str, str]):
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [request.get("python", sys.executable), "-m", "benchmarks.worker", json.dumps(request)],
            cwd=cases.ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self.about = self._answer()
        self.error = self.about.get("error")
        self.samples: list[dict] = []

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.log.seek(0)
        last = self.log.read().strip().splitlines()[-1:] or [f"exit status {self.process.wait()}"]
        return {"error": f"failed: {last[0]}"}

    def measure(self) -> None:
        if self.error is None:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            answer = self._answer()
            self.error = answer.get("error")
            if self.error is None:
                self.samples.append(answer)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.wait()
        self.log.close()

    def median(self, key: str) -> float:
        return statistics.median(sample[key] for sample in self.samples)


@contextlib.contextmanager
def children(requests: dict[str, dict], isa: str = "native", n_repeats: int = 1):
    """Starts one child a request, one after another, lets them measure in turns and yields them."""
    with tempfile.TemporaryDirectory() as cache:
        started: dict[str, Child] = {}
        try:
            for name, request in requests.items():
                progress(f"  warming up {name} ...")
                env = child_environment(request["n_cores"], isa, cache if isa != "native" else None)
                started[name] = Child(request, env)
            for repeat in range(n_repeats):
                progress(f"  round {repeat + 1} of {n_repeats}")
                for child in started.values():
                    child.measure()
            yield started
        finally:
            for child in started.values():
                child.close()


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def paired_ratio(child: Child, base: Child) -> float:
    """Median over the rounds of child's time over base's: both sides of a ratio ran within seconds of each other."""
    return statistics.median(a["seconds"] / b["seconds"] for a, b in zip(child.samples, base.samples, strict=False))


# ---------------------------------------------------------------- rows

VERSIONS: dict[str, str] = {}
BLAS: dict[str, list[str]] = {}


def row(group: str, case: str, who: str, **values) -> dict:
    """One line of the table. Keys: seconds, fastest, accuracy, ratio, asked, met, setting, note, avx2."""
    return {"group": group, "case": case, "who": who, **values}


def rows_beside_nbnet(group: str, title: str, asked: dict[str, float], started: dict[str, Child]) -> list[dict]:
    """nbnet and each peer on one case; a peer's ratio is its time over nbnet's, and is asked to be at least so much."""
    rows, base = [], started[NBNET]
    for name, child in started.items():
        VERSIONS.update(child.about.get("versions", {}))
        BLAS.setdefault(name, child.about.get("blas", []))
        if not child.samples:
            rows.append(row(group, title, name, note=child.error, asked=_asked(asked, name)))
            continue
        values = dict(
            seconds=child.median("seconds"),
            fastest=min(sample["seconds"] for sample in child.samples),
            accuracy=child.samples[-1].get("accuracy"),
            setting=child.about["setting"],
        )
        if name != NBNET:
            limit = _asked(asked, name)
            ratio = paired_ratio(child, base) if base.samples else None
            met = None if limit is None or ratio is None else ratio >= limit
            values |= dict(ratio=ratio, asked=limit, met=met)
        rows.append(row(group, title, name, **values))
    return rows


def _asked(asked: dict[str, float], name: str) -> float | None:
    """A peer's ratio is asked of each way to use it: "PyTorch, one graph" as well as "PyTorch"."""
    return asked.get(name, asked.get(name.split(",")[0]))


def train_requests(case: cases.Case, peers: list[str], cores: list[int], **more) -> dict[str, dict]:
    request = dict(task="train", case=case._asdict(), cores=cores, n_cores=len(cores), **more)
    return {name: request | {"peer": name} for name in [NBNET, *peers]}


def mlp_rows(case: cases.Case, options: Options) -> list[dict]:
    """One network on one core, and again as on a machine that has AVX2 only."""
    case, asked = options.case(case), dict(case.asked)
    requests = train_requests(case, options.peers, options.one_core)
    with children(requests, n_repeats=options.n_repeats) as started:
        rows = rows_beside_nbnet(case.name, case.title, asked, started)
    if options.avx2 and case.data == "synthetic" and case.dtype == "float32":
        progress("  the same with AVX2")
        with children(requests, isa="avx2", n_repeats=options.n_repeats) as started:
            narrow = rows_beside_nbnet(case.name, case.title, asked, started)
        for line, other in zip(rows, narrow, strict=True):
            line["avx2"] = {key: other.get(key) for key in ("seconds", "ratio", "met", "note", "setting")}
    return rows


def activation_rows(options: Options) -> list[dict]:
    """tanh and logistic beside relu, nbnet alone."""
    rows = []
    for base in (cases.SMALL, cases.MIDDLE, cases.LARGE):
        base = options.case(base)
        requests = {
            activation: train_requests(base._replace(activation=activation), [], options.one_core)[NBNET]
            for activation in ("relu", "tanh", "logistic")
        }
        with children(requests, n_repeats=options.n_repeats) as started:
            relu = started.pop("relu")
            for activation, child in started.items():
                title = base._replace(activation=activation).title
                if not child.samples or not relu.samples:
                    rows.append(row("activations", title, NBNET, note=child.error or relu.error))
                    continue
                ratio = paired_ratio(child, relu)
                rows.append(
                    row(
                        "activations",
                        title,
                        f"{NBNET} / {NBNET} relu",
                        seconds=child.median("seconds"),
                        fastest=min(sample["seconds"] for sample in child.samples),
                        accuracy=child.samples[-1]["accuracy"],
                        ratio=ratio,
                        asked=cases.ACTIVATION_LIMIT,
                        at_most=True,
                        met=ratio <= cases.ACTIVATION_LIMIT,
                    )
                )
    return rows


def predict_rows(options: Options) -> list[dict]:
    """predict_proba of the middle network: one row, and all of them."""
    rows = []
    case = cases.MIDDLE._replace(epochs=1)
    for n_rows in (1, case.n_rows):
        peers = [name for name in options.peers if name not in ("skorch", "PyTorch, one graph")]
        requests = train_requests(case, peers, options.one_core, n_rows=n_rows)
        for request in requests.values():
            request["task"] = "predict"
        with children(requests, n_repeats=options.n_repeats) as started:
            title = f"predict_proba {'-'.join(map(str, case.sizes))}, {n_rows} row{'s' if n_rows > 1 else ''}"
            rows += rows_beside_nbnet("predict", title, {"scikit-learn": cases.PREDICT_ASKED}, started)
    return rows


def grid_search_rows(options: Options) -> list[dict]:
    """GridSearchCV at equal n_jobs."""
    rows = []
    for cores in (options.one_core, options.two_cores):
        request = dict(task="grid_search", cores=cores, n_cores=len(cores), max_iter=5 if options.quick else 30)
        requests = {name: request | {"peer": name} for name in (NBNET, "scikit-learn")}
        with children(requests, n_repeats=1 if options.quick else 3) as started:
            title = f"GridSearchCV digits, 24 x 5, {request['max_iter']} epochs, n_jobs={len(cores)}"
            rows += rows_beside_nbnet("grid_search", title, {"scikit-learn": cases.GRID_SEARCH_ASKED}, started)
    return rows


def two_core_rows(options: Options) -> list[dict]:
    """The middle and the large network on two cores: nbnet beside itself on one, and beside its peers on two."""
    if len(options.two_cores) < 2:
        return [row("two_cores", "two cores", NBNET, note="this process may use one core only")]
    rows = []
    for case in (cases.MIDDLE, cases.LARGE):
        case = options.case(case)
        requests = train_requests(case, options.peers, options.two_cores)
        alone = "nbnet on one core"
        requests[alone] = train_requests(case, [], options.one_core)[NBNET]
        with children(requests, n_repeats=options.n_repeats) as started:
            asked = {alone: cases.TWO_CORES_ASKED} if case.name == cases.LARGE.name else {}
            rows += rows_beside_nbnet("two_cores", f"{case.title}, two cores", asked, started)
    return rows


def product_rows(options: Options) -> list[dict]:
    """GFLOP/s of the products, and the share of the core's limit that the large network's whole step reaches."""
    shapes = [(256, 1000, 512), (256, 512, 512), (200, 784, 100)]
    case = options.case(cases.LARGE)
    requests = {
        str(shape): dict(task="products", peer=NBNET, cores=options.one_core, n_cores=1, shape=shape)
        for shape in shapes
    }
    requests["step"] = train_requests(case, [], options.one_core)[NBNET]
    rows = []
    with children(requests, n_repeats=3) as started:
        step = started.pop("step")
        peak = None
        for shape, child in started.items():
            if not child.samples:
                rows.append(row("products", f"products {shape}", NBNET, note=child.error))
                continue
            peak = child.median("FMA peak")
            for product in ("forward", "input gradient", "weight gradient"):
                own, blas = child.median(product), child.median(f"{product}, BLAS")
                note = f"{own:.0f} GFLOP/s, {own / peak:.0%} of {peak:.0f}; BLAS {blas:.0f} ({blas / peak:.0%})"
                rows.append(row("products", f"{product} {shape}", "BLAS (NumPy)", ratio=own / blas, note=note))
        if step.samples and peak is not None:
            fastest = min(sample["seconds"] for sample in step.samples)  # the peak is the best of its rounds, too
            rate = case.flop / fastest / 1e9
            rows.append(
                row(
                    "products",
                    f"whole fit {case.title}",
                    "FMA peak",
                    seconds=step.median("seconds"),
                    fastest=fastest,
                    ratio=rate / peak,
                    asked=cases.SHARE_OF_PEAK_ASKED,
                    met=rate / peak >= cases.SHARE_OF_PEAK_ASKED,
                    note=f"{rate:.0f} of {peak:.0f} GFLOP/s",
                )
            )
        else:
            note = step.error or "the limit of the core was not measured"
            rows.append(row("products", f"whole fit {case.title}", NBNET, note=note))
    return rows


def start_rows(options: Options) -> list[dict]:
    """Import and first fit, each in new processes."""

    def at_most(title: str, seconds: float, limit: float | None) -> dict:
        met = None if limit is None else seconds <= limit
        return row("start", title, NBNET, seconds=seconds, asked=limit, at_most=True, unit="s", met=met)

    env, rows = child_environment(1), []
    try:
        seconds = startup.import_seconds(env, n_repeats=3 if options.quick else 7)
        base, whole = seconds["sklearn, numba"], seconds["sklearn, numba, nbnet"]
        rows.append(at_most("import nbnet, above import sklearn, numba", whole - base, cases.IMPORT_LIMIT))
        rows[-1]["note"] = f"{whole:.2f} s against {base:.2f} s"
        base = seconds["sklearn.neural_network, numba"]
        whole = seconds["sklearn.neural_network, numba, nbnet.MLPClassifier"]
        rows.append(at_most("import MLPClassifier, above sklearn's own and numba", whole - base, None))
        rows[-1]["note"] = f"{whole:.2f} s against {base:.2f} s"
        for dtype in ("float32", "float64"):
            first = startup.first_fit_seconds(env, dtype)
            rows.append(at_most(f"first fit and predict {dtype}, empty cache", first["cold"], cases.COLD_LIMIT))
            rows[-1]["note"] = f"another network afterwards: {first['another network'] * 1e3:.0f} ms"
            rows.append(at_most(f"first fit and predict {dtype}, from the cache", first["cached"], cases.CACHED_LIMIT))
    except RuntimeError as error:
        rows.append(row("start", "start", NBNET, note=f"failed: {error}"))
    return rows


def memory_rows(options: Options) -> list[dict]:
    """Peak memory of a fit beside the size of X."""
    case = cases.MIDDLE._replace(n_rows=40_000 if options.quick else 160_000, epochs=1)
    request = dict(task="memory", case=case._asdict(), cores=options.one_core, n_cores=1)
    requests = {name: request | {"peer": name} for name in (NBNET, "scikit-learn")}
    rows = []
    with children(requests) as started:
        for name, child in started.items():
            if not child.samples:
                rows.append(row("memory", "peak memory of fit", name, note=child.error))
                continue
            extra, size = child.samples[-1]["bytes"], child.samples[-1]["X_bytes"]
            title = f"peak memory of fit above X, {size / 2**20:.0f} MiB"
            note = f"{extra / 2**20:.0f} MiB; ratio is to the size of X"
            rows.append(row("memory", title, name, ratio=extra / size, note=note))
    return rows


GROUPS = {
    **{case.name: lambda options, case=case: mlp_rows(case, options) for case in cases.MLP_CASES},
    "activations": activation_rows,
    "float64": lambda options: mlp_rows(cases.FLOAT64, options),
    "grid_search": grid_search_rows,
    "predict": predict_rows,
    "two_cores": two_core_rows,
    "products": product_rows,
    "start": start_rows,
    "memory": memory_rows,
}


# ---------------------------------------------------------------- the machine, the table


def machine() -> dict:
    """What the figures depend on."""
    model, vector = platform.processor(), None
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    with contextlib.suppress(Exception):
        source = "from nbnet.cpu.simd import VECTOR_BYTES; print(VECTOR_BYTES)"
        vector = 8 * int(startup.run_python(source, child_environment(1)))
    for package in ("numba", "llvmlite", "numpy", "scikit-learn", "torch", "jax", "skorch"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            VERSIONS[package] = importlib.metadata.version(package)
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "vector_bits": vector,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "date": datetime.date.today().isoformat(),
    }


def machine_line(result: dict) -> str:
    about = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(result["versions"].items()))
    load = "" if about["load"] is None else f", load {about['load']:.1f} before"
    return (
        f"{about['cpu']}, {about['cores']} cores, vectors of {about['vector_bits'] or '?'} bits{load}; "
        f"{about['system']}; {versions}; {about['date']}" + ("; quick" if result["quick"] else "")
    )


HEADER = ["case", "who", "time", "fastest", "accuracy", "ratio", "asked", "met"]
HEADER += ["AVX2 time", "AVX2 ratio", "AVX2 met", "setting, note"]


def seconds_text(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms")):
        if abs(seconds) < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def cells(line: dict) -> list[str]:
    """One row of the table as text."""
    met = {None: "", True: "yes", False: "NO"}
    narrow = line.get("avx2") or {}
    asked = ""
    if line.get("asked") is not None:
        asked = f"{'<=' if line.get('at_most') else '>='} {line['asked']:g} {line.get('unit', '')}".strip()

    def number(value, form):
        return "" if value is None else format(value, form)

    notes = [line.get("setting"), line.get("note")]
    if narrow.get("note"):
        notes.append(f"AVX2: {narrow['note']}")
    return [
        line["case"],
        line["who"],
        seconds_text(line.get("seconds")),
        seconds_text(line.get("fastest")),
        number(line.get("accuracy"), ".3f"),
        number(line.get("ratio"), ".2f"),
        asked,
        met[line.get("met")],
        seconds_text(narrow.get("seconds")),
        number(narrow.get("ratio"), ".2f"),
        met[narrow.get("met")],
        "; ".join(note for note in notes if note),
    ]


def columns_of(result: dict, left_out: tuple[str, ...] = ()) -> tuple[list[str], list[list[str]]]:
    """Names and lines of the table without columns that are empty or to be left out."""
    columns = list(zip(HEADER, *map(cells, result["rows"]), strict=True))
    shown = [column for column in columns if any(column[1:]) and column[0] not in left_out]
    names, *table = (list(line) for line in zip(*shown, strict=True))
    return names, table


def as_text(result: dict) -> str:
    """The table for a terminal."""
    names, table = columns_of(result)
    widths = [max(map(len, column)) for column in zip(names, *table, strict=True)]

    def line(values):
        return "  ".join(value.ljust(width) for value, width in zip(values, widths, strict=True)).rstrip()

    lines, case = [machine_line(result), "", line(names), line(["-" * width for width in widths])], None
    for values in table:
        lines += [""] if case not in (None, values[0]) else []
        lines.append(line([values[0] if values[0] != case else "", *values[1:]]))
        case = values[0]
    missed = [f"{line['case']}: {line['who']}" for line in result["rows"] if line.get("met") is False]
    lines += ["", f"asked for and not reached: {'; '.join(missed) if missed else 'nothing'}"]
    return "\n".join(lines)


SUMMARY_PEERS = ("scikit-learn", "PyTorch", "PyTorch, one graph", "skorch", "JAX")


def as_markdown(result: dict) -> str:
    """The table for the README, with its machine and date."""
    names, table = columns_of(result, left_out=("fastest", "AVX2 time"))
    right = {"time", "accuracy", "ratio", "asked", "AVX2 ratio"}
    rule = "|".join("---:" if name in right else "---" for name in names)
    lines = ["| " + " | ".join(names) + " |", f"|{rule}|"]
    case = None
    for values in table:
        lines.append("| " + " | ".join([values[0] if values[0] != case else "", *values[1:]]) + " |")
        case = values[0]
    return "\n".join([*lines, "", machine_line(result)])


def as_summary(result: dict) -> str:
    """A short table for the README: nbnet's time and the ratios to it of each peer, bold where they fall short."""
    lines = ["| case | nbnet | " + " | ".join(SUMMARY_PEERS) + " |", "|---|---:|" + "---:|" * len(SUMMARY_PEERS)]
    by_case: dict[str, dict[str, dict]] = {}
    for line in result["rows"]:
        by_case.setdefault(line["case"], {})[line["who"]] = line
    for case, members in by_case.items():
        if "nbnet" not in members or "scikit-learn" not in members or members["nbnet"].get("seconds") is None:
            continue
        values = [seconds_text(members["nbnet"]["seconds"])]
        for name in SUMMARY_PEERS:
            peer = members.get(name)
            if peer is None or peer.get("ratio") is None:
                values.append("")
                continue
            text = f"{peer['ratio']:.2f}" if peer["ratio"] < 10 else f"{peer['ratio']:.0f}"
            values.append(f"**{text}**" if peer.get("met") is False else text)
        lines.append(f"| {case} | " + " | ".join(values) + " |")
    return "\n".join([*lines, "", machine_line(result)])


def compare(options: Options, groups: list[str]) -> dict:
    """Measures the groups; one dictionary with everything that the table shows."""
    about, rows = machine(), []
    for name in groups:
        progress(f"{name}:")
        rows += GROUPS[name](options)
    return {"machine": about, "versions": VERSIONS, "blas": BLAS, "quick": options.quick, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer epochs and rounds")
    parser.add_argument("--rows", metavar="NAME,...", help=f"some of: {', '.join(GROUPS)}")
    parser.add_argument("--peers", metavar="NAME;...", help=f"some of: {'; '.join(TOP_PEERS)}")
    parser.add_argument("--no-avx2", action="store_true", help="leave the AVX2 columns out")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write all figures")
    parser.add_argument("--load", metavar="FILE", type=Path, help="show a file written by --json; measure nothing")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--summary", action="store_true", help="print the README's short table")
    arguments = parser.parse_args()
    if arguments.load:
        result = json.loads(arguments.load.read_text())
    else:
        groups = arguments.rows.split(",") if arguments.rows else list(GROUPS)
        peers = [name.strip() for name in arguments.peers.split(";")] if arguments.peers is not None else None
        for name in groups:
            if name not in GROUPS:
                parser.error(f"--rows: {name!r} is none of {', '.join(GROUPS)}")
        for name in peers or []:
            if name and name not in PEERS:
                parser.error(f"--peers: {name!r} is none of {', '.join(TOP_PEERS)}")
        result = compare(Options(arguments.quick, peers and [p for p in peers if p], not arguments.no_avx2), groups)
    if arguments.json:
        # what benchmarks.text keeps in the same file stays
        others = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
        arguments.json.write_text(json.dumps(others | result, indent=1) + "\n")
    form = as_summary if arguments.summary else as_markdown if arguments.markdown else as_text
    print(form(result))


if __name__ == "__main__":
    main()
