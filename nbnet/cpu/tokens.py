"""Text as UTF-8 -> tokens, and the distinct words among them; `token_rows` goes on from here.

A token is known by a hash of its characters: FNV-1a over lower-cased code points, ``h = (h ^ c) * prime``, mixed at
the end. Two of a million words share their 64-bit hash with probability 3e-8. What a character does is read from tables
(`Characters`, made by `nbnet.characters`), so one loop serves every alphabet and every analyzer.

Nothing is allocated here: a kernel that runs out of room for new words returns, and goes on where it stopped.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..jit import cpu_inline, cpu_kernel
from .simd import one_load, one_store, prefetch

# What a character does: two bits, and two flags for characters that may do something else beside certain neighbors.
SEPARATOR, SINGLE, WORD, IGNORED = 0, 1, 2, 3  # ends a word; is a token by itself; makes words; vanishes
DOES = 3
APOSTROPHE, EYES = 4, 8  # makes a word between two characters that do; may begin an emoticon
MULTIBYTE = 16  # in `Characters.bytes`: the first byte of a longer code point; larger values are lower-cased ASCII
KIND_SHIFT = 24  # in `Characters.code_points`: kind << 24 | lower-cased code point
CODE_POINT = 0x1FFFFF

LOOSE, STRICT, HEART = 1, 2, 3  # mouths of emoticons, by what may stand beside them
NOSE = 4

STOP = 0x7FFFFFFF  # number of a word that is dropped

EMPTY = np.uint64(0)  # no token has this hash
BASIS, PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # FNV-1a
MIX = np.uint64(0xFF51AFD7ED558CCD)  # MurmurHash3's finalizer
ONE, BITS_8, BITS_29, BITS_32 = (np.uint64(bits) for bits in (1, 8, 29, 32))

DOCUMENT, POSITION, N_TOKENS, N_WORDS, FIRST_DOCUMENT = range(5)  # what `learn_words` keeps between calls


class Characters(NamedTuple):
    """What each character does."""

    bytes: np.ndarray  # uint8 (256,): kind, or the lower-cased ASCII character that makes words
    code_points: np.ndarray  # uint32 (0x110000,): kind << 24 | lower-cased code point
    mouths: np.ndarray  # uint8 (256,)


class Vocabulary(NamedTuple):
    """Distinct words in the order of their first appearance, with room for more."""

    slots: np.ndarray  # uint64 (2 * a power of two,): pairs hash, number; at most half of them in use
    hashes: np.ndarray  # uint64 (capacity,)
    spans: np.ndarray  # int64 (capacity, 2): bytes of the text where the word appeared first
    usage: np.ndarray  # int32 (capacity, 3): last document + 1, number of documents, number of occurrences


class Ahead(NamedTuple):
    """Tokens that are read before the first of them is looked up: meanwhile memory answers."""

    hashes: np.ndarray  # uint64 (n_tokens,)
    spans: np.ndarray  # int64 (n_tokens, 2)


# ---------------------------------------------------------------- hashes


@cpu_inline
def mixed(h):
    """A bijection of 64 bits, but for the last bit: it is set, so that no hash is `EMPTY`."""
    h = (h ^ (h >> BITS_32)) * MIX
    return h ^ (h >> BITS_29) | ONE


@cpu_inline
def slot_of(slots, h):
    """Where `h` stands in the table, or the empty place where it would."""
    mask = slots.size // 2 - 1
    j = np.int64(h >> BITS_8) & mask
    found = one_load(slots, 2 * j)
    while found != h and found != EMPTY:
        j = (j + 1) & mask
        found = one_load(slots, 2 * j)
    return 2 * j


@cpu_inline
def prefetch_slot(slots, h):
    """Asks for what `slot_of` reads first."""
    prefetch(slots, 2 * (np.int64(h >> BITS_8) & (slots.size // 2 - 1)))


@cpu_kernel
def fill_slots(slots, hashes, first):
    """Enters the words `hashes` with the numbers `first`, ``first + 1``, ...; STOP for all if `first` is STOP."""
    for i in range(hashes.size):
        slot = slot_of(slots, hashes[i])
        slots[slot] = hashes[i]
        slots[slot + 1] = np.uint64(first if first == STOP else first + i)


@cpu_kernel
def merge_words(hashes, slots, all_hashes, n_words, numbers):
    """Enters words that are new; `numbers` (overwritten) gets the number of each. Returns how many there are now."""
    for i in range(hashes.size):
        slot = slot_of(slots, hashes[i])
        if slots[slot] == EMPTY:
            slots[slot] = hashes[i]
            slots[slot + 1] = np.uint64(n_words)
            all_hashes[n_words] = hashes[i]
            n_words += 1
        numbers[i] = np.int32(slots[slot + 1])
    return n_words


# ---------------------------------------------------------------- characters


@cpu_inline
def code_point_at(text, p):
    """Code point at byte `p` of valid UTF-8, and where the next one begins."""
    lead = np.int64(text[p])
    if lead < 0x80:
        c = lead
        after = p + 1
    elif lead < 0xE0:
        c = (lead & 31) << 6 | (np.int64(text[p + 1]) & 63)
        after = p + 2
    elif lead < 0xF0:
        c = (lead & 15) << 12 | (np.int64(text[p + 1]) & 63) << 6 | (np.int64(text[p + 2]) & 63)
        after = p + 3
    else:
        c = (lead & 7) << 18 | (np.int64(text[p + 1]) & 63) << 12
        c |= (np.int64(text[p + 2]) & 63) << 6 | (np.int64(text[p + 3]) & 63)
        after = p + 4
    return c, after


@cpu_kernel
def kind_at(text, p, characters):
    """What the character at byte `p` does."""
    action = np.int64(characters.bytes[text[p]])
    if action == MULTIBYTE:
        c, _ = code_point_at(text, p)
        action = np.int64(characters.code_points[c]) >> KIND_SHIFT
    return WORD if action > MULTIBYTE else action


@cpu_kernel
def emoticon_length(text, p, start, stop, characters):
    """Bytes of the emoticon that begins at `p`, 0 if none does.

    Eyes, perhaps a nose, a mouth. A round mouth wants a word on one side at most ("great:)" has one, "note:(see" none);
    any other mouth, and eyes that are no colon, want nothing before them and no word behind ("http://", "10:30").
    """
    eyes = text[p]
    q = p + 1
    if q < stop and characters.mouths[text[q]] == NOSE:
        q += 1
    if q >= stop:
        return 0
    mouth = characters.mouths[text[q]]
    if mouth == 0 or mouth == NOSE or (mouth == HEART) != (eyes == ord("<")):
        return 0
    before = SEPARATOR
    ascii_before = True
    if p > start:
        b = p - 1
        while text[b] & 0xC0 == 0x80:
            b -= 1
        before = kind_at(text, b, characters) & DOES
        ascii_before = b == p - 1 and text[b] < 0x80
    word_behind = q + 1 < stop and kind_at(text, q + 1, characters) & DOES == WORD
    if mouth == LOOSE and eyes != ord("="):
        fits = not (before == WORD and word_behind)
    else:
        alone = before == SEPARATOR or (before != WORD and not ascii_before)
        fits = alone and not word_behind and not (q + 1 < stop and text[q + 1] == ord("/"))
    return q + 1 - p if fits else 0


@cpu_kernel
def byte_starts(text, starts):
    """Turns the documents' starts in code points into starts in bytes."""
    p = 0
    n = 0
    for document in range(starts.size):
        while n < starts[document]:
            lead = text[p]
            p += 1 + (lead >= 0xC0) + (lead >= 0xE0) + (lead >= 0xF0)
            n += 1
        starts[document] = p


# ---------------------------------------------------------------- tokens


@cpu_inline
def next_token(text, p, start, stop, characters):
    """First token at or behind byte `p` of the document ``text[start:stop]``: its hash, first byte, and end.

    The hash is EMPTY when there is none.
    """
    begin = p
    h = BASIS
    token = EMPTY
    while p < stop:
        action = np.int64(characters.bytes[one_load(text, p)])
        if action > MULTIBYTE:
            if h == BASIS:
                begin = p
            h = (h ^ np.uint64(action)) * PRIME
            p += 1
            continue
        if action == SEPARATOR:
            if h != BASIS:
                break
            p += 1
            continue
        c = np.int64(text[p])
        after = p + 1
        if action == MULTIBYTE:
            c, after = code_point_at(text, p)
            entry = np.int64(characters.code_points[c])
            action = entry >> KIND_SHIFT
            c = entry & CODE_POINT
        if action & APOSTROPHE and h != BASIS and after < stop and kind_at(text, after, characters) & DOES == WORD:
            action = WORD
        does = action & DOES
        if does == WORD:
            if h == BASIS:
                begin = p
            h = (h ^ np.uint64(c)) * PRIME
        elif does != IGNORED:
            if h != BASIS:
                break
            if action & EYES:
                length = emoticon_length(text, p, start, stop, characters)
                if length:
                    begin = p
                    after = p + length
                    for i in range(begin, after):
                        h = (h ^ np.uint64(characters.code_points[text[i]] & CODE_POINT)) * PRIME
                    p = after
                    break
            if does == SINGLE:
                begin = p
                h = (h ^ np.uint64(c)) * PRIME
                p = after
                break
        p = after
    if h != BASIS:
        token = mixed(h)
    return token, begin, p


@cpu_inline
def read_tokens(text, p, start, stop, characters, slots, ahead):
    """The next tokens at or behind byte `p`, as many as there is room for; asks for their places in the table.

    Returns how many there are: fewer than there is room for at the document's end.
    """
    n = 0
    while n < ahead.hashes.size:
        h, begin, p = next_token(text, p, start, stop, characters)
        if h == EMPTY:
            break
        prefetch_slot(slots, h)
        ahead.hashes[n] = h
        ahead.spans[n, 0] = begin
        ahead.spans[n, 1] = p
        n += 1
    return n


@cpu_kernel
def learn_words(text, starts, characters, vocabulary, ahead, tokens, token_starts, progress):
    """Numbers the tokens of documents; words that are new are added to `vocabulary`.

    Parameters
    ----------
    text, starts : documents ``text[starts[d]:starts[d + 1]]`` in bytes
    vocabulary : Vocabulary
        Added to.
    ahead : Ahead
        Overwritten.
    tokens : int32 (n,)
        Overwritten: the tokens that are no stop words; at most one a byte.
    token_starts : int64 (n_documents + 1,)
        Overwritten, but for the first, which the caller sets to 0.
    progress : int64 (5,)
        DOCUMENT, POSITION, N_TOKENS, N_WORDS, FIRST_DOCUMENT. When there is no room for a new word, DOCUMENT is less
        than the number of documents on return: make room and call again.
    """
    slots = vocabulary.slots
    usage = vocabulary.usage
    document = progress[DOCUMENT]
    p = progress[POSITION]
    k = progress[N_TOKENS]
    n_words = progress[N_WORDS]
    full = False
    while document < starts.size - 1 and not full:
        stop = starts[document + 1]
        stamp = progress[FIRST_DOCUMENT] + document + 1
        n_read = read_tokens(text, p, starts[document], stop, characters, slots, ahead)
        for i in range(n_read):
            h = ahead.hashes[i]
            slot = slot_of(slots, h)
            if slots[slot] == EMPTY:
                full = n_words == vocabulary.hashes.size
                if full:
                    break
                slots[slot] = h
                slots[slot + 1] = np.uint64(n_words)
                vocabulary.hashes[n_words] = h
                vocabulary.spans[n_words, 0] = ahead.spans[i, 0]
                vocabulary.spans[n_words, 1] = ahead.spans[i, 1]
                n_words += 1
            p = ahead.spans[i, 1]
            number = np.int64(one_load(slots, slot + 1))
            if number != STOP:
                if usage[number, 0] != stamp:
                    usage[number, 0] = stamp
                    usage[number, 1] += 1
                usage[number, 2] += 1
                one_store(np.int32(number), tokens, k)
                k += 1
        if not full and n_read < ahead.hashes.size:
            document += 1
            token_starts[document] = k
            p = stop
    progress[DOCUMENT] = document
    progress[POSITION] = p
    progress[N_TOKENS] = k
    progress[N_WORDS] = n_words


@cpu_kernel
def copy_spans(text, spans, out, starts):
    """Copies pieces of `text` behind one another; both `out` and `starts` (int64, one more than pieces) overwritten."""
    k = 0
    starts[0] = 0
    for i in range(spans.shape[0]):
        for p in range(spans[i, 0], spans[i, 1]):
            out[k] = text[p]
            k += 1
        starts[i + 1] = k
