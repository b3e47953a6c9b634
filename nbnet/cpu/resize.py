"""Images cut, resized and converted in one pass over the output: weighted sums of rows, then of columns."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..jit import cpu_inline, cpu_kernel
from .workers import share_of

RED, GREEN, BLUE = 0.299, 0.587, 0.114  # luma of ITU-R BT.601


class Taps(NamedTuple):
    """One axis: output pixel o is the sum of ``weight[o, t] * pixel[start[o] + t]`` over t < count[o]."""

    start: np.ndarray  # int64 (n_out,)
    count: np.ndarray  # int64 (n_out,), at least 1
    weight: np.ndarray  # float32 or float64 (n_out, most taps)


class Resampling(NamedTuple):
    """How an output image comes from a source image."""

    rows: Taps
    columns: Taps
    channels: int  # of the source
    gray: bool  # three channels become one
    rounded: bool  # to the nearest integer, halves to even, instead of (value - mean) / scale
    mean: np.ndarray  # (channels of the target,), of the weights' type
    scale: np.ndarray


# ---------------------------------------------------------------- tables, on the host


def area_taps(n_in: int, n_out: int, start: int, dtype) -> Taps:
    """Output pixel o is the mean over [o, o + 1) n_in / n_out, a pixel being one unit wide, from pixel `start` on.

    The same formula shrinks (every pixel counts) and enlarges (pixels stay squares, with mixed borders between them).
    Lengths are counted in units of 1 / n_out, so that integers decide what belongs where.
    """
    low, high = np.arange(n_out) * n_in, np.arange(1, n_out + 1) * n_in
    first, last = low // n_out, -(-high // n_out)
    count = last - first
    pixel = first[:, None] + np.arange(count.max())
    overlap = np.minimum((pixel + 1) * n_out, high[:, None]) - np.maximum(pixel * n_out, low[:, None])
    return Taps(first + start, count, (np.maximum(overlap, 0) / n_in).astype(dtype))


def bilinear_taps(n_in: int, n_out: int, start: int, dtype) -> Taps:
    """Output pixel o is the line between the two pixels around (o + 1/2) n_in / n_out - 1/2; constant at the border."""
    center = np.clip((np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5, 0, n_in - 1)
    first = np.floor(center).astype(np.int64)
    share = center - first
    weight = np.stack([1 - share, share], axis=1)
    return Taps(first + start, np.where(share > 0, 2, 1), weight.astype(dtype))


# ---------------------------------------------------------------- kernels


@cpu_inline
def mix_rows(image, rows, h, first, last, line):
    """``line[p] = sum_t weight[h, t] * image[start[h] + t, p]`` for p in [first, last)."""
    part = line[first:last]  # indices from 0 on: the compiler sees that none is negative, and uses vectors
    for t in range(rows.count[h]):
        weight, source = rows.weight[h, t], image[rows.start[h] + t, first:last]
        if t == 0:
            for p in range(part.size):
                part[p] = weight * source[p]
        else:
            for p in range(part.size):
                part[p] += weight * source[p]


@cpu_inline
def mix_channels(line, first, last):
    """Gray from red, green and blue of pixels [first, last), in place: a pixel's place lies before its colors."""
    for w in range(first, last):
        line[w] = RED * line[3 * w] + GREEN * line[3 * w + 1] + BLUE * line[3 * w + 2]


@cpu_inline
def _output(total, plan, c):
    return np.rint(total) if plan.rounded else (total - plan.mean[c]) / plan.scale[c]


@cpu_inline
def mix_columns(line, channels, plan, target):
    """``target[w, c] = sum_t weight[w, t] * line[start[w] + t, c]``, rounded or normalized.

    Where the line has one channel and the target more, all get the same.
    """
    columns = plan.columns
    for w in range(target.shape[0]):
        for c in range(target.shape[1]):
            p = columns.start[w] * channels + min(c, channels - 1)
            total = columns.weight[w, 0] * line[p]
            for t in range(1, columns.count[w]):
                total += columns.weight[w, t] * line[p + t * channels]
            target[w, c] = _output(total, plan, c)


@cpu_inline
def mix_color_columns(line, plan, target):
    """`mix_columns` for three channels on both sides: three sums side by side take a third of the time."""
    columns = plan.columns
    for w in range(target.shape[0]):
        pixels, weight = line[3 * columns.start[w] :], columns.weight[w]
        red, green, blue = weight[0] * pixels[0], weight[0] * pixels[1], weight[0] * pixels[2]
        for t in range(1, columns.count[w]):
            red += weight[t] * pixels[3 * t]
            green += weight[t] * pixels[3 * t + 1]
            blue += weight[t] * pixels[3 * t + 2]
        target[w, 0], target[w, 1], target[w, 2] = (
            _output(red, plan, 0),
            _output(green, plan, 1),
            _output(blue, plan, 2),
        )


@cpu_kernel
def resize_images(source, plan, lines, target, team):
    """Cut, resize, convert and normalize images.

    Parameters
    ----------
    source : uint8, float32 or float64 (n, height, width * channels)
    plan : Resampling
    lines : float32 or float64 (n_workers, >= width * channels)
        Scratch.
    target : uint8 with ``plan.rounded``, else float32 or float64 (n, height out, width out, channels out)
        Overwritten.
    team : Team
        Each worker takes a share of the rows of all target images.

    Notes
    -----
    Error: in float32 about 1e-7 of the largest value, so that rounded values are off by one at most, and then only
    where the exact one is nearly halfway between two integers.
    """
    n, height, width = target.shape[0], target.shape[1], target.shape[2]
    line = lines[team.worker]
    first = plan.columns.start[0]
    last = plan.columns.start[width - 1] + plan.columns.count[width - 1]
    index_start, index_stop = share_of(n * height, 1, team)
    for index in range(index_start, index_stop):
        i, h = index // height, index % height
        mix_rows(source[i], plan.rows, h, first * plan.channels, last * plan.channels, line)
        if plan.gray:
            mix_channels(line, first, last)
            mix_columns(line, 1, plan, target[i, h])
        elif plan.channels == 3 and target.shape[3] == 3:
            mix_color_columns(line, plan, target[i, h])
        else:
            mix_columns(line, plan.channels, plan, target[i, h])
