"""The end-to-end detector from scratch: AP of its one-to-one branch beside that of its other branch with NMS.

    python bench/e2e_accuracy.py --config bccd --epochs 60 --seeds 0 1 2 --out runs/e2e [--peer PYTHON]

Trains ``configs/detection/CONFIG.yaml`` with the neck, the head and the loss of ``e2e_n`` in place of its own, once for
each number of epochs and each seed, and judges both branches of the best weights on val: the one-to-one branch by its
best rows, the one-to-many branch after NMS. ``--plain`` trains the configuration as it is beside them. ``--peer`` is
the Python of an environment of its own with Ultralytics: its ``yolo26n.yaml`` is trained there from scratch, on the
same images, at the same size, batch and number of epochs, with its own defaults, and what it finds is judged by the
same evaluator. A run that is there already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu import markdown_table
from infer_workloads import CONFIGS

from detseg.config import load_config
from detseg.data.datasets.dataset import Dataset
from detseg.data.open import open_dataset
from detseg.engine.evaluate import evaluate
from detseg.engine.run import train
from detseg.engine.settings import RunConfig
from detseg.structures import Detections
from detseg.tasks.model_file import load_model_file

AS_E2E = ("model.neck.block=csp", "model.head=e2e", "task.loss=dual")
PEER = """
import json, sys
from pathlib import Path
from ultralytics import YOLO
data, out, epochs, size, batch, seed = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:7])
model = YOLO("yolo26n.yaml")
model.train(data=data, epochs=epochs, imgsz=size, batch=batch, seed=seed, device="cpu", pretrained=False, workers=0,
            project=str(out), name="run", exist_ok=True, plots=False, val=False)
model = YOLO(out / "run" / "weights" / "last.pt")
found = {}
for path in sorted((Path(data).parent / "images" / "val").iterdir()):
    boxes = model.predict(path, imgsz=size, conf=0.001, max_det=300, device="cpu", verbose=False)[0].boxes
    found[path.stem] = [boxes.xyxy.tolist(), boxes.conf.tolist(), boxes.cls.tolist()]
(out / "found.json").write_text(json.dumps(found))
"""

Result = dict[str, float]


def judge(path: Path, branch: str | None, dataset: Dataset, batch_size: int) -> Result:
    """The metrics of a branch of the model in ``path``; None: of a head that has one only."""
    loaded = load_model_file(path)
    model, task = loaded.model, loaded.task
    if branch is not None:
        network: Any = loaded.config.model
        network = replace(network, head=replace(network.head, branch=branch))
        other, task = replace(loaded.config, model=network).build()
        other.load_state_dict(model.state_dict())
        model = other
    device = torch.device("cpu")
    return dict(evaluate(model, task, dataset, batch_size=batch_size, device=device, bar=False).compute())


def run(config: RunConfig, folder: Path, branches: Sequence[str | None]) -> list[Result]:
    """Train, unless that is done, and judge each branch."""
    if not (folder / "metrics.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        train(config, folder, bar=False)
    data = config.data
    dataset = open_dataset(data.path, data.val_split, data.format, config.task.target, data.description)
    assert isinstance(dataset, Dataset)
    return [judge(folder / "best.safetensors", one, dataset, config.train.batch_size) for one in branches]


def run_peer(python: Path, config: RunConfig, folder: Path) -> Result:
    """The same for the peer in its own environment."""
    data, height = config.data, config.task.input.height
    splits = {name: open_dataset(data.path, split, data.format, "boxes", data.description)
              for name, split in (("train", data.train_split), ("val", data.val_split))}  # fmt: skip
    for name, split in splits.items():
        assert isinstance(split, Dataset)
        write_yolo(split, folder / "data", name)
    names = splits["train"].class_names
    described = {"path": str((folder / "data").resolve()), "train": "images/train", "val": "images/val"}
    yaml = folder / "data" / "data.yaml"
    yaml.write_text(json.dumps({**described, "names": dict(enumerate(names))}))
    if not (folder / "found.json").exists():
        numbers = (config.train.epochs, height, config.train.batch_size, config.train.seed)
        command = [str(python), "-c", PEER, str(yaml.resolve()), str(folder.resolve()), *map(str, numbers)]
        subprocess.run(command, check=True, cwd=folder)
    found = json.loads((folder / "found.json").read_text())
    val = splits["val"]
    assert isinstance(val, Dataset)
    evaluator: Any = config.task.build(config.model.build(len(names)), names).evaluator(names, val.category_ids)
    for index in range(len(val)):
        boxes, scores, labels = found[f"{index:06d}"]
        boxes = np.array(boxes, np.float32).reshape(-1, 4)
        detections = Detections(boxes, np.array(scores, np.float32), np.array(labels, np.int64))
        evaluator.update(val.image_id(index), detections, val.ground_truth(index))
    return dict(evaluator.compute())


def write_yolo(dataset: Dataset, folder: Path, split: str) -> None:
    """The images of a split, named by their position, with text files of their boxes."""
    for name in ("images", "labels"):
        (folder / name / split).mkdir(parents=True, exist_ok=True)
    for index in range(len(dataset)):
        path = Path(dataset.path(index))
        shutil.copy(path, folder / "images" / split / f"{index:06d}{path.suffix}")
        sample = dataset.load(index)
        height, width = sample.image.shape[:2]
        rows = []
        for label, (left, top, right, bottom) in zip(sample.labels.tolist(), sample.boxes_xyxy.tolist(), strict=True):
            shares = (left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width
            rows.append(f"{label} {' '.join(f'{value:.6f}' for value in (*shares, (bottom - top) / height))}\n")
        (folder / "labels" / split / f"{index:06d}.txt").write_text("".join(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="bccd", help="of configs/detection")
    parser.add_argument("--epochs", type=int, nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/e2e"))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further settings")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--peer", type=Path, metavar="PYTHON")
    options = parser.parse_args()
    rows: list[tuple[str, int, int, float, float, float]] = []
    for epochs in options.epochs:
        for seed in options.seeds:
            settings = [f"train.epochs={epochs}", f"train.seed={seed}", *options.set]
            path = CONFIGS / "detection" / f"{options.config}.yaml"
            plain: RunConfig = load_config(RunConfig, path, settings)
            e2e: RunConfig = load_config(RunConfig, path, [*AS_E2E, *settings])
            folder = options.out / f"{options.config}_{epochs}_{seed}"
            begin = time.monotonic()
            one, many = run(e2e, folder / "e2e", ["one_to_one", "one_to_many"])
            results = {"e2e, one-to-one": one, "e2e, one-to-many with NMS": many}
            if options.plain:
                (results[options.config],) = run(plain, folder / "plain", [None])
            if options.peer:
                (folder / "peer").mkdir(parents=True, exist_ok=True)
                results["yolo26n"] = run_peer(options.peer, plain, folder / "peer")
            minutes = (time.monotonic() - begin) / 60
            rows += [(name, epochs, seed, one["AP"], one["AP50"], minutes) for name, one in results.items()]
            print(*(f"{row[0]}: {row[3]:.4f}" for row in rows[-len(results) :]), f"{minutes:.1f} min", flush=True)
    table = []
    for name in dict.fromkeys(row[0] for row in rows):
        for epochs in options.epochs:
            own = [row for row in rows if row[:2] == (name, epochs)]
            each = ", ".join(f"{row[3]:.4f}" for row in own)
            table.append(
                [name, str(epochs), each, *(f"{statistics.mean(float(row[k]) for row in own):.4f}" for k in (3, 4))]
            )
    print(markdown_table(["detector", "epochs", "AP of each seed", "mean AP", "mean AP50"], table))


if __name__ == "__main__":
    main()
