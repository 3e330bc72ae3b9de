"""Where the processes of a run meet before they work together, and who is missed there."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist

MEETING = "DETSEG_MEETING_SECONDS"
"""The variable for how many seconds a process waits for all others to begin; 600 without it."""
_LOOK_S = 0.1
_PARTING_S = 0.5
"""How long the first process, which may be the place where they meet, stays for the others to hear what was told."""

_met: Counter[int] = Counter()
"""How often this process has met others, as often as they have, by its rank."""


class PeerError(RuntimeError):
    """Another process of the run is gone, or has never come. ``is_told``: one of them has said so."""

    def __init__(self, message: str, is_told: bool = False) -> None:
        super().__init__(message)
        self.is_told = is_told


def meet(rank: int, world_size: int) -> Any:
    """A store of their own at ``MASTER_ADDR`` and ``MASTER_PORT``, once all ``world_size`` processes have come there.
    Each says that it is there, for PyTorch knows only how many are missing, not which.

    Raises:
        PeerError: some have not come in time; or their place cannot be reached, which is for rank 0 to open.
    """
    seconds = float(os.environ.get(MEETING, "600"))
    end = time.monotonic() + seconds
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    opens = rank == 0 and not _has_agent()
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            host,
            port,
            world_size,
            is_master=opens,
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except RuntimeError as error:
        if opens:
            raise
        opener = "torchrun" if _has_agent() else "rank 0"
        raise PeerError(
            f"rank {rank}: {opener} has not been found at {host}:{port}, where the processes meet, within "
            f"{seconds:g} s: either it has not begun, or this machine cannot reach that address"
        ) from error
    # The place keeps what was written there before a restart by torchrun, and by an earlier meeting.
    turn = f"detseg/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{_met[rank]}"
    _met[rank] += 1
    own = dist.PrefixStore(turn, store)  # type: ignore[attr-defined]
    _await_all(own, rank, world_size, end, f"{host}:{port}", seconds)
    return own


def _await_all(store: Any, rank: int, world_size: int, end: float, place: str, seconds: float) -> None:
    keys = [f"meeting/{one}" for one in range(world_size)]
    told_key = "meeting/told"
    store.set(keys[rank], "here")
    try:
        while True:
            is_told = store.check([told_key])
            missing = [one for one, key in enumerate(keys) if not store.check([key])]
            if not missing and not is_told:
                return
            if is_told or time.monotonic() > end:
                is_first = store.add(told_key, 1) == 1
                missing = missing or [rank]  # it has come after the others gave up
                if rank == 0:
                    time.sleep(_PARTING_S)
                raise PeerError(
                    f"{_ranks(missing)} of {world_size} {'has' if len(missing) == 1 else 'have'} not come to {place}, "
                    f"where the processes meet, within {seconds:g} s; start as many processes as WORLD_SIZE says, with "
                    f"this MASTER_ADDR and MASTER_PORT; {MEETING} sets another limit",
                    is_told=not is_first,
                )
            time.sleep(_LOOK_S)
    except dist.DistError as error:
        raise PeerError(f"rank 0 has ended at {place} before all processes had come there") from error


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"


def _has_agent() -> bool:
    """Whether torchrun has opened the place."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
