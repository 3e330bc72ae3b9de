"""Images that a reader of a report can browse: small, each with what was found in it as plain data."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
import torch

from detseg.arrays import ByteArray
from detseg.engine.distributed import Group
from detseg.evaluation.hardest import encode_jpeg

MOST_IMAGES = 500
"""Images that a page holds; of larger data sets as many, spread evenly."""
BROWSED_BYTES = 2_600_000
"""Of all images to browse together, as they stand on a page, which so stays below 5 MB."""
SHOWN_BYTES = 1_100_000
"""Of the hardest images."""
SLICE = "slice "
"""How the names of layers begin that are slices of one thing, to be seen in turn."""
_FIRST_SIDE, _SIDE_IN_FULL = 960, 1600
_LEAST_SIDE = 48
_NUM_WITH_SLICES = 12
"""Of volumes so many, the hardest, have slices; those of all would leave little room for each."""


@dataclass(frozen=True, slots=True)
class Browsed:
    """One image: its place in the data set, its name, JPEGs by what they show, the first of which is seen where
    nothing else is asked for, and a ``record``, see :meth:`detseg.evaluation.hardest.HardestExamples.describe`."""

    index: int
    name: str
    layers: Mapping[str, bytes]
    record: Mapping[str, Any] = field(default_factory=dict)


def browsed(
    index: int, name: str, layers: Mapping[str, ByteArray], record: Mapping[str, Any], full: bool = False
) -> Browsed:
    """The image with ``layers`` ``[H, W, 3]`` uint8 RGB of one size, made smaller unless ``full``."""
    side = _SIDE_IN_FULL if full else _FIRST_SIDE
    return Browsed(index, name, {what: encode_jpeg(_within(image, side)) for what, image in layers.items()}, record)


def fitted(jpegs: Sequence[bytes], num_bytes: int) -> list[bytes]:
    """``jpegs``, made smaller until they are no more than ``num_bytes`` in a page, where three bytes take four."""
    made = list(jpegs)
    quality = 75
    while (total := sum(len(jpeg) for jpeg in made) * 4 / 3) > num_bytes and made:
        scale = min(0.9, math.sqrt(num_bytes / total))
        smaller = [_smaller(jpeg, scale, quality) for jpeg in made]
        if sum(map(len, smaller)) >= sum(map(len, made)):
            return smaller
        made, quality = smaller, 60
    return made


def fit_browsed(images: Sequence[Browsed], num_bytes: int) -> tuple[Browsed, ...]:
    """The images, as small as they must be; see :func:`fitted`."""
    by_difficulty = sorted(images, key=lambda one: -one.record.get("difficulty", 0))
    sliced = {one.index for one in by_difficulty[:_NUM_WITH_SLICES]}
    images = [one if one.index in sliced else replace(one, layers=_without_slices(one.layers)) for one in images]
    every = fitted([jpeg for image in images for jpeg in image.layers.values()], num_bytes)
    rest = iter(every)
    return tuple(replace(one, layers={what: next(rest) for what in one.layers}) for one in images)


def _without_slices(layers: Mapping[str, bytes]) -> dict[str, bytes]:
    return {what: jpeg for what, jpeg in layers.items() if not what.startswith(SLICE)}


def everyones(own: Sequence[Browsed], group: Group, device: torch.device) -> list[Browsed]:
    """The images of all processes, in the order of the data set."""
    found = list(own)
    if group.world_size > 1:
        plain = [
            {"index": one.index, "name": one.name, "record": dict(one.record)}
            | {"layers": {what: base64.b64encode(jpeg).decode("ascii") for what, jpeg in one.layers.items()}}
            for one in own
        ]
        found = [
            Browsed(**values | {"layers": {what: base64.b64decode(text) for what, text in values["layers"].items()}})
            for part in group.gather_json(plain, device)
            for values in part
        ]
    return sorted(found, key=lambda one: one.index)


def _within(image: ByteArray, side: int) -> ByteArray:
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _smaller(jpeg: bytes, scale: float, quality: int) -> bytes:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None, "it has been encoded here"
    if max(image.shape[:2]) * scale >= _LEAST_SIDE:
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    done, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return encoded.tobytes()
