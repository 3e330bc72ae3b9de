"""The command blocks of a page, made small enough to be tried, and the data that they speak of."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np

from detseg.arrays import ByteArray
from detseg.runtime.media.images import write_image
from detseg.runtime.media.video_file import OpenCVVideo

_BLOCK = re.compile(
    r"(?:^<!-- not tried: (?P<reason>[^\n]+) -->\n)?"
    r"^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)
TINY_SHAPES = "{format: shapes, image_size: 64, num_train: 8, num_val: 4, max_objects: 2, min_side: 16, max_side: 30}"
TINY_BLOBS = "{format: blobs, num_train: 4, num_val: 2, num_test: 0}"
SIDE = 64


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. ``title`` is the file that it shows, ``reason`` why it cannot be tried here."""

    language: str
    title: str
    text: str
    reason: str

    def commands(self) -> list[list[str]]:
        """The words of each command, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(page: str) -> list[Block]:
    """The fenced blocks of the text of a page, in order."""
    groups = (match.groupdict() for match in _BLOCK.finditer(page))
    return [Block(**{key: one[key] or "" for key in ("language", "title", "text", "reason")}) for one in groups]


def shrink(words: list[str]) -> list[str]:
    """A command of the documentation, without ``detseg``, as a run of seconds that reaches the same code."""
    verb, *words = words
    if verb != "train":
        workers = ["--workers", "0"] if verb == "eval" else []
        return [verb, *words, *workers]
    resumes, volumes = "--resume" in words, any("volume" in word or "vnet" in word for word in words)
    settings = {"--epochs": "2" if resumes else "1"}
    if "--size" in words or not (resumes or volumes):
        settings["--size"] = str(SIDE)
    if "--batch" in words:
        settings["--batch"] = "4"
    if "--device" in words:
        settings["--device"] = "cpu"
    elif not resumes:
        words = [*words, "train.device=cpu"]
    if not resumes:
        words = [*words, "data.num_workers=0", "train.num_threads=1"]
    if volumes:
        words = [word for word in words if not word.startswith("task.patch=")] + ["task.patch=[16,16,16]"]
    if not resumes and "--data" not in words:
        words += ["--data", "blobs.yaml" if volumes else "shapes.yaml"]
    for option, value in settings.items():
        if option in words:
            words[words.index(option) + 1] = value
        else:
            words = [*words, option, value]
    return [verb, *words]


def write_data(folder: Path) -> None:
    """What the pages call the user's own: data sets, images, videos and scans."""
    rng = np.random.default_rng(0)
    (folder / "shapes.yaml").write_text(TINY_SHAPES)
    (folder / "blobs.yaml").write_text(TINY_BLOBS)
    for name in ("images", "smears", "frames"):
        for number in range(2):
            write_image(folder / name / f"{number}.png", _image(rng)[0])
    with OpenCVVideo(folder / "video.mp4", 25) as video:
        for _ in range(5):
            video.append(_image(rng)[0], "video")
    _write_boxes(folder / "my_data", rng)
    _write_masks(folder / "my_masks", rng)
    _write_volumes(folder, rng)


def _image(rng: np.random.Generator) -> tuple[ByteArray, ByteArray, list[list[int]]]:
    """Noise with a dark and a bright square: the image, its mask and the corners and class of each square."""
    image = rng.integers(100, 140, (SIDE, SIDE, 3), dtype=np.uint8)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    squares = []
    for label, gray in enumerate((20, 230)):
        x, y = (int(value) + label * SIDE // 2 for value in (rng.integers(2, 10), 0))
        y = int(rng.integers(2, SIDE - 24))
        cv2.rectangle(image, (x, y), (x + 19, y + 19), (gray, gray, gray), -1)
        mask[y : y + 20, x : x + 20] = label + 1
        squares.append([x, y, label + 1])
    return image, mask, squares


def _write_boxes(folder: Path, rng: np.random.Generator) -> None:
    for split, number_of_images in (("train", 8), ("val", 4)):
        images, annotations = [], []
        for number in range(1, number_of_images + 1):
            image, _, squares = _image(rng)
            write_image(folder / "images" / split / f"{number}.png", image)
            images.append({"id": number, "file_name": f"{number}.png", "height": SIDE, "width": SIDE})
            for x, y, label in squares:
                box = {"image_id": number, "category_id": label, "bbox": [x, y, 20, 20], "area": 400, "iscrowd": 0}
                outline = [x, y, x + 20, y, x + 20, y + 20, x, y + 20]
                annotations.append({"id": len(annotations) + 1, **box, "segmentation": [outline]})
        categories = [{"id": 1, "name": "dark"}, {"id": 2, "name": "bright"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(content))


def _write_masks(folder: Path, rng: np.random.Generator) -> None:
    for split, number_of_images in (("train", 8), ("val", 4)):
        for number in range(number_of_images):
            image, mask, _ = _image(rng)
            write_image(folder / split / "images" / f"{number}.png", image)
            path = folder / split / "masks" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), mask)


def _write_volumes(folder: Path, rng: np.random.Generator) -> None:
    for name in ("my_scans/imagesTr", "my_scans/labelsTr", "scans"):
        (folder / name).mkdir(parents=True)
    for number in range(5):
        labels = np.zeros((20, 24, 20), np.uint8)
        labels[6:12, 6:12, 6:12], labels[6:12, 13:19, 6:12] = 1, 2
        voxels = (rng.normal(0, 10, labels.shape) + 60.0 * labels).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / f"my_scans/imagesTr/scan_{number}.nii.gz")
        nib.save(nib.Nifti1Image(labels, np.eye(4)), folder / f"my_scans/labelsTr/scan_{number}.nii.gz")
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / "scans/new.nii.gz")
