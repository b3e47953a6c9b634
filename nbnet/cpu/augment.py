"""Random flips, rotations, shifts and brightness of training images; repeatable for any batch and any worker."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..jit import cpu_inline, cpu_kernel
from ..random import Stream, philox


class AugmentRule(NamedTuple):
    """What `augment_rows` may do; made by `nbnet.images.augment_rule`."""

    horizontal_flip: float  # probability
    vertical_flip: float
    max_shift: int  # pixels
    max_rotation: float  # radians
    max_brightness: float  # share
    black: np.ndarray  # (channels,), the value of black in the rows


class Change(NamedTuple):
    """What is done to one image, in this order."""

    flip_horizontal: bool
    flip_vertical: bool
    angle: float  # radians, counterclockwise
    shift_down: int  # pixels
    shift_right: int
    brightness: float  # factor


@cpu_inline
def _symmetric(word):
    """A number in [-1, 1) of 32 bits."""
    return float(word) / 2147483648.0 - 1.0


@cpu_inline
def _shift(word, most):
    """An integer in [-most, most], all with the same probability."""
    return np.int64((word * np.uint64(2 * most + 1)) >> np.uint64(32)) - most


@cpu_kernel
def draw_change(rule, row, epoch, seed):
    """The change of image `row` in `epoch`: Philox's counters (row, 0, epoch, AUGMENT) and (row, 1, epoch, AUGMENT)."""
    stream, zero, one = np.uint64(Stream.AUGMENT), np.uint64(0), np.uint64(1)
    r0, r1, r2, r3 = philox(np.uint64(row), zero, epoch, stream, seed)
    s0, s1, _, _ = philox(np.uint64(row), one, epoch, stream, seed)
    return Change(
        float(r0) < rule.horizontal_flip * 4294967296.0,
        float(r1) < rule.vertical_flip * 4294967296.0,
        rule.max_rotation * _symmetric(s0),
        _shift(r2, rule.max_shift),
        _shift(r3, rule.max_shift),
        1.0 + rule.max_brightness * _symmetric(s1),
    )


@cpu_inline
def _source_position(h, w, height, width, change):
    """Where pixel (h, w) of a change without rotation comes from; perhaps beside the image."""
    h, w = h - change.shift_down, w - change.shift_right
    if change.flip_vertical:
        h = height - 1 - h
    if change.flip_horizontal:
        w = width - 1 - w
    return h, w


@cpu_inline
def _move(x, y, shape, change, black):
    """Flip and shift: every value is one of the source's, times the brightness; zero where the source ends."""
    height, width, channels = shape
    for h in range(height):
        for w in range(width):
            source_h, source_w = _source_position(h, w, height, width, change)
            inside = 0 <= source_h < height and 0 <= source_w < width
            p, q = (h * width + w) * channels, (source_h * width + source_w) * channels
            for c in range(channels):
                if inside:
                    y[p + c] = x[q + c] * change.brightness + black[c] * (1.0 - change.brightness)
                else:
                    y[p + c] = 0.0


@cpu_inline
def _neighbors(position, n):
    """The two pixels around a position on an axis of n, and their weights: zero beside the image."""
    low = math.floor(position)
    share = position - low
    low_weight = 1.0 - share if 0 <= low < n else 0.0
    high_weight = share if 0 <= low + 1 < n else 0.0
    return min(max(low, 0), n - 1), min(max(low + 1, 0), n - 1), low_weight, high_weight


@cpu_inline
def _turn(x, y, shape, change, black):
    """Flip, rotate about the center and shift: bilinear between the four source pixels around; zero outside."""
    height, width, channels = shape
    sine, cosine = math.sin(change.angle), math.cos(change.angle)
    middle_h, middle_w = 0.5 * (height - 1), 0.5 * (width - 1)
    for h in range(height):
        for w in range(width):
            below, beside = h - change.shift_down - middle_h, w - change.shift_right - middle_w
            from_h, from_w = middle_h + cosine * below + sine * beside, middle_w - sine * below + cosine * beside
            if change.flip_vertical:
                from_h = height - 1 - from_h
            if change.flip_horizontal:
                from_w = width - 1 - from_w
            top, bottom, top_weight, bottom_weight = _neighbors(from_h, height)
            left, right, left_weight, right_weight = _neighbors(from_w, width)
            inside = (top_weight + bottom_weight) * (left_weight + right_weight)
            p, top, bottom = (h * width + w) * channels, top * width, bottom * width
            for c in range(channels):
                value = top_weight * (
                    left_weight * x[(top + left) * channels + c] + right_weight * x[(top + right) * channels + c]
                ) + bottom_weight * (
                    left_weight * x[(bottom + left) * channels + c] + right_weight * x[(bottom + right) * channels + c]
                )
                y[p + c] = value * change.brightness + inside * black[c] * (1.0 - change.brightness)


@cpu_kernel
def augment_rows(source, target, shape, order, rule, seed, epoch, rows):
    """Row i of `target` is the image in row i of `source`, changed at random, for i in [start, stop) of `rows`.

    Flip, rotation about the center, shift, brightness: ``black + factor * (value - black)``. What comes from beside the
    image is zero: the mean, where rows are normalized.

    Parameters
    ----------
    source, target : Matrix (n_rows, height * width * channels), float32 or float64
        Pixels in the order height, width, channels. `target` is overwritten and must not overlap `source`.
    shape : (height, width, channels)
    order : int64 (n_rows,)
        The number that row i has among all training images: it and the epoch decide the change, not the place in the
        batch, so that the batch's size, the shuffle and the number of workers do not matter.
    rule : AugmentRule
    seed, epoch : uint64
    rows : (start, stop)

    Notes
    -----
    Without rotation and brightness, values are copied exactly. Words of the counters: see `draw_change`.
    """
    size = shape[0] * shape[1] * shape[2]
    for i in range(rows[0], rows[1]):
        change = draw_change(rule, order[i], epoch, seed)
        x = source.data[source.start + i * source.stride : source.start + i * source.stride + size]
        y = target.data[target.start + i * target.stride : target.start + i * target.stride + size]
        if rule.max_rotation > 0.0:
            _turn(x, y, shape, change, rule.black)
        else:
            _move(x, y, shape, change, rule.black)
