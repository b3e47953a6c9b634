"""One call of fit or partial_fit on images: the network, its starting point, and what the training needs."""

from __future__ import annotations

import numpy as np

from .. import trainer
from ..image_network import ImageNetwork, PoolSpec, build_images, initialize_images
from ..images import Augmentation, augment_rule
from ..network import NONE, DenseSpec
from .conv_layers import ConvDefaults, parse_conv_layers, with_activations
from .run import Output, Run, Table, targets_of
from .validation import check_activations, check_hidden_layer_sizes

# columns of the layer table that parameters depend on
SHAPE_FIELDS = ["kind", "n_in", "n_out", "kernel_size", "stride", "out_height", "out_width", "input", "skip"]


def build_network(estimator, n_outputs: int) -> ImageNetwork:
    """The network that the estimator's parameters describe, for images of `image_shape_`."""
    defaults = ConvDefaults(estimator.kernel_size, estimator.pool_size, estimator.batch_norm)
    specs = parse_conv_layers(estimator.conv_layers, defaults)
    sizes = check_hidden_layer_sizes(estimator.hidden_layer_sizes)
    n_active = sum(not isinstance(spec, PoolSpec) for spec in specs)
    activations = check_activations(estimator.activation, n_active + len(sizes), "convolutions and hidden layers")
    hidden = zip(sizes, activations[n_active:], strict=True)
    return build_images(
        estimator.image_shape_,
        with_activations(specs, activations[:n_active]),
        [*(DenseSpec(size, activation, estimator.dropout) for size, activation in hidden), DenseSpec(n_outputs)],
        padding=estimator.padding,
        algorithm=estimator.conv_algorithm,
        entries=list(estimator.conv_layers),
    )


def same_shapes(a: ImageNetwork, b: ImageNetwork) -> bool:
    """Whether the parameters of one network fit the other."""
    if len(a.layers) != len(b.layers) or a.n_params != b.n_params:
        return False
    alike = all(np.array_equal(a.layers[name], b.layers[name]) for name in SHAPE_FIELDS)
    return alike and np.array_equal(a.layers["scale_start"] == NONE, b.layers["scale_start"] == NONE)


def starting_params(estimator, new_network: ImageNetwork, call) -> np.ndarray:
    """New parameters, or a copy of those to go on from.

    Raises
    ------
    ValueError
        If a network that goes on has other layers than the fitted one.
    """
    if call.first:
        return initialize_images(new_network, call.dtype, call.seed)
    if not same_shapes(new_network, estimator.network_):
        raise ValueError(
            "conv_layers and the other parameters ask for other layers than those of the fitted network; fit with "
            "warm_start=False to start anew."
        )
    return trainer.aligned_copy(estimator._latest if call.incremental else estimator.params_, call.dtype)


def augmentation_of(augment) -> Augmentation | None:
    """The parameter `augment` as an `Augmentation`."""
    if not isinstance(augment, dict):
        return augment
    unknown = sorted(set(augment) - set(Augmentation._fields))
    if unknown:
        raise ValueError(f"augment has the unknown keys {unknown}; known are {list(Augmentation._fields)}.")
    return Augmentation(**augment)


class ImageRun(Run):
    """One call of fit or partial_fit of a `ConvClassifier`.

    Parameters
    ----------
    estimator : ConvClassifier
        With what is learned from X itself.
    backend, seed
        As in `Run`.
    new_network : ImageNetwork
        The layers.
    output : Output
        The loss.
    params : ndarray (n_params,)
        Starting point.
    """

    def __init__(self, estimator, backend, new_network: ImageNetwork, output: Output, params: np.ndarray, seed: int):
        self.network, self.loss = new_network, output.loss
        rule = None
        augmentation = augmentation_of(estimator.augment)
        if augmentation is not None:
            black = -estimator.channel_mean_ / estimator.channel_deviation_
            rule = augment_rule(augmentation, black.astype(params.dtype))
        session = backend.ConvSession(
            new_network,
            params,
            output.loss,
            label_smoothing=estimator.label_smoothing,
            augment=rule,
            n_jobs=estimator.n_jobs,
        )
        super().__init__(estimator, backend, session, trainer.Settings.of(estimator, max_fun=0), seed)

    def rows(self, X):
        return as_images(self.estimator, self.backend, X, self.session.params.dtype)

    def targets(self, table: Table):
        return targets_of(table, self.backend, self.session.n_outputs, self.session.params.dtype)

    def attributes(self, params: np.ndarray) -> dict:
        return {"params_": params, "network_": self.network, "_loss": self.loss, "_latest_params": None}


def as_images(estimator, backend, X: np.ndarray, dtype):
    """The backend's view of validated images."""
    return backend.as_images(X, estimator.image_shape_, estimator.channel_mean_, estimator.channel_deviation_, dtype)
