"""Many small networks at once: each block of threads trains one of them for an epoch, by itself.

A small network keeps a few threads busy, so one alone leaves most of a GPU idle. Here, networks with the same layers
share a launch: they read one X, and each has its own parameters, targets, order of rows and step sizes. A block needs
no other, so barriers within the block are all there is, and a launch covers an epoch of every network.

Products are the same chains of additions as in the kernels that train one network (see `dense`).
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numba
import numpy as np
from numba import uint32

from ..network import Activation, Loss, Network, Optimizer
from .jit import cuda, cuda_kernel
from .launch import upload
from .optimizers import flags_of_weights
from .reductions import WARP
from .small_net_parts import (
    BIAS,
    N_FIELDS,
    N_OUT,
    OUT_STRIDE,
    WEIGHT,
    Y,
    make_backward,
    make_block_sum,
    make_descend,
    make_elementwise,
    make_forward,
    make_gather,
    make_gradients,
    make_largest,
    make_softmax,
    make_squares,
)

THREADS = 128  # of a block: a layer of 16 units and a batch of 32 rows keep them busy


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


@functools.cache
def _kernel(dtype, activation, loss, optimizer, nesterov, threads):
    n_warps, zero, one = threads // WARP, dtype(0), dtype(1)
    gather, sum_of_block = make_gather(threads), make_block_sum(threads)
    hidden_layer, last_layer = make_forward(dtype, activation, threads), make_forward(dtype, None, threads)
    softmax = loss == Loss.SOFTMAX_CROSS_ENTROPY
    loss_of_rows = make_softmax(dtype, threads) if softmax else make_elementwise(dtype, loss, threads)
    backward, gradients = make_backward(dtype, threads), make_gradients(dtype, threads)
    squares_of_gradient, descend = make_squares(dtype, threads), make_descend(dtype, optimizer, nesterov, threads)
    largest_parameter = make_largest(dtype, threads)

    @cuda_kernel(threads, 2)
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
