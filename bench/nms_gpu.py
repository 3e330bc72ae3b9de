"""Microseconds of NMS on a GPU, against torchvision in the same run, after a proof that it is right.

    python bench/nms_gpu.py

Proof: equal to the CPU operator bit by bit, no wait for the host, CUDA graphs, repeats, streams, torch.compile, and
NVIDIA's compute-sanitizer where it is installed. ``--proof-only`` ends there. With ``TRITON_INTERPRET=1`` and
``--device cpu --tiny`` it tries itself without a GPU: the kernels run in Triton's interpreter, what needs a GPU is
named, and the times are those of the CPU operator.

Measured are predictions as a trained detector gives them (``nms_inputs.py`` says which), IoU 0.7, at most 300
detections. The sets of inputs, several times the cache where 64 are enough for that, take turns. Columns:

- eager: the operator called from Python, one call right after the other
- replay: a CUDA graph of one call, launched again and again on the same memory
- in a graph: one of the calls of a graph that holds one call for each set of inputs
- loop: the same filtering, then ``torchvision.ops.batched_nms`` for each image, at most 300 of each
- one call: the same filtering, then one ``batched_nms`` whose ids are image x classes + class; that the result would
  have to be divided by image is not counted against it
- same: images of which these two keep what the operator keeps; they move classes apart by offsets, which rounds boxes
- floor: scores, the candidates' boxes and the result through the memory at the speed of a copy, each once
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from gpu import capture, copy_bandwidth, describe, markdown_table, median_seconds
from nms_inputs import Setting, realistic_predictions
from nms_proof import Inputs, ProofError, prove, run_operator
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torchvision.ops import batched_nms as torchvision_batched_nms

from detseg.ops.nms import BatchedDetections

MAX_SETS = 64
CACHES = 3
GOALS_US = {1: (20.0, 12.0), 32: (60.0, 45.0)}
"""For these batches of 8,400 x 80 at confidence 0.25, single label: the goal and the moonshot."""
GOAL_RATIO = 50.0


@dataclass(frozen=True)
class Case:
    """What is measured: a batch of B images of A anchors and C classes, and how it is suppressed."""

    num_images: int
    num_anchors: int
    num_classes: int
    setting: Setting
    half: bool = False
    by_anchor: bool = False
    """Scores anchor by anchor in memory, not class by class."""

    @property
    def is_goal(self) -> bool:
        return (
            (self.num_anchors, self.num_classes) == (8_400, 80)
            and self.num_images in GOALS_US
            and self.setting == Setting()
            and not (self.half or self.by_anchor)
        )

    def title(self) -> str:
        labels = "multi" if self.setting.multi_label else "single"
        notes = [text for text, holds in (("fp16", self.half), ("by anchor", self.by_anchor)) if holds]
        size = f"{self.num_images} x {self.num_anchors} x {self.num_classes}"
        return ", ".join([size, f"{self.setting.confidence:g}", labels, *notes])


def all_cases(tiny: bool) -> Iterator[Case]:
    batches, anchors, classes = ((1, 2), (84,), (1, 3)) if tiny else ((1, 8, 32), (8_400, 33_600), (1, 80))
    for num_anchors, num_classes, confidence, num_images in itertools.product(anchors, classes, (0.25, 0.001), batches):
        for multi_label in (False, True) if num_classes > 1 else (False,):
            yield Case(num_images, num_anchors, num_classes, Setting(confidence, multi_label=multi_label))
    for num_images, (half, by_anchor) in itertools.product(batches[::2], ((True, False), (False, True), (True, True))):
        yield Case(num_images, anchors[0], classes[-1], Setting(), half, by_anchor)


def make_inputs(case: Case, device: torch.device, seed: int) -> list[Inputs]:
    """Sets of inputs to rotate through, together several times the cache where 64 sets are enough."""
    set_bytes = case.num_images * case.num_anchors * (4 + case.num_classes) * (2 if case.half else 4)
    cache = torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else set_bytes
    num_sets = min(MAX_SETS, max(2, math.ceil(CACHES * cache / set_bytes)))
    generator = torch.Generator(device).manual_seed(seed)
    boxes_xyxy, scores = realistic_predictions(
        num_sets * case.num_images, case.num_anchors, case.num_classes, generator
    )
    if case.half:
        boxes_xyxy, scores = boxes_xyxy.half(), scores.half()
    if case.by_anchor:
        scores = scores.contiguous()
    return list(zip(boxes_xyxy.split(case.num_images), scores.split(case.num_images), strict=True))


def filtered(scores: Tensor, setting: Setting) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores ``[B, A, C]`` -> image, anchor, class and score of each candidate."""
    if setting.multi_label:
        images, anchors, labels = torch.nonzero(scores > setting.confidence, as_tuple=True)
        return images, anchors, labels, scores[images, anchors, labels]
    values, best = scores.max(dim=2)
    images, anchors = torch.nonzero(values > setting.confidence, as_tuple=True)
    return images, anchors, best[images, anchors], values[images, anchors]


def loop_over_images(boxes_xyxy: Tensor, scores: Tensor, setting: Setting) -> list[Tensor]:
    """The anchors that each image keeps."""
    kept = []
    images, *candidates = filtered(scores, setting)
    sizes = torch.bincount(images, minlength=len(scores)).tolist()
    for boxes, anchors, labels, values in zip(boxes_xyxy, *(part.split(sizes) for part in candidates), strict=True):
        if len(values) > setting.max_candidates:
            values, chosen = values.topk(setting.max_candidates)
            anchors, labels = anchors[chosen], labels[chosen]
        order = torchvision_batched_nms(boxes[anchors].float(), values.float(), labels, setting.iou)[
            : setting.max_detections
        ]
        kept.append(anchors[order])
    return kept


def one_call(boxes_xyxy: Tensor, scores: Tensor, setting: Setting) -> tuple[Tensor, Tensor]:
    """Images and anchors that are kept, of all images together, best first."""
    images, anchors, labels, found = filtered(scores, setting)
    ids = images * scores.shape[2] + labels
    order = torchvision_batched_nms(boxes_xyxy[images, anchors].float(), found.float(), ids, setting.iou)
    return images[order], anchors[order]


def count_same(own: BatchedDetections, inputs: Inputs, setting: Setting) -> tuple[int, int]:
    """Of how many images the loop and the one call keep the same anchors in the same order."""
    looped = loop_over_images(*inputs, setting)
    images, anchors = one_call(*inputs, setting)
    same = [0, 0]
    for image, (kept, count) in enumerate(zip(own.keep, own.counts.tolist(), strict=True)):
        for index, others in enumerate((looped[image], anchors[images == image][: setting.max_detections])):
            same[index] += torch.equal(kept[:count], others)
    return same[0], same[1]


def floor_bytes(case: Case, inputs: Inputs, num_candidates: int) -> int:
    """What has to pass through the memory: scores, the boxes of candidates, detections, counts and anchors."""
    boxes_xyxy, scores = inputs
    written = case.num_images * (8 + case.setting.max_detections * (6 * 4 + 8))
    return scores.numel() * scores.element_size() + num_candidates * 4 * boxes_xyxy.element_size() + written


def measure(case: Case, device: torch.device, bandwidth: float, seconds: float) -> dict[str, Any]:
    """All figures of a case, times in microseconds."""
    sets = make_inputs(case, device, seed=case.num_anchors + case.num_classes)
    setting = case.setting

    def microseconds(*calls: Any) -> float:
        return 1e6 * median_seconds(calls, device, seconds)

    num_candidates = len(filtered(sets[0][1], setting)[0])
    same_loop, same_one = count_same(run_operator(*sets[0], setting), sets[0], setting)
    figures = {
        **asdict(case),
        "sets": len(sets),
        "candidates_per_image": num_candidates / case.num_images,
        "eager_us": microseconds(*(lambda pair=pair: run_operator(*pair, setting) for pair in sets)),
        "loop_us": microseconds(*(lambda pair=pair: loop_over_images(*pair, setting) for pair in sets)),
        "one_call_us": microseconds(*(lambda pair=pair: one_call(*pair, setting) for pair in sets)),
        "same_loop": same_loop,
        "same_one_call": same_one,
        "floor_bytes": floor_bytes(case, sets[0], num_candidates),
    }
    figures["floor_us"] = 1e6 * figures["floor_bytes"] / bandwidth
    if device.type == "cuda":
        single, _single_written = capture(lambda: run_operator(*sets[0], setting))
        figures["replay_us"] = microseconds(single.replay)
        several, _written = capture(lambda: [run_operator(*pair, setting) for pair in sets][-1])
        figures["in_graph_us"] = microseconds(several.replay) / len(sets)
    return figures


def kernel_lines(case: Case, device: torch.device) -> list[str]:
    """Microseconds of each kernel of the operator, as the profiler of torch sees them."""
    inputs, *_ = make_inputs(case, device, seed=0)
    num_runs = 20
    run_operator(*inputs, case.setting)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(num_runs):
            run_operator(*inputs, case.setting)
        torch.cuda.synchronize()
    times = {event.key: event.self_device_time_total / num_runs for event in profiler.key_averages()}
    parts = ", ".join(f"{name.split('(')[0][:40]} {time:.1f}" for name, time in times.items() if time)
    return [f"kernels of {case.title()}: {parts or 'the profiler saw none'}"]


def row_of(case: Case, figures: dict[str, Any]) -> list[str]:
    """A row of the table; what was not measured is a dash."""

    def cell(name: str) -> str:
        return f"{figures[name]:,.1f}" if name in figures else "-"

    own = figures.get("replay_us", figures["eager_us"])
    return [
        case.title(),
        f"{figures['candidates_per_image']:,.0f}",
        *(cell(name) for name in ("eager_us", "replay_us", "in_graph_us", "loop_us", "one_call_us")),
        f"{figures['loop_us'] / own:.1f}",
        f"{figures['one_call_us'] / own:.1f}",
        f"{figures['same_loop']}, {figures['same_one_call']} of {case.num_images}",
        cell("floor_us"),
        f"{figures['floor_us'] / figures.get('in_graph_us', own):.0%}",
    ]


HEADER = [
    "B x A x C, confidence, labels", "candidates per image", "eager", "replay", "in a graph", "loop", "one call",
    "loop / replay", "one call / replay", "same", "floor", "floor / in a graph",
]  # fmt: skip


def goal_lines(measured: list[tuple[Case, dict[str, Any]]]) -> list[str]:
    """The goals beside what was measured; the slower of the two ways through a graph counts."""
    lines = []
    for case, figures in measured:
        if not case.is_goal or "replay_us" not in figures:
            continue
        goal, moonshot = GOALS_US[case.num_images]
        own = max(figures["replay_us"], figures["in_graph_us"])
        verdict = "moonshot reached" if own <= moonshot else "reached" if own <= goal else "missed"
        lines.append(f"batch {case.num_images}: {own:.1f} us, goal {goal:g}, moonshot {moonshot:g}: {verdict}")
        if case.num_images > 1:
            ratio = figures["loop_us"] / own
            verdict = "reached" if ratio >= GOAL_RATIO else "missed"
            lines.append(f"batch {case.num_images}: {ratio:.0f} times the loop, goal {GOAL_RATIO:g}: {verdict}")
    return lines or ["The goals are for an H200 and were not measured here."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--proof-only", action="store_true", help="end after the proof")
    parser.add_argument("--few", action="store_true", help="of the proof only small cases, as the sanitizer runs them")
    parser.add_argument("--tiny", action="store_true", help="a trial of the script: small, and short")
    parser.add_argument("--seconds", type=float, default=0.25, help="for each measured time")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    device = torch.device(options.device)
    # Triton reads the variable when it is imported, which some import above may have done.
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if interpreted != (device.type == "cpu"):
        raise SystemExit("set TRITON_INTERPRET=1 for --device cpu, and only for that")
    if not (interpreted or torch.cuda.is_available()):
        raise SystemExit("no CUDA device is visible; a trial without: TRITON_INTERPRET=1 ... --device cpu --tiny")
    try:
        proof = prove(device, "few" if options.few else "tiny" if options.tiny else "all")
    except ProofError as error:
        raise SystemExit(f"refuted: {error}") from error
    if options.proof_only:
        return

    bandwidth = copy_bandwidth(device, (1 << 20) if options.tiny else (1 << 30))
    seconds = 0.001 if options.tiny else options.seconds
    measured = []
    for case in all_cases(options.tiny):
        measured.append((case, measure(case, device, bandwidth, seconds)))
        print(f"{case.title()}: {measured[-1][1]['eager_us']:.1f} us eager", flush=True)
    kernels = [line for case, _ in measured if case.is_goal and not options.tiny for line in kernel_lines(case, device)]
    if options.json:
        content = {
            "machine": describe(device),
            "bandwidth": bandwidth,
            "proof": dict(proof),
            "kernels": kernels,
            "cases": [figures for _, figures in measured],
        }
        options.json.write_text(json.dumps(content, indent=2) + "\n")
    print(f"\n{describe(device)}; a copy moves {bandwidth / 1e12:.2f} TB/s\n")
    print("\n".join(f"- {name}: {outcome}" for name, outcome in proof) + "\n")
    print("\n".join(f"- {line}" for line in (*goal_lines(measured), *kernels)))
    print("\nMicroseconds:\n")
    print(markdown_table(HEADER, [row_of(case, figures) for case, figures in measured]))


if __name__ == "__main__":
    main()
