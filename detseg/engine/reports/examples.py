"""Images of an evaluation: what is true beside what was found, and the hardest examples."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detseg.engine.distributed import Group
from detseg.engine.reports.browse import BROWSED_BYTES, MOST_IMAGES, Browsed, browsed, everyones, fit_browsed
from detseg.engine.reports.report_images import ReportImage, ReportImages
from detseg.engine.samples import Samples
from detseg.evaluation.base import Evaluator
from detseg.evaluation.doubts import Doubt, surest
from detseg.evaluation.hardest import Candidate, encode_jpeg
from detseg.evaluation.objects.errors import Outcome
from detseg.evaluation.objects.explore import BoxCounts
from detseg.evaluation.per_image import ImageTable
from detseg.files import atomic_path
from detseg.runtime.drawing.palette import stored_palette
from detseg.runtime.media.images import write_image
from detseg.runtime.volumes.volume_files import volume_stem
from detseg.tasks.base import Task, compare

IMAGES_NAME = "images"
HARDEST_NAME = "hardest"
NUM_IMAGES = 12


class Examples:
    """Draws images spread evenly over ``dataset``, each as soon as its result is there, and looks for those on which
    the model has most errors; give it to ``evaluate``, then call :meth:`finish`.

    Examples go to ``folder`` as ``<position>_<name of the image>.jpg``, the hardest to its folder ``hardest`` as
    ``<rank>_<position>_<name>.jpg``; nothing is written where ``folder`` is None. What can be browsed in a page is as
    small as it must be for that, unless ``full``.
    """

    def __init__(
        self,
        task: Task,
        dataset: Samples,
        folder: Path | None = None,
        num_shown: int = NUM_IMAGES,
        full: bool = False,
    ) -> None:
        self._task = task
        self._dataset = dataset
        self._folder = folder
        self._palette = stored_palette(dataset.class_colors, dataset.class_names)
        self._num_images = num_shown
        last = len(dataset) - 1
        self._chosen = set(np.linspace(0, last, min(num_shown, len(dataset))).round().astype(int).tolist())
        self._shown = set(np.linspace(0, last, min(MOST_IMAGES, len(dataset))).round().astype(int).tolist())
        self._full = full
        self._browsed: list[Browsed] = []
        self._examples: list[Candidate] = []
        self._hardest = task.hardest_examples(dataset.class_names, num_shown, dataset)

    def __call__(self, index: int, result: Any, truth: Any) -> None:
        """Look at what was found in image ``index``, and draw it, if it is one of those chosen.

        Raises:
            SaveError: the image cannot be written.
        """
        self._hardest.add(index, result, truth)
        if index in self._shown:
            image, _ = self._dataset.read(index)
            layers = self._task.kind.layers(image, truth, result, self._dataset.class_names, self._palette)
            record = self._hardest.describe(result, truth)
            self._browsed.append(browsed(index, self._name(index), layers, record, self._full))
        if index in self._chosen:
            drawn = compare(self._task.kind, self._dataset, self._dataset.class_names, index, result, truth)
            self._examples.append(Candidate(0.0, index, "", encode_jpeg(drawn)))
            if self._folder is not None:
                write_image(self._folder / f"{self._name(index)}.jpg", drawn)

    def finish(
        self, evaluator: Evaluator, group: Group | None = None, device: torch.device | None = None
    ) -> ReportImages:
        """The examples and the hardest images of all processes of ``group``, for the main process; the hardest are
        written, and of boxes drawn, now.

        ``evaluator`` has seen the whole data set; ``device`` is the one on which processes exchange arrays.

        Raises:
            SaveError: an image cannot be written.
        """
        own_hardest, own_tally = self._hardest.find(evaluator)
        group, device = group or Group(), device or torch.device("cpu")
        examples = sorted(_everyones(self._examples, group, device), key=lambda one: one.rank)
        hardest = sorted(_everyones(own_hardest, group, device), key=lambda one: one.rank)[: self._num_images]
        # A process that saw no image takes part as well.
        own_counts = np.zeros((0, len(self._dataset.class_names), len(Outcome)), np.int64)
        if own_tally is not None:
            own_counts = own_tally.counts[None]
        counts = np.concatenate(group.gather(own_counts, device)).sum(axis=0)
        every = everyones(self._browsed, group, device)
        images = ReportImages(
            tuple(ReportImage(self._name(one.index), one.caption, one.jpeg) for one in examples),
            tuple(ReportImage(self._name(one.index), one.caption, one.jpeg) for one in hardest),
            self._hardest.measure,
            own_tally and replace(own_tally, counts=counts),
            self._everyones_counts(group, device),
            tuple(every) if self._full else fit_browsed(every, BROWSED_BYTES),
            tuple(self._dataset.class_names),
            self._everyones_table(group, device),
            tuple(self._everyones_doubts(evaluator, group, device)),
        )
        if self._folder is not None and group.is_main:
            self._write(images.hardest, self._folder / HARDEST_NAME)
        return images

    def _everyones_counts(self, group: Group, device: torch.device) -> BoxCounts | None:
        own = self._hardest.counts()
        if own is None:
            return None
        parts = [getattr(own, one.name)[None] for one in fields(own)]
        return BoxCounts(*(np.concatenate(group.gather(part, device)).sum(axis=0) for part in parts))

    def _everyones_table(self, group: Group, device: torch.device) -> ImageTable:
        own = self._hardest.table(self._name)
        if group.world_size == 1:
            return own
        parts = group.gather_json([[name, entry] for name, entry in own.images.items()], device)
        return replace(own, images=dict(sorted((name, entry) for part in parts for name, entry in part)))

    def _everyones_doubts(self, evaluator: Evaluator, group: Group, device: torch.device) -> list[Doubt]:
        own = self._hardest.doubts(evaluator, self._file) if evaluator is not None else []
        if group.world_size == 1:
            return own
        parts = group.gather_json([asdict(one) for one in own], device)
        return surest([Doubt(**{**one, "box_xyxy": tuple(one["box_xyxy"])}) for part in parts for one in part])

    def _file(self, index: int) -> str:
        """The file as seen from the folder of the data set, where it lies in there."""
        path = Path(self._dataset.path(index))
        home = getattr(self._dataset, "home", None)
        return str(path.relative_to(home)) if home is not None and path.is_relative_to(home) else str(path)

    def _name(self, index: int) -> str:
        return f"{index:06d}_{volume_stem(self._dataset.path(index))}"

    def _write(self, hardest: Sequence[ReportImage], folder: Path) -> None:
        for stale in folder.glob("[0-9]*_*.jpg"):
            stale.unlink()
        for rank, image in enumerate(hardest, start=1):
            with atomic_path(folder / f"{rank:02d}_{image.name}.jpg") as temporary:
                temporary.write_bytes(image.jpeg)


def _everyones(own: Sequence[Candidate], group: Group, device: torch.device) -> list[Candidate]:
    """The candidates of all processes."""
    if group.world_size == 1:
        return list(own)
    texts = [asdict(one) | {"jpeg": base64.b64encode(one.jpeg).decode("ascii")} for one in own]
    received = group.gather_json(texts, device)
    return [Candidate(**values | {"jpeg": base64.b64decode(values["jpeg"])}) for part in received for values in part]
