"""Layers of images: from a list of convolutions and poolings to the table and the place of everything in memory.

An image layer's output is a map of pixels, NHWC. Image i of layer l lies in the workspace from
``output_start * capacity + i * map_size`` on: rows of `pitch` pixels with `channel_stride` elements each. The first
`border` rows and columns are zero, and so is what the layers that read the map need behind its last row and column. So
no kernel needs a case for the image's edge. The last image layer is the dense layers' matrix of inputs: no border, and
``map_size`` is its leading dimension.

Max pooling behind a convolution is part of the convolution's row. The rows of a residual block are its projection
(where shapes change), its first and its second convolution; the second one adds the layer `skip`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from . import random
from .network import (
    LAYER,
    NONE,
    TENSOR_ALIGNMENT,
    Activation,
    ConvAlgorithm,
    DenseSpec,
    LayerKind,
    Network,
    aligned_zeros,
    bias_of,
    build,
    leading_dimension,
    round_up,
    weight_of,
)

WINOGRAD_CHANNELS = 16  # from so many on, on both sides, its algorithm is faster than the direct one
LARGEST_FUSED_POOL = 255  # pixels: their number is kept in a byte


class ConvSpec(NamedTuple):
    """A convolution, batch norm if wanted, activation."""

    n_channels: int
    kernel_size: int = 3
    stride: int = 1
    activation: Activation = Activation.RELU
    batch_norm: bool = False


class ResidualSpec(NamedTuple):
    """ResNet's basic block: two 3x3 convolutions, the block's input added before the last activation; where shapes
    change the input goes through a 1x1 convolution.

    Source: He, Zhang, Ren, Sun, Deep residual learning for image recognition, 2016, figure 2 and option B.
    """

    n_channels: int
    stride: int = 1
    activation: Activation = Activation.RELU
    batch_norm: bool = False


class PoolSpec(NamedTuple):
    """Pooling of windows that do not overlap; what does not fill a window is left out. `size` None: the whole image."""

    kind: LayerKind  # MAX_POOL or AVG_POOL
    size: int | None = 2


class Recipe(NamedTuple):
    """The arguments of `build_images` that determine the table."""

    image_shape: tuple[int, int, int]
    specs: tuple[ConvSpec | ResidualSpec | PoolSpec, ...]
    dense_specs: tuple[DenseSpec, ...]
    padding: str
    algorithm: str


class ImageNetwork(NamedTuple):
    """The layer table of a network over images, and what it measures.

    Attributes
    ----------
    layers : LAYER (n_layers,)
        The images, the layers of images, the dense layers.
    n_params : int
        Length of the parameter vector: weights, then the running statistics of batch norm, which are not trained.
    n_images : int
        Number of image rows of the table, the images' own included.
    dense : Network
        The dense layers alone.
    image_width : int
        Elements of all maps per image.
    state_start : int
        Where the running statistics begin.
    recipe : Recipe
        What it was built from.
    """

    layers: np.ndarray
    n_params: int
    n_images: int
    dense: Network
    image_width: int
    state_start: int
    recipe: Recipe

    @property
    def image_layers(self) -> np.ndarray:
        """The image rows of the table."""
        return self.layers[: self.n_images]


def build_images(
    image_shape: tuple[int, int, int],
    specs: Sequence[ConvSpec | ResidualSpec | PoolSpec],
    dense_specs: Sequence[DenseSpec],
    *,
    padding: str = "same",
    algorithm: str = "auto",
    entries: Sequence | None = None,
) -> ImageNetwork:
    """Lay out a network for images of `image_shape`: (height, width, channels).

    Parameters
    ----------
    specs : sequence of ConvSpec, ResidualSpec, PoolSpec
        Layers of images in forward order.
    dense_specs : sequence of DenseSpec
        The layers behind them, the output layer included.
    padding : {"same", "valid"}
        "same": a convolution's output has ``ceil(size / stride)`` pixels a side. Residual blocks always pad.
    algorithm : {"auto", "direct", "winograd"}
        "auto": Winograd's for 3x3 filters of stride 1 whose channels are multiples of 16 on both sides.
    entries : sequence, optional
        What the user wrote for each of `specs`, for messages.

    Raises
    ------
    ValueError
        Where a layer leaves nothing of the image, naming the layer and the image's size there.
    """
    table = _Table(image_shape, padding, algorithm)
    recipe = Recipe(tuple(image_shape), tuple(specs), tuple(dense_specs), padding, algorithm)
    entries = [_describe(spec) for spec in specs] if entries is None else entries
    for number, (spec, entry) in enumerate(zip(specs, entries, strict=True), start=1):
        table.where = f"layer {number} {entry!r}"
        if isinstance(spec, PoolSpec):
            table.pool(spec)
        elif isinstance(spec, ResidualSpec):
            table.residual(spec)
        else:
            table.conv(spec)
    return table.finish(recipe)


def _describe(spec) -> str:
    if isinstance(spec, PoolSpec):
        return "global_avg_pool" if spec.size is None else spec.kind.name.lower()
    name = "residual" if isinstance(spec, ResidualSpec) else f"conv {spec.kernel_size}x{spec.kernel_size}"
    return f"{name}, {spec.n_channels}"


class _Table:
    """The rows so far."""

    def __init__(self, image_shape, padding: str, algorithm: str):
        self.padding, self.algorithm, self.where = padding, algorithm, ""
        self.rows: list[np.void] = []
        height, width, channels = image_shape
        self.add(LayerKind.IMAGES, channels, height, width, input=NONE)

    def add(self, kind, n_out, height, width, **fields):
        row = np.zeros(1, LAYER)[0]
        row["kind"], row["n_out"], row["height"], row["width"] = kind, n_out, height, width
        row["out_height"], row["out_width"] = height, width
        row["pool_height"] = row["pool_width"] = row["stride"] = 1
        row["input"] = len(self.rows) - 1
        row["skip"] = row["scale_start"] = row["state_start"] = NONE
        for name, value in fields.items():
            row[name] = value
        self.rows.append(row)
        return row

    def side(self, size: int, kernel_size: int, stride: int, padding: str) -> int:
        """Pixels along a side of a convolution's output."""
        return -(-size // stride) if padding == "same" else (size - kernel_size) // stride + 1

    def conv(self, spec: ConvSpec, padding: str | None = None, **fields):
        source = self.rows[fields.get("input", len(self.rows) - 1)]
        padding, k, stride = padding or self.padding, int(spec.kernel_size), int(spec.stride)
        sides = int(source["out_height"]), int(source["out_width"])
        height, width = (self.side(size, k, stride, padding) for size in sides)
        if height < 1 or width < 1:
            raise ValueError(f"{self.where}: the image is already {sides[0]}x{sides[1]}")
        channels, n_out = int(source["n_out"]), int(spec.n_channels)
        fits = k == 3 and stride == 1 and channels % 16 == 0 and n_out % 16 == 0
        large = min(channels, n_out) >= WINOGRAD_CHANNELS or self.algorithm == "winograd"
        winograd = fits and large and self.algorithm != "direct"
        fields.setdefault("activation", spec.activation)
        if spec.batch_norm:
            fields["scale_start"] = fields["state_start"] = 0  # placed in `finish`
        return self.add(
            LayerKind.CONV2D, n_out, height, width, in_channels=channels, kernel_size=k, stride=stride,
            n_in=k * k * channels, padding=(k - 1) // 2 if padding == "same" else 0,
            algorithm=ConvAlgorithm.WINOGRAD if winograd else ConvAlgorithm.DIRECT, **fields,
        )  # fmt: skip

    def residual(self, spec: ResidualSpec):
        source = skip = len(self.rows) - 1
        conv = ConvSpec(spec.n_channels, 3, spec.stride, spec.activation, spec.batch_norm)
        if spec.stride != 1 or int(self.rows[source]["n_out"]) != spec.n_channels:
            skip = len(self.rows)
            self.conv(conv._replace(kernel_size=1, activation=Activation.IDENTITY), "same")
        self.conv(conv, "same", input=source)
        self.conv(conv._replace(stride=1), "same", skip=skip)

    def pool(self, spec: PoolSpec):
        row = self.rows[-1]
        sides = int(row["out_height"]), int(row["out_width"])
        window = sides if spec.size is None else (int(spec.size), int(spec.size))
        height, width = (side // size for side, size in zip(sides, window, strict=True))
        if height < 1 or width < 1:
            raise ValueError(f"{self.where}: the image is already {sides[0]}x{sides[1]}")
        unpooled = row["kind"] == LayerKind.CONV2D and row["pool_height"] == row["pool_width"] == 1
        if spec.kind == LayerKind.MAX_POOL and unpooled and window[0] * window[1] <= LARGEST_FUSED_POOL:
            row["pool_height"], row["pool_width"] = window
            row["out_height"], row["out_width"] = height, width
            return
        row = self.add(spec.kind, row["n_out"], *sides, pool_height=window[0], pool_width=window[1])
        row["out_height"], row["out_width"] = height, width

    # ------------------------------------------------------------ places in memory

    def finish(self, recipe: Recipe) -> ImageNetwork:
        """The whole network: flattens, finds the readers of each map, lays out maps and parameters."""
        last = self.rows[-1]
        if last["kind"] == LayerKind.IMAGES or last["n_out"] % 16:
            n = int(last["out_height"] * last["out_width"] * last["n_out"])
            self.add(LayerKind.FLATTEN, n, 1, 1)
            last = self.rows[-1]
        dense = build(int(last["out_height"] * last["out_width"] * last["n_out"]), recipe.dense_specs)
        layers = np.array(self.rows, LAYER)
        self.mark_readers(layers)
        image_width = self.place_maps(layers, int(dense.layers["in_stride"][0]))
        n_weights = self.place_weights(layers)
        dense.layers["weight_start"] += n_weights
        dense.layers["bias_start"] += n_weights
        state_start = n_params = n_weights + dense.n_params
        for row in layers:
            if row["state_start"] != NONE:
                row["state_start"] = n_params
                n_params = round_up(n_params + 2 * int(row["out_stride"]), TENSOR_ALIGNMENT)
        dense = dense._replace(n_params=n_params)
        layers, n_images = np.concatenate([layers, dense.layers]), len(layers)
        return ImageNetwork(layers, n_params, n_images, dense, image_width, state_start, recipe)

    @staticmethod
    def mark_readers(layers: np.ndarray) -> None:
        """Who of several readers of one map adds to its gradient, and who leaves it to others."""
        readers: dict[int, list] = {}
        for row in layers:
            for role in ("input", "skip"):
                if row[role] > 0:  # the images get no gradient
                    readers.setdefault(int(row[role]), []).append((row, role))
        for of_map in readers.values():
            for position, (row, role) in enumerate(of_map):
                row[role + "_leaves"] = position > 0
                row[role + "_adds"] = position < len(of_map) - 1

    @staticmethod
    def place_maps(layers: np.ndarray, in_stride: int) -> int:
        """Borders, strides and starts of all maps; returns the elements of all of them per image."""
        start = 0
        for number, row in enumerate(layers):
            as_conv = layers[(layers["input"] == number) & (layers["kind"] == LayerKind.CONV2D)]
            others = np.any(layers["skip"] == number) or np.any(
                (layers["input"] == number) & np.isin(layers["kind"], (LayerKind.MAX_POOL, LayerKind.AVG_POOL))
            )
            exact = row["kind"] == LayerKind.IMAGES and not others
            row["channel_stride"] = row["n_out"] if exact else round_up(int(row["n_out"]))
            border, sides = 0, [int(row["out_height"]), int(row["out_width"])]
            for reader in as_conv:
                border = max(border, int(reader["padding"]))
                for axis, name in enumerate(("height", "width")):
                    sides[axis] = max(sides[axis], _reach(reader, int(reader[name])))
            row["border"], row["pitch"] = border, border + sides[1]
            row["map_size"] = round_up((border + sides[0]) * int(row["pitch"]) * int(row["channel_stride"]))
            if number == len(layers) - 1:
                row["map_size"] = in_stride
                row["channel_stride"] = in_stride if row["kind"] == LayerKind.FLATTEN else row["channel_stride"]
            row["output_start"] = start
            start += int(row["map_size"])
        return start

    @staticmethod
    def place_weights(layers: np.ndarray) -> int:
        """Starts of all weights, factors and biases in the vector; returns where they end."""
        n_params = 0
        for row in layers:
            row["out_stride"] = leading_dimension(int(row["n_out"]))
            if row["kind"] == LayerKind.CONV2D:
                row["weight_start"] = n_params
                n_params = round_up(n_params + round_up(int(row["n_in"])) * int(row["out_stride"]), TENSOR_ALIGNMENT)
                for name in ("scale_start", "bias_start") if row["scale_start"] != NONE else ("bias_start",):
                    row[name] = n_params
                    n_params = round_up(n_params + int(row["out_stride"]), TENSOR_ALIGNMENT)
        return n_params


def _reach(reader, n_outputs: int) -> int:
    """Pixels that a convolution with `n_outputs` a side reads of a side, from the map's first pixel on."""
    if reader["algorithm"] == ConvAlgorithm.WINOGRAD:
        n_outputs = round_up(n_outputs, 2)  # tiles of four and of two outputs
    return int((n_outputs - 1) * reader["stride"] + reader["kernel_size"] - reader["padding"])


def initialize_images(network: ImageNetwork, dtype, seed: int) -> np.ndarray:
    """New parameter vector: weights and biases uniform in (-bound, bound), bound = sqrt(6 / (fan in + fan out)), as in
    `nbnet.network.initialize`; batch norm starts as the identity.

    A filter's fan out is ``kernel_size**2`` times its channels.
    """
    params = aligned_zeros(network.n_params, dtype)
    layers = network.layers
    hidden = next(row["activation"] for row in layers if row["kind"] in (LayerKind.CONV2D, LayerKind.DENSE))
    factor = 2.0 if hidden == Activation.LOGISTIC else 6.0
    for index, row in enumerate(layers):
        if row["kind"] not in (LayerKind.CONV2D, LayerKind.DENSE):
            continue
        n_in, n_out = int(row["n_in"]), int(row["n_out"])
        bound = np.sqrt(factor / (n_in + max(1, int(row["kernel_size"])) ** 2 * n_out))
        values = random.uniform(seed, random.Stream.INITIAL_WEIGHTS, index, (n_in + 1) * n_out)
        values = (bound * (2.0 * values - 1.0)).reshape(n_in + 1, n_out)
        weight_of(params, row)[:] = values[:-1]
        if row["kind"] == LayerKind.CONV2D and row["scale_start"] != NONE:
            scale_of(params, row)[:] = 1.0
            running_variance_of(params, row)[:] = 1.0
        else:
            bias_of(params, row)[:] = values[-1]
    return params


def scale_of(params: np.ndarray, row) -> np.ndarray:
    """View (n_out,) of batch norm's factors; its offsets are the layer's bias."""
    start = int(row["scale_start"])
    return params[start : start + int(row["n_out"])]


def running_mean_of(params: np.ndarray, row) -> np.ndarray:
    """View (n_out,) of batch norm's running mean."""
    start = int(row["state_start"])
    return params[start : start + int(row["n_out"])]


def running_variance_of(params: np.ndarray, row) -> np.ndarray:
    """View (n_out,) of batch norm's running variance."""
    start = int(row["state_start"]) + int(row["out_stride"])
    return params[start : start + int(row["n_out"])]
