"""Which kinds of results can be saved, and the writers that do it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detseg.runtime.drawing.show import Drawing
from detseg.runtime.writers.pictures import CocoWriter, DrawnWriter, MaskWriter, PictureWriter, ResultWriter
from detseg.runtime.writers.tables import CsvWriter, JsonLinesWriter, YoloWriter
from detseg.runtime.writers.video import VideoWriter
from detseg.runtime.writers.volumes import MontageWriter, NiftiWriter, SlicesWriter, TableWriter

SAVE_KINDS: dict[str, tuple[str, ...]] = {
    "detection": ("drawn", "picture", "video", "coco", "csv", "jsonl", "yolo"),
    "semantic": ("drawn", "picture", "video", "mask", "ids", "jsonl"),
    "volume": ("nifti", "table", "slices", "montage"),
}
"""What the results of each task can be saved as."""

DEFAULT_SAVE: dict[str, tuple[str, ...]] = {
    "detection": ("drawn", "coco"),
    "semantic": ("drawn", "mask"),
    "volume": SAVE_KINDS["volume"],
}
"""What they are saved as if the user does not say."""


def make_writers(
    kinds: Sequence[str],
    task_name: str,
    output: Path,
    class_names: Sequence[str],
    category_ids: Sequence[int],
    sources: Sequence[Path | str],
    fps: float = 25.0,
    line_width: int | None = None,
) -> list[ResultWriter]:
    """A writer for each of ``kinds``.

    ``picture``: drawn pictures in ``output``, of a video one per frame; ``video``: drawn videos there, of still
    pictures ``video.mp4`` of this ``fps``; ``drawn``: pictures of pictures and videos of videos. ``coco``: COCO results
    in ``output/detections.json``; ``csv``, ``jsonl``: ``output/detections.csv`` and ``results.jsonl``; ``yolo``: text
    files in ``output/labels``. ``mask`` and ``ids``: masks of class positions in ``output/masks``, of the data set's
    own numbers in ``output/ids``. Lines of drawn boxes are ``line_width`` pixels wide.

    For volumes ``nifti``: labels with the data set's own numbers in ``output/labels``; ``table``: the milliliters of
    every class in ``output/volumes.csv`` and ``volumes.json``; ``slices`` and ``montage``: pictures of three planes in
    ``output/slices``, of many axial slices in ``output/montages``.

    Raises:
        ValueError: the task has no such kind of results, or a folder of results holds one of the ``sources``.
    """
    allowed = SAVE_KINDS[task_name]
    unknown = [kind for kind in kinds if kind not in allowed]
    if unknown:
        raise ValueError(f"--save: unknown {', '.join(unknown)}; allowed for {task_name} are {', '.join(allowed)}")
    draw = Drawing(tuple(class_names), line_width)
    writers: list[ResultWriter] = []
    # Those that open their files at once come last: they must not leave them behind where another one is refused.
    for kind in sorted(set(kinds), key=lambda kind: (kind in ("coco", "csv", "jsonl", "table"), kind)):
        match kind:
            case "picture":
                writers.append(PictureWriter(output, draw, sources))
            case "video":
                writers.append(VideoWriter(output, draw, sources, fps))
            case "drawn":
                writers.append(DrawnWriter(PictureWriter(output, draw, sources), VideoWriter(output, draw, sources)))
            case "coco":
                writers.append(CocoWriter(output / "detections.json", class_names, category_ids))
            case "csv":
                writers.append(CsvWriter(output / "detections.csv", class_names))
            case "jsonl":
                writers.append(JsonLinesWriter(output / "results.jsonl", class_names))
            case "yolo":
                writers.append(YoloWriter(output / "labels", sources))
            case "mask":
                writers.append(MaskWriter(output / "masks", class_names, sources))
            case "ids":
                writers.append(MaskWriter(output / "ids", class_names, sources, category_ids=category_ids))
            case "nifti":
                writers.append(NiftiWriter(output / "labels", class_names, sources, category_ids=category_ids))
            case "table":
                writers.append(TableWriter(output, class_names))
            case "slices":
                writers.append(SlicesWriter(output / "slices", class_names, sources))
            case "montage":
                writers.append(MontageWriter(output / "montages", class_names, sources))
    return writers
