"""``make`` installs what pip accepts, for every Python that the project supports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

REPOSITORY = Path(__file__).resolve().parent.parent
CONSTRAINTS = REPOSITORY / "constraints.txt"
MAKEFILE = (REPOSITORY / "Makefile").read_text()


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return found


def pythons() -> list[str]:
    """The supported versions of Python, by the classifiers of the project."""
    found = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", text) for text in project()["classifiers"]]
    return [match[1] for match in found if match]


def wanted_by_make() -> list[str]:
    """The requirements that ``make`` gives to pip."""
    match = re.search(r"^EXTRAS := (.*)$", MAKEFILE, re.MULTILINE)
    assert match is not None
    extras = project()["optional-dependencies"]
    return [*project()["dependencies"], *(text for extra in match[1].split(",") for text in extras[extra])]


def pins() -> list[Requirement]:
    lines = CONSTRAINTS.read_text().splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def excluded_pythons(requires_python: str | None) -> list[str]:
    """Of the supported Pythons, those of which a release is outside of a Requires-Python."""
    allowed = SpecifierSet(requires_python or "")
    return [python for python in pythons() if not all(allowed.contains(f"{python}.{patch}") for patch in range(30))]


def test_supported_pythons() -> None:
    assert pythons() == ["3.11", "3.12", "3.13"]
    assert SpecifierSet(project()["requires-python"]) == SpecifierSet(">=3.11")


@pytest.mark.parametrize(
    ("requires_python", "excluded"),
    [
        (">=2.7, !=3.0.*, !=3.1.*, !=3.2.*, !=3.3.*, <3.5", ["3.11", "3.12", "3.13"]),  # of a backport for Python 2
        (">=3.12", ["3.11"]),
        (">=3.11.4", ["3.11"]),
        (">=3.9,<3.13", ["3.13"]),
        (">=3.9", []),
        (None, []),
    ],
)
def test_what_counts_as_excluded(requires_python: str | None, excluded: list[str]) -> None:
    assert excluded_pythons(requires_python) == excluded


@pytest.mark.parametrize("pin", pins(), ids=str)
def test_a_pin_is_installed_and_for_all_supported_pythons(pin: Requirement) -> None:
    try:
        found = distribution(pin.name)
    except PackageNotFoundError:
        pytest.fail(f"constraints.txt pins {pin}, which nothing that make installs needs: take the line out")
    assert found.version in pin.specifier, "not the environment of constraints.txt: rm -r .venv, then make test"
    assert excluded_pythons(found.metadata.get("Requires-Python")) == []


def test_every_requirement_of_ours_is_pinned() -> None:
    pinned = {pin.name.lower() for pin in pins()}
    assert [text for text in wanted_by_make() if Requirement(text).name.lower() not in pinned] == []
    assert "cityscapesscripts" in pinned


def test_no_part_of_the_standard_library_comes_from_elsewhere() -> None:
    """Such as ``typing``, which cityscapesscripts lists: no Python that is supported may have it."""
    names = {pin.name for pin in pins()} | {found.name for found in distributions()}
    assert sorted(names & sys.stdlib_module_names) == [], "in an environment of an older checkout: rm -r .venv"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("python", pythons())
def test_pip_resolves_the_constraints(python: str, tmp_path: Path) -> None:
    """By the package index: of every pin there is a wheel for that Python, and all go together."""
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--only-binary=:all:"]
    command += ["--quiet", "--target", str(tmp_path / "nothing"), "--python-version", python]
    command += ["--report", str(report), "-c", str(CONSTRAINTS), *wanted_by_make()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    chosen = {one["metadata"]["name"].lower(): one["metadata"] for one in json.loads(report.read_text())["install"]}
    assert {"numpy", "torch", "monai", "pytest"} <= chosen.keys()
    for metadata in chosen.values():
        assert SpecifierSet(metadata.get("requires_python", "")).contains(f"{python}.0"), metadata["name"]
