"""Checkpoints: files from which an interrupted fit goes on and ends with the same bits.

All that training knows at the end of an epoch is in three vectors and a few numbers: parameters, moments, the best
parameters so far, curves, and counts. Shuffles, dropout and the like depend on the seed and on those counts.

Beside the file ``NAME`` lies ``NAME.lock`` while a fit uses it, locked by the operating system, which forgets the lock
when the process ends, however it ends.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from . import __version__
from .model_files import ModelFileError, encode, read_file, refusing, require_safetensors, write_file
from .progress import PROGRESS_ATTRIBUTES, decode_progress, encode_progress

try:
    import fcntl
except ImportError:  # pragma: no cover  (Windows)
    fcntl = None

HASHED_AT_ONCE = 1 << 20  # elements
WITHOUT_EFFECT = ("n_jobs", "verbose")  # parameters that change no bit


class Saved(NamedTuple):
    """What training has reached at the end of an epoch.

    Attributes
    ----------
    params, moments : ndarray
    best_params : ndarray or None
    counts : tuple (n_steps, n_epochs, n_reductions)
        Of the optimizer.
    progress : dict
        Attributes of the estimator; see `Progress.attributes`.
    """

    params: np.ndarray
    moments: np.ndarray
    best_params: np.ndarray | None
    counts: tuple[int, int, int]
    progress: dict


class Fingerprint(NamedTuple):
    """What decides the bits of a fit.

    Attributes
    ----------
    data : str
        Digest of all rows, targets and weights.
    start : str
        Digest of the weights and the progress that training starts from.
    parameters : dict
        Of the estimator, encoded, and its name.
    version : str
        Of the package.
    """

    data: str
    start: str
    parameters: dict
    version: str = __version__

    def check(self, other: Fingerprint) -> None:
        """Raise a ValueError where `other`, from a file, is that of another fit."""
        names = sorted({*self.parameters, *other.parameters})
        changed = [name for name in names if self.parameters.get(name) != other.parameters.get(name)]
        if changed:
            pairs = [f"{n} is {other.parameters.get(n)!r} there, {self.parameters.get(n)!r} here" for n in changed]
            raise ValueError(f"other parameters: {'; '.join(pairs):.300}")
        if self.data != other.data:
            raise ValueError("other rows, targets or weights")
        if self.start != other.start:
            raise ValueError("a fit that started from other weights")
        if self.version != other.version:
            raise ValueError(f"nbnet {other.version}, whose bits may differ from those of {self.version}")


class Checkpoint:
    """The file of one fit.

    Parameters
    ----------
    path : str
    every : int
        Epochs from one writing to the next.
    fingerprint : Fingerprint
    saved : Saved or None
        What an interrupted fit has left.
    locked : bool
        Whether nobody else writes the file; if not, it is not written here either.
    """

    def __init__(self, path: str, every: int, fingerprint: Fingerprint, saved: Saved | None, locked: bool):
        self.path, self.every, self.fingerprint, self.saved = path, every, fingerprint, saved
        self.locked, self.has_warned = locked, False
        self.complete = False  # whether training has come to its end, so that nothing is left to go on with

    def epoch_end(self, n_iter: int, reached: Saved) -> None:
        """Write what has been reached, if it is time. Where that fails, training goes on, with one warning for all."""
        if n_iter % self.every or not self.locked:
            return
        try:
            write(self.path, self.fingerprint, reached)
        except OSError as error:
            self.warn(error)

    def warn(self, error: OSError) -> None:
        """Say, once, that the file cannot be written; what was written last stays."""
        if not self.has_warned:
            message = f"checkpoint={self.path!r} cannot be written, training goes on without it: {error}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        self.has_warned = True


@contextmanager
def opened(path, every: int, fingerprint: Fingerprint) -> Iterator[Checkpoint]:
    """The checkpoint at `path`, for the time of a fit; the file goes when training is complete.

    Raises
    ------
    ValueError
        If the file is of another fit, or another fit uses it now.
    ModelFileError
        If it is none.
    """
    path = os.path.realpath(path)
    require_safetensors()
    lock_error = None
    try:
        lock = lock_file(path + ".lock")
    except BlockingIOError:
        raise ValueError(f"checkpoint={path!r} is used by another fit that runs now.") from None
    except OSError as error:
        lock, lock_error = None, error
    try:
        checkpoint = Checkpoint(path, every, fingerprint, read(path, fingerprint), lock is not None)
        if lock_error is not None:
            checkpoint.warn(lock_error)
        yield checkpoint
        if checkpoint.complete:
            for name in (path, temporary_of(path)):
                with suppress(OSError):
                    os.unlink(name)
    finally:
        if lock is not None:
            unlock_file(path + ".lock", lock)


def temporary_of(path: str) -> str:
    """The file that is written before it takes the place of the one at `path`."""
    return path + ".tmp"


# ---------------------------------------------------------------- contents


def write(path: str, fingerprint: Fingerprint, reached: Saved) -> None:
    """Replace the file."""
    arrays = {"params": reached.params, "moments": reached.moments}
    if reached.best_params is not None:
        arrays["best_params"] = reached.best_params
    header = {
        "fingerprint": fingerprint._asdict(),
        "counts": [int(n) for n in reached.counts],
        "progress": encode_progress(reached.progress, arrays),
    }
    write_file(path, "checkpoint", header, arrays, temporary_of(path))


def read(path: str, fingerprint: Fingerprint) -> Saved | None:
    """What the file holds; None if there is none."""
    try:
        header, arrays = read_file(path, "checkpoint")
    except FileNotFoundError:
        return None
    with refusing(path):
        of_file = header.fields("fingerprint")
        other = Fingerprint(*(of_file.take(name) for name in Fingerprint._fields))
    try:
        fingerprint.check(other)
    except ValueError as error:
        raise ValueError(f"checkpoint={path!r} is of {error}. Delete it to start anew.") from None
    with refusing(path):
        params, moments = (arrays.take(name, ("f4", "f8"), (None,)) for name in ("params", "moments"))
        best_params = arrays.take("best_params", params.dtype, params.shape) if "best_params" in arrays else None
        counts = header.items("counts")
        if len(counts) != 3 or any(type(n) is not int or n < 0 for n in counts):
            raise ModelFileError(f"its counts are {counts!r:.60}.")
        progress = decode_progress(header.fields("progress"), arrays)
        if set(progress) != set(PROGRESS_ATTRIBUTES):
            raise ModelFileError(f"it lacks {sorted(set(PROGRESS_ATTRIBUTES) - set(progress))}.")
        return Saved(params, moments, best_params, tuple(counts), progress)


def fingerprint_of(estimator, data, start) -> Fingerprint:
    """What decides the bits of this fit.

    Parameters
    ----------
    estimator : estimator
    data, start
        Arrays, sparse matrices, texts, and tuples and lists of them.
    """
    parameters = {"estimator": type(estimator).__name__}
    for name, value in estimator.get_params(deep=False).items():
        if name not in WITHOUT_EFFECT:
            parameters[name] = json.loads(json.dumps(_described(value)))
    return Fingerprint(digest_of_data(data), digest_of_data(start), parameters)


def _described(value):
    """A parameter as it stands in a file; code by its name."""
    try:
        return encode(value)
    except TypeError:
        kind = type(value)
        return [getattr(value, "__module__", kind.__module__), getattr(value, "__qualname__", kind.__qualname__)]


def digest_of_data(value) -> str:
    """BLAKE2 of arrays, whatever their order in memory, of sparse matrices, texts, numbers, and tuples of them."""
    digest = hashlib.blake2b(digest_size=32)
    _update(digest, value)
    return digest.hexdigest()


def _update(digest, value: Any) -> None:
    if isinstance(value, (tuple, list)):
        digest.update(b"%d items\0" % len(value))
        for item in value:
            _update(digest, item)
    elif hasattr(value, "copy_to_host"):  # on a GPU
        _update(digest, value.copy_to_host())
    elif sp.issparse(value):
        _update(digest, (value.shape, value.indptr, value.indices, value.data))
    elif isinstance(value, np.ndarray) and value.dtype != object:
        digest.update(f"{value.dtype.str} {value.shape}\0".encode())
        n_rows = max(1, HASHED_AT_ONCE * len(value) // max(1, value.size)) if value.ndim else 1
        for start in range(0, len(value) if value.ndim and value.size else 0, n_rows):
            digest.update(np.ascontiguousarray(value[start : start + n_rows]).reshape(-1).view(np.uint8))
    elif isinstance(value, np.ndarray):
        _update(digest, (value.shape, value.reshape(-1).tolist()))
    else:
        text = value if isinstance(value, str) else repr(value)
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d bytes\0" % len(encoded))
        digest.update(encoded)


# ---------------------------------------------------------------- locks


def lock_file(path: str) -> int:
    """Make and lock a file; returns its descriptor.

    Raises
    ------
    BlockingIOError
        If another open file has the lock, in this process or another one.
    OSError
        If the file cannot be made.
    """
    if fcntl is None:  # pragma: no cover  (Windows removes the file when its process ends)
        try:
            return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_TEMPORARY)
        except FileExistsError as error:
            raise BlockingIOError(str(error)) from None
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its owner has removed it between the two calls


def unlock_file(path: str, descriptor: int) -> None:
    """Inverse of `lock_file`; removes the file."""
    with suppress(OSError):
        if fcntl is not None:
            os.unlink(path)  # while it is locked: nobody else can have the same one
    os.close(descriptor)
