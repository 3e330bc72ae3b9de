"""The site is built without a warning, and nothing on it comes from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
_ASSET = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*?(?:src|href)=\"?((?:https?:)?//[^\s\">]+)")
_IN_CSS = re.compile(r"(?:@import\s*|url\()[\"']?((?:https?:)?//[^\"')]+)")


@pytest.mark.slow
def test_the_site_is_whole_and_its_own(tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    pages = sorted(site.rglob("*.html"))
    assert {"index.html", "configuration.html", "command_line.html", "python.html"} <= {page.name for page in pages}
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    assert {page.name: found for page, text in texts.items() if (found := _ASSET.findall(text))} == {}
    styles = {path.name: _IN_CSS.findall(path.read_text(encoding="utf-8")) for path in site.rglob("*.css")}
    assert styles
    assert {name: found for name, found in styles.items() if found} == {}
    assert "detseg.load" in texts[site / "python.html"]
    assert "train.optimizer.learning_rate" in texts[site / "configuration.html"]


def test_assets_from_elsewhere_are_found() -> None:
    page = '<script src="https://a.b/c.js"></script><a href="https://fine.org">x</a><link rel="x" href=//d.e/f.css>'
    assert _ASSET.findall(page) == ["https://a.b/c.js", "//d.e/f.css"]
    assert _IN_CSS.findall("@import url(https://a.b/c.css); b { background: url(d.png) }") == ["https://a.b/c.css"]
