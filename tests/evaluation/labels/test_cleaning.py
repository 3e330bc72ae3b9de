from __future__ import annotations

import numpy as np
import pytest

from detseg.evaluation.labels.cleaning import CleaningChooser
from detseg.runtime.postprocess.components import CleanConfig, clean_labels
from detseg.structures import IGNORE_INDEX
from detseg.volumes import LabelVolume

NAMES = ("background", "liver", "lesion")
AFFINE = np.diag([10.0, 10.0, 10.0, 1.0])


def volume(**places: list[slice | int]) -> LabelVolume:
    labels = np.zeros((16, 4, 4), np.uint8)
    for name, slices in places.items():
        for one in slices:
            labels[one] = NAMES.index(name) if name in NAMES else IGNORE_INDEX
    return LabelVolume(labels, AFFINE)


def test_the_largest_piece_is_chosen_where_others_are_wrong() -> None:
    chooser = CleaningChooser(NAMES)
    for _ in range(3):
        # A slice has 16 voxels: liver of 64, and a wrong one of 48.
        chooser.update(volume(liver=[slice(0, 4), slice(6, 9)]), volume(liver=[slice(0, 4)]))
    liver, lesion = chooser.choose()
    assert liver.before == pytest.approx(2 * 64 / (64 + 48 + 64))
    assert liver.after == pytest.approx(1)
    assert liver.config is not None
    assert lesion.config is None
    assert (lesion.before, lesion.after) == (1, 1)  # neither truth nor result


def test_nothing_is_chosen_where_pieces_are_right() -> None:
    chooser = CleaningChooser(NAMES)
    both = [slice(0, 4), slice(8, 10)]
    chooser.update(volume(liver=both), volume(liver=both))
    # One small wrong piece, but all but the largest would cost more.
    chooser.update(volume(liver=both, lesion=[14]), volume(liver=both))
    liver, lesion = chooser.choose()
    assert liver.config is None
    assert lesion.config is not None
    assert lesion.config.min_ml > 16
    assert lesion.after == 1


def test_small_pieces_are_left_out_where_the_large_are_true() -> None:
    chooser = CleaningChooser(NAMES)
    true = [slice(0, 3), slice(5, 8)]
    for _ in range(2):
        chooser.update(volume(lesion=[*true, 10, 12, 14]), volume(lesion=true))
    _, lesion = chooser.choose()
    assert lesion.config is not None
    assert not lesion.config.largest
    assert 16 < lesion.config.min_ml < 48
    assert lesion.before == pytest.approx(2 * 96 / (96 + 48 + 96))
    assert lesion.after == pytest.approx(1)


def test_what_is_said_to_be_reached_is_what_cleaning_gives() -> None:
    rng = np.random.default_rng(0)
    chooser, pairs = CleaningChooser(NAMES), []
    for _ in range(4):
        truth = volume(liver=[slice(2, 8)])
        noisy = truth.labels.copy()
        noisy[rng.random(noisy.shape) < 0.02] = 1
        pairs.append((LabelVolume(noisy, AFFINE), truth))
        chooser.update(*pairs[-1])
    liver, _ = chooser.choose()
    assert isinstance(liver.config, CleanConfig)
    scores = []
    for result, truth in pairs:
        found, true = clean_labels(result, [liver.config], NAMES).labels == 1, truth.labels == 1
        scores.append(2 * np.count_nonzero(found & true) / (found.sum() + true.sum()))
    assert liver.after == pytest.approx(np.mean(scores))
    assert liver.after > liver.before


def test_voxels_of_no_class_do_not_count() -> None:
    chooser = CleaningChooser(NAMES)
    chooser.update(volume(liver=[slice(0, 4), slice(6, 9)]), volume(liver=[slice(0, 4)], ignored=[slice(6, 9)]))
    liver, _ = chooser.choose()
    assert liver.before == 1
    assert liver.config is None
