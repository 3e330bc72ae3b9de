from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from detseg.runtime.commands.colors import colors_command, read_palette
from detseg.runtime.drawing.palette import color_of, palette_of
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.kinds import load_kind
from detseg.runtime.kinds.saving import Saving, make_writers
from detseg.runtime.media.images import read_image
from detseg.runtime.model import Model
from detseg.runtime.sources.frames import Frame
from detseg.structures import IGNORE_INDEX, LabelMap

NAMES = ("background", "left", "right")


class NoRunner:
    spec = InputSpec(64, 64)
    default_batch_size = 1
    max_in_flight = 1
    kind = load_kind("masks")


MODEL = Model(NoRunner(), "semantic", NAMES, (0, 1, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{left: [1, 2, 3]}", ((1, 2, 3), color_of(1))),
        ("[[0, 0, 0], [1, 2, 3], '#040506']", ((1, 2, 3), (4, 5, 6))),
        ("{format: masks, colors: {right: [7, 8, 9]}}", (color_of(0), (7, 8, 9))),
        ("{names: [right, left, sky], colors: [[1, 1, 1], [2, 2, 2], [3, 3, 3]]}", ((2, 2, 2), (1, 1, 1))),
    ],
)
def test_colors_from_a_file(tmp_path: Path, text: str, expected: tuple[object, object]) -> None:
    (tmp_path / "my.yaml").write_text(text)
    palette = read_palette(tmp_path / "my.yaml", NAMES)
    assert (palette[1], palette[2]) == expected
    assert palette.has_background


def test_a_file_without_colors(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("{names: [a], path: b}")
    with pytest.raises(ValueError, match="no class is called names, path; there are background, left, right"):
        read_palette(tmp_path / "my.yaml", NAMES)
    with pytest.raises(FileNotFoundError, match=r"--colors: .*none\.yaml not found"):
        read_palette(tmp_path / "none.yaml", NAMES)


def test_a_legend_is_printed_drawn_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert colors_command(MODEL, tmp_path / "legend.png") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["colors: default", "#000000  background  (background, not drawn)"]
    assert said[2] == "#{:02x}{:02x}{:02x}  left".format(*color_of(0))
    assert read_image(tmp_path / "legend.png").shape[1] == 900
    assert colors_command(MODEL, tmp_path / "legend.yaml") == 0
    assert yaml.safe_load((tmp_path / "legend.yaml").read_text())["colors"]["right"] == list(color_of(1))
    assert read_palette(tmp_path / "legend.yaml", NAMES).colors == palette_of(NAMES).colors
    with pytest.raises(ValueError, match=r"legend\.txt: a legend is an image .* or a \.yaml"):
        colors_command(MODEL, tmp_path / "legend.txt")
    with pytest.raises(ValueError, match=r"legend\.png"):
        colors_command(MODEL, tmp_path / "legend.png")


def test_masks_show_their_colors_and_keep_their_numbers(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 2], [IGNORE_INDEX, 2, 1]], np.uint8).repeat(20, axis=0).repeat(30, axis=1)
    frame = Frame(np.full((40, 90, 3), 100, np.uint8), "a.png")
    saving = Saving(MODEL.runner.kind, tmp_path, NAMES, (0, 7, 9))
    for writer in make_writers(["mask", "color", "ids", "image"], saving, "semantic"):
        with writer:
            writer.write(frame, LabelMap(labels))
    table = palette_of(NAMES).table()
    with Image.open(tmp_path / "masks/a.png") as mask:
        assert mask.mode == "P"
        assert np.array_equal(np.asarray(mask), labels)
        assert np.array_equal(np.asarray(mask.convert("RGB")), table[labels])
    assert np.array_equal(read_image(tmp_path / "colors/a.png"), table[labels])
    with Image.open(tmp_path / "ids/a.png") as ids:
        assert ids.mode == "L"
        assert sorted(set(np.asarray(ids).ravel().tolist())) == [0, 7, 9, 255]
    drawn = read_image(tmp_path / "a.png")
    assert drawn.shape[0] > 40, "the legend"
    assert drawn[5, 5].tolist() == [100, 100, 100], "the background is not tinted"
    assert drawn[35, 75].tolist() != [100, 100, 100]
