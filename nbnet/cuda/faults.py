"""What a driver reports when a GPU fails, in one sentence; and which GPUs this process has lost.

numba-cuda, cuda.core and the driver's bindings raise classes of their own, whose names change with their versions. What
stays is the driver's name of the error in the text: ``CUDA_ERROR_ILLEGAL_ADDRESS``.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

TOO_OLD = "its driver is too old for the installed CUDA packages: install a newer driver, or the extra cuda12"
BUSY = "it is busy: another process has it for itself, or it takes no process at all"
LOST = "it is lost to this process, which can go on with device='cpu'; a new process may find it again"

SENTENCES = {
    **dict.fromkeys(("DEVICE_UNAVAILABLE", "CONTEXT_ALREADY_IN_USE", "DEVICES_UNAVAILABLE"), BUSY),
    **dict.fromkeys(
        (
            "INSUFFICIENT_DRIVER",
            "UNSUPPORTED_PTX_VERSION",
            "SYSTEM_DRIVER_MISMATCH",
            "COMPAT_NOT_SUPPORTED_ON_DEVICE",
            "CALL_REQUIRES_NEWER_DRIVER",
        ),
        TOO_OLD,
    ),
    # after any of these the driver refuses all that this process asks for
    **dict.fromkeys(
        (
            "ASSERT",
            "CONTEXT_IS_DESTROYED",
            "DEINITIALIZED",
            "DEVICE_LOST",
            "ECC_UNCORRECTABLE",
            "EXTERNAL_DEVICE",
            "HARDWARE_STACK_ERROR",
            "ILLEGAL_ADDRESS",
            "ILLEGAL_INSTRUCTION",
            "INVALID_ADDRESS_SPACE",
            "INVALID_PC",
            "LAUNCH_FAILED",
            "LAUNCH_TIMEOUT",
            "MISALIGNED_ADDRESS",
            "NVLINK_UNCORRECTABLE",
            "SYSTEM_NOT_READY",
            "UNKNOWN",
        ),
        LOST,
    ),
}

_lost: dict[int, str] = {}  # number of the GPU: why


class GPUError(RuntimeError):
    """A GPU has failed; says how in one sentence."""


def name_of(error: BaseException) -> str:
    """The driver's name of an error, without its prefix; empty where it is no error of the driver."""
    found = re.search(r"CUDA_?ERROR_([A-Z_]+)", str(error).upper())
    return found[1].rstrip("_") if found else ""


def sentence_of(error: BaseException) -> str:
    """What the error means, and its text."""
    text = " ".join(str(error).split()).rstrip(".")
    meaning = SENTENCES.get(name_of(error))
    return f"{meaning} ({text})" if meaning else text


def why_lost(number: int) -> str:
    """Why this process cannot use GPU `number` any more; empty where it can."""
    return _lost.get(number, "")


@contextmanager
def in_one_sentence(device: str, number: int) -> Iterator[None]:
    """Within, what a driver raises becomes a `GPUError` of one sentence, or a MemoryError.

    Where memory ran out, it is free when the error arrives at the caller: the frames that the error has gone through,
    and with them what they held on the GPU, are cleared.
    """
    try:
        yield
    except GPUError:
        raise
    except Exception as error:
        name = name_of(error)
        if isinstance(error, MemoryError) or name == "OUT_OF_MEMORY":
            _release(error)
        if name == "OUT_OF_MEMORY":
            message = f"GPU number {number} has no room for this: fit on fewer rows, in float32 or with device='cpu'."
            raise MemoryError(message) from error
        if not name:
            raise
        if SENTENCES.get(name) == LOST:
            _lost[number] = f"GPU number {number} failed before: {sentence_of(error)}"
        raise GPUError(f"device={device!r} failed: {sentence_of(error)}.") from error


def _release(error: BaseException) -> None:
    """Drop what the frames of an error hold, and give memory that is free to the driver at once."""
    traceback.clear_frames(error.__traceback__)
    with suppress(Exception):  # numba-cuda keeps a list of what to free; without it, memory is free a little later
        from .jit import cuda

        cuda.current_context().memory_manager.deallocations.clear()
