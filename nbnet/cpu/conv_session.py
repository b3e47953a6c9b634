"""The host side of a network over images on the CPU: memory, workers, and plain calls around the compiled walk."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..image_network import ImageNetwork
from ..network import NONE, ConvAlgorithm, LayerKind, Loss, aligned_zeros, round_up
from . import conv_walk, walk
from .augment import AugmentRule
from .conv2d import FILTER_ROWS, FILTER_VECTORS
from .conv_walk import PLACES, SQUARES_BLOCK, Change, Images, ImageWork
from .session import Session, as_rows, as_targets
from .simd import TILE_ROWS, VECTOR_WIDTH
from .walk import Data, LossRecord, Model, Plan, Targets
from .winograd import GAP, N_PRODUCTS
from .workers import Workers, choose_n_workers

__all__ = ["ConvSession", "as_images", "as_targets", "channel_statistics"]

MAX_SLICES = 16  # of a batch, in the sums of filters' gradients
SLICE_IMAGES = 4  # at least so many images in a slice
PRODUCT_TILES = 32  # images are put together for Winograd's products until there are so many tiles
MAX_BLOCK = 8  # images
STATISTICS_IMAGES = 256  # read at a time by `channel_statistics`


def _as_image_array(X: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
    """`X` as (n, height, width, channels), a view where possible, in a type that kernels read."""
    X = np.asarray(X).reshape(len(X), *image_shape)
    size = X.itemsize
    if X.dtype not in (np.uint8, np.float32, np.float64):
        return X.astype(np.float64)
    if not X.flags.aligned or any(stride % size for stride in X.strides):
        return np.ascontiguousarray(X)
    return X


def as_images(X, image_shape, mean, deviation, dtype) -> Images:
    """`X` as kernels read it; nothing is copied but what has neither uint8 nor a float type.

    Parameters
    ----------
    X : ndarray (n, height, width[, channels]) or (n, height * width * channels)
    image_shape : (height, width, channels)
    mean, deviation : array_like (channels,)
        Values are read as ``(value - mean) / deviation``.
    dtype : dtype
        Of the network.
    """
    X = _as_image_array(X, image_shape)
    height, width, channels = (int(n) for n in image_shape)
    size = X.itemsize
    # a flat view over the memory that X lies in, so that one compiled kernel reads every layout
    reach = [(n - 1) * stride // size for n, stride in zip(X.shape, X.strides, strict=True)] if X.size else [0]
    lowest, highest = sum(min(r, 0) for r in reach), sum(max(r, 0) for r in reach)
    corner = X
    for axis, r in enumerate(reach):
        if r < 0:
            corner = np.flip(corner, axis)
    values = as_strided(corner, (highest - lowest + 1,), (size,), writeable=False) if X.size else X.reshape(-1)
    values.flags.writeable = False
    strides = [stride // size for stride in X.strides]
    scale = 1.0 / np.broadcast_to(np.asarray(deviation, np.float64), (channels,))
    tiled = [np.tile(np.broadcast_to(a, (channels,)), width).astype(dtype) for a in (mean, scale)]
    return Images(values, -lowest, *strides, X.shape[0], (height, width, channels), *tiled)


def channel_statistics(X, image_shape, row_numbers=None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel over all pixels of all images (channels,); float64, in two passes.

    A deviation of zero is given as one. Reads a few images at a time, so a memory-mapped X is never loaded whole.
    """
    X = np.asarray(X).reshape(len(X), *image_shape)
    row_numbers = np.arange(len(X)) if row_numbers is None else row_numbers
    n = max(1, len(row_numbers) * image_shape[0] * image_shape[1])
    mean, variance = np.zeros(image_shape[2]), np.zeros(image_shape[2])
    for start in range(0, len(row_numbers), STATISTICS_IMAGES):
        block = X[row_numbers[start : start + STATISTICS_IMAGES]].astype(np.float64)
        mean += block.sum(axis=(0, 1, 2)) / n
    for start in range(0, len(row_numbers), STATISTICS_IMAGES):
        block = X[row_numbers[start : start + STATISTICS_IMAGES]].astype(np.float64)
        variance += ((block - mean) ** 2).sum(axis=(0, 1, 2)) / n
    deviation = np.sqrt(variance)
    return mean, np.where(deviation > 0, deviation, 1.0)


class ConvSession(Session):
    """A network over images in use: `Session` with `Images` for rows, and `transform`.

    Parameters
    ----------
    network : ImageNetwork
    params : float32 or float64 (n_params,)
        Updated in place by training, batch norm's running statistics included.
    loss : Loss
    label_smoothing : float
    augment : AugmentRule or None
        Random changes of training images; see `nbnet.images.augment_rule`.
    n_jobs : int or None
    """

    def __init__(
        self,
        network: ImageNetwork,
        params: np.ndarray,
        loss: Loss,
        *,
        loss_parameter: float = 0.0,
        label_smoothing: float = 0.0,
        augment: AugmentRule | None = None,
        n_jobs: int | None = None,
    ):
        options = dict(loss_parameter=loss_parameter, label_smoothing=label_smoothing, n_jobs=n_jobs)
        super().__init__(network.dense, params, loss, **options)
        self.image_network, self.augment = network, augment
        self.image_layers = layers = network.image_layers.copy()
        self._flop_a_row += float(np.sum(2.0 * layers["height"] * layers["width"] * layers["n_in"] * layers["n_out"]))
        self._no_rows = as_rows(np.zeros((0, 1), params.dtype))

    @property
    def state(self) -> np.ndarray:
        """Batch norm's running statistics: the end of `params`."""
        return self.params[self.image_network.state_start :]

    # ---------------------------------------------------------------- training

    def prepare(self, optimizer, batch_size: int, **settings) -> None:
        """As `Session.prepare`."""
        super().prepare(optimizer, batch_size, **settings)
        max_grad_norm = self._rule.max_grad_norm
        self._rules = self._rule._replace(max_grad_norm=0.0), max_grad_norm

    def _run_steps(self, workers: Workers, rows: Images, targets: Targets, plan: Plan, record: LossRecord) -> None:
        models = self._models(self._grads, self.moments)
        works = self._image_work, self._work, self._no_rows
        change = self._change(rows, plan.step)
        workers.run(conv_walk.train_epoch, models, Data(rows, targets), works, plan, self._rules, record, change)

    def _models(self, grads: np.ndarray, moments: np.ndarray) -> tuple[Model, Model]:
        return Model(self.image_layers, self.params, grads, moments), self._model(grads, moments)

    def _change(self, rows: Images, step: int | None = None) -> Change:
        """Random changes of the epoch that begins with `step`; none at all without a step."""
        rule = self.augment
        if rule is None:
            rule = AugmentRule(0.0, 0.0, 0, 0.0, 0.0, np.zeros(rows.shape[2]))
        active = self.augment is not None and step is not None
        return Change(active, rule, self._rule.seed if active else np.uint64(0), np.uint64(step or 0))

    def loss_and_gradient(self, rows, targets, alpha):
        """Not for images: their solvers are stochastic."""
        raise NotImplementedError("a network over images is trained by stochastic solvers only")

    # ---------------------------------------------------------------- without training

    def evaluate(self, rows: Images, targets: Targets) -> float:
        """Weighted mean loss of the images, without dropout and random changes."""
        record, rule = self._record(rows.n_rows), self._make_rule()
        self._run_blocks(rows, conv_walk.evaluate, Data(rows, targets), (rule, record), with_slopes=True)
        losses = self._row_losses(record, targets, slice(None)).astype(np.float64)
        return float(np.average(losses, weights=targets.weights))

    def predict(self, rows: Images, out: np.ndarray | None = None) -> np.ndarray:
        """Predictions (n_rows, n_outputs)."""
        if out is None:
            out = np.empty((rows.n_rows, self.n_outputs), self.params.dtype)
        self._run_blocks(rows, conv_walk.predict, rows, ((int(self.loss), out),))
        return out

    def transform(self, rows: Images) -> np.ndarray:
        """What the last layer reads of each image (n_rows, n_features)."""
        out = np.empty((rows.n_rows, int(self.network.layers["n_in"][-1])), self.params.dtype)
        self._run_blocks(rows, conv_walk.predict, rows, ((NONE, out),))
        return out

    def _run_blocks(self, rows: Images, kernel, data, rest: tuple, with_slopes: bool = False) -> None:
        n_workers = choose_n_workers(self.n_jobs, self._flop_a_row * rows.n_rows)
        with Workers(n_workers) as workers:
            dense = self._predict_workspace(rows.n_rows, n_workers, with_slopes)
            work, inputs = self._image_prediction_work(dense.capacity, n_workers)
            works = work, dense._replace(inputs=inputs), self._no_rows
            orders = np.zeros((n_workers, walk.PREDICT_ROWS), np.int64)
            models = self._models(self._none, self._none)
            workers.run(kernel, models, data, works, orders, self._change(rows), *rest)

    # ---------------------------------------------------------------- memory

    def _workspace(self, n_rows: int, n_workers: int):
        """Room for a batch: of the dense layers, whose inputs are the last image layer's maps; and `_image_work`."""
        dense = super()._workspace(n_rows, n_workers)
        work = self._image_work = self._image_training_work(dense.capacity, n_workers)
        last = self.image_layers[-1]
        start = int(last["output_start"]) * dense.capacity
        stop = start + int(last["map_size"]) * dense.capacity
        return dense._replace(inputs=work.outputs[start:stop], input_slopes=work.slopes[start:stop])

    def _image_training_work(self, capacity: int, n_workers: int) -> ImageWork:
        layers, dtype = self.image_layers, self.params.dtype
        places, sizes = _places(layers, training=True)
        n_maps = self.image_network.image_width * capacity + _slack(layers)
        n_weights = int(self.network.layers["weight_start"][0])
        convs = layers[layers["kind"] == LayerKind.CONV2D]
        n_squares = int(np.sum(-(-convs["n_in"] // TILE_ROWS))) if convs.size else 1
        return ImageWork(
            places=places,
            outputs=aligned_zeros(n_maps, dtype),
            slopes=aligned_zeros(n_maps, dtype),
            partial=aligned_zeros(n_maps, dtype),
            codes=np.zeros(n_maps, np.uint8),
            z=aligned_zeros(sizes["z"] * capacity + _slack(layers), dtype),
            sums=aligned_zeros(sizes["sums"] * capacity, dtype),
            filters=aligned_zeros(sizes["filters"], dtype),
            slices=_matrix(self._n_slices(n_weights), n_weights, dtype),
            scratch=_matrix(n_workers, sizes["scratch"], dtype),
            statistics=_matrix(n_workers, sizes["statistics"], dtype),
            weights=np.zeros((n_workers, capacity)),
            squares=np.zeros(n_squares),
            norm_squares=np.zeros(-(-self.params.size // SQUARES_BLOCK)),
            capacity=capacity,
            block=int(places["group"].max()),
        )

    def _image_prediction_work(self, n_rows: int, n_workers: int) -> tuple[ImageWork, np.ndarray]:
        """Room for a block of images a worker, and for `n_rows` rows of the dense layers' inputs."""
        layers, dtype = self.image_layers, self.params.dtype
        places, sizes = _places(layers, training=False)
        block = int(places["group"].max())
        last = layers[-1]
        start = int(last["output_start"]) * block
        n_maps = start + int(last["map_size"]) * n_rows
        outputs = _matrix(n_workers, n_maps + _slack(layers), dtype)
        nothing = np.zeros((n_workers, 0), dtype)
        work = ImageWork(
            places=places,
            outputs=outputs,
            slopes=self._none,
            partial=self._none,
            codes=np.zeros(0, np.uint8),
            z=self._none,
            sums=self._none,
            filters=aligned_zeros(sizes["filters"], dtype),
            slices=nothing,
            scratch=_matrix(n_workers, sizes["scratch"], dtype),
            statistics=_matrix(n_workers, sizes["statistics"], dtype),
            weights=np.zeros((n_workers, 0)),
            squares=np.zeros(0),
            norm_squares=np.zeros(0),
            capacity=block,
            block=block,
        )
        return work, outputs[:, start:n_maps]

    def _n_slices(self, n_weights: int) -> int:
        """Parts of a batch, by its size and the network's shape only: many, but they must not outweigh the maps."""
        of_maps = self.batch_size * self.image_network.image_width // (8 * max(1, n_weights))
        return max(1, min(MAX_SLICES, self.batch_size // SLICE_IMAGES, max(2, of_maps)))


def _matrix(n_rows: int, width: int, dtype) -> np.ndarray:
    width = round_up(width, 32)
    return aligned_zeros(n_rows * width, dtype).reshape(n_rows, width)


def _slack(layers: np.ndarray) -> int:
    """Elements that tiles may read behind the last map."""
    reach = TILE_ROWS * layers["stride"].max() + layers["kernel_size"].max()
    return int(reach * layers["channel_stride"][:-1].max(initial=1)) + 4 * VECTOR_WIDTH


def _n_tiles(row, n_images: int) -> int:
    """Winograd's tiles of so many images."""
    down, across = (n // 4 + (n % 4 > 0) for n in (int(row["height"]), int(row["width"])))
    return max(TILE_ROWS, n_images * down * across)


def _backward_border(row, source) -> int:
    """Zeros around a convolution's gradient that its input's gradient reads."""
    k, s, p = (int(row[name]) for name in ("kernel_size", "stride", "padding"))
    border = 1  # Winograd's tiles of two
    for size, size_in in ((row["height"], source["out_height"]), (row["width"], source["out_width"])):
        for h in range(min(s, int(size_in))):
            n_taps = (k - (h + p) % s + s - 1) // s
            before = n_taps - 1 - (h + p) // s
            after = (int(size_in) - 1 - h) // s + (h + p) // s - (int(size) - 1)
            border = max(border, before, after)
    return border


def _places(layers: np.ndarray, training: bool) -> tuple[np.ndarray, dict[str, int]]:
    """Where each layer's intermediate results lie, and the sizes of the arrays."""
    places = np.zeros(len(layers), PLACES)
    places["group"] = 1
    convs = [number for number, row in enumerate(layers) if row["kind"] == LayerKind.CONV2D]
    winograd = [number for number in convs if layers[number]["algorithm"] == ConvAlgorithm.WINOGRAD]
    for number in winograd:
        tiles = -(-int(layers[number]["height"]) // 4) * -(-int(layers[number]["width"]) // 4)
        places[number]["group"] = min(MAX_BLOCK, -(-PRODUCT_TILES // tiles))
    sizes = {"z": 0, "sums": 0, "statistics": 0, "filters": int(layers["channel_stride"][:-1].max(initial=16)) + 64}
    images = layers[0]
    common = [
        2 * int(images["out_height"] * images["out_width"] * images["n_out"]),
        FILTER_ROWS * FILTER_VECTORS * VECTOR_WIDTH,
    ]
    grad_x, v, m = [0], [0], [0]
    for number, (row, place) in enumerate(zip(layers, places, strict=True)):
        if row["kind"] == LayerKind.IMAGES:
            continue
        source = layers[row["input"]]
        channels = round_up(int(source["n_out"]))
        sides = int(source["out_height"]), int(source["out_width"])
        place["grad_x_pitch"] = sides[1]
        if number not in convs:
            grad_x.append(sides[0] * sides[1] * channels)
            continue
        height, width = round_up(int(row["height"]), 2), round_up(int(row["width"]), 2)
        stride = int(row["channel_stride"])
        place["z_pitch"] = max(width, TILE_ROWS)
        place["z_size"] = height * int(place["z_pitch"]) * stride
        if training and row["scale_start"] != NONE:
            place["z_start"] = sizes["z"]
            sizes["z"] += int(place["z_size"])
        common.append(int(place["z_size"]))
        place["sums_start"], place["statistics_start"] = sizes["sums"], sizes["statistics"]
        sizes["sums"] += 2 * int(row["out_stride"])
        sizes["statistics"] += 6 * int(row["out_stride"])
        place["filters_start"] = place["transposed_start"] = round_up(sizes["filters"], 32)
        if number in winograd:
            n_weights = N_PRODUCTS * int(row["in_channels"] * row["n_out"])
            place["transposed_start"] += n_weights
            sizes["filters"] = int(place["transposed_start"]) + n_weights
            n_tiles = _n_tiles(row, int(place["group"]))
            v.append(N_PRODUCTS * (n_tiles * int(row["in_channels"]) + GAP))
            m.append(N_PRODUCTS * (n_tiles * int(row["n_out"]) + GAP))
            place["grad_x_pitch"] = width + 2
            grad_x.append((height + 2) * (width + 2) * channels)
        else:
            n_taps = int(row["kernel_size"]) ** 2
            sizes["filters"] = int(place["filters_start"]) + n_taps * round_up(int(row["n_out"])) * channels
            place["grad_x_pitch"] = max(sides[1], TILE_ROWS * int(row["stride"]))
            grad_x.append(sides[0] * int(place["grad_x_pitch"]) * channels)
    position = round_up(max(common), 32)
    for size, name in ((max(v), "v_start"), (max(m), "m_start"), (max(grad_x) if training else 0, "grad_x_start")):
        places[name] = position
        position = round_up(position + size, 32)
    for number in convs if training else ():
        row, place = layers[number], places[number]
        border = _backward_border(row, layers[row["input"]])
        pitch = int(row["width"]) + 2 * border
        place["grad_z_pitch"] = pitch
        place["grad_z_start"] = position + border * (pitch + 1) * int(row["channel_stride"])
        position = round_up(position + (int(row["height"]) + 2 * border) * pitch * int(row["channel_stride"]), 32)
        if number in winograd:
            place["filter_grad_start"] = position
            position += N_PRODUCTS * int(row["in_channels"] * row["n_out"])
    return places, {**sizes, "scratch": position + _slack(layers)}
