from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from detseg.files import (
    PARTIAL_PREFIX,
    SaveError,
    atomic_path,
    cache_folder,
    fitting_name,
    holds_keys,
    open_regular,
    printable,
    read_bytes,
    read_text,
    remove_partial_files,
    require_apart,
    require_possible,
    require_replaceable,
    storable,
    write_text,
)


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
    subprocess.run([sys.executable, "-c", code, tmp_path / "größe.txt"], check=True, env=environment)
    assert names(tmp_path) == ["größe.txt"]
    assert (tmp_path / "größe.txt").read_bytes() == "Größe ±".encode()


@pytest.mark.parametrize("name", ["x" * 255, "x" * 250 + ".json", "\u00e4" * 125 + ".mp4", "a." + "y" * 250])
def test_any_legal_name_can_be_written(tmp_path: Path, name: str) -> None:
    with atomic_path(tmp_path / name) as temporary:
        temporary.write_text("content")
        assert len(os.fsencode(temporary.name)) <= 255
        temporary.name.encode("utf-8")
        assert len(temporary.suffix) > 10 or temporary.suffix == Path(name).suffix or not temporary.suffix
    assert names(tmp_path) == [name]


def test_names_that_would_be_too_long_are_cut() -> None:
    assert fitting_name("a", ".png") == "a.png"
    assert fitting_name("x" * 251, ".png") == "x" * 251 + ".png"
    assert fitting_name("x" * 252, "_2.png") == "x" * 249 + "_2.png"
    assert fitting_name("\u00e4" * 127, ".png") == "\u00e4" * 125 + ".png"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain.png", "plain.png"),
        ("größer, 中, 🐟\u00a0", "größer, 中, 🐟\u00a0"),
        ("a family 👨\u200d👩\u200d👧", "a family 👨\u200d👩\u200d👧"),
        ("\x1b[31mred\n", "\\x1b[31mred\\x0a"),
        ("a\rb\bc\x07\x7f\t", "a\\x0db\\x08c\\x07\\x7f\\x09"),
        ("\x9b2J", "\\x9b2J"),
        ("a\u202egnp.exe", "a\\u202egnp.exe"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("tag\U000e0061", "tag\\U000e0061"),
        (os.fsdecode(b"bild_\xe4.jpg"), "bild_\\xe4.jpg"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(f"{text}\n\t", keep="\n\t") == printable(f"{text}", keep="\n\t") + "\n\t"


def test_what_is_stored() -> None:
    for text, stored in ((os.fsdecode(b"a\xe4"), "a\\udce4"), ("\x1b[31mred\n", "\x1b[31mred\n"), ("ä", "ä")):
        assert storable(text) == stored


def test_only_what_this_program_wrote_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    require_replaceable(path)
    path.write_text("mine")
    for make in (lambda: path.symlink_to("nowhere"), path.mkdir, None):
        with pytest.raises(ValueError, match=r"m\.json is there already and not of a kind that is re.*--overwrite"):
            require_replaceable(path)
        require_replaceable(path, overwrite=True)
        if make is None:
            break
        path.unlink()
        make()
    path.rmdir()
    write_text(path, "{}")
    require_replaceable(path, is_ours=lambda one: one.read_text() == "{}")
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(ValueError, match="link is there already"):
        require_replaceable(tmp_path / "link", is_ours=lambda one: True)


@pytest.mark.parametrize(
    ("content", "is_report"),
    [
        (b'{"AP": 1, "x": []}', True),
        (b'{"ap": 1}', False),
        (b"[1]", False),
        (b'"AP"', False),
        (b"{", False),
        (b"\xff", False),
        (b"[" * 100_000, False),
    ],
)
def test_reports_are_told_by_their_keys(tmp_path: Path, content: bytes, is_report: bool) -> None:
    (tmp_path / "m.json").write_bytes(content)
    assert holds_keys(tmp_path / "m.json", "AP") == is_report
    assert not holds_keys(tmp_path / "none.json", "AP")
    assert not holds_keys(tmp_path, "AP")


@pytest.mark.parametrize(
    ("folder", "read", "is_free"),
    [
        ("out", ["in/a.png", "other"], True),
        ("in/sub", ["in/a.png"], True),
        ("in", ["in/a.png"], False),
        ("in", ["in"], False),
        ("other/../in/.", ["out/x", "in/a.png"], False),
        ("to_in", ["in/a.png"], False),
        ("in", ["to_in/a.png"], False),
        ("links", ["links/a.png"], False),
        ("in", ["links/a.png"], False),
        ("chain", ["links/b.png"], False),
        ("in", ["links/b.png"], False),
    ],
)
def test_nothing_is_written_where_something_is_read(
    tmp_path: Path, folder: str, read: list[str], is_free: bool
) -> None:
    for name in ("in/sub", "other", "links", "chain"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "in/a.png").touch()
    (tmp_path / "to_in").symlink_to("in")
    (tmp_path / "links/a.png").symlink_to("../in/a.png")
    (tmp_path / "links/b.png").symlink_to("../chain/c.png")
    (tmp_path / "chain/c.png").symlink_to("../in/a.png")
    sources = [tmp_path / name for name in read]
    if is_free:
        return require_apart(tmp_path / folder, sources)
    with pytest.raises(ValueError, match=r"where the source .* lies; name another output folder"):
        require_apart(tmp_path / folder, sources)


def test_bytes_that_are_no_text_are_written_as_json_has_them(tmp_path: Path) -> None:
    names = ["bild_\udce4.jpg", "größe", "\ud800"]
    write_text(tmp_path / "a.json", json.dumps(names, ensure_ascii=False))
    assert json.loads(read_text(tmp_path / "a.json")) == names


@pytest.mark.parametrize("name", ["n" * 251 + ".txt", "n" * 255, "a." + "s" * 253, "\udce4" * 251 + ".txt"])
def test_names_as_long_as_file_systems_allow(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "whole")
    assert names(tmp_path) == [name]
    assert read_text(tmp_path / name) == "whole"


def test_reading_follows_links_and_reads_any_size(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(content)
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "link") == content
    with open_regular(tmp_path / "link") as file:
        assert file.read(10) == content[:10]
    (tmp_path / "text").write_bytes("ä\r\nb\n".encode())
    assert read_text(tmp_path / "text") == "ä\nb\n"


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file but a pipe, a socket or a device"):
            read_bytes(path)
    with pytest.raises(IsADirectoryError):
        read_bytes(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("chosen", "system", "expected"),
    [
        (None, "/caches", "/caches/detseg"),
        ("/elsewhere/mine", "/caches", "/elsewhere/mine"),
        ("", "/caches", "/caches/detseg"),
        (None, "not/absolute", "/home/me/.cache/detseg"),
        ("~/mine", "/caches", "/home/me/mine"),
    ],
)
def test_what_can_be_made_again_has_a_folder(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, system: str, expected: str
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", system)
    monkeypatch.delenv("DETSEG_CACHE", raising=False)
    if chosen is not None:
        monkeypatch.setenv("DETSEG_CACHE", chosen)
    assert str(cache_folder()) == expected


def test_places_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name, words in {
        "file/a.json": "file: is no folder",
        "file/b/c/a.json": "file: is no folder",
        "loop": "loop: Too many levels of symbolic links",
        "loop/a/b.onnx": "loop/a/b.onnx: Too many levels of symbolic links",
        "one/a.onnx": "one/a.onnx: Too many levels of symbolic links",
        "dangling/a/b.onnx": "dangling: is a link that leads nowhere",
        f"{'x' * 300}/a.json": "File name too long",
    }.items():
        with pytest.raises(OSError, match=r"\[Errno") as caught:
            require_possible(tmp_path / name)
        assert words in f"{caught.value.filename}: {caught.value.strerror}"
    for name in ("new", "new/a/b.json", "file", "../b.json", "dangling", "."):
        require_possible(tmp_path / name)
    require_possible(Path("new"))
    require_possible(Path())


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_closed_folder_is_no_place(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(PermissionError, match="nothing can be written into this folder"):
        require_possible(tmp_path / "closed" / "a" / "b.json")
