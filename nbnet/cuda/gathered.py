"""Operands of products whose elements do not lie in lines: tables say where."""

from __future__ import annotations

import functools
from typing import NamedTuple

from numba import uint32

from .intrinsics import load4
from .jit import device_function


class Gathered(NamedTuple):
    """An operand of a product: its element of side i (row of the first operand, column of the second) and term t is
    ``data[start + sides[i] + terms[first + t]]``."""

    data: object
    start: int
    stride: int  # where the layout says so, side i stands for `i * stride` instead of `sides[i]`
    sides: object  # uint32
    terms: object  # uint32
    first: int


class Layout(NamedTuple):
    """What a kernel is made for."""

    along_k: bool  # four terms of one side are loaded together; else four sides of one term
    together: int  # how many of the four lie next to each other, from a multiple of 16 bytes on: 4, or 1
    in_line: bool = False  # sides are `stride` apart


@functools.cache
def gathered_load(dtype, layout, n_loads, loads_a_row, threads):
    """A device function: loads a thread's part of a piece of a `Gathered`; see `product._operand`."""
    along_k, together, in_line = layout

    @device_function
    def element(m, side, term):
        return m.data[m.start + (side * m.stride if in_line else m.sides[side]) + m.terms[m.first + term]]

    @device_function
    def load(m, first, k_first, n_side, n_k, held, thread):
        for n in range(n_loads):
            number = thread + uint32(n * threads)
            row, column = uint32(number // uint32(loads_a_row)), uint32(number % uint32(loads_a_row)) * uint32(4)
            if along_k:
                side, term = uint32(row + first), uint32(column + k_first)
            else:
                side, term = uint32(column + first), uint32(row + k_first)
            if together == 4:
                if side < n_side and term < n_k:
                    at = (side * m.stride if in_line else m.sides[side]) + m.terms[m.first + term]
                    held[n * 4], held[n * 4 + 1], held[n * 4 + 2], held[n * 4 + 3] = load4(m.data, uint32(m.start + at))
                else:
                    held[n * 4] = held[n * 4 + 1] = held[n * 4 + 2] = held[n * 4 + 3] = dtype(0)
            else:
                for e in range(4):
                    inside = side < n_side and term < n_k
                    held[n * 4 + e] = element(m, side, term) if inside else dtype(0)
                    if along_k:
                        term = uint32(term + uint32(1))
                    else:
                        side = uint32(side + uint32(1))

    return load
