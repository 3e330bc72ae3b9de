"""The end-to-end detectors beside those of YOLOv8's shape: size, arithmetic, and time from an image to boxes.

    python bench/e2e.py [--sizes n s] [--runs 9]

Parameters and FLOPs (a multiplication and an addition are two, as papers count them; as many MACs are half of that) are
those of what is deployed, for 80 classes at 640x640. Times are of one image of 480x640 pixels in memory to its boxes
in ONNX Runtime on one core, by ``Model.predict``: letterbox, network, and decoding with NMS, or the best rows.
Both networks have fresh weights, and scores of which 100 anchors of an image pass. They take turns, so that a busy
machine slows both; the ratio is that of their medians, of processor time, which others do not lengthen.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx
import torch
from gpu import markdown_table
from infer_workloads import CONFIGS, NUM_PASSING, make_image, settle
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import detseg
from detseg.config import load_config
from detseg.engine.settings import RunConfig
from detseg.exporters.base import ExportSettings
from detseg.exporters.export import make_file
from detseg.runtime.model import Model
from detseg.tasks.model_file import adapt_task

NUM_CLASSES = 80
FAMILIES = ("c2f", "e2e")
SIDE = 640


def make(name: str, side: int, image: Any) -> tuple[nn.Module, Any]:
    """The detector ``name`` as it is deployed, and its task."""
    config: Any = load_config(RunConfig, CONFIGS / "detection" / f"{name}.yaml")
    torch.manual_seed(0)
    model: Any = config.model.build(NUM_CLASSES)
    task: Any = adapt_task(config.task, config.task.prediction_settings, (side, side))
    task = task.build(model, [f"class {number}" for number in range(NUM_CLASSES)])
    inputs = task.normalize(torch.from_numpy(task.spec.place(image)[0])[None])
    settle(model, torch.cat([inputs, inputs.flip(3)]))
    branches = model.head.one.classes if model.head.one_to_one else model.head.class_branches
    set_scores(model, [branch[-1] for branch in branches], inputs, task.config.postprocess.confidence)
    return model.fuse(), task


@torch.no_grad()
def set_scores(model: Any, predictors: list[Any], inputs: torch.Tensor, confidence: float) -> None:
    """Shift the class logits so that ``NUM_PASSING`` anchors of the image have a score above ``confidence``."""
    best = torch.cat([level[0, -NUM_CLASSES:].amax(0).flatten() for level in model(inputs)])
    limit = float(best.topk(min(NUM_PASSING, len(best) // 2)).values[-1])
    shift = float(torch.tensor(confidence).logit()) - limit
    for predictor in predictors:
        predictor.bias.add_(shift)


def count_flops(model: nn.Module, side: int) -> int:
    """Of one image, two for each multiplication with its addition."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, side, side))
    return int(counter.get_total_flops())


def load(model: nn.Module, task: Any, path: Path) -> Model:
    """The exported detector, on one core."""
    onnx.save(make_file(model, task, ExportSettings("fp32", task.forms[0]))[0], path)
    return detseg.load(path, num_threads=1, full_input=True)


def seconds(model: Model, image: Any) -> float:
    """Processor time from the image to its boxes."""
    begin = time.process_time()
    list(model.predict(image))
    return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["n"], choices=list("nsmlx"))
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--tiny", action="store_true", help="a trial of the script, with images of a few pixels")
    arguments = parser.parse_args()
    side = 64 if arguments.tiny else SIDE
    image = make_image(side * 3 // 4, side, seed=0)
    rows = []
    for size in arguments.sizes:
        facts, models, times = {}, {}, {}
        with tempfile.TemporaryDirectory() as folder:
            for family in FAMILIES:
                network, task = make(f"{family}_{size}", side, image)
                num_parameters = sum(parameter.numel() for parameter in network.parameters())
                facts[family] = num_parameters, count_flops(network, side)
                models[family] = load(network, task, Path(folder) / f"{family}.onnx")
                list(models[family].predict(image))
                times[family] = []
            for _ in range(arguments.runs):
                for family in FAMILIES:
                    times[family].append(seconds(models[family], image))
        medians = {family: statistics.median(times[family]) for family in FAMILIES}
        for family in FAMILIES:
            num_parameters, flops = facts[family]
            rows.append(
                [
                    f"{family}_{size}", f"{num_parameters / 1e6:.2f} M", f"{flops / 1e9:.2f} G",
                    f"{flops / 2e9:.2f} G", f"{1000 * medians[family]:.0f}",
                    f"{medians[FAMILIES[0]] / medians[family]:.2f}",
                ]
            )  # fmt: skip
    header = ["detector", "parameters", "FLOPs", "MACs", "ms to boxes, one core", "times as fast"]
    print(f"image {side * 3 // 4}x{side}, input {side}x{side}, median of {arguments.runs}, processor time")
    print(markdown_table(header, rows))


if __name__ == "__main__":
    main()
