"""How the code lies: files in each folder, chains and circles of imports, and what is passed on the way to a result.

    python bench/house.py [CHECKOUT] [--only-read] [--names]

Reads all of ``detseg/`` in ``CHECKOUT``, this one by default, or another, such as a worktree of an older commit. Then
it trains the small detector of the tests for two epochs there and lets it draw the boxes of one image, both by the
command line, and counts the modules of detseg that are loaded and the functions, and their files, that are passed; what
runs only while a module is imported, and what runs in worker processes, is left out. ``--only-read`` leaves out both
runs; ``--names`` names the files.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
NUM_SHOWN = 4

TRACED = """
import inspect, json, sys, threading
root, report, *arguments = sys.argv[1:]
passed, own = set(), root + "/detseg/"

def is_importing(frame):
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_code.co_filename.startswith(own):
            return True
        frame = frame.f_back
    return False

def watch(frame, event, argument):
    code = frame.f_code
    if event != "call" or not code.co_filename.startswith(own) or not code.co_flags & inspect.CO_OPTIMIZED:
        return
    key = code.co_filename[len(own):], code.co_qualname, code.co_firstlineno
    if key not in passed and not is_importing(frame):
        passed.add(key)

threading.setprofile(watch)
sys.setprofile(watch)
from detseg.cli import main
sys.argv[1:] = arguments
try:
    code = main(arguments)
except SystemExit as end:
    code = end.code
sys.setprofile(None)
loaded = sum((getattr(one, "__file__", None) or "").startswith(own) for one in sys.modules.values())
with open(report, "w") as file:
    json.dump({"loaded": loaded, "passed": sorted(passed)}, file)
sys.exit(code)
"""


@dataclass(frozen=True, slots=True)
class Read:
    """What is seen by reading: ``folders`` with their numbers of files, ``lines`` of each file, ``depth`` modules in
    the longest chain of imports, ``circles`` of modules that need one another, ``branches`` on the task by file, and
    the number of ``public`` names."""

    folders: dict[str, int]
    lines: list[int]
    depth: int
    circles: list[list[str]]
    branches: dict[str, int]
    public: int


@dataclass(frozen=True, slots=True)
class Passed:
    """What one command loaded and called: modules of detseg, and functions with the files that they are in."""

    loaded: int
    functions: int
    files: list[str]


def load_rules() -> Any:
    """``tests/test_architecture.py``, which knows what an import is, and a question about the task."""
    spec = importlib.util.spec_from_file_location("test_architecture", REPOSITORY / "tests" / "test_architecture.py")
    assert spec is not None
    assert spec.loader is not None
    rules = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = rules  # dataclasses look for their module
    spec.loader.exec_module(rules)
    return rules


def read_package(package: Path, rules: Any) -> Read:
    """Read all files of ``package``, a folder ``detseg``, by the ``rules`` of this checkout."""
    sources = {path: path.read_text(encoding="utf-8") for path in sorted(package.rglob("*.py"))}
    names = {_module_name(path.relative_to(package.parent)): path for path in sources}
    at_start: dict[str, set[str]] = {}
    ever: dict[str, set[str]] = {}
    for name, path in names.items():
        found = [(_known(one.module, names), one.at_start) for one in rules.imports_of(sources[path])]
        ever[name] = {module for module, _ in found} - {"", "detseg", name}
        at_start[name] = {module for module, starts in found if starts} - {"", "detseg", name}
    asked = Counter(
        {
            name: len(rules.branches(re.sub(r"\btruth(s?)\b", r"target\1", source)))  # as older commits call it
            for path, source in sources.items()
            if not (name := path.relative_to(package).as_posix()).startswith(rules.SEAM)
        }
    )
    return Read(
        dict(Counter(path.parent.relative_to(package).as_posix() for path in sources if path.stem != "__init__")),
        [len(source.splitlines()) for source in sources.values()],
        _depth(at_start),
        [circle for circle in _knots(ever) if len(circle) > 1],
        dict(+asked),
        _count_public(sources[package / "__init__.py"]),
    )


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _known(module: str, names: Mapping[str, Path]) -> str:
    while module and module not in names:
        module = module.rpartition(".")[0]
    return module


def _knots(needed: Mapping[str, set[str]]) -> list[list[str]]:
    """Modules in groups that reach one another, each group behind those that it needs (Tarjan's algorithm)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        stack.append(name)
        for other in sorted(needed[name]):
            if other not in order:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], order[other])
        if lowest[name] == order[name]:
            place = stack.index(name)
            groups.append(sorted(stack[place:]))
            del stack[place:]

    for name in sorted(needed):
        if name not in order:
            visit(name)
    return groups


def _depth(needed: Mapping[str, set[str]]) -> int:
    """The number of modules in the longest chain in which each imports the next; a circle counts all that are in it."""
    longest: dict[str, int] = {}
    for group in _knots(needed):
        below = max((longest[other] for name in group for other in needed[name] if other not in group), default=0)
        longest |= dict.fromkeys(group, below + len(group))
    return max(longest.values())


def _count_public(source: str) -> int:
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return len(ast.literal_eval(node.value))
    return 0


def run_traced(checkout: Path, folder: Path, arguments: list[str]) -> Passed:
    """Run the command line of ``checkout`` with ``arguments`` in ``folder``.

    Raises:
        RuntimeError: it ends with another code than 0.
    """
    report = folder / "passed.json"
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TRACED, str(checkout), str(report), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    found = json.loads(report.read_text())
    return Passed(found["loaded"], len(found["passed"]), sorted({file for file, _, _ in found["passed"]}))


def run_both(checkout: Path) -> tuple[Passed, Passed]:
    """Train the small detector of the tests of ``checkout``, and let it draw what it finds in one image."""
    texts = _constants(checkout / "tests" / "engine" / "conftest.py")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "shapes.yaml").write_text(texts["SHAPES"], encoding="utf-8")
        (folder / "tiny.yaml").write_text(texts["TINY"], encoding="utf-8")
        cv2.imwrite(str(folder / "image.png"), np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
        trained = run_traced(checkout, folder, ["train", "tiny.yaml", "-o", "run"])
        drawn = run_traced(
            checkout, folder, ["predict", "run/best.safetensors", "image.png", "-o", "drawn", "--conf", "0.001"]
        )
    return trained, drawn


def _constants(path: Path) -> dict[str, str]:
    """The texts that a module gives names to."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            found[ast.unparse(node.targets[0])] = node.value.value
    return found


def print_read(read: Read, write: Callable[[str], Any] = print) -> None:
    """Print what was read, a line for each figure."""
    folders = sorted(read.folders.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{name if name != '.' else 'detseg'} {count}" for name, count in folders[:NUM_SHOWN])
    write(f"files: {len(read.lines)} in {len(read.folders)} folders; most in {shown}")
    write(f"lines: median {statistics.median(read.lines):g}, longest {max(read.lines)}")
    write(f"depth of imports: {read.depth} modules")
    knots = "; ".join(f"{len(circle)} modules of {', '.join(_rooms(circle))}" for circle in read.circles)
    write(f"circles: {len(read.circles)}{f' ({knots})' if knots else ''}")
    write(f"branches on the task outside of its seam: {sum(read.branches.values())} in {len(read.branches)} files")
    write(f"public names: {read.public}")


def _rooms(circle: list[str]) -> list[str]:
    return sorted({re.sub(r"^detseg\.", "", name).partition(".")[0] for name in circle})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="?", type=Path, default=REPOSITORY)
    parser.add_argument("--only-read", action="store_true")
    parser.add_argument("--names", action="store_true", help="name the files that are passed")
    arguments = parser.parse_args()
    checkout = arguments.checkout.resolve()
    if not (checkout / "detseg" / "__init__.py").is_file():
        parser.error(f"{checkout}: no checkout of detseg; expected a folder with detseg/__init__.py")
    print_read(read_package(checkout / "detseg", load_rules()))
    if not arguments.only_read:
        for verb, passed in zip(("training run", "image drawn"), run_both(checkout), strict=True):
            print(f"{verb}: {passed.loaded} modules loaded, {passed.functions} functions in {len(passed.files)} files")
            if arguments.names:
                print(*(f"  {name}" for name in passed.files), sep="\n")


if __name__ == "__main__":
    main()
