"""Image files. Pillow is optional: ``pip install nbnet[images]``."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral
from os import PathLike
from typing import Any

import numpy as np
from sklearn.utils._param_validation import Options, StrOptions, validate_params

from ..cpu.workers import choose_n_workers
from .preprocessor import GEOMETRY, N_JOBS, ImagePreprocessor

DECODING_FLOP = 1e8  # what reading one file is worth, beside arithmetic


def import_pillow(caller: str) -> Any:
    """``PIL.Image`` and ``PIL.ImageOps``.

    Raises
    ------
    ImportError
        One line that says how to install it.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise ImportError(f"{caller} needs Pillow: pip install nbnet[images]") from None
    return Image, ImageOps


@validate_params(
    {
        "paths": ["array-like", Iterable],
        **GEOMETRY,
        "channels": [Options(Integral, {1, 3})],
        "on_error": [StrOptions({"raise", "skip"})],
        "verbose": ["verbose"],
        "n_jobs": N_JOBS,
    },
    prefer_skip_nested_validation=True,
)
def load_images(
    paths, size=None, *, crop=None, channels=3, interpolation="area", on_error="raise", verbose=0, n_jobs=None
):
    """Read image files into one array, each cut and resized as it is read.

    Parameters
    ----------
    paths : iterable of str or path
        Files of any format that Pillow reads.
    size, crop, interpolation
        See `ImagePreprocessor`. Without `size` all images must have one size after cropping.
    channels : {1, 3}, default=3
        Gray or red, green, blue.
    on_error : {"raise", "skip"}, default="raise"
        What to do with a file that is missing or broken. "skip" leaves it out and says which files were read.
    verbose : int, default=0
        Whether to print how far it is.
    n_jobs : int or None, default=None
        Number of threads that read files; None: one a core.

    Returns
    -------
    images : uint8 ndarray (n_images, height, width, channels)
    kept : int64 ndarray (n_images,)
        Positions in `paths` of the files that were read; only with ``on_error="skip"``.

    Raises
    ------
    OSError
        If a file cannot be read.

    Notes
    -----
    The camera's orientation (EXIF) is applied. An alpha channel is dropped, and of an animation the first picture is
    read. Files with more than 8 bits a channel are errors.
    """
    pillow = import_pillow("load_images")
    if isinstance(paths, (str, bytes, PathLike)):
        raise ValueError(f"paths={paths!r} is one path: put it in a list")
    paths = list(paths)
    if not paths:
        raise ValueError("paths is empty")
    preprocessor = ImagePreprocessor(crop, size, interpolation=interpolation, channels=channels, n_jobs=1)

    def read(path) -> np.ndarray | Exception:
        try:
            pixels = _decode(path, *pillow)
        except Exception as error:  # decoders raise what they like on damaged files
            return error
        try:
            return preprocessor.transform([pixels])[0]
        except ValueError as error:
            raise ValueError(f"{str(path)!r}: {str(error).removeprefix('image 0: ')}") from None

    images, kept, started = None, [], time.perf_counter()
    pool = ThreadPoolExecutor(choose_n_workers(n_jobs, DECODING_FLOP * len(paths)), thread_name_prefix="nbnet")
    try:
        for position, result in enumerate(pool.map(read, paths)):
            name = repr(str(paths[position]))
            if isinstance(result, Exception):
                if on_error == "raise":
                    raise OSError(f"cannot read {name}: {result}") from result
                continue
            if images is None:
                images = np.empty((len(paths), *result.shape), np.uint8)
            if result.shape != images.shape[1:]:
                raise ValueError(f"{name} is {result.shape}, others are {images.shape[1:]}: set size")
            images[len(kept)] = result
            kept.append(position)
            if verbose and len(kept) * 10 // len(paths) > (len(kept) - 1) * 10 // len(paths):
                print(f"{len(kept):,} of {len(paths):,} images in {time.perf_counter() - started:.1f} s")
    finally:
        pool.shutdown(cancel_futures=True)
    if on_error == "raise":
        return images
    if not kept:
        raise OSError(f"none of {len(paths)} files can be read; the last: {result}") from result
    return images[: len(kept)], np.array(kept)


def _decode(path, image_module, image_ops) -> np.ndarray:
    """uint8 (height, width) or (height, width, 3)."""
    with image_module.open(path) as picture:
        if picture.mode.startswith(("I", "F")):  # Pillow would cut all values at 255
            raise ValueError(f"more than 8 bits a channel (mode {picture.mode})")
        image_ops.exif_transpose(picture, in_place=True)
        if "transparency" in picture.info and picture.mode == "P":
            picture = picture.convert("RGBA")  # what Pillow warns of otherwise
        mode = "L" if picture.mode in ("1", "L", "LA") else "RGB"
        return np.asarray(picture if picture.mode == mode else picture.convert(mode))
