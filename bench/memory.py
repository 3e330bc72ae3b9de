"""How much the memory of a process grows while a video of 100,000 frames is predicted.

    python bench/memory.py

A tiny detector, exported to ONNX, runs over a small video that is read again and again; frames are decoded in a thread
and results written as CSV and JSON lines, as ``detseg predict`` does. Memory is what the process has in use (resident),
after the first tenth, when everything is set up, and at the end.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from itertools import repeat
from pathlib import Path

import numpy as np
import torch

import detseg
from detseg.exporters.export import export_model
from detseg.models.backbones.csp_darknet import CSPDarknetConfig
from detseg.models.detector import DetectorConfig
from detseg.models.heads.dfl import DFLHeadConfig
from detseg.models.necks.pan import PANConfig
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.media.video_file import OpenCVVideo
from detseg.runtime.writers.base import JsonLinesWriter
from detseg.runtime.writers.boxes import CsvWriter
from detseg.tasks.detection import DetectionTaskConfig
from detseg.tasks.model_file import ModelFileConfig, save_model_file

FRAMES_OF_FILM = 250
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """What this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def make_model(folder: Path) -> Path:
    """An exported detector of the smallest kind, which finds something in noise."""
    config = ModelFileConfig(
        DetectorConfig(
            backbone=CSPDarknetConfig(width=0.0625, depth=0.01), neck=PANConfig(depth=0.01), head=DFLHeadConfig(bins=4)
        ),
        DetectionTaskConfig(input=InputSpec(64, 64)),
        ("circle", "square"),
        (1, 2),
    )
    torch.manual_seed(0)
    network, _ = config.build()
    with torch.no_grad():
        for _ in range(20):  # norms that fit images
            network.train()(torch.rand(4, 3, 64, 64))
        for branch in network.head.class_branches:
            branch[-1].weight.mul_(20)  # scores that differ
            branch[-1].bias.fill_(-1.0)
    save_model_file(folder / "tiny.safetensors", network.state_dict(), config)
    settings = {"confidence": 0.1, "max_detections": 10}
    return Path(export_model(folder / "tiny.safetensors", folder / "tiny.onnx", postprocess=settings).path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = detseg.load(make_model(folder), num_threads=1)
        noise = np.random.default_rng(0).integers(0, 256, (FRAMES_OF_FILM, 48, 64, 3), np.uint8)
        with OpenCVVideo(folder / "video.avi", 25) as video:
            for image in noise:
                video.append(image, "noise")
        videos = repeat(folder / "video.avi", options.frames // FRAMES_OF_FILM)
        kind = model.runner.kind
        marks: list[tuple[int, int]] = []
        boxes, start = 0, time.perf_counter()
        with (
            CsvWriter(folder / "boxes.csv", model.class_names) as table,
            JsonLinesWriter(folder / "boxes.jsonl", lambda found: kind.record(found, model.class_names)) as lines,
        ):
            for number, found in enumerate(model.predict(videos, ahead=8), start=1):
                for writer in (table, lines):
                    writer.write(found.frame, found.result)
                boxes += len(found.result)
                if number % (options.frames // 10) == 0:
                    marks.append((number, resident_bytes()))
        seconds = time.perf_counter() - start
    print(f"{platform.machine()}; {number:,} frames in {seconds:.0f} s, {boxes:,} boxes\n")
    print("| frames | resident, MB | since the first tenth, MB |")
    print("|---|---|---|")
    for number, size in marks:
        print(f"| {number:,} | {size / 1e6:.2f} | {(size - marks[0][1]) / 1e6:+.2f} |")


if __name__ == "__main__":
    main()
