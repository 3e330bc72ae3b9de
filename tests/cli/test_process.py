"""The command line in processes whose streams are closed or full, that are told to stop, and that have no home."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def run(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    known: Mapping[str, str] = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
    return subprocess.run([sys.executable, "-c", script], cwd=folder, env=known, capture_output=True, text=True)


CLOSED = """
import os, sys
for number in (0, 1, 2):
    os.close(number)
sys.stdin = sys.stdout = sys.stderr = None  # as Python has it where they are closed from the beginning
from detseg.cli import main
codes = [main(["configs"]), main(["merge", "nowhere", "-o", "out"])]
results = open("results.txt", "w")
os.write(1, b"from a library")
os.write(2, b"from a library")
print(results.fileno(), codes, sys.stdin.read() == "", file=results)
"""


def test_nothing_that_is_printed_gets_into_a_file_where_streams_are_closed(tmp_path: Path) -> None:
    assert run(CLOSED, tmp_path).returncode == 0
    descriptor, rest = (tmp_path / "results.txt").read_text().split(maxsplit=1)
    assert int(descriptor) > 2
    assert rest == "[0, 2] True\n"


# Programs in the background of a shell begin with SIGINT ignored.
AS_USUAL = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
STOPPED = """
import os, signal, sys
from pathlib import Path
from detseg.cli import verbs
from detseg.files import atomic_path

def work(options):
    number = getattr(signal, sys.argv[1] if len(sys.argv) > 1 else NAME)
    with atomic_path(Path("result.txt")) as path:
        path.write_text("half")
        try:
            os.kill(os.getpid(), number)
        finally:
            if AGAIN:
                os.kill(os.getpid(), number)

verbs._VERBS["configs"] = work
handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
code = verbs.main(["configs"])
assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
sys.exit(code)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_any_verb_in_one_line_and_nothing_is_left_half_done(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = run(f"{AS_USUAL}\nNAME, AGAIN = {number.name!r}, False\n{STOPPED}", tmp_path)
    assert (process.returncode, process.stderr) == (128 + number, f"detseg: stopped by {number.name}\n")
    assert list(tmp_path.iterdir()) == []
    assert run(f"{AS_USUAL}\nNAME, AGAIN = {number.name!r}, True\n{STOPPED}", tmp_path).returncode == -number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_program_that_is_still_imported(tmp_path: Path, number: signal.Signals) -> None:
    script = f"""
{AS_USUAL}
import os, sys
from detseg.cli import main

class Loading:
    def find_spec(self, name, path, target=None):
        if name == "detseg.cli.verbs":
            os.kill(os.getpid(), {int(number)})

sys.meta_path.insert(0, Loading())
sys.exit(main(["configs"]))
"""
    process = run(script, tmp_path)
    assert (process.returncode, process.stderr) == (128 + number, f"detseg: stopped by {number.name}\n")


def test_an_encoding_that_lacks_names_of_files_is_told(tmp_path: Path) -> None:
    (tmp_path / "größe").mkdir()
    (tmp_path / "data.yaml").write_text("path: größe\ntrain: images\nnames: [a]\n", encoding="utf-8")
    script = """
import sys
from pathlib import Path
from detseg.cli import main
from detseg.cli.errors import explain

main(["split", "data.yaml", "-o", "new"])
try:
    Path("gr\\xf6").mkdir()
except UnicodeEncodeError as error:
    print(explain(error), file=sys.stderr)
"""
    process = run(script, tmp_path, PYTHONUTF8="0", LC_ALL="C", PYTHONCOERCECLOCALE="0")
    warning, error, other = process.stderr.splitlines()
    assert other == "names of files are ascii here, which lacks '\\xf6': set PYTHONUTF8=1"
    assert warning.startswith("detseg: warning: names of files are ascii here")
    assert "PYTHONUTF8=1" in warning
    assert error.startswith("detseg split: ")
    assert "path not found" in error


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    script = f"NAME, AGAIN = 'SIGINT', False\nimport signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{STOPPED}"
    process = run(script.replace("sys.exit(code)", "sys.exit(code or 0)"), tmp_path)
    assert (process.returncode, process.stderr) == (0, "")
    assert (tmp_path / "result.txt").read_text() == "half"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is full")
def test_a_full_device_is_one_line(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [sys.executable, "-m", "detseg", "configs"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
    assert process.returncode == 2
    assert process.stderr == "detseg configs: [Errno 28] No space left on device\n"


NO_HOME = """
import os, pwd
def nobody(*arguments):
    raise KeyError("no such user")
pwd.getpwuid = pwd.getpwnam = nobody
from detseg.cli import main
from detseg.files import cache_folder
from detseg.runtime.weights.released import search_folders
print(len(search_folders()), [main(words) for words in (["bench", "nothing"], ["predict", "nothing", "~/a.png"])])
try:
    cache_folder()
except OSError as error:
    print(error.strerror)
"""


def test_users_without_a_home(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "DETSEG_WEIGHTS")}
    process = subprocess.run(
        [sys.executable, "-c", NO_HOME],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    told = "there is no home folder: set HOME, or DETSEG_CACHE and DETSEG_WEIGHTS"
    assert process.stdout == f"1 [2, 2]\n{told}\n"
    lines = process.stderr.splitlines()
    assert lines[0].startswith("detseg bench: no model file at nothing")
    assert lines[1].startswith("detseg predict: no model file at nothing")
