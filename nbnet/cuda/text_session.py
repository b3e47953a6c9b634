"""The host side of a network over documents on the GPU."""

from __future__ import annotations

from functools import partial

import numpy as np

from .. import random
from ..cpu.text_session import MAX_COUNT, huffman_tree, initialize_table
from ..cpu.token_rows import Documents
from ..cpu.tree import Tree
from ..cpu.workers import choose_n_workers
from ..epochs import ADAGRAD_START, EpochPlan, UpdateRule
from ..network import EmbeddingTable, Network, Pooling, above
from . import text_walk
from .dense import matrix
from .embedding import Bags, BagSpace, Embedding, weigh_tokens
from .launch import Queue, check_size, empty, upload
from .occurrences import FLOP_A_TOKEN, Grouping, groups_ready, room_for
from .session import Mirror, Session, as_targets
from .streaming import source_of
from .text_streaming import StreamedTexts, Texts, has_room
from .walk import DeviceTargets, Targets, next_batch

__all__ = [
    "TextSession",
    "Texts",
    "Tree",
    "as_targets",
    "as_texts",
    "choose_n_workers",
    "huffman_tree",
    "initialize_table",
    "open_session",
]

SHARES_PARAMS = False  # a session has a copy of the parameters on the GPU


def as_texts(documents: Documents) -> Texts:
    """`documents` for a `TextSession`."""
    n = documents.starts.size - 1
    if not has_room(documents):
        return Texts(n, documents, None)
    starts = upload(documents.starts.astype(np.uint32))
    return Texts(n, documents, Documents(upload(documents.ids), upload(documents.counts), starts))


def open_session(network: Network, params: np.ndarray, loss, *, tree: Tree | None = None, **options) -> TextSession:
    """The session for a network over documents, whose last layer is a `tree` of classes or fully connected."""
    if tree is None:
        return TextSession(network, params, loss, **options)
    from .tree_session import TreeSession  # which builds on this module

    return TreeSession(network, params, loss, tree=tree, **options)


class RowByRow(Mirror):
    """Parameters whose table lies in two blocks of columns on the host, for the sake of its caches, and row by row on
    the GPU."""

    def __init__(self, host: np.ndarray, layer):
        super().__init__(host)
        self._table = EmbeddingTable(host, layer)
        self._start, self._stride = int(layer["weight_start"]), int(layer["out_stride"])

    def _sent(self) -> np.ndarray:
        sent = self._host.copy()
        rows, dim = sent[self._start :].reshape(-1, self._stride), self._table.shape[1]
        rows[:, :dim], rows[:, dim:] = self._table[:], 0.0
        return sent

    def _receive(self) -> None:
        received = self._device.copy_to_host()
        self._host[: self._start] = received[: self._start]
        self._table[:] = received[self._start :].reshape(-1, self._stride)[:, : self._table.shape[1]]


class TextSession(Session):
    """A network over documents in use: `Session` with `Texts` for rows, and `transform`.

    Gradients are summed over a batch, not averaged: a step of fastText's rates for each document.

    Parameters
    ----------
    network : Network
        The first layer is an embedding.
    params : float32 or float64 (n_params,)
        On the host; updated in place by training, though not before `params` is read.
    loss : Loss
    row_weights : ndarray (n_rows,) or None
        Weight of each row of the embedding; None: all one.
    count_weights : ndarray (256,) or None
        Weight of a token that occurs 0, 1, 2, ... times in a document; None: the count.
    frozen : bool
        Keep the embedding as it is.
    label_smoothing : float
    sample_labels : bool
        Learn one of a document's labels in each epoch, drawn at random, instead of all of them.
    n_jobs : int or None
        Workers of the CPU that sort each epoch's tokens; see `choose_n_workers`.
    """

    _walk = text_walk
    sums_gradients = True
    deterministic = True  # False: steps of sgd and adagrad on the table are added in any order

    def __init__(
        self,
        network: Network,
        params: np.ndarray,
        loss,
        *,
        row_weights: np.ndarray | None = None,
        count_weights: np.ndarray | None = None,
        frozen: bool = False,
        label_smoothing: float = 0.0,
        sample_labels: bool = False,
        n_jobs: int | None = None,
    ):
        super().__init__(above(network), params, loss, label_smoothing=label_smoothing, n_jobs=n_jobs)
        self.below = network.layers[:1].copy()
        self._params = RowByRow(params, self.below[0])
        self.frozen, self.sample_labels, self.n_jobs = frozen, sample_labels, n_jobs
        layer = self.below[0]
        self.stride, self.n_table_rows = int(layer["out_stride"]), int(layer["n_in"])
        self.pooling = Pooling(int(layer["pooling"]))
        counts = np.arange(MAX_COUNT + 1) if count_weights is None else count_weights
        self._row_weights = self._none if row_weights is None else upload(np.asarray(row_weights, self._kind))
        self._count_weights = upload(np.asarray(counts, self._kind))
        self._trained_on = self._drawn_from = self._drawn = None

    # ---------------------------------------------------------------- training

    def expect(self, rows: Texts) -> None:
        """Nothing to do: where the CPU chooses its workers."""

    def prepare(self, update: UpdateRule) -> None:
        """As `Session.prepare`; `moments` holds those of the layers above, then those of each row of the table."""
        super().prepare(update)
        width = 1 if update.is_adagrad else 2 * self.stride if update.is_adam else 0
        of_rows = np.full(self.n_table_rows * width, ADAGRAD_START if update.is_adagrad else 0.0, self._kind)
        self._moments, self._trained_on = Mirror(np.concatenate([self.moments, of_rows])), None

    def train_epoch(self, rows: Texts, targets: Targets, plan: EpochPlan) -> float:
        """As `Session.train_epoch`."""
        if self.sample_labels and targets.host.label_starts.size > 0 and targets.host.labels.size > 0:
            targets = self._one_label_each(targets, plan.step0)
        if self._trained_on is None or self._trained_on[0] is not rows or self._trained_on[1] is not targets:
            self._trained_on = rows, targets, self._training_rows(rows, targets, plan.order)
        return super().train_epoch(self._trained_on[2], targets, plan)

    def _one_label_each(self, targets: Targets, step0: int) -> Targets:
        """One of each document's labels, drawn at random; in the same memory in each epoch."""
        starts, labels = targets.host.label_starts, targets.host.labels
        draws = random.uniform(self._rule.seed, random.Stream.LABELS, step0, starts.size - 1)
        chosen = starts[:-1] + (draws * np.diff(starts)).astype(np.int64)
        labels = labels[np.minimum(chosen, labels.size - 1)]
        if self._drawn_from is not targets:
            of_all, none = targets.on_device, empty(0, np.uint32)
            on_device = DeviceTargets(upload(labels), none, of_all.values, of_all.weights)
            host = targets.host._replace(labels=labels, label_starts=starts[:0])
            self._drawn_from, self._drawn = targets, Targets(on_device, host, targets.n_outputs)
        self._drawn.host.labels[:] = labels
        self._drawn.on_device.labels.copy_to_device(labels)
        return self._drawn

    def _training_rows(self, rows: Texts, targets: Targets, order: np.ndarray):
        """What steps over these documents read, whatever their order."""
        bags, groupings = self._training_bags(rows, order)
        return bags._replace(pieces=self._ready(bags, groupings))

    def _training_bags(self, rows: Texts, order: np.ndarray) -> tuple[Bags, list[Grouping]]:
        """The bags, and what is to be grouped for them in each epoch."""
        lengths = np.diff(rows.documents.starts)[order]
        bags, groupings = self._bags_of(rows, self.update.batch_size, order.size), []
        if not self.frozen and (self.deterministic or self.update.is_adam):
            n_groups = int(np.sort(lengths)[-self.update.batch_size :].sum())
            n_tokens = int(lengths.sum()) if bags.stream is None else bags.documents.ids.size
            bags = bags._replace(groups=self._room_for(order, n_tokens), n_groups=n_groups)
            documents = rows.documents
            if bags.stream is None:
                groupings.append(Grouping(lambda: (documents.ids, documents.starts), bags.groups))
        return bags, groupings

    def _room_for(self, order: np.ndarray, n_tokens: int):
        return room_for(-(-order.size // self.update.batch_size), n_tokens)

    def _ready(self, bags: Bags, groupings: list[Grouping]):
        """What makes the documents of an epoch ready, and their groups."""
        if bags.stream is None:
            return partial(groups_ready, groupings, self.update.batch_size, self.n_jobs)

        def n_workers(n_tokens: int) -> int:
            return choose_n_workers(self.n_jobs, FLOP_A_TOKEN * n_tokens)

        return partial(bags.stream.grouped_pieces, bags.groups, groupings, self.update.batch_size, n_workers)

    def _training_workspace(self, n_rows: int):
        work = super()._training_workspace(n_rows)
        return work._replace(input_slopes=empty(work.inputs.size, self._kind))

    def loss_and_gradient(self, rows, targets, alpha):
        """Not for documents: their solvers are stochastic."""
        raise NotImplementedError("a network over documents is trained by stochastic solvers only")

    # ---------------------------------------------------------------- without training

    def evaluate(self, rows: Texts, targets: Targets) -> float:
        """Weighted mean loss of the documents, without dropout."""
        return super().evaluate(self._rows_of(rows, targets), targets)

    def predict(self, rows: Texts, out: np.ndarray | None = None) -> np.ndarray:
        """Predictions (n_documents, n_outputs) on the host."""
        return super().predict(self._rows_of(rows), out)

    def transform(self, rows: Texts) -> np.ndarray:
        """Pooled vectors (n_documents, dim) on the host."""
        n, block = rows.n_rows, self._block_rows
        bags, dim = self._bags_of(rows), int(self.below["n_out"][0])
        source, vectors = source_of(bags, self._kind, n, block), empty(min(n, block) * self.stride, self._kind)
        plan, found = source.plan(self._plan(n, 1.0, block)), np.empty((n, dim), self._kind)
        for first, last in source.pieces(None):
            for start in range(first, last, block):
                queue, size = Queue(), min(block, last - start)
                text_walk.pool(queue, bags, plan.batch_of_rows, matrix(vectors, 0, self.stride), size)
                next_batch(queue, plan, size, self._none)
                queue.run()
                found[start : start + size] = vectors.copy_to_host().reshape(-1, self.stride)[:size, :dim]
        return found

    # ---------------------------------------------------------------- memory

    def _rows_of(self, rows: Texts, targets: Targets | None = None):
        """What evaluation (with `targets`) and prediction read."""
        return self._bags_of(rows)

    def _embedding(self) -> Embedding:
        layer, params = self.below[0], self._params.on_device()
        query, n_above = int(layer["bias_start"]), 2 * self.network.n_params
        moments = self._none if self._moments is None else self._moments.on_device()
        return Embedding(
            rows=params[int(layer["weight_start"]) :],
            query=params[query : query + self.stride],
            row_weights=self._row_weights,
            count_weights=self._count_weights,
            moments=moments[n_above:] if moments.size > n_above else self._none,
            pooling=self.pooling,
            dim=int(layer["n_out"]),
            stride=self.stride,
            kept=1.0 - float(layer["dropout"]),
            frozen=self.frozen,
        )

    def _bags_of(self, rows: Texts, capacity: int = 0, n: int | None = None) -> Bags:
        """The embedding of some documents, whose tokens are weighed; room to train on `n`, `capacity` at a time."""
        attends, is_max = self.pooling == Pooling.ATTENTION, self.pooling == Pooling.MAX
        documents, stream = rows.on_device, None
        if documents is None:
            stream = StreamedTexts(rows.documents, rows.n_rows if n is None else n, capacity or self._block_rows)
            documents = stream.on_device
        training, n_tokens, none = capacity > 0, documents.ids.size, self._none
        check_size(capacity * self.stride, f"the vectors of {capacity} documents")
        space = BagSpace(
            weights=none if is_max else empty(n_tokens, self._kind),
            attention=empty(n_tokens, self._kind) if attends else none,
            slopes=empty(n_tokens, self._kind) if training and attends else none,
            chosen=empty(n_tokens, self._kind) if training and is_max else none,
            norms=empty(capacity, self._kind),
            products=empty(capacity, self._kind) if attends else none,
            queries=empty(capacity * self.stride, self._kind) if attends else none,
            choices=empty(capacity * self.stride if is_max else 0, np.uint32),
            none=none,
        )
        bags, queue = Bags(rows.n_rows, self.below[0], documents, self._embedding(), space), Queue()
        if not is_max:
            weigh_tokens(queue, bags.embedding, bags.documents, space.weights)
        if stream is None:
            queue.run()
            return bags
        stream.ready = queue.run
        return bags._replace(pieces=stream.pieces, stream=stream)
