"""Direct convolutions equal their naive twins on odd sizes, and do not depend on the tile that an output is in."""

import numpy as np
import pytest

from nbnet.cpu import conv2d
from nbnet.cpu.conv2d import FILTER_ROWS, FILTER_VECTORS, Map
from nbnet.cpu.dense import Matrix
from nbnet.cpu.simd import TILE_ROWS, VECTOR_WIDTH
from nbnet.cpu.workers import Team
from nbnet.image_network import ConvSpec, build_images
from nbnet.network import DenseSpec, aligned_zeros, bias_of, round_up, weight_of
from tests import reference_conv as reference

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
# height, width, channels in and out, filter, stride, padding
GEOMETRIES = [
    (1, 1, 1, 1, 1, 1, "same"),
    (7, 17, 1, 17, 3, 1, "same"),
    (5, 9, 3, 7, 3, 1, "valid"),
    (9, 7, 17, 33, 3, 2, "same"),
    (8, 11, 16, 16, 1, 2, "same"),
    (11, 8, 7, 5, 5, 1, "same"),
    (12, 7, 2, 3, 5, 3, "valid"),
    (9, 9, 1, 4, 7, 2, "same"),
    (6, 8, 3, 2, 4, 1, "same"),
]
CASES = pytest.mark.parametrize("geometry", GEOMETRIES)
SLACK = 4096


def tolerance(dtype, n):
    return dict(rtol=0, atol=(3e-7 if dtype == np.float32 else 1e-15) * (n + 10))


class Case:
    """One image, one layer, and maps with borders."""

    def __init__(self, geometry, dtype):
        height, width, channels, n_out, k, stride, self.padding = geometry
        rng = np.random.default_rng(height)
        specs = [ConvSpec(n_out, k, stride)]
        self.network = build_images(
            (height, width, channels), specs, [DenseSpec(2)], padding=self.padding, algorithm="direct"
        )
        images, self.layer = self.network.layers[:2]
        self.k, self.stride, self.dtype = k, stride, dtype
        self.params = aligned_zeros(self.network.n_params + SLACK, dtype)
        self.weight, self.bias = weight_of(self.params, self.layer), bias_of(self.params, self.layer)
        self.weight[:], self.bias[:] = rng.uniform(-1, 1, self.weight.shape), rng.uniform(-1, 1, self.bias.shape)
        self.x, self.x_view = self.map(height, width, channels, images)
        self.x_view[:] = rng.uniform(-1, 1, self.x_view.shape)
        self.size = int(self.layer["height"]), int(self.layer["width"])

    def map(self, height, width, channels, row):
        data = aligned_zeros(int(row["map_size"]) + SLACK, self.dtype)
        border, pitch, stride = (int(row[name]) for name in ("border", "pitch", "channel_stride"))
        rows = int(row["map_size"]) // (pitch * stride)
        view = data[: rows * pitch * stride].reshape(rows, pitch, stride)
        view = view[border : border + height, border : border + width, :channels]
        return Map(data, border * (pitch + 1) * stride, pitch, stride), view

    def scratch(self, height, width, channels, border=0):
        """A map at least TILE_ROWS strides wide, with borders."""
        pitch = max(width, TILE_ROWS * self.stride) + 2 * border
        stride = round_up(channels)
        data = aligned_zeros((height + 2 * border) * pitch * stride + SLACK, self.dtype)
        view = data[: (height + 2 * border) * pitch * stride].reshape(height + 2 * border, pitch, stride)
        view = view[border : border + height, border : border + width]
        return Map(data, border * (pitch + 1) * stride, pitch, stride), view

    def inputs(self):
        return self.x_view[None].astype(float), self.weight.astype(float)


@DTYPES
@CASES
def test_forward(geometry, dtype):
    case = Case(geometry, dtype)
    z, view = case.scratch(*case.size, case.layer["n_out"])
    bias = Matrix(case.params, int(case.layer["bias_start"]), 0)
    conv2d.conv2d_forward(case.x, case.params, bias, case.layer, z)
    x, weight = case.inputs()
    expected = reference.conv2d_forward(x, weight, case.bias.astype(float), case.k, case.stride, case.padding)[0]
    n = int(case.layer["n_out"])
    np.testing.assert_allclose(view[..., :n], expected, **tolerance(dtype, len(weight)))
    assert not view[..., n:].any()


@DTYPES
@CASES
def test_gradients(geometry, dtype):
    case = Case(geometry, dtype)
    layer, (height, width, channels) = case.layer, case.x_view.shape
    n = int(layer["n_out"])
    grad_z, grad_z_view = case.scratch(*case.size, n, border=case.k)
    grad_z_view[..., :n] = np.random.default_rng(1).uniform(-1, 1, (*case.size, n))
    filters = aligned_zeros(case.k**2 * round_up(n) * round_up(channels) + SLACK, dtype)
    start = 128  # zeros in front
    for worker in range(3):
        conv2d.transpose_filters(case.params, layer, filters, start, Team(np.zeros(24, np.int64), worker, 3))
    grad_x, grad_x_view = case.scratch(height, width, channels)
    conv2d.conv2d_backward(grad_z, Matrix(filters, 0, 0), start, layer, grad_x, (height, width))
    grads = aligned_zeros(case.params.size, dtype)
    sums = aligned_zeros(FILTER_ROWS * FILTER_VECTORS * VECTOR_WIDTH, dtype)
    for _ in range(2):
        conv2d.conv2d_filter_gradient(case.x, grad_z, layer, grads, sums)
    x, weight = case.inputs()
    g = grad_z_view[None, ..., :n].astype(float)
    expected_x, expected_weight = reference.conv2d_backward(x, weight, g, case.k, case.stride, case.padding)
    np.testing.assert_allclose(grad_x_view[..., :channels], expected_x[0], **tolerance(dtype, case.k**2 * n))
    assert not grad_x_view[..., channels:].any()
    np.testing.assert_allclose(weight_of(grads, layer), 2 * expected_weight, **tolerance(dtype, 2 * g[0].size / n))
    weight_of(grads, layer)[:] = 0
    assert not grads.any()


def test_the_twin_equals_central_differences():
    rng = np.random.default_rng(0)
    x, weight, grad = rng.normal(size=(2, 5, 6, 2)), rng.normal(size=(18, 3)), rng.normal(size=(2, 3, 3, 3))
    grad_x, grad_weight = reference.conv2d_backward(x, weight, grad, 3, 2, "same")
    for array, got in ((x, grad_x), (weight, grad_weight)):
        for position in ((0,) * array.ndim, tuple(n - 1 for n in array.shape)):
            kept, values = array[position], []
            for shift in (1e-5, -1e-5):
                array[position] = kept + shift
                values.append(np.sum(grad * reference.conv2d_forward(x, weight, 0.0, 3, 2, "same")))
            array[position] = kept
            assert got[position] == pytest.approx((values[0] - values[1]) / 2e-5, abs=1e-8)
