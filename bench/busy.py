"""How much slower prediction becomes when another program keeps one core busy, in torch and in ONNX Runtime.

    python bench/busy.py MODEL.safetensors MODEL.onnx --images FOLDER

With C cores and one of them taken by another program, that program and the network's thread beside it get half of that
core each, so that (C - 0.5) cores are left: C / (C - 0.5) times as slow is the share. A network whose threads wait
actively for each other falls further behind. Each way is measured in a process of its own, alone and beside a busy one,
by turns; ``passive``: the threads of torch sleep while they wait (``OMP_WAIT_POLICY=passive``).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

CHILD = """
import json, sys, time
import detseg
model, paths, runtime, precision, seconds = json.loads(sys.argv[1])
loaded = detseg.load(model, device="cpu", runtime=runtime, precision=precision)
for _ in loaded.predict(paths[:8]):
    pass
times, end = [], time.perf_counter() + seconds
while time.perf_counter() < end:
    begin = time.perf_counter()
    count = sum(1 for _ in loaded.predict(paths))
    times.append((time.perf_counter() - begin) / count)
print(json.dumps(sorted(times)[len(times) // 2]))
"""
LIMIT = 1.3
"""How far below its share a way may fall."""


def measure(settings: list[object], environment: dict[str, str], *, busy: bool) -> float:
    """Seconds per image."""
    command = [sys.executable, "-c", "while True: pass"]
    other = subprocess.Popen(command) if busy else None
    try:
        words = [sys.executable, "-c", CHILD, json.dumps(settings)]
        done = subprocess.run(words, check=True, capture_output=True, text=True, env={**os.environ, **environment})
        return float(json.loads(done.stdout.splitlines()[-1]))
    finally:
        if other is not None:
            other.kill()
            other.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("torch_model", type=Path)
    parser.add_argument("onnx_model", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--num-images", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each figure of a round (default 3)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    from detseg.runtime.onnx.choice import ways

    paths = [str(path) for path in sorted(options.images.iterdir())[: options.num_images]]
    passive = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
    cases: dict[str, tuple[list[object], dict[str, str]]] = {
        "torch": ([str(options.torch_model), paths, None, "fp32", options.seconds], {}),
        "torch, passive": ([str(options.torch_model), paths, None, "fp32", options.seconds], passive),
    }
    for runtime, precision in ways():
        settings: list[object] = [str(options.onnx_model), paths, runtime, precision, options.seconds]
        cases[f"{runtime} {precision}"] = (settings, {})
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, (settings, environment) in cases.items():
            alone, beside = (measure(settings, environment, busy=busy) for busy in (False, True))
            found[name].append((alone, beside))
    cores = len(os.sched_getaffinity(0))
    share = cores / (cores - 0.5)
    print(f"{cores} cores, {options.rounds} rounds; the share alone would be {share:.2f} times\n")
    print("| | ms alone | ms beside a busy core | times | below its share | at most 1.3 |")
    print("|---|---|---|---|---|---|")
    for name, pairs in found.items():
        alone, beside = (statistics.median(column) for column in zip(*pairs, strict=True))
        times = beside / alone
        verdict = "yes" if times / share <= LIMIT else "no"
        print(f"| {name} | {1000 * alone:.1f} | {1000 * beside:.1f} | {times:.2f} | {times / share:.2f} | {verdict} |")


if __name__ == "__main__":
    main()
