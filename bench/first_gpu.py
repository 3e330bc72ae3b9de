"""Everything that a GPU is wanted for, in one command and on one page: ``make gpu``.

    python bench/first_gpu.py [--output build/gpu] [--seconds 520]

In the order of what is worth knowing first: the tests of the kernels and of the runner on the GPU, the proof that NMS
is right and its times, training steps, inference. Each part is a process of its own with an end to its time; what it
printed is kept beside the page, and a part that fails, or for which no time is left, is named and does not stop the
others. The command fails if any part did. ``--device cpu --tiny`` tries all of it without a GPU, to the last line.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = "gpu.md"
LEAST_SECONDS = 10.0
"""No part is begun with less time than this."""


@dataclass(frozen=True)
class Part:
    """One process of the run: its ``title``, its arguments after ``python``, and after how many seconds it is ended."""

    title: str
    arguments: tuple[str, ...]
    limit_s: float


@dataclass(frozen=True)
class Outcome:
    """What became of a part: ``passed``, ``failed``, ``ended``, as its time was over, or ``not begun``."""

    part: Part
    state: str
    seconds: float
    output: str


def parts_of(device: str, tiny: bool, output: Path) -> list[Part]:
    """What is run on ``device``; figures go to files in ``output``."""
    trial = ("--tiny",) if tiny else ()

    def script(name: str, *arguments: str, json_name: str) -> tuple[str, ...]:
        return (
            str(REPOSITORY / "bench" / name),
            "--device",
            device,
            *trial,
            *arguments,
            "--json",
            str(output / json_name),
        )

    tests = ["tests/inference/test_cuda_stream.py", "tests/ops/test_triton_probe.py"]
    if not tiny:
        tests += [
            "tests/ops/kernels",
            "tests/ops/test_letterbox.py",
            "tests/ops/test_nms.py",
            "tests/ops/test_masks.py",
        ]
    executors = ("--executors", "eager") if device == "cpu" else ("--batches", "1", "32", "--seconds", "0.2")
    models = ("--models", "LETNet", "--precisions", "fp32") if tiny else ()
    seconds = () if tiny else ("--seconds", "0.1")
    patience = 5 if device == "cpu" else 1  # Triton's interpreter is slow
    return [
        Part("Tests on the device", ("-m", "pytest", "-q", "-m", "not slow", *tests), patience * 150),
        Part("NMS: proof and times", script("nms_gpu.py", *seconds, json_name="nms.json"), patience * 180),
        Part("Training steps", script("train_gpu.py", json_name="train.json"), patience * 100),
        Part("Inference", script("infer.py", *executors, *models, json_name="infer.json"), patience * 150),
    ]


def run_part(part: Part, seconds: float, environment: dict[str, str]) -> Outcome:
    """Run ``part`` for ``seconds`` at the most."""
    if seconds < LEAST_SECONDS:
        return Outcome(part, "not begun", 0.0, "no time was left")
    begin = time.monotonic()
    command = [sys.executable, *part.arguments]
    try:
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=min(seconds, part.limit_s),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        text = error.stdout or b""
        return Outcome(
            part, "ended", time.monotonic() - begin, text if isinstance(text, str) else text.decode("utf-8", "replace")
        )
    return Outcome(part, "failed" if done.returncode else "passed", time.monotonic() - begin, done.stdout)


def page_of(outcomes: Sequence[Outcome], machine: str) -> str:
    """The page: what became of each part, then the end of what each printed, where its tables are."""
    lines = ["# First run on a GPU", "", machine, "", "| part | outcome | seconds |", "|---|---|---:|"]
    lines += [f"| {one.part.title} | {one.state} | {one.seconds:.0f} |" for one in outcomes]
    for one in outcomes:
        shown = one.output.strip().splitlines()[-80:]
        command = " ".join(Path(word).name if word.startswith("/") else word for word in one.part.arguments)
        lines += ["", f"## {one.part.title}", "", f"`python {command}`", "", "```", *shown, "```"]
    return "\n".join(lines) + "\n"


def describe_machine(device: str) -> str:
    """The GPU by its driver, without loading torch here; or the processor."""
    if device == "cuda":
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        try:
            return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError) as error:
            return f"nvidia-smi tells nothing: {error}"
    return f"A trial without a GPU: {platform.machine()}, {os.cpu_count()} cores. No figure here is one of a GPU."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a trial: small, and short")
    parser.add_argument(
        "--output", type=Path, default=REPOSITORY / "build" / "gpu", help="a folder for page and figures"
    )
    parser.add_argument(
        "--seconds", type=float, help="all of it ends after so many (default 520; a trial without a GPU 2600)"
    )
    options = parser.parse_args()
    output: Path = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    interpreted = "1" if options.device == "cpu" else "0"
    environment = {**os.environ, "TRITON_INTERPRET": interpreted}
    seconds = options.seconds or (2600.0 if options.device == "cpu" else 520.0)
    end = time.monotonic() + seconds
    outcomes = []
    for part in parts_of(options.device, options.tiny, output):
        outcomes.append(run_part(part, end - time.monotonic(), environment))
        name = part.title.lower().replace(":", "").replace(" ", "_")
        (output / f"{name}.log").write_text(outcomes[-1].output)
        print(f"{part.title}: {outcomes[-1].state} in {outcomes[-1].seconds:.0f} s", flush=True)
        # Written after each part: whatever becomes of the next one, this much is known.
        (output / PAGE).write_text(page_of(outcomes, describe_machine(options.device)))
    print(f"the page: {output / PAGE}")
    bad = [one.part.title for one in outcomes if one.state != "passed"]
    if bad:
        raise SystemExit(f"not passed: {', '.join(bad)}")


if __name__ == "__main__":
    main()
