"""One writer per run folder, and nothing in it is overwritten."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detseg.engine.distributed import Group
from detseg.engine.run import train
from detseg.engine.run_folder import RunFolder, RunInUseError
from detseg.engine.settings import RunConfig
from detseg.folders import LOCK_NAME

Tiny = Callable[..., RunConfig]
CPU = torch.device("cpu")


def folder_of(path: Path) -> RunFolder:
    return RunFolder(path, Group(), CPU)


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_writer_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    first, second = folder_of(tmp_path / "run"), folder_of(tmp_path / "run")
    first.begin()
    message = rf"run is being written by process {os.getpid()} on .* since .*; wait for it, or choose another folder"
    (tmp_path / "run/config.yaml").write_text("")
    (tmp_path / "run/state.pt").write_text("")
    for action in (second.require_free, second.begin, second.resume):
        with pytest.raises(RunInUseError, match=message):
            action()
        second.release()
    first.release()
    second.resume()
    second.release()


HOLD = r"""
import os, sys, time
from pathlib import Path
import torch
from detseg.engine.distributed import Group
from detseg.engine.run_folder import RunFolder
RunFolder(Path(sys.argv[1]), Group(), torch.device("cpu")).begin()
child = os.fork()
os.write(1, f"{child}\n".encode())
time.sleep(100)
"""


def test_a_dead_owner_holds_nothing_even_if_its_workers_live(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    child = max(int(owner.stdout.readline()), int(owner.stdout.readline()))  # both print: 0 in the child
    try:
        with pytest.raises(RunInUseError):
            folder_of(tmp_path / "run").begin()
    finally:
        owner.kill()
        owner.wait()
    os.kill(child, 0)  # it lives
    again = folder_of(tmp_path / "run")
    again.begin()
    again.release()
    os.kill(child, signal.SIGKILL)
    owner.stdout.close()


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "notes": (lambda run: (run / "notes.txt").write_text("mine"), r"is not empty \(notes\.txt\)"),
    "a configuration that no run wrote": (
        lambda run: (run / "config.yaml").write_text("mine"),
        r"is not empty \(config\.yaml\)",
    ),
    "a data set": (lambda run: (run / "images").mkdir(), r"is not empty \(images\)"),
    "a finished run without its state": (
        lambda run: (run / "best.safetensors").write_text("weights"),
        r"holds a run \(best\.safetensors\) whose state\.pt is gone",
    ),
    "records without a state": (
        lambda run: (run / "metrics.jsonl").write_text('{"epoch": 0}\n'),
        r"holds a run \(metrics\.jsonl\) whose state\.pt is gone",
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_lies_there_is_not_touched(tiny: Tiny, tmp_path: Path, case: str) -> None:
    make, message = FOREIGN[case]
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    make(run_dir)
    before = content(run_dir)
    with pytest.raises(FileExistsError, match=message):
        train(tiny(), run_dir, bar=False)
    assert content(run_dir) == before


def test_a_file_is_no_folder(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(NotADirectoryError, match="run is a file"):
        train(tiny(), tmp_path / "run", bar=False)


def test_hidden_files_and_a_broken_off_beginning_are_no_obstacle(tiny: Tiny, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    begun = folder_of(run_dir)
    begun.begin()
    begun.release()
    for name in (".directory", "config.yaml", "log.txt", "metrics.jsonl"):
        (run_dir / name).write_text("")
    train(tiny("train.epochs=1"), run_dir, bar=False)
    assert (run_dir / "best.safetensors").exists()


def test_without_the_state_a_finished_run_is_not_overwritten(tiny: Tiny, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train(tiny("train.epochs=1"), run_dir, bar=False)
    (run_dir / "state.pt").unlink()
    before = content(run_dir)
    with pytest.raises(FileExistsError, match=r"state\.pt is gone"):
        train(tiny("train.epochs=1"), run_dir, bar=False)
    assert content(run_dir) == before


def _train(config: RunConfig, run_dir: Path, rank: int, port: int, answers: Any) -> None:
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    try:
        train(config, run_dir, bar=False)
    except (ValueError, OSError) as error:
        answers.put((rank, f"{type(error).__name__}: {error}"))


def test_all_processes_of_a_run_learn_that_it_may_not_begin(tiny: Tiny, tmp_path: Path) -> None:
    owner = folder_of(tmp_path / "run")
    owner.begin()
    (tmp_path / "run/config.yaml").write_text("")
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    processes = [
        context.Process(target=_train, args=(tiny("train.device=cpu"), tmp_path / "run", rank, port, answers))
        for rank in range(2)
    ]
    started = time.monotonic()
    for process in processes:
        process.start()
    said = dict(answers.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    assert said[0].startswith("RunInUseError: ")
    assert said[1].startswith("ValueError: the main process stopped: ")
    assert "is being written by" in said[1]
    assert time.monotonic() - started < 120
    owner.release()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [LOCK_NAME, "config.yaml"]
