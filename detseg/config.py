"""Configuration: YAML files and ``key.sub=value`` overrides, checked against dataclasses.

A file may name one ``base:`` (a path relative to itself), whose keys it overrides one by one; the command line
overrides both. A key that is unknown, missing or of the wrong type is an error that names its full path, the file it
stands in, and what is allowed there. Values are never coerced, except that a whole number may stand for a float.

The layers (bases first, command line last) are kept apart until a value is built, so that every value still knows which
file it came from: errors can name that file, and relative paths start from its folder.

A dataclass may say what of it was renamed; old names are then still read, with a notice (a ``FutureWarning``)::

    renamed: ClassVar[Mapping[str, str]] = {"close_last_epochs": "close_mosaic_epochs"}
    renamed_values: ClassVar[Mapping[str, Mapping[str, str]]] = {"head": {"direct": "yolox"}}

The first is about its keys. The second is about the values of a key (by its new name, if it has one): those that are
text, or the names of a ``choice``. One file that gives a key by its old and its new name is an error; a file may
override its base's old name by the new one.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import math
import os
import pkgutil
import types
import typing
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from detseg.config_files import COMMAND_LINE, ConfigError, Layer, fail, override_layers, read_layers, show, to_yaml
from detseg.files import write_text
from detseg.habits import advice

__all__ = [
    "CHOICE",
    "ConfigError",
    "InputPath",
    "build_config",
    "choice",
    "default_of",
    "describe_type",
    "from_dict",
    "load_config",
    "load_entry",
    "save_config",
    "to_dict",
]

T = TypeVar("T")

_EXISTING = "an existing path"
CHOICE = "choice"
"""Under this key the metadata of a field holds the table of a ``choice``."""

InputPath = Annotated[Path, _EXISTING]
"""A path that must exist. Relative ones are tried against the folder of the YAML they stand in (on the command line:
the current folder), then against ``$DETSEG_DATA``; the value is absolute. Defaults are taken as they are."""


def choice(table: Mapping[str, str], *, default: Any = MISSING, **kwargs: Any) -> Any:
    """A dataclass field whose value is one of several dataclasses, picked by ``name``.

    ``table`` maps each name to ``"module:ConfigClass"``, imported when first used. In YAML the value is a mapping with
    ``name:``, or the bare name. A layer that changes the name drops the settings that lower layers made for the other
    name. ``default`` may be a name; ``kwargs`` go to ``dataclasses.field``.
    """
    if isinstance(default, str):
        name = default
        kwargs["default_factory"] = lambda: pkgutil.resolve_name(table[name])(name=name)
    elif default is not MISSING:
        kwargs["default"] = default
    return dataclasses.field(metadata={CHOICE: table, **kwargs.pop("metadata", {})}, **kwargs)


def load_config(schema: type[T], path: Path, overrides: Sequence[str] = ()) -> T:
    """The dataclass ``schema`` as the YAML file ``path``, its bases and ``overrides`` (``key.sub=value``) say.

    Raises ConfigError for a file that cannot be read or a key that does not fit the schema.
    """
    return build_config(schema, [*read_layers(Path(path)), *override_layers(overrides)])


def build_config(schema: type[T], layers: Sequence[Layer]) -> T:
    """The dataclass ``schema`` from ``layers``, the last of which wins. Raises ConfigError."""
    result: T = _build_dataclass(schema, list(layers), "", None)
    return result


def from_dict(schema: type[T], data: Mapping[str, Any], source: str, *, is_ours: bool = False) -> T:
    """The dataclass ``schema`` from plain data; ``source`` names the data's origin in errors. What this program wrote
    itself (``is_ours``), such as the header of a model file, may use old names without a notice. Raises ConfigError."""
    return build_config(schema, [Layer(data, source, Path.cwd(), is_ours)])


def to_dict(config: Any) -> dict[str, Any]:
    """Plain data that YAML can hold and ``from_dict`` turns into an equal dataclass."""
    return {f.name: _to_plain(getattr(config, f.name)) for f in dataclasses.fields(config) if f.init}


def save_config(config: Any, path: Path) -> None:
    """Writes ``config`` as YAML; at no moment does ``path`` hold half a file. Raises detseg.files.SaveError."""
    write_text(Path(path), to_yaml(to_dict(config)))


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


# Building: each function gets the layers that speak about one key (never none), the last of which wins.


def _build(hint: Any, layers: list[Layer], path: str, default: Any = None) -> Any:
    top, origin, args = layers[-1], get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _find_path(top, path) if _EXISTING in args[1:] else _build(args[0], layers, path, default)
    if origin in (Union, types.UnionType):
        return _build_union(hint, layers, path, default)
    if dataclasses.is_dataclass(hint):
        return _build_dataclass(hint, layers, path, default)
    if hint is Any:
        return _merge_plain(layers, path)
    if origin is dict:
        keys = _mapping_keys(layers, path, {})
        return {key: _build(args[1], speaking, f"{path}.{key}") for key, speaking in keys.items()}
    if origin in (list, tuple):
        return _build_sequence(hint, top, path)
    if origin is Literal:
        if not any(top.value == allowed and type(top.value) is type(allowed) for allowed in args):
            fail(top, path, f"expected {describe_type(hint)}, got {show(top.value)}{_nearest(top.value, args)}")
        return top.value
    return _build_scalar(hint, top, path)


def _build_scalar(hint: Any, top: Layer, path: str) -> Any:
    value = top.value
    if type(value) is int and abs(value) >= 2**63:
        fail(top, path, f"a whole number must fit into 64 bits, got {show(value)}")
    if hint is float and type(value) in (int, float) and not math.isnan(value):
        return float(value)
    if hint is Path and isinstance(value, str) and value:
        return Path(value)
    if hint in (bool, int, str) and type(value) is hint:
        return value
    if hint not in (bool, int, float, str, Path):
        raise TypeError(f"{path}: the schema uses {hint!r}, which configurations do not support")
    advice = "; put it in quotes if it is meant as text" if hint is str and not isinstance(value, list | dict) else ""
    fail(top, path, f"expected {describe_type(hint)}, got {show(value)}{advice}")


def _build_union(hint: Any, layers: list[Layer], path: str, default: Any) -> Any:
    members = [member for member in get_args(hint) if member is not type(None)]
    if len(members) < len(get_args(hint)):
        if layers[-1].value is None:
            return None
        layers = _after_last(layers, lambda value: value is None)
    reasons = []
    for member in members:
        try:
            return _build(member, layers, path, default)
        except ConfigError as error:
            if len(members) == 1:
                raise
            reasons.append(error.reason)
    fail(layers[-1], path, "; or ".join(reasons))


def _build_sequence(hint: Any, top: Layer, path: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if not isinstance(top.value, list | tuple):
        fail(top, path, f"expected {describe_type(hint)}, got {show(top.value)}")
    open_ended = origin is list or args[-1] is Ellipsis
    if not open_ended and len(top.value) != len(args):
        fail(top, path, f"expected {describe_type(hint)}, got {len(top.value)} items: {show(top.value)}")
    hints = [args[0]] * len(top.value) if open_ended else args
    items = [_build(item, [top.child(i)], f"{path}[{i}]") for i, item in enumerate(hints)]
    return origin(items)


def _build_dataclass(schema: Any, layers: list[Layer], path: str, default: Any) -> Any:
    """``default``, where it is a ``schema``, supplies what no layer names: it beats the defaults of the class."""
    given = _mapping_keys(layers, path, getattr(schema, "renamed", {}))
    fields = {f.name: f for f in dataclasses.fields(schema) if f.init}
    hints = typing.get_type_hints(schema, include_extras=True)
    prefix = f"{path}." if path else ""
    for key, speaking in given.items():
        if key not in fields:
            near = _near_key(key, schema, fields, prefix)
            fail(speaking[-1], prefix + key, f"unknown key{near}; allowed here: {', '.join(fields) or 'none'}")
    values = {}
    for key, field in fields.items():
        inherited = default_of(field) if type(default) is not schema else getattr(default, key)
        if key in given:
            old_values = getattr(schema, "renamed_values", {}).get(key, {})
            speaking = [_with_new_value(layer, prefix + key, old_values) for layer in given[key]]
            table = field.metadata.get(CHOICE)
            build = _build if table is None else functools.partial(_build_choice, table)
            values[key] = build(hints[key], speaking, prefix + key, inherited)
        elif inherited is not MISSING:
            values[key] = inherited
        else:
            files = [layer for layer in layers if layer.source != COMMAND_LINE]
            fail((files or layers)[-1], prefix + key, f"missing key; give {describe_type(hints[key])}")
    try:
        return schema(**values)
    except ValueError as error:
        sources = ", ".join(dict.fromkeys(layer.source for layer in reversed(layers)))
        raise ConfigError(f"{sources}: {path or 'configuration'}: {error}", str(error)) from error


def _build_choice(table: Mapping[str, str], hint: Any, layers: list[Layer], path: str, default: Any) -> Any:
    if type(None) in get_args(hint):
        if layers[-1].value is None:
            return None
        layers = _after_last(layers, lambda value: value is None)
    layers = [dataclasses.replace(x, value={"name": x.value}) if isinstance(x.value, str) else x for x in layers]
    naming = _mapping_keys(layers, path, {}).get("name", [])
    if not naming and default in (MISSING, None):
        fail(layers[-1], f"{path}.name", f"missing key; allowed: {', '.join(table)}")
    name = getattr(default, "name", None)
    kept: list[Layer] = []
    for layer in layers:
        renamed = layer.value.get("name", name)
        if name is not None and renamed != name:
            kept = []
        name = renamed
        kept.append(layer)
    if not isinstance(name, str) or name not in table:
        reason = f"unknown name {show(name)}{_nearest(name, table)}; allowed: {', '.join(table)}"
        fail((naming or layers)[-1], f"{path}.name", reason)
    inherited = default if getattr(default, "name", None) == name else None
    return _build_dataclass(pkgutil.resolve_name(table[name]), kept, path, inherited)


def _merge_plain(layers: list[Layer], path: str) -> Any:
    if not isinstance(layers[-1].value, Mapping):
        return copy.deepcopy(layers[-1].value)
    mappings = _after_last(layers, lambda value: not isinstance(value, Mapping))
    return {key: _merge_plain(x, f"{path}.{key}") for key, x in _mapping_keys(mappings, path, {}).items()}


def _mapping_keys(layers: list[Layer], path: str, renamed: Mapping[str, str]) -> dict[str, list[Layer]]:
    """Each key that any layer gives, under its new name where it was ``renamed``, with the layers that give it."""
    keys: dict[str, list[Layer]] = {}
    written: dict[tuple[str, str], str] = {}
    prefix = f"{path}." if path else ""
    for layer in layers:
        if not isinstance(layer.value, Mapping):
            fail(layer, path, f"expected a mapping (`key: value` lines), got {show(layer.value)}")
        for key in layer.value:
            if not isinstance(key, str):
                fail(layer, path, f"keys must be text, got {show(key)}; put it in quotes")
            name = renamed.get(key, key)
            other = written.setdefault((layer.source, name), key)
            if other != key:
                fail(layer, prefix + name, f"given twice, as {other} and as {key}; keep {name}, which is its name now")
            if name != key:
                _give_notice(layer, prefix + key, prefix + name)
            keys.setdefault(name, []).append(layer.child(key))
    return keys


def _with_new_value(layer: Layer, path: str, renamed: Mapping[str, str]) -> Layer:
    """``layer`` with the new name of its text, or of the ``name`` in its mapping, where that was ``renamed``."""
    in_mapping = isinstance(layer.value, Mapping)
    old = layer.value.get("name") if in_mapping else layer.value
    if not isinstance(old, str) or old not in renamed:
        return layer
    _give_notice(layer, f"{path}: {old}", renamed[old])
    return dataclasses.replace(layer, value={**layer.value, "name": renamed[old]} if in_mapping else renamed[old])


def _give_notice(layer: Layer, old: str, new: str) -> None:
    if layer.is_ours:
        return
    text = f"{layer.source}: {old} is now called {new}; this version still reads the old name, the next will not"
    warnings.warn(text, FutureWarning, stacklevel=2)


def _after_last(layers: list[Layer], resets: Any) -> list[Layer]:
    last = max((i for i, layer in enumerate(layers) if resets(layer.value)), default=-1)
    return layers[last + 1 :]


def _find_path(top: Layer, path: str) -> Path:
    if not isinstance(top.value, str) or not top.value:
        fail(top, path, f"expected {_EXISTING}, got {show(top.value)}")
    data = os.environ.get("DETSEG_DATA")
    folders = [top.folder, Path(data)] if data else [top.folder]
    tried = [(folder / Path(top.value).expanduser()).resolve() for folder in folders]
    for candidate in tried:
        if candidate.exists():
            return candidate
    hint = "" if data else " (DETSEG_DATA is not set)"
    fail(top, path, f"{top.value!r} not found; tried {', '.join(map(str, dict.fromkeys(tried)))}{hint}")


def load_entry(table: Mapping[str, str], name: str) -> Any:
    """What ``name`` stands for in a ``table`` of ``"module:attribute"``, imported when first used."""
    return pkgutil.resolve_name(table[name])


def default_of(field: dataclasses.Field[Any]) -> Any:
    """What ``field`` is where nobody sets it; ``MISSING`` where somebody must."""
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _nearest(word: Any, candidates: Any, prefix: str = "") -> str:
    names = [name for name in candidates if isinstance(name, str)]
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.5)
    return f"; did you mean {prefix}{close[0]}" if close else ""


def _near_key(key: str, schema: Any, fields: Mapping[str, Any], prefix: str) -> str:
    """Advice for an unknown key: a slip of the pen, else a key deeper down, else what other programs call so."""
    slip = difflib.get_close_matches(key, fields, n=1, cutoff=0.8)
    if slip:
        return f"; did you mean {prefix}{slip[0]}"
    # Many things have a name; who gives one to a run means none of them.
    deeper = "" if key == "name" else _elsewhere(key, schema, prefix)
    return deeper or advice(key) or _nearest(key, fields, prefix)


def _elsewhere(key: str, schema: Any, prefix: str) -> str:
    """The advice for a key that is known, but deeper down."""
    for name, hint in typing.get_type_hints(schema, include_extras=True).items():
        if dataclasses.is_dataclass(hint):
            if key in (field.name for field in dataclasses.fields(hint)):
                return f"; did you mean {prefix}{name}.{key}"
            if deeper := _elsewhere(key, hint, f"{prefix}{name}."):
                return deeper
    return ""


def describe_type(hint: Any) -> str:
    """What a field of this type may be given, in words: ``a number or nothing (null)``."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _EXISTING if _EXISTING in args[1:] else describe_type(args[0])
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(member) for member in args)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    if origin is list or (origin is tuple and args[-1] is Ellipsis):
        return f"a list, each {describe_type(args[0])}"
    if origin is tuple:
        return f"a list of {len(args)}: ({', '.join(map(describe_type, args))})"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    if hint in names:
        return names[hint]
    return "nothing (null)" if hint is type(None) else "a value" if hint is Any else "a mapping"
