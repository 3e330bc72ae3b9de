"""Videos through OpenCV, by FFmpeg and nothing else: what OpenCV takes in its place reads series of images and Motion
JPEG by its own decoders, past the limits that hold here."""

from __future__ import annotations

from typing import Any

import cv2

_WITHOUT = (
    "the OpenCV that is installed here was built without FFmpeg, which videos need; `pip install "
    "opencv-python-headless` brings one that has it"
)


class NoFFmpegError(OSError):
    """OpenCV has no FFmpeg."""


def open_capture(target: str | int) -> Any:
    """What reads the file or address ``target``, or the camera of this number; it may not be open.

    Raises:
        NoFFmpegError: it is no camera, and OpenCV has no FFmpeg.
    """
    if isinstance(target, int):
        return cv2.VideoCapture(target)
    _require_ffmpeg()
    return cv2.VideoCapture(target, cv2.CAP_FFMPEG)


def open_writer(name: str, codec: str, fps: float, size: tuple[int, int]) -> Any:
    """What writes a video of ``size`` (width, height) to the file ``name``; it may not be open.

    Raises:
        NoFFmpegError: OpenCV has no FFmpeg.
    """
    _require_ffmpeg()
    return cv2.VideoWriter(name, cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), fps, size)


def _require_ffmpeg() -> None:
    if not cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG):
        raise NoFFmpegError(_WITHOUT)
