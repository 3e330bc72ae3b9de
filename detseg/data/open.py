"""Opening a data set in whatever layout it is."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detseg.config import load_entry
from detseg.config_files import ConfigError, parse_yaml
from detseg.data import DATASETS
from detseg.data.class_map import read_class_map
from detseg.data.colors import read_colors
from detseg.data.datasets.dataset import Dataset
from detseg.data.datasets.joined import JoinedDataset
from detseg.data.datasets.volumes import VolumeDataset
from detseg.data.entries.parsing import show
from detseg.data.format import DatasetFormat
from detseg.data.nearest import describe_nearest, is_archive
from detseg.data.source import DatasetError, DataSource, find_existing, relative_candidates
from detseg.files import read_any_text
from detseg.structures import Target

MAX_YAML_BYTES = 2**24
_YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_YAML_SUFFIXES = (".yaml", ".yml")
_BUILT_IN = ("shapes", "blobs")


def open_dataset(
    path: Path | str,
    split: str,
    format: str | None = None,
    target: Target | None = None,
    description: Path | str | None = None,
) -> Dataset | VolumeDataset:
    """One split of the data set at ``path``: a YAML, a folder in a known layout, or the word ``shapes`` or ``blobs``;
    or, for images, several as one: ``train+val``.

    ``format`` is a name of the table ``DATASETS``; without it, the layout decides. ``truth`` says what is to be
    learned from; without it, the format's first. ``description`` is the YAML of a data set: its keys, but ``path``,
    describe the folder ``path``, unless that has a YAML of its own. Relative paths start from the current folder, else
    from ``$DETSEG_DATA``. Boxes that no sample can have are left out with one warning.

    Raises:
        DatasetError: nothing is there, its layout is unknown or ambiguous, it has no such split or truth, or its files
            are bad.
    """
    source = find_source(path, description)
    format_name = find_format(source, format, target)
    require_truth(source, format_name, target)
    dataset = _open_split(load_format(format_name), source, split, target)
    dataset.class_colors = read_colors(source, dataset)
    if dataset.num_dropped:
        warnings.warn(
            f"{source.name}: {dataset.num_dropped} of the boxes of {dataset.split} are left out: degenerate or outside "
            f"their image; `detseg check {source.name}` lists them",
            stacklevel=2,
        )
    return dataset


def available_splits(path: Path | str, format: str | None = None) -> tuple[str, ...]:
    """The splits of the data set at ``path``, in the order of its format. Raises DatasetError as ``open_dataset``."""
    source = find_source(path)
    return load_format(find_format(source, format)).splits(source)


def find_source(path: Path | str, description: Path | str | None = None) -> DataSource:
    """What ``path`` names. A folder with a data.yaml or dataset.yaml is described by it, else by ``description``.

    Raises:
        DatasetError: nothing is there, or a YAML cannot be read.
    """
    if str(path) in _BUILT_IN:
        return DataSource(Path(path), {"format": str(path)})
    if "://" in str(path):
        raise DatasetError(f"{path}: is an address; download the data set, unpack it, and name its folder or YAML")
    found = find_existing(relative_candidates(str(Path(path).expanduser()), Path.cwd()), "data set", str(path))
    if found.is_dir():
        described = [found / name for name in _YAML_NAMES if (found / name).is_file()]
        if described:
            return _read_yaml(described[0])
        return DataSource(found) if description is None else _described(found, Path(description))
    if found.suffix.lower() not in _YAML_SUFFIXES:
        nearest = describe_nearest(found.parent, _formats_of) if found.suffix.lower() == ".json" else ""
        if is_archive(found):
            nearest = "unpack this archive, and name the folder that comes out of it"
        advice = f"; {nearest}" if nearest else ""
        raise DatasetError(
            f"{found}: expected a folder or a YAML, got a file with suffix {found.suffix or '(none)'}{advice}"
        )
    return _read_yaml(found)


def find_format(source: DataSource, wanted: str | None = None, target: Target | None = None) -> str:
    """The name of the format of ``source``: ``wanted``, else what its YAML says, else the one whose layout is there.

    Of several layouts, those of formats with ``truth`` count.

    Raises:
        DatasetError: the format is unknown, contradicts the YAML, does not fit, or is not given although several fit.
    """
    stated = source.settings.get("format")
    if wanted is not None and stated is not None and wanted != stated:
        raise DatasetError(
            f"{source.name}: the format is {stated!r} there, but {wanted!r} was asked for; change either"
        )
    chosen = wanted or stated
    if chosen is None:
        fitting = [name for name in DATASETS if load_format(name).splits(source)]
        if not fitting:
            nearest = describe_nearest(source.root, _formats_of) if source.yaml_path is None else _missing_keys(source)
            advice = f"; {nearest}" if nearest else ""
            message = f"no data set in a known layout{advice}; looked for {_layouts(list(DATASETS))}"
            raise DatasetError(f"{source.name}: {message}")
        if len(fitting) > 1:
            fitting = [name for name in fitting if target in (None, *load_format(name).targets)] or fitting
        if len(fitting) > 1:
            raise DatasetError(f"{source.name}: may be {' or '.join(fitting)}; say which with --format")
        return fitting[0]
    if not isinstance(chosen, str) or chosen not in DATASETS:
        raise DatasetError(f"{source.name}: unknown format {show(chosen)}; there are {', '.join(DATASETS)}")
    if not load_format(chosen).splits(source):
        raise DatasetError(f"{source.name}: no {chosen} data set; looked for {_layouts([chosen])}")
    return chosen


def _missing_keys(source: DataSource) -> str:
    """What a YAML lacks that names splits as Ultralytics does."""
    if "names" in source.settings or not any(isinstance(source.settings.get(key), str) for key in ("train", "val")):
        return ""
    count = source.settings.get("nc")
    names = ", ".join(f"NAME_{label}" for label in range(count if isinstance(count, int) and 0 < count < 10 else 2))
    return f"there are no `names:`, which say what the classes are called: add `names: [{names}]`"


def _formats_of(folder: Path) -> list[str]:
    """The formats whose layout ``folder`` has; none where what describes it cannot be read."""
    try:
        source = find_source(folder)
        return [name for name in DATASETS if load_format(name).splits(source)]
    except DatasetError:
        return []


def load_format(name: str) -> DatasetFormat:
    """The format called ``name`` in the table, imported when first used."""
    made: DatasetFormat = load_entry(DATASETS, name)()
    return made


def _open_split(
    reader: DatasetFormat, source: DataSource, split: str, target: Target | None
) -> Dataset | VolumeDataset:
    """The split, or what splits with a + between them hold together."""
    if "+" not in split or split in reader.splits(source):
        return reader.open(source, split, target)
    parts: list[Dataset] = []
    for name in split.split("+"):
        part = reader.open(source, name.strip(), target)
        if not isinstance(part, Dataset):
            raise DatasetError(
                f"{source.name}: splits of volumes cannot be joined as {split!r}; a data set with a split has the "
                "split all, and a YAML may name others"
            )
        parts.append(part)
    return JoinedDataset(parts)


def require_truth(source: DataSource, format_name: str, target: Target | None) -> None:
    """Raise DatasetError unless data sets of this format have ``truth``, if one is asked for."""
    if target in (None, *load_format(format_name).targets):
        return
    fitting = [name for name in DATASETS if target in load_format(name).targets]
    task = {"boxes": "detection", "instances": "instance", "masks": "semantic", "volumes": "volume"}[str(target)]
    raise DatasetError(
        f"{source.name}: format {format_name} has {' and '.join(load_format(format_name).targets)}; {target} were "
        f"asked "
        f"for (task {task}): use a data set of format {', '.join(fitting[:-1])} or {fitting[-1]}"
    )


def _described(folder: Path, description: Path) -> DataSource:
    """The folder with the settings of a YAML that lies elsewhere."""
    folder, described = folder.absolute(), _read_yaml(description)
    return DataSource(folder, {**described.settings, "path": str(folder)}, description, described.class_map)


def _layouts(names: list[str]) -> str:
    return "".join(f"\n  {name}: {layout}" for name in names for layout in load_format(name).layouts)


def _read_yaml(path: Path) -> DataSource:
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise DatasetError(f"{path}: more than {MAX_YAML_BYTES:,} bytes, no description of a data set")
        settings: Any = parse_yaml(read_any_text(path), str(path))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        problem = f"not {error.encoding.upper()}, {error.reason} at byte {error.start}; save it as UTF-8"
        raise DatasetError(f"{path}: no valid YAML: {problem}") from error
    except RecursionError as error:
        raise DatasetError(f"{path}: no valid YAML: {error}") from error
    except ConfigError as error:
        raise DatasetError(str(error)) from error
    if not isinstance(settings, Mapping):
        raise DatasetError(f"{path}: expected keys such as format, path, train, val and names, got {show(settings)}")
    # Meant for all formats alike, so none of them has to know the key.
    class_map = read_class_map(settings["classes"], str(path)) if "classes" in settings else {}
    own = {key: value for key, value in settings.items() if key != "classes"}
    return DataSource(path.absolute().parent, own, path, class_map)
