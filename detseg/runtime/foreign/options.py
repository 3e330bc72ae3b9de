"""What a user says of a foreign file: as options, as a YAML, or as a function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from detseg.config import load_config
from detseg.config_files import parse_yaml
from detseg.files import read_text
from detseg.runtime.foreign import LAYOUTS
from detseg.runtime.foreign.base import Anchor, Pixels, Triple
from detseg.runtime.foreign.lists import BoxesConfig, Postprocess

LayoutName = Literal["yolov8", "yolox", "picodet", "e2e", "detr", "torchvision", "semantic", "labels"]
SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class ForeignConfig:
    """A YAML that describes a foreign file; all that is not given follows from the file. ``layout``: a known one, or
    ``boxes``: where boxes are among the outputs. ``names`` of the classes in order; ``outputs``: those that count,
    where there are others; ``size``: height and width; the rest as in :class:`detseg.runtime.foreign.base.Pixels`."""

    layout: LayoutName | None = None
    boxes: BoxesConfig | None = None
    names: tuple[str, ...] | None = None
    outputs: tuple[str, ...] | None = None
    size: tuple[int, int] | None = None
    scale: float | None = None
    mean: Triple | None = None
    std: Triple | None = None
    bgr: bool | None = None
    anchor: Anchor | None = None

    def __post_init__(self) -> None:
        if self.layout is not None and self.boxes is not None:
            raise ValueError("boxes describes a layout of its own: leave layout out")


@dataclass(frozen=True)
class ForeignOptions(ForeignConfig):
    """The same and ``postprocess``, a function in place of a layout."""

    postprocess: Postprocess | None = None

    @property
    def given(self) -> list[str]:
        """The names of what the user says."""
        return [one.name for one in fields(self) if getattr(self, one.name) is not None]

    def pixels(self, usual: Pixels) -> Pixels:
        """``usual`` with what the user says in its place."""
        names = [one.name for one in fields(Pixels) if getattr(self, one.name) is not None]
        return replace(usual, **{name: getattr(self, name) for name in names})

    def with_file_beside(self, path: Path) -> ForeignOptions:
        """The same with what ``NAME.layout.yaml`` says beside ``NAME.onnx``, where it is there; options win.

        Raises:
            detseg.config.ConfigError: it is no such YAML.
        """
        beside = path.with_suffix(".layout.yaml")
        return self.over(load_config(ForeignConfig, beside)) if beside.is_file() else self

    def over(self, config: ForeignConfig) -> ForeignOptions:
        """``config`` with what is given here in place of what it says."""
        said = {one.name: getattr(config, one.name) for one in fields(ForeignConfig)}
        if {"layout", "boxes", "postprocess"} & set(self.given):
            said |= {"layout": None, "boxes": None}
        return ForeignOptions(**{**said, **{name: getattr(self, name) for name in self.given}})


def foreign_options(
    *,
    layout: str | Path | None = None,
    names: str | Path | Sequence[str] | None = None,
    scale: float | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    bgr: bool | None = None,
    anchor: str | None = None,
    postprocess: Postprocess | None = None,
) -> ForeignOptions:
    """What the user says, checked.

    Args:
        layout: the name of one, or a YAML, see :class:`ForeignConfig`.
        names: the classes in order; as one text separated by commas, or the name of a file, see :func:`read_names`.
        scale, mean, std, bgr, anchor: see :class:`detseg.runtime.foreign.base.Pixels`; one number counts for all
            channels.
        postprocess: a function in place of a layout.

    Raises:
        ValueError: there is no such layout, or a value is not allowed.
    """
    if postprocess is not None and layout is not None:
        raise ValueError(f"postprocess reads the outputs in place of a layout: leave layout={layout} out")
    if anchor is not None and anchor not in get_args(Anchor):
        raise ValueError(f"anchor must be one of {', '.join(get_args(Anchor))}, got {anchor!r}")
    config = ForeignConfig()
    if layout is not None and Path(layout).suffix.lower() in SUFFIXES:
        config, layout = load_config(ForeignConfig, Path(layout)), None
    elif layout is not None and layout not in LAYOUTS:
        raise ValueError(f"the layout {layout} is unknown; known are {', '.join(LAYOUTS)}, or name a YAML")
    said: dict[str, Any] = {"layout": layout, "scale": scale, "bgr": bgr, "anchor": anchor, "postprocess": postprocess}
    said |= {"mean": _triple("mean", mean), "std": _triple("std", std)}
    said["names"] = None if names is None else read_names(names)
    return ForeignOptions(**said).over(config)


def require_onnx(options: ForeignOptions | None, path: Path) -> None:
    """Raise ValueError where something is said of ``path`` that only an ``.onnx`` file needs."""
    if options is not None and options.given and path.suffix.lower() != ".onnx":
        raise ValueError(f"{path}: {', '.join(options.given)} are for .onnx files of other programs: leave them out")


def read_names(names: str | Path | Sequence[str]) -> tuple[str, ...]:
    """``names`` as they are, those of a text separated by commas, or those in a file: a text with one a line, or a YAML
    whose key ``names`` has a list or numbers with names, such as a data set's.

    Raises:
        ValueError: there are none, one is empty, or the file cannot be read.
    """
    if not isinstance(names, str | Path):
        found = tuple(names)
    elif (suffix := Path(names).suffix.lower()) in SUFFIXES:
        found = _names_in_yaml(Path(names))
    elif suffix == ".txt" or isinstance(names, Path):
        found = tuple(line.strip() for line in read_text(names).splitlines() if line.strip())
    else:
        found = tuple(name.strip() for name in names.split(","))
    if not found or not all(isinstance(name, str) and name for name in found):
        raise ValueError(f"names must be the class names in order, such as cat,dog, or a file with them, got {names}")
    return found


def _names_in_yaml(path: Path) -> tuple[str, ...]:
    data = parse_yaml(read_text(path), str(path))
    found = data.get("names") if isinstance(data, Mapping) else None
    if isinstance(found, Mapping) and set(found) == set(range(len(found))):
        found = [found[number] for number in range(len(found))]
    if not isinstance(found, list):
        raise ValueError(f"{path}: has no key names with a list, or with the numbers from 0 on and a name for each")
    return tuple(found)


def _triple(name: str, given: float | Sequence[float] | None) -> Triple | None:
    if given is None:
        return None
    values = tuple(given) if isinstance(given, Sequence) else (given,)
    if len(values) == 1:
        values *= 3
    if len(values) != 3:
        raise ValueError(f"{name} must have one value, or one for each of three channels, got {given}")
    return float(values[0]), float(values[1]), float(values[2])
