"""Randomness by counters: Philox4x32-10.

A number depends on the seed and on what it is for (stream, index, position), never on what was drawn before. So initial
weights, shuffles and dropout masks are the same for any number of workers and on any device, and a checkpoint needs no
state of a generator.

Source: Salmon, Moraes, Dror, Shaw, Parallel random numbers: as easy as 1, 2, 3, SC 2011.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from .jit import cpu_inline, cpu_kernel


class Stream(IntEnum):
    """What random numbers are used for; part of the counter."""

    INITIAL_WEIGHTS = 0
    SHUFFLE = 1
    DROPOUT = 2
    AUGMENT = 3
    EMBEDDING = 4
    LABELS = 5


# uint64 throughout: a product of two 32-bit words fits, and Numba would turn a mix with int64 into floats
_MASK, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)
_MULTIPLY_0, _MULTIPLY_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


@cpu_inline
def philox(c0, c1, c2, c3, seed):
    """Four random 32-bit words (as uint64) for the counter (c0, c1, c2, c3) of 32-bit words and a 64-bit seed."""
    k0, k1 = seed & _MASK, seed >> _SHIFT
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLY_0, c2 * _MULTIPLY_1
        c0, c1, c2, c3 = (p1 >> _SHIFT) ^ c1 ^ k0, p1 & _MASK, (p0 >> _SHIFT) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _WEYL_0) & _MASK, (k1 + _WEYL_1) & _MASK
    return c0, c1, c2, c3


@cpu_kernel
def _fill_uniform(seed, stream, index, out):
    """out[2 b], out[2 b + 1] = 53 bits each of the words of counter (b, 0, index, stream)."""
    zero, five, six = np.uint64(0), np.uint64(5), np.uint64(6)
    for block in range((out.size + 1) // 2):
        r0, r1, r2, r3 = philox(np.uint64(block), zero, index, stream, seed)
        out[2 * block] = (float(r0 >> five) * 67108864.0 + float(r1 >> six)) / 9007199254740992.0
        if 2 * block + 1 < out.size:
            out[2 * block + 1] = (float(r2 >> five) * 67108864.0 + float(r3 >> six)) / 9007199254740992.0


@cpu_kernel
def _fill_permutation(seed, stream, epoch, out):
    """Fisher and Yates' shuffle; the word for position i is number i % 4 of counter (i // 4, 0, epoch, stream)."""
    zero = np.uint64(0)
    for i in range(out.size):
        out[i] = i
    block = -1
    r0, r1, r2, r3 = zero, zero, zero, zero
    for i in range(out.size - 1, 0, -1):
        if i // 4 != block:
            block = i // 4
            r0, r1, r2, r3 = philox(np.uint64(block), zero, epoch, stream, seed)
        word = r0 if i % 4 == 0 else r1 if i % 4 == 1 else r2 if i % 4 == 2 else r3
        j = np.int64((word * np.uint64(i + 1)) >> _SHIFT)  # a bias of at most (i + 1) / 2**32
        out[i], out[j] = out[j], out[i]


def uniform(seed: int, stream: Stream, index: int, n: int) -> np.ndarray:
    """float64 (n,) in [0, 1)."""
    out = np.empty(n)
    _fill_uniform(np.uint64(seed), np.uint64(stream), np.uint64(index), out)
    return out


def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """int64 (n,): the order of the rows in one epoch."""
    if n >= 2**32:
        raise ValueError(f"cannot shuffle {n} rows: at most 2**32 - 1")
    out = np.empty(n, np.int64)
    _fill_permutation(np.uint64(seed), np.uint64(Stream.SHUFFLE), np.uint64(epoch), out)
    return out


def draw_seed(random_state) -> int:
    """One 64-bit seed from scikit-learn's `random_state` (None, an int or a RandomState, which moves on)."""
    from sklearn.utils import check_random_state  # three quarters of a second, which processes that compile do not wait

    words = check_random_state(random_state).randint(0, 2**32, size=2, dtype=np.uint64)
    return int(words[0]) << 32 | int(words[1])
