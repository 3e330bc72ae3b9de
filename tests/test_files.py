"""A file appears whole or not at all."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from detseg.files import PARTIAL_PREFIX, SaveError, atomic_path, remove_partial_files, write_text

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
from detseg.files import SaveError, write_text
try:
    write_text(Path(sys.argv[1]), "x" * 5000)
except SaveError as error:
    print(error)
"""


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file.txt"
    write_text(path, "old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.suffix == ".txt"
    assert path.read_text() == "new"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_an_error_while_writing_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_a_full_disk_is_an_error_that_says_what_was_kept(tmp_path: Path) -> None:
    assert hasattr(resource, "RLIMIT_FSIZE")
    path = tmp_path / "file.txt"
    for expected in ("nothing was left behind", f"kept: {path}"):
        done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True)
        assert expected in done.stdout
        assert "MB free" in done.stdout
        assert not list(tmp_path.glob(f"{PARTIAL_PREFIX}*"))
        path.write_text("old")
    assert path.read_text() == "old"


def test_a_folder_in_the_way_is_a_save_error(tmp_path: Path) -> None:
    (tmp_path / "file.txt").mkdir()
    with pytest.raises(SaveError, match=r"could not write .*file\.txt"):
        write_text(tmp_path / "file.txt", "text")


def test_files_are_as_readable_as_any_other(tmp_path: Path) -> None:
    write_text(tmp_path / "ours.txt", "text")
    (tmp_path / "other.txt").write_text("text")
    assert (tmp_path / "ours.txt").stat().st_mode == (tmp_path / "other.txt").stat().st_mode


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / f"{PARTIAL_PREFIX}state-abc.pt").write_text("half")
    (tmp_path / "state.pt").write_text("whole")
    remove_partial_files(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.pt"]
