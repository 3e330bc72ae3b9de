"""``shapes``: a synthetic data set that needs no download: circles, squares and triangles on noisy backgrounds.

Every image is a pure function of the configuration, the split and the index. Objects are drawn in random colors,
sizes and rotations with smooth edges; later ones may cover a little of earlier ones. Boxes and
masks of objects are exactly those of the visible pixels, the areas their number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from detseg.arrays import ByteArray, FloatArray, IntArray
from detseg.config import from_dict
from detseg.data.datasets.dataset import Dataset
from detseg.data.datasets.packed import PackedBuilder
from detseg.data.format import DatasetFormat
from detseg.data.records import GeneratedRecords
from detseg.data.source import DatasetError, DataSource
from detseg.run_lengths import RunLengths
from detseg.structures import Target

CLASS_NAMES = ("circle", "square", "triangle")
MASK_CLASS_NAMES = ("background", *CLASS_NAMES)
_NUM_CORNERS = {"circle": None, "square": 4, "triangle": 3}
_SPLITS = ("train", "val", "test")
_PLACEMENT_ATTEMPTS = 50
MAX_IMAGES = 1_000_000
"""Of a split: each is drawn when it is asked for, but counted and checked one by one."""


@dataclass(frozen=True)
class ShapesConfig:
    """Settings of ``shapes``. Lengths are in pixels; ``min_side`` and ``max_side`` bound an object's diameter, which is
    that of the circle around it; ``max_covered`` is the share of an object that later ones may hide."""

    image_size: int = 160
    num_train: int = 256
    num_val: int = 64
    num_test: int = 64
    min_objects: int = 2
    max_objects: int = 5
    min_side: float = 26.0
    max_side: float = 70.0
    max_covered: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_train", "num_val", "num_test"):
            _require(0 <= getattr(self, name) <= MAX_IMAGES, name, f"0 to {MAX_IMAGES:,}", getattr(self, name))
        _require(32 <= self.image_size <= 4096, "image_size", "32 to 4096", self.image_size)
        _require(self.seed >= 0, "seed", "0 or more", self.seed)
        in_order = 0 <= self.min_objects <= self.max_objects <= 100
        objects = f"{self.min_objects} and {self.max_objects}"
        _require(in_order, "min_objects, max_objects", "0 to 100, in order", objects)
        sides = f"{self.min_side} and {self.max_side}"
        fits = 8 <= self.min_side <= self.max_side <= self.image_size - 2
        _require(fits, "min_side, max_side", f"8 to {self.image_size - 2} (image_size - 2), in order", sides)
        _require(0 <= self.max_covered <= 0.5, "max_covered", "0 to 0.5", self.max_covered)

    def num_images(self, split: str) -> int:
        """The number of images of ``split``."""
        return {"train": self.num_train, "val": self.num_val, "test": self.num_test}[split]


@dataclass(frozen=True, slots=True)
class _Shape:
    """A circle or a regular polygon within the circle of this center and radius, in pixels; ``angle`` in radians."""

    label: int
    center_x: float
    center_y: float
    radius: float
    angle: float


@dataclass(frozen=True, slots=True)
class _Layout:
    """The shapes of an image, later ones in front, and ``owner`` ``[H, W]``: the number of the shape that is seen at a
    pixel, counted from 1, or 0 for the background."""

    shapes: list[_Shape]
    owner: IntArray


class ShapesFormat(DatasetFormat):
    """The word ``shapes``, or a YAML with ``format: shapes`` and the keys of :class:`ShapesConfig`."""

    targets = ("boxes", "instances", "masks")
    indivisible = "shapes has its splits built in; there are no files to divide"
    layouts = ("the word `shapes`, or a YAML with `format: shapes`, `image_size:`, `num_train:`, ...",)

    def splits(self, source: DataSource) -> tuple[str, ...]:
        if source.settings.get("format") != "shapes":
            return ()
        config = _config(source)
        return tuple(split for split in _SPLITS if config.num_images(split))

    def records(self, source: DataSource, split: str, target: Target) -> GeneratedRecords:
        return GeneratedRecords(ShapesDataset(split, _config(source), target))


class ShapesDataset(Dataset):
    """One split of ``shapes``; its paths name no files.

    Samples always come with a mask, 0 background, else label + 1: positions in ``MASK_CLASS_NAMES``, which are the
    classes for ``truth`` "masks".
    """

    has_masks = True

    def __init__(self, split: str, config: ShapesConfig | None = None, target: Target = "boxes") -> None:
        self.config = config or ShapesConfig()
        side = self.config.image_size
        builder = PackedBuilder()
        for index in range(self.config.num_images(split)):
            builder.add_image(index + 1, f"{index:06d}", side, side)
            if target == "masks":
                continue
            layout = _lay_out(self.config, split, index)
            for number, shape in enumerate(layout.shapes, start=1):
                ys, xs = np.nonzero(layout.owner == number)
                left, top = int(xs.min()), int(ys.min())
                box_xywh = (left, top, int(xs.max()) + 1 - left, int(ys.max()) + 1 - top)
                runs = RunLengths.from_mask(layout.owner == number).to_coco() if target == "instances" else None
                builder.add_object(index, box_xywh, shape.label, area=len(xs), run_length=runs)
        super().__init__(
            root=Path("shapes", split),
            split=split,
            class_names=MASK_CLASS_NAMES if target == "masks" else CLASS_NAMES,
            category_ids=range(len(MASK_CLASS_NAMES)) if target == "masks" else None,
            annotations=builder.build(),
            target=target,
        )

    def read(self, index: int) -> tuple[ByteArray, ByteArray | None]:
        self.annotations.rows(index)
        return draw_image(self.config, self.split, index)

    def check_files(self, index: int, *, whole: bool = False) -> None:
        """Nothing: there are no files."""

    def fingerprint(self, index: int) -> str:
        return f"{self.config}|{self.split}|{index}"


def draw_image(config: ShapesConfig, split: str, index: int) -> tuple[ByteArray, ByteArray]:
    """The image ``[H, W, 3]`` uint8 RGB and its mask ``[H, W]`` uint8, 0 for the background, else label + 1."""
    layout = _lay_out(config, split, index)
    rng = _generator(config, split, index, purpose=1)
    image = _background(config.image_size, rng)
    background_color = image.mean(axis=(0, 1))
    for shape in layout.shapes:
        window, coverage = _draw(shape)
        image[window] += coverage[..., None] * (_distinct_color(background_color, rng) - image[window])
    image += 4 * rng.standard_normal(image.shape, np.float32)
    class_of_owner = np.array([0, *(shape.label + 1 for shape in layout.shapes)], np.uint8)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), class_of_owner[layout.owner]


def _lay_out(config: ShapesConfig, split: str, index: int) -> _Layout:
    rng = _generator(config, split, index, purpose=0)
    layout = _Layout([], np.zeros((config.image_size, config.image_size), np.int64))
    full_areas = visible_areas = np.zeros(0, np.int64)
    for _ in range(int(rng.integers(config.min_objects, config.max_objects + 1))):
        label = int(rng.integers(len(CLASS_NAMES)))
        # An object that finds no room after so many attempts is left out; the image is full then.
        for _ in range(_PLACEMENT_ATTEMPTS):
            shape = _place(label, config, rng)
            window, coverage = _draw(shape)
            inside = coverage >= 0.5
            owner = layout.owner[window]
            left_visible = visible_areas - np.bincount(owner[inside], minlength=len(full_areas) + 1)[1:]
            if (left_visible >= (1 - config.max_covered) * full_areas).all():
                layout.shapes.append(shape)
                owner[inside] = len(layout.shapes)
                area = np.count_nonzero(inside)
                full_areas, visible_areas = np.append(full_areas, area), np.append(left_visible, area)
                break
    return layout


def _place(label: int, config: ShapesConfig, rng: np.random.Generator) -> _Shape:
    radius = rng.uniform(config.min_side, config.max_side) / 2
    center_x, center_y = rng.uniform(radius + 1, config.image_size - radius - 1, size=2)
    return _Shape(label, center_x, center_y, radius, angle=rng.uniform(0, 2 * np.pi))


def _draw(shape: _Shape) -> tuple[tuple[slice, slice], FloatArray]:
    """The rows and columns around the shape, and how much of each pixel there it covers, 0 to 1.

    At least half means that it covers the center of the pixel.
    """
    top, bottom, left, right = (
        int(center + sign * (shape.radius + 1)) for center in (shape.center_y, shape.center_x) for sign in (-1, 1)
    )
    x = np.arange(left, right, dtype=np.float32) + np.float32(0.5 - shape.center_x)
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - shape.center_y)
    num_corners = _NUM_CORNERS[CLASS_NAMES[shape.label]]
    if num_corners is None:
        inward = shape.radius - np.hypot(x, y)
    else:
        # The distance from the nearest side; all sides are equally far from the center.
        angles = (shape.angle + 2 * np.pi / num_corners * side for side in range(num_corners))
        outward = np.max([x * math.cos(angle) + y * math.sin(angle) for angle in angles], axis=0)
        inward = shape.radius * math.cos(math.pi / num_corners) - outward
    return (slice(top, bottom), slice(left, right)), np.asarray(np.clip(inward + 0.5, 0, 1), np.float32)


def _background(size: int, rng: np.random.Generator) -> FloatArray:
    """Soft colored clouds with a finer gray texture, float32."""
    base = rng.uniform(40, 200, size=3)
    clouds = rng.normal(base, 22, size=(4, 4, 3)).astype(np.float32)
    texture = rng.normal(0, 10, size=(size // 6 + 1, size // 6 + 1)).astype(np.float32)
    image = cv2.resize(clouds, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(image + cv2.resize(texture, (size, size), interpolation=cv2.INTER_LINEAR)[..., None], np.float32)


def _distinct_color(background: FloatArray, rng: np.random.Generator) -> FloatArray:
    colors = rng.uniform(0, 255, size=(12, 3))
    distances = np.linalg.norm(colors - background, axis=1)
    chosen = colors[np.argmax(distances > 110)] if (distances > 110).any() else colors[np.argmax(distances)]
    return np.asarray(chosen, np.float32)


def _generator(config: ShapesConfig, split: str, index: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([config.seed, _SPLITS.index(split), index, purpose])


def _config(source: DataSource) -> ShapesConfig:
    settings: Mapping[str, object] = {key: value for key, value in source.settings.items() if key != "format"}
    return from_dict(ShapesConfig, settings, source.name)


def _require(condition: bool, name: str, allowed: str, received: object) -> None:
    if not condition:
        raise DatasetError(f"shapes: {name}: allowed are {allowed}, got {received}")
