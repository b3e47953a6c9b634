"""The documentation is true: its examples run, and the change it shows in `adding_a_layer` works."""

import doctest
import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [path.name for path in sorted((ROOT / "docs").glob("*.rst")) if ">>>" in path.read_text(encoding="utf-8")]
WITH_EXAMPLES = [
    "nbnet.datasets.tables",
    "nbnet.datasets.texts",
    "nbnet.estimators.clips",
    "nbnet.estimators.conv",
    "nbnet.estimators.mlp",
    "nbnet.estimators.stored",
    "nbnet.estimators.tagger",
    "nbnet.estimators.text",
    "nbnet.inspection.attributions",
    "nbnet.images.preprocessor",
    "nbnet.labeling",
    "nbnet.metrics",
    "nbnet.onnx",
    "nbnet.testing.images",
    "nbnet.testing.texts",
]


@pytest.mark.slow_without_jit
@pytest.mark.parametrize("page", PAGES)
def test_examples_of(page):
    if page == "dask.rst":
        pytest.importorskip("dask.array")
    failed, tried = doctest.testfile(str(ROOT / "docs" / page), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert tried > 0
    assert failed == 0


@pytest.mark.slow_without_jit
@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings_of(name):
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried > 0
    assert failed == 0


def test_each_promise_names_tests_that_exist():
    text = (ROOT / "docs" / "trust.rst").read_text(encoding="utf-8")
    tables = text[: text.index("How the tests are run")].split(".. list-table::")[1:]
    promises = [row for table in tables for row in re.split(r"^    \* - ", table, flags=re.MULTILINE)[2:]]
    assert len(promises) >= 20
    for promise in promises:
        source, names = None, re.findall(r"``(?:((?:\w+/)?test_\w+)::)?(test_\w+)``", promise)
        assert names, promise
        assert promise.count("``test_") + promise.count("/test_") == len(names), promise
        for module, name in names:
            if module:
                source = (ROOT / "tests" / f"{module}.py").read_text(encoding="utf-8")
            assert re.search(rf"^def {name}\(", source, re.MULTILINE), name


TRAIN_WITH_MISH = """
import numpy as np
import nbnet
from nbnet import MLPRegressor, network
from nbnet.cpu.session import Session, as_rows, as_targets

assert network.__file__.startswith({folder!r})
rng = np.random.default_rng(0)
X, y = rng.normal(size=(9, 3)), rng.normal(size=(9, 1))

layers = network.build(3, [network.DenseSpec(5, network.Activation.MISH), network.DenseSpec(1)])
params = network.initialize(layers, np.float64, 0)
targets = as_targets(None, y, np.ones(9), 1, np.float64)
session = Session(layers, params, network.Loss.SQUARED_ERROR, n_jobs=1)
gradient = session.loss_and_gradient(as_rows(X), targets, 0.0)[1].copy()
for position in np.flatnonzero(params):
    loss = []
    for step in (1e-5, -1e-5):
        value = params[position]
        params[position] = value + step
        loss.append(session.loss_and_gradient(as_rows(X), targets, 0.0)[0])
        params[position] = value
    assert abs((loss[0] - loss[1]) / 2e-5 - gradient[position]) < 1e-8

mlp = MLPRegressor(hidden_layer_sizes=(8,), activation="mish", solver="lbfgs", max_iter=200, tol=1e-2).fit(X, y.ravel())
assert mlp.score(X, y) > 0.5
"""


def test_adding_mish_as_the_page_says(tmp_path):
    shutil.copytree(ROOT / "nbnet", tmp_path / "nbnet", ignore=shutil.ignore_patterns("__pycache__"))
    for name, changes in _read_diff(ROOT / "docs" / "adding_mish.diff").items():
        path = tmp_path / name
        text = path.read_text(encoding="utf-8")
        for old, new in changes:
            assert text.count(old) == 1, f"the page's change does not fit {name}:\n{old}"
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")
    script = TRAIN_WITH_MISH.format(folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _read_diff(path):
    """Blocks of text to replace, by file; line numbers do not count, so that the page outlives other changes."""
    changes = {}
    for part in re.split(r"^--- .*\n\+\+\+ ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        name, rest = part.split("\n", 1)
        blocks = re.split(r"^@@.*\n", rest, flags=re.MULTILINE)[1:]
        changes[name] = [(_side(block, "-"), _side(block, "+")) for block in blocks]
    return changes


def _side(block, sign):
    return "".join(line[1:] + "\n" for line in block.splitlines() if line[:1] in ("", " ", sign))
