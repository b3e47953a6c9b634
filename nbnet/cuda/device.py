"""Which GPU can be used, and if none, what is missing. Imports numba.cuda only when asked."""

from __future__ import annotations

import functools
from importlib.util import find_spec

from .faults import SENTENCES, GPUError, name_of, sentence_of, why_lost

INSTALL = "pip install 'nbnet[cuda]'"


def number_of(device: str) -> int:
    """Number of the GPU in "cuda", "cuda:N" or "auto"."""
    return int(device.partition(":")[2] or 0)


def why_no_cuda(number: int = 0) -> str:
    """What is missing for GPU `number`, as a sentence; empty where it can be used, and then it is this thread's GPU."""
    if find_spec("numba_cuda") is None and not _is_simulated():
        return f"the package numba-cuda is not installed: {INSTALL}"
    if reason := why_lost(number):
        return reason
    from .jit import cuda

    try:
        _check_usable(number)
        cuda.select_device(number)
    except Exception as error:  # of numba-cuda, of the driver, of a library that cannot be loaded: all end the same
        return str(error) if isinstance(error, GPUError) else _unusable(number, error)
    return ""


def _is_simulated() -> bool:
    from numba.core import config

    return bool(config.ENABLE_CUDASIM)


@functools.cache  # of what works only: a GPU that is busy now may be free later
def _check_usable(number: int) -> None:
    """Raises where there is no driver, no such GPU, or where a kernel of one thread cannot run on it."""
    from .jit import cuda

    if not cuda.is_available():
        reason = sentence_of(RuntimeError(cuda.cuda_error() or ""))
        raise GPUError(f"there is no NVIDIA GPU with a working driver{': ' if reason else ''}{reason}")
    n_devices = len(cuda.gpus)
    if number >= n_devices:
        raise GPUError(f"there is no GPU number {number}: the driver shows {n_devices}, counted from 0")
    try:
        cuda.select_device(number)
        _run_one_thread(cuda)
    except Exception as error:
        raise GPUError(_unusable(number, error)) from error


def _unusable(number: int, error: Exception) -> str:
    cannot = "be used"
    if name_of(error) not in SENTENCES:
        cannot = f"compile and run a kernel ({INSTALL} installs the compiler)"
    return f"GPU number {number} cannot {cannot}: {sentence_of(error)}"


def _run_one_thread(cuda) -> None:
    from .jit import cuda_kernel
    from .launch import Queue, empty

    @cuda_kernel(32)
    def set_to_zero(x):
        if cuda.threadIdx.x == 0:
            x[0] = 0

    x, queue = empty(1, "float32"), Queue()
    queue.add(set_to_zero, 1, 32, x)
    queue.run()
    x.copy_to_host()


def devices() -> list[str]:
    """ "cuda:0 (name)" of each GPU that the driver shows."""
    if find_spec("numba_cuda") is None:
        return []
    from .jit import cuda

    if not cuda.is_available():
        return []
    names = [gpu.name.decode() if isinstance(gpu.name, bytes) else gpu.name for gpu in cuda.gpus]
    return [f"cuda:{number} ({name})" for number, name in enumerate(names)]
