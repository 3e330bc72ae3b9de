"""Results of images for eyes: beside what is true."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from detseg.arrays import ByteArray
from detseg.runtime.drawing.boxes import colors_for, draw_boxes, montage
from detseg.runtime.drawing.instances import require_size, tint
from detseg.runtime.drawing.labels import classes_in, draw_labels
from detseg.runtime.drawing.lettering import Lettering
from detseg.runtime.drawing.palette import Palette, palette_of
from detseg.structures import IGNORE_INDEX, Detections, GroundTruth, Instances

SHOWN_CONFIDENCE = 0.25
"""Objects with a lower score count in evaluation, but would cover the image."""

_WRONG = (235, 30, 45)
_IGNORED = (120, 120, 120)


def compare_boxes(
    image: ByteArray,
    truth: GroundTruth,
    detections: Detections,
    class_names: Sequence[str],
    palette: Palette | None = None,
) -> ByteArray:
    """The annotated objects of ``image`` ``[H, W, 3]`` beside those found with a score of 0.25 or more."""
    shown = detections.select(detections.scores >= SHOWN_CONFIDENCE)
    return _compare_objects(image, image, truth, shown, class_names, palette)


def compare_instances(
    image: ByteArray, truth: GroundTruth, found: Instances, class_names: Sequence[str], palette: Palette | None = None
) -> ByteArray:
    """As :func:`compare_boxes`, with the masks of the objects.

    Raises:
        ValueError: the masks are not as large as the image.
    """
    shown = found.select(found.scores >= SHOWN_CONFIDENCE)
    of_truth = truth.masks or ()
    require_size(image, of_truth)
    require_size(image, shown.masks)
    order = np.argsort(shown.scores, kind="stable")
    colors = colors_for(shown.labels, class_names, shown.track_ids, palette)
    of_truth_colors = colors_for(truth.labels[: len(of_truth)], class_names, None, palette)
    drawn = [
        tint(image, (mask.to_crop() for mask in of_truth), of_truth_colors),
        tint(image, (shown.masks[row].to_crop() for row in order), [colors[row] for row in order]),
    ]
    return _compare_objects(drawn[0], drawn[1], truth, shown, class_names, palette)


def _compare_objects(
    image_of_truth: ByteArray,
    image: ByteArray,
    truth: GroundTruth,
    shown: Detections,
    class_names: Sequence[str],
    palette: Palette | None = None,
) -> ByteArray:
    names = [*class_names, *(f"{name} (crowd)" for name in class_names)]
    labels = truth.labels + np.where(truth.crowd, len(class_names), 0)
    palette = palette or palette_of(class_names)
    boxes = truth.boxes_xyxy.astype(np.float32)
    panels = [
        _captioned(draw_boxes(image_of_truth, boxes, labels, names, palette=palette), f"truth: {len(labels)}"),
        _captioned(
            draw_boxes(
                image,
                shown.boxes_xyxy,
                shown.labels,
                class_names,
                shown.scores,
                track_ids=shown.track_ids,
                palette=palette,
            ),
            f"found, score {SHOWN_CONFIDENCE} or more: {len(shown)}",
        ),
    ]
    return montage(panels, columns=2)


def compare_labels(
    image: ByteArray, truth: ByteArray, labels: ByteArray, class_names: Sequence[str], palette: Palette | None = None
) -> ByteArray:
    """``image`` ``[H, W, 3]``, its true mask, the mask found and the errors, with a legend.

    In the map of errors wrong pixels are red, those without truth gray; its caption says how many of the others are
    wrong.

    Raises:
        ValueError: the sizes differ, or a label has no name.
    """
    drawn = [draw_labels(image, mask, class_names, names=False, palette=palette) for mask in (truth, labels)]
    judged = truth != IGNORE_INDEX
    wrong = judged & (truth != labels)
    share = f"{wrong.sum() / judged.sum():.1%}" if judged.any() else "none judged"
    panels = [
        _captioned(image, "image"),
        _captioned(drawn[0], "truth"),
        _captioned(drawn[1], "prediction"),
        _captioned(draw_errors(image, truth, labels), f"errors: {share}"),
    ]
    sheet = montage(panels, columns=2)
    palette = palette or palette_of(class_names)
    entries = [(palette[label], class_names[label]) for label in classes_in(truth, labels)]
    return np.concatenate([sheet, _lettering(image.shape).legend(entries, sheet.shape[1])])


def draw_errors(image: ByteArray, truth: ByteArray, labels: ByteArray) -> ByteArray:
    """``image`` ``[H, W, 3]`` dark and gray, with wrong pixels red and those without truth gray."""
    errors = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) // 2
    errors[(truth != IGNORE_INDEX) & (truth != labels)] = _WRONG
    errors[truth == IGNORE_INDEX] = _IGNORED
    return errors.astype(np.uint8)


def _lettering(image_shape: tuple[int, ...]) -> Lettering:
    """Text that suits images of this size."""
    return Lettering(max(0.45, max(image_shape[:2]) / 1400))


def _captioned(image: ByteArray, text: str) -> ByteArray:
    """``image`` under a strip with ``text``, in smaller letters where the image is too narrow for it."""
    lettering = _lettering(image.shape)
    strip = lettering.blank(lettering.line, image.shape[1])
    lettering.fitted(text, image.shape[1] - 6).write(strip, text, 2, 0, lettering.line)
    return np.concatenate([strip, image])
