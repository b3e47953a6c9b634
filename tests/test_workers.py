"""Shares, barriers, and how many workers."""

import numpy as np
import pytest
from joblib import Parallel, delayed, parallel_config

from nbnet.cpu import workers as workers_module
from nbnet.cpu.workers import Team, Workers, barrier, choose_n_workers, n_cores, share_of
from nbnet.jit import JIT_DISABLED, cpu_kernel


@cpu_kernel
def share(n, multiple, team, out):
    out[0], out[1] = share_of(n, multiple, team)


@pytest.mark.parametrize("n_workers", [1, 2, 3, 8])
@pytest.mark.parametrize(("n", "multiple"), [(0, 8), (1, 8), (7, 8), (100, 8), (100, 1), (33, 4)])
def test_shares_cover_everything_once(n, multiple, n_workers):
    out, end = np.zeros(2, np.int64), 0
    for worker in range(n_workers):
        share(n, multiple, Team(np.zeros(24, np.int64), worker, n_workers), out)
        assert out[0] == end and (out[0] % multiple == 0 or out[0] == n)
        end = out[1]
    assert end == n


@cpu_kernel
def relay(values, n_steps, team):
    """Each step, every worker writes its number's square plus the step, and checks what all others wrote."""
    errors = 0
    for step in range(n_steps):
        values[team.worker] = team.worker * team.worker + step
        barrier(team)
        for other in range(team.n_workers):
            if values[other] != other * other + step:
                errors += 1
        barrier(team)
    if errors:
        values[team.worker] = -1


@pytest.mark.skipif(JIT_DISABLED, reason="one worker with the JIT off")
@pytest.mark.parametrize("n_workers", [1, 2, 3, 5])
def test_nobody_passes_the_barrier_early(n_workers):
    values = np.zeros(n_workers, np.int64)
    with Workers(n_workers) as workers:
        workers.run(relay, values, 200)
    np.testing.assert_array_equal(values, np.arange(n_workers) ** 2 + 199)


@pytest.mark.skipif(JIT_DISABLED, reason="one worker with the JIT off")
def test_explicit_n_jobs_is_obeyed(monkeypatch):
    monkeypatch.setattr(workers_module.joblib, "cpu_count", lambda: 4)
    assert choose_n_workers(3, 0.0) == 3
    assert choose_n_workers(-1, 0.0) == 4
    assert choose_n_workers(-2, 0.0) == 3
    assert choose_n_workers(-9, 0.0) == 1


@pytest.mark.skipif(JIT_DISABLED, reason="one worker with the JIT off")
def test_automatic_number_follows_work_cores_and_nesting(monkeypatch):
    monkeypatch.setattr(workers_module.joblib, "cpu_count", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert choose_n_workers(None, 1e3) == 1
    assert choose_n_workers(None, 1e12) == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")
    assert n_cores() == 2
    assert choose_n_workers(None, 1e12) == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "nonsense")
    assert n_cores() == 4
    with Workers(3):  # another fit of this process is using three
        assert choose_n_workers(None, 1e12) == 1
    assert choose_n_workers(None, 1e12) == 4
    with parallel_config("threading"):
        assert Parallel(2)(delayed(choose_n_workers)(None, 1e12) for _ in range(2)) == [1, 1]


def test_one_worker_with_the_jit_off():
    if JIT_DISABLED:
        assert choose_n_workers(8, 1e12) == 1
