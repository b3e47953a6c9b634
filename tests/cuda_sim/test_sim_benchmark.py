"""`benchmarks.gpu` runs from end to end; its figures mean nothing here."""

import json

import numpy as np

from benchmarks import gpu
from nbnet import MLPClassifier
from nbnet.cuda import blas, product, small_nets

RNG = np.random.default_rng(0)


def test_benchmark(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(product, "TILES", (product.Tile(16, 16, 8, 4),))
    monkeypatch.setattr(gpu, "PRODUCTS", [(9, 5, 7)])
    monkeypatch.setattr(gpu, "CASES", [gpu.Case((5, 4, 3), 4, n_steps=2)])
    monkeypatch.setattr(gpu.Clock, "median", lambda clock, call: call() or 1.0)
    monkeypatch.setattr(gpu, "RUNS", 2)
    monkeypatch.setattr(gpu.gpu_torch, "torch_on_gpu", lambda: None)
    table = RNG.normal(size=(6, 2)).astype("float32"), RNG.integers(0, 2, 6), None
    monkeypatch.setattr(gpu, "PEERS", [gpu.Peer("MLPClassifier", lambda: MLPClassifier(()), lambda: table, None, 6)])
    monkeypatch.setattr(gpu, "EPOCHS", 3)
    monkeypatch.setattr(gpu, "SMALL", gpu.Case((3, 2, 2), 4, n_steps=1))
    monkeypatch.setattr(gpu, "TEAMS", (2,))
    monkeypatch.setattr(small_nets, "THREADS", 32)
    assert gpu.main(["--out", str(tmp_path / "gpu.json")]) == 0
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["launches"][0]["plain us"] > 0
    products = results["products"][0]
    assert products["own, error"] < 1e-6 and products["in parts, error"] < 1e-6 and "PyTorch" not in products
    assert results["steps"][0] == {"network": "5-4-3, batch 4", "nbnet highest us": 0.5e6, "nbnet high us": 0.5e6}
    (of_tables,) = results["estimators"]
    assert of_tables["estimator"] == "MLPClassifier, batch 6" and of_tables["nbnet high ms"] > 0
    assert results["teams"] == [{"networks": 2, "of": "3-2-2, batch 4", "together ms": 1e3, "one alone ms": 1e3}]
    assert blas.GEMM == "auto"
    assert "GPU: cuda:0 (simulated GPU)" in capsys.readouterr().out
    assert gpu.main(["--budget", "0"]) == 0
    assert "terms" not in capsys.readouterr().out


def test_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "why_no_cuda", lambda: "there is none")
    assert gpu.main([]) == 3
    assert capsys.readouterr().out == "No benchmark on a GPU: there is none.\n"
