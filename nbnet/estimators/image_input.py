"""From images as users pass them to arrays that kernels read; nothing is copied that need not be."""

from __future__ import annotations

import math
from numbers import Integral

import numpy as np
from sklearn.utils import assert_all_finite
from sklearn.utils.validation import check_array, validate_data

from .. import trainer
from .validation import array_on_gpu, validate_beside

DTYPES = (np.float64, np.float32, np.uint8)  # anything else becomes the first
CHECKED_IMAGES = 256  # at a time


def validate_images(estimator, X, y="no_validation", *, reset: bool = False, name: str = "X", **options):
    """`validate_data` for (n, h, w), (n, h, w, c), or flat rows where `image_shape` is set.

    Sets `image_shape_` and `n_features_in_` if `reset`, else compares with them. Returns X, or X and y.
    """
    flat, on_gpu = estimator.image_shape is not None, trainer.is_on_gpu(X)
    if on_gpu:
        X = array_on_gpu(estimator, X, name, 2 if flat else None, DTYPES)
    elif not flat:
        check_rectangular(X, name)
    options = {"dtype": DTYPES, "ensure_all_finite": False, "ensure_2d": flat, "allow_nd": not flat, **options}
    if on_gpu:
        checked = validate_beside(estimator, X, y, reset=reset, **options)
    elif name == "X":
        checked = validate_data(estimator, X, y, reset=reset, **options)
    else:  # `validate_data` would call it X
        validate_data(estimator, X, reset=False, skip_check_array=True, ensure_2d=flat)
        checked = check_array(X, input_name=name, estimator=estimator, **options)
    X = checked[0] if isinstance(checked, tuple) else checked
    shape = flat_image_shape(estimator.image_shape, X.shape[1]) if flat else shape_of_images(X, name)
    if reset:
        estimator.image_shape_, estimator.n_features_in_ = shape, math.prod(shape)
    elif shape != estimator.image_shape_:
        raise ValueError(
            f"Images of {name} have the shape {shape} (height, width, channels), but {type(estimator).__name__} is "
            f"expecting {estimator.image_shape_} as in fit."
        )
    if X.dtype.kind == "f" and not on_gpu:
        for start in range(0, len(X), CHECKED_IMAGES):
            some = X[start : start + CHECKED_IMAGES]
            assert_all_finite(some, estimator_name=type(estimator).__name__, input_name=name)
    return checked


def check_rectangular(X, name: str) -> None:
    """Raise a ValueError that says which image of a list has another shape than the first."""
    if not isinstance(X, (list, tuple)) and not (isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1):
        return
    shapes = []
    for i, image in enumerate(X):
        try:
            shapes.append(np.shape(image))
        except ValueError:
            raise ValueError(f"Image {i} of {name} has rows of different lengths.") from None
        if shapes[-1] != shapes[0]:
            raise ValueError(
                f"Images of {name} differ in shape: image 0 has {shapes[0]}, image {i} has {shapes[-1]}. Bring them to "
                "one size first, for example with nbnet.ImagePreprocessor."
            )


def shape_of_images(X, name: str) -> tuple[int, int, int]:
    """(height, width, channels) of an array of images."""
    if X.ndim not in (3, 4):
        raise ValueError(
            f"{name} has the shape {X.shape}, but images come as (n, height, width) or (n, height, width, channels). "
            "Flat rows need image_shape; a single image is X[np.newaxis]."
        )
    shape = (*X.shape[1:], 1)[:3]
    if min(shape) < 1:
        raise ValueError(f"{name} has the shape {X.shape}: its images have no pixels.")
    return shape


def flat_image_shape(image_shape, n_features: int) -> tuple[int, int, int]:
    """`image_shape` (height, width[, channels]) with its -1 filled in, for rows of `n_features`."""
    sides = list(image_shape) if isinstance(image_shape, (list, tuple)) else []
    numbers = all(isinstance(n, Integral) and (n > 0 or n == -1) for n in sides)
    if len(sides) not in (2, 3) or not numbers or sides.count(-1) > 1:
        raise ValueError(
            "image_shape must be (height, width) or (height, width, channels), integers of which one may be -1, got "
            f"{image_shape!r}."
        )
    known = math.prod(n for n in sides if n != -1)
    filled = [int(n) if n != -1 else n_features // known for n in sides]
    if math.prod(filled) != n_features or 0 in filled:
        raise ValueError(f"image_shape={image_shape!r} does not multiply out to the {n_features} features of X.")
    return (*filled, 1)[:3]
