"""How often tokens occur in some of the texts, as several machines count them and one merges the counts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .vocabulary import Spellings


class TokenCounts(NamedTuple):
    """Words and hashed n-grams of some texts.

    Attributes
    ----------
    n_documents, n_with_tokens : int
        How many texts, and how many of them have a token.
    hashes : uint64 (n_words,)
        Distinct words in the order of their first appearance.
    usage : int64 (n_words, 2)
        In how many of the texts each occurs, and how often.
    words : Spellings
        The words.
    buckets : int32 (n,)
        Distinct buckets of n-grams and parts of words, ascending.
    bucket_frequency : int64 (n,)
        In how many of the texts each occurs.
    """

    n_documents: int
    n_with_tokens: int
    hashes: np.ndarray
    usage: np.ndarray
    words: Spellings
    buckets: np.ndarray
    bucket_frequency: np.ndarray

    @property
    def n(self) -> int:
        """How many distinct words."""
        return self.hashes.size

    def spellings(self) -> Spellings:
        """The words, under the name that `vocabulary.Words` has for them."""
        return self.words


def summed(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Distinct numbers of all parts, ascending, and the sums of what each part counted of them."""
    numbers, where = np.unique(np.concatenate([numbers for numbers, _ in parts]), return_inverse=True)
    counts = np.zeros(numbers.size, np.int64)
    np.add.at(counts, where, np.concatenate([of_part for _, of_part in parts]))
    return numbers, counts
