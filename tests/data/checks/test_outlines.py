"""What is wrong with outlines, found by ``check``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.cli import main
from detseg.data.check import check_dataset
from detseg.data.open import open_dataset
from detseg.data.source import DatasetError
from detseg.run_lengths import RunLengths
from detseg.runtime.media.images import write_image

TRAIN = "annotations/instances_train.json"
BOX = [4, 6, 20, 10]
OUTLINE = [4, 6, 24, 6, 24, 16, 4, 16]


def write(folder: Path, outlines: list[Any], **values: Any) -> None:
    """An image of 48x40 pixels (height x width), each object with the same box."""
    annotations = [
        {
            "id": number,
            "image_id": 1,
            "category_id": 1 + number,
            "bbox": BOX,
            "iscrowd": 0,
            "segmentation": outline,
            **values,
        }
        for number, outline in enumerate(outlines)
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 48, "width": 40}],
        "categories": [{"id": 1 + number, "name": f"class {number}"} for number in range(len(outlines))],
        "annotations": annotations,
    }
    write_image(folder / "train" / "a.png", np.zeros((48, 40, 3), np.uint8))
    (folder / "annotations").mkdir()
    (folder / TRAIN).write_text(json.dumps(content))


def mask(left: int, top: int, width: int, height: int, shape: tuple[int, int] = (48, 40)) -> dict[str, Any]:
    return RunLengths.from_crop(np.ones((height, width), bool), left, top, *shape).to_coco()


CASES: dict[str, tuple[Any, str | None, str]] = {
    "a polygon": ([OUTLINE], None, ""),
    "several": ([OUTLINE, [10, 10, 12, 10, 12, 12]], None, ""),
    "a mask": (mask(4, 6, 20, 10), None, ""),
    "two corners": (
        [[4, 6, 24, 16]],
        "D010",
        "a polygon of 2 corners, where 3 are the least that enclose anything, in",
    ),
    "a line as a part": ([OUTLINE, [4, 6, 9, 9]], "D010", "a polygon of 2 corners"),
    "smaller than a pixel": ([[5, 7, 5.2, 7, 5.2, 7.2]], "D010", r"the outline around \(5, 7\) encloses the middle of"),
    "an empty mask": ({"size": [48, 40], "counts": [48 * 40]}, "D010", "the mask holds no pixel, in a.png"),
    "outside": ([[4, 6, 42, 6, 42, 16, 4, 16]], "D011", "the outline reaches 2 pixels outside of the image, 40x48,"),
    "outside by rounding": ([[4, 6, 24, 6, 24, 16.4, 4, 16]], None, ""),
    "elsewhere": (
        [[8, 6, 24, 6, 24, 16, 8, 16]],
        "D012",
        r"the outline lies within \(8, 6, 24, 16\), the box is \(4, 6,",
    ),
    "a mask elsewhere": (
        mask(4, 6, 20, 20),
        "D012",
        r"the mask lies within \(4, 6, 24, 26\), the box is .*, 10 apart,",
    ),
    "almost there": ([[5.5, 6, 24, 6, 24, 16, 5.5, 16]], None, ""),
    "of a turned image": (mask(4, 6, 20, 10, (40, 48)), "D007", "the mask is of 48x40 pixels, but its image has 40x48"),
    "too few pixels": ({"size": [48, 40], "counts": [9]}, "D007", "counts of 48x40 pixels must add up to them, got 9"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("way", ["at once", "entry by entry"])
def test_outlines_are_looked_at(tmp_path: Path, case: str, way: str) -> None:
    outline, code, words = CASES[case]
    # An area that is text is nothing that the fast reader takes.
    write(tmp_path, [outline], **({} if way == "at once" else {"area": "200"}))
    found = [one for one in check_dataset(tmp_path).findings if "area must be" not in one.message]
    about = [one for one in found if one.code != "D012" or code == "D012"]
    assert [one.code for one in about] == ([] if code is None else [code])
    if code is not None:
        assert about[0].annotation_ids == (0,)
        assert about[0].file == TRAIN
        assert re.search(words, about[0].message)


def test_for_instances_every_outline_must_be_usable(tmp_path: Path) -> None:
    write(tmp_path, [[OUTLINE], None, mask(4, 6, 20, 10, (40, 48)), [["a", 2, 3, 4]]])
    boxes, instances = (check_dataset(tmp_path, target=truth) for truth in ("boxes", "instances"))  # type: ignore[arg-type]
    assert {code: len(found) for code, found in boxes.by_code().items()} == {"D007": 2}
    assert boxes.exit_code == 1
    found = {
        code: sorted(number for one in some for number in one.annotation_ids)
        for code, some in instances.by_code().items()
    }
    assert found == {"D009": [1], "D013": [2, 3]}
    assert instances.exit_code == 2
    with pytest.raises(DatasetError, match="annotation 1: has no outline"):
        open_dataset(tmp_path, "train", target="instances")


def test_the_verb_takes_what_is_to_be_learned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, [[OUTLINE], None])
    assert main(["check", str(tmp_path)]) == 0
    assert main(["check", str(tmp_path), "--target", "instances"]) == 2
    assert "object without outline" in capsys.readouterr().out
    assert main(["check", str(tmp_path), "--target", "masks"]) == 2
    assert "masks were asked for (task semantic)" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["train", "val"])
def test_photographs_have_outlines_that_fit(detseg_data: Path, split: str) -> None:
    report = check_dataset(detseg_data / "coco-mini", splits=[split], decode=False, target="instances")
    assert {code for code in report.by_code() if code in ("D007", "D009", "D010", "D011", "D013")} <= {"D010"}
    assert len(report.by_code().get("D012", [])) < 5
