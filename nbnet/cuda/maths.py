"""`nbnet.scalar` and `nbnet.random.philox` as functions of kernels: the same source, compiled for the GPU.

`nbnet.scalar` promises that a Python float beside a value takes the value's precision. On the GPU a value is a plain
number, and beside a Python float a float32 would become a float64. So each function is made anew from its code with
every constant rounded to the precision wanted.
"""

from __future__ import annotations

import functools
from types import FunctionType, SimpleNamespace

import numpy as np

from .. import random, scalar
from .intrinsics import fma, nearest_integer, power_of_two, square_root
from .jit import device_function


@device_function
def maximum(x, y):
    """The larger of two; `x` where `x` is not a number."""
    return y if x < y else x


@device_function
def minimum(x, y):
    """The smaller of two; `x` where `x` is not a number."""
    return y if x > y else x


@device_function
def where_positive(condition, x, y):
    """`x` where ``condition > 0``, else `y`."""
    return x if condition > 0 else y


PRIMITIVES = {
    "fma": fma,
    "maximum": maximum,
    "minimum": minimum,
    "where_positive": where_positive,
    "square_root": square_root,
    "nearest_integer": nearest_integer,
    "power_of_two": power_of_two,
}


def _in_precision(value, kind):
    return kind(value) if type(value) is float else value


@functools.cache
def maths(dtype: str) -> SimpleNamespace:
    """The functions of `nbnet.scalar` for numbers of `dtype`, "float32" or "float64"."""
    kind = np.dtype(dtype).type
    double = dtype == "float64"
    names = {name: _in_precision(value, kind) for name, value in vars(scalar).items()}
    names.update(PRIMITIVES)
    names["is_double"] = device_function(lambda x: double)
    for name, function in vars(scalar).items():
        if isinstance(function, FunctionType) and function.__module__ == scalar.__name__ and names[name] is function:
            constants = tuple(_in_precision(constant, kind) for constant in function.__code__.co_consts)
            names[name] = device_function(
                FunctionType(function.__code__.replace(co_consts=constants), names, name, function.__defaults__)
            )
    return SimpleNamespace(**{name: value for name, value in names.items() if not name.startswith("__")})


philox = device_function(getattr(random.philox, "py_func", random.philox))
