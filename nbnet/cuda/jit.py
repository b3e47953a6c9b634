"""The only place that imports numba.cuda, and the only one with its compile options.

Every kernel wears `cuda_kernel` with the number of its threads, every part of kernels `device_function`. As on the CPU,
no fastmath flag is set. Kernels are compiled for the GPU at hand at their first launch in a process; none has a
signature, because that would need a driver when the module is imported.

Indices are unsigned, of 32 bits: a signed one costs a test for the end of the array. A sum or product of two of them
has 64 bits, and compared with a signed number both become float64; so what is compared is cut back by `uint32`.
"""

from __future__ import annotations

from collections.abc import Callable

from numba import cuda
from numba.core import config

SIMULATED = bool(config.ENABLE_CUDASIM)

device_function = cuda.jit(device=True, forceinline=True)


def cuda_kernel(threads: int, blocks_a_processor: int = 1) -> Callable:
    """Decorator of a kernel that is launched with `threads` threads a block.

    The compiler gives each thread so few registers that `blocks_a_processor` blocks fit on one multiprocessor.
    """
    return cuda.jit(launch_bounds=(threads, blocks_a_processor))
