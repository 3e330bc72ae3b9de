"""detseg as ``pip install detseg`` gives it, without extras: no torch, and the same results."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from packaging.requirements import Requirement

import detseg
from detseg.exporters.export import export_model
from detseg.models.backbones.csp_darknet import CSPDarknetConfig
from detseg.models.detector import DetectorConfig
from detseg.runtime.inputs.geometry import InputSpec
from detseg.tasks.detection import DetectionTaskConfig
from detseg.tasks.model_file import ModelFileConfig, save_model_file

MAX_INSTALL_MB = 350
SETTINGS = {"confidence": 0.0011, "max_detections": 5}


def base_distributions(name: str, seen: set[str] | None = None) -> Iterator[Distribution]:
    """``name`` and all that it requires without extras."""
    seen = set() if seen is None else seen
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in seen:
        return
    seen.add(key)
    found = distribution(name)
    yield found
    for text in found.requires or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield from base_distributions(requirement.name, seen)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with links to what the base install has, and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "detseg").symlink_to(Path(detseg.__file__).parent)
    for found in base_distributions("detseg"):
        for file in found.files or []:
            top = Path(file.parts[0])
            link = folder / top
            if top.suffix != ".pth" and top.name not in ("..", "__pycache__", "bin") and not link.exists():
                link.symlink_to(Path(str(found.locate_file(top))).resolve())
    return folder


def run(site: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Python without its own site-packages."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-S", "-s", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_base_install_has_no_torch(site: Path) -> None:
    done = run(site, "-c", "import cv2, numpy, onnxruntime, tqdm, yaml, detseg; import torch")
    assert done.returncode == 1
    assert "No module named 'torch'" in done.stderr
    names = {path.name for path in site.iterdir()}
    assert {"cv2", "numpy", "onnxruntime", "yaml", "tqdm"} <= names
    assert not {"torch", "torchvision", "pycocotools", "albumentations", "monai", "matplotlib"} & names


def test_the_base_install_is_small() -> None:
    sizes = {
        found.name: sum(
            file.locate().stat().st_size for file in found.files or [] if Path(str(file.locate())).is_file()
        )
        for found in base_distributions("detseg")
    }
    assert sum(sizes.values()) / 1e6 < MAX_INSTALL_MB, sizes


def test_a_model_file_for_torch_says_what_is_missing(site: Path, tmp_path: Path) -> None:
    (tmp_path / "best.safetensors").write_bytes(b"")
    done = run(site, "-m", "detseg", "predict", tmp_path / "best.safetensors", tmp_path)
    assert done.returncode != 0
    assert (
        "needs torch, which is not installed: pip install 'detseg[train]', or run the model as an .onnx" in done.stderr
    )


@pytest.mark.slow
def test_a_video_without_torch_gives_what_torch_gives(site: Path, tmp_path: Path) -> None:
    config = ModelFileConfig(
        DetectorConfig(backbone=CSPDarknetConfig(width=0.125)),
        DetectionTaskConfig(input=InputSpec(64, 96)),
        ("circle", "square", "triangle"),
        (1, 2, 3),
    )
    torch.manual_seed(0)
    network, _ = config.build()
    with torch.no_grad():
        for branch in network.get_submodule("head.box_branches"):
            branch[-1].bias.copy_(-torch.arange(16).repeat(4))  # boxes of about a cell, which do not overlap much
    save_model_file(tmp_path / "model.safetensors", network.state_dict(), config)
    export_model(tmp_path / "model.safetensors", tmp_path / "model.onnx", postprocess=SETTINGS)
    video = cv2.VideoWriter(str(tmp_path / "footage.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (150, 90))
    for image in np.random.default_rng(0).integers(0, 256, (6, 90, 150, 3), np.uint8):
        video.write(cv2.GaussianBlur(image, (9, 9), 0))
    video.release()

    settings = ("--conf", "0.0011", "--max-det", "5")
    save = ("--save", "jsonl,coco,csv,yolo,drawn", "-o", str(tmp_path / "out"))
    done = run(site, "-m", "detseg", "predict", tmp_path / "model.onnx", tmp_path / "footage.avi", *settings, *save)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    expected = list(
        detseg.load(tmp_path / "model.safetensors", device="cpu", **SETTINGS).predict(tmp_path / "footage.avi")
    )
    assert len(lines) == len(expected) == 6
    for line, prediction in zip(lines, expected, strict=True):
        found, wanted = line["detections"], prediction.result
        assert len(found) == len(wanted) == 5  # type: ignore[arg-type]
        assert [box["class_index"] for box in found] == wanted.labels.tolist()
        np.testing.assert_allclose([box["box_xyxy"] for box in found], wanted.boxes_xyxy, atol=0.01)  # type: ignore[union-attr]
        np.testing.assert_allclose([box["score"] for box in found], wanted.scores, atol=1e-4)  # type: ignore[union-attr]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"footage.mp4", "detections.json", "detections.csv", "labels"} <= names

    tracked = run(
        site,
        "-m",
        "detseg",
        "predict",
        tmp_path / "model.onnx",
        tmp_path / "footage.avi",
        "--track",
        "--overwrite",
        *save,
    )
    assert tracked.returncode == 0, tracked.stderr
