"""What each character does when text is cut into tokens: the rules, and the tables that kernels read.

The rules follow Unicode's categories as Python knows them (`unicodedata.unidata_version`).
"""

from __future__ import annotations

import functools
import unicodedata

import numpy as np

from .cpu.tokens import (
    APOSTROPHE,
    EYES,
    HEART,
    IGNORED,
    KIND_SHIFT,
    LOOSE,
    MULTIBYTE,
    NOSE,
    SEPARATOR,
    SINGLE,
    STRICT,
    WORD,
    Characters,
)

# To tune: marks of these categories, and these marks in any case, are tokens by themselves; other marks separate.
TOKEN_CATEGORIES = frozenset({"Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "So", "Sc"})
TOKEN_MARKS = frozenset("!?")
APOSTROPHES = "'\u2019"  # part of the word between two of its characters, all as the first one; "" for none

EMOTICON_EYES = ":;=<"
MOUTHS = {LOOSE: "()", STRICT: "[]|/\\*DdPpOoSsXx", HEART: "3", NOSE: "-'^"}

SPACELESS = (  # each character of these is a word: Han, Hiragana, Katakana
    (0x3005, 0x3007),
    (0x3021, 0x3029),
    (0x3031, 0x3035),
    (0x3038, 0x303C),
    (0x3041, 0x3096),
    (0x3099, 0x309A),
    (0x309D, 0x309F),
    (0x30A1, 0x30FA),
    (0x30FC, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),  # half-width Katakana
    (0x1AFF0, 0x1B16F),
    (0x20000, 0x33480),
)
CJK_MARKS = ((0x3000, 0x303F), (0x30FB, 0x30FB), (0xFF01, 0xFF65))  # their punctuation is always a token
VARIATION_SELECTORS = ((0xFE00, 0xFE0F), (0xE0100, 0xE01EF))
# where categories are looked up one by one: the rest is Han, Hangul, private or unassigned
LOOKED_UP = ((0, 0x3400), (0x4DC0, 0x4E00), (0xA000, 0xAC00), (0xD7A4, 0xD800), (0xF900, 0x20000), (0xE0000, 0xE0200))
HANGUL = (0xAC00, 0xD7A3)


def _within(c, ranges) -> bool:
    return any(first <= c <= last for first, last in ranges)


def _kind(c: int) -> int:
    character = chr(c)
    category = unicodedata.category(character)
    if category == "Cf" or _within(c, VARIATION_SELECTORS):
        return IGNORED
    if category[0] in "LMN" or character == "_":
        return WORD
    is_token = category in TOKEN_CATEGORIES or character in TOKEN_MARKS
    is_token = is_token or (category[0] == "P" and _within(c, CJK_MARKS))
    flags = APOSTROPHE * (character in APOSTROPHES) | EYES * (character in EMOTICON_EYES)
    return (SINGLE if is_token else SEPARATOR) | flags


@functools.cache
def word_characters(lowercase: bool) -> Characters:
    """The tables of the default analyzer."""
    kinds = np.zeros(0x110000, np.uint8)
    lowered = np.arange(0x110000, dtype=np.uint32)
    for first, stop in LOOKED_UP:
        kinds[first:stop] = [_kind(c) for c in range(first, stop)]
        if lowercase:
            for c in range(first, stop):
                lower = chr(c).lower()
                if lower != chr(c) and len(lower) == 1:
                    lowered[c] = ord(lower)
    kinds[HANGUL[0] : HANGUL[1] + 1] = WORD
    for first, last in SPACELESS:
        kinds[first : last + 1] = SINGLE
    for character in APOSTROPHES:
        lowered[ord(character)] = ord(APOSTROPHES[0])
    mouths = np.zeros(256, np.uint8)
    for kind, characters in MOUTHS.items():
        mouths[[ord(c) for c in characters]] = kind
    of_bytes = np.full(256, MULTIBYTE, np.uint8)
    of_bytes[:128] = np.where(kinds[:128] == WORD, lowered[:128], kinds[:128])
    return Characters(of_bytes, kinds.astype(np.uint32) << KIND_SHIFT | lowered, mouths)


@functools.cache
def joined_characters() -> Characters:
    """Tables for tokens that are cut already and joined with the byte 0xFF: everything else makes words, as it is."""
    of_bytes = np.arange(256, dtype=np.uint8)
    of_bytes[: MULTIBYTE + 1] = MULTIBYTE
    of_bytes[128:] = MULTIBYTE
    of_bytes[255] = SEPARATOR
    code_points = np.arange(0x110000, dtype=np.uint32) | np.uint32(WORD << KIND_SHIFT)
    return Characters(of_bytes, code_points, np.zeros(256, np.uint8))


@functools.cache
def translation(lowercase: bool) -> dict[int, int | None]:
    """For `str.translate`: what the default analyzer makes of a word's characters."""
    entries = word_characters(lowercase).code_points
    kinds, lowered = entries >> KIND_SHIFT, entries & 0x1FFFFF
    changed = np.flatnonzero((kinds == IGNORED) | (lowered != np.arange(entries.size)))
    return {int(c): None if kinds[c] == IGNORED else int(lowered[c]) for c in changed}
