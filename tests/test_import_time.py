"""Nobody waits for torch to read a help text."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

LIMIT_SECONDS = 0.5


@pytest.mark.parametrize(
    "arguments", [["-c", "import detseg"], ["-c", "import detseg.config"], ["-m", "detseg", "--help"]], ids=" ".join
)
def test_start_is_quick(arguments: list[str]) -> None:
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
        seconds.append(time.perf_counter() - start)
        assert result.returncode == 0, result.stderr
    assert min(seconds) < LIMIT_SECONDS


def test_help_does_without_torch() -> None:
    code = "import runpy, sys; sys.argv = ['detseg', '--help']; runpy.run_module('detseg', run_name='__main__')"
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "usage: detseg" in result.stdout
    loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "argparse" in loaded, "the list of imports was not understood"
    assert not loaded & {"torch", "cv2", "numpy.linalg", "albumentations", "onnxruntime"}
