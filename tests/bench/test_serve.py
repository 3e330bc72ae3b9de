from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from detseg.runtime.media.images import write_image

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_load_gives_no_error(tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / "in" / f"{number}.png", np.full((60, 80 + number, 3), 90, np.uint8))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, str(REPOSITORY / "bench" / "serve.py"), "--images", str(tmp_path / "in")]
    command += ["--model", str(REPOSITORY / "weights" / "detseg_n_shapes.safetensors"), "--port", str(port)]
    process = subprocess.run([*command, "--requests", "60", "--at-a-time", "6"], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    first, _, header, _, row = process.stdout.splitlines()
    assert first.endswith("60 requests, 6 at a time")
    figures = dict(zip(header.split(" | ")[1:], row.split(" | ")[1:], strict=True))
    assert figures["errors"] == "0"
    assert float(figures["images/s"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_no_process_is_left_behind(tmp_path: Path, how: signal.Signals) -> None:
    """Whenever the measurement is ended."""
    write_image(tmp_path / "in" / "a.png", np.full((60, 80, 3), 90, np.uint8))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, str(REPOSITORY / "bench" / "serve.py"), "--images", str(tmp_path / "in")]
    command += ["--model", str(REPOSITORY / "weights" / "detseg_n_shapes.safetensors"), "--port", str(port)]

    # Programs in the background of a shell begin with SIGINT ignored.
    def as_usual() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen([*command, "--requests", "1000000"], stderr=subprocess.DEVNULL, preexec_fn=as_usual)
    try:
        end = time.monotonic() + 120
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert time.monotonic() < end
            time.sleep(0.1)
        process.send_signal(how)
        process.wait(60)
    finally:
        process.kill()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)
