"""Kinds of results, named as what they are judged by: boxes in images, labels of pixels, labels of voxels.

What differs between them when a model is used is one class; a new kind adds a line to the table. A task names its kind,
and so does an exported file.
"""

KINDS: dict[str, str] = {
    "boxes": "detseg.runtime.kinds.boxes:Boxes",
    "masks": "detseg.runtime.kinds.masks:Masks",
    "volumes": "detseg.runtime.kinds.volumes:Volumes",
}
