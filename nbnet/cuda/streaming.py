"""Rows of X for the GPU: all of them, or, where it has no room, piece after piece in the order of an epoch.

A piece is some whole batches. Its rows are gathered on the host, in the order in which they are wanted, while the GPU
computes with the piece before; a stream of its own copies them into one of two halves of a buffer, which take turns.
Kernels read the same rows in the same order as if all of X were there, so results have the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from .jit import SIMULATED, cuda
from .launch import check_size, empty, memory, upload
from .walk import Batch, Plan, Rows

RESIDENT_SHARE = 0.75  # of the free memory that X may take; the rest is for parameters, moments and activations
PIECE_BYTES = 2**28


class HostRows(NamedTuple):
    """X where it is, on the host: an ndarray, or CSR without repeats. `nbnet.cuda.conv_forward.HostImages` is another
    such class."""

    X: object
    n_rows: int  # uint32
    n_columns: int  # uint32

    def kind_on_gpu(self, kind):
        """Type of the values there, where the network computes in `kind`."""
        return kind

    def on_gpu(self, values, indices, indptr) -> Rows:
        """As kernels read the rows of a buffer."""
        return Rows(values, indices, indptr, self.n_rows, self.n_columns)


def is_on_host(rows) -> bool:
    """Whether what `as_rows` or `as_images` gave is to come in pieces."""
    return hasattr(rows, "kind_on_gpu")


def has_room(X) -> bool:
    """Whether the GPU has room for all of X, and for what training needs beside it."""
    n_bytes = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes if hasattr(X, "indptr") else X.nbytes
    return n_bytes <= RESIDENT_SHARE * memory()[0]


class Resident:
    """Rows that are on the GPU."""

    def __init__(self, rows: Rows, n: int):
        self.rows, self._n = rows, n

    def plan(self, plan: Plan) -> Plan:
        """A plan over X as one over `rows`."""
        return plan

    def pieces(self, order) -> Iterator[tuple[int, int]]:
        """One piece: everything."""
        if self._n:
            yield 0, self._n


class InPieces(Resident):
    """Rows of which each piece of an epoch has to be made ready.

    Parameters
    ----------
    rows
        ``rows.pieces(order)`` gives the first and last position of a piece when it is ready, ``rows.stream`` where its
        rows are then; None: all are there.
    """

    def plan(self, plan: Plan) -> Plan:
        """A plan over all rows as one over those of a piece."""
        stream = self.rows.stream
        return plan if stream is None else plan._replace(source=Batch(stream.slots, plan.batch.position))

    def pieces(self, order) -> Iterator[tuple[int, int]]:
        """Each piece, when it is ready."""
        yield from self.rows.pieces(order)


class Streamed:
    """Rows that come to the GPU in pieces.

    Parameters
    ----------
    of : HostRows or HostImages
    kind : type
        float32 or float64: the network's; rows of a table are converted to it on the way.
    n : int
        Rows of an epoch.
    batch_size : int
        Rows of a batch.
    """

    def __init__(self, of: HostRows, kind, n: int, batch_size: int):
        n_columns, kind = int(of.n_columns), of.kind_on_gpu(kind)
        self._X, self._n = of.X, n
        is_sparse = hasattr(of.X, "indptr")
        counts = np.diff(of.X.indptr) if is_sparse else None
        row_bytes = np.dtype(kind).itemsize * n_columns
        if is_sparse:
            row_bytes = int(counts.mean() * (np.dtype(kind).itemsize + 4)) + 8
        batches = min(max(1, PIECE_BYTES // max(1, row_bytes * batch_size)), -(-n // batch_size))
        self._piece = piece = batches * batch_size
        check_size(2 * (piece + 1), "a buffer of rows")
        none = empty(0, np.int32)
        if is_sparse:
            # room for the fullest rows, whatever the order
            largest = int(np.sort(counts)[-piece:].sum(dtype=np.int64))
            index = np.int32 if 2 * largest < 2**31 else np.int64
            self._parts = _Halves(largest, kind), _Halves(largest, np.int32), _Halves(piece + 1, index)
            self.rows = of.on_gpu(*(part.on_device for part in self._parts))
            slots = piece + 1  # of a half: its last pointer is where its last row ends
        else:
            self._parts = (_Halves(piece * n_columns, kind),)
            self.rows = of.on_gpu(self._parts[0].on_device, none, none)
            slots = piece
        position = np.arange(n, dtype=np.uint32)
        self._slots = upload(position // piece % 2 * np.uint32(slots) + position % piece)
        self._copies, self._all_read = CopyStream(), True

    def plan(self, plan: Plan) -> Plan:
        """A plan over X as one over `rows`."""
        return plan._replace(source=Batch(self._slots, plan.batch.position))

    def pieces(self, order) -> Iterator[tuple[int, int]]:
        """First and last position of each piece; its rows are on the GPU for what is launched before the next one.

        Parameters
        ----------
        order : ndarray (n,) or None
            Row numbers; None for rows as they stand.
        """
        if not self._all_read:  # Ctrl-C has ended the last time
            cuda.synchronize()
        self._all_read = False
        starts = range(0, self._n, self._piece)
        for number, start in enumerate(starts):
            if number == 0:
                self._bring(0, order)
            self._copies.wait(number % 2)
            yield start, min(self._n, start + self._piece)
            self._copies.computed(number % 2)
            if number + 1 < len(starts):
                self._bring(number + 1, order)
        self._all_read = True

    def _bring(self, number: int, order) -> None:
        """Gather a piece and start to copy it."""
        half, start = number % 2, number * self._piece
        chosen = slice(start, start + self._piece) if order is None else order[start : start + self._piece]
        self._copies.wait_for_memory(half)
        gathered = zip(self._parts, self._gathered(chosen, half), strict=True)
        pairs = [part.put(half, values) for part, values in gathered]
        self._copies.start(half, pairs)

    def _gathered(self, chosen, half: int) -> list[np.ndarray]:
        """The rows, part by part, each a vector."""
        rows = self._X[chosen]
        if not hasattr(rows, "indptr"):
            return [rows.reshape(-1)]
        return [rows.data, rows.indices, rows.indptr.astype(np.int64) + half * self._parts[0].size]


class _Halves:
    """Memory for two pieces of one part: `size` elements a half, on the GPU and, to copy from, on the host."""

    def __init__(self, size: int, dtype):
        self.size = size
        self.on_device = empty(max(1, 2 * size), dtype)
        self._on_host = [pinned(size, dtype) for _ in range(2)]

    def put(self, half: int, values: np.ndarray):
        """Write to the host's half; returns where on the GPU it belongs, and what."""
        into = self._on_host[half][: values.size]
        into[:] = values  # converts
        start = half * self.size
        return self.on_device[start : start + values.size], into


def pinned(n: int, dtype) -> np.ndarray:
    """Host memory that the GPU copies from while the host goes on; ordinary memory where there is none of that kind."""
    with suppress(Exception):  # of the driver; the copy is only slower then
        return cuda.pinned_array(n, dtype)
    return np.empty(n, dtype)


class CopyStream:
    """Copies to the GPU beside what it computes, for two halves of a buffer that take turns.

    Two events a half: `copied` when its rows are there, `read` when what reads them has ended.
    """

    def __init__(self):
        self._stream, self._owner = second_stream()
        self._copied, self._read = ([cuda.event(timing=False) for _ in range(2)] for _ in range(2))
        self._was_copied, self._was_read = [False, False], [False, False]

    def wait_for_memory(self, half: int) -> None:
        """The host waits until its half may be written to again."""
        if self._was_copied[half]:
            self._copied[half].synchronize()

    def start(self, half: int, pairs) -> None:
        """Copy pairs (to, from), after what still reads the half."""
        if self._was_read[half]:
            self._read[half].wait(self._stream)
        for to, source in pairs:
            if source.size:
                to.copy_to_device(source, stream=self._stream)
        self._copied[half].record(self._stream)
        self._was_copied[half] = True

    def wait(self, half: int) -> None:
        """What is launched from now on waits for the half."""
        self._copied[half].wait(0)

    def computed(self, half: int) -> None:
        """What has been launched until now reads the half, what comes later does not."""
        self._read[half].record(0)
        self._was_read[half] = True


def second_stream():
    """A stream that the default one does not wait for, and what keeps it alive."""
    if SIMULATED:
        return cuda.stream(), None
    from cuda.core import Device

    device = Device()
    device.set_current()
    stream = device.create_stream()
    return cuda.external_stream(int(stream.handle)), stream


def source_of(rows, kind, n: int, batch_size: int) -> Resident | Streamed:
    """How rows come to the kernels, in batches of `batch_size`."""
    if is_on_host(rows):
        return Streamed(rows, kind, n, batch_size)
    return Resident(rows, n) if getattr(rows, "pieces", None) is None else InPieces(rows, n)
