"""Dice, surface distances and volumes of 3-D segmentation, case by case as MONAI computes them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from detseg.arrays import BoolArray, ByteArray, DoubleArray
from detseg.evaluation.base import EvaluatorState
from detseg.evaluation.checks import category_ids_of, require_labels, require_unique
from detseg.evaluation.labels.surface import surface_distances
from detseg.evaluation.plots import plot_case_scores
from detseg.files import write_text
from detseg.runtime.writers.cells import as_text_cell
from detseg.structures import IGNORE_INDEX, Metrics
from detseg.volumes import LabelVolume, Spacing

_SCORES = ("Dice", "HD95", "surface_dice")
_TRUE_ML, _PREDICTED_ML = len(_SCORES), len(_SCORES) + 1
_COLUMNS = ("Dice", "HD95_mm", "surface_dice", "true_ml", "predicted_ml")
_PLOTS: dict[int, tuple[str, str, tuple[float, float | None]]] = {
    0: ("Dice", "dice.png", (-0.02, 1.02)),
    1: ("HD95 (mm)", "hd95.png", (0.0, None)),
}
"""Of the columns that are drawn: the title, the file and the ends of the axis."""
_NO_TRUTH = -1.0
_SAME_PLACE_MM = 1e-3


class VolumeEvaluator:
    """``Dice``, ``HD95`` and ``surface_dice`` over a data set, then each as ``<name>/<class>``, ``volume_ml/<class>``
    and ``volume_error_ml/<class>``. Class 0 is the background and not judged.

    Each case, a class in a volume, is judged by itself:

    - Dice is ``2 * |R and T| / (|R| + |T|)`` for the voxels R of the result and T of the truth.
    - HD95 is the larger of the 95th percentiles of the distances in millimeters from each surface to the other.
    - Surface Dice is the share of both surfaces within ``surface_tolerance_mm`` of the other.

    They equal MONAI's ``DiceMetric``, ``HausdorffDistanceMetric(percentile=95)`` and ``SurfaceDiceMetric`` where both
    regions hold a voxel, for any voxel size. Where neither does, the case does not count. Where only one does, Dice and
    surface Dice are 0, and HD95 is the diagonal of the volume, the largest distance there could be; MONAI leaves such a
    case out of Dice if the truth is empty (``ignore_empty``), and has no finite distance.

    The score of a class is the mean over its cases, -1 where it has none; the overall score is the mean of the classes
    that have one, -1 where none has. ``volume_ml`` is the mean volume of the result over all volumes, in milliliters,
    and ``volume_error_ml`` the mean absolute difference to the truth.

    Ignored voxels of the truth are not judged: regions end where they begin. A voxel predicted as ignored is in no
    region.

    ``regions``: of which class positions each class but the background consists, where they may lie in each other.
    ``category_ids``: the data set's value of each class, which every evaluator is told; no number depends on it.

    Raises:
        ValueError: there is no class beside the background, or more than 8 bits hold; names are not unique; or the
            tolerance is negative or not finite.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        category_ids: Sequence[int] | None = None,
        surface_tolerance_mm: float = 1.0,
        regions: Sequence[Sequence[int]] = (),
    ) -> None:
        self.class_names = tuple(class_names)
        num_classes = len(self.class_names)
        if not 2 <= num_classes <= IGNORE_INDEX:
            raise ValueError(
                f"label volumes are judged for 2 to {IGNORE_INDEX} classes with the background, got {num_classes}"
            )
        self.category_ids = category_ids_of(self.class_names, category_ids)
        if not 0 <= surface_tolerance_mm < np.inf:
            raise ValueError(f"surface_tolerance_mm must be finite and at least 0, got {surface_tolerance_mm}")
        self.surface_tolerance_mm = surface_tolerance_mm
        self._regions = [list(region) for region in regions or ((place,) for place in range(1, num_classes))]
        assert len(self._regions) == num_classes - 1
        self.reset()

    def reset(self) -> None:
        """Forget all volumes."""
        self._cases: dict[int, DoubleArray] = {}

    def update(self, image_id: int, result: LabelVolume, truth: LabelVolume) -> None:
        """Add one volume: what was found, and its labels, on the same grid.

        Raises:
            ValueError: the volume was added before, the two differ in shape or affine, a label is neither a class
                position nor ``IGNORE_INDEX``, or scipy is not installed.
        """
        self._check(image_id, result, truth)
        box = _bounding_box((result.labels != 0) | (truth.labels != 0))
        result_labels, truth_labels = result.labels[box], truth.labels[box]
        labeled = truth_labels != IGNORE_INDEX
        spacing, shape = truth.spacing, truth.labels.shape
        diagonal = float(np.linalg.norm(np.multiply(shape, spacing)))
        cases = np.empty((len(self.class_names) - 1, len(_COLUMNS)))
        for position, case in enumerate(cases, start=1):
            region = self._regions[position - 1]
            found, true = (_within(result_labels, region)) & labeled, _within(truth_labels, region)
            case[: len(_SCORES)] = _scores(found, true, spacing, diagonal, self.surface_tolerance_mm)
            case[_TRUE_ML] = np.count_nonzero(true) * truth.voxel_milliliters
            case[_PREDICTED_ML] = np.count_nonzero(found) * truth.voxel_milliliters
        self._cases[image_id] = cases

    def compute(self) -> Metrics:
        """The metrics over all volumes; ``Dice`` is primary.

        Raises:
            ValueError: no volume was added.
        """
        cases = self.cases()
        overall, by_class = {}, {}
        for column, name in enumerate(_SCORES):
            scores = cases[..., column]
            counts = np.count_nonzero(~np.isnan(scores), axis=0)
            means = np.nansum(scores, axis=0)[counts > 0] / counts[counts > 0]
            overall[name] = float(means.mean()) if len(means) else _NO_TRUTH
            means_or_none = np.full(len(counts), _NO_TRUTH)
            means_or_none[counts > 0] = means
            by_class[name] = means_or_none
        by_class["volume_ml"] = cases[..., _PREDICTED_ML].mean(axis=0)
        by_class["volume_error_ml"] = np.abs(cases[..., _PREDICTED_ML] - cases[..., _TRUE_ML]).mean(axis=0)
        values = dict(overall)
        for name, means in by_class.items():
            for class_name, mean in zip(self.class_names[1:], means.tolist(), strict=True):
                values[f"{name}/{class_name}"] = mean
        return Metrics(values, primary="Dice")

    def classes_without_truth(self) -> tuple[str, ...]:
        """The classes, of those beside the background, that no label volume holds."""
        true = self.cases()[..., _TRUE_ML].sum(axis=0).tolist()
        return tuple(name for name, volume in zip(self.class_names[1:], true, strict=True) if volume == 0)

    def cases(self) -> DoubleArray:
        """Every case ``[I, C - 1, 5]``, volumes in the order of their ids: Dice, HD95 and surface Dice, each not a
        number where the case does not count, and the milliliters of truth and result.

        Raises:
            ValueError: no volume was added.
        """
        if not self._cases:
            raise ValueError("no volume was evaluated: add volumes with update() before asking for results")
        return np.stack([self._cases[image_id] for image_id in sorted(self._cases)])

    def diagnose(self) -> dict[str, float]:
        """Nothing more than :meth:`compute` gives."""
        return {}

    def error_table(self) -> list[list[str]]:
        """Of each class: in how many volumes it is, in how many of these nothing of it is found, in how many it is
        found where it is not, and by how many milliliters the result is too small or too large in the others, mean."""
        rows = [
            ["class", "volumes with it", "not found at all", "found where it is not", "too small, ml", "too large, ml"]
        ]
        for column, name in enumerate(self.class_names[1:]):
            true, found = self.cases()[:, column, _TRUE_ML], self.cases()[:, column, _PREDICTED_ML]
            both = (true > 0) & (found > 0)
            off = (found - true)[both]
            means = [f"{np.clip(sign * off, 0, None).mean():.3g}" if len(off) else "-" for sign in (-1, 1)]
            counts = (true > 0).sum(), ((true > 0) & (found == 0)).sum(), ((true == 0) & (found > 0)).sum()
            rows.append([name, *map(str, counts), *means])
        return rows

    def facts(self) -> dict[str, str]:
        """Nothing."""
        return {}

    def write_artifacts(self, folder: Path, names: Mapping[int, str] | None = None) -> None:
        """Write ``cases.csv``, one row for each volume and class with the name of its file, its scores, empty where the
        case does not count, and volumes in milliliters, and ``dice.png`` and ``hd95.png``, the scores of each case by
        class, to ``folder``.

        Raises:
            ValueError: no volume was added.
            SaveError: a file cannot be written.
        """
        cases, class_names = self.cases(), self.class_names[1:]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("name", "image_id", "class", *_COLUMNS))
        for image_id, rows in zip(sorted(self._cases), cases.tolist(), strict=True):
            name = as_text_cell((names or {}).get(image_id, ""))
            for class_name, row in zip(class_names, rows, strict=True):
                scores = ("" if np.isnan(value) else f"{value:.6g}" for value in row)
                writer.writerow((name, image_id, as_text_cell(class_name), *scores))
        write_text(folder / "cases.csv", text.getvalue())
        for score, (title, file_name, span) in _PLOTS.items():
            scores_of = {name: cases[:, column, score] for column, name in enumerate(class_names)}
            counted = {name: scores[~np.isnan(scores)] for name, scores in scores_of.items()}
            plot_case_scores(counted, title, folder / file_name, span)

    def state(self) -> EvaluatorState:
        """``image_ids`` ``[I]`` int64 and ``cases`` ``[I, C - 1, 5]`` float64, see :meth:`cases`."""
        cases = np.stack(list(self._cases.values())) if self._cases else np.empty((0, *self._case_shape))
        return {"image_ids": np.array(list(self._cases), np.int64), "cases": cases}

    def merge(self, states: Sequence[EvaluatorState]) -> None:
        """Replace all that was added by the union of ``states``, which include this evaluator's own.

        Raises:
            ValueError: a volume is in more than one state, or the arrays are not those of :meth:`state`.
        """
        for state in states:
            shapes = {name: state[name].shape if name in state else None for name in ("image_ids", "cases")}
            ids = shapes["image_ids"]
            if ids is None or len(ids) != 1 or shapes["cases"] != (*ids, *self._case_shape):
                wanted = ", ".join(map(str, self._case_shape))
                raise ValueError(
                    f"the state of an evaluator of {len(self.class_names)} classes needs image_ids [I] and cases "
                    f"[I, {wanted}], got {shapes}"
                )
        image_ids = [image_id for state in states for image_id in state["image_ids"].tolist()]
        require_unique("image id", image_ids)
        self._cases = dict(zip(image_ids, (case for state in states for case in state["cases"]), strict=True))

    @property
    def _case_shape(self) -> tuple[int, int]:
        return len(self.class_names) - 1, len(_COLUMNS)

    def _check(self, image_id: int, result: LabelVolume, truth: LabelVolume) -> None:
        if image_id in self._cases:
            raise ValueError(f"image {image_id} was evaluated twice; image ids must be unique in a data set")
        shape = truth.labels.shape
        if result.labels.shape != shape:
            raise ValueError(
                f"image {image_id}: the result is {_size(result.labels)}, the truth {_size(truth.labels)}; "
                "they must be of one shape"
            )
        # At the far corner differences of all columns add up.
        offset = float((np.abs(result.affine - truth.affine) @ np.array([*shape, 1.0])).max())
        if offset > _SAME_PLACE_MM:
            raise ValueError(
                f"image {image_id}: the affines of result and truth place voxels up to {offset:.3g} mm apart; "
                "judge a result on the grid of its truth"
            )
        for name, labels in (("truth", truth.labels), ("result", result.labels)):
            require_labels(labels, len(self.class_names), image_id, name)


def _scores(
    found: BoolArray, true: BoolArray, spacing: Spacing, diagonal: float, tolerance: float
) -> tuple[float, float, float]:
    """Dice, HD95 and surface Dice of the two regions ``[X, Y, Z]``."""
    num_found, num_true = np.count_nonzero(found), np.count_nonzero(true)
    if num_found == num_true == 0:
        return np.nan, np.nan, np.nan
    if num_found == 0 or num_true == 0:
        return 0.0, diagonal, 0.0
    box = _bounding_box(found | true)
    distances = surface_distances(found[box], true[box], spacing)
    dice = 2 * np.count_nonzero(found & true) / (num_found + num_true)
    return dice, distances.hausdorff(95), distances.surface_dice(tolerance)


def _within(labels: ByteArray, region: Sequence[int]) -> BoolArray:
    """Where ``labels`` hold a class of ``region``."""
    inside: BoolArray = labels == region[0] if len(region) == 1 else np.isin(labels, region)
    return inside


def _bounding_box(region: BoolArray) -> tuple[slice, ...]:
    """The part of ``[X, Y, Z]`` that holds all of ``region``, empty where it is empty."""
    slices = []
    for axis in range(region.ndim):
        others = tuple(other for other in range(region.ndim) if other != axis)
        occupied = np.flatnonzero(region.any(axis=others))
        slices.append(slice(occupied[0], occupied[-1] + 1) if len(occupied) else slice(0, 0))
    return tuple(slices)


def _size(labels: ByteArray) -> str:
    return "x".join(map(str, labels.shape))
