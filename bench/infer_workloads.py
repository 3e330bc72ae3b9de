"""What the benchmark of inference runs: networks that behave like trained ones, and images like a camera's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from torch import Tensor, nn

from detseg.arrays import ByteArray
from detseg.config import from_dict
from detseg.runtime.media.images import write_image
from detseg.tasks.model_file import ModelFileConfig, adapt_task

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
MODELS: dict[str, tuple[str, int, tuple[int, int], tuple[int, int]]] = {
    "detector n": ("detection/c2f_n.yaml", 80, (640, 640), (600, 800)),
    "detector s": ("detection/c2f_s.yaml", 80, (640, 640), (600, 800)),
    "LETNet": ("semantic/letnet.yaml", 19, (512, 1024), (512, 1024)),
}
"""By name: configuration, number of classes, height and width of the input, and of the images."""
NUM_PASSING = 100
"""Anchors of an image whose best score is above the confidence threshold."""
_LOGIT_SPREAD = 1.75


@dataclass(frozen=True)
class Workload:
    """A network, fused and in evaluation mode on the CPU, its task, and images as arrays and as JPEG files."""

    name: str
    model: Any
    task: Any
    images: list[ByteArray]
    paths: list[Path]


def make_workload(name: str, num_images: int, folder: Path, tiny: bool) -> Workload:
    """One of ``MODELS`` with fresh weights; ``tiny``: with an input and images of a few pixels."""
    file, num_classes, size, image_size = MODELS[name]
    if tiny:
        size = image_size = (64, 128)
    content = yaml.safe_load((CONFIGS / file).read_text())
    class_names = [f"class {number}" for number in range(num_classes)]
    header = {"model": content["model"], "task": content["task"], "class_names": class_names}
    config = from_dict(ModelFileConfig, header, file)
    torch.manual_seed(0)
    model = config.model.build(num_classes=num_classes)
    task: Any = adapt_task(config.task, config.task.prediction_settings, size).build(model, class_names)
    images = [make_image(*image_size, seed) for seed in range(num_images)]
    inputs = task.normalize(torch.from_numpy(np.stack([task.spec.place(image)[0] for image in images[:4]])))
    settle(model, inputs)
    if task.name == "detection":
        set_scores(model, inputs, task.config.postprocess.confidence)
    paths = [folder / f"{name}-{number}.jpg" for number in range(num_images)]
    for path, image in zip(paths, images, strict=True):
        write_image(path, image)
    return Workload(name, model.fuse(), task, images, paths)


def make_image(height: int, width: int, seed: int) -> ByteArray:
    """``[H, W, 3]`` uint8: large soft spots with some noise, so that a JPEG has about the size of a photograph's."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 40), max(2, width // 40), 3)).astype(np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    image: ByteArray = cv2.add(smooth, rng.integers(0, 12, smooth.shape).astype(np.uint8)).astype(np.uint8)
    return image


@torch.no_grad()
def settle(model: nn.Module, inputs: Tensor) -> None:
    """Give the batch norms the statistics of ``inputs``, so that no value fades or overflows, also in float16; puts
    the model into evaluation mode."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    model.train()(inputs)
    model.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@torch.no_grad()
def set_scores(model: Any, inputs: Tensor, confidence: float) -> None:
    """Spread the class logits of a detector like a trained one's, and shift them so that ``NUM_PASSING`` anchors of an
    image have a score above ``confidence``."""
    predictors = [branch[-1] for branch in model.head.class_branches]
    for predictor, logits in zip(predictors, _class_logits(model, inputs), strict=True):
        predictor.weight.mul_(_LOGIT_SPREAD / float(logits.std()))
        predictor.bias.zero_()
    best = torch.cat([logits.amax(1).flatten() for logits in _class_logits(model, inputs)])
    num_passing = min(NUM_PASSING * len(inputs), len(best) // 2)
    limit = float(best.topk(num_passing).values[-1])
    for predictor in predictors:
        predictor.bias.fill_(math.log(confidence / (1 - confidence)) - limit)


def _class_logits(model: Any, inputs: Tensor) -> Sequence[Tensor]:
    return [raw[:, -model.num_classes :] for raw in model(inputs)]
