"""``read_torch_file``: the content of a file of ``torch.save``, without torch and without running any of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from detseg.files import read_bytes
from detseg.foreign.archive import is_archive, read_archive
from detseg.foreign.legacy import read_legacy
from detseg.foreign.limits import DEFAULT_LIMITS, ForeignFileError, Limits, RefusedError
from detseg.foreign.nesting import check_nesting


@dataclass(frozen=True, slots=True)
class TorchFile:
    """A file's ``content``, and the ``sha256`` of its bytes in hexadecimal.

    The content is made of dict (also for OrderedDict and defaultdict; attributes of dictionaries are dropped), list,
    tuple, set, str, int, float, bool, bytes, None, numpy arrays for tensors and storages, `GlobalName` and `Record`.
    A ``torch.Size`` is a tuple, a ``torch.device`` a str, a numpy scalar a float, int or bool.
    """

    content: object
    sha256: str


def read_torch_file(path: Path, limits: Limits = DEFAULT_LIMITS) -> TorchFile:
    """Read a file of ``torch.save``, in the zip form (since 1.6) or the one before, as inert data.

    Nothing that the file names is imported or called. Arrays are read-only views of the bytes read; bfloat16 becomes
    float32, as numpy has no such type.

    Raises:
        ForeignFileError: the file is missing, damaged, exceeds the limits, contradicts itself, or holds what no
            checkpoint needs: opcodes that run code, compressed archives, quantized or sparse tensors, ....
    """
    try:
        data = _read_bytes(path, limits)
        content = read_archive(data, limits) if is_archive(data) else read_legacy(data, limits)
        check_nesting(content, limits)
    except RefusedError as refusal:
        raise ForeignFileError(f"{path}: {refusal}") from refusal
    return TorchFile(content, hashlib.sha256(data).hexdigest())


def _read_bytes(path: Path, limits: Limits) -> bytes:
    try:
        if not path.is_file():
            raise RefusedError("there is no such file")
        if path.stat().st_size > limits.max_file_bytes:
            raise RefusedError(f"larger than {limits.max_file_bytes:,} bytes, the limit; save the weights alone")
        return read_bytes(path)
    except OSError as error:
        raise RefusedError(f"cannot be read: {error.strerror}") from error
