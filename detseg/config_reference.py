"""What every key of a configuration means: read from the dataclasses themselves, so that it is said once.

The meaning of a field is the text right below it, its attribute docstring::

    epochs: int = 100
    "How often the training set is gone through."

Its first sentence is what lists show. ``sections`` walks a schema and everything that can be chosen in it.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import json
import pkgutil
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from detseg.config import CHOICE, default_of, describe_type
from detseg.config_files import ConfigError
from detseg.habits import advice


@dataclass(frozen=True)
class Key:
    """One key. ``path`` is its full name, ``type`` what it takes, ``allowed`` the values it is one of (empty: any of
    the type), ``default`` as YAML has it (empty: it must be given, or is a section whose keys have their own), ``old``
    the name that it had before."""

    path: str
    type: str
    allowed: tuple[str, ...]
    default: str
    meaning: str
    old: str = ""

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition(".")[2]

    @property
    def summary(self) -> str:
        """The first sentence of its meaning."""
        first, end, _ = self.meaning.partition(". ")
        return first + end.strip()


@dataclass(frozen=True)
class Section:
    """The keys below ``path``, which may be one of several choices: the one of the names ``names``.

    ``given`` says what must have been chosen above for this section to be there, such as ``task: detection``.
    """

    path: str
    names: tuple[str, ...]
    given: tuple[str, ...]
    meaning: str
    keys: tuple[Key, ...]

    @property
    def conditions(self) -> tuple[str, ...]:
        """All that must be chosen for these keys to be there."""
        return (*self.given, f"{self.path}: {' | '.join(self.names)}") if self.names else self.given


@functools.cache
def meanings(schema: type[Any]) -> dict[str, str]:
    """The text below each field of the class ``schema``, those of its bases included, each as one line.

    Raises:
        OSError: the source of the class is not there to be read.
    """
    found: dict[str, str] = {}
    for owner in reversed(schema.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        body = typing.cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]).body
        for node, following in itertools.pairwise(body):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and (text := _text_of(following)):
                found[node.target.id] = _one_line(text)
    return found


def _text_of(node: ast.stmt) -> str:
    """The text that is all of the statement ``node``; empty if it is anything else."""
    value = node.value if isinstance(node, ast.Expr) else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""


def _one_line(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def sections(schema: type[Any]) -> list[Section]:
    """Every section of ``schema``, in the order of its fields, each followed by those within it."""
    return list(_walk(schema, MISSING, "", (), ()))


def _walk(schema: Any, default: Any, path: str, names: tuple[str, ...], given: tuple[str, ...]) -> Iterator[Section]:
    """``default``, where it is a ``schema``, supplies the defaults of its keys."""
    fields = [field for field in dataclasses.fields(schema) if field.init and not (names and field.name == "name")]
    hints = typing.get_type_hints(schema, include_extras=True)
    defaults = {f.name: getattr(default, f.name) if type(default) is schema else default_of(f) for f in fields}
    told = meanings(schema)
    old_names = {new: old for old, new in getattr(schema, "renamed", {}).items()}
    prefix = f"{path}." if path else ""
    keys = [
        Key(
            prefix + field.name,
            _type(field, hints[field.name]),
            _allowed(field, hints[field.name]),
            _show(defaults[field.name], CHOICE in field.metadata),
            told.get(field.name, ""),
            old_names.get(field.name, ""),
        )
        for field in fields
    ]
    about = (inspect.getdoc(schema) or "").partition("\n\nRaises:")[0]
    section = Section(path, names, given, "\n\n".join(map(_one_line, about.split("\n\n"))), tuple(keys))
    yield section
    for field in fields:
        below, value = prefix + field.name, defaults[field.name]
        if table := field.metadata.get(CHOICE):
            for entry, chosen in _entries(table).items():
                inherited = value if getattr(value, "name", None) in chosen else MISSING
                yield from _walk(pkgutil.resolve_name(entry), inherited, below, chosen, section.conditions)
        else:
            for inner in _dataclasses_in(hints[field.name]):
                yield from _walk(inner, value, below, (), section.conditions)


def _entries(table: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The names of ``table`` by what they stand for, which may be the same for several."""
    entries: dict[str, tuple[str, ...]] = {}
    for name, entry in table.items():
        entries[entry] = (*entries.get(entry, ()), name)
    return entries


def _dataclasses_in(hint: Any) -> Iterator[Any]:
    if dataclasses.is_dataclass(hint):
        yield hint
    elif get_origin(hint) in (Union, types.UnionType):
        for member in get_args(hint):
            yield from _dataclasses_in(member)


def _type(field: dataclasses.Field[Any], hint: Any) -> str:
    return "one of these, or a mapping with its name and settings" if CHOICE in field.metadata else describe_type(hint)


def _allowed(field: dataclasses.Field[Any], hint: Any) -> tuple[str, ...]:
    if CHOICE in field.metadata:
        return tuple(field.metadata[CHOICE])
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if not any(get_origin(member) is Literal for member in members):
        return ()
    words: list[str] = []
    for member in members:
        words += map(str, get_args(member)) if get_origin(member) is Literal else [describe_type(member)]
    return tuple(words)


def _show(value: Any, is_choice: bool) -> str:
    """A default as YAML has it; of a choice its name, of other sections nothing."""
    if value is MISSING or dataclasses.is_dataclass(value):
        return str(getattr(value, "name", "")) if is_choice else ""
    if isinstance(value, str | Path):
        return str(value)
    return json.dumps(value)


def find(reference: list[Section], path: str) -> list[tuple[Section, Key]]:
    """Every key that ``path`` names, with the section it stands in; several where what is chosen decides.

    Raises:
        ConfigError: there is none; names what is near.
    """
    wanted = path.removesuffix(".name")
    for name in (path, wanted):
        if found := [(section, key) for section in reference for key in section.keys if key.path == name]:
            return found
    every = list(dict.fromkeys(key.path for section in reference for key in section.keys))
    last = path.rpartition(".")[2]
    near = [name for name in every if name.rpartition(".")[2] == last]
    near += difflib.get_close_matches(path, every, n=3, cutoff=0.7)
    if not near:
        endings = {name.rpartition(".")[2]: name for name in reversed(every)}
        near = [endings[word] for word in difflib.get_close_matches(last, endings, n=3, cutoff=0.6)]
    renamed = [key for section in reference for key in section.keys if key.old and key.old == last]
    if renamed:
        raise ConfigError(f"{path} is called {renamed[0].path} now")
    question = f"; did you mean {', '.join(list(dict.fromkeys(near))[:4])}?" if near else ""
    raise ConfigError(f"no key of a configuration is called {path}{advice(last)}{question}")


def below(reference: list[Section], section: Section, key: Key) -> list[Section]:
    """The sections that ``key``, which stands in ``section``, holds directly."""
    return [one for one in reference if one.path == key.path and one.given == section.conditions]
