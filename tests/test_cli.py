"""The command line as a user meets it: in a process of its own, with its exit codes and messages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detseg.cli import EXIT_USER_ERROR, main
from detseg.engine.interrupt import EXIT_INTERRUPTED
from tests.engine.conftest import SHAPES, TINY

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def tiny_yaml(tmp_path: Path) -> Path:
    (tmp_path / "shapes.yaml").write_text(SHAPES)
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path / "tiny.yaml"


def detseg(*words: object) -> list[str]:
    return [sys.executable, "-m", "detseg", *map(str, words)]


def run(*words: object, code: int = 0, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(detseg(*words), capture_output=True, text=True, cwd=folder)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_help_names_the_verbs_and_each_verb_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["check"], ["split"], ["train"], ["eval"], ["predict"]):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--help"])
        assert ended.value.code == 0
        shown = capsys.readouterr().out
        assert f"usage: {' '.join(['detseg', *words])}" in shown
        if not words:
            assert all(verb in shown for verb in ("check", "split", "train", "eval", "predict"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "nowhere.yaml"], "nowhere.yaml"),
        (["train"], "no configuration given"),
        (["train", "TINY", "train.epoch=3"], "train.epoch: unknown key; did you mean train.epochs"),
        (["train", "TINY", "train.epochs=many"], "train.epochs: expected a whole number, got 'many'"),
        (["train", "TINY", "data.path=nothing"], "'nothing' not found; tried"),
        (["train", "--resume", "nowhere"], "nowhere"),
        (["train", "--resume", "nowhere", "train.epochs=3"], "only data.path, data.num_workers"),
        (["eval", "missing.safetensors", "--data", "shapes"], "no model file at missing.safetensors"),
        (["eval", "TINY"], "--weights"),
        (["predict", "missing.safetensors", "nowhere"], "'nowhere' does not exist"),
        (["check", "nowhere"], "nowhere"),
        (["split", "shapes", "--ratios", "1:x", "-o", "out"], "1:x"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: list[str], message: str, tiny_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main([str(tiny_yaml) if word == "TINY" else word for word in words]) == EXIT_USER_ERROR
    shown = capsys.readouterr().err
    assert shown.startswith(f"detseg {words[0]}: ")
    assert message in shown
    assert sorted(tmp_path.rglob("*")) == before


def test_words_may_come_in_any_order(tiny_yaml: Path, tmp_path: Path) -> None:
    """Also: train, evaluate and predict, each one command."""
    run_dir = tmp_path / "run"
    done = run("train", tiny_yaml, "-o", run_dir, "train.epochs=1")
    assert str(run_dir / "best.safetensors") in done.stdout
    model = run_dir / "best.safetensors"

    done = run(
        "eval", model, "--data", tmp_path / "shapes.yaml", "-o", tmp_path / "report", "--json", tmp_path / "m.json"
    )
    assert "4 images" in done.stdout
    saved = json.loads((tmp_path / "m.json").read_text())
    assert saved == json.loads((tmp_path / "report/metrics.json").read_text())
    assert saved == json.loads((run_dir / "metrics.json").read_text())

    pictures = REPOSITORY / "docs/images"
    done = run("predict", model, pictures, "-o", tmp_path / "found", "--save", "coco")
    assert f"{len(list(pictures.iterdir()))} of {len(list(pictures.iterdir()))} pictures" in done.stdout
    assert json.loads((tmp_path / "found/detections_images.json").read_text())


def test_runs_get_folders_of_their_own(tiny_yaml: Path, tmp_path: Path) -> None:
    for expected in ("tiny", "tiny-2"):
        done = run("train", tiny_yaml, "train.epochs=1", folder=tmp_path)
        assert f"runs/{expected}/best.safetensors" in done.stdout


@pytest.mark.parametrize("tool", ["train", "eval", "predict"])
def test_the_tools_are_the_verbs(tool: str) -> None:
    done = subprocess.run(
        [sys.executable, REPOSITORY / f"tools/{tool}.py", "--help"], capture_output=True, text=True, check=True
    )
    assert f"usage: detseg {tool}" in done.stdout


def test_a_terminated_run_says_how_to_go_on(tiny_yaml: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = subprocess.Popen(
        detseg("train", tiny_yaml, "train.epochs=500", "-o", run_dir), stderr=subprocess.PIPE, text=True
    )
    while not (run_dir / "metrics.jsonl").exists() or not (run_dir / "metrics.jsonl").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == EXIT_INTERRUPTED
    assert f"stopped by SIGTERM in epoch {len((run_dir / 'metrics.jsonl').read_text().splitlines())}" in shown
    assert f"detseg train --resume {run_dir}" in shown


def test_two_processes_make_one_run(tiny_yaml: Path, tmp_path: Path) -> None:
    words = [
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "detseg",
        "train",
        tiny_yaml,
        "train.epochs=1",
        "train.device=cpu",
    ]
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *map(str, words)],
        capture_output=True, text=True, check=True, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["tiny"]
    assert len((tmp_path / "runs/tiny/metrics.jsonl").read_text().splitlines()) == 1
    assert "AP" in json.loads((tmp_path / "runs/tiny/metrics.json").read_text())


def test_check_and_split_from_the_command_line(tmp_path: Path) -> None:
    done = run("check", "shapes", "--preview", tmp_path / "preview", "--json", tmp_path / "findings.json")
    pictures = sorted((tmp_path / "preview").glob("*.png"))
    assert pictures
    assert all(f"preview: {picture}" in done.stdout for picture in pictures)
    assert json.loads((tmp_path / "findings.json").read_text())


def test_check_and_split_of_real_data(detseg_data: Path, tmp_path: Path) -> None:
    done = run("check", detseg_data / "bccd", "--fast", code=1)
    assert "D001" in done.stdout
    done = run("split", detseg_data / "bccd", "--ratios", "8:2", "-o", tmp_path / "splits")
    assert (tmp_path / "splits/data.yaml").exists()
    done = run("check", tmp_path / "splits/data.yaml", "--fast", code=1)
    assert "D201" not in done.stdout
