"""``make demo``: trains a small detector on the built-in shapes, measures it, draws what it finds, exports it, and goes
on to the outlines of the shapes."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detseg.arrays import ByteArray
from detseg.cli import main
from detseg.config import load_config
from detseg.data.open import open_dataset
from detseg.engine.run import train
from detseg.engine.settings import RunConfig
from detseg.runtime.media.images import write_image
from detseg.runtime.media.video_file import OpenCVVideo

REPOSITORY = Path(__file__).resolve().parent.parent
NUM_IMAGES = 12
PIXELS_PER_FRAME = 8
WANTED_AP50 = 0.90
OUTLINE_SETTINGS = ("train.epochs=8", "train.evaluate_epochs=8", "train.partial_weights=true", "augment.mosaic=0")
"""A detector that knows the shapes learns their outlines in a fraction of a training."""


def demo(output: Path) -> int:
    """Run the whole road in ``output``; returns the exit code."""
    started = time.monotonic()
    config = load_config(RunConfig, REPOSITORY / "configs/detection/shapes.yaml")
    result = train(config, output / "run")
    print(result.table)

    unseen = open_dataset("shapes", "test")
    images = [unseen.load(index).image for index in range(NUM_IMAGES)]
    for index, image in enumerate(images):
        write_image(output / "images" / f"shapes_{index:02d}.png", image)
    write_video(output / "video.mp4", images)

    model, exported = str(output / "run/best.safetensors"), str(output / "shapes.onnx")
    codes = [
        main(["predict", model, str(output / "images"), "-o", str(output / "predictions")]),
        main(["export", model, "-o", exported, "--verify", "shapes"]),
        main(
            [
                "predict",
                exported,
                str(output / "video.mp4"),
                "--track",
                "--save",
                "drawn,csv",
                "-o",
                str(output / "video"),
            ]
        ),
    ]

    settings = [*OUTLINE_SETTINGS, f"train.weights={model}"]
    outlines = train(load_config(RunConfig, REPOSITORY / "configs/instance/shapes.yaml", settings), output / "outlines")
    print(outlines.table)
    outlining = str(output / "outlines/best.safetensors")
    codes.append(main(["predict", outlining, str(output / "images"), "-o", str(output / "outlined")]))

    reached, reached_masks = result.metrics["AP50"], outlines.metrics["AP50"]
    seconds = time.monotonic() - started
    print(
        f"\nAP50 on the validation split: {reached:.3f}, of masks {reached_masks:.3f} (wanted: {WANTED_AP50}); ", end=""
    )
    print(f"{seconds:.0f} s in all")
    print(f"the model, its curves and metrics: {output / 'run'}, of outlines: {output / 'outlines'}")
    print(f"predictions on {NUM_IMAGES} unseen images: {output / 'predictions'}, with outlines: {output / 'outlined'}")
    print(f"the model as ONNX, and how far it agrees: {exported}, {output / 'shapes.parity.json'}")
    print(f"a video, predicted without torch, its objects numbered: {output / 'video/video.mp4'}")
    return max(codes) if min(reached, reached_masks) >= WANTED_AP50 else 1


def write_video(path: Path, images: Sequence[ByteArray]) -> None:
    """A view that wanders over ``images``, laid side by side."""
    strip = np.concatenate(images, axis=1)
    height, width = images[0].shape[:2]
    with OpenCVVideo(path, fps=25) as video:
        for left in range(0, strip.shape[1] - width, PIXELS_PER_FRAME):
            video.append(np.ascontiguousarray(strip[:height, left : left + width]), path.name)


if __name__ == "__main__":
    folder = REPOSITORY / "runs" / f"demo-{time.strftime('%Y%m%d-%H%M%S')}"
    sys.exit(demo(folder))
