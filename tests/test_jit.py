"""Where compiled code is kept, and what happens when it cannot be."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from nbnet import jit
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
    jit.cache_directory.cache_clear()
    yield
    jit.cache_directory.cache_clear()


@pytest.mark.parametrize("variable", ["NBNET_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"])
def test_location_follows_the_environment(variable, tmp_path, monkeypatch, fresh):
    if variable == "XDG_CACHE_HOME" and sys.platform in ("win32", "darwin"):
        pytest.skip("only there")
    for name in ("NBNET_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    parent = tmp_path if variable == "NBNET_CACHE_DIR" else tmp_path / "nbnet"
    assert jit.cache_directory() == parent / jit._code_version()
    assert jit.cache_directory().is_dir()


def test_first_of_several_locations_that_can_be_written(tmp_path, monkeypatch, fresh):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("NBNET_CACHE_DIR", str(blocked))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "numba"))
    assert jit.cache_directory() == tmp_path / "numba" / "nbnet" / jit._code_version()


def test_one_warning_when_nothing_can_be_written(tmp_path, monkeypatch, fresh):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("NBNET_CACHE_DIR", str(blocked))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(blocked))
    monkeypatch.setattr(jit, "_user_cache_directory", lambda: blocked)
    with pytest.warns(RuntimeWarning, match="compiled anew in each process. Set NBNET_CACHE_DIR") as record:
        assert jit.cache_directory() is None
        assert jit.cache_directory() is None
    assert len(record) == 1


@pytest.mark.parametrize(
    ("platform", "variable", "end"),
    [("win32", "LOCALAPPDATA", ""), ("darwin", None, "Library/Caches"), ("linux", "XDG_CACHE_HOME", "")],
)
def test_cache_directory_of_each_system(platform, variable, end, tmp_path, monkeypatch):
    monkeypatch.setattr(jit.sys, "platform", platform)
    if variable:
        monkeypatch.setenv(variable, str(tmp_path))
        assert jit._user_cache_directory() == tmp_path
    else:
        assert str(jit._user_cache_directory()).endswith(end)


def test_no_home(monkeypatch):
    def nowhere():
        raise RuntimeError("no home")

    monkeypatch.setattr(jit.Path, "home", nowhere)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(jit.sys, "platform", "linux")
    assert jit._user_cache_directory().name == ".cache"


def test_a_folder_warmed_by_another_user_is_read(tmp_path, monkeypatch):
    def refuse(**kwargs):
        raise PermissionError

    monkeypatch.setattr(jit.tempfile, "TemporaryFile", refuse)
    assert not jit._is_writable(tmp_path)
    (tmp_path / "x.nbi").write_text("code")
    assert jit._is_writable(tmp_path)


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


@needs_jit
def test_a_full_disk_is_no_error(monkeypatch):
    def save(self, key, data):
        raise OSError("No space left on device")

    monkeypatch.setattr(jit._FolderCacheFile, "save", save)

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
    hashed = {root / name for name in ("jit.py", "network.py", "random.py", "scalar.py")} | set(
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
