"""What can be wrong with the boxes of one image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from detseg.data.dataset import MIN_BOX_SIDE
from detseg.data.findings import Finding
from detseg.data.records import XYXY, BoxRecord, ImageRecord

TOLERANCE = 0.5
"""Pixels that a box may reach outside of its image before it is worth a word: rounding, not a mistake."""


def check_boxes(image: ImageRecord, size: tuple[int, int] | None, split: str) -> Iterator[Finding]:
    """The findings D001, D002, D003 and D006 about ``image``, whose file has the ``size`` (height, width), if readable.

    A box is held against the size that its annotation records, because another size is a finding of its own; without
    any size, only boxes that are degenerate or outside of every image are found.
    """
    height, width = image.recorded_size or size or (None, None)
    seen: dict[tuple[str | None, XYXY], list[BoxRecord]] = defaultdict(list)
    for box in image.boxes:
        x_scale, y_scale = (width or 1, height or 1) if image.in_fractions else (1, 1)
        left, top, right, bottom = box.xyxy
        scaled = (left * x_scale, top * y_scale, right * x_scale, bottom * y_scale)
        judged = _judge(scaled, width, height, MIN_BOX_SIDE if width or not image.in_fractions else 0)
        if judged is None:
            rounded = tuple(round(side, 2) for side in scaled) if width or not image.in_fractions else box.xyxy
            seen[box.category, rounded].append(box)  # type: ignore[index]
            continue
        code, message = judged
        yield Finding(code, str(image.source), f"{message} in {image.path.name}", (box.annotation_id,), split)
    for (category, xyxy), copies in seen.items():
        if len(copies) > 1 and not any(box.crowd for box in copies):
            ids = tuple(box.annotation_id for box in copies)
            message = (
                f"{len(copies)} equal boxes {_show(xyxy)} of {category or 'an unknown class'} in {image.path.name}"
            )
            yield Finding("D003", str(image.source), message, ids, split)


def _judge(xyxy: XYXY, width: int | None, height: int | None, min_side: float) -> tuple[str, str] | None:
    """The code and the message for a box, or None if it is good."""
    left, top, right, bottom = xyxy
    shown = f"box {_show(xyxy)}"
    if right - left <= 0 or bottom - top <= 0:
        return "D001", f"{shown} is {right - left:g} wide and {bottom - top:g} high"
    outer_right, outer_bottom = width or float("inf"), height or float("inf")
    seen_width = min(right, outer_right) - max(left, 0)
    seen_height = min(bottom, outer_bottom) - max(top, 0)
    limits = f"the image, {width}x{height}" if width else "any image"
    if seen_width <= 0 or seen_height <= 0:
        return "D006", f"{shown} lies outside of {limits},"
    if seen_width < min_side or seen_height < min_side:
        return "D001", f"{shown} is {seen_width:g} wide and {seen_height:g} high, less than {min_side:g} pixel,"
    overhang = max(-left, -top, right - outer_right, bottom - outer_bottom)
    if overhang > TOLERANCE:
        return "D002", f"{shown} reaches {overhang:g} pixels outside of {limits},"
    return None


def _show(xyxy: XYXY) -> str:
    return f"({', '.join(f'{side:g}' for side in xyxy)})"
