from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detseg.arrays import ByteArray
from detseg.runtime.drawing import volume as draw_volume
from detseg.runtime.drawing.palette import Palette, color_of
from detseg.runtime.drawing.volume import compare_axial, compare_volumes, draw_montage, draw_slices
from detseg.runtime.drawing.volume_planes import AXIAL, CORONAL, SAGITTAL
from detseg.runtime.volumes.volume_files import read_label_values, read_volume
from detseg.structures import IGNORE_INDEX
from detseg.volumes import LabelVolume, Volume

NAMES = ("background", "anterior", "posterior")
AFFINE = np.diag([1.0, 1.0, 1.0, 1.0])
VOLUME = Volume(np.random.default_rng(0).random((20, 24, 16)).astype(np.float32), AFFINE)


def labels_of(**boxes: tuple[slice, slice, slice]) -> LabelVolume:
    """Labels of the size of ``VOLUME`` with these boxes in the class of this name, or ``ignored``."""
    labels = np.zeros(VOLUME.voxels.shape, np.uint8)
    for name, box in boxes.items():
        labels[box] = IGNORE_INDEX if name == "ignored" else NAMES.index(name)
    return LabelVolume(labels, AFFINE)


BOTH = labels_of(anterior=np.s_[4:10, 12:20, 3:9], posterior=np.s_[4:10, 4:12, 3:9])
EMPTY = labels_of()


def num_pixels(image: ByteArray, label: int) -> int:
    return int((image == color_of(label - 1)).all(axis=2).sum())


def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that are written from here on."""
    texts: list[str] = []
    write = draw_volume.Lettering.write

    def record(self: draw_volume.Lettering, canvas: ByteArray, text: str, *place: int) -> None:
        texts.append(text)
        write(self, canvas, text, *place)

    monkeypatch.setattr(draw_volume.Lettering, "write", record)
    return texts


def test_three_planes_with_letters_and_milliliters(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = written(monkeypatch)
    image = draw_slices(VOLUME, BOTH, NAMES)
    # Counted from 1, half of the 576 labeled voxels lie in the axial slices 4 to 6, the coronal 5 to 12 and so on.
    assert texts == [
        *"RLAP", "axial, slice 6 of 16", *"RLSI", "coronal, slice 12 of 24", *"APSI", "sagittal, slice 7 of 20",
        "anterior 0.288 ml", "posterior 0.288 ml",
    ]  # fmt: skip
    # 24 mm are 420 pixels: three images of 350, 350 and 420 pixels, each between two margins.
    assert image.shape[1] == 350 + 350 + 420 + 6 * 24
    assert num_pixels(image, 1) > 500
    assert num_pixels(image, 2) > 500


def test_a_small_structure_far_from_the_middle_gets_planes_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = labels_of(anterior=np.s_[4:14, 4:14, 3:9])
    labels.labels[18, 21:23, 12:15] = 2
    texts = written(monkeypatch)
    image = draw_slices(VOLUME, labels, NAMES)
    assert [text for text in texts if "slice" in text] == [
        "axial, slice 7 of 16", "coronal, slice 10 of 24", "sagittal, slice 10 of 20",
        # Of slices with as much of it the middle ones: 13 to 15, 22 and 23, 19.
        "axial, slice 14 of 16", "coronal, slice 23 of 24", "sagittal, slice 19 of 20",
    ]  # fmt: skip
    assert num_pixels(image, 2) > 100
    texts = written(monkeypatch)
    compare_volumes(VOLUME, labels, BOTH, NAMES)
    assert sum("slice" in text for text in texts) == 12


def test_structures_without_room_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros(VOLUME.voxels.shape, np.uint8)
    for label in range(1, 9):
        labels[2 * label, 2 * label, 2 * label - 1] = label
    texts = written(monkeypatch)
    draw_slices(VOLUME, LabelVolume(labels, AFFINE), ("background", *"abcdefgh"))
    assert sum("axial" in text for text in texts) == 4
    assert [text for text in texts if text.startswith("hardly in view")] == ["hardly in view: e, f, g, h"]


def test_where_sides_are_not_known_no_letter_stands_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = written(monkeypatch)
    draw_slices(VOLUME, BOTH, NAMES, has_sides=False, notes=["a patch"])
    assert not {"R", "L", "A", "P", "S", "I"} & set(texts)
    assert "a patch" in texts


def test_gray_values_run_over_the_window_of_the_model() -> None:
    voxels = np.linspace(-1000, 1000, 1000, dtype=np.float32).reshape(10, 10, 10)
    scan = draw_volume.Scan(Volume(voxels, AFFINE, display=(-100.0, 100.0)))
    image = scan.image(AXIAL, 5, np.zeros((10, 10, 10), np.uint8), 1.0)[..., 0]
    values = AXIAL.cut(voxels, 5)
    assert (image[values < -100] == 0).all()
    assert (image[values > 100] == 255).all()
    # As of old without one, where hardly anything is quite black or white.
    plain = draw_volume.Scan(Volume(voxels, AFFINE)).image(AXIAL, 5, np.zeros((10, 10, 10), np.uint8), 1.0)
    assert (plain[..., 0] == 0).mean() < 0.1


def test_panels_are_the_slices_themselves() -> None:
    """The images of the planes stand in the sheet unchanged, centered in a common height."""
    image = draw_slices(VOLUME, EMPTY, NAMES)
    scan = draw_volume.Scan(VOLUME)
    left = 24
    for plane, position in ((AXIAL, 8), (CORONAL, 12), (SAGITTAL, 10)):
        panel = scan.image(plane, position, EMPTY.labels, 420 / 24)
        height, width = panel.shape[:2]
        column = image[:, left : left + width]
        tops = [top for top in range(len(column) - height) if np.array_equal(column[top : top + height], panel)]
        assert len(tops) == 1
        left += width + 48


@pytest.mark.parametrize(
    ("labels", "legend"),
    [
        (EMPTY, ["nothing is labeled"]),
        (labels_of(ignored=np.s_[:5]), ["nothing is labeled"]),
        (labels_of(posterior=np.s_[:1, :1, :1]), ["posterior 0.001 ml"]),
    ],
)
def test_the_legend_names_what_is_there(
    monkeypatch: pytest.MonkeyPatch, labels: LabelVolume, legend: list[str]
) -> None:
    for draw in (draw_slices, draw_montage):
        texts = written(monkeypatch)
        draw(VOLUME, labels, NAMES)
        assert [text for text in texts if "labeled" in text or text.endswith(" ml")] == legend


@pytest.mark.parametrize(
    ("milliliters", "text"),
    [(0.0, "0 ml"), (0.00123456, "0.00123 ml"), (1.5, "1.5 ml"), (987.6, "988 ml"), (1234.2, "1,234 ml")],
)
def test_milliliters_are_rounded_for_the_eye(monkeypatch: pytest.MonkeyPatch, milliliters: float, text: str) -> None:
    affine = np.diag([10.0, 10.0, 10.0 * (milliliters or 1), 1.0])
    labels = np.zeros((3, 3, 3), np.uint8)
    labels[1, 1, 1] = 1
    found = LabelVolume(labels if milliliters else np.zeros_like(labels), affine)
    texts = written(monkeypatch)
    volume = Volume(np.zeros((3, 3, 3), np.float32), affine)
    compare_volumes(volume, LabelVolume(labels, affine), found, NAMES)
    assert texts[-1] == f"anterior {text}"


def test_a_comparison_shows_the_same_planes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    found = labels_of(posterior=np.s_[4:10, 4:10, 10:14])
    texts = written(monkeypatch)
    image = compare_volumes(VOLUME, BOTH, found, NAMES)
    titles = [text for text in texts if "slice" in text]
    assert titles == ["axial, slice 6 of 16", "coronal, slice 12 of 24", "sagittal, slice 7 of 20"] * 2
    captions = [text for text in texts if text in ("truth", "prediction") or text.endswith(" ml")]
    assert captions == [
        "truth", "anterior 0.288 ml", "posterior 0.288 ml", "prediction", "anterior 0 ml", "posterior 0.144 ml",
    ]  # fmt: skip
    upper, lower = np.array_split(image, 2)
    # Below there is only the color in the legend.
    assert num_pixels(upper, 1) > 500 > 200 > num_pixels(lower, 1) > 0
    assert num_pixels(lower, 2) > 300


def test_axial_slices_have_truth_at_the_left_of_prediction() -> None:
    found = labels_of(posterior=np.s_[4:10, 4:10, 10:14])
    slices = compare_axial(VOLUME, BOTH, found, NAMES, max_slices=4)
    # Labels are in the slices 4 to 9 (true) and 11 to 14 (found).
    assert list(slices) == [4, 7, 11, 14]
    halves = {number: np.array_split(image, 2, axis=1) for number, image in slices.items()}
    assert [num_pixels(halves[number][0], 1) > 100 for number in slices] == [True, True, False, False]
    assert [num_pixels(halves[number][1], 2) > 100 for number in slices] == [False, False, True, True]
    assert len(compare_axial(VOLUME, EMPTY, EMPTY, NAMES, max_slices=5)) == 5


def test_where_nothing_is_true_the_planes_go_through_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = labels_of(anterior=np.s_[0:1, 1:2, 2:3])
    for truth in (EMPTY, labels_of(ignored=np.s_[10:])):
        texts = written(monkeypatch)
        compare_volumes(VOLUME, truth, found, NAMES)
        assert [text for text in texts if "slice" in text][:3] == [
            "axial, slice 3 of 16", "coronal, slice 2 of 24", "sagittal, slice 1 of 20",
        ]  # fmt: skip
        assert [text for text in texts if text.endswith(" ml")] == ["anterior 0 ml", "anterior 0.001 ml"]


@pytest.mark.parametrize(
    ("labels", "max_slices", "expected"),
    [
        (BOTH, 24, [4, 5, 6, 7, 8, 9]),
        (BOTH, 6, [4, 5, 6, 7, 8, 9]),
        (BOTH, 3, [4, 6, 9]),
        (BOTH, 1, [4]),
        (labels_of(anterior=np.s_[:, :, 2:3], posterior=np.s_[:, :, 11:12], ignored=np.s_[:, :, 5:7]), 24, [3, 12]),
        (EMPTY, 4, [1, 6, 11, 16]),
    ],
)
def test_a_montage_shows_slices_that_hold_something(
    monkeypatch: pytest.MonkeyPatch, labels: LabelVolume, max_slices: int, expected: list[int]
) -> None:
    texts = written(monkeypatch)
    draw_montage(VOLUME, labels, NAMES, max_slices)
    assert [text for text in texts if "/" in text] == [f"{number} / 16" for number in expected]
    assert "axial slices, bottom to top; left: patient's right" in texts


def test_a_class_is_where_the_convention_puts_it() -> None:
    """A file that runs toward the left, the back and the top (LPS): class 1 is at the patient's right and front."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    labels = np.zeros((40, 40, 1), np.uint8)
    labels[2:10, 2:10] = 1
    sheet = draw_montage(Volume(np.zeros((40, 40, 1), np.float32), affine), LabelVolume(labels, affine), NAMES)
    rows, columns = np.nonzero((sheet[:280] == color_of(0)).all(axis=2))
    # The image is 240 x 240 pixels, 6 to the millimeter: at the left and the top of it.
    assert (columns.min(), columns.max() + 1) == pytest.approx((6 + 12, 6 + 60), abs=2)
    assert rows.max() + 1 - rows.min() == pytest.approx(48, abs=2)
    assert rows.max() < len(sheet) / 2


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LabelVolume(np.zeros((20, 24, 15), np.uint8), AFFINE), r"one shape, got \(20, 24, 15\) and \(20, 24, 16\)"),
        (LabelVolume(np.full((20, 24, 16), 3, np.uint8), AFFINE), "label 3 in the volume, but there are 3 class names"),
    ],
)
def test_labels_of_something_else_are_refused(labels: LabelVolume, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_slices(VOLUME, labels, NAMES)
    with pytest.raises(ValueError, match=message):
        draw_montage(VOLUME, labels, NAMES)
    for truth, found in ((labels, EMPTY), (EMPTY, labels)):
        with pytest.raises(ValueError, match=message):
            compare_volumes(VOLUME, truth, found, NAMES)


def test_a_montage_of_no_slices_is_refused() -> None:
    with pytest.raises(ValueError, match="max_slices must be at least 1, got 0"):
        draw_montage(VOLUME, BOTH, NAMES, max_slices=0)


def test_real_scans(detseg_data: Path) -> None:
    for path in sorted((detseg_data / "hippocampus" / "labelsTr").glob("[!.]*.nii.gz"))[:2]:
        volume = read_volume(detseg_data / "hippocampus" / "imagesTr" / path.name)
        values, affine = read_label_values(path)
        labels = LabelVolume(values.astype(np.uint8), affine)
        for image in (draw_slices(volume, labels, NAMES), draw_montage(volume, labels, NAMES)):
            assert min(image.shape[:2]) > 450
            assert min(num_pixels(image, label) for label in (1, 2)) > 200


def test_colors_of_the_user_are_those_of_outlines_and_legend() -> None:
    labels = np.zeros(VOLUME.shape, np.uint8)
    labels[1:-1, 1:-1, 1:-1] = 1
    mine = Palette(((0, 0, 0), (10, 250, 20)), has_background=True)
    names = ("background", "a")
    truth = LabelVolume(labels, VOLUME.affine)
    images = [
        draw_volume.draw_slices(VOLUME, truth, names, palette=mine),
        draw_volume.draw_montage(VOLUME, truth, names, palette=mine),
        draw_volume.compare_volumes(VOLUME, truth, truth, names, mine),
        *draw_volume.compare_axial(VOLUME, truth, truth, names, palette=mine).values(),
    ]
    for image in images:
        assert (image == (10, 250, 20)).all(axis=2).any()
        assert not (image == color_of(0)).all(axis=2).any()
