"""Prediction on a video and on images with an exported n detector, against Ultralytics in the same run.

    python bench/predict.py --peer-python PEER_ENV/bin/python --peer-weights yolov8n.pt --video FILM --images FOLDER

The peer lives in an environment of its own (``pip install ultralytics onnx onnxruntime openvino``). Both have the
weights of its checkpoint, each its own files for 640 pixels, and the settings confidence 0.25, IoU 0.7, one image at a
time. All else is each program's default. The peer's exporter makes files for 640x640 by default, to which all images
are padded; with ``dynamic=True`` they are padded as little as in torch. Both are measured, in ONNX and in OpenVINO, as
rows of their own. Exports of detseg's are always free in size, and padded as little; the same file runs in ONNX Runtime
and in OpenVINO, there in bf16 too where the processor has it.

Video: whole processes, ``detseg predict`` and ``yolo predict``, that draw the boxes and save the written. What a
process takes for the first frame alone is measured too and taken off, so that starting does not count. Images: from
file to boxes in a process that is warm, in torch and in ONNX Runtime. The programs take turns; the ratios of the
medians are what to look at.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import detseg
from detseg.conversion.convert import convert
from detseg.exporters.export import export_model
from detseg.runtime.inputs.geometry import InputSpec, fitted
from detseg.runtime.media.images import read_image
from detseg.runtime.media.video_file import OpenCVVideo
from detseg.runtime.onnx.choice import Way, ways
from detseg.runtime.onnx.model import OnnxModel
from detseg.runtime.sources.finding import expand_sources
from detseg.runtime.sources.video_reader import Section, read_video

PREPARE = """
import sys, shutil
from ultralytics import YOLO
weights, folder = sys.argv[1:]
for dynamic, name in ((False, "peer"), (True, "peer-dynamic")):
    copy = shutil.copy(weights, f"{folder}/{name}.pt")  # it writes beside them
    for kind in ("onnx", "openvino"):
        YOLO(copy).export(format=kind, imgsz=640, dynamic=dynamic)
"""
SIZE = (640, 640)
PEER_FILES = {
    "peer.onnx": "ONNX",
    "peer-dynamic.onnx": "ONNX, dynamic",
    "peer_openvino_model": "OpenVINO",
    "peer-dynamic_openvino_model": "OpenVINO, dynamic",
}
"""What the peer exports, and what it is called in the table."""
IMAGES = """
import sys, time, json
import torch
from ultralytics import YOLO
torch.set_num_threads(int(sys.argv[3]))
model, paths = YOLO(sys.argv[1], task="detect"), json.loads(sys.argv[2])
def run():
    boxes = 0
    for path in paths:
        for found in model.predict(path, imgsz=640, conf=0.25, iou=0.7, verbose=False, device="cpu"):
            boxes += len(found.boxes)
    return boxes
run()
start = time.perf_counter()
boxes = run()
print(json.dumps([(time.perf_counter() - start) / len(paths), boxes]))
"""


def make_models(peer_python: Path, peer_weights: Path, folder: Path) -> tuple[Path, Path]:
    """The peer's weights as a model file of detseg's and as its ONNX file; ``folder/peer.onnx`` is the peer's."""
    subprocess.run([peer_python, "-c", PREPARE, peer_weights, folder], check=True, capture_output=True)
    package = folder / "detseg.safetensors"
    convert(peer_weights, package)
    return package, Path(export_model(package, folder / "detseg.onnx", size=SIZE).path)


def seconds(command: list[str | Path]) -> float:
    """How long a process takes."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def first_frame(video: Path, folder: Path) -> Path:
    path = folder / "first.avi"
    with OpenCVVideo(path, 25) as written:
        frame = next(iter(read_video(video, Section())))
        written.append(frame.pixels, "first")
    return path


def measure_video(options: argparse.Namespace, model: Path, folder: Path) -> list[str]:
    num_frames = sum(1 for _ in read_video(options.video))
    short = first_frame(options.video, folder)
    peer_command = [
        options.peer_python.with_name("yolo"),
        "predict",
        "imgsz=640",
        "conf=0.25",
        "iou=0.7",
        "device=cpu",
        "verbose=False",
        f"project={folder}",
        "exist_ok=True",
    ]
    words = ["--save", "drawn", "-o", folder / "out", "--overwrite"]

    def own(runtime: str, precision: str) -> Callable[[Path], float]:
        command = [sys.executable, "-m", "detseg", "predict", model, "--runtime", runtime, "--precision", precision]
        return lambda written: seconds([*command, *words, written])

    def peer_of(name: str) -> Callable[[Path], float]:
        return lambda written: seconds([*peer_command, f"model={folder / name}", f"source={written}"])

    programs: dict[str, Callable[[Path], float]] = {
        "yolo predict": peer_of("peer.onnx"),
        "yolo predict, dynamic": peer_of("peer-dynamic.onnx"),
        "yolo predict, OpenVINO, dynamic": peer_of("peer-dynamic_openvino_model"),
        **{f"detseg predict, {runtime} {precision}": own(runtime, precision) for runtime, precision in ways()},
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for _ in range(options.rounds):
        for name, run in programs.items():
            found[name].append((run(options.video), run(short)))
    rows = {}
    for name, times in found.items():
        whole, start = (statistics.median(column) for column in zip(*times, strict=True))
        rows[name] = (num_frames - 1) / (whole - start), whole, start
    peer = rows["yolo predict"]
    return [
        f"| {name} | {rate:.1f} | {whole:.1f} | {start:.2f} | {rate / peer[0]:.2f} | {peer[1] / whole:.2f} |"
        for name, (rate, whole, start) in rows.items()
    ]


def detseg_images(path: Path, paths: list[Path], threads: int, **settings: Any) -> tuple[float, int]:
    """Seconds per image, and the number of boxes."""
    model = detseg.load(path, device="cpu", num_threads=threads, size=SIZE, **settings)

    def run() -> int:
        return sum(len(found.result) for found in model.predict(paths))  # type: ignore[arg-type]

    run()
    start = time.perf_counter()
    boxes = run()
    return (time.perf_counter() - start) / len(paths), boxes


def network_alone(path: Path, paths: list[Path], threads: int, way: Way) -> float:
    """Seconds per image of the exported network, whose inputs, of the sizes of the images, are there already."""
    model = OnnxModel(path, threads, precision=None if way[0] == "onnxruntime" else way[1])
    spec = fitted(InputSpec(*SIZE), 32)
    shapes = [(1, 3, *spec.input_size(*read_image(path).shape[:2])) for path in paths]
    inputs = {shape: np.random.default_rng(0).random(shape, np.float32) for shape in set(shapes)}
    for array in inputs.values():
        model.run(array)
    start = time.perf_counter()
    for shape in shapes:
        model.run(inputs[shape])
    return (time.perf_counter() - start) / len(paths)


def measure_images(options: argparse.Namespace, package: Path, model: Path, folder: Path) -> list[str]:
    paths = expand_sources([options.images])[: options.num_images]
    listing = json.dumps([str(path.resolve()) for path in paths])

    def peer(weights: Path) -> tuple[float, int]:
        command = [options.peer_python, "-c", IMAGES, weights, listing, str(options.threads)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        per_image, boxes = json.loads(done.stdout.splitlines()[-1])
        return per_image, boxes

    programs: dict[str, Callable[[], tuple[float, int]]] = {
        "Ultralytics, torch": lambda: peer(options.peer_weights),
        "detseg, torch": lambda: detseg_images(package, paths, options.threads),
    }
    for name, title in PEER_FILES.items():
        programs[f"Ultralytics, {title}"] = partial(peer, folder / name)
    for way in ways():
        runtime, precision = way
        settings: Any = {"runtime": runtime, "precision": precision}
        programs[f"detseg, {runtime} {precision}"] = partial(detseg_images, model, paths, options.threads, **settings)
        programs[f"detseg, {runtime} {precision}, network alone"] = partial(
            _without_boxes, partial(network_alone, model, paths, options.threads, way)
        )
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in programs}
    for _ in range(options.rounds):
        for name, run in programs.items():
            found[name].append(run())
    medians = {name: statistics.median(time for time, _ in times) for name, times in found.items()}
    best = min(time for name, time in medians.items() if name.startswith("Ultralytics"))
    default = medians[f"Ultralytics, {PEER_FILES['peer.onnx']}"]
    rows = []
    for name, per_image in medians.items():
        boxes = found[name][0][1] or "-"
        alone = medians.get(f"{name}, network alone")
        share = "-" if alone is None else f"{100 * (1 - alone / per_image):.0f} %"
        ratios = f"{best / per_image:.2f} | {default / per_image:.2f}"
        rows.append(f"| {name} | {1000 * per_image:.1f} | {ratios} | {share} | {boxes} |")
    return rows


def _without_boxes(measure: Callable[[], float]) -> tuple[float, int]:
    return measure(), 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, required=True, help="the peer's interpreter")
    parser.add_argument("--peer-weights", type=Path, required=True, help="a YOLOv8n checkpoint")
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--no-video", action="store_true", help="measure images only")
    parser.add_argument("--num-images", type=int, default=80, help="of the folder (default 80)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each program")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    cv2.setNumThreads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        package, model = make_models(options.peer_python, options.peer_weights.resolve(), folder)
        images = measure_images(options, package, model, folder)
        video = [] if options.no_video else measure_video(options, model, folder)
    print(f"{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads, {options.rounds} rounds")
    print("\n| video | frames/s | whole process, s | of it start, s | ratio of rates | ratio of processes |")
    print("|---|---|---|---|---|---|", *video, sep="\n")
    print("\n| images | ms per image | peer's best / this | peer's ONNX default / this | not network | boxes |")
    print("|---|---|---|---|---|---|", *images, sep="\n")


if __name__ == "__main__":
    main()
