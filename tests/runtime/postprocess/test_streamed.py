"""Labels of volumes part by part are those of the whole."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest

from detseg.runtime.inputs.volume_boxes import VolumeBoxes
from detseg.runtime.inputs.volume_channels import ChannelSpec
from detseg.runtime.inputs.volume_geometry import VolumeSpec, place_volume
from detseg.runtime.postprocess import inferers
from detseg.runtime.postprocess.config import WindowsConfig
from detseg.runtime.postprocess.inferers import (
    ARRAY_INFERER,
    average_over_flips,
    probabilities_of,
    sliding_window,
    window_starts,
)
from detseg.runtime.postprocess.results import best_voxel_classes
from detseg.runtime.postprocess.streamed import Look, label_volume
from detseg.runtime.postprocess.strips import OutputGrid, divide, origins
from detseg.volumes import Volume, VolumeTransform

RNG = np.random.default_rng(0)
TURNED = np.array([[0, -1.0, 0, 3], [1, 0, 0, 5], [0, 0, -1.2, 7], [0, 0, 0, 1]])
WINDOW = (10, 8, 7)
CHANNELS = (
    ChannelSpec("a"),
    ChannelSpec("b", "window", (-1.0, 1.0)),
    ChannelSpec("c", "ct", (-2.0, 2.0), 0.1, 0.7),
)
KERNELS = RNG.normal(0, 1, (4, *WINDOW)).astype(np.float32)


def network(windows: np.ndarray, kernels: np.ndarray = KERNELS) -> np.ndarray:
    """Depends on the place within a window, as real networks do at their borders, and on neighbors."""
    values = windows[:, :1] + 0.5 * np.roll(windows[:, -1:], 1, axis=2)
    return np.asarray(kernels[None] * 0.3 + values * np.arange(-1.5, 2)[None, :, None, None, None], np.float32)


def a_volume(shape: tuple[int, int, int] = (19, 21, 16), channels: int = 1) -> Volume:
    voxels = RNG.normal(size=(channels, *shape)).astype(np.float32)
    return Volume(voxels[0] if channels == 1 else voxels, TURNED)


def a_look(volume: Volume, spec: VolumeSpec, **settings: Any) -> Look:
    return Look(
        ARRAY_INFERER,
        settings.pop("predict", network),
        VolumeBoxes(volume, spec),
        4,
        WindowsConfig(**settings),
        WINDOW,
        False,
        lambda labels: labels,
    )


def whole(look: Look, volume: Volume, spec: VolumeSpec) -> tuple[np.ndarray, VolumeTransform]:
    """The probabilities of everything at once."""
    placed, transform = spec.place(volume)
    settings = look.settings
    slide = partial(
        sliding_window,
        look.predict,
        window=look.window,
        overlap=settings.overlap,
        weighting=settings.weighting,
        batch_size=settings.batch_size,
    )
    if settings.flip:
        return average_over_flips(slide, placed[None], settings.flip_axes, nested=look.nested)[0], transform
    return probabilities_of(slide(placed[None]), nested=look.nested)[0], transform


@pytest.mark.parametrize("spacing", [None, (1.3, 0.8, 1.0), (0.7, 1.0, 1.9), (3.0, 2.0, 1.2)])
def test_boxes_are_parts_of_the_whole_input(spacing: Any) -> None:
    volume = a_volume(channels=3)
    spec = VolumeSpec(spacing=spacing, channels=CHANNELS)
    placed, transform = place_volume(volume, spec)
    boxes = VolumeBoxes(volume, spec)
    assert boxes.shape == placed.shape[1:]
    assert boxes.transform.input_shape == transform.input_shape
    depth, height, width = boxes.shape
    for box in [((0, depth), (0, height), (0, width)), ((3, 7), (height - 2, height), (0, 1))]:
        cut = placed[:, *(slice(*span) for span in box)]
        assert np.array_equal(boxes.read(box), cut)


@pytest.mark.parametrize("spacing", [None, (1.3, 0.8, 1.0), (3.0, 2.0, 0.6)])
@pytest.mark.parametrize("allowed", [1e9, 40_000, 1])
@pytest.mark.parametrize(
    ("settings", "nested"),
    [
        ({}, False),
        ({"flip": True, "flip_axes": (0, 2)}, True),
        ({"overlap": 0.6, "batch_size": 3, "weighting": "uniform"}, False),
    ],
)
def test_labels_are_those_of_the_whole(
    spacing: Any, allowed: float, settings: dict[str, Any], nested: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inferers, "SUMS_BYTES", allowed)
    # The second is smaller than a window.
    for shape in ((16, 19, 13), (9, 14, 5)):
        volume, spec = a_volume(shape), VolumeSpec(spacing=spacing)
        look = replace(a_look(volume, spec, **settings), nested=nested)
        found = label_volume([look], keeps_probabilities=True)
        probabilities, transform = whole(look, volume, spec)
        expected = best_voxel_classes(probabilities, transform, nested=nested, keeps_probabilities=True)
        assert len(np.unique(expected.labels)) == 4
        assert np.array_equal(found.labels, expected.labels)
        assert found.probabilities is not None
        assert expected.probabilities is not None
        assert np.array_equal(found.probabilities, expected.probabilities)


@pytest.mark.parametrize("allowed", [1e9, 90_000])
def test_ensembles_are_averaged_part_by_part(allowed: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inferers, "SUMS_BYTES", allowed)
    volume, spec = a_volume(), VolumeSpec(spacing=(1.3, 0.8, 1.0))
    looks = [
        a_look(volume, spec),
        a_look(volume, spec, predict=partial(network, kernels=KERNELS[::-1]), flip=True, overlap=0.3),
    ]
    order = np.array([0, 2, 1, 3])
    found = label_volume(looks, [None, order])
    parts = [whole(look, volume, spec) for look in looks]
    mean = (parts[0][0] + parts[1][0][order]) / np.float32(2)
    assert np.array_equal(found.labels, best_voxel_classes(mean, parts[0][1]).labels)


def test_memory_does_not_grow_with_the_number_of_voxels_times_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inferers, "SUMS_BYTES", 1_000_000)
    side, num_classes = 64, 20
    volume = Volume(np.zeros((side, side, side), np.float32), np.eye(4))

    def predict(windows: np.ndarray) -> np.ndarray:
        return np.zeros((len(windows), num_classes, *windows.shape[2:]), np.float32)

    for flip in (False, True):
        look = replace(
            a_look(volume, VolumeSpec(), predict=predict, flip=flip, overlap=0.0),
            num_classes=num_classes,
            window=(16, 16, 16),
        )
        tracemalloc.start()
        label_volume([look])
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # Held as a whole, the classes alone would take 20 MB.
        assert 4 * side**3 * num_classes > 20_000_000
        assert peak < 6_000_000


def grid_of(shape: tuple[int, int, int], input_shape: tuple[int, int, int]) -> OutputGrid:
    return OutputGrid.of(VolumeTransform((0, 1, 2), (False,) * 3, input_shape, shape, np.eye(4)))


def test_parts_cover_the_file_once_and_need_what_lies_around_them() -> None:
    for shape, input_shape in product([(40, 50, 60), (7, 90, 11)], [(40, 50, 60), (33, 64, 20)]):
        grid = grid_of(shape, input_shape)
        for allowed, along_depth in product((1e9, 3e5, 1), (False, True)):
            parts = divide(grid, (16, 16, 16), 0.5, 88, allowed, along_depth=along_depth)
            count = np.zeros(shape, int)
            for part in parts:
                count[*(slice(*span) for span in part.into)] += 1
                for axis, ((first, end), (low, high)) in enumerate(zip(part.into, part.of, strict=True)):
                    assert 0 <= low < high <= input_shape[axis]
                    scale = input_shape[axis] / shape[axis]
                    # Centers of the first and the last voxel, in the grid of the input, lie between known ones.
                    assert low <= max(0, (first + 0.5) * scale - 0.5)
                    assert high - 1 >= min(input_shape[axis] - 1, (end - 0.5) * scale - 0.5)
            assert (count == 1).all()
            assert (len(parts) == 1) == (allowed == 1e9)


def test_parts_are_as_few_as_memory_allows() -> None:
    """Windows of 64 begin at 0, 32, ..., 448 along each side of 512: 15 of them. Of 64 planes with 23 numbers for each
    voxel, 400 MB hold 260 x 260: two parts along each of the other sides, 8 windows each, at 0 to 256 and beyond.
    """
    parts = divide(grid_of((512,) * 3, (512,) * 3), (64,) * 3, 0.5, 4 * 23, 4e8, along_depth=False)
    assert sorted({part.into[1] for part in parts}) == [(0, 256), (256, 512)]
    assert [part.into[0] for part in parts] == [(0, 512)] * 4


def test_where_windows_of_mirror_images_lie() -> None:
    assert window_starts(21, 8, 0.5) == (0, 4, 8, 12, 13)
    assert origins(21, 8, 0.5, is_mirrored=False) == [0, 4, 8, 12, 13]
    assert origins(21, 8, 0.5, is_mirrored=True) == [13, 9, 5, 1, 0]
    # 3 voxels in a window of 8: two zeros before and three behind, in the mirror image the other way round.
    assert origins(3, 8, 0.5, is_mirrored=False) == [-2]
    assert origins(3, 8, 0.5, is_mirrored=True) == [-3]
