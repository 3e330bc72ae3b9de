"""The page for browsers, in a real one without a window, which is told what to do over a pair of pipes."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.server.conftest import Client, Serve, some_image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here"),
]


class Browser:
    """Chromium with one page, by its DevTools protocol: messages in JSON, each ended by a zero byte."""

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM is not None
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()

        def take_pipes() -> None:
            os.dup2(to_browser, 103)
            os.dup2(from_browser, 104)
            os.dup2(103, 3)
            os.dup2(104, 4)

        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--window-size=1100,800"]
        self._process = subprocess.Popen(
            [CHROMIUM, *words, f"--user-data-dir={folder}", "about:blank"],
            preexec_fn=take_pipes,
            close_fds=False,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._number, self._waiting = 0, b""
        self.events: list[dict[str, Any]] = []
        self._session = ""
        target = self.do("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.do(f"{domain}.enable")

    def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command, and its answer; events on the way are kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def value(self, expression: str) -> Any:
        """What JavaScript makes of ``expression``."""
        found = self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until ``expression`` is true."""
        end = time.monotonic() + 60
        while not self.value(expression):
            assert time.monotonic() < end, (expression, self.value("document.body.innerText"))
            time.sleep(0.05)

    def choose(self, *files: Path) -> None:
        """As the user does in the dialog for files."""
        node = self.do("Runtime.evaluate", expression="document.getElementById('file')")["result"]["objectId"]
        self.do("DOM.setFileInputFiles", files=list(map(str, files)), objectId=node)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.do("Page.captureScreenshot", format="png")["data"]))

    def faults(self) -> list[str]:
        """What the console has, and what was asked of other hosts."""
        self.value("1")
        told = []
        for event in self.events:
            if event["method"] == "Runtime.exceptionThrown":
                told.append(event["params"]["exceptionDetails"]["text"])
            if event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                told.append(event["params"]["entry"]["text"] + " " + event["params"]["entry"].get("url", ""))
            if event["method"] == "Network.requestWillBeSent":
                url = event["params"]["request"]["url"]
                if not url.startswith(("http://127.0.0.1:", "blob:http://127.0.0.1:", "data:", "about:")):
                    told.append(url)
        return told

    def close(self) -> None:
        self._session = ""
        self.do("Browser.close")
        self._process.wait(30)
        os.close(self._in)
        os.close(self._out)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._waiting:
            block = os.read(self._in, 1 << 16)
            assert block, "the browser ended"
            self._waiting += block
        text, _, self._waiting = self._waiting.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    opened = Browser(tmp_path / "profile")
    yield opened
    opened.close()


ROWS = "[...document.querySelectorAll('#found tbody tr')].map((row) => row.innerText.replace(/\\s+/g, ' ').trim())"
DRAWN = "document.getElementById('canvas').toDataURL()"


def move_threshold(browser: Browser, to: float) -> None:
    browser.value(
        f"var slider = document.getElementById('threshold'); slider.value = {to};"
        "slider.dispatchEvent(new Event('input')); null"
    )


def open_page(browser: Browser, client: Client) -> None:
    browser.do("Page.navigate", url=f"http://127.0.0.1:{client.port}/")
    browser.wait("document.readyState === 'complete' && document.getElementById('model').innerText !== '…'")


def test_an_image_and_the_threshold(serve: Serve, browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(some_image())
    with serve() as client:
        open_page(browser, client)
        assert browser.value("document.getElementById('model').innerText") == "detection, 2 classes: left, right"
        browser.choose(tmp_path / "a.png")
        browser.wait(f"{ROWS}.length === 2")
        assert browser.value(ROWS) == ["left 1", "right 1"]
        both = browser.value(DRAWN)
        asked = len(client.runner.batch_sizes)
        move_threshold(browser, 0.5)
        assert browser.value(ROWS) == ["left 1"]
        one = browser.value(DRAWN)
        move_threshold(browser, 0.95)
        assert browser.value(ROWS) == []
        assert len({both, one, browser.value(DRAWN)}) == 3
        move_threshold(browser, 0.25)
        assert (browser.value(ROWS), browser.value(DRAWN)) == (["left 1", "right 1"], both)
        assert len(client.runner.batch_sizes) == asked, "the server is not asked again"
        (tmp_path / "b.txt").write_text("no image")
        browser.choose(tmp_path / "b.txt")
        browser.wait("document.getElementById('status').className === 'fault'")
        assert browser.faults() == []


def test_a_short_video_goes_frame_by_frame(serve: Serve, browser: Browser, tmp_path: Path) -> None:
    video = cv2.VideoWriter(str(tmp_path / "a.webm"), cv2.VideoWriter.fourcc(*"VP80"), 10, (64, 48))
    assert video.isOpened()
    for row in range(6):
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[row : row + 16, 16:32, 1] = 255
        video.write(frame)
    video.release()
    with serve() as client:
        open_page(browser, client)
        browser.choose(tmp_path / "a.webm")
        browser.wait("document.getElementById('status').innerText.startsWith('0.5 of 0.6 s')")
        assert sum(client.runner.batch_sizes) >= 1 + 6
        assert browser.value(ROWS) == ["left 1", "right 1"]
        assert browser.faults() == []


def test_the_page_asks_for_the_token(serve: Serve, browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(some_image())
    with serve(token="secret") as client:
        browser.do("Page.navigate", url=f"http://127.0.0.1:{client.port}/")
        browser.wait("document.getElementById('door') && !document.getElementById('door').hidden")
        assert browser.value("document.getElementById('desk').hidden")
        browser.value("document.getElementById('token').value = 'secret'; null")
        browser.value("document.getElementById('door').requestSubmit(); null")
        browser.wait("!document.getElementById('desk').hidden")
        browser.choose(tmp_path / "a.png")
        browser.wait(f"{ROWS}.length === 2")
