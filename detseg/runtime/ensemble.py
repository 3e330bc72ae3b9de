"""Several models as one: the class probabilities of their networks are averaged before the best is chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any, Protocol, cast

import numpy as np

from detseg.arrays import BoolArray, FloatArray
from detseg.runtime.kinds.base import Kind
from detseg.runtime.postprocess.streamed import Look, label_volume
from detseg.runtime.runner import Finished, Runner


class Member(Protocol):
    """A model that says how probable each class is."""

    spec: Any
    """How files are read and placed in the input."""
    kind: Kind
    """What the results are."""

    def look(self, image: Any) -> Look:
        """How it looks at ``image``, part by part."""

    def probabilities(self, image: Any) -> tuple[FloatArray, Any]:
        """Those of the classes everywhere at once, ``[C, *spatial]`` float32 in the grid of the input, and the way back
        from there."""

    def result_of(self, probabilities: FloatArray, transform: Any, *, keeps_probabilities: bool = False) -> Any:
        """The result that they make, by the settings of this model."""


class EnsembleRunner:
    """Averages the probabilities of ``members``. Members may have inputs of their own, such as another spacing: what
    they give is resampled to the grid of the first then, and takes the memory of all classes everywhere.

    ``class_names`` are those of each member; the first say in which order results have them. See
    :class:`detseg.runtime.runner.Runner`.

    Raises:
        ValueError: the models are of another kind, or of other classes, or take other channels.
    """

    max_in_flight = 1
    default_batch_size = 1

    def __init__(self, members: Sequence[Member], class_names: Sequence[Sequence[str]]) -> None:
        assert len(members) == len(class_names) > 0
        first = members[0]
        self.spec = first.spec
        self.kind = first.kind
        assert self.kind.has_probabilities
        self._members = list(members)
        self._keeps = False
        self._orders = [_order(class_names[0], names, number) for number, names in enumerate(class_names, start=1)]
        for number, member in enumerate(members, start=1):
            if member.kind.name != self.kind.name:
                raise ValueError(f"model {number} gives {member.kind.name}, the first {self.kind.name}")
            if member.spec.num_channels != self.spec.num_channels:
                raise ValueError(
                    f"model {number} takes {member.spec.num_channels} channels, the first {self.spec.num_channels}"
                )

    def keeping_probabilities(self) -> EnsembleRunner:
        """The same, whose results carry the probabilities."""
        kept = copy(self)
        kept._keeps = True
        return kept

    def submit(self, images: Sequence[Any], kept: BoolArray | None = None) -> Finished:
        """All that there is to do for these images, one after the other.

        Raises:
            VolumeError: a volume would become too large.
        """
        return Finished([self._result(image) for image in images])

    def _result(self, image: Any) -> Any:
        looks = [member.look(image) for member in self._members]
        if all(look.boxes.shape == looks[0].boxes.shape for look in looks):
            return label_volume(looks, self._orders, keeps_probabilities=self._keeps)
        averaged = self.kind.average(self._of_members(image))
        return self._members[0].result_of(*averaged, keeps_probabilities=self._keeps)

    def _of_members(self, image: Any) -> Iterator[tuple[FloatArray, Any]]:
        for member, order in zip(self._members, self._orders, strict=True):
            probabilities, transform = member.probabilities(image)
            yield probabilities if order is None else probabilities[order], transform


def as_members(runners: Sequence[Runner]) -> list[Member]:
    """``runners`` as what can be averaged. Raises ValueError: one gives no probabilities."""
    for runner in runners:
        if not runner.kind.has_probabilities:
            raise ValueError(
                f"only models for volumes have probabilities to be averaged and saved, not {runner.kind.name}"
            )
    return cast(list[Member], list(runners))


def _order(first: Sequence[str], names: Sequence[str], number: int) -> Any:
    """Where the classes of the first model are among ``names``; None where they are at the same places."""
    if sorted(first) != sorted(names):
        raise ValueError(
            f"model {number} has the classes {', '.join(names)}, the first {', '.join(first)}; models of an ensemble "
            "learn the same classes"
        )
    if list(first) == list(names):
        return None
    return np.array([list(names).index(name) for name in first])
