"""The host side of a network over documents on the CPU."""

from __future__ import annotations

import sys
import threading
from typing import NamedTuple

import numpy as np

from .. import random
from ..epochs import ADAGRAD_START, EpochPlan, UpdateRule
from ..network import Network, Pooling, above, aligned_zeros, round_up, table_split
from . import linear_text, text_walk, walk
from .embedding import Bags, BagSpace, Blocks, Embedding
from .session import Session, as_targets
from .simd import VECTOR_WIDTH
from .token_rows import Documents
from .tree import Tree, huffman_tree
from .walk import LossRecord, Model, Plan, Targets
from .workers import Workers, choose_n_workers

__all__ = ["TextSession", "Texts", "as_targets", "as_texts", "huffman_tree", "initialize_table", "open_session"]

FLOP_A_TOKEN = 20.0  # what reading and writing one element of a row is worth: it waits for memory
FEW_TOKENS = 1000  # of one document: for so many, memory is kept from call to call
STEP_FLOP_A_NUMBER = 220.0  # the same in a step of training: two workers gain from about 600 tokens of 112 a batch on
UPPER_HALF = 1 if sys.byteorder == "little" else 0  # of the two 16-bit numbers in a float32
FLOP_A_DRAW = 20.0  # what a random number is worth
MAX_COUNT = 255


class Texts(NamedTuple):
    """Documents as the trainer sees rows: how many there are, and what kernels read."""

    n_rows: int
    documents: Documents


def as_texts(documents: Documents) -> Texts:
    """`documents` for a `TextSession`."""
    return Texts(documents.starts.size - 1, documents)


def initialize_table(network: Network, params: np.ndarray, seed: int, first_row: int = 0, n_jobs=None) -> None:
    """Fill rows of the embedding from `first_row` on: uniform in (-1 / dim, 1 / dim), by seed and row only.

    Source of the bound: Bojanowski et al., Enriching word vectors with subword information, 2017, in its program.
    """
    layer = network.layers[0]
    n_rows, dim, rows = int(layer["n_in"]), int(layer["n_out"]), params[int(layer["weight_start"]) :]
    with Workers(choose_n_workers(n_jobs, FLOP_A_DRAW * (n_rows - first_row) * dim)) as workers:
        workers.run(text_walk.initialize, rows, blocks_of(layer), first_row, n_rows, dim, np.uint64(seed))


def blocks_of(layer) -> Blocks:
    """Where the rows of an embedding lie."""
    stride = int(layer["out_stride"])
    split = table_split(stride)
    return Blocks(stride, split, int(layer["n_in"]) * split)


def _most_tokens(starts: np.ndarray, batch_size: int) -> int:
    """Tokens of a batch of the longest documents."""
    lengths = np.diff(starts)
    n = min(batch_size, lengths.size)
    lengths.partition(lengths.size - n)
    return int(lengths[lengths.size - n :].sum())


def open_session(network: Network, params: np.ndarray, loss, *, tree: Tree | None = None, **options) -> TextSession:
    """The session for a network over documents, whose last layer is a `tree` of classes or fully connected."""
    if tree is None:
        return TextSession(network, params, loss, **options)
    from .tree_session import TreeSession  # which builds on this module

    return TreeSession(network, params, loss, tree=tree, **options)


class TextSession(Session):
    """A network over documents in use: `Session` with `Texts` for rows, and `transform`.

    Gradients are summed over a batch, not averaged: a step of fastText's rates for each document.

    Parameters
    ----------
    network : Network
        The first layer is an embedding.
    params : float32 or float64 (n_params,)
        Updated in place by training.
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
    """

    sums_gradients = True

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
        self.frozen, self.sample_labels = frozen, sample_labels
        dtype, layer = params.dtype, self.below[0]
        self.stride, self.n_table_rows = int(layer["out_stride"]), int(layer["n_in"])
        self.pooling = Pooling(int(layer["pooling"]))
        self._row_weights = self._none if row_weights is None else np.ascontiguousarray(row_weights, dtype)
        counts = np.arange(MAX_COUNT + 1) if count_weights is None else count_weights
        self._count_weights = np.ascontiguousarray(counts, dtype)
        self._of_thread = threading.local()

    # ---------------------------------------------------------------- training

    def expect(self, rows: Texts) -> None:
        """Count the work of such documents in, where the number of workers is chosen: before `prepare`."""
        n_tokens = float(rows.documents.starts[-1]) / max(1, rows.n_rows)
        self._flop_a_row += STEP_FLOP_A_NUMBER * self.stride * n_tokens / 3.0

    def snapshot(self, into=None):
        """As `Session.snapshot`, of the table only the upper halves of the numbers.

        The table can be most of the memory of a fit, and a snapshot is used only where training diverges: a float32 cut
        after 8 bits of mantissa has the range of the whole one and is off by less than one per cent.
        """
        n_above = self.network.n_params
        if self.params.itemsize != 4:
            return super().snapshot(into)
        halves = self.params[n_above:].view(np.uint16)[UPPER_HALF::2]
        if into is None:
            into = np.empty(n_above, self.params.dtype), np.empty(halves.size, np.uint16)
        into[0][:], into[1][:] = self.params[:n_above], halves
        return into

    def restore(self, snapshot) -> None:
        """As `Session.restore`."""
        if self.params.itemsize != 4:
            return super().restore(snapshot)
        n_above = self.network.n_params
        self.params[:n_above], self.params[n_above:] = snapshot[0], 0.0
        self.params[n_above:].view(np.uint16)[UPPER_HALF::2] = snapshot[1]
        return None

    def prepare(self, update: UpdateRule) -> None:
        """As `Session.prepare`; `moments` holds those of the layers above, then those of each row of the table."""
        super().prepare(update)
        width = 1 if update.is_adagrad else 2 * self.stride if update.is_adam else 0
        self._n_moments_above = self.moments.size
        of_rows = np.full(self.n_table_rows * width, ADAGRAD_START if update.is_adagrad else 0.0, self.params.dtype)
        self.moments = np.concatenate([self.moments, of_rows])

    def train_epoch(self, rows: Texts, targets, plan: EpochPlan) -> float:
        """As `Session.train_epoch`."""
        n_tokens = _most_tokens(rows.documents.starts, self.update.batch_size)
        self._space = self._bag_space(n_tokens, self._work.capacity, self.n_workers, training=True)
        of_rows = self.moments[self._n_moments_above :]
        if self.update.is_adagrad:
            self._squares = np.tile(of_rows, (self.n_workers, 1)) if self.n_workers > 1 else of_rows.reshape(1, -1)
        if self.sample_labels and targets.label_starts.size > 0 and targets.labels.size > 0:
            targets = self._one_label_each(targets, plan.step0)
        try:
            return super().train_epoch(rows, targets, plan)
        finally:
            if self.update.is_adagrad:
                of_rows[:] = self._squares[0]

    def _one_label_each(self, targets: Targets, step0: int) -> Targets:
        """One of each document's labels, drawn at random."""
        starts, labels = targets.label_starts, targets.labels
        draws = random.uniform(int(self._rule.seed), random.Stream.LABELS, step0, starts.size - 1)
        chosen = starts[:-1] + (draws * np.diff(starts)).astype(np.int64)
        return targets._replace(labels=labels[np.minimum(chosen, labels.size - 1)], label_starts=starts[:0])

    @property
    def most_useful_workers(self) -> float:
        """Columns are shared out in so many parts."""
        return linear_text.GROUPS if self.is_linear else np.inf

    @property
    def is_linear(self) -> bool:
        """Whether `linear_text` trains this network: one layer over vectors that are summed column by column."""
        summed = self.pooling not in (Pooling.ATTENTION, Pooling.MAX) and self.below["dropout"][0] == 0.0
        return summed and self.network.layers.size == 1

    def _run_steps(self, workers: Workers, rows: Texts, targets: Targets, plan: Plan, record: LossRecord) -> None:
        model = self._model(self._grads, self.moments[: self._n_moments_above])
        bags = self._training_bags(rows)
        if self.is_linear:
            kernel, lowest = linear_text.train_epoch, self._exchange
        else:
            kernel, lowest = text_walk.train_epoch, self.below
        workers.run(kernel, model, lowest, bags, targets, self._work, plan, self._rule, record)

    def _training_bags(self, rows: Texts) -> Bags:
        is_adagrad = self.update.is_adagrad
        squares = self._squares if is_adagrad else np.zeros((self.n_workers, 0), self.params.dtype)
        moments = self._none if is_adagrad else self.moments[self._n_moments_above :]
        return Bags(rows.documents, self._embedding(squares, moments), self._space)

    def loss_and_gradient(self, rows, targets, alpha):
        """Not for documents: their solvers are stochastic."""
        raise NotImplementedError("a network over documents is trained by stochastic solvers only")

    # ---------------------------------------------------------------- without training

    def evaluate(self, rows: Texts, targets: Targets) -> float:
        """Weighted mean loss of the documents, without dropout."""
        record = self._record(rows.n_rows)
        self._run_evaluation(rows, targets, record)
        losses = self._row_losses(record, targets, slice(None)).astype(np.float64)
        return float(np.average(losses, weights=targets.weights))

    def _run_evaluation(self, rows: Texts, targets: Targets, record: LossRecord) -> None:
        last = self._make_rule(), record
        self._run_blocks(rows, text_walk.evaluate, lambda n_workers: (targets,), last, with_slopes=True)

    def predict(self, rows: Texts, out: np.ndarray | None = None) -> np.ndarray:
        """Predictions (n_documents, n_outputs)."""
        if out is None:
            out = np.empty((rows.n_rows, self.n_outputs), self.params.dtype)
        self._run_prediction(rows, out)
        return out

    def _run_prediction(self, rows: Texts, out: np.ndarray) -> None:
        self._run_blocks(rows, text_walk.predict, lambda n_workers: (), (int(self.loss), out))

    def transform(self, rows: Texts) -> np.ndarray:
        """Pooled vectors (n_documents, dim)."""
        dim = int(self.below["n_out"][0])
        out = aligned_zeros(rows.n_rows * self.stride, self.params.dtype)
        self._run_blocks(rows, text_walk.pool, lambda n_workers: (), (out,), without_model=True)
        return out.reshape(rows.n_rows, self.stride)[:, :dim].copy()

    def _run_blocks(self, rows, kernel, first, last, with_slopes=False, without_model=False) -> None:
        """Call a kernel that takes blocks of PREDICT_ROWS documents; `first` makes its first arguments."""
        n, starts = rows.n_rows, rows.documents.starts
        block = min(n, walk.PREDICT_ROWS)
        n_tokens = int((starts[block:] - starts[: n + 1 - block]).max()) if n else 0
        flop = self._flop_a_row * n + FLOP_A_TOKEN * self.stride * float(starts[-1])
        n_workers = choose_n_workers(self.n_jobs, flop)
        is_small = n == n_workers == 1 and n_tokens <= FEW_TOKENS and not with_slopes
        model, embedding, space, orders, work = (
            self._space_of_one() if is_small else self._space_of_blocks(n, n_tokens, n_workers, with_slopes)
        )
        bags = Bags(rows.documents, embedding, space)
        with Workers(n_workers) as workers:
            workers.run(kernel, *(() if without_model else (model,)), *first(n_workers), bags, work, orders, *last)

    def _space_of_one(self) -> tuple:
        """What `_run_blocks` needs for one document; making it takes longer than using it, so each thread keeps it."""
        if not hasattr(self._of_thread, "space"):
            self._of_thread.space = self._space_of_blocks(1, FEW_TOKENS, 1, with_slopes=False)
        return self._of_thread.space

    def _space_of_blocks(self, n: int, n_tokens: int, n_workers: int, with_slopes: bool) -> tuple:
        return (
            self._model(self._none, self._none),
            self._embedding(np.zeros((n_workers, 0), self.params.dtype), self._none),
            self._bag_space(n_tokens, 0, n_workers, training=False),
            np.zeros((n_workers, walk.PREDICT_ROWS), np.int64),
            self._predict_workspace(n, n_workers, with_slopes=with_slopes),
        )

    # ---------------------------------------------------------------- memory

    def _model(self, grads: np.ndarray, moments: np.ndarray) -> Model:
        return Model(self.network.layers, self.params[: self.network.n_params], grads, moments)

    def _embedding(self, squares: np.ndarray, moments: np.ndarray) -> Embedding:
        layer = self.below[0]
        query = int(layer["bias_start"])
        return Embedding(
            rows=self.params[int(layer["weight_start"]) :],
            blocks=blocks_of(layer),
            query=self.params[query : query + self.stride],
            row_weights=self._row_weights,
            count_weights=self._count_weights,
            squares=squares,
            moments=moments,
            pooling=int(self.pooling),
            dim=int(layer["n_out"]),
            stride=self.stride,
            kept=1.0 - float(layer["dropout"]),
            frozen=self.frozen,
        )

    def _workspace(self, n_rows: int, n_workers: int):
        work = super()._workspace(n_rows, n_workers)
        if not self.is_linear:
            return work._replace(input_slopes=aligned_zeros(work.inputs.size, self.params.dtype))

        def of_workers(array: np.ndarray, n: int = n_workers) -> np.ndarray:
            return aligned_zeros(n * array.size, array.dtype).reshape(n, -1)

        groups, dtype = linear_text.GROUPS, self.params.dtype
        self._exchange = linear_text.Exchange(
            scores=of_workers(work.outputs, groups),
            norms=np.zeros((groups, work.capacity), dtype),
            grads=of_workers(work.inputs),
            losses=np.ones((n_workers, 2, work.capacity), dtype),
            transposed=of_workers(work.transposed),
        )
        arrays = {name: of_workers(getattr(work, name)) for name in ("inputs", "outputs", "slopes")}
        return work._replace(**arrays)

    def _bag_space(self, n_tokens: int, capacity: int, n_workers: int, *, training: bool) -> BagSpace:
        dtype = self.params.dtype
        n_tokens = round_up(n_tokens + 1, 2 * VECTOR_WIDTH)
        slots = training and self.update.is_adam
        attention = self.pooling == Pooling.ATTENTION
        columns = training and self.pooling in (Pooling.MAX, Pooling.ATTENTION)

        def tokens(wanted: bool, kind=dtype) -> np.ndarray:
            return np.zeros((n_workers, n_tokens if wanted else 0), kind)

        return BagSpace(
            weights=tokens(True),
            attention=np.zeros(n_tokens if attention else 0, dtype),
            slopes=np.zeros(n_tokens if training and attention else 0, dtype),
            steps=tokens(training),
            factors=tokens(training),
            norms=np.zeros((n_workers, capacity), dtype),
            products=np.zeros(capacity, dtype),
            choices=aligned_zeros(capacity * self.stride if columns else 0, dtype),
            slots=tokens(slots, np.int32),
            touched=tokens(slots, np.int32),
            slot_of_row=np.full((n_workers, self.n_table_rows if slots else 0), -1, np.int32),
            sums=aligned_zeros(n_tokens * self.stride if slots else 0, dtype),
        )
