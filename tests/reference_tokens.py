"""Slow, obvious twin of `nbnet.tokens`, in plain Python. Never imported by the package."""

import functools
import re
import unicodedata

MASK = 2**64 - 1
SPACELESS = re.compile(  # Han, Hiragana, Katakana
    "[\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303c\u3041-\u3096\u3099\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U0001aff0-\U0001b16f\U00020000-\U00033480]"
)


# ---------------------------------------------------------------- tokens


@functools.cache
def kind(c):
    """What a character does: "ignored", "single", "word" or "separator"."""
    category, name = unicodedata.category(c), unicodedata.name(c, "")
    if category == "Cf" or name.startswith("VARIATION SELECTOR-"):
        return "ignored"
    if SPACELESS.fullmatch(c):
        return "single"
    if c == "_" or category[0] in "LMN":
        return "word"
    return "single" if category[0] == "P" or category in ("So", "Sc") else "separator"


def is_word(text, i):
    return 0 <= i < len(text) and kind(text[i]) == "word"


def emoticon_at(text, i):
    """The emoticon that begins at `i`, or ""."""
    end = i + 1
    if text[end : end + 1] in ("-", "'", "^"):
        end += 1
    mouth = text[end : end + 1]
    if not mouth or mouth not in ("3" if text[i] == "<" else "()[]|/\\*DdPpOoSsXx"):
        return ""
    if mouth in "()" and text[i] in ":;":
        fits = not (is_word(text, i - 1) and is_word(text, end + 1))
    else:
        before = text[i - 1 : i]  # whitespace, nothing, or a mark like Chinese ones
        alone = not before or kind(before) == "separator" or (kind(before) != "word" and not before.isascii())
        fits = alone and not is_word(text, end + 1) and text[end + 1 : end + 2] != "/"
    return text[i : end + 1] if fits else ""


def tokens(text, lowercase=True):
    text = text.lower() if lowercase and any(c in text for c in "\u0130\u03a3") else text
    found, word, i = [], "", 0
    while i <= len(text):
        c = text[i : i + 1]
        does = kind(c) if c else "separator"
        if c in ("'", "\u2019") and word and is_word(text, i + 1):
            does = "word"
        if does == "word":
            word += c
        elif does != "ignored":
            if word:
                found.append(word)
            word = ""
            emoticon = emoticon_at(text, i) if c and c in ":;=<" else ""
            if emoticon or does == "single":
                found.append(emoticon or c)
            i += len(emoticon) - 1 if emoticon else 0
        i += 1
    lower = [token.lower() if lowercase else token for token in found]
    return [token.replace("\u2019", "'") for token in lower]


# ---------------------------------------------------------------- hashes


def mixed(h):
    h = (h ^ h >> 32) * 0xFF51AFD7ED558CCD & MASK
    return h ^ h >> 29 | 1


def characters_hash(characters):
    h = 0xCBF29CE484222325
    for c in characters:
        h = (h ^ ord(c)) * 0x100000001B3 & MASK
    return h


def word_hash(word):
    return mixed(characters_hash(word))


def bucket_of(h, n_buckets):
    return ((h ^ h >> 31) * 0xFF51AFD7ED558CCD & MASK) // 2**32 * n_buckets // 2**32


def word_ngrams(words, ngram_range, n_buckets):
    """Buckets of the n-grams of more than one word, by their first word, then by length."""
    buckets = []
    for i in range(len(words)):
        for n in range(max(2, ngram_range[0]), ngram_range[1] + 1):
            if i + n <= len(words):
                h = word_hash(words[i])
                for word in words[i + 1 : i + n]:
                    h = (h * 0x9E3779B97F4A7C15 + word_hash(word)) & MASK
                buckets.append(bucket_of(h, n_buckets))
    return buckets


def subwords(word, subword_range, n_buckets):
    """Buckets of the n-grams of characters of "<word>", but for a lone "<" or ">"."""
    marked = f"<{word}>"
    buckets = []
    for i in range(len(marked)):
        for n in range(subword_range[0], subword_range[1] + 1):
            if i + n <= len(marked) and marked[i : i + n] not in ("<", ">")[: 2 * (n == 1)]:
                buckets.append(bucket_of(characters_hash(marked[i : i + n]), n_buckets))
    return buckets


# ---------------------------------------------------------------- rows


def parts_of(text, analysis):
    """Words and n-grams of a document: str and bucket."""
    words = tokens(text, analysis.lowercase)
    if not words:
        return []
    if analysis.boundary_tokens:
        words = ["\x02", *words, "\x03"]
    parts = []
    for word in words:
        if analysis.ngram_range[0] == 1:
            parts.append(word)
        if analysis.subword_range and word not in ("\x02", "\x03"):
            parts += subwords(word, analysis.subword_range, analysis.n_buckets)
    return parts + word_ngrams(words, analysis.ngram_range, analysis.n_buckets)


def fit_transform(texts, analysis):
    """Row numbers of words (dict) and buckets (dict), and [(row, count), ...] of each document."""
    documents = [parts_of(text, analysis) for text in texts]
    words = {}
    if analysis.boundary_tokens and analysis.ngram_range[0] == 1:
        words = {"\x02": 0, "\x03": 1}
    for parts in documents:
        for part in parts:
            if isinstance(part, str):
                words.setdefault(part, len(words))
    buckets = sorted({part for parts in documents for part in parts if not isinstance(part, str)})
    buckets = {bucket: len(words) + i for i, bucket in enumerate(buckets)}
    return words, buckets, transform(texts, analysis, words, buckets)


def transform(texts, analysis, words, buckets):
    documents = []
    for text in texts:
        rows = [(words if isinstance(part, str) else buckets).get(part) for part in parts_of(text, analysis)]
        rows = [row for row in rows if row is not None]
        if analysis.merge_repeats:
            documents.append([(row, min(rows.count(row), 255)) for row in dict.fromkeys(rows)])
        else:
            documents.append([(row, 1) for row in rows])
    return documents
