"""Dice, HD95, surface Dice and volumes worked out by hand, and equal to MONAI's metrics."""

from __future__ import annotations

import csv
import math
import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric, HausdorffDistanceMetric, SurfaceDiceMetric
from scipy.ndimage import gaussian_filter

from detseg.arrays import ByteArray, DoubleArray
from detseg.evaluation.base import Evaluator
from detseg.evaluation.labels.dice import VolumeEvaluator
from detseg.evaluation.plots import plot_case_scores
from detseg.evaluation.report import format_table
from detseg.structures import IGNORE_INDEX
from detseg.volumes import LabelVolume

pytestmark = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI's own call

ABC = ("background", "a", "b")
Pair = tuple[LabelVolume, LabelVolume]


def volume(labels: ByteArray | list[int], spacing: tuple[float, float, float] = (1, 1, 1)) -> LabelVolume:
    """``labels`` as ``[X, Y, Z]``, or a row along X."""
    array = np.array(labels, np.uint8)
    return LabelVolume(array if array.ndim == 3 else array.reshape(-1, 1, 1), np.diag([*spacing, 1.0]))


def evaluate(*pairs: Pair, class_names: tuple[str, ...] = ABC, tolerance: float = 1.0) -> VolumeEvaluator:
    """``pairs`` of result and truth."""
    evaluator = VolumeEvaluator(class_names, surface_tolerance_mm=tolerance)
    for image_id, (result, truth) in enumerate(pairs, start=1):
        evaluator.update(image_id, result, truth)
    return evaluator


NAN = math.nan
DIAGONAL = math.sqrt((6 * 2) ** 2 + 3**2 + 4**2)
CASES = [
    # result, truth (rows of 6 voxels of 2 x 3 x 4 mm, 0.024 ml); Dice, HD95, surface Dice, ml true, ml found of a and b
    (
        [0, 1, 1, 2, 2, 0], [0, 1, 1, 2, 2, 0],
        [1, 0, 1, 0.048, 0.048], [1, 0, 1, 0.048, 0.048],
    ),
    (  # a: distances 0, 0 | 0, 0, 2; b: 2, 0 | 0
        [0, 1, 1, 2, 2, 0], [0, 1, 1, 1, 2, 0],
        [4 / 5, 1.8, 4 / 5, 0.072, 0.048], [2 / 3, 1.9, 2 / 3, 0.024, 0.048],
    ),
    (  # a is found where there is none, b not found
        [0, 1, 1, 0, 0, 0], [0, 0, 0, 2, 0, 0],
        [0, DIAGONAL, 0, 0, 0.048], [0, DIAGONAL, 0, 0.024, 0],
    ),
    (  # neither holds b
        [0, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0],
        [1, 0, 1, 0.024, 0.024], [NAN, NAN, NAN, 0, 0],
    ),
    (  # what is found where the truth is ignored does not count
        [0, 1, 1, 1, 2, 2], [0, 1, 1, IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX],
        [1, 0, 1, 0.048, 0.048], [NAN, NAN, NAN, 0, 0],
    ),
    (  # what is found as ignored is nothing
        [0, 1, IGNORE_INDEX, 0, 0, 0], [0, 1, 1, 0, 0, 0],
        [2 / 3, 1.9, 2 / 3, 0.048, 0.024], [NAN, NAN, NAN, 0, 0],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("result", "truth", "a", "b"), CASES)
def test_cases_by_hand(result: list[int], truth: list[int], a: list[float], b: list[float]) -> None:
    cases = evaluate((volume(result, (2, 3, 4)), volume(truth, (2, 3, 4)))).cases()
    np.testing.assert_allclose(cases[0], [a, b], rtol=1e-12)


def test_means_by_hand() -> None:
    """Classes are averaged over their cases, then the classes; volumes over all."""
    spacing = (10.0, 10.0, 10.0)
    evaluator = evaluate(
        (volume([1, 1, 0, 0], spacing), volume([1, 1, 1, 0], spacing)),  # a 4/5
        (volume([1, 0, 2, 0], spacing), volume([1, 0, 2, 0], spacing)),  # a 1, b 1
        (volume([0, 0, 0, 0], spacing), volume([0, 0, 0, 0], spacing)),
        (volume([1, 2, 2, 0], spacing), volume([1, 2, 2, 2], spacing)),  # a 1, b 4/5
        class_names=(*ABC, "c"),
    )
    assert dict(evaluator.compute()) == pytest.approx(
        {
            "Dice": (14 / 15 + 9 / 10) / 2,
            "HD95": (9.0 / 3 + 9.0 / 2) / 2,
            "surface_dice": (14 / 15 + 9 / 10) / 2,
            "Dice/a": 14 / 15, "Dice/b": 9 / 10, "Dice/c": -1,
            "HD95/a": 9.0 / 3, "HD95/b": 9.0 / 2, "HD95/c": -1,
            "surface_dice/a": 14 / 15, "surface_dice/b": 9 / 10, "surface_dice/c": -1,
            "volume_ml/a": 4 / 4, "volume_ml/b": 3 / 4, "volume_ml/c": 0,
            "volume_error_ml/a": 1 / 4, "volume_error_ml/b": 1 / 4, "volume_error_ml/c": 0,
        }
    )  # fmt: skip
    assert evaluator.compute().primary == "Dice"
    assert evaluator.classes_without_truth() == ("c",)


def test_nothing_true_and_nothing_found_has_no_score() -> None:
    metrics = evaluate((volume([0, 0]), volume([0, 0]))).compute()
    assert [metrics[name] for name in ("Dice", "HD95", "surface_dice", "Dice/a", "HD95/b")] == [-1] * 5
    assert metrics["volume_error_ml/a"] == 0


def test_a_class_that_is_found_but_never_true_scores_zero() -> None:
    evaluator = evaluate((volume([1, 2]), volume([1, 0])))
    assert evaluator.compute()["Dice/b"] == 0
    assert evaluator.compute()["Dice"] == 1 / 2
    assert evaluator.classes_without_truth() == ("b",)


def random_pair(seed: int, spacing: tuple[float, float, float], num_classes: int = 4) -> Pair:
    """Smooth random regions of every class, on an oblique grid; the result deviates from the truth."""
    generator = np.random.default_rng(seed)
    shape = (17, 21, 14)
    fields = np.stack([gaussian_filter(generator.normal(size=shape), 2) for _ in range(num_classes)])
    noise = np.stack([gaussian_filter(generator.normal(size=shape), 1.5) for _ in range(num_classes)])
    rotation, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing
    truth, result = (scores.argmax(0).astype(np.uint8) for scores in (fields, fields + 0.4 * noise))
    return LabelVolume(result, affine), LabelVolume(truth, affine)


def monai_scores(result: ByteArray, truth: ByteArray, spacing: Any, num_classes: int, tolerance: float) -> DoubleArray:
    """Dice, HD95 and surface Dice of each class beside the background ``[C - 1, 3]``; ignored voxels left out."""
    pair = [
        torch.stack([torch.from_numpy(labels == c) for c in range(num_classes)])[None] for labels in (result, truth)
    ]
    given: dict[str, Any] = {"include_background": False, "reduction": "none"}
    ignored = {"ignore_index": IGNORE_INDEX} if (truth == IGNORE_INDEX).any() else {}
    metrics: list[tuple[Any, dict[str, Any]]] = [
        (DiceMetric(**given, **ignored), {}),
        (HausdorffDistanceMetric(**given, **ignored, percentile=95), {"spacing": list(spacing)}),
        (SurfaceDiceMetric([tolerance] * (num_classes - 1), **given, **ignored), {"spacing": list(spacing)}),
    ]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the (ground truth|prediction) of class")
        return np.stack([metric(*pair, **options)[0].numpy() for metric, options in metrics], axis=1)


@pytest.mark.parametrize("with_ignored", [False, True])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.8, 3.0), (2.5, 0.9, 1.3)])
@pytest.mark.parametrize("seed", range(2))
def test_equals_monai(seed: int, spacing: tuple[float, float, float], with_ignored: bool) -> None:
    result, truth = random_pair(seed, spacing)
    if with_ignored:
        truth.labels[3:9, :, 5:] = IGNORE_INDEX
    evaluator = evaluate((result, truth), class_names=(*ABC, "c"), tolerance=1.3)
    expected = monai_scores(result.labels, truth.labels, spacing, 4, 1.3)
    assert np.isfinite(expected).all()
    assert (expected[:, 0] < 1).all()
    np.testing.assert_allclose(evaluator.cases()[0, :, :3], expected, rtol=1e-5)


def test_equals_monai_on_real_shapes(detseg_data: Path) -> None:
    folder = detseg_data / "hippocampus" / "labelsTr"
    paths = sorted(path for path in folder.glob("*.nii.gz") if not path.name.startswith("."))[:3]
    evaluator = VolumeEvaluator(("background", "anterior", "posterior"))
    expected = []
    for image_id, path in enumerate(paths):
        labels = np.asarray(nibabel.load(path).dataobj).astype(np.uint8)
        affine = np.diag([0.9, 1.2, 2.0, 1.0])
        moved = np.roll(labels, (1, 1), (0, 2))
        evaluator.update(image_id, LabelVolume(moved, affine), LabelVolume(labels, affine))
        expected.append(monai_scores(moved, labels, (0.9, 1.2, 2.0), 3, 1.0))
    np.testing.assert_allclose(evaluator.cases()[..., :3], expected, rtol=1e-5)
    assert evaluator.compute()["Dice"] == pytest.approx(np.mean(expected, axis=(0, 1))[0], rel=1e-5)


def test_where_monai_differs() -> None:
    """Target empty and something found: MONAI has no Dice; one of them empty: no finite distance."""
    shape = (4, 4, 4)
    empty, cube = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    cube[1:3, 1:3, 1:3] = 1
    for result, truth in ((cube, empty), (empty, cube)):
        ours = evaluate((volume(result), volume(truth)), class_names=ABC[:2]).cases()[0, 0, :3]
        assert ours.tolist() == pytest.approx([0, math.sqrt(48), 0])
        dice, distance, surface_dice = monai_scores(result, truth, (1.0, 1.0, 1.0), 2, 1.0)[0].tolist()
        assert math.isnan(dice) if truth is empty else dice == 0
        assert not math.isfinite(distance)
        assert surface_dice == 0


def test_milliliters_follow_the_affine() -> None:
    """The volume of a sheared voxel is the determinant, not the product of the spacings."""
    affine = np.array([[10.0, 6, 0, 5], [0, 8, 0, 5], [0, 0, 10, 5], [0, 0, 0, 1]])
    labels = LabelVolume(np.ones((2, 1, 1), np.uint8), affine)
    evaluator = evaluate((labels, labels), class_names=ABC[:2])
    assert evaluator.compute()["volume_ml/a"] == pytest.approx(2 * 0.8)


def test_inputs_stay_as_they_are() -> None:
    result, truth = random_pair(1, (1, 1, 1))
    truth.labels[:3] = IGNORE_INDEX
    copies = result.labels.copy(), truth.labels.copy()
    evaluate((result, truth), class_names=(*ABC, "c"))
    assert (result.labels == copies[0]).all()
    assert (truth.labels == copies[1]).all()


def filled() -> VolumeEvaluator:
    return evaluate(*(random_pair(seed, (1, 1, 2)) for seed in range(3)), class_names=(*ABC, "c"))


def test_processes_merge_to_the_same_result() -> None:
    evaluator: Evaluator = filled()
    shares = [VolumeEvaluator((*ABC, "c")) for _ in range(3)]
    for image_id, share in ((3, 0), (1, 1), (2, 0)):
        shares[share].update(image_id, *random_pair(image_id - 1, (1, 1, 2)))
    states = [share.state() for share in shares]
    assert {name: array.dtype for name, array in states[2].items()} == {"image_ids": np.int64, "cases": np.float64}
    for share in shares:
        share.merge(states)
        assert dict(share.compute()) == dict(evaluator.compute())
    with pytest.raises(ValueError, match=r"every image id must be unique.*: 3, 2"):
        shares[0].merge([states[0], states[0]])


def test_a_state_of_another_kind() -> None:
    state = filled().state()
    evaluator = VolumeEvaluator(ABC)
    with pytest.raises(
        ValueError, match=r"of 3 classes needs image_ids \[I\] and cases \[I, 2, 5\], got .*\(3, 3, 5\)"
    ):
        evaluator.merge([state])
    with pytest.raises(ValueError, match="'image_ids': None"):
        evaluator.merge([{"cases": np.zeros((0, 2, 5))}])


def test_reset() -> None:
    evaluator = filled()
    evaluator.reset()
    for ask in (evaluator.compute, evaluator.cases, evaluator.classes_without_truth):
        with pytest.raises(ValueError, match=r"no volume was evaluated: add volumes with update\(\)"):
            ask()
    evaluator.update(1, volume([1]), volume([1]))
    assert evaluator.compute()["Dice/a"] == 1


def test_artifacts(tmp_path: Path) -> None:
    evaluator = VolumeEvaluator(("background", "left, $anterior", "b"))
    evaluator.update(12, volume([1, 1, 0], (10, 10, 10)), volume([1, 1, 1], (10, 10, 10)))
    evaluator.update(3, volume([0, 2, 0], (10, 10, 10)), volume([0, 2, 0], (10, 10, 10)))
    evaluator.write_artifacts(tmp_path, {3: "scan, third.nii.gz", 7: "other.nii.gz"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases.csv", "dice.png", "hd95.png"]
    plot_case_scores({"left, $anterior": np.array([0.8]), "b": np.array([1.0])}, "Dice", tmp_path / "expected.png")
    assert (tmp_path / "dice.png").read_bytes() == (tmp_path / "expected.png").read_bytes()
    with (tmp_path / "cases.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["name", "image_id", "class", "Dice", "HD95_mm", "surface_dice", "true_ml", "predicted_ml"],
        ["scan, third.nii.gz", "3", "left, $anterior", "", "", "", "0", "0"],
        ["scan, third.nii.gz", "3", "b", "1", "0", "1", "1", "1"],
        ["", "12", "left, $anterior", "0.8", "9", "0.8", "3", "2"],
        ["", "12", "b", "", "", "", "0", "0"],
    ]


def test_names_are_no_formulas(tmp_path: Path) -> None:
    evaluator = VolumeEvaluator(("background", "@a"))
    evaluator.update(1, volume([1]), volume([1]))
    evaluator.write_artifacts(tmp_path, {1: "=1+1.nii.gz"})
    with (tmp_path / "cases.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file))[1][:3] == ["'=1+1.nii.gz", "1", "'@a"]


def test_artifacts_where_no_case_counts(tmp_path: Path) -> None:
    evaluate((volume([0, 0]), volume([0, 0]))).write_artifacts(tmp_path)
    assert (tmp_path / "dice.png").stat().st_size > 0


def test_the_table_says_what_the_numbers_mean() -> None:
    lines = format_table(filled().compute()).splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["Dice", "HD95", "surface_dice"]
    assert all(len(line.split()) > 4 for line in lines[:3])
    assert lines[4].split() == ["class", "Dice", "HD95", "surface_dice", "volume_ml", "volume_error_ml"]
    assert [line.split()[0] for line in lines[5:]] == ["a", "b", "c"]


FITS = volume([0, 1])
OBLIQUE = LabelVolume(FITS.labels, np.diag([1.0, 1.0, 1.01, 1.0]))
ELSEWHERE = LabelVolume(FITS.labels, np.array([[1.0, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))


@pytest.mark.parametrize(
    ("result", "truth", "message"),
    [
        (volume([0, 1, 0]), FITS, "image 4: the result is 3x1x1, the truth 2x1x1; they must be of one shape"),
        (OBLIQUE, FITS, r"image 4: the affines of result and truth place voxels up to 0\.01 mm apart"),
        (ELSEWHERE, FITS, r"place voxels up to 0\.5 mm apart"),
        (volume([0, 3]), FITS, "image 4: label 3 in the result, allowed 0 to 2 and 255"),
        (FITS, volume([254, IGNORE_INDEX]), "image 4: label 254 in the truth, allowed 0 to 2 and 255"),
    ],
)
def test_input_that_does_not_fit(result: LabelVolume, truth: LabelVolume, message: str) -> None:
    evaluator = VolumeEvaluator(ABC)
    with pytest.raises(ValueError, match=message):
        evaluator.update(4, result, truth)
    assert len(evaluator.state()["image_ids"]) == 0


def test_a_volume_counts_once() -> None:
    evaluator = evaluate((FITS, FITS))
    with pytest.raises(ValueError, match="image 1 was evaluated twice"):
        evaluator.update(1, FITS, FITS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["background"],), "judged for 2 to 255 classes with the background, got 1"),
        (([str(number) for number in range(256)],), "got 256"),
        ((["background", "a", "a"],), "every class name must be unique, .*: a"),
        ((ABC, (0, 1)), "got 3 class names and 2 category ids"),
        ((ABC, None, -0.5), "surface_tolerance_mm must be finite and at least 0, got -0.5"),
        ((ABC, None, math.nan), "surface_tolerance_mm must be finite"),
        ((ABC, None, math.inf), "surface_tolerance_mm must be finite"),
    ],
)
def test_evaluators_that_make_no_sense(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VolumeEvaluator(*arguments)


def test_what_goes_wrong_with_each_class() -> None:
    # Of 1 ml a voxel: a is found twice as large, then not at all; b is found where it is not, then too small by one.
    pairs = [
        (volume([1, 1, 0, 2], (10, 10, 10)), volume([1, 0, 0, 0], (10, 10, 10))),
        (volume([0, 0, 0, 2], (10, 10, 10)), volume([1, 0, 2, 2], (10, 10, 10))),
    ]
    assert evaluate(*pairs).error_table() == [
        ["class", "volumes with it", "not found at all", "found where it is not", "too small, ml", "too large, ml"],
        ["a", "2", "1", "0", "0", "1"],
        ["b", "1", "0", "1", "1", "0"],
    ]
