"""``detseg check``: everything that is wrong with a data set, listed with codes; nothing is ever written into it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from detseg.data.checks.inspect import inspect
from detseg.data.checks.inspection import Inspection
from detseg.data.checks.leakage import find_leakage, relative_name
from detseg.data.checks.report import CheckReport, Summary
from detseg.data.entries.parsing import enumerate_some
from detseg.data.findings import Finding
from detseg.data.format import match_split
from detseg.data.open import find_format, find_source, load_format, require_truth
from detseg.data.records import SplitRecords
from detseg.data.source import DatasetError, DataSource
from detseg.data.split_rule import disjoint_groups
from detseg.runtime.class_names import fold_name
from detseg.structures import Target


def check_dataset(
    path: Path | str,
    format: str | None = None,
    splits: Sequence[str] | None = None,
    decode: bool = True,
    num_threads: int | None = None,
    target: Target | None = None,
) -> CheckReport:
    """Look at every annotation and every image of the data set at ``path`` (see ``CODES`` for what is looked for).

    ``splits`` limits the check to some splits; ``decode=False`` reads only the headers of the images, which is faster
    and misses damage behind them; masks and volumes are always read. ``truth`` is what is to be learned, by default the
    first that the format has; for instances an object without an outline is an error. What is wrong inside the data set
    is a finding, never an exception. Where there is no finding of severity error, ``open_dataset`` opens every split.

    Raises:
        DatasetError: there is no data set at ``path``, its format is unknown or ambiguous, or it has no such split or
            truth.
    """
    source = find_source(path)
    format_name = find_format(source, format, target)
    require_truth(source, format_name, target)
    chosen_format = load_format(format_name)
    available = chosen_format.splits(source)
    wanted = available if splits is None else (match_split(name, available, source.name) for name in splits)
    chosen = tuple(dict.fromkeys(wanted))
    findings: list[Finding] = []
    records: list[SplitRecords] = []
    for name in chosen:
        try:
            records.append(chosen_format.renamed_records(source, name, target or chosen_format.targets[0]))
        except DatasetError as error:
            message = str(error).removeprefix(f"{source.name}: ")
            findings.append(Finding("D100", str(source.yaml_path or source.root), message, (), name))
    root = _existing_root(source)
    summaries: dict[str, Summary] = {}
    if records:
        inspection = inspect(records, decode, num_threads)
        summaries = {name: inspection.summarize(amounts) for name, amounts in inspection.amounts.items()}
        findings += [finding for split in records for finding in split.findings]
        findings += inspection.findings
        # What could not be read would make all of its images look unlisted.
        is_whole = set(chosen) == set(available) and len(records) == len(chosen)
        if is_whole and all(split.paths() for split in records):
            findings += inspection.unlisted
        findings += _find_leakage(records, inspection, root)
        # Where masks cannot be read, all classes seem to be absent.
        are_read = not any(finding.severity == "error" for finding in findings)
        findings += _find_missing_classes(records, summaries, source, is_whole and are_read)
        findings += _find_spellings(records, source)
        findings += _find_other_refusals(records, findings, source)
    return _report(source, root, format_name, _once(findings), summaries, decode)


def _report(
    source: DataSource,
    root: Path,
    format_name: str,
    findings: Iterable[Finding],
    summaries: Mapping[str, Summary],
    decoded: bool,
) -> CheckReport:
    shortened = [replace(one, file=relative_name(Path(one.file), root)) for one in findings]
    shortened.sort(key=lambda one: (one.code, one.split or "", one.file))
    return CheckReport(source.yaml_path or source.root, root, format_name, tuple(shortened), summaries, decoded)


def _existing_root(source: DataSource) -> Path:
    try:
        return source.data_root()
    except DatasetError:
        # Every split has a finding about that.
        return source.root


def _once(findings: Iterable[Finding]) -> Iterator[Finding]:
    """A fault of a file that several splits share is told once."""
    seen: set[Finding] = set()
    for finding in findings:
        # The names of classes are missing in the whole data set, whatever values each split has.
        key = replace(finding, split=None, message="" if finding.code == "D307" else finding.message)
        if key not in seen:
            yield finding
        seen.add(key)


def _find_leakage(records: Sequence[SplitRecords], inspection: Inspection, root: Path) -> Iterator[Finding]:
    members = {split.name: set(split.paths()) for split in records}
    groups = [{name: members[name] for name in group} for group in disjoint_groups(members)]
    return find_leakage(groups, inspection.digests, root)


def _find_missing_classes(
    records: Sequence[SplitRecords], summaries: Mapping[str, Summary], source: DataSource, is_whole: bool
) -> Iterator[Finding]:
    judged = {
        split.name: summaries[split.name].missing_classes()
        for split in records
        if summaries[split.name].num_images and not split.is_unlabeled
    }
    # What no split has cannot be dealt out better.
    nowhere = set.intersection(*(set(missing) for _, missing in judged.values())) if judged and is_whole else set()
    for name, (unit, missing) in judged.items():
        num_classes = len(summaries[name].num_images_by_class)
        elsewhere = [one for one in missing if one not in nowhere]
        if elsewhere:
            message = f"{name} has no {unit} of {len(elsewhere)} of {num_classes} classes: {enumerate_some(elsewhere)}"
            yield Finding("D202", source.name, message, (), name)
    for unit, missing in list(judged.values())[:1]:
        absent = [one for one in missing if one in nowhere]
        if absent:
            message = f"there is no {unit} of {len(absent)} classes: {enumerate_some(absent)}"
            yield Finding("D204", source.name, message)


def _find_spellings(records: Sequence[SplitRecords], source: DataSource) -> Iterator[Finding]:
    """Classes, of one split or of several, whose names differ by the case of letters alone, or by what is between."""
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for split in records for name in split.class_names):
        alike.setdefault(fold_name(name), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            renaming = ", ".join(f"{json.dumps(name)}: {json.dumps(names[-1])}" for name in names[:-1])
            message = f"{', '.join(names)} are several classes; one is made of them by `classes: {{{renaming}}}`"
            yield Finding("D205", source.name, message)


def _find_other_refusals(
    records: Sequence[SplitRecords], findings: Sequence[Finding], source: DataSource
) -> Iterator[Finding]:
    """What would keep a split from being opened and is not among the errors."""
    if any(finding.severity == "error" for finding in findings):
        return
    for split in records:
        try:
            split.refuse()
        except DatasetError as error:
            yield Finding("D100", source.name, f"cannot be opened: {error}", (), split.name)
