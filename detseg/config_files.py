"""The files behind a configuration: YAML text to layers of plain data, and back.

``detseg.config`` builds dataclasses from these layers.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from detseg.files import read_text

COMMAND_LINE = "command line"
MAX_YAML_CHARACTERS = 2**22
"""Longer text is refused before it is parsed, which takes a minute for so much."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says which key, where it stands, and what is allowed."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


_MERGE, _TEXT = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:str"


def _refuse(reason: str, node: Any) -> NoReturn:
    raise yaml.constructor.ConstructorError(None, None, reason, node.start_mark)


class _Loader(yaml.SafeLoader):
    """Safe YAML without duplicate keys, aliases and merges (an alias can expand without limit; use ``base:``), and
    without tags, which can ask for any type, where its constructor may fail in any way."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in getattr(node, "value", ()):
            if key_node.tag == _MERGE:
                _refuse("merges (<<: ...) are not supported; use `base:`", key_node)
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                _refuse(f"a key must be text or a number, got {show(key)}", key_node)
            if key in seen:
                _refuse(f"the key {shorten(repr(key))} is given twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: Any) -> int:
        value: int = super().construct_yaml_int(node)
        if abs(value) >= 2**63:
            _refuse("a whole number must fit into 64 bits", node)
        return value

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = super().peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.events.AliasEvent):
            _refuse("aliases (*name) are not supported; use `base:`", event)
        if getattr(event, "tag", None) not in (None, _TEXT):
            _refuse("tags (!name) are not supported", event)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Writes what ``_Loader`` reads back as the same value."""


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)

# YAML 1.1 takes 1e-3 for a string because it has no dot; everyone who writes it means the number.
_EXPONENT = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
for _yaml_class in (_Loader, _Dumper):
    _yaml_class.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


@dataclass(frozen=True)
class Layer:
    """A value that one file, or the command line, gives to a key. ``folder`` is where its relative paths start;
    ``is_ours``: this program wrote it, so nobody needs to be told of names that have changed since."""

    value: Any
    source: str
    folder: Path
    is_ours: bool = False

    def child(self, key: Any) -> Layer:
        """What this layer says one level deeper."""
        return dataclasses.replace(self, value=self.value[key])


def parse_yaml(text: str, source: str) -> Any:
    """The plain data in ``text``. Raises ConfigError: it is no YAML, has more than ``MAX_YAML_CHARACTERS``, or what
    configurations have no use for."""
    if len(text) > MAX_YAML_CHARACTERS:
        raise ConfigError(
            f"{source}: {len(text):,} characters, allowed are {MAX_YAML_CHARACTERS:,}; split it into files"
        )
    try:
        loader = _Loader(text)
        loader.name = source  # what the marks in its messages say
        return loader.get_single_data()
    except RecursionError as error:
        raise ConfigError(f"{source}: nested too deeply") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ConfigError(f"{source}: not valid YAML: {shorten(' '.join(str(error).split()), 400)}") from error


def read_layers(path: Path, seen: tuple[Path, ...] = ()) -> list[Layer]:
    """The file ``path`` as a layer, after those of its bases; ``seen`` are the files that led here."""
    location = path.resolve()
    if location in seen:
        chain = " -> ".join(str(item) for item in (*seen, location))
        raise ConfigError(f"{seen[-1]}: base: the files name each other in a circle: {chain}")
    try:
        data = parse_yaml(read_text(path), str(path))
    except OSError as error:
        named_by = f" (named as base by {seen[-1]})" if seen else ""
        raise ConfigError(f"{path}: cannot read the configuration{named_by}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: the configuration is not UTF-8 text") from error
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping (`key: value` lines), got {show(data)}")
    base = data.pop("base", None)
    layer = Layer(data, str(path), path.absolute().parent)
    if base is None:
        return [layer]
    if not isinstance(base, str):
        fail(layer, "base", f"expected the path of one YAML file, got {show(base)}")
    return [*read_layers(path.parent / base, (*seen, location)), layer]


def override_layers(overrides: Sequence[str]) -> list[Layer]:
    """One layer for each ``key.sub=value``, the value read as YAML."""
    values: dict[tuple[str, ...], Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        parts = tuple(key.strip().split("."))
        if not equals or not all(parts):
            raise ConfigError(f"{COMMAND_LINE}: expected key.sub=value, got {shorten(repr(override))}")
        if parts in values:
            raise ConfigError(f"{COMMAND_LINE}: {key} is given twice")
        values[parts] = parse_yaml(text, f"{COMMAND_LINE}: {key}")
    # `backbone=resnet50` must come before `backbone.frozen=true`, in whatever order they were typed.
    ordered = sorted(values, key=lambda parts: len(parts) - (parts[-1] == "name"))
    layers = []
    for parts in ordered:
        value = values[parts]
        for part in reversed(parts):
            value = {part: value}
        layers.append(Layer(value, COMMAND_LINE, Path.cwd()))
    return layers


def to_yaml(data: Mapping[str, Any]) -> str:
    """Plain data as YAML text, from which ``read_layers`` gets the same values."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def fail(layer: Layer, path: str, reason: str) -> NoReturn:
    """Raises the error that ``layer`` gives key ``path`` something impossible."""
    raise ConfigError(f"{layer.source}: {path}: {reason}" if path else f"{layer.source}: {reason}", reason)


def show(value: Any) -> str:
    """A value as error messages quote it, with its type."""
    if value is None:
        return "nothing (null)"
    return f"{shorten(repr(value))} ({type(value).__name__})"


def shorten(text: object, limit: int = 80) -> str:
    """``text`` in at most ``limit`` characters, for a message."""
    text = str(text)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
