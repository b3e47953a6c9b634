"""Losses: from the last layer's output to its gradient and to each row's loss; predictions from the last output.

A warp has a row; its lanes share the columns and add up in a fixed order. Unlike the CPU's, a row's loss is left whole
and times its weight, so that `sum_of_batches` can add up an epoch on the GPU.
"""

from __future__ import annotations

import functools
import math

import numba
import numpy as np
from numba import uint32

from ..network import Loss
from .dense import row_number
from .jit import cuda, cuda_kernel, device_function
from .maths import maths
from .product import n_blocks
from .reductions import BLOCK, WARP, block_sum, warp_max, warp_sum

ROWS = 4  # of a block
LOWEST = -3e38  # below any logit; float32 has it


@device_function
def _row_of_warp():
    """Row of the batch that this warp has, and this lane."""
    return uint32(cuda.blockIdx.x) * uint32(ROWS) + uint32(cuda.threadIdx.y), uint32(cuda.threadIdx.x)


def _add(queue, kernel, n_rows, *args):
    queue.add(kernel, n_blocks(n_rows, ROWS), (WARP, ROWS), *args)


@functools.cache
def _softmax_row(dtype):
    """A device function: (max(z), sum of exp(z - max(z))) of one row, in every lane."""
    exp = maths(dtype.name).exp

    @device_function
    def largest_and_total(z, start, n_classes, lane):
        largest = dtype(LOWEST)
        for j in range(lane, n_classes, WARP):
            largest = max(largest, z[start + uint32(j)])
        largest = warp_max(largest)
        total = dtype(0)
        for j in range(lane, n_classes, WARP):
            total += exp(z[start + uint32(j)] - largest)
        return largest, warp_sum(total)

    return largest_and_total


@device_function
def labels_of(targets, row):
    """Where the labels of a row stand: positions [start, stop) in `targets.labels`."""
    if targets.label_starts.size > 0:
        return targets.label_starts[row], targets.label_starts[row + 1]
    return uint32(row), uint32(row + 1)


@device_function
def subtract_labels(grad_z, start, targets, first, last, share, lane):
    """Takes `share` off a row's gradient at each of its labels; each by the lane that has written there."""
    for p in range(first, last):
        label = uint32(targets.labels[p])
        if label % uint32(WARP) == lane:
            grad_z[start + label] -= share


@functools.cache
def _softmax_kernel(dtype):
    largest_and_total, exp, one = _softmax_row(dtype), maths(dtype.name).exp, dtype(1)

    @cuda_kernel(WARP * ROWS)
    def softmax_cross_entropy(z, targets, batch, scales, smoothing, grad_z, losses, sizes):
        i, lane = _row_of_warp()
        n_rows, n_classes = sizes
        if i < n_rows:
            z_start, g_start = z.start + i * z.stride, grad_z.start + i * grad_z.stride
            row = row_number(batch, i)
            weight, (first, last) = targets.weights[row], labels_of(targets, row)
            largest, total = largest_and_total(z.data, z_start, n_classes, lane)
            z_sum = dtype(0)
            if smoothing > 0:
                for j in range(lane, n_classes, WARP):
                    z_sum += z.data[z_start + uint32(j)]
                z_sum = warp_sum(z_sum)
            share, everywhere = one - smoothing, smoothing / dtype(n_classes)
            if last > first + 1:
                share /= dtype(last - first)
            if lane == 0:
                gap = largest - everywhere * z_sum
                for p in range(first, last):
                    gap -= share * z.data[z_start + uint32(targets.labels[p])]
                losses[batch.position[0] + i] = weight * (gap + dtype(math.log(total)))
            weight *= scales[batch.position[1]]
            factor = weight / total
            for j in range(lane, n_classes, WARP):
                p = factor * exp(z.data[z_start + uint32(j)] - largest)
                grad_z.data[g_start + uint32(j)] = p - weight * everywhere
            subtract_labels(grad_z.data, g_start, targets, first, last, weight * share, lane)

    return softmax_cross_entropy


def softmax_cross_entropy(queue, z, targets, batch, scales, smoothing, grad_z, losses, n_rows):
    """Loss -sum over j of t[j] log(softmax(z)[j]) and its gradient weight * scale * (softmax(z) - t).

    t is ``1 - smoothing`` at the label, or shared out evenly among the row's labels, plus ``smoothing / n_classes``
    everywhere (Szegedy et al. 2016, section 7).

    Parameters
    ----------
    z : Matrix (rows, n_classes)
    targets : Targets
        Labels and weights of all rows.
    batch : Batch
    scales : (n_batches,)
        One over the sum of each batch's weights.
    grad_z : Matrix (rows, n_classes)
        Overwritten; the pads stay as they are (zero).
    losses : (n,)
        Overwritten at the positions of these rows: weight times loss.
    """
    dtype = z.data.dtype
    sizes = np.uint32(n_rows), np.uint32(targets.n_outputs)
    kernel, smoothing = _softmax_kernel(getattr(numba, dtype.name)), dtype.type(smoothing)
    _add(queue, kernel, n_rows, z, targets.on_device, batch, scales, smoothing, grad_z, losses, sizes)


@functools.cache
def _one_vs_all_kernel(dtype):
    value, slope = maths(dtype.name).loss_value, maths(dtype.name).loss_slope
    loss, zero, one = Loss.SIGMOID_CROSS_ENTROPY, dtype(0), dtype(1)

    @cuda_kernel(WARP * ROWS)
    def one_vs_all(z, targets, batch, scales, smoothing, grad_z, losses, sizes):
        i, lane = _row_of_warp()
        n_rows, n_classes = sizes
        if i < n_rows:
            z_start, g_start = z.start + i * z.stride, grad_z.start + i * grad_z.stride
            row = row_number(batch, i)
            weight, (first, last) = targets.weights[row], labels_of(targets, row)
            factor, floor, total = weight * scales[batch.position[1]], smoothing / dtype(n_classes), zero
            for j in range(lane, n_classes, WARP):
                output = z.data[z_start + uint32(j)]
                total += value(loss, output, floor, zero)
                grad_z.data[g_start + uint32(j)] = slope(loss, output, floor, zero) * factor
            total = warp_sum(total)
            if lane == 0:
                for p in range(first, last):
                    total -= (one - smoothing) * z.data[z_start + uint32(targets.labels[p])]
                losses[batch.position[0] + i] = weight * total
            subtract_labels(grad_z.data, g_start, targets, first, last, factor * (one - smoothing), lane)

    return one_vs_all


def one_vs_all(queue, z, targets, batch, scales, smoothing, grad_z, losses, n_rows):
    """Loss sum over j of softplus(z[j]) - t[j] z[j] and its gradient weight * scale * (logistic(z) - t).

    The sigmoid cross-entropy of every class, for rows that have a few labels of many: t is ``1 - smoothing`` at each
    label plus ``smoothing / n_classes`` everywhere. Arguments as for `softmax_cross_entropy`.
    """
    dtype = z.data.dtype
    sizes = np.uint32(n_rows), np.uint32(targets.n_outputs)
    kernel, smoothing = _one_vs_all_kernel(getattr(numba, dtype.name)), dtype.type(smoothing)
    _add(queue, kernel, n_rows, z, targets.on_device, batch, scales, smoothing, grad_z, losses, sizes)


@functools.cache
def _elementwise_kernel(dtype, loss):
    value, slope = maths(dtype.name).loss_value, maths(dtype.name).loss_slope
    smooths, one, half = loss == Loss.SIGMOID_CROSS_ENTROPY, dtype(1), dtype(0.5)

    @cuda_kernel(WARP * ROWS)
    def elementwise_loss(z, targets, batch, scales, rule, grad_z, losses, sizes):
        i, lane = _row_of_warp()
        n_rows, n_outputs = sizes
        if i < n_rows:
            z_start, g_start = z.start + i * z.stride, grad_z.start + i * grad_z.stride
            row = row_number(batch, i)
            weight = targets.weights[row]
            factor = weight * scales[batch.position[1]]
            total = dtype(0)
            for j in range(lane, n_outputs, WARP):
                output, target = z.data[z_start + uint32(j)], targets.values[row * n_outputs + uint32(j)]
                if smooths:
                    target = target * (one - rule.label_smoothing) + half * rule.label_smoothing
                total += value(loss, output, target, rule.loss_parameter)
                grad_z.data[g_start + uint32(j)] = slope(loss, output, target, rule.loss_parameter) * factor
            total = warp_sum(total)
            if lane == 0:
                losses[batch.position[0] + i] = weight * total

    return elementwise_loss


def elementwise_loss(queue, z, targets, batch, scales, rule, grad_z, losses, n_rows):
    """Loss sum over j of loss(z[j], t[j]) and its gradient weight * scale * slope(z[j], t[j]): all but the softmax.

    Parameters
    ----------
    As `softmax_cross_entropy`; `rule` holds the loss's code, its parameter and the label smoothing
    (``t (1 - smoothing) + smoothing / 2``, for the sigmoid cross-entropy).
    """
    kernel = _elementwise_kernel(getattr(numba, z.data.dtype.name), rule.loss)
    sizes = np.uint32(n_rows), np.uint32(targets.n_outputs)
    _add(queue, kernel, n_rows, z, targets.on_device, batch, scales, rule.of_loss, grad_z, losses, sizes)


def apply_loss(queue, z, targets, batch, scales, rule, grad_z, losses, n_rows):
    """The loss of `rule` for the rows of a batch."""
    if rule.loss == Loss.SOFTMAX_CROSS_ENTROPY:
        smoothing = rule.of_loss.label_smoothing
        softmax_cross_entropy(queue, z, targets, batch, scales, smoothing, grad_z, losses, n_rows)
    elif targets.on_device.values.size == 0:
        one_vs_all(queue, z, targets, batch, scales, rule.of_loss.label_smoothing, grad_z, losses, n_rows)
    else:
        elementwise_loss(queue, z, targets, batch, scales, rule, grad_z, losses, n_rows)


@functools.cache
def _sum_kernel(dtype):
    sum_of_block = block_sum(dtype)

    @cuda_kernel(BLOCK)
    def sum_of_batches(losses, sums, batch_size):
        number = uint32(cuda.blockIdx.x)
        start = uint32(number * batch_size)
        stop = min(uint32(start + batch_size), uint32(losses.size))
        total = dtype(0)
        for position in range(start + uint32(cuda.threadIdx.x), stop, BLOCK):
            total += losses[position]
        total = sum_of_block(total)
        if cuda.threadIdx.x == 0:
            sums[number] = total

    return sum_of_batches


def sum_of_batches(queue, losses, sums, batch_size):
    """``sums[b] = sum of losses[b * batch_size : (b + 1) * batch_size]``."""
    kernel = _sum_kernel(getattr(numba, losses.dtype.name))
    queue.add(kernel, n_blocks(losses.size, batch_size), BLOCK, losses, sums, np.uint32(batch_size))


@functools.cache
def _link_kernel(dtype, loss):
    largest_and_total, inverse_link = _softmax_row(dtype), maths(dtype.name).inverse_link
    exp, softmax = maths(dtype.name).exp, loss == Loss.SOFTMAX_CROSS_ENTROPY

    @cuda_kernel(WARP * ROWS)
    def apply_inverse_link(z, batch, out, sizes):
        i, lane = _row_of_warp()
        n_rows, n_outputs = sizes
        if i < n_rows:
            z_start, o_start = z.start + i * z.stride, out.start + (batch.position[0] + i) * out.stride
            largest, total = dtype(0), dtype(1)
            if softmax:
                largest, total = largest_and_total(z.data, z_start, n_outputs, lane)
            for j in range(lane, n_outputs, WARP):
                output = z.data[z_start + uint32(j)]
                value = exp(output - largest) / total if softmax else inverse_link(loss, output)
                out.data[o_start + uint32(j)] = value

    return apply_inverse_link


def apply_inverse_link(queue, z, loss, n_outputs, batch, out, n_rows):
    """Predictions ``out[i_start + i] = inverse link of z[i]``; z is overwritten.

    Parameters
    ----------
    z : Matrix (n_rows, n_outputs)
        Not overwritten here.
    loss : int
        Its code says the link: softmax, logistic, exp or none.
    out : Matrix (n_samples, n_outputs)
        Overwritten from row `position` of the batch on.
    """
    kernel = _link_kernel(getattr(numba, z.data.dtype.name), int(loss))
    _add(queue, kernel, n_rows, z, batch, out, (np.uint32(n_rows), np.uint32(n_outputs)))
