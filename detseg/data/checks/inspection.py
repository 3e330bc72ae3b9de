"""What a look at the files of a data set gives, the same for boxes, masks and volumes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from detseg.data.checks.report import Summary
from detseg.data.findings import Finding


class Amounts(Protocol):
    """What one image or volume holds of every class that is there: boxes, pixels or voxels."""

    @property
    def counts(self) -> Mapping[str, int]:
        """The amounts by class."""


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """``counts`` of boxes or pixels by class; of a mask also the pixels without a class."""

    counts: Counter[str]
    num_ignored: int = 0


@dataclass(frozen=True)
class Inspection:
    """What was found in the files of some splits.

    ``digests`` of files, None where they cannot be read; ``amounts`` of each split in the order of its files, which
    ``summarize`` makes a histogram of; ``unlisted`` is what lies among the files and is in none of the splits, and so
    means something only where these are all.
    """

    findings: list[Finding]
    digests: Mapping[Path, str | None]
    amounts: Mapping[str, Sequence[Amounts]]
    summarize: Callable[[Sequence[Any]], Summary]
    unlisted: list[Finding] = field(default_factory=list)
