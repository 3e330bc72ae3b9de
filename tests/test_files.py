from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from detseg.files import PARTIAL_PREFIX, SaveError, atomic_path, remove_partial_files, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "weights.bin"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        assert temporary.parent == target.parent, "a rename must not cross file systems"
        assert temporary.suffix == ".bin"
        assert names(target.parent) == [temporary.name]
    assert names(target.parent) == ["weights.bin"]
    assert target.read_bytes() == b"half"


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "state"
    target.write_text("old")
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a.txt", "text")
        assert os.umask(mask) == mask, "the mask must be as it was"
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt()], ids=["exception", "interrupt"])
def test_a_failing_block_leaves_all_as_it_was(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "state"
    target.write_text("old")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)) as caught:
        write_half()
    assert caught.value is error
    assert names(tmp_path) == ["state"]
    assert target.read_text() == "old"


@pytest.mark.parametrize("existing", [True, False])
def test_an_error_of_the_system_says_what_was_kept(tmp_path: Path, existing: bool) -> None:
    target = tmp_path / "state"
    if existing:
        target.write_text("old")
    with pytest.raises(SaveError) as caught, atomic_path(target):
        raise OSError("the reason")
    message = str(caught.value)
    assert message.startswith(f"could not write {target}: the reason; ")
    assert f"MB free in {tmp_path}" in message
    assert message.endswith(f"is kept: {target}" if existing else "nothing was left behind")
    assert names(tmp_path) == (["state"] if existing else [])


FULL_DISK = """
import resource, sys
from pathlib import Path
from detseg.files import SaveError, write_text
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_text(Path(sys.argv[1]), "s" * 1000)
try:
    write_text(Path(sys.argv[1]), "l" * 1001)
except SaveError as error:
    print(error)
"""


def test_a_disk_that_fills_up_keeps_the_file_before(tmp_path: Path) -> None:
    target = tmp_path / "state"
    result = run_python(FULL_DISK, target)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"could not write {target}: [Errno 27]")
    assert target.read_text() == "s" * 1000
    assert names(tmp_path) == ["state"]


KILLED = """
import os, signal, sys
from pathlib import Path
from detseg.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_can_be_removed(tmp_path: Path) -> None:
    target = tmp_path / "state"
    target.write_text("old")
    (tmp_path / "partial-notes.txt").write_text("of the user")
    assert run_python(KILLED, target).returncode == -signal.SIGKILL
    assert target.read_text() == "old"
    assert len([name for name in names(tmp_path) if name.startswith(PARTIAL_PREFIX)]) == 1
    remove_partial_files(tmp_path)
    assert names(tmp_path) == ["partial-notes.txt", "state"]


def test_text_is_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from detseg.files import write_text; "
        "write_text(Path(sys.argv[1]), 'Gr\\xf6\\xdfe \\xb1')"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code, tmp_path / "a"], check=True, env=environment)
    assert (tmp_path / "a").read_bytes() == "Größe ±".encode()
