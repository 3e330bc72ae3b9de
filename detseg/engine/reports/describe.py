"""What was measured, on what, and with what: the settings that a report shows."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from detseg import __version__
from detseg.runtime.weights.released import sha256_of

_PACKAGES = (
    "torch",
    "onnxruntime",
    "numpy",
    "opencv-python-headless",
    "hotcoco",
    "faster-coco-eval",
    "pycocotools",
    "monai",
)
_OF_TRAINING = ("loss", "crop", "patch")


def describe(
    model: Path,
    *,
    data: str,
    split: str,
    num_images: int,
    settings: Mapping[str, Any],
    num_parameters: int | None = None,
    device: str = "",
    averaged_with: Sequence[Path] = (),
    num_skipped: int = 0,
) -> dict[str, dict[str, str]]:
    """Sections of named values for :func:`detseg.engine.reports.report.write_report`.

    Args:
        model: the file of the model, whose sha256 is taken.
        data: the data set as the user named it.
        split: its split.
        num_images: how many images or volumes were measured.
        settings: the task's configuration (``detseg.config.to_dict``); what only training needs of it is left out.
        num_parameters: of the model, where they are known.
        device: what it ran on.
        averaged_with: the files of further models of an ensemble.
        num_skipped: how many images were left out because they cannot be read.
    """
    model_facts = {"file": str(model), "sha256": sha256_of(model)}
    for number, path in enumerate(averaged_with, start=2):
        model_facts |= {f"file {number}": str(path), f"sha256 {number}": sha256_of(path)}
    if num_parameters is not None:
        model_facts["parameters"] = f"{num_parameters:,}"
    versions = {"detseg": __version__, "Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if device:
        versions["device"] = device
    data_facts = {"data set": data, "split": split, "images": f"{num_images:,}"}
    if num_skipped:
        data_facts["skipped"] = f"{num_skipped:,}"
    return {
        "Model": model_facts,
        "Data": data_facts,
        "Settings": dict(_flat({name: settings[name] for name in settings if name not in _OF_TRAINING})),
        "Versions": versions,
    }


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """``{"input": {"height": 640}}`` -> ``("input.height", "640")``."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
