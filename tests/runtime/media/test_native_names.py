from __future__ import annotations

import os
from pathlib import Path

import pytest

from detseg.runtime.media.native_names import native_name


@pytest.mark.parametrize("name", ["footage.mp4", "a:b.mp4", "\u00e4 #[1].mp4"])
def test_names_in_utf_8_are_whole_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with native_name(name) as given:
        assert given == str(tmp_path / name)


@pytest.mark.parametrize("name", [b"video_\xe4.mp4", b"folder_\xff/footage.mp4", b"video.mp\xe4"])
def test_other_names_are_links_while_they_are_needed(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"content")
    with native_name(path) as given:
        given.encode("utf-8")
        assert Path(given).read_bytes() == b"content"
        assert Path(given).suffix == (".mp4" if name.endswith(b"mp4") else "")
        Path(given).write_bytes(b"written")
    assert not Path(given).exists()
    assert path.read_bytes() == b"written"
