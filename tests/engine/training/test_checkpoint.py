from __future__ import annotations

import io
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detseg.engine.training.checkpoint import PREVIOUS_NAME, STATE_NAME, load_state, save_state


def state(number: int) -> dict[str, Any]:
    return {"model": {"weight": torch.full((100,), float(number))}, "progress": {"step": number, "name": "x"}}


def step_of(loaded: dict[str, Any]) -> int:
    """The step of a state, whose every part must be of that step."""
    step: int = loaded["progress"]["step"]
    assert loaded["model"]["weight"].tolist() == [float(step)] * 100
    return step


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_state_comes_back(tmp_path: Path) -> None:
    save_state(tmp_path, state(1))
    assert names(tmp_path) == [STATE_NAME]
    assert step_of(load_state(tmp_path)) == 1


def test_the_one_before_is_kept(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        save_state(tmp_path, state(number))
    assert names(tmp_path) == sorted([PREVIOUS_NAME, STATE_NAME])
    assert step_of(load_state(tmp_path)) == 3
    (tmp_path / PREVIOUS_NAME).replace(tmp_path / STATE_NAME)
    assert step_of(load_state(tmp_path)) == 2


class Opaque:
    """What torch can write but only by running code could read again."""


@pytest.mark.parametrize("content", [lambda: 0, Opaque()], ids=["cannot be pickled", "needs code to load"])
def test_a_state_that_cannot_be_saved_leaves_all_as_it_was(tmp_path: Path, content: Any) -> None:
    save_state(tmp_path, state(1))
    save_state(tmp_path, state(2))
    with pytest.raises((AttributeError, pickle.PickleError)):
        save_state(tmp_path, {**state(3), "content": content})
    assert names(tmp_path) == sorted([PREVIOUS_NAME, STATE_NAME])
    assert step_of(load_state(tmp_path)) == 2
    assert step_of(torch.load(tmp_path / PREVIOUS_NAME, weights_only=True)) == 1


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from detseg.engine.training.checkpoint import save_state
from detseg.files import SaveError
folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for size in (20_000, 1_000_000):
    try:
        save_state(folder, {"weight": torch.zeros(size), "more": [{"of it": torch.zeros(250_000)}]})
    except SaveError as error:
        print(error)
"""


def test_a_full_disk_keeps_the_state_before(tmp_path: Path) -> None:
    save_state(tmp_path, state(1))
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    messages = result.stdout.splitlines()
    assert sum(line.startswith(f"could not write {tmp_path / STATE_NAME}: ") for line in messages) == 2
    assert (
        sum("the file that was there before is kept, at step 1: make room and go on" in line for line in messages) == 2
    )
    assert [re.findall(r"it needs (\d+) MB, \d+ MB are free in ", line) for line in messages] == [["1"], ["5"]]
    assert names(tmp_path) == [STATE_NAME]
    assert step_of(load_state(tmp_path)) == 1


def flip_in_the_middle(content: bytes) -> bytes:
    position = content.index(torch.full((100,), 2.0).numpy().tobytes()) + 200
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


def with_pickle(pickled: bytes) -> Callable[[bytes], bytes]:
    """The file, its checksums right, with another pickle in it."""

    def change(content: bytes) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
            for name in old.namelist():
                new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))
        return stream.getvalue()

    return change


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda content: content[:-1000],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "other content": lambda content: b"<html>not found</html>",
    "one bit": flip_in_the_middle,
    "an empty stack": with_pickle(b"\x80\x02."),
    "an unknown place": with_pickle(b"\x80\x02h\x05."),
    "a number": with_pickle(b"\x80\x02K\x05."),
    "a list for a tensor": with_pickle(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n]R."),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("has_previous", [True, False])
def test_a_damaged_state_is_refused_and_the_one_before_named(tmp_path: Path, damage: str, has_previous: bool) -> None:
    save_state(tmp_path, state(1))
    save_state(tmp_path, state(2))
    path, previous = tmp_path / STATE_NAME, tmp_path / PREVIOUS_NAME
    content = DAMAGES[damage](path.read_bytes())
    path.unlink()  # not written in place: the one before may share its blocks
    path.write_bytes(content)
    if not has_previous:
        previous.unlink()
    with pytest.raises(ValueError, match="is damaged") as caught:
        load_state(tmp_path)
    assert str(caught.value).startswith(f"{path} is damaged: ")
    hint = f"the state before it is {previous}: rename it to {STATE_NAME} to go on from there"
    assert str(caught.value).endswith(hint) == has_previous
    if has_previous:
        previous.replace(path)
        assert step_of(load_state(tmp_path)) == 1


def test_no_flipped_bit_goes_unnoticed(tmp_path: Path) -> None:
    saved = {"weight": torch.arange(8.0), "step": 1}
    save_state(tmp_path, saved)
    path = tmp_path / STATE_NAME
    content = path.read_bytes()
    num_refused = 0
    for position in range(0, len(content), 3):
        flipped = bytes([content[position] ^ 0x80])
        path.write_bytes(content[:position] + flipped + content[position + 1 :])
        try:
            loaded = load_state(tmp_path)
        except (ValueError, OSError):
            num_refused += 1
        else:  # padding, or the time of a zip entry
            assert loaded.pop("weight").tolist() == saved["weight"].tolist(), position
            assert loaded == {"step": 1}, position
    assert num_refused > len(content) / 3 / 4


class Attack:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_loading_runs_no_code(tmp_path: Path) -> None:
    torch.save({"model": Attack(tmp_path / "ran")}, tmp_path / STATE_NAME)
    with pytest.raises(ValueError, match="is damaged"):
        load_state(tmp_path)
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / STATE_NAME, weights_only=False)
    assert (tmp_path / "ran").exists(), "the attack is none, so this test shows nothing"


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} holds no {STATE_NAME}, so there is no run to resume"):
        load_state(tmp_path)
