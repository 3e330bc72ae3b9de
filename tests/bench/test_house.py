"""The figures of a house that is small enough to be counted by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "house.py"

FILES = {
    "__init__.py": '__all__ = ["one", "two"]\n',
    "cli.py": "def main(arguments):\n    from detseg.room import door\n    return door.open_door(int(arguments[1]))\n",
    "room/__init__.py": "",
    "room/door.py": "from detseg.room import wall\n\ndef open_door(code):\n    return wall.lean(code)\n",
    "room/wall.py": "SIZE = 2\n\ndef once():\n    return SIZE\n\nHIGH = once()\n\ndef lean(code):\n    return code\n",
    "a.py": "def f():\n    import detseg.b\n\ndef g(target):\n    return target == 'boxes'\n",
    "b.py": "import detseg.a\n",
}
SMALL = {"SHAPES": "format: shapes\n", "TINY": "model: none\n"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkout")
    for name, content in FILES.items():
        (root / "detseg" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "detseg" / name).write_text(content)
    (root / "tests" / "engine").mkdir(parents=True)
    texts = "".join(f"{name} = {text!r}\n" for name, text in SMALL.items())
    (root / "tests" / "engine" / "conftest.py").write_text(texts)
    return root


def house(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_what_is_read(checkout: Path) -> None:
    process = house(checkout, "--only-read")
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == [
        "files: 7 in 2 folders; most in detseg 3, room 2",
        "lines: median 3, longest 9",
        "depth of imports: 2 modules",
        "circles: 1 (2 modules of a, b)",
        "branches on the task outside of its seam: 1 in 1 files",
        "public names: 2",
    ]


def test_what_is_passed(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import house as script

    passed = script.run_traced(checkout, tmp_path, ["predict", "0"])
    assert passed.files == ["cli.py", "room/door.py", "room/wall.py"]
    assert passed.functions == 3, "main, open_door and lean; what an import calls is none of the way"
    assert passed.loaded == 5, "those three, and the two packages"
    with pytest.raises(RuntimeError, match="predict 3 ended with 3"):
        script.run_traced(checkout, tmp_path, ["predict", "3"])


def test_a_folder_without_the_package(tmp_path: Path) -> None:
    process = house(tmp_path)
    assert process.returncode == 2
    assert f"{tmp_path}: no checkout of detseg" in process.stderr
