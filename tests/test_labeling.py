"""Self-training, likely label errors, what to label next."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn import semi_supervised
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import assert_all_finite
from sklearn.utils.estimator_checks import check_estimator

from nbnet import ConvClassifier, MLPClassifier, TextEmbeddingClassifier
from nbnet.labeling import SelfTrainingClassifier, rank_label_errors, select_to_label
from nbnet.testing import check_image_estimator, check_text_estimator

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
Y = (X[:, 0] > 0).astype(int)
SOME = np.where(np.arange(40) % 4 == 0, Y, -1)
SETTINGS = dict(max_iter=3, learning_rate_init=0.1, random_state=0, n_jobs=1)
TEXTS = [" ".join(["film", *RNG.choice(["a", "b", "c"], 2), ("dull", "lovely")[label]]) for label in Y]


def mlp():
    return MLPClassifier((4,), **SETTINGS)


class Says(ClassifierMixin, BaseEstimator):
    """Its input are the probabilities."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        return X


# ---------------------------------------------------------------- self-training


@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(threshold=0.6),
        dict(threshold=0.999),
        dict(criterion="k_best", k_best=7),
        dict(criterion="k_best", k_best=7, max_iter=None),
        dict(max_iter=0),
    ],
    ids=str,
)
def test_the_same_as_in_scikit_learn(settings):
    ours = SelfTrainingClassifier(mlp(), **settings).fit(X, SOME)
    theirs = semi_supervised.SelfTrainingClassifier(mlp(), **settings).fit(X, SOME)
    for name in ("transduction_", "labeled_iter_", "n_iter_", "termination_condition_", "classes_", "n_features_in_"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    np.testing.assert_array_equal(ours.predict_proba(X), theirs.predict_proba(X))
    np.testing.assert_array_equal(ours.predict_log_proba(X), np.log(ours.predict_proba(X)))
    np.testing.assert_array_equal(ours.predict(sp.csr_array(X)), theirs.predict(X))


@pytest.mark.filterwarnings("ignore:y contains no unlabeled samples", "ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learn_checks():
    reason = "without unlabeled samples there is no iteration, as in scikit-learn"
    failing = {"check_non_transformer_estimators_n_iter": reason}
    check_estimator(SelfTrainingClassifier(LogisticRegression()), expected_failed_checks=failing)


class Quiet(SelfTrainingClassifier):
    """The checks have labels for all samples, want an iteration, and have another meaning for NaN."""

    def fit(self, X, y):
        if getattr(y, "dtype", np.dtype(object)).kind == "f":
            assert_all_finite(y)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "y contains no unlabeled samples")
            super().fit(X, y)
        self.n_iter_ = max(self.n_iter_, 1)
        return self


@pytest.mark.slow_without_jit
def test_checks_of_texts_and_images():
    check_text_estimator(Quiet(TextEmbeddingClassifier(16, random_state=0)))
    convolutional = ConvClassifier((4, "max_pool"), (8,), learning_rate_init=0.02, max_iter=20, random_state=0)
    check_image_estimator(Quiet(convolutional))


def test_the_threshold_has_to_be_exceeded():
    p = np.array([[0.75, 0.25], [0.25, 0.75], [0.25, 0.75], [0.76, 0.24]])
    model = SelfTrainingClassifier(Says()).fit(p, [0, 1, -1, -1])
    assert model.transduction_.tolist() == [0, 1, -1, 0]


def test_texts_with_labels_that_are_words():
    words = np.array(["bad", "good"], object)[Y]
    labels = [word if i % 4 == 0 else None for i, word in enumerate(words)]
    model = SelfTrainingClassifier(TextEmbeddingClassifier(4, **SETTINGS), max_iter=1, criterion="k_best", k_best=5)
    model.fit(TEXTS, labels)
    assert model.classes_.tolist() == ["bad", "good"]
    assert [model.transduction_[i] for i in range(0, 40, 4)] == words[::4].tolist()
    assert sum(label is None for label in model.transduction_) == 25
    assert (model.labeled_iter_ == 1).sum() == 5
    assert set(model.predict(TEXTS)) <= {"bad", "good"}


@pytest.mark.parametrize("kind", ["list", "float", "object", "mixed", "series", "nullable"])
def test_every_way_to_have_no_label_is_the_same(kind):
    if kind in ("series", "nullable"):
        pd = pytest.importorskip("pandas")
    missing = [None if label < 0 else int(label) for label in SOME]
    y = {
        "list": lambda: missing,
        "float": lambda: np.where(SOME < 0, np.nan, SOME),
        "object": lambda: np.array(missing, object),
        "mixed": lambda: [
            label if label is not None else (-1, None, float("nan"))[i % 3] for i, label in enumerate(missing)
        ],
        "series": lambda: pd.Series(missing, dtype=object),
        "nullable": lambda: pd.Series(missing, dtype="Int64"),
    }[kind]()
    model = SelfTrainingClassifier(mlp(), threshold=0.6).fit(X, y)
    right = SelfTrainingClassifier(mlp(), threshold=0.6).fit(X, SOME)
    np.testing.assert_array_equal(model.labeled_iter_, right.labeled_iter_)
    np.testing.assert_array_equal(model.predict_proba(X), right.predict_proba(X))
    assert model.classes_.dtype.kind == ("f" if kind in ("float", "nullable") else "i")


def test_images_in_a_list_and_sparse_rows():
    images = list(X[:, :, None] * np.ones(3))
    model = SelfTrainingClassifier(ConvClassifier((2,), (), **SETTINGS), threshold=0.5, max_iter=1).fit(images, SOME)
    assert model.termination_condition_ == "all_labeled"
    rows = sp.coo_array(X)
    np.testing.assert_array_equal(
        SelfTrainingClassifier(mlp()).fit(rows, SOME).transduction_,
        SelfTrainingClassifier(mlp()).fit(X, SOME).transduction_,
    )


def test_the_callers_labels_stay_as_they_are(capsys):
    y = SOME.copy()
    SelfTrainingClassifier(mlp(), threshold=0.5, max_iter=1, verbose=True).fit(X, y)
    np.testing.assert_array_equal(y, SOME)
    assert capsys.readouterr().out == "End of iteration 1, added 30 new labels.\n"


def test_errors_and_warnings_of_self_training():
    with pytest.raises(ValueError, match="y has no labels: all its entries are -1, None or NaN"):
        SelfTrainingClassifier(mlp()).fit(X, np.full(40, -1))
    with pytest.warns(UserWarning, match="y contains no unlabeled samples"):
        SelfTrainingClassifier(mlp()).fit(X, Y)
    with pytest.warns(UserWarning, match="k_best=31 is larger than the number of unlabeled samples, 30"):
        SelfTrainingClassifier(mlp(), criterion="k_best", k_best=31).fit(X, SOME)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        SelfTrainingClassifier(mlp()).fit(X, SOME[:-1])


@pytest.mark.slow_without_jit
def test_unlabeled_texts_teach_the_words_that_stand_beside_known_ones():
    rng = np.random.default_rng(1)
    families = np.array([[f"{side}{k}" for k in range(8)] for side in "gb"], object)
    labels = rng.integers(0, 2, 400)
    texts = [" ".join(rng.choice(families[label], 3)) for label in labels]
    y = np.where(np.arange(400) < 12, labels, -1)
    classifier = TextEmbeddingClassifier(16, ngram_range=(1, 1), learning_rate_init=0.2, random_state=0)
    few = classifier.fit(texts[:12], labels[:12]).score(texts, labels)
    model = SelfTrainingClassifier(classifier, threshold=0.6).fit(texts, y)
    assert few < 0.99
    assert model.score(texts, labels) > 0.99


# ---------------------------------------------------------------- wrong labels


def flipped(n_flipped=12):
    table, labels = load_iris(return_X_y=True)
    rng = np.random.default_rng(2)
    wrong = rng.choice(150, n_flipped, replace=False)
    given = labels.copy()
    given[wrong] = (given[wrong] + rng.integers(1, 3, n_flipped)) % 3
    return table, labels, given, wrong


def iris_model():
    return make_pipeline(StandardScaler(), LogisticRegression())


@pytest.mark.parametrize("method", ["self_confidence", "margin"])
def test_scores_and_errors_are_what_their_definitions_say(method):
    table, _, given, _ = flipped()
    found = rank_label_errors(iris_model(), table, given, cv=4, method=method)
    p = cross_val_predict(iris_model(), table, given, cv=StratifiedKFold(4), method="predict_proba")
    np.testing.assert_array_equal(found.probabilities, p)
    t = [np.mean([p[i, j] for i in range(150) if given[i] == j]) for j in range(3)]
    for i in range(150):
        label, sure = given[i], [j for j in range(3) if p[i, j] >= t[j]]
        best = max(sure, key=lambda j: p[i, j]) if sure else label
        assert found.is_error[i] == (best != label and p[i].argmax() != label)
        assert found.suggested[i] == (best if found.is_error[i] else label)
        fair = [p[i, j] - t[j] + max(t) for j in range(3)]
        margin = (fair[label] - max(fair[j] for j in range(3) if j != label)) / sum(fair)
        score = p[i, label] if method == "self_confidence" else (1 + margin) / 2
        np.testing.assert_allclose(found.scores[i], score)
    np.testing.assert_array_equal(found.scores[found.order], np.sort(found.scores))


def test_a_label_that_is_most_probable_is_never_wrong():
    p = np.array([[0.9, 0.1]] * 4 + [[0.55, 0.45], [0.2, 0.8]] + [[0.6, 0.4]] * 4)
    found = rank_label_errors(Says(), p, [0] * 6 + [1] * 4, cv=2)
    # of class 1 the mean is 0.4, which 0.45 and 0.8 exceed; of class 0 it is 0.725
    assert np.flatnonzero(found.is_error).tolist() == [5]
    assert found.order[0] == 5


@pytest.mark.parametrize("method", ["self_confidence", "margin"])
def test_flipped_labels_are_found(method):
    table, labels, given, wrong = flipped()
    names = np.array(["setosa", "versicolor", "virginica"])
    found = rank_label_errors(iris_model(), table, names[given], cv=5, method=method)
    assert np.isin(wrong, found.order[:20]).mean() > 0.8
    assert np.isin(np.flatnonzero(found.is_error), wrong).mean() > 0.5
    both = np.intersect1d(wrong, np.flatnonzero(found.is_error))
    assert (found.suggested[both] == names[labels[both]]).mean() > 0.9


@pytest.mark.filterwarnings("ignore")
def test_the_same_as_in_cleanlab():
    rank, filter_ = pytest.importorskip("cleanlab.rank"), pytest.importorskip("cleanlab.filter")
    table, _, given, _ = flipped(30)
    for method, theirs in (("self_confidence", "self_confidence"), ("margin", "normalized_margin")):
        found = rank_label_errors(iris_model(), table, given, method=method)
        adjust = method == "margin"
        scores = rank.get_label_quality_scores(given, found.probabilities, method=theirs, adjust_pred_probs=adjust)
        np.testing.assert_allclose(found.scores, scores, atol=1e-12)
    issues = filter_.find_label_issues(given, found.probabilities, filter_by="confident_learning")
    assert (issues == found.is_error).mean() > 0.98


@pytest.mark.slow_without_jit
@pytest.mark.parametrize("kind", ["texts", "images"])
def test_wrong_labels_of_texts_and_images(kind):
    given = Y.copy()
    given[[3, 17]] = 1 - given[[3, 17]]
    if kind == "texts":
        found = rank_label_errors(TextEmbeddingClassifier(16, random_state=0), TEXTS, given)
    else:
        images = (X[:, :1, None] > 0) * np.ones((40, 4, 4)) + 0.1 * RNG.normal(size=(40, 4, 4))
        network = ConvClassifier((4,), (), max_iter=20, learning_rate_init=0.01, batch_size=8, random_state=0)
        found = rank_label_errors(network, images, given)
    assert set(found.order[:2].tolist()) == {3, 17}
    assert set(np.flatnonzero(found.is_error).tolist()) <= {3, 17}


def test_errors_of_wrong_arguments():
    with pytest.raises(ValueError, match="y has one class only, 1: no label can be wrong"):
        rank_label_errors(mlp(), X, np.ones(40, int))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        rank_label_errors(mlp(), X, Y[:-1])
    with pytest.raises(ValueError, match="A sequence of samples expected, string object received"):
        rank_label_errors(mlp(), "abc", [0, 1, 0])
    with pytest.raises(ValueError, match="method"):
        rank_label_errors(mlp(), X, Y, method="loss")
    model = mlp().fit(X, Y)
    with pytest.raises(ValueError, match="n=41 samples cannot be chosen from 40"):
        select_to_label(model, X, 41)
    with pytest.raises(ValueError, match="strategy"):
        select_to_label(model, X, 4, "random")


# ---------------------------------------------------------------- what to label next


def three_classes():
    return mlp().fit(X, np.arange(40) % 3)


def test_the_least_certain_come_first():
    model = three_classes()
    p = model.predict_proba(X)
    first, second = np.sort(p, axis=1)[:, ::-1][:, :2].T
    np.testing.assert_array_equal(select_to_label(model, X, 9), np.argsort(first - second)[:9])
    entropy = -(p * np.log(p)).sum(axis=1)
    np.testing.assert_array_equal(select_to_label(model, X, 9, "entropy"), np.argsort(-entropy)[:9])


def test_certain_predictions_have_no_entropy():
    class Certain:
        def predict_proba(self, X):
            return np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])

    assert select_to_label(Certain(), X[:3], 3, "entropy").tolist() == [1, 0, 2]


@pytest.mark.parametrize("kind", ["table", "pipeline", "texts", "images"])
def test_diverse_is_k_means_plus_plus_among_gradients(kind):
    y = np.arange(40) % 3
    if kind == "table":
        model, rows, features = mlp().fit(X, y), X, X
    elif kind == "pipeline":
        model = make_pipeline(StandardScaler(), mlp()).fit(X, y)
        rows, features = X, StandardScaler().fit_transform(X)
    elif kind == "texts":
        model, rows = TextEmbeddingClassifier(4, **SETTINGS).fit(TEXTS, y), TEXTS
        features = model.transform(TEXTS)
    else:
        rows = X[:, :, None] * np.ones(3)
        model = ConvClassifier((2,), (3,), **SETTINGS).fit(rows, y)
        features = model.transform(rows)
    p = model.predict_proba(rows).astype(np.float64)
    gradients = [np.outer(p[i] - np.eye(3)[p[i].argmax()], features[i]).ravel() for i in range(40)]
    rng = np.random.RandomState(5)
    chosen = [int(np.argmax([g @ g for g in gradients]))]
    for _ in range(5):
        distances = np.array([min(((g - gradients[c]) ** 2).sum() for c in chosen) for g in gradients])
        chosen.append(int(rng.choice(40, p=distances / distances.sum())))
    assert select_to_label(model, rows, 6, "diverse", random_state=5).tolist() == chosen


def test_copies_are_chosen_last_and_nothing_twice():
    model = three_classes()
    rows = np.concatenate([np.repeat(X[:1], 5, axis=0), X[1:3]])
    chosen = select_to_label(model, rows, 7, "diverse", random_state=0)
    assert sorted(chosen.tolist()) == list(range(7))
    assert {5, 6} <= set(chosen[:3].tolist())
