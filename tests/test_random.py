"""Philox against its published answers and a plain twin; what is made of it."""

import numpy as np
import pytest
from scipy import stats

from nbnet import random
from nbnet.jit import JIT_DISABLED, cpu_kernel
from tests import reference


@cpu_kernel
def one(counter, seed, out):
    out[0], out[1], out[2], out[3] = random.philox(counter[0], counter[1], counter[2], counter[3], seed)


def draw(counter, seed):
    out = np.zeros(4, np.uint64)
    one(np.array(counter, np.uint64), np.uint64(seed), out)
    return [int(word) for word in out]


def test_known_answers():
    # known answers of the Random123 library, philox4x32-10
    assert draw([0] * 4, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert draw([0xFFFFFFFF] * 4, 0xFFFFFFFFFFFFFFFF) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    counter, seed = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], 0x299F31D0A4093822
    assert draw(counter, seed) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def test_equals_the_plain_twin():
    rng = np.random.default_rng(0)
    for _ in range(20):
        counter = [int(c) for c in rng.integers(0, 2**32, 4)]
        seed = int(rng.integers(0, 2**63)) * 2 + 1
        assert draw(counter, seed) == list(reference.philox(*counter, seed))


def test_uniform():
    n = 101 if JIT_DISABLED else 100_001
    x = random.uniform(7, random.Stream.INITIAL_WEIGHTS, 0, n)
    assert x.shape == (n,) and x.min() >= 0 and x.max() < 1
    assert stats.kstest(x, "uniform").pvalue > 0.01
    np.testing.assert_array_equal(x[:10], random.uniform(7, random.Stream.INITIAL_WEIGHTS, 0, 10))
    for other in (
        random.uniform(8, random.Stream.INITIAL_WEIGHTS, 0, n),
        random.uniform(7, random.Stream.SHUFFLE, 0, n),
        random.uniform(7, random.Stream.INITIAL_WEIGHTS, 1, n),
    ):
        assert not np.any(other == x)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 64, 1001])
def test_permutation(n):
    p = random.permutation(3, 0, n)
    np.testing.assert_array_equal(np.sort(p), np.arange(n))
    np.testing.assert_array_equal(p, random.permutation(3, 0, n))
    if n > 50:
        assert not np.array_equal(p, random.permutation(3, 1, n))
        assert not np.array_equal(p, random.permutation(4, 0, n))


@pytest.mark.slow_without_jit
def test_permutation_is_uniform():
    counts = np.zeros((5, 5))
    for epoch in range(4000):
        counts[np.arange(5), random.permutation(1, epoch, 5)] += 1
    assert stats.chisquare(counts.ravel()).pvalue > 0.001


def test_permutation_refuses_too_many_rows():
    with pytest.raises(ValueError, match="at most"):
        random.permutation(0, 0, 2**32)


def test_draw_seed_follows_the_random_state():
    assert random.draw_seed(5) == random.draw_seed(5)
    state = np.random.RandomState(5)
    first = random.draw_seed(state)
    assert first == random.draw_seed(5)
    assert random.draw_seed(state) != first
    assert 0 <= first < 2**64
