"""Large products through cuBLAS, where that is installed: through ctypes, so that nothing is needed to run without it.

PyTorch and CuPy bring the library; nbnet never installs it. Like a kernel, a product is a launch of a `Queue`, and is
captured in its graph.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from typing import NamedTuple

import numpy as np

from .jit import SIMULATED, cuda
from .launch import empty

GEMM = "auto"  # by the size of a product; "numba" and "cublas" for all of them, in benchmarks and tests
WORTHWHILE_TERMS = {"highest": 2**28, "high": 2**24}  # rows x columns x terms from which on a product goes to cuBLAS
WORKSPACE_BYTES = 2**25  # what NVIDIA advises for Hopper; without one, a capture would fail
DEFAULT_MATH, TF32_MATH = 0, 3
NO_TRANSPOSE, TRANSPOSE = 0, 1
NO_MEMORY = 3  # a status


class Product(NamedTuple):
    """One product, as cuBLAS wants it."""

    function: object
    math: int
    scalars: tuple  # pointers to one and to zero or one
    numbers: tuple[int, ...]  # transposes and sizes
    addresses: tuple[tuple[int, int], ...]  # of both operands and of the result, each with its leading dimension
    keeps: tuple  # the arrays that these lie in, and the scalars


class Cublas:
    """A handle of the library, for this thread and its GPU.

    Raises
    ------
    RuntimeError
        Where the library refuses.
    """

    def __init__(self, library):
        self._library, self._handle, self._stream = library, ctypes.c_void_p(), None
        self._check(library.cublasCreate_v2(ctypes.byref(self._handle)))
        self._workspace = empty(WORKSPACE_BYTES, np.uint8)

    def __getitem__(self, configuration):
        """As of a kernel: the function that launches on a stream."""
        _, _, stream = configuration
        handle = 0 if isinstance(stream, int) else int(getattr(stream, "stream", stream).handle)
        return functools.partial(self._launch, handle)

    def _launch(self, stream: int, product: Product) -> None:
        library, handle = self._library, self._handle
        if stream != self._stream:
            self._check(library.cublasSetStream_v2(handle, ctypes.c_void_p(stream)))
            workspace = ctypes.c_void_p(address(self._workspace))  # setting the stream has taken it away
            self._check(library.cublasSetWorkspace_v2(handle, workspace, ctypes.c_size_t(WORKSPACE_BYTES)))
            self._stream = stream
        self._check(library.cublasSetMathMode(handle, product.math))
        (first, first_stride), (second, second_stride), (result, stride) = product.addresses
        one, beta = product.scalars
        operands = ctypes.c_void_p(first), first_stride, ctypes.c_void_p(second), second_stride
        self._check(product.function(handle, *product.numbers, one, *operands, beta, ctypes.c_void_p(result), stride))

    def product(self, a, b, c, sizes, a_along_k: bool, b_along_k: bool, accumulate: bool, precision: str) -> Product:
        """``c = a @ b``, or added to c, of `sizes` (rows, columns, terms).

        Parameters
        ----------
        a, b, c : Matrix
            `a_along_k` and `b_along_k` say whose terms lie next to each other; see `nbnet.cuda.product`.
        precision : {"highest", "high"}
            "high" allows TF32 in float32.
        """
        dtype = c.data.dtype
        single = dtype == np.float32
        number = ctypes.c_float if single else ctypes.c_double
        one, beta = number(1), number(1 if accumulate else 0)
        n_rows, n_columns, n_terms = (int(n) for n in sizes)
        # the library counts columns first, so what lies row by row is transposed to it: c' = b' a'
        transposes = TRANSPOSE if b_along_k else NO_TRANSPOSE, NO_TRANSPOSE if a_along_k else TRANSPOSE
        places = tuple((address(m.data) + int(m.start) * dtype.itemsize, int(m.stride)) for m in (b, a, c))
        return Product(
            function=self._library.cublasSgemm_v2 if single else self._library.cublasDgemm_v2,
            math=TF32_MATH if single and precision == "high" else DEFAULT_MATH,
            scalars=(ctypes.byref(one), ctypes.byref(beta)),
            numbers=(*transposes, n_columns, n_rows, n_terms),
            addresses=places,
            keeps=(a.data, b.data, c.data, one, beta),
        )

    @staticmethod
    def _check(status: int) -> None:
        if status == NO_MEMORY:
            raise MemoryError("The GPU has no room for what cuBLAS needs.")
        if status:
            raise RuntimeError(f"cuBLAS failed with status {status}")


def address(array) -> int:
    """Where an array lies on the GPU."""
    return int(array.__cuda_array_interface__["data"][0])


def is_worthwhile(sizes, dtype, precision: str) -> bool:
    """Whether a product of `sizes` (rows, columns, terms) is faster in cuBLAS, even with a pass over its result."""
    if GEMM != "auto":
        return GEMM == "cublas"
    precision = precision if dtype == np.float32 else "highest"
    return int(sizes[0]) * int(sizes[1]) * int(sizes[2]) >= WORTHWHILE_TERMS[precision]


@functools.cache
def library():
    """The library, or None where it is not installed."""
    if SIMULATED:
        return None
    try:
        from cuda import pathfinder

        return ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublas").abs_path)
    except Exception:  # of pathfinder, which has many; of a file that cannot be loaded
        return None


_of_thread = threading.local()


def handle() -> Cublas | None:
    """This thread's handle for its GPU; None where there is no library, or where it does not work."""
    if library() is None:
        return None
    handles = vars(_of_thread).setdefault("handles", {})
    number = cuda.get_current_device().id
    if number not in handles:
        try:
            handles[number] = Cublas(library())
        except RuntimeError:  # a driver too old for it, for instance: own kernels do as well
            handles[number] = None
    return handles[number]


def describe() -> str:
    """Who makes the products of a training step on a GPU."""
    found = library()
    if found is None:
        return "own kernels; cuBLAS is not installed"
    numbers = [ctypes.c_int() for _ in range(2)]
    for kind, number in enumerate(numbers):
        found.cublasGetProperty(kind, ctypes.byref(number))
    major, minor = (number.value for number in numbers)
    return f"cuBLAS {major}.{minor} for large ones in training, else own kernels"
