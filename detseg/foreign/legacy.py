"""The form of ``torch.save`` before 1.6: pickles of a magic number, a version, the system, the content and the keys of
the storages, then each storage behind the number of its elements."""

from __future__ import annotations

from detseg.foreign.constructors import Constructors
from detseg.foreign.limits import Limits, RefusedError, brief
from detseg.foreign.pickle_machine import read_pickle
from detseg.foreign.tensors import ReadStorage, Tensors

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_COUNT_BYTES = 8


def read_legacy(data: bytes, limits: Limits) -> object:
    """The content of a file in the older form. Raises RefusedError: it is damaged or is no such file."""
    if data[257:262] == b"ustar":
        raise RefusedError("the tar form of torch.save before 0.2; load it with that version, and save it again")
    position = _read_head(data, limits)
    # How long the storages are follows from their types, which stand in the pickle before them: it is read twice, the
    # first time over zeros.
    claims = _Claims(len(data))
    _, end = _read_pickle(data, position, claims.zeros, limits)
    storages = _find_storages(data, end, claims.storages, limits)
    content, _ = _read_pickle(data, position, lambda key, num_elements, item_size: storages[key], limits)
    return content


class _Claims:
    """Remembers the number of elements, and the size of one, of each storage that is asked for."""

    def __init__(self, num_bytes_left: int) -> None:
        self.storages: dict[str, tuple[int, int]] = {}
        self._num_bytes_left = num_bytes_left

    def zeros(self, key: str, num_elements: int, item_size: int) -> memoryview:
        self.storages[key] = num_elements, item_size
        self._num_bytes_left -= num_elements * item_size
        if self._num_bytes_left < 0:
            raise RefusedError("its storages would be larger than the file: truncated?")
        return memoryview(bytes(num_elements * item_size))


def _no_storage(key: str, num_elements: int, item_size: int) -> memoryview:
    raise RefusedError("a storage outside the content")


def _read_pickle(data: bytes, position: int, read_storage: ReadStorage, limits: Limits) -> tuple[object, int]:
    return read_pickle(data, Constructors(Tensors(read_storage, "little", len(data), limits)), limits, position)


def _read_head(data: bytes, limits: Limits) -> int:
    """Check what stands before the content, and say where that begins."""
    try:
        magic_number, position = _read_pickle(data, 0, _no_storage, limits)
    except RefusedError as refusal:
        raise RefusedError(f"no file of torch.save: it begins with {data[:16]!r}") from refusal
    if magic_number != _MAGIC_NUMBER:
        raise RefusedError(f"a pickle, but not of torch.save: its magic number is {brief(magic_number)}")
    version, position = _read_pickle(data, position, _no_storage, limits)
    if version != _VERSION:
        raise RefusedError(f"version {brief(version)} of the form before 1.6, expected {_VERSION}")
    system, position = _read_pickle(data, position, _no_storage, limits)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise RefusedError("a file of a big-endian machine; load it there, and save it in the form since 1.6")
    return position


def _find_storages(
    data: bytes, position: int, claims: dict[str, tuple[int, int]], limits: Limits
) -> dict[str, memoryview]:
    """The bytes of each storage; ``claims`` has the number of elements and the size of one."""
    keys, position = _read_pickle(data, position, _no_storage, limits)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(claims):
        raise RefusedError("its list of storages is not that of those in use")
    if len(keys) != len(claims):
        raise RefusedError("its list of storages names one twice")
    storages: dict[str, memoryview] = {}
    view = memoryview(data)
    for key in keys:
        claimed, item_size = claims[key]
        num_elements = int.from_bytes(data[position : position + _COUNT_BYTES], "little")
        if num_elements != claimed:
            raise RefusedError(
                f"storage {brief(key)} has {num_elements:,} elements, {claimed:,} are claimed: truncated?"
            )
        position += _COUNT_BYTES
        storages[key] = view[position : position + claimed * item_size]
        position += claimed * item_size
    if position != len(data):
        raise RefusedError(f"its storages end at byte {position:,}, the file at {len(data):,}: truncated?")
    return storages
