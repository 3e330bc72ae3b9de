"""What tells a split of a data set from what it was before, without a look at its pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from detseg.data.datasets.dataset import Dataset
from detseg.data.datasets.volumes import VolumeDataset

Identity = dict[str, Any]
"""Plain data: numbers and digests by what they are of."""


def identify(dataset: Dataset | VolumeDataset) -> Identity:
    """The number of images or volumes of ``dataset``, its classes, and digests of names, sizes and truth.

    Names are those within the data set, so that it may be moved. Of masks, volumes and label volumes the sizes of their
    files count.
    """
    count = range(len(dataset))
    truth: list[bytes] = []
    files: list[str] = []
    if isinstance(dataset, Dataset):
        packed = dataset.annotations
        names = [packed.names[index] for index in count]
        sizes = np.stack([packed.heights, packed.widths])
        columns = (packed.offsets, packed.boxes_xywh, packed.labels, packed.crowd, packed.areas)
        truth = [np.ascontiguousarray(column).tobytes() for column in columns]
        if dataset.target == "instances":
            truth += packed.segmentations.digested()
        if dataset.needs_truth:
            files = [dataset.mask_path(index) for index in count]
    else:
        names = [dataset.path(index) for index in count]
        sizes = np.array([_num_bytes(name) for name in names])
        if dataset.has_labels:
            files = [dataset.label_path(index) for index in count]
    home = f"{dataset.home}/"
    return {
        "images": len(dataset),
        "classes": list(dataset.class_names),
        "names": _digest(name.removeprefix(home).encode("utf-8", "surrogateescape") for name in names),
        "sizes": _digest([sizes.astype(np.int64).tobytes()]),
        "truth": _digest([*truth, *(f"{_num_bytes(file)}".encode() for file in files)]),
    }


def describe_changes(before: Identity, now: Identity) -> str:
    """What differs between two identities of one split, in words; nothing if they are equal."""
    changes = []
    if before["images"] != now["images"]:
        changes.append(f"{now['images']} images, {before['images']} before")
    if before["classes"] != now["classes"]:
        changes.append(f"the classes {', '.join(now['classes'])}, before {', '.join(before['classes'])}")
    differing = [what for what in ("names", "sizes", "truth") if before[what] != now[what]]
    if differing and before["images"] == now["images"]:
        changes.append(f"other {' and '.join(differing)} of its images")
    return "; ".join(changes)


def _num_bytes(path: str) -> int:
    """The size of a file, of all in a folder with a series; -1 where there is none."""
    file = Path(path)
    if file.is_dir():
        return sum(one.stat().st_size for one in file.iterdir() if one.is_file())
    return file.stat().st_size if file.is_file() else -1


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()
