"""One split of images with masks, as the files say."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from detseg.arrays import ByteArray, IntArray
from detseg.data.class_map import merge_classes
from detseg.data.datasets.dataset import Dataset
from detseg.data.datasets.label_mapping import LabelMapping, pack_colors
from detseg.data.datasets.mask_file import describe_missing, read_color_mask, read_index_mask
from detseg.data.datasets.masks import MaskDataset, UnlabeledDataset
from detseg.data.entries.parsing import enumerate_some
from detseg.data.records import SplitRecords, warn_unlabeled
from detseg.data.source import DatasetError
from detseg.runtime.media.images import ImageError
from detseg.structures import IGNORE_INDEX

_NUM_LOOKED_AT = 20
_MANY_VALUES = 10
_SHARE_OF_ENDS = 0.8


class MaskRecords(SplitRecords):
    """``pairs`` of an image and its mask, whose file may be missing.

    ``mapping`` says what the values in masks mean, None where the data set ``dataset_name`` does not. ``category_ids``
    are the numbers of the classes, if they are not the values. A mask with nothing but ignored is no fault where
    ``may_be_ignored``, as the published ones of a test split.
    """

    target = "masks"

    def __init__(
        self,
        name: str,
        *,
        dataset_name: str,
        root: Path,
        pairs: Sequence[tuple[Path, Path]],
        mapping: LabelMapping | None,
        category_ids: Sequence[int] | None = None,
        is_unlabeled: bool = False,
        may_be_ignored: bool = False,
    ) -> None:
        super().__init__(name)
        self.dataset_name = dataset_name
        self.root = root
        self.pairs = list(pairs)
        self.mapping = mapping
        self.class_names = () if mapping is None else mapping.class_names
        self.category_ids = category_ids
        self.is_unlabeled = is_unlabeled
        self.may_be_ignored = may_be_ignored

    def paths(self) -> list[Path]:
        return [image for image, _ in self.pairs]

    def refuse(self) -> None:
        super().refuse()
        missing = [] if self.is_unlabeled else [pair for pair in self.pairs if not pair[1].is_file()]
        if missing:
            image, mask = missing[0]
            why = describe_missing(mask, image.name).partition("expected there")[2]
            raise DatasetError(
                f"{self.dataset_name}: {self.name}: {len(missing)} of {len(self.pairs)} images have no mask; the first "
                f"is {image}: {mask} was expected{why}"
            )
        if self.mapping is None:
            raise DatasetError(self._ask_for_names())

    def rename_classes(self, class_map: Mapping[str, str]) -> None:
        if self.mapping is None:
            return
        merged = merge_classes(self.class_names, class_map)
        self.mapping = self.mapping.merge(merged.names, merged.kept, merged.position_of)
        self.class_names = merged.names
        if self.category_ids is not None:
            self.category_ids = [self.category_ids[position] for position in merged.kept]

    def to_dataset(self) -> Dataset:
        assert self.mapping is not None, "refused"
        images, masks = ([pair[side] for pair in self.pairs] for side in (0, 1))
        if self.is_unlabeled:
            warn_unlabeled(images[0].parent.parent, len(images))
        elif self.mapping.smooths:
            self._say_what_is_in_between(self.mapping)
        elif looks_binary(self.mapping, self._some_values(self.mapping)):
            read = f"{len(self._some_pairs())} of {len(self.pairs)} were read, `detseg check` reads all"
            warnings.warn(f"{self.dataset_name}: {describe_binary(self.mapping, self.name)} ({read})", stacklevel=5)
        kind = UnlabeledDataset if self.is_unlabeled else MaskDataset
        return kind(
            root=self.root,
            split=self.name,
            images=images,
            masks=masks,
            mapping=self.mapping,
            category_ids=self.category_ids,
        )

    def describe_yaml(self, values: Mapping[int, int]) -> list[str]:
        """The lines of a YAML to be completed, where the masks hold ``values``, each with its number of pixels, and
        nobody says what they mean."""
        lines = ["format: masks", f"path: {self.root}"]
        if is_binary(values) or is_smoothed(values):
            lines.append(f"names: {{0: background, {IGNORE_INDEX}: NAME}}")
            return lines if is_binary(values) else [*lines, "threshold: 128"]
        names = ", ".join(f"{value}: NAME" for value in values if value != IGNORE_INDEX)
        return [*lines, f"names: {{{names}}}", f"ignore_index: {IGNORE_INDEX}"]

    def _say_what_is_in_between(self, mapping: LabelMapping) -> None:
        """Warn of how many pixels are not as they should be; a look at some masks tells that closely enough."""
        num_between = num_pixels = 0
        chosen = self._some_pairs()
        for image, mask in chosen:
            try:
                values, counts = count_values(read_values(mask, image, mapping))
            except (ImageError, DatasetError):
                continue  # told when its turn comes
            num_between += int(counts[mapping.in_between(values)].sum())
            num_pixels += int(counts.sum())
        if num_between:
            read = f"{len(chosen)} of {len(self.pairs)} were read, `detseg check` reads all"
            what = mapping.describe_in_between(num_between, num_pixels)
            warnings.warn(f"{self.dataset_name}: masks of {self.name} are smoothed: {what} ({read})", stacklevel=5)

    def _some_values(self, mapping: LabelMapping) -> set[int]:
        """The values in some masks, those that can be read."""
        found: set[int] = set()
        for image, mask in self._some_pairs():
            try:
                found.update(count_values(read_values(mask, image, mapping))[0].tolist())
            except (ImageError, DatasetError):
                continue  # told when its turn comes
        return found

    def _some_pairs(self) -> list[tuple[Path, Path]]:
        return self.pairs[:: max(1, len(self.pairs) // _NUM_LOOKED_AT)]

    def _ask_for_names(self) -> str:
        chosen = self._some_pairs()
        pixels = sum(np.bincount(read_index_mask(mask, image).ravel(), minlength=256) for image, mask in chosen)
        values = {value: int(count) for value, count in enumerate(np.atleast_1d(pixels)) if count}
        yaml = "".join(f"  {line}\n" for line in self.describe_yaml(values))
        return (
            f"{self.dataset_name}: the names of the classes are missing; masks hold the values "
            f"{enumerate_some(values)} ({len(chosen)} of {len(self.pairs)} were read). Write a YAML and give that "
            f"as the data set:\n{yaml}or, for the values 0, 1, 2, ..., one name per line in "
            f"{self.root / 'classes.txt'}"
        )


def read_values(mask: Path, image: Path, mapping: LabelMapping | None) -> IntArray | ByteArray:
    """The values in the file ``mask`` of ``image``, ``[H, W]``: colors as 24 bits where the ``mapping`` has colors.
    Raises ImageError, DatasetError: see ``LabelMapping.read``."""
    if mapping is not None and mapping.colored:
        return pack_colors(read_color_mask(mask, image))
    return read_index_mask(mask, image)


def count_values(pixels: IntArray | ByteArray) -> tuple[IntArray, IntArray]:
    """The values among ``pixels``, sorted, and how many have each."""
    if pixels.dtype == np.uint8:
        occurrences = np.bincount(pixels.ravel(), minlength=256)
        found = np.flatnonzero(occurrences)
        return found, occurrences[found]
    return np.unique(pixels, return_counts=True)


def is_binary(values: Collection[int]) -> bool:
    """Whether masks with these values, 0 and 255, are black and white images of one thing."""
    return set(values) == {0, IGNORE_INDEX}


def looks_binary(mapping: LabelMapping, values: Collection[int]) -> bool:
    """Whether masks with these values are black and white, while white is ignored: the object is then in no class."""
    return is_binary(values) and not mapping.colored and set(mapping.ignored) == {IGNORE_INDEX} and 0 in mapping.values


def describe_binary(mapping: LabelMapping, split: str) -> str:
    """What to say of the masks of ``split`` that ``looks_binary`` is true of."""
    background = mapping.class_names[mapping.values.index(0)]
    others = [name for name in mapping.class_names if name != background]
    thing = others[0] if len(others) == 1 else "NAME"
    return (
        f"masks of {split} hold the values 0 and {IGNORE_INDEX} alone, and {IGNORE_INDEX} is ignored, so that all is "
        f"{background}: if {IGNORE_INDEX} is {thing}, write a YAML with `names: {{0: {background}, "
        f"{IGNORE_INDEX}: {thing}}}`"
    )


def is_smoothed(values: Mapping[int, int]) -> bool:
    """Whether masks with these values, each with its number of pixels, are such images with smoothed edges: of many
    values between black and white, few pixels."""
    ends = values.get(0, 0), values.get(IGNORE_INDEX, 0)
    return min(ends) > 0 and len(values) > _MANY_VALUES and sum(ends) > _SHARE_OF_ENDS * sum(values.values())
