"""Sums and maxima over a warp and over a block, each in one fixed order, so that two runs give the same bits."""

from __future__ import annotations

import functools

from numba import uint32

from .intrinsics import load4, store4
from .jit import cuda, device_function

WARP = 32
ALL = 0xFFFFFFFF  # lanes of a warp
BLOCK = 256  # threads of kernels that reduce over a block
QUAD_THREADS = 256  # at most, of kernels that sum the columns of a matrix


@device_function
def warp_sum(value):
    """Sum over the warp, in every lane: a tree of five levels."""
    value += cuda.shfl_xor_sync(ALL, value, 16)
    value += cuda.shfl_xor_sync(ALL, value, 8)
    value += cuda.shfl_xor_sync(ALL, value, 4)
    value += cuda.shfl_xor_sync(ALL, value, 2)
    value += cuda.shfl_xor_sync(ALL, value, 1)
    return value


@device_function
def warp_running_sum(value):
    """Sum over this lane and those before it: a tree of five levels."""
    lane = uint32(cuda.threadIdx.x) % uint32(WARP)
    of_lower = cuda.shfl_up_sync(ALL, value, 1)
    value = value + of_lower if lane >= 1 else value
    of_lower = cuda.shfl_up_sync(ALL, value, 2)
    value = value + of_lower if lane >= 2 else value
    of_lower = cuda.shfl_up_sync(ALL, value, 4)
    value = value + of_lower if lane >= 4 else value
    of_lower = cuda.shfl_up_sync(ALL, value, 8)
    value = value + of_lower if lane >= 8 else value
    of_lower = cuda.shfl_up_sync(ALL, value, 16)
    return value + of_lower if lane >= 16 else value


@device_function
def warp_max(value):
    """Maximum over the warp, in every lane."""
    value = max(value, cuda.shfl_xor_sync(ALL, value, 16))
    value = max(value, cuda.shfl_xor_sync(ALL, value, 8))
    value = max(value, cuda.shfl_xor_sync(ALL, value, 4))
    value = max(value, cuda.shfl_xor_sync(ALL, value, 2))
    value = max(value, cuda.shfl_xor_sync(ALL, value, 1))
    return value


@device_function
def _add(x, y):
    return x + y


@device_function
def _larger(x, y):
    return max(x, y)


def _over_block(dtype, warp_reduce, combine):
    """A device function that reduces over a block of BLOCK threads; its result is right in every thread."""
    n_warps = BLOCK // WARP

    @device_function
    def reduce(value):
        of_warps = cuda.shared.array(n_warps, dtype)
        thread = uint32(cuda.threadIdx.x)
        value = warp_reduce(value)
        if thread % uint32(WARP) == 0:
            of_warps[thread // uint32(WARP)] = value
        cuda.syncthreads()
        total = of_warps[0]
        for warp in range(1, n_warps):
            total = combine(total, of_warps[warp])
        return total

    return reduce


@functools.cache
def block_sum(dtype):
    """A device function: sum over the threads of a block of BLOCK; once in a kernel."""
    return _over_block(dtype, warp_sum, _add)


@functools.cache
def block_max(dtype):
    """A device function: maximum over the threads of a block of BLOCK; once in a kernel."""
    return _over_block(dtype, warp_max, _larger)


# ---------------------------------------------------------------- four columns of a matrix a thread


def quad_block(n_columns: int) -> tuple[int, int]:
    """Threads of a block (across, down) that sums columns: each has four columns and every `down`-th row."""
    across = min(-(-int(n_columns) // 4), WARP)
    return across, QUAD_THREADS // across


@functools.cache
def quad_sums(dtype):
    """A device function: sums of four values over the threads of a column, by their rows; right in every thread."""
    n_values = 4 * QUAD_THREADS

    @device_function
    def reduce(v0, v1, v2, v3):
        parts = cuda.shared.array(n_values, dtype, alignment=16)
        own, across = uint32(cuda.threadIdx.x), uint32(cuda.blockDim.x)
        store4(parts, uint32(uint32(cuda.threadIdx.y) * across + own) * uint32(4), v0, v1, v2, v3)
        cuda.syncthreads()
        v0, v1, v2, v3 = load4(parts, own * uint32(4))
        for row in range(1, cuda.blockDim.y):
            w0, w1, w2, w3 = load4(parts, uint32(uint32(row) * across + own) * uint32(4))
            v0, v1, v2, v3 = v0 + w0, v1 + w1, v2 + w2, v3 + w3
        cuda.syncthreads()  # the next call writes there
        return v0, v1, v2, v3

    return reduce
