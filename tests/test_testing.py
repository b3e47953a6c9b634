"""`check_text_estimator` and `check_image_estimator` pass what is right and find what is wrong."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from nbnet import ConvClassifier, TextEmbeddingClassifier
from nbnet.testing import check_image_estimator, check_text_estimator, images, texts
from nbnet.testing.checks import fresh

OURS = TextEmbeddingClassifier(8, max_iter=8)
CONFIGURATIONS = [
    OURS,
    TextEmbeddingClassifier(8, loss="one_vs_all", subword_range=(3, 4), token_weights=None, max_iter=8),
    TextEmbeddingClassifier(8, (6,), pooling="attention", solver="adam", learning_rate_init=0.01, max_iter=15),
    TextEmbeddingClassifier(8, pooling="max", analyzer="char_wb", ngram_range=(2, 3), max_iter=8),
]


@pytest.mark.slow_without_jit
@pytest.mark.parametrize("check", texts.TEXT_CHECKS)
@pytest.mark.parametrize("number", range(len(CONFIGURATIONS)))
def test_ours(number, check):
    check(fresh(CONFIGURATIONS[number]), texts.SAMPLES)


IMAGES = [
    ConvClassifier((4,), (8,), max_iter=20, learning_rate_init=0.01),
    ConvClassifier(
        (4, ("residual", 6, 2), "global_avg_pool"), (), batch_norm=True, max_iter=20, learning_rate_init=0.02
    ),
]


@pytest.mark.slow_without_jit
@pytest.mark.parametrize("check", images.IMAGE_CHECKS)
@pytest.mark.parametrize("number", range(len(IMAGES)))
def test_ours_for_images(number, check):
    check(fresh(IMAGES[number]), images.SAMPLES)


class ReadsTransposed(ConvClassifier):
    """Mistakes an array in columns for one in rows."""

    __init__ = ConvClassifier.__init__

    def fit(self, X, y, **options):
        return super().fit(X.transpose(0, 2, 1) if np.isfortran(X) else X, y, **options)


class TakesEverything(ConvClassifier):
    """Reads what is not there as zero."""

    __init__ = ConvClassifier.__init__

    def fit(self, X, y, **options):
        return super().fit(np.nan_to_num(np.asarray(X, float)), y, **options)


@pytest.mark.slow_without_jit
@pytest.mark.parametrize(
    ("broken", "check"), [(ReadsTransposed, "check_containers: "), (TakesEverything, "check_invalid_input: ")]
)
def test_what_is_wrong_with_images_is_found(broken, check):
    with pytest.raises(AssertionError, match=f"^{check}"):
        check_image_estimator(broken((4,), (8,), max_iter=20, learning_rate_init=0.01))


@pytest.mark.slow_without_jit
def test_a_pipeline_of_scikit_learn_passes():
    check_text_estimator(make_pipeline(TfidfVectorizer(), LogisticRegression(C=10)))


class Broken(TextEmbeddingClassifier):
    """Takes the parameters of its base."""

    __init__ = TextEmbeddingClassifier.__init__


class ChangesParameters(Broken):
    def fit(self, X, y, **options):
        self.max_iter = 3
        return super().fit(X, y, **options)


class ReturnsNone(Broken):
    def fit(self, X, y, **options):
        super().fit(X, y, **options)


class DependsOnTheBatch(Broken):
    def predict_proba(self, X):
        probabilities = super().predict_proba(X)
        return 0.95 * probabilities + 0.05 * probabilities[:1]


class UsesGlobalState(Broken):
    def predict_proba(self, X):
        np.random.rand()  # noqa: NPY002
        return super().predict_proba(X)


class IgnoresWeights(Broken):
    def fit(self, X, y, sample_weight=None):
        return super().fit(X, y)


class CountsPredictions(Broken):
    def predict(self, X):
        self.n_predictions_ = getattr(self, "n_predictions_", 0) + 1
        return super().predict(X)


class TakesNumbers(Broken):
    def fit(self, X, y, **options):
        X = [X] if isinstance(X, str) else X
        return super().fit([str(text) for text in X], y, **options)


class ForgetsInPickles(Broken):
    def __getstate__(self):
        return {**super().__getstate__(), "class_prior_": None, "params_": self.params_ * 0}


class FloatClasses(Broken):
    def predict(self, X):
        predicted = super().predict(X)
        return predicted.astype(float) if predicted.dtype.kind in "iub" else predicted


@pytest.mark.slow_without_jit
@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (ChangesParameters, "check_fit: "),
        (ReturnsNone, "check_fit: "),
        (DependsOnTheBatch, "check_order_and_subsets: "),
        (UsesGlobalState, "check_global_state: "),
        (IgnoresWeights, "check_sample_weights: "),
        (CountsPredictions, "check_nothing_learned_at_predict: "),
        (TakesNumbers, "check_invalid_input: "),
        (ForgetsInPickles, "check_pickles: "),
        (FloatClasses, "check_classes: "),
    ],
)
def test_what_is_wrong_is_found(broken, check):
    with pytest.raises(AssertionError, match=f"^{check}"):
        check_text_estimator(broken(8, max_iter=8))
