from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from detseg.arrays import ByteArray
from detseg.run_lengths import RunLengths
from detseg.runtime.drawing.boxes import draw_boxes
from detseg.runtime.drawing.labels import draw_labels
from detseg.runtime.kinds import load_kind
from detseg.runtime.kinds.saving import Drawing
from detseg.runtime.media.images import read_image, write_image
from detseg.runtime.sources.frames import Frame, StreamInfo
from detseg.runtime.writers import base
from detseg.runtime.writers.base import DrawnWriter, ImageWriter
from detseg.runtime.writers.boxes import CocoWriter, CsvWriter, YoloWriter
from detseg.runtime.writers.masks import MaskWriter
from detseg.structures import IGNORE_INDEX, Detections, Instances, LabelMap

IMAGE = np.full((40, 60, 3), 90, np.uint8)
FOUND = Detections(
    np.array([[1, 2, 31, 22], [0.1, 0.2, 0.3, 0.7]], np.float32), np.array([0.9, 0.3], np.float32), np.array([1, 0])
)
NAMES = ["cat", "dog"]
DRAW = Drawing(load_kind("boxes"), ("cat", "dog"))
DRAW_MASKS = Drawing(load_kind("masks"), ("cat", "dog"))


def frame(source: Path | str, image: ByteArray = IMAGE) -> Frame:
    return Frame(image, str(source), Path(source))


def test_images_are_drawn_under_the_names_of_their_sources(tmp_path: Path) -> None:
    with ImageWriter(tmp_path / "out", DRAW) as writer:
        for source in ("a/x.png", "b/x.png", "b/X.PNG", "c/x.bmp", "d/x_2.png", "e/no_suffix", "f/y.dat"):
            writer.write(frame(tmp_path / source), FOUND)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["X_3.PNG", "no_suffix.png", "x.bmp", "x.png", "x_2.png", "x_2_2.png", "y.png"]
    expected = draw_boxes(IMAGE, FOUND.boxes_xyxy, FOUND.labels, NAMES, FOUND.scores)
    assert (expected != IMAGE).any()
    for name in names:
        assert np.array_equal(read_image(tmp_path / "out" / name), expected)


@pytest.mark.parametrize("folder", [".", "sub/..", "link"])
def test_images_never_go_where_a_source_lies(tmp_path: Path, folder: str) -> None:
    source = tmp_path / "x.png"
    write_image(source, IMAGE)
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="name another output folder"):
        ImageWriter(tmp_path / folder, DRAW, [tmp_path / "other" / "y.png", source])
    for path in (source, tmp_path / "sub" / ".." / "link" / "x.png"):
        with pytest.raises(ValueError, match="name another output folder"):
            ImageWriter(tmp_path / folder, DRAW).write(frame(path), FOUND)
    assert np.array_equal(read_image(source), IMAGE)


def test_a_source_that_is_reached_through_a_link_in_the_output_folder_survives(tmp_path: Path) -> None:
    source, out = tmp_path / "in" / "x.png", tmp_path / "out"
    write_image(source, IMAGE)
    out.mkdir()
    (out / "x.png").symlink_to(source)
    ImageWriter(out, DRAW, [source]).write(frame(source), FOUND)
    assert np.array_equal(read_image(source), IMAGE)
    assert not np.array_equal(read_image(out / "x.png"), IMAGE)


def test_a_coco_file_and_its_list_of_images(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    with CocoWriter(path, NAMES) as writer:
        writer.write(frame("a.jpg"), FOUND)
        writer.write(frame("b.jpg"), Detections.empty())
        writer.write(frame("c.jpg"), FOUND.select(np.array([0])), image_id=139)
        assert not path.exists()
    results = json.loads(path.read_text())
    assert [(r["image_id"], r["category_id"]) for r in results] == [(1, 2), (1, 1), (139, 2)]
    assert json.loads((tmp_path / "new" / "results_images.json").read_text()) == [
        {"id": 1, "file_name": "a.jpg", "height": 40, "width": 60},
        {"id": 2, "file_name": "b.jpg", "height": 40, "width": 60},
        {"id": 139, "file_name": "c.jpg", "height": 40, "width": 60},
    ]
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["results.json", "results_images.json"]


def test_no_detections_make_an_empty_list(tmp_path: Path) -> None:
    writer = CocoWriter(tmp_path / "r.json", NAMES)
    writer.close()
    writer.close()
    assert json.loads((tmp_path / "r.json").read_text()) == []


def test_an_interrupted_run_leaves_the_results_before_and_what_it_found(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("[1]")

    def interrupted() -> None:
        with CocoWriter(path, NAMES) as writer:
            writer.write(frame("a.jpg"), FOUND)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "[1]"
    assert {entry.name for entry in tmp_path.iterdir()} == {
        "r.json", "r.unfinished.jsonl", "r_images.unfinished.jsonl"
    }  # fmt: skip
    found = [json.loads(line) for line in (tmp_path / "r.unfinished.jsonl").read_text().splitlines()]
    assert [record["category_id"] for record in found] == [2, 1]


def test_nothing_is_left_where_nothing_was_found(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), CocoWriter(tmp_path / "r.json", NAMES):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_every_class_needs_its_category_id(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 category ids for 2 classes"):
        CocoWriter(tmp_path / "r.json", NAMES, [1, 2, 3])
    assert not list(tmp_path.iterdir())


def test_pycocotools_reads_the_file(tmp_path: Path, detseg_data: Path) -> None:
    coco_module = pytest.importorskip("pycocotools.coco")
    truth = coco_module.COCO(str(detseg_data / "coco-mini" / "annotations" / "instances_val2017.json"))
    category_ids = sorted(truth.getCatIds())
    names = [truth.cats[category]["name"] for category in category_ids]
    with CocoWriter(tmp_path / "r.json", names, category_ids) as writer:
        for image_id in truth.getImgIds():
            writer.write(frame(truth.imgs[image_id]["file_name"]), FOUND, image_id=image_id)
    loaded = truth.loadRes(str(tmp_path / "r.json"))
    assert len(loaded.anns) == 160
    assert {annotation["category_id"] for annotation in loaded.anns.values()} == {1, 2}


MASK = np.array([[0, 1, 2], [2, IGNORE_INDEX, 0]], np.uint8)


def read_values(path: Path) -> list[list[int]]:
    values: list[list[int]] = np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)).tolist()
    return values


def test_label_maps_are_drawn_as_images(tmp_path: Path) -> None:
    labels = np.zeros((40, 60), np.uint8)
    labels[20:] = 1
    with ImageWriter(tmp_path / "out", DRAW_MASKS) as writer:
        writer.write(frame("a/x.png"), LabelMap(labels))
    assert np.array_equal(read_image(tmp_path / "out" / "x.png"), draw_labels(IMAGE, labels, NAMES))


@pytest.mark.parametrize(
    ("category_ids", "expected"),
    [
        (None, [[0, 1, 2], [2, 255, 0]]),
        ([7, 8, 11], [[7, 8, 11], [11, 0, 7]]),
        ([0, 20, 255], [[0, 20, 255], [255, 255, 0]]),
    ],
    ids=["positions", "own numbers, ignored is 0", "0 is a class, ignored is 255"],
)
def test_masks_hold_positions_or_the_numbers_of_the_data_set(
    tmp_path: Path, category_ids: list[int] | None, expected: list[list[int]]
) -> None:
    with MaskWriter(tmp_path / "masks", ["a", "b", "c"], category_ids=category_ids) as writer:
        writer.write(frame("x.jpg", np.zeros((2, 3, 3), np.uint8)), LabelMap(MASK))
        writer.write(frame("sub/x.png", np.zeros((1, 1, 3), np.uint8)), LabelMap(np.array([[2]], np.uint8)))
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["x.png", "x_2.png"]
    assert read_values(tmp_path / "masks" / "x.png") == expected
    assert read_values(tmp_path / "masks" / "x_2.png") == [[expected[0][2]]]


def test_masks_never_go_where_a_source_lies(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name another output folder"):
        MaskWriter(tmp_path, NAMES, [tmp_path / "x.png"])


@pytest.mark.parametrize("number", [-1, 256])
def test_ids_that_a_mask_cannot_hold(tmp_path: Path, number: int) -> None:
    with pytest.raises(ValueError, match=f"class dog has the id {number}; a mask of 8 bits holds 0 to 255"):
        MaskWriter(tmp_path, NAMES, category_ids=[3, number])


@pytest.mark.parametrize("category_ids", [None, [3, 7]])
def test_a_label_that_is_no_class_is_not_written(tmp_path: Path, category_ids: list[int] | None) -> None:
    writer = MaskWriter(tmp_path / "masks", NAMES, category_ids=category_ids)
    with pytest.raises(ValueError, match=r"in/x\.png: label 2 in the result; allowed are 0 to 1"):
        writer.write(frame("in/x.png"), LabelMap(np.full((40, 60), 2, np.uint8)))
    assert list(tmp_path.iterdir()) == []


def test_frames_of_videos_are_numbered_and_timed(tmp_path: Path) -> None:
    stream = StreamInfo(25.0, 60, 40)
    frames = [Frame(IMAGE, "in/walk.mp4", Path("in/walk.mp4"), index, index / 25, stream) for index in (0, 12)]
    tracked = Detections(FOUND.boxes_xyxy, FOUND.scores, FOUND.labels, np.array([4, 1]))
    with ImageWriter(tmp_path, DRAW) as images, CocoWriter(tmp_path / "r.json", NAMES) as coco:
        for video_frame in frames:
            images.write(video_frame, tracked)
            coco.write(video_frame, tracked)
    assert sorted(path.name for path in tmp_path.glob("*.jpg")) == ["walk_000000.jpg", "walk_000012.jpg"]
    about = json.loads((tmp_path / "r_images.json").read_text())
    assert [(image["frame_index"], image["time_s"]) for image in about] == [(0, 0.0), (12, 0.48)]
    assert [record["track_id"] for record in json.loads((tmp_path / "r.json").read_text())] == [4, 1, 4, 1]


def test_what_is_not_followed_has_no_number_in_any_file(tmp_path: Path) -> None:
    stream = StreamInfo(25.0, 60, 40)
    tracked = Detections(FOUND.boxes_xyxy, FOUND.scores, FOUND.labels, np.array([4, 0]))
    video_frame = Frame(IMAGE, "in/walk.mp4", Path("in/walk.mp4"), 0, 0.0, stream)
    writers = [
        CocoWriter(tmp_path / "r.json", NAMES),
        CsvWriter(tmp_path / "r.csv", NAMES),
        YoloWriter(tmp_path / "labels"),
    ]
    for writer in writers:
        with writer:  # type: ignore[attr-defined]
            writer.write(video_frame, tracked)  # type: ignore[attr-defined]
    assert [record.get("track_id") for record in json.loads((tmp_path / "r.json").read_text())] == [4, None]
    assert [line.rpartition(",")[2] for line in (tmp_path / "r.csv").read_text().splitlines()] == ["track_id", "4", ""]
    assert [len(line.split()) for line in (tmp_path / "labels/walk_000000.txt").read_text().splitlines()] == [7, 6]


def test_drawn_means_images_of_images_and_videos_of_videos(tmp_path: Path) -> None:
    taken: dict[str, list[str]] = {"images": [], "videos": []}

    class Notes:
        def __init__(self, kind: str) -> None:
            self.kind = kind

        def write(self, frame: Frame, result: object) -> None:
            taken[self.kind].append(frame.source)

        def __enter__(self) -> Notes:
            return self

        def __exit__(self, *_: object) -> None:
            taken[self.kind].append("closed")

    with DrawnWriter(Notes("images"), Notes("videos")) as writer:
        writer.write(frame("a.png"), FOUND)
        writer.write(Frame(IMAGE, "b.mp4", None, 0, 0.0, StreamInfo(25.0, 60, 40)), FOUND)
    assert taken == {"images": ["a.png", "closed"], "videos": ["b.mp4", "closed"]}


@pytest.mark.parametrize("kind", ["boxes", "instances"])
def test_what_is_too_large_to_be_in_memory_is_drawn_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """60 x 90 pixels where 2,000 may be in memory and 700 drawn: every third row and column, 20 x 30."""
    monkeypatch.setattr(base, "MAX_PIXELS", 2_000)
    monkeypatch.setattr(base, "_MAX_DRAWN", 700)
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    boxes = np.array([[9, 12, 39, 42]], np.float32), np.array([0.9], np.float32), np.array([1])
    mask = RunLengths.from_crop(np.ones((30, 30), np.bool_), 9, 12, 60, 90)
    found = Detections(*boxes) if kind == "boxes" else Instances(*boxes, None, (mask,))
    small_mask = RunLengths.from_crop(np.ones((10, 10), np.bool_), 3, 4, 20, 30)
    small = boxes[0] / 3, *boxes[1:]
    expected = Detections(*small) if kind == "boxes" else Instances(*small, None, (small_mask,))
    with ImageWriter(tmp_path / "out", Drawing(load_kind(kind), ("cat", "dog"))) as writer:
        writer.write(frame("a.png", image), found)
    drawn = load_kind(kind).draw(np.ascontiguousarray(image[::3, ::3]), expected, NAMES)
    assert (read_image(tmp_path / "out" / "a.png") == drawn).all()


def test_masks_that_lie_between_the_rows_that_are_left_vanish() -> None:
    mask = RunLengths.from_crop(np.ones((1, 2), np.bool_), 88, 58, 60, 90)
    box = np.array([[88, 58, 90, 59]], np.float32), np.array([0.9], np.float32), np.array([1])
    reduced = load_kind("instances").reduced(Instances(*box, None, (mask,)), 3, (20, 30))
    assert reduced.masks[0].area == 0
    assert (reduced.masks[0].height, reduced.masks[0].width) == (20, 30)


def test_lines_in_a_large_image_do_not_hide_what_is_small() -> None:
    """In 2,000 x 2,000 pixels lines are 7 wide, about most boxes of 30 pixels 3; what lies inside is seen."""
    image = np.zeros((2000, 2000, 3), np.uint8)
    boxes = np.array([[100, 100, 130, 130], [200, 100, 230, 140]], np.float32)
    drawn = draw_boxes(image, boxes, np.array([0, 0]), NAMES)
    assert not drawn[103:128, 103:128].any()
    assert drawn[100, 105:125].any(axis=1).all()
    whole = draw_boxes(image, np.array([[100, 100, 900, 900]], np.float32), np.array([0]), NAMES)
    assert (whole[97:104, 500].any(axis=1)).all()
