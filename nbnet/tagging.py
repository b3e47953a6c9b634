"""What a tagger is made of, the network apart: sentences, features of their tokens, transitions between tags."""

from __future__ import annotations

import re
from collections import Counter
from itertools import chain, pairwise
from numbers import Integral
from typing import NamedTuple

import numpy as np

from .cpu.viterbi import viterbi

SEPARATOR = "\x1f"  # between the features of a token: a unit separator has no other use in text
MOST_FREQUENT = 5  # of classes of frequency: 0, 1, up to 3, 7, 15, and above
NO_BIO_TAG = "none of 'O', 'B-...' and 'I-...'"
SMOOTHING = 0.1  # added to the count of each transition

# what a character looks like, and runs of it
LOOKS = ((str.isupper, "X"), (str.islower, "x"), (str.isdigit, "0"), (str.isalpha, "c"))
RUN = re.compile(r"(.)\1+")


# ---------------------------------------------------------------- sentences


def check_sentences(X, name: str = "X", item: str = "token") -> list[list[str]]:
    """`X` as a list of lists of str.

    Raises
    ------
    TypeError
        For a sentence that is a str or no sequence, and for an item that is no str; says where it is.
    """
    if isinstance(X, (str, bytes)) or not hasattr(X, "__iter__"):
        raise TypeError(f"{name} must be a sequence of sentences, got {type(X).__name__}.")
    sentences = []
    for position, sentence in enumerate(X):
        if isinstance(sentence, (str, bytes)) or not hasattr(sentence, "__iter__"):
            hint = " For a tag on each character, pass list(sentence)." if isinstance(sentence, str) else ""
            raise TypeError(
                f"A sentence must be a list of {item}s, but sentence {position} of {name} is "
                f"{type(sentence).__name__} ({sentence!r:.50}).{hint}"
            )
        sentence = sentence.tolist() if hasattr(sentence, "tolist") else list(sentence)
        for place, text in enumerate(sentence):
            if not isinstance(text, str):
                raise TypeError(
                    f"{item.capitalize()}s must be str, but {item} {place} of sentence {position} of {name} is "
                    f"{type(text).__name__} ({text!r:.50})."
                )
        sentences.append(sentence)
    return sentences


def check_tags(y, sentences: list[list[str]], name: str, of: str) -> list[list[str]]:
    """`y` as a list of lists of str, as long as the sentences."""
    tags = check_sentences(y, name, "tag")
    if len(tags) != len(sentences):
        raise ValueError(f"{of} has {len(sentences)} sentences, but {name} has {len(tags)}.")
    for position, (sentence, of_sentence) in enumerate(zip(sentences, tags, strict=True)):
        if len(sentence) != len(of_sentence):
            raise ValueError(
                f"Sentence {position} has {len(sentence)} tokens in {of}, but {len(of_sentence)} tags in {name}."
            )
    return tags


def may_follow(before: str, tag: str) -> bool:
    """Whether BIO allows `tag` behind `before`: "I-x" only behind "B-x" and "I-x"."""
    return not tag.startswith("I-") or before in (tag, "B-" + tag[2:])


def check_tag_names(tags: list, is_bio: bool) -> None:
    """Raise unless these are names of tags: TypeError for what is no str, ValueError for what is not BIO."""
    for tag in tags:
        if not isinstance(tag, str):
            raise TypeError(f"Tags must be str, but classes has {tag!r:.50}, {type(tag).__name__}.")
        if is_bio and not is_bio_tag(tag):
            raise ValueError(f"With tag_scheme='bio' classes must be BIO tags, but {tag!r} is {NO_BIO_TAG}.")


def is_bio_tag(tag: str) -> bool:
    """Whether this is "O", "B-x" or "I-x"."""
    return tag == "O" or tag.startswith(("B-", "I-"))


def check_bio(tags: list[list[str]], name: str) -> None:
    """Raise ValueError unless the tags are BIO and follow each other as BIO allows."""
    for position, of_sentence in enumerate(tags):
        for place, (before, tag) in enumerate(pairwise(["O", *of_sentence])):
            if not is_bio_tag(tag):
                problem = f"{tag!r} is {NO_BIO_TAG}"
            elif not may_follow(before, tag):
                problem = f"{tag!r} comes without 'B-{tag[2:]}' before it"
            else:
                continue
            raise ValueError(
                f"With tag_scheme='bio' {name} must hold BIO tags, but at token {place} of sentence {position} "
                f"{problem}. Pass tag_scheme=None for other tags."
            )


class Tagged(NamedTuple):
    """Sentences to learn from or to validate on; none has weight 0."""

    sentences: list[list[str]]
    tags: list[list[str]]
    weights: np.ndarray

    def take(self, positions) -> Tagged:
        """Some of the sentences."""
        sentences, tags = ([items[i] for i in positions] for items in self[:2])
        return Tagged(sentences, tags, self.weights[positions])

    def usage(self) -> Counter[str]:
        """How often each token occurs."""
        return Counter(chain.from_iterable(self.sentences))

    def targets(self) -> tuple[list[str], np.ndarray]:
        """Tag and weight of each token."""
        return list(chain(*self.tags)), np.repeat(self.weights, [len(tags) for tags in self.tags])


# ---------------------------------------------------------------- features


def shape_of(token: str) -> str:
    """`token` with "X", "x", "0" and "c" for upper and lower case, digits and other letters, the rest as it is."""
    return "".join(next((look for test, look in LOOKS if test(letter)), letter) for letter in token)


def checked_affix_range(bounds) -> tuple[int, int] | None:
    """The bounds as a tuple; ValueError unless they are None or two integers."""
    if bounds is None:
        return None
    if len(bounds) != 2 or not all(isinstance(n, Integral) for n in bounds) or not 1 <= bounds[0] <= bounds[1]:
        raise ValueError(f"affix_range must be two integers (shortest, longest) from 1 on, got {bounds!r}.")
    return tuple(bounds)


class TokenFeatures:
    """What the network is told of tokens.

    Parameters
    ----------
    usage : Counter
        How often each token occurs in the sentences to learn from, which is a feature: a rare one is more often a name.
    window : int
        Neighbors on each side whose features a token has too, with their distance.
    context : int
        Neighbors on each side whose lower-cased forms are features, at whatever distance: what the text is about.
    affix_range : tuple (shortest, longest) or None
        Characters in prefixes and suffixes.
    """

    def __init__(self, usage: Counter[str], window: int, context: int, affix_range: tuple[int, int] | None):
        self.usage, self.window, self.context, self.affix_range = usage, window, context, affix_range
        self.usage_in_lower = Counter()
        for token, count in self.usage.items():
            self.usage_in_lower[token.lower()] += count

    def of_token(self, token: str, learning: bool) -> tuple[list[str], list[str]]:
        """Features of a token by itself, and those that its neighbors have of it.

        Where they learn from a token, its own occurrence does not count: else no training token were unknown.
        """
        lower, shape = token.lower(), shape_of(token)
        runs = RUN.sub(r"\1", shape)
        shared = [f"lower {lower}", f"shape {shape}", f"runs {runs}"]
        own = [f"token {token}", *shared]
        if self.affix_range is not None:
            lengths = range(self.affix_range[0], min(self.affix_range[1], len(lower) - 1) + 1)
            own += chain.from_iterable((f"prefix {lower[:n]}", f"suffix {lower[-n:]}") for n in lengths)
        flags = {
            "capital": token[:1].isupper(),
            "capitals": token.isupper(),
            "digit": "0" in shape,
            "mark": not any(map(str.isalnum, token)),
        }
        own += [name for name, is_set in flags.items() if is_set]
        frequency = min((self.usage_in_lower[lower] - learning).bit_length(), MOST_FREQUENT)
        small = self.usage[lower] - (learning and token == lower) > 0
        return [*own, f"seen {frequency}", f"seen {frequency} {runs[:3]}", f"small {small:d} {runs[:2]}"], shared

    def documents(self, sentences: list[list[str]], learning: bool = False) -> list[str]:
        """For each token of all sentences one text: its features, those of its neighbors with the distance in front."""
        known, documents = {}, []  # most tokens occur often
        for token in set(chain.from_iterable(sentences)):
            known[token] = self.of_token(token, learning)
        for sentence in sentences:
            words = [token.lower() for token in sentence]
            lower = ["", *words, ""]
            for i, token in enumerate(sentence):
                parts = list(known[token][0])
                for distance in chain(range(-self.window, 0), range(1, self.window + 1)):
                    place = i + distance
                    shared = known[sentence[place]][1] if 0 <= place < len(sentence) else ["edge"]
                    parts += [f"{distance:+d} {feature}" for feature in shared]
                if self.window:
                    before, at, after = lower[i : i + 3]
                    parts += [f"pair - {before} {at}", f"pair + {at} {after}"]
                around = words[max(0, i - self.context) : i] + words[i + 1 : i + 1 + self.context]
                parts += [f"near {word}" for word in dict.fromkeys(around)]
                documents.append(SEPARATOR.join(parts))
        return documents


def split_features(document: str) -> list[str]:
    """The features of a token: the analyzer of the network."""
    return document.split(SEPARATOR)


# ---------------------------------------------------------------- transitions


class Transitions(NamedTuple):
    """How much likelier a tag is at its place than anywhere, as a logarithm; -inf: not there."""

    first: np.ndarray  # float64 (n_tags,): at the begin of a sentence
    after: np.ndarray  # float64 (n_tags, n_tags): after the tag of the row


def count_transitions(tags: list[list[str]], weights: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Weighted counts (n_tags + 1, n_tags) of the row's tag before the column's; the last row: begins of sentences."""
    number = {tag: k for k, tag in enumerate(classes.tolist())}
    counts = np.zeros((len(number) + 1, len(number)))
    for of_sentence, weight in zip(tags, weights, strict=True):
        before = len(number)
        for tag in of_sentence:
            counts[before, number[tag]] += weight
            before = number[tag]
    return counts


def transitions_of(counts: np.ndarray, classes: np.ndarray, is_bio: bool) -> Transitions:
    """Logarithms of ``p(tag | tag before) / p(tag)``, from smoothed counts."""
    counts = counts + SMOOTHING
    shares = counts.sum(axis=0) / counts.sum()
    gains = np.log(counts / counts.sum(axis=1, keepdims=True) / shares)
    if is_bio:
        tags = classes.tolist()
        for row, before in enumerate([*tags, "O"]):
            gains[row, [not may_follow(before, tag) for tag in tags]] = -np.inf
    return Transitions(gains[-1].copy(), gains[:-1].copy())


def best_tags(scores: np.ndarray, starts: np.ndarray, transitions: Transitions) -> np.ndarray:
    """Numbers (n_tokens,) of the tags of the best sequence of each sentence."""
    tags = np.empty(len(scores), np.int32)
    previous = np.empty(scores.shape, np.int32)
    viterbi(scores, starts, *transitions, np.empty_like(scores), previous, tags)
    return tags
