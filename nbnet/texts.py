"""How texts are cut: the settings, the bytes that kernels read, and the shares of several workers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import (
    ENGLISH_STOP_WORDS,
    CountVectorizer,
    strip_accents_ascii,
    strip_accents_unicode,
)

from .cpu.token_rows import Rules
from .cpu.tokens import byte_starts
from .cpu.workers import ABORTED, Workers

BLOCK = 1 << 20  # characters that are encoded and worked on at a time
JOIN = b"\xff"  # never occurs in UTF-8
LOWERED_IN_CONTEXT = "\u0130\u03a3"  # str.lower makes two characters of one, and one of two of the other
ACCENTS = {"ascii": strip_accents_ascii, "unicode": strip_accents_unicode}


@dataclass(frozen=True)
class Analysis:
    """How texts are cut and which parts get rows; parameters mean what they mean in `TextEmbeddingClassifier`."""

    analyzer: str | Callable = "word"
    lowercase: bool = True
    strip_accents: str | Callable | None = None
    stop_words: str | Iterable[str] | None = None
    token_pattern: str | None = None
    ngram_range: tuple[int, int] = (1, 2)
    subword_range: tuple[int, int] | None = None
    boundary_tokens: bool = True
    min_df: int | float = 1
    max_features: int | None = None
    n_buckets: int = 2**20
    merge_repeats: bool = True

    def build_analyzer(self) -> Callable | None:
        """scikit-learn's function from a text to its features; None if the kernels cut the tokens."""
        if self.analyzer == "word" and self.token_pattern is None:
            return None
        words = self.analyzer == "word"
        return CountVectorizer(
            analyzer=self.analyzer,
            lowercase=self.lowercase,
            strip_accents=self.strip_accents,
            stop_words=self.stop_words if words else None,
            token_pattern=self.token_pattern,
            ngram_range=(1, 1) if words else self.ngram_range,  # n-grams of words are hashed here
        ).build_analyzer()

    def dropped_words(self) -> Iterable[str]:
        """Words that the kernels drop."""
        if self.stop_words is None or self.build_analyzer() is not None:
            return ()
        return sorted(ENGLISH_STOP_WORDS if self.stop_words == "english" else set(self.stop_words))

    def rules(self) -> Rules:
        if self.analyzer != "word":  # scikit-learn's analyzer makes the n-grams
            return Rules(1, 1, 0, 0, 0, int(self.merge_repeats))
        shortest, longest = self.subword_range or (0, 0)
        return Rules(*self.ngram_range, shortest, longest, int(self.boundary_tokens), int(self.merge_repeats))


def encode(texts: list[str], analysis: Analysis) -> tuple[np.ndarray, np.ndarray]:
    """Bytes (uint8) of the texts one behind the other, and where (int64) each begins and the last ends.

    What kernels cannot do is done here: accents, and letters whose lower case depends on others or is two letters.
    """
    lowercase, strip_accents = analysis.lowercase, analysis.strip_accents
    if strip_accents is not None:
        strip = ACCENTS.get(strip_accents, strip_accents)
        texts = [strip(text.lower() if lowercase else text) for text in texts]
    joined = "".join(texts)  # encoded at once: a fifth of a fit went into encoding one by one
    ascii_only = joined.isascii()
    if lowercase and not ascii_only and any(letter in joined for letter in LOWERED_IN_CONTEXT):
        texts = [text if text.isascii() else text.lower() for text in texts]
        joined = "".join(texts)
    starts = _starts(map(len, texts), len(texts))
    text = np.frombuffer(joined.encode("utf-8", "surrogatepass"), np.uint8)
    if not ascii_only:
        byte_starts(text, starts)
    return text, starts


def _starts(lengths: Iterable[int], n: int) -> np.ndarray:
    starts = np.zeros(n + 1, np.int64)
    np.cumsum(np.fromiter(lengths, np.int64, n), out=starts[1:])
    return starts


def encode_features(documents: Iterable[Iterable[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of tokens that are cut already, and where each document begins."""
    try:
        pieces = [b"".join([word.encode("utf-8", "surrogatepass") + JOIN for word in words]) for words in documents]
    except AttributeError:
        kind = next(type(word).__name__ for words in documents for word in words if not isinstance(word, str))
        raise TypeError(f"The analyzer must return str, but one of its features is {kind}.") from None
    starts = _starts(map(len, pieces), len(pieces))
    return np.frombuffer(b"".join(pieces), np.uint8), starts


Shares = list[list[tuple[int, int]]]  # for each worker its blocks of documents: first, stop


def shares_of(texts: list[str], n_workers: int) -> Shares:
    """As many characters for each worker, `BLOCK` of them in a block; a document is never cut."""
    starts = _starts(map(len, texts), len(texts))
    total = int(starts[-1])
    if n_workers == 1 and total <= BLOCK:
        return [[(0, len(texts))]]
    cuts = np.searchsorted(starts, [worker * total / n_workers for worker in range(1, n_workers)]).tolist()
    shares = []
    for first, last in itertools.pairwise([0, *cuts, len(texts)]):
        blocks = []
        while first < last:
            full = int(np.searchsorted(starts, starts[first] + BLOCK, side="right")) - 1
            stop = min(last, max(first + 1, full))
            blocks.append((first, stop))
            first = stop
        shares.append(blocks)
    return shares


def run_blocks(shares: Shares, work: Callable[[int, int, int], None]) -> None:
    """Calls ``work(worker, first, stop)`` for each block, each worker its own in their order."""
    if len(shares) == 1:  # without `Workers`, whose 5 us are a quarter of the time for one short text
        for block in shares[0]:
            work(0, *block)
        return

    def work_on_share(team):
        for block in shares[team.worker]:
            if not team.state[ABORTED]:
                work(team.worker, *block)

    with Workers(len(shares)) as workers:
        workers.run(work_on_share)
