"""Memory of this process, as Linux counts it."""

from __future__ import annotations


def restart_peak() -> None:
    """VmHWM, the largest resident size, starts anew."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def status_bytes(key: str) -> int:
    """VmRSS or VmHWM."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))
