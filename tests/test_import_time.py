"""Nobody waits for torch to read a help text."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

LIMIT_SECONDS = 0.5
"""Of the processor, not of the clock: a machine that is busy with other things changes little."""


def seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    "arguments", [["-c", "import detseg"], ["-c", "import detseg.config"], ["-m", "detseg", "--help"]], ids=" ".join
)
def test_start_is_quick(arguments: list[str]) -> None:
    seconds = []
    for _ in range(5):
        start = seconds_of_children()
        result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
        seconds.append(seconds_of_children() - start)
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
