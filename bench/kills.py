"""``detseg predict`` killed at random moments: each file is whole or absent, and ``--resume`` makes the run complete.

Usage: python bench/kills.py [--kills 200] [--seed 0] [--keep FOLDER]

20 sources, images, videos and two damaged files among them. A run is killed (SIGKILL) at a random moment, then looked
at: every file but those that are marked as unfinished must be, to the byte, what a run that nobody kills writes there.
It goes on and is killed again, up to three times, then goes on to its end, and then the folder must be equal to that of
the undisturbed run. Most processes are forked from one that has imported what they need, and every tenth is started
anew, so that imports are killed, too. The counts come last, and the exit code is 1 where anything fell.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.fuzz_seeds import in_a_child

NUM_IMAGES, NUM_VIDEOS, NUM_FRAMES = 13, 5, 6
SAVE = "drawn,coco,csv,jsonl,yolo"
FRESH = 10
"""Of so many processes one is started anew."""
MOST_IN_A_ROW = 4
PATIENCE_S = 120.0


@dataclass
class Tally:
    """What came of the kills; ``faults`` is what must not be."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def make_folder(folder: Path) -> list[str]:
    """Put 20 sources and a model into ``folder``; returns the words of the command, without its output."""
    in_a_child(lambda: _write(folder))
    return ["predict", str(folder / "boxes.onnx"), str(folder / "in"), "--save", SAVE, "--device", "cpu"]


def _write(folder: Path) -> None:
    import cv2
    import numpy as np

    from bench.small_models import write_onnx
    from detseg.runtime.media.images import write_image

    write_onnx("boxes", folder)
    rng = np.random.default_rng(0)
    for number in range(NUM_IMAGES):
        write_image(folder / f"in/{number}.png", rng.integers(0, 256, (96, 128, 3), np.uint8))
    for number in range(NUM_VIDEOS):
        path = folder / f"in/film{number}.{'mp4' if number % 2 else 'avi'}"
        codec = "mp4v" if number % 2 else "MJPG"
        video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10.0, (64, 48))
        for _ in range(NUM_FRAMES):
            video.write(rng.integers(0, 256, (48, 64, 3), np.uint8))
        video.release()
    (folder / "in/no_image.png").write_bytes(b"no image")
    whole = (folder / "in/film0.avi").read_bytes()
    (folder / "in/truncated.avi").write_bytes(whole[: len(whole) * 2 // 3])


def run_kills(words: Sequence[str], work: Path, num_kills: int, seed: int, keep: Path) -> Tally:
    """Kill the command ``words`` so often, and compare what it leaves with what it writes when nobody kills it."""
    undisturbed = work / "undisturbed"
    took_s = _seconds_of([*words, "-o", str(undisturbed), "--resume"], fresh=False)
    fresh_s = _seconds_of([*words, "-o", str(work / "fresh"), "--resume"], fresh=True)
    whole = files_in(undisturbed)
    tally, chance, output, number = Tally(), random.Random(seed), work / "out", 0
    if files_in(work / "fresh") != whole:
        tally.faults.append("two undisturbed runs differ")
    while tally.outcomes["killed"] < num_kills and not tally.faults:
        shutil.rmtree(output, ignore_errors=True)
        command = [*words, "-o", str(output), "--resume"]
        for _ in range(chance.randint(1, MOST_IN_A_ROW)):
            number += 1
            fresh = number % FRESH == 0
            was_killed = _run_and_kill(command, chance.uniform(0, fresh_s if fresh else took_s), fresh)
            tally.outcomes["killed" if was_killed else "ended before"] += 1
            tally.outcomes["killed, started anew"] += was_killed and fresh
            tally.outcomes["killed, with something to go on from"] += was_killed and output.exists()
            tally.faults += [f"kill {number}: {fault}" for fault in faults_of(output, whole)]
        code = _end_of(_start(command, fresh=False))
        if code not in (0, 1):
            tally.faults.append(f"kill {number}: --resume ended with {code}")
        if (left := files_in(output)) != whole:
            names = sorted(name for name in left.keys() | whole.keys() if left.get(name) != whole.get(name))
            tally.faults.append(f"kill {number}: after --resume other than undisturbed: {', '.join(names)}")
        tally.outcomes["made complete"] += left == whole
    if tally.faults and output.exists():
        shutil.copytree(output, keep / f"{seed}_{number}", dirs_exist_ok=True)
    return tally


def files_in(folder: Path) -> dict[str, bytes]:
    """All files in ``folder``, by their names in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def faults_of(folder: Path, whole: dict[str, bytes]) -> list[str]:
    """What in ``folder`` is neither marked as unfinished nor what the undisturbed run has there."""
    left = {name: content for name, content in files_in(folder).items() if not _is_marked(Path(name).name)}
    return [f"{name} is not whole" for name, content in left.items() if content != whole.get(name)]


def _is_marked(name: str) -> bool:
    return name.startswith(".partial-") or ".unfinished" in name


def _run_and_kill(words: Sequence[str], after_s: float, fresh: bool) -> bool:
    """Whether it was killed; else it had ended by itself."""
    process = _start(words, fresh)
    time.sleep(after_s)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    return _end_of(process) == -signal.SIGKILL


def _seconds_of(words: Sequence[str], fresh: bool) -> float:
    begin = time.perf_counter()
    code = _end_of(_start(words, fresh))
    if code != 1:
        raise RuntimeError(f"{' '.join(words)} ended with {code}, not with 1, as two sources are damaged")
    return time.perf_counter() - begin


def _start(words: Sequence[str], fresh: bool) -> int:
    """The number of a process at work on the command."""
    if fresh:
        repository = str(Path(__file__).resolve().parents[1])
        command = [sys.executable, "-m", "detseg", *words]
        environment = {**os.environ, "PYTHONPATH": repository}
        return os.posix_spawn(
            sys.executable,
            command,
            environment,
            file_actions=[(os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_RDWR, 0) for n in range(3)],
        )
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        from detseg.cli import main as detseg

        code = detseg(words)
    finally:
        os._exit(code)


def _end_of(process: int) -> int:
    """The exit code of the process, or minus the number of the signal that ended it."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    raise RuntimeError(f"no end within {PATIENCE_S:g} s")


def import_all() -> None:
    """Import what the command does, so that forks need not; no thread is begun."""
    import cv2
    import onnxruntime  # noqa: F401

    import detseg.api.models
    import detseg.cli
    import detseg.runtime.commands.predict
    import detseg.runtime.onnx.model  # noqa: F401

    cv2.setNumThreads(0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("runs/kills"), help="where to put what fell")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = make_folder(Path(folder))
        import_all()
        begin = time.perf_counter()
        tally = run_kills(words, Path(folder), options.kills, options.seed, options.keep)
    for name, count in tally.outcomes.items():
        print(f"{name}: {count}")
    for fault in tally.faults:
        print(f"FELL: {fault}")
    print(f"{len(tally.faults)} faults, {time.perf_counter() - begin:.0f} s")
    return int(bool(tally.faults))


if __name__ == "__main__":
    sys.exit(main())
