"""``.ci/run`` takes the road of a newcomer, also where uv is installed. What it does there, CI itself shows."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

MAKE = """#!/bin/sh
echo "make $* | uv: $(command -v uv || echo none) | tool: $(command -v some-tool) | home: $(ls -A "$HOME" | wc -l)"
pwd >> "$PLACES"
test -f README.md && test ! -e .venv
"""


@pytest.mark.skipif(
    not (REPOSITORY / ".git").exists() or not shutil.which("git") or not shutil.which("bash"),
    reason="not a clone, or no git and bash to make one with",
)
def test_both_commands_of_the_readme_in_a_clean_clone_without_uv(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("make", MAKE), ("uv", "#!/bin/sh\nexit 1\n"), ("uvx", ""), ("some-tool", "")):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PLACES": str(tmp_path / "places")}
    done = subprocess.run(["bash", REPOSITORY / ".ci" / "run"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    steps = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("make ")]
    assert [step[0] for step in steps] == ["make demo", "make test", "make lint", "make test-slow"]
    assert {step[1] for step in steps} == {"uv: none"}
    assert all(step[2].endswith("/some-tool") for step in steps), "the rest of the folder is still there"
    assert {step[3].split()[-1] for step in steps} == {"0"}
    (place,) = set((tmp_path / "places").read_text().splitlines())
    assert not Path(place).exists(), "it is gone afterwards"
