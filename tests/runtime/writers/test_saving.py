from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detseg.runtime.media.frames import Frame
from detseg.runtime.media.nifti import read_label_values
from detseg.runtime.writers.saving import DEFAULT_SAVE, SAVE_KINDS, make_writers
from detseg.structures import Detections, LabelMap
from detseg.tasks import TASKS
from detseg.volumes import LabelVolume, Volume

IMAGE = np.zeros((8, 8, 3), np.uint8)
READ_AND_FOUND = {
    "detection": (IMAGE, Detections.empty()),
    "semantic": (IMAGE, LabelMap(np.ones((8, 8), np.uint8))),
    "volume": (
        Volume(np.zeros((4, 4, 4), np.float32), np.eye(4)),
        LabelVolume(np.ones((4, 4, 4), np.uint8), np.eye(4)),
    ),
}
FILES = {
    "drawn": {"a.png"},
    "picture": {"a.png"},
    "video": {"video.mp4"},
    "coco": {"detections.json", "detections_images.json"},
    "csv": {"detections.csv"},
    "jsonl": {"results.jsonl"},
    "yolo": {"labels", "labels/a.txt"},
    "mask": {"masks", "masks/a.png"},
    "ids": {"ids", "ids/a.png"},
    "nifti": {"labels", "labels/a.nii.gz"},
    "table": {"volumes.csv", "volumes.json"},
    "slices": {"slices", "slices/a.png"},
    "montage": {"montages", "montages/a.png"},
}


def test_every_task_can_be_saved() -> None:
    assert set(SAVE_KINDS) == set(DEFAULT_SAVE) == set(TASKS)
    for task, kinds in DEFAULT_SAVE.items():
        assert set(kinds) <= set(SAVE_KINDS[task])


@pytest.mark.parametrize(("task", "kind"), [(task, kind) for task, kinds in SAVE_KINDS.items() for kind in kinds])
def test_a_kind_leaves_its_files(tmp_path: Path, task: str, kind: str) -> None:
    source = "in/a.nii.gz" if task == "volume" else "in/a.png"
    writers = make_writers([kind, kind], task, tmp_path / "out", ["cat", "dog"], [4, 9], [source])
    assert len(writers) == 1
    with writers[0] as writer:
        image, found = READ_AND_FOUND[task]
        writer.write(Frame(image, source, Path(source)), found)
    assert {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")} == FILES[kind]


def test_kinds_of_another_task_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--save: unknown coco, csv; allowed for semantic are drawn, picture, video"):
        make_writers(["picture", "coco", "csv"], "semantic", tmp_path, ["cat"], [1], [])


def test_labels_get_the_numbers_of_the_data_set(tmp_path: Path) -> None:
    (writer,) = make_writers(["nifti"], "volume", tmp_path, ["cat", "dog"], [4, 9], [])
    volume, found = READ_AND_FOUND["volume"]
    writer.write(Frame(volume, "in/a.nii.gz"), found)
    values, _ = read_label_values(tmp_path / "labels" / "a.nii.gz")
    assert (values == 9).all()


@pytest.mark.parametrize(
    ("task", "kinds", "source"),
    [
        ("detection", ["coco", "picture"], "a.png"),
        ("volume", ["table", "nifti"], "labels/a.nii.gz"),
        ("volume", ["table", "slices"], "slices/a.nii.gz"),
        ("volume", ["montage", "table"], "montages/a.nii"),
    ],
)
def test_nothing_is_left_where_a_folder_of_results_is_refused(
    tmp_path: Path, task: str, kinds: list[str], source: str
) -> None:
    with pytest.raises(ValueError, match="name another output folder"):
        make_writers(kinds, task, tmp_path, ["cat"], [1], [tmp_path / source])
    assert list(tmp_path.iterdir()) == []
