"""``detseg check``: everything that is wrong with a data set, listed with codes; nothing is ever written into it."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from detseg.data.checks.boxes import check_boxes
from detseg.data.checks.inspection import ImageState, inspect_images
from detseg.data.checks.leakage import find_leakage, relative_name
from detseg.data.checks.locate import WALKS, images_in, walk_split
from detseg.data.checks.mask_walks import ask_for_names
from detseg.data.checks.volumes import check_volumes, summarize_generated
from detseg.data.dataset import DatasetError, Source, match_split
from detseg.data.findings import CheckReport, Finding, SplitSummary, Summary
from detseg.data.open import find_format, find_source, load_format
from detseg.data.records import ImageRecord, SplitRecords, enumerate_some, summarize_splits
from detseg.data.volumes import VolumeDataset


def check_dataset(
    path: Path | str,
    format: str | None = None,
    splits: Sequence[str] | None = None,
    decode: bool = True,
    num_threads: int | None = None,
) -> CheckReport:
    """Look at every annotation and every image of the data set at ``path`` (see ``CODES`` for what is looked for).

    ``splits`` limits the check to some splits; ``decode=False`` reads only the headers of the images, which is faster
    and misses damage behind them; masks and volumes are always read. What is wrong inside the data set is a finding,
    never an exception. Where there is no finding of severity error, ``open_dataset`` opens every split.

    Raises:
        DatasetError: there is no data set at ``path``, its format is unknown or ambiguous, or it has no such split.
    """
    source = find_source(path)
    format_name = find_format(source, format)
    available = load_format(format_name).splits(source)
    wanted = available if splits is None else (match_split(name, available, source.name) for name in splits)
    chosen = tuple(dict.fromkeys(wanted))
    is_whole = set(chosen) == set(available)
    if format_name not in (*WALKS, "nifti"):
        return _report_generated(source, format_name, chosen)
    root = _existing_root(source)
    if format_name == "nifti":
        check = check_volumes(source, chosen, root, is_whole, num_threads)
        return _report(source, root, format_name, check.findings, check.splits)
    records = [walk_split(source, format_name, name) for name in chosen]
    images = inspect_images((image.path for split in records for image in split.images), decode, num_threads)
    findings: list[Finding] = []
    for split in records:
        findings += split.findings
        findings += _check_images(split, images)
        for image in split.images:
            findings += check_boxes(image, images[image.path].size, split.name)
    if is_whole:
        findings += _check_unlisted(records)
    findings += ask_for_names(records, source)
    members = {split.name: {image.path for image in split.images} for split in records}
    findings += find_leakage([members], {path: state.digest for path, state in images.items()}, root)
    summaries = summarize_splits(records)
    judged = {split.name: summaries[split.name] for split in records if not split.is_unlabeled}
    findings += _check_missing_classes(judged, source)
    if not any(finding.severity == "error" for finding in findings):
        findings += _check_readable(source, format_name, records)
    return _report(source, root, format_name, findings, summaries, decode)


def _report(
    source: Source,
    root: Path,
    format_name: str,
    findings: Iterable[Finding],
    summaries: Mapping[str, Summary],
    decoded: bool = True,
) -> CheckReport:
    shortened = [replace(one, file=relative_name(Path(one.file), root)) for one in findings]
    shortened.sort(key=lambda one: (one.code, one.split or "", one.file))
    return CheckReport(source.yaml_path or source.root, root, format_name, tuple(shortened), summaries, decoded)


def _existing_root(source: Source) -> Path:
    try:
        return source.data_root()
    except DatasetError:
        # Every split has a finding about that.
        return source.root


def _check_images(split: SplitRecords, states: dict[Path, ImageState]) -> Iterator[Finding]:
    num_uses = Counter(image.path for image in split.images)
    for path, count in num_uses.items():
        if count > 1:
            yield Finding("D106", str(path), f"{count} entries are about this image", (), split.name)
    for image in split.images:
        state, file = states[image.path], str(image.path)
        if state.digest is None:
            yield Finding("D101", file, f"{state.problem} (annotated in {image.source.name})", (), split.name)
        elif state.size is None:
            yield Finding("D102", file, str(state.problem), (), split.name)
        elif image.recorded_size is not None and image.recorded_size != state.size:
            ids = tuple(box.annotation_id for box in image.boxes)
            yield Finding("D103", file, _describe_mismatch(image, state, split), ids, split.name)
        if split.truth == "boxes" and not image.boxes:
            yield Finding("D104", file, f"no box in {image.source.name}", (), split.name)


def _describe_mismatch(image: ImageRecord, state: ImageState, split: SplitRecords) -> str:
    recorded = image.recorded_size
    assert state.size is not None
    assert recorded is not None
    (height, width), (recorded_height, recorded_width) = state.size, recorded
    annotation = "annotation" if split.truth == "boxes" else f"mask {image.source.name}"
    message = f"the image is {width}x{height}, the {annotation} is for {recorded_width}x{recorded_height}"
    if recorded == state.stored_size:
        return (
            f"{message}: its EXIF orientation {state.orientation} turns the image, and the annotation is for the "
            f"pixels before that; annotate the upright image, or store the image without the orientation"
        )
    if recorded == state.size[::-1]:
        return f"{message}: the sides are swapped, and no EXIF orientation of the file explains it"
    return message


def _check_unlisted(records: Sequence[SplitRecords]) -> Iterator[Finding]:
    listed = {os.path.realpath(image.path) for split in records for image in split.images}
    # A split whose file is unreadable would make all of its images look unlisted.
    if any(finding.code == "D100" for split in records for finding in split.findings if not split.images):
        return
    for folder in dict.fromkeys(folder for split in records for folder in split.image_folders):
        for path in images_in(folder):
            if os.path.realpath(path) not in listed:
                yield Finding("D105", str(path), f"in {folder.name}, but no split lists it")


def _check_missing_classes(summaries: Mapping[str, Summary], source: Source) -> Iterator[Finding]:
    for name, summary in summaries.items():
        unit, missing = summary.missing_classes()
        if missing and summary.num_images:
            message = f"{name} has no {unit} of {len(missing)} of {len(summary.num_images_by_class)} classes"
            yield Finding("D202", source.name, f"{message}: {enumerate_some(missing)}", (), name)


def _check_readable(source: Source, format_name: str, records: Sequence[SplitRecords]) -> Iterator[Finding]:
    """What the reader still refuses, so that a data set that passes can be opened."""
    for split in records:
        try:
            with warnings.catch_warnings():
                # What a reader may warn about is a finding already.
                warnings.simplefilter("ignore", UserWarning)
                load_format(format_name).open(source, split.name)
        except DatasetError as error:
            yield Finding("D100", source.name, f"the reader refuses it: {error}", (), split.name)


def _report_generated(source: Source, format_name: str, splits: Sequence[str]) -> CheckReport:
    """The report on a data set that is computed, not stored: its histogram."""
    summaries: dict[str, Summary] = {}
    for name in splits:
        dataset = load_format(format_name).open(source, name)
        if isinstance(dataset, VolumeDataset):
            summaries[name] = summarize_generated(dataset)
            continue
        counts = {class_name: [0, 0] for class_name in dataset.class_names}
        for index in range(len(dataset)):
            for label, count in Counter(dataset.ground_truth(index).labels.tolist()).items():
                counts[dataset.class_names[label]][0] += count
                counts[dataset.class_names[label]][1] += 1
        boxes, images = ({key: pair[part] for key, pair in counts.items()} for part in (0, 1))
        summaries[name] = SplitSummary(len(dataset), sum(boxes.values()), boxes, images)
    return CheckReport(source.root, source.root, format_name, (), summaries)
