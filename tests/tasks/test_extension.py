"""A model and a task of one's own: one file, one line in a table, and every verb works with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from detseg.cli import main
from detseg.models import MODELS
from detseg.runtime.media.images import write_image
from detseg.tasks import TASKS

MODEL = '''
"""A segmentation network of one's own."""
from dataclasses import dataclass
from torch import nn

@dataclass(frozen=True)
class PlainConfig:
    name: str = "plain"
    def build(self, num_classes): return Plain(num_classes)

class Plain(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self.conv = nn.Conv2d(3, num_classes, 3, padding=1)
    def forward(self, images): return self.conv(images)
'''

TASK = '''
"""Foreground against background: one logit, which is positive where any class but the first is."""
from dataclasses import dataclass, field
import torch
from torch import nn
from detseg.losses.base import LossSum
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.postprocess.config import InfererConfig
from detseg.structures import IGNORE_INDEX
from detseg.tasks.base import make_batch
from detseg.tasks.semantic import SemanticTask

@dataclass(frozen=True)
class ForegroundTaskConfig:
    target = "masks"
    prediction_settings = {}
    first_category_id = 0
    name: str = "foreground"
    input: InputSpec = field(default_factory=lambda: InputSpec(64, 64))
    postprocess: InfererConfig = field(default_factory=InfererConfig)
    background_weight: float = 1.0

    @property
    def train_size(self): return self.input.height, self.input.width
    def adapted_to(self, data): return self
    def build(self, model, class_names, category_ids=None): return ForegroundTask(self, class_names, category_ids)
    def build_criterion(self, model, task): return ForegroundCriterion(self.background_weight)
    @classmethod
    def from_metadata(cls, metadata):
        return cls(input=metadata.input, postprocess=metadata.postprocess).build(
            None, metadata.class_names, metadata.category_ids
        )
    @classmethod
    def evaluation_settings(cls, metadata, path): return {}

class Scores(nn.Module):
    """The foreground's logit as logits of all classes: that of class 1, the others never win."""
    def __init__(self, model, num_classes):
        super().__init__()
        self.model, self.num_classes = model, num_classes
    def forward(self, images):
        logit = self.model(images)[:, :1]
        rest = [torch.full_like(logit, -100.0)] * (self.num_classes - 2)
        return torch.cat([torch.zeros_like(logit), logit, *rest], dim=1)

class ForegroundTask(SemanticTask):
    def infer(self, model, images): return super().infer(Scores(model, len(self.class_names)), images)
    def export_graph(self, model, form): return super().export_graph(Scores(model, len(self.class_names)), form)

class ForegroundCriterion:
    def __init__(self, background_weight): self.background_weight = background_weight
    def prepare(self, data): return {}
    def collate(self, samples):
        return make_batch(samples, {"mask": torch.stack([torch.from_numpy(one.mask) for one in samples])})
    def __call__(self, raw, batch):
        mask = batch.targets["mask"]
        judged, target = mask != IGNORE_INDEX, (mask > 0).float()
        weight = judged * torch.where(target > 0, 1.0, self.background_weight)
        loss = nn.functional.binary_cross_entropy_with_logits(raw[:, 0].float(), target, weight, reduction="sum")
        return LossSum({"foreground": loss}, weight.sum())
'''

RUN = """
model: {model}
task: {{name: {task}, input: {{height: 64, width: 64}}}}
data: {{path: shapes.yaml, num_workers: 0}}
augment: {{mosaic: 0}}
train: {{epochs: 1, batch_size: 4, device: cpu, num_threads: 1}}
"""
SHAPES = "{format: shapes, image_size: 64, num_train: 8, num_val: 2, max_objects: 2, min_side: 16, max_side: 30}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with data and an image; modules in it can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "shapes.yaml").write_text(SHAPES)
    (tmp_path / "ones_own_model.py").write_text(MODEL)
    monkeypatch.setitem(MODELS, "plain", "ones_own_model:PlainConfig")
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    write_image(tmp_path / "image.png", image)
    return tmp_path


def run_every_verb(folder: Path, task: str) -> None:
    (folder / "run.yaml").write_text(RUN.format(model="plain", task=task))
    assert main(["train", "run.yaml", "-o", "run"]) == 0
    best = "run/best.safetensors"
    assert main(["export", best, "-o", "model.onnx"]) == 0
    metrics = []
    for model in (best, "model.onnx"):
        found, measured = f"{Path(model).suffix[1:]}_found", f"{Path(model).suffix[1:]}.json"
        measure = ["eval", model, "--data", "shapes.yaml", "--device", "cpu", "--workers", "0"]
        assert main([*measure, "--json", measured, "-o", f"{found}_report"]) == 0
        save = ["--save", "drawn,mask,jsonl", "--device", "cpu"]
        assert main(["predict", model, "image.png", "-o", found, *save]) == 0
        (line,) = (json.loads(line) for line in (folder / found / "results.jsonl").read_text().splitlines())
        assert sum(one["pixels"] for one in line["classes"].values()) == 70 * 90
        assert {path.name for path in (folder / found).iterdir()} == {
            "masks", "image.png", "results.jsonl", "sources.json"
        }  # fmt: skip
        metrics.append(json.loads((folder / measured).read_text()))
    assert metrics[0].keys() == metrics[1].keys()
    assert metrics[0]["mIoU"] == pytest.approx(metrics[1]["mIoU"], abs=2e-3)
    assert (folder / "run" / "report.html").exists()


def test_a_model_needs_no_more_than_build_and_forward(folder: Path) -> None:
    run_every_verb(folder, "semantic")


def test_a_task_brings_its_own_criterion_and_reuses_a_kind_of_results(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "ones_own_task.py").write_text(TASK)
    monkeypatch.setitem(TASKS, "foreground", "ones_own_task:ForegroundTaskConfig")
    run_every_verb(folder, "foreground")
    records = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(record["loss"] == record["loss/foreground"] > 0 for record in records)
    # Who does not know the task can use the file, and cannot judge it.
    monkeypatch.delitem(TASKS, "foreground")
    assert main(["predict", "model.onnx", "image.png", "-o", "again"]) == 0
    assert main(["eval", "model.onnx", "--data", "shapes.yaml"]) == 2
    assert (
        "nothing judges the task 'foreground' here; known are detection, instance, semantic, volume"
        in capsys.readouterr().err
    )
