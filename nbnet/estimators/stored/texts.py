"""`TextEmbeddingClassifier` in model files."""

from __future__ import annotations

import numpy as np

from ... import trainer
from ...model_files import Arrays, Fields, ModelFileError, encode
from ...network import EmbeddingSpec, Loss, Network, Pooling
from ...tokens import Analysis, TokenIndex
from ..reader import Reader, idf
from ..text import TextEmbeddingClassifier
from ..text_run import LOSSES, POOLINGS, assemble_network, table_of
from .layers import decode_dense, dense_specs_of, encode_dense, share
from .names import describe_labels, restored_labels

MOST_LENGTHS = 100  # of n-grams and of parts of words: the memory to read a text grows with their number
FREE_BUCKETS = 2**24  # so many cost little; more must be in proportion to the table
MOST_DOCUMENTS = 2**53

# parameters of the estimator that decide how texts are cut, and their names in `Analysis`
ANALYSIS = {name: name for name in Analysis.__dataclass_fields__ if name != "merge_repeats"}
ANALYSIS["sublinear_tf"] = "merge_repeats"

INDEX_TYPES = {
    "text": np.uint8,
    "starts": np.int64,
    "hashes": np.uint64,
    "word_rows": np.int32,
    "buckets": np.int32,
    "bucket_rows": np.int32,
    "document_frequency": np.int64,
}


def describe(estimator, header: dict, arrays: dict) -> None:
    """Add how texts are cut, vocabulary, layers, and what the labels are."""
    analysis = estimator._index.analysis
    try:
        check_sizes(analysis, table_of(estimator.params_, estimator.network_).shape)
        header["analysis"] = {name: encode(getattr(analysis, field)) for name, field in ANALYSIS.items()}
    except (TypeError, ModelFileError) as error:
        raise ValueError(f"The vocabulary cannot be saved: {error}") from None
    describe_learned(estimator, header, arrays)


def describe_learned(estimator, header: dict, arrays: dict) -> None:
    """Add all but how texts are cut."""
    index, layers, tree = estimator._index, estimator.network_.layers, estimator._tree
    header["n_documents"] = int(index.n_documents)
    arrays.update({f"index.{name}": array for name, array in index.to_arrays().items()})

    header["pooling"], header["dropout"] = Pooling(layers[0]["pooling"]).name.lower(), float(layers[0]["dropout"])
    dense = dense_specs_of(layers)
    header["layers"] = encode_dense(dense if tree is not None else dense[:-1])
    header["idf"] = estimator.idf_ is not None
    header["loss"] = "one_vs_all" if estimator._loss == Loss.SIGMOID_CROSS_ENTROPY else "softmax"
    if tree is not None:
        header["loss"] = "hierarchical_softmax"
        arrays["tree.starts"], arrays["tree.units"], arrays["tree.turns"] = tree.starts, tree.units, tree.turns > 0

    describe_labels(estimator.classes_, header, arrays)
    header["multilabel"], header["sparse_labels"] = bool(estimator._multilabel), bool(estimator._sparse_labels)
    arrays["class_counts"], header["class_total"] = estimator._class_counts[0], encode(estimator._class_counts[1])


def restore(estimator, header: Fields, arrays: Arrays, dtype) -> Network:
    """Inverse of `describe`."""
    return restore_learned(estimator, restored_analysis(header.fields("analysis")), header, arrays, dtype)


def restore_learned(estimator, analysis: Analysis, header: Fields, arrays: Arrays, dtype) -> Network:
    """Inverse of `describe_learned`."""
    backend = trainer.backend_for(estimator.device, "text_session", fitted=True)
    n_rows, dim = table_shape = arrays.shape("layers.0.weight")
    check_sizes(analysis, table_shape)
    parts = {name: arrays.take(f"index.{name}", dtype, (None,)).copy() for name, dtype in INDEX_TYPES.items()}
    index = TokenIndex.from_arrays(analysis, parts, header.integer("n_documents", 1, MOST_DOCUMENTS))
    if index.n_rows != n_rows:
        raise ModelFileError(f"{index.n_rows} words and n-grams have {n_rows} vectors.")
    estimator._index, estimator.idf_ = index, idf(index) if header.value("idf", bool) else None

    classes = restored_labels(header, arrays)
    n_classes = len(classes)
    estimator.classes_ = classes
    estimator._multilabel, estimator._sparse_labels = (
        header.value(name, bool) for name in ("multilabel", "sparse_labels")
    )
    counts, total = arrays.take("class_counts", np.float64, (n_classes,)).copy(), header.value("class_total", float)
    if not (0 < total < np.inf) or not ((counts >= 0) & (counts <= 2 * total)).all():  # a sum may be rounded
        raise ModelFileError("the weights of the classes are not between 0 and that of all documents.")
    estimator._class_counts, estimator.class_prior_ = (counts, total), (counts / total).astype(dtype)

    loss = header.choice("loss", LOSSES)
    estimator._loss, estimator._tree = LOSSES[loss], None
    if loss == "hierarchical_softmax":
        starts = arrays.take("tree.starts", np.int64, (n_classes + 1,)).copy()
        units = arrays.take("tree.units", np.int32, (None,)).copy()
        turns = arrays.take("tree.turns", np.bool_, units.shape).astype(np.float64)
        check_tree(starts, units, turns)
        estimator._tree = backend.Tree(starts, units, turns)
    hidden, dropout = decode_dense(header.items("layers")), share(header.take("dropout"))
    embedding = EmbeddingSpec(n_rows, dim, POOLINGS[header.choice("pooling", POOLINGS)], dropout)
    return assemble_network(embedding, hidden, n_classes, loss == "hierarchical_softmax")[1]


def complete(estimator) -> None:
    """What needs the weights."""
    estimator._reader = Reader(estimator, estimator.params_)


def restored_analysis(fields: Fields) -> Analysis:
    """How texts are cut, checked as the parameters of an estimator are."""
    likewise = TextEmbeddingClassifier(**{name: fields.value(name) for name in ANALYSIS if name in fields.entries})
    fields.finish()
    likewise._validate_params()
    return likewise._analysis()


def check_sizes(analysis: Analysis, table_shape: tuple[int, int]) -> None:
    """Raise where an index takes memory out of proportion to the table of vectors."""
    for name in ("ngram_range", "subword_range"):
        bounds = getattr(analysis, name)
        if bounds is not None and bounds[1] > MOST_LENGTHS:
            raise ModelFileError(f"{name}={bounds} goes beyond {MOST_LENGTHS}.")
    most = max(FREE_BUCKETS, table_shape[0] * table_shape[1])
    if analysis.n_buckets > most:
        raise ModelFileError(f"n_buckets={analysis.n_buckets} is above {most}, out of proportion to the vectors.")


def check_tree(starts: np.ndarray, units: np.ndarray, turns: np.ndarray) -> None:
    """Raise unless the paths are those of a binary tree: from unit 0, each turn of each unit to one class or unit."""
    n_classes = starts.size - 1
    lengths = np.diff(starts)
    if starts[0] != 0 or starts.min() < 0 or starts[-1] != units.size or (lengths < (n_classes > 1)).any():
        raise ModelFileError("the paths of the classes do not lie one behind the other.")
    if not units.size:
        return
    if units.min() < 0 or units.max() > n_classes - 2 or (units[starts[:-1]] != 0).any():
        raise ModelFileError(f"the paths of {n_classes} classes pass other units than 0 to {n_classes - 2}.")
    leads_to = np.append(units[1:], 0).astype(np.int64)
    leads_to[starts[1:] - 1] = n_classes + np.arange(n_classes)  # a class, where a path ends
    edges = np.unique(np.stack([2 * units.astype(np.int64) + (turns > 0), leads_to]), axis=1)
    n_edges = 2 * (n_classes - 1)
    if edges.shape[1] != n_edges or any(np.unique(side).size != n_edges for side in edges):
        raise ModelFileError("the paths of the classes are not those of a tree.")
