"""Training on images that are drawn on the device of the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detseg.engine.distributed import Group
from detseg.engine.run import build_trainer, train
from detseg.engine.run_data import open_run_data
from detseg.engine.settings import RunConfig
from detseg.engine.training.interrupt import InterruptedRunError
from detseg.engine.training.trainer import Trainer
from detseg.tasks.base import Batch
from detseg.tasks.model_file import ModelFileConfig

Tiny = Callable[..., RunConfig]
LATER = "augment.device=model"


def make_trainer(config: RunConfig, device: str = "cpu") -> Trainer:
    data = open_run_data(config.data, "boxes")
    file_config = ModelFileConfig(config.model, config.task, data.train.class_names, data.train.category_ids)
    return build_trainer(config, file_config, data.train, data.val, Path(), Group(), torch.device(device))


def batches(config: RunConfig) -> list[Batch]:
    loader = make_trainer(config).loader
    try:
        return list(loader.epoch(0))
    finally:
        loader.close()


def test_a_batch_is_drawn_where_it_is_sent(tiny: Tiny) -> None:
    drawn, packed = batches(tiny("augment.mixup=0.5")), batches(tiny("augment.mixup=0.5", LATER))
    assert len(drawn) == len(packed) == 3
    for one, expected in zip(packed, drawn, strict=True):
        assert one.images.numel() == 0
        found = one.to("cpu")
        assert found.undrawn is None
        assert found.paths == expected.paths
        for name, target in expected.targets.items():
            assert torch.equal(found.targets[name], target)
        difference = (found.images.int() - expected.images.int()).abs()
        assert float((difference > 1).float().mean()) < 1e-3


@pytest.mark.slow
def test_workers_send_what_this_process_makes(tiny: Tiny) -> None:
    for one, other in zip(batches(tiny(LATER)), batches(tiny(LATER, "data.num_workers=2")), strict=True):
        found, sent = one.to("cpu"), other.to("cpu")
        assert torch.equal(found.images, sent.images)
        assert all(torch.equal(found.targets[name], target) for name, target in sent.targets.items())


@pytest.mark.slow
def test_a_stopped_run_ends_as_if_never_stopped(
    tiny: Tiny, tmp_path: Path, fingerprint: Callable[[Path], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(LATER)
    train(config, tmp_path / "whole", bar=False)
    forward = Trainer._forward

    def forward_and_stop(self: Any, *arguments: Any) -> Any:
        if self.progress.step == 2:
            self.stop.received = "SIGTERM"
        return forward(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_forward", forward_and_stop)
        with pytest.raises(InterruptedRunError, match="after step 3"):
            train(config, tmp_path / "stopped", bar=False)
    train(config, tmp_path / "stopped", resume=True, bar=False)
    assert fingerprint(tmp_path / "stopped") == fingerprint(tmp_path / "whole")


def test_a_device_without_exact_places_is_refused(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_, **__: self)
    with pytest.raises(ValueError, match=r"mps, which has no float64.*set augment\.device: cpu"):
        make_trainer(tiny(LATER), "mps")
