from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest

from bench import fuzz_mutate
from bench.fuzz import FELL, Tally, make_input, render, run_kind
from bench.fuzz_seeds import Kind

REPOSITORY = Path(__file__).resolve().parents[2]
LIMITS = Namespace(seconds=10.0, megabytes=200.0, slow=1e9, large=1e9)


@pytest.mark.parametrize("mutation", [fuzz_mutate.damaged, fuzz_mutate.reworded])
def test_mutations_change_something_and_are_the_same_for_one_seed(mutation: fuzz_mutate.Mutation) -> None:
    data = json.dumps({"images": [{"id": 1, "height": 48}], "names": ["a", "b"]}).encode()
    made = [mutation(data, random.Random(seed)) for seed in range(100)]
    assert made == [mutation(data, random.Random(seed)) for seed in range(100)]
    assert len(set(made) - {data}) > 50


def test_inputs_can_be_made_again() -> None:
    kind = Kind({"a": b"first" * 9, "b": b"second" * 9}, [], [fuzz_mutate.damaged])
    inputs = [make_input("kind", kind, number, 3) for number in range(40)]
    assert inputs == [make_input("kind", kind, number, 3) for number in range(40)]
    assert {name for name, _ in inputs} == {"a", "b"}


class _Falling(Kind):
    """Its files say what is to happen; there is no command."""

    def fall(self, words: list[str]) -> int:
        match Path(words[0]).read_bytes():
            case b"crash":
                os.kill(os.getpid(), signal.SIGKILL)
            case b"hang":
                time.sleep(600)
            case b"traceback":
                raise KeyError("no such key")
            case b"memory":
                bytearray(300_000_000).replace(b"\1", b"\2")
            case b"refused":
                return 2
        return 0


def test_what_falls_is_counted_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [b"used", b"crash", b"used", b"hang", b"traceback", b"memory", b"refused"]
    kind = _Falling({"a": b"whole"}, [lambda path, out: [str(path)]], [lambda data, chance: said[next(numbers)]])
    monkeypatch.setattr("bench.fuzz.make_input", lambda name, kind, number, seed: ("a", said[number]))
    monkeypatch.setattr("detseg.cli.main", kind.fall)
    numbers = iter(range(len(said)))
    (tmp_path / "work").mkdir()
    opened = list(Path("/proc/self/fd").iterdir())
    tally = run_kind("kind", kind, tmp_path / "work", tmp_path / "kept", len(said), 0, LIMITS)
    assert tally.outcomes == {"used": 2, "refused": 1, **dict.fromkeys(FELL, 1)}
    assert len(list(Path("/proc/self/fd").iterdir())) == len(opened), "each child has been waited for"
    kept = [json.loads(line) for line in (tmp_path / "kept/kind/what.jsonl").read_text().splitlines()]
    assert [one["outcome"] for one in kept] == ["crash", "hang", "traceback", "memory"]
    assert [Path(one["file"]).read_bytes() for one in kept] == [b"crash", b"hang", b"traceback", b"memory"]
    last = render({"kind": tally}).splitlines()[-1]
    assert last.split()[:8] == ["kind", "7", "2", "1", "1", "1", "1", "1"]
    assert render({"kind": Tally()}).splitlines()[-1].split()[1] == "0"


def test_inputs_that_go_together_are_tried_one_by_one_where_one_falls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files say what is to happen; whoever takes several ends at the first of them that falls."""
    said = [b"used"] * 5 + [b"bad"] + [b"used"] * 3 + [b"crash"] + [b"used", b"bad", b"hang", b"used"]

    def take(words: list[str]) -> int:
        errors = []
        for path in map(Path, words):
            match path.read_bytes():
                case b"crash":
                    os.kill(os.getpid(), signal.SIGKILL)
                case b"hang":
                    time.sleep(600)
                case b"bad":
                    errors.append(json.dumps({"source": str(path), "error": "bad"}))
        out = tmp_path / "work" / "out"
        out.mkdir()
        (out / "errors.jsonl").write_text("".join(f"{line}\n" for line in errors))
        return 1 if errors else 0

    monkeypatch.setattr("bench.fuzz.make_input", lambda name, kind, number, seed: ("a", said[number]))
    kind = Kind({"a": b"whole"}, [lambda path, out: [str(path)]], at_a_time=4, run=take)
    (tmp_path / "work").mkdir()
    limits = Namespace(seconds=2.0, megabytes=200.0, slow=1e9, large=1e9)
    tally = run_kind("kind", kind, tmp_path / "work", tmp_path / "kept", len(said), 0, limits)
    assert tally.outcomes == {"used": 10, "refused": 2, "crash": 1, "hang": 1}
    kept = [json.loads(line) for line in (tmp_path / "kept/kind/what.jsonl").read_text().splitlines()]
    assert [one["outcome"] for one in kept] == ["crash", "hang"]


@pytest.mark.slow
def test_nothing_falls() -> None:
    process = subprocess.run(
        [sys.executable, str(REPOSITORY / "bench" / "fuzz.py"), "--inputs", "30", "--seed", str(int(time.time()))],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, f"{process.stdout[-4000:]}\n{process.stderr[-4000:]}"
