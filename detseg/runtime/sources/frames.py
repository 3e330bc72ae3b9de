"""Images with where they come from: what sources give and writers take."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from detseg.arrays import ByteArray
from detseg.runtime.volumes.volume_files import is_volume_path, volume_stem
from detseg.volumes import Volume


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """A video: frames per second, as its time stamps show them, size in pixels, and how many frames there will be, by
    what its header claims (None for what has no end). ``live``: it goes on while nobody reads, as a camera does.
    ``pixel_aspect``: how wide a pixel is shown for its height."""

    fps: float
    width: int
    height: int
    num_expected: int | None = None
    live: bool = False
    pixel_aspect: Fraction = Fraction(1)


@dataclass(frozen=True, slots=True)
class Frame:
    """An ``image``, ``[H, W, 3]`` uint8 RGB, or a volume.

    ``source``: the file, address or camera it comes from, as the user named it, or "" for an array; ``path``: the file;
    of a video also ``index``, its number from 0 in the order of decoding, ``time_s``, its time stamp in seconds, and
    the ``stream``; of a live one ``num_overtaken``, how many frames it has overtaken since the last one that was used.
    ``read_s``: how many seconds it took to read it. ``case``: what a volume is called where that is not the name of its
    file.
    """

    image: ByteArray | Volume
    source: str = ""
    path: Path | None = None
    index: int | None = None
    time_s: float | None = None
    stream: StreamInfo | None = None
    read_s: float = field(default=0.0, compare=False)
    num_overtaken: int = 0
    case: str = ""

    @property
    def is_live(self) -> bool:
        """Whether it shall be used now, or the next one in its place."""
        return self.stream is not None and self.stream.live

    @property
    def num_pixels(self) -> int:
        """As how many pixels of an image it lies in memory, also where it is a volume."""
        return (self.image.voxels if isinstance(self.image, Volume) else self.image).nbytes // 3

    @property
    def pixels(self) -> ByteArray:
        """The image, where it is no volume."""
        assert isinstance(self.image, np.ndarray)
        return self.image

    @property
    def volume(self) -> Volume:
        """The image, where it is a volume."""
        assert isinstance(self.image, Volume)
        return self.image

    @property
    def stem(self) -> str:
        """The name of its source without the suffix: of the file, of the address, of the camera; or of its case."""
        if self.case:
            return self.case
        path = Path(self.source)
        return volume_stem(path) if is_volume_path(path) else path.stem

    @property
    def name(self) -> str:
        """A name for files about this image: the stem of its source, of a frame of a video with the number."""
        return self.stem if self.index is None else f"{self.stem}_{self.index:06d}"

    def follows(self, last: Frame) -> bool:
        """Whether this is a later frame of the same video as ``last``. Still images in a row are one video. Where a
        video is read once more, its numbers begin anew."""
        if self.index is None or last.index is None:
            return self.index is last.index
        return self.source == last.source and self.index > last.index
