"""Takes the parts of a pickle from its bytes, never more than are there or than the limits allow."""

from __future__ import annotations

import struct
from typing import NoReturn

from detseg.foreign.limits import Limits, RefusedError

MAX_NAME_LENGTH = 1000
"""Characters in the name of a module, class or function."""


class ByteCursor:
    """A place in ``data``, where one pickle begins; ``position`` moves behind what is taken. All raise RefusedError."""

    def __init__(self, data: bytes, position: int, limits: Limits) -> None:
        self.position = position
        self._data = data
        self._start = position
        self._end = min(len(data), position + limits.max_pickle_bytes)
        self._limits = limits

    def refuse(self, problem: str) -> NoReturn:
        """Raise RefusedError for ``problem``, which was found just before the position."""
        raise RefusedError(f"byte {self.position - self._start:,} of the pickle: {problem}")

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        end = self.position + count
        if end > self._end:
            self.refuse(f"{count:,} more bytes are claimed, {self._end - self.position:,} are there or allowed")
        taken = self._data[self.position : end]
        self.position = end
        return taken

    def unsigned(self, num_bytes: int) -> int:
        """An unsigned little-endian integer."""
        return int.from_bytes(self.take(num_bytes), "little")

    def signed(self, num_bytes: int) -> int:
        """A signed little-endian integer."""
        if num_bytes > self._limits.max_integer_bytes:
            self.refuse(f"an integer of {num_bytes:,} bytes, allowed are {self._limits.max_integer_bytes}")
        return int.from_bytes(self.take(num_bytes), "little", signed=True)

    def double(self) -> float:
        """A big-endian float64, the one number that pickles hold so."""
        return float(struct.unpack(">d", self.take(8))[0])

    def string(self, length_bytes: int) -> bytes:
        """Bytes behind their number, an integer of ``length_bytes``."""
        length = self.unsigned(length_bytes)
        if length > self._limits.max_string_bytes:
            self.refuse(f"a string of {length:,} bytes, allowed are {self._limits.max_string_bytes:,}")
        return self.take(length)

    def text(self, length_bytes: int) -> str:
        """UTF-8 behind the number of its bytes."""
        return self._decode(self.string(length_bytes))

    def line(self) -> str:
        """UTF-8 up to the end of a line, as names are written."""
        end = self._data.find(b"\n", self.position, min(self._end, self.position + MAX_NAME_LENGTH + 1))
        if end < 0:
            self.refuse(f"a name that does not end within {MAX_NAME_LENGTH} bytes")
        return self._decode(self.take(end + 1 - self.position)[:-1])

    def skip_frame(self) -> None:
        """The head of a frame, which only says how many bytes could be read at once."""
        length = self.unsigned(8)
        if length > self._end - self.position:
            self.refuse(f"a frame of {length:,} bytes, {self._end - self.position:,} are left")

    def _decode(self, text: bytes) -> str:
        try:
            return text.decode()
        except UnicodeDecodeError:
            self.refuse("text that is not UTF-8")
