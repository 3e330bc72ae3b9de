"""The dataset.json beside volumes, of the Decathlon or of nnU-Net."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detseg.data.source import DatasetError
from detseg.files import read_text

DESCRIPTION_NAME = "dataset.json"
MAX_DESCRIPTION_BYTES = 2**26


def read_description(root: Path) -> Mapping[str, Any]:
    """What dataset.json in ``root`` says; nothing where there is none.

    Raises:
        DatasetError: it cannot be read.
    """
    path = root / DESCRIPTION_NAME
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
