from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from detseg.augment.config import AugmentConfig
from detseg.augment.pipeline import EvalPipeline
from detseg.data.loading.loader import BadImagesError, EvalLoader, TrainLoader
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.media.images import ImageError
from detseg.structures import LetterboxTransform, Sample


@dataclass
class Tensors:
    """A batch as the tasks make it, in short."""

    images: torch.Tensor
    boxes_xyxy: torch.Tensor
    image_ids: tuple[int, ...]
    transforms: tuple[LetterboxTransform, ...]


def collate(samples: list[Sample]) -> Tensors:
    images = np.stack([sample.image.transpose(2, 0, 1) for sample in samples])
    boxes = np.concatenate([sample.boxes_xyxy for sample in samples])
    ids = tuple(sample.image_id for sample in samples)
    return Tensors(torch.from_numpy(images), torch.from_numpy(boxes), ids, tuple(s.transform for s in samples))


class Images:
    """Random images with two boxes each, made when asked for; those in ``bad`` cannot be read."""

    def __init__(self, count: int, bad: tuple[int, ...] = ()) -> None:
        self._count = count
        self._bad = bad

    def __len__(self) -> int:
        return self._count

    def load(self, index: int) -> Sample:
        if index in self._bad:
            raise ImageError(f"images/{index}.jpg: truncated")
        rng = np.random.default_rng(index)
        corners = rng.uniform(0, 20, (2, 2))
        return Sample(
            image=rng.integers(0, 256, (48, 40 + index, 3), dtype=np.uint8),
            boxes_xyxy=np.concatenate([corners, corners + 15], axis=1).astype(np.float32),
            labels=np.array([0, 1]),
            crowd=np.zeros(2, np.bool_),
            image_id=index,
            path=f"images/{index}.jpg",
            transform=LetterboxTransform.identity(48, 40 + index),
        )


MakeLoader = Callable[..., TrainLoader[Tensors]]


@pytest.fixture
def train_loader() -> Iterator[MakeLoader]:
    made: list[TrainLoader[Tensors]] = []

    def make(dataset: Any = None, config: AugmentConfig | None = None, **settings: Any) -> TrainLoader[Tensors]:
        values = {"batch_size": 4, "seed": 0, "size": (32, 64), "num_workers": 0, **settings}
        pipeline = (config or AugmentConfig(mixup=0.3, degrees=5)).build()
        made.append(TrainLoader(dataset or Images(18), pipeline, collate, **values))
        return made[-1]

    yield make
    for loader in made:
        loader.close()


def digest(batch: Tensors) -> str:
    content = hashlib.sha256(repr((batch.image_ids, batch.images.shape, batch.transforms)).encode())
    content.update(batch.images.numpy().tobytes())
    content.update(batch.boxes_xyxy.numpy().tobytes())
    return content.hexdigest()


def digests(loader: TrainLoader[Tensors], epoch: int, start_batch: int = 0) -> list[str]:
    return [digest(batch) for batch in loader.epoch(epoch, start_batch)]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(train_loader: MakeLoader, num_workers: int) -> None:
    settings = {"multi_scale": (0.5, 1.5), "num_epochs": 3, "close_mosaic_epochs": 1}
    alone, together = train_loader(**settings), train_loader(**settings, num_workers=num_workers)
    epochs = [digests(alone, epoch) for epoch in range(3)]
    assert [digests(together, epoch) for epoch in range(3)] == epochs
    assert len({digest for epoch in epochs for digest in epoch}) == 3 * alone.batches_per_epoch


def test_albumentations_do_not_depend_on_the_number_of_workers(train_loader: MakeLoader) -> None:
    transforms = [{"name": "GaussNoise", "params": {"p": 0.5}}, {"name": "Rotate", "params": {"p": 0.5}}]
    config = AugmentConfig(albumentations=transforms)
    expected = digests(train_loader(config=config), 0)
    assert digests(train_loader(config=config, num_workers=2), 0) == expected
    assert digests(train_loader(), 0) != expected


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_goes_on_after_any_batch(train_loader: MakeLoader, num_workers: int) -> None:
    loader = train_loader(num_workers=num_workers)
    whole = digests(loader, 1)
    assert len(whole) == loader.batches_per_epoch == 5
    for start_batch in range(5):
        assert digests(loader, 1, start_batch) == whole[start_batch:]


def test_an_abandoned_epoch_leaves_nothing_behind(train_loader: MakeLoader) -> None:
    loader = train_loader(num_workers=2)
    expected = digests(train_loader(), 1)
    for _ in loader.epoch(0):
        break
    assert digests(loader, 1) == expected


def test_the_seed_changes_everything(train_loader: MakeLoader) -> None:
    assert not set(digests(train_loader(seed=0), 0)) & set(digests(train_loader(seed=1), 0))


def test_ranks_together_give_the_batches_of_one_process(train_loader: MakeLoader) -> None:
    settings = {"multi_scale": (0.5, 1.5)}
    whole = list(train_loader(**settings).epoch(0))
    ranks = [list(train_loader(**settings, rank=rank, world_size=2).epoch(0)) for rank in range(2)]
    for step, batch in enumerate(whole):
        parts = [rank[step] for rank in ranks]
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
        assert torch.equal(torch.cat([part.boxes_xyxy for part in parts]), batch.boxes_xyxy)


class Counted(Images):
    """The same, which counts how often each is asked for, and remembers what size would be enough."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.asked: list[tuple[int, ...]] = []

    def load(self, index: int, *enough: Any) -> Sample:
        self.asked.append((index, *enough))
        return super().load(index)


def test_partners_from_the_neighborhood_are_loaded_once(train_loader: MakeLoader) -> None:
    near, far = Counted(32), Counted(32)
    config = AugmentConfig(mixup=1)
    list(train_loader(near, config, batch_size=16, neighborhood=16).epoch(0))
    list(train_loader(far, config, batch_size=16).epoch(0))
    assert sorted(near.asked) == [(index,) for index in range(32)]
    assert len(far.asked) == 8 * 32


@pytest.mark.parametrize("batch_size", [4, 8])
def test_neighborhoods_keep_what_holds_for_batches(train_loader: MakeLoader, batch_size: int) -> None:
    settings = {"batch_size": batch_size, "neighborhood": 8, "config": AugmentConfig(mixup=0.5)}
    expected = digests(train_loader(**settings), 0)
    assert digests(train_loader(**settings, num_workers=2), 0) == expected
    assert digests(train_loader(**settings), 0, start_batch=1) == expected[1:]
    whole = list(train_loader(**settings).epoch(0))
    ranks = [list(train_loader(**settings, rank=rank, world_size=2).epoch(0)) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([rank[step].images for rank in ranks]), batch.images)


def test_images_are_asked_for_as_large_as_they_are_shown(train_loader: MakeLoader) -> None:
    images = Counted(8)
    config = AugmentConfig(mosaic=0, scale=(0.5, 1.25), fit=(40, 80))
    list(train_loader(images, config, reduced_decoding=True).epoch(0))
    assert {asked[1] for asked in images.asked} == {(50, 100)}


def test_mosaic_ends_with_the_last_epochs(train_loader: MakeLoader) -> None:
    config = AugmentConfig(translate=0, scale=(1.0, 1.0), flip_horizontal=0)
    plain = train_loader(config=AugmentConfig(mosaic=0, translate=0, scale=(1.0, 1.0), flip_horizontal=0))
    loader = train_loader(config=config, num_epochs=2, close_mosaic_epochs=1)
    per_image = [sum(len(batch.boxes_xyxy) for batch in loader.epoch(epoch)) / 18 for epoch in range(2)]
    assert per_image[0] > 2
    assert per_image[1] == 2
    assert sum(len(batch.boxes_xyxy) for batch in plain.epoch(1)) == 36


def test_what_does_not_fill_a_batch_is_refused(train_loader: MakeLoader) -> None:
    with pytest.raises(ValueError, match="3 images, which does not fill a single batch of 4"):
        train_loader(Images(3))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bad_image_ends_the_run_by_default(train_loader: MakeLoader, num_workers: int) -> None:
    loader = train_loader(Images(8, bad=(5,)), num_workers=num_workers)
    with pytest.raises(ImageError, match=r"^images/5\.jpg: truncated$"):
        list(loader.epoch(0))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_images_are_replaced_by_the_next_and_counted(train_loader: MakeLoader, num_workers: int) -> None:
    loader = train_loader(
        Images(8, bad=(2, 3, 7)), on_bad_image="skip", num_workers=num_workers, config=AugmentConfig(mosaic=0)
    )
    seen = sorted(image_id for batch in loader.epoch(0) for image_id in batch.image_ids)
    assert seen == [0, 0, 1, 4, 4, 4, 5, 6]
    assert loader.bad_images == {index: f"images/{index}.jpg: truncated" for index in (2, 3, 7)}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_too_many_bad_images_end_the_run(train_loader: MakeLoader, num_workers: int) -> None:
    dataset = Images(16, bad=(1, 4, 9))
    settings = {"on_bad_image": "skip", "num_workers": num_workers, "config": AugmentConfig(mosaic=0)}
    list(train_loader(dataset, **settings, max_bad_images=3).epoch(0))
    loader = train_loader(dataset, **settings, max_bad_images=2)
    with pytest.raises(BadImagesError, match=r"3 images cannot be read, 2 may be skipped .*\n  images/1\.jpg: trunc"):
        list(loader.epoch(0))


def test_a_set_of_bad_images_ends_the_run(train_loader: MakeLoader) -> None:
    loader = train_loader(Images(4, bad=(0, 1, 2, 3)), on_bad_image="skip", max_bad_images=100)
    with pytest.raises(BadImagesError, match="4 images cannot be read"):
        list(loader.epoch(0))


def test_an_unknown_policy_is_refused(train_loader: MakeLoader) -> None:
    with pytest.raises(ValueError, match="on_bad_image must be one of fail, skip, got 'ignore'"):
        train_loader(on_bad_image="ignore")


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_every_image_once_in_order(num_workers: int, world_size: int) -> None:
    seen: list[int] = []
    for rank in range(world_size):
        loader = EvalLoader(
            Images(8), EvalPipeline(InputSpec(32, 64)), collate, 3, num_workers, rank=rank, world_size=world_size
        )
        for _ in range(2):
            batches = list(loader)
            assert len(batches) == len(loader)
            assert all(batch.images.shape[1:] == (3, 32, 64) for batch in batches)
            for batch in batches:
                for image_id, transform in zip(batch.image_ids, batch.transforms, strict=True):
                    assert (transform.original_height, transform.original_width) == (48, 40 + image_id)
        seen.extend(image_id for batch in batches for image_id in batch.image_ids)
        assert loader.indices == tuple(image_id for batch in batches for image_id in batch.image_ids)
        loader.close()
    assert seen == list(range(8))


def test_a_rank_without_images_gets_no_batches() -> None:
    lengths = []
    for rank in range(3):
        loader = EvalLoader(Images(2), EvalPipeline(InputSpec(32, 32)), collate, 4, 1, rank=rank, world_size=3)
        lengths.append(len(list(loader)))
        loader.close()
    assert lengths == [0, 1, 1]


def test_evaluation_never_skips() -> None:
    with pytest.raises(ImageError, match=r"images/1\.jpg"):
        list(EvalLoader(Images(2, bad=(1,)), EvalPipeline(InputSpec(32, 32)), collate, 2, 0))


def test_workers_outlive_a_signal_to_the_process_group(train_loader: MakeLoader) -> None:
    """The main process notes a SIGTERM, finishes its epoch, and can still save."""
    noted: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: noted.append(number))
    try:
        loader = train_loader(num_workers=2)
        batches = loader.epoch(0)
        received = [digest(next(batches))]
        for process in loader._pool._processes:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        received += [digest(batch) for batch in batches]
    finally:
        signal.signal(signal.SIGTERM, before)
    assert noted == [signal.SIGTERM]
    assert received == digests(train_loader(), 0)
