"""Images per second from images in memory to results in memory, and where the time goes.

    python bench/infer.py

Networks have fresh weights, batch norms settled on the images; a detector's scores are set so that about 100 anchors
of an image pass. Images are 600x800 for the detectors at 640x640 and 512x1024 for LETNet at that size. Executors:

- eager: without a CUDA graph; letterbox on the CPU
- compiled: the same with ``torch.compile(model)``
- CUDA graph: as a GPU is used by default; letterbox, network and postprocessing in one graph
- ONNX Runtime: the network by ``torch.onnx.export``, the rest as in eager; its copies to a GPU and back are counted as
  network

End to end, a pass of several batches goes through ``Model.predict``, from arrays and from JPEG files. Stages are
timed one after the other, each waited for, in milliseconds per batch: decoding of the files; work of the host
(letterbox and stacking, or packing of the pixels); copy to the device; preprocessing there; network; postprocessing;
results, with the copy back. End to end they overlap. "not network" is the share of the time from arrays to results that
the network, run again and again on its own, does not need. Every network must first give what the eager one gives in
float32 on the CPU, as nearly as its precision allows.

Compilation takes half a minute for each case, so it is measured in float16 only. Without a GPU only eager and ONNX
Runtime are measured, in float32. ``--models`` and ``--executors`` choose a part; ``--tiny`` is a trial of the script.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from gpu import capture, describe, markdown_table, median_seconds
from infer_workloads import MODELS, Workload, make_workload
from torch import Tensor, nn

from detseg.inference.load import make_runner
from detseg.ops.letterbox import TABLE_COLUMNS, bytes_needed, letterbox_into, pack_images
from detseg.runtime.media.images import read_image
from detseg.runtime.model import Model

EXECUTORS = ("eager", "compiled", "CUDA graph", "ONNX Runtime")
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TOLERANCE, ROUNDED_TOLERANCE = 1e-2, 1.0
"""Largest norm of the difference over norm of the output, in float32 and in shorter types. Untrained, LETNet multiplies
rounding errors by several hundred: 0.2 in float16 and 0.7 in bfloat16 are normal; an unrelated output is off by 1.4."""
NUM_BATCHES = 4
MIN_IMAGES = 16
GOAL_SHARE = 0.15
GOAL_LETNET = 600.0

Stage = tuple[str, Callable[[Any], Any]]
STAGES = ("decode", "host", "copy", "preprocess", "network", "postprocess", "results")


@dataclass(frozen=True)
class Case:
    """What is measured: a way to run a network, at a precision and a batch size."""

    executor: str
    precision: str
    batch_size: int


class OnnxModel(nn.Module):
    """A network in ONNX Runtime that stands in for one of torch."""

    def __init__(self, model: nn.Module, inputs: Tensor, path: Path, on_gpu: bool) -> None:
        super().__init__()
        torch.onnx.export(model, (inputs,), path, dynamo=True, verbose=False)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 0 if on_gpu else torch.get_num_threads()
        providers = ["CUDAExecutionProvider"] if on_gpu else ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        self.input_name = self.session.get_inputs()[0].name

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """The output on the CPU: one tensor, or a list where there are several."""
        outputs = self.session.run(None, {self.input_name: images.contiguous().numpy()})
        tensors = [torch.from_numpy(output) for output in outputs]
        return tensors[0] if len(tensors) == 1 else tensors


def onnx_on_gpu() -> bool:
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers() and torch.cuda.is_available()


@torch.no_grad()
def make_model(case: Case, work: Workload, images: Sequence[Any], device: torch.device, folder: Path) -> nn.Module:
    """The network as ``case`` runs it, on its device."""
    if case.executor == "ONNX Runtime":
        placed = torch.from_numpy(np.stack([work.task.spec.place(image)[0] for image in images]))
        path = folder / f"{work.name}-{case.batch_size}.onnx"
        return OnnxModel(work.model, work.task.normalize(placed), path, onnx_on_gpu())
    model = copy.deepcopy(work.model).to(device, PRECISIONS[case.precision], memory_format=work.task.memory_format)
    if case.executor != "compiled":
        return model
    torch.compiler.reset()  # after eight compilations of the same code, torch would quietly run the rest eagerly
    return torch.compile(model)


@torch.inference_mode()
def check_network(case: Case, work: Workload, model: nn.Module, images: Sequence[Any], device: torch.device) -> float:
    """The relative error of the raw output against the eager network in float32 on the CPU, for the first image.

    Raises:
        SystemExit: it is above the tolerance, or no number.
    """
    placed = torch.from_numpy(np.stack([work.task.spec.place(image)[0] for image in images]))
    inputs = work.task.normalize(placed)
    expected = _flat(work.model(inputs[:1]))
    converted = inputs.to(device, PRECISIONS[case.precision], memory_format=work.task.memory_format)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        error = float((_flat(model(converted)) - expected).norm() / expected.norm())
    rounded = case.precision != "fp32" or (case.executor == "ONNX Runtime" and onnx_on_gpu())  # it uses TF32
    if not error <= (ROUNDED_TOLERANCE if rounded else TOLERANCE):
        raise SystemExit(f"{work.name}, {case}: the network's output is off by {error:.1e}, relatively")
    return error


def _flat(raw: Tensor | list[Tensor]) -> Tensor:
    """The raw output for the first image."""
    levels = [raw] if isinstance(raw, Tensor) else raw
    return torch.cat([level[0].float().cpu().flatten() for level in levels])


def plain_stages(case: Case, work: Workload, model: nn.Module, device: torch.device) -> list[Stage]:
    """Eager stages, each a function of what the one before gave. What passes along: the way back, then the data."""
    dtype = PRECISIONS[case.precision]
    task = work.task

    def place(images: Any) -> Any:
        placed = [task.spec.place(image) for image in images]
        return [transform for _, transform in placed], torch.from_numpy(np.stack([image for image, _ in placed]))

    def normalize(pixels: Tensor) -> Tensor:
        return task.normalize(pixels).to(dtype, memory_format=task.memory_format)

    def on_data(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda passed: (passed[0], function(passed[1]))

    return [
        ("decode", lambda paths: [read_image(path) for path in paths]),
        ("host", place),
        ("copy", on_data(lambda pixels: pixels.to(device).contiguous())),
        ("preprocess", on_data(normalize)),
        ("network", on_data(model)),
        ("postprocess", on_data(lambda raw: task.infer(lambda _: raw, None))),
        ("results", lambda passed: task.results(passed[1], passed[0])),
    ]


def graph_stages(
    case: Case, work: Workload, model: nn.Module, images: Sequence[Any], device: torch.device
) -> list[Stage]:
    """The stages on a GPU, one CUDA graph for each, on static memory."""
    task, spec = work.task, work.task.spec
    pixels = torch.empty(bytes_needed(images), dtype=torch.uint8, pin_memory=True)
    table = torch.zeros(len(images), TABLE_COLUMNS, dtype=torch.int64, pin_memory=True)
    pack_images(images, spec, pixels, table)
    pixels_there, table_there = pixels.to(device), table.to(device)
    inputs = torch.empty(
        (len(images), 3, spec.height, spec.width),
        dtype=PRECISIONS[case.precision],
        device=device,
        memory_format=task.memory_format,
    )
    preprocess, _ = capture(lambda: letterbox_into(pixels_there, table_there, spec, inputs))
    network, raw = capture(lambda: model(inputs))
    postprocess, outputs = capture(lambda: task.infer(lambda _: raw, inputs))

    def copy_over(transforms: Any) -> Any:
        pixels_there.copy_(pixels, non_blocking=True)
        table_there.copy_(table, non_blocking=True)
        return transforms

    def replay(graph: torch.cuda.CUDAGraph) -> Callable[[Any], Any]:
        def replayed(transforms: Any) -> Any:
            graph.replay()
            return transforms

        return replayed

    return [
        ("decode", lambda paths: [read_image(path) for path in paths]),
        ("host", lambda read: pack_images(read, spec, pixels, table)),
        ("copy", copy_over),
        ("preprocess", replay(preprocess)),
        ("network", replay(network)),
        ("postprocess", replay(postprocess)),
        ("results", lambda transforms: task.results(outputs, transforms)),
    ]


def time_stages(stages: list[Stage], paths: Sequence[Path], device: torch.device, seconds: float) -> dict[str, float]:
    """The median seconds of each stage for one batch; the network once more, on its own, as ``network alone``."""
    durations: dict[str, list[float]] = {name: [] for name, _ in stages}
    before_network: Any = None
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < 3 or time.perf_counter() < end:
        passed: Any = paths
        for name, stage in stages:
            if name == "network":
                before_network = passed
            synchronize(device)
            start = time.perf_counter()
            passed = stage(passed)
            synchronize(device)
            durations[name].append(time.perf_counter() - start)
        rounds += 1
    medians = {name: statistics.median(own[1:]) for name, own in durations.items()}  # the first round warms up
    network = dict(stages)["network"]
    return {**medians, "network alone": median_seconds([lambda: network(before_network)], device, seconds)}


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def images_per_second(model: Model, sources: Sequence[Any], batch_size: int, seconds: float) -> float:
    """The median over passes through all ``sources``."""
    rates = []
    end = time.perf_counter() + seconds
    while len(rates) < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        num_results = sum(1 for _ in model.predict(sources, batch_size))
        rates.append(num_results / (time.perf_counter() - start))
    return statistics.median(rates[1:])


def measure(case: Case, work: Workload, device: torch.device, folder: Path, seconds: float) -> dict[str, Any]:
    """All figures of a case."""
    on_device = torch.device("cpu") if case.executor == "ONNX Runtime" else device
    images, paths = work.images[: case.batch_size], work.paths[: case.batch_size]
    num_images = max(MIN_IMAGES, NUM_BATCHES * case.batch_size)
    repeats = -(-num_images // len(work.images))
    model = make_model(case, work, images, on_device, folder)
    error = check_network(case, work, model, images, on_device)
    with torch.inference_mode():
        if case.executor == "CUDA graph":
            stages = graph_stages(case, work, model, images, on_device)
        else:
            stages = plain_stages(case, work, model, on_device)
        medians = time_stages(stages, paths, on_device, seconds)
    in_graph = case.executor == "CUDA graph"
    runner = make_runner(model, work.task, on_device, case.precision, cuda_graph=in_graph)
    ready = Model(runner, work.task.name, work.task.class_names, work.task.category_ids)
    sources = (work.images * repeats)[:num_images], (work.paths * repeats)[:num_images]
    from_arrays, from_files = (images_per_second(ready, some, case.batch_size, seconds) for some in sources)
    num_objects = [len(found.result) for found in ready.predict(images, case.batch_size)] if is_detector(work) else []
    return {
        "model": work.name,
        "executor": case.executor,
        "precision": case.precision,
        "batch_size": case.batch_size,
        "relative_error": error,
        "seconds_per_batch": medians,
        "images_per_second": from_arrays,
        "images_per_second_from_files": from_files,
        "network_images_per_second": case.batch_size / medians["network alone"],
        "not_network": 1 - medians["network alone"] * from_arrays / case.batch_size,
        "objects_per_image": statistics.mean(num_objects) if num_objects else None,
    }


def is_detector(work: Workload) -> bool:
    return bool(work.task.name == "detection")


def all_cases(options: argparse.Namespace, device: torch.device) -> Iterator[Case]:
    on_gpu = device.type == "cuda"
    for executor in options.executors or (EXECUTORS if on_gpu else ("eager", "ONNX Runtime")):
        if not on_gpu or executor == "ONNX Runtime":
            precisions = ["fp32"]
        else:
            precisions = ["fp16"] if executor == "compiled" else options.precisions
        for precision, batch_size in itertools.product(precisions, options.batches):
            yield Case(executor, precision, batch_size)


def row_of(figures: dict[str, Any]) -> list[str]:
    seconds = figures["seconds_per_batch"]
    return [
        f"{figures['model']}, {figures['executor']}, {figures['precision']}",
        str(figures["batch_size"]),
        f"{figures['images_per_second']:,.1f}",
        f"{figures['images_per_second_from_files']:,.1f}",
        f"{figures['network_images_per_second']:,.1f}",
        f"{figures['not_network']:.0%}",
        *(f"{seconds[name] * 1e3:.2f}" for name in STAGES),
    ]


HEADER = ["network", "batch", "images/s", "from files", "network only", "not network", *STAGES]


def goal_lines(measured: list[dict[str, Any]], device: torch.device) -> list[str]:
    """The goals beside what was measured: float16 in a CUDA graph, batch 1 and 32."""
    lines = []
    for figures in measured:
        batch_size = figures["batch_size"]
        if (figures["executor"], figures["precision"]) != ("CUDA graph", "fp16") or batch_size not in (1, 32):
            continue
        share = figures["not_network"]
        verdict = "reached" if share < GOAL_SHARE else "missed"
        lines.append(f"{figures['model']}, batch {batch_size}: {share:.0%} not network, goal below 15%: {verdict}")
        if figures["model"] == "LETNet" and batch_size == 1:
            rate = figures["images_per_second"]
            verdict = "reached" if rate >= GOAL_LETNET else "missed"
            lines.append(f"LETNet, batch 1: {rate:.0f} images per second, goal {GOAL_LETNET:.0f} on an H200: {verdict}")
    if device.type != "cuda":
        lines.append(
            "No GPU here: the rows of CUDA graphs and of half precision are left out; the goals are for an H200."
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=list(MODELS), metavar="NAME")
    parser.add_argument("--executors", nargs="+", choices=EXECUTORS, metavar="NAME")
    parser.add_argument("--precisions", nargs="+", choices=tuple(PRECISIONS), default=list(PRECISIONS))
    parser.add_argument("--batches", nargs="+", type=int, help="default: 1 8 32")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each measured figure")
    parser.add_argument("--threads", type=int, help="of torch, and of ONNX Runtime on the CPU")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--tiny", action="store_true", help="a trial of the script: small images, and short")
    options = parser.parse_args()
    options.batches = options.batches or ([1, 2] if options.tiny else [1, 8, 32])
    if options.tiny:
        options.seconds = 0.0
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    if device.type != "cuda" and "CUDA graph" in (options.executors or ()):
        raise SystemExit("a CUDA graph needs a GPU: choose other executors")
    measured = []
    with tempfile.TemporaryDirectory() as name:
        for model_name in options.models:
            work = make_workload(model_name, max(options.batches), Path(name), options.tiny)
            for case in all_cases(options, device):
                measured.append(measure(case, work, device, Path(name), options.seconds))
                print("  ".join(row_of(measured[-1])[:6]), flush=True)
    machine = f"{describe(device)}, ONNX Runtime {onnxruntime.__version__} ({'GPU' if onnx_on_gpu() else 'CPU'})"
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "cases": measured}, indent=2) + "\n")
    print(f"\n{machine}\n")
    print("\n".join(f"- {line}" for line in goal_lines(measured, device)) + "\n")
    print(markdown_table(HEADER, [row_of(figures) for figures in measured]))


if __name__ == "__main__":
    main()
