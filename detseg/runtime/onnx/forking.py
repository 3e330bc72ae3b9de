"""What threads leave behind when a process forks: locks that nobody will release, and pools without their threads.

A forked child has a copy of all memory and only the thread that forked. What keeps threads, or is used by several, is
registered here and told of it in the child, before anything else runs there.
"""

from __future__ import annotations

import os
import threading
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """What must be made anew in a forked child."""

    def after_fork(self) -> None:
        """Called in the child: make locks and threads anew. It must not wait for anything."""


_forkable: WeakSet[Forkable] = WeakSet()

fork_guard = threading.RLock()
"""Held while the process forks: what is changed only by who holds it is whole in the child. Hold it for moments. Who
holds it may fork, as a handler of a signal can at any time."""


def tell_of_forks(thing: Forkable) -> None:
    """Call ``thing.after_fork`` in every child that this process forks from now on, as long as ``thing`` is in use."""
    with fork_guard:
        _forkable.add(thing)


def _in_child() -> None:
    for thing in list(_forkable):
        thing.after_fork()
    fork_guard.release()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no forks
    os.register_at_fork(before=fork_guard.acquire, after_in_parent=fork_guard.release, after_in_child=_in_child)
