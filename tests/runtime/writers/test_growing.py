from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from detseg.files import SaveError
from detseg.runtime.writers.growing import GrowingJson, GrowingText, json_object

KILLED = """
import os, signal, sys
from pathlib import Path
from detseg.runtime.writers.growing import GrowingJson, GrowingText
with GrowingText(Path("t.csv"), "head\\n") as text, GrowingJson(Path("j.json")) as entries:
    for number in range(3):
        text.write(f"{number},\\n")
        entries.append({"number": number})
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_leaves_what_was_found_so_far(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, check=False)
    assert done.returncode == -signal.SIGKILL
    assert sorted(path.name for path in tmp_path.iterdir()) == ["j.unfinished.jsonl", "t.unfinished.csv"]
    assert (tmp_path / "t.unfinished.csv").read_text() == "head\n0,\n1,\n2,\n"
    lines = (tmp_path / "j.unfinished.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"number": 0}, {"number": 1}, {"number": 2}]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_entries_become_a_list_or_an_object(tmp_path: Path, count: int) -> None:
    with GrowingJson(tmp_path / "list.json") as entries, GrowingJson(tmp_path / "object.json", json_object) as pairs:
        for number in range(count):
            entries.append([number])
            pairs.append({f"\u00e4 {number}}}": number})
        entries.close()
        entries.close()
    assert json.loads((tmp_path / "list.json").read_text()) == [[number] for number in range(count)]
    assert json.loads((tmp_path / "object.json").read_text()) == {f"\u00e4 {n}}}": n for n in range(count)}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_leaves_whole_lines_only(tmp_path: Path) -> None:
    code = """
import resource
from pathlib import Path
from detseg.files import SaveError
from detseg.runtime.writers.growing import GrowingText
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with GrowingText(Path("t.csv")) as text:
    for number in range(11):
        try:
            text.write("x" * 98 + "\\n")
        except SaveError as error:
            print(error)
            text.write("short\\n")
    raise KeyError
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("could not write t.csv: [Errno 27]")
    assert done.stderr.endswith("KeyError\n")
    assert (tmp_path / "t.unfinished.csv").read_text() == ("x" * 98 + "\n") * 10 + "short\n"


def test_the_file_before_stays_where_the_new_one_cannot_be_put(tmp_path: Path) -> None:
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(SaveError, match=r"could not write .*t\.csv"), GrowingText(tmp_path / "t.csv") as text:
        text.write("found\n")
    assert (tmp_path / "t.unfinished.csv").read_text() == "found\n"
    with pytest.raises((SaveError, OSError)):
        GrowingText(tmp_path / "t.unfinished.csv" / "deeper.csv")


def test_names_that_are_not_utf_8_are_escaped(tmp_path: Path) -> None:
    with GrowingText(tmp_path / "t.csv") as text:
        text.write(os.fsdecode(b"a\xe4,1\n"))
    assert (tmp_path / "t.csv").read_text("utf-8") == "a\\udce4,1\n"
