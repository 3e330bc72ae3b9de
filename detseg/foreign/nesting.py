"""The last check of a file's content: whoever walks it comes to an end, without going too deep."""

from __future__ import annotations

from collections.abc import Iterator

from detseg.foreign.limits import Limits, RefusedError
from detseg.foreign.records import Record


def check_nesting(content: object, limits: Limits) -> None:
    """Raise RefusedError where containers contain themselves, are nested too deep, or multiply by being shared.

    A record may lead back to itself, as the bound method of a module does; what leads back is not walked again.
    """
    # Depth first. Each value is measured once, when all that it holds has been.
    heights: dict[int, int] = {}
    sizes: dict[int, int] = {}
    path: list[tuple[object, Iterator[object]]] = [(content, iter(_containers_in(content)))]
    places = {id(content): 0}
    while path:
        value, parts = path[-1]
        part = next(parts, None)
        if part is None:
            inside = _containers_in(value)
            heights[id(value)] = 1 + max((heights.get(id(part), 0) for part in inside), default=0)
            sizes[id(value)] = 1 + _num_parts(value) + sum(sizes.get(id(part), 0) for part in inside)
            if sizes[id(value)] > limits.max_values:
                raise RefusedError(f"shared values multiply to more than {limits.max_values:,}")
            path.pop()
            del places[id(value)]
        elif id(part) in places:
            if not any(isinstance(link, Record) for link, _ in path[places[id(part)] :]):
                raise RefusedError(f"a {type(part).__name__} contains itself")
        elif id(part) not in heights:
            places[id(part)] = len(path)
            path.append((part, iter(_containers_in(part))))
        if len(path) + heights.get(id(part), 0) > limits.max_nesting:
            raise RefusedError(f"values are nested more than {limits.max_nesting} deep")


def _containers_in(value: object) -> list[object]:
    parts: list[object]
    match value:
        case dict():
            parts = [*value.keys(), *value.values()]
        case list() | tuple() | set():
            parts = list(value)
        case Record():
            parts = [value.arguments, value.state, value.items]
        case _:
            parts = []
    return [part for part in parts if isinstance(part, dict | list | tuple | set | Record) and part != ()]


def _num_parts(value: object) -> int:
    return len(value) if isinstance(value, dict | list | tuple | set) else 0
