"""Prediction: one row, a few, many."""

import warnings

from . import cases, peers


class Predict:
    """Seconds of `predict_proba` on the 784-100-10 network."""

    params = [[1, 100, 20_000], ["float32", "float64"]]
    param_names = ["n_rows", "dtype"]

    def setup(self, n_rows, dtype):
        from nbnet import MLPClassifier

        warnings.simplefilter("ignore")
        case = cases.MIDDLE._replace(dtype=dtype, epochs=1)
        data = cases.load(case)
        self.estimator = MLPClassifier(**peers.estimator_parameters(case), n_jobs=1).fit(data.X, data.y)
        self.X = data.X[:n_rows]
        self.estimator.predict_proba(self.X)

    def time_predict_proba(self, n_rows, dtype):
        self.estimator.predict_proba(self.X)
