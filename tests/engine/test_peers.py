"""Processes of a run that die, are silent, or leave when all is done: what the others say, and that they end."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from detseg.engine.distributed import Group, join_group, leave_group
from detseg.engine.peers import EXIT_LOST, PeerError, watched_peers

CPU = torch.device("cpu")
Act = Callable[[Group], None]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def run_ranks(act: Act, num_ranks: int, folder: Path, **environment: str) -> list[int]:
    """The exit codes of as many processes, which ``act`` within the watch; negative for signals. What they say is in
    ``rank0.txt``, ...."""
    port, pids = free_port(), []
    for rank in range(num_ranks):
        pid = os.fork()
        if not pid:
            code = 99
            try:
                log = os.open(folder / f"rank{rank}.txt", os.O_CREAT | os.O_WRONLY)
                os.dup2(log, 1)
                os.dup2(log, 2)
                sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - not that of pytest
                place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **environment}
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(num_ranks), **place}
                code = in_rank(act, folder)
            finally:
                os._exit(code)
        pids.append(pid)
    codes = {}
    end = time.monotonic() + 120
    while len(codes) < num_ranks:
        for pid in {*pids} - codes.keys():
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
        alive = {*pids} - codes.keys()
        if time.monotonic() > end or all(is_stopped(pid) for pid in alive):
            for pid in alive:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    assert time.monotonic() < end
    return [codes[pid] for pid in pids]


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def in_rank(act: Act, folder: Path) -> int:
    group, device = join_group("cpu")
    try:
        with watched_peers(group, device, folder / "run"):
            act(group)
    except PeerError as error:
        if not error.is_told:
            print(error, file=sys.stderr, flush=True)
        return EXIT_LOST
    leave_group()
    return 0


def messages(folder: Path) -> list[str]:
    """What was said but for warnings of torch."""
    lines = [line for path in sorted(folder.glob("rank*.txt")) for line in path.read_text().splitlines()]
    return [line for line in lines if "go on with" in line or "Traceback" in line]


def meet_until(group: Group, rank: int, act: Callable[[], None]) -> None:
    """Meet again and again, until one does something else."""
    for turn in range(200):
        if turn == 20 and group.rank == rank:
            act()
        group.barrier()
        group.sum(torch.ones(3))


pytestmark = [
    pytest.mark.skipif(not Path("/proc").exists(), reason="looks at processes in /proc"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"),
]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_death_of_one_is_said_once_by_name(tmp_path: Path, victim: int) -> None:
    """Also that of the first, where the others meet."""
    codes = run_ranks(lambda group: meet_until(group, victim, lambda: os.kill(os.getpid(), 9)), 3, tmp_path)
    assert codes.pop(victim) == -9
    assert codes == [EXIT_LOST] * 2
    lines = messages(tmp_path)
    assert len(lines) == 1 if victim else len(lines) <= 2, "without a place to meet each may say it"
    assert re.fullmatch(
        rf"rank {victim} \(.*, process \d+\) has ended; go on with: detseg train --resume {tmp_path}/run, in as many "
        "processes as before",
        lines[0],
    )


@pytest.mark.slow
def test_the_silence_of_one_is_said_once_by_name(tmp_path: Path) -> None:
    """As when a cable is pulled: nobody closes the connection."""
    codes = run_ranks(
        lambda group: meet_until(group, 1, lambda: os.kill(os.getpid(), signal.SIGSTOP)),
        2,
        tmp_path,
        DETSEG_PEER_SECONDS="3",
    )
    assert codes == [EXIT_LOST, -9]
    (line,) = messages(tmp_path)
    assert re.match(r"detseg train: rank 1 \(.*, process \d+\) has not been heard of for 3 s; go on with: ", line)


def test_who_leaves_is_not_missed(tmp_path: Path) -> None:
    """The main process writes its report while the others have gone."""

    def act(group: Group) -> None:
        group.barrier()
        if group.rank == 0:
            time.sleep(2.5)

    assert run_ranks(act, 2, tmp_path, DETSEG_PEER_SECONDS="1") == [0, 0]
    assert messages(tmp_path) == []


def test_other_faults_are_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="mine"), watched_peers(Group(), CPU, tmp_path):
        raise RuntimeError("mine")
