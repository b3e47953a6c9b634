"""A network is two arrays: one flat vector of parameters and a small table with one row a layer.

Layout rules, the same for every backend:

- every tensor starts at a multiple of 32 elements, so that it starts on a cache line in float32 and float64;
- every matrix has a leading dimension that is a multiple of 16, and an odd multiple of 16 from 256 columns on:
  rows a power of two apart fall into the same sets of the cache;
- pad columns and pad rows are zero and stay zero, so no kernel needs a masked tail.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from . import random


class LayerKind(IntEnum):
    """What a row of the table computes."""

    DENSE = 0
    EMBEDDING = 1
    IMAGES = 2
    CONV2D = 3
    MAX_POOL = 4
    AVG_POOL = 5
    FLATTEN = 6
    TREE = 10


class Activation(IntEnum):
    """Elementwise function after a layer's affine map; formulas in `nbnet.scalar`."""

    IDENTITY = 0
    RELU = 1
    LEAKY_RELU = 2
    ELU = 3
    GELU = 4
    SILU = 5
    TANH = 6
    LOGISTIC = 7
    SOFTPLUS = 8


class ConvAlgorithm(IntEnum):
    """How a convolution is computed; chosen by its shape alone."""

    DIRECT = 0
    WINOGRAD = 1


class Loss(IntEnum):
    """Training loss, together with the inverse link that turns the last layer's output into a prediction."""

    SOFTMAX_CROSS_ENTROPY = 0
    SIGMOID_CROSS_ENTROPY = 1
    SQUARED_ERROR = 2
    POISSON = 3
    HUBER = 4
    QUANTILE = 5


class Pooling(IntEnum):
    """How the vectors e of a document's tokens, with weights w, become one; formulas in `nbnet.cpu.embedding`."""

    MEAN = 0
    SUM = 1
    SQRTN = 2
    MAX = 3
    ATTENTION = 4


class Optimizer(IntEnum):
    """Update rule of one stochastic step."""

    SGD = 0
    ADAM = 1
    ADAMW = 2
    ADAGRAD = 3


ACTIVATION_CODES = {member.name.lower(): member for member in Activation}

LAYER = np.dtype(
    [
        ("kind", np.int64),  # LayerKind
        ("activation", np.int64),  # Activation
        ("n_in", np.int64),
        ("n_out", np.int64),
        ("in_stride", np.int64),  # leading dimension of the input, and of the transposed weight
        ("out_stride", np.int64),  # leading dimension of weight and output
        ("weight_start", np.int64),  # in the vector: (round_up(n_in, 16), out_stride)
        ("bias_start", np.int64),  # in the vector: (out_stride,)
        ("transposed_start", np.int64),  # in the workspace: (round_up(n_out, 16), in_stride)
        ("output_start", np.int64),  # per sample: multiply by the rows that the workspace holds
        ("dropout", np.float64),  # share of outputs set to zero in training
        ("pooling", np.int64),  # Pooling, of an embedding
        # what follows belongs to layers of images, whose output is a map of pixels; see `nbnet.image_network`
        ("input", np.int64),  # number of the layer that is read
        ("input_adds", np.int64),  # 1: a later layer reads it too, and has left its part of the gradient
        ("input_leaves", np.int64),  # 1: an earlier layer reads it too, and this part of the gradient is left for it
        ("skip", np.int64),  # number of the layer whose output is added before the activation; NONE
        ("skip_adds", np.int64),
        ("skip_leaves", np.int64),
        ("in_channels", np.int64),
        ("kernel_size", np.int64),
        ("stride", np.int64),
        ("padding", np.int64),  # pixels of zeros that the filter reaches above and left of the image
        ("algorithm", np.int64),  # ConvAlgorithm
        ("height", np.int64),  # before pooling
        ("width", np.int64),
        ("pool_height", np.int64),
        ("pool_width", np.int64),
        ("out_height", np.int64),
        ("out_width", np.int64),
        ("channel_stride", np.int64),  # elements from pixel to pixel of the output
        ("border", np.int64),  # rows and columns of zeros above and left of the output's pixels
        ("pitch", np.int64),  # pixels from row to row of the output
        ("map_size", np.int64),  # elements of an image's output, borders included
        ("scale_start", np.int64),  # in the vector: batch norm's factors (out_stride,); NONE
        ("state_start", np.int64),  # in the vector: batch norm's running mean and variance, (2, out_stride)
    ],
    align=True,
)

PAD = 16  # leading dimensions and rows of weights are multiples of this
TENSOR_ALIGNMENT = 32  # first element of a tensor
NONE = -1  # where a layer has no such thing
ODD_FROM = 256  # from this many columns on, leading dimensions are odd multiples of PAD


def round_up(n: int, multiple: int = PAD) -> int:
    """Smallest multiple of `multiple` that is at least `n`."""
    return -(-n // multiple) * multiple


def leading_dimension(n_columns: int) -> int:
    """Distance between two rows of a matrix with `n_columns` columns, in elements."""
    stride = round_up(n_columns)
    return stride + PAD if stride >= ODD_FROM and stride % (2 * PAD) == 0 else stride


def aligned_zeros(n: int, dtype) -> np.ndarray:
    """Zeros that start at a multiple of 64 bytes; `numpy.zeros` promises 16."""
    dtype = np.dtype(dtype)
    raw = np.zeros(n * dtype.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + n * dtype.itemsize].view(dtype)


class DenseSpec(NamedTuple):
    """A fully connected layer: ``activation(x @ weight + bias)``, then dropout."""

    n_out: int
    activation: Activation = Activation.IDENTITY
    dropout: float = 0.0


class EmbeddingSpec(NamedTuple):
    """The first layer over documents: a vector for each of `n_rows` tokens, pooled, then dropout."""

    n_rows: int
    dim: int
    pooling: Pooling = Pooling.MEAN
    dropout: float = 0.0


class Network(NamedTuple):
    """The layer table and what it measures.

    Attributes
    ----------
    layers : LAYER (n_layers,)
        One row a layer, in forward order.
    n_params : int
        Length of the parameter vector, pads included.
    output_width : int
        Elements of all layers' outputs per sample, pads included.
    transposed_size : int
        Elements of all transposed weights.
    """

    layers: np.ndarray
    n_params: int
    output_width: int
    transposed_size: int


def build(n_features: int, specs: Sequence[DenseSpec]) -> Network:
    """Lay out `specs` for inputs of `n_features` columns.

    Parameters
    ----------
    n_features : int
        Columns of the input.
    specs : sequence of DenseSpec
        The layers in forward order; the last one is the output layer.
    """
    layers = np.zeros(len(specs), LAYER)
    n_params = output_width = transposed_size = 0
    n_in = n_features
    for row, spec in zip(layers, specs, strict=True):
        n_out = int(spec.n_out)
        in_stride, out_stride = leading_dimension(n_in), leading_dimension(n_out)
        row["kind"] = LayerKind.DENSE
        row["activation"] = spec.activation
        row["dropout"] = spec.dropout
        row["n_in"], row["n_out"] = n_in, n_out
        row["in_stride"], row["out_stride"] = in_stride, out_stride
        row["weight_start"] = n_params
        n_params = round_up(n_params + round_up(n_in) * out_stride, TENSOR_ALIGNMENT)
        row["bias_start"] = n_params
        n_params = round_up(n_params + out_stride, TENSOR_ALIGNMENT)
        row["transposed_start"] = transposed_size
        transposed_size = round_up(transposed_size + round_up(n_out) * in_stride, TENSOR_ALIGNMENT)
        row["output_start"] = output_width
        output_width += out_stride
        n_in = n_out
    return Network(layers, n_params, output_width, transposed_size)


def put_below(network: Network, spec: EmbeddingSpec) -> Network:
    """The network over documents whose pooled vectors are the input of `network`.

    The embedding's row is the first of the table. Its parameters are the last of the vector: the query of attention (at
    `bias_start`), then a row of `out_stride` elements for each token, in two blocks; see `EmbeddingTable`.
    """
    row = np.zeros(1, LAYER)
    stride = int(network.layers["in_stride"][0])
    row["kind"], row["pooling"], row["dropout"] = LayerKind.EMBEDDING, spec.pooling, spec.dropout
    row["n_in"], row["n_out"], row["in_stride"], row["out_stride"] = spec.n_rows, spec.dim, stride, stride
    row["bias_start"] = network.n_params
    row["weight_start"] = start = round_up(network.n_params + stride, TENSOR_ALIGNMENT)
    n_params = start + int(spec.n_rows) * stride
    return network._replace(layers=np.concatenate([row, network.layers]), n_params=n_params)


def put_tree_on_top(network: Network, n_in: int, n_classes: int) -> Network:
    """`network`, which has `n_in` outputs (or no layers: then these are its inputs), below a hierarchical softmax.

    The tree's row has a weight of ``in_stride`` elements for each of its ``n_classes - 1`` units, and no bias.
    """
    row = np.zeros(1, LAYER)
    stride = leading_dimension(n_in)
    row["kind"], row["n_in"], row["n_out"] = LayerKind.TREE, n_in, n_classes
    row["in_stride"] = row["out_stride"] = stride
    row["weight_start"] = row["bias_start"] = network.n_params
    n_params = round_up(network.n_params + (n_classes - 1) * stride, TENSOR_ALIGNMENT)
    return network._replace(layers=np.concatenate([network.layers, row]), n_params=n_params)


def above(network: Network) -> Network:
    """The layers above the embedding; the vector's part before the tokens' rows is theirs."""
    return network._replace(layers=network.layers[1:].copy(), n_params=int(network.layers["weight_start"][0]))


class EmbeddingTable:
    """The rows of an embedding, (n_rows, dim), as an array of their columns: ``table[ids]`` is a copy of rows,
    ``table[ids] = values`` writes them.

    Columns before and from `split` on lie in two blocks, so that two workers that update a half of each row never have
    neighboring cache lines: what a core prefetches beyond its own half it takes from the other core.
    """

    def __init__(self, params: np.ndarray, row):
        start, stride, n_rows, dim = (int(row[key]) for key in ("weight_start", "out_stride", "n_in", "n_out"))
        split = table_split(stride)
        middle = start + n_rows * split
        self.left = params[start:middle].reshape(n_rows, split)
        self.right = params[middle : start + n_rows * stride].reshape(n_rows, stride - split)[:, : dim - split]
        self.shape = n_rows, dim

    def __getitem__(self, ids) -> np.ndarray:
        return np.concatenate([self.left[ids], self.right[ids]], axis=-1)

    def __setitem__(self, ids, values) -> None:
        split = self.left.shape[1]
        self.left[ids], self.right[ids] = values[..., :split], values[..., split:]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self[:].astype(dtype or self.left.dtype, copy=False)

    @property
    def dtype(self) -> np.dtype:
        """Of all numbers."""
        return self.left.dtype


def table_split(stride: int) -> int:
    """Columns in the first of the two blocks of an embedding whose rows have `stride` elements."""
    return stride // PAD // 2 * PAD


def weight_of(params: np.ndarray, row) -> np.ndarray:
    """View (n_in, n_out) of one layer's weight inside the vector."""
    start, stride = int(row["weight_start"]), int(row["out_stride"])
    n_in, n_out = int(row["n_in"]), int(row["n_out"])
    return params[start : start + n_in * stride].reshape(n_in, stride)[:, :n_out]


def bias_of(params: np.ndarray, row) -> np.ndarray:
    """View (n_out,) of one layer's bias inside the vector."""
    start = int(row["bias_start"])
    return params[start : start + int(row["n_out"])]


def initialize(network: Network, dtype, seed: int) -> np.ndarray:
    """New parameter vector: every weight and bias uniform in (-bound, bound), bound = sqrt(6 / (n_in + n_out)).

    The bound is sqrt(2 / (n_in + n_out)) where the hidden activation is logistic, as in scikit-learn.
    Layer l draws from Philox with counter (l, element), so the values depend on the seed and the shape only.

    Source: Glorot, Bengio, Understanding the difficulty of training deep feedforward neural networks, 2010, eq. 16.
    """
    params = aligned_zeros(network.n_params, dtype)
    hidden = network.layers["activation"][0]  # the output layer follows the hidden ones, as in scikit-learn
    factor = 2.0 if hidden == Activation.LOGISTIC else 6.0
    for index, row in enumerate(network.layers):
        n_in, n_out = int(row["n_in"]), int(row["n_out"])
        bound = np.sqrt(factor / (n_in + n_out))
        values = random.uniform(seed, random.Stream.INITIAL_WEIGHTS, index, (n_in + 1) * n_out)
        values = (bound * (2.0 * values - 1.0)).reshape(n_in + 1, n_out)
        weight_of(params, row)[:] = values[:-1]
        bias_of(params, row)[:] = values[-1]
    return params
