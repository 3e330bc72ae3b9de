"""Runs that choose folders at the same time each get one of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from detseg.folders import LOCK_NAME, claimed_folder, free_folder, new_folder

MARKS = ("begun", "done")


def anywhere(folder: Path) -> None:
    """Every folder may be written into."""


def test_runs_get_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1, 5):
        folder = free_folder(tmp_path / "out", MARKS)
        assert folder == tmp_path / ("out" if number == 1 else f"out-{number}")
        folder.mkdir()
        (folder / MARKS[number % 2]).touch()
    assert free_folder(tmp_path / "out", MARKS, overwrite=True) == tmp_path / "out"
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").touch()
    assert free_folder(tmp_path / "foreign", MARKS) == tmp_path / "foreign"
    monkeypatch.chdir(tmp_path / "out")
    assert free_folder(Path(), MARKS) == tmp_path / "out-5"


def test_a_folder_that_is_claimed_is_passed_over_until_it_is_free(tmp_path: Path) -> None:
    wanted = tmp_path / "a" / "out"
    with claimed_folder(wanted, MARKS, anywhere) as first, claimed_folder(wanted, MARKS, anywhere) as second:
        assert (first, second) == (wanted, tmp_path / "a" / "out-2")
        (second / "done").touch()
        with (
            pytest.raises(ValueError, match="another process is at work in"),
            claimed_folder(wanted, MARKS, anywhere, overwrite=True),
        ):
            pass
    assert not first.exists(), "it is empty"
    assert [path.name for path in second.iterdir()] == ["done"], "the lock is gone"
    with claimed_folder(wanted, MARKS, anywhere) as third:
        assert third == wanted
        (third / "begun").touch()
    with claimed_folder(wanted, MARKS, anywhere) as fourth, claimed_folder(wanted, MARKS, anywhere, overwrite=True):
        assert fourth == tmp_path / "a" / "out-3"


def test_nothing_is_made_where_nothing_may_be_written(tmp_path: Path) -> None:
    def refuse(folder: Path) -> None:
        raise ValueError(f"{folder.name} is no place")

    with pytest.raises(ValueError, match="out is no place"), claimed_folder(tmp_path / "out", MARKS, refuse):
        pass
    assert not (tmp_path / "out").exists()


def test_the_lock_of_another_is_left(tmp_path: Path) -> None:
    """A folder in which a training has begun has one that stays."""
    (tmp_path / LOCK_NAME).write_text("owner")
    with claimed_folder(tmp_path, MARKS, anywhere) as folder:
        assert folder == tmp_path
    assert (tmp_path / LOCK_NAME).read_text() == "owner"


def test_who_is_killed_holds_nothing(tmp_path: Path) -> None:
    words = (
        "import os, signal, sys; from pathlib import Path; from detseg.folders import claimed_folder\n"
        "with claimed_folder(Path(sys.argv[1]), ('done',), lambda folder: None): os.kill(os.getpid(), signal.SIGKILL)"
    )
    process = subprocess.run([sys.executable, "-c", words, str(tmp_path / "out")])
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "out" / LOCK_NAME).exists()
    with claimed_folder(tmp_path / "out", ("done",), anywhere) as folder:
        assert folder == tmp_path / "out"


@pytest.mark.parametrize("way", ["claimed", "new"])
def test_many_at_once(tmp_path: Path, way: str) -> None:
    def run(number: int) -> Path:
        wanted = tmp_path / "runs" / "c2f_n"
        with claimed_folder(wanted, MARKS, anywhere) if way == "claimed" else new_folder(wanted) as folder:
            assert sorted(path.name for path in folder.iterdir() if path.name != LOCK_NAME) == []
            (folder / "done").write_text(str(number))
        return folder

    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(run, range(40)))
    assert len(set(folders)) == 40
    assert all((folder / "done").read_text() == str(number) for number, folder in enumerate(folders))


def test_new_folders_are_behind_all_that_are_there(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with new_folder(runs / "x") as folder:
        assert folder == runs / "x"
    assert not runs.exists(), "nothing was written"
    for name in ("x", "x-5", "x-7.yaml", "xx-9"):
        (runs / name).mkdir(parents=True)
    (runs / "x-6").symlink_to("nowhere")
    with new_folder(runs / "x") as folder:
        assert folder == runs / "x-7"
        (folder / "a").touch()
    assert folder.exists()
    (runs / "y").symlink_to("nowhere")
    with new_folder(runs / "y") as folder:
        assert folder == runs / "y-2"
