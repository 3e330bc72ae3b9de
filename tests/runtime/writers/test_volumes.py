from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from detseg.files import SaveError
from detseg.runtime.drawing.volume import draw_montage, draw_slices
from detseg.runtime.media.images import read_image
from detseg.runtime.sources.finding import find_sources
from detseg.runtime.sources.frames import Frame
from detseg.runtime.sources.reading import read_frames
from detseg.runtime.volumes.nifti import write_volume
from detseg.runtime.volumes.volume_files import VOLUME_SUFFIXES, read_label_values, read_volume, read_volume_header
from detseg.runtime.writers.volumes import MontageWriter, NiftiWriter, SlicesWriter, TableWriter
from detseg.structures import IGNORE_INDEX
from detseg.volumes import LabelVolume, Volume

NAMES = ("background", "anterior", "posterior")
# 0.5 x 2 x 4 mm: a voxel is 4 microliters. The axes run toward the back, the left and the top.
AFFINE = np.array([[0, -2, 0, 7], [-0.5, 0, 0, -3], [0, 0, 4, 1], [0, 0, 0, 1]], np.float64)
VOLUME = Volume(np.random.default_rng(0).random((6, 5, 4)).astype(np.float32), AFFINE)
LABELS = np.zeros((6, 5, 4), np.uint8)
LABELS[1:4, 1:3, 1:3] = 1
LABELS[4, 1:3, 1] = 2
FOUND = LabelVolume(LABELS, AFFINE)


def frame(source: Path | str) -> Frame:
    return Frame(VOLUME, str(source), Path(source))


@pytest.mark.parametrize(
    ("category_ids", "ignored_as", "numbers"),
    [
        (None, 0, (0, 1, 2)),
        ((0, 7, 205), 0, (0, 7, 205)),
        ((3, 255, 0), 3, (3, 255, 0)),
        ((0, 256, 1024), 0, (0, 256, 1024)),
        ((0, 32767, 32768), 0, (0, 32767, 32768)),
    ],
)
def test_labels_are_written_with_the_numbers_of_the_data_set_on_the_grid_of_the_file(
    tmp_path: Path, category_ids: tuple[int, ...] | None, ignored_as: int, numbers: tuple[int, ...]
) -> None:
    labels = LABELS.copy()
    labels[0, 0, 0] = IGNORE_INDEX
    with NiftiWriter(tmp_path / "out", NAMES, ["in/a.nii.gz", "in/b.nii"], category_ids=category_ids) as writer:
        writer.write(frame("in/a.nii.gz"), LabelVolume(labels, AFFINE))
        writer.write(frame("in/b.nii"), FOUND)
    values, affine = read_label_values(tmp_path / "out" / "a.nii.gz")
    expected = np.array(numbers)[LABELS]
    expected[0, 0, 0] = ignored_as
    assert np.array_equal(values, expected)
    assert np.allclose(affine, AFFINE, atol=1e-6)
    largest = max(numbers)
    dtype = "uint8" if largest < 2**8 else "int16" if largest < 2**15 else "int32"
    assert [read_volume_header(path).dtype for path in (tmp_path / "out").iterdir()] == [dtype, dtype]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "b.nii.gz"]


@pytest.mark.parametrize(
    ("category_ids", "message"),
    [
        ((0, 1), "got 2 category ids for 3 classes"),
        ((0, 1, 2**31), "class posterior has the id 2147483648; a label volume holds 0 to 2147483647"),
        ((-1, 1, 2), "class background has the id -1"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(tmp_path: Path, category_ids: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NiftiWriter(tmp_path, NAMES, category_ids=category_ids)


def test_labels_never_go_where_a_source_lies(tmp_path: Path) -> None:
    source = tmp_path / "a.nii.gz"
    write_volume(source, VOLUME)
    before = source.read_bytes()
    for writer in (NiftiWriter, SlicesWriter, MontageWriter):
        with pytest.raises(ValueError, match="name another output folder"):
            writer(tmp_path, NAMES, [source])
        with pytest.raises(ValueError, match="name another output folder"):
            writer(tmp_path, NAMES).write(frame(source), FOUND)
    assert source.read_bytes() == before
    assert list(tmp_path.iterdir()) == [source]


def test_a_label_that_is_no_class_is_refused(tmp_path: Path) -> None:
    strange = LabelVolume(np.full((6, 5, 4), 3, np.uint8), AFFINE)
    with pytest.raises(ValueError, match=r"in/a\.nii: label 3 in the result; allowed are 0 to 2"):
        NiftiWriter(tmp_path, NAMES).write(frame("in/a.nii"), strange)
    with (
        pytest.raises(ValueError, match=r"in/a\.nii: label 3 in the result; allowed are 0 to 2"),
        TableWriter(tmp_path, NAMES) as table,
    ):
        table.write(frame("in/a.nii"), strange)
    assert list(tmp_path.iterdir()) == []


def test_a_table_of_volumes(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    labels = LABELS.copy()
    labels[LABELS == 2] = IGNORE_INDEX
    with TableWriter(folder, NAMES) as writer:
        writer.write(frame("in/a, b.nii.gz"), FOUND)
        writer.write(frame(Path("in/c.nii")), LabelVolume(labels, AFFINE))
        assert not (folder / "volumes.csv").exists()
        assert not (folder / "volumes.json").exists()
    with (folder / "volumes.csv").open(newline="") as stream:
        assert list(csv.DictReader(stream)) == [
            {
                "file": "in/a, b.nii.gz", "spacing_x_mm": "0.5", "spacing_y_mm": "2.0", "spacing_z_mm": "4.0",
                "anterior_voxels": "12", "anterior_ml": "0.048", "posterior_voxels": "2", "posterior_ml": "0.008",
            },
            {
                "file": "in/c.nii", "spacing_x_mm": "0.5", "spacing_y_mm": "2.0", "spacing_z_mm": "4.0",
                "anterior_voxels": "12", "anterior_ml": "0.048", "posterior_voxels": "0", "posterior_ml": "0.0",
            },
        ]  # fmt: skip
    first, second = json.loads((folder / "volumes.json").read_text())
    assert first == {
        "file": "in/a, b.nii.gz",
        "spacing_mm": [0.5, 2.0, 4.0],
        "classes": {
            "anterior": {"voxels": 12, "milliliters": 0.048},
            "posterior": {"voxels": 2, "milliliters": 0.008},
        },
    }
    assert second["classes"]["posterior"] == {"voxels": 0, "milliliters": 0.0}
    assert sorted(path.name for path in folder.iterdir()) == ["volumes.csv", "volumes.json"]


def test_a_table_without_volumes_has_its_columns(tmp_path: Path) -> None:
    with TableWriter(tmp_path, NAMES):
        pass
    header = "file,spacing_x_mm,spacing_y_mm,spacing_z_mm,anterior_voxels,anterior_ml,posterior_voxels,posterior_ml\n"
    assert (tmp_path / "volumes.csv").read_text() == header
    assert json.loads((tmp_path / "volumes.json").read_text()) == []


def test_tables_of_an_earlier_run_stay_if_this_one_fails(tmp_path: Path) -> None:
    for name in ("volumes.csv", "volumes.json"):
        (tmp_path / name).write_text("earlier")
    writer = TableWriter(tmp_path, NAMES)
    writer.write(frame("in/a.nii.gz"), FOUND)
    with pytest.raises(ValueError, match="label 3"), writer:
        writer.write(frame("in/b.nii.gz"), LabelVolume(np.full((6, 5, 4), 3, np.uint8), AFFINE))
    for name in ("volumes.csv", "volumes.json"):
        assert (tmp_path / name).read_text() == "earlier"
    assert "in/a.nii.gz" in (tmp_path / "volumes.unfinished.csv").read_text().splitlines()[1]
    (line,) = (tmp_path / "volumes.unfinished.jsonl").read_text().splitlines()
    assert json.loads(line)["file"] == "in/a.nii.gz"


def test_a_name_that_is_not_utf8_does_not_cost_the_table(tmp_path: Path) -> None:
    with TableWriter(tmp_path, NAMES) as writer:
        writer.write(frame("in/\udcff.nii"), FOUND)
    assert "in/\\udcff.nii,0.5," in (tmp_path / "volumes.csv").read_text()
    assert json.loads((tmp_path / "volumes.json").read_text())[0]["file"] == "in/\udcff.nii"


def test_a_table_that_cannot_be_written_is_an_error_that_says_where(tmp_path: Path) -> None:
    (tmp_path / "volumes.csv").mkdir()
    with pytest.raises(SaveError, match=r"could not write .*volumes\.csv"), TableWriter(tmp_path, NAMES) as writer:
        writer.write(frame("in/a.nii"), FOUND)


def test_images_are_named_like_their_sources(tmp_path: Path) -> None:
    for writer_class, draw in ((SlicesWriter, draw_slices), (MontageWriter, draw_montage)):
        folder = tmp_path / writer_class.__name__
        with writer_class(folder, NAMES, ["in/a.nii.gz"]) as writer:
            writer.write(frame("in/a.nii.gz"), FOUND)
            writer.write(frame("other/a.nii"), FOUND)
        assert sorted(path.name for path in folder.iterdir()) == ["a.png", "a_2.png"]
        for path in folder.iterdir():
            assert np.array_equal(read_image(path), draw(VOLUME, FOUND, NAMES))


def test_labels_have_the_name_of_their_case(tmp_path: Path) -> None:
    """As nnU-Net names them; scans that are merely counted keep their numbers."""
    for name in ("in/scan_000_0000.nii.gz", "in/scan_001_0000.nii.gz", "counted/a_0000.nii", "counted/a_0001.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_volume(tmp_path / name, VOLUME)
    sources = find_sources([str(tmp_path / "in"), str(tmp_path / "counted")], VOLUME_SUFFIXES)
    with NiftiWriter(tmp_path / "labels", NAMES) as labels, SlicesWriter(tmp_path / "slices", NAMES) as slices:
        for one in read_frames(sources, read_volume):
            labels.write(one, FOUND)
            slices.write(one, FOUND)
    stems = ["a_0000", "a_0001", "scan_000", "scan_001"]
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == [f"{stem}.nii.gz" for stem in stems]
    assert sorted(path.name for path in (tmp_path / "slices").iterdir()) == [f"{stem}.png" for stem in stems]
