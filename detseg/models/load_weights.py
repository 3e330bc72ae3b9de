"""Weights from files: our own safetensors, and checkpoints of YOLOX, YOLOv8, LETNet and MONAI's VNet under their own
names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from detseg.foreign.limits import ForeignFileError
from detseg.foreign.torch_file import read_torch_file
from detseg.models.foreign_names import own_name
from detseg.models.foreign_weights import find_weights, to_tensors

NAMES_SHOWN = 10


class WeightsError(ValueError):
    """A file of weights cannot be read, or does not fit the model."""


@dataclass(frozen=True)
class LoadReport:
    """What became of the names: ``mapped`` and ``missing`` are the model's, ``unused`` the file's.

    A weight whose shape differs is both missing and unused.
    """

    mapped: tuple[str, ...]
    unused: tuple[str, ...]
    missing: tuple[str, ...]


def load_weights(model: nn.Module, path: str | Path, strict: bool = True) -> LoadReport:
    """Load a file of weights into ``model``, in place, or leave it untouched when the file does not fit.

    Args:
        model: the network; the weights take its precision and device.
        path: ``.safetensors``; ``.pth`` or ``.pt`` with a state dict, with ``{"model": state dict}`` or with a whole
            YOLOv8 model, of which the tensors alone are read: nothing in the file is run. The names are the model's
            own, or those of YOLOX, of YOLOv8, of the published LETNet or of MONAI's VNet.
        strict: every weight of the file and of the model must find its match. Otherwise those without one keep their
            values and are reported: a detector for other classes starts from the rest.

    Raises:
        WeightsError: the file is missing, unreadable or holds no weights; a weight has no match or
            another shape and ``strict`` is set; no weight matches at all; a weight is NaN or infinite.
    """
    path = Path(path)
    weights = _read(path)
    require_finite(weights, path)
    names_and_weights = {own_name(name): (name, weight) for name, weight in weights.items()}
    expected = model.state_dict()
    problems, mapped = [], {}
    for own, (name, weight) in names_and_weights.items():
        if own not in expected:
            problems.append(f"unused: {name}")
        elif expected[own].shape != weight.shape:
            problems.append(
                f"shape of {name}: {list(weight.shape)} in the file, {list(expected[own].shape)} in the model"
            )
        else:
            mapped[own] = weight
    problems += [f"missing: {own}" for own in expected if own not in names_and_weights]
    if problems and (strict or not mapped):
        raise WeightsError(f"{path} does not fit the model ({len(mapped)} weights fit): {_listing(problems)}")
    model.load_state_dict(mapped, strict=False)
    return LoadReport(
        mapped=tuple(mapped),
        unused=tuple(name for own, (name, _) in names_and_weights.items() if own not in mapped),
        missing=tuple(own for own in expected if own not in mapped),
    )


def require_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Raise WeightsError where one of the ``weights`` from ``path`` is NaN or infinite: nothing would be found, and
    nothing would say why."""
    broken = [name for name, one in weights.items() if one.is_floating_point() and not torch.isfinite(one).all()]
    if broken:
        raise WeightsError(
            f"{path}: {len(broken)} of {len(weights)} tensors hold NaN or infinity, so that nothing can be found with "
            f"them: {_listing(broken)}; go back to a checkpoint from before the training diverged"
        )


def _listing(problems: list[str]) -> str:
    rest = len(problems) - NAMES_SHOWN
    return "; ".join(problems[:NAMES_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"no file of weights at {path}")
    match path.suffix.lower():
        case ".safetensors":
            try:
                return load_file(path)
            except SafetensorError as error:
                raise WeightsError(f"{path} is not a whole safetensors file: {error}") from error
        case ".pth" | ".pt":
            return _read_torch(path)
    raise WeightsError(f"{path} must end in .safetensors, .pth or .pt")


def _read_torch(path: Path) -> Mapping[str, Tensor]:
    try:
        content = read_torch_file(path).content
    except ForeignFileError as error:
        raise WeightsError(str(error)) from error
    try:
        return to_tensors(find_weights(content).arrays)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error
