"""Memory of the GPU, and lists of launches: run one by one, or captured once in a CUDA graph and replayed.

A step of training is the same list of launches each time: what differs from step to step (which rows, which learning
rate) lies in arrays on the GPU, and a counter there says which step it is. So nothing is read back within an epoch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from .jit import SIMULATED, cuda

LARGEST = 2**31  # elements of one array that kernels index in 32 bits
LARGEST_GRID = 2**31 - 1, 2**16 - 1  # blocks in each direction
GRAPH_RUNS = 32  # in one graph, at most; launching a graph costs about as much as launching a kernel


# ---------------------------------------------------------------- memory


def empty(n: int, dtype):
    """Vector of `n` elements on the GPU, not set.

    Raises
    ------
    MemoryError
        Where the GPU has no room.
    """
    return _allocate(lambda: cuda.device_array(int(n), np.dtype(dtype)), int(n) * np.dtype(dtype).itemsize)


def zeros(n: int, dtype):
    """Vector of `n` zeros on the GPU."""
    return upload(np.zeros(int(n), dtype))


def upload(array: np.ndarray):
    """Copy of a vector or matrix on the GPU; a matrix becomes a vector, row by row."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return _allocate(lambda: cuda.to_device(flat), flat.nbytes)


def check_size(n: int, what: str) -> None:
    """Refuse what a 32-bit index cannot reach."""
    if n >= LARGEST:
        raise ValueError(f"{what} has {n} elements: on a GPU at most 2**31 - 1 are supported")


def memory() -> tuple[int, int]:
    """Bytes that are free on this thread's GPU, and all that it has."""
    return tuple(cuda.current_context().get_memory_info())


def n_processors() -> int:
    """Multiprocessors of this thread's GPU."""
    return int(cuda.get_current_device().MULTIPROCESSOR_COUNT)


def compute_capability() -> tuple[int, int]:
    """Generation of this thread's GPU."""
    return tuple(cuda.get_current_device().compute_capability)


def _allocate(allocate: Callable, n_bytes: int):
    try:
        return allocate()
    except Exception as error:  # numba-cuda raises the driver's error under a name that changes with its version
        if "OUT_OF_MEMORY" not in str(error).upper():
            raise
    free, total = (n / 2**20 for n in memory())
    raise MemoryError(
        f"The GPU has no room for another {n_bytes / 2**20:.0f} MiB: {free:.0f} of {total:.0f} MiB are free. "
        "Fit on fewer rows, in float32 or with device='cpu'."
    )


# ---------------------------------------------------------------- launches


class Launch(NamedTuple):
    """One kernel with everything that it needs."""

    kernel: Callable
    grid: int | tuple[int, int]
    block: int | tuple[int, int]
    args: tuple


class Queue:
    """Launches in order; `walk` fills it.

    Parameters
    ----------
    capture : bool
        Whether what is run many times becomes a CUDA graph.
    products : Products or None
        How products may be made: see `nbnet.cuda.product`. None: each sum is one chain in order.
    """

    def __init__(self, capture: bool = True, products=None):
        self.launches: list[Launch] = []
        self.products = products
        self._plain: list[Callable] = []  # the launches on the default stream, ready to be called
        self._graph, self._graph_runs, self._may_capture = None, 0, capture and not SIMULATED

    def add(self, kernel, grid, block, *args) -> None:
        """Append a launch.

        Raises
        ------
        ValueError
            For more blocks than a GPU takes.
        """
        blocks = grid if isinstance(grid, tuple) else (grid,)
        if any(n > largest for n, largest in zip(blocks, LARGEST_GRID, strict=False)):
            sizes = " x ".join(map(str, blocks))
            raise ValueError(f"a GPU takes no {sizes} blocks: use smaller batches, layers or rows")
        self.launches.append(Launch(kernel, grid, block, args))

    def run(self, times: int = 1) -> None:
        """All launches in order, `times` times; they may not have ended when this returns."""
        if times > 1 and self._may_capture and self._graph is None:
            self._run_plainly()  # compiles and loads every kernel, which cannot be captured
            self._capture(_graph_runs(times))
            times -= 1
        if self._graph is not None:
            from cuda.core import LEGACY_DEFAULT_STREAM

            while times >= self._graph_runs:
                self._graph.launch(LEGACY_DEFAULT_STREAM)
                times -= self._graph_runs
        for _ in range(times):
            self._run_plainly()

    def _run_plainly(self) -> None:
        self._plain = self._plain or self._on_stream(0)
        for launch in self._plain:
            launch()

    def _on_stream(self, stream) -> list[Callable]:
        with warnings.catch_warnings():
            # that a small grid leaves most of the GPU idle is no news to whoever trains a small network
            warnings.filterwarnings("ignore", message="Grid size .* will likely result in GPU under-utilization")
            configured = [launch.kernel[launch.grid, launch.block, stream] for launch in self.launches]
        return [partial(run, *launch.args) for run, launch in zip(configured, self.launches, strict=True)]

    def _capture(self, runs: int) -> None:
        """Make one CUDA graph of `runs` runs; where that fails, launches stay plain, and a warning says so."""
        try:
            from cuda.core import Device

            device = Device()
            device.set_current()
            builder = device.create_graph_builder()
            with cuda.defer_cleanup():  # memory that is freed during the capture would end it
                launches = self._on_stream(builder)
                builder.begin_building()
                for launch in launches * runs:
                    launch()
                self._graph = builder.end_building().complete()
            self._graph_runs = runs
        except Exception as error:  # of cuda.core, of the driver: training can go on without
            self._may_capture = False
            message = f"CUDA graphs do not work here, so each kernel is launched by itself: {error}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)


def _graph_runs(times: int) -> int:
    """Runs in one graph, so that few of `times` are left over for plain launches."""
    if times <= GRAPH_RUNS:
        return times
    return min(range(GRAPH_RUNS // 2, GRAPH_RUNS + 1), key=lambda runs: (times % runs, -runs))
