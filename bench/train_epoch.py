"""Seconds per training epoch on a detection data set, against Ultralytics' YOLOv8n in the same run.

    python bench/train_epoch.py --data $DETSEG_DATA/bccd --peer-python PEER_ENV/bin/python

The peer lives in an environment of its own (``pip install ultralytics``). Both train the n detector from scratch at
320 px, batch 16, in fp32 on the CPU, with mosaic and their own other augmentation, and validate after every epoch. The
peer has two loader workers; detseg decodes the images once and needs none.
The two take turns; the first epoch of each turn warms up and does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from detseg.data.datasets.dataset import Dataset
from detseg.data.open import open_dataset

REPOSITORY = Path(__file__).resolve().parent.parent
PEER = """
import sys, time, json
from ultralytics import YOLO
data, epochs, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
model, marks, seconds = YOLO("yolov8n.yaml"), {}, []
model.add_callback("on_train_epoch_start", lambda trainer: marks.update(start=time.monotonic()))
model.add_callback("on_train_epoch_end", lambda trainer: marks.update(trained=time.monotonic()))
def done(trainer):
    if "start" in marks:
        now = time.monotonic()
        seconds.append((marks["trained"] - marks["start"], now - marks["trained"]))
        marks.clear()
model.add_callback("on_fit_epoch_end", done)
model.train(data=data, epochs=epochs, imgsz=320, batch=16, device="cpu", workers=2, plots=False, pretrained=False,
            amp=False, verbose=False, project=out, name="peer", exist_ok=True)
open(out + "/peer.json", "w").write(json.dumps(seconds))
"""


def write_yolo(dataset: Dataset, folder: Path, split: str) -> None:
    """The data set as YOLO text files, so that the peer sees the same images and boxes."""
    (folder / "images" / split).mkdir(parents=True)
    (folder / "labels" / split).mkdir(parents=True)
    for index in range(len(dataset)):
        source = Path(dataset.path(index))
        shutil.copy(source, folder / "images" / split / source.name)
        truth = dataset.ground_truth(index)
        lines = []
        for label, (left, top, width, height) in zip(truth.labels, truth.boxes_xywh, strict=True):
            center = ((left + width / 2) / truth.width, (top + height / 2) / truth.height)
            lines.append(f"{label} {center[0]} {center[1]} {width / truth.width} {height / truth.height}")
        (folder / "labels" / split / f"{source.stem}.txt").write_text("\n".join(lines))


def run_ours(data: Path, num_epochs: int, folder: Path) -> list[tuple[float, float]]:
    """Seconds of training and of validation of each epoch but the first."""
    out = folder / "ours"
    shutil.rmtree(out, ignore_errors=True)
    config = str(REPOSITORY / "configs/detection/bccd.yaml")
    settings = [
        f"data.path={data}",
        f"train.epochs={num_epochs + 1}",
        "data.num_workers=2",
        "augment.close_mosaic_epochs=0",
    ]
    command = [sys.executable, "-m", "detseg", "train", config, *settings, "-o", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(record["train_seconds"], record["eval_seconds"]) for record in records[1:]]


def run_peer(python: Path, num_epochs: int, folder: Path) -> list[tuple[float, float]]:
    """The same for the peer."""
    environment = {**os.environ, "YOLO_CONFIG_DIR": str(folder / "settings"), "YOLO_OFFLINE": "1"}
    command = [str(python), "-c", PEER, str(folder / "yolo/data.yaml"), str(num_epochs + 1), str(folder)]
    subprocess.run(command, check=True, capture_output=True, cwd=folder, env=environment)
    seconds: list[tuple[float, float]] = json.loads((folder / "peer.json").read_text())
    return [(train, validate) for train, validate in seconds[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peer-python", type=Path, required=True, help="python of the environment with ultralytics")
    parser.add_argument("--epochs", type=int, default=2, help="counted epochs in each turn")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    peer_python = (
        options.peer_python.absolute()
    )  # not resolved: a link to the interpreter is what makes the environment
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        splits = {split: open_dataset(options.data, split) for split in ("train", "val")}
        for split, dataset in splits.items():
            write_yolo(dataset, folder / "yolo", split)
        names = json.dumps(list(splits["train"].class_names))
        (folder / "yolo/data.yaml").write_text(
            f"path: {folder / 'yolo'}\ntrain: images/train\nval: images/val\nnames: {names}\n"
        )
        ours, peer = [], []
        for turn in range(options.turns):
            ours += run_ours(options.data.resolve(), options.epochs, folder)
            peer += run_peer(peer_python, options.epochs, folder)
            print(f"turn {turn + 1}: ours {ours[-1]}, peer {peer[-1]}", flush=True)
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, {len(ours)} epochs each, medians in seconds\n")
    print(f"{'':22}{'detseg':>10}{'peer':>10}{'ratio':>8}")
    num_images = len(splits["train"]) // 16 * 16, len(splits["train"])
    rows = {
        "training": [[train for train, _ in runs] for runs in (ours, peer)],
        "validation": [[validate for _, validate in runs] for runs in (ours, peer)],
        "epoch": [[train + validate for train, validate in runs] for runs in (ours, peer)],
        "training, per image": [
            [train / count for train, _ in runs] for runs, count in zip((ours, peer), num_images, strict=True)
        ],
    }
    for label, (own, other) in rows.items():
        medians = statistics.median(own), statistics.median(other)
        print(f"{label:22}{medians[0]:>10.3f}{medians[1]:>10.3f}{medians[0] / medians[1]:>8.2f}")
    print(f"\ndetseg leaves out the last, incomplete batch of an epoch ({num_images[0]} of {num_images[1]} images)")


if __name__ == "__main__":
    main()
