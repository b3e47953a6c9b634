"""Texts that ship with the package: one gzip TSV of labels and texts and one description a set, one reader for all."""

from __future__ import annotations

import gzip

import numpy as np
from sklearn.utils import Bunch

from .tables import _resource


def load_sms_spam(*, return_X_y: bool = False):
    """Load the SMS spam collection (English, classification): is a short message an advertisement nobody asked for?

    5,160 messages, 12 % spam.

    Parameters
    ----------
    return_X_y : bool, default=False
        Return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch` or tuple of (data, target)
        With the attributes `data` (array of str, dtype object), `target` (int64; index into `target_names`),
        `target_names`, `DESCR` and `filename`.

    Examples
    --------
    >>> from nbnet.datasets import load_sms_spam
    >>> X, y = load_sms_spam(return_X_y=True)
    >>> X.shape, y.sum().item()
    ((5160,), 642)
    """
    return _load("sms_spam", return_X_y=return_X_y)


def load_poetry_genre_zh(*, return_X_y: bool = False):
    """Load kinds of Chinese verse (classical Chinese, classification): of which dynasty and form is a poem?

    1,600 poems, four kinds of 400 each.

    Parameters
    ----------
    return_X_y : bool, default=False
        Return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch` or tuple of (data, target)
        With the attributes `data` (array of str, dtype object), `target` (int64; index into `target_names`),
        `target_names`, `DESCR` and `filename`.

    Examples
    --------
    >>> from nbnet.datasets import load_poetry_genre_zh
    >>> X, y = load_poetry_genre_zh(return_X_y=True)
    >>> X.shape, np.bincount(y).tolist()
    ((1600,), [400, 400, 400, 400])
    """
    return _load("poetry_genre_zh", return_X_y=return_X_y)


def _load(name: str, *, return_X_y: bool):
    packed = _resource("data", f"{name}.tsv.gz").read_bytes()
    _, *lines = gzip.decompress(packed).decode("utf-8").rstrip("\n").split("\n")
    labels, texts = zip(*(line.split("\t") for line in lines), strict=True)
    data = np.array(texts, dtype=object)
    target_names, target = np.unique(labels, return_inverse=True)
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        target_names=target_names.tolist(),
        DESCR=_resource("descr", f"{name}.rst").read_text(encoding="utf-8"),
        filename=f"{name}.tsv.gz",
        data_module="nbnet.datasets.data",
    )
