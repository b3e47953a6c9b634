"""Set-up of all tests."""

import os

import numpy as np
import pytest

os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("NBNET_COMPILE_PROCESSES", "1")  # the cores have tests to run

JIT_OFF = os.environ.get("NUMBA_DISABLE_JIT", "0") == "1"


def pytest_collection_modifyitems(items):
    """With the JIT off, kernels are interpreted and thousands of times slower: leave out what trains for real."""
    if JIT_OFF:
        skip = pytest.mark.skip(reason="needs compiled kernels to be quick")
        for item in items:
            if "slow_without_jit" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def same_numbers(request, monkeypatch):
    """What a test draws depends on no test before it: generators, NumPy's and those of modules, begin anew for each."""
    np.random.seed(0)  # noqa: NPY002, what random_state=None draws from
    for name, value in list(vars(request.module).items()):
        if isinstance(value, np.random.Generator):
            monkeypatch.setattr(request.module, name, np.random.default_rng(0))
