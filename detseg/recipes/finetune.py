"""How much of a trained network to change, by the number of images and of classes that are new to it.

The aim is a run that is never worse than what it began with: steps are small where everything is known already, norms
keep the statistics they have, and the average of the weights that is judged holds on to the start for an epoch or so.
What depends on the task stands in ``configs/finetune``, one file for each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detseg.config_files import ConfigError, Layer, read_layers
from detseg.shipped import FOLDER

ALWAYS, KNOWN, NEW = "always", "known_classes", "new_classes"


def read_recipe(task_name: str) -> dict[str, Layer]:
    """The sections of the recipe of a task, each as a layer of a training configuration.

    Raises:
        ConfigError: there is no recipe for this task.
    """
    path = FOLDER / "finetune" / f"{task_name}.yaml"
    if not path.is_file():
        raise ConfigError(f"there is no recipe to fine-tune a model of the task {task_name}; name a configuration")
    (layer,) = read_layers(path)
    return {section: layer.child(section) for section in (ALWAYS, KNOWN, NEW)}


def size_layer(num_samples: int, batch_size: int, *, is_chosen: bool) -> tuple[Layer, str]:
    """What follows from ``num_samples`` training images, or volumes, and why.

    ``batch_size`` is that of the recipe, or that of the user (``is_chosen``), which stays.
    """
    if not is_chosen:
        batch_size = min(batch_size, max(2, num_samples // 4))
    steps_per_epoch = -(-num_samples // batch_size)
    # An average over the last two epochs, or twenty steps where these are fewer.
    decay = round(1 - 1 / max(20, 2 * steps_per_epoch), 4)
    settings: dict[str, Any] = {"train": {"batch_size": batch_size, "ema": {"decay": decay}}}
    reason = (
        f"{num_samples} samples in batches of {batch_size} are {steps_per_epoch} steps in an epoch: average of the "
        f"weights with decay {decay:g}"
    )
    return Layer(settings, "fine-tuning", Path.cwd()), reason


def describe_classes(train: Any, num_kept: int, num_new: int) -> str:
    """What the sections of the recipe say, in one line; ``train`` is the section of the built configuration."""
    classes = "all classes are known" if not num_new else f"{num_new} of {num_kept + num_new} classes are new"
    held = f", {', '.join(train.freeze)} held for {train.freeze_epochs} epochs" if train.freeze else ""
    norms = ", norms keep their statistics" if train.freeze_norms else ""
    return (
        f"{classes}: {train.optimizer.name} with learning rate {train.optimizer.learning_rate:g} after "
        f"{train.schedule.warmup_epochs:g} epochs of warm-up{held}{norms}"
    )
