"""Rounds over partitions of texts: of the embedding, only the rows travel that a partition's documents have."""

from __future__ import annotations

from copy import copy
from typing import NamedTuple

import dask
import numpy as np

from .. import trainer
from ..estimators.run import Table
from ..estimators.text_run import TextRun, build_network
from ..network import EmbeddingTable
from ..progress import Progress
from ..trainer import OptimizerState, aligned_copy
from . import collections
from .rounds import NO_MOMENTS, OuterStep, Plan, seed_of
from .text_partitions import Cut


class Share(NamedTuple):
    """The part of a network that one partition trains in a round, or how it has changed there.

    Attributes
    ----------
    params : ndarray (n_above + n_rows * stride,)
        Parameters above the embedding, then its rows for the partition's documents.
    squares : ndarray (n_moments + n_rows,)
        What adagrad has added to its sums of squared gradients: of the parameters above, and of the rows. Empty for
        other solvers, and before the first round.
    """

    params: np.ndarray
    squares: np.ndarray


class TextChange(NamedTuple):
    """What one partition has learned in one round: weight of its documents, training loss, change of its share."""

    weight: float
    loss: float
    share: Share


def train(plan: Plan, share: Share, cuts: list[Cut | None], round_number: int, number: int) -> TextChange:
    """One round on one partition, which has documents in it.

    A pure function: another worker, or the same one again, gives the same bits. Sums of squares are additive, so
    adagrad goes on from those of all partitions together; moments of other solvers begin anew.
    """
    cut, model = cuts[round_number % plan.pace.n_parts].writable(), copy(plan.model)
    n_documents, n_epochs = cut.weights.size, plan.pace.epochs_before(round_number)
    seed = seed_of(plan.seed, round_number, number)
    model.set_params(n_jobs=model.n_jobs or 1, batch_size=min(model.batch_size, n_documents))
    model.idf_ = cut.row_weights
    _, model.network_ = build_network(model, cut.rows.size, len(model.classes_))
    backend, table = trainer.backend_for(model.device, "text_session"), Table(None, cut.labels, None, cut.weights)
    run = TextRun(model, backend, aligned_copy(share.params), table, seed)
    texts = backend.as_texts(cut.documents)
    run.session.expect(texts)
    training = trainer.StochasticTraining(
        run.session,
        trainer.Data(texts, run.targets(table), np.arange(n_documents)),
        run.settings,
        Progress(n_samples_seen=n_epochs * n_documents),
        OptimizerState(model.solver, NO_MOMENTS, n_epochs=n_epochs),
        seed=seed,
        largest_loss=run.largest_loss,
    )
    session, squares = training.session, NO_MOMENTS
    if share.squares.size:
        session.moments[:] += share.squares
    before = session.moments.copy()
    for _ in range(plan.pace.n_epochs):
        if not training.run_epoch():
            break
    if model.solver == "adagrad":
        squares = session.moments - before
    loss = training.progress.loss_curve[-1]
    return TextChange(float(cut.weights.sum()), loss, Share(session.params - share.params, squares))


class TextRounds:
    """Training of a network for texts; the driver has the whole embedding.

    Parameters
    ----------
    plan : Plan
    cuts : list of delayed list of Cut or None
        Documents of each partition in each part of an epoch.
    rows : list of list of ndarray or None
        The rows of the embedding that they have.
    client : Client or None
    network : Network
    params : ndarray (n_params,)
        Where training starts; updated in place.
    outer_step : tuple (learning_rate, momentum)
        As in `OuterStep`.
    n_rows : int
        Documents of an epoch.
    target_loss : float
        Training ends behind an epoch of at most this loss.
    """

    starts_usable = True

    def __init__(self, plan, cuts, rows, client, network, params, outer_step, n_rows, target_loss):
        self.plan, self.cuts, self.rows, self.client = dask.delayed(plan, traverse=False), cuts, rows, client
        self.n_parts, self.n_rows, self.target_loss = plan.pace.n_parts, n_rows, target_loss
        self.layer = layer = network.layers[0]
        self.n_above = int(layer["weight_start"])
        self.outer = OuterStep(params, *outer_step)
        self.squares_above, self.squares = NO_MOMENTS, np.zeros(int(layer["n_in"]), params.dtype)

    @property
    def params(self) -> np.ndarray:
        """The parameters reached so far."""
        return self.outer.params

    def run(self, round_number: int) -> tuple[float, float]:
        """One round; returns its loss and the weight of its documents."""
        numbered = [(number, of_parts[round_number % self.n_parts]) for number, of_parts in enumerate(self.rows)]
        numbered = [(number, rows) for number, rows in numbered if rows is not None]
        task = dask.delayed(train)
        tasks = [
            task(self.plan, dask.delayed(self._share(rows), traverse=False), self.cuts[number], round_number, number)
            for number, rows in numbered
        ]
        changes = collections.compute(tasks, self.client)
        if not changes:  # no partition has a document in this part of the epoch
            return 0.0, 0.0
        return self._apply([rows for _, rows in numbered], changes)

    def _table(self, params: np.ndarray, n_rows: int) -> EmbeddingTable:
        """The embedding, or that of some rows of it."""
        layer = self.layer.copy()
        layer["n_in"] = n_rows
        return EmbeddingTable(params, layer)

    def _share(self, rows: np.ndarray) -> Share:
        """What one partition needs."""
        params = self.outer.params
        squares = np.concatenate([self.squares_above, self.squares[rows]]) if self.squares_above.size else NO_MOMENTS
        own = np.zeros(self.n_above + rows.size * int(self.layer["out_stride"]), params.dtype)
        own[: self.n_above] = params[: self.n_above]
        self._table(own, rows.size)[:] = self._table(params, self.squares.size)[rows]
        return Share(own, squares)

    def _apply(self, rows: list[np.ndarray], changes: list[TextChange]) -> tuple[float, float]:
        """The outer step, by means over the partitions that have a row, in their order; returns loss and weight."""
        mean = np.zeros_like(self.outer.params)
        above, weights = mean[: self.n_above], np.zeros_like(self.squares)
        table = self._table(mean, weights.size)
        weight, loss = sum(change.weight for change in changes), 0.0
        for numbers, (own_weight, own_loss, share) in zip(rows, changes, strict=True):
            loss += own_weight / weight * own_loss
            above += above.dtype.type(own_weight / weight) * share.params[: self.n_above]
            table[numbers] += above.dtype.type(own_weight) * self._table(share.params, numbers.size)[:]
            weights[numbers] += own_weight
            if share.squares.size:
                n_moments = share.squares.size - numbers.size
                if not self.squares_above.size:
                    self.squares_above = np.zeros(n_moments, self.squares.dtype)
                self.squares_above += share.squares[:n_moments]
                self.squares[numbers] += share.squares[n_moments:]
        for block in (table.left, table.right):
            block /= np.where(weights > 0, weights, 1)[:, np.newaxis]
        self.outer.apply(mean)
        return loss, weight
