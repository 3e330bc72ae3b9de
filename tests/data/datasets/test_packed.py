from __future__ import annotations

import gc
import pickle
from collections import deque
from typing import Any

import numpy as np
import pytest

from detseg.data.datasets.packed import PackedAnnotations, PackedBuilder, PackedStrings


def _many(num_images: int) -> PackedAnnotations:
    builder = PackedBuilder()
    for index in range(num_images):
        builder.add_image(index, f"{index:08d}.jpg", 480, 640)
        builder.add_object(index, (1.0, 2.0, 3.0, 4.0), 0, polygons=[[0, 0, 1, 0, 1, 1]])
        builder.add_object(index, (1.0, 2.0, 3.0, 4.0), 1, run_length={"counts": [1, 2], "size": [3, 1]})
    return builder.build()


def _num_objects_within(root: Any) -> int:
    """How many Python objects can be reached from ``root``, classes and modules aside."""
    seen = {id(root)}
    queue = deque([root])
    while queue:
        for child in gc.get_referents(queue.popleft()):
            if not isinstance(child, type) and id(child) not in seen:
                seen.add(id(child))
                queue.append(child)
    return len(seen)


def test_strings_come_back() -> None:
    texts = ["a.jpg", "", "sub/größe.png", "b" * 1000]
    packed = PackedStrings.pack(texts)
    assert [packed[index] for index in range(len(packed))] == texts


def test_file_names_that_are_no_utf8_come_back() -> None:
    name = b"\xe9.jpg".decode("utf-8", "surrogateescape")
    assert PackedStrings.pack([name])[0] == name


def test_objects_are_grouped_by_image_in_their_order() -> None:
    builder = PackedBuilder()
    for image_id in (7, 3, 5):
        builder.add_image(image_id, f"{image_id}.jpg", 10, 20)
    builder.add_object(2, (0, 0, 1, 1), 4, annotation_id=100)
    builder.add_object(0, (1, 1, 2, 3), 5, annotation_id=101, crowd=True)
    builder.add_object(2, (2, 2, 4, 4), 6, annotation_id=102, difficult=True, area=9.5)
    packed = builder.build()
    assert packed.offsets.tolist() == [0, 1, 1, 3]
    assert packed.image_ids.tolist() == [7, 3, 5]
    assert packed.annotation_ids.tolist() == [101, 100, 102]
    assert packed.boxes_xywh.tolist() == [[1, 1, 2, 3], [0, 0, 1, 1], [2, 2, 4, 4]]
    assert packed.areas.tolist() == [6, 1, 9.5]
    assert packed.labels.tolist() == [5, 4, 6]
    assert packed.crowd.tolist() == [True, False, False]
    assert packed.difficult.tolist() == [False, False, True]
    assert packed.rows(1) == slice(1, 1)
    assert packed.rows(2) == slice(1, 3)


def test_segmentations_follow_their_objects() -> None:
    builder = PackedBuilder()
    for image_id in (1, 2):
        builder.add_image(image_id, "", 10, 10)
    run_length = {"counts": [3, 4], "size": [7, 1]}
    builder.add_object(1, (0, 0, 1, 1), 0, polygons=[[0, 0, 1, 0, 1, 1], [5, 5, 6, 5, 6, 6, 5, 6]])
    builder.add_object(0, (0, 0, 1, 1), 0, run_length=run_length)
    builder.add_object(1, (0, 0, 1, 1), 0)
    builder.add_object(0, (0, 0, 1, 1), 0, polygons=[[2, 2, 3, 2, 3, 3]])
    packed = builder.build().segmentations
    assert packed[0] == run_length
    (only,) = packed[1]
    assert np.asarray(only).tolist() == [[2, 2], [3, 2], [3, 3]]
    first, second = packed[2]
    assert np.asarray(first).tolist() == [[0, 0], [1, 0], [1, 1]]
    assert np.asarray(second).tolist() == [[5, 5], [6, 5], [6, 6], [5, 6]]
    assert packed[3] is None


@pytest.mark.parametrize("polygon", [[0, 0, "1", 2], [None, 0]])
def test_polygons_hold_numbers_only(polygon: list[Any]) -> None:
    builder = PackedBuilder()
    builder.add_image(1, "", 10, 10)
    with pytest.raises(TypeError):
        builder.add_object(0, (0, 0, 1, 1), 0, polygons=[polygon])


def test_nothing_at_all() -> None:
    packed = PackedBuilder().build()
    assert len(packed) == 0
    assert packed.boxes_xywh.shape == (0, 4)
    assert packed.offsets.tolist() == [0]


@pytest.mark.parametrize("index", [-1, 2])
def test_an_image_that_is_not_there(index: int) -> None:
    with pytest.raises(IndexError, match=f"image {index} of a data set of 2 images"):
        _many(2).rows(index)


def test_the_number_of_python_objects_does_not_depend_on_the_number_of_images() -> None:
    assert _num_objects_within(_many(1000)) == _num_objects_within(_many(10)) < 100


def test_everything_is_in_numeric_arrays() -> None:
    packed = _many(3)
    pieces = [getattr(packed, name) for name in PackedAnnotations.__slots__]
    pieces += [getattr(piece, name) for piece in pieces for name in getattr(type(piece), "__slots__", ())]
    arrays = [piece for piece in pieces if isinstance(piece, np.ndarray)]
    assert len(arrays) >= 13
    assert all(array.dtype.kind in "ifbu" for array in arrays)
    assert len(pickle.dumps(_many(1000))) < 1000 * 300
