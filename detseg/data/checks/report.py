"""What ``detseg check`` and ``detseg split`` say: histograms of splits, and the report with all findings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from detseg.data.findings import CODES, EXIT_CODES, Finding, Severity
from detseg.data.source import require_outside
from detseg.files import holds_keys, require_replaceable, write_text


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """The size of a split and its histogram: ``num_boxes_by_class`` has every class of the data set, also at zero."""

    num_images: int
    num_boxes: int
    num_boxes_by_class: dict[str, int]
    num_images_by_class: dict[str, int]

    def missing_classes(self) -> tuple[str, list[str]]:
        """What is counted, and the classes that have none."""
        return "box", [name for name, count in self.num_boxes_by_class.items() if not count]

    @staticmethod
    def row_names(class_names: Sequence[str]) -> list[str]:
        """The names of the rows of ``columns``."""
        return ["boxes per class", *class_names, "all boxes", "images"]

    def columns(self, split: str, class_names: Sequence[str]) -> list[list[str]]:
        """The columns of this split in the histogram."""
        counts = [self.num_boxes_by_class.get(name, 0) for name in class_names]
        return [[split, *map(str, counts), str(self.num_boxes), str(self.num_images)]]


@dataclass(frozen=True, slots=True)
class MaskSummary:
    """The same for a split with masks: ``num_pixels`` are those of a class, beside them there are ignored ones."""

    num_images: int
    num_pixels: int
    num_ignored_pixels: int
    num_pixels_by_class: dict[str, int]
    num_images_by_class: dict[str, int]

    def missing_classes(self) -> tuple[str, list[str]]:
        """What is counted, and the classes that have none."""
        return "pixel", [name for name, count in self.num_pixels_by_class.items() if not count]

    @staticmethod
    def row_names(class_names: Sequence[str]) -> list[str]:
        """The names of the rows of ``columns``."""
        return ["share of labeled pixels", *class_names, "ignored, of all pixels", "images"]

    def columns(self, split: str, class_names: Sequence[str]) -> list[list[str]]:
        """The columns of this split in the histogram: shares, and images with the class."""
        shares = [_percentage(self.num_pixels_by_class.get(name, 0), self.num_pixels) for name in class_names]
        images = [str(self.num_images_by_class.get(name, 0)) for name in class_names]
        ignored = _percentage(self.num_ignored_pixels, self.num_pixels + self.num_ignored_pixels)
        return [[split, *shares, ignored, ""], ["images", *images, "", str(self.num_images)]]


@dataclass(frozen=True, slots=True)
class VolumeSummary:
    """The same for a split of volumes: milliliters are means of the volumes that have labels; ``spacing`` is the median
    toward the right, the front and the top in millimeters, ``shapes`` the least and the most voxels along these axes.
    The background does not count as a class."""

    num_images: int
    milliliters_by_class: dict[str, float]
    num_images_by_class: dict[str, int]
    spacing: tuple[float, ...]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]

    def missing_classes(self) -> tuple[str, list[str]]:
        """What is counted, and the classes that have none."""
        return "voxel", [name for name, count in self.num_images_by_class.items() if not count]

    @staticmethod
    def row_names(class_names: Sequence[str]) -> list[str]:
        """The names of the rows of ``columns``."""
        return ["milliliters per volume", *class_names, "median spacing in mm", "smallest", "largest", "volumes"]

    def columns(self, split: str, class_names: Sequence[str]) -> list[list[str]]:
        """The columns of this split in the histogram: milliliters, and volumes with the class."""
        sizes = [f"{self.milliliters_by_class.get(name, 0.0):.3f}" for name in class_names]
        volumes = [str(self.num_images_by_class.get(name, 0)) for name in class_names]
        grids = ["x".join(f"{length:.4g}" for length in lengths) for lengths in (self.spacing, *self.shapes)]
        return [[split, *sizes, *grids, ""], ["volumes", *volumes, "", "", "", str(self.num_images)]]


Summary = SplitSummary | MaskSummary | VolumeSummary


@dataclass(frozen=True)
class CheckReport:
    """The result of a check of the data set that ``path`` names and whose files lie in ``root``.

    ``worklist``: codes of which all findings are shown. ``decoded`` says whether the pixels were read or the headers
    only.
    """

    path: Path
    root: Path
    format: str
    findings: tuple[Finding, ...]
    splits: Mapping[str, Summary] = field(default_factory=dict)
    decoded: bool = True
    worklist: frozenset[str] = frozenset()

    @property
    def exit_code(self) -> int:
        """0 for nothing or infos, 1 for warnings, 2 for errors."""
        return max((EXIT_CODES[finding.severity] for finding in self.findings), default=0)

    def with_worklist(self, findings: Sequence[Finding]) -> CheckReport:
        """The same with ``findings`` that are there to be worked through: all of them are shown, in their order."""
        return replace(self, findings=(*self.findings, *findings), worklist=frozenset(one.code for one in findings))

    def num_findings(self, severity: Severity) -> int:
        """The number of findings of one severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def by_code(self) -> dict[str, list[Finding]]:
        """The findings under their codes, in the order of the codes."""
        groups: dict[str, list[Finding]] = {}
        for finding in sorted(self.findings, key=lambda one: one.code):
            groups.setdefault(finding.code, []).append(finding)
        return groups

    def to_dict(self) -> dict[str, Any]:
        """The whole report as plain data: every finding, every histogram."""
        return {
            "path": str(self.path),
            "format": self.format,
            "decoded": self.decoded,
            "exit_code": self.exit_code,
            "num_errors": self.num_findings("error"),
            "num_warnings": self.num_findings("warning"),
            "num_infos": self.num_findings("info"),
            "findings": [finding.to_dict() for finding in self.findings],
            "splits": {name: asdict(summary) for name, summary in self.splits.items()},
        }

    def write_json(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write everything as JSON, atomically; of what is there, only such a report is replaced, unless
        ``overwrite``.

        Raises ValueError where ``path`` lies inside the data set: a check never writes into it.
        """
        target = require_outside(path, self.root)
        require_replaceable(
            Path(path), overwrite=overwrite, is_ours=lambda one: holds_keys(one, "exit_code", "findings", "splits")
        )
        write_text(target, json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n")

    def render(self, num_examples: int = 5) -> str:
        """The report as text: the findings grouped by code, ``num_examples`` of each, then the histogram."""
        depth = "images decoded" if self.decoded else "image headers read"
        lines = [f"{self.path} ({self.format}, {depth})"]
        for code, findings in self.by_code().items():
            meaning = CODES[code]
            lines += ["", f"{code} {meaning.severity}: {meaning.title} ({len(findings)}). To do: {meaning.remedy}."]
            shown = findings if code in self.worklist else findings[:num_examples]
            lines += [f"    {_one_line(finding)}" for finding in shown]
            if len(findings) > len(shown):
                lines.append(f"    ... and {len(findings) - len(shown)} more")
        lines += ["", *histogram_lines(self.splits), ""]
        counts = (_count(self.num_findings(severity), severity) for severity in ("error", "warning", "info"))
        return "\n".join([*lines, ", ".join(counts)])


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _one_line(finding: Finding) -> str:
    ids = ", ".join(str(identifier) for identifier in finding.annotation_ids[:8])
    more = ", ..." if len(finding.annotation_ids) > 8 else ""
    return f"{finding.file}{f' [{ids}{more}]' if ids else ''}: {finding.message}"


def histogram_lines(splits: Mapping[str, Summary]) -> list[str]:
    """The lines of a table: what every split has of every class and in all."""
    if not splits:
        return ["no split could be read"]
    class_names = list(dict.fromkeys(name for summary in splits.values() for name in summary.num_images_by_class))
    columns = [next(iter(splits.values())).row_names(class_names)]
    for split, summary in splits.items():
        columns += summary.columns(split, class_names)
    return _table(zip(*columns, strict=True))


def _percentage(number: int, total: int) -> str:
    share = 100 * number / max(1, total)
    return "<0.01 %" if 0 < share < 0.01 else f"{share:.2f} %"


def _table(rows: Iterable[Sequence[str]]) -> list[str]:
    rows = list(rows)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]
