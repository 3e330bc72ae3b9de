"""What the moving average of the weights (EMA) adds: the last weights of finished runs with it and without, on val.

    python tools/release/ema.py RUN [RUN ...] [--device auto]

RUN is the folder of a finished training, as `detseg train` or `tools/release/train_release.py` leave it: its
`last.safetensors` holds the averages, its `state.pt` the weights as the last step left them. Prints a row for each,
and the mean.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from release_card import PRIMARY
from release_runs import measure

from detseg.config import load_config
from detseg.engine.run import CONFIG_NAME
from detseg.engine.settings import RunConfig
from detseg.engine.training.checkpoint import load_state
from detseg.tasks.model_file import load_model_file, save_model_file


def with_and_without(run_dir: Path, device: str) -> tuple[str, float, float]:
    """The name of a run's figure, and its value with the averages and without them.

    Raises:
        ValueError: the run was trained without averages.
    """
    config = load_config(RunConfig, run_dir / CONFIG_NAME)
    if config.train.ema is None:
        raise ValueError(f"{run_dir} was trained without EMA (train.ema: null); name a run that has averages")
    name, averaged = PRIMARY[config.task.name], run_dir / "last.safetensors"
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.safetensors"
        save_model_file(plain, load_state(run_dir)["model"], load_model_file(averaged).config)
        found = [measure(path, config, device)[name] for path in (averaged, plain)]
    return name, found[0], found[1]


def main() -> int:
    """Measure the runs that are named, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    try:
        rows = [(str(run_dir), *with_and_without(run_dir, options.device)) for run_dir in options.runs]
    except (ValueError, OSError) as error:
        print(f"ema.py: {error}", file=sys.stderr)
        return 2
    if len(rows) > 1 and len({name for _, name, _, _ in rows}) == 1:
        means = [sum(row[column] for row in rows) / len(rows) for column in (2, 3)]
        rows.append(("mean", rows[0][1], means[0], means[1]))
    print("| run | figure | with EMA | without |\n|---|---|---|---|")
    for run, name, averaged, plain in rows:
        print(f"| {run} | {name} | {averaged:.4f} | {plain:.4f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
