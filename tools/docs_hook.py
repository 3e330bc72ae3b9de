"""What `mkdocs` needs to know beyond ``mkdocs.yml``: pages that lie elsewhere in the checkout, and our docstrings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files, InclusionLevel

REPOSITORY = Path(__file__).resolve().parent.parent
ELSEWHERE = ("CHANGELOG.md", "CONTRIBUTING.md", "weights/README.md", "weights/images/*", "bench/results/*")
LINKED_ONLY = "bench/"
_ROLE = re.compile(r":\w+:`+~?\.?([^`]+)`+")
_OUT_OF_DOCS = re.compile(r"(\]\()\.\./(?=bench/|weights/|CONTRIBUTING|CHANGELOG)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages and images that lie outside of ``docs`` at the place that they have in the checkout."""
    for pattern in ELSEWHERE:
        for path in sorted(REPOSITORY.glob(pattern)):
            name = path.relative_to(REPOSITORY).as_posix()
            hidden = InclusionLevel.NOT_IN_NAV if name.startswith(LINKED_ONLY) else InclusionLevel.INCLUDED
            files.append(File.generated(config, name, abs_src_path=str(path), inclusion=hidden))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that leave ``docs`` in the checkout stay inside of the site."""
    return markdown if page.file.src_uri.startswith(("bench/", "weights/")) else _OUT_OF_DOCS.sub(r"\1", markdown)


class PlainText(griffe.Extension):
    """Roles of Sphinx in docstrings, such as :func:`detseg.load`, as what they name."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = _ROLE.sub(r"`\1`", obj.docstring.value)
