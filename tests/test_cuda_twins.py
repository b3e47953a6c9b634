"""The contract of the two backends: twins share file, name and meaning. Read from the sources, without numba-cuda."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "nbnet"
KERNELS = ("dense", "dropout", "losses", "optimizers")  # files of which every public function has a twin ...
WITHOUT_TWIN = {  # ... but for these
    "activate_rows": "the end of a product's kernel",
    "adagrad_step": "a formula that optimizer_step gets",
    "adam_step": "a formula that optimizer_step gets",
    "backward_panel": "part of a kernel",
    "forward_panel": "part of a kernel",
    "labels_of": "of texts",
    "one_vs_all": "of texts",
    "pack_columns": "a copy for the cache",
    "panel": "part of a kernel",
    "panel_vectors": "part of a kernel",
    "sgd_step": "a formula that optimizer_step gets",
    "softmax_row": "part of a kernel",
    "sparse_panel": "part of a kernel",
    "transpose_weight": "a copy for the cache",
    "weight_gradient_block": "part of a kernel",
    "weight_gradient_panel": "part of a kernel",
}
OWN = {"flags_of_weights", "largest_magnitude", "matrix", "n_largest", "n_sums", "row_number", "sum_of_batches"}


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
    text = re.split(r",? for (?:the |all )?(?:rows|i) ", text.replace("[start:stop]", ""))[0]
    return re.split(r"[.;:,](?: |$)", text)[0]


TWINS = [
    (name, function) for name in KERNELS for function in sorted(functions(PACKAGE / "cuda" / f"{name}.py").keys() - OWN)
]


@pytest.mark.parametrize(("name", "function"), TWINS)
def test_twins_share_file_name_meaning_and_order_of_arguments(name, function):
    of_cpu = functions(PACKAGE / "cpu" / f"{name}.py")[function]
    of_cuda = functions(PACKAGE / "cuda" / f"{name}.py")[function]
    assert meaning(of_cuda) == meaning(of_cpu)
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
        assert set(arguments(of_cuda[name])) >= set(arguments(of_cpu[name])) - {"label_starts"}, name


@pytest.mark.parametrize("name", ["train_epoch", "full_gradient", "predict", "evaluate", "forward", "backward"])
def test_walks_have_the_same_parts(name):
    of_cpu, of_cuda = (functions(PACKAGE / backend / "walk.py") for backend in ("cpu", "cuda"))
    assert {"train_epoch": "train_step"}.get(name, name) in of_cuda
    assert name in of_cpu
