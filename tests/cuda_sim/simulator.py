"""A strict stand-in for numba.cuda that runs kernels as Python, on a machine without a GPU.

Each thread of a block is a greenlet, so a barrier is a switch. What a GPU would pass over in silence raises here:

- memory that was not written is NaN, or 0xAA.. for integers: on the device, in shared and in local arrays;
- an index that is negative, not an integer or out of range raises, and so does a misaligned load of 16 bytes;
- a barrier, or an exchange within a warp, that some thread never reaches raises `DivergenceError`;
- between two barriers the threads of a block run forward, reversed or shuffled (`set_order`), so that a missing barrier
  changes the result;
- kernels take arrays of the device and numbers of a fixed width: an array of the host or a Python number raises;
- numbers that overflow raise, which for integers means that they wrap (`module.overflow` allows it);
- a launch of more threads than the kernel declares raises.

There is no model of memory beyond that, and no time.
"""

from __future__ import annotations

import itertools
import random
import sys
import warnings
import weakref
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import numpy as np
from greenlet import getcurrent, greenlet

WARP = 32


class DivergenceError(RuntimeError):
    """Threads wait for others that never come."""


def poisoned(n: int, dtype) -> np.ndarray:
    """Memory that nobody has written: NaN, or large numbers that no kernel computes."""
    array = np.empty(n, dtype)
    if array.dtype.kind == "f":
        array.fill(np.nan)
    else:
        array.view(np.uint8).fill(0xAA)
    return array


class Vector:
    """Memory as a kernel sees it: every index is checked."""

    def __init__(self, values: np.ndarray, offset: int = 0):
        self._values, self._offset = values, offset
        self.size = values.size

    def _checked(self, i) -> int:
        if not isinstance(i, int | np.integer):
            raise IndexError(f"index {i!r} is not an integer")
        if not 0 <= i < self.size:
            raise IndexError(f"index {i} of {self.size} elements")
        return int(i)

    def __getitem__(self, i):
        return self._values[self._checked(i)]

    def __setitem__(self, i, value):
        self._values[self._checked(i)] = value

    def is_aligned(self, i) -> bool:
        """Whether element i starts at a multiple of 16 bytes."""
        return (self._offset + int(i)) * self._values.itemsize % 16 == 0


class DeviceArray:
    """Memory as the host sees it: copied as a whole, sliced, and not read element by element."""

    def __init__(self, values: np.ndarray, offset: int = 0):
        self._values, self._offset = values, offset
        self.shape, self.size, self.dtype, self.nbytes = values.shape, values.size, values.dtype, values.nbytes

    @property
    def __cuda_array_interface__(self) -> dict:
        described = self._values.__array_interface__
        return {"shape": self.shape, "typestr": described["typestr"], "data": described["data"], "version": 3}

    def reshape(self, *shape: int) -> DeviceArray:
        return DeviceArray(self._values.reshape(shape), self._offset)

    def __getitem__(self, part: slice) -> DeviceArray:
        start, _, step = part.indices(self.size)
        assert step == 1
        return DeviceArray(self._values[part], self._offset + start)

    def copy_to_host(self, out: np.ndarray | None = None) -> np.ndarray:
        _call_driver("cuMemcpyDtoH")
        if out is None:
            return self._values.copy()
        self._check(out)
        out[:] = self._values
        return out

    def copy_to_device(self, source, stream=0) -> None:
        _call_driver("cuMemcpyHtoD")
        if stream != 0:
            stream.add(lambda: self.copy_to_device(source))
            return
        source = source._values if isinstance(source, DeviceArray) else source
        self._check(source)
        self._values[:] = source

    def _check(self, other: np.ndarray) -> None:
        if other.dtype != self.dtype or other.shape != self._values.shape or not other.flags.c_contiguous:
            raise ValueError(f"{other.dtype}{other.shape} is not {self.dtype}{self._values.shape}, contiguous")

    def in_kernel(self) -> Vector:
        return Vector(self._values, self._offset)


class Stream:
    """A stream beside the default one: what it is given happens as late as an event allows."""

    def __init__(self):
        self.waiting, self.n_added, self.n_done = [], 0, 0

    def add(self, action) -> None:
        self.waiting.append(action)
        self.n_added += 1

    def run_until(self, number: int) -> None:
        while self.n_done < number:
            self.n_done += 1
            self.waiting.pop(0)()


class Event:
    """A point in a stream. The default stream is always done with all that it was given."""

    def __init__(self, timing=True):
        self._stream, self._number = 0, 0

    def record(self, stream=0) -> None:
        self._stream, self._number = stream, 0 if stream == 0 else stream.n_added

    def synchronize(self) -> None:
        if self._stream != 0:
            self._stream.run_until(self._number)

    def wait(self, stream=0) -> None:
        self.synchronize()


def _argument(value):
    """An argument as a kernel gets it."""
    if isinstance(value, DeviceArray):
        return value.in_kernel()
    if isinstance(value, tuple):
        parts = [_argument(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, np.generic):
        return value
    raise TypeError(f"a kernel cannot take {type(value).__name__}: {value!r}")


# ---------------------------------------------------------------- running a block


class _Thread(greenlet):
    """One thread of a block: where it stands and what it waits for."""

    def wait(self, kind, value=None):
        """Switch to the scheduler until all that it waits for have come; returns what the others brought."""
        self.waits_for, self.brings = kind, value
        self.scheduler.switch()
        return self.brought


_order, _shuffle = "forward", random.Random(0)


def set_order(order: str) -> None:
    """How the threads of a block take turns: "forward", "reversed" or "shuffled"."""
    global _order
    _order = order
    _shuffle.seed(0)


def _run_block(function, args, block, block_size, grid_size) -> None:
    scheduler, shared = getcurrent(), {}
    n_threads = block_size.x * block_size.y
    threads = []
    for number in range(n_threads):
        thread = _Thread(lambda: function(*args), scheduler)
        thread.scheduler, thread.number, thread.shared, thread.brought = scheduler, number, shared, None
        thread.place = SimpleNamespace(x=number % block_size.x, y=number // block_size.x)
        thread.block, thread.block_size, thread.grid_size = block, block_size, grid_size
        threads.append(thread)
    ready = threads
    while ready:
        ready = list(ready)
        if _order == "reversed":
            ready.reverse()
        elif _order == "shuffled":
            _shuffle.shuffle(ready)
        for thread in ready:
            _resume(thread)
        ready = _released([thread for thread in threads if not thread.dead], threads)


def _resume(thread) -> None:
    try:
        thread.switch()
    except Exception as error:
        error.add_note(f"in thread {thread.place} of block {thread.block}")
        raise


def _released(alive, threads):
    """The threads that may go on: all of a warp that exchange, else all of the block at a barrier."""
    ready = []
    for first in range(0, len(threads), WARP):
        warp = threads[first : first + WARP]
        waiting = [thread for thread in warp if not thread.dead and thread.waits_for == "warp"]
        if len(waiting) == len(warp):
            values = {thread.number % WARP: thread.brings for thread in warp}
            for thread in warp:
                thread.brought = values
            ready += warp
    if ready or not alive:
        return ready
    if len(alive) < len(threads) or any(thread.waits_for != "block" for thread in alive):
        at_barrier = sum(thread.waits_for == "block" for thread in alive)
        raise DivergenceError(
            f"block {alive[0].block}: of {len(threads)} threads {at_barrier} are at a barrier, "
            f"{len(alive) - at_barrier} in an exchange of their warp, {len(threads) - len(alive)} have returned"
        )
    return alive


class _Kernel:
    """What ``@cuda.jit`` makes."""

    def __init__(self, function, launch_bounds):
        self.py_func, self.launch_bounds, self.__name__ = function, launch_bounds, function.__name__
        self.targetoptions = {"launch_bounds": launch_bounds}

    def __getitem__(self, configuration):
        grid, block, stream = configuration
        if stream != 0:
            raise ValueError("the simulator has one stream")
        grid, block = (SimpleNamespace(x=int(n[0]), y=int(n[1])) for n in map(_pair, (grid, block)))
        if block.x * block.y > self.launch_bounds[0]:
            raise ValueError(f"{self.__name__}: {block} are more threads than {self.launch_bounds[0]}")
        if not (1 <= grid.x < 2**31 and 1 <= grid.y < 2**16):
            raise ValueError(f"{self.__name__}: a grid of {grid}")

        def launch(*args):
            _call_driver("cuLaunchKernel")
            args = tuple(_argument(arg) for arg in args)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # infinities and what is no number are numbers here
                warnings.filterwarnings(module.overflow, message="overflow", category=RuntimeWarning)
                for y in range(grid.y):
                    for x in range(grid.x):
                        _run_block(self.py_func, args, SimpleNamespace(x=x, y=y), block, grid)

        return launch


def _pair(size):
    return size if isinstance(size, tuple) else (size, 1)


# ---------------------------------------------------------------- the names of numba.cuda


class _Place:
    """``cuda.threadIdx`` and its like: of the thread that asks."""

    def __init__(self, attribute):
        self._attribute = attribute

    @property
    def x(self):
        return getattr(getcurrent(), self._attribute).x

    @property
    def y(self):
        return getattr(getcurrent(), self._attribute).y


def _shared_array(n, dtype, alignment=None):
    """One array for the block, known by the place in the code that asks for it."""
    caller = sys._getframe(1)
    key = caller.f_code, caller.f_lasti
    shared = getcurrent().shared
    if key not in shared:
        shared[key] = Vector(poisoned(n, dtype.name))
    return shared[key]


def _exchange(mask, value, lane_of):
    thread = getcurrent()
    assert mask == 0xFFFFFFFF, "whole warps only"
    return thread.wait("warp", value)[lane_of(thread.number % WARP)]


def _jit(function=None, *, device=False, forceinline=False, launch_bounds=None):
    if function is None:
        return lambda function: _jit(function, device=device, forceinline=forceinline, launch_bounds=launch_bounds)
    return function if device else _Kernel(function, launch_bounds)


@contextmanager
def memory_limit(n_bytes: int):
    """Within, the device refuses to hold more than `n_bytes` in one array."""
    module.limit = n_bytes
    try:
        yield
    finally:
        module.limit = None


@contextmanager
def memory_total(n_bytes: int):
    """Within, the device has room for `n_bytes` beyond what it holds."""
    total, module.total = module.total, memory_in_use() + n_bytes
    try:
        yield
    finally:
        module.total = total


def memory_in_use() -> int:
    """Bytes of all arrays that somebody still holds."""
    return sum(module.live.values())


@contextmanager
def failing(call: str, name: str, after: int = 0):
    """Within, calls of the driver of one kind ("cuLaunchKernel", "cuMemAlloc", "cuMemcpyDtoH", "cuMemcpyHtoD") end
    with an error, but for the first `after`."""
    module.failure = [call, name, after]
    try:
        yield
    finally:
        module.failure = None


def _call_driver(call: str) -> None:
    if module.failure is not None and module.failure[0] == call:
        module.failure[2] -= 1
        if module.failure[2] < 0:
            raise RuntimeError(f"[700] Call to {call} results in CUDA_ERROR_{module.failure[1]}")


def _allocated(values: np.ndarray) -> DeviceArray:
    _call_driver("cuMemAlloc")
    too_large = module.limit is not None and values.nbytes > module.limit
    if too_large or memory_in_use() + values.nbytes > module.total:
        raise RuntimeError("[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY")
    key = next(module.numbers)
    module.live[key] = values.nbytes
    weakref.finalize(values, module.live.pop, key)
    return DeviceArray(values)


def _as_cuda_array(array) -> DeviceArray:
    """A view of memory that is not the simulator's."""
    return DeviceArray(np.asarray(SimpleNamespace(__array_interface__=array.__cuda_array_interface__, owner=array)))


def _atomic_add(array: Vector, i, value):
    """Adds and returns what was there: no other thread runs before it is done."""
    if type(value) is not array[i].dtype.type:
        raise TypeError(f"{value!r} is not of the array's type")
    before = array[i]
    array[i] = before + value
    return before


def _make_module() -> ModuleType:
    cuda = ModuleType("numba.cuda")
    cuda.limit, cuda.overflow, cuda.failure = None, "error", None
    cuda.live, cuda.numbers, cuda.total = {}, itertools.count(), 2**34
    memory = SimpleNamespace(deallocations=SimpleNamespace(clear=lambda: None))
    cuda.current_context = lambda: SimpleNamespace(
        get_memory_info=lambda: (cuda.total - memory_in_use(), cuda.total), memory_manager=memory
    )
    cuda.jit = _jit
    cuda.threadIdx, cuda.blockIdx = _Place("place"), _Place("block")
    cuda.blockDim, cuda.gridDim = _Place("block_size"), _Place("grid_size")
    cuda.shared = SimpleNamespace(array=_shared_array)
    cuda.local = SimpleNamespace(array=lambda n, dtype: Vector(poisoned(n, dtype.name)))
    cuda.syncthreads = lambda: getcurrent().wait("block") and None
    cuda.shfl_xor_sync = lambda mask, value, bits: _exchange(mask, value, lambda lane: lane ^ bits)
    cuda.shfl_up_sync = lambda mask, value, n: _exchange(mask, value, lambda lane: lane - n if lane >= n else lane)
    cuda.shfl_sync = lambda mask, value, source: _exchange(mask, value, lambda lane: int(source))
    cuda.atomic = SimpleNamespace(add=_atomic_add)
    cuda.device_array = lambda n, dtype: _allocated(poisoned(n, dtype))
    cuda.to_device = lambda array: _allocated(array.copy())
    cuda.as_cuda_array = _as_cuda_array
    cuda.stream, cuda.event, cuda.pinned_array = Stream, Event, poisoned
    cuda.synchronize = lambda: None
    cuda.is_available, cuda.cuda_error = lambda: True, lambda: None
    cuda.gpus = [SimpleNamespace(name=b"simulated GPU")]
    cuda.select_device = lambda number: cuda.gpus[number]
    cuda.get_current_device = lambda: SimpleNamespace(MULTIPROCESSOR_COUNT=1, compute_capability=(9, 0), id=0)
    return cuda


module = _make_module()


def install() -> None:
    """From now on ``from numba import cuda`` gives the simulator."""
    import numba

    sys.modules["numba.cuda"] = numba.cuda = module
