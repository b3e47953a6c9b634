"""`benchmarks.gpu` runs from end to end; its figures mean nothing here."""

import json

from benchmarks import gpu
from nbnet.cuda import product


def test_benchmark(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(product, "TILES", (product.Tile(16, 16, 8, 4),))
    monkeypatch.setattr(gpu, "PRODUCTS", [(9, 5, 7)])
    monkeypatch.setattr(gpu, "CASES", [gpu.Case((5, 4, 3), 4, n_steps=2)])
    monkeypatch.setattr(gpu.Clock, "median", lambda clock, call: call() or 1.0)
    monkeypatch.setattr(gpu, "RUNS", 2)
    monkeypatch.setattr(gpu, "torch_on_gpu", lambda: None)
    assert gpu.main(["--out", str(tmp_path / "gpu.json")]) == 0
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["launches"][0]["plain us"] > 0
    assert results["products"][0]["error"] < 1e-6
    assert results["steps"][0] == {"network": "5-4-3, batch 4", "nbnet us": 0.5e6}
    assert "GPU: cuda:0 (simulated GPU)" in capsys.readouterr().out
    assert gpu.main(["--budget", "0"]) == 0
    assert "terms" not in capsys.readouterr().out


def test_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "why_no_cuda", lambda: "there is none")
    assert gpu.main([]) == 3
    assert capsys.readouterr().out == "No benchmark on a GPU: there is none.\n"
