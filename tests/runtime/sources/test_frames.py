from __future__ import annotations

import numpy as np
import pytest

from detseg.runtime.sources.frames import Frame

IMAGE = np.zeros((2, 2, 3), np.uint8)


@pytest.mark.parametrize(
    ("source", "index", "stem", "name"),
    [
        ("in/a.b.jpg", None, "a.b", "a.b"),
        ("scans/s1.nii.gz", None, "s1", "s1"),
        ("in/walk.mp4", 12, "walk", "walk_000012"),
        ("camera0", 1_234_567, "camera0", "camera0_1234567"),
        ("rtsp://host:554/door?profile=1", 0, "door?profile=1", "door?profile=1_000000"),
    ],
)
def test_names_for_files(source: str, index: int | None, stem: str, name: str) -> None:
    frame = Frame(IMAGE, source, None, index)
    assert (frame.stem, frame.name) == (stem, name)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (("a.mp4", 0), ("a.mp4", 1), True),
        (("a.mp4", 0), ("a.mp4", 30), True),
        (("a.mp4", 5), ("a.mp4", 0), False),
        (("a.mp4", 5), ("b.mp4", 6), False),
        (("a.png", None), ("b.png", None), True),
        (("a.png", None), ("a.mp4", 1), False),
        (("a.mp4", 1), ("a.png", None), False),
    ],
)
def test_which_frames_belong_together(
    first: tuple[str, int | None], second: tuple[str, int | None], expected: bool
) -> None:
    last, frame = (Frame(IMAGE, source, None, index) for source, index in (first, second))
    assert frame.follows(last) is expected
