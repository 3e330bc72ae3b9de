"""Layouts with a box for every cell of grids that become coarser: YOLOv8 to 11, YOLOX, PicoDet.

Shape legend: B batch, A cells of all grids, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from detseg.runtime.foreign.base import IMAGENET, Found, Pixels, UnfitError, require_classes
from detseg.runtime.foreign.boxes import BoxLayout, are_fractions, corners, in_pixels, prototypes_in, prototypes_of
from detseg.runtime.kinds.base import Outputs
from detseg.runtime.postprocess.decode import anchor_points, sigmoid
from detseg.runtime.postprocess.masks import PrototypeMetadata

_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32), (8, 16))
"""Those of the grids of known networks, the usual ones first."""
_ROUNDING = 0.01
"""How far outside 0 to 1 a score may lie."""


def strides_of(num_cells: int, height: int, width: int) -> tuple[int, ...] | None:
    """The strides of grids that have so many cells together, for an input of ``height`` x ``width``; None: of none."""
    return next((one for one in _STRIDES if len(anchor_points(height, width, one)[0]) == num_cells), None)


@dataclass(frozen=True)
class GridLayout(BoxLayout):
    """``strides`` of the grids."""

    strides: tuple[int, ...]

    @property
    def stride(self) -> int:
        """The largest one."""
        return max(self.strides)


@dataclass(frozen=True)
class Yolov8(GridLayout):
    """``[B, 4 + C, A]``: center and size in input pixels, then scores; ``by_cell``: ``[B, A, 4 + C]``. Coefficients of
    masks may follow, whose ``prototypes`` ``[B, P, h, w]`` are the second output; or ``more`` numbers for keypoints,
    which are left out. ``normalized``: center and size are fractions of the input's sides; ``has_logits``: scores are
    still without their sigmoid."""

    by_cell: bool = False
    more: int = 0
    prototypes: PrototypeMetadata | None = None
    normalized: bool = False
    has_logits: bool = False

    @classmethod
    def recognize(cls, found: Found, *, chosen: bool) -> Self:
        """By one output with as many columns as there are cells."""
        names, masks = found.named(3), found.named(4)
        if len(names) != 1 or len(masks) > 1 or len(found.outputs) > 2:
            raise UnfitError("a YOLOv8 has one output of three dimensions, and with masks one of four", is_near=False)
        if found.task in ("obb", "classify"):
            raise UnfitError(f"it is for {found.task}, and only upright boxes can be read")
        rows, columns = found.outputs[names[0]].shape[1:]
        prototypes = prototypes_of(found, masks[0]) if masks else None
        more = 0 if prototypes is None else prototypes.count
        known = found.num_names
        wanted = None if known is None else 4 + known + more
        by_cell = columns == wanted != rows and strides_of(rows, *_size(found)) is not None
        channels, cells = (columns, rows) if by_cell else (rows, columns)
        strides = strides_of(cells, *_size(found))
        if strides is None and not chosen:
            raise UnfitError(f"no grids of a YOLOv8 have {cells} cells for an input of {found.height}x{found.width}")
        if found.task == "pose" and known is not None and prototypes is None:
            more = channels - 4 - known
        num_classes = channels - 4 - more
        if num_classes < 1:
            raise UnfitError(f"of {channels} channels none are left for classes")
        require_classes(found, num_classes)
        outputs = (names[0], *masks)
        keypoints = 0 if prototypes is not None else more
        raw = found.outputs[names[0]] if by_cell else found.outputs[names[0]].transpose(0, 2, 1)
        scores = raw[..., 4 : 4 + num_classes]
        has_logits = bool(scores.min() < -_ROUNDING)
        if not has_logits and scores.max() > 1 + _ROUNDING:
            raise UnfitError(f"its scores reach {scores.max():g}, and those of a YOLOv8 lie between 0 and 1")
        return cls(
            outputs,
            num_classes,
            strides or _STRIDES[0],
            by_cell,
            keypoints,
            prototypes,
            are_fractions(raw[..., :4]),
            has_logits,
        )

    @property
    def masks(self) -> PrototypeMetadata | None:
        """Those of the second output."""
        return self.prototypes

    @property
    def note(self) -> str:
        """What follows the scores."""
        return "its boxes are used, and the keypoints that come with them left out" if self.more else ""

    def read(self, outputs: Outputs, height: int, width: int, num_classes: int) -> dict[str, NDArray[Any]]:
        """Corners, and scores as they are."""
        raw = outputs[self.outputs[0]]
        by_cell = raw if self.by_cell else raw.transpose(0, 2, 1)
        boxes, scores = by_cell[..., :4], by_cell[..., 4 : 4 + num_classes]
        read = {
            "boxes": corners(in_pixels(boxes, height, width) if self.normalized else boxes, axis=2),
            "scores": sigmoid(scores) if self.has_logits else scores,
        }
        if self.prototypes is None:
            return read
        return read | prototypes_in(outputs, self.outputs[1], by_cell[..., 4 + num_classes :])


@dataclass(frozen=True)
class Yolox(GridLayout):
    """``[B, A, 5 + C]``: center and size, how sure it is that there is an object, scores. ``is_raw``: center and size
    are still relative to cells, as files without ``decode_in_inference`` have them (equation: arXiv 2107.08430)."""

    pixels: ClassVar[Pixels] = Pixels(1.0, bgr=True, anchor="top_left")

    is_raw: bool = False

    @classmethod
    def recognize(cls, found: Found, *, chosen: bool) -> Self:
        """By one output with as many rows as there are cells; where the centers are tells whether it is raw."""
        names = found.named(3)
        if len(names) != 1 or len(found.outputs) != 1:
            raise UnfitError("a YOLOX has one output, of three dimensions", is_near=False)
        raw = found.outputs[names[0]]
        num_cells, channels = raw.shape[1:]
        strides = strides_of(num_cells, *_size(found))
        if strides is None:
            raise UnfitError(f"no grids of a YOLOX have {num_cells} cells for an input of {found.height}x{found.width}")
        if channels < 6:
            raise UnfitError(f"of {channels} columns none are left for classes")
        require_classes(found, channels - 5)
        if raw[..., 4:].min() < 0 or raw[..., 4:].max() > 1:
            raise UnfitError("its scores do not lie between 0 and 1; export it with the sigmoid, as YOLOX does")
        return cls((names[0],), channels - 5, strides, _is_raw(raw, *anchor_points(*_size(found), strides)))

    def read(self, outputs: Outputs, height: int, width: int, num_classes: int) -> dict[str, NDArray[Any]]:
        """Corners, and the products of both scores."""
        raw = outputs[self.outputs[0]]
        xywh = raw[..., :4]
        if self.is_raw:
            points_xy, strides = anchor_points(height, width, self.strides)
            stride = strides[:, None]
            with np.errstate(over="ignore"):
                size = np.exp(xywh[..., 2:]) * stride
            xywh = np.concatenate([(xywh[..., :2] - np.float32(0.5)) * stride + points_xy, size], axis=2)
        return {"boxes": corners(xywh, axis=2), "scores": raw[..., 4:5] * raw[..., 5:]}


def _is_raw(raw: NDArray[Any], points_xy: NDArray[Any], strides: NDArray[Any]) -> bool:
    """Whether centers lie nearer to 0 than to their cells, which are many pixels away from it."""
    in_cells = np.abs((raw[0, :, :2] - points_xy) / strides[:, None])
    return bool(np.median(np.abs(raw[0, :, :2])) < np.median(in_cells))


@dataclass(frozen=True)
class Picodet(GridLayout):
    """Of every grid scores ``[B, cells, C]``, then of every grid ``[B, cells, 4 * reg_max]``: for each side of a box
    the logits of its distance from the center of the cell, in strides (arXiv 2006.04388)."""

    pixels: ClassVar[Pixels] = IMAGENET

    @classmethod
    def recognize(cls, found: Found, *, chosen: bool) -> Self:
        """By two outputs for every grid."""
        names = found.named(3)
        half = len(names) // 2
        if half < 2 or len(names) != 2 * half or len(found.outputs) != len(names):
            raise UnfitError("a PicoDet has an even number of outputs of three dimensions, four or more", is_near=False)
        shapes = [found.outputs[name].shape[1:] for name in names]
        strides = tuple(8 * 2**level for level in range(half))
        wanted = [len(anchor_points(*_size(found), (stride,))[0]) for stride in strides]
        if [cells for cells, _ in shapes] != wanted * 2:
            raise UnfitError(f"grids of a PicoDet would have {', '.join(map(str, wanted))} cells")
        scores, distances = ({columns for _, columns in part} for part in (shapes[:half], shapes[half:]))
        num_classes, num_bins = min(scores), min(distances)
        if len(scores) > 1 or len(distances) > 1 or num_bins % 4 or num_bins < 8:
            raise UnfitError("of a PicoDet the scores come first, then the distances, four times as many as bins")
        if any(found.outputs[name].min() < 0 or found.outputs[name].max() > 1 for name in names[:half]):
            raise UnfitError("its scores do not lie between 0 and 1")
        require_classes(found, num_classes)
        return cls(tuple(names), num_classes, strides)

    def read(self, outputs: Outputs, height: int, width: int, num_classes: int) -> dict[str, NDArray[Any]]:
        """Corners, and scores as they are."""
        half = len(self.outputs) // 2
        scores = np.concatenate([outputs[name] for name in self.outputs[:half]], axis=1)
        logits = np.concatenate([outputs[name] for name in self.outputs[half:]], axis=1)
        points_xy, strides = anchor_points(height, width, self.strides)
        by_side = logits.reshape(*logits.shape[:2], 4, -1)
        weights = np.exp(by_side - by_side.max(axis=3, keepdims=True))
        reg_max = np.arange(by_side.shape[3], dtype=np.float32)
        ltrb = (weights * reg_max).sum(axis=3) / weights.sum(axis=3) * strides[:, None]
        return {
            "boxes": np.concatenate([points_xy - ltrb[..., :2], points_xy + ltrb[..., 2:]], axis=2),
            "scores": scores,
        }


def _size(found: Found) -> tuple[int, int]:
    return found.height, found.width
