"""Nothing leaves the machine, and no code is run that came with data."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "nbnet"
NETWORK = {
    "asyncio",
    "ftplib",
    "http",
    "imaplib",
    "poplib",
    "smtplib",
    "socket",
    "ssl",
    "urllib",
    "webbrowser",
    "xmlrpc",
}
CODE = {"dill", "cloudpickle", "marshal", "pickle", "shelve"}


def modules_imported(path: Path) -> set[str]:
    """Modules that a file imports, however deep in it, and their packages."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
    return names | {name.split(".")[0] for name in names}


def test_no_module_can_open_a_connection():
    """`nbnet.dask` moves data as well, but through Dask alone, to workers that the user has started."""
    users = {path.name: modules_imported(path) & NETWORK for path in PACKAGE.rglob("*.py")}
    assert not {name: found for name, found in users.items() if found}


def test_no_module_reads_pickles():
    files = [
        path for path in PACKAGE.rglob("*.py") if path.parent.name != "testing"
    ]  # which tries whether pickles work
    users = {path.name: modules_imported(path) & CODE for path in files}
    assert not {name: found for name, found in users.items() if found}


# Python reports to its audit hooks what a program does: opens connections, starts programs, reads pickles.
SCRIPT = """
import os, sys, warnings
import numpy as np

warnings.simplefilter("ignore")
WATCHED = "socket. urllib. http. ftplib. smtplib. subprocess. os.system os.exec os.posix_spawn".split()
seen = []

def hook(event, arguments):
    if event.startswith(tuple(WATCHED)):
        seen.append(event)

sys.addaudithook(hook)
from nbnet import ConvClassifier, MLPClassifier, TextEmbeddingClassifier, TokenTagger, load
from nbnet.datasets import load_sms_spam
from nbnet.inspection import attributions

rng = np.random.default_rng(0)
y = np.arange(12) % 3
settings = dict(max_iter=1, random_state=0)
texts = load_sms_spam(return_X_y=True)[0][:12]
sentences = [text.split() for text in texts]
path = os.path.join(sys.argv[1], "model")

fits = [
    (MLPClassifier((3,), **settings), rng.normal(size=(12, 4)), y),
    (ConvClassifier((2,), (), **settings), rng.random((12, 4, 4)), y),
    (TextEmbeddingClassifier(embedding_dim=2, n_buckets=64, **settings), texts, y),
    (TokenTagger(embedding_dim=2, **settings), sentences, [["O"] * len(tokens) for tokens in sentences]),
]
for model, X, target in fits:
    model.fit(X, target, checkpoint=os.path.join(sys.argv[1], "fit")).predict(X)
    model.save(path)
    load(path).predict(X)
    if not isinstance(model, TokenTagger):
        attributions(model, X[:2])
assert not seen, seen

# loading again, when all kernels are there: compiled code in Numba's cache is pickled, models are not
WATCHED += "pickle. marshal. exec compile import ctypes.dlopen".split()
read = load(path)
assert not seen, seen
import pickle
pickle.loads(pickle.dumps(read.classes_))
assert "pickle.find_class" in seen, "this hook would not have seen anything"
"""


def test_nothing_leaves_the_machine_and_model_files_run_no_code(tmp_path):
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
