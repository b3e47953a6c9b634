"""The only place with compile options and with the location of the compilation cache.

Every kernel wears `@cpu_kernel`, every function that is only a part of kernels `@cpu_inline` (or `@cpu_function`, where
it is small and has many callers), and the maths of `nbnet.scalar` `@elementwise`. No fastmath flag is set: products are
fused where the source says `fma` and nowhere else, so the same formula gives the same bits in every kernel that inlines
it, and `isnan` works.

Compiled code is kept in a folder whose name is a hash of what it depends on: the package's sources (Numba itself does
not notice an edit in a callee's file), the versions of Numba, llvmlite and Python, and the options that change code.
The folder lies in the first of

1. `NBNET_CACHE_DIR`,
2. `NUMBA_CACHE_DIR`, in a folder `nbnet`,
3. the user's cache directory,

that can be written. Where none can, kernels are compiled anew in each process and one warning says so.
"""

from __future__ import annotations

import copy
import functools
import gc
import hashlib
import importlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import llvmlite
import numba
from numba.core import caching, config
from numba.core.compiler_lock import global_compiler_lock
from numba.core.sigutils import normalize_signature
from numba.core.types import unliteral
from numba.extending import register_jitable

JIT_DISABLED = bool(config.DISABLE_JIT)
BOUNDS_CHECKED = bool(config.BOUNDSCHECK)

# Inlined before compilation: a small function is then never compiled on its own, and code is not optimized once more at
# each level of a call tree (first fit: 9 s instead of 16 s).
elementwise = register_jitable(inline="always")


def cpu_kernel(function: Callable) -> Callable:
    """Compile `function` without the GIL on first call with new types; keep the code on disk."""
    return _compile(function)


def cpu_inline(function: Callable) -> Callable:
    """Like `cpu_kernel`, for a function that always becomes part of its caller: tiles then stay in registers."""
    return _compile(function, inline="always")


def cpu_function(function: Callable) -> Callable:
    """Like `cpu_kernel`, for a small function that inner loops call: its code becomes part of each caller's."""
    return _compile(function, linked=False)


def _compile(function: Callable, linked: bool = True, **options) -> Callable:
    dispatcher = numba.njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True, _nrt=False, **options)(function)
    if not JIT_DISABLED:
        dispatcher.compile = functools.partial(_compile_apart, dispatcher, dispatcher.compile, linked)
        dispatcher.add_overload = functools.partial(_add_overload, dispatcher)
        dispatcher.entries = set()
        if cache_directory() is not None:
            dispatcher._cache = _KernelCache(dispatcher.py_func)
    return dispatcher


# ---------------------------------------------------------------- kernels are optimized once and called by address

# Left to itself, Numba copies a callee's code into its caller and optimizes it once more, at each level of a call tree,
# and compiles a kernel again for each literal among its arguments.

_replaced: list = []  # compiled kernels that others go on calling
_under_way: list[list] = []  # for each compilation under way, the innermost last: kernels that it calls, and with what


def _is_for_kernel() -> bool:
    """Whether what is compiled now is called by another kernel: it needs no entry for Python, which unpacks arguments.

    Kernels take tuples of many arrays, so that such an entry is often longer than the kernel.
    """
    return len(_under_way) > 1


def _compile_apart(dispatcher, compile_with_callees: Callable, linked: bool, signature):
    """`dispatcher.compile`; callers are linked to the one compiled kernel, or take a copy of its code."""
    with global_compiler_lock:
        arguments = tuple(unliteral(of) for of in normalize_signature(signature)[0])
        kernel = dispatcher.py_func.__module__, dispatcher.py_func.__name__, arguments
        if _under_way and kernel not in _under_way[-1]:
            _under_way[-1].append(kernel)
        if arguments in dispatcher.overloads:
            if _under_way or arguments in dispatcher.entries:
                return dispatcher.overloads[arguments].entry_point
            _replaced.append(dispatcher.overloads.pop(arguments))
        _under_way.append([])
        try:
            dispatcher.targetoptions["no_cpython_wrapper"] = _is_for_kernel()
            with _rare_garbage_collection():
                entry_point = compile_with_callees(arguments)
        finally:
            _under_way.pop()
        if linked:
            _call_by_address(dispatcher, dispatcher.overloads[arguments], _symbol(*kernel))
        return entry_point


@contextmanager
def _rare_garbage_collection() -> Iterator[None]:
    """Numba makes many objects that refer to each other; searching them again and again took 12 % of the time."""
    before = gc.get_threshold()
    if before[0]:  # the user may have switched it off
        gc.set_threshold(max(before[0], 100_000), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _add_overload(dispatcher, compiled) -> None:
    """`dispatcher.add_overload`; Python does not find what has no entry for it."""
    arguments = tuple(compiled.signature.args)
    if _is_for_kernel():
        dispatcher.overloads[arguments] = compiled
    else:
        type(dispatcher).add_overload(dispatcher, compiled)
        dispatcher.entries.add(arguments)


def _call_by_address(dispatcher, compiled, symbol: str) -> None:
    address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    llvmlite.binding.add_symbol(symbol, address)
    by_symbol = copy.copy(compiled.fndesc)
    by_symbol.mangled_name = symbol
    dispatcher.targetctx.remove_user_function(compiled.entry_point)
    dispatcher.targetctx.insert_user_function(compiled.entry_point, by_symbol)


def _symbol(module: str, name: str, arguments: tuple) -> str:
    """The kernel's name in other kernels' code, the same in all processes."""
    return "nbnet_" + hashlib.sha256(repr((module, name, arguments, _code_version())).encode()).hexdigest()[:32]


# ---------------------------------------------------------------- where compiled code is kept


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
        folder = candidate / _code_version()
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
def _code_version() -> str:
    digest = hashlib.sha256()
    root = Path(__file__).parent
    sources = [root / name for name in ("jit.py", "network.py", "random.py", "scalar.py")]
    for path in [*sources, *sorted((root / "cpu").glob("*.py"))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    options = (numba.__version__, llvmlite.__version__, sys.version_info[:3], BOUNDS_CHECKED, config.OPT)
    digest.update(repr(options).encode())
    return digest.hexdigest()[:16]


class _FolderLocator:
    """Says where Numba keeps the code of one function: all functions in `cache_directory()`."""

    def __init__(self, py_func: Callable):
        self._module = py_func.__module__

    @classmethod
    def from_function(cls, py_func: Callable, py_file: str) -> _FolderLocator:
        return cls(py_func)

    def ensure_cache_path(self) -> None:
        """The folder was made by `cache_directory`."""

    def get_cache_path(self) -> str:
        return str(cache_directory())

    def get_source_stamp(self) -> str:
        return _code_version()

    def get_disambiguator(self) -> str:
        return self._module.replace(".", "_")


class _FolderCacheImpl(caching.CompileResultCacheImpl):
    _locator_classes = (_FolderLocator,)

    def reduce(self, compiled):
        """The code, and the kernels whose symbols it holds."""
        return _under_way[-1], super().reduce(compiled)

    def rebuild(self, target_context, payload):
        """Callees first: their symbols must be known."""
        callees, code = payload
        for module, name, arguments in callees:
            getattr(importlib.import_module(module), name).compile(arguments)
        return super().rebuild(target_context, code)


class _FolderCacheFile(caching.IndexDataCacheFile):
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


class _KernelCache(caching.FunctionCache):
    _impl_class = _FolderCacheImpl

    def __init__(self, py_func: Callable):
        super().__init__(py_func)
        self._cache_file = _FolderCacheFile(
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=self._impl.locator.get_source_stamp(),
        )

    def _index_key(self, sig, codegen):
        """With an entry for Python a kernel is another code, which a caller can use as well."""
        return (*super()._index_key(sig, codegen), _is_for_kernel())

    def save_overload(self, sig, data) -> None:
        try:
            super().save_overload(sig, data)
        except OSError:  # the folder is full or was warmed by another user: run on what was compiled
            pass
