"""What the pages name is there: generated text is fresh, and keys, options, links and messages exist."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import detseg
from detseg.cli.arguments import make_parser
from detseg.config_reference import sections
from detseg.engine.settings import RunConfig
from tests.docs.commands import blocks, shrink
from tests.docs.test_commands import PAGES, REPOSITORY

README = REPOSITORY / "README.md"
DOCS = sorted((REPOSITORY / "docs").rglob("*.md"))
MAX_NOT_TRIED = 7
_TRIED = ("bash", "python")
OF_OTHERS = {
    "--nproc-per-node", "--no-deps", "--candidate", "--amp", "--compile", "--cfg-options", "--tta", "--help",
    "--data-binary", "--nnodes", "--rdzv-backend", "--rdzv-id", "--rdzv-endpoint", "--array", "--cpus-per-task",
    "--requeue", "--signal", "--dependency", "--nodes", "--ntasks-per-node", "--gpus-per-node", "--max-restarts",
    "--no-python",
}  # fmt: skip
"""Options of other programs, and of our tools, that pages name."""
_KEY = re.compile(r"(?<![\w./])(?:model|task|data|augment|train)(?:\.[a-z]\w*)+(?![\w(])(?!\.\w)")
_FILES = (".json", ".onnx", ".py", ".pt", ".safetensors", ".sh", ".yaml")


def name_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


each_page = pytest.mark.parametrize("page", [README, *DOCS], ids=name_of)


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_tool", REPOSITORY / "tools" / "docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_fresh() -> None:
    for name, text in generator().pages().items():
        assert (REPOSITORY / "docs" / name).read_text(encoding="utf-8") == text, "stale: run python tools/docs.py"


@each_page
def test_keys_exist(page: Path) -> None:
    known = {key.path for section in sections(RunConfig) for key in section.keys}
    named = {key for key in _KEY.findall(page.read_text(encoding="utf-8")) if not key.endswith(_FILES)}
    assert {key for key in named if key.removesuffix(".name") not in known} == set()


@each_page
def test_options_exist(page: Path) -> None:
    parser = make_parser()
    verbs = next(action for action in parser._actions if action.dest == "verb")
    assert isinstance(verbs.choices, dict)
    known = {name for one in (parser, *verbs.choices.values()) for x in one._actions for name in x.option_strings}
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", page.read_text(encoding="utf-8")))
    assert named - known - OF_OTHERS == set()


@each_page
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@each_page
def test_commands_of_all_blocks_are_understood(page: Path) -> None:
    parser = make_parser()
    for block in blocks(page.read_text(encoding="utf-8")):
        for words in block.commands() if block.language in ("", "bash", "text") else []:
            if words[0] == "detseg" and page.name != "command_line.md":
                _, rest = parser.parse_known_args(words[1:])
                assert not [word for word in rest if word.startswith("-")], words


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_imports_of_the_blocks_exist(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8")):
        for node in ast.walk(ast.parse(block.text)) if block.language == "python" else []:
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("detseg"):
                module = importlib.import_module(node.module)
                assert [name.name for name in node.names if not hasattr(module, name.name)] == []


def test_all_that_is_public_is_on_the_page_of_python() -> None:
    page = (REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8")
    assert [name for name in detseg.__all__ if f"::: detseg.{name}\n" not in page] == []


def test_every_block_that_looks_like_one_is_tried_or_says_why() -> None:
    found = {page: blocks(page.read_text(encoding="utf-8")) for page in [README, *DOCS]}
    tried = {page for page, all_of in found.items() if any(x.language in _TRIED and not x.reason for x in all_of)}
    assert tried == set(PAGES)


def test_blocks_that_are_not_tried_are_few_and_say_why() -> None:
    texts = [page.read_text(encoding="utf-8") for page in [README, *DOCS]]
    reasons = [block.reason for text in texts for block in blocks(text) if block.reason]
    marks = sum(text.count("<!-- not tried") for text in texts)
    assert len(reasons) == marks == MAX_NOT_TRIED, "a mark must stand right above its block"
    assert all(len(reason.split()) >= 3 for reason in reasons)


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert f"detseg-{detseg.__version__}-py3-none-any.whl" in text
    assert [name_of(page) for page in DOCS if page.name != "index.md" and f"({name_of(page)})" not in text] == []


def test_the_messages_of_the_troubleshooting_page_are_real() -> None:
    page = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    sources = "".join(path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "detseg").rglob("*.py")))
    said = re.sub(r'"\s*\n\s*f?"', "", sources)
    messages = re.findall(r"^### `(.*)`$", page, flags=re.MULTILINE)
    assert len(messages) >= 10
    for message in messages:
        parts = [re.escape(part) for part in re.split(r"\b\d+\b|'val'|(?<=there is )train", message)]
        assert re.search(r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}".join(parts), said), f"{message}: no source says so"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("eval m --data d", "eval m --data d --workers 0"),
        ("predict m footage.mp4", "predict m footage.mp4"),
        ("train --resume runs/a --epochs 200", "train --resume runs/a --epochs 2"),
        (
            "train c2f_n --data d --epochs 100 --size 640",
            "train c2f_n --data d --epochs 1 --size 64 train.device=cpu data.num_workers=0 train.num_threads=1",
        ),
    ],
)
def test_commands_are_made_small(words: str, expected: str) -> None:
    assert shrink(words.split()) == expected.split()


def test_blocks_of_a_page() -> None:
    page = (
        'a\n```yaml title="a.yaml"\nx: 1\n```\n<!-- not tried: no camera -->\n'
        '```bash\ndetseg b \\\n  c  # d\n\ne "f g"\n```\n'
    )
    first, second = blocks(page)
    assert (first.language, first.title, first.text, first.reason) == ("yaml", "a.yaml", "x: 1\n", "")
    assert second.reason == "no camera"
    assert second.commands() == [["detseg", "b", "c"], ["e", "f g"]]
