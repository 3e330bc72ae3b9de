"""What ``detseg check`` says: findings with a code, the report that holds them, and how it is printed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from detseg.files import write_text

Severity = Literal["info", "warning", "error"]
EXIT_CODES: Mapping[Severity, int] = {"info": 0, "warning": 1, "error": 2}


@dataclass(frozen=True, slots=True)
class Code:
    """What a code stands for: an error breaks or falsifies training, a warning is survived, an info worth knowing."""

    severity: Severity
    title: str
    remedy: str


CODES: Mapping[str, Code] = {
    "D001": Code("warning", "degenerate box", "readers drop it: correct its corners or delete it"),
    "D002": Code("warning", "box reaches outside the image", "readers clip it: correct its corners"),
    "D003": Code("warning", "duplicate box", "delete all but one: each copy counts as an object"),
    "D004": Code("error", "unknown category", "add the category to the list of classes or correct the annotation"),
    "D005": Code("error", "malformed annotation", "correct or delete the entry"),
    "D006": Code("error", "box entirely outside the image", "correct or delete it: no pixel of it can be learned"),
    "D100": Code("error", "unreadable annotation file", "restore or correct the file"),
    "D101": Code("error", "missing image", "add the image or delete its entry"),
    "D102": Code("error", "corrupt image", "replace the image or delete its entry"),
    "D103": Code("error", "image size differs from the annotation", "annotate the image that is there"),
    "D104": Code("info", "image without objects", "nothing, if it is meant as background"),
    "D105": Code("info", "image in no split", "list it, if it is meant to be used"),
    "D106": Code(
        "error", "identifier or image used twice", "give every entry its own identifier, list each image once"
    ),
    "D107": Code("error", "image path leaves the data set", "keep the images inside the folder of images"),
    "D201": Code(
        "error", "same image in two splits", "keep it in one split: `detseg split` makes splits without leakage"
    ),
    "D202": Code("warning", "class missing in a split", "`detseg split` makes stratified splits"),
    "D203": Code("warning", "same image twice in a split", "delete all but one"),
    "D301": Code("error", "missing mask", "add the mask or take the image away"),
    "D302": Code("error", "corrupt mask", "replace the mask or take it away with its image"),
    "D303": Code(
        "error", "wrong kind of mask", "save the number of the class of every pixel in one channel of 8 bits, as PNG"
    ),
    "D304": Code("error", "unknown value in a mask", "add it to `names:` or `void:` in the YAML, or correct the mask"),
    "D305": Code("warning", "mask without any class", "label the image or take it away: nothing is learned from it"),
    "D306": Code("info", "mask without image", "add the image, if it is meant to be used"),
    "D307": Code("error", "names of the classes unknown", "write the YAML or the classes.txt that is described there"),
    "D308": Code("info", "split without truth", "nothing, if it is only to be predicted"),
    "D309": Code("error", "split without images", "add images, or correct where they are looked for"),
    "D401": Code("error", "unusable volume", "replace the file or take it away with its labels"),
    "D402": Code("error", "unusable labels", "replace the file or take it away with its volume"),
    "D403": Code("error", "labels on another grid", "resample the labels to the volume, or correct the wrong header"),
    "D404": Code("error", "unknown value in labels", "add it to `names:` in the YAML, or correct the labels"),
    "D405": Code("warning", "labels without any structure", "label the volume, if something is to be found in it"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: ``file`` is the file to look at, ``annotation_ids`` the entries in it (COCO's annotation id, the
    position of the VOC object or the YOLO line, counted from 1), ``message`` what was received and what is allowed."""

    code: str
    file: str
    message: str
    annotation_ids: tuple[int | str, ...] = ()
    split: str | None = None

    def __post_init__(self) -> None:
        assert self.code in CODES, self.code

    @property
    def severity(self) -> Severity:
        """The severity of the code."""
        return CODES[self.code].severity

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain data, with the severity and the remedy of its code."""
        return {
            "code": self.code,
            "severity": self.severity,
            "title": CODES[self.code].title,
            "split": self.split,
            "file": self.file,
            "annotation_ids": list(self.annotation_ids),
            "message": self.message,
            "remedy": CODES[self.code].remedy,
        }


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
    """The same for a split with masks: ``num_pixels`` are those of a class, beside them there are void ones."""

    num_images: int
    num_pixels: int
    num_void_pixels: int
    num_pixels_by_class: dict[str, int]
    num_images_by_class: dict[str, int]

    def missing_classes(self) -> tuple[str, list[str]]:
        """What is counted, and the classes that have none."""
        return "pixel", [name for name, count in self.num_pixels_by_class.items() if not count]

    @staticmethod
    def row_names(class_names: Sequence[str]) -> list[str]:
        """The names of the rows of ``columns``."""
        return ["share of labeled pixels", *class_names, "void, of all pixels", "images"]

    def columns(self, split: str, class_names: Sequence[str]) -> list[list[str]]:
        """The columns of this split in the histogram: shares, and images with the class."""
        shares = [_percentage(self.num_pixels_by_class.get(name, 0), self.num_pixels) for name in class_names]
        images = [str(self.num_images_by_class.get(name, 0)) for name in class_names]
        void = _percentage(self.num_void_pixels, self.num_pixels + self.num_void_pixels)
        return [[split, *shares, void, ""], ["images", *images, "", str(self.num_images)]]


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

    ``decoded`` says whether the pixels were read or the headers only.
    """

    path: Path
    root: Path
    format: str
    findings: tuple[Finding, ...]
    splits: Mapping[str, Summary] = field(default_factory=dict)
    decoded: bool = True

    @property
    def exit_code(self) -> int:
        """0 for nothing or infos, 1 for warnings, 2 for errors."""
        return max((EXIT_CODES[finding.severity] for finding in self.findings), default=0)

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

    def write_json(self, path: Path | str) -> None:
        """Write everything as JSON, atomically.

        Raises ValueError where ``path`` lies inside the data set: a check never writes into it.
        """
        target = require_outside(path, self.root)
        write_text(target, json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n")

    def render(self, num_examples: int = 5) -> str:
        """The report as text: the findings grouped by code, ``num_examples`` of each, then the histogram."""
        depth = "images decoded" if self.decoded else "image headers read"
        lines = [f"{self.path} ({self.format}, {depth})"]
        for code, findings in self.by_code().items():
            meaning = CODES[code]
            lines += ["", f"{code} {meaning.severity}: {meaning.title} ({len(findings)}). To do: {meaning.remedy}."]
            lines += [f"    {_one_line(finding)}" for finding in findings[:num_examples]]
            if len(findings) > num_examples:
                lines.append(f"    ... and {len(findings) - num_examples} more")
        lines += ["", *histogram_lines(self.splits), ""]
        counts = (_count(self.num_findings(severity), severity) for severity in ("error", "warning", "info"))
        return "\n".join([*lines, ", ".join(counts)])


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _one_line(finding: Finding) -> str:
    ids = ", ".join(str(identifier) for identifier in finding.annotation_ids[:8])
    more = ", ..." if len(finding.annotation_ids) > 8 else ""
    return f"{finding.file}{f' [{ids}{more}]' if ids else ''}: {finding.message}"


def require_outside(path: Path | str, root: Path) -> Path:
    """``path``, resolved. Raises ValueError where it lies inside the data set ``root``."""
    target = Path(path).resolve()
    if target.is_relative_to(root.resolve()):
        raise ValueError(f"{path}: inside the data set {root}, which is never written to; name a place outside")
    return target


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
