"""Images and masks as they lie in their folders: what the strict readers refuse, these walks report and pass by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from detseg.data.checks.masks import Values, inspect_masks
from detseg.data.dataset import DatasetError, Source, read_lines, relative_candidates
from detseg.data.findings import Finding
from detseg.data.formats.cityscapes import MASK_CODINGS, choose_kind, find_images, truth_file
from detseg.data.formats.masks import find_places, list_images, list_masks, read_coding
from detseg.data.mask_coding import MaskCoding
from detseg.data.mask_file import MASK_SUFFIXES
from detseg.data.records import ImageRecord, SplitRecords, enumerate_some
from detseg.runtime.media.images import IMAGE_SUFFIXES
from detseg.structures import VOID


def walk_masks(source: Source, split: str) -> SplitRecords:
    """Images with masks in folders or lists. Raises DatasetError: these are not found, or contradict the YAML."""
    records = SplitRecords(split, truth="masks")
    images_at, masks_at = find_places(source, split)
    coding = read_coding(source, (), ()) if _has_names(source) else None
    images = _members(records, images_at, source)
    if not images:
        records.report("D309", images_at, f"no images of {split}; suffixes are {', '.join(IMAGE_SUFFIXES)}")
    if masks_at.is_dir():
        pairs = _pair(records, images, masks_at, all_images=images_at.is_dir())
    else:
        masks = _members(records, masks_at, source)
        if len(masks) != len(images):
            raise DatasetError(f"{images_at} has {len(images)} images, {masks_at} has {len(masks)} masks")
        pairs = list(zip(images, masks, strict=True))
    _add_masks(records, pairs, coding)
    records.has_names = coding is not None
    return records


def walk_cityscapes(source: Source, split: str) -> SplitRecords:
    """A split of the official tree with its masks. Raises DatasetError: images of cities are missing."""
    root = source.data_root().absolute()
    images = find_images(root, split)
    records = SplitRecords(split, truth="masks")
    present = choose_kind(root, images, list(MASK_CODINGS))
    kind = present or next(iter(MASK_CODINGS))
    coding = MASK_CODINGS[kind]
    pairs = [(image, truth_file(root, image, kind)) for image in images]
    folder = pairs[0][1].parent.parent
    if present is None and split == "test":
        records.images = [ImageRecord(image, mask) for image, mask in pairs]
    else:
        _add_masks(records, pairs, coding)
        expected = {mask for _, mask in pairs}
        _report_orphans(records, set(folder.glob(f"*/*_{kind}")) - expected)
    # The published files about the test split hold nothing but void.
    if split == "test" and not any(image.num_pixels for image in records.images):
        records.is_unlabeled = True
        records.findings = [finding for finding in records.findings if finding.code != "D305"]
        records.report("D308", folder, f"{len(images)} images can be predicted, not judged")
    records.class_names = coding.class_names
    return records


def ask_for_names(splits: Sequence[SplitRecords], source: Source) -> Iterator[Finding]:
    """The finding D307 about a data set that does not say what the values in its masks mean."""
    if all(split.has_names for split in splits):
        return
    root = source.data_root().absolute()
    values = sorted({int(name) for split in splits for name in split.class_names})
    names = ", ".join(f"{value}: NAME" for value in values)
    message = (
        f"masks hold the values {enumerate_some(values)}, which stand for themselves here ({VOID} is taken for void); "
        f"to name them, write a YAML and give that as the data set: format: masks; path: {root}; names: {{{names}}}; "
        f"void: {VOID}; or, for the values 0, 1, 2, ..., one name per line in {root / 'classes.txt'}"
    )
    yield Finding("D307", str(root), message)


def _has_names(source: Source) -> bool:
    return source.settings.get("names") is not None or (source.data_root() / "classes.txt").is_file()


def _members(records: SplitRecords, place: Path, source: Source) -> list[Path]:
    """The images in a folder, or the files that a list names, each once; listed files may be missing."""
    if place.is_dir():
        return list_images(place)
    members: dict[Path, None] = {}
    for line in read_lines(place):
        candidates = [*relative_candidates(line, place.parent), *relative_candidates(line, source.data_root())]
        member = next((path for path in candidates if path.exists()), candidates[0]).absolute()
        if member in members:
            records.report("D106", place, f"{line!r} is listed twice")
        members[member] = None
    return list(members)


def _pair(records: SplitRecords, images: Sequence[Path], folder: Path, all_images: bool) -> list[tuple[Path, Path]]:
    """Every image with the mask of its name in ``folder``, or where that is expected."""
    masks_by_name = _by_name(records, list_masks(folder))
    images_by_name = _by_name(records, images) if all_images else {image.stem: [image] for image in images}
    if all_images:
        unused = set(masks_by_name) - set(images_by_name)
        _report_orphans(records, {mask for name in unused for mask in masks_by_name[name]})
    expected = folder / f"NAME{MASK_SUFFIXES[1]}"
    return [(image, masks_by_name.get(image.stem, [expected.with_stem(image.stem)])[0]) for image in images]


def _by_name(records: SplitRecords, paths: Iterable[Path]) -> dict[str, list[Path]]:
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        by_name[path.stem].append(path)
    for first, *others in by_name.values():
        if others:
            names = enumerate_some(path.name for path in (first, *others))
            records.report("D106", first, f"{names}: which mask belongs to which image is unclear")
    return dict(by_name)


def _report_orphans(records: SplitRecords, masks: Iterable[Path]) -> None:
    for mask in sorted(masks):
        records.report("D306", mask, f"{records.name} has no image of this name")


def _add_masks(records: SplitRecords, pairs: Sequence[tuple[Path, Path]], coding: MaskCoding | None) -> None:
    """Read the masks and add a record of every pair; without ``coding``, the values are the names of the classes."""
    states = inspect_masks(pairs, coding)
    names = {value: str(value) for value in sorted({value for state in states for value in state.values} - {VOID})}
    void: tuple[int, ...] = (VOID,)
    if coding is not None:
        names, void = dict(zip(coding.values, coding.class_names, strict=True)), coding.void
    records.class_names = tuple(names.values())
    for (image, mask), state in zip(pairs, states, strict=True):
        record = ImageRecord(image, mask, state.size)
        record.num_pixels = {names[value]: count for value, count in state.values.items() if value in names}
        record.num_void_pixels = _total(state.values, void)
        records.images.append(record)
        if state.problem is not None:
            code, message = state.problem
            records.report(code, mask, message)


def _total(values: Values, chosen: Iterable[int]) -> int:
    return sum(values.get(value, 0) for value in chosen)
