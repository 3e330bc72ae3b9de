"""Pictures packed into a few tensors, to be drawn where these are sent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from detseg.arrays import DoubleArray
from detseg.augment.geometry import Piece, translation
from detseg.augment.picture import Picture
from detseg.ops.pictures import EFFECT_FIELDS, NUM_PIECE_FIELDS, PIECE_FIELDS, PackedPictures

_EVERYWHERE = ((1, 1), np.diag([0.0, 0.0, 1.0]))
"""An outline that covers all, and the way there."""


def pack(pictures: Sequence[Picture]) -> PackedPictures:
    """``pictures`` of one size as a batch that can be drawn on any device.

    The pixels of all pieces are one after the other in one tensor, so that a batch is few copies whatever is in it.
    """
    layers = [[picture.layer, *([picture.other] if picture.other else [])] for picture in pictures]
    num_layers = max(map(len, layers))
    num_pieces = max(1, *(len(layer.pieces) for of_picture in layers for layer in of_picture))
    rows = np.zeros((len(pictures), num_layers, num_pieces, NUM_PIECE_FIELDS))
    # One pixel at least, for a place that no piece covers.
    total = max(1, sum(_num_pixels(piece) for of_picture in layers for one in of_picture for piece in one.pieces))
    pixels = np.zeros((total, 3), np.uint8)
    backgrounds = np.zeros((len(pictures), num_layers))
    first = 0
    for picture, of_picture in enumerate(layers):
        for number, layer in enumerate(of_picture):
            backgrounds[picture, number] = layer.pad_value
            for piece, row in zip(layer.pieces, rows[picture, number], strict=False):
                last = first + _num_pixels(piece)
                pixels[first:last].reshape(piece.source.shape)[:] = piece.source
                _describe(piece, first, row)
                first = last
    return PackedPictures(
        size=pictures[0].layer.size,
        shifts_colors=any(picture.shift is not None for picture in pictures),
        pixels=torch.from_numpy(pixels),
        pieces=torch.from_numpy(rows),
        backgrounds=torch.from_numpy(backgrounds),
        effects=torch.from_numpy(np.array([_effects(one) for one in pictures])),
    )


def _num_pixels(piece: Piece) -> int:
    height, width = piece.source.shape[:2]
    return int(height * width)


def _describe(piece: Piece, first: int, row: NDArray[np.float64]) -> None:
    """Write what is to be known of ``piece``, whose pixels begin at ``first``, into its ``row``."""
    height, width = piece.size
    row[PIECE_FIELDS["region"]] = (piece.left, piece.top, piece.left + width, piece.top + height)
    row[PIECE_FIELDS["to_source"]] = _backward(piece, piece.matrix).ravel()
    row[PIECE_FIELDS["source"]] = (first, *piece.source.shape[:2])
    shape, to_outline = _EVERYWHERE
    if piece.outline is not None:
        shape, matrix = piece.outline
        to_outline = _backward(piece, matrix)
    row[PIECE_FIELDS["to_outline"]] = to_outline.ravel()
    row[PIECE_FIELDS["outline"]] = shape


def _backward(piece: Piece, matrix: DoubleArray) -> DoubleArray:
    """The way from pixels of the image to those of a source, both counted from their centers, where ``matrix`` leads
    from the source into the region of ``piece``."""
    inverse = np.linalg.inv(translation(piece.left, piece.top) @ matrix)
    return np.asarray(translation(-0.5, -0.5) @ inverse @ translation(0.5, 0.5), dtype=np.float64)


def _effects(picture: Picture) -> tuple[float, ...]:
    """See :data:`detseg.ops.pictures.EFFECT_FIELDS`."""
    shift = picture.shift
    shares = (1.0, 0.0) if picture.other is None else (picture.share, 1 - picture.share)
    changes = (0.0, 0.0, 1.0, 1.0) if shift is None else (1.0, shift.hue_steps, shift.saturation, shift.value)
    effects = (*shares, *changes)
    assert len(effects) == len(EFFECT_FIELDS)
    return effects
