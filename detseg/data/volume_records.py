"""One split of volumes, as the files say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from detseg.data.class_map import merge_classes
from detseg.data.datasets.volumes import VolumeDataset
from detseg.data.records import SplitRecords
from detseg.data.source import DatasetError
from detseg.runtime.volumes.volume_files import is_volume_path


class VolumePair(NamedTuple):
    """A volume and its labels, if it has any."""

    image: Path
    label: Path | None


class VolumeRecords(SplitRecords):
    """``pairs`` of volumes and their labels, all with labels or none.

    ``name_of`` each value in the labels, the background first; nothing where that is not known. ``image_folder`` and
    ``label_folder`` hold nothing but volumes and labels of the data set, where there are such folders. ``trust_grid``:
    the affine of labels does not count. ``channels``: their names, where there are several; ``image`` of a pair is then
    the file of the first, or of all. ``ignored``: the value of voxels that belong to no class. ``regions``: of which
    class positions each class but the first consists, where they may lie in each other.
    """

    target = "volumes"

    def __init__(
        self,
        name: str,
        *,
        root: Path,
        pairs: Sequence[VolumePair],
        name_of: Mapping[int, str],
        image_folder: Path | None = None,
        label_folder: Path | None = None,
        trust_grid: bool = False,
        channels: Sequence[str] = (),
        ignored: int | None = None,
        regions: Sequence[Sequence[int]] = (),
    ) -> None:
        super().__init__(name)
        self.root = root
        self.pairs = list(pairs)
        self.name_of = dict(name_of)
        self.merged_values: dict[int, int] = {}
        """Values of further classes that count as those of others, by these."""
        self.class_names = tuple(self.name_of.values())
        self.image_folder = image_folder
        self.label_folder = label_folder
        self.trust_grid = trust_grid
        self.channels = tuple(channels)
        self.ignored = ignored
        self.regions = tuple(map(tuple, regions))
        self.is_unlabeled = all(pair.label is None for pair in self.pairs)
        if self.is_unlabeled and self.pairs:
            self.report("D308", self.pairs[0].image.parent, f"{len(self.pairs)} volumes can be predicted, not judged")

    def paths(self) -> list[Path]:
        return [pair.image for pair in self.pairs]

    def rename_classes(self, class_map: Mapping[str, str]) -> None:
        values, merged = list(self.name_of), merge_classes(self.class_names, class_map)
        if len(merged.names) < 2:
            raise DatasetError(
                f"{self.root}: classes: all become {merged.names[0]}; volumes need two, the background is one"
            )
        kept = [values[position] for position in merged.kept]
        new_values = {value: kept[position] for value, position in zip(values, merged.position_of, strict=True)}
        self.merged_values = {value: other for value, other in new_values.items() if value != other}
        self.name_of = dict(zip(kept, merged.names, strict=True))
        self.class_names = merged.names

    def to_dataset(self) -> VolumeDataset:
        labels = [pair.label for pair in self.pairs if pair.label is not None]
        return VolumeDataset(
            root=self.root,
            split=self.name,
            class_names=self.class_names,
            category_ids=tuple(self.name_of),
            images=self.paths(),
            labels=labels or None,
            trust_grid=self.trust_grid,
            channels=self.channels,
            ignored=self.ignored,
            merged_values=self.merged_values,
            regions=self.regions,
        )


def list_volumes(folder: Path) -> list[Path]:
    """The volumes in ``folder``, files and folders with a DICOM series, sorted, without the files ``._NAME`` that macOS
    lays beside them.

    Raises:
        DatasetError: the folder cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if is_volume_path(path) and not path.name.startswith("."))
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be read: {error.strerror}") from error
