"""Optimizers: one pass over a range of the parameter vector, which knows no layers."""

from __future__ import annotations

from .. import scalar
from ..jit import cpu_inline, cpu_kernel
from ..network import Optimizer
from .simd import lanes, shape, tile_load, tile_store, tile_sum, tile_zeros


@cpu_kernel
def sgd_step(params, grads, moments, start, stop, step, rule):
    """SGD with momentum on params[start:stop]; returns the sum of their squares before. See `optimizer_step`."""
    row = shape(1, 1)
    squares = tile_zeros(row, params)
    for i in range(start, stop, lanes(params)):
        w = tile_load(row, params, i, 0)
        squares = scalar.fma(w, w, squares)
        g = scalar.fma(w, step.l2, tile_load(row, grads, i, 0) * step.clip)
        velocity = tile_load(row, moments, i, 0)
        if rule.nesterov:
            w, velocity = scalar.sgd_nesterov(w, g, velocity, step.rate, rule.momentum)
        else:
            w, velocity = scalar.sgd_momentum(w, g, velocity, step.rate, rule.momentum)
        tile_store(w, params, i, 0)
        tile_store(velocity, moments, i, 0)
    return tile_sum(squares)


@cpu_kernel
def adam_step(params, grads, moments, start, stop, step, rule):
    """Adam or AdamW on params[start:stop]; returns the sum of their squares before. See `optimizer_step`."""
    row, n_params = shape(1, 1), params.size
    squares = tile_zeros(row, params)
    for i in range(start, stop, lanes(params)):
        w = tile_load(row, params, i, 0)
        squares = scalar.fma(w, w, squares)
        g = scalar.fma(w, step.l2, tile_load(row, grads, i, 0) * step.clip)
        mean, square = tile_load(row, moments, i, 0), tile_load(row, moments, n_params + i, 0)
        w, mean, square = scalar.adam(w, g, mean, square, step.rate, step.decay, rule.gap_1, rule.gap_2, rule.epsilon)
        tile_store(w, params, i, 0)
        tile_store(mean, moments, i, 0)
        tile_store(square, moments, n_params + i, 0)
    return tile_sum(squares)


@cpu_kernel
def adagrad_step(params, grads, moments, start, stop, step, rule):
    """Adagrad on params[start:stop]; returns the sum of their squares before. See `optimizer_step`."""
    row = shape(1, 1)
    squares = tile_zeros(row, params)
    for i in range(start, stop, lanes(params)):
        w = tile_load(row, params, i, 0)
        squares = scalar.fma(w, w, squares)
        g = scalar.fma(w, step.l2, tile_load(row, grads, i, 0) * step.clip)
        w, square = scalar.adagrad(w, g, tile_load(row, moments, i, 0), step.rate)
        tile_store(w, params, i, 0)
        tile_store(square, moments, i, 0)
    return tile_sum(squares)


@cpu_inline
def optimizer_step(params, grads, moments, start, stop, step, rule):
    """One update of params[start:stop]; returns the sum of their squares before it.

    Parameters
    ----------
    params, grads : (n_params,)
    moments : (2 n_params,)
        SGD: the velocity, then nothing. Adam: the mean, then the mean square. Adagrad: the sum of squares, then
        nothing.
    start, stop : int
        Multiples of 16.
    step : StepSize
        `rate` (with Adam's correction of the bias in it), `l2` (times w: added to the gradient), `decay` (times w:
        taken off the parameter; AdamW), `clip` (factor of the gradient).
    rule : Rule
    """
    if rule.optimizer == Optimizer.SGD:
        return sgd_step(params, grads, moments, start, stop, step, rule)
    if rule.optimizer == Optimizer.ADAGRAD:
        return adagrad_step(params, grads, moments, start, stop, step, rule)
    return adam_step(params, grads, moments, start, stop, step, rule)


@cpu_kernel
def sum_of_squares(x, start, stop):
    """Sum of ``x[start:stop]**2``."""
    row = shape(1, 1)
    squares = tile_zeros(row, x)
    for i in range(start, stop, lanes(x)):
        v = tile_load(row, x, i, 0)
        squares = scalar.fma(v, v, squares)
    return tile_sum(squares)
