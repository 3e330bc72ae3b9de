"""A window that shows results as they come, by Tk, which comes with Python."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from detseg.arrays import ByteArray
from detseg.runtime.sources.frames import Frame
from detseg.runtime.stop import StopSignals
from detseg.runtime.writers.base import Draw, WholeFiles

if TYPE_CHECKING:
    import tkinter

_SHARE_OF_SCREEN = 0.8
_LOOK_S = 0.02
"""How often an image that waits for a key is looked after."""


class WindowWriter(WholeFiles):
    """Shows every image with its result, as ``draw`` makes it, no larger than the screen. A still image waits for a
    key, videos run. Where the window is closed, or q or Escape pressed, the run is asked to ``stop``. All of it is to
    happen in one thread, the main one.

    Raises:
        ValueError: there is no display, or Python has no Tk.
    """

    def __init__(self, draw: Draw, stop: StopSignals) -> None:
        self._draw = draw
        self._stop = stop
        self._root = _open_window()
        self._root.protocol("WM_DELETE_WINDOW", stop.request)
        self._was_pressed = False
        self._root.bind("<Key>", self._press)
        self._label = _label(self._root)
        self._shown: Any = None

    def write(self, frame: Frame, result: Any) -> None:
        """Show one image."""
        if self._stop.requested.is_set():
            return
        import tkinter

        image = self._fitted(self._draw(frame, result))
        # Tk reads PPM without any other package.
        header = f"P6 {image.shape[1]} {image.shape[0]} 255 ".encode()
        self._shown = tkinter.PhotoImage(master=self._root, data=header + image.tobytes(), format="PPM")
        self._label.configure(image=self._shown)
        self._root.title(frame.source if frame.index is None else f"{frame.source}, frame {frame.index}")
        self._was_pressed = frame.stream is not None
        self._root.update()
        while not self._was_pressed and not self._stop.requested.is_set():
            time.sleep(_LOOK_S)
            self._root.update()

    def __exit__(self, *_: object) -> None:
        self._root.destroy()

    def _press(self, event: Any) -> None:
        self._was_pressed = True
        if event.keysym in ("q", "Escape"):
            self._stop.request()

    def _fitted(self, image: ByteArray) -> ByteArray:
        room = (self._root.winfo_screenwidth(), self._root.winfo_screenheight())
        scale = min(_SHARE_OF_SCREEN * side / length for side, length in zip(room, image.shape[1::-1], strict=True))
        if scale < 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(
                np.uint8, copy=False
            )
        return np.ascontiguousarray(image)


def _open_window() -> tkinter.Tk:
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise ValueError("--show: there is no display (DISPLAY is not set); leave it out, and look at the files")
    try:
        import tkinter
    except ModuleNotFoundError as error:
        raise ValueError(
            "--show: this Python has no Tk, which makes the window; install it (Debian: python3-tk), or leave it out"
        ) from error
    try:
        return tkinter.Tk(className="detseg")
    except tkinter.TclError as error:
        raise ValueError(f"--show: no window can be opened: {error}; leave it out, and look at the files") from error


def _label(root: tkinter.Tk) -> tkinter.Label:
    import tkinter

    label = tkinter.Label(root)
    label.pack()
    return label
