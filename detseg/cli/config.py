"""``detseg config``: the reference of a training configuration's keys, or what one of them means."""

from __future__ import annotations

import textwrap

from detseg.config_reference import Key, Section, below, find, sections

WIDTH = 118


def config_command(path: str | None) -> int:
    """Print what the key ``path`` means, or without one all keys.

    Raises:
        ConfigError: there is no such key; names the nearest.
    """
    from detseg.engine.settings import RunConfig

    reference = sections(RunConfig)
    if path is None:
        parts = [_render_section(section) for section in reference]
        parts.append("`detseg config KEY`, such as `detseg config train.optimizer`, tells more of one.")
    else:
        parts = [_render_key(reference, section, key) for section, key in find(reference, path)]
    print("\n\n".join(parts))
    return 0


def _render_key(reference: list[Section], section: Section, key: Key) -> str:
    lines = _wrap(key.path + _where(section.conditions), "", 4)
    lines += _wrap(key.meaning, "    ")
    if key.allowed:
        lines += _wrap(", ".join(key.allowed), "    allowed  ")
    else:
        lines += _wrap(key.type, "    type     ")
    inner = below(reference, section, key)
    default = key.default or ("that of each key below" if inner and not key.allowed else "none, it must be given")
    lines += _wrap(default, "    default  ")
    return "\n\n".join(["\n".join(lines), *(_render_section(one) for one in inner)])


def _where(conditions: tuple[str, ...]) -> str:
    return f"   (where {', '.join(conditions)})" if conditions else ""


def _render_section(section: Section) -> str:
    title = section.path or "A configuration"
    named = f"{title}: {' | '.join(section.names)}" if section.names else title
    head = _wrap(named + _where(section.given), "", 6)
    head += _wrap(section.meaning.partition("\n\n")[0], "  ")
    rows = [(key.path, key.default or ("-" if key.allowed else "")) for key in section.keys]
    first, second = (min(34, max((len(row[column]) for row in rows), default=0)) for column in (0, 1))
    for key, (name, default) in zip(section.keys, rows, strict=True):
        meaning = f"{key.summary} ({', '.join(key.allowed)})" if 0 < len(key.allowed) < 8 else key.summary
        head += _wrap(meaning, f"    {name:{first}}  {default:{second}}  ", 4 + first + 2 + second + 2)
    return "\n".join(head if section.keys else [*head, "    (no settings)"])


def _wrap(text: str, start: str, indent: int | None = None) -> list[str]:
    later = " " * (len(start) if indent is None else indent)
    return textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=later, break_on_hyphens=False) or [start]
