"""These tests run kernels as Python: in a process of their own, ``NUMBA_ENABLE_CUDASIM=1 pytest tests/cuda_sim``."""

import os
from importlib.util import find_spec

import pytest

if os.environ.get("NUMBA_ENABLE_CUDASIM") != "1" or find_spec("greenlet") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    from tests.cuda_sim import simulator

    simulator.install()


@pytest.fixture(params=["forward", "reversed", "shuffled"])
def order(request):
    """The threads of a block take turns in this order."""
    simulator.set_order(request.param)
    yield request.param
    simulator.set_order("forward")
