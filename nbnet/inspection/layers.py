"""The layer table walked in NumPy, in float64: forward, and back to the input.

Training needs no gradient by the input, so no kernel computes one. Explanations are for some hundred rows, and here
every kind of layer is a few lines that can be read.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .. import scalar
from ..cpu.batch_norm import EPSILON
from ..image_network import running_mean_of, running_variance_of, scale_of
from ..network import NONE, Activation, LayerKind, bias_of, weight_of

LARGEST_BLOCK = 1 << 22  # numbers in the windows of a convolution, for as many rows as are computed at a time


class Images:
    """The input."""

    def __init__(self, row, params):
        pass

    def forward(self, x, skip):
        return x, None

    def backward(self, kept, grad):
        return grad, None


class Dense:
    """``activation(x @ weight + bias)``."""

    def __init__(self, row, params):
        self.activation = int(row["activation"])
        self.weight, self.bias = (of(params, row).astype(np.float64) for of in (weight_of, bias_of))

    def forward(self, x, skip):
        z = x.reshape(len(x), -1) @ self.weight + self.bias
        y = scalar.activate(self.activation, z)
        return y, (x.shape, z, y)

    def backward(self, kept, grad):
        shape, z, y = kept
        return ((grad * scalar.activation_slope(self.activation, z, y)) @ self.weight.T).reshape(shape), None


class Units(Dense):
    """The units of a tree of classes: ``x @ weight``."""

    def __init__(self, row, params):
        n_in, n_units, stride = int(row["n_in"]), int(row["n_out"]) - 1, int(row["in_stride"])
        weight = params[int(row["weight_start"]) :][: n_units * stride].reshape(n_units, stride)
        self.activation = Activation.IDENTITY
        self.weight, self.bias = weight[:, :n_in].T.astype(np.float64), 0.0


class Flatten:
    """Pixels one behind the other."""

    def __init__(self, row, params):
        pass

    def forward(self, x, skip):
        return x.reshape(len(x), -1), x.shape

    def backward(self, kept, grad):
        return grad.reshape(kept), None


class Pool:
    """Largest value, or mean, of windows that do not overlap; what does not fill a window is left out."""

    def __init__(self, row, params):
        self.size = int(row["pool_height"]), int(row["pool_width"])
        self.is_mean = row["kind"] == LayerKind.AVG_POOL

    def forward(self, x, skip):
        if self.size == (1, 1):
            return x, None
        n, height, width, channels = x.shape
        (a, b), (rows, columns) = self.size, (height // self.size[0], width // self.size[1])
        windows = x[:, : rows * a, : columns * b].reshape(n, rows, a, columns, b, channels)
        windows = windows.transpose(0, 1, 3, 2, 4, 5).reshape(n, rows, columns, a * b, channels)
        if self.is_mean:
            return windows.mean(axis=3), (x.shape, None)
        choice = windows.argmax(axis=3)[:, :, :, np.newaxis]
        return np.take_along_axis(windows, choice, axis=3)[:, :, :, 0], (x.shape, choice)

    def backward(self, kept, grad):
        if self.size == (1, 1):
            return grad, None
        shape, choice = kept
        n, rows, columns, channels = grad.shape
        a, b = self.size
        if self.is_mean:
            windows = np.repeat(grad[:, :, :, np.newaxis] / (a * b), a * b, axis=3)
        else:
            windows = np.zeros((n, rows, columns, a * b, channels))
            np.put_along_axis(windows, choice, grad[:, :, :, np.newaxis], axis=3)
        windows = windows.reshape(n, rows, columns, a, b, channels).transpose(0, 1, 3, 2, 4, 5)
        grad_x = np.zeros(shape)
        grad_x[:, : rows * a, : columns * b] = windows.reshape(n, rows * a, columns * b, channels)
        return grad_x, None


class Conv:
    """``pool(activation(norm(conv(x)) + skip))``: batch norm with the running statistics is one more affine map."""

    def __init__(self, row, params):
        self.activation = int(row["activation"])
        self.kernel_size, self.stride, self.padding = (int(row[k]) for k in ("kernel_size", "stride", "padding"))
        self.size = int(row["height"]), int(row["width"])
        self.weight, self.bias = (of(params, row).astype(np.float64) for of in (weight_of, bias_of))
        if row["scale_start"] != NONE:
            parts = (of(params, row).astype(np.float64) for of in (scale_of, running_mean_of, running_variance_of))
            scale, mean, variance = parts
            factor = scale / np.sqrt(variance + EPSILON)
            self.weight, self.bias = self.weight * factor, self.bias - mean * factor
        self.pool = Pool(row, params)
        self.has_skip = row["skip"] != NONE

    def forward(self, x, skip):
        k, s = self.kernel_size, self.stride
        reach = [(n - 1) * s + k - self.padding - side for n, side in zip(self.size, x.shape[1:3], strict=True)]
        padded = np.pad(x, [(0, 0), *((self.padding, max(0, behind)) for behind in reach), (0, 0)])
        windows = sliding_window_view(padded, (k, k), axis=(1, 2))[:, ::s, ::s][:, : self.size[0], : self.size[1]]
        windows = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, len(self.weight))
        z = (windows @ self.weight + self.bias).reshape(len(x), *self.size, -1)
        if skip is not None:
            z += skip
        y = scalar.activate(self.activation, z)
        out, choice = self.pool.forward(y, None)
        return out, (x.shape, z, y, choice)

    def backward(self, kept, grad):
        (n, height, width, channels), z, y, _ = kept
        grad = self.unpooled(kept, grad) * scalar.activation_slope(self.activation, z, y)
        k, s, (rows, columns) = self.kernel_size, self.stride, self.size
        pieces = (grad.reshape(-1, grad.shape[3]) @ self.weight.T).reshape(n, rows, columns, k, k, channels)
        reach = [(m - 1) * s + k for m in self.size]
        grad_x = np.zeros(
            (n, *(max(r, m + self.padding) for r, m in zip(reach, (height, width), strict=True)), channels)
        )
        for i in range(k):
            for j in range(k):
                grad_x[:, i : i + s * rows : s, j : j + s * columns : s] += pieces[:, :, :, i, j]
        grad_x = grad_x[:, self.padding : self.padding + height, self.padding : self.padding + width]
        return grad_x, grad if self.has_skip else None

    def activated(self, kept):
        """The map before pooling."""
        return kept[2]

    def unpooled(self, kept, grad):
        """Gradient by the map before pooling, from that by the pooled map."""
        return self.pool.backward(kept[3], grad)[0]


STEPS = {
    LayerKind.IMAGES: Images,
    LayerKind.CONV2D: Conv,
    LayerKind.MAX_POOL: Pool,
    LayerKind.AVG_POOL: Pool,
    LayerKind.FLATTEN: Flatten,
    LayerKind.DENSE: Dense,
    LayerKind.TREE: Units,
}


class Layers:
    """Layers as a function of their input.

    Parameters
    ----------
    layers : LAYER (n_layers,)
        Of a network; without the embedding, where it has one.
    params : ndarray (n_params,)

    Attributes
    ----------
    rows_at_once : int
        Rows that fit into `LARGEST_BLOCK`.
    """

    def __init__(self, layers: np.ndarray, params: np.ndarray):
        self.steps = [STEPS[LayerKind(row["kind"])](row, params) for row in layers]
        is_dense = np.isin(layers["kind"], (LayerKind.DENSE, LayerKind.TREE))
        self.inputs = np.where(is_dense, np.arange(len(layers)) - 1, layers["input"]).tolist()
        self.skips = np.where(is_dense, NONE, layers["skip"]).tolist()
        windows = layers["height"] * layers["width"] * layers["n_in"]
        self.rows_at_once = max(1, LARGEST_BLOCK // int(max(windows.max(initial=1), layers["n_out"].max(initial=1))))

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, list]:
        """Output (n, n_outputs) before any inverse link, and what `backward` needs."""
        outputs, kept = {NONE: x}, []
        for number, (step, source, skip) in enumerate(zip(self.steps, self.inputs, self.skips, strict=True)):
            outputs[number], of_step = step.forward(outputs[source], None if skip == NONE else outputs[skip])
            kept.append(of_step)
        return outputs[len(self.steps) - 1], kept

    def backward(self, kept: list, grad: np.ndarray, stop: int = NONE) -> np.ndarray:
        """Gradient by the input, from that by the output; or by what the convolution `stop` gives, before pooling."""
        grads = {len(self.steps) - 1: grad}
        for number in reversed(range(len(self.steps))):
            if number == stop:
                return self.steps[number].unpooled(kept[number], grads[number])
            grad_x, grad_skip = self.steps[number].backward(kept[number], grads.pop(number))
            for source, part in ((self.inputs[number], grad_x), (self.skips[number], grad_skip)):
                if part is not None:
                    grads[source] = grads[source] + part if source in grads else part
        return grads[NONE]
