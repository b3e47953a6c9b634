"""Arrays that live on the GPU when they arrive: of CuPy, of PyTorch, of whoever has `__cuda_array_interface__`."""

from __future__ import annotations

import functools
import math

import numpy as np
from numba import uint32, uint64

from .jit import SIMULATED, cuda, cuda_kernel
from .launch import Queue, check_size, empty, upload
from .optimizers import largest_magnitude, n_largest
from .product import n_blocks
from .walk import Rows

BLOCK = 256  # threads


class DeviceArray:
    """A table or images on the GPU, validated and not copied: C order, finite.

    It stands where validation gives an ndarray, and has what estimators ask of one.

    Parameters
    ----------
    values : device array (n,)
        All elements.
    shape : tuple of int
        The first number counts rows.
    largest : float
        Largest absolute value, or a number that none exceeds.
    """

    def __init__(self, values, shape: tuple[int, ...], largest: float):
        self.values, self.shape, self.largest = values, shape, largest
        self.dtype, self.ndim = values.dtype, len(shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> DeviceArray:
        """A copy of the rows of these numbers, on the GPU."""
        shape = len(rows), *self.shape[1:]
        check_size(math.prod(shape), "some rows of X together")
        taken, queue = empty(math.prod(shape), self.dtype), Queue()
        take_rows(queue, self.values, upload(np.asarray(rows, np.uint32)), taken)
        queue.run()
        return DeviceArray(taken, shape, self.largest)

    def astype(self, dtype, copy: bool = False) -> DeviceArray:
        """Itself: kernels convert what they read."""
        return self

    def as_rows(self) -> Rows:
        """A table as kernels read it."""
        none = empty(0, np.int32)
        return Rows(self.values, none, none, *(np.uint32(n) for n in self.shape))

    def copy_to_host(self) -> np.ndarray:
        """A copy as an ndarray."""
        return self.values.copy_to_host().reshape(self.shape)


@functools.cache
def _take_kernel():
    @cuda_kernel(BLOCK)
    def take_rows(values, rows, out, width):
        at = uint32(uint32(cuda.blockIdx.x) * uint32(BLOCK) + uint32(cuda.threadIdx.x))
        if at < out.size:
            row = uint64(rows[uint32(at // width)])
            out[at] = values[row * uint64(width) + uint64(at % width)]

    return take_rows


def take_rows(queue, values, rows, out):
    """``out[i] = values[rows[i]]``, where rows of all elements together are vectors."""
    width = out.size // max(1, rows.size)
    queue.add(_take_kernel(), n_blocks(max(1, out.size), BLOCK), BLOCK, values, rows, out, np.uint32(width))


def device_array(X, number: int, name: str, n_dims: int | None, dtypes: tuple) -> DeviceArray:
    """What an array with `__cuda_array_interface__` holds, on GPU `number`.

    Parameters
    ----------
    X : array or DeviceArray
    number : int
    name : str
        Of the argument, for messages.
    n_dims : int or None
        Dimensions that it must have; None: the caller looks at them.
    dtypes : tuple of type
        Types that it may have.

    Raises
    ------
    ValueError
        For an array of another GPU, type, number of dimensions or order, without rows, or with values that are not
        finite.
    """
    if isinstance(X, DeviceArray):
        return X
    interface = X.__cuda_array_interface__
    shape, dtype = tuple(int(n) for n in interface["shape"]), np.dtype(interface["typestr"])
    if not shape or n_dims not in (None, len(shape)):
        expected = "rows" if n_dims is None else f"{n_dims}D array"
        raise ValueError(
            f"Expected {expected}, got {len(shape)}D array instead: {name} on the GPU has the shape {shape}."
        )
    if dtype not in dtypes:
        *others, last = sorted(np.dtype(kind).name for kind in dtypes)
        allowed = f"{', '.join(others)} or {last}"
        raise ValueError(f"{name} on the GPU has the dtype {dtype}; {allowed} is needed there.")
    for n, what in zip((shape[0], math.prod(shape[1:])), ("sample", "feature"), strict=True):
        if n == 0:
            raise ValueError(f"Found array with 0 {what}(s) (shape={shape}) while a minimum of 1 is required.")
        check_size(n, f"a row or column of {name}")
    strides = interface.get("strides")
    if strides is not None and not _is_in_c_order(shape, strides, dtype.itemsize):
        raise ValueError(f"{name} on the GPU has the strides {tuple(strides)}; C order is needed there.")
    on = gpu_of(interface["data"][0])
    if on not in (None, number):
        raise ValueError(f"{name} is on GPU number {on}, the estimator computes on number {number}.")
    values = cuda.as_cuda_array(X).reshape(-1)  # waits for the stream that computes it, where the array tells
    largest = _largest(values)
    if not np.isfinite(largest):
        raise ValueError(f"Input {name} contains NaN or infinity.")
    return DeviceArray(values, shape, largest)


def _is_in_c_order(shape: tuple[int, ...], strides, itemsize: int) -> bool:
    """Whether elements follow each other; the stride of an axis of length one means nothing."""
    steps = (itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return all(n == 1 or stride == step for n, stride, step in zip(shape, strides, steps, strict=True))


def gpu_of(pointer: int) -> int | None:
    """Number of the GPU that memory is on; None where the driver does not say."""
    if SIMULATED:
        return None
    from cuda.bindings import driver

    ordinal = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    status, number = driver.cuPointerGetAttribute(ordinal, pointer)
    return int(number) if int(status) == 0 else None


def _largest(values) -> float:
    """Largest absolute value, infinite where one is not finite; of integers, the largest that there is."""
    if values.dtype.kind != "f":
        return float(np.iinfo(values.dtype).max)
    found, queue = empty(n_largest(values.size), values.dtype), Queue()
    largest_magnitude(queue, values, found)
    queue.run()
    return float(found.copy_to_host().max())


def to_host(array) -> np.ndarray:
    """A copy of an array of the GPU, of any type and shape."""
    return cuda.as_cuda_array(array).copy_to_host()


def to_device(array: np.ndarray):
    """A copy of an ndarray on this thread's GPU, of the same shape, with `__cuda_array_interface__`."""
    return upload(array).reshape(*array.shape)
