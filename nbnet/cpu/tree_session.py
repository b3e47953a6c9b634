"""The host side of a network over documents whose last layer is a tree of classes."""

from __future__ import annotations

import numpy as np

from ..network import Network
from . import tree_walk
from .text_session import Texts, TextSession
from .tree import Tree
from .tree_walk import Top
from .walk import LossRecord, Model, Plan, Targets
from .workers import Workers


class TreeSession(TextSession):
    """`TextSession` with a hierarchical softmax.

    Parameters
    ----------
    network : Network
        The first layer is an embedding, the last one a tree.
    params, loss, **options
        As for `TextSession`; there is no label smoothing.
    tree : Tree
        The classes' paths.
    """

    is_linear = False

    def __init__(self, network: Network, params: np.ndarray, loss, *, tree: Tree, **options):
        super().__init__(network, params, loss, **options)
        self.tree = tree
        n_above = int(network.layers["weight_start"][0])
        self.top, self.network = network.layers[-1:].copy(), self.network._replace(n_params=n_above)
        depth = tree.units.size / max(1, tree.starts.size - 1)
        self._flop_a_row += 2.0 * float(self.top["n_in"][0]) * (depth - float(self.top["n_out"][0]))

    def _run_steps(self, workers: Workers, rows: Texts, targets: Targets, plan: Plan, record: LossRecord) -> None:
        model = self._model(self._grads, self.moments[: self._n_moments_above])
        ends = self.below, self._top_of(targets, self.update.batch_size, self.n_workers)
        bags = self._training_bags(rows)
        workers.run(tree_walk.train_epoch, model, ends, bags, targets, self._work, plan, self._rule, record)

    def _run_evaluation(self, rows: Texts, targets: Targets, record: LossRecord) -> None:

        def top(n_workers: int) -> Top:
            return self._top_of(targets, tree_walk.PREDICT_ROWS, n_workers)

        self._run_blocks(rows, tree_walk.evaluate, lambda n: (targets, top(n)), (record,), with_slopes=True)

    def _run_prediction(self, rows: Texts, out: np.ndarray) -> None:
        n_units = self.tree.starts.size - 2

        def top(n_workers: int) -> Top:
            return Top(self.top, self.tree, np.zeros((n_workers, 0)), np.zeros((n_workers, n_units)))

        self._run_blocks(rows, tree_walk.predict, lambda n: (top(n),), (out,))

    def _top_of(self, targets: Targets, n_rows: int, n_workers: int) -> Top:
        """The last layer with room for the paths of any `n_rows` rows."""
        depths = np.diff(self.tree.starts)
        longest = np.sort(depths[targets.labels])
        if targets.label_starts.size:
            most = int(np.diff(targets.label_starts).max(initial=0))
            n_steps = n_rows * most * int(depths.max(initial=0))
        else:
            n_steps = int(longest[-n_rows:].sum())
        return Top(self.top, self.tree, np.zeros((n_workers, n_steps)), np.zeros((n_workers, 0)))

    def _model(self, grads: np.ndarray, moments: np.ndarray) -> Model:
        model = super()._model(grads, moments)
        return model._replace(layers=model.layers[:-1])
