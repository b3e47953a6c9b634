"""Products of matrices: a factory of kernels for any tile, any of the three transposes and any end.

A block computes a tile of the product and brings pieces of both operands through shared memory; a thread holds its
sums in registers. Every sum is one chain of additions in order, whatever the tile.

Where a queue has `Products`, as in training, two other ways are open. A product of few tiles and long sums, which would
leave most of the GPU idle, is cut along its terms into parts, whose sums are added in order (split-K). A large one goes
to cuBLAS where that is installed. In both a second kernel, `finish`, does what the end of a product's kernel does.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numba
import numpy as np
from numba import uint32

from ..cpu.dense import Matrix
from . import blas
from .gathered import gathered_load
from .intrinsics import load4, store4
from .jit import cuda, cuda_kernel, device_function
from .launch import check_size, compute_capability, empty, n_processors


class Tile(NamedTuple):
    """What a block computes of a product: `rows` x `columns`, `depth` terms at a time; a thread has `own` x `own`."""

    rows: int
    columns: int
    depth: int
    own: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.rows * self.columns // self.own**2


# in float32; the largest that gives each multiprocessor a block is taken
TILES = (Tile(128, 128, 8, 8), Tile(64, 64, 16, 4), Tile(32, 32, 32, 4))
PART_TERMS = 512  # that a part of a sum has at least
MOST_PARTS = 32
FINISHED = 256  # quadruples of a block of `finish`


@device_function
def _nothing(out, sizes, row, column):
    pass


class End(NamedTuple):
    """What happens to the sums of a product, four columns of one row at a time.

    ``store(out, sizes, row, column, v0, v1, v2, v3)`` puts them into memory while the others are in registers, so it is
    short: the compiler copies it for each four that a thread has. ``revisit(out, sizes, row, column)`` comes after all
    of them, to the same four, and may be long. `reads` says that `store` needs what lay there before; `accumulates`
    is 0.0 or 1.0 where it does no more than put the sums there, or add them.
    """

    store: object
    revisit: object = _nothing
    reads: bool = False
    accumulates: float | None = None

    @property
    def revisits(self) -> bool:
        """Whether there is a second pass."""
        return self.revisit is not _nothing


def choose_tile(n_rows: int, n_columns: int, dtype) -> Tile:
    """The tile for a product of this size; in float64 only those whose sums fit in registers."""
    tiles = [tile for tile in TILES if dtype == np.float32 or tile.own == 4]
    for tile in tiles:
        if n_blocks(n_columns, tile.columns) * n_blocks(n_rows, tile.rows) >= n_processors():
            return tile
    return tiles[-1]


def n_blocks(n: int, size: int) -> int:
    """Blocks of `size` that `n` need."""
    return -(-int(n) // size)


@functools.cache
def _operand(dtype, side, depth, threads, layout):
    """How a block brings `side` x `depth` of a matrix into shared memory, as `depth` rows of `side` elements.

    `layout` is True where the matrix has the terms of the sums next to each other in memory, False where it has the
    elements of the side, and a `Layout` where tables say what lies where. Returns two functions: one loads a thread's
    part of the next piece into registers, while the last piece is multiplied; one stores it.
    """
    along_k = layout if isinstance(layout, bool) else layout.along_k
    n_loads = side * depth // 4 // threads
    loads_a_row = (depth if along_k else side) // 4
    pitch = side + 4  # so that storing columns of four does not fall into one bank

    @device_function
    def load(m, first, k_first, n_side, n_k, held, thread):
        for n in range(n_loads):
            number = thread + uint32(n * threads)
            row, column = uint32(number // uint32(loads_a_row)), uint32(number % uint32(loads_a_row)) * uint32(4)
            if along_k:
                row, column = uint32(row + first), uint32(column + k_first)
                inside = row < n_side and column < m.stride  # what lies between n_k and the stride is zero
            else:
                row, column = uint32(row + k_first), uint32(column + first)
                inside = row < n_k and column < m.stride
            if inside:
                held[n * 4], held[n * 4 + 1], held[n * 4 + 2], held[n * 4 + 3] = load4(
                    m.data, m.start + row * m.stride + column
                )
            else:
                held[n * 4] = held[n * 4 + 1] = held[n * 4 + 2] = held[n * 4 + 3] = dtype(0)

    @device_function
    def store(shared, start, held, thread):
        for n in range(n_loads):
            number = thread + uint32(n * threads)
            row, column = uint32(number // uint32(loads_a_row)), uint32(number % uint32(loads_a_row)) * uint32(4)
            if along_k:
                at = uint32(start + column * uint32(pitch) + row)
                shared[at] = held[n * 4]
                shared[at + uint32(pitch)] = held[n * 4 + 1]
                shared[at + uint32(2 * pitch)] = held[n * 4 + 2]
                shared[at + uint32(3 * pitch)] = held[n * 4 + 3]
            else:
                at = uint32(start + row * uint32(pitch) + column)
                store4(shared, at, held[n * 4], held[n * 4 + 1], held[n * 4 + 2], held[n * 4 + 3])

    return load if isinstance(layout, bool) else gathered_load(dtype, layout, n_loads, loads_a_row, threads), store


@functools.cache
def multiply_tile(dtype, tile, a_along_k, b_along_k):
    """A device function: the block's tile of a product, in registers."""
    multiply_range = _multiply_range(dtype, tile, a_along_k, b_along_k)

    @device_function
    def multiply(total, a, b, sizes, row, column):
        multiply_range(total, a, b, sizes, row, column, uint32(0), uint32(sizes[2]))

    return multiply


@functools.cache
def _multiply_range(dtype, tile, a_along_k, b_along_k):
    """A device function: what the terms from `first`, a multiple of the depth, to `stop` add to the block's tile.

    A thread owns patches of 4 x 4, `rows` / (own / 4) rows and `columns` / (own / 4) columns apart, so that the threads
    of a warp read neighbouring quadruples. Two pieces of each operand take turns in shared memory.
    """
    threads, depth, own = tile.threads, tile.depth, tile.own
    load_a, store_a = _operand(dtype, tile.rows, depth, threads, a_along_k)
    load_b, store_b = _operand(dtype, tile.columns, depth, threads, b_along_k)
    pitch_a, pitch_b = tile.rows + 4, tile.columns + 4
    size_a, size_b = depth * pitch_a, depth * pitch_b
    both_a, both_b = 2 * size_a, 2 * size_b
    held_a, held_b = tile.rows * depth // threads, tile.columns * depth // threads
    patches = own // 4
    rows_apart, columns_apart = tile.rows // patches, tile.columns // patches
    across = tile.columns // own

    @device_function
    def add_products(total, a_own, b_own, a_shared, b_shared, at_a, at_b):
        for h in range(patches):
            a_own[h * 4], a_own[h * 4 + 1], a_own[h * 4 + 2], a_own[h * 4 + 3] = load4(
                a_shared, at_a + uint32(h * rows_apart)
            )
        for h in range(patches):
            b_own[h * 4], b_own[h * 4 + 1], b_own[h * 4 + 2], b_own[h * 4 + 3] = load4(
                b_shared, at_b + uint32(h * columns_apart)
            )
        for i in range(own):
            for j in range(own):
                total[i * own + j] += a_own[i] * b_own[j]

    @device_function
    def multiply_range(total, a, b, sizes, row, column, first, stop):
        a_shared = cuda.shared.array(both_a, dtype, alignment=16)
        b_shared = cuda.shared.array(both_b, dtype, alignment=16)
        a_own, b_own = cuda.local.array(own, dtype), cuda.local.array(own, dtype)
        a_next, b_next = cuda.local.array(held_a, dtype), cuda.local.array(held_b, dtype)
        for e in range(own * own):
            total[e] = dtype(0)
        thread = uint32(cuda.threadIdx.x)
        own_a = uint32(thread // uint32(across)) * uint32(4)
        own_b = uint32(thread % uint32(across)) * uint32(4)
        load_a(a, row, first, sizes[0], sizes[2], a_next, thread)
        load_b(b, column, first, sizes[1], sizes[2], b_next, thread)
        store_a(a_shared, uint32(0), a_next, thread)
        store_b(b_shared, uint32(0), b_next, thread)
        cuda.syncthreads()
        turn, k = uint32(0), uint32(first + uint32(depth))
        while True:
            more = k < stop
            if more:
                load_a(a, row, k, sizes[0], sizes[2], a_next, thread)
                load_b(b, column, k, sizes[1], sizes[2], b_next, thread)
            at_a = turn * uint32(size_a) + own_a
            at_b = turn * uint32(size_b) + own_b
            for _ in range(0, depth, 4):
                add_products(total, a_own, b_own, a_shared, b_shared, at_a, at_b)
                add_products(total, a_own, b_own, a_shared, b_shared, at_a + uint32(pitch_a), at_b + uint32(pitch_b))
                add_products(
                    total, a_own, b_own, a_shared, b_shared, at_a + uint32(2 * pitch_a), at_b + uint32(2 * pitch_b)
                )
                add_products(
                    total, a_own, b_own, a_shared, b_shared, at_a + uint32(3 * pitch_a), at_b + uint32(3 * pitch_b)
                )
                at_a, at_b = at_a + uint32(4 * pitch_a), at_b + uint32(4 * pitch_b)
            if not more:
                break
            turn = turn ^ uint32(1)
            store_a(a_shared, uint32(turn * uint32(size_a)), a_next, thread)
            store_b(b_shared, uint32(turn * uint32(size_b)), b_next, thread)
            cuda.syncthreads()
            k += uint32(depth)

    return multiply_range


@functools.cache
def finish_tile(tile, end):
    """A device function: `end` takes the sums of the block's tile, which begins at `row` and `column` of `n_stored`
    columns, four of a row at a time."""
    own = tile.own
    patches, across = own // 4, tile.columns // own
    rows_apart, columns_apart = tile.rows // patches, tile.columns // patches
    store, revisit, revisits = end.store, end.revisit, end.revisits

    @device_function
    def finish(total, out, sizes, row, column, n_stored):
        thread = uint32(cuda.threadIdx.x)
        first_row = uint32(row + uint32(thread // uint32(across)) * uint32(4))
        first_column = uint32(column + uint32(thread % uint32(across)) * uint32(4))
        for h in range(patches):
            at_column = uint32(first_column + uint32(h * columns_apart))
            for i in range(own):
                at_row = uint32(first_row + uint32((i // 4) * rows_apart + i % 4))
                if at_row < sizes[0] and at_column < n_stored:
                    e = i * own + h * 4
                    store(out, sizes, at_row, at_column, total[e], total[e + 1], total[e + 2], total[e + 3])
        if revisits:
            for h in range(patches):
                at_column = uint32(first_column + uint32(h * columns_apart))
                for i in range(own):
                    at_row = uint32(first_row + uint32((i // 4) * rows_apart + i % 4))
                    if at_row < sizes[0] and at_column < n_stored:
                        revisit(out, sizes, at_row, at_column)

    return finish


@functools.cache
def _product_kernel(dtype, tile, a_along_k, b_along_k, end):
    """A kernel: each block multiplies its tile; `end` takes four sums of a row at a time."""
    multiply, finish = multiply_tile(dtype, tile, a_along_k, b_along_k), finish_tile(tile, end)
    n_own, tile_rows, tile_columns = tile.own**2, tile.rows, tile.columns

    # With 128 registers a thread, two blocks of the largest tile fit; before Hopper, that many do not suffice.
    blocks = 2 if tile.own == 8 and compute_capability() >= (9, 0) else 1

    @cuda_kernel(tile.threads, blocks)
    def product(a, b, out, sizes):
        total = cuda.local.array(n_own, dtype)
        first_row = uint32(cuda.blockIdx.y) * uint32(tile_rows)
        first_column = uint32(cuda.blockIdx.x) * uint32(tile_columns)
        multiply(total, a, b, sizes, first_row, first_column)
        finish(total, out, sizes, first_row, first_column, out.y.stride)

    return product


def add_product(queue, a, b, out, sizes, end, a_along_k, b_along_k):
    """Launch a product of `sizes` (rows, columns, terms), whose sums `end` puts into `out`."""
    kind = out.y.data.dtype
    sizes = tuple(np.uint32(size) for size in sizes)
    tile = choose_tile(sizes[0], sizes[1], kind)
    if queue.products is not None:
        library = blas.handle() if blas.is_worthwhile(sizes, kind, queue.products.precision) else None
        if library is not None:
            return _add_blas_product(queue, library, a, b, out, sizes, end, a_along_k, b_along_k)
        n_parts, terms = choose_parts(tile, sizes)
        if n_parts > 1:
            return _add_product_in_parts(queue, a, b, out, (*sizes, terms), end, (tile, a_along_k, b_along_k), n_parts)
    kernel = _product_kernel(getattr(numba, kind.name), tile, a_along_k, b_along_k, end)
    grid = n_blocks(sizes[1], tile.columns), n_blocks(sizes[0], tile.rows)
    queue.add(kernel, grid, tile.threads, a, b, out, sizes)


# ---------------------------------------------------------------- sums in parts, and cuBLAS


class Products:
    """How a queue may make products where a row need not have the bits that it has alone; and memory that they share.

    Parameters
    ----------
    precision : {"highest", "high"}
        "high" allows TF32 in cuBLAS.
    """

    def __init__(self, precision: str = "highest"):
        self.precision = precision
        self._scratch = {}

    def scratch(self, n_rows: int, stride: int, dtype) -> Matrix:
        """Memory for a matrix, until the next call: launches that follow each other use the same."""
        n = int(n_rows) * int(stride)
        check_size(n, "the parts of a product")
        if dtype not in self._scratch or self._scratch[dtype].size < n:
            self._scratch[dtype] = empty(n, dtype)
        return Matrix(self._scratch[dtype], np.uint32(0), np.uint32(stride))


def choose_parts(tile: Tile, sizes) -> tuple[int, int]:
    """Parts of a product's sums, and the terms of a part: several only where tiles are too few for the GPU."""
    n_rows, n_columns, n_terms = (int(n) for n in sizes)
    n_tiles = n_blocks(n_columns, tile.columns) * n_blocks(n_rows, tile.rows)
    wanted = min(n_processors() // n_tiles, n_terms // PART_TERMS, MOST_PARTS)
    if wanted < 2:
        return 1, n_terms
    terms = n_blocks(n_blocks(n_terms, wanted), tile.depth) * tile.depth
    return n_blocks(n_terms, terms), terms


@device_function
def _store_part(part, sizes, row, column, v0, v1, v2, v3):
    store4(part.data, uint32(part.start + row * part.stride + column), v0, v1, v2, v3)


@functools.cache
def _part_kernel(dtype, tile, a_along_k, b_along_k):
    """A kernel: each block multiplies its tile over the terms of one part; parts lie below each other in `parts`."""
    multiply_range, finish = _multiply_range(dtype, tile, a_along_k, b_along_k), finish_tile(tile, End(_store_part))
    n_own, tile_rows, tile_columns = tile.own**2, tile.rows, tile.columns

    @cuda_kernel(tile.threads)
    def product_part(a, b, parts, sizes):
        n_rows, n_columns, n_terms, terms = sizes
        total = cuda.local.array(n_own, dtype)
        n_across = uint32(uint32(n_columns + uint32(tile_columns - 1)) // uint32(tile_columns))
        part, block = uint32(cuda.blockIdx.x) // n_across, uint32(cuda.blockIdx.x) % n_across
        first_row = uint32(cuda.blockIdx.y) * uint32(tile_rows)
        first_column = uint32(uint32(block) * uint32(tile_columns))
        first = uint32(uint32(part) * terms)
        stop = min(n_terms, uint32(first + terms))
        part_sizes = n_rows, n_columns, n_terms
        multiply_range(total, a, b, part_sizes, first_row, first_column, first, stop)
        start = uint32(parts.start + uint32(uint32(part) * n_rows) * parts.stride)
        into = Matrix(parts.data, start, parts.stride)
        finish(total, into, part_sizes, first_row, first_column, parts.stride)

    return product_part


@functools.cache
def _finish_kernel(dtype, end):
    """A kernel: adds up parts in order and does what `end` says, four columns of a row a thread."""
    store, revisit, zero = end.store, end.revisit, dtype(0)

    @cuda_kernel(FINISHED)
    def finish(parts, out, sizes):
        n_rows, n_columns, n_parts = sizes
        quadruple = uint32(cuda.blockIdx.x) * uint32(FINISHED) + uint32(cuda.threadIdx.x)
        a_row = uint32(parts.stride // uint32(4))
        row, column = uint32(quadruple // a_row), uint32(quadruple % a_row) * uint32(4)
        if row < n_rows:
            at = uint32(parts.start + row * parts.stride + column)
            v0, v1, v2, v3 = load4(parts.data, at)
            for _ in range(1, n_parts):
                at = uint32(at + n_rows * parts.stride)
                w0, w1, w2, w3 = load4(parts.data, at)
                v0, v1, v2, v3 = v0 + w0, v1 + w1, v2 + w2, v3 + w3
            v0 = v0 if column < n_columns else zero  # cuBLAS leaves the pads as they were
            v1 = v1 if column + uint32(1) < n_columns else zero
            v2 = v2 if column + uint32(2) < n_columns else zero
            v3 = v3 if column + uint32(3) < n_columns else zero
            store(out, sizes, row, column, v0, v1, v2, v3)
            revisit(out, sizes, row, column)

    return finish


def _finish(queue, parts, out, sizes, end, n_parts: int) -> None:
    kernel = _finish_kernel(getattr(numba, out.y.data.dtype.name), end)
    n_quadruples = int(sizes[0]) * int(parts.stride) // 4
    queue.add(kernel, n_blocks(n_quadruples, FINISHED), FINISHED, parts, out, (*sizes[:2], np.uint32(n_parts)))


def _add_product_in_parts(queue, a, b, out, sizes, end, of_kernel, n_parts: int) -> None:
    """A product whose sums are made in parts."""
    tile, a_along_k, b_along_k = of_kernel
    kind = out.y.data.dtype
    parts = queue.products.scratch(n_parts * int(sizes[0]), out.y.stride, kind)
    kernel = _part_kernel(getattr(numba, kind.name), tile, a_along_k, b_along_k)
    grid = n_parts * n_blocks(sizes[1], tile.columns), n_blocks(sizes[0], tile.rows)
    queue.add(kernel, grid, tile.threads, a, b, parts, tuple(np.uint32(size) for size in sizes))
    _finish(queue, parts, out, sizes, end, n_parts)


def _add_blas_product(queue, library, a, b, out, sizes, end, a_along_k, b_along_k) -> None:
    """A product by cuBLAS, into its place where that may be overwritten."""
    elsewhere = end.reads and end.accumulates is None
    into = queue.products.scratch(sizes[0], out.y.stride, out.y.data.dtype) if elsewhere else out.y
    accumulate, precision = bool(end.accumulates), queue.products.precision
    queue.add(library, 1, 1, library.product(a, b, into, sizes, a_along_k, b_along_k, accumulate, precision))
    if end.accumulates is None:
        _finish(queue, into, out, sizes, end, 1)
