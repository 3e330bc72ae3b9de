"""``make demo``: trains a small detector on the built-in shapes, measures it, and draws what it finds."""

import sys
import time
from pathlib import Path

from detseg.cli import main
from detseg.config import load_config
from detseg.data.open import open_dataset
from detseg.engine.run import train
from detseg.engine.settings import RunConfig
from detseg.runtime.images import write_image

REPOSITORY = Path(__file__).resolve().parent.parent
NUM_PICTURES = 12
WANTED_AP50 = 0.90


def demo(output: Path) -> int:
    """Run the whole road in ``output``; returns the exit code."""
    started = time.monotonic()
    config = load_config(RunConfig, REPOSITORY / "configs/detection/shapes.yaml")
    result = train(config, output / "run")
    print(result.table)

    unseen = open_dataset("shapes", "test")
    pictures = output / "pictures"
    for index in range(NUM_PICTURES):
        write_image(pictures / f"shapes_{index:02d}.png", unseen.load(index).image)
    code = main(["predict", str(output / "run/best.safetensors"), str(pictures), "-o", str(output / "predictions")])

    reached = result.metrics["AP50"]
    seconds = time.monotonic() - started
    print(f"\nAP50 on the validation split: {reached:.3f} (wanted: {WANTED_AP50}); {seconds:.0f} s in all")
    print(f"the model, its curves and metrics: {output / 'run'}")
    print(f"predictions on {NUM_PICTURES} unseen pictures: {output / 'predictions'}")
    return code if reached >= WANTED_AP50 else 1


if __name__ == "__main__":
    folder = REPOSITORY / "runs" / f"demo-{time.strftime('%Y%m%d-%H%M%S')}"
    sys.exit(demo(folder))
