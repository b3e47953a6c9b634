"""The methods, for networks whose input is a row of numbers: a table's or an image's pixels.

``f`` is the number that is explained, x a row, b the baseline it is compared with, d f / d x the gradient.
"""

from __future__ import annotations

import itertools

import numpy as np

from ..images import ImagePreprocessor
from ..network import LayerKind
from .layers import Layers
from .outputs import Explained


def quadrature(n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre's points of (0, 1) and their weights."""
    points, weights = np.polynomial.legendre.leggauss(n_steps)
    return 0.5 * (points + 1.0), 0.5 * weights


class RowFunction:
    """f and its gradient, for some rows at a time.

    Parameters
    ----------
    layers : Layers
    explained : Explained
    scaling : object
        ``transform(x)`` and ``slope(x)``, element by element: from the user's units to those of the network.
    """

    def __init__(self, layers: Layers, explained: Explained, scaling):
        self.layers, self.explained, self.scaling = layers, explained, scaling

    def _blocks(self, n: int):
        starts = range(0, n, self.layers.rows_at_once)
        return [slice(start, start + self.layers.rows_at_once) for start in starts]

    def value(self, x: np.ndarray) -> np.ndarray:
        """f of each row (n,)."""
        return np.concatenate([self._forward(x[rows], rows)[0] for rows in self._blocks(len(x))])

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """d f / d x, of the shape of x."""
        grad = np.empty(x.shape)
        for rows in self._blocks(len(x)):
            _, slopes, kept = self._forward(x[rows], rows)
            grad[rows] = self.layers.backward(kept, slopes) * self.scaling.slope(x[rows])
        return grad

    def _forward(self, x, rows):
        z, kept = self.layers.forward(self.scaling.transform(x))
        return *self.explained.of(z, rows), kept

    def last_maps(self, x: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        """What the convolution `number` gives before pooling, and d f by it."""
        maps, grads = [], []
        for rows in self._blocks(len(x)):
            _, slopes, kept = self._forward(x[rows], rows)
            maps.append(self.layers.steps[number].activated(kept[number]))
            grads.append(self.layers.backward(kept, slopes, stop=number))
        return np.concatenate(maps), np.concatenate(grads)


class CompiledFunction:
    """f of images by the kernels that predict, in the model's precision: forward only, and several times as fast.

    Parameters
    ----------
    model : ConvClassifier
    explained : Explained
    """

    def __init__(self, model, explained: Explained):
        self.model, self.explained = model, explained
        self.last = Layers(model.network_.layers[-1:], model.params_)

    def value(self, x: np.ndarray) -> np.ndarray:
        """f of each image (n,)."""
        x = x.astype(self.model.params_.dtype)
        features = self.model.transform(x if self.model.image_shape is None else x.reshape(len(x), -1))
        return self.explained.of(self.last.forward(features.astype(np.float64))[0])[0]


def gradient_x_input(f: RowFunction, x: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """``(x - b) d f / d x``"""
    return (x - baseline) * f.gradient(x)


def integrated_gradients(f: RowFunction, x: np.ndarray, baseline: np.ndarray, n_steps: int) -> np.ndarray:
    """``(x - b) times the mean of d f / d x on the straight way from b to x``.

    Source: Sundararajan, Taly, Yan, Axiomatic attribution for deep networks, 2017, eq. 1.
    """
    mean = np.zeros(x.shape)
    for point, weight in zip(*quadrature(n_steps), strict=True):
        mean += weight * f.gradient(baseline + point * (x - baseline))
    return (x - baseline) * mean


def occlude_features(f: RowFunction, x: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """``f(x) - f(x with one feature of b)``, for each feature."""
    values, whole = np.empty(x.shape), f.value(x)
    for j in range(x.shape[1]):
        changed = x.copy()
        changed[:, j] = baseline[:, j]
        values[:, j] = whole - f.value(changed)
    return values


def occlude_windows(f: CompiledFunction, x: np.ndarray, baseline: np.ndarray, window: int, stride: int) -> np.ndarray:
    """The mean, over all windows that hold a pixel, of ``f(x) - f(x with b in the window)``.

    Source: Zeiler, Fergus, Visualizing and understanding convolutional networks, 2014, section 4.2.
    """
    whole, (height, width) = f.value(x), x.shape[1:3]
    total, count = np.zeros(x.shape), np.zeros((height, width, 1))
    sides = (range(0, max(1, side - window + stride), stride) for side in (height, width))
    for top, left in itertools.product(*sides):
        place = slice(top, top + window), slice(left, left + window)
        changed = x.copy()
        changed[:, *place] = baseline[:, *place]
        total[:, *place] += (whole - f.value(changed))[:, np.newaxis, np.newaxis, np.newaxis]
        count[place] += 1.0
    return total / count


def grad_cam(f: RowFunction, x: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """``max(0, sum over c of mean(d f / d a[c]) a[c])`` for the maps a[c] of the last convolution, enlarged to x.

    Source: Selvaraju et al., Grad-CAM: visual explanations from deep networks via gradient-based localization, 2017,
    eq. 1 and 2.
    """
    convolutions = np.flatnonzero(layers["kind"] == LayerKind.CONV2D)
    if not convolutions.size:
        raise ValueError("method='grad_cam' needs a convolution, but conv_layers has none.")
    maps, grads = f.last_maps(x, int(convolutions[-1]))
    heat = np.maximum((grads.mean(axis=(1, 2), keepdims=True) * maps).sum(axis=3), 0.0)
    heat = ImagePreprocessor(size=x.shape[1:3], interpolation="bilinear").fit_transform(heat)
    return np.repeat(heat.reshape(*x.shape[:3], 1), x.shape[3], axis=3)
