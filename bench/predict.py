"""Prediction on a video and on images with an exported n detector, against Ultralytics in the same run.

    python bench/predict.py --peer-python PEER_ENV/bin/python --peer-weights yolov8n.pt --video FILM --images FOLDER

The peer lives in an environment of its own (``pip install ultralytics onnx onnxruntime``). Both have the weights of its
checkpoint, each its own ONNX file for 640 pixels, and the settings confidence 0.25, IoU 0.7, one image at a time. All
else is each program's default. The peer's exporter makes a file for 640x640 by default, to which all images are
padded; with ``dynamic=True`` they are padded as little as in torch, which is measured as a row of its own. Exports of
detseg's are always free in size, and padded as little.

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
from pathlib import Path

import cv2
import numpy as np

import detseg
from detseg.conversion.convert import convert
from detseg.exporters.export import export_model
from detseg.runtime.inputs.geometry import InputSpec, fitted
from detseg.runtime.media.images import read_image
from detseg.runtime.media.video_file import OpenCVVideo
from detseg.runtime.onnx.model import OnnxModel
from detseg.runtime.sources.finding import expand_sources
from detseg.runtime.sources.video_reader import Section, read_video

PREPARE = """
import sys, shutil
from ultralytics import YOLO
weights, folder = sys.argv[1:]
model = YOLO(weights)
shutil.copy(model.export(format="onnx", imgsz=640), folder + "/peer.onnx")
shutil.copy(model.export(format="onnx", imgsz=640, dynamic=True), folder + "/peer-dynamic.onnx")
"""
SIZE = (640, 640)
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
    programs: dict[str, Callable[[Path], float]] = {
        "detseg predict": lambda written: seconds(
            [
                sys.executable,
                "-m",
                "detseg",
                "predict",
                model,
                written,
                "--save",
                "drawn",
                "-o",
                folder / "out",
                "--overwrite",
            ]
        ),
        "yolo predict": lambda written: seconds([*peer_command, f"model={folder / 'peer.onnx'}", f"source={written}"]),
        "yolo predict, dynamic": lambda written: seconds(
            [*peer_command, f"model={folder / 'peer-dynamic.onnx'}", f"source={written}"]
        ),
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


def detseg_images(path: Path, paths: list[Path], threads: int) -> tuple[float, int]:
    """Seconds per image, and the number of boxes."""
    model = detseg.load(path, device="cpu", num_threads=threads, size=SIZE)

    def run() -> int:
        return sum(len(found.result) for found in model.predict(paths))  # type: ignore[arg-type]

    run()
    start = time.perf_counter()
    boxes = run()
    return (time.perf_counter() - start) / len(paths), boxes


def network_alone(path: Path, paths: list[Path], threads: int) -> float:
    """Seconds per image of the exported network, whose inputs, of the sizes of the images, are there already."""
    model = OnnxModel(path, threads)
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
    paths = expand_sources([options.images])
    listing = json.dumps([str(path.resolve()) for path in paths])

    def peer(weights: Path) -> tuple[float, int]:
        command = [options.peer_python, "-c", IMAGES, weights, listing, str(options.threads)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        per_image, boxes = json.loads(done.stdout.splitlines()[-1])
        return per_image, boxes

    programs: dict[str, Callable[[], tuple[float, int]]] = {
        "Ultralytics, torch": lambda: peer(options.peer_weights),
        "detseg, torch": lambda: detseg_images(package, paths, options.threads),
        "Ultralytics, ONNX": lambda: peer(folder / "peer.onnx"),
        "Ultralytics, ONNX, dynamic": lambda: peer(folder / "peer-dynamic.onnx"),
        "detseg, ONNX": lambda: detseg_images(model, paths, options.threads),
        "detseg, ONNX, network alone": lambda: (network_alone(model, paths, options.threads), 0),
    }
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in programs}
    for _ in range(options.rounds):
        for name, run in programs.items():
            found[name].append(run())
    medians = {name: statistics.median(time for time, _ in times) for name, times in found.items()}
    rows = []
    for name, per_image in medians.items():
        peer_of = medians["Ultralytics, torch" if "torch" in name else "Ultralytics, ONNX"]
        boxes = found[name][0][1] or "-"
        rows.append(f"| {name} | {1000 * per_image:.1f} | {peer_of / per_image:.2f} | {boxes} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, required=True, help="the peer's interpreter")
    parser.add_argument("--peer-weights", type=Path, required=True, help="a YOLOv8n checkpoint")
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each program")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    cv2.setNumThreads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        package, model = make_models(options.peer_python, options.peer_weights.resolve(), folder)
        images = measure_images(options, package, model, folder)
        video = measure_video(options, model, folder)
    print(f"{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads, {options.rounds} rounds")
    print("\n| video | frames/s | whole process, s | of it start, s | ratio of rates | ratio of processes |")
    print("|---|---|---|---|---|---|", *video, sep="\n")
    print("\n| images | ms per image | ratio | boxes |")
    print("|---|---|---|---|", *images, sep="\n")


if __name__ == "__main__":
    main()
