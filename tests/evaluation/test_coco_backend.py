from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from detseg.evaluation.coco_backend import accumulate


def test_a_backend_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ValueError, match="'faster-coco-eval' needs a package that is not installed"):
        accumulate("faster-coco-eval", [], [], [1])
