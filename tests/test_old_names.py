"""What was renamed is read by its old name: with a notice where a user wrote it, without one where detseg did."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from detseg.config import from_dict, to_dict
from detseg.data.open import find_source
from detseg.data.source import DatasetError
from detseg.engine.settings import TrainConfig
from detseg.models.detector import DetectorConfig
from detseg.models.heads.dfl import DFLHeadConfig
from detseg.models.heads.yolox import YOLOXHeadConfig
from detseg.runtime.kinds import load_kind
from detseg.runtime.kinds.boxes import DetectionMetadata
from detseg.runtime.kinds.saving import Saving, make_writers
from detseg.runtime.onnx.file import parse_metadata
from detseg.runtime.writers.base import ImageWriter
from detseg.tasks.model_file import read_header

WEIGHTS = Path(__file__).parents[1] / "weights"


@pytest.fixture
def no_notice() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        yield


@pytest.mark.usefixtures("no_notice")
def test_released_headers_have_the_old_names() -> None:
    path = WEIGHTS / "detseg_n_shapes.safetensors"
    with safe_open(path, "np") as file:
        assert "bins" in json.loads(file.metadata()["detseg"])["model"]["head"], "else this shows nothing"
    model = read_header(path).model
    assert isinstance(model, DetectorConfig)
    assert isinstance(model.head, DFLHeadConfig)
    assert model.head.reg_max == 16


@pytest.mark.usefixtures("no_notice")
def test_a_model_file_with_the_old_head(tmp_path: Path) -> None:
    path = WEIGHTS / "detseg_n_shapes.safetensors"
    with safe_open(path, "np") as file:
        header = json.loads(file.metadata()["detseg"])
    header["model"]["head"] = {"name": "direct"}
    save_file(load_file(path), tmp_path / "old.safetensors", {"detseg": json.dumps(header)})
    model = read_header(tmp_path / "old.safetensors").model
    assert isinstance(model, DetectorConfig)
    assert isinstance(model.head, YOLOXHeadConfig)


@pytest.mark.usefixtures("no_notice")
@pytest.mark.parametrize(
    ("head", "kind", "reg_max"),
    [
        ({"kind": "direct", "strides": [8, 16, 32]}, "yolox", 16),
        ({"kind": "dfl", "strides": [8], "bins": 8}, "dfl", 8),
    ],
)
def test_exported_files_of_before(head: dict[str, object], kind: str, reg_max: int) -> None:
    data = {
        "format": 1, "version": "0.1.0", "task": "detection", "form": "raw", "class_names": ["a"], "category_ids": [0],
        "input": {"height": 64, "width": 64}, "head": head, "postprocess": {},
    }  # fmt: skip
    metadata = parse_metadata({"detseg": json.dumps(data)}, Path("old.onnx"))
    assert isinstance(metadata, DetectionMetadata)
    assert (metadata.head.kind, metadata.head.reg_max) == (kind, reg_max)


def test_configurations() -> None:
    with pytest.warns(FutureWarning, match=r"mine.yaml: head: direct is now called yolox"):
        model = from_dict(DetectorConfig, {"head": "direct"}, "mine.yaml")
    assert isinstance(model.head, YOLOXHeadConfig)
    with pytest.warns(FutureWarning, match=r"head.bins is now called head.reg_max"):
        model = from_dict(DetectorConfig, {"head": {"bins": 8}}, "mine.yaml")
    assert to_dict(model.head) == {"name": "dfl", "reg_max": 8, "activation": "silu"}
    for old, new in (("fused", "default"), ("graphs", "reduce-overhead")):
        with pytest.warns(FutureWarning, match=f"compile: {old} is now called {new}"):
            assert from_dict(TrainConfig, {"compile": old}, "mine.yaml").compile == new


def test_descriptions_of_data_sets(tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_text("format: masks\nnames: [a]\nvoid: 3\ndivision: {folds: 5}\n")
    with pytest.warns(FutureWarning, match="is now called") as told:
        source = find_source(path)
    assert len(told) == 2
    assert dict(source.settings) == {"format": "masks", "names": ["a"], "ignore_index": 3, "split": {"folds": 5}}
    path.write_text("format: masks\nnames: [a]\nvoid: 3\nignore_index: 255\n")
    with pytest.raises(DatasetError, match=r"ignore_index is given twice, also as void.*keep ignore_index"):
        find_source(path)


def test_what_to_save(tmp_path: Path) -> None:
    saving = Saving(load_kind("boxes"), tmp_path, ("a", "b"), (1, 2), ("a.png",))
    with pytest.warns(FutureWarning, match="--save: picture is now called image"):
        (writer,) = make_writers(["picture"], saving, "detection")
    assert isinstance(writer, ImageWriter)
    with pytest.raises(ValueError, match=r"unknown pictures; allowed for detection are drawn, image, video"):
        make_writers(["pictures"], saving, "detection")
