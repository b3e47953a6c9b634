"""Arrays that live on the GPU when they arrive: of CuPy, of PyTorch, of whoever has `__cuda_array_interface__`."""

from __future__ import annotations

import numpy as np

from .dense import gather, matrix
from .jit import SIMULATED, cuda
from .launch import Queue, check_size, empty, upload, zeros
from .optimizers import largest_magnitude, n_largest
from .walk import Batch, Rows


class DeviceTable:
    """A table on the GPU, validated and not copied: C order, float32 or float64, finite.

    It stands where validation gives an ndarray, and has what estimators ask of one.

    Parameters
    ----------
    values : device array (n_rows * n_columns,)
    shape : tuple of int
    largest : float
        Largest absolute value, where it is known.
    """

    ndim = 2

    def __init__(self, values, shape: tuple[int, int], largest: float):
        self.values, self.shape, self.largest = values, shape, largest
        self.dtype = values.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> DeviceTable:
        """A copy of the rows of these numbers, on the GPU."""
        n_rows, n_columns = len(rows), self.shape[1]
        check_size(n_rows * n_columns, "some rows of X together")
        taken, queue = empty(n_rows * n_columns, self.dtype), Queue()
        batch = Batch(upload(np.asarray(rows, np.uint32)), zeros(3, np.uint32))
        gather(queue, self.as_rows(), batch, matrix(taken, 0, n_columns), n_rows)
        queue.run()
        return DeviceTable(taken, (n_rows, n_columns), self.largest)

    def astype(self, dtype, copy: bool = False) -> DeviceTable:
        """Itself: kernels convert what they read."""
        return self

    def as_rows(self) -> Rows:
        """As kernels read it."""
        none = empty(0, np.int32)
        return Rows(self.values, none, none, *(np.uint32(n) for n in self.shape))

    def copy_to_host(self) -> np.ndarray:
        """A copy as an ndarray."""
        return self.values.copy_to_host().reshape(self.shape)


def device_table(X, number: int, name: str = "X") -> DeviceTable:
    """The table that an array with `__cuda_array_interface__` is, on GPU `number`.

    Raises
    ------
    ValueError
        For an array of another GPU, type, number of dimensions or order, without rows, or with values that are not
        finite.
    """
    if isinstance(X, DeviceTable):
        return X
    interface = X.__cuda_array_interface__
    shape, dtype = tuple(int(n) for n in interface["shape"]), np.dtype(interface["typestr"])
    if len(shape) != 2:
        raise ValueError(
            f"Expected 2D array, got {len(shape)}D array instead: {name} on the GPU has the shape {shape}."
        )
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"{name} on the GPU has the dtype {dtype}; float32 or float64 is needed there.")
    for n, what in zip(shape, ("sample", "feature"), strict=True):
        if n == 0:
            raise ValueError(f"Found array with 0 {what}(s) (shape={shape}) while a minimum of 1 is required.")
        check_size(n, f"a row or column of {name}")
    strides = interface.get("strides")
    if strides is not None and tuple(strides) != (shape[1] * dtype.itemsize, dtype.itemsize):
        raise ValueError(f"{name} on the GPU has the strides {tuple(strides)}; C order is needed there.")
    on = gpu_of(interface["data"][0])
    if on not in (None, number):
        raise ValueError(f"{name} is on GPU number {on}, the estimator computes on number {number}.")
    values = cuda.as_cuda_array(X).reshape(-1)  # waits for the stream that computes it, where the array tells
    largest = _largest(values)
    if not np.isfinite(largest):
        raise ValueError(f"Input {name} contains NaN or infinity.")
    return DeviceTable(values, shape, largest)


def gpu_of(pointer: int) -> int | None:
    """Number of the GPU that memory is on; None where the driver does not say."""
    if SIMULATED:
        return None
    from cuda.bindings import driver

    ordinal = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    status, number = driver.cuPointerGetAttribute(ordinal, pointer)
    return int(number) if int(status) == 0 else None


def _largest(values) -> float:
    """Largest absolute value, infinite where one is not finite."""
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
