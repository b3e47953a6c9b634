"""The only place with compile options, and with what Numba is told about kernels that call each other.

Every kernel wears `@cpu_kernel`, every function that is only a part of kernels `@cpu_inline` (or `@cpu_function`, where
it is small and has many callers), and the maths of `nbnet.scalar` `@elementwise`. No fastmath flag is set: products are
fused where the source says `fma` and nowhere else, so the same formula gives the same bits in every kernel that inlines
it, and `isnan` works.

Compiled code is kept on disk: see `nbnet.code_cache`.
"""

from __future__ import annotations

import ast
import copy
import functools
import gc
import hashlib
import importlib
import inspect
import multiprocessing
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import contextmanager
from types import SimpleNamespace
from typing import NamedTuple

import joblib
import llvmlite
import numba
from joblib.externals.loky import ProcessPoolExecutor
from numba.core import caching, config, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.funcdesc import FunctionDescriptor
from numba.core.sigutils import normalize_signature
from numba.core.typing import signature as signature_of
from numba.extending import register_jitable

from .code_cache import FolderCacheFile, FolderLocator, cache_directory, code_version

JIT_DISABLED = bool(config.DISABLE_JIT)
BOUNDS_CHECKED = bool(config.BOUNDSCHECK)

# Inlined before compilation: a small function is then never compiled on its own, and code is not optimized once more at
# each level of a call tree (first fit: 9 s instead of 16 s).
elementwise = register_jitable(inline="always")


def cpu_kernel(function: Callable) -> Callable:
    """Compile `function` without the GIL on first call with new types; keep the code on disk.

    One that returns nothing, or is declared ``-> bool``, can be compiled beside its callers.
    """
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


class Kernel(NamedTuple):
    """A kernel for some types of arguments."""

    module: str
    name: str
    arguments: tuple  # of Numba's types

    @property
    def dispatcher(self):
        return getattr(importlib.import_module(self.module), self.name)

    @property
    def symbol(self) -> str:
        """Its name in other kernels' code, the same in all processes."""
        return "nbnet_" + hashlib.sha256(repr((*self, code_version())).encode()).hexdigest()[:32]


_replaced: list = []  # compiled kernels that others go on calling
_under_way: list[list] = []  # for each compilation under way, the innermost last: the kernels that it calls
_ordered: Kernel | None = None  # in a process that compiles for another: what that has asked for
_postponed: list = []  # there: what it calls, and what is not compiled


def _is_for_kernel() -> bool:
    """Whether what is compiled now is called by another kernel: it needs no entry for Python, which unpacks arguments.

    Kernels take tuples of many arrays, so that such an entry is often longer than the kernel.
    """
    return len(_under_way) > 1


def _compile_apart(dispatcher, compile_with_callees: Callable, linked: bool, signature):
    """`dispatcher.compile`; callers are linked to the one compiled kernel, or take a copy of its code."""
    with global_compiler_lock:
        arguments = tuple(types.unliteral(of) for of in normalize_signature(signature)[0])
        kernel = Kernel(dispatcher.py_func.__module__, dispatcher.py_func.__name__, arguments)
        if _under_way and kernel not in _under_way[-1]:
            _under_way[-1].append(kernel)
        if arguments in dispatcher.overloads:
            if _under_way or arguments in dispatcher.entries:
                return dispatcher.overloads[arguments].entry_point
            _replaced.append(dispatcher.overloads.pop(arguments))
        if _ordered not in (None, kernel) and linked:
            result = _type_of_result(dispatcher.py_func)
            if result is not None:
                return _postpone(dispatcher, kernel, result)
        if not _under_way:
            _compile_in_processes(dispatcher, kernel)
        _under_way.append([])
        try:
            dispatcher.targetoptions["no_cpython_wrapper"] = _is_for_kernel()
            with _rare_garbage_collection():
                entry_point = compile_with_callees(arguments)
        finally:
            _under_way.pop()
        if linked:
            compiled = dispatcher.overloads[arguments]
            address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
            dispatcher.targetctx.remove_user_function(entry_point)
            _call_by_address(dispatcher, compiled, kernel.symbol, address)
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
    if _is_said_to_return_bool(dispatcher.py_func) and compiled.signature.return_type != types.boolean:
        raise TypeError(f"{dispatcher.py_func.__name__} is said to return bool, but {compiled.signature}")
    if _is_for_kernel():
        dispatcher.overloads[arguments] = compiled
    else:
        type(dispatcher).add_overload(dispatcher, compiled)
        dispatcher.entries.add(arguments)


def _call_by_address(dispatcher, compiled, symbol: str, address: int) -> None:
    llvmlite.binding.add_symbol(symbol, address)
    by_symbol = copy.copy(compiled.fndesc)
    by_symbol.mangled_name = symbol
    dispatcher.targetctx.insert_user_function(compiled.entry_point, by_symbol)


# ---------------------------------------------------------------- code on disk


class _KernelCacheImpl(caching.CompileResultCacheImpl):
    _locator_classes = (FolderLocator,)

    def reduce(self, compiled):
        """The code, and the kernels whose symbols it holds."""
        return _under_way[-1], super().reduce(compiled)

    def rebuild(self, target_context, payload):
        """Callees first: their symbols must be known."""
        callees, code = payload
        for callee in callees:
            callee.dispatcher.compile(callee.arguments)
        return super().rebuild(target_context, code)


class _KernelCache(caching.FunctionCache):
    _impl_class = _KernelCacheImpl

    def __init__(self, py_func: Callable):
        super().__init__(py_func)
        self._cache_file = FolderCacheFile(
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=self._impl.locator.get_source_stamp(),
        )

    def _index_key(self, sig, codegen):
        """With an entry for Python a kernel is another code, which a caller can use as well."""
        return (*super()._index_key(sig, codegen), _is_for_kernel())

    def has(self, kernel: Kernel) -> bool:
        """Whether a kernel can be called from Python without being compiled."""
        codegen = kernel.dispatcher.targetctx.codegen()
        return self._cache_file.load((*super()._index_key(kernel.arguments, codegen), False)) is not None

    def save_overload(self, sig, data) -> None:
        try:
            super().save_overload(sig, data)
        except OSError:  # the folder is full or was warmed by another user: run on what was compiled
            pass


# ---------------------------------------------------------------- several processes compile for one

# Numba's compiler is Python, which one thread of a process runs at a time. Kernels call each other by address, so
# another process can compile one without its callees, and never runs it: of those that return nothing it need know no
# more than what they are called with. Their code goes into the cache, from where the first process takes it.

WORTHWHILE_KERNELS = 12  # a process starts in a second, in which it could have compiled six
NOWHERE = 1 << 12  # an address that is never called
MOST_PROCESSES = 6  # more wait for each other: a kernel is known when what calls it has been compiled


def n_compile_processes() -> int:
    """Processes that compile at once: `NBNET_COMPILE_PROCESSES`, or one for each core, 6 at most."""
    wanted = os.environ.get("NBNET_COMPILE_PROCESSES", "")
    return int(wanted) if wanted.isdigit() and int(wanted) > 0 else min(joblib.cpu_count(), MOST_PROCESSES)


def _compile_in_processes(dispatcher, kernel: Kernel) -> None:
    """Bring a kernel and all that it calls into the cache; where that fails, they are compiled as they are needed."""
    n_processes, may_start = n_compile_processes(), not getattr(sys, "frozen", False)
    if n_processes < 2 or not may_start or multiprocessing.parent_process() is not None or cache_directory() is None:
        return
    if len(_not_compiled(dispatcher)) < WORTHWHILE_KERNELS or dispatcher._cache.has(kernel):
        return
    executor = ProcessPoolExecutor(n_processes, initializer=_get_ready, initargs=(kernel,))
    try:
        known, waited_for = {kernel}, {executor.submit(compile_for_cache, kernel, True)}
        while waited_for:
            done, waited_for = wait(waited_for, return_when=FIRST_COMPLETED)
            found = {callee for future in done for callee in future.result()} - known
            waited_for |= {executor.submit(compile_for_cache, callee, False) for callee in found}
            known |= found
    except Exception:  # of a process that cannot be started or of a kernel that does not compile: it will say so here
        pass
    finally:
        executor.shutdown(kill_workers=True)


def _get_ready(kernel: Kernel) -> None:
    """In a process that only compiles: what the first compilation of a process does before."""
    kernel.dispatcher.targetctx.refresh()


def _not_compiled(dispatcher, known: frozenset = frozenset()) -> frozenset:
    """Kernels that a kernel calls, at any depth, and that this process has not compiled for any types, with itself."""
    if dispatcher in known or dispatcher.overloads:
        return known
    known |= {dispatcher}
    names, of_function = dispatcher.py_func.__code__.co_names, dispatcher.py_func.__globals__
    modules = [of_function[name] for name in names if inspect.ismodule(of_function.get(name))]
    for name in names:
        for scope in (of_function, *map(vars, modules)):
            if hasattr(scope.get(name), "entries"):
                known = _not_compiled(scope[name], known)
    return known


def compile_for_cache(kernel: Kernel, with_entry: bool) -> list[Kernel]:
    """In a process that only compiles: a kernel into the cache, with or without an entry for Python.

    Returns
    -------
    list of Kernel
        Those that it calls and that are not compiled yet.
    """
    global _ordered, _postponed
    _ordered, _postponed = kernel, []
    dispatcher = kernel.dispatcher
    dispatcher.overloads.pop(kernel.arguments, None)
    if not with_entry:
        _under_way.append([])  # its caller's
    try:
        dispatcher.compile(kernel.arguments)
    finally:
        _under_way.clear()
    return _postponed


def _is_said_to_return_bool(function: Callable) -> bool:
    return function.__annotations__.get("return") in (bool, "bool")


@functools.cache
def _type_of_result(function: Callable) -> types.Type | None:
    """What a function returns, as far as its source says: nothing, ``-> bool``, or else unknown (None)."""
    if _is_said_to_return_bool(function):
        return types.boolean
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    returns = [node for node in ast.walk(tree) if isinstance(node, ast.Return) and node.value is not None]
    return None if returns else types.none


def _postpone(dispatcher, kernel: Kernel, result: types.Type):
    """Let callers know a kernel that is not compiled; returns what stands for its entry point."""
    function = dispatcher.py_func
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    identity = True, kernel.module, kernel.name, kernel.name, None
    description = FunctionDescriptor(*identity, {}, result, {}, names, (), argtypes=kernel.arguments)
    signature = signature_of(result, *kernel.arguments)
    stub = SimpleNamespace(signature=signature, objectmode=False, entry_point=object(), fndesc=description)
    dispatcher.overloads[kernel.arguments] = stub
    _call_by_address(dispatcher, stub, kernel.symbol, NOWHERE)
    _postponed.append(kernel)
    return stub.entry_point
