"""Targets, losses and decoding agree: a detector that learns four images by heart finds their boxes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from detseg.augment.pipeline import EvalPipeline
from detseg.config import load_config
from detseg.data.open import open_dataset
from detseg.engine.settings import RunConfig
from detseg.tasks.model_file import ModelFileConfig

CONFIGS = Path(__file__).parents[2] / "configs" / "detection"
NUM_IMAGES = 4
NUM_STEPS = 400
LEARNING_RATE = 2e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "least"),
    [
        ("c2f_n", ["task.loss.min_target=0.1"], {"AP": 0.95, "AP50": 0.99}),
        ("e2e_n", ["task.loss.min_target=0.1"], {"AP": 0.9, "AP50": 0.99}),
        ("yolox_nano", [], {"AP": 0.7, "AP50": 0.9}),
    ],
)
def test_four_images_are_learned_by_heart(name: str, settings: list[str], least: dict[str, float]) -> None:
    size = ["task.input.height=128", "task.input.width=128"]
    config = load_config(RunConfig, CONFIGS / f"{name}.yaml", size + settings)
    data = open_dataset("shapes", "train", None, "boxes")
    torch.manual_seed(0)
    model, task = ModelFileConfig(config.model, config.task, data.class_names, data.category_ids).build()
    criterion = config.task.build_criterion(model, task)
    place = EvalPipeline(config.task.input)
    batch = criterion.collate([place(data.load(index)) for index in range(NUM_IMAGES)])
    images = task.normalize(batch.images)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0)
    model.train()
    for step in range(NUM_STEPS):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 10) * (1 - step / NUM_STEPS)
        optimizer.zero_grad()
        criterion(model(images), batch).total().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()

    evaluator = task.evaluator(data.class_names, data.category_ids)
    with torch.inference_mode():
        found = task.results(task.infer(model.eval(), images), batch.transforms)
    for index, detections in enumerate(found):
        evaluator.update(data.image_id(index), detections, data.ground_truth(index))
    metrics = evaluator.compute()
    assert {metric: metrics[metric] > value for metric, value in least.items()} == dict.fromkeys(least, True), metrics
