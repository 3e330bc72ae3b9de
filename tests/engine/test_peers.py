"""Processes of a run that die, are silent, or leave when all is done: what the others say, and that they end."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import torch

from detseg.engine.distributed import Group, join_group, leave_group
from detseg.engine.meeting import PeerError, meet
from detseg.engine.peers import EXIT_LOST, watched_peers

CPU = torch.device("cpu")
Act = Callable[[Group], None]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def at_a_new_place(monkeypatch: pytest.MonkeyPatch, seconds: str) -> int:
    """The port of a place where nobody is, and where this process waits for so long."""
    port = free_port()
    given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "DETSEG_MEETING_SECONDS": seconds}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return port


def run_ranks(act: Act, num_ranks: int, folder: Path, **environment: str) -> list[int]:
    """The exit codes of as many processes, which ``act`` within the watch; negative for signals. What they say is in
    ``rank0.txt``, ...."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(num_ranks), **environment}
    # Forked, they could hang on what threads of this process hold.
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=rank_process, args=(act, rank, folder, place)) for rank in range(num_ranks)]
    for process in ranks:
        process.start()
    end = time.monotonic() + 120
    while alive := [process for process in ranks if process.exitcode is None]:
        if time.monotonic() > end or all(is_stopped(process.pid) for process in alive):
            for process in alive:
                process.kill()
                process.join()
        time.sleep(0.01)
    assert time.monotonic() < end
    return [cast(int, process.exitcode) for process in ranks]


def rank_process(act: Act, rank: int, folder: Path, place: Mapping[str, str]) -> None:
    code = 99
    try:
        log = os.open(folder / f"rank{rank}.txt", os.O_CREAT | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(place, RANK=str(rank), LOCAL_RANK="0")
        code = in_rank(act, folder)
    finally:
        os._exit(code)


def is_stopped(pid: int | None) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:  # it has ended
        return False


def in_rank(act: Act, folder: Path) -> int:
    try:
        group, device = join_group("cpu")
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


def meet_until(group: Group, rank: int, number: int) -> None:
    """Meet again and again, until one gets the signal of this ``number``."""
    for turn in range(200):
        if turn == 20 and group.rank == rank:
            os.kill(os.getpid(), number)
        group.barrier()
        group.sum(torch.ones(3))


def leave_first(group: Group) -> None:
    group.barrier()
    if group.rank == 0:
        time.sleep(2.5)


pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="looks at processes in /proc")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_death_of_one_is_said_once_by_name(tmp_path: Path, victim: int) -> None:
    """Also that of the first, where the others meet."""
    codes = run_ranks(partial(meet_until, rank=victim, number=signal.SIGKILL), 3, tmp_path)
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
    codes = run_ranks(partial(meet_until, rank=1, number=signal.SIGSTOP), 2, tmp_path, DETSEG_PEER_SECONDS="3")
    assert codes == [EXIT_LOST, -9]
    (line,) = messages(tmp_path)
    assert re.match(r"detseg train: rank 1 \(.*, process \d+\) has not been heard of for 3 s; go on with: ", line)


def test_who_leaves_is_not_missed(tmp_path: Path) -> None:
    """The main process writes its report while the others have gone."""
    assert run_ranks(leave_first, 2, tmp_path, DETSEG_PEER_SECONDS="1") == [0, 0]
    assert messages(tmp_path) == []


def test_who_never_comes_is_missed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once: whose time is over first says it, and the other, which hears of it, ends as well."""
    port = at_a_new_place(monkeypatch, "0.3")
    with ThreadPoolExecutor(2) as threads:
        here = [threads.submit(meet, rank, 4) for rank in (0, 2)]
    faults = [cast(PeerError, one.exception()) for one in here]
    place = f"127.0.0.1:{port}"
    for fault in faults:
        assert str(fault).startswith(
            f"ranks 1, 3 of 4 have not come to {place}, where the processes meet, within 0.3 s"
        )
    assert sorted(fault.is_told for fault in faults) == [False, True]


def test_a_first_process_that_never_comes_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    port = at_a_new_place(monkeypatch, "0.3")
    with pytest.raises(
        PeerError, match=rf"^rank 1: rank 0 has not been found at 127\.0\.0\.1:{port}, .* 0\.3 s: either"
    ):
        meet(1, 2)


@pytest.mark.slow
def test_of_processes_those_that_never_come_are_missed_once(tmp_path: Path) -> None:
    """Two of three are started."""
    given = {"WORLD_SIZE": "3", "DETSEG_MEETING_SECONDS": "20"}
    assert run_ranks(leave_first, 2, tmp_path, **given) == [EXIT_LOST] * 2
    said = "".join((tmp_path / f"rank{rank}.txt").read_text() for rank in range(2))
    assert said.count("rank 2 of 3 has not come to 127.0.0.1:") == said.count("has not come") == 1
    assert "Traceback" not in said


def test_other_faults_are_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="mine"), watched_peers(Group(), CPU, tmp_path):
        raise RuntimeError("mine")
