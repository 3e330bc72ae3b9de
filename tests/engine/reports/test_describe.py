from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from detseg import __version__
from detseg.config import to_dict
from detseg.engine.reports.describe import describe
from detseg.runtime.inputs.geometry import InputSpec
from detseg.tasks.detection import DetectionTaskConfig


def test_what_was_measured(tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"weights")
    sections = describe(
        model,
        data="bccd",
        split="val",
        num_images=1234,
        settings=to_dict(DetectionTaskConfig(input=InputSpec(64, 96))),
        num_parameters=56789,
        device="cpu",
    )
    assert sections["Model"] == {
        "file": str(model), "sha256": hashlib.sha256(b"weights").hexdigest(), "parameters": "56,789"
    }  # fmt: skip
    assert sections["Data"] == {"data set": "bccd", "split": "val", "images": "1,234"}
    settings = sections["Settings"]
    assert (settings["input.height"], settings["input.width"]) == ("64", "96")
    assert settings["input.mean"] == "0.0, 0.0, 0.0"
    assert settings["postprocess.confidence"] == "0.001"
    assert not any(name.startswith("loss") for name in settings), "what only training needs"
    versions = sections["Versions"]
    assert (versions["detseg"], versions["numpy"], versions["device"]) == (__version__, np.__version__, "cpu")
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"")
    sections = describe(model, data="shapes", split="test", num_images=1, settings={})
    assert sections["Model"].keys() == {"file", "sha256"}
    assert sections["Settings"] == {}
    assert "device" not in sections["Versions"]
