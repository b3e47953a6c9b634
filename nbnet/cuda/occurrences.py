"""Who updates what: the tokens of each batch grouped by their row of the table, on the host.

A row that several tokens of a batch share is updated by one warp, in the order of documents and tokens, as on the CPU:
no atomic addition, and no other bits in the next run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ..cpu.workers import choose_n_workers
from .launch import check_size, empty

PIECE_BATCHES = 64  # grouped by one worker at a time
FLOP_A_TOKEN = 200.0  # what grouping a token is worth, where the number of workers is chosen


class Occurrences(NamedTuple):
    """Groups of tokens, one for each row that a batch has; groups and tokens are in the order of batches."""

    batches: object  # uint32 (n_batches + 1,): batch b has the groups [batches[b], batches[b + 1])
    rows: object  # uint32 (n_groups,)
    starts: object  # uint32 (n_groups + 1,): group g has the tokens [starts[g], starts[g + 1])
    tokens: object  # uint32 (n,): where a token lies
    places: object  # uint32 (n,): its document's number in the batch


def positions_of(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers [starts[0], starts[0] + lengths[0]), then [starts[1], starts[1] + lengths[1]), and so on."""
    stops = np.cumsum(lengths)
    return np.arange(stops[-1] if stops.size else 0) + np.repeat(starts - stops + lengths, lengths)


def group_by_row(
    ids: np.ndarray, starts: np.ndarray, order: np.ndarray, batch_size: int, width: int | None = None
) -> Occurrences:
    """The tokens of each batch sorted by their row; those of one row stay in the order of documents and tokens.

    Parameters
    ----------
    ids : int32 (n_ids,)
        Rows; document d has those from ``starts[d]`` to ``starts[d + 1]``.
    order : int64 (n,)
        Documents; batch b is ``order[b * batch_size : (b + 1) * batch_size]``.
    width : int or None
        None: a token lies among those of all documents. Else: in its document's row of a matrix with so many columns
        that has a row for each document of a batch.
    """
    lengths = np.diff(starts)[order]
    positions = positions_of(starts[order], lengths)
    places = np.repeat(np.arange(order.size) % batch_size, lengths)
    tokens = positions if width is None else places * width + positions - np.repeat(starts[order], lengths)
    firsts = np.arange(0, order.size + batch_size, batch_size)  # documents, then tokens, where batches begin
    firsts = np.append(0, np.cumsum(lengths))[np.minimum(firsts, order.size)]
    of_batch = np.repeat(firsts[:-1], np.diff(firsts))
    # a row and a place among the batch's tokens in one number: sorting such numbers needs no stable sort
    keys = ids[positions].astype(np.uint64) << np.uint64(32) | (np.arange(tokens.size) - of_batch).astype(np.uint64)
    for first, last in pairwise(firsts):
        keys[first:last].sort()
    rows = (keys >> np.uint64(32)).astype(np.uint32)
    sources = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64) + of_batch
    begins = np.ones(rows.size, bool)
    begins[1:] = rows[1:] != rows[:-1]
    begins[firsts[firsts < rows.size]] = True
    groups = np.flatnonzero(begins)
    return Occurrences(
        np.searchsorted(groups, firsts).astype(np.uint32),
        rows[groups],
        np.append(groups, rows.size).astype(np.uint32),
        tokens[sources].astype(np.uint32),
        places[sources].astype(np.uint32),
    )


def group_in_pieces(ids, starts, order, batch_size: int, n_workers: int, width=None) -> Iterator[Occurrences]:
    """`group_by_row` of some batches after the other, by several workers."""
    group = partial(group_by_row, ids, starts, batch_size=batch_size, width=width)
    pieces = [order[first:last] for first, last in spans_of_pieces(order.size, batch_size)]
    if min(n_workers, len(pieces)) <= 1:
        yield from map(group, pieces)
        return
    with ThreadPoolExecutor(n_workers) as pool:
        yield from pool.map(group, pieces)


def spans_of_pieces(n: int, batch_size: int) -> list[tuple[int, int]]:
    """First and last position of each piece in an order of `n` documents; all have whole batches, but for the last."""
    size = PIECE_BATCHES * batch_size
    return [(first, min(first + size, n)) for first in range(0, n, size)]


def room_for(n_batches: int, n_tokens: int) -> Occurrences:
    """Memory on the GPU for the groups of an epoch."""
    check_size(n_tokens, "the list of all tokens")
    sizes = n_batches + 1, n_tokens, n_tokens + 1, n_tokens, n_tokens
    return Occurrences(*(empty(max(size, 1), np.uint32) for size in sizes))


def fill(room: Occurrences, pieces: Iterable[Occurrences], first_batch: int = 0) -> Iterator[None]:
    """Upload the groups of the batches from `first_batch` on, which come in pieces; after each of them, its batches can
    be computed."""
    n_batches, n_groups, n_tokens = first_batch, 0, 0
    for piece in pieces:
        batches, starts = piece.batches + np.uint32(n_groups), piece.starts + np.uint32(n_tokens)
        firsts = n_batches, n_groups, n_groups, n_tokens, n_tokens
        for into, first, values in zip(room, firsts, piece._replace(batches=batches, starts=starts), strict=True):
            if values.size:
                into[first : first + values.size].copy_to_device(values)
        n_batches, n_groups = n_batches + batches.size - 1, n_groups + piece.rows.size
        n_tokens += piece.tokens.size
        yield


class Grouping(NamedTuple):
    """Something that documents have a list of, to be grouped in each epoch.

    Attributes
    ----------
    lists : callable
        ``lists()``: all documents' lists, int32, one after another, and where each one's begins, int64 (n + 1,).
    room : Occurrences
        On the GPU; overwritten.
    width : int or None
        As for `group_by_row`.
    """

    lists: Callable[[], tuple[np.ndarray, np.ndarray]]
    room: Occurrences
    width: int | None = None


def groups_ready(groupings, batch_size: int, n_jobs: int | None, order: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and last position of each piece of an epoch, when its groups are on the GPU: while it computes with them,
    the CPU groups the next ones."""
    uploads = []
    for lists, room, width in groupings:
        ids, starts = lists()
        n_workers = choose_n_workers(n_jobs, FLOP_A_TOKEN * ids.size)
        uploads.append(fill(room, group_in_pieces(ids, starts, order, batch_size, n_workers, width)))
    for span in spans_of_pieces(order.size, batch_size):
        for upload in uploads:
            next(upload)
        yield span
