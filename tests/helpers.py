"""What several test files need."""

import warnings

from sklearn.exceptions import ConvergenceWarning


def fit(estimator, *args, **kwargs):
    """Fit; reaching max_iter is no news here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(*args, **kwargs)
