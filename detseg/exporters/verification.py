"""The images or volumes that an export is calibrated with and proved on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from detseg.arrays import ByteArray, FloatArray
from detseg.data.open import available_splits, open_dataset
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.structures import Target
from detseg.tasks.base import Task
from detseg.tasks.model_file import match_classes

NUM_PROVED = 16
"""Images without annotations that an export is proved on."""
NUM_CALIBRATED = 128
"""Images that the ranges of activations are taken from."""


@dataclass(frozen=True)
class _Noise:
    height: int
    width: int

    def __call__(self) -> ByteArray:
        """Random pixels, always the same."""
        return np.random.default_rng(0).integers(0, 256, (self.height, self.width, 3), np.uint8)


@dataclass(frozen=True)
class _With:
    """What ``read`` gives, changed."""

    read: Callable[[], Any]
    change: Callable[[Any], Any]

    def __call__(self) -> Any:
        return self.change(self.read())


@dataclass(frozen=True)
class _Generated:
    """What an export is proved on where the user names nothing: ``count`` examples of ``data``, and ``more``."""

    name: str
    data: str
    count: int
    more: tuple[Callable[[], Any], ...] = ()


_SHAPES = _Generated(
    "the built-in shapes and noise",
    "shapes",
    NUM_PROVED,
    tuple(_Noise(*size) for size in ((97, 131), (480, 640), (300, 200))),
)
_GENERATED: dict[Target, _Generated] = {
    "boxes": _SHAPES,
    "instances": _SHAPES,
    "masks": _SHAPES,
    "volumes": _Generated("the built-in blobs", "blobs", NUM_PROVED // 4),
}


@dataclass(frozen=True)
class VerificationImages:
    """Images or volumes, read when they are asked for; ``dataset`` where results are to be judged by annotations."""

    name: str
    readers: tuple[Callable[[], Any], ...]
    dataset: Any = None

    def __len__(self) -> int:
        return len(self.readers)

    def __iter__(self) -> Iterator[Any]:
        return (read() for read in self.readers)


def verification_images(task: Task, verify: str | None, calibrate: str | None) -> VerificationImages:
    """All of the split ``val`` of the data set ``verify``, to be judged as well; else some of ``calibrate``; else
    generated images and noise.

    Raises:
        detseg.data.datasets.dataset.DatasetError: a data set cannot be opened.
        ValueError: the model does not know a class of ``verify``.
    """
    if verify is not None:
        dataset = open_dataset(verify, "val", target=task.target)
        match_classes(task.class_names, dataset.class_names)  # now, not after the export
        return VerificationImages(f"{verify}, split val", _readers(dataset, len(dataset)), dataset)
    if calibrate is not None:
        split = "val" if "val" in available_splits(calibrate) else "train"
        return VerificationImages(
            f"{calibrate}, split {split}", _readers(open_dataset(calibrate, split, target=task.target), NUM_PROVED)
        )
    generated = _GENERATED[task.target]
    readers = _readers(open_dataset(generated.data, "val", target=task.target), generated.count)
    if not task.spec.one_size:
        readers = tuple(_With(read, cast(VolumeSpec, task.spec).imitate_channels) for read in readers)
    return VerificationImages(generated.name, (*readers, *generated.more))


def calibration_inputs(task: Task, calibrate: str, window: tuple[int, ...] | None = None) -> Iterator[FloatArray]:
    """Inputs of the network ``[1, ...]``, made as in prediction from up to ``NUM_CALIBRATED`` images or volumes of
    the split ``train`` of a data set; of a volume, the ``window`` in its middle.

    Raises:
        detseg.data.datasets.dataset.DatasetError: the data set cannot be opened.
    """
    dataset = open_dataset(calibrate, "train", target=task.target)
    for read in _readers(dataset, NUM_CALIBRATED):
        placed, _ = task.spec.place(read())
        batch = task.normalize(torch.from_numpy(placed[None].copy())).numpy()
        yield batch if window is None else _middle(batch, window)


def _readers(dataset: Any, count: int) -> tuple[Callable[[], Any], ...]:
    """Readers of up to ``count`` images, spread evenly over ``dataset``."""
    indices = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)).tolist()
    return tuple(_Reader(dataset, index) for index in indices)


@dataclass(frozen=True)
class _Reader:
    dataset: Any
    index: int

    def __call__(self) -> Any:
        """The image or volume as it is in its file."""
        return self.dataset.read(self.index)[0]


def _middle(batch: FloatArray, window: tuple[int, ...]) -> FloatArray:
    """The middle of ``batch`` ``[B, C, D, H, W]``, padded with zeros where it is smaller than the window."""
    short = [max(0, side - length) for length, side in zip(batch.shape[2:], window, strict=True)]
    batch = np.pad(batch, [(0, 0), (0, 0), *((amount // 2, amount - amount // 2) for amount in short)])
    starts = [(length - side) // 2 for length, side in zip(batch.shape[2:], window, strict=True)]
    where = tuple(slice(start, start + side) for start, side in zip(starts, window, strict=True))
    middle: FloatArray = batch[:, :, *where]
    return middle
