from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import detseg.ops.kernels

Outputs = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The CPU for Triton's interpreter; with TRITON_INTERPRET=0 a GPU."""
    if os.environ["TRITON_INTERPRET"] == "1":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("TRITON_INTERPRET=0, and there is no GPU")
    return torch.device("cuda")


@pytest.fixture
def launch() -> Callable[..., Outputs]:
    """``launch(kernels, boxes_xyxy, scores, labels=None, **settings)``: a module's ``launch_nms`` into memory that is
    full of wrong values."""

    def run(
        kernels: ModuleType, boxes_xyxy: Tensor, scores: Tensor, labels: Tensor | None = None, **settings: Any
    ) -> Outputs:
        usual = {"max_detections": 300, "multi_label": False, "class_agnostic": False, "max_candidates": 30_000}
        settings = usual | settings
        num_images, max_detections = len(scores), settings["max_detections"]
        poisoned = (
            torch.full((num_images, max_detections, 6), float("nan"), device=scores.device),
            torch.full((num_images,), 123_456_789, device=scores.device),
            torch.full((num_images, max_detections), -987_654_321, device=scores.device),
        )
        with np.errstate(all="ignore"):  # numpy, in the interpreter, warns of what is not finite
            found: Outputs = kernels.launch_nms(boxes_xyxy, scores, labels, **settings, out=poisoned)
        assert all(one is other for one, other in zip(found, poisoned, strict=True))
        return found

    return run


@pytest.fixture
def changed_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """``changed_kernels((text, retransform), ...)``: a copy of the NMS kernels' module in which each text, which must
    occur exactly once in the source, is replaced."""

    def load(*changes: tuple[str, str]) -> ModuleType:
        package = f"changed_{tmp_path.name}"
        folder = tmp_path / package
        folder.mkdir()
        originals = Path(*detseg.ops.kernels.__path__)
        sources = {
            name: (originals / name).read_text() for name in ("candidates.py", "maps.py", "sorting.py", "nms.py")
        }
        for text, retransform in changes:
            assert sum(source.count(text) for source in sources.values()) == 1, f"not exactly once: {text!r}"
            sources = {name: source.replace(text, retransform) for name, source in sources.items()}
        for name, source in sources.items():
            (folder / name).write_text(source.replace("from detseg.ops.kernels.", f"from {package}."))
        monkeypatch.syspath_prepend(tmp_path)
        module = importlib.import_module(f"{package}.nms")
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        return module

    return load
