"""`TokenTagger` in model files."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
from sklearn.utils import check_random_state

from ...model_files import Arrays, Fields, ModelFileError, encode
from ...network import Loss, Network
from ...tagging import TokenFeatures, checked_affix_range
from .texts import MOST_LENGTHS, describe_learned, restore_learned
from .texts import complete as complete_network

MOST_NEIGHBORS = 100  # the memory to read a sentence grows with them
MOST_COUNTED = 2.0**53


def describe(tagger, header: dict, arrays: dict) -> None:
    """Add the network, what the features of tokens are made of, and how often tags follow each other."""
    features = tagger._features
    check_sizes(features)
    header["window"], header["context"] = int(features.window), int(features.context)
    header["affix_range"] = encode(features.affix_range)
    tokens = [token.encode("utf-8", "surrogatepass") for token in features.usage]
    arrays["usage.text"] = np.frombuffer(b"".join(tokens), np.uint8)
    arrays["usage.starts"] = np.cumsum([0, *map(len, tokens)], dtype=np.int64)
    arrays["usage.counts"] = np.array(list(features.usage.values()), np.int64)
    arrays["transition_counts"] = tagger._transition_counts
    describe_learned(tagger.classifier_, header, arrays)


def restore(tagger, header: Fields, arrays: Arrays, dtype) -> Network:
    """Inverse of `describe`."""
    window, context = (header.integer(name, 0, MOST_NEIGHBORS) for name in ("window", "context"))
    affix_range = checked_affix_range(header.value("affix_range", tuple, type(None)))
    tagger._features = TokenFeatures(restored_usage(arrays), window, context, affix_range)
    check_sizes(tagger._features)
    seed = 0 if tagger.random_state is None else tagger.random_state  # None shall not draw from NumPy's generator here
    network = tagger._network(check_random_state(seed))
    layers = restore_learned(network, network._analysis(), header, arrays, dtype)
    if network.classes_.dtype.kind != "U" or network._multilabel or network._loss != Loss.SOFTMAX_CROSS_ENTROPY:
        raise ModelFileError("its network does not give each token one tag.")
    n_tags = len(network.classes_)
    counts = arrays.take("transition_counts", np.float64, (n_tags + 1, n_tags)).copy()
    if not (counts >= 0).all() or not counts.sum() < MOST_COUNTED:
        raise ModelFileError("the transitions between tags are not counts.")
    tagger.classifier_, tagger._transition_counts = network, counts
    return layers


def complete(tagger) -> None:
    """What needs the weights."""
    complete_network(tagger.classifier_)
    tagger._learned(tagger.classifier_, tagger._transition_counts)


def check_sizes(features: TokenFeatures) -> None:
    """Raise where the features of a sentence take memory out of proportion to it."""
    limits = {"window": MOST_NEIGHBORS, "context": MOST_NEIGHBORS, "affix_range": MOST_LENGTHS}
    for name, most in limits.items():
        value = getattr(features, name)
        if np.max(value or 0) > most:
            raise ModelFileError(f"{name}={value} in a model file goes beyond {most}.")


def restored_usage(arrays: Arrays) -> Counter[str]:
    """How often each token occurs."""
    text = arrays.take("usage.text", np.uint8, (None,)).tobytes()
    starts = arrays.take("usage.starts", np.int64, (None,))
    counts = arrays.take("usage.counts", np.int64, (len(starts) - 1,))
    if not starts.size or starts[0] != 0 or starts[-1] != len(text) or (np.diff(starts) < 0).any():
        raise ModelFileError("the tokens do not lie one behind the other.")
    if counts.min(initial=1) < 1:
        raise ModelFileError("a token does not occur.")
    tokens = [text[first:stop].decode("utf-8", "surrogatepass") for first, stop in pairwise(starts.tolist())]
    usage = Counter(dict(zip(tokens, counts.tolist(), strict=True)))
    if len(usage) != len(tokens):
        raise ModelFileError("a token is there twice.")
    return usage
