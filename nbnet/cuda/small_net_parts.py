"""What a step of `small_nets` consists of: parts of its kernel, each called by all threads of a block.

`at` says what a block works on: the network's number, where its parameters start, where its values start, and the rows
of the batch. Between two parts there is a barrier where the second reads what the first has written.
"""

from __future__ import annotations

import math

import numpy as np
from numba import uint32, uint64

from ..network import Loss, Optimizer
from ..random import Stream
from .intrinsics import load4, store4
from .jit import cuda, device_function
from .maths import maths, philox
from .optimizers import FLAGGED
from .reductions import WARP, warp_max, warp_sum

# numbers of a layer in `Shape.layers`: sizes, strides, and where things start among a network's parameters or values
N_IN, N_OUT, IN_STRIDE, OUT_STRIDE, WEIGHT, BIAS, X, Y = range(8)
N_FIELDS = 8
LOWEST = -3e38  # below any logit; float32 has it


def make_block_sum(threads):
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


def make_gather(threads):
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


def make_forward(dtype, activation, threads):
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


def make_softmax(dtype, threads):
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


def make_elementwise(dtype, loss, threads):
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


def make_backward(dtype, threads):
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


def make_gradients(dtype, threads):
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


def make_squares(dtype, threads):
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


def make_descend(dtype, optimizer, nesterov, threads):
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


def make_largest(dtype, threads):
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
