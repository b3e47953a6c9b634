"""Scores on texts: nbnet as fastText beside fastText, and nbnet as it comes beside TF-IDF and LinearSVC."""

from __future__ import annotations

import statistics

from .compare import children, progress
from .text_data import COOKING, EXTRA_SETS, SETS, Files
from .text_peers import TextCase

PARITY_SETS = [*SETS, COOKING]
DEFAULT_SETS = [*SETS, *EXTRA_SETS]
PARITY_LIMIT, WORST_LIMIT = 0.5, 1.0  # points that nbnet may be below fastText, below LinearSVC
EPOCHS = 25
RATES = {COOKING: 1.0}  # else 0.5
WORD = r"(?u)\b\w+\b"  # words of one letter, too


def run_once(task: str, peer: str, cores: list[int], **more) -> dict:
    """What one child measures; {"error": ...} if it cannot."""
    request = dict(task=task, peer=peer, cores=cores, n_cores=len(cores), **more)
    with children({peer: request}) as started:
        child = started[peer]
    return child.samples[0] if child.samples else {"error": child.error}


def parity_scores(files: Files, cores: list[int], python: str, n_seeds: int) -> list[dict]:
    """One dictionary a set and n-gram range: the scores of both sides over the seeds; `python` has fastText."""
    lines = []
    for name, paths in files.each(PARITY_SETS, lambda name: [files.tutorial(name, seed) for seed in range(n_seeds)]):
        for n_grams in (1, 2):
            progress(f"{name}, {n_grams}-grams:")
            base = TextCase("", "", n_grams, EPOCHS, RATES.get(name, 0.5), nbnet="sgd, split at blanks")
            text_cases = [base._replace(**of_seed, seed=seed)._asdict() for seed, of_seed in enumerate(paths)]
            line = {"set": name, "n_grams": n_grams}
            line["nbnet"] = run_once("text_quality", "nbnet", cores, text_cases=text_cases)
            line["fastText"] = run_once("text_quality", "fastText", cores, text_cases=text_cases, python=python)
            lines.append(line)
    return lines


def default_scores(files: Files, cores: list[int], n_seeds: int) -> list[dict]:
    """One dictionary a set: nbnet's scores over the seeds, LinearSVC's."""
    lines = []
    for name, paths in files.each(DEFAULT_SETS, files.raw):
        progress(f"{name}:")
        about, base = (SETS | EXTRA_SETS)[name], TextCase(**paths, nbnet="defaults")
        vectorizer = {"analyzer": "char"} if about.chinese else {"token_pattern": r"\S+" if about.split else WORD}
        text_cases = [base._replace(seed=seed)._asdict() for seed in range(n_seeds)]
        line = {"set": name, "nbnet": run_once("text_quality", "nbnet", cores, text_cases=text_cases)}
        line["LinearSVC"] = run_once(
            "linear_svc", "scikit-learn", cores, text_case=base._asdict(), vectorizer=vectorizer
        )
        lines.append(line)
    return lines


# ---------------------------------------------------------------- tables


def percent(scores: list[float]) -> float:
    return 100 * statistics.mean(scores)


def with_spread(scores: list[float]) -> str:
    deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
    return f"{percent(scores):.2f} +-{100 * deviation:.2f}"


def failures(line: dict, *sides: str) -> str:
    return "; ".join(f"{side}: {line[side]['error']}" for side in sides if "error" in line[side])


def yes_or_no(met: bool) -> str:
    return "yes" if met else "NO"


def parity_text(lines: list[dict]) -> str:
    """Percent, mean and standard deviation over the seeds; the difference of the means; recall of several labels."""
    sides = ("nbnet", "fastText")
    table = [f"{'set':22} {'n-grams':>7} {'nbnet':>14} {'fastText':>14} {'difference':>10}  met"]
    for line in lines:
        start = f"{line['set']:22} {line['n_grams']:>7}"
        failed = failures(line, *sides)
        if failed:
            table.append(f"{start} {failed}")
            continue
        scores = [line[side]["accuracy"] for side in sides]
        difference = percent(scores[0]) - percent(scores[1])
        cells = " ".join(f"{with_spread(of_side):>14}" for of_side in scores)
        table.append(f"{start} {cells} {difference:>10.2f}  {yes_or_no(difference >= -PARITY_LIMIT)}")
        if line["set"] == COOKING:
            recalls = " ".join(f"{with_spread(line[side]['recall']):>14}" for side in sides)
            table.append(f"{'  its recall':22} {'':>7} {recalls}")
    return "\n".join(table)


def default_text(lines: list[dict]) -> str:
    """Percent, mean and standard deviation over the seeds; median seconds of a fit; the mean of the eight sets."""
    table = [f"{'set':22} {'nbnet':>14} {'LinearSVC':>10} {'difference':>10}  met  fit: nbnet  LinearSVC"]
    measured = []
    for line in lines:
        failed = failures(line, "nbnet", "LinearSVC")
        if failed:
            table.append(f"{line['set']:22} {failed}")
            continue
        own, peer = percent(line["nbnet"]["accuracy"]), 100 * line["LinearSVC"]["accuracy"]
        met = yes_or_no(own >= peer - WORST_LIMIT)
        seconds = f"{statistics.median(line['nbnet']['seconds']):>10.2f} s {line['LinearSVC']['seconds']:>8.2f} s"
        score = with_spread(line["nbnet"]["accuracy"])
        table.append(f"{line['set']:22} {score:>14} {peer:>10.2f} {own - peer:>10.2f}  {met:3} {seconds}")
        if line["set"] in SETS:
            measured.append((own, peer))
    if measured:
        own, peer = (statistics.mean(side) for side in zip(*measured, strict=True))
        title = f"mean of {len(measured)}"
        table.append(f"{title:22} {own:>14.2f} {peer:>10.2f} {own - peer:>10.2f}  {yes_or_no(own > peer)}")
    return "\n".join(table)
