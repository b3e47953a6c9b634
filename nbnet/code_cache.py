"""Where compiled code is kept: in a folder whose name is a hash of what the code depends on.

These are the package's sources (Numba itself does not notice an edit in a callee's file), the versions of Numba,
llvmlite and Python, and the options that change code. The folder lies in the first of

1. `NBNET_CACHE_DIR`,
2. `NUMBA_CACHE_DIR`, in a folder `nbnet`,
3. the user's cache directory,

that can be written. Where none can, kernels are compiled anew in each process and one warning says so.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import llvmlite
import numba
from numba.core import caching, config


@functools.cache
def cache_directory() -> Path | None:
    """Folder of this version's compiled code, created on the first call; None where nothing can be written."""
    candidates = []
    if os.environ.get("NBNET_CACHE_DIR"):
        candidates.append(Path(os.environ["NBNET_CACHE_DIR"]))
    if os.environ.get("NUMBA_CACHE_DIR"):
        candidates.append(Path(os.environ["NUMBA_CACHE_DIR"]) / "nbnet")
    candidates.append(_user_cache_directory() / "nbnet")
    for candidate in candidates:
        folder = candidate / code_version()
        if _is_writable(folder):
            return folder
    warnings.warn(
        "nbnet cannot write its compilation cache to "
        + " or ".join(str(candidate) for candidate in candidates)
        + ": kernels are compiled anew in each process. Set NBNET_CACHE_DIR to a folder that can be written.",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


def _user_cache_directory() -> Path:
    try:
        home = Path.home()
    except RuntimeError:  # no home directory can be determined
        home = Path(tempfile.gettempdir())
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    if sys.platform == "darwin":
        return home / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")


def _is_writable(folder: Path) -> bool:
    """Whether files can be made in `folder`; a cache warmed by another user is readable and counts as well."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return folder.is_dir() and any(folder.iterdir())


@functools.cache
def code_version() -> str:
    digest = hashlib.sha256()
    root = Path(__file__).parent
    sources = [root / name for name in ("code_cache.py", "jit.py", "network.py", "random.py", "scalar.py")]
    for path in [*sources, *sorted((root / "cpu").glob("*.py"))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    options = (numba.__version__, llvmlite.__version__, sys.version_info[:3], bool(config.BOUNDSCHECK), config.OPT)
    digest.update(repr(options).encode())
    return digest.hexdigest()[:16]


class FolderLocator:
    """Says where Numba keeps the code of one function: all functions in `cache_directory()`."""

    def __init__(self, py_func: Callable):
        self._module = py_func.__module__

    @classmethod
    def from_function(cls, py_func: Callable, py_file: str) -> FolderLocator:
        return cls(py_func)

    def ensure_cache_path(self) -> None:
        """The folder was made by `cache_directory`."""

    def get_cache_path(self) -> str:
        return str(cache_directory())

    def get_source_stamp(self) -> str:
        return code_version()

    def get_disambiguator(self) -> str:
        return self._module.replace(".", "_")


class FolderCacheFile(caching.IndexDataCacheFile):
    """Names a data file by its signature: with Numba's running numbers, two processes that compile at once could each
    write the other's."""

    def load(self, key):
        try:
            found = super().load(key)
            return super().load((*key[:-1], False)) if found is None and key[-1] else found
        except Exception:  # a damaged file is the same as none: it is written anew
            return None

    def _load_index(self) -> dict:
        try:
            return super()._load_index()
        except Exception:
            return {}

    def save(self, key, data) -> None:
        name = f"{self._index_name[:-4]}.{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.nbc"
        self._save_data(name, data)
        overloads = self._load_index()
        overloads[key] = name
        self._save_index(overloads)
