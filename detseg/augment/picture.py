"""What an augmented image is made of, apart from the drawing: on the host here, on a device from a packed batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import cv2
import numpy as np

from detseg.arrays import ByteArray
from detseg.augment.color import HsvShift
from detseg.augment.geometry import Piece
from detseg.structures import Sample


@dataclass(frozen=True, slots=True)
class Layer:
    """An image of ``size`` (height, width) of gray level ``pad_value`` with ``pieces`` on it, the last in front."""

    size: tuple[int, int]
    pad_value: int
    pieces: tuple[Piece, ...]

    def draw(self) -> ByteArray:
        """The image ``[H, W, 3]``."""
        # Four channels, the last of which nobody looks at: see ``paste``.
        canvas = np.full((*self.size, 4), self.pad_value, np.uint8)
        for piece in self.pieces:
            piece.draw(canvas)
        return cv2.cvtColor(canvas, cv2.COLOR_RGBA2RGB).astype(np.uint8, copy=False)


@dataclass(frozen=True, slots=True)
class Picture:
    """``layer``, blended with ``other`` where there is one, of which ``share`` is what is left of ``layer``; then
    ``shift`` changes its colors."""

    layer: Layer
    other: Layer | None = None
    share: float = 1.0
    shift: HsvShift | None = None

    @classmethod
    def of(cls, image: ByteArray) -> Self:
        """The picture of an ``image`` ``[H, W, 3]`` that was drawn already."""
        size = (image.shape[0], image.shape[1])
        return cls(Layer(size, 0, (Piece(image, np.eye(3), 0, 0, size, outline=None, interpolate=True),)))

    def draw(self) -> ByteArray:
        """The image ``[H, W, 3]``."""
        image = self.layer.draw()
        if self.other is not None:
            blend = cv2.addWeighted(image, self.share, self.other.draw(), 1 - self.share, 0)
            image = blend.astype(np.uint8, copy=False)
        return image if self.shift is None else self.shift(image)


@dataclass(frozen=True, slots=True)
class Planned:
    """A sample whose image is not drawn yet. That of ``sample`` has the size of ``picture``, no content and no memory;
    all else in it is final."""

    sample: Sample
    picture: Picture

    @classmethod
    def of(cls, sample: Sample) -> Self:
        """``sample`` as it is."""
        return cls(replace(sample, image=blank(sample.image.shape[0], sample.image.shape[1])), Picture.of(sample.image))

    def draw(self) -> Sample:
        """The sample with its image."""
        return replace(self.sample, image=self.picture.draw())


def blank(height: int, width: int) -> ByteArray:
    """An image of this size that takes no memory and cannot be written to."""
    return np.broadcast_to(np.uint8(0), (height, width, 3))
