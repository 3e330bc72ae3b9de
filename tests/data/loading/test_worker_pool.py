from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from detseg.data.loading.worker_pool import WorkerDiedError, WorkerPool


@dataclass
class Outcome:
    item: int
    squares: torch.Tensor
    process: int


class TwoArgumentError(Exception):
    """Cannot be rebuilt from its message alone."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def job(item: int | str) -> Outcome | int:
    if item == "value error":
        raise ValueError("item: not good")
    if item == "two arguments":
        raise TwoArgumentError("badly", 3)
    if item == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "exit":
        os._exit(3)
    if item == "terminate":
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        return -1
    if item == "threads":
        return cv2.getNumThreads()
    if item == "no shared memory":
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        return Outcome(0, torch.zeros(1000), os.getpid())
    assert isinstance(item, int)
    return Outcome(item, torch.tensor([item, item**2]), os.getpid())


@pytest.fixture
def pools() -> Iterator[Any]:
    made: list[WorkerPool[Any, Any]] = []

    def make(num_workers: int) -> WorkerPool[Any, Any]:
        made.append(WorkerPool(job, num_workers))
        return made[-1]

    yield make
    for pool in made:
        pool.close()
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_results_come_in_order_from_workers_that_stay(pools: Any, num_workers: int) -> None:
    pool = pools(num_workers)
    first = list(pool.run(range(7)))
    second = list(pool.run(range(5, 8)))
    assert [outcome.item for outcome in first + second] == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7]
    assert [outcome.squares.tolist() for outcome in second] == [[5, 25], [6, 36], [7, 49]]
    processes = {outcome.process for outcome in first}
    assert processes == {outcome.process for outcome in second}
    assert len(processes) == max(1, num_workers)
    assert (os.getpid() in processes) == (num_workers == 0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_left_early_does_not_leak_into_the_next(pools: Any, num_workers: int) -> None:
    pool = pools(num_workers)
    left = pool.run(range(100))
    assert next(left).item == 0
    assert [outcome.item for outcome in pool.run(range(50, 53))] == [50, 51, 52]
    with pytest.raises(RuntimeError, match="these results ended"):
        next(left)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_global_generator_is_left_alone(pools: Any, num_workers: int) -> None:
    before = torch.get_rng_state()
    list(pools(num_workers).run(range(3)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_errors_keep_type_message_and_traceback(pools: Any, num_workers: int) -> None:
    pool = pools(num_workers)
    results = pool.run([1, "value error", 2])
    assert next(results).item == 1
    with pytest.raises(ValueError, match=r"^item: not good$") as caught:
        next(results)
    if num_workers:
        assert "in job" in str(caught.value.__cause__)
        assert "in a data loading worker" in str(caught.value.__cause__)
    assert [outcome.item for outcome in pool.run([3])] == [3]


def test_an_error_that_cannot_travel_arrives_as_its_message(pools: Any) -> None:
    with pytest.raises(RuntimeError, match="TwoArgumentError: badly"):
        list(pools(1).run(["two arguments"]))


@pytest.mark.parametrize(
    ("item", "end"),
    [("die", "was ended by SIGKILL"), pytest.param("exit", "ended with exit code 3", marks=pytest.mark.slow)],
)
def test_a_dead_worker_is_explained_and_replaced(pools: Any, item: str, end: str) -> None:
    pool = pools(2)
    with pytest.raises(
        WorkerDiedError, match=rf"worker {end}.*MB free in /dev/shm.*data\.num_workers, eval: --workers"
    ):
        list(pool.run([1, item, 2, 3]))
    assert [outcome.item for outcome in pool.run([4])] == [4]


@pytest.mark.parametrize("error", [ConnectionResetError, EOFError, FileNotFoundError])
def test_a_worker_that_dies_while_it_hands_something_over(pools: Any, error: type[Exception]) -> None:
    """Then the connection to it breaks, before anybody has noticed its end."""
    pool = pools(1)
    results = pool.run([1, 2, 3])
    assert next(results).item == 1

    def broken() -> Iterator[Any]:
        os.kill(pool._processes[0].pid, signal.SIGKILL)
        raise error("broken")
        yield

    pool._results = broken()
    with pytest.raises(WorkerDiedError, match="worker was ended by SIGKILL"):
        next(results)
    assert [outcome.item for outcome in pool.run([4])] == [4]


def test_full_shared_memory_is_an_error_with_a_remedy(pools: Any) -> None:
    with pytest.raises(WorkerDiedError, match=r"does not fit into shared memory .*data\.num_workers, eval: --workers"):
        list(pools(1).run(["no shared memory"]))


def test_workers_outlive_signals_to_the_group(pools: Any) -> None:
    pool = pools(1)
    assert list(pool.run(["terminate"])) == [-1]
    assert [outcome.item for outcome in pool.run([1])] == [1]


def test_opencv_does_not_start_threads_in_workers(pools: Any) -> None:
    assert list(pools(1).run(["threads"])) == [1]


def test_no_handler_for_dead_children_is_left_behind(pools: Any) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    list(pools(1).run([1]))
    assert signal.getsignal(signal.SIGCHLD) == before


def test_a_negative_number_of_workers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"num_workers must be 0 .* or more, got -1"):
        WorkerPool(job, -1)
    with pytest.raises(ValueError, match="num_workers must be at most 1024, got 99999"):
        WorkerPool(job, 99_999)


def test_a_forked_child_has_workers_of_its_own(pools: Any, in_forked_child: Any) -> None:
    pool = pools(1)
    results = pool.run([1, 2, 3])
    assert next(results).item == 1

    def in_child() -> list[int]:
        found = [outcome.item for outcome in pool.run([7, 8])]
        pool.close()
        return found

    assert in_forked_child(in_child) == "[7, 8]"
    assert "this process was forked" in in_forked_child(lambda: next(results))
    assert in_forked_child(pool.close) == "None"
    assert [outcome.item for outcome in results] == [2, 3], "those of the parent go on"
    assert len(pool._processes) == 1


SCRIPT = """
import sys, time
from detseg.data.loading.worker_pool import WorkerPool
def job(item):
    time.sleep(0.01)
    return item
pool = WorkerPool(job, 2)
results = pool.run(range(10**6))
print(next(results), flush=True)
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [pytest.param("", 0, marks=pytest.mark.slow), ("raise KeyError('the traceback holds a result')", 1)],
)
def test_a_program_that_does_not_close_its_workers_ends_soon(end: str, code: int) -> None:
    result = subprocess.run(
        [sys.executable, "-c", f"{SCRIPT}\n{end}"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == code, result.stderr
    assert result.stdout == "0\n"


@pytest.mark.slow
def test_workers_leave_when_the_program_is_killed() -> None:
    script = f"""{SCRIPT}
import multiprocessing
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
time.sleep(60)
"""
    program = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    program.stdout.readline()
    workers = [int(pid) for pid in program.stdout.readline().split()]
    assert len(workers) == 2
    program.kill()
    program.wait()
    program.stdout.close()
    deadline = time.monotonic() + 240
    while any(_runs(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlive the program"
        time.sleep(0.2)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_workers_end_when_the_main_process_is_killed(tmp_path: Path, method: str) -> None:
    script = tmp_path / "main.py"
    script.write_text(
        "import multiprocessing, os, time\n"
        "from detseg.data.loading.worker_pool import WorkerPool\n"
        "def job(item): return os.getpid()\n"
        "if __name__ == '__main__':\n"
        f"    multiprocessing.set_start_method('{method}')\n"
        "    pool = WorkerPool(job, num_workers=2)\n"
        "    print(*pool.run(range(4)), flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        workers = [Path("/proc", pid) for pid in set(process.stdout.readline().split())]
        assert len(workers) == 2
        assert all(worker.exists() for worker in workers)
        process.kill()
    deadline = time.monotonic() + 240
    while any(worker.exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [worker for worker in workers if worker.exists()]
