"""Layouts with a class for every pixel.

Shape legend: B batch, C classes, H and W sides of inputs, h and w of maps, which may be smaller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.arrays import ByteArray, FloatArray
from detseg.runtime.foreign.base import (
    IMAGENET,
    AdaptedNetwork,
    Description,
    ForeignNames,
    Found,
    Layout,
    Pixels,
    UnfitError,
    require_classes,
    require_memory,
)
from detseg.runtime.kinds.base import ImageInputs, Network, Outputs, Pipeline
from detseg.runtime.kinds.masks import MaskPipeline, SemanticMetadata
from detseg.runtime.postprocess.config import InfererConfig
from detseg.structures import IGNORE_INDEX, LabelMap, LetterboxTransform

_ONE_MAP = (
    "it has one channel, such as text detection or a mask of one object: what becomes of it is not known; give a "
    "function (postprocess=) that makes boxes of it"
)


@dataclass(frozen=True)
class MapLayout(Layout):
    """A network for masks."""

    pixels: ClassVar[Pixels] = IMAGENET

    def describe(self, description: Description) -> ForeignMasks:
        """The metadata of a network for masks."""
        names = description.class_names
        return ForeignMasks(
            version="",
            task="semantic",
            form="logits",
            class_names=names,
            category_ids=tuple(range(len(names))),
            stride=description.stride,
            input=description.input,
            postprocess=InfererConfig(),
            graph_input=description.graph_input,
            layout=self,
        )

    def make_pipeline(self, network: AdaptedNetwork, metadata: ForeignMasks) -> Pipeline:
        """From images to masks, for outputs that are :meth:`read`."""
        return MaskPipeline(network, metadata)


@dataclass(frozen=True, kw_only=True)
class ForeignMasks(ForeignNames, SemanticMetadata):
    """A network for masks in a file of another program."""

    layout: MapLayout

    def pipeline(self, network: Network) -> Pipeline:  # type: ignore[override]
        """The layout, then what follows in files of our own."""
        return self.layout.make_pipeline(AdaptedNetwork(network, self.layout, len(self.class_names)), self)


@dataclass(frozen=True)
class Logits(MapLayout):
    """``[B, C, h, w]``, logits or probabilities."""

    @classmethod
    def recognize(cls, found: Found, *, chosen: bool) -> Self:
        """By one output of four dimensions, of no more pixels than the input."""
        names = found.named(4)
        if len(names) != 1 or len(found.outputs) != 1:
            raise UnfitError("logits of pixels are one output of four dimensions", is_near=False)
        num_classes, height, width = found.outputs[names[0]].shape[1:]
        if height * found.width != width * found.height or height > found.height:
            raise UnfitError(f"a map of {height}x{width} is no even share of an input of {found.height}x{found.width}")
        if num_classes < 2:
            raise UnfitError(_ONE_MAP)
        require_classes(found, num_classes)
        return cls((names[0],), num_classes)

    def read(self, outputs: Outputs, height: int, width: int, num_classes: int) -> dict[str, NDArray[Any]]:
        """Logits of the size of the input; smaller ones are enlarged (bilinear)."""
        logits = outputs[self.outputs[0]]
        return {"logits": logits if logits.shape[2:] == (height, width) else _enlarged(logits, height, width)}


def _enlarged(logits: FloatArray, height: int, width: int) -> FloatArray:
    require_memory(4 * logits.shape[0] * logits.shape[1] * height * width, f"logits of {height}x{width} pixels")
    enlarged = np.empty((*logits.shape[:2], height, width), np.float32)
    for into, planes in zip(enlarged, logits.astype(np.float32, copy=False), strict=True):
        for target, plane in zip(into, planes, strict=True):
            cv2.resize(plane, (width, height), dst=target, interpolation=cv2.INTER_LINEAR)
    return enlarged


@dataclass(frozen=True)
class LabelMaps(MapLayout):
    """``[B, h, w]`` or ``[B, 1, h, w]``, whole numbers; 255 where no class is claimed."""

    @classmethod
    def recognize(cls, found: Found, *, chosen: bool) -> Self:
        """By one output of whole numbers."""
        names = found.named(3, "iu") + [name for name in found.named(4, "iu") if found.outputs[name].shape[1] == 1]
        if len(names) != 1 or len(found.outputs) != 1:
            raise UnfitError("a map of labels is one output [N, H, W] of whole numbers", is_near=False)
        height, width = found.outputs[names[0]].shape[-2:]
        if height * found.width != width * found.height or height > found.height:
            raise UnfitError(f"a map of {height}x{width} is no even share of an input of {found.height}x{found.width}")
        return cls((names[0],), None)

    def read(self, outputs: Outputs, height: int, width: int, num_classes: int) -> dict[str, NDArray[Any]]:
        """``labels`` ``[B, h, w]`` uint8."""
        labels = outputs[self.outputs[0]]
        labels = labels.reshape(len(labels), *labels.shape[-2:])
        others = np.setdiff1d(labels, np.append(np.arange(num_classes), IGNORE_INDEX))
        if others.size:
            raise UnfitError(f"gives label {others[0]}, and {num_classes} classes are named; name them all, in order")
        return {"labels": labels.astype(np.uint8)}

    def make_pipeline(self, network: AdaptedNetwork, metadata: ForeignMasks) -> Pipeline:
        """Labels are not averaged, so that there is one view."""
        return LabelPipeline(network, metadata)


class LabelPipeline(ImageInputs):
    """From images to masks, by a network that gives labels. See :class:`detseg.runtime.kinds.base.Pipeline`."""

    def __init__(self, network: AdaptedNetwork, metadata: ForeignMasks) -> None:
        super().__init__(metadata.input)
        if metadata.postprocess != InfererConfig():
            raise ValueError(
                f"{network.path}: gives labels, which cannot be averaged: leave scales, flip and window out"
            )
        network.require_shape((3, metadata.input.height, metadata.input.width))
        self._network = network

    def results(self, inputs: FloatArray, transforms: list[LetterboxTransform]) -> list[LabelMap]:
        """The mask of each image."""
        labels = self._network.run(inputs)["labels"]
        return [_placed(one, inputs.shape[2], place) for one, place in zip(labels, transforms, strict=True)]


def _placed(labels: ByteArray, input_height: int, transform: LetterboxTransform) -> LabelMap:
    """``labels`` for an input, cut to the image and brought to its size by the nearest label."""
    share = labels.shape[0] / input_height
    top, left = round(transform.offset_y * share), round(transform.offset_x * share)
    height = max(1, round(transform.original_height * transform.scale_y * share))
    width = max(1, round(transform.original_width * transform.scale_x * share))
    size = (transform.original_width, transform.original_height)
    inside = np.ascontiguousarray(labels[top : top + height, left : left + width])
    return LabelMap(np.asarray(cv2.resize(inside, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8))
