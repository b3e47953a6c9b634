"""`ConvClassifier` in model files."""

from __future__ import annotations

from math import prod

import numpy as np

from ...image_network import ImageNetwork, build_images
from ...model_files import Arrays, Fields, ModelFileError
from ...network import ConvAlgorithm
from .layers import LARGEST_IMAGE, decode_dense, decode_images, encode_dense, encode_images, side
from .names import describe_classes, describe_columns, restore_classes, restore_columns

ALGORITHMS = ("auto", *(member.name.lower() for member in ConvAlgorithm))


def describe(estimator, header: dict, arrays: dict) -> None:
    """Add layers, normalization, and what the targets are."""
    recipe = estimator.network_.recipe
    header["image_shape"] = [int(n) for n in recipe.image_shape]
    header["image_layers"], header["layers"] = encode_images(recipe.specs), encode_dense(recipe.dense_specs)
    header["padding"], header["algorithm"] = recipe.padding, recipe.algorithm
    arrays["channel_mean"], arrays["channel_deviation"] = estimator.channel_mean_, estimator.channel_deviation_
    describe_columns(estimator, header)
    describe_classes(estimator, header, arrays)


def restore(estimator, header: Fields, arrays: Arrays, dtype) -> ImageNetwork:
    """Inverse of `describe`."""
    height, width, channels = (side(n) for n in header.items("image_shape"))
    if height * width * channels > LARGEST_IMAGE:
        raise ModelFileError(f"images of {height}x{width}x{channels} are too large.")
    specs, dense_specs = decode_images(header.items("image_layers")), decode_dense(header.items("layers"))
    if not dense_specs:
        raise ModelFileError("it has no output layer.")
    mean, deviation = (
        arrays.take(name, np.float64, (channels,)).copy() for name in ("channel_mean", "channel_deviation")
    )
    if not np.isfinite(mean).all() or not np.isfinite(deviation).all() or not (deviation > 0).all():
        raise ModelFileError("the channels' statistics are not finite, or a deviation is not above zero.")
    estimator.channel_mean_, estimator.channel_deviation_ = mean, deviation
    estimator.image_shape_ = height, width, channels
    estimator.n_features_in_ = prod(estimator.image_shape_)
    restore_columns(estimator, header)
    restore_classes(estimator, header, arrays, dense_specs[-1].n_out)
    return build_images(
        estimator.image_shape_,
        specs,
        dense_specs,
        padding=header.choice("padding", ("same", "valid")),
        algorithm=header.choice("algorithm", ALGORITHMS),
    )
