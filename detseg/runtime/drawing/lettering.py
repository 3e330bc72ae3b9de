"""Text on images: captions and legends in one style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from detseg.arrays import ByteArray
from detseg.runtime.drawing.known_colors import Color

_FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True, slots=True)
class Lettering:
    """Letters of a size (``scale`` is OpenCV's) in the color ``ink`` on ``paper``."""

    scale: float
    ink: Color = (30, 30, 30)
    paper: Color = (255, 255, 255)

    @property
    def line(self) -> int:
        """The height of a line in pixels."""
        return round(34 * self.scale) + 4

    @property
    def _thickness(self) -> int:
        return max(1, round(self.scale * 1.4))

    def width(self, text: str) -> int:
        """The width of ``text`` in pixels."""
        (width, _), _ = cv2.getTextSize(text, _FONT, self.scale, self._thickness)
        return int(width)

    def blank(self, height: int, width: int) -> ByteArray:
        """Paper of this size, ``[H, W, 3]``."""
        return np.full((height, width, 3), self.paper, np.uint8)

    def fitted(self, text: str, width: int) -> Lettering:
        """These letters, or smaller ones where ``text`` is wider than ``width`` pixels in these."""
        fitting = self
        # Measured each time: the width of letters is rounded to pixels, so it does not follow the scale.
        while fitting.scale > 0.1 and fitting.width(text) > width:
            fitting = replace(fitting, scale=0.95 * fitting.scale)
        return fitting

    def write(self, canvas: ByteArray, text: str, left: int, top: int, line: int | None = None) -> None:
        """Write ``text`` onto ``canvas`` ``[H, W, 3]``, in the line that begins at this pixel, ``line`` high."""
        origin = (left, top + round(0.72 * (line or self.line)))
        cv2.putText(canvas, text, origin, _FONT, self.scale, self.ink, self._thickness, cv2.LINE_AA)

    def legend(self, entries: Sequence[tuple[Color, str]], width: int) -> ByteArray:
        """A strip of this width with the color and the text of every entry, in as many lines as it takes."""
        swatch, gap = self.line // 2, self.line // 3
        lines = [self.blank(self.line, width)]
        left = gap
        for color, text in entries:
            text_width = self.width(text)
            if left > gap and left + swatch + text_width + 3 * gap > width:
                lines.append(self.blank(self.line, width))
                left = gap
            strip, top = lines[-1], (self.line - swatch) // 2
            strip[top : top + swatch, left : left + swatch] = color
            left += swatch + gap
            self.write(strip, text, left, 0)
            left += text_width + 2 * gap
        return np.concatenate(lines)
