"""Settings of the way from a network's outputs to results, as model files carry them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar, Literal, get_args

from detseg.runtime.postprocess.components import CleanConfig
from detseg.volumes import Shape3

HeadKind = Literal["dfl", "yolox", "ltrb"]
NmsBackend = Literal["auto", "detseg", "torchvision"]
Weighting = Literal["uniform", "gaussian"]

_OVERLAP, _LARGEST_OVERLAP = 0.2, 0.9


def count_box_channels(kind: HeadKind, reg_max: int) -> int:
    """The channels of a raw map before those of the classes.

    Raises ValueError for an unknown ``kind``.
    """
    if kind not in get_args(HeadKind):
        raise ValueError(f"head kind {kind!r} is unknown; known are 'dfl', 'yolox' and 'ltrb'")
    return {"dfl": 4 * reg_max, "yolox": 5, "ltrb": 4}[kind]


@dataclass(frozen=True)
class HeadMetadata:
    """How raw maps of a detector are decoded, see ``detseg.ops.decode``; ``strides`` of the levels, fine to coarse.
    ``one_to_one``: each object has one prediction, so that the best are taken as they are, without NMS."""

    renamed: ClassVar[Mapping[str, str]] = {"bins": "reg_max"}
    renamed_values: ClassVar[Mapping[str, Mapping[str, str]]] = {"kind": {"direct": "yolox"}}

    kind: HeadKind
    strides: tuple[int, ...]
    reg_max: int = 16
    one_to_one: bool = False

    def __post_init__(self) -> None:
        if not self.strides or min(self.strides) < 1:
            raise ValueError(f"strides must be positive, one for each level, got {self.strides}")
        if self.reg_max < 2:
            raise ValueError(f"reg_max must be at least 2, got {self.reg_max}")

    @property
    def num_box_channels(self) -> int:
        """The channels before those of the classes."""
        return count_box_channels(self.kind, self.reg_max)


@dataclass(frozen=True)
class PostprocessConfig:
    """Which raw predictions become detections."""

    confidence: float = 0.001
    """The lowest score that is kept, 0 to 1."""
    iou: float = 0.7
    """Boxes of one class that overlap more than this are the same object, 0 to 1."""
    max_detections: int = 300
    """Most detections per image."""
    multi_label: bool = True
    """Whether one box may carry several classes."""
    class_agnostic: bool = False
    """Whether boxes of any class suppress each other."""
    nms_backend: NmsBackend = "auto"
    """What suppresses boxes: ``detseg``'s own code (on a GPU it needs Triton), ``torchvision``, which is slower, or
    ``auto``: the first, and the second on a GPU where Triton does not run."""
    tiles: tuple[int, int] | None = None
    """Height and width of tiles in pixels of the image: each goes through the network as an image of its own, with at
    most ``max_detections`` objects, and what several of them see is merged; null: images are looked at as a whole."""
    overlap: float = _OVERLAP
    """Share by which tiles overlap, from 0 to 0.9."""
    scales: tuple[float, ...] = (1.0,)
    """Objects are fused from views of the image at these scales of the input, by weighted boxes fusion."""
    flip: bool = False
    """Whether they are fused from the mirrored image as well."""

    def __post_init__(self) -> None:
        for name in ("confidence", "iou"):
            value = getattr(self, name)
            if not isinstance(value, Real) or not 0 <= float(value) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {value!r}")
        if self.max_detections < 1:
            raise ValueError(f"max_detections must be at least 1, got {self.max_detections}")
        if self.tiles is not None and (len(self.tiles) != 2 or min(self.tiles) < 1):
            raise ValueError(f"tiles must be a positive height and width, got {self.tiles}")
        if not 0 <= self.overlap <= _LARGEST_OVERLAP:
            raise ValueError(f"overlap of tiles must lie in [0, {_LARGEST_OVERLAP}], got {self.overlap}")
        if self.tiles is None and self.overlap != _OVERLAP:
            raise ValueError(f"overlap is the share by which tiles overlap, got {self.overlap} and no tiles; set tiles")
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise ValueError(f"scales must be positive numbers, at least one, got {self.scales}")

    @property
    def num_views(self) -> int:
        """How often the network looks at an image, or a tile."""
        return len(self.scales) * (2 if self.flip else 1)

    @property
    def has_views(self) -> bool:
        """Whether an image is looked at otherwise than once, as a whole."""
        return self.tiles is not None or self.flip or self.scales != (1.0,)


def require_no_suppression(settings: PostprocessConfig) -> None:
    """Refuse settings of NMS for a head whose objects have one prediction each.

    Raises:
        ValueError: one of them is not as usual, so that somebody expects it to do something.
    """
    usual = PostprocessConfig()
    changed = [
        name for name in ("iou", "class_agnostic", "nms_backend") if getattr(settings, name) != getattr(usual, name)
    ]
    if changed:
        given = ", ".join(f"{name} {getattr(settings, name)}" for name in changed)
        raise ValueError(
            f"{given}: the head is one-to-one, so there is no NMS and this changes nothing; leave it out, or take the "
            "other branch of the head (model.head.branch=one_to_many)"
        )


@dataclass(frozen=True)
class InfererConfig:
    """How an image is looked at; without any of these settings it goes through the model once, as a whole."""

    window: tuple[int, int] | None = None
    """Height and width of windows that slide over the input, their logits averaged; null: no windows."""
    overlap: float = 0.25
    """Share by which windows overlap."""
    weighting: Weighting = "gaussian"
    """How logits of overlapping windows are averaged."""
    scales: tuple[float, ...] = (1.0,)
    """The class probabilities are averaged over the input at these scales."""
    flip: bool = False
    """Whether they are averaged over the mirrored input as well."""

    def __post_init__(self) -> None:
        if self.window is not None and (len(self.window) != 2 or min(self.window) < 1):
            raise ValueError(f"window must be a positive height and width, got {self.window}")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"overlap must lie in [0, 1), got {self.overlap}")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales must be positive numbers, at least one, got {self.scales}")


@dataclass(frozen=True)
class WindowsConfig:
    """How a volume goes through the model: windows slide over it, and their logits are averaged where they overlap."""

    window: Shape3 | None = None
    """Depth, height and width of the windows; null: those of training patches."""
    overlap: float = 0.5
    """Share of the window by which neighbors overlap."""
    weighting: Weighting = "gaussian"
    """How logits of overlapping windows are averaged."""
    batch_size: int = 1
    """Windows that go through the model at once."""
    flip: bool = False
    """Whether the class probabilities are averaged over the volume and its mirror images along ``flip_axes`` and every
    combination of them."""
    flip_axes: tuple[int, ...] = (0, 1, 2)
    """Axes of the mirror images (0: right, 1: anterior, 2: superior); they should be axes along which the model saw
    mirrored patches in training."""
    clean: tuple[CleanConfig, ...] = ()
    """What is left of the pieces of classes, chosen by ``detseg train --folds``."""

    def __post_init__(self) -> None:
        names = [one.name for one in self.clean]
        if len(set(names)) < len(names):
            raise ValueError(f"clean names a class twice: {', '.join(names)}")
        if self.window is not None and (len(self.window) != 3 or min(self.window) < 1):
            raise ValueError(f"window must be a positive depth, height and width, got {self.window}")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"overlap must lie in [0, 1), got {self.overlap}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if not self.flip_axes or len(set(self.flip_axes)) < len(self.flip_axes) or set(self.flip_axes) - {0, 1, 2}:
            raise ValueError(
                "flip_axes must be one or more of 0 (right), 1 (anterior), 2 (superior), each once; got "
                f"{self.flip_axes}"
            )
