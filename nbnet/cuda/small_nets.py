"""Many small networks at once: each block of threads trains one of them for an epoch, by itself.

A small network keeps a few threads busy, so one alone leaves most of a GPU idle. Here, networks with the same layers
share a launch: they read one X, and each has its own parameters, targets, order of rows and step sizes. A block needs
no other, so barriers within the block are all there is, and a launch covers an epoch of every network.

Every sum is the same chain of additions as in the kernels that train one network; see `dense`.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numba
import numpy as np
from numba import uint32, uint64

from ..network import Activation, Loss, Network, Optimizer
from ..random import Stream
from .intrinsics import load4, store4
from .jit import cuda, cuda_kernel, device_function
from .launch import upload
from .maths import maths, philox
from .optimizers import FLAGGED, flags_of_weights
from .reductions import WARP, warp_max, warp_sum

THREADS = 256
LOWEST = -3e38  # below any logit; float32 has it

# numbers of a layer in `Shape.layers`: sizes, strides, and where things start among a network's parameters or values
N_IN, N_OUT, IN_STRIDE, OUT_STRIDE, WEIGHT, BIAS, X, Y = range(8)
N_FIELDS = 8


class Table(NamedTuple):
    """X, which all networks read, and what each has to learn, network after network."""

    values: object  # (n_rows * n_columns,)
    labels: object  # int32 (n_nets * n_rows,), or no elements
    targets: object  # (n_nets * n_rows * n_outputs,), or no elements
    weights: object  # (n_nets * n_rows,)
    n_rows: int  # uint32
    n_columns: int  # uint32


class Nets(NamedTuple):
    """What training changes, network after network."""

    params: object  # (n_nets * n_params,)
    grads: object  # (n_nets * n_params,)
    moments: object  # (n_nets * 2 n_params,)
    values: object  # (n_nets * room,): a batch's input, then the outputs of each layer
    slopes: object  # (n_nets * room,): at the same places, first the slopes, then the gradients


class Shape(NamedTuple):
    """The layers, which are those of every network."""

    layers: object  # uint32 (n_layers * N_FIELDS,)
    is_weight: object  # uint8 (n_params / FLAGGED,)
    n_hidden: int  # uint32: layers but for the last
    n_params: int  # uint32
    room: int  # uint32: elements of a batch's input and all outputs


class Rules(NamedTuple):
    """Settings of each network, all (n_nets,)."""

    batch_sizes: object  # uint32
    seeds: object  # uint64
    thresholds: object  # uint64: 2**32 times the share of outputs that dropout sets to zero
    factors: object  # of the other outputs
    momenta: object
    gaps_1: object  # 1 - beta_1
    gaps_2: object  # 1 - beta_2
    epsilons: object
    max_norms: object  # 0: gradients are not clipped
    loss_parameters: object
    smoothings: object


class Epoch(NamedTuple):
    """The epoch of each network."""

    active: object  # uint32 (n_nets,): first the numbers of the networks to train
    order: object  # uint32 (n_nets * order_stride,): row numbers
    sizes: object  # uint32 (n_nets,): how many
    first_steps: object  # uint32 (n_nets,): steps made before
    rates: object  # (n_nets * batch_stride,): of each step, as the following
    l2: object
    decays: object
    scales: object  # one over the sum of the batch's weights
    order_stride: int  # uint32
    batch_stride: int  # uint32


class Report(NamedTuple):
    """What an epoch leaves."""

    losses: object  # (n_nets * batch_stride,): weighted sum over each batch
    penalties: object  # (n_nets * batch_stride,): sum of squares of all weights before each step
    largest: object  # (n_nets,): largest absolute parameter, infinite where one is not finite


def shape_of(network: Network, capacity: int) -> Shape:
    """The layers of a network as the kernel reads them, with room for batches of `capacity` rows."""
    layers = np.zeros((len(network.layers), N_FIELDS), np.uint32)
    start = 0
    stop = capacity * int(network.layers["in_stride"][0])
    for numbers, row in zip(layers, network.layers, strict=True):
        numbers[:] = (*(row[name] for name in ("n_in", "n_out", "in_stride", "out_stride")), 0, 0, start, stop)
        numbers[WEIGHT], numbers[BIAS] = row["weight_start"], row["bias_start"]
        start, stop = stop, stop + capacity * int(row["out_stride"])
    sizes = len(network.layers) - 1, network.n_params, stop
    return Shape(upload(layers), flags_of_weights(network), *(np.uint32(size) for size in sizes))


# ---------------------------------------------------------------- parts of the kernel: all threads of a block call them
# `at` is (net, where its parameters start, where its values start, rows of the batch).


def _sum(threads):
    """A device function: sum over all threads, in every thread; may be called again and again."""
    n_warps = threads // WARP

    @device_function
    def sum_of_block(value, parts):
        thread = uint32(cuda.threadIdx.x)
        value = warp_sum(value)
        cuda.syncthreads()  # the last call's parts have been read
        if thread % uint32(WARP) == 0:
            parts[thread // uint32(WARP)] = value
        cuda.syncthreads()
        total = parts[0]
        for warp in range(1, n_warps):
            total += parts[warp]
        return total

    return sum_of_block


def _gather(threads):
    @device_function
    def gather(table, nets, epoch, shape, order_start, at):
        """Rows of X into the batch's input; the pads stay zero."""
        _, _, start, n_rows = at
        stride = shape.layers[IN_STRIDE]
        for item in range(cuda.threadIdx.x, uint32(n_rows * table.n_columns), threads):
            i = uint32(uint32(item) // table.n_columns)
            column = uint32(uint32(item) - i * table.n_columns)
            row = uint64(epoch.order[order_start + i])
            nets.values[start + i * stride + column] = table.values[row * uint64(table.n_columns) + uint64(column)]

    return gather


def _forward(dtype, activation, threads):
    """``y = activation(x @ weight + bias)``, its slopes, and dropout; of these the last layer has the product."""
    hidden = activation is not None
    activate, slope, zero = maths(dtype.name).activate, maths(dtype.name).activation_slope, dtype(0)
    code = int(activation) if hidden else 0

    @device_function
    def forward(nets, shape, rules, layer, step, at):
        net, params_start, start, n_rows = at
        fields = uint32(layer * uint32(N_FIELDS))
        n_in, n_out = shape.layers[fields + uint32(N_IN)], shape.layers[fields + uint32(N_OUT)]
        in_stride, stride = shape.layers[fields + uint32(IN_STRIDE)], shape.layers[fields + uint32(OUT_STRIDE)]
        weight_start = uint32(params_start + shape.layers[fields + uint32(WEIGHT)])
        bias_start = uint32(params_start + shape.layers[fields + uint32(BIAS)])
        x_start, y_start = start + shape.layers[fields + uint32(X)], start + shape.layers[fields + uint32(Y)]
        n_groups = uint32(stride // uint32(4))
        for item in range(cuda.threadIdx.x, uint32(n_rows * n_groups), threads):
            i = uint32(uint32(item) // n_groups)
            group = uint32(uint32(item) - i * n_groups)
            column = uint32(group * uint32(4))
            z0 = z1 = z2 = z3 = zero
            x_at, w_at = uint32(x_start + i * in_stride), uint32(weight_start + column)
            for _ in range(n_in):
                x = nets.values[x_at]
                w0, w1, w2, w3 = load4(nets.params, w_at)
                z0 += x * w0
                z1 += x * w1
                z2 += x * w2
                z3 += x * w3
                x_at = uint32(x_at + uint32(1))
                w_at = uint32(w_at + stride)
            b0, b1, b2, b3 = load4(nets.params, uint32(bias_start + column))
            z0, z1, z2, z3 = z0 + b0, z1 + b1, z2 + b2, z3 + b3
            y_at = uint32(y_start + i * stride + column)
            if hidden:
                y0, y1, y2, y3 = activate(code, z0), activate(code, z1), activate(code, z2), activate(code, z3)
                s0, s1, s2, s3 = slope(code, z0, y0), slope(code, z1, y1), slope(code, z2, y2), slope(code, z3, y3)
                m0 = m1 = m2 = m3 = dtype(1)
                if rules.thresholds[net] > uint64(0):
                    stream = uint64(Stream.DROPOUT) + uint64(256) * uint64(layer)
                    r0, r1, r2, r3 = philox(uint64(group), uint64(i), uint64(step), stream, rules.seeds[net])
                    threshold, factor = rules.thresholds[net], rules.factors[net]
                    m0 = factor if r0 >= threshold else zero
                    m1 = factor if r1 >= threshold else zero
                    m2 = factor if r2 >= threshold else zero
                    m3 = factor if r3 >= threshold else zero
                # pads stay zero, whatever activation(0) is
                m0 = m0 if column < n_out else zero
                m1 = m1 if uint32(column + uint32(1)) < n_out else zero
                m2 = m2 if uint32(column + uint32(2)) < n_out else zero
                m3 = m3 if uint32(column + uint32(3)) < n_out else zero
                store4(nets.slopes, y_at, s0 * m0, s1 * m1, s2 * m2, s3 * m3)
                z0, z1, z2, z3 = y0 * m0, y1 * m1, y2 * m2, y3 * m3
            store4(nets.values, y_at, z0, z1, z2, z3)

    return forward


def _softmax(dtype, threads):
    """Softmax cross-entropy; a warp has a row. See `losses.softmax_cross_entropy`."""
    exp, one, n_warps = maths(dtype.name).exp, dtype(1), threads // WARP

    @device_function
    def loss_of_rows(table, nets, rules, order, output, scale, at):
        net, _, _, n_rows = at
        order_start, targets_start = order[1], order[2]
        start, stride, n_classes = output
        lane = uint32(cuda.threadIdx.x) % uint32(WARP)
        smoothing = rules.smoothings[net]
        share, everywhere = one - smoothing, smoothing / dtype(n_classes)
        sum_of_losses = dtype(0)
        for i in range(uint32(cuda.threadIdx.x) // uint32(WARP), n_rows, n_warps):
            row = uint32(targets_start + order[0][uint32(order_start + uint32(i))])
            z_start = uint32(start + uint32(i) * stride)
            label, weight = uint32(table.labels[row]), table.weights[row]
            largest, total, z_sum = dtype(LOWEST), dtype(0), dtype(0)
            for j in range(lane, n_classes, WARP):
                largest = max(largest, nets.values[z_start + uint32(j)])
            largest = warp_max(largest)
            for j in range(lane, n_classes, WARP):
                z = nets.values[z_start + uint32(j)]
                total += exp(z - largest)
                z_sum += z
            total, z_sum = warp_sum(total), warp_sum(z_sum)
            if lane == 0:
                gap = largest - everywhere * z_sum - share * nets.values[z_start + label]
                sum_of_losses += weight * (gap + dtype(math.log(total)))
            weight *= scale
            factor = weight / total
            for j in range(lane, n_classes, WARP):
                slope = factor * exp(nets.values[z_start + uint32(j)] - largest) - weight * everywhere
                if uint32(j) == label:
                    slope -= weight * share
                nets.slopes[z_start + uint32(j)] = slope
        return sum_of_losses

    return loss_of_rows


def _elementwise(dtype, loss, threads):
    """All losses but the softmax; a thread has an output of a row. See `losses.elementwise_loss`."""
    value, slope = maths(dtype.name).loss_value, maths(dtype.name).loss_slope
    smooths, one, half = loss == Loss.SIGMOID_CROSS_ENTROPY, dtype(1), dtype(0.5)

    @device_function
    def loss_of_rows(table, nets, rules, order, output, scale, at):
        net, _, _, n_rows = at
        order_start, targets_start = order[1], order[2]
        start, stride, n_outputs = output
        smoothing, parameter = rules.smoothings[net], rules.loss_parameters[net]
        sum_of_losses = dtype(0)
        for item in range(cuda.threadIdx.x, uint32(n_rows * n_outputs), threads):
            i = uint32(uint32(item) // n_outputs)
            j = uint32(uint32(item) - i * n_outputs)
            row = uint32(targets_start + order[0][uint32(order_start + i)])
            z_at = uint32(start + i * stride + j)
            z, t, weight = nets.values[z_at], table.targets[uint32(row * n_outputs + j)], table.weights[row]
            if smooths:
                t = t * (one - smoothing) + half * smoothing
            sum_of_losses += weight * value(loss, z, t, parameter)
            nets.slopes[z_at] = slope(loss, z, t, parameter) * (weight * scale)
        return sum_of_losses

    return loss_of_rows


def _backward(dtype, threads):
    zero = dtype(0)

    @device_function
    def backward(nets, shape, layer, at):
        """``grad_x = slopes * (grad_y @ weight.T)``: back through a layer and the activation below it."""
        _, params_start, start, n_rows = at
        fields = uint32(layer * uint32(N_FIELDS))
        n_in, in_stride = shape.layers[fields + uint32(N_IN)], shape.layers[fields + uint32(IN_STRIDE)]
        stride = shape.layers[fields + uint32(OUT_STRIDE)]
        weight_start = uint32(params_start + shape.layers[fields + uint32(WEIGHT)])
        x_start, y_start = start + shape.layers[fields + uint32(X)], start + shape.layers[fields + uint32(Y)]
        for item in range(cuda.threadIdx.x, uint32(n_rows * n_in), threads):
            i = uint32(uint32(item) // n_in)
            k = uint32(uint32(item) - i * n_in)
            g_at, w_at = uint32(y_start + i * stride), uint32(weight_start + k * stride)
            total = zero
            for _ in range(stride // uint32(4)):
                g0, g1, g2, g3 = load4(nets.slopes, g_at)
                w0, w1, w2, w3 = load4(nets.params, w_at)
                total += g0 * w0
                total += g1 * w1
                total += g2 * w2
                total += g3 * w3
                g_at, w_at = uint32(g_at + uint32(4)), uint32(w_at + uint32(4))
            x_at = uint32(x_start + i * in_stride + k)
            nets.slopes[x_at] *= total

    return backward


def _gradients(dtype, threads):
    zero, one = dtype(0), dtype(1)

    @device_function
    def gradients(nets, shape, layer, at):
        """``grad_weight[k] = sum over i of x[i, k] * grad_y[i]``; behind the last k comes the bias, whose x is 1."""
        _, params_start, start, n_rows = at
        fields = uint32(layer * uint32(N_FIELDS))
        n_in, in_stride = shape.layers[fields + uint32(N_IN)], shape.layers[fields + uint32(IN_STRIDE)]
        stride = shape.layers[fields + uint32(OUT_STRIDE)]
        weight_start = uint32(params_start + shape.layers[fields + uint32(WEIGHT)])
        bias_start = uint32(params_start + shape.layers[fields + uint32(BIAS)])
        x_start, y_start = start + shape.layers[fields + uint32(X)], start + shape.layers[fields + uint32(Y)]
        n_groups = uint32(stride // uint32(4))
        for item in range(cuda.threadIdx.x, uint32((n_in + uint32(1)) * n_groups), threads):
            k = uint32(uint32(item) // n_groups)
            column = uint32((uint32(item) - k * n_groups) * uint32(4))
            is_bias = k == n_in
            g0 = g1 = g2 = g3 = zero
            x_at, y_at = uint32(x_start + k), uint32(y_start + column)
            for _ in range(n_rows):
                x = one if is_bias else nets.values[x_at]
                s0, s1, s2, s3 = load4(nets.slopes, y_at)
                g0 += x * s0
                g1 += x * s1
                g2 += x * s2
                g3 += x * s3
                x_at, y_at = uint32(x_at + in_stride), uint32(y_at + stride)
            store4(nets.grads, uint32((bias_start if is_bias else weight_start + k * stride) + column), g0, g1, g2, g3)

    return gradients


def _squares(dtype, threads):
    zero = dtype(0)

    @device_function
    def squares_of_gradient(nets, shape, at):
        """This thread's part of the squared norm of the gradient."""
        params_start, total = at[1], zero
        for group in range(cuda.threadIdx.x, shape.n_params // uint32(4), threads):
            g0, g1, g2, g3 = load4(nets.grads, uint32(params_start + uint32(group) * uint32(4)))
            total += g0 * g0 + g1 * g1 + g2 * g2 + g3 * g3
        return total

    return squares_of_gradient


def _update(dtype, optimizer, nesterov):
    """A device function: ``w, m, v = update(w, g, m, v, rate, decay, rule)``, and whether there is a second moment."""
    names = maths(dtype.name)
    if optimizer in (Optimizer.ADAM, Optimizer.ADAMW):
        adam = names.adam

        @device_function
        def update(w, g, m, v, rate, decay, rule):
            return adam(w, g, m, v, rate, decay, rule[1], rule[2], rule[3])

        return update, True
    if optimizer == Optimizer.ADAGRAD:
        adagrad = names.adagrad

        @device_function
        def update(w, g, m, v, rate, decay, rule):
            w, m = adagrad(w, g, m, rate)
            return w, m, v

        return update, False
    sgd = names.sgd_nesterov if nesterov else names.sgd_momentum

    @device_function
    def update(w, g, m, v, rate, decay, rule):
        w, m = sgd(w, g, m, rate, rule[0])
        return w, m, v

    return update, False


def _descend(dtype, optimizer, nesterov, threads):
    (update, two), zero = _update(dtype, optimizer, nesterov), dtype(0)

    @device_function
    def descend(nets, shape, step, rule, factor, at):
        """One update of all parameters; returns this thread's part of the sum of squares of the weights before it."""
        params_start, total = at[1], zero
        rate, l2_of_weights, decay_of_weights = step
        for group in range(cuda.threadIdx.x, shape.n_params // uint32(4), threads):
            position = uint32(uint32(group) * uint32(4))
            at_w = uint32(params_start + position)
            at_m = uint32(params_start + at_w)  # as there are two moments for each parameter
            at_v = uint32(at_m + shape.n_params)
            l2, decay = zero, zero
            w0, w1, w2, w3 = load4(nets.params, at_w)
            if shape.is_weight[position // uint32(FLAGGED)] > 0:
                l2, decay = l2_of_weights, decay_of_weights
                total += w0 * w0 + w1 * w1 + w2 * w2 + w3 * w3
            g0, g1, g2, g3 = load4(nets.grads, at_w)
            g0, g1, g2, g3 = g0 * factor + l2 * w0, g1 * factor + l2 * w1, g2 * factor + l2 * w2, g3 * factor + l2 * w3
            m0, m1, m2, m3 = load4(nets.moments, at_m)
            v0 = v1 = v2 = v3 = zero
            if two:
                v0, v1, v2, v3 = load4(nets.moments, at_v)
            w0, m0, v0 = update(w0, g0, m0, v0, rate, decay, rule)
            w1, m1, v1 = update(w1, g1, m1, v1, rate, decay, rule)
            w2, m2, v2 = update(w2, g2, m2, v2, rate, decay, rule)
            w3, m3, v3 = update(w3, g3, m3, v3, rate, decay, rule)
            store4(nets.params, at_w, w0, w1, w2, w3)
            store4(nets.moments, at_m, m0, m1, m2, m3)
            if two:
                store4(nets.moments, at_v, v0, v1, v2, v3)
        return total

    return descend


def _largest(dtype, threads):
    infinite, highest, n_warps = dtype(math.inf), dtype(np.finfo(dtype.name).max), threads // WARP

    @device_function
    def largest_parameter(nets, shape, parts, at):
        """Largest absolute parameter, infinite where one is not finite; in the first thread."""
        params_start, largest = at[1], dtype(0)
        for i in range(cuda.threadIdx.x, shape.n_params, threads):
            size = abs(nets.params[uint32(params_start + uint32(i))])
            largest = max(largest, size) if size <= highest else infinite
        largest = warp_max(largest)
        cuda.syncthreads()
        if uint32(cuda.threadIdx.x) % uint32(WARP) == 0:
            parts[uint32(cuda.threadIdx.x) // uint32(WARP)] = largest
        cuda.syncthreads()
        for warp in range(n_warps):
            largest = max(largest, parts[warp])
        return largest

    return largest_parameter


# ---------------------------------------------------------------- the kernel


@functools.cache
def _kernel(dtype, activation, loss, optimizer, nesterov, threads):
    n_warps, zero, one = threads // WARP, dtype(0), dtype(1)
    gather, sum_of_block = _gather(threads), _sum(threads)
    hidden_layer, last_layer = _forward(dtype, activation, threads), _forward(dtype, None, threads)
    softmax = loss == Loss.SOFTMAX_CROSS_ENTROPY
    loss_of_rows = _softmax(dtype, threads) if softmax else _elementwise(dtype, loss, threads)
    backward, gradients = _backward(dtype, threads), _gradients(dtype, threads)
    squares_of_gradient, descend = _squares(dtype, threads), _descend(dtype, optimizer, nesterov, threads)
    largest_parameter = _largest(dtype, threads)

    @cuda_kernel(threads)
    def train_epoch(table, nets, shape, rules, epoch, report):
        net = epoch.active[cuda.blockIdx.x]
        parts = cuda.shared.array(n_warps, dtype)
        rule = rules.momenta[net], rules.gaps_1[net], rules.gaps_2[net], rules.epsilons[net]
        last = uint32(shape.n_hidden * uint32(N_FIELDS))
        n_outputs, out_stride = shape.layers[last + uint32(N_OUT)], shape.layers[last + uint32(OUT_STRIDE)]
        params_start, start = uint32(net * shape.n_params), uint32(net * shape.room)
        output = uint32(start + shape.layers[last + uint32(Y)]), out_stride, n_outputs
        targets_start = uint32(net * table.n_rows)
        first, number = uint32(0), uint32(net * epoch.batch_stride)
        step = epoch.first_steps[net]
        while first < epoch.sizes[net]:
            n_rows = min(rules.batch_sizes[net], uint32(epoch.sizes[net] - first))
            at = net, params_start, start, n_rows
            order_start = uint32(net * epoch.order_stride + first)
            gather(table, nets, epoch, shape, order_start, at)
            cuda.syncthreads()
            for layer in range(shape.n_hidden):
                hidden_layer(nets, shape, rules, uint32(layer), step, at)
                cuda.syncthreads()
            last_layer(nets, shape, rules, shape.n_hidden, step, at)
            cuda.syncthreads()
            order = epoch.order, order_start, targets_start
            total = loss_of_rows(table, nets, rules, order, output, epoch.scales[number], at)
            total = sum_of_block(total, parts)
            if cuda.threadIdx.x == 0:
                report.losses[number] = total
            for above in range(shape.n_hidden):
                backward(nets, shape, uint32(shape.n_hidden - uint32(above)), at)
                cuda.syncthreads()
            for layer in range(shape.n_hidden + uint32(1)):
                gradients(nets, shape, uint32(layer), at)
            cuda.syncthreads()
            factor = one
            if rules.max_norms[net] > zero:
                norm = dtype(math.sqrt(sum_of_block(squares_of_gradient(nets, shape, at), parts)))
                factor = rules.max_norms[net] / norm if norm > rules.max_norms[net] else one
            sizes = epoch.rates[number], epoch.l2[number], epoch.decays[number]
            total = sum_of_block(descend(nets, shape, sizes, rule, factor, at), parts)
            if cuda.threadIdx.x == 0:
                report.penalties[number] = total
            first = uint32(first + n_rows)
            number = uint32(number + uint32(1))
            step = uint32(step + uint32(1))
        largest = largest_parameter(nets, shape, parts, (net, params_start, start, uint32(0)))
        if cuda.threadIdx.x == 0:
            report.largest[net] = largest

    return train_epoch


class Kind(NamedTuple):
    """What networks of one launch have in common beside their layers: what the kernel is compiled for."""

    activation: Activation  # of all hidden layers
    loss: Loss
    optimizer: Optimizer
    nesterov: bool


def train_epoch(queue, table, nets, shape, rules, epoch, report, kind, n_active):
    """One pass over the rows of each active network.

    Parameters
    ----------
    table : Table
    nets : Nets
        Updated.
    shape : Shape
    rules : Rules
    epoch : Epoch
    report : Report
        Overwritten for the active networks.
    kind : Kind
    n_active : int
        How many networks are active.

    Notes
    -----
    A block has a network. A step has three barriers, and two more for each hidden layer; clipping adds two.
    """
    dtype = getattr(numba, nets.params.dtype.name)
    kernel = _kernel(dtype, *kind, THREADS)
    queue.add(kernel, n_active, THREADS, table, nets, shape, rules, epoch, report)
