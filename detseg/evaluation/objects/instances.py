"""COCO's average precision and recall of objects by their masks, and beside it that of their boxes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from detseg.arrays import DoubleArray, IntArray
from detseg.evaluation.base import EvaluatorState
from detseg.evaluation.objects.coco_backend import accumulate
from detseg.evaluation.objects.coco_map import SUMMARY, CocoEvaluator
from detseg.evaluation.objects.mask_overlaps import mask_overlaps
from detseg.run_lengths import RunLengths
from detseg.runtime.writers.boxes import write_results
from detseg.runtime.writers.instances import instances_to_coco
from detseg.structures import Detections, GroundTruth, Instances, Metrics

_BESIDE = ("AP", "AP50", "AP75")
_RUNS = ("found_runs", "true_runs")
"""The runs of all masks one after the other, and with ``_counts`` behind their name how many each has."""


class InstanceEvaluator(CocoEvaluator):
    """All that :class:`CocoEvaluator` says of boxes, of masks; then ``AP_box``, ``AP50_box`` and ``AP75_box``, and with
    ``boundary`` the same of :mod:`detseg.evaluation.objects.boundary`: ``AP_boundary``, ...

    Whether an object is small, medium or large is decided by the area in its annotation, and of what was found by the
    pixels of its mask.
    """

    judged = "segm"

    def __init__(
        self,
        class_names: Sequence[str],
        category_ids: Sequence[int] | None = None,
        backend: str | None = None,
        boundary: bool = False,
    ) -> None:
        super().__init__(class_names, category_ids, backend)
        self._with_boundary = boundary

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self._boxes = CocoEvaluator(self.class_names, self.category_ids, self.backend)

    def update(self, image_id: int, detections: Detections, truth: GroundTruth) -> None:
        """Add one image, of whose objects all have masks; both may be empty.

        Raises:
            ValueError: as for boxes, or there are no masks, or some of another size than the image.
        """
        found = getattr(detections, "masks", None)
        if found is None or truth.masks is None:
            raise ValueError(f"image {image_id} comes without masks, by which instances are judged")
        sizes = {(mask.height, mask.width) for mask in found} - {(truth.height, truth.width)}
        if sizes:
            height, width = next(iter(sizes))
            raise ValueError(
                f"image {image_id} has {truth.width}x{truth.height} pixels, but a mask found in it has {width}x{height}"
            )
        super().update(image_id, detections, truth)
        self._boxes.update(image_id, detections, truth)

    @staticmethod
    def overlaps(found: Detections, truth: GroundTruth) -> DoubleArray:
        """How far the masks overlap."""
        return mask_overlaps(found, truth)

    def compute(self) -> Metrics:
        """The metrics over all images; AP 0 where there are no detections.

        Raises:
            ValueError: no image was added, or the backend is not installed.
        """
        of_masks, of_boxes = super().compute(), self._boxes.compute()
        values = {**of_masks, **{f"{name}_box": of_boxes[name] for name in _BESIDE}}
        if self._with_boundary:
            pairs = list(self._truths.values()), list(self._detections.values())
            of_boundaries = accumulate(self.backend, *pairs, self.category_ids, "boundary")
            values |= {f"{name}_boundary": of_boundaries.mean(*SUMMARY[name]) for name in _BESIDE}
        return Metrics(values, primary=of_masks.primary)

    def results(self) -> list[dict[str, Any]]:
        """All that was found as COCO result records of masks, which have no box: where there is one, the official tool
        takes its area for that of the mask."""
        return [
            record
            for image_id, found in self._detections.items()
            for record in instances_to_coco(image_id, cast(Instances, found), self.category_ids)
        ]

    def write_artifacts(self, folder: Path, names: Mapping[int, str] | None = None) -> None:
        """As for boxes, with masks in ``detections.json``; the boxes are in ``detections_boxes.json``.

        Raises:
            ValueError: no image was added.
            SaveError: a file cannot be written.
        """
        super().write_artifacts(folder, names)
        write_results(folder / "detections_boxes.json", self._boxes.results())

    def state(self) -> EvaluatorState:
        """As for boxes, and the runs of the masks in the order of the objects: ``found_runs`` and ``true_runs``, with
        how many each mask has in ``found_runs_counts`` and ``true_runs_counts``; all ``[N]`` int64."""
        masks = (
            [mask for found in self._detections.values() for mask in cast(Instances, found).masks],
            [mask for truth in self._truths.values() for mask in truth.masks or ()],
        )
        state = super().state()
        for name, some in zip(_RUNS, masks, strict=True):
            state[name] = np.concatenate([np.empty(0, np.int64), *(mask.counts for mask in some)])
            state[f"{name}_counts"] = np.array([len(mask.counts) for mask in some], np.int64)
        return state

    def _pairs(self, state: EvaluatorState) -> Iterator[tuple[int, Detections, GroundTruth]]:
        columns = []
        for name, objects in zip(_RUNS, ("detections", "truths"), strict=True):
            runs, counts = state.get(name), state.get(f"{name}_counts")
            if runs is None or counts is None or len(counts) != len(state[objects]) or counts.sum() != len(runs):
                raise ValueError(f"an evaluator's state needs {name!r}, the runs of one mask for each of its {objects}")
            columns.append(iter(np.split(runs, np.cumsum(counts)[:-1])))
        found_runs, true_runs = columns
        for image_id, detections, truth in super()._pairs(state):
            found = _masks(found_runs, len(detections), truth)
            yield (
                image_id,
                Instances(detections.boxes_xyxy, detections.scores, detections.labels, None, found),
                replace(truth, masks=_masks(true_runs, len(truth.labels), truth)),
            )


def _masks(runs: Iterator[IntArray], count: int, truth: GroundTruth) -> tuple[RunLengths, ...]:
    """The next ``count`` masks of the image of ``truth``."""
    return tuple(RunLengths(truth.height, truth.width, next(runs)) for _ in range(count))
