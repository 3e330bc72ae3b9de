"""The front door in Python: the same as the command line, by functions."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import detseg
from detseg.engine.logging.callbacks import RunStart
from detseg.engine.logging.log import RECORDS_NAME, read_records
from detseg.structures import Metrics

SMALL = {
    "model": {"name": "detector", "backbone": {"name": "csp_darknet", "depth": 0.33, "width": 0.125}},
    "data.num_workers": 0,
    "train.num_threads": 1,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "shapes.yaml"
    path.write_text("{format: shapes, num_train: 6, num_val: 3, image_size: 64, min_side: 16, max_side: 24}")
    return path


class Listener(detseg.Callback):
    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    def on_start(self, run: RunStart) -> None:
        self.heard.append(("start", run))

    def on_epoch(self, record: Mapping[str, Any]) -> None:
        self.heard.append(("epoch", record))

    def on_result(self, run_dir: Path, metrics: Metrics) -> None:
        self.heard.append(("result", metrics))

    def on_close(self) -> None:
        self.heard.append(("close", None))


@pytest.fixture(scope="module")
def listener() -> Listener:
    return Listener()


@pytest.fixture(scope="module")
def run(data: Path, listener: Listener, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return detseg.train(
        "c2f_n",
        data,
        epochs=2,
        size=64,
        batch=3,
        device="cpu",
        seed=1,
        output=tmp_path_factory.mktemp("runs") / "mine",
        settings=SMALL,
        callbacks=[listener],
        progress=False,
    )


def test_what_is_public() -> None:
    assert dir(detseg) == sorted([*detseg.__all__, "__version__"])
    for name in detseg.__all__:
        assert getattr(detseg, name).__doc__, name
    with pytest.raises(AttributeError, match="'detseg' has no attribute 'segment'; it has Callback, Tracker, build"):
        detseg.segment  # noqa: B018


@pytest.mark.parametrize("name", [name for name in detseg.__all__ if name not in ("Callback", "Tracker")])
def test_arguments_have_names_and_types(name: str) -> None:
    function = getattr(detseg, name)
    for parameter in inspect.signature(function).parameters.values():
        assert parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL), parameter
        assert parameter.annotation is not inspect.Parameter.empty, parameter
        assert f"{parameter.name}:" in function.__doc__ or f"{parameter.name}," in function.__doc__, parameter.name


def test_importing_it_takes_no_libraries() -> None:
    code = "import sys, detseg; dir(detseg); print([name for name in ('torch', 'numpy', 'cv2') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_run_and_who_is_told_of_it(run: Any, listener: Listener) -> None:
    assert run.best == run.run_dir / "best.safetensors"
    kinds = [kind for kind, _ in listener.heard]
    assert kinds == ["start", "epoch", "epoch", "result", "close"]
    start = listener.heard[0][1]
    assert (start.num_train, start.num_val, start.num_epochs_done) == (6, 3, 0)
    assert start.class_names == ("circle", "square", "triangle")
    assert start.config["train"]["seed"] == 1
    assert [value["epoch"] for kind, value in listener.heard if kind == "epoch"] == [1, 2]
    assert [value for kind, value in listener.heard if kind == "epoch"] == read_records(run.run_dir / RECORDS_NAME)
    assert listener.heard[3][1]["AP"] == run.metrics["AP"]


def test_the_log_of_the_run_says_what_learned_from_what(run: Any, data: Path) -> None:
    said = (run.run_dir / "log.txt").read_text()
    for words in (
        "device: cpu, 1 threads, torch ",
        "model: detector, ",
        "parameters, detection at 64x64",
        f"data: {data}",
        "train: 6 images, ",
        "val: 3 images, ",
        "classes: 3: circle, square, triangle",
        "batches of 3, 2 steps in an epoch, 2 epochs",
        f"run folder: {run.run_dir}",
        "epoch 1/2: ",
        "epoch 2/2: ",
        " left)",
    ):
        assert words in said, words
    assert "\r" not in said


def test_an_error_in_a_callback_ends_the_run_which_can_go_on(data: Path, tmp_path: Path) -> None:
    class Broken(Listener):
        def on_epoch(self, record: Mapping[str, Any]) -> None:
            if record["epoch"] == 2:
                raise RuntimeError("it broke")

    broken = Broken()
    options: dict[str, Any] = {"epochs": 2, "size": 64, "batch": 3, "settings": SMALL, "progress": False}
    with pytest.raises(RuntimeError, match="it broke"):
        detseg.train("c2f_n", data, output=tmp_path / "run", callbacks=[broken], **options)
    assert broken.heard[-1] == ("close", None)
    after = Listener()
    result = detseg.train(resume=tmp_path / "run", callbacks=[after], progress=False)
    assert [value["epoch"] for kind, value in after.heard if kind == "epoch"] == [2]
    assert result.best.is_file()


def test_measured_by_the_folder_of_its_run(run: Any, data: Path, tmp_path: Path) -> None:
    found = detseg.evaluate(run.run_dir, data, device="cpu", workers=0, output=tmp_path / "report")
    assert found["AP"] == run.metrics["AP"] == found.metrics["AP"]
    assert repr(found) == f"Evaluation(AP {found['AP']:.4f}, 3 images of {data}, val)"
    assert found.reports == (tmp_path / "report" / "report.html",)
    assert "AP50" in found.table
    assert json.loads((tmp_path / "report" / "metrics.json").read_text())["AP"] == found["AP"]


def test_exported_and_loaded(run: Any, data: Path, tmp_path: Path) -> None:
    made = detseg.export(run.run_dir, tmp_path / "mine.onnx", confidence=0.1)
    assert made.path == tmp_path / "mine.onnx"
    onnx.checker.check_model(made.path)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for name in (run.run_dir, made.path):
        model = detseg.load(name, device="cpu", num_threads=1, confidence=0.0001, size=64)
        assert repr(model) == "Model(detection, 3 classes: circle, square, triangle)"
        (found,) = model(image)
        assert len(found) > 0
        (fewer,) = model(image, max_detections=2)
        assert len(fewer) == 2
        assert fewer.scores.tolist() == found.scores[:2].tolist()
        threshold = float(found.scores[1:3].mean())
        assert [len(one) for one in model([image, Image.fromarray(image)], confidence=threshold)] == [2, 2]
        (only,) = model(image, classes=[1])
        assert set(only.names) <= {"square"}
        (same,) = model(image, classes="square")
        assert same.boxes_xyxy.tolist() == only.boxes_xyxy.tolist()
        with pytest.raises(ValueError, match="no class 3, car; it has circle, square, triangle, or by position 0 to 2"):
            model(image, classes=[3, "car"])
        tracked = list(model.predict([image, image], track=True, confidence=threshold))
        assert all(one.track_ids is not None for one in tracked)


def test_a_bare_network() -> None:
    network = detseg.build("c2f_n", num_classes=3, settings={"model.backbone.width": 0.125})
    levels = network(torch.zeros(1, 3, 64, 64))
    assert [tuple(level.shape[2:]) for level in levels] == [(8, 8), (4, 4), (2, 2)]
    assert isinstance(detseg.build("letnet", num_classes=5), torch.nn.Module)
    with pytest.raises(ValueError, match="did you mean c2f_n"):
        detseg.build("c2f_nano", num_classes=3)


def test_a_set_is_looked_at(data: Path) -> None:
    report = detseg.check(data, fast=True)
    assert report.exit_code == 0
    assert "train" in report.render()


def test_a_checkpoint_of_another_program(detseg_data: Path, tmp_path: Path) -> None:
    report = detseg.convert(detseg_data / "weights" / "yolov8n_bccd.pt", tmp_path / "cells.safetensors")
    assert report.class_names == ("RBC", "WBC", "Platelets")
    assert detseg.load(tmp_path / "cells.safetensors", device="cpu").class_names == report.class_names


@pytest.mark.parametrize("size", [(64,), (64, 64, 64), (0, 64), "64", (64.5, 64)])
def test_sizes_that_are_none(size: Any, data: Path) -> None:
    with pytest.raises(ValueError, match=r"size must be height and width in pixels, such as \(480, 640\), or"):
        detseg.train("c2f_n", data, size=size)


def test_a_run_that_goes_on_is_named_alone(data: Path) -> None:
    with pytest.raises(ValueError, match="leave model and output out"):
        detseg.train("c2f_n", data, resume="runs/mine")
    with pytest.raises(ValueError, match="name a configuration or weights to train"):
        detseg.train()


@pytest.mark.parametrize(("given", "kind"), [(None, "NoneType"), (3, "int"), ([3], "list"), (np.zeros(3), "ndarray")])
def test_what_is_no_name_of_a_model_is_told(given: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=rf"model must be the name of a file or of released weights .*\.{kind}$"):
        detseg.load(given)
