"""The host side of a network over images on the GPU: memory, tables, and what is uploaded when."""

from __future__ import annotations

import numpy as np

from ..cpu.conv_session import channel_statistics
from ..epochs import UpdateRule
from ..image_network import ImageNetwork
from ..network import NONE, LayerKind, Loss, round_up
from . import conv_walk
from . import session as of_tables
from .arrays import DeviceArray
from .augment import as_rule
from .conv2d import pieces_size
from .conv_forward import HostImages, Images
from .conv_net import (
    Results,
    Weights,
    Work,
    backward_border,
    gradient_maps,
    has_norm,
    is_plain,
    make_tables,
    output_maps,
    z_maps,
)
from .launch import check_size, empty, upload, zeros
from .optimizers import flags_of_weights
from .session import Session, as_targets
from .streaming import has_room
from .walk import Rows

__all__ = ["ConvSession", "as_images", "as_targets", "channel_statistics"]

BLOCK_ELEMENTS = 2**26  # of all maps of the images that go through the layers at a time outside training


def as_images(X, image_shape, mean, deviation, dtype) -> Images | HostImages:
    """`X` on the GPU, in its own type; what has neither uint8 nor a float type becomes float64. A `DeviceArray` is not
    copied; where the GPU has no room for X, it stays where it is, and comes in pieces when it is used.

    Parameters
    ----------
    X : ndarray or DeviceArray (n, height, width[, channels]) or (n, height * width * channels)
    image_shape : (height, width, channels)
    mean, deviation : array_like (channels,)
        Values are read as ``(value - mean) / deviation``.
    dtype : dtype
        Of the network.
    """
    if not isinstance(X, DeviceArray) and X.dtype not in (np.uint8, np.float32, np.float64):
        X = X.astype(np.float64)
    height, width, channels = (int(n) for n in image_shape)
    scale = 1.0 / np.broadcast_to(np.asarray(deviation, np.float64), (channels,))
    factors = (upload(np.broadcast_to(a, (channels,)).astype(dtype)) for a in (mean, scale))
    rest = *factors, np.uint32(len(X)), (height, width, channels)
    if isinstance(X, DeviceArray):
        return Images(X.values, *rest)
    return Images(upload(X), *rest) if has_room(X) else HostImages(X, *rest)


class ConvSession(Session):
    """A network over images in use: `Session` with `Images` for rows, and `transform`.

    Parameters
    ----------
    network : ImageNetwork
    params : float32 or float64 (n_params,)
        On the host; updated in place by training, batch norm's running statistics included, though not before `params`
        is read.
    loss : Loss
    label_smoothing : float
    augment : AugmentRule or None
        Random changes of training images; see `nbnet.images.augment_rule`.
    n_jobs : int or None
        Of the CPU's workers; ignored.
    """

    _walk = conv_walk

    def __init__(
        self,
        network: ImageNetwork,
        params: np.ndarray,
        loss: Loss,
        *,
        loss_parameter: float = 0.0,
        label_smoothing: float = 0.0,
        augment=None,
        n_jobs: int | None = None,
    ):
        super().__init__(network.dense, params, loss, loss_parameter=loss_parameter, label_smoothing=label_smoothing)
        self.image_network = network
        self._augment = None if augment is None else as_rule(augment, params.dtype)
        self._image_workspaces = {}

    @property
    def state(self) -> np.ndarray:
        """Batch norm's running statistics: the end of `params`."""
        return self.params[self.image_network.state_start :]

    def prepare(self, update: UpdateRule) -> None:
        """As `Session.prepare`."""
        super().prepare(update)
        self._is_weight = flags_of_weights(self.image_network)

    def loss_and_gradient(self, rows: Rows, targets, alpha: float):
        """Not for images: their solvers are stochastic."""
        raise NotImplementedError("a network over images is trained by stochastic solvers only")

    def transform(self, rows: Images) -> np.ndarray:
        """What the last layer reads of each image (n_rows, n_features)."""
        n_features = int(self.network.layers["n_in"][-1])
        return self._predict(rows, NONE, np.empty((int(rows.n_rows), n_features), self._kind))

    # ---------------------------------------------------------------- memory

    @property
    def _block_rows(self) -> int:
        return max(1, min(of_tables.BLOCK_ROWS, BLOCK_ELEMENTS // self.image_network.image_width))

    def _model(self, grads) -> conv_walk.Model:
        dense = super()._model(grads)
        return conv_walk.Model(self.image_network.image_layers, dense, dense.params, self._augment)

    def _training_workspace(self, n_rows: int) -> Work:
        return self._image_workspace(n_rows, True, training=True)

    def _workspace(self, n_rows: int, with_slopes: bool) -> Work:
        return self._image_workspace(n_rows, with_slopes, training=False)

    def _image_workspace(self, n_rows: int, with_slopes: bool, training: bool) -> Work:
        """Room for `n_rows` images, made once."""
        network = self.image_network
        check_size(round_up(n_rows) * network.image_width, f"the output of all layers for {n_rows} images")
        dense = super()._workspace(n_rows, with_slopes)
        if (dense.capacity, training) not in self._image_workspaces:
            work = _make_work(network, dense.capacity, self._kind, training)
            self._image_workspaces[dense.capacity, training] = work
        work = self._image_workspaces[dense.capacity, training]
        start, size = int(work.results[-1].y.start), work.capacity * int(network.image_layers["map_size"][-1])
        return work._replace(dense=dense._replace(inputs=work.outputs[start : start + size]))


def _make_work(network: ImageNetwork, n: int, kind, training: bool) -> Work:
    """Memory and tables of the image layers, for `n` images."""
    layers = network.image_layers
    convs = [row for row in layers if row["kind"] == LayerKind.CONV2D]

    def vector(size, what):
        check_size(size, f"{what} for {n} images")
        return empty(size, kind)

    size = n * network.image_width
    outputs, slopes = zeros(size, kind), zeros(size * training, kind)  # borders and pads are zero
    several = bool(layers["input_leaves"].any() or layers["skip_leaves"].any())
    partials = empty(size if training and several else 0, kind)
    z = vector(max((n * _z_size(row) for row in convs), default=0), "the output of a convolution")
    sizes = (n * int(gradient_maps(row, None, _border(row, layers)).size) for row in convs if training)
    grad_z = vector(max(sizes, default=0), "the gradient of a convolution")
    results = []
    for row in layers:
        border, keeps_z = _border(row, layers), training and has_norm(row)
        own = Results(
            y=output_maps(row, outputs, n),
            slopes=output_maps(row, slopes, n),
            z=z_maps(row, vector(n * _z_size(row), "the output of a convolution") if keeps_z else z),
            grad_z=gradient_maps(row, grad_z, border),
            border=border,
            statistics=zeros(4 * int(row["out_stride"]) if has_norm(row) else 0, kind),
            tables=None,
        )
        if row["kind"] == LayerKind.CONV2D:
            tables = make_tables(row, layers[row["input"]], own, results[row["input"]], n, training)
            own = own._replace(tables=tables)
        results.append(own)
    plain = int(np.prod(layers[0][["out_height", "out_width", "n_out"]].tolist()))
    return Work(
        outputs=outputs,
        slopes=slopes,
        partials=partials,
        codes=empty(size * training, np.uint8),
        results=tuple(results),
        sums=vector(2 * n * int(layers["out_stride"].max()), "the sums over the pixels of each channel"),
        pieces=empty(max((pieces_size(row, n) for row in convs), default=0) if training else 0, kind),
        plain=empty(n * plain if training else 0, kind),
        weights=Weights(empty(n, kind), upload(np.ones(1, kind))),
        dense=None,
        capacity=n,
    )


def _border(row, layers) -> int:
    return backward_border(row, layers[row["input"]]) if row["kind"] == LayerKind.CONV2D else 0


def _z_size(row) -> int:
    """Elements of the output of a convolution that does not go to its place at once, an image."""
    return 0 if is_plain(row) else int(row["height"] * row["width"]) * round_up(int(row["n_out"]))
