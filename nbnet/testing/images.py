"""The checks for estimators of images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import get_tags

from .checks import (
    SHARED_CHECKS,
    Samples,
    assert_close,
    assert_same,
    fit,
    outputs_of,
    quietly,
    raises,
    run_checks,
)

HEIGHT, WIDTH = 9, 7


def _images() -> tuple[np.ndarray, np.ndarray]:
    """96 noisy gray images: a bright row, a bright column, or a bright square, anywhere."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (96, HEIGHT, WIDTH))
    labels = rng.permutation(np.repeat(["column", "row", "square"], 32))
    for image, label in zip(images, labels, strict=True):
        h, w = rng.integers(HEIGHT - 2), rng.integers(WIDTH - 2)
        where = {"row": np.s_[h], "column": np.s_[:, w], "square": np.s_[h : h + 3, w : w + 3]}[label]
        image[where] += 150
    return images.astype(np.float32), labels


IMAGES, LABELS = _images()


def one_channel(images):
    """With an axis for the channel."""
    return images[..., np.newaxis]


def a_read_only_array(images):
    """That nobody can write."""
    copy = images.copy()
    copy.flags.writeable = False
    return copy


def an_array_in_columns(images):
    """In Fortran's order."""
    return np.asfortranarray(images)


def a_view(images):
    """Of every second element of a larger array, from behind."""
    large = np.repeat(np.repeat(images, 2, axis=0), 2, axis=2)[::-1, :, ::-1]
    return large[::-2, :, ::-2]


SAMPLES = Samples(
    X=IMAGES,
    y=LABELS,
    containers=(one_channel, a_read_only_array, an_array_in_columns, a_view),
    unreadable={
        "a single image as X": IMAGES[0],
        "no images": IMAGES[:0],
        "images without pixels": IMAGES[:, :0],
        "a list of images of different sizes": [*IMAGES[:-1], IMAGES[-1, :-1]],
        "NaN in X": np.where(np.arange(96)[:, np.newaxis, np.newaxis] == 90, np.nan, IMAGES),
        "infinity in X": np.where(IMAGES == IMAGES.max(), np.inf, IMAGES),
        "complex numbers in X": IMAGES.astype(complex),
        "strings in X": np.full(IMAGES.shape, "white"),
        "arrays as objects": np.array([*IMAGES[:-1], IMAGES[-1, :-1], None], dtype=object)[:-1],
    },
    comparable={"dtype": "float64", "batch_size": 10_000, "solver": "sgd"},
)


def check_image_estimator(estimator: BaseEstimator) -> None:
    """Raise AssertionError where a classifier of images does not behave as scikit-learn's estimators do.

    Parameters
    ----------
    estimator : estimator
        Unfitted; not changed. Where it has a `random_state`, it is set. It must be able to learn 96 images of 9 by 7
        pixels.

    Raises
    ------
    AssertionError
        With the name of the check and what is wrong.

    Examples
    --------
    >>> from nbnet import ConvClassifier
    >>> from nbnet.testing import check_image_estimator
    >>> check_image_estimator(ConvClassifier((4,), (8,), max_iter=20, learning_rate_init=0.01))
    """
    run_checks(IMAGE_CHECKS, estimator, SAMPLES)


def check_tags_of_images(estimator, samples):
    """scikit-learn knows that it takes no tables."""
    assert not get_tags(estimator).input_tags.two_d_array, "the tag input_tags.two_d_array is set"


def check_types_of_numbers(estimator, samples):
    """Bytes, integers, floats and lists of the same values are predicted alike, and each is learned."""
    expected = outputs_of(fit(estimator, samples), samples.X)
    others = {kind.__name__: samples.X.astype(kind) for kind in (np.uint8, np.int16, np.float64)}
    others["lists"] = samples.X.astype(int).tolist()
    for name, X in others.items():
        assert_close(outputs_of(estimator, X), expected, f"images as {name}", 1e-4)
    for name, X in others.items():
        assert fit(estimator, samples, X).score(X, samples.y) > 0.5, f"images as {name} are not learned"


def check_memory_maps(estimator, samples):
    """Images in a file are the same as in memory."""
    expected = outputs_of(fit(estimator, samples), samples.X)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "images.npy", samples.X)
        mapped = np.load(Path(folder) / "images.npy", mmap_mode="r")
        assert_same(outputs_of(fit(estimator, samples, mapped), mapped), expected, "the fit on a memory map")
        del mapped  # some systems cannot remove a file in use


def check_channels(estimator, samples):
    """Color images are learned; their shape must not change from fit to predict."""
    color = np.stack([samples.X, 255 - samples.X, np.full_like(samples.X, 7)], axis=3)
    assert fit(estimator, samples, color).score(color, samples.y) > 0.5, "color images are not learned"
    before = outputs_of(estimator, color)
    for what, other in (
        ("gray images after color", samples.X),
        ("two channels after three", color[..., :2]),
        ("lower images", color[:, :-1]),
        ("channels first", color.transpose(0, 3, 1, 2)),
    ):
        with raises(ValueError, f"predict with {what}"):
            estimator.predict(other)
    assert_same(outputs_of(estimator, color), before, "an error in predict")


def check_constant_images(estimator, samples):
    """Images without any contrast, and pixels that never change, give finite predictions."""
    constant = np.concatenate([np.full((48, HEIGHT, WIDTH), 3.0), np.full((48, HEIGHT, WIDTH), 200.0)])
    for images in (constant, np.zeros_like(constant), np.full_like(constant, 255)):
        with quietly():
            fitted = estimator.fit(images.astype(np.float32), samples.y)
        for name, output in outputs_of(fitted, images.astype(np.float32)).items():
            finite = output.dtype.kind not in "fc" or np.isfinite(output).all()
            assert finite, f"{name} is not finite for constant images"


IMAGE_CHECKS: list[Callable] = [
    *SHARED_CHECKS,
    check_tags_of_images,
    check_types_of_numbers,
    check_memory_maps,
    check_channels,
    check_constant_images,
]
