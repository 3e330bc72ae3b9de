"""``detseg split``: new splits of a data set in any format, with every class in each and no image in two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detseg.data.checks.inspect import inspect
from detseg.data.checks.inspection import Inspection
from detseg.data.checks.report import Summary, histogram_lines
from detseg.data.format import DatasetFormat, match_split
from detseg.data.open import find_format, find_source, load_format
from detseg.data.records import SplitRecords
from detseg.data.source import DatasetError, DataSource, require_outside
from detseg.data.split_rule import ALL, SplitRule, parse_ratios, split_names
from detseg.data.splits.groups import compile_pattern, group_names
from detseg.data.splits.images import deal_images
from detseg.data.splits.volumes import deal_volumes, refuse_copies
from detseg.data.writing import YAML_NAME, NewSplits, write_split_folder


@dataclass(frozen=True, slots=True)
class SplitResult:
    """What was written: ``open_dataset`` opens ``yaml_path``; ``num_copies`` images have the content of another, and
    ``num_groups`` groups were kept whole, if there were any."""

    yaml_path: Path
    splits: dict[str, Summary]
    num_copies: int
    num_groups: int | None = None

    def render(self) -> str:
        """The result as text: the histogram and where it is."""
        kept = f"{self.num_copies} copies kept with their originals\n" if self.num_copies else ""
        if self.num_groups is not None:
            kept += f"{self.num_groups} groups kept whole\n"
        return "\n".join([*histogram_lines(self.splits), "", f"{kept}{self.yaml_path}"])


def split_dataset(
    path: Path | str,
    ratios: str | Sequence[float] | None,
    seed: int,
    output: Path | str,
    format: str | None = None,
    splits: Sequence[str] | None = None,
    folds: int | None = None,
    group_by: str | None = None,
) -> SplitResult:
    """Divide all images of the data set at ``path`` anew, into train and val or train, val and test; volumes also into
    ``folds`` for cross-validation, in place of ``ratios``.

    ``ratios`` as ``"6:2:2"`` or ``"8:2"``. Sizes are exact by largest remainder; every class is spread as its boxes
    (or pixels) and images allow (see ``stratify``); images of equal content stay together. The result depends on the
    seed and on the names and contents of the files, not on their order. Existing ``splits`` are put together before;
    by default all.

    ``group_by``, a regular expression, says what must not be torn apart, such as the frames of a video or the scans of
    a patient, see :func:`detseg.data.splits.groups.group_names`; sizes are then as near to the ratios as whole groups
    allow.

    ``output``, a new or empty folder outside of the data set, appears with everything in it or not at all:
    ``data.yaml`` and what it names, in the format of the data set, or else per split a COCO file, or a list of images
    and another of their masks or labels.

    Raises:
        ValueError: the ratios, the groups or the folder are not as described, there are too few images or groups, or
            (DatasetError) the data set is absent or has errors that ``detseg check`` lists.
    """
    if (ratios is None) == (folds is None):
        raise ValueError(f"either ratios or folds are needed, got ratios {ratios!r} and folds {folds!r}")
    split_rule = SplitRule(None if ratios is None else parse_ratios(ratios), folds, seed)
    pattern = None if group_by is None else compile_pattern(group_by)
    source = find_source(path)
    format_name = find_format(source, format)
    chosen_format = load_format(format_name)
    if chosen_format.indivisible:
        raise DatasetError(f"{source.name}: {chosen_format.indivisible}")
    if folds is not None and chosen_format.targets[0] != "volumes":
        raise ValueError(f"folds are for volumes (format nifti); {source.name} is {format_name}: give ratios instead")
    root = source.data_root().resolve()
    target = _checked_output(Path(output), root)
    old = _old_splits(source, chosen_format, splits)
    inspection = inspect(old, decode=False)
    _refuse_errors(source, old, inspection)
    amounts_of = {
        path: amounts
        for split in old
        for path, amounts in zip(split.paths(), inspection.amounts[split.name], strict=True)
    }
    group_of = None if pattern is None else group_names(amounts_of, source.data_root(), pattern)
    if old[0].target == "volumes":
        refuse_copies(source, inspection.digests)
        members = deal_volumes(source, list(amounts_of), split_rule, group_of)
    else:
        counts_of = {path: amounts.counts for path, amounts in amounts_of.items()}
        shares = parse_ratios(split_rule.shares)
        dealt = deal_images(counts_of, inspection.digests, root, shares, seed, old[0].target, group_of)
        members = dict(zip(split_names(len(shares)), dealt, strict=True))
    contents, settings = chosen_format.write_splits(NewSplits(source, old, members), target)
    # New splits hold the classes as the files name them.
    renaming = {"classes": dict(source.class_map)} if source.class_map else {}
    write_split_folder(target, contents, {"format": format_name, "path": str(root), **settings, **renaming})
    summaries = {name: inspection.summarize([amounts_of[path] for path in paths]) for name, paths in members.items()}
    num_copies = len(amounts_of) - len({inspection.digests[path] for path in amounts_of})
    num_groups = None if group_of is None else len(set(group_of.values()))
    return SplitResult(target / YAML_NAME, summaries, num_copies, num_groups)


def _checked_output(output: Path, root: Path) -> Path:
    target = require_outside(output, root)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{output}: is there already and not an empty folder; name a new one")
    return target


def _old_splits(source: DataSource, format: DatasetFormat, wanted: Sequence[str] | None) -> list[SplitRecords]:
    """The splits to be put together, those without labels left out where there is nothing to deal them out by."""
    available = format.splits(source)
    if wanted is None:
        # Of a folder that is divided by rule, ``all`` holds what the other splits are parts of.
        wanted = (ALL,) if ALL in available else available
    chosen = dict.fromkeys(match_split(name, available, source.name) for name in wanted)
    records = [format.records(source, name, format.targets[0]) for name in chosen]
    labeled = [split for split in records if not split.is_unlabeled]
    if not labeled:
        raise DatasetError(f"{source.name}: {', '.join(chosen)} have no labels; there is nothing to divide")
    return labeled


def _refuse_errors(source: DataSource, old: Sequence[SplitRecords], inspection: Inspection) -> None:
    found = [*(finding for split in old for finding in split.findings), *inspection.findings]
    # Boxes outside of their image and sizes that differ are left out or corrected when samples are made.
    errors = [one for one in found if one.severity == "error" and one.code not in ("D006", "D103")]
    if errors:
        first = errors[0]
        raise DatasetError(
            f"{source.name}: number of errors: {len(errors)}; the first is {first.code} {first.file}: {first.message}\n"
            f"  correct them before splitting; `detseg check {source.name}` lists all"
        )
    for split in old:
        split.refuse()
