"""Shares of a list, runs that go on after they were killed, and tables that are put together: all as of one run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detseg.cli import main
from detseg.files import SaveError
from detseg.folders import claimed_folder
from detseg.runtime.commands.merge import merge_command
from detseg.runtime.commands.predict import predict_command
from detseg.runtime.commands.progress import JOURNAL, Progress
from detseg.runtime.commands.shards import WHOLE, Shard, parse_shard
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.kinds import load_kind
from detseg.runtime.media.images import write_image
from detseg.runtime.model import Model
from detseg.runtime.runner import Finished
from detseg.runtime.tracking.tracker import TrackerConfig
from detseg.structures import Detections

NUM_IMAGES, NUM_FRAMES = 9, 5
SAVE = ("drawn", "coco", "csv", "jsonl", "yolo")
TABLES = ("detections.json", "detections_images.json", "detections.csv", "results.jsonl")


class GrayRunner:
    """As many boxes as the gray level says; waits ``seconds`` for each image."""

    spec, default_batch_size, max_in_flight, kind = InputSpec(64, 64), 1, 1, load_kind("boxes")

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds
        self.num_images = 0

    def submit(self, images: Sequence[np.ndarray], kept: Any = None) -> Finished:
        time.sleep(self._seconds)
        self.num_images += len(images)
        return Finished([self._find(int(image[0, 0, 0]) // 10) for image in images])

    def _find(self, count: int) -> Detections:
        numbers = np.arange(count, dtype=np.float32)
        boxes = np.stack([numbers, numbers + 1, numbers + 20.3, numbers + 9], axis=1)
        return Detections(boxes.reshape(-1, 4), 0.9 - numbers / 100, np.zeros(count, np.int64))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images, two of one name, one without boxes, one that cannot be read, one like a formula, and two videos."""
    monkeypatch.chdir(tmp_path)
    for number in range(NUM_IMAGES):
        write_image(tmp_path / "in" / f"{number}.png", np.full((48, 64, 3), 10 * number, np.uint8))
    write_image(tmp_path / "in" / "sub" / "3.png", np.full((48, 64, 3), 40, np.uint8))
    write_image(tmp_path / "in" / "=1+1, a.png", np.full((48, 64, 3), 20, np.uint8))
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    for name in ("in/f.mp4", "in/g.mp4"):
        video = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
        for _ in range(NUM_FRAMES):
            video.write(np.full((48, 64, 3), 30, np.uint8))
        video.release()
    return tmp_path


SOURCES = ["in", "in/sub", "in/none.png"]


def predict(output: str, runner: GrayRunner | None = None, sources: Sequence[str] = SOURCES, **options: Any) -> int:
    model = Model(runner or GrayRunner(), "detection", ("=thing",), (7,))
    return predict_command(model, sources, output=Path(output), save=SAVE, **options)


def files_in(folder: str | Path) -> dict[str, bytes]:
    """All but ``run.json``, which runs without shares do not have."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != "run.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("count", [1, 2, 3, 30])
def test_shares_together_are_the_whole(folder: Path, count: int) -> None:
    assert predict("whole") == 1
    codes = {predict(f"share{index}", shard=Shard(index, count)) for index in range(1, count + 1)}
    assert codes == ({0, 1} if count > 1 else {1}), "the image that cannot be read is in one share"
    merge_command([Path(f"share{index}") for index in range(count, 0, -1)], Path("merged"))
    merged, whole = files_in("merged"), files_in("whole")
    assert merged.keys() == {*TABLES, "errors.jsonl"}
    for name in TABLES:
        assert merged[name] == whole[name], name
    assert sorted(merged["errors.jsonl"].splitlines()) == sorted(whole["errors.jsonl"].splitlines())


def test_the_order_of_the_list_does_not_change_the_shares() -> None:
    titles = [f"images/{number}.jpg" for number in range(1000)]
    mixed = random.Random(0).sample(titles, len(titles))
    for shard in (Shard(1, 7), Shard(7, 7)):
        chosen = [titles[position] for position in shard.positions(titles)]
        assert chosen == sorted(chosen, key=titles.index)
        assert set(chosen) == {mixed[position] for position in shard.positions(mixed)}
    sizes = [len(Shard(index, 7).positions(titles)) for index in range(1, 8)]
    assert (sum(sizes), max(sizes) - min(sizes)) == (1000, 1)
    assert WHOLE.positions(titles) == list(range(1000))


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2", "1/ 2", "", "1/" + "9" * 5000])
def test_what_is_no_share(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="a share must be I/N, such as 2/8"):
        parse_shard(text)


def test_shares_of_different_runs_are_not_put_together(folder: Path) -> None:
    predict("one", shard=Shard(1, 2))
    with pytest.raises(ValueError, match="share 2/2 is missing"):
        merge_command([Path("one")], Path("merged"))
    with pytest.raises(ValueError, match="share 2/2 is missing; share 1/2 is there 2 times"):
        merge_command([Path("one"), Path("one")], Path("merged"))
    predict("other", shard=Shard(2, 2), settings={"confidence": 0.5})
    with pytest.raises(ValueError, match=r"one and other do not belong together: confidence was None and is 0\.5"):
        merge_command([Path("one"), Path("other")], Path("merged"))
    predict("fewer", shard=Shard(2, 2), sources=["in"])
    with pytest.raises(ValueError, match="do not belong together: the list of sources is another one"):
        merge_command([Path("one"), Path("fewer")], Path("merged"))
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: holds no complete share"):
        merge_command([Path("one"), Path("empty")], Path("merged"))
    with pytest.raises(ValueError, match="nowhere: there is no such folder"):
        merge_command([Path("one"), Path("nowhere")], Path("merged"))
    assert not Path("merged").exists()


def test_a_complete_run_is_not_done_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, again = GrayRunner(), GrayRunner()
    assert predict("out", first, resume=True) == 1
    before = files_in("out")
    assert predict("out", again, resume=True) == 0, "what cannot be read has been told, and repeating does not help"
    assert "out holds all results already, but for what out/errors.jsonl names\n" in capsys.readouterr().out
    assert (again.num_images, files_in("out")) == (0, before)
    with pytest.raises(ValueError, match=r"of another run: confidence was None and is 0\.3"):
        predict("out", resume=True, settings={"confidence": 0.3})
    assert predict("plain") == 1
    assert files_in("plain") == before


def test_a_run_goes_on_with_the_same_settings_only(folder: Path) -> None:
    class Failing(GrayRunner):
        def submit(self, images: Sequence[np.ndarray], kept: Any = None) -> Finished:
            if self.num_images == 15:
                raise AssertionError("the network fails")
            return super().submit(images, kept)

    with pytest.raises(AssertionError, match="the network fails"):
        predict("out", Failing())
    assert (folder / "out" / JOURNAL).exists()
    with pytest.raises(ValueError, match=r"cannot go on: confidence was None and is 0\.3"):
        predict("out", resume=True, settings={"confidence": 0.3})
    with pytest.raises(ValueError, match="cannot go on: the list of sources is another one"):
        predict("out", resume=True, sources=["in"])
    runner = GrayRunner()
    assert predict("out", runner, resume=True) == 1
    predict("whole")
    assert files_in("out") == files_in("whole")
    assert runner.num_images < NUM_IMAGES + 2 + 2 * NUM_FRAMES


def test_two_processes_do_not_share_a_folder(folder: Path) -> None:
    (folder / "out").mkdir()
    progress = Progress(folder / "out", {}, go_on=False)
    with pytest.raises(ValueError, match="another process is at work in"):
        predict("out", resume=True)
    progress.close()


def test_what_is_one_result_of_many_images_is_refused(folder: Path) -> None:
    model = Model(GrayRunner(), "detection", ("thing",), (1,))
    for options in ({"resume": True}, {"shard": Shard(1, 2)}):
        with pytest.raises(ValueError, match="one video of all images"):
            predict_command(model, SOURCES, output=Path("out"), save=["video"], **options)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="name videos only"):
            predict_command(model, SOURCES, output=Path("out"), track=TrackerConfig(), **options)  # type: ignore[arg-type]
        assert predict_command(model, ["in/f.mp4"], output=Path("footage"), save=["video"], **options) == 0  # type: ignore[arg-type]
    assert not Path("out").exists()


def test_files_of_others_are_not_replaced(folder: Path) -> None:
    """Neither by the first process nor by the one that goes on, which removes what the first has begun."""
    write_image(folder / "out" / "5.png", np.zeros((4, 4, 3), np.uint8))
    mine = (folder / "out" / "5.png").read_bytes()
    process = start(folder / "out", seconds_per_image=1.0)
    journal = folder / "out" / JOURNAL
    while process.poll() is None and not (journal.exists() and '"done"' in journal.read_text()):
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it was killed"
    process.kill()
    process.communicate()
    assert predict("out", resume=True) == 1
    assert (folder / "out" / "5.png").read_bytes() == mine
    assert "5.png is there already" in (folder / "out" / "errors.jsonl").read_text()


RUN = """
import sys
from pathlib import Path
from tests.runtime.commands.test_shards import GrayRunner, predict
print("started", flush=True)
sys.exit(predict(sys.argv[1], GrayRunner(float(sys.argv[2])), resume=True))
"""


def start(output: Path, seconds_per_image: float = 0.02) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, output.name, str(seconds_per_image)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def run_and_kill(output: Path, after: float, how: signal.Signals = signal.SIGKILL) -> int:
    """Returns the exit code."""
    process = start(output)
    time.sleep(after)
    process.send_signal(how)
    told, _ = process.communicate(timeout=60)
    assert process.returncode in (0, 1, -how, 128 + how), told
    assert "Traceback" not in told, told
    return process.returncode


@pytest.mark.slow
def test_a_run_that_is_killed_over_and_over_becomes_that_of_nobody_killed(folder: Path) -> None:
    predict("whole")
    whole = files_in("whole")
    chance = random.Random(0)
    num_kills = 0
    for number in range(6):
        output = folder / f"out{number}"
        for attempt in range(60):
            how = (signal.SIGKILL, signal.SIGTERM)[(number + attempt) % 2]
            code = run_and_kill(output, chance.uniform(0.05, 0.25 + attempt / 20), how)
            if (output / "run.json").exists():
                break
            num_kills += 1
            assert code in (-how, 128 + how)
        assert files_in(output) == whole
    assert num_kills > 6


def test_a_finished_source_is_not_done_again_after_a_kill(folder: Path) -> None:
    predict("whole")
    run_and_kill(folder / "out", after=0.3)
    lines = (folder / "out" / JOURNAL).read_text().splitlines()
    done = {json.loads(line)["done"] for line in lines if "done" in json.loads(line)}
    runner = GrayRunner()
    assert predict("out", runner, resume=True) == 1
    images = [json.loads(line)["file"] for line in (folder / "out" / "results.jsonl").read_text().splitlines()]
    assert runner.num_images == sum(image not in done for image in images)
    assert files_in("out") == files_in("whole")


def test_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = Path(__file__).parents[3] / "weights" / "detseg_n_shapes.safetensors"
    words = ["predict", str(weights), *SOURCES[:2], "--save", "csv,jsonl", "--conf", "0.01", "--device", "cpu"]
    assert main([*words, "-o", "whole"]) == 1
    for index in (1, 2):
        main([*words, "-o", f"share{index}", "--shard", f"{index}/2", "--resume"])
        assert main([*words, "-o", f"share{index}", "--shard", f"{index}/2", "--resume"]) == 0
    assert main(["merge", "share1", "share2", "-o", "merged"]) == 0
    for name in ("detections.csv", "results.jsonl"):
        assert Path("merged", name).read_bytes() == Path("whole", name).read_bytes()
    assert main(["merge", "share1", "-o", "merged"]) == 2
    assert "share 2/2 is missing" in capsys.readouterr().err
    assert main([*words, "--shard", "3/2"]) == 2


@pytest.mark.parametrize("name", ["../keep.txt", "ABSOLUTE", "a/../../keep.txt", ""])
@pytest.mark.parametrize("key", ["claim", "sizes"])
def test_a_journal_that_somebody_changed_reaches_nothing_outside(folder: Path, name: str, key: str) -> None:
    kept = folder / "keep.txt"
    kept.write_text("the user's")
    name = name.replace("ABSOLUTE", str(kept))
    line = {"claim": name, "source": "in/1.png"} if key == "claim" else {"sizes": {name: 3}}
    journal(folder, json.dumps(line))
    with pytest.raises(ValueError, match=f"out/{JOURNAL}: is not as detseg predict wrote it .*is no file of this"):
        Progress(folder / "out", {}, go_on=True)
    assert kept.read_text() == "the user's"


@pytest.mark.parametrize(
    "line", ["[1]", "5", "[" * 5000, '{"claim": 5, "source": "a"}', '{"claim": "a"}', '{"done": "a"}',
             '{"done": "a", "failures": [1]}', '{"sizes": {"detections.unfinished.csv": -1}}', '{"sizes": 5}',
             '{"sizes": {"sub/a.csv": 1}}', "{"]
)  # fmt: skip
def test_a_damaged_journal_is_one_message(folder: Path, line: str) -> None:
    journal(folder, line)
    with pytest.raises(ValueError, match=f"out/{JOURNAL}: is not as detseg predict wrote it"):
        Progress(folder / "out", {}, go_on=True)


def journal(folder: Path, line: str) -> None:
    (folder / "out").mkdir()
    (folder / "out" / JOURNAL).write_text(f"{{}}\n{line}\n")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", '{"shard": 1, "num_sources": 1, "list": "", "settings": {}, "sources": {}}'),
        ("run.json", '{"shard": "1/1", "num_sources": 1, "list": "", "settings": {}, "sources": {"a": null}}'),
        ("detections.json", "[\n{}\n]"), ("detections.json", "[" * 5000), ("detections_images.json", "[\n5\n]"),
        ("detections_images.json", "[\n{\n]"), ("results.jsonl", "{}\n"), ("results.jsonl", '{"file": []}\n'),
        ("detections.csv", ""), ("detections.csv", "a\n\n"), ("errors.jsonl", "5\n"),
    ],
)  # fmt: skip
def test_a_damaged_share_is_one_message(folder: Path, name: str, content: str) -> None:
    predict("out", shard=Shard(1, 1))
    (folder / "out" / name).write_text(content)
    with pytest.raises(ValueError, match=r"^out.*(is not as detseg predict wrote it|has results of)"):
        merge_command([Path("out")], Path("merged"))


def test_a_run_that_cannot_begin_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as on a disk that is full before the first line of the journal."""

    def full(self: Progress, line: Any) -> None:
        raise SaveError("no room")

    monkeypatch.setattr(Progress, "_write", full)
    with pytest.raises(SaveError, match="no room"):
        predict("out", resume=True)
    assert not Path("out").exists()
    Path("out").mkdir()
    Path("out/mine.txt").touch()
    with pytest.raises(SaveError, match="no room"):
        predict("out")
    assert [path.name for path in Path("out").iterdir()] == ["mine.txt"]


def test_tables_are_put_together_elsewhere_where_another_is_at_work(folder: Path) -> None:
    for index in (1, 2):
        predict(f"share{index}", shard=Shard(index, 2))
    with claimed_folder(Path("merged"), (), lambda folder: None):
        merge_command([Path("share1"), Path("share2")], Path("merged"))
    assert not Path("merged").exists()
    assert (Path("merged-2") / "detections.json").exists()
