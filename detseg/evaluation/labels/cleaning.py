"""Which pieces of structures to leave out, chosen on results of volumes that the models have not learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detseg.arrays import DoubleArray
from detseg.runtime.postprocess.components import CleanConfig, find_pieces, kept_pieces
from detseg.structures import IGNORE_INDEX
from detseg.volumes import LabelVolume

_LEAST_GAIN = 1e-3
"""Of the mean Dice: less is what another split of the volumes would make of it."""
_PERCENTILES = (10, 25, 50, 75, 90, 95, 99)


@dataclass(frozen=True, slots=True)
class _Case:
    """The pieces of a class in a volume: their ``milliliters``, ``voxels`` and voxels that are true, and how many
    voxels are true in all."""

    milliliters: DoubleArray
    voxels: DoubleArray
    true: DoubleArray
    num_true: int

    def dice(self, config: CleanConfig | None) -> float:
        """The Dice of what is left; 1 where there is neither truth nor result."""
        if not len(self.voxels):
            return float(self.num_true == 0)
        kept = np.ones(len(self.voxels), bool) if config is None else kept_pieces(self.milliliters, config)
        total = self.voxels[kept].sum() + self.num_true
        return float(2 * self.true[kept].sum() / total) if total else 1.0


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for a class, None for nothing, and its mean Dice without and with it."""

    name: str
    config: CleanConfig | None
    before: float
    after: float


class CleaningChooser:
    """Takes results with their truth, and then says for each class but the background which pieces to leave out: all
    but the largest, those below a size, or none. A choice must raise the mean Dice over all volumes; where there is
    neither truth nor result, a volume counts as right."""

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        self._cases: dict[str, list[_Case]] = {name: [] for name in self.class_names[1:]}

    def update(self, result: LabelVolume, truth: LabelVolume) -> None:
        """Take one volume."""
        labeled = truth.labels != IGNORE_INDEX
        for position, name in enumerate(self.class_names[1:], start=1):
            pieces, sizes = find_pieces(result.labels == position)
            true = truth.labels == position
            judged = np.bincount(pieces[labeled], minlength=len(sizes) + 1)[1:]
            right = np.bincount(pieces[true], minlength=len(sizes) + 1)[1:]
            case = _Case(
                np.asarray(sizes * result.voxel_milliliters, np.float64),
                judged.astype(np.float64),
                right.astype(np.float64),
                int(np.count_nonzero(true)),
            )
            self._cases[name].append(case)

    def choose(self) -> list[Choice]:
        """What is best for each class; of what is equally good the least."""
        return [self._choose(name, cases) for name, cases in self._cases.items()]

    def _choose(self, name: str, cases: Sequence[_Case]) -> Choice:
        before = _mean(cases, None)
        best: CleanConfig | None = None
        reached = before + _LEAST_GAIN
        for config in self._candidates(name, cases):
            if (score := _mean(cases, config)) > reached:
                best, reached = config, score
        return Choice(name, best, before, before if best is None else reached)

    def _candidates(self, name: str, cases: Sequence[_Case]) -> list[CleanConfig]:
        wrong = np.concatenate([[0.0], *(case.milliliters[case.true == 0] for case in cases)])
        sizes = {float(f"{size:.3g}") for size in np.percentile(wrong[wrong > 0], _PERCENTILES)} if wrong.any() else ()
        # A size that such a piece has must not let it stay.
        smallest = [CleanConfig(name, min_ml=float(f"{1.05 * size:.3g}")) for size in sorted(sizes)]
        return [*smallest, CleanConfig(name, largest=True)]


def _mean(cases: Sequence[_Case], config: CleanConfig | None) -> float:
    return float(np.mean([case.dice(config) for case in cases])) if cases else 0.0
