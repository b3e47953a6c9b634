"""Slow, obvious twins of the kernels, in float64 NumPy, with the same names. Never imported by the package."""

import numpy as np

# ---------------------------------------------------------------- random numbers


def philox(c0, c1, c2, c3, seed):
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & 0xFFFFFFFF, (p0 >> 32) ^ c3 ^ k1, p0 & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def dropout_mask(p, seed, step, number, n_rows, n_columns):
    """Factors (n_rows, n_columns) of dropout: 0 or 1 / (1 - p)."""
    mask = np.zeros((n_rows, n_columns))
    for i in range(n_rows):
        for j in range(n_columns):
            word = philox(j // 4, i, step, 2 + 256 * number, seed)[j % 4]
            mask[i, j] = 1 / (1 - p) if word >= int(p * 2**32) else 0.0
    return mask


# ---------------------------------------------------------------- activations: name -> (value, slope) of z


def logistic(z):
    return 1 / (1 + np.exp(-z))


def _gelu_inner(z):
    return np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)


ACTIVATIONS = {
    "identity": (lambda z: z, lambda z: np.ones_like(z)),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0) * 1.0),
    "leaky_relu": (lambda z: np.where(z > 0, z, 0.01 * z), lambda z: np.where(z > 0, 1.0, 0.01)),
    "elu": (lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))), lambda z: np.exp(np.minimum(z, 0))),
    "gelu": (
        lambda z: 0.5 * z * (1 + np.tanh(_gelu_inner(z))),
        lambda z: (
            0.5 * (1 + np.tanh(_gelu_inner(z)))
            + 0.5 * z / np.cosh(_gelu_inner(z)) ** 2 * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * z**2)
        ),
    ),
    "silu": (lambda z: z * logistic(z), lambda z: logistic(z) * (1 + z * (1 - logistic(z)))),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "logistic": (logistic, lambda z: logistic(z) * (1 - logistic(z))),
    "softplus": (lambda z: np.logaddexp(0, z), logistic),
}

# ---------------------------------------------------------------- losses: name -> (value, slope) of z, t, parameter

LOSSES = {
    "sigmoid_cross_entropy": (
        lambda z, t, p: -t * np.log(logistic(z)) - (1 - t) * np.log(1 - logistic(z)),
        lambda z, t, p: logistic(z) - t,
    ),
    "squared_error": (lambda z, t, p: (z - t) ** 2 / 2, lambda z, t, p: z - t),
    "poisson": (lambda z, t, p: np.exp(z) - t * z, lambda z, t, p: np.exp(z) - t),
    "huber": (
        lambda z, t, p: np.where(abs(z - t) <= p, (z - t) ** 2 / 2, p * (abs(z - t) - p / 2)),
        lambda z, t, p: np.clip(z - t, -p, p),
    ),
    "quantile": (
        lambda z, t, p: np.where(t > z, p * (t - z), (1 - p) * (z - t)),
        lambda z, t, p: np.where(t > z, -p, np.where(t < z, 1 - p, 0.0)),
    ),
}


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def softmax_cross_entropy(z, labels, smoothing=0.0):
    """Loss of each row, and its gradient by z; `labels`: one a row, or an indicator matrix whose ones share the row."""
    n_classes = z.shape[1]
    one_hot = np.eye(n_classes)[labels] if np.ndim(labels) == 1 else labels / labels.sum(axis=1, keepdims=True)
    t = one_hot * (1 - smoothing) + smoothing / n_classes
    return -(t * np.log(softmax(z))).sum(axis=1), softmax(z) - t


def inverse_link(name, z):
    """Predictions from the last layer's outputs."""
    if name == "softmax_cross_entropy":
        return softmax(z)
    return {"sigmoid_cross_entropy": logistic, "poisson": np.exp}.get(name, lambda z: z)(z)


# ---------------------------------------------------------------- layers


def dense_forward(x, weight, bias, activation):
    return ACTIVATIONS[activation][0](x @ weight + bias)


def dense_backward(grad_y, weight, slopes):
    return slopes * (grad_y @ weight.T)


def dense_weight_gradient(x, grad_y):
    return x.T @ grad_y


def bias_gradient(grad_y):
    return grad_y.sum(axis=0)


# ---------------------------------------------------------------- a whole network


def forward(x, weights, biases, activations, masks=None):
    """Inputs of all layers and the last output; and the affine maps' outputs."""
    xs, zs = [x], []
    for number, (weight, bias, activation) in enumerate(zip(weights, biases, activations, strict=True)):
        zs.append(xs[-1] @ weight + bias)
        y = ACTIVATIONS[activation][0](zs[-1])
        if masks is not None and number < len(masks):
            y = y * masks[number]
        xs.append(y)
    return xs, zs


def loss_and_gradient(
    x, weights, biases, activations, loss, target, row_weights, smoothing=0.0, parameter=0.0, masks=None
):
    """Weighted mean loss and the gradients of all weights and biases."""
    xs, zs = forward(x, weights, biases, activations, masks)
    if loss == "softmax_cross_entropy":
        row_losses, delta = softmax_cross_entropy(xs[-1], target, smoothing)
    else:
        t = target * (1 - smoothing) + smoothing / 2 if loss == "sigmoid_cross_entropy" else target
        value, slope = LOSSES[loss]
        row_losses, delta = value(xs[-1], t, parameter).sum(axis=1), slope(xs[-1], t, parameter)
        if loss == "squared_error":
            row_losses = row_losses / t.shape[1]  # scikit-learn's mean over outputs; its gradient is the sum's
    scale = row_weights / row_weights.sum()
    delta = delta * scale[:, None]
    grad_weights, grad_biases = [], []
    for number in range(len(weights) - 1, -1, -1):
        grad_weights.insert(0, dense_weight_gradient(xs[number], delta))
        grad_biases.insert(0, bias_gradient(delta))
        if number:
            slopes = ACTIVATIONS[activations[number - 1]][1](zs[number - 1])
            if masks is not None:
                slopes = slopes * masks[number - 1]
            delta = dense_backward(delta, weights[number], slopes)
    return float(row_losses @ scale), grad_weights, grad_biases


# ---------------------------------------------------------------- optimizers: parameters, gradients, state -> new ones


def sgd_step(w, g, velocity, rate, momentum, nesterov):
    velocity = momentum * velocity - rate * g
    return (w + momentum * velocity - rate * g if nesterov else w + velocity), velocity


def adam_step(w, g, mean, square, t, rate, beta_1, beta_2, epsilon, decay=0.0):
    mean = beta_1 * mean + (1 - beta_1) * g
    square = beta_2 * square + (1 - beta_2) * g**2
    corrected = rate * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
    return w - corrected * mean / (np.sqrt(square) + epsilon) - decay * w, mean, square


def adagrad_step(w, g, square, rate):
    square = square + g**2
    return w - rate * g / np.sqrt(square), square
