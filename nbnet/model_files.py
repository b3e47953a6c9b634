"""Files of models and of checkpoints: safetensors with a JSON header, written whole or not at all, checked when read.

A file is a safetensors file: arrays by name, and text under four keys of its metadata.

- ``format``: "nbnet model" or "nbnet checkpoint";
- ``version``: the number of the format;
- ``header``: a JSON object; what it holds is the writer's matter;
- ``digest``: SHA-256 of the header and of all arrays.

The digest finds what went wrong on the way. It proves nothing about who wrote the file: a reader must check all that
it takes out, which `Fields` and `Arrays` make short, and must not trust a size before it has compared it with an array.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np

from . import __version__

FORMAT_VERSION = 1  # of what is written
READABLE_VERSIONS = (1,)

# what safetensors calls NumPy's types
TYPE_NAMES = {"|b1": "BOOL", "|i1": "I8", "|u1": "U8", "<f2": "F16", "<f4": "F32", "<f8": "F64"}
TYPE_NAMES |= {f"<{kind}{n}": f"{kind.upper()}{8 * n}" for kind in "iu" for n in (2, 4, 8)}

SAFETENSORS_MISSING = "Model files and checkpoints need the package safetensors: pip install 'nbnet[files]'."


class ModelFileError(ValueError):
    """A file is no model, is damaged, or holds what does not fit together; says where."""


class Contents(NamedTuple):
    """What a file holds."""

    header: Fields
    arrays: Arrays


# ---------------------------------------------------------------- whole files


def write_file(path, kind: str, header: dict, arrays: dict[str, np.ndarray], temporary: str | None = None) -> None:
    """Write a file, or leave what was there as it was.

    Parameters
    ----------
    path : path
    kind : {"model", "checkpoint"}
    header : dict
        Of what JSON has; floats are finite.
    arrays : dict of ndarray
        Numbers and booleans, of any strides.
    temporary : str or None
        As for `replacing`.

    Raises
    ------
    OSError
        Where the file cannot be written.
    """
    arrays = {name: np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for name, array in arrays.items()}
    versions = {name: version(name) for name in ("numba", "numpy", "scikit-learn")}
    text = json.dumps({**header, "versions": {"nbnet": __version__, **versions}}, allow_nan=False)
    metadata = {
        "format": f"nbnet {kind}",
        "version": str(FORMAT_VERSION),
        "header": text,
        "digest": digest_of(text, arrays),
    }
    with replacing(path, temporary) as name, open(name, "xb") as file:
        write_safetensors(file, metadata, arrays)


def write_safetensors(file, metadata: dict[str, str], arrays: dict[str, np.ndarray]) -> None:
    """Write contiguous arrays as the library's `save_file` does, which leaves a file behind where it is killed."""
    entries, stop = {"__metadata__": metadata}, 0
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))  # each aligned to the size of its items
    for name in order:
        array, start = arrays[name], stop
        stop += array.nbytes
        entries[name] = {"dtype": TYPE_NAMES[array.dtype.str], "shape": array.shape, "data_offsets": [start, stop]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        file.write(arrays[name].reshape(-1).view(np.uint8))


def read_file(path, kind: str) -> Contents:
    """Read a file that `write_file` has written; memory is bounded by the file's size.

    Raises
    ------
    ModelFileError
        For any other file, and for a damaged one.
    OSError
        Where the file cannot be read.
    ImportError
        Without safetensors.
    """
    require_safetensors()
    path = os.fspath(path)
    data = _read(path)
    with refusing(path):
        return contents_of(data, kind)


def contents_of(data: bytes, kind: str) -> Contents:
    """What a file of these bytes holds; for a bad one any exception."""
    arrays = require_safetensors().load(data)
    size = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    if metadata.get("format") != f"nbnet {kind}":
        raise ModelFileError(f"it is no nbnet {kind}, its format is {metadata.get('format')!r:.60}.")
    number = metadata.get("version", "")
    if number not in map(str, READABLE_VERSIONS):
        raise ModelFileError(
            f"its format has version {number!r:.20}, but nbnet {__version__} reads up to {max(READABLE_VERSIONS)}."
        )
    text = metadata["header"]
    if digest_of(text, arrays) != metadata.get("digest"):
        raise ModelFileError("its digest does not fit what it holds: the file is damaged.")
    return Contents(Fields(json.loads(text, parse_constant=_no_constant), "header"), Arrays(arrays))


def digest_of(text: str, arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of a header and of arrays with their names, types and shapes; hexadecimal."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


@contextmanager
def refusing(path: str) -> Iterator[None]:
    """Turn whatever goes wrong in the block, which only looks at a file's contents, into a `ModelFileError`."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        message = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ModelFileError(f"{path}: {message:.500}") from error


@contextmanager
def replacing(path, temporary: str | None = None) -> Iterator[str]:
    """Name of a new file in the same folder, which takes the place of `path` when the block has written it.

    It is on the disk before it takes the place, so that a crash at any moment leaves the old or the new file.

    Parameters
    ----------
    path : path
    temporary : str or None
        The new file's name, for a writer that nobody else can disturb; a killed one leaves no more than this file,
        which is removed first.
    """
    path = os.path.realpath(path)
    folder, name = os.path.split(path)
    if temporary is None:
        temporary = os.path.join(folder, f".{name}.{secrets.token_hex(8)}.tmp")
    else:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
    try:
        yield temporary
        _flush(temporary, os.O_RDWR)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    if os.name == "posix":
        _flush(folder, os.O_RDONLY)  # the new name


def _flush(path: str, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: str) -> bytes:
    """The whole file. A map of it would be cheaper, but would kill the process where another one cuts the file."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size + 1)
    if len(data) != size:
        raise ModelFileError(f"{path}: it is no regular file, or changes while it is read.")
    return data


def _no_constant(name: str):
    raise ModelFileError(f"its header has the number {name}.")


def require_safetensors():
    """`safetensors.numpy`, or an ImportError that says how to install it."""
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(SAFETENSORS_MISSING) from error
    return safetensors.numpy


# ---------------------------------------------------------------- values that are no arrays


def encode(value) -> Any:
    """`value` as JSON: None, booleans, numbers, texts, paths, and lists, tuples, sets and dicts of them.

    NumPy's numbers become Python's, arrays become lists.

    Raises
    ------
    TypeError
        For anything else.
    """
    if value is None or isinstance(value, (bool, np.bool_)):
        return None if value is None else bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        value = float(value)
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    if isinstance(value, np.ndarray):
        return encode(value.tolist())
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [encode(item) for item in value]}
    if isinstance(value, (set, frozenset)):
        return {"set": sorted((encode(item) for item in value), key=repr)}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    raise TypeError(f"{type(value).__name__} has no place in a file")


def decode(value) -> Any:
    """Inverse of `encode`.

    Raises
    ------
    ModelFileError
        For what `encode` never makes.
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((tag, content),) = value.items()
        if tag == "float" and content in ("inf", "-inf", "nan"):
            return float(content)
        if tag == "tuple" and isinstance(content, list):
            return tuple(decode(content))
        if tag == "set" and isinstance(content, list):
            return set(decode(content))
        if tag == "dict" and isinstance(content, list):
            return {decode(key): decode(item) for key, item in content}
    raise ModelFileError(f"its header has the unknown value {value!r:.60}.")


class Fields:
    """A JSON object from a file, whose entries are taken out one by one, each of them checked.

    Parameters
    ----------
    entries : object
    name : str
        What the object is called in messages.
    """

    def __init__(self, entries, name: str):
        if not isinstance(entries, dict):
            raise ModelFileError(f"{name} is no object: {entries!r:.60}.")
        self.entries, self.name = dict(entries), name

    def take(self, key: str):
        """An entry as it is."""
        if key not in self.entries:
            raise ModelFileError(f"{self.name} lacks {key!r}.")
        return self.entries.pop(key)

    def value(self, key: str, *types: type):
        """An entry that `encode` has made, of one of the types where they are given."""
        value = decode(self.take(key))
        if types and type(value) not in types:
            raise self.wrong(key, value, " or ".join(getattr(t, "__name__", "None") for t in types))
        return value

    def integer(self, key: str, low: int, high: int) -> int:
        """An integer from `low` to `high`."""
        value = self.value(key, int)
        if not low <= value <= high:
            raise self.wrong(key, value, f"an integer from {low} to {high}")
        return value

    def choice(self, key: str, options):
        """One of some texts or None."""
        value = self.take(key)
        if not (value is None or isinstance(value, str)) or value not in options:
            raise self.wrong(key, value, f"one of {sorted(options, key=str)}")
        return value

    def items(self, key: str) -> list:
        """A list."""
        value = self.take(key)
        if not isinstance(value, list):
            raise self.wrong(key, value, "a list")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of str."""
        value = self.items(key)
        if not all(isinstance(item, str) for item in value):
            raise self.wrong(key, value, "a list of texts")
        return value

    def fields(self, key: str) -> Fields:
        """An object within the object."""
        return Fields(self.take(key), key)

    def wrong(self, key: str, value, wanted: str) -> ModelFileError:
        """The error for an entry that is not what it should be."""
        return ModelFileError(f"{key} of {self.name} is {value!r:.60}, expected {wanted}.")

    def finish(self) -> None:
        """Nothing may be left."""
        if self.entries:
            raise ModelFileError(f"{self.name} has {sorted(self.entries)!r:.60}, which nothing here knows.")


class Arrays:
    """The arrays of a file, taken out one by one, each with its type and shape checked."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self._arrays = dict(arrays)

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array that is still to be taken."""
        return self._peek(name).shape

    def take(self, name: str, dtypes, shape: tuple[int | None, ...]) -> np.ndarray:
        """An array of one of the types `dtypes`; None in `shape` stands for any size."""
        array = self._peek(name)
        dtypes = [np.dtype(dtype) for dtype in (dtypes if isinstance(dtypes, (tuple, list)) else [dtypes])]
        fits = array.ndim == len(shape) and all(n is None or n == m for n, m in zip(shape, array.shape, strict=True))
        if not fits or array.dtype not in dtypes:
            wanted = " or ".join(map(str, dtypes))
            raise ModelFileError(f"array {name!r} is {array.dtype} {array.shape}, expected {wanted} {shape}.")
        return self._arrays.pop(name)

    def _peek(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            raise ModelFileError(f"it lacks the array {name!r}.")
        return self._arrays[name]

    def finish(self) -> None:
        """Nothing may be left."""
        if self._arrays:
            raise ModelFileError(f"it has arrays that nothing here knows: {sorted(self._arrays)!r:.60}.")
