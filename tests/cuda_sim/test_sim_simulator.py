"""The simulator notices what it is made to notice: each of these kernels has a fault."""

import numpy as np
import pytest
from numba import float32

from nbnet.cuda.intrinsics import load4
from nbnet.cuda.jit import cuda, cuda_kernel
from nbnet.cuda.launch import Queue, empty, upload, zeros
from tests.cuda_sim import simulator
from tests.cuda_sim.simulator import DivergenceError


def run(kernel, *args, threads=64, grid=1):
    queue = Queue()
    queue.add(kernel, grid, threads, *args)
    queue.run()


@cuda_kernel(64)
def reverse(x, has_barrier):
    """x[i] = 63 - i through shared memory."""
    shared = cuda.shared.array(64, float32)
    i = cuda.threadIdx.x
    shared[i] = float32(i)
    if has_barrier:
        cuda.syncthreads()
    x[i] = shared[63 - i]


def test_a_missing_barrier_shows_in_every_order(order):
    x = empty(64, np.float32)
    run(reverse, x, np.uint32(1))
    np.testing.assert_array_equal(x.copy_to_host(), np.arange(64)[::-1])
    run(reverse, x, np.uint32(0))
    assert np.isnan(x.copy_to_host()).any()


def test_a_barrier_that_some_threads_never_reach():
    @cuda_kernel(64)
    def kernel(x):
        if cuda.threadIdx.x < 40:
            cuda.syncthreads()

    with pytest.raises(
        DivergenceError, match=r"of 64 threads 40 are at a barrier, 0 in an exchange .*, 24 have returned"
    ):
        run(kernel, zeros(1, np.float32))


def test_an_exchange_that_some_lanes_never_reach():
    @cuda_kernel(64)
    def kernel(x):
        if cuda.threadIdx.x != 5:
            cuda.shfl_xor_sync(0xFFFFFFFF, 1, 16)

    with pytest.raises(DivergenceError, match="31 in an exchange"):
        run(kernel, zeros(1, np.float32))


@pytest.mark.parametrize("index", [-1, 4, 1.0, np.float32(2)])
def test_indices_are_checked(index):
    @cuda_kernel(1)
    def kernel(x):
        x[index] = 0

    with pytest.raises(IndexError, match="index"):
        run(kernel, zeros(4, np.float32), threads=1)


def test_a_misaligned_load():
    @cuda_kernel(1)
    def kernel(x, i):
        load4(x, i)

    x = zeros(64, np.float32)
    run(kernel, x, np.uint32(8), threads=1)
    for vector, i in ((x, 2), (x[3:], 0)):
        with pytest.raises(AssertionError, match="16-byte load"):
            run(kernel, vector, np.uint32(i), threads=1)


def test_memory_that_nobody_wrote():
    assert np.isnan(empty(3, np.float64).copy_to_host()).all()
    assert (empty(3, np.uint32).copy_to_host() == 0xAAAAAAAA).all()


@pytest.mark.parametrize("argument", [np.zeros(3), 1, 0.5])
def test_arguments_that_a_gpu_would_get_otherwise(argument):
    with pytest.raises(TypeError, match="a kernel cannot take"):
        run(reverse, zeros(64, np.float32), argument)


def test_more_threads_than_the_kernel_declares():
    with pytest.raises(ValueError, match="more threads than 64"):
        run(reverse, zeros(64, np.float32), np.uint32(1), threads=128)


def test_integers_that_wrap():
    @cuda_kernel(1)
    def kernel(x):
        x[0] -= np.uint32(1)

    with pytest.raises(RuntimeWarning, match="overflow"):
        run(kernel, zeros(1, np.uint32), threads=1)


def test_out_of_memory_is_one_sentence():
    with (
        simulator.memory_limit(2**20),
        pytest.raises(MemoryError, match=r"no room for another 4 MiB: .* MiB are free. Fit on fewer rows"),
    ):
        upload(np.zeros(2**20, np.float32))
