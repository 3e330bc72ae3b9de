from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detseg.runtime.media.images import write_image
from detseg.runtime.sources.finding import content_of, known_as


@pytest.mark.parametrize(
    ("content", "kind", "known"),
    [
        (b"", None, None),
        (b"#EXTM3U\n", None, None),
        (b"RIFF\x04\0\0\0AVI ", "video", None),
        (b"RIFF\x04\0\0\0WEBP", "image", None),  # damaged
        (b"\xff\xd8\xff\xe0", "image", None),
        (b"\0\0\0\x18ftypisom" + bytes(20), "video", None),
        (b"\0\0\0\x18ftyp3gp4" + bytes(20), "video", None),
        (b"\0\0\0\x18ftypheic" + bytes(20), None, "HEIC, which is not read; convert it to JPEG or PNG"),
        (b"\0\0\0\x18ftypavif" + bytes(20), None, "AVIF, which is not read; convert it to JPEG or PNG"),
        (b"GIF87a" + bytes(20), None, "GIF, which is not read; convert it to a video or PNG"),
        (b"%PDF-1.7", None, "PDF, which is not read; convert it to JPEG or PNG"),
    ],
)
def test_what_a_file_is(tmp_path: Path, content: bytes, kind: str | None, known: str | None) -> None:
    path = tmp_path / "name.says.nothing"
    path.write_bytes(content)
    assert content_of(path) == kind
    assert known_as(path) == known


def test_what_is_no_file_is_neither(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8))
    assert content_of(tmp_path / "a.png") == "image"
    for path in (None, tmp_path, tmp_path / "none"):
        assert content_of(path) is None
