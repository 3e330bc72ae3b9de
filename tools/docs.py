"""Writes the pages that are made from the code: ``docs/configuration.md`` and ``docs/command_line.md``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from detseg.cli.arguments import make_parser
from detseg.config_reference import Key, Section, sections
from detseg.engine.settings import RunConfig

DOCS = Path(__file__).resolve().parent.parent / "docs"
NOTE = "<!-- Made by `python tools/docs.py` from the code; change the text there. -->"

CONFIGURATION = f"""{NOTE}

# Configuration

Every key of a training configuration. A YAML holds what differs from its `base:`; any key can be set on the command
line (`train.epochs=50`), and the resolved configuration lies in the run's folder as `config.yaml`. On the command line
`detseg config KEY` says the same, such as `detseg config train.optimizer`.

Where one of several can be chosen, the value is its name (`model: letnet`) or a mapping with the name and its settings
(`task: {{name: volume, patch: [32, 32, 32]}}`). A section "where `task: volume`" is there only with that choice.
`null` is "nothing".
"""

COMMAND_LINE = f"""{NOTE}

# Command line

`detseg VERB --help` prints the same. `detseg --traceback VERB ...` shows where an error came from.

| exit code | meaning |
|---|---|
| 0 | all went well |
| 1 | `predict`: something could not be read or written, the rest is done; `check`: there are warnings |
| 2 | the command asks for something impossible, and the message says what; `check`: there are errors |
| 3 | `export`: the file does not give the results of the model, and was not kept |
| 75 | `train`: stopped by SIGTERM or Ctrl-C; `detseg train --resume RUN` goes on |
| 130 | stopped by Ctrl-C; `predict` and `download` keep what was complete |
| 143 | stopped by SIGTERM; `predict` keeps what was found so far, and with `--resume` it goes on |
"""


def pages() -> dict[str, str]:
    """The texts of the pages by their file names."""
    return {"configuration.md": configuration_page(), "command_line.md": command_line_page()}


def configuration_page() -> str:
    """All sections of a training configuration, a table each."""
    return "\n".join([CONFIGURATION, *(_render_section(section) for section in sections(RunConfig))])


def _render_section(section: Section) -> str:
    title = f"`{section.path}`" if section.path else "A whole configuration"
    names = [f"`{name}`" for name in section.names]
    if names:
        title += f": {', '.join(names[:3])}{' and others' if len(names) > 3 else ''}"
    level = "##" if section.path.count(".") == 0 else "###"
    lines = [f"{level} {title}", ""]
    if section.given:
        lines += [f"Where {', '.join(f'`{one}`' for one in section.given)}.", ""]
    lines += [section.meaning, ""]
    if len(names) > 3:
        lines += [f"Names: {', '.join(names)}.", ""]
    if section.keys:
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        lines += [_row(key) for key in section.keys]
    return "\n".join([*lines, ""])


def _row(key: Key) -> str:
    allowed = f"one of {', '.join(f'`{one}`' for one in key.allowed)}" if key.allowed else key.type
    default = f"`{key.default}`" if key.default else ("must be given" if key.allowed else "its keys'")
    cells = [f"`{key.path}`", allowed, default, key.meaning]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def command_line_page() -> str:
    """All verbs with their arguments. Not what ``--help`` prints, whose form differs between versions of Python."""
    parser = make_parser()
    verbs = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    summaries = {one.dest: one.help or "" for one in verbs._choices_actions}
    parts = [COMMAND_LINE]
    for verb, one in verbs.choices.items():
        parts += [f"## {verb}\n", _sentence(summaries[verb])]
        if one.description:
            parts.append("\n" + one.description)
        parts += [f"\n```text\n{_usage(verb, one)}\n```\n"]
        for group in one._action_groups:
            parts += _render_group(one, group)
    return "\n".join(parts)


def _render_group(parser: argparse.ArgumentParser, group: argparse._ArgumentGroup) -> list[str]:
    actions = [action for action in group._group_actions if action.dest != "help"]
    if not actions:
        return []
    named = [] if group.title in ("options", "positional arguments") else [f"{_sentence(group.title or '')}\n"]
    rows = [f"| `{_names(action)}` | {_meaning(parser, action)} |" for action in actions]
    return [*named, "| argument | meaning |", "|---|---|", *rows, ""]


def _usage(verb: str, parser: argparse.ArgumentParser) -> str:
    """What the parser's own usage says, on one line and without the options, which the table has."""
    if parser.usage:
        return parser.usage.replace("[-h] ", "")
    words = [_names(action) for action in parser._actions if not action.option_strings]
    needed = [f"{x.option_strings[0]} {x.metavar}" for x in parser._actions if x.option_strings and x.required]
    return " ".join(["detseg", verb, *words, *needed, "[options]"])


def _names(action: argparse.Action) -> str:
    metavar = action.metavar or (", ".join(map(str, action.choices)) if action.choices else action.dest.upper())
    if not action.option_strings:
        forms = {"*": f"[{metavar} ...]", "+": f"{metavar} ...", "?": f"[{metavar}]"}
        return forms.get(str(action.nargs), str(metavar))
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {metavar}"


def _meaning(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    told = (action.help or "") % {**vars(action), "prog": parser.prog}
    if action.default not in (None, False, argparse.SUPPRESS, []) and "default" not in told:
        told = f"{told} (default {action.default})".strip()
    return told.replace("<", "&lt;").replace("*", "\\*").replace("|", "\\|")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def main() -> int:
    for name, text in pages().items():
        path = DOCS / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
