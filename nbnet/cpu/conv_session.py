"""The host side of a network over images on the CPU: memory, workers, and plain calls around the compiled walk."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..image_network import ImageNetwork
from ..network import NONE, Activation, ConvAlgorithm, LayerKind, Loss, aligned_zeros, round_up
from . import conv_walk, walk
from .augment import AugmentRule
from .conv2d import FILTER_ROWS, FILTER_VECTORS
from .conv_net import PLACES, Change, Images, Net
from .conv_walk import SQUARES_BLOCK, Update
from .session import Session, as_targets
from .simd import TILE_ROWS, VECTOR_WIDTH
from .walk import LossRecord, Model, Plan, Targets
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


def channel_statistics(X, image_shape, row_numbers=None, weights=None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel over all pixels of all images (channels,); float64, in two passes.

    A channel without spread gets the deviation one. Reads a few images at a time, so a memory-mapped X is never loaded
    whole.

    Parameters
    ----------
    X : ndarray
        As in `as_images`; or an array of a GPU with `copy_to_host`.
    image_shape : (height, width, channels)
    row_numbers : ndarray, optional
        The images that count.
    weights : ndarray (n_images,), optional
        Weight of each image of X.

    Raises
    ------
    ValueError
        Where the variance overflows.
    """
    row_numbers = np.arange(len(X)) if row_numbers is None else row_numbers
    weights = np.ones(len(X)) if weights is None else weights
    shares = weights[row_numbers] / (weights[row_numbers].sum() * image_shape[0] * image_shape[1])

    def average(function) -> np.ndarray:
        total = np.zeros(image_shape[2])
        for start in range(0, len(row_numbers), STATISTICS_IMAGES):
            some = slice(start, start + STATISTICS_IMAGES)
            block = X[row_numbers[some]]
            block = block.copy_to_host() if hasattr(block, "copy_to_host") else block
            block = function(block.reshape(-1, *image_shape).astype(np.float64))
            rows = block.reshape(len(block), image_shape[0], -1).sum(axis=1)  # long rows are summed fast
            total += shares[some] @ rows.reshape(len(block), -1, image_shape[2]).sum(axis=1)
        return total

    mean = average(lambda block: block)
    with np.errstate(over="ignore"):
        variance = average(lambda block: (block - mean) ** 2)
    if not np.isfinite(variance).all():
        raise ValueError("Input X has values too large for their variance; scale the images or set normalize=False.")
    deviation = np.sqrt(variance)
    constant = deviation <= 10 * np.finfo(np.float64).eps * np.abs(mean)
    return mean, np.where(constant, 1.0, deviation)


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
        self._no_targets = as_targets(None, None, self._none, self.n_outputs, params.dtype)

    @property
    def state(self) -> np.ndarray:
        """Batch norm's running statistics: the end of `params`."""
        return self.params[self.image_network.state_start :]

    # ---------------------------------------------------------------- training

    def _run_steps(self, workers: Workers, rows: Images, targets: Targets, plan: Plan, record: LossRecord) -> None:
        models = (
            Model(self.image_layers, self.params, self._grads, self.moments),
            self._model(self._grads, self.moments),
        )
        works = self._net, self._update._replace(max_grad_norm=self._rule.max_grad_norm), self._work
        rule, data = self._rule._replace(max_grad_norm=0.0), (rows, targets)
        change = None if self.augment is None else Change(self.augment, rule.seed, np.uint64(plan.step))
        workers.run(conv_walk.train_epoch, models, data, works, plan, rule, record, change)

    def loss_and_gradient(self, rows, targets, alpha):
        """Not for images: their solvers are stochastic."""
        raise NotImplementedError("a network over images is trained by stochastic solvers only")

    # ---------------------------------------------------------------- without training

    def evaluate(self, rows: Images, targets: Targets) -> float:
        """Weighted mean loss of the images, without dropout and random changes."""
        record = self._record(rows.n_rows)
        self._run_blocks(rows, targets, conv_walk.evaluate, (self._make_rule(), record))
        losses = self._row_losses(record, targets, slice(None)).astype(np.float64)
        return float(np.average(losses, weights=targets.weights))

    def predict(self, rows: Images, out: np.ndarray | None = None) -> np.ndarray:
        """Predictions (n_rows, n_outputs)."""
        if out is None:
            out = np.empty((rows.n_rows, self.n_outputs), self.params.dtype)
        self._run_blocks(rows, self._no_targets, conv_walk.predict, (int(self.loss), out))
        return out

    def transform(self, rows: Images) -> np.ndarray:
        """What the last layer reads of each image (n_rows, n_features)."""
        out = np.empty((rows.n_rows, int(self.network.layers["n_in"][-1])), self.params.dtype)
        self._run_blocks(rows, self._no_targets, conv_walk.predict, (NONE, out))
        return out

    def _run_blocks(self, rows: Images, targets: Targets, kernel, result: tuple) -> None:
        n_workers = choose_n_workers(self.n_jobs, self._flop_a_row * rows.n_rows)
        with Workers(n_workers) as workers:
            work = self._predict_workspace(rows.n_rows, n_workers, with_slopes=kernel is conv_walk.evaluate)
            works = self._prediction_net(work.capacity, n_workers), work
            orders = np.zeros((n_workers, walk.PREDICT_ROWS), np.int64)
            model, data = self._model(self._none, self._none), (rows, targets)
            workers.run(kernel, model, data, works, orders, None, result)

    # ---------------------------------------------------------------- memory

    def _workspace(self, n_rows: int, n_workers: int):
        """Room for a batch: of the dense layers, whose inputs are the last image layer's maps; and of the image
        layers, in `_net` and `_update`."""
        work = super()._workspace(n_rows, n_workers)
        layers, dtype = self.image_layers, self.params.dtype
        layout = _Layout(layers, self.image_network.image_width, work.capacity, training=True)
        shared = aligned_zeros(layout.shared_size, dtype)
        scratch = _matrix(n_workers, layout.scratch_size, dtype)
        self._net = layout.net(layers, self.params, shared, scratch)
        n_weights = int(self.network.layers["weight_start"][0])
        self._update = Update(
            slices=_matrix(self._n_slices(n_weights), n_weights, dtype),
            squares=np.zeros(max(1, int(np.sum(-(-layers["n_in"] // TILE_ROWS))))),
            norm_squares=np.zeros(-(-self.params.size // SQUARES_BLOCK)),
            max_grad_norm=0.0,
        )
        start, stop = layout.last_map
        slopes = shared[start + layout.slopes_gap : stop + layout.slopes_gap]
        return work._replace(inputs=shared[start:stop], input_slopes=slopes)

    def _prediction_net(self, n_rows: int, n_workers: int) -> Net:
        """Room for a block of images a worker, and for `n_rows` rows of the dense layers' inputs."""
        layers, dtype = self.image_layers, self.params.dtype
        layout = _Layout(layers, self.image_network.image_width, n_rows, training=False)
        shared = _matrix(n_workers, layout.shared_size, dtype)
        return layout.net(layers, self.params, shared, _matrix(n_workers, layout.scratch_size, dtype))

    def _n_slices(self, n_weights: int) -> int:
        """Parts of a batch, by its size and the network's shape only: many, but they must not outweigh the maps."""
        of_maps = self.update.batch_size * self.image_network.image_width // (8 * max(1, n_weights))
        return max(1, min(MAX_SLICES, self.update.batch_size // SLICE_IMAGES, max(2, of_maps)))


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


class _Layout:
    """Where everything lies in the memory of the image layers, for `n_rows` rows.

    In training all maps hold all rows. In prediction only the last layer's do; the others hold a block.
    """

    def __init__(self, layers: np.ndarray, image_width: int, n_rows: int, training: bool):
        self.training = training
        self.places = places = np.zeros(len(layers), PLACES)
        self.convs = [number for number, row in enumerate(layers) if row["kind"] == LayerKind.CONV2D]
        self.winograd = [number for number in self.convs if layers[number]["algorithm"] == ConvAlgorithm.WINOGRAD]
        self.shared_size = self.scratch_size = 0
        places["group"] = 1
        for number in self.winograd:
            places[number]["group"] = min(MAX_BLOCK, -(-PRODUCT_TILES // _n_tiles(layers[number], 1)))
        self.block = int(places["group"].max())
        self.n_rows, self.capacity = n_rows, n_rows if training else self.block
        self.place_maps(layers, image_width)
        self.place_filters(layers)
        self.place_scratch(layers)
        self.shared_size += _slack(layers)
        self.scratch_size += _slack(layers)

    def net(self, layers, params, shared, scratch) -> Net:
        """The layout with its memory."""
        codes = np.zeros(self.last_map[1] if self.training else 0, np.uint8)
        rest = self.training, self.partial_gap, self.weights_start, self.block
        return Net(layers, params, self.places, shared, scratch, codes, *rest)

    def share(self, size: int) -> int:
        """Start of so many new elements of the shared memory."""
        start = self.shared_size
        self.shared_size = round_up(start + size, 32)
        return start

    def reserve(self, size: int) -> int:
        """Start of so many new elements of a worker's scratch."""
        start = self.scratch_size
        self.scratch_size = round_up(start + size, 32)
        return start

    def place_maps(self, layers, image_width: int) -> None:
        """Outputs, what readers leave to each other, slopes; what batch norm keeps; sums.

        Where an output tells the slope of its activation, its gradient takes its place: less memory to wait for, and
        to have. The last map's slopes are the dense layers' to multiply.
        """
        starts = layers["output_start"] * self.capacity
        inside = layers["border"] * (layers["pitch"] + 1) * layers["channel_stride"]
        self.places["map_start"] = starts + inside
        self.last_map = int(starts[-1]), int(starts[-1] + layers["map_size"][-1] * self.n_rows)
        size = round_up(self.last_map[1] + _slack(layers), 32)
        self.share(size)
        self.slopes_gap = self.partial_gap = 0
        if self.training:
            if layers["input_leaves"].any() or layers["skip_leaves"].any():
                self.partial_gap = self.share(size)
            apart = ~np.isin(layers["activation"], (Activation.IDENTITY, Activation.RELU))
            apart |= layers["kind"] == LayerKind.MAX_POOL  # backward it compares with its outputs
            apart[-1] = True
            first = int(starts[apart][0])
            self.slopes_gap = self.share(size - first) - first
            self.places["gradient_gap"][apart] = self.slopes_gap
        for number in self.convs:
            row, place = layers[number], self.places[number]
            # a tile of four or two outputs may end one behind the last one; rows of tiles have TILE_ROWS pixels
            place["z_pitch"] = max(round_up(int(row["width"]), 2), TILE_ROWS)
            place["z_size"] = round_up(int(row["height"]), 2) * int(place["z_pitch"]) * int(row["channel_stride"])
            if self.training:
                place["sums_start"] = self.share(2 * int(row["out_stride"]) * self.n_rows)
                if row["scale_start"] != NONE:
                    place["z_start"] = self.share(int(place["z_size"]) * self.n_rows)

    def place_filters(self, layers) -> None:
        """The filters in the forms that kernels read."""
        self.places["zeros_start"] = self.share(int(layers["channel_stride"][:-1].max(initial=16)) + 64)
        for number in self.convs:
            row, place = layers[number], self.places[number]
            if number in self.winograd:
                size = N_PRODUCTS * int(row["in_channels"] * row["n_out"])
                place["filters_start"], place["transposed_start"] = self.share(size), self.share(size)
            elif self.training:
                size = round_up(int(row["n_out"])) * round_up(int(row["in_channels"]))
                place["transposed_start"] = self.share(int(row["kernel_size"]) ** 2 * size)

    def place_scratch(self, layers) -> None:
        """What a worker has for itself: the image in work, Winograd's tiles, gradients."""
        images = layers[0]
        common = [2 * int(images["out_height"] * images["out_width"] * images["n_out"])]
        common += [FILTER_ROWS * FILTER_VECTORS * VECTOR_WIDTH, int(self.places["z_size"].max())]
        self.reserve(max(common))
        self.weights_start = self.reserve(self.n_rows)
        self.places["between_start"] = self.reserve(N_PRODUCTS * VECTOR_WIDTH)
        tiles = {number: _n_tiles(layers[number], int(self.places[number]["group"])) for number in self.winograd}
        for name, channels in (("v_start", "in_channels"), ("m_start", "n_out")):
            sizes = [N_PRODUCTS * (n * int(layers[number][channels]) + GAP) for number, n in tiles.items()]
            self.places[name] = self.reserve(max(sizes, default=0))
        for number in self.convs:
            self.places[number]["statistics_start"] = self.reserve(6 * int(layers[number]["out_stride"]))
        if not self.training:
            return
        grad_x = [0]
        for number in range(1, len(layers)):
            row, place, source = layers[number], self.places[number], layers[layers[number]["input"]]
            height, place["grad_x_pitch"] = int(source["out_height"]), int(source["out_width"])
            if number in self.winograd:  # all that its tiles read
                height = round_up(int(row["height"]), 2) + 2
                place["grad_x_pitch"] = round_up(int(row["width"]), 2) + 2
            elif number in self.convs:
                place["grad_x_pitch"] = max(int(source["out_width"]), TILE_ROWS * int(row["stride"]))
            grad_x.append(height * int(place["grad_x_pitch"]) * round_up(int(source["n_out"])))
        self.places["grad_x_start"] = self.reserve(max(grad_x))
        for number in self.convs:
            row, place = layers[number], self.places[number]
            border, stride = _backward_border(row, layers[row["input"]]), int(row["channel_stride"])
            pitch = place["grad_z_pitch"] = int(row["width"]) + 2 * border
            start = self.reserve((int(row["height"]) + 2 * border) * pitch * stride)
            place["grad_z_start"] = start + border * (pitch + 1) * stride
            if number in self.winograd:
                place["filter_grad_start"] = self.reserve(N_PRODUCTS * int(row["in_channels"] * row["n_out"]))
