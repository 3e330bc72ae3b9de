"""How much memory this process may use. Open to every room; imports nothing of detseg."""

from __future__ import annotations

import os
from pathlib import Path

_GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_IF_UNKNOWN = 16 * 2**30


def usable_memory(group_limit: Path = _GROUP_LIMIT) -> int:
    """The bytes of memory that this process may use: those of the machine, and no more than a container is granted."""
    machine = _IF_UNKNOWN
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        granted = group_limit.read_text(encoding="ascii").strip()
    except OSError:  # outside Linux, and in some containers
        return machine
    return min(machine, int(granted)) if granted.isdigit() else machine
