"""``detseg plan``: a configuration for a set of volumes, with its reasons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import yaml

from detseg.config import load_config
from detseg.files import atomic_path, require_replaceable

HEAD = "# Planned by detseg"
_OF_FOLDS = "-train"
"""How splits to learn from end in a cross-validation, fold0-train, to each of which belongs one to judge by."""


def plan_command(
    data: str,
    output: Path,
    *,
    format: str | None = None,
    split: str = "train",
    memory_gb: float = 8.0,
    json_path: Path | None = None,
    overwrite: bool = False,
) -> int:
    """Look at the volumes of ``split`` of ``data`` and write a configuration to ``output``; what was seen of them goes
    to ``json_path``. Returns 0.

    Raises:
        DatasetError, VolumeError: the data set cannot be read, or has no labels.
        ValueError: the memory is not enough, or a file is there already.
    """
    from detseg.data.datasets.volume_fingerprint import fingerprint_of
    from detseg.data.datasets.volumes import VolumeDataset
    from detseg.data.open import open_dataset
    from detseg.engine.notices import OPPOSITES, opposite_names
    from detseg.engine.settings import RunConfig
    from detseg.recipes.volume_plan import VolumeFacts, plan_volumes

    if output.suffix.lower() not in (".yaml", ".yml"):
        raise ValueError(f"-o names the configuration to write, a file that ends in .yaml; got {output}")
    for path in filter(None, (output, json_path)):
        require_replaceable(path, overwrite=overwrite)
    dataset = cast(VolumeDataset, open_dataset(data, split, format, "volumes"))
    found = fingerprint_of(dataset)
    unlike = [opposite_names(found.class_names, side) for side in OPPOSITES]
    facts = VolumeFacts(
        class_names=found.class_names,
        channels=found.channels,
        shapes=found.shapes,
        spacings=found.spacings,
        shares=found.shares,
        mirrored=(not unlike[0], not unlike[1], not unlike[2]),
        unlike=", ".join(f"{one} and {other}" for pairs in unlike for one, other in pairs[:2]),
    )
    plan = plan_volumes(facts, memory_gb)
    text = _render(plan.settings, plan.reasons, _head(data, split, found, memory_gb, plan.memory_gb), data, split)
    with atomic_path(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
        # What cannot be trained must not be left behind.
        load_config(RunConfig, temporary)
    if json_path is not None:
        with atomic_path(json_path) as temporary:
            temporary.write_text(found.as_json(), encoding="utf-8")
    print(text)
    print(f"written: {output}\ntrain it: detseg train {output} -o runs/{output.stem}")
    return 0


def _head(data: str, split: str, found: Any, wanted_gb: float, counted_gb: float) -> list[str]:
    classes = ", ".join(
        f"{name} {share:.2%} in {count}"
        for name, share, count in zip(found.class_names, found.shares, found.found_in, strict=True)
    )
    lowest, highest = found.shapes.min(axis=0).tolist(), found.shapes.max(axis=0).tolist()
    sizes = f"{'x'.join(map(str, lowest))} to {'x'.join(map(str, highest))} voxels"
    lines = [
        f"{HEAD} for {data}, {split}: {found.num_volumes} volumes of {sizes}",
        f"# classes, share of voxels and number of volumes: {classes}",
    ]
    for name, (lower, upper, mean, deviation) in zip(found.channels or ("",), found.intensities, strict=True):
        lines.append(
            f"# intensities in structures{f' of {name}' if name else ''}: {lower:.4g} to {upper:.4g} (percentiles 0.5 "
            f"and 99.5), mean {mean:.4g}, deviation {deviation:.4g}"
        )
    lines.append(f"# memory: training takes some {counted_gb:.1f} GB by count, {wanted_gb:g} GB were granted")
    return lines


def _render(settings: dict[str, Any], reasons: dict[str, str], head: list[str], data: str, split: str) -> str:
    """The settings as YAML, each below its reason."""
    described = {"data.path": data if data == "blobs" else str(Path(data).absolute()), "data.train_split": split}
    if split.endswith(_OF_FOLDS):
        described["data.val_split"] = f"{split.removesuffix(_OF_FOLDS)}-val"
    settings = {"task.name": "volume", **settings, **described}
    lines = [*head, ""]
    sections: dict[str, list[str]] = {}
    for name in settings:
        sections.setdefault(name.partition(".")[0], []).append(name)
    for section in ("model", "task", "data", "augment", "train"):
        lines.append(f"{section}:")
        lines += _render_level(sections[section], section, settings, reasons)
    return "\n".join(lines) + "\n"


def _render_level(names: list[str], prefix: str, settings: dict[str, Any], reasons: dict[str, str]) -> list[str]:
    lines: list[str] = []
    indent = "  " * (prefix.count(".") + 1)
    done: set[str] = set()
    for name in names:
        key, _, below = name.removeprefix(f"{prefix}.").partition(".")
        if key in done:
            continue
        done.add(key)
        if below:
            deeper = f"{prefix}.{key}"
            lines.append(f"{indent}{key}:")
            lines += _render_level([one for one in names if one.startswith(f"{deeper}.")], deeper, settings, reasons)
            continue
        if name in reasons:
            lines.append(f"{indent}# {reasons[name]}")
        value = yaml.safe_dump(json.loads(json.dumps(settings[name])), default_flow_style=True, width=10**6)
        lines.append(f"{indent}{key}: {value.removesuffix(chr(10)).removesuffix('...').strip()}")
    return lines
