"""What a format of data sets is: one class that recognizes, reads and writes it."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from detseg.data.class_map import describe_unknown
from detseg.data.records import AnyDataset, SplitRecords
from detseg.data.source import DatasetError, DataSource
from detseg.data.split_rule import ALL
from detseg.data.writing import Contents, NewSplits, write_as_lists
from detseg.structures import Target

_OTHER_NAMES = {"val": ("valid", "validation")}


class DatasetFormat(ABC):
    """How data sets of one format are recognized, read and written.

    ``layouts`` describes for users what is looked for, ``targets`` what can be learned from; the first is the default.
    ``indivisible`` says why such a data set has no new splits, where that is so.

    A format of one's own supplies ``splits`` and ``records``, and a line in ``DATASETS``; check, split, train and eval
    then work with it.
    """

    layouts: ClassVar[tuple[str, ...]]
    targets: ClassVar[tuple[Target, ...]] = ("boxes",)
    indivisible: ClassVar[str] = ""

    @abstractmethod
    def splits(self, source: DataSource) -> tuple[str, ...]:
        """The splits that ``source`` holds in this format; none if it is of another format."""

    @abstractmethod
    def records(self, source: DataSource, split: str, target: Target) -> SplitRecords:
        """What the files say of ``split``, one of ``splits(source)``, and of ``target``, one of ``targets``.

        What is wrong inside of files is reported or rejected there, see :class:`detseg.data.records.SplitRecords`.

        Raises:
            DatasetError: the files of the split are not found, or what describes them cannot be understood.
        """

    def renamed_records(self, source: DataSource, split: str, target: Target) -> SplitRecords:
        """The same with the names of classes that the YAML gives them. Raises DatasetError: it renames what is no
        class of any split."""
        records = self.records(source, split, target)
        if not source.class_map or not records.class_names:
            return records
        unknown = set(source.class_map).difference(records.class_names)
        known = list(records.class_names)
        # The files of a split may name only the classes that are in it.
        for other in self.splits(source) if unknown else ():
            known += [name for name in self.records(source, other, target).class_names if name not in known]
        if unknown := unknown.difference(known):
            raise DatasetError(describe_unknown(sorted(unknown), known, source.name))
        records.rename_classes(source.class_map)
        return records

    def open(self, source: DataSource, split: str, target: Target | None = None) -> AnyDataset:
        """The split that ``split`` means (see ``match_split``), with the first of ``targets`` where none is named.

        Raises:
            DatasetError: there is no such split, or its files are not as they should be.
        """
        target = target or self.targets[0]
        assert target in self.targets, f"{type(self).__name__} has {self.targets}"
        records = self.renamed_records(source, match_split(split, self.splits(source), source.name), target)
        records.refuse()
        return records.to_dataset()

    def write_splits(self, new: NewSplits, folder: Path) -> tuple[Contents, dict[str, object]]:
        """The files of ``new`` splits by their names, to lie in ``folder``, and the keys of the YAML beside them.

        Unless a format has a way of its own, boxes become COCO files, masks and volumes lists.
        """
        return write_as_lists(new, folder)


def match_split(wanted: str, available: Sequence[str], name: str) -> str:
    """The split that is meant by ``wanted``: itself, or itself with a year (val2017), or val as valid or validation.

    Raises DatasetError where there is none or more than one; ``name`` names the data set.
    """
    if wanted in available:
        return wanted
    others = _OTHER_NAMES.get(wanted, ())
    matches = [one for one in available if re.fullmatch(re.escape(wanted) + r"_?\d+", one) or one in others]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise DatasetError(f"{name}: the split {wanted!r} may be {' or '.join(matches)}; name one of them")
    advice = f"; `detseg split {name}` divides it" if list(available) == [ALL] else ""
    raise DatasetError(f"{name}: no split {wanted!r}; there is {', '.join(available) or 'none'}{advice}")
