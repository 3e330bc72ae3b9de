"""Drawing a batch of augmented images on any device: warps of tiles, blends, and shifts of color.

Letters in shapes: ``B`` images, ``L`` layers that are blended, ``K`` pieces of each, ``P`` pixels of all pieces. What a
piece is, its row says (:data:`PIECE_FIELDS`); rows of zeros are no pieces.

Pixels are interpolated at their exact places, as OpenCV 5 does; older versions round them to 32nds of a pixel. No value
on the device decides what is done, so the host never waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from detseg.ops.recolor import shift_hsv

PIECE_FIELDS = {
    "region": slice(0, 4),  # left, top, right and bottom in the image
    "to_source": slice(4, 13),  # from pixels of the image to those of the source, both counted from their centers
    "source": slice(13, 16),  # its first pixel among all, height and width
    "to_outline": slice(16, 25),  # from pixels of the image to those of the whole source
    "outline": slice(25, 27),  # height and width of the whole source
}
"""The columns of a piece."""
NUM_PIECE_FIELDS = 27
EFFECT_FIELDS = ("share", "other_share", "is_shifted", "hue_steps", "saturation", "value")
"""The columns of what is done with the layers of an image."""
_PIXELS_AT_A_TIME = 2**22
"""Drawn together: each takes some 150 bytes while it is drawn."""


@dataclass(frozen=True)
class PackedPictures:
    """Images of ``size`` (height, width), not drawn yet: ``pixels`` ``[P, 3]`` uint8 RGB, ``pieces`` ``[B, L, K, 27]``,
    the last in front, gray levels of the ``backgrounds`` ``[B, L]``, and ``effects`` ``[B, 6]``, all three float64.
    ``shifts_colors``: whether some image changes its colors."""

    size: tuple[int, int]
    shifts_colors: bool
    pixels: Tensor
    pieces: Tensor
    backgrounds: Tensor
    effects: Tensor

    def to(self, device: Any) -> Self:
        """The same on ``device``, copied without waiting where the memory is pinned."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """The same in page-locked memory."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return replace(
            self,
            pixels=change(self.pixels),
            pieces=change(self.pieces),
            backgrounds=change(self.backgrounds),
            effects=change(self.effects),
        )

    def draw(self) -> Tensor:
        """The images ``[B, 3, H, W]`` uint8, where the tensors are; channels last in memory."""
        height, width = self.size
        count = max(1, _PIXELS_AT_A_TIME // (height * width))
        tensors = (self.pieces, self.backgrounds, self.effects)
        parts = zip(*(torch.split(tensor, count) for tensor in tensors), strict=True)
        return torch.cat([self._draw(*part) for part in parts]).permute(0, 3, 1, 2)

    def _draw(self, pieces: Tensor, backgrounds: Tensor, effects: Tensor) -> Tensor:
        share, other_share, is_shifted, hue_steps, saturation, value = effects.float().unbind(dim=1)
        images = self._draw_layer(pieces[:, 0], backgrounds[:, 0])
        if pieces.shape[1] > 1:
            other = self._draw_layer(pieces[:, 1], backgrounds[:, 1])
            blend = images * _of_images(share) + other * _of_images(other_share)
            images = blend.round().clamp(0, 255).to(torch.uint8)
        if not self.shifts_colors:
            return images
        shifted = shift_hsv(images, hue_steps, saturation, value)
        return torch.where(_of_images(is_shifted) > 0, shifted, images)

    def _draw_layer(self, pieces: Tensor, background: Tensor) -> Tensor:
        """Pieces ``[B, K, 27]`` on gray levels ``[B]`` -> images ``[B, H, W, 3]`` uint8."""
        height, width = self.size
        x = torch.arange(width, device=pieces.device, dtype=torch.float64)
        y = torch.arange(height, device=pieces.device, dtype=torch.float64)[:, None]
        shape = (len(pieces), height, width)
        front = torch.full(shape, -1, device=pieces.device)
        source_x, source_y = (torch.zeros(shape, device=pieces.device, dtype=torch.float64) for _ in range(2))
        for number, piece in enumerate(pieces.unbind(dim=1)):
            covered = _covered(piece, x, y)
            here_x, here_y = _mapped(piece[:, PIECE_FIELDS["to_source"]], x, y)
            front = torch.where(covered, number, front)
            source_x, source_y = torch.where(covered, here_x, source_x), torch.where(covered, here_y, source_y)
        sources = pieces[:, :, PIECE_FIELDS["source"]].long()
        first, rows, columns = (
            sources[:, :, field].gather(1, front.clamp(min=0).flatten(1)).view(shape) for field in range(3)
        )
        drawn = _interpolated(self.pixels, first, rows, columns, source_x, source_y)
        return torch.where((front >= 0)[..., None], drawn, _of_images(background.float())).to(torch.uint8)


def _of_images(numbers: Tensor) -> Tensor:
    return numbers[:, None, None, None]


def _mapped(matrix: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Where the pixels of an image lie through ``matrix`` ``[B, 9]``, each ``[B, H, W]``."""
    a, b, c, d, e, f, g, h, i = (number[:, None, None] for number in matrix.unbind(dim=1))
    scale = g * x + (h * y + i)
    return (a * x + (b * y + c)) / scale, (d * x + (e * y + f)) / scale


def _covered(piece: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The pixels of an image that a piece ``[B, 27]`` covers, ``[B, H, W]`` bool."""
    left, top, right, bottom = (side[:, None, None] for side in piece[:, PIECE_FIELDS["region"]].unbind(dim=1))
    rows, columns = (side[:, None, None] for side in piece[:, PIECE_FIELDS["outline"]].unbind(dim=1))
    outline_x, outline_y = _mapped(piece[:, PIECE_FIELDS["to_outline"]], x, y)
    in_region = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    in_columns = (outline_x >= -0.5) & (outline_x < columns - 0.5)
    return in_region & in_columns & (outline_y >= -0.5) & (outline_y < rows - 0.5)


def _interpolated(pixels: Tensor, first: Tensor, rows: Tensor, columns: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear values ``[B, H, W, 3]`` float32 at ``x`` and ``y`` of sources whose ``first`` of ``rows`` times
    ``columns`` pixels is given, each ``[B, H, W]``; a source goes on as its border is."""
    x, y = x.clamp(min=-1).minimum(columns), y.clamp(min=-1).minimum(rows)
    left, top = x.floor(), y.floor()
    part_x, part_y = (x - left).float()[..., None], (y - top).float()[..., None]
    left, top = left.long(), top.long()

    def values(row: Tensor, column: Tensor) -> Tensor:
        inside = row.clamp(min=0).minimum(rows - 1) * columns + column.clamp(min=0).minimum(columns - 1)
        return pixels[(first + inside).clamp(min=0)].float()

    above = torch.lerp(values(top, left), values(top, left + 1), part_x)
    below = torch.lerp(values(top + 1, left), values(top + 1, left + 1), part_x)
    return torch.lerp(above, below, part_y).round()


def require_exact_places(device: torch.device) -> None:
    """Refuse a device on which no pictures can be drawn.

    Raises:
        ValueError: it has no float64, in which the places of pixels are counted.
    """
    if device.type == "mps":
        raise ValueError(
            "augment.device is model, and the device of the model is mps, which has no float64 to count the places of "
            "pixels in; set augment.device: cpu"
        )
