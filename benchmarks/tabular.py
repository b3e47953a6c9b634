"""Test accuracy on six tables: ``python -m benchmarks.tabular``.

scikit-learn's MLPClassifier, nbnet's with the same hyper-parameters, nbnet's preset ``MLPClassifier.tabular()`` and
HistGradientBoostingClassifier, each over several seeds on the same matrix: numeric columns standardized by the training
rows, the others one-hot, every fifth row (index % 5 == 4) for testing.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .cases import data_folder


class Table(NamedTuple):
    """Where a table lies and which column is to be predicted."""

    file: str
    target: str
    dropped: tuple[str, ...] = ()
    to_class: Callable[[str], object] = str


TABLES = {
    "letter": Table("letter/letter.csv.gz", "letter"),
    "covertype_10k": Table("covertype_10k/covertype_10k.csv.gz", "Cover_Type"),
    "credit_default": Table("credit_default/credit_default.csv.gz", "default_next_month", ("ID",)),
    "ai4i2020": Table(
        "ai4i2020/ai4i2020.csv.gz",
        "Machine failure",
        ("UDI", "Product ID", "TWF", "HDF", "PWF", "OSF", "RNF"),  # the flags give the answer away
    ),
    "german_credit": Table("german_credit/german_credit.csv.gz", "class"),
    "student_performance": Table(
        "student_performance/student-por.csv.gz", "G3", ("G1", "G2"), lambda grade: int(grade) >= 10
    ),
}


def load(table: Table, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """X_train, y_train, X_test, y_test."""
    with gzip.open(folder / table.file, "rt", encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    columns = {name.strip(): np.array(values) for name, values in zip(header, zip(*rows, strict=True), strict=True)}
    y = np.array([table.to_class(value) for value in columns.pop(table.target)])
    test = np.arange(len(y)) % 5 == 4
    parts = []
    for name, values in columns.items():
        if name in table.dropped:
            continue
        try:
            numbers = values.astype(float)
            spread = numbers[~test].std()
            parts.append(((numbers - numbers[~test].mean()) / (spread if spread > 0 else 1.0))[:, None])
        except ValueError:  # words
            parts.append((values[:, None] == np.unique(values[~test])).astype(float))
    X = np.hstack(parts)
    return X[~test], y[~test], X[test], y[test]


def scikit_learn(seed: int):
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier(random_state=seed)


def hist_gradient_boosting(seed: int):
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(random_state=seed)


def nbnet_same(seed: int):
    from nbnet import MLPClassifier

    return MLPClassifier(random_state=seed)


def nbnet_tabular(seed: int):
    from nbnet import MLPClassifier

    return MLPClassifier.tabular(random_state=seed)


ESTIMATORS = {
    "scikit-learn MLP": scikit_learn,
    "nbnet MLP": nbnet_same,
    "nbnet tabular()": nbnet_tabular,
    "HistGradientBoosting": hist_gradient_boosting,
}


def measure(make, data, n_seeds: int) -> dict[str, list[float]]:
    """Test accuracy and seconds of fit for each seed."""
    X, y, X_test, y_test = data
    scores, seconds = [], []
    for seed in range(n_seeds):
        estimator = make(seed)
        start = time.perf_counter()
        estimator.fit(X, y)
        seconds.append(time.perf_counter() - start)
        scores.append(float(estimator.score(X_test, y_test)))
    return {"scores": scores, "seconds": seconds}


def as_text(results: dict) -> str:
    """Mean accuracy, its standard deviation over the seeds, and the median time of a fit."""
    lines = [
        f"{'table':20} " + " ".join(f"{name:>27}" for name in ESTIMATORS),
        f"{'':20} " + " ".join(f"{'accuracy    +-      fit':>27}" for _ in ESTIMATORS),
    ]
    for name, found in results.items():
        cells = []
        for estimator in ESTIMATORS:
            if estimator in found:
                scores, seconds = found[estimator]["scores"], found[estimator]["seconds"]
                cells.append(f"{100 * np.mean(scores):8.2f} {100 * np.std(scores):5.2f} {np.median(seconds):7.2f} s")
            else:
                cells.append("")
        lines.append(f"{name:20} " + " ".join(f"{cell:>27}" for cell in cells))
    return "\n".join([*lines, "", *verdicts(results)])


def verdicts(results: dict) -> list[str]:
    """What is asked of the scores, and on how many tables it holds."""
    peer, same, preset, boosting = ESTIMATORS
    comparisons = {
        f"{same} within noise of {peer} (difference below two standard errors)": (same, peer, _within_noise),
        f"{preset} above {peer}": (preset, peer, lambda a, b: np.mean(a) > np.mean(b)),
        f"{preset} within 0.5 points of {boosting}": (preset, boosting, lambda a, b: np.mean(a) >= np.mean(b) - 0.005),
    }
    lines = []
    for text, (own, other, holds) in comparisons.items():
        both = {name: found for name, found in results.items() if own in found and other in found}
        missed = [name for name, found in both.items() if not holds(found[own]["scores"], found[other]["scores"])]
        if both:
            where = f"; not on {', '.join(missed)}" if missed else ""
            lines.append(f"{text}: {len(both) - len(missed)} of {len(both)}{where}")
    return lines


def _within_noise(a: list[float], b: list[float]) -> bool:
    error = np.sqrt(np.var(a, ddof=1) / len(a) + np.var(b, ddof=1) / len(b)) if len(a) > 1 and len(b) > 1 else 0.0
    return bool(abs(np.mean(a) - np.mean(b)) <= 2 * error + 1e-9)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tabular", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=data_folder(), help="folder of the tables (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tables", help=f"some of: {','.join(TABLES)}")
    parser.add_argument("--estimators", help=f"some of: {','.join(ESTIMATORS)}")
    parser.add_argument("--json", type=Path, help="keep results here; what it holds and is not measured anew stays")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    results = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else {}
    estimators = arguments.estimators.split(",") if arguments.estimators else list(ESTIMATORS)
    for name in arguments.tables.split(",") if arguments.tables else TABLES:
        try:
            data = load(TABLES[name], arguments.data)
        except FileNotFoundError as error:
            print(f"{name}: skipped, {error.filename} is not there", flush=True)
            continue
        for estimator in estimators:
            found = measure(ESTIMATORS[estimator], data, arguments.seeds)
            results.setdefault(name, {})[estimator] = found
            print(f"{name}, {estimator}: {100 * np.mean(found['scores']):.2f}", flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    print(as_text(results))


if __name__ == "__main__":
    main()
