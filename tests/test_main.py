"""``python -m nbnet``: what its three commands print."""

import re
import subprocess
import sys

import numpy as np
import pytest
from numba.core import event
from scipy.sparse import csr_array

import nbnet
from nbnet import __main__ as command_line
from nbnet.code_cache import cache_directory
from nbnet.jit import JIT_DISABLED


def test_info_in_a_process_of_its_own():
    done = subprocess.run([sys.executable, "-m", "nbnet", "info"], capture_output=True, text=True, check=True)
    lines = dict(re.split(r":\s+", line, maxsplit=1) for line in done.stdout.splitlines())
    assert lines["nbnet"] == nbnet.__version__
    assert re.fullmatch(r"\d+ floats of 32 bits", lines["vector width"])
    assert lines["cache folder"] == str(cache_directory())
    assert lines["devices"].startswith("cpu")
    assert lines["cuda"]
    assert {"Python", "numba", "numpy", "scikit-learn", "processor", "cores"} <= set(lines)


@pytest.mark.parametrize("arguments", [[], ["dance"]])
def test_no_or_unknown_command_is_a_usage_error(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        command_line.main(arguments)
    assert stopped.value.code == 2
    assert "usage: python -m nbnet" in capsys.readouterr().err


def test_demo_prints_one_row_a_data_set(monkeypatch, capsys):
    if JIT_DISABLED:
        tasks = [command_line.Task("tiny", _tiny_bunch, "accuracy", command_line._networks)]
        monkeypatch.setattr(command_line, "_demo_tasks", lambda: tasks)
    monkeypatch.setattr(command_line, "EPOCHS", 2)
    monkeypatch.setattr(command_line, "IMAGE_EPOCHS", 2)
    assert command_line.main(["demo"]) == 0
    printed = capsys.readouterr().out
    for task in command_line._demo_tasks():
        row = next(line for line in printed.splitlines() if line.startswith(task.name))
        assert re.search(r"\d\.\d{3} (ROC AUC|accuracy)\s+[\d.]+ s\s+\d\.\d{3}\s+[\d.]+ s\s+[\d.]+$", row)


@pytest.mark.slow_without_jit
def test_after_warm_up_other_networks_compile_nothing(capsys):
    assert command_line.main(["warm-up"]) == 0
    assert "ompile" in capsys.readouterr().out
    # events of this process, as tests beside it fill the same cache folder
    with event.install_recorder("numba:compile") as compilations:
        rng = np.random.default_rng(0)
        for dtype in (np.float32, np.float64):
            X = np.asfortranarray(rng.normal(size=(40, 5)).astype(dtype))
            labels, several_labels = rng.integers(0, 3, 40), rng.integers(0, 2, (40, 4))
            command_line._fit(
                nbnet.MLPClassifier((3, 5, 2), activation="tanh", max_iter=2, early_stopping=True), X, labels
            )
            nbnet.MLPClassifier((2,), dropout=0.5).partial_fit(csr_array(X), several_labels, classes=[0, 1, 2, 3])
            nbnet.MLPRegressor("huber", (2, 2)).partial_fit(X, X[:, :2]).predict(X[:1])
            texts, name = ["some words", "other words!", "\u8336", ""] * 10, np.dtype(dtype).name
            for options in (
                {},
                {"hidden_layer_sizes": (3,), "pooling": "max", "analyzer": "char"},
                {"sublinear_tf": False},
            ):
                model = nbnet.TextEmbeddingClassifier(5, dtype=name, loss="one_vs_all", early_stopping=True, **options)
                model.fit(texts, several_labels).transform(texts)
                assert model.predict_proba(texts[:1]).dtype == dtype
        for kind in (np.uint8, np.float32, np.float64):
            images, y = rng.integers(0, 255, (30, 9, 9, 3)).astype(kind), np.arange(30) % 3
            layers = (32, ("residual", 32), "max_pool", (5, 5, 2), "avg_pool")
            model = nbnet.ConvClassifier(layers, batch_norm=True, augment={"shift": 1}, max_iter=2, early_stopping=True)
            command_line._fit(model, images, y).predict(images)
            nbnet.ConvClassifier(dropout=0.1).partial_fit(images, y, classes=[0, 1, 2]).transform(images)
    assert [occurrence.data["dispatcher"] for _, occurrence in compilations.buffer] == []


def test_status_line_is_wiped_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with command_line._status("working"):
        pass
    assert capsys.readouterr().out == "working ...\r" + " " * 11 + "\r"


def test_without_a_cache_folder_the_report_says_so(monkeypatch, capsys):
    monkeypatch.setattr("nbnet.code_cache.cache_directory", lambda: None)
    command_line._report_compilation(lambda: None)
    assert "no folder can be written" in capsys.readouterr().out


def _tiny_bunch():
    from sklearn.datasets import load_iris

    bunch = load_iris()
    bunch.data, bunch.target = bunch.data[::10], bunch.target[::10]
    return bunch
