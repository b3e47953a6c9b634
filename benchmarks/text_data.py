"""The sets of texts: where they lie, how they are read, and how fastText wants them."""

from __future__ import annotations

import gzip
import itertools
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .cases import data_folder

PUNCTUATION = re.compile(r"([.!?,'/()])")  # what fastText's tutorial sets apart with sed
LABEL = "__label__"


class TextSet(NamedTuple):
    """A set of documents with one label each."""

    chinese: bool = False
    split: bool = False  # its tokens stand between blanks
    coarse: bool = False  # the label is what stands before a colon


SETS = {
    "ag_news_21k": TextSet(),
    "banking77": TextSet(),
    "sst2_sentences": TextSet(split=True),
    "trec_questions": TextSet(split=True, coarse=True),
    "sms_spam": TextSet(),
    "waimai_10k": TextSet(chinese=True),
    "thucnews_titles_20k": TextSet(chinese=True),
    "poetry_genre_zh": TextSet(chinese=True),
}
EXTRA_SETS = {"newsgroups20": TextSet(), "clinc150": TextSet(), "reuters_r8": TextSet()}
COOKING = "cooking_stackexchange"
N_COOKING = 12_404  # the tutorial trains on the first so many questions


class Texts(NamedTuple):
    """Training and test documents; a label is a str, or a tuple of str where a document may have several."""

    X: list[str]
    y: list
    X_test: list[str]
    y_test: list


def load(name: str) -> Texts:
    """A set of one label a document. FileNotFoundError where it is not there."""
    about = (SETS | EXTRA_SETS)[name]
    parts = []
    for part in ("train", "test"):
        path = data_folder() / name / f"{part}.tsv.gz"
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
            labels, texts = zip(*(line.rstrip("\n").split("\t", 1) for line in file.readlines()[1:]), strict=True)
        if about.coarse:
            labels = [label.split(":")[0] for label in labels]
        parts += [list(texts), [label.replace(" ", "_") for label in labels]]
    return Texts(*parts)


def load_cooking() -> Texts:
    """Questions on cooking with any number of tags: the split of fastText's tutorial."""
    path = data_folder() / COOKING / "cooking.stackexchange.txt.gz"
    X, y = [], []
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        for line in file:
            words = line.split()
            y.append(tuple(word.removeprefix(LABEL) for word in words if word.startswith(LABEL)))
            X.append(" ".join(word for word in words if not word.startswith(LABEL)))
    return Texts(X[:N_COOKING], y[:N_COOKING], X[N_COOKING:], y[N_COOKING:])


def shuffled(X: list[str], y: list, seed: int = 0) -> tuple[list[str], list]:
    """fastText reads in the order of its file."""
    order = np.random.default_rng(seed).permutation(len(X))
    return [X[i] for i in order], [y[i] for i in order]


def tutorial_tokens(text: str, chinese: bool = False) -> str:
    """A text as fastText's tutorial prepares it, its tokens between blanks; Chinese characters each by itself."""
    if chinese:
        return " ".join("".join(text.split()))
    return " ".join(PUNCTUATION.sub(r" \1 ", text).lower().split())


def own_tokens(texts: list[str]) -> list[str]:
    """The tokens of each text as nbnet cuts it, between blanks."""
    from nbnet.tokens import Analysis, TokenIndex

    index = TokenIndex(Analysis(ngram_range=(1, 1), boundary_tokens=False, merge_repeats=False))
    documents = index.fit_transform(texts)
    words = np.empty(index.n_rows, object)
    words[index.word_rows] = index.words
    starts = documents.starts.tolist()
    tokens = words[documents.ids].tolist()
    return [" ".join(tokens[a:b]) for a, b in itertools.pairwise(starts)]


def write(path: Path, X: list[str], y: list) -> None:
    """A file as fastText reads it; no text may hold a line end."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for text, labels in zip(X, y, strict=True):
            labels = (labels,) if isinstance(labels, str) else labels
            file.write(" ".join([*(LABEL + label for label in labels), text]) + "\n")


def read(path: Path) -> tuple[list[str], list[tuple[str, ...]]]:
    """What `write` wrote; labels as tuples."""
    X, y = [], []
    with open(path, encoding="utf-8", newline="\n") as file:
        for line in file:
            labels = []
            while line.startswith(LABEL):
                label, _, line = line.partition(" ")
                labels.append(label.removeprefix(LABEL))
            X.append(line.rstrip("\n"))
            y.append(tuple(labels))
    return X, y


class Files:
    """Training and test files of each set, as fastText reads them, in a folder; `only` these sets if some are named."""

    def __init__(self, folder: str, only: list[str] | None = None):
        self.folder, self.only = Path(folder), only

    def each(self, names, write_set):
        """(name, what `write_set` gives for it) of the sets that are asked for and there."""
        for name in names:
            if self.only is None or name in self.only:
                try:
                    yield name, write_set(name)
                except FileNotFoundError as error:
                    print(f"{name}: skipped, {error.filename} is not there", file=sys.stderr)

    def _write(self, name: str, texts: Texts, cut, seed: int = 0) -> dict[str, str]:
        paths = {part: self.folder / f"{name}.{seed}.{part}" for part in ("train", "test")}
        if not paths["test"].exists():
            write(paths["train"], *shuffled(cut(texts.X), texts.y, seed))
            write(paths["test"], cut(texts.X_test), texts.y_test)
        return {part: str(path) for part, path in paths.items()}

    def repeated(self, name: str, n_times: int) -> dict[str, str]:
        """The set so often, as nbnet's tokens between blanks."""
        texts = load(name)
        return self._write(f"{name}_x{n_times}", texts._replace(X=texts.X * n_times, y=texts.y * n_times), own_tokens)

    def raw(self, name: str) -> dict[str, str]:
        return self._write(f"{name}_raw", load(name), list)

    def tutorial(self, name: str, seed: int) -> dict[str, str]:
        """The set as fastText's tutorial prepares texts, in an order of its own for each seed."""
        if name == COOKING:
            texts, chinese = load_cooking(), False
        else:
            texts, chinese = load(name), (SETS | EXTRA_SETS)[name].chinese
        return self._write(f"{name}_tutorial", texts, lambda X: [tutorial_tokens(x, chinese) for x in X], seed)
