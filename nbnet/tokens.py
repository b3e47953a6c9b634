"""Raw texts -> rows of an embedding table: vocabulary, hashed n-grams of words, subwords.

The results do not depend on the number of workers: words are numbered by their first appearance in the order of the
documents, n-grams by their bucket; and a document has the same rows alone or among others.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral

import numpy as np

from .characters import joined_characters, translation, word_characters
from .cpu.token_rows import (
    BEGIN_CHARACTER,
    END_CHARACTER,
    UNKNOWN,
    Documents,
    Index,
    Rules,
    Scratch,
    Stream,
    number_rows,
    rows_of_stream,
    rows_of_text,
    subwords_of_words,
)
from .cpu.tokens import fill_slots
from .texts import Analysis, Shares, encode, encode_features, run_blocks, shares_of
from .token_counts import TokenCounts, summed
from .vocabulary import Distinct, Spellings, Words, hashes_of, hashing, merged, word_slots

__all__ = ["Analysis", "Documents", "TokenIndex", "check_texts"]

BOUNDARY_WORDS = chr(BEGIN_CHARACTER) + chr(END_CHARACTER)
NO_TEXT = np.frombuffer(b"", np.uint8)
MOVED_AT_ONCE = 1 << 20


def check_texts(X) -> list[str]:
    """`X` as a list of str.

    Raises
    ------
    ValueError
        For one str instead of many, and for arrays and data frames that are not one-dimensional.
    TypeError
        For an item that is no str; says where it is.
    """
    if isinstance(X, (str, bytes)):
        raise ValueError("Iterable over raw text documents expected, string object received.")
    if getattr(X, "ndim", 1) != 1:
        raise ValueError(
            f"Expected a one-dimensional sequence of texts, got {type(X).__name__} of shape {X.shape}. "
            "Pass one column: X[:, 0] of an array, df['column'] of a data frame."
        )
    if not hasattr(X, "__iter__"):
        raise TypeError(f"Expected a sequence of str, got {type(X).__name__}.")
    texts = X.tolist() if hasattr(X, "tolist") else list(X)
    if set(map(type, texts)) <= {str}:
        return texts
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            hint = " Decode it first." if isinstance(text, bytes) else ' Replace what is missing by "" or drop it.'
            raise TypeError(f"Texts must be str, but item {position} is {type(text).__name__} ({text!r:.50}).{hint}")
    return texts


def check_spellings(text: np.ndarray, starts: np.ndarray) -> None:
    """Raise ValueError unless `text` (uint8) is UTF-8 and `starts` (int64) cut it into pieces of whole characters."""
    try:
        text.tobytes().decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise ValueError(f"the words are not UTF-8: {error}") from None
    lengths = np.diff(starts)
    if not starts.size or starts[0] != 0 or starts[-1] != text.size or starts.min() < 0 or (lengths < 1).any():
        raise ValueError("the words do not lie one behind the other.")
    if (text[starts[:-1]] & 0xC0 == 0x80).any():
        raise ValueError("a word begins within a character.")


class TokenIndex:
    """Words and n-grams that have rows in an embedding table.

    Words are known by a 64-bit hash (two of a million words share theirs with probability 3e-8), n-grams and subwords
    by their bucket.

    Parameters
    ----------
    analysis : Analysis

    Attributes
    ----------
    n_rows : int
        Size of the table.
    n_words : int
        Words with a row, the two boundary tokens included.
    word_rows : int32 (n_words,)
        Row of each word of `words`.
    document_frequency : int64 (n_rows,)
        In how many of the fitted documents each row occurs.
    n_documents : int
        Documents fitted so far.
    """

    def __init__(self, analysis: Analysis):
        self.analysis = analysis
        self._clear()

    def _clear(self) -> None:
        rules = self.analysis.rules()
        named = BOUNDARY_WORDS if rules.boundary_tokens and rules.first_n == 1 else ""
        self.n_documents = 0
        self.document_frequency = np.zeros(len(named), np.int64)
        self.word_rows = np.arange(len(named), dtype=np.int32)
        self._hashes = hashes_of(named)
        self._spellings = Spellings(named.encode(), np.arange(len(named) + 1))
        self._ngram_rows = np.empty(0, np.int32)
        self._ngram_buckets = np.empty(0, np.int32)
        self._stop_hashes = hashes_of(self.analysis.dropped_words())
        self._prepare()

    def _prepare(self) -> None:
        """Makes what follows from the rest and is not pickled."""
        self._words = None
        self._rules = self.analysis.rules()
        self._analyze = self.analysis.build_analyzer()
        own = self._analyze is None
        self._characters = word_characters(self.analysis.lowercase) if own else joined_characters()
        # np.array copies: joblib may have mapped arrays from a file, read-only, and kernels are compiled for others
        slots = word_slots(self.n_words, np.array(self._stop_hashes))
        fill_slots(slots, np.array(self._hashes), 0)
        hashed = self._rules.last_n > 1 or self._rules.longest
        bucket_rows = np.full(self.analysis.n_buckets if hashed else 0, UNKNOWN, np.int32)
        bucket_rows[self._ngram_buckets] = self._ngram_rows
        subwords = self._subword_rows(self._spellings, bucket_rows)
        self._index = Index(slots, np.array(self.word_rows), *subwords, bucket_rows)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Leaves the index as it was where an error or Ctrl-C ends the block."""
        before = self.__dict__.copy()
        try:
            yield
        except BaseException:
            self.__dict__ = before
            raise

    def __getstate__(self) -> dict:
        derived = ("_rules", "_analyze", "_characters", "_words", "_index")
        return {name: value for name, value in self.__dict__.items() if name not in derived}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._prepare()

    # ---------------------------------------------------------------- as arrays

    def to_arrays(self) -> dict[str, np.ndarray]:
        """What `from_arrays` makes the index of, besides analysis and number of documents."""
        text, starts = self._spellings
        return {
            "text": np.frombuffer(text, np.uint8),
            "starts": starts,
            "hashes": self._hashes,
            "word_rows": self.word_rows,
            "buckets": self._ngram_buckets,
            "bucket_rows": self._ngram_rows,
            "document_frequency": self.document_frequency,
        }

    @classmethod
    def from_arrays(cls, analysis: Analysis, arrays: dict[str, np.ndarray], n_documents: int) -> TokenIndex:
        """The index whose arrays these are: of the right types, one-dimensional, but otherwise not trusted.

        Raises
        ------
        ValueError
            Where they do not fit together: no kernel has seen them then.
        """
        index = cls(analysis)
        text, starts, rows = arrays["text"], arrays["starts"], arrays["word_rows"]
        named, n_words, n_rows = index._n_named, rows.size, arrays["document_frequency"].size
        check_spellings(text, starts)
        hashes = arrays["hashes"]
        if starts.size != n_words + 1 or hashes.size != n_words:
            raise ValueError(f"{n_words} words have {starts.size - 1} spellings and {hashes.size} hashes.")
        if np.unique(hashes).size != n_words or (hashes & np.uint64(1) == 0).any():
            raise ValueError("the hashes of the words are not distinct, or none that a word can have.")
        are_named = np.array_equal(starts[: named + 1], np.arange(named + 1))
        are_named = are_named and bytes(text[:named]) == index._spellings.text
        if not are_named or not np.array_equal(hashes[:named], index._hashes):
            raise ValueError("the boundary tokens are not the first words.")
        buckets = arrays["buckets"]
        if buckets.size != arrays["bucket_rows"].size or np.unique(buckets).size != buckets.size:
            raise ValueError("the buckets are not distinct, or not as many as their rows.")
        if buckets.size and not 0 <= buckets.min() <= buckets.max() < index._index.bucket_rows.size:
            raise ValueError(f"the buckets are not all among the {index._index.bucket_rows.size} that there are.")
        of_rows = np.sort(np.concatenate([rows, arrays["bucket_rows"]]))
        if not np.array_equal(of_rows, np.arange(n_rows)) or not np.array_equal(rows[:named], np.arange(named)):
            raise ValueError(f"words and buckets do not have the {n_rows} rows, each one its own.")
        frequency = arrays["document_frequency"]
        if frequency.min(initial=0) < 0 or frequency.max(initial=0) > n_documents:
            raise ValueError(f"document frequencies are not from 0 to {n_documents}.")
        index.n_documents, index.document_frequency, index.word_rows = n_documents, frequency, rows
        index._hashes, index._spellings = hashes, Spellings(text.tobytes(), starts)
        index._ngram_buckets, index._ngram_rows = buckets, arrays["bucket_rows"]
        index._prepare()
        return index

    # ---------------------------------------------------------------- words

    @property
    def n_rows(self) -> int:
        return self.document_frequency.size

    @property
    def n_words(self) -> int:
        return self.word_rows.size

    @property
    def words(self) -> list[str]:
        """Words in the order of `word_rows`; the boundary tokens are named "\\x02" and "\\x03"."""
        if self._words is None:
            text, starts = self._spellings
            words = [text[a:b].decode("utf-8", "surrogatepass") for a, b in itertools.pairwise(starts.tolist())]
            if self._analyze is None:
                table = translation(self.analysis.lowercase)
                words = words[: self._n_named] + [word.translate(table) for word in words[self._n_named :]]
            self._words = words
        return self._words

    @property
    def _n_named(self) -> int:
        """Boundary tokens that have rows."""
        return len(BOUNDARY_WORDS) if self._rules.boundary_tokens and self._rules.first_n == 1 else 0

    def row_of(self, word: str) -> int | None:
        """Row of `word`, written as in `words` or as in a text; None if it has none."""
        found = np.flatnonzero(np.isin(self._hashes, hashes_of([word])))
        if not found.size:
            distinct = Words(self._stop_hashes)
            tokens, _ = distinct.learn(*self._encode([word]), self._characters)
            if tokens.size == 1:
                found = np.flatnonzero(self._hashes == distinct.hashes[0])
        return int(self.word_rows[found[0]]) if found.size else None

    def rows_of_word(self, word: str) -> np.ndarray:
        """Rows (int32) of `word` and of its subwords, those that there are."""
        row = self.row_of(word)
        own = np.array([] if row is None else [row], np.int32)
        text = word.encode("utf-8", "surrogatepass")
        _, subwords = self._subword_rows(Spellings(text, np.array([0, len(text)])), self._index.bucket_rows)
        return np.concatenate([own, subwords[subwords != UNKNOWN]])

    def add_words(self, words: list[str]) -> np.ndarray:
        """Gives rows to words that have none.

        Returns
        -------
        rows : int32 (n,)
            Row of each word; -1 for what is never one token of a text. "Hello" and "hello" have the same row when
            texts are lower-cased.
        """
        distinct = Words(self._stop_hashes)
        numbers = np.full(len(words), UNKNOWN, np.int32)
        for first, stop in shares_of(words, 1)[0]:
            block = words[first:stop]
            encoded = self._encode(block) if self._analyze is None else encode_features([[word] for word in block])
            tokens, starts = distinct.learn(*encoded, self._characters)
            alone = np.flatnonzero(np.diff(starts) == 1)
            numbers[first + alone] = tokens[starts[alone]]
        with self._all_or_nothing():
            everything = merged(self._hashes, self._spellings, [distinct])
            numbers = np.where(numbers == UNKNOWN, UNKNOWN, everything.numbers[0][numbers])
            keep = np.zeros(everything.hashes.size, bool)
            keep[numbers[numbers != UNKNOWN]] = self._rules.first_n == 1
            rows = self._admit(everything, keep)
            self._prepare()
        return np.where(numbers == UNKNOWN, np.int32(UNKNOWN), rows[numbers])

    # ---------------------------------------------------------------- documents

    def fit_transform(self, texts: list[str], n_workers: int = 1) -> Documents:
        """Learns the words and n-grams of `texts` anew; returns the documents' rows."""
        with self._all_or_nothing():
            self._clear()
            documents = self.extend_transform(texts, n_workers)
            self._check_not_empty()
        return documents

    def _check_not_empty(self) -> None:
        if self.n_rows == self._n_named:
            raise ValueError(
                "Empty vocabulary: no word or n-gram of the texts has a row. Perhaps they hold only stop words "
                f"(stop_words={self.analysis.stop_words!r}) or none often enough (min_df={self.analysis.min_df!r})."
            )

    def extend_transform(self, texts: list[str], n_workers: int = 1) -> Documents:
        """Adds the words and n-grams that are new, at new rows; returns the documents' rows.

        `min_df` counts in these texts alone; `max_features` bounds the words of all calls together.
        """
        with self._all_or_nothing():
            _, documents, parts = self._extend(texts, n_workers)
        return _closed_up(documents, parts)

    def _extend(self, texts: list[str], n_workers: int) -> tuple[Distinct, Documents, list[Documents]]:
        """Adds what is new; returns all words, and the documents in parts of one memory."""
        shares = shares_of(texts, n_workers)
        distinct, streams = self._learn(texts, shares)
        word_rows = self._admit(distinct, self._often_enough(distinct.usage, len(texts)))
        documents, parts = self._expand(shares, distinct, word_rows, streams)
        self._prepare()
        self._count(shares, parts)
        self.n_documents += len(texts)
        return distinct, documents, parts

    def transform(self, texts: list[str], n_workers: int = 1) -> Documents:
        """The documents' rows; what is unknown has none."""
        shares = shares_of(texts, n_workers)
        parts = [[] for _ in shares]

        def look_up(worker, first, stop):
            parts[worker].append(self._rows_of_text(*self._encode(texts[first:stop])))

        run_blocks(shares, look_up)
        parts = [part for of_worker in parts for part in of_worker]
        return parts[0] if len(parts) == 1 else _joined(parts)

    # ---------------------------------------------------------------- counts of several machines

    @classmethod
    def count(cls, analysis: Analysis, texts: list[str], n_workers: int = 1) -> TokenCounts:
        """What `from_counts` needs to know of some of the texts."""
        everything = cls(replace(analysis, min_df=1, max_features=None))
        named = everything.n_rows
        distinct, _, _ = everything._extend(texts, n_workers)
        words, frequency = np.arange(named, distinct.hashes.size), everything.document_frequency
        return TokenCounts(
            len(texts),
            int(frequency[:named].max(initial=0)),
            distinct.hashes[words],
            distinct.usage[words],
            distinct.spellings.of(words),
            everything._ngram_buckets,
            frequency[everything._ngram_rows],
        )

    @classmethod
    def from_counts(cls, analysis: Analysis, counts: list[TokenCounts]) -> TokenIndex:
        """The index that `fit_transform` learns of all counted texts, one behind the other."""
        index = cls(analysis)
        named = index.n_rows
        distinct = merged(index._hashes, index._spellings, counts)
        index.n_documents = sum(of_part.n_documents for of_part in counts)
        keep = index._often_enough(distinct.usage, index.n_documents)
        index._admit(distinct, keep)
        index.document_frequency[:] = distinct.usage[keep, 0]
        index.document_frequency[:named] = sum(of_part.n_with_tokens for of_part in counts)
        buckets, frequency = summed([(of_part.buckets, of_part.bucket_frequency) for of_part in counts])
        index._ngram_buckets = buckets
        index._ngram_rows = np.arange(index.n_rows, index.n_rows + buckets.size, dtype=np.int32)
        index.document_frequency = np.concatenate([index.document_frequency, frequency])
        index._check_not_empty()
        index._prepare()
        return index

    def _encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        if self._analyze is None:
            return encode(texts, self.analysis)
        return encode_features([self._analyze(text) for text in texts])

    @hashing
    def _rows_of_text(self, text: np.ndarray, starts: np.ndarray) -> Documents:
        rules = self._rules
        longest = int(np.diff(starts).max(initial=0))
        n_lengths = rules.longest - rules.shortest + 1 if rules.longest else 0
        orders = rules.last_n - rules.first_n + 1
        # a token has a byte at least, its subwords three characters a byte at most
        n_ids = (text.size + 2 * starts.size) * orders + 3 * text.size * n_lengths
        scratch = _scratch(rules, longest, longest, (longest + 2) * orders + 3 * longest * n_lengths)
        out = _empty_documents(n_ids, starts.size - 1, rules)
        rows_of_text(text, starts, self._characters, self._index, rules, scratch, out)
        return _trimmed(out)

    # ---------------------------------------------------------------- learning

    def _learn(self, texts: list[str], shares: Shares) -> tuple[Distinct, list[list[tuple[np.ndarray, np.ndarray]]]]:
        """The words of `texts`, and for each worker its blocks: tokens as the worker's numbers, documents' starts."""
        workers = [Words(self._stop_hashes) for _ in shares]
        streams = [[] for _ in shares]

        def learn(worker, first, stop):
            streams[worker].append(workers[worker].learn(*self._encode(texts[first:stop]), self._characters))

        run_blocks(shares, learn)
        return merged(self._hashes, self._spellings, workers), streams

    def _often_enough(self, usage: np.ndarray, n_documents: int) -> np.ndarray:
        """Which words get a row, by the numbers of documents with them and of their occurrences."""
        analysis = self.analysis
        least = analysis.min_df if isinstance(analysis.min_df, Integral) else analysis.min_df * n_documents
        keep = (usage[:, 0] >= least) & (self._rules.first_n == 1)
        keep[: self.n_words] = False
        if analysis.max_features is not None:
            candidates = np.flatnonzero(keep)
            most = max(0, analysis.max_features - (self.n_words - self._n_named))
            keep[candidates[np.argsort(-usage[candidates, 1], kind="stable")[most:]]] = False
        return keep

    def _admit(self, distinct: Distinct, keep: np.ndarray) -> np.ndarray:
        """New words get rows behind all others; returns the row of each distinct word."""
        n_known = self.n_words
        keep[:n_known] = False
        rows = np.full(keep.size, UNKNOWN, np.int32)
        rows[:n_known] = self.word_rows
        n_new = int(keep.sum())
        rows[keep] = np.arange(self.n_rows, self.n_rows + n_new)
        keep[:n_known] = True
        self.word_rows = rows[keep]
        self._hashes = distinct.hashes[keep]
        self._spellings = distinct.spellings.of(keep)
        self.document_frequency = _longer(self.document_frequency, n_new)
        return rows

    def _expand(self, shares: Shares, distinct: Distinct, word_rows: np.ndarray, streams):
        """Ids of the documents, buckets without a row as -2 - bucket; gives new buckets their rows.

        Empties `streams`. Returns the memory and each worker's part of it, which may not be full.
        """
        known = self._index.bucket_rows
        codes = np.where(known == UNKNOWN, -2 - np.arange(known.size, dtype=np.int32), known)
        index = Index(self._index.slots, word_rows, *self._subword_rows(distinct.spellings, codes), codes)
        streams[:] = [  # in place: each block is given back when it has been read
            [Stream(*block, numbers, distinct.hashes) for block in blocks]
            for blocks, numbers in zip(streams, distinct.numbers, strict=True)
        ]
        sizes = [sum(int(self._most_ids(block, index).sum()) for block in blocks) for blocks in streams]
        documents = _empty_documents(sum(sizes), 0, self._rules)
        parts = [
            Documents(documents.ids[end - size : end], documents.counts[end - size : end], _room_for_starts(share))
            for size, end, share in zip(sizes, np.cumsum(sizes).tolist(), shares, strict=True)
        ]
        seen = np.zeros(known.size, np.uint8)

        def expand(worker, first, stop):
            block = _block(parts[worker], shares[worker], first, stop)
            self._rows_of_stream(streams[worker].pop(0), index, block, seen)

        run_blocks(shares, expand)
        buckets = np.flatnonzero(seen).astype(np.int32)
        rows = np.arange(self.n_rows, self.n_rows + buckets.size, dtype=np.int32)
        self._ngram_buckets = np.concatenate([self._ngram_buckets, buckets])
        self._ngram_rows = np.concatenate([self._ngram_rows, rows])
        self.document_frequency = _longer(self.document_frequency, buckets.size)
        return documents, parts

    @hashing
    def _rows_of_stream(self, stream: Stream, index: Index, out: Documents, seen: np.ndarray) -> None:
        n_tokens = int(np.diff(stream.starts).max(initial=0))
        scratch = _scratch(self._rules, n_tokens, 0, int(self._most_ids(stream, index).max(initial=0)))
        rows_of_stream(stream, NO_TEXT, self._characters, index, self._rules, scratch, out, seen)

    def _most_ids(self, stream: Stream, index: Index) -> np.ndarray:
        """How many ids each document has if no repeats are merged."""
        rules = self._rules
        n_tokens = np.diff(stream.starts)
        n_ids = (n_tokens + 2 * rules.boundary_tokens * (n_tokens > 0)) * (rules.last_n - rules.first_n + 1)
        if rules.longest:
            subwords = np.diff(index.subword_starts)[stream.numbers[stream.tokens]]
            n_ids += np.diff(np.concatenate([[0], np.cumsum(subwords)])[stream.starts])
        return n_ids

    def _count(self, shares: Shares, parts: list[Documents]) -> None:
        """Turns buckets into rows and counts the documents that have each row."""
        usage = [np.zeros((self.n_rows, 2), np.int32) for _ in shares]

        def number(worker, first, stop):
            block = _block(parts[worker], shares[worker], first, stop)
            number_rows(block, first, self._index.bucket_rows, usage[worker])

        run_blocks(shares, number)
        self.document_frequency = sum((of_worker[:, 1] for of_worker in usage), self.document_frequency)

    @hashing
    def _subword_rows(self, spellings: Spellings, bucket_rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the subwords of words, in CSR form: (starts, rows)."""
        rules, (text, word_starts) = self._rules, spellings
        starts = np.zeros(word_starts.size, np.int64)
        if not rules.longest:
            return starts, np.empty(0, np.int32)
        letters = _scratch(rules, 0, int(np.diff(word_starts).max(initial=0)), 0).letters
        buckets = np.empty(3 * len(text) * (rules.longest - rules.shortest + 1), np.int32)
        text = np.frombuffer(text, np.uint8)
        n_buckets = bucket_rows.size
        # np.array: see `_prepare`
        subwords_of_words(text, np.array(word_starts), self._characters, rules, n_buckets, letters, buckets, starts)
        return starts, bucket_rows[buckets[: starts[-1]]]


# ---------------------------------------------------------------- memory


def _scratch(rules: Rules, n_tokens: int, n_bytes: int, n_rows: int) -> Scratch:
    """Memory for documents of at most so many tokens (boundary tokens apart), bytes of a word, and rows."""
    subwords = bool(rules.longest)
    return Scratch(
        np.empty(n_tokens + 2, np.uint64),
        np.empty(n_tokens + 2, np.int32),
        np.empty(((n_tokens + 2) * subwords, 2), np.int64),
        np.empty((n_bytes + 2) * subwords, np.uint32),
        np.empty((n_bytes + 2) * (rules.longest - rules.shortest + 1) * subwords, np.int32),
        np.empty((1 << (2 * n_rows + 1).bit_length()) * rules.merge_repeats, np.int32),
    )


def _empty_documents(n_ids: int, n_documents: int, rules: Rules) -> Documents:
    ids, counts = np.empty(n_ids, np.int32), np.empty(n_ids * rules.merge_repeats, np.uint8)
    return Documents(ids, counts, np.zeros(n_documents + 1, np.int64))


def _trimmed(documents: Documents) -> Documents:
    """Gives back the memory behind the last id; views of it must not be used any more."""
    n = documents.starts[-1]
    documents.ids.resize(n, refcheck=False)
    if documents.counts.size:
        documents.counts.resize(n, refcheck=False)
    return documents


def _room_for_starts(share: list[tuple[int, int]]) -> np.ndarray:
    return np.zeros(1 + sum(stop - first for first, stop in share), np.int64)


def _block(part: Documents, share: list[tuple[int, int]], first: int, stop: int) -> Documents:
    """Documents first, ..., stop - 1 of all, which lie in a worker's `part`."""
    origin = share[0][0]
    return part._replace(starts=part.starts[first - origin : stop - origin + 1])


def _joined(parts: list[Documents]) -> Documents:
    """`parts` one behind the other; empties the list, so that each is given back as soon as it is copied."""
    starts = _joined_starts(parts)
    sizes = [sum(part[field].size for part in parts) for field in (0, 1)]
    documents = Documents(np.empty(sizes[0], np.int32), np.empty(sizes[1], np.uint8), starts)
    k = 0
    while parts:
        part = parts.pop(0)
        documents.ids[k : k + part.ids.size] = part.ids
        documents.counts[k : k + part.counts.size] = part.counts
        k += part.ids.size
    return documents


def _joined_starts(parts: list[Documents]) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64)] + [np.diff(part.starts) for part in parts]).cumsum()


def _closed_up(documents: Documents, parts: list[Documents]) -> Documents:
    """`parts` of the memory of `documents` moved together, and the rest of it given back.

    Pages that nothing was written to cost nothing, so this takes less memory than parts that are copied into a whole.
    """
    for array, field in zip(documents[:2], (0, 1), strict=True):
        k = source = 0
        for part in parts if array.size else ():
            n = int(part.starts[-1])
            for i in range(0, n if k < source else 0, MOVED_AT_ONCE):  # NumPy copies what overlaps
                m = min(MOVED_AT_ONCE, n - i)
                array[k + i : k + i + m] = array[source + i : source + i + m]
            k += n
            source += part[field].size
    return _trimmed(Documents(*documents[:2], _joined_starts(parts)))


def _longer(array: np.ndarray, n: int) -> np.ndarray:
    return np.concatenate([array, np.zeros(n, array.dtype)])
