"""The other processes of a run: who has ended, or cannot be reached any more, and what is said of it, once."""

from __future__ import annotations

import os
import platform
import re
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from detseg.engine.distributed import Group
from detseg.engine.meeting import PeerError

SILENCE = "DETSEG_PEER_SECONDS"
"""The variable for how many seconds a process may be silent until the others give up; 60 without it."""
EXIT_LOST = 2
_OF_PEERS = re.compile(r"gloo|NCCL|[Cc]onnection (closed|reset|refused)|[Bb]roken pipe|process group")
_BEAT_S = 0.5
_DEAD_S = 3.0
"""Who was silent for as long when a connection broke was the one who broke it."""
_STORE_S = 5.0
_LEFT = "left"
"""What a process says last when all is done."""


@contextmanager
def watched_peers(group: Group, device: torch.device, run_dir: Path) -> Iterator[None]:
    """Within the block the death of another process of ``group``, which trains in ``run_dir``, is a
    :class:`PeerError`, and so is its silence: that ends this process from a thread, for the main one may wait for an
    answer for ever.

    Raises:
        PeerError: another process has ended.
    """
    if group.world_size == 1:
        yield
        return
    peers = _Peers(group, device, run_dir)
    try:
        yield
        peers.leave()
    except RuntimeError as error:
        if not _OF_PEERS.search(str(error)):
            raise
        raise peers.blame(error) from error
    finally:
        peers.closed.set()


class _Peers:
    """The processes of ``group``, each of which says twice a second, at the place where they have met, that it lives.
    All of them make one of these together."""

    def __init__(self, group: Group, device: torch.device, run_dir: Path) -> None:
        self._group = group
        self._silence_s = float(os.environ.get(SILENCE, "60"))
        mine = {"name": f"{platform.node()}, process {os.getpid()}", "run": uuid.uuid4().hex}
        told = group.gather_json(mine, device)
        self._names = [str(one["name"]) for one in told]
        self._keys = [f"{told[0]['run']}/{rank}" for rank in range(group.world_size)]
        self._told_key, self._heard_key = (f"{told[0]['run']}/{word}" for word in ("told", "heard"))
        self._run_dir = run_dir
        self.closed = threading.Event()
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._store = dist.TCPStore(*place, is_master=False, timeout=timedelta(seconds=_STORE_S))  # type: ignore[attr-defined]
        self._store.set(self._keys[group.rank], "0")
        group.barrier()
        self._thread = threading.Thread(target=self._watch, name="peers", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        """Say that this process lives, and listen to the next one."""
        next_rank = (self._group.rank + 1) % self._group.world_size
        number, beat = 0, ""
        heard = answered = time.monotonic()
        while not self.closed.wait(_BEAT_S):
            number += 1
            now = time.monotonic()
            try:
                self._store.set(self._keys[self._group.rank], str(number))
                told = self._store.get(self._keys[next_rank]).decode()
            except RuntimeError:
                if now - answered > self._silence_s:
                    self._end(f"{os.environ['MASTER_ADDR']}, where the processes meet, cannot be reached")
                continue
            answered = now
            if told != beat or told == _LEFT:
                beat, heard = told, now
            if now - heard > self._silence_s:
                self._end(f"{self._listed([next_rank])} has not been heard of for {self._silence_s:g} s")

    def leave(self) -> None:
        """All is done; from now on this process is silent."""
        self.closed.set()
        self._thread.join()
        with suppress(RuntimeError):  # the first process, which may be the place where they meet, has gone
            self._store.set(self._keys[self._group.rank], _LEFT)

    def _listed(self, ranks: Sequence[int]) -> str:
        return " and ".join(f"rank {rank} ({self._names[rank]})" for rank in ranks)

    def blame(self, error: Exception) -> PeerError:
        """Who has broken the connection, as far as that can be told."""
        reason = f"the connection to another process is broken ({next(iter(str(error).splitlines()), '')})"
        silent: list[int] = []
        try:
            before = self._store.multi_get(self._keys)
            end = time.monotonic() + _DEAD_S
            while time.monotonic() < end and not self._store.check([self._told_key]):
                time.sleep(_BEAT_S / 5)
            after = self._store.multi_get(self._keys)
            silent = [rank for rank, beats in enumerate(zip(before, after, strict=True)) if beats[0] == beats[1]]
            if silent:
                reason = f"{self._listed(silent)} has ended"
        except RuntimeError:  # the place where they meet is gone as well, which may be the first of them
            if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
                reason = f"{self._listed([0])} has ended"
        is_told = not self._is_first()
        # Who was told has not listened for long enough to know how many are gone.
        self._part(self._group.world_size - (1 if is_told else len(silent)))
        return PeerError(self._message(reason), is_told)

    def _part(self, num_alive: int) -> None:
        """The first process may be the place where they meet: it stays there until ``num_alive`` have heard what was
        told, or do not answer."""
        with suppress(RuntimeError):
            heard = self._store.add(self._heard_key, 1)
            end = time.monotonic() + _DEAD_S
            while self._group.rank == 0 and heard < num_alive and time.monotonic() < end:
                time.sleep(_BEAT_S / 5)
                heard = self._store.add(self._heard_key, 0)

    def _message(self, what: str) -> str:
        return f"{what}; go on with: detseg train --resume {self._run_dir}, in as many processes as before"

    def _is_first(self) -> bool:
        """Whether nobody has said anything yet."""
        try:
            return self._store.add(self._told_key, 1) == 1
        except RuntimeError:
            return True

    def _end(self, what: str) -> None:
        if self.closed.is_set():
            return
        if self._is_first():
            print(f"detseg train: {self._message(what)}", file=sys.stderr, flush=True)
        os._exit(EXIT_LOST)
