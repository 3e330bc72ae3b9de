"""``predict`` by the processes of Ray: the tables of one process, whoever is killed on the way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.cli import main
from detseg.runtime.commands.ray_workers import Cluster
from detseg.runtime.model import Model
from detseg.runtime.runner import Finished
from tests.runtime.commands.test_shards import TABLES, GrayRunner, files_in, predict
from tests.runtime.commands.test_shards import folder as folder

REPOSITORY = Path(__file__).parents[3]
SAVE = ("drawn", "coco", "csv", "jsonl", "yolo")
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray, an extra, is not installed")


class DyingRunner(GrayRunner):
    """Notes each image by its gray level in a file, and ends its process at the level 50 if that is to be so."""

    def submit(self, images: Sequence[np.ndarray], kept: Any = None) -> Finished:
        level = int(images[0][0, 0, 0])
        with Path("seen.txt").open("a") as seen:
            seen.write(f"{level}\n")
        if level == 50 and (Path("always").exists() or not Path("died").exists()):
            Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().submit(images, kept)


def prepare() -> tuple[Model, dict[str, Any]]:
    slowness = float(Path("slowness").read_text()) if Path("slowness").exists() else 0.0
    return Model(DyingRunner(slowness), "detection", ("=thing",), (7,)), {"save": SAVE, "settings": {}}


RUN = """
import sys
from pathlib import Path
from detseg.runtime.commands.on_ray import ray_command
from detseg.runtime.commands.ray_workers import Cluster
from tests.runtime.commands.test_on_ray import prepare
from tests.runtime.commands.test_shards import SOURCES
try:
    code = ray_command(prepare, SOURCES, Cluster(num_workers=2), output=Path("out"), settings={}, resume=True)
except ValueError as error:
    sys.exit(str(error))
sys.exit(code)
"""


def start() -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-c", RUN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def require_equal(whole: Path, out: Path) -> None:
    """The tables are the same, and so is every other file, wherever it lies."""
    one, other = files_in(whole), files_in(out)
    for name in TABLES:
        assert one[name] == other[name], name
    assert sorted(one["errors.jsonl"].splitlines()) == sorted(other["errors.jsonl"].splitlines())

    def by_source(folder: Path, files: dict[str, bytes]) -> list[tuple[str, str, bytes]]:
        made_from = json.loads((folder / "sources.json").read_text())
        return sorted((source, Path(name).suffix, files[name]) for name, source in made_from.items())

    assert by_source(whole, one) == by_source(out, other)
    others = {name for name in other if name not in json.loads((out / "sources.json").read_text())}
    assert others == {*TABLES, "sources.json", "errors.jsonl"}


@needs_ray
@pytest.mark.slow
def test_two_workers_of_which_one_is_killed_equal_one_process(folder: Path) -> None:
    """Then nothing is done again; and a plain run does not go on where one of Ray has begun."""
    assert predict("whole") == 1
    process = start()
    told, errors = process.communicate(timeout=300)
    assert process.returncode == 1, (told, errors)
    assert re.search(r"^13 of 15 sources by 2 workers in .*; results are in out$", told, re.MULTILINE), told
    assert "1 workers ended before their time; others went on with their shares" in told
    missing, unreadable = errors.splitlines()
    assert missing.startswith("not done: source 'in/none.png' does not exist; ")
    assert unreadable.startswith("not done: in/bad.png: ")
    require_equal(folder / "whole", folder / "out")


@needs_ray
@pytest.mark.slow
def test_a_run_that_is_ended_goes_on(folder: Path) -> None:
    assert predict("whole") == 1
    Path("died").touch()
    Path("slowness").write_text("0.3")
    process = start()
    while process.poll() is None and not list(Path("out").glob("shares/*/run.json")):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    told, errors = process.communicate(timeout=60)
    assert (process.returncode, told) == (143, ""), errors
    assert errors == "stopped by SIGTERM; the same command with --resume goes on\n"
    with pytest.raises(ValueError, match="was begun with --ray, and goes on with --ray --resume"):
        predict("out", resume=True)
    done = {path: path.stat().st_mtime_ns for path in Path("out").glob("shares/*/run.json")}
    assert done
    Path("slowness").unlink()
    process = start()
    told, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors
    require_equal(folder / "whole", folder / "out")
    process = start()
    assert process.communicate(timeout=300)[0] == "out holds all results already\n"


@needs_ray
@pytest.mark.slow
def test_a_share_that_kills_every_worker_ends_the_run(folder: Path) -> None:
    Path("always").touch()
    process = start()
    _, errors = process.communicate(timeout=300)
    assert re.fullmatch(
        r"the process that did share \d+/8 has ended 5 times before its time, such as for want of memory; the same "
        r"command with --resume goes on\n", errors,
    )  # fmt: skip
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ray", "nonsense"], "--ray takes HOST:PORT of a cluster, auto .* got 'nonsense'"),
        (["--ray", "ray://head:10001"], "--ray takes HOST:PORT"),
        (["--ray", "auto", "--ray-workers", "0"], "--ray-workers must be at least 1, got 0"),
        (["--ray", "auto", "--show"], "--ray divides the work over machines; leave --show out"),
        (["--ray", "auto", "--shard", "1/2", "--count", "line:0,0,1,1"], "leave --shard and --count out"),
        (["--ray-workers", "2"], "--ray-workers says how many processes --ray takes; give that, too"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "detseg_n_shapes", "in", *words]) == 2
    line = capsys.readouterr().err
    assert re.search(message, line), line
    assert line.count("\n") == 1


@pytest.mark.skipif(find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_one_line_says_how_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "detseg_n_shapes", "in", "--ray"]) == 2
    told = capsys.readouterr().err
    assert told == "detseg predict: this needs ray, which is not installed: pip install 'detseg[ray]'\n"


def test_what_is_a_cluster() -> None:
    for address in ("local", "auto", "10.0.0.1:6379", "head.example:6379"):
        assert Cluster(address).address == address
