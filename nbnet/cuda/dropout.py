"""Dropout: outputs set to zero at random, the others scaled up, so that the mean stays."""

from __future__ import annotations

import functools

import numba
import numpy as np
from numba import uint32, uint64

from ..random import Stream
from .jit import cuda, cuda_kernel
from .maths import philox
from .product import n_blocks

THREADS = 128


@functools.cache
def _dropout_kernel(dtype):
    zero = dtype(0)

    @cuda_kernel(THREADS)
    def dropout_forward(y, slopes, mask, seed, batch, sizes):
        block = uint32(cuda.blockIdx.y) * uint32(THREADS) + uint32(cuda.threadIdx.x)
        i, column = uint32(cuda.blockIdx.x), block * uint32(4)
        threshold, factor, stream = mask
        if column < sizes[1]:
            step = uint64(batch.position[2])
            w0, w1, w2, w3 = philox(uint64(block), uint64(i), step, stream, seed)
            for j in range(min(uint32(4), uint32(sizes[1] - column))):
                word = w0 if j == 0 else w1 if j == 1 else w2 if j == 2 else w3
                scale = factor if word >= threshold else zero
                at = y.start + i * y.stride + column + uint32(j)
                y.data[at] *= scale
                slopes[at] *= scale

    return dropout_forward


def dropout_forward(queue, y, layer, slopes, seed, batch, number, n_rows):
    """Multiplies y and its slopes by mask / (1 - p), for the rows of a batch.

    Column j of row i is kept where word ``j % 4`` of Philox's counter (j // 4, i, step, stream + 256 number) is at
    least ``p 2**32``.

    Parameters
    ----------
    y : Matrix (rows, n_out)
    layer : LAYER
        `dropout` is p.
    slopes : (same as y.data)
    seed : int
        The fit's.
    batch : Batch
        Its position holds the number of the optimizer's step.
    number : int
        The layer's.
    """
    p, dtype = float(layer["dropout"]), y.data.dtype
    stream = np.uint64(Stream.DROPOUT + 256 * number)
    mask = np.uint64(p * 4294967296.0), dtype.type(1.0 / (1.0 - p)), stream
    grid = n_rows, n_blocks(n_blocks(layer["n_out"], 4), THREADS)  # rows come first: the second number has 16 bits
    sizes = np.uint32(n_rows), np.uint32(layer["n_out"])
    queue.add(
        _dropout_kernel(getattr(numba, dtype.name)), grid, THREADS, y, slopes, mask, np.uint64(seed), batch, sizes
    )
