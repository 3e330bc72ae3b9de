"""The rules of ``conftest.py`` have teeth."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def test_the_network_is_out_of_reach() -> None:
    with pytest.raises(PermissionError, match="tests use no network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(PermissionError, match="tests use no network"):
        socket.getaddrinfo("example.org", 443)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, pytest.raises(PermissionError):
        sender.connect(("192.0.2.1", 53))


def test_loopback_works() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
        socket.create_connection(("localhost", server.getsockname()[1]), timeout=5).close()


TESTS = """
import os
import pytest

def test_data(detseg_data):
    assert detseg_data.is_dir()

@pytest.mark.skipif("not os.environ.get('SOME_DATA')", reason="needs DETSEG_DATA")
def test_marked():
    pass

@pytest.mark.skip(reason="another matter")
def test_other():
    pass
"""


@pytest.mark.parametrize(
    ("data", "files", "code", "words"),
    [
        (None, ["test_sample.py"], 0, ["3 skipped", "DETSEG_DATA is not set: no real data here"]),
        (".", ["test_sample.py"], 1, ["1 passed, 1 skipped, 1 error", "skipped although DETSEG_DATA="]),
        (None, ["test_file.py"], 5, ["1 skipped"]),
        (".", ["test_file.py"], 2, ["1 error", "skipped although DETSEG_DATA="]),
        ("absent", ["test_sample.py"], 4, ["is not a folder"]),
    ],
)
def test_data_tests_are_not_skipped_in_silence(
    tmp_path: Path, data: str | None, files: list[str], code: int, words: list[str]
) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_sample.py").write_text(TESTS)
    (tmp_path / "test_file.py").write_text("import pytest\npytest.skip('DETSEG_DATA', allow_module_level=True)\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -ra -p no:cacheprovider\n")
    environment = {key: value for key, value in os.environ.items() if key != "DETSEG_DATA"}
    if data is not None:
        environment["DETSEG_DATA"] = str(tmp_path / data)
    command = [sys.executable, "-m", "pytest", *files]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stdout + result.stderr
    for word in words:
        assert word in result.stdout + result.stderr
