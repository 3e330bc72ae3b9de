from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detseg.augment.volume_config import VolumeAugmentConfig
from detseg.data.loading.loader import TrainLoader
from detseg.structures import IGNORE_INDEX
from detseg.volumes import Shape3, VolumeSample, VolumeTransform

SIZE = (12, 16, 10)
WARPS = ("rotation", "scaling", "elastic")
INTENSITY = ("noise", "blur", "brightness", "contrast", "low_resolution", "gamma", "gamma_inverted")
STILL: dict[str, Any] = {"foreground": 0.0, "flip": (0.0, 0.0, 0.0), **dict.fromkeys(WARPS + INTENSITY, 0.0)}
RICH = VolumeAugmentConfig(**dict.fromkeys(WARPS + INTENSITY, 0.5))


def make_sample(image: np.ndarray, labels: np.ndarray | None, spacing: tuple[float, float, float]) -> VolumeSample:
    affine = np.diag([*spacing, 1.0])
    transform = VolumeTransform((0, 1, 2), (False, False, False), image.shape, image.shape, affine)
    return VolumeSample(image.astype(np.float32), 1, "a.nii.gz", transform, labels)


def load(index: int, shape: Shape3 = (20, 18, 14)) -> VolumeSample:
    """A volume that differs by index, with two boxes as its classes."""
    image = np.random.default_rng([5, index]).normal(size=shape)
    labels = np.zeros(shape, np.uint8)
    labels[4:9, 3 : 6 + index % 3, 5:9] = 1
    labels[8:14, 8:13, 2:7] = 2
    return make_sample(image + labels, labels, (1.0, 1.0, 1.5))


def take(config: VolumeAugmentConfig, index: int = 0, seed: int = 0, epoch: int = 0) -> VolumeSample:
    return config.build()(load, 8, index, seed, epoch, SIZE)


def digest(sample: VolumeSample) -> str:
    assert sample.labels is not None
    return hashlib.sha256(sample.image.tobytes() + sample.labels.tobytes()).hexdigest()


@pytest.mark.parametrize("config", [VolumeAugmentConfig(), RICH], ids=["default", "rich"])
def test_a_sample_is_a_pure_function_of_seed_epoch_and_index(config: VolumeAugmentConfig) -> None:
    keys = [(index, seed, epoch) for index in range(4) for seed in (0, 1) for epoch in (0, 3)]
    forward = {key: digest(take(config, *key)) for key in keys}
    np.random.seed(5)  # noqa: NPY002 (the global generators must not matter)
    torch.manual_seed(5)
    pipeline = pickle.loads(pickle.dumps(config.build()))
    backward = {key: digest(pipeline(load, 8, *key, SIZE)) for key in reversed(keys)}
    assert backward == forward
    assert len(set(forward.values())) == len(keys)


def test_global_generators_are_left_alone() -> None:
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    take(VolumeAugmentConfig(**dict.fromkeys(WARPS + INTENSITY, 1.0)))
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


def test_the_number_of_threads_makes_no_difference_and_stays() -> None:
    pipeline = VolumeAugmentConfig(**dict.fromkeys(WARPS + INTENSITY, 1.0)).build()
    before = torch.get_num_threads()
    found = set()
    try:
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            # Large enough that torch divides the work.
            sample = pipeline(lambda index: load(index, (48, 48, 48)), 1, 0, 0, 0, (48, 48, 48))
            found.add(digest(sample))
            assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1


class Volumes:
    def __len__(self) -> int:
        return 6

    def load(self, index: int) -> VolumeSample:
        return load(index)


def digests(samples: list[VolumeSample]) -> list[str]:
    return [digest(sample) for sample in samples]


def test_workers_make_what_the_main_process_makes() -> None:
    epochs = []
    for num_workers in (0, 2):
        loader = TrainLoader(Volumes(), RICH.build(), digests, 2, 0, SIZE, num_workers, stride=1)
        epochs.append([list(loader.epoch(epoch)) for epoch in range(2)])
        loader.close()
    assert epochs[0] == epochs[1]


# Index and epoch; mean and standard deviation of the image; voxels of the background, of both classes, of none.
SEEDED = [
    ((0, 0), 0.4511, 0.9109, [1616, 10, 294, 0]),
    ((1, 2), 0.1518, 0.6542, [1625, 78, 70, 147]),
    ((5, 3), 0.1533, 0.3907, [1759, 0, 161, 0]),
]


@pytest.mark.parametrize(("which", "mean", "std", "counts"), SEEDED)
def test_a_seed_gives_what_it_gave_before(which: tuple[int, int], mean: float, std: float, counts: list[int]) -> None:
    """In other processes, and in versions to come; not bit by bit, since libraries may round otherwise."""
    sample = take(RICH, which[0], 11, which[1])
    found = [int((sample.labels == value).sum()) for value in (0, 1, 2, IGNORE_INDEX)]
    np.testing.assert_allclose([sample.image.mean(), sample.image.std()], [mean, std], atol=2e-3)
    np.testing.assert_allclose(found, counts, atol=3)


@pytest.mark.parametrize("size", [(12, 16, 10), (30, 7, 14), (24, 24, 24), (1, 1, 2)])
def test_patches_have_the_size_and_keep_what_is_known(size: Shape3) -> None:
    source = load(0)
    for config in (VolumeAugmentConfig(**STILL), VolumeAugmentConfig(), RICH):
        for epoch in range(4):
            sample = config.build()(lambda index: source, 1, 0, 0, epoch, size)
            assert sample.labels is not None
            assert sample.image.shape == sample.labels.shape == size
            assert np.isfinite(sample.image).all()
            assert set(np.unique(sample.labels)) <= {0, 1, 2, IGNORE_INDEX}
            assert sample.image.flags.c_contiguous
            assert sample.labels.flags.c_contiguous
            assert (sample.image_id, sample.path, sample.transform) == (1, "a.nii.gz", source.transform)


def test_the_volume_is_not_changed() -> None:
    source = load(0)
    image, labels = source.image.copy(), source.labels
    assert labels is not None
    kept = labels.copy()
    for array in (source.image, labels):
        array.flags.writeable = False
    for size in (source.image.shape, SIZE):
        for config in (VolumeAugmentConfig(**STILL), VolumeAugmentConfig(**dict.fromkeys(WARPS + INTENSITY, 1.0))):
            sample = config.build()(lambda index: source, 1, 0, 0, 0, size)
            assert sample.labels is not None
            sample.image[:] = 9
            sample.labels[:] = 9
    np.testing.assert_array_equal(source.image, image)
    np.testing.assert_array_equal(labels, kept)


@pytest.mark.parametrize("settings", [{}, {"flip": (0.5, 0.5, 0.5)}, dict.fromkeys(WARPS, 1.0)])
def test_ignored_is_exactly_where_nothing_of_the_volume_is(settings: dict[str, Any]) -> None:
    shape = (9, 14, 11)
    source = make_sample(np.ones(shape), np.ones(shape, np.uint8), (1.0, 2.0, 1.0))
    pipeline = VolumeAugmentConfig(**{**STILL, **settings}).build()
    for epoch in range(8):
        sample = pipeline(lambda index: source, 1, 0, 0, epoch, SIZE)
        assert sample.labels is not None
        np.testing.assert_array_equal(sample.image == 0, sample.labels == IGNORE_INDEX)
        np.testing.assert_allclose(sample.image[sample.labels == 1], 1, rtol=1e-6)
        if "rotation" not in settings:
            assert (sample.labels == 1).sum() == 9 * 14 * 10


def test_without_changes_a_patch_is_cut_out() -> None:
    source = load(0)
    assert source.labels is not None
    sample = take(VolumeAugmentConfig(**STILL))
    windows = np.lib.stride_tricks.sliding_window_view(source.image, SIZE)
    (place,) = np.argwhere((windows == sample.image).all(axis=(3, 4, 5)))
    inside = tuple(slice(first, first + side) for first, side in zip(place.tolist(), SIZE, strict=True))
    np.testing.assert_array_equal(sample.labels, source.labels[inside])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flips_mirror_one_axis_with_its_probability(axis: int) -> None:
    still = VolumeAugmentConfig(**STILL)
    always, often = (
        VolumeAugmentConfig(**{**STILL, "flip": tuple(share * (a == axis) for a in range(3))}) for share in (1.0, 0.7)
    )
    plain, mirrored = take(still), take(always)
    np.testing.assert_array_equal(mirrored.image, np.flip(plain.image, axis))
    np.testing.assert_array_equal(mirrored.labels, np.flip(plain.labels, axis))
    changed = [bool((take(often, epoch=epoch).image != take(still, epoch=epoch).image).any()) for epoch in range(400)]
    assert np.mean(changed) == pytest.approx(0.7, abs=0.07)


def test_flips_of_the_axes_are_independent() -> None:
    pipeline = VolumeAugmentConfig(**{**STILL, "flip": (0.5, 0.5, 0.5)}).build()
    corner = make_sample(np.zeros((2, 2, 2)), np.arange(8, dtype=np.uint8).reshape(2, 2, 2), (1.0, 1.0, 1.0))
    firsts = [int(pipeline(lambda index: corner, 1, 0, 0, epoch, (2, 2, 2)).labels[0, 0, 0]) for epoch in range(800)]
    np.testing.assert_allclose(np.bincount(firsts, minlength=8) / 800, 1 / 8, atol=0.04)


def test_foreground_is_in_the_middle_as_often_as_asked() -> None:
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[20, 11, 27] = 1
    source = make_sample(np.zeros(labels.shape), labels, (1.0, 1.0, 1.0))
    pipeline = VolumeAugmentConfig(**{**STILL, "foreground": 0.6}).build()
    hits = [pipeline(lambda index: source, 1, 0, 0, epoch, (4, 4, 4)).labels[2, 2, 2] == 1 for epoch in range(500)]
    assert np.mean(hits) == pytest.approx(0.6, abs=0.06)


def test_another_change_leaves_place_warp_and_flips_as_they_were() -> None:
    geometry = {"rotation": 0.5, "scaling": 0.5, "elastic": 0.5, "flip": (0.5, 0.5, 0.5), "foreground": 0.5}
    plain = VolumeAugmentConfig(**{**STILL, **geometry})
    loud = VolumeAugmentConfig(**{**STILL, **geometry, **dict.fromkeys(INTENSITY, 0.5)})
    for epoch in range(10):
        np.testing.assert_array_equal(take(plain, epoch=epoch).labels, take(loud, epoch=epoch).labels)


def test_closing_mosaic_changes_nothing() -> None:
    pipeline = VolumeAugmentConfig().build()
    assert digest(pipeline(load, 8, 3, 0, 1, SIZE, close_mosaic=True)) == digest(pipeline(load, 8, 3, 0, 1, SIZE))


def test_a_volume_without_labels_is_refused_by_name() -> None:
    source = make_sample(np.zeros((4, 4, 4)), None, (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=r"a\.nii\.gz has no labels, so it cannot be trained on"):
        VolumeAugmentConfig().build()(lambda index: source, 1, 0, 0, 0, SIZE)


def test_real_volumes_stay_what_they_are(detseg_data: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    folder = detseg_data / "hippocampus"
    name = min(path.name for path in (folder / "labelsTr").glob("[!.]*.nii.gz"))
    image, labels = (
        np.asarray(nibabel.load(folder / kind / name).dataobj).squeeze() for kind in ("imagesTr", "labelsTr")
    )
    source = make_sample((image - image.mean()) / image.std(), labels.astype(np.uint8), (1.0, 1.0, 1.0))
    pipeline = VolumeAugmentConfig(rotation=1.0, scaling=1.0, elastic=1.0).build()
    volumes = []
    for epoch in range(8):
        sample = pipeline(lambda index: source, 1, 0, 0, epoch, (40, 56, 40))
        assert np.isfinite(sample.image).all()
        volumes.append([int((sample.labels == value).sum()) for value in (1, 2)])
    shares = np.array(volumes) / [int((labels == value).sum()) for value in (1, 2)]
    # Between 0.7 ** 3 and 1.4 ** 3, and the elastic warp on top.
    assert shares.min() > 0.25
    assert shares.max() < 3.5
    assert shares.std(axis=0).min() > 0.1


def test_channels_share_place_warp_and_flips_and_nothing_else() -> None:
    settings = {**STILL, **dict.fromkeys(WARPS, 0.7), "foreground": 0.5, "flip": (0.5, 0.5, 0.5)}

    def load_two(index: int) -> VolumeSample:
        one = load(index)
        return replace(one, image=np.stack([one.image, one.image]))

    for index in range(4):
        alone = VolumeAugmentConfig(**settings).build()(load, 8, index, 0, 0, SIZE)
        both = VolumeAugmentConfig(**settings).build()(load_two, 8, index, 0, 0, SIZE)
        assert both.image.shape == (2, *SIZE)
        assert np.array_equal(both.image[0], alone.image)
        assert np.array_equal(both.image[1], alone.image)
        assert alone.labels is not None
        assert both.labels is not None
        assert np.array_equal(both.labels, alone.labels)
    noisy = VolumeAugmentConfig(**{**STILL, "noise": 1.0}).build()(load_two, 8, 0, 0, 0, SIZE)
    assert not np.allclose(noisy.image[0], noisy.image[1])
