"""Texts: tokens, training, predicting; no data set needed."""

import warnings

import numpy as np


def make_texts(n_texts: int, n_words: int = 20, n_classes: int = 10) -> tuple[list[str], np.ndarray]:
    """Texts of words whose frequency falls with their rank; a class prefers words of its own."""
    rng = np.random.default_rng(0)
    y = rng.integers(n_classes, size=n_texts)
    ranks = np.minimum(rng.zipf(1.3, (n_texts, n_words)), 50_000)
    ranks = np.where(rng.random(ranks.shape) < 0.2, ranks * n_classes + y[:, None], ranks)
    words = np.array([f"word{rank}" for rank in range(ranks.max() + 1)], object)
    return [" ".join(words[row]) for row in ranks], y


class Fit:
    """Seconds of `fit` from a list of str, kernels compiled before."""

    params = [["adagrad", "sgd"], [1, 2], [1, 2]]
    param_names = ["solver", "n-grams", "n_jobs"]
    timeout = 300

    def setup(self, solver, n, n_jobs):
        from nbnet import TextEmbeddingClassifier

        warnings.simplefilter("ignore")
        self.X, self.y = make_texts(20_000)
        own = {} if solver == "adagrad" else dict(solver="sgd", learning_rate_init=0.5, batch_size=16, pooling="mean")
        own |= dict(max_iter=5, target_loss=None)
        self.estimator = TextEmbeddingClassifier(ngram_range=(1, n), random_state=0, n_jobs=n_jobs, **own)
        self.estimator.fit(self.X[:100], self.y[:100])

    def time_fit(self, solver, n, n_jobs):
        self.estimator.fit(self.X, self.y)

    def peakmem_fit(self, solver, n, n_jobs):
        self.estimator.fit(self.X, self.y)


class Predict:
    """Seconds of `predict` from str: many texts, and one."""

    params = [[1, 10_000]]
    param_names = ["texts"]

    def setup(self, n_texts):
        from nbnet import TextEmbeddingClassifier

        warnings.simplefilter("ignore")
        X, y = make_texts(10_000)
        self.estimator = TextEmbeddingClassifier(max_iter=1, random_state=0, n_jobs=1).fit(X, y)
        self.X = X[:n_texts]
        self.estimator.predict(self.X)

    def time_predict(self, n_texts):
        self.estimator.predict(self.X)


class Tokens:
    """Seconds to learn the words of texts and to look them up, single words only."""

    params = [["fit_transform", "transform"], [1, 2]]
    param_names = ["method", "n_workers"]

    def setup(self, method, n_workers):
        from nbnet.tokens import Analysis, TokenIndex

        self.texts, _ = make_texts(50_000)
        index = TokenIndex(Analysis(ngram_range=(1, 1)))
        index.fit_transform(self.texts)
        self.work = getattr(index, method)

    def time_tokens(self, method, n_workers):
        self.work(self.texts, n_workers)
