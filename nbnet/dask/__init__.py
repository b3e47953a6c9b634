"""The estimators over Dask collections: training on several machines, with a result that none of them decides."""

try:
    import dask  # noqa: F401
except ImportError as error:
    raise ImportError('nbnet.dask needs the package dask: pip install "nbnet[dask]".') from error

from .estimators import ConvClassifier, MLPClassifier, MLPRegressor
from .texts import TextEmbeddingClassifier

__all__ = ["ConvClassifier", "MLPClassifier", "MLPRegressor", "TextEmbeddingClassifier"]
