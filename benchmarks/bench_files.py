"""Files of models and checkpoints: writing, reading, and the size on disk."""

import os
import tempfile
import warnings

import joblib
import numpy as np

from .bench_text import make_texts


def fitted(kind: str):
    """A model of some megabytes, and a row of its input."""
    import nbnet

    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    settings = dict(max_iter=1, random_state=0, n_jobs=1)
    if kind == "texts":
        X, y = make_texts(20_000)
        return nbnet.TextEmbeddingClassifier(**settings).fit(X, y), X[:1]
    if kind == "sentences":
        X = [text.split() for text in make_texts(2000)[0]]
        y = [[f"{'BI'[i % 2]}-{i // 2 % 3}" for i in range(len(tokens))] for tokens in X]
        return nbnet.TokenTagger(**settings).fit(X, y), X[:1]
    if kind == "images":
        X, y = rng.random((200, 32, 32, 3), np.float32), np.arange(200) % 10
        return nbnet.ConvClassifier(**settings).fit(X, y), X[:1]
    X, y = rng.random((1000, 1000), np.float32), np.arange(1000) % 10
    return nbnet.MLPClassifier((512, 512), **settings).fit(X, y), X[:1]


class Files:
    """Seconds of `save` and `load`, the disk's share included, and of joblib's pickle; bytes of the files."""

    params = [["table", "images", "texts", "sentences"]]
    param_names = ["model"]
    timeout = 300

    def setup(self, kind):
        import nbnet

        self.folder = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.folder.name, "model")
        self.model, X = fitted(kind)
        self.model.save(self.path)
        self.load = nbnet.load
        self.load(self.path).predict(X)
        self.pickle = os.path.join(self.folder.name, "pickle")
        joblib.dump(self.model, self.pickle)

    def teardown(self, kind):
        self.folder.cleanup()

    def time_save(self, kind):
        self.model.save(self.path)

    def time_load(self, kind):
        self.load(self.path)

    def time_pickle_dump(self, kind):
        joblib.dump(self.model, self.pickle)

    def time_pickle_load(self, kind):
        joblib.load(self.pickle)

    def peakmem_load(self, kind):
        self.load(self.path)

    def track_size(self, kind):
        return os.path.getsize(self.path)

    def track_pickle_size(self, kind):
        return os.path.getsize(self.pickle)

    track_size.unit = track_pickle_size.unit = "bytes"


class Checkpoints:
    """Seconds of a fit of ten epochs with and without a checkpoint after each."""

    params = [[False, True]]
    param_names = ["checkpoint"]

    def setup(self, checkpoint):
        import nbnet

        warnings.simplefilter("ignore")
        rng = np.random.default_rng(0)
        self.X, self.y = rng.random((5000, 784), np.float32), np.arange(5000) % 10
        self.model = nbnet.MLPClassifier(max_iter=10, random_state=0, n_jobs=1)
        self.folder = tempfile.TemporaryDirectory()
        self.arguments = {"checkpoint": os.path.join(self.folder.name, "fit")} if checkpoint else {}
        self.time_fit(checkpoint)

    def teardown(self, checkpoint):
        self.folder.cleanup()

    def time_fit(self, checkpoint):
        self.model.fit(self.X, self.y, **self.arguments)
