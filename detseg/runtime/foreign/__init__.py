"""ONNX files of other programs: what they give, by name of the layout, and what they are told to be.

A file that detseg did not write becomes metadata of our own kinds: a layout says which outputs hold what and brings
them into one of our forms; NMS, placing, drawing and writing are those of our own files. What the layout is
follows from the shapes of the outputs, from properties that their writers leave, and from options.
"""

from __future__ import annotations

LAYOUTS: dict[str, str] = {
    "yolov8": "detseg.runtime.foreign.grids:Yolov8",
    "yolox": "detseg.runtime.foreign.grids:Yolox",
    "picodet": "detseg.runtime.foreign.grids:Picodet",
    "e2e": "detseg.runtime.foreign.lists:EndToEnd",
    "detr": "detseg.runtime.foreign.lists:Detr",
    "torchvision": "detseg.runtime.foreign.lists:Torchvision",
    "semantic": "detseg.runtime.foreign.maps:Logits",
    "labels": "detseg.runtime.foreign.maps:LabelMaps",
}
"""Each layout with the class that recognizes and reads it."""
