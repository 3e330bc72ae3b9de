"""How many cores a network may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")

MAX_THREADS = 1024


def num_physical_cores(topology: Path = _TOPOLOGY, quota: Path = _QUOTA) -> int:
    """The physical cores that this process may use: those of its affinity, and no more than a container is granted.

    Two hardware threads of a core share its arithmetic units, so that a second one adds nothing to dense work. Where
    the system does not tell, every processor counts as a core.
    """
    processors = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {_read(topology / f"cpu{number}/topology/thread_siblings_list") or str(number) for number in processors}
    return max(1, min(len(cores), _granted(quota)))


def require_threads(num_threads: int) -> None:
    """Refuse a number of threads that no processor has cores for: each would be begun.

    Raises:
        ValueError: it is not from 1 to ``MAX_THREADS``.
    """
    if num_threads < 1:
        raise ValueError(f"num_threads must be at least 1, got {num_threads}")
    if num_threads > MAX_THREADS:
        raise ValueError(f"num_threads must be at most {MAX_THREADS}, got {num_threads}")


def _granted(quota: Path) -> int:
    """The processors that the control group grants, rounded up; as many as there are where it sets no limit."""
    limit, _, period = _read(quota).partition(" ")
    if not (limit.isdigit() and period.isdigit() and int(period) > 0):
        return os.cpu_count() or 1
    return math.ceil(int(limit) / int(period))


def _read(path: Path) -> str:
    """The line in ``path``, "" where there is none: outside Linux, and in some containers."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
