"""Layouts of boxes: what they have in common.

Shape legend: B batch, K boxes, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from detseg.arrays import FloatArray
from detseg.runtime.foreign.base import (
    AdaptedNetwork,
    Description,
    ForeignNames,
    Found,
    Layout,
    UnfitError,
    require_memory,
)
from detseg.runtime.inputs.geometry import StretchedInputSpec
from detseg.runtime.kinds.base import Metadata, Network, Outputs
from detseg.runtime.kinds.boxes import BoxPipeline, DetectionMetadata
from detseg.runtime.kinds.instances import InstanceMetadata, InstancePipeline
from detseg.runtime.postprocess.config import HeadMetadata, PostprocessConfig
from detseg.runtime.postprocess.masks import PrototypeMetadata

PREDICTED = 0.25
"""The confidence of prediction, as in files of our own."""

_FURTHEST_FRACTION = 1.5


@dataclass(frozen=True)
class BoxLayout(Layout):
    """Boxes, of which :meth:`read` makes ``boxes`` ``[B, K, 4]`` xyxy in input pixels and ``scores`` ``[B, K, C]``; and
    with prototypes of masks ``coefficients`` ``[B, K, P]`` and ``prototypes`` ``[B, P, h, w]``."""

    @property
    def is_suppressed(self) -> bool:
        """Whether each object has one box already; then nothing is suppressed unless the user gives an overlap."""
        return False

    @property
    def masks(self) -> PrototypeMetadata | None:
        """The prototypes of masks; None where there are boxes alone."""
        return None

    def describe(self, description: Description) -> Metadata:
        """The metadata of a detector."""
        names = description.class_names
        said: dict[str, Any] = {
            "version": "",
            "form": "decoded",
            "class_names": names,
            "category_ids": tuple(range(1, len(names) + 1)),
            "stride": description.stride,
            "input": description.input,
            # Of the head nothing but the strides is ever asked for: the layout decodes.
            "head": HeadMetadata("dfl", (description.stride,)),
            "postprocess": PostprocessConfig(PREDICTED, iou=1.0 if self.is_suppressed else PostprocessConfig.iou),
            "graph_input": description.graph_input,
            "layout": self,
        }
        if self.masks is not None:
            return ForeignInstances(task="instance", prototypes=self.masks, **said)
        return ForeignBoxes(task="detection", **said)


class _BoxNetwork(AdaptedNetwork):
    """With a :class:`BoxLayout`."""

    def run(self, inputs: FloatArray) -> Outputs:
        """Boxes whose right is not before their left, nor their bottom before their top: networks without DFL may give
        such, which have no size."""
        read = super().run(inputs)
        left_top, right_bottom = np.split(read["boxes"], 2, axis=-1)
        return {**read, "boxes": np.concatenate([left_top, np.maximum(left_top, right_bottom)], axis=-1)}


def _require_padding(metadata: DetectionMetadata) -> None:
    if type(metadata.input) is StretchedInputSpec:
        raise ValueError("full_input cannot be False: images are stretched to the input, so there is no padding")


@dataclass(frozen=True, kw_only=True)
class ForeignInstances(ForeignNames, InstanceMetadata):
    """A detector with masks in a file of another program."""

    def without_padding(self) -> Self:
        """The same with images padded no further than the stride asks for."""
        _require_padding(self)
        return super().without_padding()

    def pipeline(self, network: Network) -> InstancePipeline:
        """The layout, then what follows decoding in files of our own."""
        return InstancePipeline(_BoxNetwork(network, self.layout, len(self.class_names)), self)


@dataclass(frozen=True, kw_only=True)
class ForeignBoxes(ForeignNames, DetectionMetadata):
    """A detector in a file of another program."""

    def without_padding(self) -> Self:
        """The same with images padded no further than the stride asks for."""
        _require_padding(self)
        return super().without_padding()

    def pipeline(self, network: Network) -> BoxPipeline:
        """The layout, then what follows decoding in files of our own."""
        return BoxPipeline(_BoxNetwork(network, self.layout, len(self.class_names)), self)


def prototypes_of(found: Found, name: str) -> PrototypeMetadata:
    """Those in the output ``name``, ``[B, P, h, w]``.

    Raises:
        UnfitError: their cells are no squares of whole pixels.
    """
    count, height, width = found.outputs[name].shape[1:]
    stride = round(found.height / height)
    if (height, width) != (-(-found.height // stride), -(-found.width // stride)):
        raise UnfitError(
            f"prototypes of masks of {height}x{width} are no even share of an input of {found.height}x{found.width}"
        )
    return PrototypeMetadata(count, stride)


def prototypes_in(outputs: Outputs, name: str, coefficients: FloatArray) -> dict[str, NDArray[Any]]:
    """The part of :meth:`BoxLayout.read` that is for masks; ``coefficients`` ``[B, K, P]``."""
    return {"coefficients": np.ascontiguousarray(coefficients), "prototypes": outputs[name]}


def are_fractions(boxes: NDArray[Any]) -> bool:
    """Whether boxes ``[B, K, 4]`` of an empty input are in fractions of its sides: none reaches beyond one and a half.
    In pixels those of a detector reach all over the input, whatever it shows; nothing but zeros tells nothing."""
    furthest = float(np.abs(boxes).max(initial=0.0))
    return 0 < furthest <= _FURTHEST_FRACTION


def in_pixels(boxes: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Boxes ``[..., 4]`` in fractions of the sides, two numbers of ``x, y`` each, in pixels."""
    scaled: NDArray[Any] = boxes * np.array([width, height, width, height], boxes.dtype)
    return scaled


def corners(xywh: FloatArray, axis: int) -> FloatArray:
    """Boxes by center and size -> by corners (xyxy); ``axis`` is that of the four numbers."""
    center, size = np.split(xywh, 2, axis)
    half = size / np.float32(2)
    return np.concatenate([center - half, center + half], axis)


def scores_by_class(scores: FloatArray, labels: NDArray[Any], num_classes: int) -> FloatArray:
    """``scores`` and ``labels`` ``[B, K]`` -> ``[B, K, C]``, where a row has its score at its label, 0 elsewhere. Rows
    that score nothing may have any label: they fill the list up.

    Raises:
        UnfitError: another label is no class.
    """
    numbers = labels.astype(np.int64)
    counted = scores > 0
    if counted.any() and not 0 <= numbers[counted].min() <= numbers[counted].max() < num_classes:
        raise UnfitError(
            f"gives labels from {numbers[counted].min()} to {numbers[counted].max()}, and {num_classes} classes are "
            "named; name them all, in the order of their numbers"
        )
    require_memory(4 * scores.size * num_classes, f"the scores of {scores.size} boxes in {num_classes} classes")
    found = np.zeros((*scores.shape, num_classes), np.float32)
    batch, row = np.nonzero(counted)
    found[batch, row, numbers[batch, row]] = scores[batch, row]
    return found
