"""Slow, obvious twins of the kernels on images, in float64 NumPy. Images are NHWC; a filter is a matrix with a row for
each input of a window. Never imported by the package."""

import numpy as np

from nbnet.image_network import ConvSpec, PoolSpec, ResidualSpec
from nbnet.network import LayerKind
from tests.reference import ACTIVATIONS

# ---------------------------------------------------------------- convolution


def output_side(size, kernel_size, stride, padding):
    return -(-size // stride) if padding == "same" else (size - kernel_size) // stride + 1


def _padded(x, kernel_size, stride, padding, height, width):
    """Zeros around x, and the output's size."""
    before = (kernel_size - 1) // 2 if padding == "same" else 0
    after = [
        max(0, (n - 1) * stride + kernel_size - before - m) for n, m in ((height, x.shape[1]), (width, x.shape[2]))
    ]
    return np.pad(x, [(0, 0), (before, after[0]), (before, after[1]), (0, 0)]), before


def conv2d_forward(x, weight, bias, kernel_size, stride, padding):
    height, width = (output_side(n, kernel_size, stride, padding) for n in x.shape[1:3])
    x, _ = _padded(x, kernel_size, stride, padding, height, width)
    y = np.zeros((x.shape[0], height, width, weight.shape[1]))
    for h in range(height):
        for w in range(width):
            window = x[:, h * stride : h * stride + kernel_size, w * stride : w * stride + kernel_size]
            y[:, h, w] = window.reshape(len(x), -1) @ weight + bias
    return y


def conv2d_backward(x, weight, grad_y, kernel_size, stride, padding):
    """Gradients of input and weight."""
    shape, (height, width) = x.shape, grad_y.shape[1:3]
    x, before = _padded(x, kernel_size, stride, padding, height, width)
    grad_x, grad_weight = np.zeros_like(x), np.zeros_like(weight)
    for h in range(height):
        for w in range(width):
            rows, columns = (slice(n * stride, n * stride + kernel_size) for n in (h, w))
            window = x[:, rows, columns]
            grad_weight += window.reshape(len(x), -1).T @ grad_y[:, h, w]
            grad_x[:, rows, columns] += (grad_y[:, h, w] @ weight.T).reshape(window.shape)
    return grad_x[:, before : before + shape[1], before : before + shape[2]], grad_weight


# ---------------------------------------------------------------- pooling


def _windows(x, size):
    """(n, out_height, out_width, size, c): the pixels of each window, in order."""
    n, height, width, channels = x.shape
    height, width = height // size[0], width // size[1]
    x = x[:, : height * size[0], : width * size[1]].reshape(n, height, size[0], width, size[1], channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, height, width, size[0] * size[1], channels)


def pool_forward(x, size, kind):
    windows = _windows(x, size)
    return windows.max(axis=3) if kind == "max" else windows.mean(axis=3)


def pool_backward(x, grad_y, size, kind):
    """To the first largest value of a window, or to all alike."""
    windows = _windows(x, size)
    if kind == "max":
        share = np.arange(windows.shape[3])[:, None] == windows.argmax(axis=3)[:, :, :, None]
    else:
        share = np.full(windows.shape, 1 / windows.shape[3])
    spread = share * grad_y[:, :, :, None]
    n, height, width, _, channels = spread.shape
    spread = spread.reshape(n, height, width, *size, channels).transpose(0, 1, 3, 2, 4, 5)
    grad_x = np.zeros_like(x)
    grad_x[:, : height * size[0], : width * size[1]] = spread.reshape(n, height * size[0], width * size[1], channels)
    return grad_x


# ---------------------------------------------------------------- batch norm


def batch_statistics(z, weights):
    share = (weights / weights.sum())[:, None, None, None] / (z.shape[1] * z.shape[2])
    mean = (share * z).sum(axis=(0, 1, 2))
    return mean, (share * (z - mean) ** 2).sum(axis=(0, 1, 2)), share


def batch_norm_forward(z, scale, offset, mean, variance):
    return scale * (z - mean) / np.sqrt(variance + 1e-5) + offset


def batch_norm_backward(z, scale, grad, mean, variance, share):
    """Gradients of z, scale and offset; `share` of each pixel in the statistics, zero where they are constants."""
    normalized = (z - mean) / np.sqrt(variance + 1e-5)
    grad_scale, grad_offset = (grad * normalized).sum(axis=(0, 1, 2)), grad.sum(axis=(0, 1, 2))
    grad_z = grad - share * (grad_offset + normalized * grad_scale)
    return scale / np.sqrt(variance + 1e-5) * grad_z, grad_scale, grad_offset


# ---------------------------------------------------------------- image layers of a network


class Conv:
    """One convolution with what follows it; keeps what its backward pass needs."""

    def __init__(self, spec, padding, arrays):
        self.spec, self.padding, self.arrays = spec, padding, arrays  # weight, bias or offset, scale, mean, variance

    def forward(self, x, skip, weights):
        spec, (weight, bias, scale, mean, variance) = self.spec, self.arrays
        self.x = x
        shift = 0.0 if spec.batch_norm else bias
        self.z = conv2d_forward(x, weight, shift, spec.kernel_size, spec.stride, self.padding)
        total = self.z
        if spec.batch_norm:
            self.statistics = mean, variance, 0.0
            if weights is not None and np.sum(weights > 0) > 1:
                self.statistics = batch_statistics(self.z, weights)
            total = batch_norm_forward(self.z, scale, bias, *self.statistics[:2])
        self.total = total if skip is None else total + skip
        return ACTIVATIONS[spec.activation.name.lower()][0](self.total)

    def backward(self, grad, grads):
        """Gradients of input and skip; the parameters' go into the list `grads`."""
        spec = self.spec
        grad = grad_skip = grad * ACTIVATIONS[spec.activation.name.lower()][1](self.total)
        grad_scale, grad_bias = None, grad.sum(axis=(0, 1, 2))
        if spec.batch_norm:
            grad, grad_scale, grad_bias = batch_norm_backward(self.z, self.arrays[2], grad, *self.statistics)
        geometry = spec.kernel_size, spec.stride, self.padding
        grad_x, grad_weight = conv2d_backward(self.x, self.arrays[0], grad, *geometry)
        grads.append((grad_weight, grad_bias, grad_scale))
        return grad_x, grad_skip


class ImageLayers:
    """The layers that `specs` stand for. `arrays`: an iterator over the parameters of the convolutions, in order."""

    def __init__(self, specs, padding, arrays, channels):
        self.steps = []
        for spec in specs:
            if isinstance(spec, ResidualSpec):
                conv = ConvSpec(spec.n_channels, 3, spec.stride, spec.activation, spec.batch_norm)
                project = spec.stride != 1 or spec.n_channels != channels
                identity = type(spec.activation).IDENTITY
                projection = conv._replace(kernel_size=1, activation=identity)
                first = [Conv(projection, "same", next(arrays))] if project else []
                first.append(Conv(conv, "same", next(arrays)))
                self.steps.append((*first, Conv(conv._replace(stride=1), "same", next(arrays))))
            elif isinstance(spec, ConvSpec):
                self.steps.append(Conv(spec, padding, next(arrays)))
            else:
                self.steps.append(spec)
            channels = getattr(spec, "n_channels", channels)

    def forward(self, x, weights=None):
        """`weights`: of the samples, in training."""
        self.inputs = []
        for step in self.steps:
            self.inputs.append(x)
            if isinstance(step, Conv):
                x = step.forward(x, None, weights)
            elif isinstance(step, PoolSpec):
                size = x.shape[1:3] if step.size is None else (step.size, step.size)
                x = pool_forward(x, size, "max" if step.kind == LayerKind.MAX_POOL else "avg")
            else:
                skip = step[0].forward(x, None, weights) if len(step) == 3 else x
                x = step[-1].forward(step[-2].forward(x, None, weights), skip, weights)
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, grad):
        """Gradient of the images and of each convolution's parameters, in order."""
        grads, grad = [], grad.reshape(self.shape)
        for step, x in zip(reversed(self.steps), reversed(self.inputs), strict=True):
            if isinstance(step, Conv):
                grad, _ = step.backward(grad, grads)
            elif isinstance(step, PoolSpec):
                size = x.shape[1:3] if step.size is None else (step.size, step.size)
                grad = pool_backward(x, grad, size, "max" if step.kind == LayerKind.MAX_POOL else "avg")
            else:
                middle, skip = step[-1].backward(grad, grads)
                grad, _ = step[-2].backward(middle, grads)
                grad = grad + (step[0].backward(skip, grads)[0] if len(step) == 3 else skip)
        return grad, grads[::-1]
