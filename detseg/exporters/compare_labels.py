"""How far the masks and label volumes of an exported file are from those of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from torch import Tensor

from detseg.arrays import FloatArray
from detseg.runtime.kinds.base import Metadata
from detseg.structures import LabelMap
from detseg.volumes import LabelVolume

MIN_EQUAL = 0.999
MIN_DICE = 0.999


class LabelComparison:
    """The share of equal pixels over all images, and the largest difference of the network's logits."""

    compares_outputs = True

    def __init__(self) -> None:
        self._num_images = 0
        self._num_pixels = 0
        self._num_equal = 0
        self._logit_difference = 0.0

    @classmethod
    def of(cls, metadata: Metadata) -> Self:
        """The pixels of the original images."""
        return cls()

    def add(self, expected: LabelMap, found: LabelMap) -> None:
        """The masks of one image."""
        self._num_images += 1
        self._num_pixels += expected.labels.size
        self._num_equal += int((expected.labels == found.labels).sum())

    def add_outputs(self, expected: Tensor, found: FloatArray) -> None:
        """The logits of one batch, from torch and from the file."""
        difference = float(np.abs(expected.cpu().numpy() - found).max())
        self._logit_difference = max(self._logit_difference, difference)

    def report(self) -> dict[str, Any]:
        """The share of equal pixels and the largest difference of a logit."""
        return {
            "images": self._num_images,
            "equal_pixels": self._equal,
            "largest_logit_difference": self._logit_difference,
        }

    def problems(self) -> list[str]:
        """What is beyond the tolerance of float32."""
        if self._equal >= MIN_EQUAL:
            return []
        return [f"{100 * self._equal:.3f} % of the pixels have the same class, allowed are {100 * MIN_EQUAL:.1f} %"]

    @property
    def _equal(self) -> float:
        return self._num_equal / self._num_pixels if self._num_pixels else 1.0


class VolumeComparison:
    """Dice between the voxels that torch and the file give a class, over all volumes, for each class but background."""

    compares_outputs = False

    def __init__(self, class_names: Sequence[str]) -> None:
        self._class_names = tuple(class_names)
        # Rows: voxels of torch, of the file, of both.
        self._counts = np.zeros((3, len(self._class_names)), np.int64)
        self._num_volumes = 0

    @classmethod
    def of(cls, metadata: Metadata) -> Self:
        """The voxels of the original volumes, class by class."""
        return cls(metadata.class_names)

    def add(self, expected: LabelVolume, found: LabelVolume) -> None:
        """The labels of one volume."""
        self._num_volumes += 1
        both = expected.labels[expected.labels == found.labels]
        for row, labels in enumerate((expected.labels, found.labels, both)):
            self._counts[row] += np.bincount(labels.ravel(), minlength=256)[: len(self._class_names)]

    def add_outputs(self, expected: Any, found: Any) -> None:
        """Logits of single windows are not compared: whole volumes are what counts."""

    def report(self) -> dict[str, Any]:
        """Dice for each class; 1 for a class that neither side found."""
        return {"volumes": self._num_volumes, "dice": dict(zip(self._class_names[1:], self._dice(), strict=True))}

    def problems(self) -> list[str]:
        """What is beyond the tolerance of float32."""
        return [
            f"Dice of {name} between both is {dice:.5f}, allowed is more than {MIN_DICE}"
            for name, dice in zip(self._class_names[1:], self._dice(), strict=True)
            if not dice > MIN_DICE
        ]

    def _dice(self) -> list[float]:
        expected, found, both = self._counts[:, 1:]
        total = expected + found
        dice: list[float] = np.where(total > 0, 2 * both / np.maximum(total, 1), 1.0).tolist()
        return dice
