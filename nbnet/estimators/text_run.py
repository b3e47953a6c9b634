"""One call of fit or partial_fit on documents: the network, its starting point, and what the training needs."""

from __future__ import annotations

import numpy as np
from scipy.special import xlogy

from .. import network, trainer
from ..network import DenseSpec, EmbeddingSpec, EmbeddingTable, Loss, Network, Pooling
from ..tokens import TokenIndex
from .embeddings import fill_pretrained_rows
from .reader import Reader, open_session
from .run import Run, Table
from .validation import cast_finite, check_activations, check_hidden_layer_sizes

BATCH_SIZE = 32  # documents of a batch where the user leaves it to us
TAME_RATE = 0.5  # no step of adagrad is longer than the rate: linear classifiers diverge from rates of 20 on
WORST_LOSS = 1000.0  # times 1 + log(n_classes), about the loss of a guess: an epoch above it has diverged

POOLINGS = {member.name.lower(): member for member in Pooling}
LOSSES = {
    "softmax": Loss.SOFTMAX_CROSS_ENTROPY,
    "hierarchical_softmax": Loss.SOFTMAX_CROSS_ENTROPY,  # computed along the paths of a tree
    "one_vs_all": Loss.SIGMOID_CROSS_ENTROPY,
}


def build_network(estimator, n_rows: int, n_outputs: int) -> tuple[Network, Network]:
    """The layers above the embedding, and all layers."""
    sizes = check_hidden_layer_sizes(estimator.hidden_layer_sizes)
    activations = check_activations(estimator.activation, len(sizes))
    hidden = [DenseSpec(n, act, estimator.dropout) for n, act in zip(sizes, activations, strict=True)]
    embedding = EmbeddingSpec(n_rows, estimator.embedding_dim, POOLINGS[estimator.pooling], estimator.dropout)
    return assemble_network(embedding, hidden, n_outputs, estimator.loss == "hierarchical_softmax")


def assemble_network(
    embedding: EmbeddingSpec, hidden: list[DenseSpec], n_outputs: int, is_tree: bool
) -> tuple[Network, Network]:
    """The layers above the embedding, and all layers; the last one is a tree of classes or fully connected."""
    dim = embedding.dim
    if is_tree:
        dense = network.build(dim, hidden)
        top = network.put_tree_on_top(dense, hidden[-1].n_out if hidden else dim, n_outputs)
    else:
        dense = top = network.build(dim, [*hidden, DenseSpec(n_outputs)])
    return dense, network.put_below(top, embedding)


def smallest_loss(estimator, table: Table, n_outputs: int) -> float:
    """Mean loss of perfect predictions: the entropy of the targets, which smoothing and shared labels give them."""
    smoothing = estimator.label_smoothing
    if estimator.loss == "hierarchical_softmax":
        smoothing = 0.0
    weights = np.bincount(table.encoded.lengths, table.loss_weights)
    n_labels, others = np.arange(weights.size), smoothing / n_outputs
    if estimator.loss == "one_vs_all":
        label = 1.0 - smoothing + others
        of_label, of_other = (xlogy(t, t) + xlogy(1.0 - t, 1.0 - t) for t in (label, others))
    else:
        label = (1.0 - smoothing) / np.maximum(n_labels, 1) + others
        of_label, of_other = xlogy(label, label), xlogy(others, others)
    entropies = -n_labels * of_label - (n_outputs - n_labels) * of_other
    return float(np.average(entropies, weights=weights))


def table_of(params: np.ndarray, of: Network) -> EmbeddingTable:
    """The rows of the embedding, to be read and written."""
    return EmbeddingTable(params, of.layers[0])


def starting_params(estimator, backend, index: TokenIndex, n_outputs: int, latest, dtype, seed: int):
    """The network, and parameters to start from.

    Parameters
    ----------
    latest : ndarray or None
        Parameters to go on from, which may lack the rows of new words; None: start anew.

    Raises
    ------
    ValueError
        If a network that goes on has other layers than the fitted one.
    """
    dense, whole = build_network(estimator, index.n_rows, n_outputs)
    params = network.aligned_zeros(whole.n_params, dtype)
    first_row = 0
    if latest is not None:
        fitted = estimator.network_.layers
        first_row = int(fitted["n_in"][0])
        sizes, fitted_sizes = whole.layers["n_out"].tolist(), fitted["n_out"].tolist()
        if sizes != fitted_sizes:
            raise ValueError(
                f"The fitted network has layers of sizes {fitted_sizes}, from embedding to output, but the parameters "
                f"and the data ask for {sizes}; fit with warm_start=False to start anew."
            )
        n_above = network.above(whole).n_params
        params[:n_above] = latest[:n_above]
        table, old = table_of(params, whole), table_of(latest, estimator.network_)
        table.left[:first_row], table.right[:first_row] = old.left, old.right
    elif check_hidden_layer_sizes(estimator.hidden_layer_sizes):  # a linear output layer starts at zero, as fastText's
        params[: dense.n_params] = network.initialize(dense, dtype, seed)
    pretrained = estimator.pretrained_embeddings
    if not (estimator.freeze_embeddings and pretrained is not None):  # there, words without a vector have none
        backend.initialize_table(whole, params, seed, first_row, n_jobs=estimator.n_jobs)
    if pretrained is not None:
        fill_pretrained_rows(pretrained, index, table_of(params, whole), first_row)
    return whole, params


class TextRun(Run):
    """One call of fit or partial_fit of a `TextEmbeddingClassifier`.

    Parameters
    ----------
    estimator : TextEmbeddingClassifier
        With its fitted attributes, but for those that training gives.
    backend, seed
        As in `Run`.
    params : ndarray (n_params,)
        Starting point.
    table : Table
        Documents to train on.
    learned : Texts or None
        The same as the backend reads them, in `fit` and `partial_fit`.
    is_new : bool
        Whether the vectors to start from are small and random.
    """

    starts_usable = True

    def __init__(self, estimator, backend, params: np.ndarray, table: Table, seed: int, learned=None, is_new=False):
        n_outputs = int(estimator.network_.layers["n_out"][-1])
        self.largest_loss = WORST_LOSS * (1.0 + np.log(n_outputs))
        if estimator.target_loss is not None:
            self.target_loss = estimator.target_loss + smallest_loss(estimator, table, n_outputs)
        # a snapshot would be a third of the memory of a fit
        is_linear = not check_hidden_layer_sizes(estimator.hidden_layer_sizes)
        is_gentle = estimator.solver == "adagrad" and estimator.learning_rate_init <= TAME_RATE and not estimator.alpha
        self.keeps_snapshot = not (is_new and is_linear and is_gentle)
        batch_size = min(BATCH_SIZE, len(table.X)) if estimator.batch_size == "auto" else estimator.batch_size
        fixed = {"nesterovs_momentum": False, "max_fun": 0, "max_grad_norm": None}
        settings = trainer.Settings.of(estimator, batch_size=batch_size, **fixed)
        session = open_session(
            backend,
            estimator,
            params,
            frozen=estimator.freeze_embeddings,
            label_smoothing=estimator.label_smoothing,
            sample_labels=estimator.sample_labels and estimator.loss != "one_vs_all",
            n_jobs=estimator.n_jobs,
        )
        session.deterministic = estimator.deterministic  # a GPU's reads it
        super().__init__(estimator, backend, session, settings, seed)
        self.learned = learned

    def stochastic(self, data, validation, hooks, first_pass, incremental):
        self.session.expect(data.rows)
        return super().stochastic(data, validation, hooks, first_pass, incremental)

    def training_rows(self, X):
        return self.learned

    def rows(self, X):
        return Reader(self.estimator, None).documents(X.tolist(), self.estimator.n_jobs)

    def targets(self, table: Table):
        labels, dtype = table.encoded, self.session.params.dtype
        starts = None if labels.single else labels.starts
        weights = cast_finite(table.loss_weights, dtype, "sample_weight")
        return self.backend.as_targets(labels.numbers, None, weights, self.session.n_outputs, dtype, starts)

    def attributes(self, params: np.ndarray) -> dict:
        return {"params_": params, "_reader": Reader(self.estimator, params), "_latest_params": None}

    def predict(self, session, rows) -> np.ndarray:
        return Reader(self.estimator, None).probabilities(session, rows)
