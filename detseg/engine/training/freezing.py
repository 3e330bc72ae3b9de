"""Holding parts of a model while the rest learns."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def names_to_freeze(model: nn.Module, prefixes: Sequence[str]) -> set[str]:
    """The names of the modules of ``model`` that lie under one of ``prefixes``, such as ``backbone`` or ``neck.up``.

    Raises:
        ValueError: a prefix names no module, with the nearest names; or nothing is left that could learn.
    """
    modules = [name for name, _ in model.named_modules() if name]
    chosen: set[str] = set()
    for prefix in prefixes:
        below = {name for name in modules if name == prefix or name.startswith(prefix + ".")}
        if not below:
            near = ", ".join(difflib.get_close_matches(prefix, modules, cutoff=0.4)) or ", ".join(modules[:8])
            raise ValueError(f"train.freeze: the model has no part {prefix!r}; the nearest names are: {near}")
        chosen |= below
    learned = {name.rpartition(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    if learned <= chosen:
        raise ValueError(f"train.freeze holds the whole model: {', '.join(prefixes)}; leave out what is to learn")
    return chosen


def freeze(model: nn.Module, names: Collection[str], learned: Sequence[nn.Parameter], *, norms: bool) -> None:
    """Hold the modules ``names`` of ``model``; let all other ``learned`` parameters learn.

    A batch norm that is held keeps its statistics too; with ``norms`` all batch norms keep theirs.
    """
    for parameter in learned:
        parameter.requires_grad_(True)
    for name, module in model.named_modules():
        held = name in names
        if held:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
        if isinstance(module, _BatchNorm):
            module.train(model.training and not (held or norms))
