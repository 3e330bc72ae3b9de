"""Small objects in a large picture: looked at as a whole, in tiles, and by SAHI with the same network.

    detseg export weights/detseg_n_shapes.safetensors -o shapes.onnx
    python bench/tiles.py shapes.onnx

The picture is made of images of ``shapes``, side by side: 20 x 20 of them with 5 objects each, 26 to 60 pixels large,
make 8,000 x 8,000 pixels with 2,000 objects. Recall and precision at an IoU of 0.5 with the right class and a
confidence of 0.25; ``twice``: objects found by more than one box of their class. SAHI (Akyon et al., arXiv 2202.06934;
``pip install sahi==0.12.0``, in an environment where ``detseg`` is too) cuts the same tiles, with its defaults for
merging, and runs the same network on each of them; where it is not installed its row is left out. Seconds are from the
picture in memory to its objects, the median of ``--repeats``; the programs take turns, so that a busy machine slows all
alike. Only their ratios mean something.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import detseg
from detseg.arrays import ByteArray, DoubleArray, FloatArray, IntArray
from detseg.data.formats.shapes import ShapesConfig, ShapesDataset
from detseg.runtime.model import Model
from detseg.structures import Detections

CONFIDENCE, SAME_OBJECT = 0.25, 0.5
OBJECTS_PER_IMAGE = 5

Program = Callable[[ByteArray], Detections]


@dataclass(frozen=True)
class Picture:
    """An ``image`` with the boxes of its objects, by their corners, and their classes."""

    image: ByteArray
    boxes_xyxy: DoubleArray
    labels: IntArray


@dataclass(frozen=True)
class Row:
    """What a program found: shares of 1, and seconds."""

    name: str
    num_found: int
    recall: float
    precision: float
    num_twice: int
    seconds: float


def make_picture(num_images: int, side: int, seed: int = 0) -> Picture:
    """``num_images`` x ``num_images`` images of ``shapes`` of ``side`` pixels."""
    config = ShapesConfig(
        image_size=side,
        num_val=num_images**2,
        min_objects=OBJECTS_PER_IMAGE,
        max_objects=OBJECTS_PER_IMAGE,
        min_side=26,
        max_side=60,
        max_covered=0.0,
        seed=seed,
    )
    data = ShapesDataset("val", config)
    image = np.empty((num_images * side, num_images * side, 3), np.uint8)
    boxes, labels = [], []
    for index in range(len(data)):
        row, column = divmod(index, num_images)
        top, left = row * side, column * side
        image[top : top + side, left : left + side] = data.read(index)[0]
        truth = data.ground_truth(index)
        boxes.append(truth.boxes_xyxy + np.array([left, top, left, top]))
        labels.append(truth.labels)
    return Picture(image, np.concatenate(boxes), np.concatenate(labels))


def judge(name: str, found: Detections, picture: Picture, seconds: float) -> Row:
    """Boxes are matched to objects of their class, the surest first, each to the one that it overlaps most of those
    that are left."""
    matched = np.zeros(len(picture.labels), np.int64)
    num_right = 0
    for box, label in zip(found.boxes_xyxy, found.labels, strict=True):
        overlaps = np.where(picture.labels == label, iou(picture.boxes_xyxy, box), 0)
        free = np.where(matched > 0, 0, overlaps)
        if free.max(initial=0) >= SAME_OBJECT:
            matched[free.argmax()] = 1
            num_right += 1
        elif overlaps.max(initial=0) >= SAME_OBJECT:
            matched[overlaps.argmax()] += 1
    recall, precision = float((matched > 0).mean()), num_right / max(1, len(found))
    return Row(name, len(found), recall, precision, int((matched > 1).sum()), seconds)


def iou(boxes_xyxy: DoubleArray, box: FloatArray) -> DoubleArray:
    sides = np.minimum(boxes_xyxy[:, 2:], box[2:]) - np.maximum(boxes_xyxy[:, :2], box[:2])
    shared = np.maximum(sides, 0).prod(axis=1)
    union = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod() - shared
    found: DoubleArray = shared / union
    return found


def with_sahi(model: Model, tile: int, overlap: float) -> Program | None:
    """SAHI around the network of ``model``; None where it is not installed."""
    if importlib.util.find_spec("sahi") is None:
        return None
    base: Any = importlib.import_module("sahi.models.base").DetectionModel
    prediction: Any = importlib.import_module("sahi.prediction").ObjectPrediction
    slices: Any = importlib.import_module("sahi.predict").get_sliced_prediction

    class Wrapped(base):  # type: ignore[misc]
        def load_model(self) -> None:
            self.model = model
            self.category_mapping = {str(label): name for label, name in enumerate(model.class_names)}

        def perform_inference(self, image: ByteArray) -> None:
            (self._original_predictions,) = self.model.runner.submit([np.ascontiguousarray(image)]).results()

        def _create_object_prediction_list_from_original_predictions(
            self, shift_amount_list: Any = ((0, 0),), full_shape_list: Any = None
        ) -> None:
            found, names = self._original_predictions, self.model.class_names
            self._object_prediction_list_per_image = [
                [
                    prediction(
                        bbox=box,
                        category_id=label,
                        category_name=names[label],
                        score=score,
                        shift_amount=np.ravel(shift_amount_list)[:2].tolist(),
                        full_shape=None if full_shape_list is None else np.ravel(full_shape_list)[:2].tolist(),
                    )
                    for box, label, score in zip(
                        found.boxes_xyxy.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
                    )
                    if box[0] < box[2] and box[1] < box[3]
                ]
            ]

    wrapped = Wrapped(device="cpu", confidence_threshold=CONFIDENCE)

    def run(image: ByteArray) -> Detections:
        sizes = {"slice_height": tile, "slice_width": tile}
        overlaps = {"overlap_height_ratio": overlap, "overlap_width_ratio": overlap}
        result = slices(image, wrapped, **sizes, **overlaps, verbose=0)
        objects = sorted(result.object_prediction_list, key=lambda one: -one.score.value)
        boxes = np.array([one.bbox.to_xyxy() for one in objects], np.float32).reshape(-1, 4)
        scores = np.array([one.score.value for one in objects], np.float32)
        return Detections(boxes, scores, np.array([one.category.id for one in objects], np.int64))

    return run


def programs_of(path: Path, tile: int, overlap: float) -> dict[str, Program]:
    """What is compared, by name."""

    def of(**views: Any) -> Program:
        model = detseg.load(path, device="cpu", confidence=CONFIDENCE, **views)
        return lambda image: model.runner.submit([image]).results()[0]  # type: ignore[return-value]

    found = {"whole picture": of(), f"tiles {tile}, {overlap:g}": of(tiles=tile, overlap=overlap)}
    sahi = with_sahi(detseg.load(path, device="cpu", confidence=CONFIDENCE), tile, overlap)
    if sahi is None:
        print("SAHI is not installed here, so its row is left out: pip install sahi==0.12.0")
    else:
        found[f"SAHI {importlib.metadata.version('sahi')}, the same"] = sahi
    return found


def measure(programs: dict[str, Program], picture: Picture, repeats: int) -> list[Row]:
    """A row for each program."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    found: dict[str, Detections] = {}
    for _ in range(repeats):
        for name, program in programs.items():
            begin = time.perf_counter()
            found[name] = program(picture.image)
            seconds[name].append(time.perf_counter() - begin)
    return [judge(name, found[name], picture, statistics.median(seconds[name])) for name in programs]


def render(rows: Sequence[Row]) -> str:
    """A table of Markdown."""
    lines = ["| | found | recall | precision | twice | seconds |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row.name} | {row.num_found:,} | {row.recall:.4f} | {row.precision:.4f} | {row.num_twice} "
        f"| {row.seconds:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Small objects in a large picture, in tiles.")
    parser.add_argument("model", type=Path, help="of shapes: a .safetensors or .onnx file")
    parser.add_argument("--images", type=int, default=20, help="along each side (default 20)")
    parser.add_argument("--image-side", type=int, default=400, help="in pixels (default 400)")
    parser.add_argument("--tile", type=int, default=160)
    parser.add_argument("--overlap", type=float, default=0.2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    picture = make_picture(options.images, options.image_side)
    height, width = picture.image.shape[:2]
    print(f"{width:,} x {height:,} pixels, {len(picture.labels):,} objects; {options.model.name}\n")
    print(render(measure(programs_of(options.model, options.tile, options.overlap), picture, options.repeats)))


if __name__ == "__main__":
    main()
