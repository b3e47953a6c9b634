"""The host side of a network over documents whose last layer is a tree of classes, on the GPU."""

from __future__ import annotations

from functools import partial

import numpy as np

from ..cpu.dense import Matrix
from ..cpu.tree import Tree
from ..network import Network, round_up
from . import tree_walk
from .dense import matrix
from .launch import check_size, empty
from .occurrences import Grouping, positions_of
from .text_session import TextSession
from .text_streaming import Texts
from .tree import upload_tree
from .tree_walk import Top, TreeBags
from .walk import Targets

MOST_OUTPUTS = 2**26  # of all units, of the documents that are predicted together


def steps_of(tree: Tree, targets) -> tuple[np.ndarray, np.ndarray]:
    """Units on the paths of each document's labels, one document after another, and where each one's begin."""
    depths = np.diff(tree.starts)[targets.labels]
    steps = np.append(0, np.cumsum(depths))
    starts = steps[targets.label_starts] if targets.label_starts.size else steps
    return tree.units[positions_of(tree.starts[targets.labels], depths)], starts


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

    _walk = tree_walk

    def __init__(self, network: Network, params: np.ndarray, loss, *, tree: Tree, **options):
        super().__init__(network, params, loss, **options)
        self.tree, self.top = tree, network.layers[-1]
        self._paths, self._depths = upload_tree(tree, self._kind), np.diff(tree.starts)

    # ---------------------------------------------------------------- training

    def _training_rows(self, rows: Texts, targets: Targets, order: np.ndarray) -> TreeBags:
        labels, slopes = targets.host.labels, self._slopes_of(targets, self.update.batch_size)
        is_drawn = targets is self._drawn  # anew in each epoch
        n_steps = labels.size * self._depths.max(initial=0) if is_drawn else self._depths[labels].sum()
        groups = self._room_for(order, int(n_steps))
        n_groups = min(int(self.top["n_out"]) - 1, self.update.batch_size * int(slopes.stride))
        top = Top(self.top, self._paths, slopes, matrix(self._none, 0, 0), groups, n_groups)
        units = Grouping(partial(steps_of, self.tree, targets.host), groups, int(slopes.stride))
        bags, groupings = self._training_bags(rows, order)
        return TreeBags(rows.n_rows, bags, top, self._ready(bags, [*groupings, units]))

    def _slopes_of(self, targets: Targets, n_rows: int) -> Matrix:
        """Room for the paths of any `n_rows` documents."""
        label_starts = targets.host.label_starts
        n_labels = np.diff(label_starts).max(initial=1) if label_starts.size else 1
        most = int(n_labels * self._depths.max(initial=0))
        check_size(n_rows * most, f"the paths of {n_rows} documents")
        return matrix(empty(max(n_rows * most, 1), self._kind), 0, most)

    # ---------------------------------------------------------------- without training

    @property
    def _block_rows(self) -> int:
        return max(1, min(super()._block_rows, MOST_OUTPUTS // int(self.top["n_out"])))

    def _rows_of(self, rows: Texts, targets: Targets | None = None) -> TreeBags:
        n, nothing = min(self._block_rows, max(rows.n_rows, 1)), matrix(self._none, 0, 0)
        if targets is not None:
            top = Top(self.top, self._paths, self._slopes_of(targets, n), nothing)
        else:
            stride = round_up(int(self.top["n_out"]))
            top = Top(self.top, self._paths, nothing, matrix(empty(n * stride, self._kind), 0, stride))
        bags = self._bags_of(rows)
        return TreeBags(rows.n_rows, bags, top, bags.pieces)

    # ---------------------------------------------------------------- memory

    def _model(self, grads):
        model = super()._model(grads)
        return model._replace(layers=model.layers[:-1])
