from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detseg.runtime.kinds import KINDS, load_kind
from detseg.runtime.kinds.saving import Saving, make_writers
from detseg.runtime.sources.frames import Frame
from detseg.runtime.volumes.volume_files import read_label_values
from detseg.structures import Detections, Instances, LabelMap
from detseg.volumes import LabelVolume, Volume

IMAGE = np.zeros((8, 8, 3), np.uint8)
READ_AND_FOUND = {
    "boxes": (IMAGE, Detections.empty()),
    "instances": (IMAGE, Instances.empty()),
    "masks": (IMAGE, LabelMap(np.ones((8, 8), np.uint8))),
    "volumes": (
        Volume(np.zeros((4, 4, 4), np.float32), np.eye(4)),
        LabelVolume(np.ones((4, 4, 4), np.uint8), np.eye(4), np.full((2, 4, 4, 4), 0.5, np.float32)),
    ),
}
FILES = {
    "drawn": {"a.png"},
    "image": {"a.png"},
    "video": {"video.mp4"},
    "coco": {"detections.json", "detections_images.json"},
    "csv": {"detections.csv"},
    "parquet": {"objects.parquet"},
    "jsonl": {"results.jsonl"},
    "index": {"index", "index/a.png"},
    "yolo": {"labels", "labels/a.txt"},
    "crops": set(),  # nothing is found
    "color": {"colors", "colors/a.png"},
    "mask": {"masks", "masks/a.png"},
    "ids": {"ids", "ids/a.png"},
    "nifti": {"labels", "labels/a.nii.gz"},
    "source": {"labels", "labels/a.nii.gz"},
    "probabilities": {"probabilities", "probabilities/a.nii.gz"},
    "table": {"volumes.csv", "volumes.json"},
    "slices": {"slices", "slices/a.png"},
    "montage": {"montages", "montages/a.png"},
}


def saving(kind: str, output: Path, *sources: Path | str) -> Saving:
    return Saving(load_kind(kind), output, ("cat", "dog"), (4, 9), sources)


@pytest.mark.parametrize("kind", KINDS)
def test_every_result_can_be_saved(kind: str) -> None:
    assert set(load_kind(kind).default_save) <= set(load_kind(kind).writers)


@pytest.mark.parametrize(("kind", "save"), [(kind, save) for kind in KINDS for save in load_kind(kind).writers])
def test_each_writer_leaves_its_files(tmp_path: Path, kind: str, save: str) -> None:
    if save == "parquet":
        pytest.importorskip("pyarrow")
    source = "in/a.nii.gz" if kind == "volumes" else "in/a.png"
    writers = make_writers([save, save], saving(kind, tmp_path / "out", source), kind)
    assert len(writers) == 1
    with writers[0] as writer:
        image, found = READ_AND_FOUND[kind]
        if save == "dicom-seg":  # tests/runtime/volumes/test_dicom_seg.py has series, which alone can be written
            with pytest.raises(ValueError, match=r"in/a\.nii\.gz: no DICOM series"):
                writer.write(Frame(image, source, Path(source)), found)
            return
        writer.write(Frame(image, source, Path(source)), found)
    assert {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")} == FILES[save]


def test_what_other_results_can_be_saved_as_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--save: unknown coco, csv; allowed for semantic are drawn, image, video"):
        make_writers(["image", "coco", "csv"], saving("masks", tmp_path), "semantic")


def test_labels_get_the_numbers_of_the_data_set(tmp_path: Path) -> None:
    (writer,) = make_writers(["nifti"], saving("volumes", tmp_path), "volume")
    volume, found = READ_AND_FOUND["volumes"]
    writer.write(Frame(volume, "in/a.nii.gz"), found)
    values, _ = read_label_values(tmp_path / "labels" / "a.nii.gz")
    assert (values == 9).all()


@pytest.mark.parametrize(
    ("kind", "names", "source"),
    [
        ("boxes", ["coco", "image"], "a.png"),
        ("volumes", ["table", "nifti"], "labels/a.nii.gz"),
        ("volumes", ["table", "slices"], "slices/a.nii.gz"),
        ("volumes", ["montage", "table"], "montages/a.nii"),
    ],
)
def test_nothing_is_left_where_a_folder_of_results_is_refused(
    tmp_path: Path, kind: str, names: list[str], source: str
) -> None:
    with pytest.raises(ValueError, match="name another output folder"):
        make_writers(names, saving(kind, tmp_path, tmp_path / source), kind)
    assert list(tmp_path.iterdir()) == []
