"""Where compiled code is kept, and what happens when it cannot be."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from nbnet import code_cache, jit
from nbnet.jit import JIT_DISABLED

needs_jit = pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled with the JIT off")

FIT = """
    import numpy as np
    from nbnet import random
    print(random.permutation(0, 0, 5).sum())
"""


def run(code, **environment):
    environment = {**os.environ, **environment}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture
def fresh():
    code_cache.cache_directory.cache_clear()
    yield
    code_cache.cache_directory.cache_clear()


@pytest.mark.parametrize("variable", ["NBNET_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"])
def test_location_follows_the_environment(variable, tmp_path, monkeypatch, fresh):
    if variable == "XDG_CACHE_HOME" and sys.platform in ("win32", "darwin"):
        pytest.skip("only there")
    for name in ("NBNET_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    parent = tmp_path if variable == "NBNET_CACHE_DIR" else tmp_path / "nbnet"
    assert code_cache.cache_directory() == parent / code_cache.code_version()
    assert code_cache.cache_directory().is_dir()


def test_first_of_several_locations_that_can_be_written(tmp_path, monkeypatch, fresh):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("NBNET_CACHE_DIR", str(blocked))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "numba"))
    assert code_cache.cache_directory() == tmp_path / "numba" / "nbnet" / code_cache.code_version()


def test_one_warning_when_nothing_can_be_written(tmp_path, monkeypatch, fresh):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("NBNET_CACHE_DIR", str(blocked))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(blocked))
    monkeypatch.setattr(code_cache, "_user_cache_directory", lambda: blocked)
    with pytest.warns(RuntimeWarning, match="compiled anew in each process. Set NBNET_CACHE_DIR") as record:
        assert code_cache.cache_directory() is None
        assert code_cache.cache_directory() is None
    assert len(record) == 1


@pytest.mark.parametrize(
    ("platform", "variable", "end"),
    [("win32", "LOCALAPPDATA", ""), ("darwin", None, "Library/Caches"), ("linux", "XDG_CACHE_HOME", "")],
)
def test_cache_directory_of_each_system(platform, variable, end, tmp_path, monkeypatch):
    monkeypatch.setattr(code_cache.sys, "platform", platform)
    if variable:
        monkeypatch.setenv(variable, str(tmp_path))
        assert code_cache._user_cache_directory() == tmp_path
    else:
        assert str(code_cache._user_cache_directory()).endswith(end)


def test_no_home(monkeypatch):
    def nowhere():
        raise RuntimeError("no home")

    monkeypatch.setattr(code_cache.Path, "home", nowhere)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(code_cache.sys, "platform", "linux")
    assert code_cache._user_cache_directory().name == ".cache"


def test_a_folder_warmed_by_another_user_is_read(tmp_path, monkeypatch):
    def refuse(**kwargs):
        raise PermissionError

    monkeypatch.setattr(code_cache.tempfile, "TemporaryFile", refuse)
    assert not code_cache._is_writable(tmp_path)
    (tmp_path / "x.nbi").write_text("code")
    assert code_cache._is_writable(tmp_path)


@needs_jit
def test_second_process_compiles_nothing(tmp_path):
    count = """
        import numba.core.event as event
        class Counter(event.Listener):
            n = 0
            def on_start(self, e): Counter.n += 1
            def on_end(self, e): pass
        event.register("numba:compile", Counter())
    """
    code = textwrap.dedent(count) + textwrap.dedent(FIT) + "print(Counter.n)"
    first = run(code, NBNET_CACHE_DIR=str(tmp_path)).stdout.split()
    files = sorted(path.name for path in tmp_path.rglob("*.nbc"))
    second = run(code, NBNET_CACHE_DIR=str(tmp_path)).stdout.split()
    assert first[0] == second[0] and int(first[1]) > 0
    assert files and files == sorted(path.name for path in tmp_path.rglob("*.nbc"))
    assert int(second[1]) == 0


@needs_jit
def test_two_processes_at_once_and_a_damaged_cache(tmp_path):
    environment = {**os.environ, "NBNET_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", textwrap.dedent(FIT)]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert {process.communicate(timeout=300)[0] for process in processes} == {"10\n"}
    assert all(process.returncode == 0 for process in processes)
    assert not list(tmp_path.rglob("*.tmp.*"))
    for damaged in ("*.nbc", "*.nbi"):
        for path in tmp_path.rglob(damaged):
            path.write_bytes(b"damaged")
        assert run(FIT, NBNET_CACHE_DIR=str(tmp_path)).stdout == "10\n"


MODULE = """
    from nbnet.jit import cpu_kernel

    @cpu_kernel
    def add(x, n):
        x[0] += n

    @cpu_kernel
    def add_twice(x, n):
        add(x, n)
        add(x, 1)
"""

CALL = """
    import numpy as np, module
    x = np.zeros(1)
    module.add_twice(x, 2)
    print(x[0], len(module.add.overloads), sum(module.add_twice.stats.cache_hits.values()))
"""


@needs_jit
def test_a_kernel_is_compiled_once_and_linked(tmp_path):
    """Not for a literal again, nor into its caller, whose code finds it in each process."""
    (tmp_path / "module.py").write_text(textwrap.dedent(MODULE))
    environment = dict(NBNET_CACHE_DIR=str(tmp_path), PYTHONPATH=str(tmp_path))
    assert run(CALL, **environment).stdout.split() == ["3.0", "1", "0"]
    sizes = {path.name: path.stat().st_size for path in tmp_path.rglob("*.nbc")}
    assert run(CALL, **environment).stdout.split() == ["3.0", "1", "1"]
    (callee,) = (path for path in tmp_path.rglob("*.nbc") if "add-" in path.name)
    callee.unlink()
    assert run(CALL, **environment).stdout.split() == ["3.0", "1", "1"]
    assert {path.name for path in tmp_path.rglob("*.nbc")} == set(sizes)


@needs_jit
@pytest.mark.parametrize("names", [["add_twice", "add", "add_twice"], ["add", "add_twice", "add"]])
def test_python_calls_what_was_compiled_for_a_kernel(tmp_path, names):
    """Such a kernel has no entry for Python, and gets one when it needs it; with an empty cache and with a full one."""
    (tmp_path / "module.py").write_text(textwrap.dedent(MODULE))
    environment = dict(NBNET_CACHE_DIR=str(tmp_path), PYTHONPATH=str(tmp_path))
    calls = "".join(f"module.{name}(x, 2)\nprint(x[0])\n" for name in names)
    for some in (calls, calls, calls.splitlines()[0] + "\nprint(x[0])"):
        printed = run("import numpy as np, module\nx = np.zeros(1)\n" + some, **environment).stdout.split()
        sums = np.cumsum([{"add_twice": 3.0, "add": 2.0}[name] for name in names])
        assert list(map(float, printed)) == sums[: len(printed)].tolist()


TREE = """
    import parts
    from nbnet.jit import cpu_kernel

    @cpu_kernel
    def both(x, n):
        if parts.is_positive(x):
            parts.add(x, n)
            parts.add_product(x, n)
"""

PARTS = """
    from nbnet.jit import cpu_kernel

    @cpu_kernel
    def product(x, n):
        return x[0] * n

    @cpu_kernel
    def is_positive(x) -> bool:
        return x[0] > 0

    @cpu_kernel
    def add(x, n):
        x[0] += n

    @cpu_kernel
    def add_product(x, n):
        add(x, product(x, n))
"""

CALL_TREE = """
    import numba.core.event as event, numpy as np, parts, tree
    from nbnet import jit

    class Counter(event.Listener):
        names = []
        def on_start(self, e): Counter.names.append(e.data["dispatcher"].py_func.__name__)
        def on_end(self, e): pass

    event.register("numba:compile", Counter())
    jit.WORTHWHILE_KERNELS = 5  # the tree has that many
    x = np.ones(1)
    tree.both(x, {n})
    print(x[0], *Counter.names)
"""


@pytest.fixture
def tree(tmp_path):
    for name, source in (("parts", PARTS), ("tree", TREE)):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
    return dict(NBNET_CACHE_DIR=str(tmp_path / "code"), PYTHONPATH=str(tmp_path))


@needs_jit
def test_several_processes_compile_for_one(tree, tmp_path):
    """That one then compiles nothing, for whichever types."""
    assert run(CALL_TREE.format(n=2), **tree, NBNET_COMPILE_PROCESSES="2").stdout.split() == ["9.0"]
    assert run(CALL_TREE.format(n=2.0), **tree, NBNET_COMPILE_PROCESSES="2").stdout.split() == ["9.0"]
    assert run(CALL_TREE.format(n=2), **tree, NBNET_COMPILE_PROCESSES="1").stdout.split() == ["9.0"]
    one = run(CALL_TREE.format(n=2), **tree | dict(NBNET_CACHE_DIR=str(tmp_path / "one")), NBNET_COMPILE_PROCESSES="1")
    assert sorted(one.stdout.split()) == ["9.0", "add", "add", "add_product", "both", "is_positive", "product"]


@needs_jit
@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_kernel_that_does_not_compile_says_so_here(tree, processes, tmp_path):
    parts = tmp_path / "parts.py"
    parts.write_text(parts.read_text().replace("x[0] > 0", "1.0"))
    code = "try:\n    " + textwrap.dedent(CALL_TREE.format(n=2)).replace("\n", "\n    ")
    result = run(code + "\nexcept TypeError as error:\n    print(error)", **tree, NBNET_COMPILE_PROCESSES=processes)
    assert "is_positive is said to return bool, but (Array(float64, 1, 'C', False, aligned=True),)" in result.stdout


def test_number_of_processes_that_compile(monkeypatch):
    monkeypatch.setattr(jit.joblib, "cpu_count", lambda: 64)
    for wanted, n in (("3", 3), ("0", jit.MOST_PROCESSES), ("many", jit.MOST_PROCESSES), ("", jit.MOST_PROCESSES)):
        monkeypatch.setenv("NBNET_COMPILE_PROCESSES", wanted)
        assert jit.n_compile_processes() == n


@needs_jit
def test_a_full_disk_is_no_error(monkeypatch):
    def save(self, key, data):
        raise OSError("No space left on device")

    monkeypatch.setattr(code_cache.FolderCacheFile, "save", save)

    @jit.cpu_kernel
    def double(x):
        x[0] *= 2

    x = np.array([2.0])
    double(x)
    assert x[0] == 4


@needs_jit
def test_works_without_any_cache(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    environment = dict(NBNET_CACHE_DIR=str(blocked), NUMBA_CACHE_DIR=str(blocked), XDG_CACHE_HOME=str(blocked))
    result = run(FIT, **environment)
    assert result.stdout == "10\n"
    assert result.stderr.count("RuntimeWarning") == 1 or sys.platform in ("win32", "darwin")


def test_the_version_of_the_code_covers_every_kernel_source():
    root = Path(jit.__file__).parent
    marks = ("@cpu_kernel", "@cpu_inline", "@cpu_function", "@elementwise", "@intrinsic")
    on_cpu = (
        path for path in root.rglob("*.py") if path.parent != root / "cuda"
    )  # a GPU's kernels are not kept on disk
    with_kernels = {path for path in on_cpu if any(mark in path.read_text() for mark in marks)}
    hashed = {root / name for name in ("code_cache.py", "jit.py", "network.py", "random.py", "scalar.py")} | set(
        (root / "cpu").glob("*.py")
    )
    assert with_kernels <= hashed


def test_isnan_sees_a_nan():
    @jit.cpu_kernel
    def count(x):
        n = 0
        for value in x:
            if np.isnan(value):
                n += 1
        return n

    assert count(np.array([1.0, np.nan, np.inf])) == 1
