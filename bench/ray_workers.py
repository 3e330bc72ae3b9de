"""``detseg predict --ray`` beside the plain command: images per second, memory, and whether the tables are the same.

    python bench/ray_workers.py --model MODEL.onnx --images FOLDER [--count 20000] [--workers 2]

The folder's images are linked as often as needed, each link a file of its own name. Memory is the most that the program
and all that it has started hold at a time, looked at every half second; what processes of Ray share counts for each of
them. Needs the extra ``ray``.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from detseg.runtime.sources.finding import expand_sources

_TABLES = ("detections.json", "detections_images.json", "detections.csv", "objects.parquet")


def memory_mb(session: int) -> tuple[float, float]:
    """The resident memory of all processes of a ``session`` and those they have started, in all and without Ray's own
    programs, in MB."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue  # it has ended
    found = [session]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    total = models = 0.0
    for one in found:
        try:
            mb = int(Path(f"/proc/{one}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
            name = Path(f"/proc/{one}/cmdline").read_bytes().replace(b"\0", b" ")
        except (OSError, IndexError):
            continue  # it has ended
        total += mb
        models += mb if one == session or name.startswith(b"ray::") else 0.0
    return total, models


def run(words: list[str]) -> tuple[float, float, float]:
    """Seconds, and the most memory in all and without Ray's own programs."""
    begin, most, models = time.perf_counter(), 0.0, 0.0
    process = subprocess.Popen(
        [sys.executable, "-m", "detseg", "predict", *words], stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        while process.poll() is None:
            seen = memory_mb(process.pid)
            most, models = max(most, seen[0]), max(models, seen[1])
            time.sleep(0.5)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    if process.returncode:
        raise SystemExit(f"detseg predict {' '.join(words)} ended with {process.returncode}")
    return time.perf_counter() - begin, most, models


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    given = expand_sources([options.images])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "in").mkdir()
        for number in range(options.count):
            source = given[number % len(given)]
            copy = folder / "in" / f"{number:06d}{source.suffix}"
            if number < len(given):
                copy.write_bytes(source.read_bytes())
            else:
                copy.hardlink_to(folder / "in" / f"{number % len(given):06d}{source.suffix}")
        words = [options.model, str(folder / "in"), "--device", "cpu", "--save", "coco,csv,parquet"]
        rows = {
            "one process": run([*words, "-o", str(folder / "plain")]),
            f"{options.workers} workers": run(
                [*words, "-o", str(folder / "ray"), "--ray", "--ray-workers", str(options.workers)]
            ),
        }
        same = all(filecmp.cmp(folder / "plain" / name, folder / "ray" / name, shallow=False) for name in _TABLES)
    print(f"{platform.machine()}, {os.cpu_count()} cores, {options.count:,} images; the same tables: {same}\n")
    print("| | seconds | images/s | MB | MB without Ray's own programs |\n|---|---|---|---|---|")
    for name, (seconds, most, models) in rows.items():
        print(f"| {name} | {seconds:.1f} | {options.count / seconds:.1f} | {most:.0f} | {models:.0f} |")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
