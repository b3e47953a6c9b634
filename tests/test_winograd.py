"""Winograd's convolutions equal the naive twin for every remainder of a side by four, and stay accurate in float32."""

import numpy as np
import pytest

from nbnet.cpu import winograd
from nbnet.cpu.conv2d import Map
from nbnet.cpu.dense import Matrix
from nbnet.cpu.simd import TILE_ROWS, VECTOR_WIDTH
from nbnet.cpu.winograd import GAP, N_PRODUCTS
from nbnet.cpu.workers import Team
from nbnet.image_network import ConvSpec, build_images
from nbnet.jit import JIT_DISABLED
from nbnet.network import DenseSpec, aligned_zeros, bias_of, round_up, weight_of
from tests import reference_conv as reference

SIDES = [(1, 2), (3, 5)] if JIT_DISABLED else [(1, 2), (3, 5), (4, 6), (7, 8), (9, 11), (14, 14)]
CHANNELS = [(16, 16)] if JIT_DISABLED else [(16, 48), (32, 32)]
N_IMAGES = 3


class Case:
    """Some images, one layer, and room for all steps."""

    def __init__(self, height, width, n_in, n_out, dtype):
        rng = np.random.default_rng(height * width)
        network = build_images((height, width, n_in), [ConvSpec(n_out)], [DenseSpec(2)], algorithm="winograd")
        self.images, self.layer = network.layers[:2]
        self.size, self.n_in, self.n_out, self.dtype = (height, width), n_in, n_out, dtype
        self.params = aligned_zeros(network.n_params, dtype)
        weight_of(self.params, self.layer)[:] = rng.normal(size=(9 * n_in, n_out)) / np.sqrt(9 * n_in)
        bias_of(self.params, self.layer)[:] = rng.normal(size=n_out)
        self.X = rng.normal(size=(N_IMAGES, height, width, n_in)).astype(dtype)
        self.grad = rng.normal(size=(N_IMAGES, height, width, n_out)).astype(dtype)
        self.block = winograd.block_of(N_IMAGES, height, width)
        n_tiles = max(TILE_ROWS, winograd.first_tiles(self.block)[3])
        self.v = winograd.stack_of(aligned_zeros(N_PRODUCTS * (n_tiles * n_in + GAP), dtype), 0, n_tiles, n_in)
        self.m = winograd.stack_of(aligned_zeros(N_PRODUCTS * (n_tiles * n_out + GAP), dtype), 0, n_tiles, n_out)
        self.between = winograd.lines_between(aligned_zeros(N_PRODUCTS * VECTOR_WIDTH, dtype), 0)
        size = N_PRODUCTS * n_in * n_out
        self.filters = aligned_zeros(2 * size, dtype)
        for worker in range(2):
            team = Team(np.zeros(24, np.int64), worker, 2)
            winograd.winograd_filters(self.params, self.layer, self.filters, (0, size), self.between, team)

    def padded(self, height, width, channels):
        """A map with one pixel around, and room for whole tiles."""
        rows, pitch = round_up(height, 2) + 2, round_up(width, 2) + 2
        data = aligned_zeros(rows * pitch * channels, self.dtype)
        return Map(data, 0, pitch, channels), data.reshape(rows, pitch, channels)

    def transform_input(self):
        for i, image in enumerate(self.X):
            x, view = self.padded(*self.size, self.n_in)
            view[1 : 1 + self.size[0], 1 : 1 + self.size[1]] = image
            winograd.winograd_input(x, i, self.block, self.n_in, self.v, self.between)

    def forward(self):
        self.transform_input()
        winograd.winograd_products(self.v, self.filters, 0, self.m, self.block, self.n_in, self.n_out)
        outputs = []
        for i in range(N_IMAGES):
            z, view = self.padded(*self.size, self.n_out)
            bias = Matrix(self.params, int(self.layer["bias_start"]), 0)
            winograd.winograd_output(self.m, i, self.block, self.n_out, bias, z, self.between)
            outputs.append(view[: self.size[0], : self.size[1]].copy())
        return np.array(outputs)

    def backward(self):
        """Gradients of input and weight."""
        self.transform_input()
        for i, image in enumerate(self.grad):
            grad_z, view = self.padded(*self.size, self.n_out)
            view[: self.size[0], : self.size[1]] = image
            winograd.winograd_output_gradient(grad_z, i, self.block, self.n_out, self.m, self.between)
        size = N_PRODUCTS * self.n_in * self.n_out
        filter_grads, grads = aligned_zeros(size, self.dtype), aligned_zeros(self.params.size, self.dtype)
        winograd.winograd_filter_gradient(self.v, self.m, self.block, self.n_in, self.n_out, filter_grads, 0)
        winograd.winograd_filters_backward(filter_grads, 0, self.layer, grads, self.between)
        winograd.winograd_products(self.m, self.filters, size, self.v, self.block, self.n_out, self.n_in)
        grad_x = []
        for i in range(N_IMAGES):
            image, view = self.padded(*self.size, self.n_in)
            view[:] = 7  # overwritten
            winograd.winograd_input_gradient(self.v, i, self.block, self.n_in, image, self.between)
            grad_x.append(view[1 : 1 + self.size[0], 1 : 1 + self.size[1]].copy())
        return np.array(grad_x), weight_of(grads, self.layer)

    def arrays(self):
        return self.X.astype(float), weight_of(self.params, self.layer).astype(float)


def relative_error(got, expected):
    return np.abs(got - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-5), (np.float64, 1e-13)])
@pytest.mark.parametrize(("n_in", "n_out"), CHANNELS)
@pytest.mark.parametrize(("height", "width"), SIDES)
def test_forward_and_gradients(height, width, n_in, n_out, dtype, tolerance):
    case = Case(height, width, n_in, n_out, dtype)
    X, weight = case.arrays()
    bias = bias_of(case.params, case.layer).astype(float)
    assert relative_error(case.forward(), reference.conv2d_forward(X, weight, bias, 3, 1, "same")) < tolerance
    grad_x, grad_weight = case.backward()
    expected_x, expected_weight = reference.conv2d_backward(X, weight, case.grad.astype(float), 3, 1, "same")
    assert relative_error(grad_x, expected_x) < tolerance
    assert relative_error(grad_weight, expected_weight) < tolerance


@pytest.mark.parametrize(("height", "width"), SIDES)
def test_every_tile_has_a_number_of_its_own(height, width):
    block = winograd.block_of(N_IMAGES, height, width)
    down, across = block.full_down + block.edge_down, block.full_across + block.edge_across
    numbers = [winograd.tile_at(block, i, h, w) for i in range(N_IMAGES) for h in range(down) for w in range(across)]
    assert sorted(numbers) == list(range(winograd.first_tiles(block)[3]))
    assert 4 * block.full_down + 2 * block.edge_down == round_up(height, 2)
