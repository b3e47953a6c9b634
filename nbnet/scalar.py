"""The maths, once, for one element.

Each function here is plain Python on a value that has arithmetic operators: a tile of registers on the CPU
(`nbnet.cpu.simd`), a scalar on the GPU, a NumPy array when the JIT is off. A Python float beside such a value takes the
value's precision. The few primitives at the top are what the backends provide by their own instructions.

Error bounds are in units in the last place (ulp) against exact arithmetic, measured over the stated range.
"""

from __future__ import annotations

import math

import numpy as np

from .jit import elementwise
from .network import Activation, Loss

# ---------------------------------------------------------------- primitives: each backend has its own instruction


def fma(x, y, z):
    """``x * y + z``; compiled: with one rounding."""
    return x * y + z


def maximum(x, y):
    """The larger of two; `x` where `x` is not a number."""
    return np.where(x < y, y, x)


def minimum(x, y):
    """The smaller of two; `x` where `x` is not a number."""
    return np.where(x > y, y, x)


def where_positive(condition, x, y):
    """`x` where ``condition > 0``, else `y`."""
    return np.where(condition > 0, x, y).astype(condition.dtype)


def square_root(x):
    """Square root, rounded correctly."""
    return np.sqrt(x)


def nearest_integer(x):
    """Nearest integer, as a float; halves go to the even one."""
    return np.rint(x)


def power_of_two(n):
    """``2**n`` for integers `n` held as floats, within the normal range."""
    return np.ldexp(np.ones_like(n), np.nan_to_num(n).astype(np.int64))


def is_double(x):
    """Whether `x` is in double precision; known when compiling."""
    return x.dtype == np.float64


# ---------------------------------------------------------------- exponentials

LOG2_E = 1.4426950408889634
# log(2) = HIGH + LOW with few bits in HIGH, so that n * HIGH is exact for |n| < 1100 (float64) or |n| < 200 (float32)
LOG_2_HIGH_DOUBLE, LOG_2_LOW_DOUBLE = 0.693147180369123816490, 1.90821492927058770002e-10
LOG_2_HIGH_SINGLE, LOG_2_LOW_SINGLE = 0.693359375, -2.12194440054690583e-4
EXP_LOWEST_DOUBLE, EXP_HIGHEST_DOUBLE = -708.0, 709.0
EXP_LOWEST_SINGLE, EXP_HIGHEST_SINGLE = -87.0, 88.0


@elementwise
def expm1_taylor(r):
    """``exp(r) - 1`` for ``|r| <= log(2) / 2``: Taylor's series up to r**13 (double) or r**7 (single precision)."""
    if is_double(r):
        p = fma(r, 1 / 6227020800, 1 / 479001600)
        p = fma(p, r, 1 / 39916800)
        p = fma(p, r, 1 / 3628800)
        p = fma(p, r, 1 / 362880)
        p = fma(p, r, 1 / 40320)
        p = fma(p, r, 1 / 5040)
    else:
        p = r * 0.0 + 1 / 5040
    p = fma(p, r, 1 / 720)
    p = fma(p, r, 1 / 120)
    p = fma(p, r, 1 / 24)
    p = fma(p, r, 1 / 6)
    p = fma(p, r, 1 / 2)
    return fma(p, r * r, r)


@elementwise
def reduced_exponent(x):
    """The integer n nearest to ``x / log(2)`` and ``r = x - n log(2)``, so that ``exp(x) = 2**n exp(r)``."""
    n = nearest_integer(x * LOG2_E)
    if is_double(x):
        r = fma(n, -LOG_2_LOW_DOUBLE, fma(n, -LOG_2_HIGH_DOUBLE, x))
    else:
        r = fma(n, -LOG_2_LOW_SINGLE, fma(n, -LOG_2_HIGH_SINGLE, x))
    return n, r


@elementwise
def clipped_exponent(x):
    """`x` within the range whose exponential is a normal number."""
    if is_double(x):
        return minimum(maximum(x, EXP_LOWEST_DOUBLE), EXP_HIGHEST_DOUBLE)
    return minimum(maximum(x, EXP_LOWEST_SINGLE), EXP_HIGHEST_SINGLE)


@elementwise
def exp(x):
    """``e**x``; beyond the normal range it stays at the range's end. Error: 1.5 ulp."""
    n, r = reduced_exponent(clipped_exponent(x))
    scale = power_of_two(n)
    return fma(expm1_taylor(r), scale, scale)


@elementwise
def expm1(x):
    """``e**x - 1`` without cancellation near zero. Error: 3 ulp."""
    n, r = reduced_exponent(clipped_exponent(x))
    scale = power_of_two(n)
    return fma(expm1_taylor(r), scale, scale - 1.0)


@elementwise
def log1p_unit(x):
    """``log(1 + x)`` for ``0 <= x <= 1``: the series 2 artanh(s) with s = x / (2 + x). Error: 2 ulp."""
    s = x / (x + 2.0)
    q = s * s
    if is_double(x):
        p = fma(q, 1 / 35, 1 / 33)
        p = fma(p, q, 1 / 31)
        p = fma(p, q, 1 / 29)
        p = fma(p, q, 1 / 27)
        p = fma(p, q, 1 / 25)
        p = fma(p, q, 1 / 23)
        p = fma(p, q, 1 / 21)
        p = fma(p, q, 1 / 19)
        p = fma(p, q, 1 / 17)
        p = fma(p, q, 1 / 15)
    else:
        p = q * 0.0 + 1 / 15
    p = fma(p, q, 1 / 13)
    p = fma(p, q, 1 / 11)
    p = fma(p, q, 1 / 9)
    p = fma(p, q, 1 / 7)
    p = fma(p, q, 1 / 5)
    p = fma(p, q, 1 / 3)
    s2 = s + s
    return fma(p * q, s2, s2)


GELU_LINEAR = 2.0 * math.sqrt(2.0 / math.pi)
GELU_CUBIC = 0.044715 * GELU_LINEAR

# ---------------------------------------------------------------- activations, and their slopes by input z and output y


@elementwise
def relu(z):
    """max(z, 0)"""
    return maximum(z, 0.0)


@elementwise
def relu_slope(y):
    """1 where y > 0, else 0"""
    return where_positive(y, 1.0, 0.0)


@elementwise
def leaky_relu(z):
    """z where z > 0, else 0.01 z"""
    return where_positive(z, z, z * 0.01)


@elementwise
def leaky_relu_slope(y):
    """1 where y > 0, else 0.01"""
    return where_positive(y, 1.0, 0.01)


@elementwise
def elu(z):
    """z where z > 0, else exp(z) - 1. Source: Clevert et al. 2016, eq. 15, alpha = 1."""
    return where_positive(z, z, expm1(minimum(z, 0.0)))


@elementwise
def elu_slope(y):
    """1 where y > 0, else y + 1"""
    return where_positive(y, 1.0, y + 1.0)


@elementwise
def tanh(z):
    """(exp(2z) - 1) / (exp(2z) + 1), by expm1 so that small z keep their digits. Error: 4 ulp."""
    e = expm1(z + z)  # which ends where exp does, far beyond where the quotient is one
    return e / (e + 2.0)


@elementwise
def tanh_slope(y):
    """1 - y**2"""
    return 1.0 - y * y


@elementwise
def logistic(z):
    """1 / (1 + exp(-z)). Error: 3 ulp."""
    return 1.0 / (exp(0.0 - z) + 1.0)


@elementwise
def logistic_slope(y):
    """y (1 - y)"""
    return y * (1.0 - y)


@elementwise
def softplus(z):
    """log(1 + exp(z)) = max(z, 0) + log(1 + exp(-abs(z))), which cannot overflow"""
    return maximum(z, 0.0) + log1p_unit(exp(0.0 - maximum(z, 0.0 - z)))


@elementwise
def silu(z):
    """z logistic(z). Source: Elfwing et al. 2018."""
    return z * logistic(z)


@elementwise
def silu_slope(z, y):
    """s + y (1 - s) with s = logistic(z)"""
    s = logistic(z)
    return s + y * (1.0 - s)


@elementwise
def gelu(z):
    """z logistic(2u) = z (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (z + 0.044715 z**3): the tanh form of GELU.

    Source: Hendrycks, Gimpel, Gaussian error linear units, 2016, section 2.
    """
    return z * logistic(z * fma(z * z, GELU_CUBIC, GELU_LINEAR))


@elementwise
def gelu_slope(z, y):
    """s + y (1 - s) (2u)' with s = logistic(2u), (2u)' = 2 sqrt(2 / pi) (1 + 3 * 0.044715 z**2)"""
    q = z * z
    s = logistic(z * fma(q, GELU_CUBIC, GELU_LINEAR))
    return s + y * (1.0 - s) * fma(q, 3.0 * GELU_CUBIC, GELU_LINEAR)


@elementwise
def activate(activation, z):
    """The activation with code `activation` at `z`."""
    if activation == Activation.RELU:
        return relu(z)
    elif activation == Activation.TANH:
        return tanh(z)
    elif activation == Activation.LOGISTIC:
        return logistic(z)
    elif activation == Activation.LEAKY_RELU:
        return leaky_relu(z)
    elif activation == Activation.ELU:
        return elu(z)
    elif activation == Activation.GELU:
        return gelu(z)
    elif activation == Activation.SILU:
        return silu(z)
    elif activation == Activation.SOFTPLUS:
        return softplus(z)
    return z


@elementwise
def activation_slope(activation, z, y):
    """Derivative of the activation by its input `z`, given its output `y` as well."""
    if activation == Activation.RELU:
        return relu_slope(y)
    elif activation == Activation.TANH:
        return tanh_slope(y)
    elif activation == Activation.LOGISTIC:
        return logistic_slope(y)
    elif activation == Activation.LEAKY_RELU:
        return leaky_relu_slope(y)
    elif activation == Activation.ELU:
        return elu_slope(y)
    elif activation == Activation.GELU:
        return gelu_slope(z, y)
    elif activation == Activation.SILU:
        return silu_slope(z, y)
    elif activation == Activation.SOFTPLUS:
        return logistic(z)
    return z * 0.0 + 1.0


# ---------------------------------------------------------------- losses of one output: z the output, t its target
# The losses are half of their textbook values where scikit-learn halves them (squared error).


@elementwise
def inverse_link(loss, z):
    """The prediction that belongs to output `z` (softmax apart, which needs the whole row)."""
    if loss == Loss.SIGMOID_CROSS_ENTROPY:
        return logistic(z)
    elif loss == Loss.POISSON:
        return exp(z)
    return z


@elementwise
def sigmoid_cross_entropy(z, t):
    """-t log(s) - (1 - t) log(1 - s) with s = logistic(z): softplus(z) - t z"""
    return softplus(z) - t * z


@elementwise
def squared_error(z, t):
    """(z - t)**2 / 2"""
    return (z - t) * (z - t) * 0.5


@elementwise
def poisson_deviance(z, t):
    """exp(z) - t z: half the Poisson deviance less what does not depend on z. Source: McCullagh, Nelder 1989, 2.4."""
    return exp(z) - t * z


@elementwise
def huber(z, t, delta):
    """r**2 / 2 where r = abs(z - t) <= delta, else delta (r - delta / 2). Source: Huber 1964."""
    r = maximum(z - t, t - z)
    inside = minimum(r, delta)
    return inside * (r - inside * 0.5)


@elementwise
def pinball(z, t, quantile):
    """quantile (t - z) where t > z, else (1 - quantile) (z - t). Source: Koenker, Bassett 1978."""
    return maximum((t - z) * quantile, (z - t) * (1.0 - quantile))


@elementwise
def loss_value(loss, z, t, parameter):
    """Loss with code `loss` of output `z` and target `t`; `parameter` is Huber's delta or the quantile."""
    if loss == Loss.SIGMOID_CROSS_ENTROPY:
        return sigmoid_cross_entropy(z, t)
    elif loss == Loss.POISSON:
        return poisson_deviance(z, t)
    elif loss == Loss.HUBER:
        return huber(z, t, parameter)
    elif loss == Loss.QUANTILE:
        return pinball(z, t, parameter)
    return squared_error(z, t)


@elementwise
def loss_slope(loss, z, t, parameter):
    """Derivative of `loss_value` by `z`."""
    if loss == Loss.HUBER:
        return minimum(maximum(z - t, 0.0 - parameter), parameter)
    elif loss == Loss.QUANTILE:
        return where_positive(t - z, 0.0 - parameter, where_positive(z - t, 1.0 - parameter, 0.0))
    return inverse_link(loss, z) - t


# ---------------------------------------------------------------- updates of one parameter w by its gradient g


@elementwise
def sgd_momentum(w, g, velocity, rate, momentum):
    """velocity <- momentum velocity - rate g; w <- w + velocity"""
    velocity = momentum * velocity - rate * g
    return w + velocity, velocity


@elementwise
def sgd_nesterov(w, g, velocity, rate, momentum):
    """velocity <- momentum velocity - rate g; w <- w + momentum velocity - rate g.

    Source: Sutskever et al. 2013, eq. 3 and 4, in the form that keeps the point where the gradient is taken.
    """
    velocity = momentum * velocity - rate * g
    return w + (momentum * velocity - rate * g), velocity


@elementwise
def adam(w, g, mean, square, rate, decay, gap_1, gap_2, epsilon):
    """mean <- mean + gap_1 (g - mean); square <- square + gap_2 (g**2 - square);
    w <- w - rate mean / (sqrt(square) + epsilon) - decay w.

    `gap_1` is 1 - beta_1 and `gap_2` 1 - beta_2, taken in float64 (1 - float32(0.999) is off by 6e-6); `rate` includes
    the correction of the bias; `decay` is the decoupled decay of AdamW.

    Source: Kingma, Ba 2015, algorithm 1 with the last remark of section 2; Loshchilov, Hutter 2019, algorithm 2.
    """
    mean = fma(g - mean, gap_1, mean)
    square = fma(g * g - square, gap_2, square)
    return w - w * decay - mean * rate / (square_root(square) + epsilon), mean, square


@elementwise
def adagrad(w, g, square, rate):
    """square <- square + g**2; w <- w - rate g / sqrt(square). The sum of squares must not start at zero.

    Source: Duchi, Hazan, Singer, Adaptive subgradient methods, JMLR 2011, section 1.1 (diagonal matrices).
    """
    square = fma(g, g, square)
    return w - g * rate / square_root(square), square
