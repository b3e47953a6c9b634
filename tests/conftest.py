"""Set-up of all tests."""

import os

import pytest

os.environ.setdefault("MPLBACKEND", "agg")

JIT_OFF = os.environ.get("NUMBA_DISABLE_JIT", "0") == "1"


def pytest_collection_modifyitems(items):
    """With the JIT off, kernels are interpreted and thousands of times slower: leave out what trains for real."""
    if JIT_OFF:
        skip = pytest.mark.skip(reason="needs compiled kernels to be quick")
        for item in items:
            if "slow_without_jit" in item.keywords:
                item.add_marker(skip)
