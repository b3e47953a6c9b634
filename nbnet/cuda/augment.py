"""Random flips, rotations, shifts and brightness of training images; the CPU's, from the same counters."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numba
import numpy as np
from numba import int32, uint32, uint64

from ..random import Stream
from .jit import cuda, cuda_kernel, device_function
from .launch import upload
from .maths import philox
from .pooling import pixel_position

THREADS = 128
TERMS = {"float32": 5, "float64": 9}  # of the series of sine and cosine, up to a quarter of a half turn


class Rule(NamedTuple):
    """`cpu.augment.AugmentRule` as kernels read it."""

    horizontal_flip: int  # the probability, in 2**-32
    vertical_flip: int
    max_shift: int
    max_rotation: float
    max_brightness: float
    black: object


class Change(NamedTuple):
    """What is done to one image, in this order; see `cpu.augment.Change`."""

    flip_horizontal: bool
    flip_vertical: bool
    sine: float
    cosine: float
    shift_down: int
    shift_right: int
    brightness: float


def as_rule(rule, dtype) -> Rule:
    """An `AugmentRule` on the GPU."""
    flips = (math.ceil(probability * 4294967296.0) for probability in (rule.horizontal_flip, rule.vertical_flip))
    shares = (dtype.type(share) for share in (rule.max_rotation, rule.max_brightness))
    return Rule(*(np.uint64(n) for n in flips), np.uint64(rule.max_shift), *shares, upload(rule.black.astype(dtype)))


@functools.cache
def sine_cosine(dtype):
    """A device function: sine and cosine of an angle in [-pi, pi].

    Taylor's series for a quarter of the angle, which is at most pi / 4, doubled twice; libdevice's functions keep a
    table in memory for angles that do not occur here.
    """
    n_terms = TERMS[dtype.name]

    @device_function
    def compute(angle):
        x = angle * dtype(0.25)
        square = -x * x
        sine, sine_term, cosine, cosine_term = x, x, dtype(1), dtype(1)
        for n in range(1, n_terms):
            cosine_term *= square / dtype(2 * n * (2 * n - 1))
            sine_term *= square / dtype(2 * n * (2 * n + 1))
            sine, cosine = sine + sine_term, cosine + cosine_term
        sine, cosine = dtype(2) * sine * cosine, dtype(1) - dtype(2) * sine * sine
        return dtype(2) * sine * cosine, dtype(1) - dtype(2) * sine * sine

    return compute


@functools.cache
def _draw(dtype, turns):
    """A device function: the `Change` of one image."""
    sine_and_cosine = sine_cosine(dtype)

    @device_function
    def symmetric(word):
        """A number in [-1, 1) of 32 bits."""
        return dtype(word) / dtype(2147483648.0) - dtype(1)

    @device_function
    def shift(word, most):
        """An integer in [-most, most], all with the same probability."""
        return int32((word * (uint64(2) * most + uint64(1))) >> uint64(32)) - int32(most)

    @device_function
    def draw_change(rule, row, epoch, stream, seed):
        r0, r1, r2, r3 = philox(uint64(row), uint64(0), epoch, stream, seed)
        s0, s1, _, _ = philox(uint64(row), uint64(1), epoch, stream, seed)
        sine, cosine = dtype(0), dtype(1)
        if turns:
            sine, cosine = sine_and_cosine(rule.max_rotation * symmetric(s0))
        return Change(
            r0 < rule.horizontal_flip,
            r1 < rule.vertical_flip,
            sine,
            cosine,
            shift(r2, rule.max_shift),
            shift(r3, rule.max_shift),
            dtype(1) + rule.max_brightness * symmetric(s1),
        )

    return draw_change


@functools.cache
def _augment_kernel(dtype, turns):
    draw_change, zero, one, half = _draw(dtype, turns), dtype(0), dtype(1), dtype(0.5)

    @device_function
    def neighbors(position, n):
        """The two pixels around a position on an axis of n, and their weights: zero beside the image."""
        low = int32(math.floor(position))
        share = position - dtype(low)
        low_weight = one - share if 0 <= low < n else zero
        high_weight = share if 0 <= low + 1 < n else zero
        return min(max(low, 0), n - 1), min(max(low + 1, 0), n - 1), low_weight, high_weight

    @device_function
    def moved(x, start, shape, change, h, w, c, black):
        """A value of a change without rotation."""
        height, width, channels = shape
        h, w = h - change.shift_down, w - change.shift_right
        h = height - 1 - h if change.flip_vertical else h
        w = width - 1 - w if change.flip_horizontal else w
        if 0 <= h < height and 0 <= w < width:
            value = x[start + uint32((h * width + w) * channels + c)]
            return value * change.brightness + black * (one - change.brightness)
        return zero

    @device_function
    def turned(x, start, shape, change, h, w, c, black):
        """A value of a change with rotation: bilinear between the four source pixels around."""
        height, width, channels = shape
        middle_h, middle_w = half * dtype(height - 1), half * dtype(width - 1)
        below, beside = dtype(h - change.shift_down) - middle_h, dtype(w - change.shift_right) - middle_w
        from_h = middle_h + change.cosine * below + change.sine * beside
        from_w = middle_w - change.sine * below + change.cosine * beside
        from_h = dtype(height - 1) - from_h if change.flip_vertical else from_h
        from_w = dtype(width - 1) - from_w if change.flip_horizontal else from_w
        top, bottom, top_weight, bottom_weight = neighbors(from_h, height)
        left, right, left_weight, right_weight = neighbors(from_w, width)
        inside = (top_weight + bottom_weight) * (left_weight + right_weight)
        top, bottom = top * width, bottom * width
        value = top_weight * (
            left_weight * x[start + uint32((top + left) * channels + c)]
            + right_weight * x[start + uint32((top + right) * channels + c)]
        ) + bottom_weight * (
            left_weight * x[start + uint32((bottom + left) * channels + c)]
            + right_weight * x[start + uint32((bottom + right) * channels + c)]
        )
        return value * change.brightness + inside * black * (one - change.brightness)

    value_of = turned if turns else moved

    @cuda_kernel(THREADS)
    def augment_rows(source, target, shape, batch, rule, stream, seed):
        i = uint32(cuda.blockIdx.x)
        height, width, channels = shape
        row = batch.order[batch.position[0] + i]
        epoch = uint64(batch.position[2] - batch.position[1])
        change = draw_change(rule, row, epoch, stream, seed)
        start = uint32(source.start + i * source.stride)
        for pixel in range(cuda.threadIdx.x, height * width, THREADS):
            h, w = int32(pixel // width), int32(pixel % width)
            at = pixel_position(target, i, uint32(h), uint32(w))
            for c in range(channels):
                value = value_of(source.data, start, shape, change, h, w, int32(c), rule.black[c])
                target.data[at + uint32(c)] = value

    return augment_rows


def augment_rows(queue, source, target, shape, batch, rule, seed, n_rows):
    """Row i of `target` is the image in row i of `source`, changed at random, for the rows of a batch.

    Flip, rotation about the center, shift, brightness: ``black + factor * (value - black)``. What comes from beside the
    image is zero: the mean, where rows are normalized.

    Parameters
    ----------
    source : Matrix (n_rows, height * width * channels)
    target : Maps (height, width, channels)
        Overwritten but for borders and pads; must not overlap `source`.
    shape : (height, width, channels)
    batch : Batch
        An image's number in the order, and the number of the optimizer's step at the epoch's begin, decide the change.
    rule : Rule
    seed : int
        The fit's.
    """
    dtype = source.data.dtype
    kernel = _augment_kernel(getattr(numba, dtype.name), bool(rule.max_rotation > 0))
    shape = tuple(np.int32(n) for n in shape)
    queue.add(kernel, n_rows, THREADS, source, target, shape, batch, rule, np.uint64(Stream.AUGMENT), np.uint64(seed))
