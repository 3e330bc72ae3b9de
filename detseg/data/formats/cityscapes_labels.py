"""The labels of Cityscapes (Cordts et al., CVPR 2016; https://www.cityscapes-dataset.com/dataset-overview)."""

from __future__ import annotations

from typing import NamedTuple

from detseg.structures import IGNORE_INDEX


class CityscapesLabel(NamedTuple):
    """``label_id`` is the value in labelIds files, ``train_id`` that in labelTrainIds files, ``IGNORE_INDEX`` where
    evaluation ignores the label; ``is_thing`` says whether its instances are told apart."""

    label_id: int
    name: str
    train_id: int
    is_thing: bool = False


LABELS = (
    CityscapesLabel(-1, "license plate", IGNORE_INDEX),
    CityscapesLabel(0, "unlabeled", IGNORE_INDEX),
    CityscapesLabel(1, "ego vehicle", IGNORE_INDEX),
    CityscapesLabel(2, "rectification border", IGNORE_INDEX),
    CityscapesLabel(3, "out of roi", IGNORE_INDEX),
    CityscapesLabel(4, "static", IGNORE_INDEX),
    CityscapesLabel(5, "dynamic", IGNORE_INDEX),
    CityscapesLabel(6, "ground", IGNORE_INDEX),
    CityscapesLabel(7, "road", 0),
    CityscapesLabel(8, "sidewalk", 1),
    CityscapesLabel(9, "parking", IGNORE_INDEX),
    CityscapesLabel(10, "rail track", IGNORE_INDEX),
    CityscapesLabel(11, "building", 2),
    CityscapesLabel(12, "wall", 3),
    CityscapesLabel(13, "fence", 4),
    CityscapesLabel(14, "guard rail", IGNORE_INDEX),
    CityscapesLabel(15, "bridge", IGNORE_INDEX),
    CityscapesLabel(16, "tunnel", IGNORE_INDEX),
    CityscapesLabel(17, "pole", 5),
    CityscapesLabel(18, "polegroup", IGNORE_INDEX),
    CityscapesLabel(19, "traffic light", 6),
    CityscapesLabel(20, "traffic sign", 7),
    CityscapesLabel(21, "vegetation", 8),
    CityscapesLabel(22, "terrain", 9),
    CityscapesLabel(23, "sky", 10),
    CityscapesLabel(24, "person", 11, is_thing=True),
    CityscapesLabel(25, "rider", 12, is_thing=True),
    CityscapesLabel(26, "car", 13, is_thing=True),
    CityscapesLabel(27, "truck", 14, is_thing=True),
    CityscapesLabel(28, "bus", 15, is_thing=True),
    CityscapesLabel(29, "caravan", IGNORE_INDEX, is_thing=True),
    CityscapesLabel(30, "trailer", IGNORE_INDEX, is_thing=True),
    CityscapesLabel(31, "train", 16, is_thing=True),
    CityscapesLabel(32, "motorcycle", 17, is_thing=True),
    CityscapesLabel(33, "bicycle", 18, is_thing=True),
)
"""License plates are annotated, but drawn into no image."""

CLASSES = tuple(sorted((label for label in LABELS if label.train_id != IGNORE_INDEX), key=lambda label: label.train_id))
"""The 19 labels that are evaluated, in the order of their train ids."""

THINGS = tuple(label for label in CLASSES if label.is_thing)
"""The 8 classes of objects, in the same order."""
