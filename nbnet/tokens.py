"""Raw texts -> rows of an embedding table: vocabulary, hashed n-grams of words, subwords.

The results do not depend on the number of workers: words are numbered by their first appearance in the order of the
documents, n-grams by their bucket; and a document has the same rows alone or among others.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple

import numpy as np
from sklearn.feature_extraction.text import (
    ENGLISH_STOP_WORDS,
    CountVectorizer,
    strip_accents_ascii,
    strip_accents_unicode,
)

from .characters import joined_characters, translation, word_characters
from .cpu.tokens import (
    BEGIN_CHARACTER,
    DOCUMENT,
    END_CHARACTER,
    N_TOKENS,
    N_WORDS,
    STOP,
    UNKNOWN,
    Documents,
    Index,
    Rules,
    Scratch,
    Stream,
    Vocabulary,
    byte_starts,
    copy_spans,
    fill_slots,
    learn_words,
    merge_words,
    number_rows,
    rows_of_stream,
    rows_of_text,
    subwords_of_words,
)
from .cpu.workers import ABORTED, Workers

BLOCK = 1 << 20  # characters that are encoded and worked on at a time
JOIN = b"\xff"  # never occurs in UTF-8
BOUNDARY_WORDS = (chr(BEGIN_CHARACTER), chr(END_CHARACTER))
LOWERED_IN_CONTEXT = "\u0130\u03a3"  # str.lower makes two characters of one, and one of two of the other
EMPTY_HASHES = np.empty(0, np.uint64)
NO_TEXT = np.frombuffer(b"", np.uint8)
hashing = np.errstate(over="ignore")  # hashes overflow, which NumPy reports when the JIT is off
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

    def own_stop_words(self) -> Iterable[str]:
        """Words that the kernels drop."""
        if self.stop_words is None or self.build_analyzer() is not None:
            return ()
        return sorted(ENGLISH_STOP_WORDS if self.stop_words == "english" else set(self.stop_words))

    def rules(self) -> Rules:
        if self.analyzer != "word":  # scikit-learn's analyzer makes the n-grams
            return Rules(1, 1, 0, 0, 0, int(self.merge_repeats))
        shortest, longest = self.subword_range or (0, 0)
        return Rules(*self.ngram_range, shortest, longest, int(self.boundary_tokens), int(self.merge_repeats))


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
        named = BOUNDARY_WORDS if rules.boundary_tokens and rules.first_n == 1 else ()
        self.n_documents = 0
        self.document_frequency = np.zeros(len(named), np.int64)
        self.word_rows = np.arange(len(named), dtype=np.int32)
        self._hashes = _hashes_of(named)
        self._word_bytes = "".join(named).encode()
        self._word_starts = np.arange(len(named) + 1)
        self._ngram_rows = np.empty(0, np.int32)
        self._ngram_buckets = np.empty(0, np.int32)
        self._stop_hashes = _hashes_of(self.analysis.own_stop_words())
        self._prepare()

    def _prepare(self) -> None:
        """Makes what follows from the rest and is not pickled."""
        self._rules = self.analysis.rules()
        self._analyze = self.analysis.build_analyzer()
        own = self._analyze is None
        self._characters = word_characters(self.analysis.lowercase) if own else joined_characters()
        self._words = None
        slots = _slots(self.n_words, self._stop_hashes)
        fill_slots(slots, np.array(self._hashes), 0)
        hashed = self._rules.last_n > 1 or self._rules.longest
        bucket_rows = np.full(self.analysis.n_buckets if hashed else 0, UNKNOWN, np.int32)
        bucket_rows[self._ngram_buckets] = self._ngram_rows
        subwords = self._subword_rows(self._word_bytes, self._word_starts, bucket_rows)
        # a copy: joblib may have mapped the array from a file, read-only
        self._index = Index(slots, np.array(self.word_rows), *subwords, bucket_rows)

    def __getstate__(self) -> dict:
        derived = ("_rules", "_analyze", "_characters", "_words", "_index")
        return {name: value for name, value in self.__dict__.items() if name not in derived}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._prepare()

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
            starts = self._word_starts.tolist()
            pieces = [self._word_bytes[a:b] for a, b in itertools.pairwise(starts)]
            words = [piece.decode("utf-8", "surrogatepass") for piece in pieces]
            if self._analyze is None:
                table = translation(self.analysis.lowercase)
                words = words[: self._n_named] + [word.translate(table) for word in words[self._n_named :]]
            self._words = words
        return self._words

    @property
    def _n_named(self) -> int:
        """Boundary tokens that have rows."""
        return 2 if self._rules.boundary_tokens and self._rules.first_n == 1 else 0

    def row_of(self, word: str) -> int | None:
        """Row of `word`, written as in `words` or as in a text; None if it has none."""
        found = np.flatnonzero(np.isin(self._hashes, _hashes_of([word])))
        if not found.size and self._analyze is None:
            vocabulary = _Words(self._stop_hashes)
            tokens, _ = vocabulary.learn(*self._encode([word]), self._characters)
            if tokens.size == 1:
                found = np.flatnonzero(self._hashes == vocabulary.hashes[0])
        return int(self.word_rows[found[0]]) if found.size else None

    def rows_of_word(self, word: str) -> np.ndarray:
        """Rows (int32) of `word` and of its subwords, those that there are."""
        row = self.row_of(word)
        own = np.array([] if row is None else [row], np.int32)
        text = word.encode("utf-8", "surrogatepass")
        subwords = self._subword_rows(text, np.array([0, len(text)]), self._index.bucket_rows)[1]
        return np.concatenate([own, subwords[subwords != UNKNOWN]])

    def add_words(self, words: list[str]) -> np.ndarray:
        """Gives rows to words that have none.

        Returns
        -------
        rows : int32 (n,)
            Row of each word; -1 for what is never one token of a text. "Hello" and "hello" have the same row when
            texts are lower-cased.
        """
        vocabulary = _Words(self._stop_hashes)
        numbers = np.full(len(words), UNKNOWN, np.int32)
        for first, stop in _shares(words, 1)[0]:
            block = words[first:stop]
            encoded = self._encode(block) if self._analyze is None else _encode_features([[word] for word in block])
            tokens, starts = vocabulary.learn(*encoded, self._characters)
            alone = np.flatnonzero(np.diff(starts) == 1)
            numbers[first + alone] = tokens[starts[alone]]
        wanted = np.zeros(vocabulary.n, bool)
        wanted[numbers[numbers != UNKNOWN]] = True
        distinct = self._merge([vocabulary])
        keep = np.zeros(distinct.hashes.size, bool)
        keep[distinct.numbers[0][wanted]] = self._rules.first_n == 1
        rows = self._admit(distinct, keep)
        self._prepare()
        return np.where(numbers == UNKNOWN, np.int32(UNKNOWN), rows[distinct.numbers[0][numbers]])

    # ---------------------------------------------------------------- documents

    def fit_transform(self, texts: list[str], n_workers: int = 1) -> Documents:
        """Learns the words and n-grams of `texts` anew; returns the documents' rows."""
        self._clear()
        documents = self.extend_transform(texts, n_workers)
        if self.n_rows == self._n_named:
            self._clear()
            raise ValueError(
                "Empty vocabulary: no word or n-gram of the texts has a row. Perhaps they hold only stop words "
                f"(stop_words={self.analysis.stop_words!r}) or none often enough (min_df={self.analysis.min_df!r})."
            )
        return documents

    def extend_transform(self, texts: list[str], n_workers: int = 1) -> Documents:
        """Adds the words and n-grams that are new, at new rows; returns the documents' rows.

        `min_df` counts in these texts alone; `max_features` bounds the words of all calls together.
        """
        shares = _shares(texts, n_workers)
        vocabularies = [_Words(self._stop_hashes) for _ in shares]
        streams = [[] for _ in shares]

        def learn(worker, first, stop):
            encoded = self._encode(texts[first:stop])
            streams[worker].append(vocabularies[worker].learn(*encoded, self._characters))

        _run(shares, learn)
        distinct = self._merge(vocabularies)
        word_rows = self._admit(distinct, self._often_enough(distinct.usage, len(texts)))

        known = self._index.bucket_rows
        codes = np.where(known == UNKNOWN, -2 - np.arange(known.size, dtype=np.int32), known)
        subwords = self._subword_rows(distinct.bytes, distinct.starts, codes)
        index = Index(self._index.slots, word_rows, *subwords, codes)
        seen = np.zeros(known.size, np.uint8)
        documents, parts = self._room(shares, streams, distinct, index)

        def expand(worker, first, stop):
            tokens, starts = streams[worker].pop(0)
            stream = Stream(tokens, starts, distinct.numbers[worker], distinct.hashes)
            self._rows_of_stream(stream, index, _block(parts[worker], shares[worker], first, stop), seen)

        _run(shares, expand)
        buckets = np.flatnonzero(seen).astype(np.int32)
        self._ngram_buckets = np.concatenate([self._ngram_buckets, buckets])
        new_rows = np.arange(self.n_rows, self.n_rows + buckets.size, dtype=np.int32)
        self._ngram_rows = np.concatenate([self._ngram_rows, new_rows])
        self.document_frequency = _longer(self.document_frequency, buckets.size)
        self._prepare()
        usage = [np.zeros((self.n_rows, 2), np.int32) for _ in shares]

        def number(worker, first, stop):
            block = _block(parts[worker], shares[worker], first, stop)
            number_rows(block, first, self._index.bucket_rows, usage[worker])

        _run(shares, number)
        for of_worker in usage:
            self.document_frequency += of_worker[:, 1]
        self.n_documents += len(texts)
        return _closed_up(documents, parts)

    def transform(self, texts: list[str], n_workers: int = 1) -> Documents:
        """The documents' rows; what is unknown has none."""
        shares = _shares(texts, n_workers)
        parts = [[] for _ in shares]

        def look_up(worker, first, stop):
            parts[worker].append(self._rows_of_text(*self._encode(texts[first:stop])))

        _run(shares, look_up)
        parts = [part for of_worker in parts for part in of_worker]
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Bytes of the texts one behind the other, and where each begins."""
        if self._analyze is not None:
            return _encode_features([self._analyze(text) for text in texts])
        lowercase, strip_accents = self.analysis.lowercase, self.analysis.strip_accents
        if strip_accents is not None:
            strip = ACCENTS.get(strip_accents, strip_accents)
            texts = [strip(text.lower() if lowercase else text) for text in texts]
        joined = "".join(texts)
        ascii_only = joined.isascii()
        if lowercase and not ascii_only and any(letter in joined for letter in LOWERED_IN_CONTEXT):
            texts = [text if text.isascii() else text.lower() for text in texts]
            joined = "".join(texts)
        starts = np.zeros(len(texts) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)), out=starts[1:])
        text = np.frombuffer(joined.encode("utf-8", "surrogatepass"), np.uint8)
        if not ascii_only:
            byte_starts(text, starts)
        return text, starts

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

    @hashing
    def _rows_of_stream(self, stream: Stream, index: Index, out: Documents, seen: np.ndarray) -> None:
        n_ids = self._most_ids(stream, index)
        most = int(np.diff(stream.starts).max(initial=0))
        scratch = _scratch(self._rules, most, 0, int(n_ids.max(initial=0)))
        rows_of_stream(stream, NO_TEXT, self._characters, index, self._rules, scratch, out, seen)

    def _most_ids(self, stream: Stream, index: Index) -> np.ndarray:
        """Ids of each document of `stream` if no repeats are merged, or some more."""
        rules = self._rules
        n_tokens = np.diff(stream.starts)
        n_ids = (n_tokens + 2 * rules.boundary_tokens * (n_tokens > 0)) * (rules.last_n - rules.first_n + 1)
        if rules.longest:
            subwords = np.diff(index.subword_starts)[stream.numbers[stream.tokens]]
            n_ids += np.diff(np.concatenate([[0], np.cumsum(subwords)])[stream.starts])
        return n_ids

    def _room(self, shares, streams, distinct: _Distinct, index: Index) -> tuple[Documents, list[Documents]]:
        """Memory for the ids of all documents, and each worker's part of it.

        A part is as long as its ids without merging. Pages that nothing is written to cost nothing, so this needs less
        memory than arrays that are joined in the end.
        """
        starts, sizes = [], []
        for share, of_worker, numbers in zip(shares, streams, distinct.numbers, strict=True):
            whole = (self._most_ids(Stream(*stream, numbers, distinct.hashes), index).sum() for stream in of_worker)
            sizes.append(int(sum(whole)))
            starts.append(np.zeros(1 + sum(stop - first for first, stop in share), np.int64))
        documents = _empty_documents(sum(sizes), 0, self._rules)
        ends = np.cumsum(sizes).tolist()
        spans = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        return documents, [
            Documents(*(x[span] for x in documents[:2]), s) for span, s in zip(spans, starts, strict=True)
        ]

    # ---------------------------------------------------------------- learning

    def _merge(self, vocabularies: list[_Words]) -> _Distinct:
        """The index's words, then those of the workers, each once."""
        total = self.n_words + sum(vocabulary.n for vocabulary in vocabularies)
        slots = _slots(total, EMPTY_HASHES)
        hashes, spans = np.empty(total, np.uint64), np.empty((total, 2), np.int64)
        n = merge_words(np.array(self._hashes), slots, hashes, 0, np.empty(self.n_words, np.int32))
        spans[:n] = _spans(self._word_starts)
        usage = np.zeros((total, 2), np.int64)
        pieces, all_numbers, position = [self._word_bytes], [], len(self._word_bytes)
        for vocabulary in vocabularies:
            numbers = np.empty(vocabulary.n, np.int32)
            before, n = n, merge_words(vocabulary.hashes, slots, hashes, n, numbers)
            usage[numbers] += vocabulary.usage
            new = numbers >= before
            spans[before:n] = (_spans(vocabulary.starts) + position)[new]
            pieces += vocabulary.pieces
            position += int(vocabulary.starts[-1])
            all_numbers.append(numbers)
        return _Distinct(all_numbers, hashes[:n], usage[:n], *_gathered(b"".join(pieces), spans[:n]))

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

    def _admit(self, distinct: _Distinct, keep: np.ndarray) -> np.ndarray:
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
        self._word_bytes, self._word_starts = _gathered(distinct.bytes, _spans(distinct.starts)[keep])
        self.document_frequency = _longer(self.document_frequency, n_new)
        return rows

    @hashing
    def _subword_rows(self, text, word_starts: np.ndarray, bucket_rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the subwords of words, in CSR form: (starts, rows)."""
        starts = np.zeros(word_starts.size, np.int64)
        rules = self._rules
        if not rules.longest:
            return starts, np.empty(0, np.int32)
        longest = int(np.diff(word_starts).max(initial=0))
        scratch = _scratch(rules, 0, longest, 0)
        buckets = np.empty(3 * len(text) * (rules.longest - rules.shortest + 1), np.int32)
        text = np.frombuffer(text, np.uint8)
        n_buckets = bucket_rows.size
        subwords_of_words(text, word_starts, self._characters, rules, n_buckets, scratch.letters, buckets, starts)
        return starts, bucket_rows[buckets[: starts[-1]]]


class _Distinct(NamedTuple):
    """Words of an index and of new texts, each once."""

    numbers: list[np.ndarray]  # of each worker's words, int32
    hashes: np.ndarray
    usage: np.ndarray  # int64 (n, 2): documents, occurrences, in the new texts
    bytes: bytes
    starts: np.ndarray


class _Words:
    """Distinct words of the documents of one worker, in the order of their first appearance."""

    def __init__(self, stop_hashes: np.ndarray):
        self._stop_hashes = np.array(stop_hashes)
        self._vocabulary = Vocabulary(_slots(0, self._stop_hashes), *_room_for_words(0))
        self._n_documents = 0
        self._lengths = []
        self.n = 0
        self.pieces = []

    @property
    def hashes(self) -> np.ndarray:
        return self._vocabulary.hashes[: self.n]

    @property
    def usage(self) -> np.ndarray:
        """int32 (n, 2): documents, occurrences."""
        return self._vocabulary.usage[: self.n, 1:]

    @property
    def starts(self) -> np.ndarray:
        """Where each word begins in the joined `pieces`."""
        return np.concatenate([[0], *self._lengths]).cumsum()

    @hashing
    def learn(self, text, starts: np.ndarray, characters) -> tuple[np.ndarray, np.ndarray]:
        """Adds the words of more documents; returns their tokens as numbers, and where each document's begin."""
        text = np.frombuffer(text, np.uint8)
        tokens, token_starts = np.empty(text.size, np.int32), np.zeros(starts.size, np.int64)
        progress = np.array([0, 0, 0, self.n, self._n_documents])
        before, n_documents = self.n, starts.size - 1
        while progress[DOCUMENT] < n_documents:
            learn_words(text, starts, characters, self._vocabulary, tokens, token_starts, progress)
            self.n = int(progress[N_WORDS])
            if progress[DOCUMENT] < n_documents:
                self._make_room()
        self._n_documents += n_documents
        tokens.resize(progress[N_TOKENS], refcheck=False)
        piece, piece_starts = _gathered(text, self._vocabulary.spans[before : self.n])
        self.pieces.append(piece)
        self._lengths.append(np.diff(piece_starts))
        return tokens, token_starts

    def _make_room(self) -> None:
        capacity = max(1 << 10, 2 * self.n)
        room = _room_for_words(capacity)
        for new, old in zip(room, self._vocabulary[1:], strict=True):
            new[: self.n] = old[: self.n]
        slots = _slots(capacity, self._stop_hashes)
        fill_slots(slots, self.hashes, 0)
        self._vocabulary = Vocabulary(slots, *room)


# ---------------------------------------------------------------- memory and shares


def _room_for_words(capacity: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`hashes`, `spans` and `usage` of a Vocabulary."""
    return np.empty(capacity, np.uint64), np.empty((capacity, 2), np.int64), np.zeros((capacity, 3), np.int32)


def _slots(n_words: int, stop_hashes: np.ndarray) -> np.ndarray:
    """A table for `n_words` besides the stop words, which are in it."""
    size = 1 << max(4, (2 * (n_words + stop_hashes.size)).bit_length())
    slots = np.zeros(2 * size, np.uint64)
    fill_slots(slots, np.array(stop_hashes), STOP)
    return slots


def _hashes_of(words: Iterable[str]) -> np.ndarray:
    """Hashes of distinct words, written as they are."""
    vocabulary = _Words(EMPTY_HASHES)
    vocabulary.learn(*_encode_features([words]), joined_characters())
    return vocabulary.hashes


def _encode_features(documents: Iterable[Iterable[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of tokens that are cut already, and where each document begins."""
    try:
        pieces = [b"".join([word.encode("utf-8", "surrogatepass") + JOIN for word in words]) for words in documents]
    except AttributeError:
        kind = next(type(word).__name__ for words in documents for word in words if not isinstance(word, str))
        raise TypeError(f"The analyzer must return str, but one of its features is {kind}.") from None
    starts = np.zeros(len(pieces) + 1, np.int64)
    np.cumsum([len(piece) for piece in pieces], out=starts[1:])
    return np.frombuffer(b"".join(pieces), np.uint8), starts


def _spans(starts: np.ndarray) -> np.ndarray:
    return np.stack([starts[:-1], starts[1:]], axis=1)


def _gathered(text, spans: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Pieces of `text` one behind the other, and where each begins."""
    out = np.empty(int((spans[:, 1] - spans[:, 0]).sum()), np.uint8)
    starts = np.empty(spans.shape[0] + 1, np.int64)
    copy_spans(np.frombuffer(text, np.uint8), np.ascontiguousarray(spans), out, starts)
    return out.tobytes(), starts


def _longer(array: np.ndarray, n: int) -> np.ndarray:
    return np.concatenate([array, np.zeros(n, array.dtype)])


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
    """`parts` of the memory of `documents` moved together, and the rest of it given back."""
    for array, field in zip(documents[:2], (0, 1), strict=True):
        k = source = 0
        for part in parts if array.size else ():
            n = int(part.starts[-1])
            for i in range(0, n if k < source else 0, BLOCK):  # NumPy copies what overlaps: not much at a time
                m = min(BLOCK, n - i)
                array[k + i : k + i + m] = array[source + i : source + i + m]
            k += n
            source += part[field].size
    return _trimmed(Documents(*documents[:2], _joined_starts(parts)))


def _shares(texts: list[str], n_workers: int) -> list[list[tuple[int, int]]]:
    """For each worker its blocks (first document, stop): as many characters for each worker, `BLOCK` for a block."""
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
    total = int(ends[-1]) if ends.size else 0
    if n_workers == 1 and total <= BLOCK:
        return [[(0, len(texts))]]
    cuts = np.searchsorted(ends, [worker * total / n_workers for worker in range(1, n_workers)])
    cuts = [0, *cuts.tolist(), len(texts)]
    shares = []
    for first, last in itertools.pairwise(cuts):
        blocks = []
        while first < last:
            begin = int(ends[first - 1]) if first else 0
            stop = min(last, max(first + 1, int(np.searchsorted(ends, begin + BLOCK, side="right"))))
            blocks.append((first, stop))
            first = stop
        shares.append(blocks)
    return shares


def _run(shares: list[list[tuple[int, int]]], work: Callable[[int, int, int], None]) -> None:
    """Calls ``work(worker, first document, stop)`` for each block, each worker its own in their order."""

    def work_on_share(team):
        for block in shares[team.worker]:
            if team.state[ABORTED]:
                return
            work(team.worker, *block)

    if len(shares) == 1:  # a single short text takes 20 us: half as much again for threads that are not there
        for block in shares[0]:
            work(0, *block)
        return
    with Workers(len(shares)) as workers:
        workers.run(work_on_share)
