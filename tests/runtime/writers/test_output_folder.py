from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detseg.runtime.sources.frames import Frame
from detseg.runtime.writers.base import OutputFolder


def frame(source: Path | str) -> Frame:
    return Frame(np.zeros((1, 1, 3), np.uint8), str(source), Path(source))


@pytest.mark.parametrize(
    ("sources", "suffix", "names"),
    [
        (["a/x.jpg", "b/x.png", "b/X.jpg"], ".png", ["x.png", "x_2.png", "X_3.png"]),
        (["x_2.jpg", "x.jpg", "y/x.jpg"], ".png", ["x_2.png", "x.png", "x_3.png"]),
        (["a.b.jpg", "no_suffix", "archive.tar.gz"], ".png", ["a.b.png", "no_suffix.png", "archive.tar.png"]),
        (["a/x.nii.gz", "b/x.nii", "c/X.NII.GZ"], ".nii.gz", ["x.nii.gz", "x_2.nii.gz", "X_3.nii.gz"]),
        (["a.b.nii.gz", "a.b.nii"], ".png", ["a.b.png", "a.b_2.png"]),
    ],
)
def test_every_source_gets_a_name_of_its_own(tmp_path: Path, sources: list[str], suffix: str, names: list[str]) -> None:
    output = OutputFolder(tmp_path / "out", sources)
    assert [output.path_for(frame(source), suffix) for source in sources] == [tmp_path / "out" / name for name in names]


@pytest.mark.parametrize("name", ["x.png", "x.nii.gz"])
def test_results_never_go_where_a_source_lies(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"where the source .*{name} lies; name another output folder"):
        OutputFolder(tmp_path, [tmp_path / "sub" / ".." / name])
    with pytest.raises(ValueError, match="name another output folder"):
        OutputFolder(tmp_path).path_for(frame(tmp_path / name), ".png")
