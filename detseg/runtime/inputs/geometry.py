"""How an image is placed in the input of a network: one letterbox for training, evaluation, prediction and export."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, Literal, get_args

import cv2
import numpy as np

from detseg.arrays import ByteArray
from detseg.runtime.media.images import IMAGE_SUFFIXES, read_image
from detseg.runtime.media.large_images import read_large
from detseg.structures import LetterboxTransform

Anchor = Literal["center", "top_left"]
ChannelOrder = Literal["rgb", "bgr"]
MAX_INPUT_PIXELS = 2**26
"""Some 8192 x 8192: a network makes many times as much of it, and a file says how large its input is."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a network expects of its input image."""

    suffixes: ClassVar[tuple[str, ...]] = IMAGE_SUFFIXES
    """How the names of files end that can be read."""
    one_size: ClassVar[bool] = True
    """Whether all inputs have one size, so that several make a batch."""
    num_files: ClassVar[int] = 1
    """In how many files an input may lie."""
    max_ahead: ClassVar[int | None] = None
    """How many files may be read before they are asked for; None: as many as keep a network busy."""

    height: int
    """Height of the input in pixels."""
    width: int
    """Width of the input in pixels."""
    anchor: Anchor = "center"
    """Where the resized image lies: centered (YOLOv8) or in the top left corner (YOLOX)."""
    pad_value: int = 114
    """Gray level around the resized image, 0 to 255."""
    upscale: bool = True
    """Whether an image that is smaller than the input is enlarged; false: it keeps its size."""
    channel_order: ChannelOrder = "rgb"
    """Order of the colors that the network sees, and of ``mean`` and ``std``."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Mean of each channel, in gray levels (0 to 255); the network sees ``(pixel - mean) / std``."""
    std: tuple[float, float, float] = (255.0, 255.0, 255.0)
    """Standard deviation of each channel, in gray levels (0 to 255); the network sees ``(pixel - mean) / std``."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"the input size must be positive, got {self.height}x{self.width} (height x width)")
        if self.height * self.width > MAX_INPUT_PIXELS:
            size = f"{self.height}x{self.width} (height x width)"
            raise ValueError(f"the input size must be at most {MAX_INPUT_PIXELS:,} pixels, got {size}")
        if self.anchor not in get_args(Anchor):
            raise ValueError(f"anchor must be one of {', '.join(get_args(Anchor))}, got {self.anchor!r}")
        if self.channel_order not in get_args(ChannelOrder):
            allowed = ", ".join(get_args(ChannelOrder))
            raise ValueError(f"channel_order must be one of {allowed}, got {self.channel_order!r}")
        if not 0 <= self.pad_value <= 255:
            raise ValueError(f"pad_value must be a gray level from 0 to 255, got {self.pad_value}")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError(f"mean and std must have three values each, got {self.mean} and {self.std}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")

    def read(self, path: Path | str) -> ByteArray:
        """The image in the file ``path``, ``[H, W, 3]`` uint8 RGB. Raises ImageError: it cannot be read."""
        return read_image(path)

    def place(self, image: ByteArray) -> tuple[ByteArray, LetterboxTransform]:
        """``image`` as the network takes it, ``[3, H, W]`` uint8, and the way back. See :func:`letterbox`."""
        placed, transform = letterbox(image, self)
        return placed.transpose(2, 0, 1), transform

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """The height and width of the input for an image of this size: always the same."""
        return self.height, self.width

    def input_shape(self, image: ByteArray) -> tuple[int, int]:
        """The height and width of the input for ``image``. Raises ValueError: it is no image."""
        check_image(image)
        height, width = image.shape[:2]
        return self.input_size(height, width)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """The height and width that an image of this size gets inside the input, its aspect ratio kept."""
        ratio = min(self.height / height, self.width / width)
        if not self.upscale:
            ratio = min(ratio, 1.0)
        # YOLOX cuts off where YOLOv8 rounds: a pixel of difference moves every box, so each anchor keeps its rule.
        fit = round if self.anchor == "center" else int
        return max(1, fit(height * ratio)), max(1, fit(width * ratio))


@dataclass(frozen=True, slots=True)
class FittedInputSpec(InputSpec):
    """An input that is no larger than the image needs: ``height`` and ``width`` are limits, and each side is padded to
    the next multiple of ``stride`` only. At 640x640 an image of 16:9 takes 384x640, three fifths of the work.

    The scale is that of the full input; what the network sees beyond the image's border is not, so predictions there
    differ a little. Inputs of images of different shapes make no batch.

    Raises:
        ValueError: the height or the width is no multiple of ``stride``.
    """

    stride: int = 32

    def __post_init__(self) -> None:
        # Named in full: the class that `super()` stands for is replaced where a dataclass has slots.
        InputSpec.__post_init__(self)
        if self.stride < 1 or self.height % self.stride or self.width % self.stride:
            raise ValueError(
                f"height and width must be multiples of the stride, got {self.height}x{self.width} and {self.stride}"
            )

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """The height and width of the input for an image of this size."""
        new_height, new_width = self.resized(height, width)
        return -(-new_height // self.stride) * self.stride, -(-new_width // self.stride) * self.stride


@dataclass(frozen=True, slots=True)
class StretchedInputSpec(InputSpec):
    """An input that the whole image is stretched to, each side by its own factor; nothing is padded."""

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """The height and width that an image of this size gets inside the input: all of it."""
        return self.height, self.width


@dataclass(frozen=True, slots=True)
class TiledInputSpec(InputSpec):
    """An input for one tile of an image at a time, so that the image may be larger than what is decoded as a whole."""

    max_ahead: ClassVar[int | None] = 1

    def read(self, path: Path | str) -> ByteArray:
        """The image in the file ``path``, ``[H, W, 3]`` uint8 RGB, a large one perhaps in a file of its own; see
        :func:`detseg.runtime.media.large_images.read_large`."""
        return read_large(path)


def tiled(spec: InputSpec) -> TiledInputSpec:
    """``spec`` for tiles."""
    return TiledInputSpec(**{one.name: getattr(spec, one.name) for one in fields(InputSpec)})


def fitted(spec: InputSpec, stride: int) -> FittedInputSpec:
    """``spec`` with no more padding than up to the next multiple of ``stride``."""
    return FittedInputSpec(**{one.name: getattr(spec, one.name) for one in fields(InputSpec)}, stride=stride)


def transform_of(height: int, width: int, spec: InputSpec) -> LetterboxTransform:
    """Where an image of ``height`` x ``width`` pixels lies in the input of ``spec``, and the way back.

    Holds the ratios that are really applied (after rounding to whole pixels), one per axis, so that boxes come back
    without drift.
    """
    new_height, new_width = spec.resized(height, width)
    top, left = 0, 0
    if spec.anchor == "center":
        input_height, input_width = spec.input_size(height, width)
        top, left = (input_height - new_height) // 2, (input_width - new_width) // 2
    return LetterboxTransform(new_width / width, new_height / height, float(left), float(top), height, width)


def check_image(image: ByteArray) -> None:
    """Raise ValueError unless ``image`` is ``[H, W, 3]`` uint8 with at least one pixel."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"image must be HxWx3 uint8 and not empty, got {image.shape} {image.dtype}")


def fit_image(image: ByteArray, spec: InputSpec) -> tuple[ByteArray, LetterboxTransform]:
    """``image`` ``[H, W, 3]`` uint8, resized (bilinear) to what it becomes in the input of ``spec``, and its place."""
    height, width = image.shape[:2]
    new_height, new_width = spec.resized(height, width)
    if (new_height, new_width) != (height, width):
        image = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
    return image, transform_of(height, width, spec)


def letterbox(image: ByteArray, spec: InputSpec) -> tuple[ByteArray, LetterboxTransform]:
    """Resize ``image`` ``[H, W, 3]`` uint8 to fit ``spec``, keep its aspect ratio, and pad the rest.

    Bilinear, channels untouched. Where the image lies is told in :func:`transform_of`. The result depends on this image
    alone.

    Raises:
        ValueError: if ``image`` is not ``[H, W, 3]`` uint8 with at least one pixel.
    """
    check_image(image)
    canvas = np.full((*spec.input_size(*image.shape[:2]), 3), spec.pad_value, np.uint8)
    image, transform = fit_image(image, spec)
    top, left = int(transform.offset_y), int(transform.offset_x)
    canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas, transform
