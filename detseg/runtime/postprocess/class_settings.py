"""What is chosen for each class of a model: the lowest score that its boxes must have, and its color. Model files keep
both, if they are told to (``detseg set``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detseg.arrays import DoubleArray
from detseg.config_files import parse_yaml
from detseg.files import read_text
from detseg.structures import Detections

USUAL_CONFIDENCE = 0.25
"""Of classes for which nothing is chosen."""
OF_REPORT = "F1_confidence"
"""What ``metrics.json`` calls the confidence at which the F1 of a class is best: ``F1_confidence/NAME``."""
_SLACK = 1e-6
_MOST_SHOWN = 12

Confidence = float | Mapping[str, float]
"""The lowest score of a box that counts: of every class, or by the names of classes."""


def require_class_settings(
    confidences: Sequence[float], colors: Sequence[Sequence[int]], class_names: Sequence[str]
) -> None:
    """Refuse what a model file cannot mean.

    Raises:
        ValueError: there is neither one for each class nor none at all, or a value is out of range.
    """
    for name, values in (("class_confidences", confidences), ("class_colors", colors)):
        if len(values) not in (0, len(class_names)):
            raise ValueError(f"{name} must hold one for each of {len(class_names)} classes, or none; got {len(values)}")
    if wrong := [value for value in confidences if not 0 <= value <= 1]:
        raise ValueError(f"class_confidences must lie between 0 and 1, got {wrong[0]}")
    if strange := [color for color in colors if len(color) != 3 or not all(0 <= part <= 255 for part in color)]:
        raise ValueError(f"class_colors must be red, green and blue from 0 to 255, got {strange[0]}")


def confidences_of(given: Mapping[str, Any], class_names: Sequence[str], where: str) -> tuple[float, ...]:
    """The confidence of each of ``class_names``; those that ``given`` does not name have ``USUAL_CONFIDENCE``.

    Raises:
        ValueError: a class is unknown, or a value is no number from 0 to 1.
    """
    unknown = [str(name) for name in given if name not in class_names]
    if unknown:
        raise ValueError(
            f"{where}: the model has no class {', '.join(unknown[:5])}; it has {', '.join(class_names[:20])}"
        )
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError(f"{where}: the confidence of {name} must be a number from 0 to 1, got {value!r}")
    return tuple(float(given.get(name, USUAL_CONFIDENCE)) for name in class_names)


def read_confidences(path: Path | str) -> dict[str, float]:
    """Confidences by class in ``path``: the ``metrics.json`` that ``detseg eval`` and ``detseg train`` write, where
    those of the best F1 are taken, or a YAML or JSON of ``NAME: NUMBER``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds neither.
    """
    where = f"--conf-per-class {path}"
    try:
        given: Any = parse_yaml(read_text(Path(path)), where)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"--conf-per-class: {path} not found") from error
    if not isinstance(given, Mapping) or not given:
        raise ValueError(f"{where}: expected metrics.json of detseg eval, or NAME: NUMBER, got {given!r:.60}")
    prefix = f"{OF_REPORT}/"
    best = {str(name)[len(prefix) :]: value for name, value in given.items() if str(name).startswith(prefix)}
    if not best and "num_images" not in given and not ({"AP", "mIoU", "Dice"} & set(given)):
        return {str(name): value for name, value in given.items()}
    if not best:
        raise ValueError(
            f"{where}: no {prefix}NAME in it; only an evaluation of boxes says at what confidence F1 is best"
        )
    # -1: no box of the class was right.
    return {name: value for name, value in best.items() if value >= 0}


def settle(
    settings: Mapping[str, Any], stored: Sequence[float], class_names: Sequence[str]
) -> tuple[dict[str, Any], tuple[float, ...]]:
    """``settings`` of postprocessing, whose ``confidence`` may be one for each class, as the network's are, and the
    confidences of the classes: those given, those ``stored`` where no confidence is given, or none.

    Raises:
        ValueError: see :func:`confidences_of`.
    """
    given = settings.get("confidence")
    floors = tuple(stored) if given is None else ()
    if isinstance(given, Mapping):
        floors = confidences_of(given, class_names, "confidence")
    changed = dict(settings)
    if floors:
        changed["confidence"] = below(floors)
    return changed, floors


def below(floors: Sequence[float]) -> float:
    """A confidence that every box must exceed which reaches that of its class."""
    return max(0.0, min(floors) - _SLACK)


def require_in_graph(floors: Sequence[float], lowest: float) -> None:
    """Refuse confidences of classes that a graph with NMS inside cannot serve, as it leaves out what scores below
    ``lowest``.

    Raises:
        ValueError: one is lower.
    """
    if min(floors) < lowest:
        raise ValueError(
            f"NMS is part of the graph and leaves out what scores below {lowest:g}, so the confidence of no class can "
            f"be lower, got {min(floors):g}; export the model again with a lower --conf, or without --nms"
        )


def reaches(found: Detections, floors: DoubleArray | Sequence[float]) -> Any:
    """Which boxes score no less than ``floors`` ``[C]`` says for their class, ``[N]`` bool."""
    return found.scores.astype(np.float64) >= np.asarray(floors, np.float64)[found.labels]


def describe_confidences(class_names: Sequence[str], floors: Sequence[float]) -> str:
    """``RBC 0.41, WBC 0.93``; of many classes the first."""
    shown = [f"{name} {floor:.3g}" for name, floor in zip(class_names, floors, strict=True)]
    more = f", and {len(shown) - _MOST_SHOWN} more" if len(shown) > _MOST_SHOWN else ""
    return ", ".join(shown[:_MOST_SHOWN]) + more


def stored_settings(confidences: Sequence[float], colors: Sequence[Sequence[int]]) -> dict[str, Any]:
    """What a header holds of these: nothing of what is not chosen."""
    found: dict[str, Any] = {}
    if confidences:
        found["class_confidences"] = list(confidences)
    if colors:
        found["class_colors"] = [list(color) for color in colors]
    return found
