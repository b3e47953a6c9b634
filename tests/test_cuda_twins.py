"""The contract of the two backends: twins share file, name and meaning. Read from the sources, without numba-cuda."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "nbnet"
TABLES = ("dense", "dropout", "losses", "optimizers")
TEXTS = ("embedding", "embedding_updates", "tree")
IMAGES = ("augment", "batch_norm", "conv2d", "pooling")
KERNELS = (*TABLES, *TEXTS, *IMAGES)  # files of which every public function has a twin ...
WITHOUT_TWIN = {  # ... but for these
    "activate_map": "part of activation_forward's kernel",
    "activate_rows": "the end of a product's kernel",
    "activated": "part of activation_forward's kernel",
    "adagrad_step": "a formula that optimizer_step gets",
    "adagrad_steps": "part of embedding_step's kernel",
    "adam_rows": "part of embedding_step's kernel",
    "adam_step": "a formula that optimizer_step gets",
    "add_chosen": "part of embedding_step's kernel",
    "add_columns": "part of embedding_step's kernel",
    "add_documents": "part of embedding_step's kernel",
    "add_gradients": "part of embedding_step's kernel",
    "add_rows": "part of a kernel",
    "add_to_rows": "part of embedding_step's kernel",
    "assign_slots": "what the host does in occurrences.py",
    "backward_panel": "part of a kernel",
    "before_activation": "part of a kernel",
    "channels_from": "pixel_position, of a batch",
    "chunk_vectors": "part of a kernel",
    "clear_rest": "part of a kernel",
    "clear_slots": "memory that the GPU does not need",
    "contiguous": "tables say where inputs lie",
    "correlate": "a product of gathered windows",
    "correlate_panel": "part of a kernel",
    "count_tokens": "part of a kernel",
    "dot": "part of a kernel",
    "dot_row": "part of a kernel",
    "draw_change": "part of a kernel",
    "every": "tables say where inputs lie",
    "filter_gradient_panel": "part of a kernel",
    "filter_gradient_rows": "part of a kernel",
    "forward_panel": "part of a kernel",
    "huffman_tree": "of the host",
    "initialize_rows": "done before the table is uploaded",
    "mean_of_channel": "part of a kernel",
    "multiply": "part of embedding_step's kernel",
    "pack_columns": "a copy for the cache",
    "padded": "round_up",
    "panel": "part of a kernel",
    "panel_vectors": "part of a kernel",
    "pixel": "tables say where inputs lie",
    "place_of": "tables lie row by row on a GPU",
    "plain_forward": "part of activation_forward's kernel",
    "pool_channels": "part of activation_forward's kernel",
    "pooled_forward": "part of activation_forward's kernel",
    "position_of": "pixel_position, of a batch",
    "prefetch_documents": "for the cache",
    "prefetch_targets": "for the cache",
    "sgd_step": "a formula that optimizer_step gets",
    "softmax_row": "part of a kernel",
    "source_of": "part of activation_forward's kernel",
    "sparse_panel": "part of a kernel",
    "steps_of": "what the host does in tree_session.py",
    "store_output": "part of activation_forward's kernel",
    "sum_columns": "part of a kernel",
    "times_slope": "part of a kernel",
    "token_norm": "part of embedding_step's kernel",
    "transpose_filters": "a copy for the cache",
    "transpose_weight": "a copy for the cache",
    "unit_start": "part of a kernel",
    "weight_gradient_block": "part of a kernel",
    "weight_gradient_panel": "part of a kernel",
}
OWN = {
    "add_bias",
    "add_pixels",
    "as_rule",
    "atomic_step",
    "choose_tile",
    "conv2d_activated",
    "deliver_four",
    "end_of_layer",
    "flags_of_weights",
    "largest_magnitude",
    "matrix",
    "n_largest",
    "n_slices",
    "n_sums",
    "overwrite",
    "pieces_size",
    "pixel_position",
    "place_of_thread",
    "row_number",
    "sine_cosine",
    "subtract_labels",
    "sum_of_batches",
    "sum_slices",
    "update_of",
    "upload_tree",
}
OTHER_MEANING = {"conv2d_filter_gradient"}  # of a whole batch, which the CPU adds up image by image
# how the CPU says that a call does one document, or some columns, of a batch
ONE_OF_MANY = {
    "x[0": "x[i",
    "weights[k + q]": "weights[q]",
    " for the document `row` and columns [columns[0], columns[1])": "",
    " for the documents of a batch": "",
    " of a batch's documents": "",
    "of a document's tokens": "of the tokens",
    " [i_range[0], i_range[1])": "",
    " [d_range[0], d_range[1]) of `order`": "",
    " `order`": "",
    "some columns of ": "",
    ", from position k on, into": " into",
}


def functions(path):
    """Public functions of a file, or of its classes as "Class.method"."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found |= {f"{node.name}.{part.name}": part for part in node.body if isinstance(part, ast.FunctionDef)}
    return {name: node for name, node in found.items() if not name.split(".")[-1].startswith("_")}


def arguments(node):
    return [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]


def meaning(node):
    """What the docstring says first, less which rows or parameters a call does."""
    text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    for one, many in ONE_OF_MANY.items():
        text = text.replace(one, many)
    text = re.split(r",? for (?:the |all )?(?:rows|i) ", text.replace("[start:stop]", ""))[0]
    return re.sub(r" (?:of|for) (?:one|each|a) (?:image|batch)(?:'s)?", "", re.split(r"[.;:,](?: |$)", text)[0])


TWINS = [
    (name, function) for name in KERNELS for function in sorted(functions(PACKAGE / "cuda" / f"{name}.py").keys() - OWN)
]


@pytest.mark.parametrize(("name", "function"), TWINS)
def test_twins_share_file_name_meaning_and_order_of_arguments(name, function):
    of_cpu = functions(PACKAGE / "cpu" / f"{name}.py")[function]
    of_cuda = functions(PACKAGE / "cuda" / f"{name}.py")[function]
    assert (meaning(of_cuda) == meaning(of_cpu)) == (function not in OTHER_MEANING)
    shared = [argument for argument in arguments(of_cpu) if argument in arguments(of_cuda)]
    assert shared == [argument for argument in arguments(of_cuda) if argument in shared]
    assert len(shared) >= 1


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_has_its_twin(name):
    of_cpu = set(functions(PACKAGE / "cpu" / f"{name}.py"))
    of_cuda = set(functions(PACKAGE / "cuda" / f"{name}.py"))
    assert of_cpu - of_cuda == {function for function in WITHOUT_TWIN if function in of_cpu}
    assert of_cuda - of_cpu <= OWN


def test_sessions_are_called_alike():
    of_cpu, of_cuda = (functions(PACKAGE / backend / "session.py") for backend in ("cpu", "cuda"))
    calls = {name for name in of_cpu if name.startswith("Session.")} | {"as_rows", "as_targets"}
    assert calls <= of_cuda.keys()
    for name in calls:
        assert set(arguments(of_cuda[name])) >= set(arguments(of_cpu[name])), name


@pytest.mark.parametrize("file", ["text_session", "tree_session"])
def test_sessions_over_documents_are_called_alike(file):
    of_cpu, of_cuda = (functions(PACKAGE / backend / f"{file}.py") for backend in ("cpu", "cuda"))
    inherited = {name.split(".")[-1] for name in functions(PACKAGE / "cuda" / "session.py")}
    workers = {"TextSession.most_useful_workers", "TextSession.is_linear"}  # of the CPU alone
    for name in of_cpu.keys() - workers - {"blocks_of", "initialize_table"}:
        assert name in of_cuda or name.split(".")[-1] in inherited
        if name in of_cuda:
            assert arguments(of_cuda[name]) == arguments(of_cpu[name]), name


def test_modules_for_documents_offer_the_same_names():
    offered = {}
    for backend in ("cpu", "cuda"):
        tree = ast.parse((PACKAGE / backend / "text_session.py").read_text(encoding="utf-8"))
        offered[backend] = next(
            set(ast.literal_eval(node.value))
            for node in tree.body
            if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
        )
    assert offered["cpu"] <= offered["cuda"]


OF_ALL = ("train_epoch", "predict", "evaluate")
PARTS = [
    *(("walk", name) for name in (*OF_ALL, "full_gradient", "forward", "backward")),
    *(("text_walk", name) for name in (*OF_ALL, "pool", "pool_batch", "document_gradients")),
    *(("tree_walk", name) for name in (*OF_ALL, "hidden_forward", "last_input")),
]


@pytest.mark.parametrize(("file", "name"), PARTS)
def test_walks_have_the_same_parts(file, name):
    of_cpu, of_cuda = (functions(PACKAGE / backend / f"{file}.py") for backend in ("cpu", "cuda"))
    assert {"train_epoch": "train_step"}.get(name, name) in of_cuda
    assert name in of_cpu


WALKS_OF_IMAGES = {
    "conv_forward": ["conv_layer_forward", "join_statistics", "pool_layer_forward", "read_images"],
    "conv_backward": ["gradient_of_conv", "pool_layer_backward"],
    "conv_walk": ["copy_features", "evaluate", "predict", "predict_features", "read_weights", "train_epoch"],
    "conv_session": ["ConvSession.loss_and_gradient", "ConvSession.state", "ConvSession.transform", "as_images"],
}


@pytest.mark.parametrize("name", list(WALKS_OF_IMAGES))
def test_walks_over_images_have_the_same_parts(name):
    of_cpu, of_cuda = (functions(PACKAGE / backend / f"{name}.py") for backend in ("cpu", "cuda"))
    for function in WALKS_OF_IMAGES[name]:
        assert {"train_epoch": "train_step"}.get(function, function) in of_cuda
        assert function in of_cpu
