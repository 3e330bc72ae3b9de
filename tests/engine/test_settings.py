"""What a configuration means that leaves settings out: files in use rely on it."""

from __future__ import annotations

import pytest

from detseg.config import from_dict
from detseg.engine.settings import DataConfig, RunConfig, TrainConfig
from detseg.engine.training.optim import OptimizerConfig


def test_training_without_settings() -> None:
    assert TrainConfig() == TrainConfig(
        epochs=100,
        batch_size=16,
        accumulate=1,
        seed=0,
        clip_norm=10.0,
        freeze=(),
        freeze_norms=False,
        evaluate_epochs=1,
        partial_weights=False,
        channels_last=True,
    )
    assert OptimizerConfig() == OptimizerConfig("adamw", learning_rate=1e-3, momentum=0.9, weight_decay=5e-4)


def test_a_run_needs_a_model_and_a_task_only() -> None:
    config = from_dict(RunConfig, {"model": "detector", "task": "detection"}, "run.yaml")
    assert config.data == DataConfig(path="shapes", num_workers=2, cache="none", cache_max_side=None)
    assert config.train == TrainConfig()


def test_a_number_of_workers_is_not_negative() -> None:
    with pytest.raises(ValueError, match="num_workers must not be negative, got -1"):
        DataConfig(num_workers=-1)
    assert DataConfig(num_workers=0).num_workers == 0
