from __future__ import annotations

import numpy as np
import pytest

from detseg.runtime.postprocess.components import CleanConfig, clean_labels, find_pieces
from detseg.runtime.postprocess.config import WindowsConfig
from detseg.structures import IGNORE_INDEX
from detseg.volumes import LabelVolume

NAMES = ("background", "liver", "lesion")
AFFINE = np.diag([10.0, 10.0, 10.0, 1.0])
"""A voxel is a milliliter."""


def made() -> LabelVolume:
    """Liver in pieces of 8, 2 and 1 voxels, lesions of 3 and 1; a voxel of no class."""
    labels = np.zeros((12, 6, 6), np.uint8)
    labels[0:2, 0:2, 0:2] = 1
    labels[4, 0, 0:2] = 1
    labels[6, 0, 0] = 1
    labels[8, 0, 0:3] = 2
    labels[10, 0, 0] = 2
    labels[11, 5, 5] = IGNORE_INDEX
    return LabelVolume(labels, AFFINE)


@pytest.mark.parametrize(
    ("cleaned", "livers", "lesions"),
    [
        ([], 11, 4),
        ([CleanConfig("liver", largest=True)], 8, 4),
        ([CleanConfig("liver", min_ml=2.0)], 10, 4),
        ([CleanConfig("liver", min_ml=2.1)], 8, 4),
        ([CleanConfig("liver", largest=True, min_ml=9)], 0, 4),
        ([CleanConfig("liver", largest=True), CleanConfig("lesion", min_ml=3)], 8, 3),
        ([CleanConfig("kidney", largest=True)], 11, 4),  # no class of this model
        ([CleanConfig("liver")], 11, 4),
    ],
)
def test_pieces_are_left_out(cleaned: list[CleanConfig], livers: int, lesions: int) -> None:
    result = made()
    before = result.labels.copy()
    found = clean_labels(result, cleaned, NAMES)
    assert np.array_equal(result.labels, before)
    assert np.count_nonzero(found.labels == 1) == livers
    assert np.count_nonzero(found.labels == 2) == lesions
    assert found.labels[11, 5, 5] == IGNORE_INDEX
    assert set(np.unique(found.labels)) <= set(np.unique(before))


def test_voxels_that_touch_at_a_corner_are_one_piece() -> None:
    region = np.zeros((3, 3, 3), bool)
    region[0, 0, 0] = region[1, 1, 1] = region[2, 2, 2] = True
    pieces, sizes = find_pieces(region)
    assert sizes.tolist() == [3]
    assert pieces.max() == 1


def test_of_equal_pieces_one_stays_and_nothing_is_nothing() -> None:
    labels = np.zeros((5, 1, 1), np.uint8)
    labels[0] = labels[4] = 1
    found = clean_labels(LabelVolume(labels, AFFINE), [CleanConfig("liver", largest=True)], NAMES)
    assert np.flatnonzero(found.labels).tolist() == [0]
    empty = LabelVolume(np.zeros((2, 2, 2), np.uint8), AFFINE)
    assert not clean_labels(empty, [CleanConfig("liver", largest=True)], NAMES).labels.any()


def test_settings_that_are_refused() -> None:
    with pytest.raises(ValueError, match=r"min_ml must be a number of milliliters from 0 on, got -1"):
        CleanConfig("liver", min_ml=-1)
    with pytest.raises(ValueError, match="clean names a class twice: liver, liver"):
        WindowsConfig(clean=(CleanConfig("liver"), CleanConfig("liver", largest=True)))
