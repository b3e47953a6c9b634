"""Vectors of words that others have trained: from a .vec file, a mapping, or an array with its words."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator, Mapping

import numpy as np

from ..network import EmbeddingTable
from ..tokens import TokenIndex


def fill_pretrained_rows(source, index: TokenIndex, table: EmbeddingTable, first_row: int) -> None:
    """Put the vectors of known words into rows of `table` (n_rows, dim), those before `first_row` excepted.

    A word is looked up as it is written in ``index.words``; where a lower-cased vocabulary has no vector under that
    name, the first one under the same name in other letters ("Paris" for "paris") is taken.

    Raises
    ------
    ValueError
        For vectors of another length than the rows, for numbers that are not finite, and for what cannot be read.
    """
    rows = {word: row for word, row in zip(index.words, index.word_rows.tolist(), strict=True) if row >= first_row}
    found = set()
    for where, word, vector in _entries(source):
        if len(vector) != table.shape[1]:
            raise ValueError(
                f"pretrained_embeddings has vectors of {len(vector)} numbers ({where}), but "
                f"embedding_dim={table.shape[1]}."
            )
        name = word
        if word not in rows and index.analysis.lowercase:
            name = word.lower()
        if name not in rows or (name != word and name in found):
            continue
        if not np.isfinite(vector).all():
            raise ValueError(f"pretrained_embeddings: {where}: not all numbers are finite.")
        found.add(name)
        table[rows[name]] = vector


def _entries(source) -> Iterator[tuple[str, str, np.ndarray]]:
    """Triples (where it stands, word, vector)."""
    if isinstance(source, (str, os.PathLike)):
        yield from _lines(source)
        return
    if hasattr(source, "key_to_index"):  # gensim's KeyedVectors
        pairs = ((word, source.vectors[i]) for word, i in source.key_to_index.items())
    elif isinstance(source, Mapping):
        pairs = source.items()
    else:
        words, vectors = source
        vectors = np.asarray(vectors)
        if vectors.ndim != 2 or len(words) != len(vectors):
            raise ValueError(
                f"pretrained_embeddings: {len(words)} words come with an array of shape {vectors.shape}; expected "
                f"({len(words)}, embedding_dim)."
            )
        pairs = zip(words, vectors, strict=True)
    for word, vector in pairs:
        yield f"word {word!r}", word, np.asarray(vector, np.float64)


def _lines(path) -> Iterator[tuple[str, str, np.ndarray]]:
    """Entries of a text file as fastText writes it: a line "n dim", then a word and its numbers in each line."""
    opened = gzip.open if os.fspath(path).endswith(".gz") else open
    dim = None
    with opened(path, "rt", encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{os.fspath(path)}, line {number}"
            fields = line.rstrip().split(" ")
            if number == 1 and len(fields) == 2 and fields[0].isdecimal() and fields[1].isdecimal():
                dim = int(fields[1])
                continue
            dim = len(fields) - 1 if dim is None else dim
            # a word may hold spaces: the numbers are the last fields
            word, numbers = " ".join(fields[: len(fields) - dim]), fields[len(fields) - dim :]
            if not word or len(numbers) != dim or not dim:
                raise ValueError(f"{where}: expected a word and {dim} numbers, got {line.rstrip()!r:.60}.")
            try:
                yield where, word, np.array(numbers, dtype=np.float64)
            except ValueError:
                raise ValueError(f"{where}: not a number in {line.rstrip()!r:.60}.") from None
