"""Damaged and hostile files through the command line, each in a child process with limits of memory and time.

Usage: python bench/fuzz.py [KIND ...] [--inputs 1000] [--seed 0] [--keep FOLDER]

Counts for every kind of file what must not be: crashes (the process died by a signal), hangs (no end within
``--seconds``), tracebacks (an exception that the command line does not turn into a line), inputs that took more than
``--megabytes`` beyond what an undamaged file takes. What fell is kept in a folder, with how to do it again. The table
comes last, and the exit code is 1 where anything fell.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.fuzz_more_seeds import make_more_kinds
from bench.fuzz_run_seeds import make_run_kinds
from bench.fuzz_seeds import Kind, make_kinds

FELL = ("crash", "hang", "traceback", "memory")
BATCH = 500
"""Inputs per process: what one leaves behind must not add up."""
_IMPORTED = (
    "detseg.cli",
    "detseg.api.models",
    "detseg.conversion.command",
    "detseg.data.check",
    "detseg.data.split",
    "detseg.engine.command",
    "detseg.engine.reports.compare",
    "detseg.recipes.command",
    "detseg.runtime.commands.merge",
    "detseg.runtime.commands.predict",
    "detseg.runtime.onnx.model",
    "detseg.server.app",
    "SimpleITK",
    "nibabel",
    "onnx",
)
HARD_LIMIT = 12 * 2**30
"""Of address space, of which torch and ONNX Runtime alone reserve some gigabytes."""


@dataclass
class Tally:
    """What came of the inputs of a kind."""

    outcomes: Counter[str] = field(default_factory=Counter)
    details: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    most_megabytes: float = 0.0


def run_kind(
    name: str, kind: Kind, work: Path, keep: Path, num_inputs: int, seed: int, limits: argparse.Namespace
) -> Tally:
    """Send ``num_inputs`` files of a kind through their commands."""
    tally, done = Tally(), 0
    while done < num_inputs:
        numbers = range(done, min(num_inputs, done + BATCH))
        # The results end by themselves, when the child has: it must not be left behind.
        for number, result in enumerate(_batch(name, kind, work, numbers, seed, limits), start=done):
            tally.outcomes[result["outcome"]] += 1
            tally.slowest = max(tally.slowest, result["seconds"])
            tally.most_megabytes = max(tally.most_megabytes, result["megabytes"])
            if result["outcome"] in FELL:
                tally.details[result["detail"]] += 1
            if result["outcome"] in FELL or result["seconds"] > limits.slow or result["megabytes"] > limits.large:
                _keep(name, kind, work, keep, number, seed, result)
            done = number + 1
    return tally


def _batch(
    name: str, kind: Kind, work: Path, numbers: range, seed: int, limits: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """The results of a child process for as many of ``numbers`` as it gets through; the last may be how it ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with os.fdopen(writing, "w") as report:
            _child(name, kind, work, numbers, seed, limits, report)
        os._exit(0)
    os.close(writing)
    num_done, rest, hangs = 0, b"", False
    while True:
        ready, _, _ = select.select([reading], [], [], limits.seconds)
        hangs = not ready
        received = os.read(reading, 2**16) if ready else b""
        if not received:
            break
        *lines, rest = (rest + received).split(b"\n")
        for line in lines:
            yield json.loads(line)
        num_done += len(lines)
    os.close(reading)
    if hangs:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if num_done < len(numbers):
        outcome = "hang" if hangs else "crash"
        detail = f"no end within {limits.seconds:g} s" if hangs else f"ended by status {status:#x}"
        yield {"outcome": outcome, "detail": detail, "seconds": limits.seconds if hangs else 0.0, "megabytes": 0.0}


def _child(
    name: str, kind: Kind, work: Path, numbers: range, seed: int, limits: argparse.Namespace, report: IO[str]
) -> None:
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (HARD_LIMIT, HARD_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What libraries write by themselves.
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    kind.prepare(work / "set")
    for seed_name, content in kind.seeds.items():  # once whole, so that only what is new counts
        kind.files[seed_name].write_bytes(content)
        _use(kind, seed_name, 0, work)

    def tell(*results: dict[str, Any]) -> None:
        report.writelines(json.dumps(result) + "\n" for result in results)
        report.flush()

    for start in range(numbers.start, numbers.stop, kind.at_a_time):
        together = range(start, min(numbers.stop, start + kind.at_a_time))
        if len(together) > 1 and (results := _use_together(name, kind, together, seed, work, limits)):
            tell(*results)
            continue
        for number in together:
            seed_name, mutated = make_input(name, kind, number, seed)
            kind.files[seed_name].write_bytes(mutated)
            began, before = time.monotonic(), _forget_peak()
            outcome, detail = _use(kind, seed_name, number, work)
            megabytes = (_peak() - before) / 1e6
            if outcome not in FELL and megabytes > limits.megabytes:
                outcome, detail = "memory", f"{detail}: {megabytes:.0f} MB"
            seconds = time.monotonic() - began
            tell({"outcome": outcome, "detail": detail, "seconds": seconds, "megabytes": megabytes})
            kind.files[seed_name].write_bytes(kind.seeds[seed_name])


def _use_together(
    name: str, kind: Kind, numbers: range, seed: int, work: Path, limits: argparse.Namespace
) -> list[dict[str, Any]]:
    """What comes of these inputs in one command, in a process of its own; nothing where one of them fell, or took more
    time or memory than one may, so that it is looked for one by one."""
    folder = work / "together"
    shutil.rmtree(folder, ignore_errors=True)
    paths = []
    for number in numbers:
        seed_name, mutated = make_input(name, kind, number, seed)
        paths.append(folder / str(number) / seed_name)
        paths[-1].parent.mkdir(parents=True)
        paths[-1].write_bytes(mutated)
    words = kind.uses[0](paths[0], work / "out")
    at = words.index(str(paths[0]))
    words[at : at + 1] = map(str, paths)
    child = os.fork()
    if child == 0:
        before = _forget_peak()
        fell = _run(kind, words, work)[0] in FELL or _peak() - before > limits.megabytes * 1e6
        if fell:
            os._exit(70)
        (work / "peak").write_text(str(_peak() - before))
        os._exit(0)
    began = time.monotonic()
    while time.monotonic() - began < limits.seconds / 2:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.001)
    else:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if status:
        return []
    seconds, megabytes = time.monotonic() - began, int((work / "peak").read_text()) / 1e6
    errors = work / "out" / "errors.jsonl"
    refused = {json.loads(line)["source"] for line in errors.read_text().splitlines()} if errors.exists() else set()
    share = {"detail": "", "seconds": seconds / len(paths), "megabytes": megabytes}
    # Where all are refused, nothing is written.
    none_used = not (work / "out").exists()
    return [{"outcome": "refused" if none_used or str(path) in refused else "used", **share} for path in paths]


def make_input(name: str, kind: Kind, number: int, seed: int) -> tuple[str, bytes]:
    """The input of this number, which is always the same for one seed: which file is damaged, and how."""
    chance = random.Random(f"{name}|{seed}|{number}")
    seed_name = chance.choice(sorted(kind.seeds))
    mutation = kind.mutations[number % len(kind.mutations)]
    return seed_name, mutation(kind.seeds[seed_name], chance)


def _use(kind: Kind, seed_name: str, number: int, work: Path) -> tuple[str, str]:
    """What comes of the command for the file, and what it said last."""
    return _run(kind, _words(kind, kind.files[seed_name], number, work / "out"), work)


def _words(kind: Kind, path: Path, number: int, output: Path) -> list[str]:
    return kind.uses[number // len(kind.mutations) % len(kind.uses)](path, output)


def _run(kind: Kind, words: Sequence[str], work: Path) -> tuple[str, str]:
    import detseg.cli

    shutil.rmtree(work / "out", ignore_errors=True)
    (work / "out.json").unlink(missing_ok=True)
    output, errors = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            code = (kind.run or detseg.cli.main)(words)
    except SystemExit as end:
        return "refused", f"exit {end.code}"
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is what is looked for
        place = traceback.extract_tb(error.__traceback__)[-1]
        return "traceback", f"{type(error).__name__} in {Path(place.filename).name}:{place.name}: {str(error)[:100]}"
    said = errors.getvalue()
    if "Traceback" in said:
        return "traceback", said.strip().splitlines()[-1][:200]
    return ("used" if code == 0 else "refused"), said[-200:]


def _forget_peak() -> int:
    """Let the system measure the peak of memory anew; returns what is used now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024


def _keep(name: str, kind: Kind, work: Path, keep: Path, number: int, seed: int, result: dict[str, Any]) -> None:
    folder = keep / name.replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    seed_name, mutated = make_input(name, kind, number, seed)
    path = folder / f"{seed}_{number}_{Path(seed_name).name}"
    path.write_bytes(mutated)
    words = _words(kind, path, number, folder / "out")
    with (folder / "what.jsonl").open("a") as file:
        file.write(json.dumps({"file": str(path), "place": seed_name, "command": words, **result}) + "\n")


def import_all() -> None:
    """Import what the commands use, so that no child has to. This process still has no threads but its own."""
    import cv2
    import onnxruntime  # noqa: F401
    import torch

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    for name in _IMPORTED:
        importlib.import_module(name)


def render(tallies: dict[str, Tally]) -> str:
    """The table of what came of all kinds."""
    head = ["kind", "inputs", "used", "refused", "crashes", "hangs", "tracebacks", "memory"]
    rows = [[*head, "slowest s", "most MB"]]
    for name, tally in tallies.items():
        counts = [tally.outcomes[outcome] for outcome in ("used", "refused", *FELL)]
        rows.append([name, *map(str, [sum(counts), *counts]), f"{tally.slowest:.1f}", f"{tally.most_megabytes:.0f}"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", help="which kinds, all where none is named")
    parser.add_argument("--inputs", type=int, default=1000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long one input may take")
    parser.add_argument("--megabytes", type=float, default=1000.0, help="how much memory one input may take")
    parser.add_argument("--slow", type=float, default=10.0, help="what takes so many seconds is kept, too")
    parser.add_argument("--large", type=float, default=500.0, help="what takes so many megabytes is kept, too")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="where to put what fell")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        kinds = make_kinds(Path(folder))
        kinds |= make_run_kinds(Path(folder), Path(folder) / "coco")
        kinds |= make_more_kinds(Path(folder), Path(folder) / "coco")
        import_all()
        unknown = sorted(set(options.kinds) - set(kinds))
        if unknown:
            parser.error(f"unknown kinds {', '.join(unknown)}; there are {', '.join(kinds)}")
        tallies = {}
        for name in options.kinds or list(kinds):
            work = Path(folder) / "work" / name.replace(" ", "_")
            work.mkdir(parents=True)
            tallies[name] = run_kind(name, kinds[name], work, options.keep, options.inputs, options.seed, options)
            print(render({name: tallies[name]}).splitlines()[-1], file=sys.stderr, flush=True)  # it may take hours
    for name, tally in tallies.items():
        for detail, count in tally.details.most_common(20):
            print(f"{name}: {count} x {detail}")
    print(render(tallies))
    return int(any(tally.outcomes[outcome] for tally in tallies.values() for outcome in FELL))


if __name__ == "__main__":
    sys.exit(main())
