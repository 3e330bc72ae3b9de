"""The sound of a video, added to a film of its pictures, by PyAV, the extra ``video``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from detseg.files import printable

_COPIED = frozenset({"aac", "ac3", "alac", "eac3", "mp3"})
"""Codecs of sound that an MP4 holds as they are; any other becomes AAC."""
_AAC_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)

Heard = tuple[float, Any]
"""When a packet of sound is to be heard, in seconds from the first picture on, and the packet."""


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


def add_sound(film: str, source: str, target: str, start_s: float, end_s: float) -> None:
    """Write to the file ``target``, an MP4, the pictures of ``film`` and what is heard in ``source`` from its picture
    at ``start_s`` until ``end_s`` seconds after it.

    Raises:
        SoundError: it cannot be done; ``target`` holds nothing of use.
    """
    import av

    failure: Exception | None = None
    for packets in (_copied, _encoded):
        try:
            return _join(film, source, target, start_s, end_s, packets)
        # A decoder may give what an encoder cannot take: then ValueError.
        except (av.FFmpegError, ValueError) as error:
            failure = error
    raise SoundError(str(failure)) from failure


def _join(
    film: str, source: str, target: str, start_s: float, end_s: float, packets: Callable[..., Iterator[Heard]]
) -> None:
    import av

    with av.open(film) as pictures, av.open(source) as heard, av.open(target, "w", format="mp4") as whole:
        seen = pictures.streams.video[0]
        shown = whole.add_stream_from_template(seen)
        known = [stream for stream in heard.streams.audio if stream.codec_context is not None]
        if not known:
            raise SoundError("of an unknown codec")
        sound = _until_they_go_back(packets(known[0], heard, whole, _origin_s(heard, start_s)), source)
        next_heard = next(sound, None)
        for packet in pictures.demux(seen):
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


def _until_they_go_back(packets: Iterator[Heard], name: str) -> Iterator[Heard]:
    """``packets`` as far as they can be read and their times rise, with a warning if that is not the end."""
    import av

    last_s, problem = 0.0, None
    try:
        for time_s, packet in packets:
            if time_s < last_s:
                problem = "its times go back there"
                break
            last_s = time_s
            yield time_s, packet
    except av.FFmpegError as error:
        problem = str(error)
    if problem is not None:
        warnings.warn(f"{printable(name)}: the sound ends at {last_s:.1f} s: {problem}", stacklevel=2)


def _copied(sound: Any, source: Any, whole: Any, origin_s: Fraction) -> Iterator[Heard]:
    """The packets of the sound as they are."""
    if sound.codec_context.name not in _COPIED:
        raise ValueError(f"{sound.codec_context.name} is not copied")
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
    last_s = 0.0
    for frame in source.decode(sound):
        if frame.time is None or frame.time < origin_s:
            continue
        frame.pts -= round(origin_s / frame.time_base)
        for piece in resampler.resample(frame):
            last_s = piece.time or 0.0
            yield last_s, stream.encode(piece)
    yield last_s, stream.encode(None)


def _origin_s(source: Any, start_s: float) -> Fraction:
    """Where the first picture stands on the clock of the source."""
    video = source.streams.video[0]
    return Fraction((video.start_time or 0) * video.time_base + Fraction(start_s))
