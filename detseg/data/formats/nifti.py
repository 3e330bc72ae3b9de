"""Volumes with label volumes, NIfTI and others, in the layout of the Medical Segmentation Decathlon or named in a YAML.

A volume and its labels have files of one name (``a.nii.gz``), or that of nnU-Net, where a volume's ends in the number
of its channel (``a_0000.nii.gz``). Volumes that nobody has divided into splits are divided here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detseg.config import from_dict
from detseg.data.format import DatasetFormat
from detseg.data.formats.nifti_channels import (
    find_channel_names,
    first_channels,
    read_channel_names,
    require_channel_files,
)
from detseg.data.formats.nifti_description import (
    DESCRIPTION_NAME,
    LIST_KEY,
    case_keys,
    list_file,
    read_description,
)
from detseg.data.formats.nifti_folds import FOLDS_NAME, ListedFolds, folds_of_list, list_of, read_folds
from detseg.data.formats.nifti_labels import ORDER_KEY, read_class_names, read_ignore_index, read_regions
from detseg.data.nearest_volumes import describe_no_volumes, describe_pictures
from detseg.data.source import (
    DatasetError,
    DataSource,
    find_existing,
    leaves_root,
    read_lines,
    relative_candidates,
)
from detseg.data.split_rule import SplitRule
from detseg.data.volume_records import VolumePair, VolumeRecords, list_volumes
from detseg.runtime.volumes.nifti_header import VolumeError
from detseg.runtime.volumes.volume_cases import FIRST_CHANNEL
from detseg.runtime.volumes.volume_files import VOLUME_SUFFIXES, volume_exists, volume_stem
from detseg.structures import Target

IMAGES, LABELS = "imagesTr", "labelsTr"
TEST_IMAGES, TEST_LABELS = "imagesTs", "labelsTs"

_TEST = "test"
_SETTINGS = (
    *("format", "path", "names", "colors", "split", "channels", "ignore_index", "trust_grid"),
    *(LIST_KEY, ORDER_KEY),
)


class NiftiFormat(DatasetFormat):
    """A folder of the Decathlon or nnU-Net, or a YAML."""

    targets = ("volumes",)
    layouts = (
        (
            "imagesTr/ and labelsTr/ with volumes of the same names (.nii.gz, .hdr with .img, .mha, .nrrd, ..., or "
            "folders with a DICOM series), divided 8:2 into train and val, or "
            "as the first fold of splits_final.json (imagesTs/ is the split test); the class names in dataset.json, "
            "which may also list cases that lie elsewhere in the folder"
        ),
        (
            "a YAML with `format: nifti`, `path:`, `names:` by value, the background first, and, for folders as above, "
            "`split: {ratios: [8, 2], seed: 0}` or `split: {folds: 5, seed: 0}`, otherwise per split "
            "`SPLIT: {images: FOLDER or LIST.txt, labels: FOLDER or LIST.txt}` or `SPLIT: [[VOLUME, LABELS], ...]`; "
            "`datalist: FILE.json` for a list of cases as MONAI has them, {training: [{image, label, fold}]}; "
            "`trust_grid: true` where labels have lost their affine, `channels: [NAMES]` where volumes have several, "
            "`ignore_index: VALUE` for voxels of no class"
        ),
    )

    def splits(self, source: DataSource) -> tuple[str, ...]:
        if source.yaml_path is not None:
            named = _named_splits(source)
            stated = source.settings.get("format")
            if stated not in ("nifti", None):
                return ()
            if stated is None:
                return tuple(named) if any(map(_is_ours, named.values())) else ()
            for name, entry in named.items():
                if not (isinstance(entry, Mapping) and "images" in entry) and not isinstance(entry, list):
                    raise DatasetError(
                        f"{source.name}: {name}: expected a split, {{images: FOLDER or LIST.txt, labels: FOLDER or "
                        f"LIST.txt}} or a list of pairs, got {entry!r:.100}; other keys are {', '.join(_SETTINGS)}"
                    )
            if named:
                return tuple(named)
        root = source.data_root()
        if not (root / IMAGES).is_dir() and not _lists_cases(source):
            return ()
        divided = _read_split_rule(source).split_names
        return divided if _TEST in divided or not (root / TEST_IMAGES).is_dir() else (*divided, _TEST)

    def records(self, source: DataSource, split: str, target: Target) -> VolumeRecords:
        pairs = find_pairs(source, split)
        channels = read_channel_names(source) or find_channel_names(pairs)
        name_of: dict[int, str] = {}
        problem = ""
        try:
            name_of = read_class_names(source, [pair.label for pair in pairs if pair.label is not None])
        except DatasetError as error:
            problem = str(error).removeprefix(f"{source.name}: ")
        except VolumeError:
            # No names, and the labels that would show the values cannot be read, which a check says.
            problem = "the names of the classes are nowhere; write them in a YAML"
        root = source.data_root().absolute()
        records = VolumeRecords(
            split,
            root=root,
            pairs=pairs,
            name_of=name_of,
            image_folder=root / IMAGES,
            label_folder=root / LABELS,
            trust_grid=_trusts_grid(source),
            channels=channels if len(channels) > 1 else (),
            ignored=read_ignore_index(source, name_of),
            regions=read_regions(source, name_of),
        )
        if problem:
            records.reject("D307", source.name, problem)
        return records


def find_pairs(source: DataSource, split: str) -> list[VolumePair]:
    """The volumes of ``split`` with their labels; all of them have labels, or none.

    Raises:
        DatasetError: the YAML names both splits and a split_rule, files are missing, or there are too few volumes to be
            divided.
    """
    where = f"{source.name}: {split}"
    named = _named_splits(source)
    if split in named:
        if "split" in source.settings:
            raise DatasetError(f"{source.name}: either split or splits such as {split} can be given, not both")
        return find_named_pairs(named[split], source, where)
    num_channels = len(read_channel_names(source))
    split_rule = _read_split_rule(source)
    root = source.data_root().absolute()
    if split not in split_rule.split_names:
        return find_test_pairs(root, where, num_channels)
    pairs = find_training_pairs(root, where, num_channels, list_file(source))
    pair_of = dict(zip(_keys_of(pairs, root), pairs, strict=True))
    try:
        members = split_rule.members(split, pair_of)
    except ValueError as error:
        raise DatasetError(f"{source.name}: split: {error}") from error
    return [pair_of[name] for name in members]


def _is_ours(entry: object) -> bool:
    """Whether a YAML that states no format can be none but this with such an entry."""
    return isinstance(entry, Mapping) and {"images", "labels"} == set(entry)


def _named_splits(source: DataSource) -> dict[str, Any]:
    """What is under the keys of a YAML that are no settings."""
    return {str(key): entry for key, entry in source.settings.items() if key not in _SETTINGS}


def _trusts_grid(source: DataSource) -> bool:
    stated = source.settings.get("trust_grid", False)
    if not isinstance(stated, bool):
        raise DatasetError(f"{source.name}: trust_grid: expected true or false, got {stated!r:.100}")
    return stated


def _read_split_rule(source: DataSource) -> SplitRule | ListedFolds:
    stated = source.settings.get("split")
    if stated is None:
        listed, path = source.data_root() / FOLDS_NAME, list_file(source)
        if listed.is_file():
            return read_folds(listed, first_alone=True)
        return folds_of_list(path, read_description(path.parent, path.name), first_alone=True) or SplitRule()
    if isinstance(stated, str):
        where = f"{source.name}: split"
        return read_folds(find_existing(source.candidates(stated), "list of folds", where), first_alone=False)
    if not isinstance(stated, Mapping):
        raise DatasetError(
            f"{source.name}: split: expected {{ratios: [8, 2], seed: 0}} or {{folds: 5, seed: 0}}, "
            f"got {stated!r:.100}; or the name of a list of folds, such as {FOLDS_NAME}"
        )
    return from_dict(SplitRule, stated, f"{source.name}: split")


def find_training_pairs(
    root: Path, where: str, num_channels: int = 0, listed_in: Path | None = None
) -> list[VolumePair]:
    """The volumes of the Decathlon's layout in ``root``: those listed in dataset.json, or the file ``listed_in``, else
    all of the folder.

    Raises:
        DatasetError: there are none, files are missing, or several volumes have one name.
    """
    path = listed_in or root / DESCRIPTION_NAME
    description = read_description(path.parent, path.name)
    if "dataset" in description:
        return _listed_cases(description["dataset"], root, f"{path}: dataset")
    listed = description.get("training")
    if not listed:
        images = list_volumes(root / IMAGES)
        pictures = "" if images else describe_pictures(root, IMAGES, LABELS)
        if not images:
            raise DatasetError(f"{where}: {pictures or describe_no_volumes(root / IMAGES)}")
        return pair_up(images, root / LABELS, where, num_channels)
    place = f"{path}: training"
    if not isinstance(listed, list):
        raise DatasetError(f"{place}: expected a list of {{image, label}}, got {listed!r:.100}")
    pairs = []
    for number, entry in enumerate([*listed, *list_of(description, "validation")]):
        channels, label = _images_and_label(entry) or ([], "")
        if not channels:
            raise DatasetError(f"{place}[{number}]: expected {{image: FILE, label: FILE}}, got {entry!r:.100}")
        if any(map(leaves_root, (*channels, label))):
            raise DatasetError(f"{place}[{number}]: lies outside of {root}: {entry!r:.200}")
        image = _first_file(root / channels[0])
        if len(channels) > 1:
            files = [root / one for one in channels]
            _require_files(files, place)
            image = require_channel_files(files, f"{place}[{number}]")
        pairs.append(VolumePair(image, root / label))
    _require_files([file for pair in pairs for file in pair if file is not None], place)
    if len(set(_keys_of(pairs, root))) < len(pairs):
        _by_stem([pair.image for pair in pairs])
    return _without_repetition(pairs, place)


def _keys_of(pairs: Sequence[VolumePair], root: Path) -> list[str]:
    images = [pair.image for pair in pairs]
    return case_keys([image.relative_to(root) if image.is_relative_to(root) else image for image in images], root)


def _images_and_label(entry: Any) -> tuple[list[str], str] | None:
    """The names in {image, label}, where image may be a list of channels; None if it is something else."""
    match entry:
        case {"image": [*images], "label": str(label)} if images and all(isinstance(one, str) for one in images):
            return images, label
    files = _image_and_label(entry)
    return None if files is None else ([files[0]], files[1])


def _lists_cases(source: DataSource) -> bool:
    """Whether a JSON names the files of cases one by one: dataset.json, as nnU-Net's second version allows it, or a
    list of MONAI."""
    path = list_file(source)
    if not path.is_file():
        return False
    description = read_description(path.parent, path.name)
    return "dataset" in description or bool(list_of(description, "training"))


def _listed_cases(cases: Any, root: Path, place: str) -> list[VolumePair]:
    if not isinstance(cases, Mapping):
        raise DatasetError(f"{place}: expected {{CASE: {{images: [FILE], label: FILE}}}}, got {cases!r:.100}")
    pairs = []
    for name, entry in cases.items():
        match entry:
            case {"images": [str(), *_] as images, "label": str(label)} if all(isinstance(one, str) for one in images):
                pass
            case _:
                raise DatasetError(f"{place}: {name}: expected {{images: [FILE], label: FILE}}, got {entry!r:.200}")
        if any(map(leaves_root, (*images, label))):
            raise DatasetError(f"{place}: {name}: lies outside of {root}: {entry!r:.200}")
        files = [root / image for image in images]
        _require_files(files, place)
        image = require_channel_files(files, f"{place}: {name}") if len(files) > 1 else files[0]
        pairs.append(VolumePair(image, root / label))
    _require_files([file for pair in pairs for file in pair if file is not None], place)
    return _without_repetition(pairs, place)


def find_test_pairs(root: Path, where: str, num_channels: int = 0) -> list[VolumePair]:
    """The volumes that the Decathlon's layout keeps for tests, with labels if there is a folder of them."""
    labels = root / TEST_LABELS
    return pair_up(list_volumes(root / TEST_IMAGES), labels if labels.is_dir() else None, where, num_channels)


def find_named_pairs(entry: Any, source: DataSource, where: str) -> list[VolumePair]:
    """The pairs that a YAML names for a split: folders, lists of files, or one by one.

    Raises:
        DatasetError: it is of another form, files are missing, or something is named twice.
    """
    if isinstance(entry, list):
        return _without_repetition([_find_pair(item, source, where) for item in entry], where)
    if not isinstance(entry, Mapping) or not {"images"} <= set(entry) <= {"images", "labels"}:
        raise DatasetError(
            f"{where}: expected {{images: FOLDER or LIST.txt, labels: FOLDER or LIST.txt}}, without labels where there "
            f"are none, or a list of pairs [VOLUME, LABELS], got {entry!r:.200}"
        )
    images_at = find_existing(source.candidates(str(entry["images"])), "images", where).absolute()
    images = list_volumes(images_at) if images_at.is_dir() else _read_list(images_at, source)
    if not images and images_at.is_dir():
        raise DatasetError(f"{where}: {describe_no_volumes(images_at)}")
    labels_at = None
    if entry.get("labels") is not None:
        labels_at = find_existing(source.candidates(str(entry["labels"])), "labels", where).absolute()
    num_channels = len(read_channel_names(source))
    if labels_at is None or labels_at.is_dir():
        return _without_repetition(pair_up(images, labels_at, where, num_channels), where)
    labels = _read_list(labels_at, source)
    if len(labels) != len(images):
        raise DatasetError(f"{where}: {images_at} has {len(images)} volumes, {labels_at} lists {len(labels)} labels")
    return _without_repetition([VolumePair(image, label) for image, label in zip(images, labels, strict=True)], where)


def pair_up(images: Sequence[Path], labels_at: Path | None, where: str, num_channels: int = 0) -> list[VolumePair]:
    """Each volume, of several channels the first, with the file of its name in the folder ``labels_at``, without labels
    where that is None. ``num_channels``: how many are known to be there, 0 where that is not known.

    Raises:
        DatasetError: there are no volumes, one has no labels, or several files have one name.
    """
    if not images:
        raise DatasetError(f"{where}: there are no volumes; their names end in {', '.join(VOLUME_SUFFIXES)}")
    if labels_at is None:
        return [VolumePair(image, None) for image in first_channels(images, None, num_channels, where)]
    _by_stem(images)
    label_of = _by_stem(list_volumes(labels_at))
    images = first_channels(images, label_of.keys(), num_channels, where)
    pairs = []
    for image in images:
        stem = volume_stem(image)
        pairs.append(VolumePair(image, label_of.get(stem) or label_of.get(stem.removesuffix(FIRST_CHANNEL))))
    missing = [pair.image for pair in pairs if pair.label is None]
    if missing:
        raise DatasetError(
            f"{where}: {len(missing)} of {len(images)} volumes have no labels; the first is {missing[0]}: "
            f"{labels_at / volume_stem(missing[0])}{{{','.join(VOLUME_SUFFIXES)}}} was expected"
        )
    return pairs


def _find_pair(item: Any, source: DataSource, where: str) -> VolumePair:
    files = _image_and_label(item)
    if files is None:
        raise DatasetError(f"{where}: expected a pair [VOLUME, LABELS], got {item!r:.200}")
    image, label = (find_existing(source.candidates(file), repr(file), where).absolute() for file in files)
    return VolumePair(image, label)


def _image_and_label(item: Any) -> tuple[str, str] | None:
    """The names in {image, label} or [image, label], None if it is neither."""
    match item:
        case {"image": str(image), "label": str(label)} | [str(image), str(label)]:
            return image, label
    return None


def _read_list(path: Path, source: DataSource) -> list[Path]:
    """The files that a list names: relative to the list, else to the data set."""
    if path.suffix != ".txt":
        raise DatasetError(f"{path}: expected a folder or a .txt list")
    files = []
    for line in read_lines(path):
        candidates = [*relative_candidates(line, path.parent), *relative_candidates(line, source.data_root())]
        files.append(find_existing(candidates, repr(line), str(path)).absolute())
    return files


def _without_repetition(pairs: list[VolumePair], where: str) -> list[VolumePair]:
    if not pairs:
        raise DatasetError(f"{where}: there are no volumes")
    images = [pair.image for pair in pairs]
    repeated = [image for image, count in Counter(images).items() if count > 1]
    if repeated:
        raise DatasetError(f"{where}: {repeated[0]} is named twice")
    return pairs


def _first_file(path: Path) -> Path:
    """``path``, or where there is no such file that of its first channel: nnU-Net's first version lists cases."""
    if path.exists():
        return path
    name = volume_stem(path)
    first = path.with_name(f"{name}{FIRST_CHANNEL}{path.name[len(name) :]}")
    return first if first.exists() else path


def _require_files(files: Sequence[Path], where: str) -> None:
    missing = [file for file in files if not volume_exists(file)]
    if missing:
        raise DatasetError(f"{where}: {len(missing)} of {len(files)} files are missing; the first is {missing[0]}")


def _by_stem(paths: Sequence[Path]) -> dict[str, Path]:
    by_stem: dict[str, Path] = {}
    for path in paths:
        other = by_stem.setdefault(volume_stem(path), path)
        if other != path:
            raise DatasetError(
                f"{path}: {other.name} has the same name; which labels belong to which volume is unclear"
            )
    return by_stem
