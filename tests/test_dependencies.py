"""Dependencies point one way, and nothing beyond the declared packages is needed at run time."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "nbnet"

# part of the package -> the parts that it may import, itself apart
MAY_IMPORT = {
    "code_cache": set(),
    "jit": {"code_cache"},
    "network": {"random"},
    "random": {"jit"},
    "scalar": {"jit", "network"},
    "image_network": {"network", "random"},
    "epochs": {"network"},
    "cpu": {"epochs", "image_network", "jit", "network", "random", "scalar"},
    "cuda": {"cpu", "epochs", "image_network", "network", "random", "scalar"},
    "progress": {"model_files"},
    "checkpoints": {"__init__", "model_files", "progress"},
    "schedules": {"network"},
    "characters": {"cpu"},
    "texts": {"cpu"},
    "vocabulary": {"characters", "cpu", "texts"},
    "token_counts": {"vocabulary"},
    "tokens": {"characters", "cpu", "texts", "token_counts", "vocabulary"},
    "lbfgs": {"network", "progress", "schedules", "trainer"},
    "model_files": {"__init__"},
    "trainer": {"checkpoints", "cpu", "cuda", "epochs", "network", "progress", "random", "schedules"},
    "metrics": set(),
    "tagging": {"cpu"},
    "estimators": {
        "checkpoints",
        "image_network",
        "images",
        "lbfgs",
        "metrics",
        "model_files",
        "network",
        "progress",
        "random",
        "schedules",
        "tagging",
        "tokens",
        "trainer",
    },
    "images": {"cpu", "random"},
    "onnx": {"__init__", "cpu", "estimators", "image_network", "network", "scalar"},
    "inspection": {
        "cpu",
        "estimators",
        "image_network",
        "images",
        "network",
        "scalar",
        "texts",
        "tokens",
        "vocabulary",
    },
    "labeling": {"estimators"},
    "model_selection": {"estimators", "trainer"},
    "dask": {"estimators", "network", "progress", "random", "schedules", "token_counts", "tokens", "trainer"},
    "plotting": {"inspection"},
    "datasets": set(),
    "testing": set(),
    "__init__": set(),
    "__main__": {"__init__", "cpu", "cuda", "datasets", "estimators", "code_cache", "jit"},
}
RUN_TIME = {"joblib", "llvmlite", "numba", "numpy", "scipy", "sklearn", "threadpoolctl"}
OPTIONAL = {
    "datasets": {"pandas"},
    "testing": {"pandas"},
    "images": {"PIL"},
    "plotting": {"matplotlib"},
    "cuda": {"cuda"},
    "model_files": {"safetensors"},
    "onnx": {"onnx", "skl2onnx"},
    "dask": {"dask"},
}
MODULES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


def _part(name):
    return Path(name).parts[0].removesuffix(".py")


def _imports(name):
    """Pairs (part of nbnet or None, top-level package or None) of each import statement, nested ones included."""
    package = ("nbnet", *Path(name).parts[:-1])
    for node in ast.walk(ast.parse((PACKAGE / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield None, alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            if not node.level:
                yield None, node.module.split(".")[0]
                continue
            base = package[: len(package) - node.level + 1] + tuple((node.module or "").split("."))
            below = [part for part in base[1:] if part]
            for alias in node.names:
                part = below[0] if below else alias.name
                yield (part if part in MAY_IMPORT else "__init__"), None


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    part = _part(name)
    assert part in MAY_IMPORT, f"say in this test what nbnet.{part} may import"
    inside = {target for target, _ in _imports(name) if target} - {part}
    assert inside <= MAY_IMPORT[part]
    outside = {package for _, package in _imports(name) if package and package not in sys.stdlib_module_names}
    assert outside <= RUN_TIME | OPTIONAL.get(part, set())


def test_numba_cuda_is_imported_in_one_place():
    places = [
        name
        for name in MODULES
        if re.search(
            r"(import|from) numba\.cuda|from numba import .*cuda", (PACKAGE / name).read_text(encoding="utf-8")
        )
    ]
    # intrinsics build LLVM instructions, which needs more of numba-cuda than kernels do
    assert places == [str(Path("cuda", "intrinsics.py")), str(Path("cuda", "jit.py"))]


def test_fitting_on_the_cpu_imports_no_numba_cuda():
    script = """
import sys, numpy, nbnet
X = numpy.eye(4, dtype="float32")
nbnet.MLPClassifier((2,), solver="lbfgs", max_iter=2000).fit(X, [0, 0, 1, 1]).predict(X)
print(sorted(m for m in sys.modules if m.startswith(("numba.cuda", "nbnet.cuda"))))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_nbnet_loads_no_kernel():
    script = "import sys, nbnet; print(sorted(m for m in sys.modules if m.split('.')[0] in ('numba', 'sklearn')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
