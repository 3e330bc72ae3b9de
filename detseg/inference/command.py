"""The verb ``predict``: from command-line values to drawn pictures and result files."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from detseg.inference.predictor import Predictor
from detseg.runtime.sources import expand_sources
from detseg.runtime.writers import CocoWriter, DetectionWriter, PictureWriter
from detseg.tasks.package import default_device, load_package

SAVE_KINDS = ("picture", "coco")
EXIT_SOME_FAILED = 1


def predict_command(
    model_path: Path,
    sources: Sequence[str],
    *,
    output: Path,
    save: Sequence[str],
    batch_size: int,
    device: str,
    postprocess: Mapping[str, Any],
) -> int:
    """``detseg predict``. Returns 0, or ``EXIT_SOME_FAILED`` where a picture could not be read; the rest goes on."""
    unknown = [kind for kind in save if kind not in SAVE_KINDS]
    if unknown:
        raise ValueError(f"--save: unknown {', '.join(unknown)}; allowed are {', '.join(SAVE_KINDS)}")
    paths = expand_sources(sources)
    package = load_package(model_path, postprocess=postprocess)
    predictor = Predictor(package.model, package.task, package.task.spec, default_device(device))
    failures: list[str] = []
    num_objects = 0
    with ExitStack() as stack:
        writers: list[DetectionWriter] = []
        if "picture" in save:
            writers.append(stack.enter_context(PictureWriter(output, package.config.class_names, paths)))
        if "coco" in save:
            results = output / "detections.json"
            coco = CocoWriter(results, package.config.class_names, package.config.category_ids)
            writers.append(stack.enter_context(coco))
        predictions = predictor.predict(paths, batch_size, on_error=lambda path, error: failures.append(str(error)))
        for prediction in tqdm(predictions, total=len(paths), desc="predict", unit="picture", leave=False):
            num_objects += len(prediction.detections)
            for writer in writers:
                writer.write(prediction.path or "", prediction.image, prediction.detections)
    print(f"{len(paths) - len(failures)} of {len(paths)} pictures, {num_objects} objects; results are in {output}")
    for failure in failures:
        print(f"not read: {failure}", file=sys.stderr)
    return EXIT_SOME_FAILED if failures else 0
