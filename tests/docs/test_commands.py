"""Every command block of the README and the quickstarts runs, on small data and for an epoch."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest

from detseg.cli import main
from detseg.data import DATASETS
from detseg.models import MODELS
from tests.docs.commands import Block, blocks, shrink, write_data

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "docs" / "quickstart").glob("*.md")),
    *(REPOSITORY / "docs" / name for name in ("extending.md", "metrics.md", "python.md")),
]


def run(block: Block) -> None:
    """What a reader does with a block: saves the file, types the commands, runs the program."""
    if block.title:
        Path(block.title).write_text(block.text)
    elif block.language == "python":
        exec(compile(block.text, "block", "exec"), {})
    for words in block.commands() if block.language == "bash" else []:
        assert words[0] == "detseg", f"{words}: mark the block as not tried, with the reason"
        assert main(shrink(words[1:])) == 0, words


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # as for a program in this folder
    with patch.dict(MODELS), patch.dict(DATASETS):  # which the page on extending adds to, for a process of its own
        for block in blocks(page.read_text(encoding="utf-8")):
            if not block.reason:
                run(block)
