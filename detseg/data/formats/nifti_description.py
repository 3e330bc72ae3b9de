"""The dataset.json beside volumes, of the Decathlon or of nnU-Net, and lists of cases as MONAI has them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from detseg.data.source import DatasetError, DataSource, find_existing
from detseg.files import read_text
from detseg.runtime.volumes.volume_files import volume_stem

DESCRIPTION_NAME = "dataset.json"
LIST_KEY = "datalist"
MAX_DESCRIPTION_BYTES = 2**26


def list_file(source: DataSource) -> Path:
    """The JSON that may list cases: what ``datalist`` in the YAML names, else dataset.json, which need not be there.

    Raises:
        DatasetError: there is no such file as is named.
    """
    named = source.settings.get(LIST_KEY)
    if named is None:
        return source.data_root().absolute() / DESCRIPTION_NAME
    return find_existing(source.candidates(str(named)), "list of cases", f"{source.name}: {LIST_KEY}").absolute()


def case_keys(files: Sequence[PurePath], root: Path) -> list[str]:
    """What tells cases apart: the names of their ``files``, which lie in ``root``, without suffix, or where several
    have one, such as case_1/image.nii.gz and case_2/image.nii.gz, with their folders."""
    # The names of folders with a DICOM series have no suffix, whatever is in them.
    stems = [volume_stem(root / file) for file in files]
    if len(set(stems)) == len(stems):
        return stems
    return [str(PurePosixPath(*file.parent.parts, stem)) for file, stem in zip(files, stems, strict=True)]


def read_description(root: Path, name: str = DESCRIPTION_NAME) -> Mapping[str, Any]:
    """What dataset.json, or the file ``name``, in ``root`` says; nothing where there is none.

    Raises:
        DatasetError: it cannot be read.
    """
    path = root / name
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_DESCRIPTION_BYTES:
        raise DatasetError(f"{path}: more than {MAX_DESCRIPTION_BYTES:,} bytes, no description of a data set")
    try:
        description: Any = json.loads(read_text(path, "utf-8-sig"))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: no valid JSON: {error}") from error
    if not isinstance(description, Mapping):
        raise DatasetError(f"{path}: expected an object with labels and training, got {description!r:.100}")
    return description
