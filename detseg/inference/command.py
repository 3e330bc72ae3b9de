"""The verb ``predict``: from command-line values to drawn pictures and result files."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from detseg.inference.predictor import Predictor
from detseg.runtime.saving import DEFAULT_SAVE, make_writers
from detseg.runtime.sources import expand_sources
from detseg.tasks.package import default_device, load_package

EXIT_SOME_FAILED = 1


def predict_command(
    model_path: Path,
    sources: Sequence[str],
    *,
    output: Path,
    save: Sequence[str] | None,
    batch_size: int,
    device: str,
    postprocess: Mapping[str, Any],
    size: tuple[int, int] | None = None,
    fps: float = 25.0,
) -> int:
    """``detseg predict``. Returns 0, or ``EXIT_SOME_FAILED`` where a file could not be read; the rest goes on."""
    package = load_package(model_path, postprocess=postprocess, size=size, for_prediction=True)
    model: Any = package.model
    task, config = package.task, package.config
    paths = expand_sources(sources, task.spec.suffixes)
    kinds = DEFAULT_SAVE[task.name] if save is None else save
    failures: list[str] = []
    with ExitStack() as stack:
        made = make_writers(kinds, task.name, output, config.class_names, config.category_ids, paths, fps)
        writers = [stack.enter_context(writer) for writer in made]
        predictor = Predictor(model.fuse(), task, default_device(device))
        predictions = predictor.predict(paths, batch_size, on_error=lambda path, error: failures.append(str(error)))
        for prediction in tqdm(predictions, total=len(paths), desc="predict", unit="file", leave=False):
            for writer in writers:
                writer.write(prediction.path or "", prediction.image, prediction.result)
    print(f"{len(paths) - len(failures)} of {len(paths)} files; results are in {output}")
    for failure in failures:
        print(f"not read: {failure}", file=sys.stderr)
    return EXIT_SOME_FAILED if failures else 0
