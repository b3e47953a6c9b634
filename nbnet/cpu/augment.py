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
def _turn(x, y, shape, change, black):
    """Flip, rotate about the center and shift: bilinear between the four source pixels around; zero outside."""
    height, width, channels = shape
    sine, cosine = math.sin(change.angle), math.cos(change.angle)
    middle_h, middle_w = 0.5 * (height - 1), 0.5 * (width - 1)
    for h in range(height):
        for w in range(width):
            down, right = h - change.shift_down - middle_h, w - change.shift_right - middle_w
            from_h, from_w = middle_h + cosine * down + sine * right, middle_w - sine * down + cosine * right
            if change.flip_vertical:
                from_h = height - 1 - from_h
            if change.flip_horizontal:
                from_w = width - 1 - from_w
            top, left = math.floor(from_h), math.floor(from_w)
            p = (h * width + w) * channels
            for c in range(channels):
                y[p + c] = 0.0
            for source_h in range(max(top, 0), min(top + 2, height)):
                for source_w in range(max(left, 0), min(left + 2, width)):
                    weight = (1.0 - abs(from_h - source_h)) * (1.0 - abs(from_w - source_w))
                    q = (source_h * width + source_w) * channels
                    for c in range(channels):
                        value = x[q + c] * change.brightness + black[c] * (1.0 - change.brightness)
                        y[p + c] += weight * value


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
