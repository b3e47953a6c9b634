"""Layers and weights in model files."""

from __future__ import annotations

import numpy as np

from ...image_network import ConvSpec, PoolSpec, ResidualSpec, running_mean_of, running_variance_of, scale_of
from ...model_files import Arrays, ModelFileError
from ...network import (
    ACTIVATION_CODES,
    NONE,
    Activation,
    DenseSpec,
    EmbeddingTable,
    LayerKind,
    aligned_zeros,
    bias_of,
    weight_of,
)

MOST_LAYERS = 10_000
LARGEST_WIDTH = 2**31 - 1  # of fully connected layers
# of images: no size of a map of pixels overflows
LARGEST_SIDE = 2**24
LARGEST_IMAGE = 2**40
MOST_CHANNELS = 2**20

# ---------------------------------------------------------------- weights


def tensors_of(layers: np.ndarray, params: np.ndarray) -> dict[str, np.ndarray]:
    """All parameters, without pads, to be read and written, by names that number the layers from the input on."""
    tensors = {}
    for number, row in enumerate(layers):
        name, kind = f"layers.{number}.", row["kind"]
        start, stride, n_in, n_out = (int(row[key]) for key in ("weight_start", "out_stride", "n_in", "n_out"))
        if kind in (LayerKind.DENSE, LayerKind.CONV2D):
            tensors[name + "weight"], tensors[name + "bias"] = weight_of(params, row), bias_of(params, row)
        elif kind == LayerKind.EMBEDDING:
            tensors[name + "weight"], tensors[name + "query"] = EmbeddingTable(params, row), bias_of(params, row)
        elif kind == LayerKind.TREE:
            units = params[start : start + (n_out - 1) * stride].reshape(n_out - 1, stride)
            tensors[name + "weight"] = units[:, :n_in]
        if kind == LayerKind.CONV2D and row["scale_start"] != NONE:
            tensors[name + "scale"] = scale_of(params, row)
            tensors[name + "running_mean"] = running_mean_of(params, row)
            tensors[name + "running_variance"] = running_variance_of(params, row)
    return tensors


def read_tensors(network, arrays: Arrays, dtype: np.dtype) -> np.ndarray:
    """The parameter vector, which is made when all shapes have been found to fit."""
    no_memory = np.broadcast_to(np.zeros(1, dtype), network.n_params)
    values = {}
    for name, view in tensors_of(network.layers, no_memory).items():
        values[name] = arrays.take(name, dtype, view.shape)
        if not np.isfinite(values[name]).all():
            raise ModelFileError(f"array {name!r} has numbers that are not finite.")
        if name.endswith("running_variance") and values[name].min() < 0:
            raise ModelFileError(f"array {name!r} has negative numbers.")
    params = aligned_zeros(network.n_params, dtype)
    for name, view in tensors_of(network.layers, params).items():
        view[...] = values[name]
    return params


# ---------------------------------------------------------------- layers


def encode_dense(specs) -> list:
    """Fully connected layers as lists of width, activation and dropout."""
    return [[int(spec.n_out), Activation(spec.activation).name.lower(), float(spec.dropout)] for spec in specs]


def decode_dense(items: list) -> list[DenseSpec]:
    """Inverse of `encode_dense`."""
    specs = []
    for n_out, activation, dropout in _bounded(items):
        specs.append(DenseSpec(width(n_out), _activation(activation), share(dropout)))
    return specs


def dense_specs_of(layers: np.ndarray) -> list[DenseSpec]:
    """Specs of the fully connected rows of a table."""
    rows = [row for row in layers if row["kind"] == LayerKind.DENSE]
    return [DenseSpec(row["n_out"], row["activation"], row["dropout"]) for row in rows]


def encode_images(specs) -> list:
    """Layers of images as lists: a name, then the fields of the spec."""
    encoded = []
    for spec in specs:
        if isinstance(spec, PoolSpec):
            encoded.append([spec.kind.name.lower(), None if spec.size is None else int(spec.size)])
            continue
        sizes = [int(size) for size in spec[:-2]]
        name = "residual" if isinstance(spec, ResidualSpec) else "conv"
        encoded.append([name, *sizes, Activation(spec.activation).name.lower(), bool(spec.batch_norm)])
    return encoded


def decode_images(items: list) -> list[ConvSpec | ResidualSpec | PoolSpec]:
    """Inverse of `encode_images`."""
    specs = []
    for name, *values in _bounded(items):
        if name in ("max_pool", "avg_pool"):
            (size,) = values
            specs.append(PoolSpec(LayerKind[name.upper()], None if size is None else side(size)))
            continue
        if name not in ("conv", "residual"):
            raise ModelFileError(f"a layer is called {name!r:.60}.")
        n_channels, *sizes, activation, batch_norm = values
        if type(batch_norm) is not bool:
            raise ModelFileError(f"batch_norm of a layer is {batch_norm!r:.60}.")
        make = ConvSpec if name == "conv" else ResidualSpec
        specs.append(make(_size(n_channels, MOST_CHANNELS), *map(side, sizes), _activation(activation), batch_norm))
    return specs


def _bounded(items: list) -> list:
    if len(items) > MOST_LAYERS:
        raise ModelFileError(f"it has {len(items)} layers, more than {MOST_LAYERS}.")
    return items


def _size(value, largest: int) -> int:
    if type(value) is not int or not 1 <= value <= largest:
        raise ModelFileError(f"a size is {value!r:.60}, expected an integer from 1 to {largest}.")
    return value


def width(value) -> int:
    """A layer's width, checked."""
    return _size(value, LARGEST_WIDTH)


def side(value) -> int:
    """A number of pixels, checked."""
    return _size(value, LARGEST_SIDE)


def share(value) -> float:
    """A dropout, checked."""
    if type(value) not in (int, float) or not 0 <= value < 1:
        raise ModelFileError(f"a dropout is {value!r:.60}.")
    return float(value)


def _activation(name) -> Activation:
    if not isinstance(name, str) or name not in ACTIVATION_CODES:
        raise ModelFileError(f"an activation is {name!r:.60}.")
    return ACTIVATION_CODES[name]
