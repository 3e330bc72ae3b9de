"""The state of a run survives whatever happens while it is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detseg.engine.checkpoint import PREVIOUS_NAME, STATE_NAME, load_state, save_state

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import torch
from detseg.engine.checkpoint import load_state, save_state
from detseg.files import SaveError
folder = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    save_state(folder, {"step": 2, "weights": torch.zeros(100_000)})
except SaveError as error:
    print(error)
print("step", load_state(folder)["step"])
"""


def test_the_state_before_is_kept(tmp_path: Path) -> None:
    for step in range(3):
        save_state(
            tmp_path, {"step": step, "weights": torch.full((3,), float(step)), "nested": {"best": -float("inf")}}
        )
    state = load_state(tmp_path)
    assert state["step"] == 2
    assert torch.equal(state["weights"], torch.full((3,), 2.0))
    assert state["nested"]["best"] == -float("inf")
    assert torch.load(tmp_path / PREVIOUS_NAME, weights_only=True)["step"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [PREVIOUS_NAME, STATE_NAME]


def test_what_runs_code_when_it_is_read_is_never_a_state(tmp_path: Path) -> None:
    save_state(tmp_path, {"step": 1})
    with pytest.raises(Exception, match=r"Path|Unsupported|weights"):
        save_state(tmp_path, {"step": 2, "path": tmp_path})
    assert load_state(tmp_path)["step"] == 1
    assert not list(tmp_path.glob(".partial-*"))


def test_a_full_disk_keeps_the_state_that_was_there(tmp_path: Path) -> None:
    save_state(tmp_path, {"step": 1})
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "could not write" in done.stdout
    assert "MB free" in done.stdout
    assert "step 1" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == [STATE_NAME]


def test_a_damaged_state_names_the_one_before(tmp_path: Path) -> None:
    save_state(tmp_path, {"step": 1, "weights": torch.zeros(1000)})
    save_state(tmp_path, {"step": 2, "weights": torch.zeros(1000)})
    content = (tmp_path / STATE_NAME).read_bytes()
    (tmp_path / STATE_NAME).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"is damaged.*{PREVIOUS_NAME}: rename it to {STATE_NAME}"):
        load_state(tmp_path)


def test_no_state_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no run to resume"):
        load_state(tmp_path)
