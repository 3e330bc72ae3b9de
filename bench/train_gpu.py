"""Images per second of optimizer steps on a GPU: the n detector, LETNet and V-Net, as the trainer takes them.

    python bench/train_gpu.py

A step is that of ``detseg train`` without its data loader: a batch in page-locked memory is copied, goes through the
network, the loss and backward, the weights and their average move. Precisions are float32 (with TF32, as trained by
default) and bf16 with autocast; ``--compile`` adds ``torch.compile``, which takes a minute for each network. How often
the host waits for the GPU in a step is counted by ``torch.cuda.set_sync_debug_mode``, where there is a GPU.
``--device cpu --tiny`` tries the script without one. A second table says how long the device takes to draw a batch of
mosaics with ``augment.device: model``, and what it is sent.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from gpu import describe, markdown_table, median_seconds

from detseg.augment.config import AugmentConfig
from detseg.augment.packing import pack
from detseg.augment.pipeline import PlanPipeline
from detseg.engine.distributed import Group
from detseg.engine.settings import TrainConfig
from detseg.engine.training.trainer import Trainer
from detseg.models.backbones.csp_darknet import CSPDarknetConfig
from detseg.models.detector import DetectorConfig
from detseg.models.letnet import LETNetConfig
from detseg.models.vnet import VNetConfig
from detseg.ops.precision import gpu_arithmetic
from detseg.runtime.inputs.geometry import InputSpec
from detseg.structures import LetterboxTransform, Sample
from detseg.tasks.base import Batch
from detseg.tasks.detection import DetectionTaskConfig
from detseg.tasks.semantic import SemanticTaskConfig
from detseg.tasks.volume import VolumeTaskConfig

HEADER = ("network, batch", "precision", "compiled", "images/s", "ms per step", "waits per step", "peak MiB")
DRAWING_HEADER = ("drawn on the device", "images/s", "ms per batch", "MiB sent", "waits per batch", "peak MiB")
Case = tuple[Any, Any, int, Batch]


def detector(tiny: bool) -> Case:
    """The n detector with 80 classes at 640 x 640, eight objects in each image."""
    side, count, num_classes, num_objects = (64, 2, 3, 2) if tiny else (640, 32, 80, 8)
    config = DetectorConfig(backbone=CSPDarknetConfig(width=0.125 if tiny else 0.25))
    corner = torch.rand(count, num_objects, 2) * side * 0.6
    boxes = torch.cat([corner, corner + 8 + torch.rand(count, num_objects, 2) * side * 0.3], dim=2)
    labels = torch.randint(num_classes, (count, num_objects))
    images = torch.randint(256, (count, 3, side, side), dtype=torch.uint8)
    task = DetectionTaskConfig(input=InputSpec(side, side))
    return config, task, num_classes, batch_of(images, {"boxes_xyxy": boxes, "labels": labels})


def letnet(tiny: bool) -> Case:
    """LETNet with CamVid's 11 classes at its size."""
    height, width, count = (32, 64, 2) if tiny else (360, 480, 16)
    images = torch.randint(256, (count, 3, height, width), dtype=torch.uint8)
    mask = torch.randint(11, (count, height, width), dtype=torch.uint8)
    return LETNetConfig(), SemanticTaskConfig(input=InputSpec(height, width)), 11, batch_of(images, {"mask": mask})


def vnet(tiny: bool) -> Case:
    """V-Net with three classes on patches of 96 voxels a side."""
    side, count = (16, 1) if tiny else (96, 2)
    images = torch.randn(count, 1, side, side, side)
    labels = torch.randint(3, (count, side, side, side), dtype=torch.uint8)
    config = VNetConfig(width=4, num_convolutions=(1, 1)) if tiny else VNetConfig()
    return config, VolumeTaskConfig(patch=(side, side, side)), 3, batch_of(images, {"labels": labels})


NETWORKS: dict[str, Callable[[bool], Case]] = {"detector n": detector, "LETNet": letnet, "V-Net": vnet}


def batch_of(images: torch.Tensor, targets: dict[str, torch.Tensor]) -> Batch:
    """A batch as the loader gives it."""
    count = len(images)
    return Batch(images, targets, tuple(range(count)), tuple(map(str, range(count))), ())


def make_trainer(case: Case, device: torch.device, precision: str, compiled: bool, folder: Path) -> Trainer:
    """A trainer whose data are not asked for."""
    model_config, task_config, num_classes, _ = case
    torch.manual_seed(0)
    names = tuple(f"class {number}" for number in range(num_classes))
    model = model_config.build(num_classes=num_classes)
    task = task_config.build(model, names)
    criterion = task_config.build_criterion(model, task)
    model = model.to(device, memory_format=task.memory_format).train()
    config = TrainConfig(amp="bf16" if precision == "bf16" else "none", compile="default" if compiled else "none")
    return Trainer(
        model=model,
        task=task,
        criterion=criterion,
        loader=SimpleNamespace(batches_per_epoch=1000, bad_images_of_epoch={}),  # type: ignore[arg-type]
        config=config,
        evaluate=lambda _: SimpleNamespace(),  # type: ignore[arg-type, return-value]
        save_model=lambda path, weights: None,
        run_dir=folder,
        group=Group(),
        device=device,
    )


def count_waits(step: Callable[[], object], device: torch.device) -> int | None:
    """How often the host waits for the GPU in a step; None without one."""
    if device.type != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in said)


def measure(name: str, device: torch.device, precision: str, compiled: bool, options: Any) -> dict[str, Any]:
    """Images per second, waits and memory of one network."""
    case = NETWORKS[name](options.tiny)
    batch = case[3]
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(case, device, precision, compiled, Path(folder))
        if device.type == "cuda":
            batch = batch.pin_memory()
            torch.cuda.reset_peak_memory_stats(device)

        def step() -> None:
            trainer._step(trainer.learner.joined(), [batch])

        with gpu_arithmetic(tf32=True, fixed_shapes=True):
            for _ in range(1 if options.tiny else 5):
                step()
            waits = count_waits(step, device)
            seconds = median_seconds([step], device, options.seconds)
        trainer.settle()
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    count = len(batch.images)
    return {
        "network": name,
        "batch_size": count,
        "precision": precision,
        "compiled": compiled,
        "images_per_second": count / seconds,
        "ms": 1e3 * seconds,
        "waits": waits,
        "peak_mib": peak,
    }


def row_of(figures: dict[str, Any]) -> list[str]:
    """A row of the table; what was not measured is a dash."""
    return [
        f"{figures['network']}, {figures['batch_size']}",
        figures["precision"],
        "yes" if figures["compiled"] else "no",
        f"{figures['images_per_second']:.1f}",
        f"{figures['ms']:.2f}",
        "-" if figures["waits"] is None else str(figures["waits"]),
        "-" if figures["peak_mib"] is None else f"{figures['peak_mib']:.0f}",
    ]


def measure_drawing(device: torch.device, options: Any) -> dict[str, Any]:
    """The time to draw a batch of mosaics of photographs of COCO's size, with their packed bytes."""
    side, count = (64, 2) if options.tiny else (640, 32)
    generator = np.random.default_rng(0)
    sample = Sample(
        image=generator.integers(0, 256, (side * 3 // 4, side, 3), dtype=np.uint8),
        boxes_xyxy=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
        crowd=np.zeros(0, np.bool_),
        image_id=0,
        path="0.jpg",
        transform=LetterboxTransform.identity(side * 3 // 4, side),
    )
    pipeline = PlanPipeline(AugmentConfig().build())
    planned = [pipeline(lambda _: sample, count, index, 0, 0, (side, side)) for index in range(count)]
    packed = pack([one.picture for one in planned])
    there = packed.to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    there.draw()
    waits = count_waits(there.draw, device)
    seconds = median_seconds([there.draw], device, options.seconds)
    return {
        "batch_size": count,
        "side": side,
        "ms": 1e3 * seconds,
        "images_per_second": count / seconds,
        "sent_mib": packed.pixels.nbytes / 2**20,
        "waits": waits,
        "peak_mib": torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None,
    }


def drawing_row(figures: dict[str, Any]) -> list[str]:
    """A row of the table of drawing."""
    return [
        f"{figures['batch_size']} mosaics of {figures['side']} x {figures['side']}",
        f"{figures['images_per_second']:.1f}",
        f"{figures['ms']:.2f}",
        f"{figures['sent_mib']:.1f}",
        "-" if figures["waits"] is None else str(figures["waits"]),
        "-" if figures["peak_mib"] is None else f"{figures['peak_mib']:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--compile", action="store_true", help="measure each network compiled as well")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each measured figure")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--tiny", action="store_true", help="a trial of the script: small, and short")
    options = parser.parse_args()
    if options.tiny:
        options.seconds = 0.0
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device is visible; a trial without: --device cpu --tiny")
    measured = []
    for name in options.networks:
        for precision in options.precisions:
            for compiled in (False, True) if options.compile else (False,):
                measured.append(measure(name, device, precision, compiled, options))
                print("  ".join(row_of(measured[-1])), flush=True)
    drawing = measure_drawing(device, options)
    if options.json:
        figures = {"machine": describe(device), "cases": measured, "drawing": drawing}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"\n{describe(device)}\n")
    print(markdown_table(HEADER, [row_of(figures) for figures in measured]))
    print(f"\n{markdown_table(DRAWING_HEADER, [drawing_row(drawing)])}")


if __name__ == "__main__":
    main()
