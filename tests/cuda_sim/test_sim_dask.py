"""`device="cuda"` of partitions: texts over Dask, in the process at hand."""

import numpy as np
import pytest

from nbnet.cuda import embedding, embedding_updates, product

dask = pytest.importorskip("dask")


@pytest.mark.parametrize("solver", ["adagrad", "adam"])
def test_texts_in_partitions(solver, monkeypatch):
    import dask.bag

    import nbnet.dask

    monkeypatch.setattr(product, "TILES", (product.Tile(16, 16, 8, 4),))
    monkeypatch.setattr(embedding, "TURNS", 2)
    monkeypatch.setattr(embedding_updates, "WARPS", 1)
    monkeypatch.setattr(embedding_updates, "BLOCKS_A_PROCESSOR", 4)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcdefgh"), rng.integers(1, 5))) for _ in range(16)]
    X, y = (dask.bag.from_sequence(part, npartitions=2) for part in (texts, rng.integers(0, 3, 16).tolist()))
    settings = {"solver": solver, "ngram_range": (1, 1), "batch_size": 4, "random_state": 0, "max_iter": 1}
    with dask.config.set(scheduler="synchronous"):
        cpu, gpu = (
            nbnet.dask.TextEmbeddingClassifier(3, device=device, **settings).fit(X, y).model_
            for device in ("cpu", "cuda")
        )
    np.testing.assert_allclose(gpu.params_, cpu.params_, rtol=0, atol=1e-5)
