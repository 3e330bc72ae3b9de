"""Which kinds of results can be saved, and the writers that do it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detseg.runtime.video_writer import VideoWriter
from detseg.runtime.volume_writers import MontageWriter, NiftiWriter, SlicesWriter, TableWriter
from detseg.runtime.writers import CocoWriter, MaskWriter, PictureWriter, ResultWriter

SAVE_KINDS: dict[str, tuple[str, ...]] = {
    "detection": ("picture", "coco", "video"),
    "semantic": ("picture", "mask", "ids", "video"),
    "volume": ("nifti", "table", "slices", "montage"),
}
"""What the results of each task can be saved as."""

DEFAULT_SAVE: dict[str, tuple[str, ...]] = {
    "detection": ("picture", "coco"),
    "semantic": ("picture", "mask"),
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
) -> list[ResultWriter]:
    """A writer for each of ``kinds``.

    ``picture``: drawn pictures in ``output``; ``video``: the same as ``output/video.mp4``; ``coco``: COCO results in
    ``output/detections.json``; ``mask`` and ``ids``: masks of class positions in ``output/masks``, of the data set's
    own numbers in ``output/ids``.

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
    writers: list[ResultWriter] = []
    # Those that open their files at once come last: they must not leave them behind where another one is refused.
    for kind in sorted(set(kinds), key=lambda kind: (kind in ("coco", "table"), kind)):
        match kind:
            case "picture":
                writers.append(PictureWriter(output, class_names, sources))
            case "video":
                writers.append(VideoWriter(output / "video.mp4", class_names, fps))
            case "coco":
                writers.append(CocoWriter(output / "detections.json", class_names, category_ids))
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
