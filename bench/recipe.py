"""Which parts of the training recipe matter: the n detector on blood cells, one change at a time, several seeds.

    python bench/recipe.py --results recipe.jsonl [--seeds 0,1,2] [--size 192] [--variants base,no_ema]

Each run trains ``configs/detection/bccd.yaml`` from scratch for its 60 epochs with one change, at ``--size`` pixels, in
a process of its own, and is judged by the AP of its last epoch: no epoch is chosen on the validation set. Results are
added to the file as they come; what is in it is not run again, and a run that was interrupted goes on where it stood,
so that the study can be done in parts. The table is printed at the end, or alone with ``--table``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIG = REPOSITORY / "configs/detection/bccd.yaml"

VARIANTS: dict[str, tuple[str, list[str]]] = {
    "base": ("the recipe as it is", []),
    "no_mosaic": ("without mosaic", ["augment.mosaic=0"]),
    "mosaic_half": ("mosaic in half of the images", ["augment.mosaic=0.5"]),
    "mixup": ("with mixup in 15 % of the images", ["augment.mixup=0.15"]),
    "no_close": ("mosaic to the end", ["augment.close_mosaic_epochs=0"]),
    "close_30": ("mosaic in the first half only", ["augment.close_mosaic_epochs=30"]),
    "no_turns": ("without vertical flips and quarter turns", ["augment.flip_vertical=0", "augment.rotate_90=0"]),
    "no_ema": ("without EMA", ["train.ema=null"]),
    "linear": ("learning rate falls linearly", ["train.schedule.kind=linear"]),
    "constant": ("learning rate stays", ["train.schedule.kind=constant"]),
    "rate_double": ("twice the learning rate", ["train.optimizer.learning_rate=6.0e-3"]),
    "rate_half": ("half the learning rate", ["train.optimizer.learning_rate=1.5e-3"]),
    "sgd": (
        "SGD with Nesterov momentum, rate 0.01",
        ["train.optimizer.name=sgd", "train.optimizer.learning_rate=0.01", "train.optimizer.momentum=0.937"],
    ),
    "min_target": ("least target score of 0.1 for each object", ["task.loss.min_target=0.1"]),
    "simota": ("YOLOX head and SimOTA for distributional head and TAL", ["model.head=direct", "task.loss=simota"]),
}


def train(variant: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """The metrics of the last epoch of one run."""
    folder = options.runs / f"{variant}-{options.size}-{options.amp}-{seed}"
    if (folder / "config.yaml").exists():
        words = ["--resume", str(folder)]
    else:
        words = [
            str(CONFIG),
            *VARIANTS[variant][1],
            f"task.input.height={options.size}",
            f"task.input.width={options.size}",
            f"train.seed={seed}",
            f"train.epochs={options.epochs}",
            f"train.evaluate_epochs={options.epochs}",
            f"train.num_threads={options.threads}",
            f"train.amp={options.amp}",
            "-o",
            str(folder),
        ]
    process = subprocess.run([sys.executable, "-m", "detseg", "train", *words], capture_output=True, text=True)
    if process.returncode:
        sys.exit(f"the training in {folder} failed:\n{process.stderr[-2000:]}")
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {name: records[-1][name] for name in ("AP", "AP50", "AP75")}


def table(rows: Sequence[dict[str, object]]) -> list[str]:
    """Mean AP of each variant, and its mean difference from the base with the same seeds."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        found.setdefault(str(row["variant"]), {})[int(str(row["seed"]))] = float(str(row["AP"]))
    base = found.get("base", {})
    lines = ["| change | AP | difference from the base, same seeds | seeds |", "|---|---|---|---|"]
    for variant, by_seed in found.items():
        differences = [value - base[seed] for seed, value in by_seed.items() if seed in base]
        difference = "-" if variant == "base" or not differences else _with_error(differences)
        seeds = ", ".join(str(seed) for seed in sorted(by_seed))
        lines.append(f"| {VARIANTS[variant][0]} | {_with_error(list(by_seed.values()))} | {difference} | {seeds} |")
    return lines


def _with_error(values: Sequence[float]) -> str:
    """The mean, with its standard error where there are several values."""
    mean = f"{statistics.mean(values):.4f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values) / math.sqrt(len(values)):.4f}"


def read(results: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="JSON lines, one per finished run")
    parser.add_argument("--runs", type=Path, default=Path("runs/recipe"), help="where the runs are kept")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--size", type=int, default=320, help="of the input, in pixels")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--amp", choices=("none", "bf16"), default="none", help="precision of the training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="run nothing")
    options = parser.parse_args()
    variants = options.variants.split(",")
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown:
        parser.error(f"unknown variants: {', '.join(unknown)}; there are {', '.join(VARIANTS)}")
    shared = {"size": options.size, "epochs": options.epochs, "amp": options.amp}
    for seed in map(int, options.seeds.split(",")):
        for variant in variants:
            setting = {"variant": variant, "seed": seed, **shared}
            if options.table or any(setting.items() <= row.items() for row in read(options.results)):
                continue
            metrics = train(variant, seed, options)
            with options.results.open("a") as file:
                file.write(json.dumps({**setting, **metrics}) + "\n")
            print(f"{variant}, seed {seed}: AP {metrics['AP']:.4f}", flush=True)
    print(*table([row for row in read(options.results) if shared.items() <= row.items()]), sep="\n")


if __name__ == "__main__":
    main()
