"""Names, paths and folders as they should not be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from detseg.data.open import find_source
from detseg.data.source import DatasetError, check_class_names, exists, images_in, is_text, read_class_file, read_lines


def test_images_in_folders_and_links(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "sub/c.webp", "notes.txt", ".hidden.png", "._b.png", ".git/d.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).touch()
    (tmp_path / "store").mkdir()
    (tmp_path / "store/e.png").touch()
    (tmp_path / "set/more").symlink_to(tmp_path / "store")
    (tmp_path / "set/more2").symlink_to(tmp_path / "store")
    (tmp_path / "set/sub/one").symlink_to(tmp_path / "set")
    (tmp_path / "set/sub/two").symlink_to(".")
    (tmp_path / "set/gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "set/pipe.png")
    found = [path.relative_to(tmp_path / "set").as_posix() for path in images_in(tmp_path / "set")]
    # Each folder once, and what is missing, which is for others to say; nothing that would be waited for.
    assert found == ["a.JPG", "b.png", "gone.png", "more/e.png", "sub/c.webp"]
    assert images_in(tmp_path / "nowhere") == []


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o000)
    with pytest.raises(DatasetError, match="closed: cannot be read: Permission denied"):
        images_in(tmp_path)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "\ud800.png"])
def test_what_can_be_no_file_is_none(tmp_path: Path, name: str) -> None:
    assert not exists(tmp_path / name)


def test_text_and_names_of_files() -> None:
    assert is_text("中")
    assert not is_text("\ud800")
    assert not is_text("\udce4")
    assert is_text("\udce4.png", is_path=True), "the byte 228, which is no UTF-8"
    assert not is_text("\ud800.png", is_path=True)
    with pytest.raises(DatasetError, match="class names must be text that can be written as UTF-8"):
        check_class_names(["a", "\ud800"], "here")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_where_path_in_a_yaml_may_lead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DETSEG_DATA", raising=False)
    path = write(tmp_path / "work/cells/data.yaml", "path: cells\nnames: [a]\n")
    # As the author saw the folder from the one around it.
    assert find_source(path).data_root() == tmp_path / "work/cells"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert find_source(path).data_root() == tmp_path / "work/cells"
    (tmp_path / "elsewhere/cells").mkdir()
    assert find_source(path).data_root() == tmp_path / "elsewhere/cells"
    (tmp_path / "work/cells/cells").mkdir()
    assert find_source(path).data_root() == tmp_path / "work/cells/cells"
    write(path, "path: others\nnames: [a]\n")
    with pytest.raises(DatasetError, match=r"path not found; tried .*others"):
        find_source(path).data_root()


@pytest.mark.parametrize(
    "text",
    ["a: &a [x, x]\nformat: [*a, *a]\n", "format: &f coco\ntrain: *f\n", "a: &a {x: 1}\nb: {<<: *a}\n"],
)
def test_aliases_in_a_yaml_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DatasetError, match=r"data\.yaml: not valid YAML: aliases") as caught:
        find_source(write(tmp_path / "data.yaml", text))
    assert len(str(caught.value)) < 1000


def test_messages_about_class_names_are_short(tmp_path: Path) -> None:
    for names in ("x" * 10_000, ["x" * 10_000] * 2, [list(range(10_000))], [f"c{n // 2}" for n in range(10_000)]):
        with pytest.raises(DatasetError) as caught:
            check_class_names(names, "here")
        assert len(str(caught.value)) < 500


def test_lists_may_name_files_in_bytes_but_classes_are_text(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"bild_\xe4.jpg\n\n  b.jpg\n")
    assert read_lines(tmp_path / "list.txt") == ["bild_\udce4.jpg", "b.jpg"]
    with pytest.raises(DatasetError, match="class names must be text that can be written as UTF-8"):
        read_class_file(tmp_path / "list.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(DatasetError, match=r"pipe\.txt: cannot be read as text: .*not a regular file"):
        read_lines(tmp_path / "pipe.txt")
