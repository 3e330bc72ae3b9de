"""AP after each epoch of fine-tuning by the recipe of ``detseg train WEIGHTS --data DATA``: does it ever forget?

    python bench/finetune.py --data bccd --weights yolov8n_bccd.pt yolox_nano.pth --images 30 205

For each file of weights and number of training images (the first ones of the training split, in its order) one run.
The first column is the model as it is given, before any step, where it knows all classes of the data; what follows is
what a run judges, the average of the weights. The table comes last.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from detseg.data.open import open_dataset
from detseg.engine.evaluated import open_evaluated
from detseg.engine.logging.log import RECORDS_NAME, read_records
from detseg.engine.run import train
from detseg.recipes.plan import Options, Plan, plan_run


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a data set of boxes in a folder, in Pascal VOC's layout")
    parser.add_argument("--weights", nargs="+", required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[30, 205])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--size", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="in place of the recipe's")
    options = parser.parse_args(words)
    rows = []
    for weights in options.weights:
        for count in options.images:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measure(weights, count, Path(folder), options))
            print(json.dumps(rows[-1]), flush=True)
    print(f"\n| weights | images | before | {' | '.join(f'{n + 1}' for n in range(options.epochs))} | least - before |")
    print(f"|---|---|---|{'---|' * options.epochs}---|")
    for row in rows:
        curve = " | ".join(f"{value:.3f}" for value in row["AP"])
        change = min(row["AP"]) - row["before"]
        print(f"| {row['weights']} | {row['images']} | {row['before']:.3f} | {curve} | {change:+.3f} |")
    return 0


def measure(weights: str, count: int, folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """One run on ``count`` images, in ``folder``."""
    data = first_images(options.data, count, folder / "data")
    size = None if options.size is None else (options.size, options.size)
    plan = plan_run(
        weights,
        Options(str(data), epochs=options.epochs, size=size, device=options.device, num_workers=0),
        options.settings,
    )
    before = start_ap(plan, str(data), options.device)
    train(plan.config, folder / "run", bar=False, adapt=plan.adapted_to)
    records = read_records(folder / "run" / RECORDS_NAME)
    return {
        "weights": Path(weights).name,
        "images": count,
        "before": before,
        "AP": [record["AP"] for record in records],
    }


def start_ap(plan: Plan, data: str, device: str) -> float:
    """AP of the weights as they are; 0 where they do not know the classes."""
    assert plan.start.weights is not None
    assert plan.start.class_names is not None
    if set(open_dataset(data, "val").class_names) - set(plan.start.class_names):
        return 0.0
    spec = plan.config.task.input
    evaluated = open_evaluated(plan.start.weights, data=data, device=device, size=(spec.height, spec.width))
    return float(evaluated.evaluate(batch_size=16, num_workers=0).compute()["AP"])


def first_images(data: str, count: int, folder: Path) -> Path:
    """The VOC data set ``data`` with the first ``count`` of its training images, by links."""
    home = Path(open_dataset(data, "train").home)
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for name in ("JPEGImages", "Annotations"):
        (folder / name).symlink_to(home / name)
    for split in ("train", "val"):
        lines = (home / "ImageSets" / "Main" / f"{split}.txt").read_text().splitlines()
        (lists / f"{split}.txt").write_text("\n".join(lines[:count] if split == "train" else lines) + "\n")
    return folder


if __name__ == "__main__":
    raise SystemExit(main())
