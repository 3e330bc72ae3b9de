"""The labels of Cityscapes (Cordts et al., CVPR 2016; https://www.cityscapes-dataset.com/dataset-overview)."""

from __future__ import annotations

from typing import NamedTuple

from detseg.structures import VOID


class CityscapesLabel(NamedTuple):
    """``label_id`` is the value in labelIds files, ``train_id`` that in labelTrainIds files, ``VOID`` where evaluation
    ignores the label; ``is_thing`` says whether its instances are told apart."""

    label_id: int
    name: str
    train_id: int
    is_thing: bool = False


LABELS = (
    CityscapesLabel(-1, "license plate", VOID),
    CityscapesLabel(0, "unlabeled", VOID),
    CityscapesLabel(1, "ego vehicle", VOID),
    CityscapesLabel(2, "rectification border", VOID),
    CityscapesLabel(3, "out of roi", VOID),
    CityscapesLabel(4, "static", VOID),
    CityscapesLabel(5, "dynamic", VOID),
    CityscapesLabel(6, "ground", VOID),
    CityscapesLabel(7, "road", 0),
    CityscapesLabel(8, "sidewalk", 1),
    CityscapesLabel(9, "parking", VOID),
    CityscapesLabel(10, "rail track", VOID),
    CityscapesLabel(11, "building", 2),
    CityscapesLabel(12, "wall", 3),
    CityscapesLabel(13, "fence", 4),
    CityscapesLabel(14, "guard rail", VOID),
    CityscapesLabel(15, "bridge", VOID),
    CityscapesLabel(16, "tunnel", VOID),
    CityscapesLabel(17, "pole", 5),
    CityscapesLabel(18, "polegroup", VOID),
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
    CityscapesLabel(29, "caravan", VOID, is_thing=True),
    CityscapesLabel(30, "trailer", VOID, is_thing=True),
    CityscapesLabel(31, "train", 16, is_thing=True),
    CityscapesLabel(32, "motorcycle", 17, is_thing=True),
    CityscapesLabel(33, "bicycle", 18, is_thing=True),
)
"""License plates are annotated, but drawn into no image."""

CLASSES = tuple(sorted((label for label in LABELS if label.train_id != VOID), key=lambda label: label.train_id))
"""The 19 labels that are evaluated, in the order of their train ids."""

THINGS = tuple(label for label in CLASSES if label.is_thing)
"""The 8 classes of objects, in the same order."""
