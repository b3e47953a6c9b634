"""Dropout: outputs set to zero at random, the others scaled up, so that the mean stays."""

from __future__ import annotations

import numpy as np

from ..jit import cpu_kernel
from ..random import Stream, philox


@cpu_kernel
def dropout_forward(y, layer, slopes, seed, step, number, i_start, i_stop):
    """Multiplies y and its slopes by mask / (1 - p), for rows [i_start, i_stop).

    Column j of row i is kept where word ``j % 4`` of Philox's counter (j // 4, i, step, stream + 256 number) is at
    least ``p 2**32``.

    Parameters
    ----------
    y : Matrix (rows, n_out)
    layer : LAYER
        `dropout` is p.
    slopes : (same as y.data)
    seed, step, number : uint64
        The fit's seed, the number of the optimizer's step, the layer's number.

    Notes
    -----
    Source: Srivastava et al., Dropout, JMLR 2014, in its inverted form.
    """
    threshold = np.uint64(layer["dropout"] * 4294967296.0)
    factor = 1.0 / (1.0 - layer["dropout"])
    stream = np.uint64(Stream.DROPOUT) + number * np.uint64(256)
    for i in range(i_start, i_stop):
        position = y.start + i * y.stride
        for block in range(0, layer["n_out"], 4):
            words = philox(np.uint64(block // 4), np.uint64(i), step, stream, seed)
            for j in range(block, min(block + 4, layer["n_out"])):
                scale = factor if words[j - block] >= threshold else 0.0
                y.data[position + j] *= scale
                slopes[position + j] *= scale
