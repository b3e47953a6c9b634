"""Batch norm's kernels equal the naive twin, with weights of images, and keep their digits where the mean is large."""

import numpy as np
import pytest

from nbnet.cpu import batch_norm
from nbnet.cpu.conv2d import Map
from nbnet.cpu.dense import Matrix
from nbnet.image_network import ConvSpec, build_images, scale_of
from nbnet.network import DenseSpec, aligned_zeros, bias_of, round_up
from tests import reference_conv as reference

N_IMAGES = 4


class Case:
    """Convolutions' outputs of some images and what batch norm makes of them."""

    def __init__(self, height, width, channels, dtype, mean=0.0):
        rng = np.random.default_rng(channels)
        network = build_images((height, width, 1), [ConvSpec(channels, batch_norm=True)], [DenseSpec(2)])
        self.layer, self.dtype, self.n = network.layers[1], dtype, channels
        self.params = aligned_zeros(network.n_params, dtype)
        scale_of(self.params, self.layer)[:] = rng.uniform(0.5, 2, channels)
        bias_of(self.params, self.layer)[:] = rng.normal(size=channels)
        self.z = (mean + rng.normal(size=(N_IMAGES, height, width, channels))).astype(dtype)
        self.grad = rng.normal(size=self.z.shape).astype(dtype)
        weights = rng.uniform(0.5, 2, N_IMAGES)
        self.weights = (weights / weights.sum()).astype(dtype)
        self.stride = int(self.layer["out_stride"])
        self.moments, self.statistics, self.norm, self.totals = (self.rows(n) for n in (2 * N_IMAGES, 2, 2, 2))

    def rows(self, n):
        return Matrix(aligned_zeros(n * self.stride, self.dtype), 0, self.stride)

    def map(self, image):
        height, width, _ = image.shape
        data = aligned_zeros(height * width * round_up(self.n), self.dtype)
        view = data.reshape(height, width, -1)
        view[..., : self.n] = image
        return Map(data, 0, width, round_up(self.n)), view[..., : self.n]

    def view(self, matrix):
        return matrix.data.reshape(-1, self.stride)[:, : self.n]

    def statistics_of_batch(self):
        for i, image in enumerate(self.z):
            row = Matrix(self.moments.data, 2 * i * self.stride, self.stride)
            batch_norm.image_statistics(self.map(image)[0], self.layer, row)
        batch_norm.batch_statistics(self.moments, self.weights, self.layer, self.statistics)
        return self.view(self.statistics).copy()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("height", "width", "channels"), [(1, 1, 1), (3, 7, 17), (5, 9, 33), (2, 4, 16)])
def test_forward_and_backward(height, width, channels, dtype):
    case = Case(height, width, channels, dtype)
    tolerance = dict(rtol=0, atol=2e-5 if dtype == np.float32 else 1e-13)
    z, grad, weights = case.z.astype(float), case.grad.astype(float), case.weights.astype(float)
    mean, variance, share = reference.batch_statistics(z, weights)
    np.testing.assert_allclose(case.statistics_of_batch(), [mean, variance], **tolerance)
    batch_norm.norm_factors(case.params, case.layer, case.statistics, case.norm)
    scale, offset = (f(case.params, case.layer).astype(float) for f in (scale_of, bias_of))
    factor, shift = case.view(case.norm)
    expected = reference.batch_norm_forward(z, scale, offset, mean, variance)
    np.testing.assert_allclose(factor * z + shift, expected, **tolerance)
    sums = case.rows(2 * N_IMAGES)
    for i in range(N_IMAGES):
        row = Matrix(sums.data, 2 * i * case.stride, case.stride)
        image, z_image = case.map(case.grad[i])[0], case.map(case.z[i])[0]
        batch_norm.image_gradient_sums(image, z_image, case.statistics, case.layer, row)
    for row in range(2):
        total = Matrix(case.totals.data, row * case.stride, case.stride)
        batch_norm.sum_images(sums, row, N_IMAGES, channels, total)
    expected, grad_scale, grad_offset = reference.batch_norm_backward(z, scale, grad, mean, variance, share)
    np.testing.assert_allclose(case.view(case.totals), [grad_offset, grad_scale], rtol=0, atol=10 * tolerance["atol"])
    for i in range(N_IMAGES):
        (grad_z, view), z_image = case.map(np.full_like(case.grad[i], 7.0)), case.map(case.z[i])[0]
        part = float(case.weights[i]) / (height * width)
        whole = case.params, case.layer
        batch_norm.batch_norm_backward(
            case.map(case.grad[i])[0], z_image, case.statistics, case.totals, part, whole, grad_z
        )
        np.testing.assert_allclose(view, expected[i], rtol=0, atol=20 * tolerance["atol"])


def test_no_digits_are_lost_where_the_mean_is_large():
    case = Case(6, 5, 7, np.float32, mean=1000.0)
    z, weights = case.z.astype(float), case.weights.astype(float)
    _, variance, _ = reference.batch_statistics(z, weights / weights.sum())
    np.testing.assert_allclose(case.statistics_of_batch()[1], variance, rtol=1e-3)
