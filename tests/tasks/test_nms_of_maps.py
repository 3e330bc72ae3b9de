"""Detection on a GPU, whose kernels find candidates in the raw maps; the operator behind it runs on the CPU here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from detseg.config import load_config
from detseg.engine.settings import RunConfig
from detseg.models.detector import DetectorConfig
from detseg.runtime.inputs.geometry import InputSpec
from detseg.shipped import find_config
from detseg.tasks import detection
from detseg.tasks.detection import DetectionTask, DetectionTaskConfig


@pytest.mark.parametrize(("name", "multi_label"), [("c2f_n", True), ("yolox_nano", False), ("c2f_n_seg", True)])
def test_a_gpu_finds_the_same_in_the_maps_themselves(
    name: str, multi_label: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator that a GPU takes, on the CPU: the same objects, and the same coefficients of their masks."""
    torch.manual_seed(0)
    settings = ("task.postprocess.confidence=0.02", f"task.postprocess.multi_label={multi_label}")
    config = load_config(RunConfig, find_config(name), ["data.path=shapes", *settings])
    model = config.model.build(num_classes=3).eval()
    task: Any = config.task.build(model, ("a", "b", "c"))
    with torch.inference_mode():
        raw = model(torch.rand(2, 3, 64, 64))
        levels = raw if isinstance(raw, list) else raw.levels
        for level in levels:
            level += 3 * torch.randn(level.shape)
        usual = task.infer(lambda _: raw, torch.zeros(0))
        seen: list[Any] = []

        def takes_maps(self: Any, level: Any) -> bool:
            seen.append(level)
            return True

        monkeypatch.setattr(DetectionTask, "_takes_maps", takes_maps)
        found = task.infer(lambda _: raw, torch.zeros(0))
        some = task.only(torch.tensor([True, False, True])).infer(lambda _: raw, torch.zeros(0))
    assert len(seen) == 2
    assert int(usual[1].min()) > 3
    for one, other in zip(found, usual, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)
    assert not (some[0][..., 5] == 1).any()
    assert (found[0][..., 5] == 1).any()


@pytest.mark.parametrize(
    ("device", "backend", "takes_maps"),
    [("cuda", "detseg", True), ("cuda", "torchvision", False), ("cpu", "detseg", False)],
)
def test_what_takes_maps(device: str, backend: str, takes_maps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "choose_nms_backend", lambda wanted, device: backend)
    model = DetectorConfig().build(num_classes=3)
    task = DetectionTaskConfig(input=InputSpec(64, 64)).build(model, ("a", "b", "c"))
    level: Any = SimpleNamespace(device=torch.device(device))
    assert task._takes_maps(level) == takes_maps
