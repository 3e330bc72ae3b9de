"""One split of images with masks, as the files say."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from detseg.data.class_map import merge_classes
from detseg.data.datasets.dataset import Dataset
from detseg.data.datasets.label_mapping import LabelMapping
from detseg.data.datasets.mask_file import describe_missing, read_index_mask
from detseg.data.datasets.masks import MaskDataset, UnlabeledDataset
from detseg.data.records import SplitRecords, warn_unlabeled
from detseg.data.source import DatasetError
from detseg.structures import VOID

_NUM_LOOKED_AT = 20


class MaskRecords(SplitRecords):
    """``pairs`` of an image and its mask, whose file may be missing.

    ``mapping`` says what the values in masks mean, None where the data set ``dataset_name`` does not. ``category_ids``
    are the numbers of the classes, if they are not the values. A mask with nothing but void is no fault where
    ``may_be_void``, as the published ones of a test split.
    """

    truth = "masks"

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
        may_be_void: bool = False,
    ) -> None:
        super().__init__(name)
        self.dataset_name = dataset_name
        self.root = root
        self.pairs = list(pairs)
        self.mapping = mapping
        self.class_names = () if mapping is None else mapping.class_names
        self.category_ids = category_ids
        self.is_unlabeled = is_unlabeled
        self.may_be_void = may_be_void

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
        kind = UnlabeledDataset if self.is_unlabeled else MaskDataset
        return kind(
            root=self.root,
            split=self.name,
            images=images,
            masks=masks,
            mapping=self.mapping,
            category_ids=self.category_ids,
        )

    def describe_yaml(self, values: Collection[int]) -> list[str]:
        """The lines of a YAML to be completed, where ``values`` are in the masks and nobody says what they mean."""
        lines = ["format: masks", f"path: {self.root}"]
        if is_binary(values):
            return [*lines, f"names: {{0: background, {VOID}: NAME}}"]
        names = ", ".join(f"{value}: NAME" for value in values if value != VOID)
        return [*lines, f"names: {{{names}}}", f"void: {VOID}"]

    def _ask_for_names(self) -> str:
        chosen = self.pairs[:: max(1, len(self.pairs) // _NUM_LOOKED_AT)]
        values = sorted(set().union(*(np.unique(read_index_mask(mask, image)).tolist() for image, mask in chosen)))
        yaml = "".join(f"  {line}\n" for line in self.describe_yaml(values))
        return (
            f"{self.dataset_name}: the names of the classes are missing; masks hold the values "
            f"{', '.join(map(str, values))} ({len(chosen)} of {len(self.pairs)} were read). Write a YAML and give that "
            f"as the data set:\n{yaml}or, for the values 0, 1, 2, ..., one name per line in "
            f"{self.root / 'classes.txt'}"
        )


def is_binary(values: Collection[int]) -> bool:
    """Whether masks with these values, 0 and 255, are black and white pictures of one thing."""
    return set(values) == {0, VOID}
