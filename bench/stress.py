"""One model of each task, in torch and in ONNX Runtime, that many threads use at once: each gets its own results.

Usage: python bench/stress.py [--calls 20000] [--threads 16]

All threads call all models with images and volumes of mixed sizes, and every result is compared, to the bit, with what
a single thread gets. Says how many differ, by model; the exit code is 1 where one does.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.small_models import KINDS, in_onnx, in_torch, inputs_of
from detseg.runtime.model import Model

MAKERS: dict[str, Callable[[str, Path], Model]] = {"torch": in_torch, "ONNX Runtime": in_onnx}


def content(model: Model, image: Any) -> bytes:
    """The result to the bit."""
    (prediction,) = model.predict(image)
    result: Any = prediction.result
    if prediction.kind.has_boxes:
        assert len(result)
        return b"".join(part.tobytes() for part in (result.boxes_xyxy, result.scores, result.labels))
    return bytes(result.labels.tobytes())


def call_from_threads(
    models: Sequence[Model], inputs: Sequence[Sequence[Any]], num_calls: int, num_threads: int
) -> tuple[list[tuple[int, str]], Counter[int]]:
    """Compare ``num_calls`` results from ``num_threads`` threads with those of one: what is wrong, by the position of
    the model, and how often each was called."""
    expected = [[content(model, image) for image in images] for model, images in zip(models, inputs, strict=True)]
    assert all(len(set(one)) == len(one) for one in expected), "inputs that cannot be told apart"
    wrong: list[tuple[int, str]] = []
    called: list[Counter[int]] = [Counter() for _ in range(num_threads)]
    begin = threading.Barrier(num_threads)

    def work(number: int) -> None:
        begin.wait()
        for call in range(number, num_calls, num_threads):
            which = (call // num_threads + number) % len(models)
            position = (call // len(models) + number) % len(inputs[which])
            called[number][which] += 1
            try:
                if content(models[which], inputs[which][position]) != expected[which][position]:
                    wrong.append((which, f"another result for input {position}"))
            except Exception as error:  # noqa: BLE001 - a thread's errors are told at the end
                wrong.append((which, repr(error)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong, sum(called, Counter())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000, help="of all models together")
    parser.add_argument("--threads", type=int, default=16)
    options = parser.parse_args()
    chosen = list(itertools.product(MAKERS, KINDS))
    with tempfile.TemporaryDirectory() as folder:
        models = [MAKERS[runtime](kind, Path(folder)) for runtime, kind in chosen]
        begin = time.perf_counter()
        inputs = [inputs_of(kind) for _, kind in chosen]
        wrong, called = call_from_threads(models, inputs, options.calls, options.threads)
        seconds = time.perf_counter() - begin
    for which, (runtime, kind) in enumerate(chosen):
        told = [text for model, text in wrong if model == which]
        first = f", the first: {told[0]}" if told else ""
        print(f"{kind} in {runtime}: {called[which]} calls, {len(told)} wrong{first}")
    print(f"{options.calls} calls from {options.threads} threads in {seconds:.0f} s: {len(wrong)} wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
