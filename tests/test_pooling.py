"""Activation and pooling, fused and alone, equal their naive twins on odd sizes; ties go to the first."""

import numpy as np
import pytest

from nbnet.cpu import pooling
from nbnet.cpu.conv2d import Map
from nbnet.cpu.dense import Matrix
from nbnet.cpu.pooling import Output, Place
from nbnet.image_network import ConvSpec, PoolSpec, build_images
from nbnet.network import NONE, Activation, DenseSpec, LayerKind, aligned_zeros, round_up
from tests import reference, reference_conv

MAX, AVG = LayerKind.MAX_POOL, LayerKind.AVG_POOL
SIZES = pytest.mark.parametrize(("height", "width", "channels"), [(1, 1, 1), (7, 9, 17), (5, 4, 33), (6, 6, 16)])


def a_map(image, gaps=0):
    """A map that holds `image`, in an array with room for as many maps behind it."""
    height, width, channels = image.shape
    size = height * width * round_up(channels)
    data = aligned_zeros(size * (1 + gaps), image.dtype)
    view = data.reshape(1 + gaps, height, width, -1)[..., :channels]
    view[0] = image
    return Map(data, 0, width, round_up(channels)), view, size


def layer_of(specs, shape):
    return build_images(shape, specs, [DenseSpec(2)]).layers[1]


@pytest.mark.parametrize("pool", [1, 2, 3])
@pytest.mark.parametrize("activation", list(Activation))
@SIZES
def test_activation_with_max_pooling(height, width, channels, activation, pool):
    if pool > min(height, width):
        pytest.skip("nothing would be left")
    rng = np.random.default_rng(channels)
    specs = [ConvSpec(channels, 1, activation=activation)] + [PoolSpec(MAX, pool)] * (pool > 1)
    layer = layer_of(specs, (height, width, 1))
    z = np.round(rng.normal(size=(height, width, channels)), 1)  # with ties
    out = height // pool, width // pool
    z_map, _, _ = a_map(z)
    y_map, y_view, gap = a_map(np.zeros((*out, channels)), gaps=1)
    codes = np.zeros(gap, np.uint8)
    none = Matrix(z_map.data, 0, 0)
    pooling.activation_forward(z_map, none, z_map, layer, Output(y_map, gap, codes))
    value, slope = reference.ACTIVATIONS[activation.name.lower()]
    expected = reference_conv.pool_forward(value(z)[None], (pool, pool), "max")[0]
    np.testing.assert_allclose(y_view[0], expected, atol=1e-13)
    g = rng.normal(size=(*out, channels))
    grad_map, _, _ = a_map(g * y_view[1])
    grad_z, grad_view, _ = a_map(np.full(z.shape, 7.0))
    sums = Matrix(aligned_zeros(2 * round_up(channels), np.float64), 0, round_up(channels))
    pooling.activation_backward(grad_map, codes, 0, layer, grad_z, sums)
    falls = activation in (Activation.GELU, Activation.SILU)  # else the largest input has the largest output
    chosen = reference_conv.pool_backward((value(z) if falls else z)[None], g[None], (pool, pool), "max")[0]
    np.testing.assert_allclose(grad_view[0], chosen * slope(z), atol=1e-12)
    np.testing.assert_allclose(sums.data[:channels], (chosen * slope(z)).sum(axis=(0, 1)), atol=1e-12)


@pytest.mark.parametrize("kind", [MAX, AVG])
@pytest.mark.parametrize("pool", [2, 3, None])
@SIZES
def test_poolings_alone(height, width, channels, pool, kind):
    window = (height, width) if pool is None else (pool, pool)
    if window[0] > height or window[1] > width:
        pytest.skip("nothing would be left")
    rng = np.random.default_rng(channels)
    layer = layer_of([PoolSpec(kind, pool)], (height, width, channels))
    x = np.round(rng.normal(size=(height, width, channels)), 1)
    out = height // window[0], width // window[1]
    x_map, _, _ = a_map(x)
    y_map, y_view, gap = a_map(np.zeros((*out, channels)), gaps=1)
    pooling.pool_forward(x_map, layer, Output(y_map, gap, np.zeros(0, np.uint8)))
    name = "max" if kind == MAX else "avg"
    np.testing.assert_allclose(y_view[0], reference_conv.pool_forward(x[None], window, name)[0], atol=1e-13)
    assert (y_view[1] == 1).all()
    g = rng.normal(size=(*out, channels))
    grad_x, grad_view, _ = a_map(np.full(x.shape, 7.0))
    pooling.pool_backward(x_map, y_map, a_map(g)[0], layer, grad_x)
    np.testing.assert_allclose(
        grad_view[0], reference_conv.pool_backward(x[None], g[None], window, name)[0], atol=1e-13
    )


@pytest.mark.parametrize("activation", [NONE, Activation.RELU, Activation.IDENTITY])
def test_readers_of_one_map_share_its_gradient(activation):
    rng = np.random.default_rng(0)
    parts, target = rng.normal(size=(3, 4, 5, 17)), rng.normal(size=(4, 5, 17))  # slopes, or outputs
    slopes = {NONE: target, Activation.RELU: target > 0, Activation.IDENTITY: 1.0}[activation]
    place, view, gap = a_map(target, gaps=1)
    for part, adds, leaves in zip(parts, (0, 1, 1), (1, 1, 0), strict=True):
        pooling.deliver(a_map(part)[0], Place(place, int(activation), gap, adds, leaves), 4, 5, 17)
    np.testing.assert_allclose(view[0], slopes * parts.sum(axis=0))
