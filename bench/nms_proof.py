"""What must hold of NMS on a GPU before its speed means anything. See ``nms_gpu.py``, which runs it.

Every check returns what it looked at, and raises ``ProofError`` where the operator does not do what it should.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from gpu import capture
from nms_inputs import KINDS, Setting, adversarial_predictions, realistic_predictions
from torch import Tensor

from detseg.ops.nms import BatchedDetections, batched_nms, empty_outputs

NUM_REPEATS = 100
NUM_STREAMS = 8
SANITIZER = "compute-sanitizer"
SANITIZER_SECONDS = 100
SANITIZER_FOUND = 86

Inputs = tuple[Tensor, Tensor]
Extent = Literal["all", "few", "tiny"]
Run = Callable[[Tensor, Tensor, Setting], BatchedDetections]


class ProofError(Exception):
    """The operator does not do what it should."""


def run_operator(boxes_xyxy: Tensor, scores: Tensor, setting: Setting) -> BatchedDetections:
    """The operator, wherever the tensors are."""
    return batched_nms(boxes_xyxy, scores, **asdict(setting))


def run_interpreted(boxes_xyxy: Tensor, scores: Tensor, setting: Setting) -> BatchedDetections:
    """The kernels on tensors of the CPU, in Triton's interpreter."""
    from detseg.ops.kernels.nms import launch_nms

    limits = (setting.confidence, setting.iou, setting.max_detections)
    choices = (setting.multi_label, setting.class_agnostic, setting.max_candidates)
    out = empty_outputs(boxes_xyxy, setting.max_detections)
    with np.errstate(all="ignore"):  # numpy warns of what is not finite, a GPU does not
        return BatchedDetections(*launch_nms(boxes_xyxy, scores, None, *limits, *choices, out))


def require_equal(found: BatchedDetections, expected: BatchedDetections, name: str) -> None:
    """Refuse any difference: counts, anchors, and every bit of the detections but those that say which NaN it is."""
    detections, wanted = found.detections.cpu(), expected.detections.cpu()
    same = (detections.view(torch.int32) == wanted.view(torch.int32)) | (detections.isnan() & wanted.isnan())
    for part, equal in (
        ("counts", torch.equal(found.counts.cpu(), expected.counts.cpu())),
        ("anchors", torch.equal(found.keep.cpu(), expected.keep.cpu())),
        ("detections", bool(same.all())),
    ):
        if not equal:
            raise ProofError(f"{name}: other {part} than those of the CPU operator")


def cases(extent: Extent) -> Iterator[tuple[str, Inputs, Setting]]:
    """Named predictions on the CPU with a setting: every kind with all settings, sizes around the kernels' blocks,
    other types and layouts, more candidates than are allowed, and dense predictions of a detector."""
    generator = torch.Generator().manual_seed(0)
    num_images, num_anchors = {"all": (8, 300), "few": (2, 300), "tiny": (2, 40)}[extent]
    thresholds = (0.45, 0.6, 0.7) if extent == "all" else (0.6,)
    sizes = {"all": (0, 1, 63, 64, 65, 1023, 1024, 1025, 2049), "few": (0, 1, 65, 1025, 2049), "tiny": (0, 1, 65)}
    for kind in KINDS:
        for multi_label, class_agnostic, iou in itertools.product((False, True), (False, True), thresholds):
            setting = Setting(0.3, iou, 50, multi_label, class_agnostic)
            inputs = adversarial_predictions(kind, num_images, num_anchors, 3, generator)
            yield f"{kind}, {setting}", inputs, setting
    for kind in KINDS if extent == "all" else ("ties",):
        for size in sizes[extent]:
            setting = Setting(0.001, 0.6)
            yield f"{kind}, {size} anchors", adversarial_predictions(kind, 2, size, 1, generator), setting
    boxes_xyxy, scores = adversarial_predictions("clustered", 4, 70, 5, generator)
    dense = torch.cat((boxes_xyxy, scores), dim=2)
    layouts = {
        "slices": (dense[..., :4], dense[..., 4:]),
        "channels first": (
            boxes_xyxy.transpose(1, 2).contiguous().transpose(1, 2),
            scores.transpose(1, 2).contiguous().transpose(1, 2),
        ),
        "float16": (boxes_xyxy.half(), scores.half()),
        "bfloat16": (boxes_xyxy.bfloat16(), scores.bfloat16()),
    }
    for name, inputs in layouts.items():
        for multi_label in (False, True):
            setting = Setting(0.25, 0.6, multi_label=multi_label)
            yield f"{name}, {setting}", inputs, setting
    for max_candidates in (1, 100):
        setting = Setting(0.25, 0.6, multi_label=True, max_candidates=max_candidates)
        yield f"ties at the limit of {max_candidates}", adversarial_predictions("ties", 2, 150, 3, generator), setting
    if extent == "tiny":
        return
    # Nearly all scores are above the threshold, many are equal, and the kernels have no room for so many candidates.
    num_anchors = 2_100 if extent == "all" else 840
    boxes_xyxy, _ = adversarial_predictions("clustered", 2, num_anchors, 1, generator)
    _, scores = adversarial_predictions("ties", 2, num_anchors, 80, generator)
    yield "more candidates than room", (boxes_xyxy, scores), Setting(0.001, 0.6, multi_label=True)
    if extent == "few":
        return
    for num_images, num_anchors, num_classes in ((2, 8_400, 80), (1, 33_600, 80), (4, 8_400, 1)):
        inputs = realistic_predictions(num_images, num_anchors, num_classes, generator)
        for confidence, multi_label in itertools.product((0.25, 0.001), (False, True)):
            setting = Setting(confidence, multi_label=multi_label)
            yield f"{num_images}x{num_anchors}x{num_classes}, {setting}", inputs, setting


def equal_to_cpu(device: torch.device, run: Run, extent: Extent) -> str:
    """Bitwise what the CPU operator gives."""
    num_images = num_cases = 0
    for name, inputs, setting in cases(extent):
        found = run(*_on(device, inputs), setting)
        require_equal(found, run_operator(*inputs, setting), name)
        num_images, num_cases = num_images + len(inputs[0]), num_cases + 1
    return f"{num_images} images in {num_cases} cases"


def no_synchronization(device: torch.device) -> str:
    """Nothing waits for the host: torch raises where something does."""
    settings = [
        Setting(confidence, multi_label=multi_label) for confidence in (0.25, 0.001) for multi_label in (False, True)
    ]
    inputs = realistic_predictions(4, 8_400, 80, torch.Generator(device).manual_seed(1))
    for setting in settings:
        run_operator(*inputs, setting)  # compiles
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the mode itself is announced as a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        for setting in settings:
            run_operator(*inputs, setting)
        try:
            inputs[1].sum().item()
        except RuntimeError:
            pass
        else:
            raise ProofError("the mode that finds synchronization let one pass, so it proves nothing")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return f"{len(settings)} settings under set_sync_debug_mode('error')"


def graph_replay(device: torch.device) -> str:
    """A captured operator computes anew with each replay."""
    generator = torch.Generator(device).manual_seed(2)
    num_replays = 0
    for setting in (Setting(0.25), Setting(0.001, multi_label=True), Setting(0.25, class_agnostic=True)):
        static = realistic_predictions(4, 8_400, 80, generator)
        graph, found = capture(lambda inputs=static, setting=setting: run_operator(*inputs, setting))
        for _ in range(3):
            fresh = realistic_predictions(4, 8_400, 80, generator)
            for target, source in zip(static, fresh, strict=True):
                target.copy_(source)
            graph.replay()
            require_equal(found, run_operator(*_on(torch.device("cpu"), fresh), setting), f"replay, {setting}")
            num_replays += 1
    return f"{num_replays} replays on new data"


def repeats_identical(device: torch.device) -> str:
    """The same input gives the same bits, every time."""
    settings = (Setting(0.25), Setting(0.001, multi_label=True))
    inputs = realistic_predictions(8, 8_400, 80, torch.Generator(device).manual_seed(3))
    inputs[1].mul_(64).round_().div_(64)  # ties
    for setting in settings:
        first = run_operator(*inputs, setting)
        for repeat in range(1, NUM_REPEATS):
            require_equal(run_operator(*inputs, setting), first, f"repeat {repeat}, {setting}")
    return f"{NUM_REPEATS} repeats of {len(settings)} settings, with ties"


def concurrent_streams(device: torch.device) -> str:
    """Streams that run at once do not disturb each other."""
    generator = torch.Generator(device).manual_seed(4)
    setting = Setting(0.001, multi_label=True)
    inputs = [realistic_predictions(2, 8_400, 80, generator) for _ in range(NUM_STREAMS)]
    expected = [run_operator(*pair, setting) for pair in inputs]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in inputs]
    rounds = 10
    found: list[tuple[int, BatchedDetections]] = []
    for _ in range(rounds):
        for index, (stream, pair) in enumerate(zip(streams, inputs, strict=True)):
            with torch.cuda.stream(stream):
                found.append((index, run_operator(*pair, setting)))
    torch.cuda.synchronize()
    for index, result in found:
        require_equal(result, expected[index], f"stream {index}")
    return f"{NUM_STREAMS} streams, {rounds} rounds"


def compiled(device: torch.device) -> str:
    """``torch.compile(fullgraph=True)`` takes the operator into one graph."""
    backend = "inductor" if device.type == "cuda" else "aot_eager"

    @torch.compile(fullgraph=True, backend=backend)
    def halved(boxes_xyxy: Tensor, scores: Tensor) -> BatchedDetections:
        return batched_nms(boxes_xyxy * 0.5, scores * 0.5, confidence=0.25, iou=0.7)

    inputs = realistic_predictions(2, 840, 80, torch.Generator(device).manual_seed(5))
    require_equal(halved(*inputs), run_operator(inputs[0] * 0.5, inputs[1] * 0.5, Setting()), "compiled")
    return f"torch.compile(fullgraph=True), {backend}"


def find_sanitizer() -> str | None:
    """The program's path; the CUDA toolkit's folder often is not among those that are searched."""
    return shutil.which(SANITIZER) or shutil.which(SANITIZER, path="/usr/local/cuda/bin")


def sanitized(tool: str) -> str:
    """NVIDIA's checker of memory accesses or of races over a few small cases, in a process of its own."""
    command = [find_sanitizer() or SANITIZER, "--tool", tool, "--error-exitcode", str(SANITIZER_FOUND)]
    script = [sys.executable, str(Path(__file__).with_name("nms_gpu.py")), "--proof-only", "--few"]
    # Every tensor an allocation of its own, so that no access beyond its end goes unseen.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        process = subprocess.run(
            command + script, env=environment, capture_output=True, text=True, timeout=SANITIZER_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"not shown: did not end within {SANITIZER_SECONDS} s"
    if process.returncode:
        output = (process.stdout + process.stderr)[-4000:]
        if process.returncode != SANITIZER_FOUND:
            return f"not shown: {SANITIZER} ended with {process.returncode}:\n{output}"
        raise ProofError(f"{tool} found something:\n{output}")
    return "clean"


def prove(device: torch.device, extent: Extent) -> list[tuple[str, str]]:
    """All checks that can run on ``device``, as their names and what they looked at; each is printed when it is done.

    Of ``few`` cases there is nothing but the comparison with the CPU operator: what a sanitizer has time for.
    """
    on_gpu = device.type == "cuda"
    run = run_operator if on_gpu else run_interpreted
    checks: list[tuple[str, Callable[[], str]]] = [
        ("bitwise equal to the CPU operator", lambda: equal_to_cpu(device, run, extent))
    ]
    if extent != "few":
        for name, check in (
            ("no host synchronization", no_synchronization),
            ("CUDA graph", graph_replay),
            ("repeats identical", repeats_identical),
            ("concurrent streams", concurrent_streams),
        ):
            checks.append((name, (lambda check=check: check(device)) if on_gpu else _needs_gpu))
        checks.append(("compiled", lambda: compiled(device)))
        for tool in ("memcheck", "racecheck"):
            if not on_gpu:
                check_tool = _needs_gpu
            elif find_sanitizer() is None:
                check_tool = _no_sanitizer
            else:
                check_tool = lambda tool=tool: sanitized(tool)  # noqa: E731
            checks.append((f"{SANITIZER} {tool}", check_tool))
    outcomes = []
    for name, check in checks:
        outcomes.append((name, check()))
        print(f"{name}: {outcomes[-1][1]}", flush=True)
    return outcomes


def _needs_gpu() -> str:
    return "not shown: needs a GPU"


def _no_sanitizer() -> str:
    return f"not shown: {SANITIZER} is not available"


def _on(device: torch.device, inputs: Inputs) -> Inputs:
    boxes_xyxy, scores = inputs
    return _moved(boxes_xyxy, device), _moved(scores, device)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on ``device`` whose strides are those of ``tensor``, also where there are gaps between its rows."""
    if tensor.device == device or tensor.numel() == 0:
        return tensor.to(device)
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    memory = tensor.as_strided((extent,), (1,)).to(device)
    return memory.as_strided(tensor.shape, tensor.stride())
