"""scikit-learn's checks, done again for estimators of texts and of images, which its own `check_estimator` skips.

Each check is a function of an unfitted estimator and of samples, raises AssertionError with what is wrong, and says in
its docstring what holds when it passes. They need nothing but the estimator's methods: a pipeline that begins with a
vectorizer passes those of texts too.
"""

from .images import check_image_estimator
from .texts import check_text_estimator

__all__ = ["check_image_estimator", "check_text_estimator"]
