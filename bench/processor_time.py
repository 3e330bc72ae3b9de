"""Processor time for each image of an exported detector, in every runtime and precision of this machine, by its parts.

    python bench/processor_time.py MODEL.onnx --images FOLDER

On a machine with other work, the time on the clock says more about the others. The time that processors spend for this
process does not: it is what an image costs, and divided by the cores it is the least that an image can take. ``whole``
is what `Model.predict` costs with all threads, waiting actively for one another included; the parts are measured by
themselves, one after the other.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2

import detseg
from detseg.runtime.media.images import read_image
from detseg.runtime.onnx.choice import ways
from detseg.runtime.onnx.model import OnnxModel
from detseg.runtime.sources.finding import expand_sources

PARTS = ("read", "place", "network", "boxes")


def cost(work: Callable[[], Any]) -> tuple[Any, float]:
    """What ``work`` gives, and its processor time in milliseconds, of all threads."""
    begin = time.process_time()
    result = work()
    return result, 1000 * (time.process_time() - begin)


def measure(path: Path, paths: list[Path], way: tuple[str, str], rounds: int) -> list[float]:
    """Medians for each image, in milliseconds: the whole, then ``PARTS``."""
    settings: Any = {"runtime": way[0], "precision": way[1]}
    model = detseg.load(path, device="cpu", **settings)
    precision = None if way[0] == "onnxruntime" else way[1]
    network = OnnxModel(path, num_threads=1, precision=precision)
    pipeline = network.metadata.without_padding().pipeline(network)

    def parts() -> list[float]:
        spent = [0.0] * len(PARTS)
        for one in paths:
            image, reading = cost(lambda one=one: read_image(one))
            (inputs, transforms), placing = cost(lambda image=image: pipeline.prepare([image], 0))
            whole = cost(lambda inputs=inputs, transforms=transforms: pipeline.results(inputs, transforms))[1]
            running = cost(lambda inputs=inputs: network.run(inputs))[1]
            spent = [a + b for a, b in zip(spent, (reading, placing, running, whole - running), strict=True)]
        return spent

    def everything() -> float:
        return cost(lambda: list(model.predict(paths)))[1]

    everything(), parts()
    rows = [[everything(), *parts()] for _ in range(rounds)]
    return [statistics.median(column) / len(paths) for column in zip(*rows, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--num-images", type=int, default=40, help="of the folder (default 40)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    paths = [Path(one) for one in expand_sources([options.images])[: options.num_images]]
    print(
        f"{os.cpu_count()} cores, {len(paths)} images, {options.rounds} rounds; milliseconds of processors per image\n"
    )
    print(f"| | whole | {' | '.join(PARTS)} | not network |")
    print("|---|---|" + "---|" * (len(PARTS) + 1))
    for way in ways():
        whole, *spent = measure(options.model, paths, way, options.rounds)
        share = 100 * (1 - spent[PARTS.index("network")] / whole)
        print(f"| {' '.join(way)} | {whole:.1f} | {' | '.join(f'{one:.1f}' for one in spent)} | {share:.0f} % |")


if __name__ == "__main__":
    main()
