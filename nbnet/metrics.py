"""Scores that scikit-learn does not have: entities found in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from sklearn.utils.validation import _check_sample_weight

__all__ = ["entity_f1", "entity_spans"]


def entity_spans(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """Entities of one sentence: its longest runs of one type.

    The convention of CoNLL: an entity begins at "B-x", and at "I-x" unless an entity of type x goes on there. Any tag
    without "B-" or "I-" in front is outside of all entities.

    Parameters
    ----------
    tags : sequence of str
        Tags of the tokens.

    Returns
    -------
    spans : list of (start, stop, type)
        Entity of tokens start, ..., stop - 1, in their order.

    Examples
    --------
    >>> from nbnet.metrics import entity_spans
    >>> entity_spans(["B-person", "I-person", "O", "B-place", "B-place"])
    [(0, 2, 'person'), (3, 4, 'place'), (4, 5, 'place')]
    """
    spans = []
    start = 0
    for stop, (before, tag) in enumerate(pairwise(["O", *tags, "O"])):
        goes_on = tag.startswith("I-") and before[2:] == tag[2:] and _is_inside(before)
        if _is_inside(before) and not goes_on:
            spans.append((start, stop, before[2:]))
        if not goes_on:
            start = stop
    return spans


def _is_inside(tag: str) -> bool:
    return tag.startswith(("B-", "I-"))


def entity_f1(y_true: Sequence[Sequence[str]], y_pred: Sequence[Sequence[str]], sample_weight=None) -> float:
    """``2 n_correct / (n_true + n_pred)``: F1 of whole entities over all sentences.

    A predicted entity is correct if one of the same first and last token and the same type is there. Without any
    entity, true or predicted, the score is 1.

    Parameters
    ----------
    y_true, y_pred : sequence of sequences of str
        Tags of the tokens of each sentence.
    sample_weight : array-like of shape (n_sentences,), default=None
        How much the entities of each sentence count.

    Returns
    -------
    score : float
        From 0 to 1.

    Raises
    ------
    ValueError
        If a sentence has not as many predicted as true tags, and for weights that do not fit the sentences.

    Examples
    --------
    >>> from nbnet.metrics import entity_f1
    >>> entity_f1([["B-person", "I-person", "O", "B-place"]], [["B-person", "O", "O", "B-place"]])
    0.5
    """
    if len(y_true) != len(y_pred):
        raise ValueError(f"y_true has {len(y_true)} sentences, but y_pred has {len(y_pred)}.")
    weights = [1] * len(y_true)
    if sample_weight is not None:
        weights = _check_sample_weight(sample_weight, y_true, dtype=np.float64).tolist()
    n_correct = n_spans = 0
    for position, (true, predicted, weight) in enumerate(zip(y_true, y_pred, weights, strict=True)):
        if len(true) != len(predicted):
            raise ValueError(f"Sentence {position} has {len(true)} tags in y_true, but {len(predicted)} in y_pred.")
        spans, found = set(entity_spans(true)), set(entity_spans(predicted))
        n_correct += weight * len(spans & found)
        n_spans += weight * (len(spans) + len(found))
    return 2.0 * n_correct / n_spans if n_spans else 1.0
