"""The distinct words of texts: as each worker meets them, and merged."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from .characters import joined_characters
from .cpu.tokens import (
    DOCUMENT,
    N_TOKENS,
    N_WORDS,
    STOP,
    Ahead,
    Characters,
    Vocabulary,
    copy_spans,
    fill_slots,
    learn_words,
    merge_words,
)
from .texts import encode_features

NO_HASHES = np.empty(0, np.uint64)
READ_AHEAD = 64  # tokens: enough for memory to answer meanwhile
hashing = np.errstate(over="ignore")  # hashes overflow, which NumPy reports when the JIT is off


class Spellings(NamedTuple):
    """Words as they appeared first, in UTF-8."""

    text: bytes  # one behind the other
    starts: np.ndarray  # int64 (n_words + 1,)

    def spans(self) -> np.ndarray:
        """First byte and end of each word."""
        return np.stack([self.starts[:-1], self.starts[1:]], axis=1)

    def of(self, words: np.ndarray) -> Spellings:
        """Those of some of the words."""
        return copied(self.text, self.spans()[words])


def copied(text, spans: np.ndarray) -> Spellings:
    """The pieces of `text` (bytes or uint8) that `spans` names."""
    out = np.empty(int((spans[:, 1] - spans[:, 0]).sum()), np.uint8)
    starts = np.empty(spans.shape[0] + 1, np.int64)
    copy_spans(np.frombuffer(text, np.uint8), np.ascontiguousarray(spans), out, starts)
    return Spellings(out.tobytes(), starts)


class Words:
    """Distinct words of the documents of one worker, in the order of their first appearance.

    Attributes
    ----------
    n : int
        How many there are.
    hashes : uint64 (n,)
    usage : int32 (n, 2)
        In how many documents each occurs, and how often.
    """

    def __init__(self, stop_hashes: np.ndarray):
        self.n = 0
        self._stop_hashes = np.array(stop_hashes)
        self._vocabulary = Vocabulary(word_slots(0, self._stop_hashes), *_room_for(0))
        self._ahead = Ahead(np.empty(READ_AHEAD, np.uint64), np.empty((READ_AHEAD, 2), np.int64))
        self._n_documents = 0
        self._spellings = []  # of each block

    @property
    def hashes(self) -> np.ndarray:
        return self._vocabulary.hashes[: self.n]

    @property
    def usage(self) -> np.ndarray:
        return self._vocabulary.usage[: self.n, 1:]

    def spellings(self) -> Spellings:
        lengths = [np.diff(block.starts) for block in self._spellings]
        starts = np.concatenate([np.zeros(1, np.int64), *lengths]).cumsum()
        return Spellings(b"".join(block.text for block in self._spellings), starts)

    @hashing
    def learn(self, text: np.ndarray, starts: np.ndarray, characters: Characters) -> tuple[np.ndarray, np.ndarray]:
        """Adds the words of more documents; returns their tokens as numbers, and where each document's begin."""
        tokens, token_starts = np.empty(text.size, np.int32), np.zeros(starts.size, np.int64)
        progress = np.array([0, 0, 0, self.n, self._n_documents], np.int64)
        before, n_documents = self.n, starts.size - 1
        while progress[DOCUMENT] < n_documents:
            learn_words(text, starts, characters, self._vocabulary, self._ahead, tokens, token_starts, progress)
            self.n = int(progress[N_WORDS])
            if progress[DOCUMENT] < n_documents:
                self._make_room()
        self._n_documents += n_documents
        self._spellings.append(copied(text, self._vocabulary.spans[before : self.n]))
        kept = own_pages(progress[N_TOKENS], np.int32)
        kept[:] = tokens[: kept.size]
        return kept, token_starts

    def _make_room(self) -> None:
        room = _room_for(max(1 << 10, 2 * self.n))
        for new, old in zip(room, self._vocabulary[1:], strict=True):
            new[: self.n] = old[: self.n]
        slots = word_slots(room[0].size, self._stop_hashes)
        fill_slots(slots, self.hashes, 0)
        self._vocabulary = Vocabulary(slots, *room)


def _room_for(n_words: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`hashes`, `spans` and `usage` of a Vocabulary."""
    return np.empty(n_words, np.uint64), np.empty((n_words, 2), np.int64), np.zeros((n_words, 3), np.int32)


def own_pages(n: int, dtype) -> np.ndarray:
    """Vector of `n` zeros whose memory the system has back as soon as the vector is gone.

    malloc keeps what it is given back, up to 32 MB, where something else lies behind it.
    """
    kind = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
    return np.frombuffer(mmap.mmap(-1, max(1, int(n)) * np.dtype(dtype).itemsize, **kind), dtype, int(n))


def word_slots(n_words: int, stop_hashes: np.ndarray) -> np.ndarray:
    """A hash table with room for `n_words` besides the stop words, which are in it."""
    size = 1 << max(4, (2 * (n_words + stop_hashes.size)).bit_length())
    slots = np.zeros(2 * size, np.uint64)
    fill_slots(slots, stop_hashes, STOP)
    return slots


def hashes_of(words: Iterable[str]) -> np.ndarray:
    """Hashes of distinct words, written as they are."""
    distinct = Words(NO_HASHES)
    distinct.learn(*encode_features([words]), joined_characters())
    return distinct.hashes


class Distinct(NamedTuple):
    """Words that were known and those of new texts, each once; the known ones first."""

    numbers: list[np.ndarray]  # of each worker's words, int32
    hashes: np.ndarray
    spellings: Spellings
    usage: np.ndarray  # int64 (n_words, 2): in how many of the new documents, how often


def merged(hashes: np.ndarray, spellings: Spellings, workers: list) -> Distinct:
    """Numbers the words of all `workers` (Words or TokenCounts); `hashes` and `spellings` are those that are known."""
    n = hashes.size
    most = n + sum(words.n for words in workers)
    slots = word_slots(most, NO_HASHES)
    all_hashes, spans, usage = np.empty(most, np.uint64), np.empty((most, 2), np.int64), np.zeros((most, 2), np.int64)
    all_numbers, text, position = [], [spellings.text], len(spellings.text)
    all_hashes[:n], spans[:n] = hashes, spellings.spans()
    fill_slots(slots, all_hashes[:n], 0)
    for words in workers:
        numbers = np.empty(words.n, np.int32)
        # np.array copies: other machines' arrays are read-only, and kernels are compiled for others
        before, n = n, merge_words(np.array(words.hashes), slots, all_hashes, n, numbers)
        usage[numbers] += words.usage
        mine = words.spellings()
        spans[before:n] = mine.spans()[numbers >= before] + position
        text.append(mine.text)
        position += len(mine.text)
        all_numbers.append(numbers)
    return Distinct(all_numbers, all_hashes[:n], copied(b"".join(text), spans[:n]), usage[:n])
