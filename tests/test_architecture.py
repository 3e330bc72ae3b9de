"""The import table, which ``docs/architecture.md`` shows too, the size of files, and what must start without torch."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "detseg"
MAX_LINES = 400
MAX_MEDIAN_LINES = 150
MAX_FILES = 18
"""In one folder, without what is in folders of its own."""

OPEN = frozenset(
    {
        "arrays",
        "config",
        "config_files",
        "config_reference",
        "files",
        "folders",
        "habits",
        "memory",
        "run_lengths",
        "shipped",
        "structures",
        "volumes",
    }
)
"""Top-level modules that every room may import, and that import only one another."""

DOORS: dict[str, frozenset[str]] = {
    "runtime": frozenset(),
    "ops": frozenset({"runtime"}),
    "layers": frozenset({"runtime"}),
    "foreign": frozenset(),
    "models": frozenset({"foreign", "layers", "ops"}),
    "losses": frozenset({"ops", "runtime"}),
    "evaluation": frozenset({"ops", "runtime"}),
    "augment": frozenset({"ops", "runtime"}),
    "data": frozenset({"augment", "runtime"}),
    "tasks": frozenset({"models", "losses", "evaluation", "ops", "runtime"}),
    "engine": frozenset({"data", "augment", "inference", "tasks", "models", "losses", "evaluation", "ops", "runtime"}),
    "inference": frozenset({"models", "tasks", "ops", "runtime"}),
    "server": frozenset({"runtime"}),
    "conversion": frozenset({"foreign", "layers", "models", "tasks", "ops", "runtime"}),
    "recipes": frozenset({"engine", "conversion", "models", "tasks", "runtime"}),
    "exporters": frozenset({"inference", "models", "tasks", "data", "evaluation", "ops", "runtime"}),
}
ALL = frozenset(DOORS) | {"cli", "api"}
DOORS |= {"cli": ALL, "api": ALL, "tools": ALL}

FLOORS: dict[str, frozenset[str]] = {
    "data/entries": frozenset({"data"}),
    "data/datasets": frozenset({"data", "data/entries"}),
    "data/formats": frozenset({"data", "data/datasets", "data/entries"}),
    "data/programs": frozenset({"data", "data/entries"}),
    "data/checks": frozenset({"data", "data/datasets", "data/entries"}),
    "data/splits": frozenset({"data"}),
    "data/loading": frozenset({"data", "data/datasets"}),
    "evaluation/objects": frozenset({"evaluation"}),
    "evaluation/labels": frozenset({"evaluation"}),
    "exporters/formats": frozenset({"exporters"}),
    "engine/training": frozenset({"engine", "engine/logging"}),
    "engine/logging": frozenset(),
    "engine/reports": frozenset({"engine"}),
    "runtime/media": frozenset(),
    "runtime/volumes": frozenset({"runtime/media"}),
    "runtime/sources": frozenset({"runtime/media", "runtime/volumes"}),
    "runtime/inputs": frozenset({"runtime/media", "runtime/volumes"}),
    "runtime/postprocess": frozenset({"runtime/inputs"}),
    "runtime/kinds": frozenset(
        {"runtime/sources", "runtime/inputs", "runtime/postprocess", "runtime/drawing", "runtime/writers"}
    ),
    "runtime/foreign": frozenset({"runtime/inputs", "runtime/postprocess", "runtime/kinds"}),
    "runtime/onnx": frozenset({"runtime/inputs", "runtime/kinds", "runtime/foreign"}),
    "runtime/tracking": frozenset(),
    "runtime/drawing": frozenset({"runtime/inputs"}),
    "runtime/writers": frozenset({"runtime/media", "runtime/volumes", "runtime/sources", "runtime/drawing"}),
    "runtime/commands": frozenset(
        {"runtime", "runtime/media", "runtime/sources", "runtime/kinds", "runtime/onnx", "runtime/tracking"}
        | {"runtime/postprocess", "runtime/drawing", "runtime/writers"}
    ),
    "runtime/weights": frozenset(),
    "layers/cpu": frozenset(),
    "models/backbones": frozenset({"models"}),
    "models/necks": frozenset({"models"}),
    "models/heads": frozenset({"models"}),
    "ops/kernels": frozenset(),
}
"""What a floor may import of its own room, beside itself: the modules at the room's root, and other floors."""

BRING_TORCH = ("torch", "torchvision", "timm", "monai", "safetensors.torch", "albumentations")
"""Third-party imports that load torch, or take as long as it."""


@dataclass(frozen=True)
class Import:
    """``at_start``: run when the module is imported, not later inside a function and not for type checkers only."""

    module: str
    line: int
    at_start: bool


def imports_of(source: str) -> list[Import]:
    """Every import in ``source``, wherever it stands, and every string that is a dotted path into detseg."""
    return list(_walk(ast.parse(source), at_start=True))


def _walk(node: ast.AST, at_start: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, node.lineno, at_start)
    elif isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        for alias in node.names:
            yield Import(f"{module}.{alias.name}" if alias.name != "*" else module, node.lineno, at_start)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        if re.fullmatch(r"detseg(\.\w+)+(:\w+)?", node.value):
            yield Import(node.value.partition(":")[0], node.lineno, at_start=False)
    elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        for child in node.body:
            yield from _walk(child, at_start=False)
        for child in node.orelse:
            yield from _walk(child, at_start)
    else:
        inside = at_start and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from _walk(child, inside)


def room_of(parts: tuple[str, ...]) -> str:
    """``("detseg", "models", "detector")`` -> ``"models"``; the package itself and the verbs belong to ``"cli"``."""
    if parts[0] == "tools":
        return "tools"
    name = parts[1] if len(parts) > 1 else "__init__"
    return "cli" if name in ("__main__", "__init__") or name.startswith("cli") else name


def floor_of(parts: tuple[str, ...]) -> str:
    """``("detseg", "data", "formats", "coco")`` -> ``"data/formats"``; of a module at the root of its room the room."""
    floor = "/".join(parts[1:3])
    return floor if floor in FLOORS else room_of(parts)


def closed_doors(floor: str, source: str) -> list[str]:
    """The imports in ``source``, a file of ``floor`` or at the root of that room, that the tables do not allow."""
    room = floor.split("/")[0]
    allowed = (OPEN if room in OPEN else OPEN | {room} | DOORS[room]) | {"__version__"}
    problems = []
    for found in imports_of(source):
        parts = found.module.split(".")
        if found.module.startswith("."):
            problems.append(f"line {found.line}: relative import {found.module}")
        elif parts[0] == "detseg" and len(parts) > 1 and room_of(tuple(parts)) not in allowed:
            problems.append(f"line {found.line}: {room} may not import {found.module}")
        elif floor in FLOORS and room_of(tuple(parts)) == room and parts[0] == "detseg":
            if floor_of(tuple(parts)) not in FLOORS[floor] | {floor}:
                problems.append(f"line {found.line}: {floor} may not import {found.module}")
        elif room == "runtime" and brings_torch(found.module):
            problems.append(f"line {found.line}: runtime may never import {found.module}")
        elif parts[0] == "albumentations" and room != "augment":
            problems.append(f"line {found.line}: only augment may import albumentations")
    return problems


def brings_torch(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in BRING_TORCH)


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TOOLS = sorted((REPOSITORY / "tools").glob("*.py"))


def loaded_with(module: str) -> set[str]:
    """The modules of detseg, and the names of others, that are loaded when ``module`` is imported, by reading them."""
    waiting, loaded = [module], set()
    while waiting:
        name = waiting.pop()
        if name in loaded:
            continue
        loaded.add(name)
        if not name.startswith("detseg"):
            continue
        waiting.extend(name.rsplit(".", count)[0] for count in range(1, name.count(".") + 1))
        if name in MODULES:
            waiting.extend(i.module for i in imports_of(MODULES[name].read_text(encoding="utf-8")) if i.at_start)
    return loaded


TORCH_FREE_ROOMS = {"runtime", "server", "foreign", "cli", "api", *OPEN}
TABLES = {"detseg.models", "detseg.losses", "detseg.tasks", "detseg.data", "detseg.exporters"}
TORCH_FREE = sorted(name for name in MODULES if name in TABLES or room_of(tuple(name.split("."))) in TORCH_FREE_ROOMS)


@pytest.mark.parametrize("path", [*MODULES.values(), *TOOLS], ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_imports_keep_to_the_table(path: Path) -> None:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    room = room_of(parts)
    assert room in DOORS or room in OPEN, f"{room} is not a room: add it to DOORS and to docs/architecture.md"
    assert closed_doors(floor_of(parts), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", MODULES.values(), ids=MODULES.keys())
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_half_of_the_files_are_shorter() -> None:
    assert statistics.median(len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES.values()) < (
        MAX_MEDIAN_LINES
    )


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES.values()} - {PACKAGE}))
def test_every_folder_is_a_room_or_a_floor(folder: Path) -> None:
    name = folder.relative_to(PACKAGE).as_posix()
    assert name in DOORS or name in FLOORS, "add it to DOORS or FLOORS and to docs/architecture.md"


def test_no_folder_is_crowded() -> None:
    files = Counter(path.parent.relative_to(PACKAGE).as_posix() for path in MODULES.values() if path.stem != "__init__")
    assert {folder: count for folder, count in files.items() if count > MAX_FILES} == {}, "give it floors"


@pytest.mark.parametrize("module", TORCH_FREE)
def test_no_import_leads_to_torch(module: str) -> None:
    assert [name for name in loaded_with(module) if brings_torch(name)] == []


def needed_modules(name: str) -> set[str]:
    """The modules of detseg that ``name`` imports, whenever it does; the package itself is open to all."""
    needed = set()
    for found in imports_of(MODULES[name].read_text(encoding="utf-8")):
        module = found.module
        while module and module not in MODULES:
            module = module.rpartition(".")[0]
        needed.add(module)
    return needed - {"", "detseg", name}


def find_circle(needed: dict[str, set[str]]) -> list[str]:
    """Names of which each needs the next and the last the first; none if there are no such."""
    done: set[str] = set()

    def follow(path: list[str]) -> list[str]:
        for name in sorted(needed[path[-1]]):
            if name in path:
                return path[path.index(name) :]
            if name not in done and (circle := follow([*path, name])):
                return circle
        done.add(path[-1])
        return []

    return next((circle for name in needed if name not in done and (circle := follow([name]))), [])


def test_no_module_needs_itself_through_others() -> None:
    assert find_circle({name: needed_modules(name) for name in MODULES}) == []


def test_circles_are_found() -> None:
    assert find_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert find_circle({"a": {"b"}, "b": {"c", "d"}, "c": set(), "d": {"b"}}) == ["b", "d"]


def test_what_leads_to_torch_is_found() -> None:
    assert "torch" in loaded_with("detseg.ops.boxes")
    assert "torch.nn" in loaded_with("detseg.models.detector"), "through other modules of detseg"


def test_torch_is_not_loaded() -> None:
    code = f"""
import importlib, sys
for name in {[name for name in TORCH_FREE if not name.endswith("__main__")]}:
    importlib.import_module(name)
    assert "torch" not in sys.modules, name
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_page_shows_these_tables() -> None:
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^|]*)` \| ([^|]*) \|$", page, flags=re.MULTILINE)
    shown: dict[str, frozenset[str]] = {}
    for rooms, doors in rows:
        opened = ALL if doors.strip() == "all" else frozenset(re.findall(r"`([\w/]+)`", doors))
        shown |= dict.fromkeys(re.split(r"`, `", rooms), opened)
    assert shown == DOORS | FLOORS


BAD_SOURCES = [
    # room, source, words in the report
    ("models", "import detseg.data.formats.coco", "models may not import detseg.data.formats.coco"),
    ("models", "from detseg import data", "models may not import detseg.data"),
    ("models", "from detseg.losses.base import LossSum", "models may not import detseg.losses"),
    ("models", "def late():\n    from detseg.engine import trainer", "line 2: models may not import detseg.engine"),
    (
        "models",
        "if TYPE_CHECKING:\n    from detseg.tasks.base import Batch",
        "line 2: models may not import detseg.tasks",
    ),
    ("models", "X = {'a': 'detseg.data.formats.coco:CocoConfig'}", "models may not import detseg.data.formats.coco"),
    ("data", "class A:\n    import detseg.models", "data may not import detseg.models"),
    ("data", "from detseg.cli import main", "data may not import detseg.cli"),
    ("config", "from detseg.runtime.media.images import read_image", "config may not import detseg.runtime"),
    ("runtime", "def late():\n    import torch.nn", "runtime may never import torch.nn"),
    ("runtime", "from safetensors import torch", "runtime may never import safetensors.torch"),
    ("ops", "from . import boxes", "relative import"),
    ("data", "import albumentations as A", "only augment"),
    (
        "runtime/media",
        "from detseg.runtime.writers.boxes import CsvWriter",
        "runtime/media may not import detseg.runtime.writers.boxes.CsvWriter",
    ),
    ("runtime/media", "from detseg.runtime import model", "runtime/media may not import detseg.runtime.model"),
    ("data/loading", "import detseg.engine", "data may not import detseg.engine"),
]


@pytest.mark.parametrize(("floor", "source", "words"), BAD_SOURCES)
def test_the_checker_reports_bad_imports(floor: str, source: str, words: str) -> None:
    problems = closed_doors(floor, source)
    assert len(problems) == 1
    assert words in problems[0]


GOOD_SOURCES = [
    ("models", "from detseg.ops.boxes import iou\nfrom detseg.models.detector import Detector\nimport torch"),
    ("data", "from detseg import __version__, structures\nfrom detseg.files import write_text"),
    ("engine", "import detseg\nfrom detseg.tasks import TASKS\nNAME = 'detseg is no path'"),
    ("config", "from detseg.config_files import Layer"),
    ("tools", "from detseg.cli import main"),
    ("augment", "import albumentations"),
    ("runtime", "from detseg.runtime.writers.boxes import CsvWriter"),
    ("runtime/onnx", "from detseg.runtime.inputs import geometry\nfrom detseg.runtime.onnx.file import read_onnx_file"),
    ("data/formats", "from detseg.data.datasets.packed import PackedBuilder\nfrom detseg.runtime.media import images"),
]


@pytest.mark.parametrize(("floor", "source"), GOOD_SOURCES)
def test_the_checker_passes_good_imports(floor: str, source: str) -> None:
    assert closed_doors(floor, source) == []


def test_imports_are_told_apart_by_when_they_run() -> None:
    source = """
import a
try:
    import b
except ImportError:
    pass
if TYPE_CHECKING:
    import c
else:
    import d
class K:
    import e
def f():
    import g
"""
    assert {i.module: i.at_start for i in imports_of(source)} == {
        "a": True, "b": True, "c": False, "d": True, "e": True, "g": False,
    }  # fmt: skip


SEAM = ("tasks/", "runtime/kinds/", "data/")
"""Where it may be asked which task, target or kind of results there is: the seam itself, and the formats of data."""

TOLD_APART = frozenset(
    {
        "Detections", "Instances", "LabelMap", "LabelVolume", "GroundTruth", "Sample", "VolumeSample", "Dataset",
        "MaskDataset",
        "VolumeDataset", "PlacedVolumes", "InputSpec", "VolumeSpec", "CocoEvaluator", "SegmentationEvaluator",
        "VolumeEvaluator", "DetectionMetadata", "SemanticMetadata", "VolumeMetadata", "DetectionTask", "SemanticTask",
        "VolumeTask", "DetectionTaskConfig", "SemanticTaskConfig", "VolumeTaskConfig",
    }
)  # fmt: skip
"""Classes of which there is one for each task or kind of results."""

BRANCHES: dict[str, int] = {}
"""How many such questions a file outside of the seam may ask; together fewer than five."""


def branches(source: str) -> list[str]:
    """Where ``source`` asks which task, target or kind of results there is: by the class of a value, or by a name."""
    return [f"line {node.lineno}: {ast.unparse(node)}" for node in ast.walk(ast.parse(source)) if _asks(node)]


def _asks(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "issubclass"):
        return bool(_names(node.args[1]) & TOLD_APART)
    if isinstance(node, ast.MatchClass):
        return bool(_names(node.cls) & TOLD_APART)
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        by_type = any(isinstance(side, ast.Call) and ast.unparse(side.func) == "type" for side in sides)
        if by_type and any(_names(side) & TOLD_APART for side in sides):
            return True
        values = [one.value for side in sides for one in ast.walk(side) if isinstance(one, ast.Constant)]
        return any(isinstance(value, str) for value in values) and any(_is_name_of_task(side) for side in sides)
    return isinstance(node, ast.Match) and _is_name_of_task(node.subject)


def _names(node: ast.AST) -> set[str]:
    """The classes that ``node`` may stand for."""
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)} | {
        one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)
    }


def _is_name_of_task(node: ast.AST) -> bool:
    """Whether ``node`` is a target, or the name of a task or of a kind of results, such as ``package.task.name``."""
    if isinstance(node, ast.Name):
        return node.id in ("target", "task_name", "kind_name")
    if not isinstance(node, ast.Attribute):
        return False
    owner = ast.unparse(node.value)
    if node.attr == "name":
        return owner.rpartition(".")[2] in ("task", "_task") or owner.endswith((".kind", "._kind"))
    return node.attr in ("target", "task_name") or (node.attr in ("task", "kind") and owner.endswith("metadata"))


def test_the_seam_is_the_only_place_that_asks_which_task_it_is() -> None:
    found = {}
    for path in MODULES.values():
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith(SEAM) and (asked := branches(path.read_text(encoding="utf-8"))):
            found[name] = asked
    assert {name: len(asked) for name, asked in found.items()} == BRANCHES, found
    assert sum(BRANCHES.values()) < 5


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("isinstance(result, Detections)", 1),
        ("isinstance(result, structures.LabelMap | LabelVolume)", 1),
        ("isinstance(spec, (VolumeSpec, int))", 1),
        ("type(result) is LabelMap", 1),
        ("match metadata:\n    case DetectionMetadata(head=head): pass\n    case VolumeMetadata(): pass", 2),
        ("match self.task_name:\n    case 'detection': pass", 1),
        ("dataset.target == 'boxes'", 1),
        ("target in ('boxes', 'masks')", 1),
        ("package.task.name != 'volume'", 1),
        ("metadata.task == 'semantic' and model.kind.name == 'masks'", 2),
        ("isinstance(given, Path)", 0),
        ("target != found", 0),
        ("self.name == 'sgd'", 0),
        ("dataset.target in config.targets", 0),
        ("by_target[dataset.target]", 0),
    ],
)
def test_questions_about_the_task_are_found(source: str, count: int) -> None:
    assert len(branches(source)) == count
