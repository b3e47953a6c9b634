"""Threads, in one place: how many, their barrier, and which share of the work is whose.

All workers of a fit run the same kernel with their own number, as plain Python threads without the GIL. Who computes a
thing never changes what comes out: each output has one owner and one order of summation.
"""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from typing import NamedTuple

import joblib
import numpy as np
from joblib.parallel import get_active_backend
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..jit import JIT_DISABLED, cpu_inline, cpu_kernel

ARRIVED, GENERATION, ABORTED = 0, 8, 16  # positions in the shared state, each on its own cache line
SPINS = 2000  # pauses before a waiting worker gives its core away: about 50 us
WORTHWHILE_FLOP = 8e6  # per worker and step: below, the barriers cost more than a second core brings


class Team(NamedTuple):
    """What a kernel knows of its worker: the shared state, its number, and how many there are."""

    state: np.ndarray
    worker: int
    n_workers: int


# ---------------------------------------------------------------- inside kernels


def _pointer(context, builder, array_type, array, index):
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


@intrinsic
def atomic_add(typingctx, array, index, value):
    """Adds to array[index]; returns what was there before."""

    def generate(context, builder, sig, args):
        return builder.atomic_rmw("add", _pointer(context, builder, sig.args[0], args[0], args[1]), args[2], "acq_rel")

    return types.int64(array, types.int64, types.int64), generate


@intrinsic
def atomic_load(typingctx, array, index):
    """array[index], seen in order with the other workers' atomic_add."""

    def generate(context, builder, sig, args):
        return builder.load_atomic(_pointer(context, builder, sig.args[0], args[0], args[1]), "acquire", 8)

    return types.int64(array, types.int64), generate


@intrinsic
def pause(typingctx):
    """Tells the core that this is a waiting loop."""

    def generate(context, builder, sig, args):
        triple = builder.module.triple
        if "x86" in triple or "i686" in triple:
            kind, name, operands = ir.FunctionType(ir.VoidType(), []), "llvm.x86.sse2.pause", []
        elif "aarch64" in triple or "arm64" in triple:
            kind, name = ir.FunctionType(ir.VoidType(), [ir.IntType(32)]), "llvm.aarch64.hint"
            operands = [ir.IntType(32)(1)]  # yield
        else:
            return context.get_dummy_value()
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), operands)
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def give_core_away(typingctx):
    """Lets another thread run on this core."""
    name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"

    def generate(context, builder, sig, args):
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def flush_subnormals(typingctx):
    """Makes this thread take numbers below the normal range for zero; returns what `restore_subnormals` needs.

    Moments that fade where there is no gradient end there, and arithmetic on them is up to a hundred times slower.
    """

    def generate(context, builder, sig, args):
        triple = builder.module.triple
        if "x86" in triple or "i686" in triple:
            place = cgutils.alloca_once(builder, ir.IntType(32))
            old = _call_control(builder, "llvm.x86.sse.stmxcsr", place)
            new = cgutils.alloca_once_value(builder, builder.or_(old, ir.IntType(32)(0x8040)))  # FTZ, DAZ
            _call_control(builder, "llvm.x86.sse.ldmxcsr", new)
            return builder.zext(old, ir.IntType(64))
        if "aarch64" in triple or "arm64" in triple:
            kind = ir.FunctionType(ir.IntType(64), [])
            old = builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.get.fpcr"), [])
            _set_fpcr(builder, builder.or_(old, ir.IntType(64)(1 << 24)))  # FZ
            return old
        return ir.IntType(64)(0)

    return types.int64(), generate


@intrinsic
def restore_subnormals(typingctx, control):
    """Undoes `flush_subnormals`."""

    def generate(context, builder, sig, args):
        triple = builder.module.triple
        if "x86" in triple or "i686" in triple:
            old = cgutils.alloca_once_value(builder, builder.trunc(args[0], ir.IntType(32)))
            _call_control(builder, "llvm.x86.sse.ldmxcsr", old)
        elif "aarch64" in triple or "arm64" in triple:
            _set_fpcr(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), generate


def _call_control(builder, name, place):
    """Stores or loads x86's floating-point control word at `place`; returns what is there afterwards."""
    pointer = builder.bitcast(place, ir.IntType(8).as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [pointer.type])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [pointer])
    return builder.load(place)


def _set_fpcr(builder, value):
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.set.fpcr"), [value])


@cpu_kernel
def barrier(team) -> bool:
    """Waits until all workers are here. Returns False when another worker has failed: then the kernel must end."""
    if team.n_workers == 1:
        return True
    state = team.state
    generation = atomic_load(state, GENERATION)
    if atomic_add(state, ARRIVED, 1) == team.n_workers - 1:
        atomic_add(state, ARRIVED, -team.n_workers)
        atomic_add(state, GENERATION, 1)
    else:
        spins = 0
        while atomic_load(state, GENERATION) == generation:
            if atomic_load(state, ABORTED) != 0:
                return False
            spins += 1
            if spins < SPINS:
                pause()
            else:
                give_core_away()
    return atomic_load(state, ABORTED) == 0


@cpu_inline
def share_of(n, multiple, team):
    """This worker's part (start, stop) of ``range(n)``, cut at multiples of `multiple`."""
    blocks = (n + multiple - 1) // multiple
    start = team.worker * blocks // team.n_workers * multiple
    stop = (team.worker + 1) * blocks // team.n_workers * multiple
    return min(start, n), min(stop, n)


# ---------------------------------------------------------------- on the host

_in_use = 0
_in_use_lock = threading.Lock()


def n_cores() -> int:
    """Cores this process may use: joblib's count (affinity, container limits), bounded by OMP_NUM_THREADS."""
    cores = joblib.cpu_count()
    limit = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return min(cores, int(limit)) if limit.isdigit() and int(limit) > 0 else cores


def choose_n_workers(n_jobs: int | None, flop_per_step: float) -> int:
    """Number of workers for steps of `flop_per_step` operations.

    An explicit `n_jobs` is obeyed (negative: as in joblib, cores + 1 + n_jobs). None: as many as the work is worth, one
    inside a worker of joblib, and never so many that all fits of this process together exceed its cores.
    """
    if JIT_DISABLED:
        return 1
    if n_jobs is not None:
        return n_jobs if n_jobs > 0 else max(1, joblib.cpu_count() + 1 + n_jobs)
    worthwhile = flop_per_step // WORTHWHILE_FLOP
    if worthwhile < 2 or get_active_backend()[0].nesting_level > 0:
        return 1
    return int(max(1, min(n_cores() - _in_use, worthwhile)))


def _without_warnings():
    """Compiled code does not warn of overflow, so neither does it with the JIT off."""
    return np.errstate(all="ignore") if JIT_DISABLED else nullcontext()


class Workers:
    """Threads that run one kernel together; a context manager for the time of a fit.

    The calling thread is worker 0, so one worker needs no thread at all.
    """

    def __init__(self, n_workers: int):
        self.n_workers = n_workers
        self._state = np.zeros(24, np.int64)
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Workers:
        global _in_use
        with _in_use_lock:
            _in_use += self.n_workers
        if self.n_workers > 1:
            self._pool = ThreadPoolExecutor(self.n_workers - 1, thread_name_prefix="nbnet")
        return self

    def __exit__(self, *exc) -> None:
        global _in_use
        with _in_use_lock:
            _in_use -= self.n_workers
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def run(self, kernel, *args) -> None:
        """Calls ``kernel(*args, team)`` once for each worker and waits for all of them.

        An exception in one worker (Ctrl-C in the calling thread included, once its kernel has returned) ends the others
        at their next barrier; then it is raised.
        """
        if self._pool is None:
            with _without_warnings():
                kernel(*args, Team(self._state, 0, 1))
            return
        self._state[:] = 0
        futures = [self._pool.submit(self._run_one, kernel, args, worker) for worker in range(1, self.n_workers)]
        try:
            self._run_one(kernel, args, 0)
        finally:
            wait(futures)
        for future in futures:
            future.result()

    def _run_one(self, kernel, args, worker) -> None:
        try:
            kernel(*args, Team(self._state, worker, self.n_workers))
        except BaseException:
            self._state[ABORTED] = 1
            raise


if JIT_DISABLED:

    def flush_subnormals():
        return 0

    def restore_subnormals(control):
        pass
