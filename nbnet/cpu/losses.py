"""Losses: from the last layer's output to its gradient and to each row's loss.

A row's loss is ``log(sums[i]) + gaps[i]``: the softmax leaves its logarithm to whoever adds the rows up, who can
take it for all rows at once; the other losses leave the sums at one.
"""

from __future__ import annotations

from .. import scalar
from ..jit import cpu_inline, cpu_kernel
from ..network import Loss
from .simd import lanes, lanes_below, prefetch, shape, tile_load, tile_max, tile_store, tile_sum, tile_zeros

LOWEST = -3e38  # below any logit; float32 has it


@cpu_inline
def softmax_row(z, z_start, p, p_start, n_classes):
    """``p = exp(z - max(z))``, pads zero; returns (max, sum of p)."""
    row_shape, width = shape(1, 1), lanes(z)
    top = lanes_below(tile_zeros(row_shape, z), 0, LOWEST)
    for j in range(0, n_classes, width):
        top = scalar.maximum(lanes_below(tile_load(row_shape, z, z_start + j, 0), n_classes - j, LOWEST), top)
    largest = tile_max(top)
    total = tile_zeros(row_shape, z)
    for j in range(0, n_classes, width):
        e = lanes_below(scalar.exp(tile_load(row_shape, z, z_start + j, 0) - largest), n_classes - j, 0.0)
        total = total + e
        tile_store(e, p, p_start + j, 0)
    return largest, tile_sum(total)


@cpu_inline
def labels_of(targets, row):
    """Where the labels of a row stand: positions [start, stop) in `targets.labels`."""
    if targets.label_starts.size > 0:
        return targets.label_starts[row], targets.label_starts[row + 1]
    return row, row + 1


@cpu_kernel
def prefetch_targets(targets, order, start, n):
    """Asks for the weights and labels of the n rows from position `start` of the order on."""
    for i in range(start, min(start + n, order.size)):
        prefetch(targets.weights, order[i])
        if targets.label_starts.size > 0:
            prefetch(targets.label_starts, order[i])
        else:
            prefetch(targets.labels, order[i])


@cpu_kernel
def softmax_cross_entropy(z, targets, order, scale, smoothing, grad_z, record, i_range):
    """Loss -sum over j of t[j] log(softmax(z)[j]) and its gradient weight * scale * (softmax(z) - t).

    t is ``1 - smoothing`` at the label, or shared out evenly among the row's labels, plus ``smoothing / n_classes``
    everywhere (Szegedy et al. 2016, section 7).

    Parameters
    ----------
    z : Matrix (rows, n_classes)
    targets : Targets
        Labels and weights of all rows.
    order : int64 (rows,)
        The batch's row numbers.
    scale : float
        One over the sum of the batch's weights.
    grad_z : Matrix (rows, n_classes)
        Overwritten, pads with zero.
    record : Record
        ``sums[order position]`` and ``gaps[order position]`` of these rows; overwritten.
    """
    n_classes, row_shape, width = targets.n_outputs, shape(1, 1), lanes(z.data)
    for i in range(i_range[0], i_range[1]):
        z_start, g_start = z.start + i * z.stride, grad_z.start + i * grad_z.stride
        largest, total = softmax_row(z.data, z_start, grad_z.data, g_start, n_classes)
        weight = targets.weights[order[i]] * scale
        first, last = labels_of(targets, order[i])
        share = (1.0 - smoothing) / max(last - first, 1)
        factor, shift = weight / total, weight * smoothing / n_classes
        z_sum = tile_zeros(row_shape, z.data)
        for j in range(0, n_classes, width):
            p = tile_load(row_shape, grad_z.data, g_start + j, 0)
            if smoothing > 0.0:
                z_sum = z_sum + lanes_below(tile_load(row_shape, z.data, z_start + j, 0), n_classes - j, 0.0)
                p = lanes_below(p * factor - shift, n_classes - j, 0.0)
            else:
                p = p * factor
            tile_store(p, grad_z.data, g_start + j, 0)
        gap = largest - smoothing * (tile_sum(z_sum) / n_classes)
        for p in range(first, last):
            label = targets.labels[p]
            grad_z.data[g_start + label] -= weight * share
            gap -= share * z.data[z_start + label]
        record.sums[i] = total
        record.gaps[i] = gap


@cpu_kernel
def one_vs_all(z, targets, order, scale, smoothing, grad_z, record, i_range):
    """Loss sum over j of softplus(z[j]) - t[j] z[j] and its gradient weight * scale * (logistic(z) - t).

    The sigmoid cross-entropy of every class, for rows that have a few labels of many: t is ``1 - smoothing`` at each
    label plus ``smoothing / n_classes`` everywhere. Arguments as for `softmax_cross_entropy`.
    """
    n_classes, row_shape, width = targets.n_outputs, shape(1, 1), lanes(z.data)
    floor = smoothing / n_classes
    for i in range(i_range[0], i_range[1]):
        z_start, g_start = z.start + i * z.stride, grad_z.start + i * grad_z.stride
        weight = targets.weights[order[i]] * scale
        total = tile_zeros(row_shape, z.data)
        for j in range(0, n_classes, width):
            output = tile_load(row_shape, z.data, z_start + j, 0)
            value = scalar.loss_value(Loss.SIGMOID_CROSS_ENTROPY, output, floor, 0.0)
            slope = scalar.loss_slope(Loss.SIGMOID_CROSS_ENTROPY, output, floor, 0.0)
            total = total + lanes_below(value, n_classes - j, 0.0)
            tile_store(lanes_below(slope * weight, n_classes - j, 0.0), grad_z.data, g_start + j, 0)
        loss = tile_sum(total)
        first, last = labels_of(targets, order[i])
        for p in range(first, last):
            label = targets.labels[p]
            grad_z.data[g_start + label] -= weight * (1.0 - smoothing)
            loss -= (1.0 - smoothing) * z.data[z_start + label]
        record.gaps[i] = loss


@cpu_kernel
def elementwise_loss(z, targets, order, scale, rule, grad_z, record, i_range):
    """Loss sum over j of loss(z[j], t[j]) and its gradient weight * scale * slope(z[j], t[j]): all but the softmax.

    Outputs are packed into whole vectors across rows, so that a single output a row costs no sixteen.

    Parameters
    ----------
    As `softmax_cross_entropy`; `rule` holds the loss's code, its parameter and the label smoothing
    (``t (1 - smoothing) + smoothing / 2``, for the sigmoid cross-entropy).
    """
    n_outputs, row_shape, width = targets.n_outputs, shape(1, 1), lanes(z.data)
    pieces = record.pieces  # two vectors of this worker: z and t, then loss and slope
    smoothing = rule.label_smoothing if rule.loss == Loss.SIGMOID_CROSS_ENTROPY else 0.0
    i, j = i_range[0], 0
    left = (i_range[1] - i_range[0]) * n_outputs
    while left > 0:
        count = min(left, width)
        i_first, j_first = i, j
        for e in range(count):
            pieces[e] = z.data[z.start + i * z.stride + j]
            pieces[width + e] = targets.values[order[i], j] * (1.0 - smoothing) + 0.5 * smoothing
            i, j = (i + 1, 0) if j + 1 == n_outputs else (i, j + 1)
        output, target = tile_load(row_shape, pieces, 0, 0), tile_load(row_shape, pieces, width, 0)
        tile_store(scalar.loss_value(rule.loss, output, target, rule.loss_parameter), pieces, 0, 0)
        tile_store(scalar.loss_slope(rule.loss, output, target, rule.loss_parameter), pieces, width, 0)
        i, j = i_first, j_first
        for e in range(count):
            record.gaps[i] = pieces[e] if j == 0 else record.gaps[i] + pieces[e]
            grad_z.data[grad_z.start + i * grad_z.stride + j] = pieces[width + e] * (targets.weights[order[i]] * scale)
            i, j = (i + 1, 0) if j + 1 == n_outputs else (i, j + 1)
        left -= count


@cpu_inline
def apply_loss(z, targets, order, scale, rule, grad_z, record, i_range):
    """The loss of `rule` for rows [i_range[0], i_range[1]) of a batch."""
    if rule.loss == Loss.SOFTMAX_CROSS_ENTROPY:
        softmax_cross_entropy(z, targets, order, scale, rule.label_smoothing, grad_z, record, i_range)
    elif targets.values.size == 0:
        one_vs_all(z, targets, order, scale, rule.label_smoothing, grad_z, record, i_range)
    else:
        elementwise_loss(z, targets, order, scale, rule, grad_z, record, i_range)


@cpu_kernel
def apply_inverse_link(z, loss, n_outputs, out, i_start, n_rows):
    """Predictions ``out[i_start + i] = inverse link of z[i]``; z is overwritten.

    Parameters
    ----------
    z : Matrix (n_rows, n_outputs)
    loss : int
        Its code says the link: softmax, logistic, exp or none.
    out : (n_samples, n_outputs)
    """
    row_shape, width = shape(1, 1), lanes(z.data)
    for i in range(n_rows):
        z_start = z.start + i * z.stride
        if loss == Loss.SOFTMAX_CROSS_ENTROPY:
            _, total = softmax_row(z.data, z_start, z.data, z_start, n_outputs)
            for j in range(n_outputs):
                out[i_start + i, j] = z.data[z_start + j] / total
        else:
            for j in range(0, n_outputs, width):
                tile_store(
                    scalar.inverse_link(loss, tile_load(row_shape, z.data, z_start + j, 0)), z.data, z_start + j, 0
                )
            for j in range(n_outputs):
                out[i_start + i, j] = z.data[z_start + j]
