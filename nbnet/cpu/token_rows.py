"""Tokens -> rows of an embedding table, in CSR form: those of words, of their n-grams and of their parts.

A row is found by a hash: that of the word, of the n-gram's words, or of the part's characters (`tokens`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..jit import cpu_inline, cpu_kernel
from .simd import one_load, one_store, prefetch
from .tokens import (
    BASIS,
    BITS_32,
    CODE_POINT,
    DOES,
    EMPTY,
    IGNORED,
    KIND_SHIFT,
    MIX,
    PRIME,
    STOP,
    code_point_at,
    mixed,
    next_token,
    prefetch_slot,
    slot_of,
)

UNKNOWN = -1  # row of a bucket or word that has none; number of a word that is not in the table
MOST_COUNTED = 255
CHAIN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio
BITS_31 = np.uint64(31)
BEGIN_CHARACTER, END_CHARACTER = 2, 3  # names of the boundary tokens: control characters, which are never words
AHEAD = 16  # tokens between asking for a row's number and using it: memory answers in the time of so many


class Documents(NamedTuple):
    """Rows of the embedding table of each document."""

    ids: np.ndarray  # int32 (n_ids,)
    counts: (
        np.ndarray
    )  # uint8 (n_ids,): how often in its document, at most 255; (0,) when repeats are listed one by one
    starts: np.ndarray  # int64 (n_documents + 1,)


class Index(NamedTuple):
    """Where words and n-grams have their rows."""

    slots: np.ndarray  # uint64 (2 * a power of two,): pairs hash, number of the word
    word_rows: np.ndarray  # int32 (n_words,)
    subword_starts: np.ndarray  # int64 (n_words + 1,); all zero without subwords
    subword_rows: np.ndarray  # int32 (n,)
    bucket_rows: np.ndarray  # int32 (n_buckets,)


class Rules(NamedTuple):
    """Which rows a document gets. The boundary tokens are words 0 and 1 if single words have rows."""

    first_n: int  # n-grams of words: shortest, longest
    last_n: int
    shortest: int  # subwords, in code points; 0, 0: none
    longest: int
    boundary_tokens: int
    merge_repeats: int


class Scratch(NamedTuple):
    """Memory for one document at a time."""

    hashes: np.ndarray  # uint64 (n_tokens,)
    numbers: np.ndarray  # int32 (n_tokens,)
    spans: np.ndarray  # int64 (n_tokens, 2); (0, 2) without subwords
    letters: np.ndarray  # uint32 (longest word + 2,)
    buckets: np.ndarray  # int32 (most subwords of a word,)
    places: np.ndarray  # int32 (a power of two, at least twice the rows of a document,): where an id stands


class Stream(NamedTuple):
    """Tokens of documents as numbers of words."""

    tokens: np.ndarray  # int32 (n_tokens,): as one worker numbered them
    starts: np.ndarray  # int64 (n_documents + 1,)
    numbers: np.ndarray  # int32: a worker's numbers -> numbers of all
    hashes: np.ndarray  # uint64: by the numbers of all


# ---------------------------------------------------------------- buckets


@cpu_inline
def bucket_of(h, n_buckets):
    """Bucket of an n-gram's hash."""
    return np.int64((((h ^ (h >> BITS_31)) * MIX) >> BITS_32) * np.uint64(n_buckets) >> BITS_32)


@cpu_inline
def most_subwords(n_bytes, rules):
    """Bound on the subwords of a word of `n_bytes`."""
    return (n_bytes + 2) * (rules.longest - rules.shortest + 1)


@cpu_kernel
def hash_subwords(text, begin, end, characters, rules, n_buckets, letters, buckets):
    """Buckets of the n-grams of characters of "<word>", as fastText has them; returns how many there are."""
    letters[0] = ord("<")
    n = 1
    p = begin
    while p < end:
        c, p = code_point_at(text, p)
        entry = characters.code_points[c]
        if (entry >> KIND_SHIFT) & DOES != IGNORED:
            letters[n] = entry & CODE_POINT
            n += 1
    letters[n] = ord(">")
    n += 1
    k = 0
    for i in range(n):
        h = BASIS
        for j in range(i, min(n, i + rules.longest)):
            h = (h ^ np.uint64(letters[j])) * PRIME
            length = j - i + 1
            lone_boundary = length == 1 and (i == 0 or i == n - 1)
            if length >= rules.shortest and not lone_boundary:
                buckets[k] = bucket_of(h, n_buckets)
                k += 1
    return k


@cpu_kernel
def subwords_of_words(text, word_starts, characters, rules, n_buckets, letters, buckets, starts):
    """Buckets of the subwords of each word, in CSR form; `buckets` and `starts` are overwritten. The boundary tokens,
    single control characters, have none."""
    k = 0
    starts[0] = 0
    for word in range(word_starts.size - 1):
        begin = word_starts[word]
        end = word_starts[word + 1]
        if not (end - begin == 1 and BEGIN_CHARACTER <= text[begin] <= END_CHARACTER):
            k += hash_subwords(text, begin, end, characters, rules, n_buckets, letters, buckets[k:])
        starts[word + 1] = k


# ---------------------------------------------------------------- rows


@cpu_inline
def add_row(row, start, k, mask, places, ids, counts):
    """Adds `row` at `k` to the document that begins at `start`, or counts it where it stands; returns the new end."""
    if mask < 0:
        one_store(row, ids, k)
        return k + 1
    j = np.int64((np.uint64(np.int64(row) & 0xFFFFFFFF) * CHAIN) >> BITS_32) & mask
    place = np.int64(one_load(places, j))
    while place >= 0 and one_load(ids, start + place) != row:
        j = (j + 1) & mask
        place = np.int64(one_load(places, j))
    if place < 0:
        one_store(np.int32(k - start), places, j)
        one_store(row, ids, k)
        one_store(np.uint8(1), counts, k)
        return k + 1
    count = one_load(counts, start + place)
    if count < MOST_COUNTED:
        one_store(np.uint8(count + 1), counts, start + place)
    return k


@cpu_inline
def prefetch_ngrams(t, n_tokens, hashes, rules, bucket_rows):
    """Asks for the rows of the n-grams that begin with token `t`."""
    h = one_load(hashes, t)
    for n in range(2, min(rules.last_n, n_tokens - t) + 1):
        h = h * CHAIN + one_load(hashes, t + n - 1)
        if n >= rules.first_n:
            prefetch(bucket_rows, bucket_of(h, bucket_rows.size))


@cpu_kernel
def rows_of_document(n_tokens, text, characters, index, rules, scratch, out, k):
    """Adds the rows of the document whose tokens are in `scratch` to `out` from `k` on; returns the new end."""
    ids = out.ids
    counts = out.counts
    places = scratch.places
    bucket_rows = index.bucket_rows
    start = k
    if rules.last_n > 1:
        for t in range(min(AHEAD, n_tokens - 1)):
            prefetch_ngrams(t, n_tokens, scratch.hashes, rules, bucket_rows)
    mask = -1
    if rules.merge_repeats:
        most = n_tokens * (rules.last_n - rules.first_n + 1)
        if rules.longest:
            for t in range(n_tokens):
                number = scratch.numbers[t]
                if number >= 0:
                    most += index.subword_starts[number + 1] - index.subword_starts[number]
                elif scratch.spans[t, 1] > 0:
                    most += most_subwords(scratch.spans[t, 1] - scratch.spans[t, 0], rules)
        mask = 1
        while mask < 2 * most:
            mask *= 2
        places[:mask] = -1
        mask -= 1
    for t in range(n_tokens):
        number = scratch.numbers[t]
        if number >= 0:
            row = index.word_rows[number]
            if row != UNKNOWN:
                k = add_row(row, start, k, mask, places, ids, counts)
            for s in range(index.subword_starts[number], index.subword_starts[number + 1]):
                row = index.subword_rows[s]
                if row != UNKNOWN:
                    k = add_row(row, start, k, mask, places, ids, counts)
        elif rules.longest and scratch.spans[t, 1] > 0:
            begin = scratch.spans[t, 0]
            end = scratch.spans[t, 1]
            n = hash_subwords(text, begin, end, characters, rules, bucket_rows.size, scratch.letters, scratch.buckets)
            for s in range(n):
                row = bucket_rows[scratch.buckets[s]]
                if row != UNKNOWN:
                    k = add_row(row, start, k, mask, places, ids, counts)
    if rules.last_n > 1:
        for t in range(n_tokens - 1):
            if t + AHEAD < n_tokens - 1:
                prefetch_ngrams(t + AHEAD, n_tokens, scratch.hashes, rules, bucket_rows)
            h = one_load(scratch.hashes, t)
            for n in range(2, min(rules.last_n, n_tokens - t) + 1):
                h = h * CHAIN + one_load(scratch.hashes, t + n - 1)
                if n >= rules.first_n:
                    row = one_load(bucket_rows, bucket_of(h, bucket_rows.size))
                    if row != UNKNOWN:
                        k = add_row(row, start, k, mask, places, ids, counts)
    return k


@cpu_inline
def put_boundary(t, character, rules, scratch):
    """Makes token `t` of the document a boundary token."""
    scratch.hashes[t] = mixed((BASIS ^ np.uint64(character)) * PRIME)
    scratch.numbers[t] = character - BEGIN_CHARACTER if rules.first_n == 1 else UNKNOWN
    if rules.longest:
        scratch.spans[t, 0] = 0
        scratch.spans[t, 1] = 0


@cpu_inline
def put_boundaries(n_tokens, rules, scratch):
    """Puts boundary tokens around those of the document, if the rules want them; returns how many there are now."""
    if rules.boundary_tokens:
        put_boundary(0, BEGIN_CHARACTER, rules, scratch)
        put_boundary(n_tokens, END_CHARACTER, rules, scratch)
        n_tokens += 1
    return n_tokens


@cpu_inline
def number_tokens(n_tokens, slots, rules, scratch):
    """Numbers the tokens of a document whose hashes are in `scratch`; drops stop words. Returns how many are left."""
    n = rules.boundary_tokens
    for t in range(rules.boundary_tokens, n_tokens):
        h = one_load(scratch.hashes, t)
        slot = slot_of(slots, h)
        number = np.int64(UNKNOWN) if one_load(slots, slot) == EMPTY else np.int64(one_load(slots, slot + 1))
        if number != STOP:
            one_store(h, scratch.hashes, n)
            one_store(np.int32(number), scratch.numbers, n)
            if rules.longest:
                scratch.spans[n, 0] = scratch.spans[t, 0]
                scratch.spans[n, 1] = scratch.spans[t, 1]
            n += 1
    return n


@cpu_kernel
def rows_of_text(text, starts, characters, index, rules, scratch, out):
    """Rows of documents: unknown words and n-grams have none.

    Parameters
    ----------
    text, starts : documents ``text[starts[d]:starts[d + 1]]`` in bytes
    out : Documents
        Overwritten from its first start on, which the caller sets.

    Notes
    -----
    Cost: one table look-up a token and one an n-gram.
    """
    k = out.starts[0]
    for document in range(starts.size - 1):
        start = starts[document]
        stop = starts[document + 1]
        p = start
        n = rules.boundary_tokens
        while True:
            h, begin, p = next_token(text, p, start, stop, characters)
            if h == EMPTY:
                break
            prefetch_slot(index.slots, h)
            scratch.hashes[n] = h
            if rules.longest:
                scratch.spans[n, 0] = begin
                scratch.spans[n, 1] = p
            n += 1
        n = number_tokens(n, index.slots, rules, scratch)
        if n > rules.boundary_tokens:
            n = put_boundaries(n, rules, scratch)
            k = rows_of_document(n, text, characters, index, rules, scratch, out, k)
        out.starts[document + 1] = k


@cpu_kernel
def rows_of_stream(stream, text, characters, index, rules, scratch, out, seen):
    """`rows_of_text` for documents whose tokens are numbered already.

    Here `index` holds every word of the stream, and a bucket without a row is given as -2 - bucket: those that occur
    are marked in `seen` (uint8 (n_buckets,); workers share it, and all of them write the same 1).
    """
    k = out.starts[0]
    for document in range(stream.starts.size - 1):
        n = rules.boundary_tokens
        for t in range(stream.starts[document], stream.starts[document + 1]):
            number = stream.numbers[stream.tokens[t]]
            scratch.hashes[n] = stream.hashes[number]
            scratch.numbers[n] = number
            n += 1
        if n > rules.boundary_tokens:
            n = put_boundaries(n, rules, scratch)
            k = rows_of_document(n, text, characters, index, rules, scratch, out, k)
        out.starts[document + 1] = k
    for i in range(out.starts[0], k):
        if out.ids[i] < UNKNOWN:
            seen[-2 - out.ids[i]] = 1


@cpu_kernel
def number_rows(documents, first_document, bucket_rows, usage):
    """Turns buckets into rows, in place, and counts in how many documents each row occurs.

    Parameters
    ----------
    documents : Documents
        An id below UNKNOWN is -2 - bucket.
    usage : int32 (n_rows, 2)
        Last document + 1; number of documents, added to.
    """
    ids = documents.ids
    for document in range(documents.starts.size - 1):
        stamp = first_document + document + 1
        for i in range(documents.starts[document], documents.starts[document + 1]):
            row = np.int64(ids[i])
            if row < UNKNOWN:
                row = np.int64(bucket_rows[-2 - row])
                ids[i] = row
            if usage[row, 0] != stamp:
                usage[row, 0] = stamp
                usage[row, 1] += 1
