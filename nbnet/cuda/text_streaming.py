"""Texts for the GPU: the tokens of all, or, where it has no room, those of piece after piece in the order of an epoch.

A piece is some whole batches. Its documents are gathered on the host, and its tokens grouped, while the GPU computes
with the piece before; then they are copied to where that was, behind the kernels that read it. Kernels read the same
tokens in the same order as if all were there, so results have the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..cpu.token_rows import Documents
from . import streaming
from .launch import LARGEST, check_size, empty, memory, upload
from .occurrences import Grouping, Occurrences, fill, group_in_pieces, positions_of

TOKEN_BYTES = 4 + 1 + 3 * 8 + 4 * 4  # in training, at most (attention, float64): id, count, `BagSpace`, `Occurrences`


class Texts(NamedTuple):
    """Documents as the trainer sees rows: how many there are, and what they hold, on the host and on the GPU."""

    n_rows: int
    documents: Documents
    on_device: Documents | None  # None: they come in pieces


def has_room(documents: Documents) -> bool:
    """Whether the GPU has room for all tokens, and for what training needs of them."""
    n = documents.ids.size
    return n < LARGEST and TOKEN_BYTES * n <= streaming.RESIDENT_SHARE * memory()[0]


def gathered(documents: Documents, chosen: np.ndarray) -> Documents:
    """Some documents, one behind the other."""
    lengths = np.diff(documents.starts)[chosen]
    positions = positions_of(documents.starts[chosen], lengths)
    counts = documents.counts[positions] if documents.counts.size else documents.counts
    return Documents(documents.ids[positions], counts, np.append(0, np.cumsum(lengths)))


class StreamedTexts:
    """Documents that come to the GPU in pieces.

    Parameters
    ----------
    documents : Documents
        All of them, on the host.
    n : int
        Documents of an epoch.
    batch_size : int
        Documents of a batch.

    Attributes
    ----------
    on_device : Documents
        Room for a piece, whichever documents it has; where it has fewer than others, empty documents follow.
    slots : uint32 (n,)
        On the GPU: where the document at each position of an epoch lies in its piece.
    ready : callable
        Called when a piece's documents are there.
    """

    def __init__(self, documents: Documents, n: int, batch_size: int):
        lengths = np.diff(documents.starts)
        batch_bytes = max(1.0, TOKEN_BYTES * batch_size * documents.ids.size / max(1, lengths.size))
        batches = min(max(1, int(streaming.PIECE_BYTES / batch_bytes)), max(1, -(-n // batch_size)))
        self._documents, self.piece = documents, batches * batch_size
        n_tokens = int(np.sort(lengths)[-self.piece :].sum())
        check_size(n_tokens, "the list of a piece's tokens")
        ids, counts = empty(max(1, n_tokens), np.int32), empty(n_tokens if documents.counts.size else 0, np.uint8)
        self.on_device = Documents(ids, counts, upload(np.zeros(self.piece + 1, np.uint32)))
        self.slots = upload((np.arange(n) % self.piece).astype(np.uint32))
        self._n, self.ready = n, lambda: None

    def pieces(self, order: np.ndarray | None) -> Iterator[tuple[int, int]]:
        """First and last position of each piece, when its documents are on the GPU.

        Parameters
        ----------
        order : int64 (n,) or None
            Documents' numbers; None for documents as they stand.
        """
        for start in range(0, self._n, self.piece):
            stop = min(self._n, start + self.piece)
            self._bring(gathered(self._documents, _chosen(order, start, stop)))
            yield start, stop

    def grouped_pieces(
        self,
        room: Occurrences | None,
        others: Sequence[Grouping],
        batch_size: int,
        choose_n_workers: Callable[[int], int],
        order: np.ndarray,
    ) -> Iterator[tuple[int, int]]:
        """Those of `pieces`, when their groups are on the GPU as well.

        Parameters
        ----------
        room : Occurrences or None
            For the groups of the tokens; None where nobody updates the table.
        others : sequence of Grouping
            What else documents have a list of.
        choose_n_workers : callable
            Workers for a number of tokens.
        """
        lists = [grouping.lists() for grouping in others]
        for start in range(0, self._n, self.piece):
            stop = min(self._n, start + self.piece)
            chosen = _chosen(order, start, stop)
            documents = gathered(self._documents, chosen)
            n_workers, as_they_stand = choose_n_workers(documents.ids.size), np.arange(chosen.size)
            wanted = [(room, documents.ids, documents.starts, as_they_stand, None)] if room is not None else []
            for grouping, (ids, starts) in zip(others, lists, strict=True):
                wanted.append((grouping.room, ids, starts, chosen, grouping.width))
            found = [
                (into, list(group_in_pieces(ids, starts, numbers, batch_size, n_workers, width)))
                for into, ids, starts, numbers, width in wanted
            ]
            self._bring(documents)
            for into, groups in found:
                for _ in fill(into, groups, start // batch_size):
                    pass
            yield start, stop

    def _bring(self, documents: Documents) -> None:
        """Copy a piece's documents, behind all that has been launched."""
        starts = np.full(self.piece + 1, documents.ids.size, np.uint32)
        starts[: documents.starts.size] = documents.starts
        for into, values in zip(self.on_device, documents._replace(starts=starts), strict=True):
            if values.size:
                into[: values.size].copy_to_device(values)
        self.ready()


def _chosen(order: np.ndarray | None, start: int, stop: int) -> np.ndarray:
    return np.arange(start, stop) if order is None else order[start:stop]
