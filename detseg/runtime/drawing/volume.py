"""Drawing volumes for eyes: three planes or many slices of a scan, with the outlines of labeled structures.

All images keep the radiological convention: one looks from the feet, or into the patient's face, so that the
patient's right is at the left of the image. Letters say so: R, L, A, P, S and I for right, left, anterior, posterior,
superior and inferior. Slices are counted from 1 toward the right, the front and the top. Proportions are true whatever
the shape of the voxels; gray values run over the window of the model, else from the 1st to the 99th percentile of the
scan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from detseg.arrays import BoolArray, ByteArray
from detseg.runtime.drawing.boxes import montage
from detseg.runtime.drawing.labels import classes_in
from detseg.runtime.drawing.lettering import Lettering
from detseg.runtime.drawing.palette import Palette, palette_of
from detseg.runtime.drawing.volume_planes import (
    AXIAL,
    PLANES,
    Scan,
    cross_sections,
    foreground,
    largest_sections,
    middle,
)
from detseg.volumes import LabelVolume, Shape3, Volume

_DARK = 20
_PAPER = (_DARK, _DARK, _DARK)
_TITLE = Lettering(0.55, ink=(235, 235, 235), paper=_PAPER)
_HEADING = Lettering(0.75, ink=(255, 255, 255), paper=_PAPER)
_LETTER = Lettering(0.5, ink=(165, 165, 165), paper=_PAPER)
_MARGIN = 24
_PANEL_PIXELS = (420, 720)
_MOST_ROWS = 4
_IN_VIEW = 0.5
"""A structure counts as seen where a plane has this share of its largest cross-section."""
_CELL_PIXELS = (240, 320)
"""The longest side of an image: at least, and at most."""


def draw_slices(
    volume: Volume,
    labels: LabelVolume,
    class_names: Sequence[str],
    *,
    has_sides: bool = True,
    notes: Sequence[str] = (),
    palette: Palette | None = None,
) -> ByteArray:
    """Three planes through the middle of what is labeled, or of the scan, side by side; an image ``[H, W, 3]``. Below
    them more, through the largest cross-sections of structures of which little is in view, for a few.

    Classes are outlined, but for class 0, the background; the legend says how many milliliters each has. Where the
    volume may be mirrored, it has no sides, and no letters stand for them. ``notes`` are lines above it all.

    Raises:
        ValueError: the shapes of volume and labels differ, or a label has no name.
    """
    _check(volume, [labels], class_names)
    scan = Scan(volume)
    oriented = scan.orient(labels.labels)
    shown = _shown(labels)
    positions, hidden = _positions([oriented], foreground(oriented), shown)
    palette = palette or palette_of(class_names)
    planes = np.concatenate([_planes(scan, oriented, position, palette, has_sides) for position in positions])
    width = planes.shape[1]
    lines = [*_strips(notes, width), planes, *_strips(_not_in_view(hidden, class_names), width)]
    return np.concatenate([*lines, _legend(labels, shown, class_names, width, palette)])


def compare_volumes(
    volume: Volume,
    truth: LabelVolume,
    result: LabelVolume,
    class_names: Sequence[str],
    palette: Palette | None = None,
) -> ByteArray:
    """The same three planes twice, an image ``[H, W, 3]``: above with what is true, below with what was found.

    The planes go through the middle of what is true, of what was found where nothing is, or of the scan; and more
    through structures of which little is in view then, as in :func:`draw_slices`.

    Raises:
        ValueError: the shapes differ, or a label has no name.
    """
    _check(volume, [truth, result], class_names)
    scan = Scan(volume)
    both = [scan.orient(labels.labels) for labels in (truth, result)]
    first = next((region for region in map(foreground, both) if region.any()), foreground(both[0]))
    shown = _shown(truth, result)
    positions, hidden = _positions(both, first, shown)
    rows: list[ByteArray] = []
    palette = palette or palette_of(class_names)
    for title, labels, oriented in zip(("truth", "prediction"), (truth, result), both, strict=True):
        planes = np.concatenate([_planes(scan, oriented, position, palette) for position in positions])
        width = planes.shape[1]
        more = _strips(_not_in_view(hidden, class_names), width)
        rows += [
            _strip(title, width, _HEADING),
            planes,
            *more,
            _legend(labels, shown, class_names, width, palette),
            _rule(width),
        ]
    return np.concatenate(rows[:-1])


def compare_axial(
    volume: Volume,
    truth: LabelVolume,
    result: LabelVolume,
    class_names: Sequence[str],
    max_slices: int = 12,
    palette: Palette | None = None,
) -> dict[int, ByteArray]:
    """Axial slices, by their numbers from 1 at the bottom, each with what is true at the left and what was found at the
    right, ``[H, W, 3]``: those that hold a labeled structure, evenly spread; of nothing labeled, of the whole scan.

    Raises:
        ValueError: the shapes differ, or a label has no name.
    """
    _check(volume, [truth, result], class_names)
    scan = Scan(volume)
    both = [scan.orient(labels.labels) for labels in (truth, result)]
    chosen = _spread(scan, foreground(both[0]) | foreground(both[1]), max_slices)
    scale = scan.scale((AXIAL,), *_CELL_PIXELS)
    pairs = {}
    palette = palette or palette_of(class_names)
    for position in chosen:
        left, right = (scan.image(AXIAL, position, oriented, scale, palette) for oriented in both)
        pairs[position + 1] = np.concatenate([left, np.full((len(left), 4, 3), 255, np.uint8), right], axis=1)
    return pairs


def _spread(scan: Scan, region: BoolArray, max_slices: int) -> list[int]:
    """At most so many axial slices, evenly spread over those that ``region`` reaches, or over all."""
    holding = np.flatnonzero(region.any(axis=(0, 1)))
    candidates = holding if len(holding) else np.arange(scan.shape[AXIAL.normal])
    places = np.linspace(0, len(candidates) - 1, min(max_slices, len(candidates))).round().astype(int)
    chosen: list[int] = candidates[places].tolist()
    return chosen


def draw_montage(
    volume: Volume,
    labels: LabelVolume,
    class_names: Sequence[str],
    max_slices: int = 24,
    *,
    palette: Palette | None = None,
) -> ByteArray:
    """The axial slices that hold a labeled structure, from the bottom to the top, in an image ``[H, W, 3]``.

    Of more than ``max_slices`` as many are shown, evenly spread; where nothing is labeled, slices of the whole scan.

    Raises:
        ValueError: the shapes of volume and labels differ, a label has no name, or ``max_slices`` is below 1.
    """
    _check(volume, [labels], class_names)
    if max_slices < 1:
        raise ValueError(f"max_slices must be at least 1, got {max_slices}")
    scan = Scan(volume)
    oriented = scan.orient(labels.labels)
    num_slices = scan.shape[AXIAL.normal]
    scale = scan.scale((AXIAL,), *_CELL_PIXELS)
    cells = []
    palette = palette or palette_of(class_names)
    for position in _spread(scan, foreground(oriented), max_slices):
        image = scan.image(AXIAL, position, oriented, scale, palette)
        cells.append(_centered_under(f"{position + 1} / {num_slices}", image))
    height, width = cells[0].shape[:2]
    sheet = montage(cells, columns=max(1, round(math.sqrt(len(cells) * 1.4 * height / width))), background=_DARK)
    title = "axial slices, bottom to top; left: patient's right"
    legend = _legend(labels, _shown(labels), class_names, sheet.shape[1], palette)
    return np.concatenate([_strip(title, sheet.shape[1]), sheet, legend])


def _check(volume: Volume, all_labels: Sequence[LabelVolume], class_names: Sequence[str]) -> None:
    for labels in all_labels:
        if labels.labels.shape != volume.shape:
            raise ValueError(f"labels and volume must have one shape, got {labels.labels.shape} and {volume.shape}")
        present = classes_in(labels.labels)
        if present and present[-1] >= len(class_names):
            raise ValueError(f"label {present[-1]} in the volume, but there are {len(class_names)} class names")


def _positions(
    all_labels: Sequence[ByteArray], whole: BoolArray, shown: Sequence[int]
) -> tuple[list[Shape3], list[int]]:
    """Where planes go: through the middle of the region ``whole``, and through the largest cross-sections of classes in
    ``shown`` of which no plane before has the ``_IN_VIEW`` share of the largest; and the classes for which there is no
    room. A class is looked for in the first of ``all_labels`` that has it."""
    positions, hidden = [middle(whole)], []
    for label in shown:
        region = next(labels == label for labels in all_labels if (labels == label).any())
        sections = cross_sections(region)
        in_view = any(
            counts[position[axis]] >= _IN_VIEW * counts.max()
            for position in positions
            for axis, counts in enumerate(sections)
        )
        if in_view:
            continue
        if len(positions) < _MOST_ROWS:
            positions.append(largest_sections(region))
        else:
            hidden.append(label)
    return positions, hidden


def _not_in_view(hidden: Sequence[int], class_names: Sequence[str]) -> list[str]:
    return [f"hardly in view: {', '.join(class_names[label] for label in hidden)}"] if hidden else []


def _planes(scan: Scan, labels: ByteArray, position: Shape3, palette: Palette, has_sides: bool = True) -> ByteArray:
    """The three planes through ``position`` at one scale, each with its name, its slice and letters at its sides."""
    scale = scan.scale(PLANES, *_PANEL_PIXELS)
    images = [scan.image(plane, position[plane.normal], labels, scale, palette) for plane in PLANES]
    height = max(len(image) for image in images)
    panels = []
    for plane, image in zip(PLANES, images, strict=True):
        text = f"{plane.name}, slice {position[plane.normal] + 1} of {scan.shape[plane.normal]}"
        letters = plane.letters if has_sides else ("", "", "", "")
        panels.append(_centered_under(text, _framed(image, letters, height)))
    return np.concatenate(panels, axis=1)


def _framed(image: ByteArray, letters: tuple[str, str, str, str], height: int) -> ByteArray:
    """``image`` in the middle of a frame of this inner height, with letters at its left, right, top and bottom."""
    rows, columns = image.shape[:2]
    frame = _LETTER.blank(height + 2 * _MARGIN, columns + 2 * _MARGIN)
    top = _MARGIN + (height - rows) // 2
    frame[top : top + rows, _MARGIN : _MARGIN + columns] = image
    half_line = _LETTER.line // 2
    center_x, center_y = _MARGIN + columns // 2, top + rows // 2
    places = [
        (_MARGIN // 2, center_y),
        (_MARGIN + columns + _MARGIN // 2, center_y),
        (center_x, top - _MARGIN // 2),
        (center_x, top + rows + _MARGIN // 2),
    ]
    for letter, (x, y) in zip(letters, places, strict=True):
        if not letter:
            continue
        _LETTER.write(frame, letter, x - _LETTER.width(letter) // 2, y - half_line)
    return frame


def _centered_under(text: str, image: ByteArray) -> ByteArray:
    """``image`` under a line of text, both centered in what is wide enough for either."""
    width = max(image.shape[1], _TITLE.width(text) + 8)
    sheet = _TITLE.blank(_TITLE.line + len(image), width)
    left = (width - image.shape[1]) // 2
    sheet[_TITLE.line :, left : left + image.shape[1]] = image
    _TITLE.write(sheet, text, (width - _TITLE.width(text)) // 2, 0)
    return sheet


def _strips(texts: Sequence[str], width: int) -> list[ByteArray]:
    return [_strip(text, width) for text in texts]


def _strip(text: str, width: int, lettering: Lettering = _TITLE) -> ByteArray:
    strip = lettering.blank(lettering.line, width)
    lettering.write(strip, text, 8, 0)
    return strip


def _rule(width: int) -> ByteArray:
    """A thin line between rows."""
    rule = _TITLE.blank(13, width)
    rule[6] = 110
    return rule


def _shown(*all_labels: LabelVolume) -> list[int]:
    return [label for label in classes_in(*(labels.labels for labels in all_labels)) if label != 0]


def _legend(
    labels: LabelVolume, shown: Sequence[int], class_names: Sequence[str], width: int, palette: Palette
) -> ByteArray:
    """The name and the milliliters of each class in ``shown``."""
    if not shown:
        return _strip("nothing is labeled", width)
    counts = labels.voxel_counts
    entries = [
        (palette[label], f"{class_names[label]} {_rounded(counts[label] * labels.voxel_milliliters)} ml")
        for label in shown
    ]
    return _TITLE.legend(entries, width)


def _rounded(milliliters: float) -> str:
    return f"{milliliters:,.0f}" if milliliters >= 1000 else f"{milliliters:.3g}"
