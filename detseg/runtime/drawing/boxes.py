"""Drawing results on images, for eyes: boxes with name tags, class masks, sheets of several images."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from detseg.arrays import ByteArray, FloatArray, IntArray
from detseg.runtime.drawing.known_colors import Color
from detseg.runtime.drawing.palette import Palette, color_of, palette_of

_Rectangle = tuple[int, int, int, int]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_TAG_OPACITY = 0.85


_SMALL_WIDTH = 2
"""A width of lines that hides little of any object."""


def draw_boxes(
    image: ByteArray,
    boxes_xyxy: FloatArray,
    labels: IntArray,
    class_names: Sequence[str],
    scores: FloatArray | None = None,
    line_width: int | None = None,
    track_ids: IntArray | None = None,
    palette: Palette | None = None,
) -> ByteArray:
    """A copy of ``image`` ``[H, W, 3]`` with ``boxes_xyxy`` ``[N, 4]`` drawn in their classes' colors, with name tags;
    of tracked objects the color and the tag are those of the track, of which 0 is none. ``palette`` takes the place of
    the usual colors of these classes.

    Lines and text grow with the image unless ``line_width`` (pixels) is given, but not so that they hide what is small
    in a large image. The better a score, the further in
    front. Tags stay inside the image and never cover each other: where better boxes have taken all the room about a
    box, its color must do.

    Raises:
        ValueError: if the numbers of boxes, labels and scores differ, or a label has no name.
    """
    _check_boxes(boxes_xyxy, labels, class_names, scores)
    canvas = image.copy()
    line_width = line_width or _line_width_among(boxes_xyxy, image)
    ranks = np.arange(len(labels)) if scores is None else np.argsort(-scores, kind="stable")
    colors = colors_for(labels, class_names, track_ids, palette)
    corners = corners_in(canvas, boxes_xyxy)
    for index in ranks[::-1]:
        left, top, right, bottom = corners[index].tolist()
        cv2.rectangle(canvas, (left, top), (right, bottom), colors[index], line_width)
    texts = []
    for index in ranks:
        text = class_names[labels[index]]
        if track_ids is not None and track_ids[index]:
            text += f" #{track_ids[index]}"
        if scores is not None:
            text += f" {scores[index]:.2f}"
        texts.append(text)
    draw_tags(canvas, texts, corners[ranks], [colors[index] for index in ranks], line_width)
    return canvas


def colors_for(
    labels: IntArray, class_names: Sequence[str], track_ids: IntArray | None = None, palette: Palette | None = None
) -> list[Color]:
    """The color of each object: that of its track where there are ``track_ids``, else that of its class."""
    if track_ids is not None:
        return [color_of(track_id) for track_id in track_ids.tolist()]
    palette = palette or palette_of(class_names)
    return [palette[label] for label in labels.tolist()]


def line_width_for(image: ByteArray) -> int:
    """The width of lines, in pixels, that suits images of this size."""
    return max(1, round(sum(image.shape[:2]) / 2 * 0.0035))


def _line_width_among(boxes_xyxy: FloatArray, image: ByteArray) -> int:
    """The same, where it is large no more than a tenth of the shorter side of most boxes."""
    width = line_width_for(image)
    if width <= _SMALL_WIDTH or not len(boxes_xyxy):
        return width
    side = float(np.median((boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).min(axis=1)))
    return max(_SMALL_WIDTH, min(width, round(side / 10)))


def corners_in(image: ByteArray, boxes_xyxy: FloatArray) -> IntArray:
    """The pixels at the corners of boxes ``[N, 4]``, (left, top, right, bottom), inside of the image."""
    height, width = image.shape[:2]
    corners: IntArray = np.clip(np.round(boxes_xyxy), 0, (width - 1, height - 1) * 2).astype(np.int64)
    return corners


def draw_tags(
    canvas: ByteArray, texts: Sequence[str], corners: IntArray, colors: Sequence[Color], line_width: int
) -> None:
    """Draw name tags about boxes with these ``corners`` ``[N, 4]``, the most important first.

    Tags stay inside the image and never cover each other; one that finds no room is left out.
    """
    taken: list[_Rectangle] = []
    for text, box, color in zip(texts, corners.tolist(), colors, strict=True):
        place = _draw_tag(canvas, text, box, color, line_width, taken)
        if place is not None:
            taken.append(place)


def draw_mask(image: ByteArray, mask: ByteArray, opacity: float = 0.5, ignored: int = 255) -> ByteArray:
    """A copy of ``image`` ``[H, W, 3]`` tinted by the classes in ``mask`` ``[H, W]``; where it is ``ignored``, clear.

    Raises:
        ValueError: if the sizes differ or ``opacity`` is not in [0, 1].
    """
    if mask.shape != image.shape[:2]:
        raise ValueError(f"mask and image must have one size, got {mask.shape} and {image.shape[:2]}")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be from 0 to 1, got {opacity}")
    colors = np.array([color_of(label) for label in range(256)], np.uint8)
    blended = np.round(image * (1 - opacity) + colors[mask] * opacity).astype(np.uint8)
    return np.where((mask == ignored)[..., None], image, blended)


def montage(images: Sequence[ByteArray], columns: int, pad: int = 6, background: int = 255) -> ByteArray:
    """One image with ``images`` in rows of ``columns``, each centered in a cell as large as the largest of them.

    Raises:
        ValueError: for no images, or fewer than one column.
    """
    if not images or columns < 1:
        raise ValueError(f"a montage needs images and columns, got {len(images)} images and {columns} columns")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    cell_height = max(image.shape[0] for image in images)
    cell_width = max(image.shape[1] for image in images)
    size = (pad + rows * (cell_height + pad), pad + columns * (cell_width + pad), 3)
    sheet = np.full(size, background, np.uint8)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top = pad + row * (cell_height + pad) + (cell_height - image.shape[0]) // 2
        left = pad + column * (cell_width + pad) + (cell_width - image.shape[1]) // 2
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def _check_boxes(
    boxes_xyxy: FloatArray, labels: IntArray, class_names: Sequence[str], scores: FloatArray | None
) -> None:
    num_scores = len(labels) if scores is None else len(scores)
    if not len(boxes_xyxy) == len(labels) == num_scores:
        raise ValueError(
            f"got {len(boxes_xyxy)} boxes, {len(labels)} labels and {num_scores} scores; one each is needed"
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(class_names):
        raise ValueError(f"labels from {labels.min()} to {labels.max()}, but there are {len(class_names)} class names")


def _draw_tag(
    canvas: ByteArray, text: str, corners: Sequence[int], color: Color, line_width: int, taken: Sequence[_Rectangle]
) -> _Rectangle | None:
    """Draw a name tag at the best free place about the box and return the place, None where all are taken."""
    height, width = canvas.shape[:2]
    scale, thickness = 0.32 + 0.085 * line_width, max(1, line_width // 2)
    (text_width, text_height), baseline = cv2.getTextSize(text, _FONT, scale, thickness)
    margin = 1 + line_width
    tag_width, tag_height = text_width + 2 * margin, text_height + baseline + margin
    places = [_inside(place, width, height) for place in _tag_places(corners, tag_width, tag_height, line_width)]
    place = next((place for place in places if not any(_intersect(place, other) for other in taken)), None)
    if place is None:
        return None
    left, top, right, bottom = place
    area = canvas[top:bottom, left:right]
    area[:] = np.round(area * (1 - _TAG_OPACITY) + np.array(color) * _TAG_OPACITY).astype(np.uint8)
    # Rec. 601 luma: dark letters on light colors.
    luma = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    ink = (20, 20, 20) if luma > 140 else (255, 255, 255)
    origin = (left + margin, top + margin // 2 + text_height)
    cv2.putText(canvas, text, origin, _FONT, scale, ink, thickness, cv2.LINE_AA)
    return place


def _tag_places(corners: Sequence[int], tag_width: int, tag_height: int, line_width: int) -> list[_Rectangle]:
    """Where a tag may go, best first: above the box, below it, inside at its top or bottom; each left, then right."""
    left, top, right, bottom = corners
    half = line_width // 2
    tops = (top - half - tag_height, bottom + half, top + half, bottom - half - tag_height)
    lefts = (left - half, right + half - tag_width)
    return [(x, y, x + tag_width, y + tag_height) for y in tops for x in lefts]


def _inside(place: _Rectangle, width: int, height: int) -> _Rectangle:
    """``place`` moved into the image, and cut where it is larger than that."""
    left = max(0, min(place[0], width - (place[2] - place[0])))
    top = max(0, min(place[1], height - (place[3] - place[1])))
    return left, top, min(width, left + place[2] - place[0]), min(height, top + place[3] - place[1])


def _intersect(one: _Rectangle, other: _Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
