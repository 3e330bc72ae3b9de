"""Layouts with a list of objects: end-to-end YOLOs, DETR, torchvision, what a YAML describes, functions of the user.

Shape legend: B batch, K boxes, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from detseg.arrays import FloatArray
from detseg.runtime.foreign.base import IMAGENET, Found, Pixels, UnfitError, require_classes
from detseg.runtime.foreign.boxes import (
    BoxLayout,
    are_fractions,
    corners,
    in_pixels,
    prototypes_in,
    prototypes_of,
    scores_by_class,
)
from detseg.runtime.foreign.grids import strides_of
from detseg.runtime.kinds.base import Outputs
from detseg.runtime.postprocess.decode import sigmoid
from detseg.runtime.postprocess.masks import PrototypeMetadata

BoxForm = Literal["xyxy", "xywh", "cxcywh"]
Activation = Literal["none", "sigmoid", "softmax"]
Postprocess = Callable[[Mapping[str, NDArray[Any]], int, int], Sequence[NDArray[Any]]]
"""``(outputs, height, width)`` for one image: the outputs by name, as the graph gives them for a batch of one, and
the size of the input. Gives boxes ``[K, 4]`` xyxy in input pixels, scores ``[K]`` and labels ``[K]``, or boxes and the
scores of every class ``[K, C]``."""


@dataclass(frozen=True)
class BoxesConfig:
    """Where a YAML finds boxes: the names of the outputs with ``boxes`` ``[K, 4]`` and ``scores``, ``[K]`` beside
    ``labels`` ``[K]``, or ``[K, C]``, each with or without an axis for the batch.

    ``form`` of the boxes, and whether they are ``normalized`` to an input from 0 to 1; ``activation`` that makes scores
    of what the network gives, and whether a ``background`` comes first or last among these classes; ``suppressed``:
    each object has one box already.
    """

    boxes: str
    scores: str
    labels: str | None = None
    form: BoxForm = "xyxy"
    normalized: bool = False
    activation: Activation = "none"
    background: Literal["none", "first", "last"] = "none"
    suppressed: bool = False


@dataclass(frozen=True)
class EndToEnd(BoxLayout):
    """``[B, K, 6]``: corners in input pixels, score, label (YOLOv10, YOLO26, and YOLOv8 exported with NMS).
    Coefficients of masks may follow, whose ``prototypes`` ``[B, P, h, w]`` are the second output. ``normalized``:
    corners are fractions of the input's sides."""

    prototypes: PrototypeMetadata | None = None
    normalized: bool = False

    @property
    def is_suppressed(self) -> bool:
        """Yes."""
        return True

    @classmethod
    def recognize(cls, found: Found, *, chosen: bool) -> Self:
        """By six columns, the last of whole numbers."""
        names, masks = found.named(3), found.named(4)
        if len(names) != 1 or len(masks) > 1 or len(found.outputs) > 2:
            raise UnfitError(
                "an end-to-end detector has one output of three dimensions, and with masks one of four", is_near=False
            )
        rows = found.outputs[names[0]]
        prototypes = prototypes_of(found, masks[0]) if masks else None
        more = 0 if prototypes is None else prototypes.count
        if rows.shape[2] != 6 + more:
            raise UnfitError(f"it has {rows.shape[2]} columns; corners, score and label are 6")
        scores, labels = rows[..., 4], rows[..., 5]
        if (labels != np.round(labels)).any() or (scores.size and (scores.min() < 0 or scores.max() > 1)):
            raise UnfitError("its fifth column holds no scores from 0 to 1, or its sixth no whole numbers")
        if not chosen and strides_of(rows.shape[1], found.height, found.width) is not None:
            raise UnfitError(f"it has as many rows as there are cells in the grids of a detector, {rows.shape[1]}")
        return cls((names[0], *masks), None, prototypes, are_fractions(rows[..., :4]))

    @property
    def masks(self) -> PrototypeMetadata | None:
        """Those of the second output."""
        return self.prototypes

    def read(self, outputs: Outputs, height: int, width: int, num_classes: int) -> dict[str, NDArray[Any]]:
        """The columns."""
        rows = outputs[self.outputs[0]]
        boxes = in_pixels(rows[..., :4], height, width) if self.normalized else rows[..., :4]
        read = {"boxes": boxes, "scores": scores_by_class(rows[..., 4], rows[..., 5], num_classes)}
        return read if self.prototypes is None else read | prototypes_in(outputs, self.outputs[1], rows[..., 6:])


@dataclass(frozen=True)
class BoxLists(BoxLayout):
    """What ``config`` says."""

    one_at_a_time: ClassVar[bool] = True

    config: BoxesConfig

    @property
    def is_suppressed(self) -> bool:
        """As the configuration has it."""
        return self.config.suppressed

    @classmethod
    def recognize(cls, found: Found, *, chosen: bool) -> Self:
        """Never: only a configuration tells."""
        raise UnfitError("only a YAML can describe it")

    @classmethod
    def configured(cls, config: BoxesConfig, found: Found) -> Self:
        """As ``config`` says.

        Raises:
            UnfitError: there are no such outputs, or they have other shapes.
        """
        names = tuple(name for name in (config.boxes, config.scores, config.labels) if name is not None)
        missing = [name for name in names if name not in found.outputs]
        if missing:
            raise UnfitError(f"there is no output {', '.join(missing)}")
        wanted = 1 if config.labels is not None else 2
        boxes, scores = _of_one(found.outputs[config.boxes], 2), _of_one(found.outputs[config.scores], wanted)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.ndim != wanted or len(scores) != len(boxes):
            raise UnfitError(
                f"boxes must be [K, 4] and scores {'[K]' if wanted == 1 else '[K, C]'}, with or without an axis for "
                f"the batch; {config.boxes} and {config.scores} are {list(boxes.shape)} and {list(scores.shape)}"
            )
        num_classes = None
        if wanted == 2:
            num_classes = scores.shape[1] - (config.background != "none")
            require_classes(found, num_classes)
        return cls(names, num_classes, config)

    def read(self, outputs: Outputs, height: int, width: int, num_classes: int) -> dict[str, NDArray[Any]]:
        """Corners in input pixels, and scores of classes."""
        config = self.config
        boxes = _of_one(outputs[config.boxes], 2).astype(np.float32, copy=False)
        scores = _of_one(outputs[config.scores], 2 if config.labels is None else 1).astype(np.float32, copy=False)
        if config.normalized:
            boxes = boxes * np.array([width, height] * 2, np.float32)
        if config.form == "cxcywh":
            boxes = corners(boxes, axis=1)
        elif config.form == "xywh":
            boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        scores = _activated(scores, config.activation)
        if config.labels is not None:
            labels = _of_one(outputs[config.labels], 1)
            return {"boxes": boxes[None], "scores": scores_by_class(scores[None], labels[None], num_classes)}
        if config.background != "none":
            scores = scores[:, 1:] if config.background == "first" else scores[:, :-1]
        return {"boxes": boxes[None], "scores": scores[None]}


class Detr(BoxLists):
    """``[B, K, 4]``, centers and sizes from 0 to 1, and logits ``[B, K, C]``: by sigmoid, as of RF-DETR and RT-DETR; or
    by softmax with one more for no object, as of DETR. How many classes are named tells which."""

    pixels: ClassVar[Pixels] = IMAGENET

    @classmethod
    def recognize(cls, found: Found, *, chosen: bool) -> Self:
        """By two lists of one length."""
        names = found.named(3)
        if len(names) != 2 or len(found.outputs) != 2:
            raise UnfitError("a DETR has two outputs of three dimensions, boxes and logits", is_near=False)
        four = [name for name in names if found.outputs[name].shape[2] == 4]
        if len(four) == 2:
            four = [name for name in four if "box" in name.lower() or "det" in name.lower()]
        if len(four) != 1:
            raise UnfitError("one output of a DETR has four columns, or says in its name that it has the boxes")
        (logits_name,) = (name for name in names if name != four[0])
        boxes, logits = found.outputs[four[0]], found.outputs[logits_name]
        if boxes.shape[1] != logits.shape[1]:
            raise UnfitError(f"there are {boxes.shape[1]} boxes and {logits.shape[1]} rows of logits")
        if boxes.min() < -0.5 or boxes.max() > 1.5:
            raise UnfitError("its boxes are not normalized to 0 to 1")
        if logits.min() >= 0 and logits.max() <= 1:
            raise UnfitError("its scores are no logits, as they all lie between 0 and 1")
        if found.num_names == logits.shape[2] - 1:
            activation: Activation = "softmax"
        elif found.num_names is None or found.num_names == logits.shape[2]:
            activation = "sigmoid"
        else:
            raise UnfitError(
                f"it gives {logits.shape[2]} logits, so by sigmoid as many classes, by softmax one less, and "
                f"{found.num_names} are named"
            )
        background: Literal["none", "last"] = "last" if activation == "softmax" else "none"
        form = BoxesConfig(four[0], logits_name, None, "cxcywh", True, activation, background, True)
        return cls((four[0], logits_name), logits.shape[2] - (activation == "softmax"), form)


class Torchvision(BoxLists):
    """Boxes ``[K, 4]``, corners in input pixels, scores ``[K]`` and labels ``[K]``, with or without an axis for the
    batch."""

    @classmethod
    def recognize(cls, found: Found, *, chosen: bool) -> Self:
        """By three lists, of which one is of whole numbers."""
        with_batch = any(one.ndim == 3 for one in found.outputs.values())
        arrays = {name: one[0] if with_batch else one for name, one in found.outputs.items() if one.ndim}
        boxes = [name for name, one in arrays.items() if one.ndim == 2 and one.shape[1] == 4]
        flat = {name: one for name, one in arrays.items() if one.ndim == 1}
        labels = [name for name, one in flat.items() if one.dtype.kind in "iu"]
        scores = [name for name, one in flat.items() if one.dtype.kind == "f"]
        if len(arrays) != 3 or not len(boxes) == len(labels) == len(scores) == 1:
            raise UnfitError(
                "three outputs are boxes [K, 4], scores [K] and labels [K], the last of whole numbers", is_near=False
            )
        form = BoxesConfig(boxes[0], scores[0], labels[0], suppressed=True)
        return cls((boxes[0], scores[0], labels[0]), None, form)


@dataclass(frozen=True)
class Custom(BoxLayout):
    """What a function of the user makes of all outputs."""

    one_at_a_time: ClassVar[bool] = True

    function: Postprocess

    @property
    def is_suppressed(self) -> bool:
        """What the user's function gives is final."""
        return True

    @classmethod
    def recognize(cls, found: Found, *, chosen: bool) -> Self:
        """Never: only the user gives it."""
        raise UnfitError("only a function can read it")

    def read(self, outputs: Outputs, height: int, width: int, num_classes: int) -> dict[str, NDArray[Any]]:
        """What the function gives, checked."""
        given = self.function(outputs, height, width)
        if not isinstance(given, tuple | list) or len(given) not in (2, 3):
            raise UnfitError(
                f"postprocess must give boxes, scores and labels, or boxes and scores of every class; got {type(given)}"
            )
        boxes, scores = (np.asarray(one, np.float32) for one in given[:2])
        boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
        wanted = (len(boxes),) if len(given) == 3 else (len(boxes), num_classes)
        if scores.size == 0:
            scores = scores.reshape(0, *wanted[1:])
        shapes = [scores.shape, *(np.shape(one)[:1] for one in given[2:])]
        if boxes.shape != (len(boxes), 4) or shapes != [wanted, *[(len(boxes),)] * (len(given) - 2)]:
            raise UnfitError(
                f"postprocess must give boxes [K, 4], scores {list(wanted)} and labels [K], if any; got "
                f"{', '.join(str(np.shape(one)) for one in given)}"
            )
        if len(given) == 2:
            return {"boxes": boxes[None], "scores": scores[None]}
        labels = np.asarray(given[2]).reshape(1, -1)
        return {"boxes": boxes[None], "scores": scores_by_class(scores[None], labels, num_classes)}


def _of_one(array: NDArray[Any], num_dimensions: int) -> NDArray[Any]:
    """``array`` for one image without the axis of the batch, where it has one."""
    return array[0] if array.ndim == num_dimensions + 1 and len(array) == 1 else array


def _activated(scores: FloatArray, activation: Activation) -> FloatArray:
    if activation == "sigmoid":
        return sigmoid(scores)
    if activation == "none":
        return scores
    weights: FloatArray = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights
