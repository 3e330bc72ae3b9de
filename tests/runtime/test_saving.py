from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detseg.runtime.saving import DEFAULT_SAVE, SAVE_KINDS, make_writers
from detseg.structures import Detections, LabelMap
from detseg.tasks import TASKS

RESULTS = {"detection": Detections.empty(), "semantic": LabelMap(np.ones((8, 8), np.uint8))}
FILES = {
    "picture": {"a.png"},
    "video": {"video.mp4"},
    "coco": {"detections.json", "detections_images.json"},
    "mask": {"masks", "masks/a.png"},
    "ids": {"ids", "ids/a.png"},
}


def test_every_task_can_be_saved() -> None:
    assert set(SAVE_KINDS) == set(DEFAULT_SAVE) == set(TASKS)
    for task, kinds in DEFAULT_SAVE.items():
        assert set(kinds) <= set(SAVE_KINDS[task])


@pytest.mark.parametrize(("task", "kind"), [(task, kind) for task, kinds in SAVE_KINDS.items() for kind in kinds])
def test_a_kind_leaves_its_files(tmp_path: Path, task: str, kind: str) -> None:
    writers = make_writers([kind, kind], task, tmp_path / "out", ["cat", "dog"], [4, 9], ["in/a.png"])
    assert len(writers) == 1
    with writers[0] as writer:
        writer.write("in/a.png", np.zeros((8, 8, 3), np.uint8), RESULTS[task])
    assert {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")} == FILES[kind]


def test_kinds_of_another_task_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--save: unknown coco, csv; allowed for semantic are picture, mask, ids, vid"):
        make_writers(["picture", "coco", "csv"], "semantic", tmp_path, ["cat"], [1], [])


def test_nothing_is_left_where_a_folder_of_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name another output folder"):
        make_writers(["coco", "picture"], "detection", tmp_path, ["cat"], [1], [tmp_path / "a.png"])
    assert list(tmp_path.iterdir()) == []
