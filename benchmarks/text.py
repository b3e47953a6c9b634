"""nbnet's text classifier beside fastText and scikit-learn: ``python -m benchmarks.text``; see README.md here.

Speed: both sides read the same tokens from the same file, nbnet from a list of str, and train with the same dimension,
epochs and n-grams. Quality: nbnet as fastText (same tokens, model, rate, epochs) beside fastText, and nbnet as it comes
beside TF-IDF and LinearSVC.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from . import text_data, text_quality
from .cases import ROOT
from .compare import VERSIONS, Child, Options, as_markdown, as_text, child_environment, children, machine, progress, row
from .text_peers import TextCase

TRAIN_ASKED = {1: 3.5, 2: 2.5}  # fastText's time over nbnet's, by cores
TWO_CORES_ASKED = 1.4
PREDICT_ASKED = 4.0
ONE_TEXT_LIMIT = 60e-6  # seconds
TOKENS_ASKED = {False: 12e6, True: 20e6}  # a second and core: words; characters of Chinese
MEMORY_LIMIT = 1.5  # times ids, rows and the solver's state

SPEED_SETS = {"ag_news_21k": 13, "banking77": 20}  # set: how often repeated; 10 million and 2.7 million tokens
TOKENIZE_SETS = ("ag_news_21k", "banking77", "waimai_10k", "thucnews_titles_20k", "poetry_genre_zh")
QUIET = 0.03  # share of a core that other programs may take while something is timed
N_TRIES = 2


# ---------------------------------------------------------------- timing


def busy_seconds(cores: list[int]) -> float:
    """Seconds that these cores have worked since the machine started. Linux only."""
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *values = line.split()
        if name in {f"cpu{core}" for core in cores}:
            user, nice, system, _, _, interrupts, soft, steal = map(int, values[:8])
            ticks += user + nice + system + interrupts + soft + steal
    return ticks / 100


def measure_quietly(child: Child, cores: list[int]) -> None:
    """One more sample of the child, tried again while other programs use its cores: the quietest of some tries."""
    if child.error is not None or not Path("/proc/stat").exists():
        return child.measure()
    tries = []
    for _ in range(N_TRIES):
        before = busy_seconds(cores)
        child.measure()
        if child.error is not None:
            return None
        sample = child.samples.pop()
        others = busy_seconds(cores) - before - sample["total_cpu"]
        tries.append((max(0.0, others / sample["total_seconds"]), sample))
        if tries[-1][0] <= QUIET * len(cores):
            break
    others, sample = min(tries, key=lambda found: found[0])
    child.samples.append(sample | {"others": others})
    return None


def take_turns(requests: dict[str, dict], n_repeats: int):
    """As `children`, each sample taken while the machine is quiet."""
    with children(requests, n_repeats=0) as started:
        for repeat in range(n_repeats):
            progress(f"  round {repeat + 1} of {n_repeats}")
            for name, child in started.items():
                measure_quietly(child, requests[name]["cores"])
    return started


def ratio_to(base: Child, child: Child) -> float | None:
    """Median of the child's time over base's, round by round."""
    if not (base.samples and child.samples):
        return None
    return statistics.median(a["seconds"] / b["seconds"] for a, b in zip(child.samples, base.samples, strict=False))


def values_of(child: Child) -> dict:
    """What the table shows of one side."""
    if not child.samples:
        return {"note": child.error}
    values = {
        "seconds": child.median("seconds"),
        "fastest": min(sample["seconds"] for sample in child.samples),
        "accuracy": child.samples[-1].get("accuracy"),
        "setting": child.about["setting"],
    }
    others = max(sample["others"] for sample in child.samples)
    if others > QUIET * 2:
        values["note"] = f"other programs took {others:.0%} of a core"
    return values


# ---------------------------------------------------------------- speed


def request_of(task: str, peer: str, case: TextCase, cores: list[int], **more) -> dict:
    return dict(task=task, peer=peer, text_case=case._asdict(), cores=cores, n_cores=len(cores), **more)


def beside_fasttext(task: str, case: TextCase, cores: list[int], fasttexts: dict[str, str], **more) -> dict[str, dict]:
    """Requests for nbnet as fastText, for nbnet's own solver, and for each fastText (name: its interpreter)."""
    requests = {
        f"nbnet, {how}": request_of(task, f"nbnet, {how}", case._replace(nbnet=how), cores, **more)
        for how in ("sgd", "adagrad")
    }
    for name, python in fasttexts.items():
        requests[name] = request_of(task, name, case, cores, python=python, **more)
    return requests


def speed_cases(files: text_data.Files):
    """(title, case) of each set that is there, with unigrams and bigrams."""
    for name, paths in files.each(SPEED_SETS, lambda name: files.repeated(name, SPEED_SETS[name])):
        n_times = SPEED_SETS[name]
        for n in (1, 2):
            yield f"{name} x {n_times}, {'unigrams' if n == 1 else 'bigrams'}", TextCase(**paths, n_grams=n)


def train_rows(options: Options, files: text_data.Files, fasttexts: dict[str, str]) -> list[dict]:
    """Training on one core and on two, each side beside every fastText; two cores beside one."""
    rows = []
    for title, case in speed_cases(files):
        progress(f"train {title}:")
        requests = {}
        for cores in (options.one_core, options.two_cores)[: len(options.two_cores)]:
            for name, request in beside_fasttext("text_train", case, cores, fasttexts).items():
                requests[f"{name}|{len(cores)}"] = request
        started = take_turns(requests, options.n_repeats)
        for n_cores in (1, 2)[: len(options.two_cores)]:
            where = f"train {title}, {'one core' if n_cores == 1 else 'two cores'}"
            rows += side_rows("text train", where, started, n_cores, TRAIN_ASKED[n_cores])
        if len(options.two_cores) == 2:
            for how in ("sgd", "adagrad"):
                one, two = started[f"nbnet, {how}|1"], started[f"nbnet, {how}|2"]
                ratio = ratio_to(two, one)
                limits = dict(asked=TWO_CORES_ASKED, met=ratio is not None and ratio >= TWO_CORES_ASKED)
                rows.append(
                    row("text train", f"train {title}, one core by two", f"nbnet, {how}", ratio=ratio, **limits)
                )
    return rows


def side_rows(group: str, title: str, started: dict[str, Child], n_cores: int, asked: float) -> list[dict]:
    """Lines of nbnet's settings, then of each fastText by each of them."""
    here = {name.split("|")[0]: child for name, child in started.items() if name.endswith(f"|{n_cores}")}
    own = {name: child for name, child in here.items() if name.startswith("nbnet")}
    rows = [row(group, title, name, **values_of(child)) for name, child in own.items()]
    for name, child in here.items():
        if name in own:
            continue
        for how, base in own.items():
            ratio = ratio_to(base, child)
            met = None if ratio is None else ratio >= asked
            rows.append(row(group, title, f"{name} / {how}", **values_of(child), ratio=ratio, asked=asked, met=met))
    return rows


def predict_rows(options: Options, files: text_data.Files, fasttexts: dict[str, str]) -> list[dict]:
    """Predicting the test texts, and one short one."""
    rows = []
    for title, case in speed_cases(files):
        for one in (False, True):
            progress(f"predict {title}, {'one text' if one else 'all'}:")
            requests = {
                f"{name}|1": request
                for name, request in beside_fasttext("text_predict", case, options.one_core, fasttexts, one=one).items()
            }
            started = take_turns(requests, options.n_repeats)
            what = f"predict {title}, {'one short text' if one else 'test part'}"
            lines = side_rows("text predict", what, started, 1, PREDICT_ASKED)
            if one:
                lines = [line | one_text_limit(started.get(f"{line['who']}|1")) for line in lines]
            rows += lines
    return rows


def one_text_limit(child: Child | None) -> dict:
    """What is asked of a call for one text: its time above that of validation. Nothing of a peer's line."""
    if child is None or not child.samples or "validation" not in child.samples[0]:
        return {"asked": None, "met": None}
    above = child.median("seconds") - child.median("validation")
    note = f"{above * 1e6:.0f} us above validation, asked: at most {ONE_TEXT_LIMIT * 1e6:.0f} us"
    return {"met": above <= ONE_TEXT_LIMIT, "note": note}


def tokenize_rows(options: Options, files: text_data.Files) -> list[dict]:
    """Words or characters a second, encoding included: looking tokens up, and learning them."""
    rows = []
    for name, paths in files.each(TOKENIZE_SETS, files.raw):
        case = TextCase(**paths)
        chinese = text_data.SETS[name].chinese
        for method in ("transform", "fit_transform"):
            progress(f"tokenize {name}, {method}:")
            requests = {
                str(len(cores)): request_of("tokenize", "nbnet", case, cores, method=method)
                for cores in (options.one_core, options.two_cores)[: len(options.two_cores)]
            }
            started = take_turns(requests, options.n_repeats)
            for n_cores, child in started.items():
                title = f"tokenize {name}, {method}, {n_cores} core{'s' if n_cores == '2' else ''}"
                if not child.samples:
                    rows.append(row("tokenize", title, "nbnet", note=child.error))
                    continue
                count = child.samples[0]["characters" if chinese else "tokens"]
                rate, asked = count / child.median("seconds"), TOKENS_ASKED[chinese] * int(n_cores)
                rows.append(
                    row(
                        "tokenize",
                        title,
                        "nbnet",
                        **values_of(child),
                        ratio=rate / 1e6,
                        asked=asked / 1e6,
                        unit="M/s",
                        met=rate >= asked,
                    )
                )
    return rows


def memory_rows(options: Options, files: text_data.Files, fasttexts: dict[str, str]) -> list[dict]:
    """Peak memory of training above the texts, beside what ids, rows and the solver's state need."""
    rows = []
    for title, case in speed_cases(files):
        progress(f"memory {title}:")
        with children(beside_fasttext("text_memory", case, options.one_core, fasttexts), n_repeats=1) as started:
            for name, child in started.items():
                title_here = f"peak memory, train {title}"
                if not child.samples:
                    rows.append(row("text memory", title_here, name, note=child.error))
                    continue
                used, needed = child.samples[0]["bytes"], child.samples[0].get("needed")
                line = row("text memory", title_here, name, note=f"{used / 2**20:.0f} MiB")
                if needed:
                    ratio = used / needed
                    line |= dict(ratio=ratio, asked=MEMORY_LIMIT, at_most=True, met=ratio <= MEMORY_LIMIT)
                    line["note"] += f"; ids, rows and state {needed / 2**20:.0f} MiB"
                rows.append(line)
    return rows


# ---------------------------------------------------------------- the program


def fasttext_names(pythons: list[str]) -> dict[str, str]:
    """Name and interpreter of each fastText."""
    names = {}
    for python in pythons:
        done = subprocess.run(
            [python, "-m", "benchmarks.text_peers"], cwd=ROOT, env=child_environment(1), capture_output=True, text=True
        )
        names[json.loads(done.stdout) if done.returncode == 0 else f"fastText, {python}"] = python
    return names


SPEED_GROUPS = ("train", "predict", "tokenize", "memory")


def measure_speed(options: Options, files: text_data.Files, fasttexts: dict[str, str], groups: list[str]) -> list[dict]:
    measures = {
        "train": lambda: train_rows(options, files, fasttexts),
        "predict": lambda: predict_rows(options, files, fasttexts),
        "tokenize": lambda: tokenize_rows(options, files),
        "memory": lambda: memory_rows(options, files, fasttexts),
    }
    return [line for group in groups for line in measures[group]()]


def as_table(result: dict, markdown: bool = False) -> str:
    """All tables of a result."""
    parts = []
    if result.get("speed"):
        about = {"machine": result["machine"], "versions": result["versions"], "quick": False}
        parts.append((as_markdown if markdown else as_text)(about | {"rows": result["speed"]}))
    if result.get("parity"):
        title = "nbnet as fastText beside fastText, 25 epochs, accuracy (P@1) in percent"
        parts.append(f"{title}\n\n{text_quality.parity_text(result['parity'])}")
    if result.get("defaults"):
        title = "nbnet as it comes beside TF-IDF and LinearSVC, accuracy in percent"
        parts.append(f"{title}\n\n{text_quality.default_text(result['defaults'])}")
    return "\n\n\n".join(parts)


PARTS = {  # of the file's part on text, and what tells one line from another
    "speed": lambda line: (line["case"], line["who"]),
    "parity": lambda line: (line["set"], line["n_grams"]),
    "defaults": lambda line: line["set"],
}


def save(path: Path, result: dict) -> None:
    """Puts the result into the file's part on text, in place of older lines on the same."""
    everything = json.loads(path.read_text()) if path.exists() else {}
    kept = everything.setdefault("text", {})
    for part, key in PARTS.items():
        measured = {key(line) for line in result[part]}
        kept[part] = [line for line in kept.get(part, []) if key(line) not in measured] + result[part]
    kept |= {"machine": result["machine"], "versions": result["versions"]}
    path.write_text(json.dumps(everything, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.text", description=__doc__.split("\n")[0])
    kinds = dict(metavar="NAME,...", nargs="?")
    parser.add_argument("--speed", const=",".join(SPEED_GROUPS), help="all, or some of: %(const)s", **kinds)
    parser.add_argument("--quality", const="parity,defaults", help="both, or one of: %(const)s", **kinds)
    parser.add_argument("--sets", help="only these sets, by commas")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--fasttext", metavar="PYTHON", nargs="+", default=[sys.executable], help="who has fastText")
    parser.add_argument("--save", metavar="FILE", type=Path, help="keep the figures in this file's part on text")
    parser.add_argument("--load", metavar="FILE", type=Path, help="show what --save kept; measure nothing")
    parser.add_argument("--markdown", action="store_true", help="print the table of times as Markdown")
    arguments = parser.parse_args()
    if arguments.load:
        return print(as_table(json.loads(arguments.load.read_text())["text"], arguments.markdown))
    result = measure(arguments)
    if arguments.save:
        save(arguments.save, result)
    return print(as_table(result, arguments.markdown))


def measure(arguments: argparse.Namespace) -> dict:
    """What the command line asks for."""
    options = Options()
    options.n_repeats = arguments.repeats
    fasttexts = fasttext_names(arguments.fasttext)
    result = {"machine": machine(), "versions": dict(VERSIONS), "speed": [], "parity": [], "defaults": []}
    quality = arguments.quality.split(",") if arguments.quality else []
    with tempfile.TemporaryDirectory() as folder:
        files = text_data.Files(folder, arguments.sets.split(",") if arguments.sets else None)
        if arguments.speed:
            result["speed"] = measure_speed(options, files, fasttexts, arguments.speed.split(","))
        if "parity" in quality:
            python = next(iter(fasttexts.values()))
            result["parity"] = text_quality.parity_scores(files, options.one_core, python, arguments.seeds)
        if "defaults" in quality:
            result["defaults"] = text_quality.default_scores(files, options.one_core, arguments.seeds)
    return result


if __name__ == "__main__":
    main()
