"""Which tokens of a text stand behind each row of the embedding that the network sees of it.

The kernels that cut texts for training cut them here, with rules that keep one kind of row at a time and with a
stand-in for what has no row: then the rows come in the order of the tokens, and the tokens of each are known.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..cpu.token_rows import MOST_COUNTED, UNKNOWN, Index, Scratch, rows_of_text
from ..cpu.token_rows import Documents as Rows
from ..cpu.tokens import STOP
from ..texts import ACCENTS, encode_features
from ..tokens import TokenIndex
from ..vocabulary import copied, hashing


class Document(NamedTuple):
    """One text as the network sees it.

    Attributes
    ----------
    tokens : list of str (n_tokens,)
        As they stand in the text.
    spans : int64 (n_tokens, 2) or None
        First character of each token in the text, and its end. None where an analyzer of the user's, or one of
        scikit-learn's, gives features that are not found in the text.
    ids : int32 (n_entries,)
        Rows of the embedding.
    entries : int64 (n_occurrences,)
        Number of the entry that occurs.
    firsts, stops : int64 (n_occurrences,)
        Its tokens: one for a word and its parts, several for an n-gram, none for the beginning and the end of a text.
    """

    tokens: list[str]
    spans: np.ndarray | None
    ids: np.ndarray
    entries: np.ndarray
    firsts: np.ndarray
    stops: np.ndarray

    def counts(self, kept: np.ndarray | None = None) -> np.ndarray:
        """How often each entry occurs, at most 255 times; `kept`: boolean (n_occurrences,)."""
        entries = self.entries if kept is None else self.entries[kept]
        return np.minimum(np.bincount(entries, minlength=len(self.ids)), MOST_COUNTED)

    def shared_out(self, values: np.ndarray) -> tuple[np.ndarray, float]:
        """Values of entries (n_entries,) as values of tokens (n_tokens,), and what belongs to no token.

        An entry's value is spread evenly over its occurrences, and there over their tokens.
        """
        of_occurrence = (values / np.maximum(np.bincount(self.entries, minlength=len(values)), 1))[self.entries]
        lengths = self.stops - self.firsts
        has_tokens = lengths > 0
        share = of_occurrence[has_tokens] / lengths[has_tokens]
        ends = np.zeros(len(self.tokens) + 1)  # differences from token to token
        np.add.at(ends, self.firsts[has_tokens], share)
        np.add.at(ends, self.stops[has_tokens], -share)
        return np.cumsum(ends)[:-1], float(of_occurrence[~has_tokens].sum())


class TokenReader:
    """Cuts texts as `index` does.

    Parameters
    ----------
    index : TokenIndex
    """

    def __init__(self, index: TokenIndex):
        self.index, self.rules, fitted = index, index._rules, index._index
        no_words = np.full_like(fitted.word_rows, UNKNOWN)
        no_subwords = np.zeros(fitted.word_rows.size + 1, np.int64), np.empty(0, np.int32)
        no_bucket = np.full(1, UNKNOWN, np.int32)
        self.stand_in = index.n_rows
        buckets = np.where(fitted.bucket_rows == UNKNOWN, np.int32(self.stand_in), fitted.bucket_rows)
        self.of_tokens = Index(fitted.slots, fitted.word_rows, *no_subwords, no_bucket)
        self.of_ngrams = Index(fitted.slots, no_words, *no_subwords, buckets)

    @hashing
    def read(self, text: str) -> Document:
        """One text."""
        features = None if self.index._analyze is None else [f for f in self.index._analyze(text) if f]
        encoded, starts = self.index._encode([text]) if features is None else encode_features([features])
        numbers, places = self._cut(encoded, starts)
        if features is None:
            spans = source_spans(text, encoded, places, self.index.analysis)
        else:
            spans = found_spans(text, features, self.index.analysis)
        if spans is not None:
            tokens = [text[a:b] for a, b in spans.tolist()]
        elif features is not None:
            tokens = features
        else:
            tokens = [bytes(encoded[a:b]).decode("utf-8", "surrogatepass") for a, b in places.tolist()]
        occurrences = np.array(self._occurrences(encoded, starts, numbers, places), np.int64).reshape(-1, 3)
        ids, entries = occurrences[:, 0], np.arange(len(occurrences))
        if self.rules.merge_repeats:
            ids, entries = np.unique(ids, return_inverse=True)
        return Document(tokens, spans, ids.astype(np.int32), entries, occurrences[:, 1], occurrences[:, 2])

    def _cut(self, encoded, starts) -> tuple[np.ndarray, np.ndarray]:
        """Number of each token's word, UNKNOWN without one, and its bytes [first, stop)."""
        rules = self.rules._replace(first_n=1, last_n=1, shortest=1, longest=1, boundary_tokens=0, merge_repeats=0)
        scratch = self._run(rules, encoded, starts, self.of_tokens)[1]
        n_tokens = int((scratch.numbers != STOP).sum())
        return scratch.numbers[:n_tokens], scratch.spans[:n_tokens]

    def _occurrences(self, encoded, starts, numbers, places) -> list[tuple[int, int, int]]:
        """Triples (row, first token, stop)."""
        rules, n_tokens = self.rules, len(numbers)
        if not n_tokens:
            return []
        found = []
        if rules.boundary_tokens and rules.first_n == 1:
            found += [(0, 0, 0), (1, n_tokens, n_tokens)]
        alone = rules._replace(first_n=1, last_n=1, boundary_tokens=0, merge_repeats=0)
        words = copied(encoded, places)
        rows = self._run(alone, np.frombuffer(words.text, np.uint8), words.starts, self.index._index)[0]
        tokens = np.repeat(np.arange(n_tokens), np.diff(rows.starts))
        found += zip(rows.ids[: rows.starts[-1]].tolist(), tokens.tolist(), (tokens + 1).tolist(), strict=True)
        for n in range(max(2, rules.first_n), rules.last_n + 1):
            of_n = rules._replace(first_n=n, last_n=n, shortest=0, longest=0, merge_repeats=0)
            rows = self._run(of_n, encoded, starts, self.of_ngrams)[0]
            for first, row in enumerate(rows.ids[: rows.starts[-1]].tolist(), start=-rules.boundary_tokens):
                if row != self.stand_in:
                    found.append((row, max(first, 0), min(first + n, n_tokens)))
        return found

    def _run(self, rules, encoded, starts, index: Index) -> tuple[Rows, Scratch]:
        n_documents, n_bytes = starts.size - 1, int(np.diff(starts).max(initial=0))
        n_lengths = rules.longest - rules.shortest + 1 if rules.longest else 0
        n_ids = (encoded.size + 2 * n_documents) * (rules.last_n - rules.first_n + 1)
        n_ids += (3 * encoded.size + 2 * n_documents) * n_lengths
        out = Rows(np.empty(n_ids, np.int32), np.empty(0, np.uint8), np.zeros(n_documents + 1, np.int64))
        scratch = Scratch(
            np.empty(n_bytes + 2, np.uint64),
            np.full(n_bytes + 2, STOP, np.int32),  # which no token that is kept has
            np.empty(((n_bytes + 2) * bool(n_lengths), 2), np.int64),
            np.empty(n_bytes + 2, np.uint32),
            np.empty((n_bytes + 2) * n_lengths, np.int32),
            np.empty(0, np.int32),
        )
        rows_of_text(encoded, starts, self.index._characters, index, rules, scratch, out)
        return out, scratch


# ---------------------------------------------------------------- places in the text


def source_spans(text: str, encoded: np.ndarray, places: np.ndarray, analysis) -> np.ndarray | None:
    """The characters of `text` that pieces of its encoding come from.

    None where that cannot be said, as `strip_accents` is a function that does not go character by character.

    Parameters
    ----------
    encoded : uint8 (n_bytes,)
    places : int64 (n, 2)
        First byte and end of each piece.
    """
    if not len(places):
        return places
    lengths = np.ones(len(text), np.int64)  # of what becomes of each character
    if not text.isascii():
        strip = ACCENTS.get(analysis.strip_accents, analysis.strip_accents) or str
        lengths[:] = [len(strip(c.lower() if analysis.lowercase else c)) for c in text]
    is_lead = (encoded & 0xC0) != 0x80
    n_encoded = int(is_lead.sum())
    if n_encoded == len(text) and (analysis.strip_accents is None or text.isascii()):
        lengths[:] = 1
    if lengths.sum() != n_encoded:
        return None
    numbers = np.cumsum(is_lead) - 1  # of encoded characters
    sources = np.repeat(np.arange(len(text)), lengths)
    stops = np.append(np.flatnonzero(lengths)[1:], len(text))  # an accent that was stripped goes with its letter
    stops = np.repeat(stops, lengths[lengths > 0])
    return np.stack([sources[numbers[places[:, 0]]], stops[numbers[places[:, 1] - 1]]], axis=1)


def found_spans(text: str, features: list[str], analysis) -> np.ndarray | None:
    """Where features stand in the text, or in the lower-cased text, one behind the other; None if one is not found."""
    for pieces in (list(text), [c.lower() for c in text])[: 1 + analysis.lowercase]:
        sources = np.repeat(np.arange(len(text)), list(map(len, pieces)))
        searched, spans, position = "".join(pieces), [], 0
        for feature in features:
            first = searched.find(feature, position)
            if first < 0:
                break
            position = first + len(feature)
            spans.append((sources[first], sources[position - 1] + 1))
        else:
            return np.array(spans, np.int64).reshape(-1, 2)
    return None
