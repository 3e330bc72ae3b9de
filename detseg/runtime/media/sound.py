"""The sound of a video, added to a video of its images, by PyAV, the extra ``video``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, Self

_COPIED = frozenset({"aac", "ac3", "alac", "eac3", "mp3"})
"""Codecs of sound that an MP4 holds as they are; any other becomes AAC."""
_GAP_S = 0.1
"""A break in the sound; less is how badly some containers tell the time."""
_AAC_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)

Heard = tuple[float, Any]
"""When a packet of sound is to be heard, in seconds from the first image on, and the packet."""


class SoundError(Exception):
    """The sound cannot be carried over."""


def has_sound(source: str) -> bool:
    """Whether the file ``source`` has sound, of whatever kind; not where it cannot be opened."""
    import av

    try:
        with av.open(source) as heard:
            return bool(heard.streams.audio)
    except av.FFmpegError:
        return False


def add_sound(video: str, source: str, target: str, start_s: float, end_s: float) -> str | None:
    """Write to the file ``target``, an MP4, the images of ``video`` and what is heard in ``source`` from its image
    at ``start_s`` until ``end_s`` seconds after it; returns why the sound ends before, if it does.

    Raises:
        SoundError: it cannot be done; ``target`` holds nothing of use.
    """
    import av

    failure: Exception | None = None
    for packets in (_copied, _encoded):
        try:
            return _join(video, source, target, start_s, end_s, packets)
        # A decoder may give what an encoder cannot take: then ValueError.
        except (av.FFmpegError, ValueError) as error:
            failure = error
    raise SoundError(failure.strerror if isinstance(failure, av.FFmpegError) else str(failure)) from failure


def _join(
    video: str, source: str, target: str, start_s: float, end_s: float, packets: Callable[..., Iterator[Heard]]
) -> str | None:
    import av

    with av.open(video) as images, av.open(source) as heard, av.open(target, "w", format="mp4") as whole:
        seen = images.streams.video[0]
        shown = whole.add_stream_from_template(seen)
        known = [stream for stream in heard.streams.audio if stream.codec_context is not None]
        if not known:
            raise SoundError("of an unknown codec")
        if not heard.streams.video:
            raise SoundError("there are no images beside it that would tell its time")
        sound = _Rising(packets(known[0], heard, whole, _origin_s(heard, start_s)))
        next_heard = next(sound, None)
        for packet in images.demux(seen):
            if packet.dts is None:
                continue
            while next_heard is not None and next_heard[0] < min(float(packet.dts * packet.time_base), end_s):
                whole.mux(next_heard[1])
                next_heard = next(sound, None)
            packet.stream = shown
            whole.mux(packet)
        while next_heard is not None and next_heard[0] < end_s:
            whole.mux(next_heard[1])
            next_heard = next(sound, None)
    return sound.problem


class _Rising:
    """``packets`` as far as they can be read and their times rise; ``problem`` says if that was not to their end."""

    def __init__(self, packets: Iterator[Heard]) -> None:
        self._packets = packets
        self._last_s = 0.0
        self.problem: str | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Heard:
        import av

        try:
            time_s, packet = next(self._packets)
        except av.FFmpegError as error:
            self.problem = f"the sound ends at {self._last_s:.1f} s: {error.strerror}"
            raise StopIteration from error
        if time_s < self._last_s - _GAP_S:
            self.problem = f"the sound ends at {self._last_s:.1f} s: its times go back there"
            raise StopIteration
        self._last_s = time_s
        return time_s, packet


def _copied(sound: Any, source: Any, whole: Any, origin_s: Fraction) -> Iterator[Heard]:
    """The packets of the sound as they are."""
    codec = sound.codec_context.codec.canonical_name
    if codec not in _COPIED:
        raise ValueError(f"{codec} is not copied")
    stream = whole.add_stream_from_template(sound)
    shift = round(origin_s / sound.time_base)
    for packet in source.demux(sound):
        if packet.dts is None:
            continue
        packet.dts -= shift
        packet.pts = packet.dts if packet.pts is None else packet.pts - shift
        if packet.pts >= 0:
            packet.stream = stream
            yield float(packet.pts * packet.time_base), packet


def _encoded(sound: Any, source: Any, whole: Any, origin_s: Fraction) -> Iterator[Heard]:
    """The packets of the sound as AAC, mono or stereo."""
    import av

    rate = next((rate for rate in _AAC_RATES if rate >= sound.rate), _AAC_RATES[-1])
    stream = whole.add_stream("aac", rate=rate)
    stream.layout = "mono" if sound.layout.nb_channels == 1 else "stereo"
    resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
    position = None
    for frame in source.decode(sound):
        if frame.time is None or frame.time < origin_s:
            continue
        time_s = frame.time - float(origin_s)
        # Samples are counted, for the clocks of some containers are coarser than they are.
        if position is None or time_s - position / rate > _GAP_S:
            position = round(time_s * rate)
        for piece in resampler.resample(frame):
            piece.pts, piece.time_base = position, Fraction(1, rate)
            position += piece.samples
            yield time_s, stream.encode(piece)
    if position is not None:
        for piece in resampler.resample(None):
            piece.pts, piece.time_base = position, Fraction(1, rate)
            position += piece.samples
            yield position / rate, stream.encode(piece)
        yield position / rate, stream.encode(None)


def _origin_s(source: Any, start_s: float) -> Fraction:
    """Where the first image stands on the clock of the source."""
    video = source.streams.video[0]
    return Fraction((video.start_time or 0) * video.time_base + Fraction(start_s))
