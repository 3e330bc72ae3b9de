from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
from PIL import Image

from detseg.data.datasets.dataset import Dataset
from detseg.data.datasets.label_mapping import LabelMapping
from detseg.data.datasets.masks import MaskDataset
from detseg.data.datasets.packed import PackedBuilder
from detseg.data.formats.shapes import ShapesConfig, ShapesDataset
from detseg.data.loading import cache_store
from detseg.data.loading.cache import CachedDataset
from detseg.data.loading.cache_store import CacheError, available_memory
from detseg.runtime.media.images import ImageError, write_image
from detseg.structures import IGNORE_INDEX

MODES: list[Literal["ram", "disk"]] = ["ram", "disk"]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Three images: 40x20 with a box, 10x30, and one that is damaged."""
    root = tmp_path / "set"
    rng = np.random.default_rng(0)
    builder = PackedBuilder()
    for index, (height, width) in enumerate([(20, 40), (30, 10), (8, 8)]):
        builder.add_image(index + 1, f"{index}.png", height, width)
        write_image(root / f"{index}.png", rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    (root / "2.png").write_bytes(b"damaged")
    builder.add_object(0, (4.0, 2.0, 30.0, 25.0), 0, crowd=True)
    builder.add_object(0, (4.0, 2.0, 0.0, 10.0), 0)
    return Dataset(root=root, split="train", class_names=("cat",), annotations=builder.build())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.mark.parametrize("mode", MODES)
def test_samples_are_the_same_as_without(dataset: Dataset, folder: Path, mode: Literal["ram", "disk"]) -> None:
    cached = CachedDataset(dataset, mode, folder=folder)
    for index in (0, 1, 0):
        sample, expected = cached.load(index), dataset.load(index)
        assert np.array_equal(sample.image, expected.image)
        assert np.array_equal(sample.boxes_xyxy, expected.boxes_xyxy)
        assert sample.transform == expected.transform
        assert sample.crowd.tolist() == expected.crowd.tolist()
        assert sample.path == expected.path
    assert cached.num_dropped == dataset.num_dropped == 1
    assert cached.class_names == dataset.class_names


@pytest.mark.parametrize("mode", MODES)
def test_smaller_images_keep_boxes_at_their_place(dataset: Dataset, folder: Path, mode: Literal["ram", "disk"]) -> None:
    cached = CachedDataset(dataset, mode, max_side=16, folder=folder)
    sample = cached.load(0)
    assert sample.image.shape == (8, 16, 3)
    # Scaled by 16/40, the lower side clipped to the image first.
    np.testing.assert_allclose(sample.boxes_xyxy, [[1.6, 0.8, 13.6, 8.0]], atol=1e-6)
    np.testing.assert_allclose(sample.transform.to_original(sample.boxes_xyxy), [[4, 2, 34, 20]], atol=1e-5)
    assert cached.size(0) == (20, 40)
    assert cached.ground_truth(0).boxes_xywh[0].tolist() == [4, 2, 30, 25]
    # 10x30 becomes 5.33x16: the exact ratios are 5/10 and 16/30.
    transform = cached.load(1).transform
    assert (transform.scale_x, transform.scale_y) == (0.5, 16 / 30)
    assert abs(int(sample.image.mean()) - int(dataset.load(0).image.mean())) <= 2


@pytest.mark.parametrize("mode", MODES)
def test_images_are_never_enlarged(dataset: Dataset, folder: Path, mode: Literal["ram", "disk"]) -> None:
    assert CachedDataset(dataset, mode, max_side=100, folder=folder).load(1).image.shape == (30, 10, 3)


@pytest.mark.parametrize("mode", MODES)
def test_what_was_decoded_is_kept(dataset: Dataset, folder: Path, mode: Literal["ram", "disk"]) -> None:
    cached = CachedDataset(dataset, mode, folder=folder)
    before = cached.load(0).image
    decoded: list[int] = []
    original = dataset.read
    dataset.read = lambda index: (decoded.append(index), original(index))[1]  # type: ignore[method-assign]
    after = cached.load(0).image
    assert decoded == []
    assert np.array_equal(before, after)


@pytest.mark.parametrize("mode", MODES)
def test_a_damaged_image_stays_an_error_of_its_own(
    dataset: Dataset, folder: Path, mode: Literal["ram", "disk"]
) -> None:
    cached = CachedDataset(dataset, mode, folder=folder)
    for _ in range(2):
        with pytest.raises(ImageError, match=r"2\.png"):
            cached.load(2)


@pytest.mark.parametrize("mode", MODES)
def test_samples_can_be_changed_without_harm(dataset: Dataset, folder: Path, mode: Literal["ram", "disk"]) -> None:
    cached = CachedDataset(dataset, mode, folder=folder)
    cached.load(0).image[:] = 0
    assert np.array_equal(cached.load(0).image, dataset.load(0).image)


@pytest.mark.parametrize("mode", MODES)
def test_masks_are_kept_too(folder: Path, mode: Literal["ram", "disk"]) -> None:
    # One object each: a mean of its class and the background would be a class that is not there.
    shapes = ShapesDataset("val", ShapesConfig(num_val=8, min_objects=1, max_objects=1))
    cached = CachedDataset(shapes, mode, max_side=80, folder=folder)
    for index in [*range(8), 0]:
        sample, expected = cached.load(index), shapes.load(index)
        assert sample.mask is not None
        assert expected.mask is not None
        assert sample.image.shape == (80, 80, 3)
        assert sample.mask.shape == (80, 80)
        assert set(np.unique(sample.mask)) <= set(np.unique(expected.mask))
        np.testing.assert_allclose((sample.mask > 0).mean(), (expected.mask > 0).mean(), atol=0.01)
        np.testing.assert_allclose(sample.boxes_xyxy * 2, expected.boxes_xyxy)


@pytest.fixture
def with_masks(tmp_path: Path) -> Dataset:
    """An image of 40x20 with random classes 0 to 2, and ignored where a file holds 7."""
    root = tmp_path / "set"
    rng = np.random.default_rng(0)
    write_image(root / "0.png", rng.integers(0, 256, (20, 40, 3), dtype=np.uint8))
    values = rng.integers(0, 3, (20, 40), dtype=np.uint8)
    values[0] = 7
    Image.fromarray(values).save(root / "mask.png")
    mapping = LabelMapping(("a", "b", "c"), (0, 1, 2), ignored=(7,))
    return MaskDataset(root=root, split="train", images=[root / "0.png"], masks=[root / "mask.png"], mapping=mapping)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("max_side", [None, 10])
def test_masks_at_the_original_size(
    with_masks: Dataset, folder: Path, mode: Literal["ram", "disk"], max_side: int | None
) -> None:
    """From the cache where it holds them as large; a reduced mask would not be the truth."""
    cached = CachedDataset(with_masks, mode, max_side, folder=folder)
    assert (cached.target, cached.has_masks, cached.class_names) == ("masks", True, ("a", "b", "c"))
    assert cached.mask_path(0) == with_masks.mask_path(0)
    sample = cached.load(0)
    assert sample.mask is not None
    assert sample.mask.shape == ((5, 10) if max_side else (20, 40))
    assert set(np.unique(sample.mask)) == {0, 1, 2, IGNORE_INDEX}
    expected = with_masks.mask(0)
    reads: list[int] = []
    original = with_masks.mask
    with_masks.mask = lambda index: (reads.append(index), original(index))[1]  # type: ignore[method-assign]
    assert np.array_equal(cached.mask(0), expected)
    assert reads == ([0] if max_side else [])


def test_a_changed_mask_is_decoded_again(with_masks: Dataset, folder: Path) -> None:
    cached = CachedDataset(with_masks, "disk", folder=folder)
    assert cached.mask(0).max() == IGNORE_INDEX
    Image.new("L", (40, 20), 1).save(with_masks.mask_path(0))
    assert cached.mask(0).tolist() == [[1] * 40] * 20


def test_memory_that_is_not_there_is_refused_before_decoding(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "read", lambda index: pytest.fail("decoded"))
    # 40*20*3 + 10*30*3 + 8*8*3 = 3492 bytes; 80 % of 4364 is less, of 4365 it is enough.
    monkeypatch.setattr(cache_store, "available_memory", lambda: 4364)
    with pytest.raises(
        CacheError, match=r"3 images need 0\.00 GiB.*80% may be used; set a smaller max_side or use the disk"
    ):
        CachedDataset(dataset, "ram")
    monkeypatch.setattr(dataset, "read", lambda index: (np.zeros((*dataset.size(index), 3), np.uint8), None))
    monkeypatch.setattr(cache_store, "available_memory", lambda: 4365)
    CachedDataset(dataset, "ram")


def test_available_memory_is_plausible() -> None:
    memory = available_memory()
    assert memory is not None
    assert 2**20 < memory < 2**50


def _mean_in_worker(cached: CachedDataset, queue: Any) -> None:
    queue.put(float(cached.load(0).image.mean()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_workers_read_what_the_parent_decoded(dataset: Dataset) -> None:
    expected = float(dataset.load(0).image.mean())
    cached = CachedDataset(dataset, "ram")
    Path(dataset.path(0)).unlink()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=_mean_in_worker, args=(cached, queue))
    worker.start()
    assert queue.get(timeout=240) == expected
    worker.join()


def test_memory_is_never_copied_into_spawned_workers(dataset: Dataset, folder: Path) -> None:
    with pytest.raises(CacheError, match="use the disk cache"):
        pickle.dumps(CachedDataset(dataset, "ram"))
    sent = pickle.loads(pickle.dumps(CachedDataset(dataset, "disk", folder=folder)))
    assert np.array_equal(sent.load(0).image, dataset.load(0).image)


def test_nothing_is_written_into_the_data_set(dataset: Dataset, tmp_path: Path) -> None:
    before = sorted(dataset.root.rglob("*"))
    (tmp_path / "link").symlink_to(dataset.root)
    for inside in (dataset.root, dataset.root / "cache", tmp_path / "link" / "cache", dataset.root / "x/../cache"):
        with pytest.raises(CacheError, match="is inside the data set"):
            CachedDataset(dataset, "disk", folder=inside)
    CachedDataset(dataset, "disk", folder=tmp_path / "cache").load(0)
    CachedDataset(dataset, "ram").load(0)
    assert sorted(dataset.root.rglob("*")) == before


def test_the_default_folder(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    CachedDataset(dataset, "disk").load(0)
    assert len(list((tmp_path / "xdg/detseg").rglob("*.npy"))) == 1


def test_a_changed_image_is_decoded_again(dataset: Dataset, folder: Path) -> None:
    cached = CachedDataset(dataset, "disk", folder=folder)
    cached.load(0)
    write_image(Path(dataset.path(0)), np.full((20, 40, 3), 9, np.uint8))
    assert cached.load(0).image.max() == 9


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY damaged", None])
def test_a_damaged_file_of_the_cache_is_replaced(dataset: Dataset, folder: Path, damage: bytes | None) -> None:
    cached = CachedDataset(dataset, "disk", folder=folder)
    expected = cached.load(0).image
    (stored,) = folder.rglob("*.npy")
    stored.write_bytes(stored.read_bytes()[:-100] if damage is None else damage)
    assert np.array_equal(cached.load(0).image, expected)
    assert np.array_equal(np.load(stored), expected.ravel())
    assert [path for path in folder.rglob("*") if path.is_file()] == [stored]


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_disk_too_small_is_refused_before_decoding(
    dataset: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(dataset.path(2)).unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _Usage(10_000, 9_000, 3491))
    with pytest.raises(CacheError, match=r"3 images need .* are free"):
        CachedDataset(dataset, "disk", folder=folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _Usage(10_000, 9_000, 3492))
    CachedDataset(dataset, "disk", folder=folder).load(0)


@pytest.mark.parametrize(
    ("mode", "max_side", "message"),
    [("file", None, "mode must be ram or disk, got 'file'"), ("ram", 0, "max_side must be at least 1 pixel, got 0")],
)
def test_bad_settings(dataset: Dataset, mode: Any, max_side: int | None, message: str) -> None:
    with pytest.raises(CacheError, match=message):
        CachedDataset(dataset, mode, max_side)
