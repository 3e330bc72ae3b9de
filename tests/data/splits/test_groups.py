"""Groups that no split tears apart: what makes one, and how they are dealt out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from detseg.data.open import open_dataset
from detseg.data.split import SplitResult, split_dataset
from detseg.data.split_rule import SplitRule
from detseg.data.splits.groups import compile_pattern, group_names, joined, members_by_group
from detseg.data.splits.stratify import stratify
from detseg.runtime.media.images import write_image

VIDEOS = {"street": 5, "yard": 3, "park": 2}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Frames of three videos, shared out among train and val so that two videos are in both."""
    root = tmp_path / "data"
    for video, count in VIDEOS.items():
        for number in range(count):
            split = "val" if number == 0 and video != "park" else "train"
            seed = 100 * ord(video[0]) + number
            image = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            write_image(root / split / "images" / f"{video}_{number:03d}.png", image)
            mask = np.full((16, 16), number % 2, np.uint8)
            write_image(root / split / "masks" / f"{video}_{number:03d}.png", mask[..., None].repeat(3, axis=2))
    settings = {"format": "masks", "names": ["ground", "thing"], "colors": {"ground": [0, 0, 0], "thing": [1, 1, 1]}}
    (root / "data.yaml").write_text(yaml.safe_dump(settings))
    return root


def videos_of(result: SplitResult, split: str) -> set[str]:
    dataset = open_dataset(result.yaml_path, split)
    return {Path(dataset.path(index)).name.partition("_")[0] for index in range(len(dataset))}


@pytest.mark.parametrize("pattern", ["^([^_]+)_", "^[a-z]+", r"images/([a-z]+)_\d+"])
def test_no_video_is_in_two_splits(data: Path, tmp_path: Path, pattern: str) -> None:
    result = split_dataset(data, "8:2", 0, tmp_path / "out", group_by=pattern)
    assert {name: summary.num_images for name, summary in result.splits.items()} == {"train": 8, "val": 2}
    assert videos_of(result, "train") == {"street", "yard"}
    assert videos_of(result, "val") == {"park"}
    assert result.num_groups == 3
    assert "\n3 groups kept whole\n" in result.render()


def test_without_groups_videos_are_torn_apart(data: Path, tmp_path: Path) -> None:
    """So that the test above shows something."""
    result = split_dataset(data, "5:5", 0, tmp_path / "out")
    assert videos_of(result, "train") & videos_of(result, "val")
    assert result.num_groups is None


def test_each_of_three_groups_may_be_a_split(data: Path, tmp_path: Path) -> None:
    result = split_dataset(data, "8:1:1", 0, tmp_path / "out", group_by="^([^_]+)_")
    videos = [videos_of(result, split) for split in ("train", "val", "test")]
    assert sorted(name for found in videos for name in found) == ["park", "street", "yard"]
    assert videos[0] == {"street"}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", r"--group-by '\(' is no regular expression: missing \)"),
        ("street", "--group-by 'street' matches nothing of .*; every file must belong to a group"),
        ("^", "--group-by makes 1 group, those with .* which cannot be divided into 2 parts"),
        ("train/", "--group-by 'train/' matches nothing of val/images/"),
    ],
)
def test_what_makes_no_groups_is_refused(data: Path, tmp_path: Path, pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_dataset(data, "8:2", 0, tmp_path / "out", group_by=pattern)
    assert not (tmp_path / "out").exists()


def test_a_copy_joins_its_groups(data: Path, tmp_path: Path) -> None:
    """The first frame of the park is one of the yard's: both videos are one group."""
    for folder in ("images", "masks"):
        (data / "train" / folder / "park_000.png").write_bytes((data / "train" / folder / "yard_001.png").read_bytes())
    result = split_dataset(data, "5:5", 0, tmp_path / "out", group_by="^([^_]+)_")
    assert {frozenset(videos_of(result, split)) for split in ("train", "val")} == {
        frozenset({"street"}),
        frozenset({"yard", "park"}),
    }
    with pytest.raises(ValueError, match="2 groups, those with files of equal content taken as one, which cannot be"):
        split_dataset(data, "6:2:2", 0, tmp_path / "other", group_by="^([^_]+)_")


def test_the_name_of_a_group_is_what_its_parts_match() -> None:
    root = Path("/data")
    paths = [root / "a" / "p1_left_0.png", root / "b" / "p1_right_0.png", root / "b" / "p2_left_1.png"]

    def names(pattern: str) -> list[str]:
        return list(group_names(paths, root, compile_pattern(pattern)).values())

    assert names(r"^(p\d)_") == ["p1", "p1", "p2"]
    assert names(r"p\d") == ["p1", "p1", "p2"]
    assert names(r"^(p\d)_(left|right)") == ["p1/left", "p1/right", "p2/left"]
    assert names("^([^/]+)/") == ["a", "b", "b"]
    assert names(r"_(0)?(1)?\.") == ["0/", "0/", "/1"]


def test_what_agrees_in_one_of_two_ways_is_together() -> None:
    """a and b by content, b and c by group; d alone; e and f by both."""
    content = {"a": "1", "b": "1", "c": "2", "d": "3", "e": "4", "f": "4"}
    group = {"a": "x", "b": "y", "c": "y", "d": "z", "e": "w", "f": "w"}
    assert joined(content, group) == {"a": "a", "b": "a", "c": "a", "d": "d", "e": "e", "f": "e"}
    assert joined(content) == {"a": "a", "b": "a", "c": "c", "d": "d", "e": "e", "f": "e"}


PATIENTS = {
    f"{patient}_{scan}": patient
    for patient, scans in (("p1", 4), ("p2", 2), ("p3", 1), ("p4", 1))
    for scan in range(scans)
}


def test_volumes_of_a_patient_are_in_one_split() -> None:
    members = members_by_group(PATIENTS, SplitRule("6:2:2"))
    assert list(members) == ["train", "val", "test"]
    assert [len(members[split]) for split in members] == [5, 2, 1]  # 4.8, 1.6 and 1.6: 5, 2 and 1
    assert sorted(name for names in members.values() for name in names) == sorted(PATIENTS)
    patients = [{PATIENTS[name] for name in names} for names in members.values()]
    assert sum(map(len, patients)) == 4


@pytest.mark.parametrize("seed", range(3))
def test_each_patient_is_held_out_once(seed: int) -> None:
    members = members_by_group(PATIENTS, SplitRule(folds=2, seed=seed))
    assert list(members) == ["fold0-train", "fold0-val", "fold1-train", "fold1-val"]
    for fold in range(2):
        train, val = (set(members[f"fold{fold}-{part}"]) for part in ("train", "val"))
        assert train | val == set(PATIENTS)
        assert not {PATIENTS[name] for name in train} & {PATIENTS[name] for name in val}
        assert len(val) == 4
    with pytest.raises(ValueError, match=r"4 groups, those with .* cannot be divided into 5 parts"):
        members_by_group(PATIENTS, SplitRule(folds=5))


def test_no_split_stays_empty_where_groups_are_large() -> None:
    """98, 1 and 1 images are wanted, and there are three groups of 33, 33 and 34."""
    found = stratify(np.zeros((3, 0), np.int64), np.array([33, 33, 34]), (98, 1, 1))
    assert sorted(found.tolist()) == [0, 1, 2]
