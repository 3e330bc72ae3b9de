from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.data.formats import nifti_description
from detseg.data.formats.nifti_description import read_description
from detseg.data.formats.nifti_labels import read_class_names
from detseg.data.source import DatasetError, DataSource
from detseg.runtime.volumes.nifti import write_label_volume
from detseg.volumes import LabelVolume

EXPECTED = {0: "background", 1: "anterior", 2: "posterior"}


def describe(root: Path, content: Any) -> None:
    (root / "dataset.json").write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize(
    "names",
    [
        ["background", "anterior", "posterior"],
        {0: "background", 1: "anterior", 2: "posterior"},
        {2: "posterior", 0: "background", 1: "anterior"},
    ],
)
def test_names_in_a_yaml(tmp_path: Path, names: Any) -> None:
    describe(tmp_path, {"labels": {"0": "other", "1": "names"}})
    source = DataSource(tmp_path, {"names": names}, tmp_path / "my.yaml")
    assert list(read_class_names(source, []).items()) == list(EXPECTED.items())


@pytest.mark.parametrize(
    "labels",
    [
        {"0": "background", "1": "anterior", "2": "posterior"},  # the Decathlon
        {"2": "posterior", "1": "anterior", "0": "background"},
        {"background": 0, "anterior": 1, "posterior": 2},  # nnU-Net's second version
        {"posterior": 2, "background": 0, "anterior": 1},
    ],
)
def test_names_in_a_description(tmp_path: Path, labels: Any) -> None:
    describe(tmp_path, {"labels": labels, "modality": {"0": "MRI"}})
    assert list(read_class_names(DataSource(tmp_path), []).items()) == list(EXPECTED.items())


def test_values_need_not_be_consecutive(tmp_path: Path) -> None:
    source = DataSource(tmp_path, {"names": {205: "ventricle", 0: "background", 65535: "rest"}}, tmp_path / "my.yaml")
    assert read_class_names(source, []) == {0: "background", 205: "ventricle", 65535: "rest"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("liver", r"my\.yaml: names: expected a list of names by value or \{VALUE: NAME\}, got 'liver'"),
        ([], "expected a list of class names, got \\[\\]"),
        (["background"], r"expected 2 to 255 classes with the background, got 1: \[0\]"),
        ([f"class {n}" for n in range(256)], "expected 2 to 255 classes with the background, got 256"),
        (["background", "liver", "liver"], "several of liver"),
        (["background", 1], "every class name must be text, got 1"),
        ({1: "liver", 2: "tumor"}, "the value 0, which is the background, has no name"),
        ({0: "background", -1: "liver"}, "integers from 0 to 65535, got -1 for 'liver'"),
        ({0: "background", 65536: "liver"}, "got 65536 for 'liver'"),
        ({0: "background", "1": "liver"}, "got '1' for 'liver'"),
        ({0: "background", True: "liver"}, "got True for 'liver'"),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, names: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_class_names(DataSource(tmp_path, {"names": names}, tmp_path / "my.yaml"), [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no valid JSON"),
        ("[" * 100_000, "no valid JSON"),
        ('{"a": ' + "9" * 5000 + "}", "no valid JSON"),
        ("\udcff", "no valid JSON"),
        ([1], r"expected an object with labels and training, got \[1\]"),
        ({"labels": ["background"]}, r"labels: expected \{VALUE: NAME\} or \{NAME: VALUE\}, got \['background'\]"),
        ({"labels": {}}, "expected a list of class names"),
        ({"labels": {"background": 0, "whole": [1, 2]}}, "whole is a region of several values, so regions_class_order"),
        ({"labels": {"background": 0, "liver": 1, "tumor": 1}}, "a value has two names"),
        ({"labels": {"0": "background", "9" * 5000: "liver"}}, "integers from 0 to 65535, got 'background' for '0'"),
    ],
)
def test_descriptions_that_cannot_be(tmp_path: Path, content: Any, message: str) -> None:
    if content == "\udcff":
        (tmp_path / "dataset.json").write_bytes(b"\xff")
    else:
        describe(tmp_path, content)
    with pytest.raises(DatasetError, match=message) as caught:
        read_class_names(DataSource(tmp_path), [])
    assert str(caught.value).startswith(str(tmp_path / "dataset.json"))
    assert len(str(caught.value)) < 1000


def test_a_description_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    describe(tmp_path, {"labels": {"0": "background"}})
    monkeypatch.setattr(nifti_description, "MAX_DESCRIPTION_BYTES", 10)
    with pytest.raises(DatasetError, match="more than 10 bytes, no description"):
        read_description(tmp_path)


def test_no_description(tmp_path: Path) -> None:
    assert read_description(tmp_path) == {}


def test_without_names_the_error_shows_what_to_write(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.nii" for number in range(7)]
    for number, file in enumerate(files):
        write_label_volume(file, LabelVolume(np.full((2, 2, 2), 10 * number, np.uint8), np.eye(4)))
    with pytest.raises(DatasetError) as caught:
        read_class_names(DataSource(tmp_path), files)
    assert str(caught.value) == (
        f"{tmp_path}: the names of the classes are missing; the labels hold the values 0, 10, 20, 30, 40 (5 of 7 were "
        f"read). Write a YAML and give that as the data set:\n  format: nifti\n  path: {tmp_path}\n"
        "  names: {0: background, 10: NAME, 20: NAME, 30: NAME, 40: NAME}\n"
        f"or name them under `labels` in {tmp_path}/dataset.json"
    )
    source = DataSource(tmp_path, {"format": "nifti"}, tmp_path / "my.yaml")
    with pytest.raises(DatasetError, match=r"read\)\. Add to the YAML:\n  names: \{0: background, 10: NAME\}$"):
        read_class_names(source, files[1:2])
