"""The values that rooms hand to each other: numpy dataclasses, checked when they are made. No torch here.

Conventions: images are ``[H, W, 3]`` uint8 RGB; boxes are in pixels with the origin at the top left corner of the top
left pixel, so a box that covers the whole image is ``(0, 0, W, H)``; ``xyxy`` is (left, top, right, bottom) and
``xywh`` is COCO's (left, top, width, height). Volumes have a page of their own, ``detseg.volumes``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from detseg.arrays import BoolArray, ByteArray, DoubleArray, FloatArray, IntArray, require, require_array
from detseg.run_lengths import MaskStack, RunLengths
from detseg.volumes import LabelVolume

Target = Literal["boxes", "instances", "masks", "volumes"]
"""What a task learns from: boxes with labels, these with the mask of each object, a class for every pixel, or one for
every voxel."""

IGNORE_INDEX = 255
"""The value in a mask or label volume where no class is given: such a pixel is neither learned from nor judged."""


@dataclass(frozen=True, slots=True)
class LetterboxTransform:
    """Where an original image lies in a network input: ``x_input = x_original * scale_x + offset_x``, likewise y."""

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    original_height: int
    original_width: int

    def __post_init__(self) -> None:
        require(self.scale_x > 0 and self.scale_y > 0, f"scales must be positive, got {self.scale_x}, {self.scale_y}")
        require(
            self.original_height > 0 and self.original_width > 0,
            f"the original size must be positive, got {self.original_height}x{self.original_width}",
        )

    @classmethod
    def identity(cls, height: int, width: int) -> LetterboxTransform:
        """The transform of an image that is its own network input."""
        return cls(1.0, 1.0, 0.0, 0.0, height, width)

    def to_input(self, boxes_xyxy: NDArray[Any]) -> NDArray[Any]:
        """Boxes ``[N, 4]`` in original pixels -> the same boxes in input pixels."""
        scale, offset = self._factors(boxes_xyxy.dtype)
        boxes_in_input: NDArray[Any] = boxes_xyxy * scale + offset
        return boxes_in_input

    def to_original(self, boxes_xyxy: NDArray[Any]) -> NDArray[Any]:
        """Boxes ``[N, 4]`` in input pixels -> original pixels, clipped to the original image."""
        scale, offset = self._factors(boxes_xyxy.dtype)
        limit = np.array([self.original_width, self.original_height] * 2, dtype=boxes_xyxy.dtype)
        boxes_in_original: NDArray[Any] = np.clip((boxes_xyxy - offset) / scale, 0, limit)
        return boxes_in_original

    def _factors(self, dtype: np.dtype[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        require(dtype.kind == "f", f"boxes must be floating point to be scaled, got {dtype}")
        scale = np.array([self.scale_x, self.scale_y] * 2, dtype=dtype)
        return scale, np.array([self.offset_x, self.offset_y] * 2, dtype=dtype)


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with what is known about it, on its way from the disk through augmentation to a batch.

    ``image`` ``[H, W, 3]`` uint8 RGB; ``boxes_xyxy`` ``[N, 4]`` float32 pixels of this image; ``labels`` ``[N]`` int64
    class positions; ``crowd`` ``[N]`` bool, regions that are neither object nor background; ``mask`` ``[H, W]`` uint8
    class position per pixel, ``IGNORE_INDEX`` where there is none, or None; ``transform`` leads back to the original
    image; ``object_masks`` ``[N, H, W]`` bool, the pixels of each object, or None; from the disk they come as runs.
    """

    image: ByteArray
    boxes_xyxy: FloatArray
    labels: IntArray
    crowd: BoolArray
    image_id: int
    path: str
    transform: LetterboxTransform
    mask: ByteArray | None = None
    object_masks: BoolArray | MaskStack | None = None

    def __post_init__(self) -> None:
        require_array(self.image, "image", np.uint8, (None, None, 3))
        require_array(self.boxes_xyxy, "boxes_xyxy", np.float32, (None, 4))
        count = len(self.boxes_xyxy)
        require_array(self.labels, "labels", np.int64, (count,))
        require_array(self.crowd, "crowd", np.bool_, (count,))
        if self.mask is not None:
            require_array(self.mask, "mask", np.uint8, self.image.shape[:2])
        if isinstance(self.object_masks, MaskStack):
            wanted = (count, *self.image.shape[:2])
            require(self.object_masks.shape == wanted, f"object_masks must be {wanted}, got {self.object_masks.shape}")
        elif self.object_masks is not None:
            require_array(self.object_masks, "object_masks", np.bool_, (count, *self.image.shape[:2]))


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """What an annotation file says about one image, unclipped and unrounded, as evaluation needs it.

    ``boxes_xywh`` ``[N, 4]`` float64; ``labels`` ``[N]`` int64 class positions; ``crowd`` ``[N]`` bool; ``areas``
    ``[N]`` float64, the area of the segmentation in COCO, of the box elsewhere; ``masks``: one for each object, where
    they are judged.
    """

    image_id: int
    height: int
    width: int
    boxes_xywh: DoubleArray
    labels: IntArray
    crowd: BoolArray
    areas: DoubleArray
    masks: tuple[RunLengths, ...] | None = None

    def __post_init__(self) -> None:
        require_array(self.boxes_xywh, "boxes_xywh", np.float64, (None, 4))
        count = len(self.boxes_xywh)
        require_array(self.labels, "labels", np.int64, (count,))
        require_array(self.crowd, "crowd", np.bool_, (count,))
        require_array(self.areas, "areas", np.float64, (count,))
        if self.masks is not None:
            _require_masks(self.masks, count, (self.height, self.width))

    @property
    def boxes_xyxy(self) -> DoubleArray:
        """The boxes by their corners, ``[N, 4]`` float64."""
        return np.concatenate([self.boxes_xywh[:, :2], self.boxes_xywh[:, :2] + self.boxes_xywh[:, 2:]], axis=1)


@dataclass(frozen=True, slots=True)
class Detections:
    """The objects found in one image, best first: ``boxes_xyxy`` ``[N, 4]`` float32 in original pixels, ``scores``
    ``[N]`` float32 in [0, 1], ``labels`` ``[N]`` int64 class positions. Where objects are followed through a video,
    ``track_ids`` ``[N]`` int64 are their numbers, from 1, and 0 for those that have none. ``num_left_out``: how many
    more a limit left out; None where there are as many as it allows, and how many more is not known."""

    boxes_xyxy: FloatArray
    scores: FloatArray
    labels: IntArray
    track_ids: IntArray | None = None
    num_left_out: int | None = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        require_array(self.boxes_xyxy, "boxes_xyxy", np.float32, (None, 4))
        count = len(self.boxes_xyxy)
        require_array(self.scores, "scores", np.float32, (count,))
        require_array(self.labels, "labels", np.int64, (count,))
        if self.track_ids is not None:
            require_array(self.track_ids, "track_ids", np.int64, (count,))
            require(bool((self.track_ids >= 0).all()), "track_ids holds a number below 0")
        require(bool(np.isfinite(self.boxes_xyxy).all()), "boxes_xyxy holds a value that is not finite")
        require(bool(np.isfinite(self.scores).all()), "scores holds a value that is not finite")

    @classmethod
    def empty(cls) -> Self:
        """No objects."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, index: NDArray[Any]) -> Detections:
        """The rows that ``index`` (integers or a boolean mask) names, in its order."""
        track_ids = None if self.track_ids is None else self.track_ids[index]
        chosen = self.boxes_xyxy[index], self.scores[index], self.labels[index], track_ids
        return Detections(*chosen, num_left_out=self.num_left_out)


@dataclass(frozen=True, slots=True)
class Instances(Detections):
    """The objects found in one image with their ``masks``, one for each, in pixels of the original image."""

    masks: tuple[RunLengths, ...] = ()

    def __post_init__(self) -> None:
        Detections.__post_init__(self)
        _require_masks(self.masks, len(self.scores), None)

    def select(self, index: NDArray[Any]) -> Instances:
        """The rows that ``index`` (integers or a boolean mask) names, in its order."""
        track_ids = None if self.track_ids is None else self.track_ids[index]
        masks = tuple(self.masks[row] for row in np.arange(len(self.masks))[index])
        chosen = self.boxes_xyxy[index], self.scores[index], self.labels[index], track_ids
        return Instances(*chosen, masks, num_left_out=self.num_left_out)


@dataclass(frozen=True, slots=True)
class LabelMap:
    """A class for every pixel of one image: ``labels`` ``[H, W]`` uint8 class positions, as large as the original
    image; ``IGNORE_INDEX`` where no class is claimed."""

    labels: ByteArray

    def __post_init__(self) -> None:
        require_array(self.labels, "labels", np.uint8, (None, None))


Result = Detections | LabelMap | LabelVolume
"""What a task finds in one image or volume."""


@dataclass(frozen=True, slots=True)
class Metrics(Mapping[str, float]):
    """Named results, flat and in order: ``AP``, ``AP50``, ..., ``AP/<class>``; ``primary`` ranks runs."""

    values_by_name: dict[str, float] = field(default_factory=dict)
    primary: str = "AP"

    def __post_init__(self) -> None:
        require(
            self.primary in self.values_by_name,
            f"primary metric {self.primary!r} is not among {', '.join(self.values_by_name) or 'no metrics'}",
        )

    def __getitem__(self, name: str) -> float:
        return self.values_by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_name)

    def __len__(self) -> int:
        return len(self.values_by_name)


def _require_masks(masks: tuple[RunLengths, ...], count: int, size: tuple[int, int] | None) -> None:
    """Raise ValueError unless there are ``count`` masks of one ``size`` (height, width; None: any)."""
    require(len(masks) == count, f"there must be one mask for each of {count} objects, got {len(masks)}")
    sizes = {(one.height, one.width) for one in masks} | (set() if size is None else {size})
    require(len(sizes) <= 1, f"masks must be as large as their image and each other, got {sorted(sizes)}")
