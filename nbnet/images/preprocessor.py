"""Images of any size in, one array of images of one size out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from numbers import Integral
from typing import NamedTuple, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import check_is_fitted

from ..cpu.resize import Resampling, Taps, area_taps, bilinear_taps, resize_images
from ..cpu.workers import Workers, choose_n_workers

INTERPOLATIONS = {"area": area_taps, "bilinear": bilinear_taps}
BLOCK_BYTES = 2**24  # of an array of images at a time: what is read of a memory-mapped file at once

# constraints of parameters that `load_images` has as well
N_JOBS = [Interval(Integral, None, -1, closed="right"), Interval(Integral, 1, None, closed="left"), None]
GEOMETRY = {
    "crop": [StrOptions({"center"}), "array-like", None],
    "size": [Interval(Integral, 1, None, closed="left"), "array-like", None],
    "interpolation": [StrOptions(set(INTERPOLATIONS))],
}


class ImagePreprocessor(TransformerMixin, BaseEstimator):
    """Cut, resize, convert and normalize images.

    Parameters
    ----------
    crop : "center", (height, width), (top, left, height, width) or None, default=None
        What is kept of each image: the largest square in the middle, a box of that size in the middle, or the box at
        that place. None keeps all.
    size : int, (height, width) or None, default=None
        Height and width of the output; an int stands for a square. The aspect ratio is not kept: use `crop`. None
        does not resize.
    interpolation : {"area", "bilinear"}, default="area"
        "area" takes the mean of what each output pixel covers. It is right for making images smaller; when enlarging,
        pixels become squares. "bilinear" interpolates between the four nearest pixels, which is smooth when enlarging;
        when making images less than half as large it leaves out pixels.
    channels : {1, 3} or None, default=None
        1 makes images gray, 3 gives gray images three equal channels; the output has a last axis of that length. None
        leaves the channels as they are.
    normalize : bool, default=False
        Subtract the mean of each channel and divide by its standard deviation; both are learned in `fit`, over all
        pixels of all images as they come out of the steps above. The output is float32.
    n_jobs : int or None, default=None
        Number of threads; None uses as many as the work is worth. The output does not depend on it.

    Attributes
    ----------
    mean_, scale_ : ndarray (n_channels,) or None
        What is subtracted and divided by. None without `normalize`.

    Notes
    -----
    Images are arrays (n_images, height, width) or (n_images, height, width, n_channels), or lists of arrays (height,
    width) or (height, width, n_channels), which may differ in size if `size` is set. Memory-mapped arrays are read in
    blocks. uint8 and float32 compute in float32, all else in float64. uint8 comes out as uint8, rounded to the nearest
    integer, halves to even; float32 and float64 come out as they are.

    Pixel centers lie at half integers. "area" equals OpenCV's ``INTER_AREA`` and, where an image becomes an integer
    number of times smaller, Pillow's ``BOX``; "bilinear" equals OpenCV's ``INTER_LINEAR`` and, when enlarging, Pillow's
    ``BILINEAR``. OpenCV leaves out pixels where ``INTER_AREA`` enlarges one axis and shrinks the other, this does not.
    Gray is 0.299 red + 0.587 green + 0.114 blue (ITU-R BT.601), as in both.

    Without `normalize` nothing is learned, and `transform` can be called before `fit`.

    Examples
    --------
    >>> from sklearn.datasets import load_sample_images
    >>> from nbnet import ImagePreprocessor
    >>> pictures = load_sample_images().images
    >>> ImagePreprocessor(crop="center", size=64, channels=1).transform(pictures).shape
    (2, 64, 64, 1)
    """

    _parameter_constraints: dict = {
        **GEOMETRY,
        "channels": [Options(Integral, {1, 3}), None],
        "normalize": ["boolean"],
        "n_jobs": N_JOBS,
    }

    def __init__(self, crop=None, size=None, *, interpolation="area", channels=None, normalize=False, n_jobs=None):
        self.crop = crop
        self.size = size
        self.interpolation = interpolation
        self.channels = channels
        self.normalize = normalize
        self.n_jobs = n_jobs

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None) -> Self:
        """Check the images; with `normalize`, learn mean and standard deviation of each channel.

        Parameters
        ----------
        X : ndarray or list of ndarray
            Images.
        y : None
            Ignored.

        Returns
        -------
        self : object
            Fitted preprocessor.
        """
        images = _as_images(X)
        out_shape = self._common_shape(images)
        mean = scale = None
        if self.normalize:
            zero, one = np.zeros(out_shape[2]), np.ones(out_shape[2])
            moments = _Moments(0, zero, zero)
            with self._workers(images, out_shape) as workers:
                for position, view in images.numbered():
                    resized = np.empty((len(view), *out_shape), np.float32)
                    self._resize(view, position, zero, one, resized, workers)
                    moments = moments.merged(resized.reshape(-1, out_shape[2]))
            deviation = np.sqrt(moments.squares / moments.n)
            # a constant channel's deviation is what rounding leaves
            mean, scale = moments.mean, np.where(deviation > 1e-6 * np.abs(moments.mean), deviation, 1.0)
        self.mean_, self.scale_ = mean, scale
        return self

    def transform(self, X) -> np.ndarray:
        """Cut, resize, convert and normalize.

        Parameters
        ----------
        X : ndarray or list of ndarray
            Images.

        Returns
        -------
        X_out : ndarray (n_images, height, width, n_channels)
            uint8, float32 or float64. Without the last axis where neither the images nor `channels` name channels.
        """
        self._validate_params()
        check_is_fitted(self)
        images = _as_images(X)
        out_shape = self._common_shape(images)
        mean, scale = np.zeros(out_shape[2]), np.ones(out_shape[2])
        if self.normalize:
            mean, scale = self.mean_, self.scale_
            if len(mean) != out_shape[2]:
                raise ValueError(f"images have {out_shape[2]} channels, but fit has seen {len(mean)}; see channels")
        out = np.empty((len(images), *out_shape), np.float32 if self.normalize else images.dtype)
        with self._workers(images, out_shape) as workers:
            for position, view in images.numbered():
                self._resize(view, position, mean, scale, out[position : position + len(view)], workers)
        return out[..., 0] if images.flat and self.channels is None else out

    def _common_shape(self, images: _Images) -> tuple[int, int, int]:
        """(height, width, channels) of all images in the output."""
        common = None
        for position, view in images.numbered():
            height, width, channels = view.shape[1:]
            if self.channels is not None and channels not in (1, 3):
                raise ValueError(
                    f"channels={self.channels}, but image {position} has {channels} channels: only 1 and 3 can be "
                    "converted (drop an alpha channel by image[..., :3])"
                )
            try:
                box = _box(self.crop, height, width)
            except ValueError as error:
                raise ValueError(f"image {position}: {error}") from None
            shape = (*(_pair("size", self.size) if self.size is not None else box[2:]), self.channels or channels)
            if common is None:
                common = shape
            elif shape != common:
                problem = "set size" if shape[2] == common[2] else "set channels"
                raise ValueError(f"image 0 would be {common}, but image {position} would be {shape}: {problem}")
        return common

    def _workers(self, images: _Images, out_shape) -> Workers:
        largest = max(max(view.size, len(view) * math.prod(out_shape)) for view in images.views)
        return Workers(choose_n_workers(self.n_jobs, 4.0 * largest))

    def _resize(self, view, position, mean, scale, target, workers: Workers) -> None:
        """Fills `target` with the images of `view`, the first of which has number `position` in X."""
        n, height, width, channels = view.shape
        source = np.require(view, _dtype_read(view), ["C", "A"]).reshape(n, height, width * channels)
        source.flags.writeable = False  # one compiled kernel, for what is mapped read-only as well
        if source.dtype.kind == "f" and not np.isfinite(source.sum(dtype=np.float64)):
            finite = np.isfinite(source).all(axis=(1, 2))
            if not finite.all():
                raise ValueError(f"image {position + np.argmin(finite)} contains NaN or infinity")
        dtype = np.dtype(np.float64 if source.dtype == np.float64 else np.float32)
        top, left, box_height, box_width = _box(self.crop, height, width)
        plan = Resampling(
            _taps(self.interpolation, box_height, target.shape[1], top, dtype),
            _taps(self.interpolation, box_width, target.shape[2], left, dtype),
            channels,
            channels == 3 and target.shape[3] == 1,
            target.dtype == np.uint8,
            mean.astype(dtype),
            scale.astype(dtype),
        )
        lines = np.empty((workers.n_workers, width * channels), dtype)
        workers.run(resize_images, source, plan, lines, target)

    def __sklearn_is_fitted__(self) -> bool:
        return not self.normalize or getattr(self, "mean_", None) is not None

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.requires_fit = self.normalize
        tags.transformer_tags.preserves_dtype = ["float32"] if self.normalize else ["float32", "float64", "uint8"]
        return tags


# ---------------------------------------------------------------- images as they come


class _Images(NamedTuple):
    """Images as blocks (n, height, width, channels), within which all have one size; nothing is copied."""

    views: list[np.ndarray]
    flat: bool  # no image has an axis of channels
    dtype: np.dtype  # of the output, unless it is normalized

    def __len__(self) -> int:
        return sum(len(view) for view in self.views)

    def numbered(self) -> Iterator[tuple[int, np.ndarray]]:
        """Pairs (number of the first image, block)."""
        position = 0
        for view in self.views:
            yield position, view
            position += len(view)


def _as_images(X) -> _Images:
    if isinstance(X, (list, tuple)) or (isinstance(X, np.ndarray) and X.dtype.kind == "O"):
        arrays = [np.asarray(image) for image in X]
        names = [f"image {position}" for position in range(len(arrays))]
        flat = all(image.ndim == 2 for image in arrays)
        views = [image[None, :, :, None] if image.ndim == 2 else image[None] for image in arrays]
        hint = "(height, width) or (height, width, n_channels)"
    else:
        X = np.asarray(X)
        flat = X.ndim == 3
        stack = X[..., None] if flat else X
        step = max(1, BLOCK_BYTES // max(1, stack[:1].nbytes)) if stack.ndim == 4 else max(1, len(stack))
        views = [stack[start : start + step] for start in range(0, len(stack), step)]
        names = ["X"] * len(views)
        hint = "(n_images, height, width) or (n_images, height, width, n_channels); put a single image in a list"
    if not views:
        raise ValueError("X has no images")
    for name, view in zip(names, views, strict=True):
        if view.ndim != 4:
            raise ValueError(f"{name}: expected an array {hint}")
        if 0 in view.shape:
            raise ValueError(f"{name} is empty: {view.shape[1]} x {view.shape[2]} pixels, {view.shape[3]} channels")
        if view.dtype.kind not in "buif":
            raise ValueError(f"{name} has dtype {view.dtype}: images are numbers")
    return _Images(views, flat, max(map(_dtype_read, views), key=lambda dtype: dtype.itemsize))


def _dtype_read(view) -> np.dtype:
    """uint8 and float32 as they are, all else as float64."""
    native = view.dtype.newbyteorder("=")
    return native if native in (np.uint8, np.float32) else np.dtype(np.float64)


def _pair(name: str, value) -> tuple[int, int]:
    """(height, width) from one integer or two."""
    values = (value, value) if isinstance(value, Integral) else tuple(value)
    if len(values) != 2 or not all(isinstance(v, Integral) and v >= 1 for v in values):
        raise ValueError(f"{name}={value!r}: expected an integer or (height, width), at least 1")
    return int(values[0]), int(values[1])


def _box(crop, height: int, width: int) -> tuple[int, int, int, int]:
    """(top, left, height, width) of what `crop` keeps of an image."""
    if crop is None:
        return 0, 0, height, width
    values = (min(height, width),) * 2 if isinstance(crop, str) else tuple(crop)
    if len(values) not in (2, 4) or not all(isinstance(v, Integral) for v in values):
        raise ValueError(f"crop={crop!r}: expected 'center', (height, width) or (top, left, height, width)")
    if len(values) == 2:
        values = ((height - values[0]) // 2, (width - values[1]) // 2, *values)
    top, left, box_height, box_width = (int(v) for v in values)
    if min(box_height, box_width) < 1 or min(top, left) < 0 or top + box_height > height or left + box_width > width:
        raise ValueError(f"crop={crop!r} does not lie within its {height} x {width} pixels")
    return top, left, box_height, box_width


@lru_cache(maxsize=256)
def _taps(interpolation: str, n_in: int, n_out: int, start: int, dtype) -> Taps:
    return INTERPOLATIONS[interpolation](n_in, n_out, start, dtype)


class _Moments(NamedTuple):
    """Of one value a channel: how many, their means, the sums of squared distances from the mean."""

    n: int
    mean: np.ndarray
    squares: np.ndarray

    def merged(self, values) -> _Moments:
        """With more values (n, channels). Around each part's own mean: sums of squares of values lose their digits.

        Source: Chan, Golub, LeVeque, Algorithms for computing the sample variance, 1983.
        """
        n = self.n + len(values)
        mean = values.mean(axis=0, dtype=np.float64)
        distance = mean - self.mean
        squares = np.square(values - mean).sum(axis=0) + distance**2 * (self.n * len(values) / n)
        return _Moments(n, self.mean + distance * (len(values) / n), self.squares + squares)
