"""Attributions of a hundred rows, texts and images, and their predictions for comparison."""

import warnings

import numpy as np

from .bench_text import make_texts

METHODS = ["integrated_gradients", "gradient_x_input", "occlusion"]


def fitted(kind: str):
    """A small model after one epoch, and 2000 rows of its input."""
    from nbnet import ConvClassifier, MLPClassifier, TextEmbeddingClassifier

    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    labels = np.arange(2000) % 10
    if kind == "table":
        rows, model = rng.normal(size=(2000, 100)).astype("f4"), MLPClassifier((64, 32), max_iter=1)
    elif kind == "images":
        rows = rng.normal(size=(2000, 28, 28)).astype("f4")
        model = ConvClassifier((32, "max_pool", 64, "max_pool"), max_iter=1)
    else:
        rows, labels = make_texts(2000)
        model = TextEmbeddingClassifier(max_iter=1)
    return model.fit(rows, labels), rows


class Explain:
    """Seconds for a hundred of each, network fitted before."""

    params = [["table", "texts", "images"], ["predict_proba", *METHODS, "grad_cam"]]
    param_names = ["input", "method"]
    timeout = 300

    def setup(self, kind, method):
        if method == "grad_cam" and kind != "images":
            raise NotImplementedError("Grad-CAM is for images")
        self.model, rows = fitted(kind)
        self.rows = rows[:100]

    def time_explain(self, kind, method):
        from nbnet.inspection import attributions

        if method == "predict_proba":
            self.model.predict_proba(self.rows)
        else:
            attributions(self.model, self.rows, 0, method)
