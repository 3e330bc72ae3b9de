"""Kinds of results, named as what they are judged by: boxes in images, these with masks, labels of pixels, labels of
voxels.

What differs between them when a model is used is one class; a new kind adds a line to the table. A task names its kind,
and so does an exported file.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from detseg.config import load_entry

if TYPE_CHECKING:
    from detseg.runtime.kinds.base import Kind

KINDS: dict[str, str] = {
    "boxes": "detseg.runtime.kinds.boxes:Boxes",
    "instances": "detseg.runtime.kinds.instances:InstanceMasks",
    "masks": "detseg.runtime.kinds.masks:Masks",
    "volumes": "detseg.runtime.kinds.volumes:Volumes",
}


@cache
def load_kind(name: str) -> Kind:
    """The kind called ``name`` in the table, imported when first used."""
    kind: Kind = load_entry(KINDS, name)()
    return kind
