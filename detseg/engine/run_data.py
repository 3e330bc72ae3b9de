"""The data of a run, opened and judged before anything is trained: no bad file may cost an epoch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from detseg.data.datasets.dataset import Dataset
from detseg.data.datasets.identity import Identity, describe_changes, identify
from detseg.data.datasets.image_tiles import in_tiles
from detseg.data.datasets.subset import leave_out
from detseg.data.datasets.volumes import VolumeDataset
from detseg.data.loading.loader import BadImagesError
from detseg.data.open import open_dataset
from detseg.data.source import DatasetError
from detseg.engine.distributed import Group
from detseg.engine.settings import DataConfig
from detseg.engine.training.trainer import describe_skipped
from detseg.runtime.media.images import ImageError
from detseg.structures import Target

AnyDataset = Dataset | VolumeDataset

_NUM_SHOWN = 10


@dataclass(frozen=True)
class RunData:
    """The splits of a run.

    ``train`` is whole: the loader skips what cannot be read; ``usable_train`` is without it, for statistics. ``val`` is
    without what cannot be used, so that every epoch is judged on the same images. ``bad_train`` and ``bad_val`` say
    what is wrong, each beginning with a path. ``has_truth``: whether there is anything to judge by.
    """

    train: AnyDataset
    usable_train: AnyDataset
    val: AnyDataset
    bad_train: tuple[str, ...]
    bad_val: tuple[str, ...]
    has_truth: bool
    identity: dict[str, Identity]
    """What both splits are, ``train`` and ``val``, for the state of the run."""

    def require_same(self, state: Mapping[str, Any], run_dir: Path, accept_changes: bool) -> str:
        """Compare the splits with those of the ``state`` of a run; returns what to say of accepted changes.

        Raises:
            DatasetError: they have changed and that is not accepted, or other classes are to be learned.
        """
        before: dict[str, Identity] = state.get("data", {})
        changes = {name: describe_changes(before[name], self.identity[name]) for name in before}
        described = "".join(f"\n  {name}: {text}" for name, text in changes.items() if text)
        if not described:
            return ""
        message = f"the data set is not the one that the run in {run_dir} saw last:{described}"
        if before["train"]["classes"] != self.identity["train"]["classes"]:
            raise DatasetError(f"{message}\na model of other classes is another run: begin it with -o")
        if not accept_changes:
            raise DatasetError(
                f"{message}\nput the data set back as it was, or go on with --accept-changed-data: the epoch that was "
                "broken off is left, and the next one begins with the data as they are now"
            )
        return message

    def warnings(self) -> Iterator[str]:
        """What the user should know before training begins."""
        for message in self.bad_train:
            yield describe_skipped(message)
        for message in self.bad_val:
            yield f"{self.val.split}: skipped, metrics are those of the others: {message}"
        if not self.has_truth:
            yield (
                f"{self.val.split} of {self.val.home} has nothing to judge by in {len(self.val)} images: there will be "
                "no metric, the best model is the last one, and the run does not end early"
            )


def open_run_data(
    config: DataConfig,
    target: Target,
    group: Group | None = None,
    device: torch.device | None = None,
    *,
    bar: bool = False,
) -> RunData:
    """Open both splits and look at every file: headers and masks of the training split, all of the validation split.

    Raises:
        DatasetError: a split cannot be opened, or a file cannot be used and ``on_bad_image`` is "fail".
        BadImagesError: more files cannot be used than may be skipped, or none is left.
    """
    group, device = group or Group(), device or torch.device("cpu")
    train, val = (
        open_dataset(config.path, split, config.format, target, config.description)
        for split in (config.train_split, config.val_split)
    )
    bad_train = _find_bad(train, group, device, whole=False, bar=bar)
    # Evaluation reads every file of this split, each time; once more is little beside it.
    bad_val = _find_bad(val, group, device, whole=True, bar=bar)
    for dataset, bad in ((train, bad_train), (val, bad_val)):
        _refuse(dataset, bad, config)
    usable_val = leave_out(val, bad_val.keys())
    has_truth = any(usable_val.has_truth(index) for index in range(len(usable_val)))
    if not has_truth and usable_val.needs_truth:
        raise DatasetError(
            f"{val.home}: no labeled pixel in {len(usable_val)} images of {val.split}: all of their masks is ignored, "
            f"so "
            "nothing can be judged; check the masks and the ignored value, or name another split with data.val_split"
        )
    # Of what is learned from in tiles, files that cannot be used are left out as a whole.
    usable_train = leave_out(train, bad_train.keys())
    return RunData(
        train=train if config.tiles is None else in_tiles(usable_train, config.tiles, config.tile_overlap),
        usable_train=in_tiles(usable_train, config.tiles, config.tile_overlap),
        val=in_tiles(usable_val, config.tiles, config.tile_overlap),
        bad_train=tuple(bad_train.values()),
        bad_val=tuple(bad_val.values()),
        has_truth=has_truth,
        identity={"train": identify(train), "val": identify(val)},
    )


def without_bad(dataset: AnyDataset, limit: int) -> tuple[AnyDataset, tuple[str, ...]]:
    """``dataset`` without what cannot be read, at most ``limit`` images or volumes, and what is wrong with each. Every
    file is read.

    Raises:
        BadImagesError: there are more of them, or nothing else.
    """
    bad = _find_bad(dataset, Group(), torch.device("cpu"), whole=True, bar=True)
    if len(bad) > limit or (bad and len(bad) == len(dataset)):
        raise BadImagesError(f"{_count(dataset, bad)}, {limit} may be skipped:{_list(list(bad.values()))}")
    return leave_out(dataset, bad.keys()), tuple(bad.values())


def _find_bad(dataset: AnyDataset, group: Group, device: torch.device, *, whole: bool, bar: bool) -> dict[int, str]:
    """The positions of what cannot be used, with what is wrong; each process looks at its share."""

    def probe(index: int) -> str:
        try:
            dataset.check_files(index, whole=whole)
        except (ImageError, DatasetError) as error:
            return str(error)
        return ""

    own = range(group.rank, len(dataset), group.world_size)
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        messages = tqdm(
            pool.map(probe, own),
            total=len(own),
            desc=f"look at {dataset.split}",
            unit="image",
            disable=None if bar and group.is_main else True,
            delay=1,
            leave=False,
        )
        found = [[index, message] for index, message in zip(own, messages, strict=True) if message]
    finally:
        pool.shutdown(cancel_futures=True)  # whoever interrupts this does not wait for the rest
    return dict(sorted((index, message) for part in group.gather_json(found, device) for index, message in part))


def _refuse(dataset: AnyDataset, bad: Mapping[int, str], config: DataConfig) -> None:
    if not bad:
        return
    listed = _list(list(bad.values()))
    count = _count(dataset, bad)
    if config.on_bad_image == "fail":
        raise DatasetError(
            f"{count}:{listed}\ncorrect them or take them away (`detseg check {config.path}` lists all that is wrong), "
            "or set data.on_bad_image=skip to go on without them"
        )
    if len(bad) > config.max_bad_images or len(bad) == len(dataset):
        raise BadImagesError(f"{count}, {config.max_bad_images} may be skipped (data.max_bad_images):{listed}")


def _count(dataset: AnyDataset, bad: Mapping[int, str]) -> str:
    return f"{len(bad)} of {len(dataset)} images or volumes of {dataset.split} cannot be used"


def _list(messages: Sequence[str]) -> str:
    more = f"\n  ... and {len(messages) - _NUM_SHOWN} more" if len(messages) > _NUM_SHOWN else ""
    return "".join(f"\n  {message}" for message in messages[:_NUM_SHOWN]) + more
