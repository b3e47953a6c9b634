"""Training of the comparison's networks; the time of one whole fit."""

import warnings

from . import cases, peers


class Fit:
    """Seconds of `fit`, kernels compiled before."""

    params = [[case.name for case in (cases.SMALL, cases.MIDDLE, cases.LARGE)], ["relu", "tanh", "logistic"]]
    param_names = ["network", "activation"]
    dtype = "float32"
    timeout = 300

    def setup(self, name, activation):
        from nbnet import MLPClassifier

        warnings.simplefilter("ignore")
        case = next(case for case in cases.MLP_CASES if case.name == name)
        case = case._replace(activation=activation, dtype=self.dtype, epochs=3)
        self.data = cases.load(case)
        self.estimator = MLPClassifier(**peers.estimator_parameters(case), n_jobs=1)
        n = 2 * case.batch_size
        self.estimator.fit(self.data.X[:n], self.data.y[:n])

    def time_fit(self, name, activation):
        self.estimator.fit(self.data.X, self.data.y)

    def peakmem_fit(self, name, activation):
        self.estimator.fit(self.data.X, self.data.y)


class FitFloat64(Fit):
    """The same in float64."""

    params = [["mlp_middle"], ["relu"]]
    dtype = "float64"


class GridSearch:
    """GridSearchCV over small networks: many short fits."""

    timeout = 600

    def setup(self):
        from sklearn.datasets import load_digits
        from sklearn.model_selection import GridSearchCV

        from nbnet import MLPClassifier

        warnings.simplefilter("ignore")
        X, y = load_digits(return_X_y=True)
        self.X, self.y = (X / 16).astype("float32"), y
        self.search = GridSearchCV(MLPClassifier(max_iter=5, n_iter_no_change=6, random_state=0), cases.GRID, cv=5)
        MLPClassifier(max_iter=1, n_iter_no_change=2).fit(self.X, self.y)

    def time_search(self):
        self.search.fit(self.X, self.y)
