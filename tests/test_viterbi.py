"""Viterbi's algorithm, against all sequences tried one by one."""

import itertools

import numpy as np
import pytest

from nbnet.tagging import Transitions, best_tags, count_transitions, transitions_of


def naive(scores, first, after):
    """The best of all sequences of one sentence."""

    def total(tags):
        return (
            first[tags[0]]
            + sum(scores[i, tag] for i, tag in enumerate(tags))
            + sum(after[a, b] for a, b in itertools.pairwise(tags))
        )

    return max(itertools.product(range(len(first)), repeat=len(scores)), key=total)


@pytest.mark.parametrize("n_tags", [1, 2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_best_of_all_sequences(n_tags, seed):
    rng = np.random.default_rng(seed)
    lengths = [3, 0, 1, 5, 2, 0]
    starts = np.cumsum([0, *lengths])
    scores, first = rng.normal(size=(starts[-1], n_tags)), rng.normal(size=n_tags)
    after = 2 * rng.normal(size=(n_tags, n_tags))
    if n_tags == 3:
        after[0, 1] = first[2] = -np.inf
    tags = best_tags(scores, starts, Transitions(first, after))
    expected = [naive(scores[a:b], first, after) for a, b in itertools.pairwise(starts) if b > a]
    np.testing.assert_array_equal(tags, np.concatenate(expected))


def test_transitions_from_counts():
    classes = np.array(["B-x", "I-x", "O"])
    tags = [["O", "B-x", "I-x"], ["O", "O"], []]
    counts = count_transitions(tags, np.ones(3), classes)
    np.testing.assert_array_equal(counts, [[0, 1, 0], [0, 0, 0], [1, 0, 1], [0, 0, 2]])
    weighted = count_transitions(tags, np.array([3.0, 0.5, 9.0]), classes)
    np.testing.assert_array_equal(weighted, [[0, 3, 0], [0, 0, 0], [3, 0, 0.5], [0, 0, 3.5]])
    first, after = transitions_of(counts, classes, is_bio=False)
    shares = np.array([1.4, 1.4, 3.4]) / 6.2  # each of four rows adds 0.1
    np.testing.assert_allclose(first, np.log(np.array([0.1, 0.1, 2.1]) / 2.3 / shares))
    np.testing.assert_allclose(after[2], np.log(np.array([1.1, 0.1, 1.1]) / 2.3 / shares))
    np.testing.assert_allclose(after[1], np.log(1 / 3 / shares))
    first, after = transitions_of(counts, classes, is_bio=True)
    assert first[1] == after[2, 1] == -np.inf
    assert np.isfinite(after).sum() == 8
