"""Attributions of a hundred rows, texts and images."""

import warnings

import numpy as np

from .bench_text import make_texts

METHODS = ["integrated_gradients", "gradient_x_input", "occlusion"]


class Explain:
    """Seconds for a hundred of each, network fitted before."""

    params = [["table", "text", "image"], [*METHODS, "grad_cam"]]
    param_names = ["input", "method"]
    timeout = 300

    def setup(self, kind, method):
        from nbnet import ConvClassifier, MLPClassifier, TextEmbeddingClassifier

        if method == "grad_cam" and kind != "image":
            raise NotImplementedError("Grad-CAM is for images")
        warnings.simplefilter("ignore")
        rng = np.random.default_rng(0)
        labels = np.arange(2000) % 10
        if kind == "table":
            rows, model = rng.normal(size=(2000, 100)).astype("f4"), MLPClassifier((64, 32), max_iter=1)
        elif kind == "image":
            rows = rng.normal(size=(2000, 28, 28)).astype("f4")
            model = ConvClassifier((32, "max_pool", 64, "max_pool"), max_iter=1)
        else:
            rows, labels = make_texts(2000)
            model = TextEmbeddingClassifier(max_iter=1)
        self.model, self.rows = model.fit(rows, labels), rows[:100]

    def time_attributions(self, kind, method):
        from nbnet.inspection import attributions

        attributions(self.model, self.rows, 0, method)
