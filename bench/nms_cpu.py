"""Milliseconds of non-maximum suppression on the CPU, against ``torchvision.ops.batched_nms`` in the same run.

    python bench/nms_cpu.py

``detseg.runtime.postprocess.nms.nms`` stops at ``--max-det`` boxes, which torchvision cannot; its result is cut to as
many. The programs take turns, so that a busy machine slows both alike. ``random``: boxes and classes anywhere;
``clustered``: 40 objects of one class each, seen by boxes that differ by some percent. Where all boxes have one class
both must keep the same; with 80 classes torchvision moves boxes apart by class if there are few (up to 1,000 boxes on a
CPU), which rounds them, so differing results are counted. The last rows are dense predictions, 8,400 x 80 scores of
which 55,000 are above 0.001, from scores to detections (``select_detections``); torchvision gets the same candidates.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray

from detseg.runtime.postprocess.nms import nms, select_candidates, select_detections

SIDE = 640
NUM_OBJECTS = 40
NUM_ANCHORS, NUM_CLASSES = 8_400, 80
CONFIDENCE = 0.001

Program = Callable[[], NDArray[np.int64]]


@dataclass(frozen=True)
class Row:
    """What is measured: a name for the table, both programs, and whether their results have to agree."""

    name: str
    detseg: Program
    torchvision: Program
    must_agree: bool


def make_boxes(kind: str, num_boxes: int, random: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes ``[N, 4]`` and the object ``[N]`` that each shows: one of its own if ``random``, one of 40 otherwise."""
    num_objects = num_boxes if kind == "random" else NUM_OBJECTS
    objects = np.arange(num_boxes) if kind == "random" else random.integers(0, num_objects, num_boxes)
    sizes = np.exp(random.uniform(2.5, 5.5, (num_objects, 2)))[objects]
    centers = random.uniform(0, SIDE, (num_objects, 2))[objects]
    if kind == "clustered":
        centers += random.normal(0, 0.05, (num_boxes, 2)) * sizes
        sizes *= np.exp(random.normal(0, 0.1, (num_boxes, 2)))
    return np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=1).astype(np.float32), objects


def reference(
    boxes_xyxy: NDArray[np.float32],
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    iou: float,
    max_detections: int,
) -> Program:
    tensors = tuple(torch.from_numpy(array) for array in (boxes_xyxy, scores, labels))
    return lambda: torchvision.ops.batched_nms(*tensors, iou)[:max_detections].numpy()


def candidate_row(num_boxes: int, kind: str, num_classes: int, iou: float, max_detections: int) -> Row:
    random = np.random.default_rng(num_boxes)
    boxes_xyxy, objects = make_boxes(kind, num_boxes, random)
    labels = random.integers(0, num_classes, objects.max() + 1)[objects]
    scores = random.permutation(num_boxes).astype(np.float32) / np.float32(num_boxes)
    return Row(
        f"{num_boxes:,} {kind}, {num_classes} {'class' if num_classes == 1 else 'classes'}, IoU {iou}",
        lambda: nms(boxes_xyxy, scores, labels, iou, max_detections),
        reference(boxes_xyxy, scores, labels, iou, max_detections),
        must_agree=num_classes == 1,
    )


def dense_row(num_candidates: int, kind: str, iou: float, max_detections: int) -> Row:
    random = np.random.default_rng(0)
    boxes_xyxy, _ = make_boxes(kind, NUM_ANCHORS, random)
    scores = random.uniform(0, CONFIDENCE * 0.99, (NUM_ANCHORS, NUM_CLASSES)).astype(np.float32)
    candidates = random.permutation(scores.size)[:num_candidates]
    scores.ravel()[candidates] = np.linspace(CONFIDENCE * 1.01, 0.5, num_candidates, dtype=np.float32)

    def ours() -> NDArray[np.int64]:
        return select_detections(boxes_xyxy, scores, CONFIDENCE, iou, max_detections, True, False).anchors

    def theirs() -> NDArray[np.int64]:
        found = select_candidates(boxes_xyxy, scores, CONFIDENCE, True, 30_000)
        kept = reference(found.boxes_xyxy, found.scores, found.labels, iou, max_detections)()
        return found.anchors[kept]

    return Row(f"{num_candidates:,} of 8,400 x 80, {kind}, IoU {iou}", ours, theirs, must_agree=False)


def measure(row: Row, seconds: float) -> tuple[list[float], list[float]]:
    """Milliseconds of both programs, which take turns for about ``seconds``, but five turns at least."""
    own: list[float] = []
    others: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(own) < 5:
        for program, times in ((row.detseg, own), (row.torchvision, others)):
            start = time.perf_counter()
            program()
            times.append((time.perf_counter() - start) * 1e3)
    return own, others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1_000, 8_400, 30_000], help="candidates")
    parser.add_argument("--dense", type=int, default=55_000, help="candidates of the dense predictions")
    parser.add_argument("--ious", type=float, nargs="+", default=[0.45, 0.7])
    parser.add_argument("--max-det", dest="max_detections", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each row of the table")
    parser.add_argument("--threads", type=int, default=1, help="of torch; detseg has one thread")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [
        candidate_row(num_boxes, kind, num_classes, iou, options.max_detections)
        for num_boxes in options.sizes
        for kind in ("random", "clustered")
        for num_classes in (80, 1)
        for iou in options.ious
    ]
    rows += [
        dense_row(options.dense, kind, iou, options.max_detections)
        for kind in ("random", "clustered")
        for iou in options.ious
    ]
    lines = []
    num_different = 0
    for row in rows:
        kept = row.detseg()
        same = np.array_equal(kept, row.torchvision())
        if row.must_agree and not same:
            raise SystemExit(f"{row.name}: torchvision keeps other boxes")
        num_different += not same
        own, others = (statistics.median(times) for times in measure(row, options.seconds))
        lines.append(f"| {row.name} | {len(kept)} | {own:.3f} | {others:.3f} | {others / own:.1f} |")
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads, numpy {np.__version__}, "
        f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    )
    print(f"results that differ from torchvision's: {num_different} of {len(rows)}, none of them with one class\n")
    print("| candidates | kept | detseg, ms | torchvision, ms | ratio |\n|---|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
