"""What may be changed at random in training images, and a look at what comes out."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np

from ..cpu.augment import AugmentRule, augment_rows
from ..cpu.dense import Matrix
from ..random import draw_seed


class Augmentation(NamedTuple):
    """Random changes of training images, drawn anew for each image in each epoch.

    Parameters
    ----------
    horizontal_flip, vertical_flip : float, default=0
        Probability that left and right, top and bottom are exchanged.
    shift : int, default=0
        Most pixels by which an image moves along each axis; what leaves is cut off.
    rotation : float, default=0
        Most degrees by which an image turns about its center, either way.
    brightness : float, default=0
        Largest relative change of brightness: 0.2 multiplies by 0.8 to 1.2.

    Notes
    -----
    Flips and shifts move values without changing them; a rotation interpolates between the four nearest pixels. What
    comes from beside the image is zero. All numbers are uniform and come from a counter (see `nbnet.random`) of the
    seed, the image's number and the epoch.
    """

    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    shift: int = 0
    rotation: float = 0.0
    brightness: float = 0.0


def augment_rule(augmentation: Augmentation, black) -> AugmentRule:
    """`augmentation`, checked, as `augment_rows` reads it.

    Parameters
    ----------
    augmentation : Augmentation
    black : ndarray (channels,)
        The value of black in the rows, in their type: zeros, or ``-mean / scale`` of normalized images.

    Raises
    ------
    ValueError
        Names the field and its value.
    """
    limits = Augmentation(1.0, 1.0, math.inf, 180.0, 1.0)
    for name, value, limit in zip(Augmentation._fields, augmentation, limits, strict=True):
        kind = Integral if name == "shift" else Real
        if not isinstance(value, kind) or isinstance(value, bool) or not 0 <= value <= limit:
            number = "an integer" if kind is Integral else "a number"
            raise ValueError(f"{name}={value!r} of an Augmentation: expected {number} from 0 to {limit:g}")
    return AugmentRule(
        float(augmentation.horizontal_flip),
        float(augmentation.vertical_flip),
        int(augmentation.shift),
        math.radians(augmentation.rotation),
        float(augmentation.brightness),
        np.ascontiguousarray(black),
    )


def augment_images(images, augmentation: Augmentation, *, random_state=None, epoch: int = 0) -> np.ndarray:
    """The images as an epoch of training would see them.

    Parameters
    ----------
    images : ndarray (n_images, height, width) or (n_images, height, width, n_channels)
        With 0 as black.
    augmentation : Augmentation
    random_state : int, RandomState or None, default=None
    epoch : int, default=0

    Returns
    -------
    changed : float32 ndarray (same shape)
    """
    images = np.ascontiguousarray(images, np.float32)
    if images.ndim not in (3, 4):
        raise ValueError(f"images has shape {images.shape}: expected (n_images, height, width) and perhaps n_channels")
    shape = (*images.shape[1:], 1)[:3]
    changed, size = np.empty_like(images), math.prod(shape)
    augment_rows(
        Matrix(images.reshape(-1), 0, size),
        Matrix(changed.reshape(-1), 0, size),
        shape,
        np.arange(len(images)),
        augment_rule(augmentation, np.zeros(shape[2], np.float32)),
        np.uint64(draw_seed(random_state)),
        np.uint64(epoch),
        (0, len(images)),
    )
    return changed
