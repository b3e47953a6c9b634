"""scikit-learn's own tools for a closer look: permutation importance, partial dependence, calibration."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from nbnet import ConvClassifier, MLPClassifier, MLPRegressor, TextEmbeddingClassifier
from tests.helpers import fit

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 4))
Y = (X[:, 1] > 0).astype(int)
SETTINGS = dict(max_iter=2, learning_rate_init=0.1, random_state=0, n_jobs=1)
WORDS = np.array(["w0", "w1", "w2", "w3"], object)
TEXTS = [" ".join([*RNG.choice(WORDS, 3), ("no", "yes")[label]]) for label in Y]

TABLES = {
    "MLPClassifier": lambda: MLPClassifier((4,), **SETTINGS),
    "MLPRegressor": lambda: MLPRegressor(hidden_layer_sizes=(4,), **SETTINGS),
    "ConvClassifier": lambda: ConvClassifier((2,), (), image_shape=(2, 2), **SETTINGS),
}
# each in the containers that scikit-learn splits
CLASSIFIERS = {
    "MLPClassifier": (TABLES["MLPClassifier"], X),
    "ConvClassifier": (lambda: ConvClassifier((2,), (), **SETTINGS), X.reshape(-1, 2, 2)),
    "flat ConvClassifier": (TABLES["ConvClassifier"], X),
    "TextEmbeddingClassifier": (lambda: TextEmbeddingClassifier(4, **SETTINGS), TEXTS),
    "texts in an array": (lambda: TextEmbeddingClassifier(4, **SETTINGS), np.array(TEXTS, object)),
}


@pytest.mark.parametrize("name", TABLES)
def test_permutation_importance(name):
    model = fit(TABLES[name](), X, Y)
    found = permutation_importance(model, X, Y, n_repeats=2, random_state=0)
    assert found.importances.shape == (4, 2)
    assert np.isfinite(found.importances).all()


@pytest.mark.parametrize("name", TABLES)
def test_partial_dependence(name):
    model = fit(TABLES[name](), X, Y)
    found = partial_dependence(model, X, [1], grid_resolution=5)
    values = X.copy()
    values[:, 1] = found["grid_values"][0][2]
    predicted = model.predict(values) if name == "MLPRegressor" else model.predict_proba(values)[:, 1]
    np.testing.assert_allclose(found["average"][0, 2], predicted.mean())


class Column(TransformerMixin, BaseEstimator):
    """One column of a data frame."""

    def __init__(self, name):
        self.name = name

    def fit(self, X, y=None):
        return self

    def __sklearn_is_fitted__(self):
        return True

    def transform(self, X):
        return X[self.name].to_numpy(object)


@pytest.mark.slow_without_jit
def test_permutation_importance_of_a_column_of_texts():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"text": TEXTS, "other": X[:, 0]})
    classifier = TextEmbeddingClassifier(16, learning_rate_init=0.2, random_state=0)
    model = fit(make_pipeline(Column("text"), classifier), frame, Y)
    found = permutation_importance(model, frame, Y, random_state=0).importances_mean
    assert found[0] > 0.3
    assert found[1] == 0.0


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_calibrated_classifiers(name, method):
    make, rows = CLASSIFIERS[name]
    calibrated = CalibratedClassifierCV(make(), method=method, cv=2).fit(rows, Y)
    probabilities = calibrated.predict_proba(rows)
    assert probabilities.shape == (30, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    shares, means = calibration_curve(Y, calibrated.predict_proba(rows)[:, 1], n_bins=3)
    assert shares.shape == means.shape
    assert calibrated.predict(rows).shape == (30,)


@pytest.mark.slow_without_jit
def test_calibration_repairs_an_overfitted_network():
    rng = np.random.default_rng(1)
    table = rng.normal(size=(1200, 10))
    labels = rng.random(1200) < 1 / (1 + np.exp(-1.5 * table[:, 0]))
    train, test = slice(0, 600), slice(600, None)
    settings = dict(learning_rate_init=0.01, max_iter=300, learning_rate="linear", random_state=0)
    plain = MLPClassifier((64,), **settings).fit(table[train], labels[train])
    calibrated = CalibratedClassifierCV(MLPClassifier((64,), **settings), cv=5).fit(table[train], labels[train])
    losses = [log_loss(labels[test], model.predict_proba(table[test])) for model in (plain, calibrated)]
    assert losses[1] < 0.8 * losses[0]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_calibration_within_a_search():
    search = GridSearchCV(
        CalibratedClassifierCV(TextEmbeddingClassifier(4, **SETTINGS), cv=2),
        {"estimator__embedding_dim": [2, 4]},
        cv=2,
    )
    assert search.fit(TEXTS, Y).predict_proba(TEXTS[:3]).shape == (3, 2)
