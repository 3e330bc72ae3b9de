from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from detseg.runtime.commands.window import WindowWriter
from detseg.runtime.sources.frames import Frame, StreamInfo
from detseg.runtime.stop import StopSignals

tkinter = pytest.importorskip("tkinter")
needs_display = pytest.mark.skipif(not os.environ.get("DISPLAY"), reason="there is no display")
IMAGE = np.zeros((48, 64, 3), np.uint8)
FILM = StreamInfo(10, 64, 48)


def test_without_a_display_the_message_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="--show: there is no display"):
        WindowWriter(lambda frame, result: frame.pixels, StopSignals())
    monkeypatch.setenv("DISPLAY", ":987654")
    with pytest.raises(ValueError, match="--show: no window can be opened"):
        WindowWriter(lambda frame, result: frame.pixels, StopSignals())


@needs_display
def test_videos_run_and_images_wait_for_a_key() -> None:
    stop = StopSignals()
    with WindowWriter(lambda frame, result: frame.pixels, stop) as window:
        for index in range(3):
            window.write(Frame(IMAGE, "footage.mp4", None, index, index / 10, FILM), None)
        assert window._root.title() == "footage.mp4, frame 2"
        window._root.after(50, lambda: window._root.event_generate("<Key-space>", when="tail"))
        window._root.focus_force()
        window.write(Frame(IMAGE, "a.png"), None)
        assert window._root.title() == "a.png"
        assert not stop.requested.is_set()
        window._root.after(50, lambda: window._root.event_generate("<Key-q>", when="tail"))
        window.write(Frame(IMAGE, "b.png"), None)
    assert stop.requested.is_set()
    assert stop.exit_code == 130


@needs_display
def test_a_window_fits_the_screen(tmp_path: Path) -> None:
    with WindowWriter(lambda frame, result: np.zeros((3000, 9000, 3), np.uint8), StopSignals()) as window:
        window.write(Frame(IMAGE, "footage.mp4", None, 0, 0.0, FILM), None)
        assert window._shown.width() <= window._root.winfo_screenwidth()
        assert window._shown.width() == pytest.approx(3 * window._shown.height(), rel=0.02)
