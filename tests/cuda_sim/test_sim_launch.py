"""Queues: what becomes a graph, with stand-ins for cuda.core's graphs. Real ones: tests/gpu."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from nbnet.cuda import launch
from nbnet.cuda.jit import cuda, cuda_kernel
from nbnet.cuda.launch import GRAPH_RUNS, Queue, zeros


@cuda_kernel(1)
def count(x):
    x[0] += np.float32(1)


class Graphs:
    """Stands for cuda.core: a builder records launches, a graph repeats them."""

    LEGACY_DEFAULT_STREAM = "default"

    def __init__(self, monkeypatch, fails=False):
        self.fails, self.recorded, self.captures, self.launches = fails, [], 0, 0
        monkeypatch.setitem(sys.modules, "cuda.core", self)
        monkeypatch.setattr(cuda, "defer_cleanup", lambda: monkeypatch.context(), raising=False)
        on_stream = Queue._on_stream

        def record(queue, stream):
            plain = on_stream(queue, 0)
            return plain if stream == 0 else [lambda run=run: self.recorded.append(run) for run in plain]

        monkeypatch.setattr(Queue, "_on_stream", record)
        monkeypatch.setattr(launch, "SIMULATED", False)

    def Device(self):
        return SimpleNamespace(set_current=lambda: None, create_graph_builder=lambda: self)

    def begin_building(self):
        if self.fails:
            raise RuntimeError("capture is not supported")
        self.captures += 1

    def end_building(self):
        return SimpleNamespace(complete=lambda: self)

    def launch(self, stream):
        assert stream == "default"
        self.launches += 1
        for run in self.recorded:
            run()


def counted(queue, x, *times):
    for n in times:
        queue.run(n)
    return int(x.copy_to_host()[0])


def queue_of(n_kernels):
    x, queue = zeros(1, np.float32), Queue()
    for _ in range(n_kernels):
        queue.add(count, 1, 1, x)
    return queue, x


@pytest.mark.parametrize("times", [1, 2, 7, GRAPH_RUNS, GRAPH_RUNS + 1, 100, 211])
def test_a_queue_runs_as_often_as_asked(times, monkeypatch):
    graphs = Graphs(monkeypatch)
    queue, x = queue_of(3)
    assert counted(queue, x, times, times, times) == 3 * 3 * times
    assert graphs.captures == (times > 1)
    assert times == 1 or graphs.launches >= 2 * (times // GRAPH_RUNS or 1)


def test_few_launches_are_left_over():
    for times in range(2, 500):
        runs = launch._graph_runs(times)
        assert 1 <= runs <= GRAPH_RUNS
        assert times % runs <= min(8, times % GRAPH_RUNS)


def test_a_failed_capture_leaves_plain_launches_and_says_so(monkeypatch):
    graphs = Graphs(monkeypatch, fails=True)
    queue, x = queue_of(2)
    with pytest.warns(RuntimeWarning, match="CUDA graphs do not work here, .*: capture is not supported"):
        assert counted(queue, x, 10) == 20
    assert counted(queue, x, 10) == 40  # says nothing more
    assert graphs.launches == 0


def test_no_graph_where_none_is_wanted(monkeypatch):
    graphs = Graphs(monkeypatch)
    x, queue = zeros(1, np.float32), Queue(capture=False)
    queue.add(count, 1, 1, x)
    assert counted(queue, x, 50) == 50
    assert graphs.captures == 0
