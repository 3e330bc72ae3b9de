"""What a conversion found and did."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from detseg.files import write_text

NAMES_SHOWN = 5


class ConversionError(ValueError):
    """A file cannot be converted."""


@dataclass(frozen=True)
class ConversionReport:
    """Where each tensor went.

    ``mapped`` are pairs of a name in the source and the name in the model; ``unused`` are tensors of the source that a
    detseg model has no need of, and ``missing`` are tensors of the model that the source has no need of, each with the
    reason. ``input_size`` is height and width of the network's input, None for volumes. ``notes``: decisions that the
    source left open, and what the user should know about them.
    """

    source: Path
    sha256: str
    output: Path
    family: str
    size: str
    class_names: tuple[str, ...]
    input_size: tuple[int, int] | None
    strides: tuple[int, ...]
    mapped: tuple[tuple[str, str], ...]
    unused: tuple[tuple[str, str], ...] = ()
    missing: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def render(self) -> str:
        """The report for people: of unused and missing tensors the first; the JSON has all, and the mapped ones."""
        form = f"{self.family} {self.size}".rstrip()
        shown = ", ".join(self.class_names[:5]) + (", ..." if len(self.class_names) > 5 else "")
        size = "" if self.input_size is None else f", input {self.input_size[0]}x{self.input_size[1]}"
        strides = ", ".join(map(str, self.strides))
        lines = [
            f"{self.source}: {form}, {len(self.class_names)} classes ({shown}){size}, strides {strides}",
            f"sha256 {self.sha256}",
            f"tensors: {len(self.mapped)} mapped, {len(self.unused)} unused, {len(self.missing)} missing",
            *(f"  {line}" for line in _by_reason("unused", self.unused)),
            *(f"  {line}" for line in _by_reason("missing", self.missing)),
            *(f"note: {note}" for note in self.notes),
            f"written: {self.output}",
        ]
        return "\n".join(lines)

    def write_json(self, path: Path) -> None:
        """Write everything to ``path``. Raises detseg.files.SaveError: it cannot be written."""
        plain = asdict(self) | {"source": str(self.source), "output": str(self.output)}
        plain["mapped"] = [{"source": name, "model": own} for name, own in self.mapped]
        for kind in ("unused", "missing"):
            plain[kind] = [{"name": name, "reason": reason} for name, reason in getattr(self, kind)]
        write_text(path, json.dumps(plain, indent=2, ensure_ascii=False) + "\n")


def _by_reason(kind: str, tensors: tuple[tuple[str, str], ...]) -> list[str]:
    lines = []
    for reason in dict.fromkeys(reason for _, reason in tensors):
        names = [name for name, own_reason in tensors if own_reason == reason]
        more = f", and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        lines.append(f"{kind}: {', '.join(names[:NAMES_SHOWN])}{more}: {reason}")
    return lines
