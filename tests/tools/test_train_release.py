"""The road from a training to released weights, small: every row of the table, and what may go wrong on the way."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import detseg
from detseg.config import load_config
from detseg.engine.run import train
from detseg.engine.settings import RunConfig
from detseg.files import write_text
from detseg.runtime.media.images import read_image
from detseg.runtime.weights.released import read_table, sha256_of
from detseg.tasks.model_file import ModelFileConfig, load_model_file, save_model_file

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = REPOSITORY / "tools/release"
INTERRUPTED = 75


def command(name: str, out: Path, *arguments: str) -> list[str]:
    script = str(SCRIPTS / "train_release.py")
    return [sys.executable, script, name, "--tiny", "--device", "cpu", "--out", str(out), *arguments]


def run(name: str, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(name, out, *arguments), capture_output=True, text=True, cwd=out)


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def records(run_dir: Path) -> list[dict[str, Any]]:
    """What a training noted after each epoch that it has finished."""
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def epochs(run_dir: Path) -> list[int]:
    """The epochs that a training has finished."""
    return [record["epoch"] for record in records(run_dir)]


def require_release(name: str, out: Path) -> dict[str, Any]:
    """Check what every finished command leaves; returns the row of the table as it is."""
    folder = out / f"{name}-tiny" / "weights"
    weights = folder / f"{name}.safetensors"
    release = read_table(folder / "released.yaml")[name]
    assert (release.sha256, release.num_bytes) == (sha256_of(weights), weights.stat().st_size)
    card = (folder / "README.md").read_text()
    assert card.count(f"## {name}\n") == 1
    for expected in (release.sha256, f"python tools/release/train_release.py {name}", "CPU core", "| seed | 0 |"):
        assert expected in card, expected
    for image in re.findall(r"\]\((images/\S+)\)", card):
        assert read_image(folder / image).std() > 5, image
    assert card.count("](images/") == 2
    for class_name in load_model_file(weights).config.class_names[1:]:
        assert re.search(rf"^\| {class_name} \| (0\.\d{{4}}|1\.0000|-) \|", card, re.MULTILINE), class_name
    assert detseg.load(weights, device="cpu").class_names == load_model_file(weights).config.class_names
    return vars(release)


@pytest.mark.slow
def test_shapes_in_two_calls(tmp_path: Path) -> None:
    """Stopped in the middle of its training, the same command goes on."""
    folder = tmp_path / "detseg_n_shapes-tiny"
    process = subprocess.Popen(command("detseg_n_shapes", tmp_path), stderr=subprocess.PIPE, text=True)
    while not (folder / "plain" / "state.pt").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == INTERRUPTED, errors
    assert "stopped by SIGTERM in epoch 2" in errors
    assert "the same command goes on" in errors
    assert len(epochs(folder / "plain")) == 1
    assert not (folder / "weights").exists()

    before = (REPOSITORY / "detseg/runtime/weights/released.yaml").read_bytes()
    done = run("detseg_n_shapes", tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"going on with {folder / 'plain'}" in done.stdout
    assert epochs(folder / "plain") == [1, 2]
    row = require_release("detseg_n_shapes", tmp_path)
    assert (row["task"], row["license"]) == ("detection", "Apache-2.0; data: Apache-2.0")
    header, _, last = done.stdout.splitlines()[-3:]
    assert header == "| training |  | AP on val | images/s | waiting for data | minutes |"
    metrics = json.loads((folder / "plain" / "metrics.json").read_text())
    assert last.startswith(f"| **plain** | the demo's training | {metrics['AP']:.4f} | ")
    # A trial leaves the repository as it is.
    assert (REPOSITORY / "detseg/runtime/weights/released.yaml").read_bytes() == before


def test_a_limit_of_time_ends_the_call(tmp_path: Path) -> None:
    stopped = run("detseg_n_shapes", tmp_path, "--hours", str(0.2 / 3600))
    assert stopped.returncode == INTERRUPTED, stopped.stderr
    assert "the same command goes on" in stopped.stderr
    assert not (tmp_path / "detseg_n_shapes-tiny" / "weights").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "candidates", "views", "options"),
    [
        ("letnet_camvid", ["plain"], ["flip"], []),
        ("letnet_camvid", ["plain"], ["flip"], ["--skip-final"]),
        ("vnet_hippocampus", ["plain"], ["mirrored"], ["--fold", "1", "3"]),
        ("detseg_n_bccd", ["scratch", "finetune"], [], ["--amp", "bf16"]),
    ],
)
def test_rows_of_real_data(
    name: str,
    candidates: list[str],
    views: list[str],
    options: list[str],
    tmp_path: Path,
    detseg_data: Path,
    scripts: None,
) -> None:
    from release_rows import ROWS

    done = run(name, tmp_path, "--candidate", *candidates, *options)
    assert done.returncode == 0, done.stderr
    row = require_release(name, tmp_path)
    card = (tmp_path / f"{name}-tiny" / "weights" / "README.md").read_text()
    assert (
        " ".join(["`python tools/release/train_release.py", name, "--candidate", *candidates, *options]) + "`" in card
    )
    assert ("| precision | bfloat16 " in card) == ("--amp" in options)
    assert ("2 of 5 folds" in row["quality"]) == ("--fold" in options)
    base, limit = tmp_path / f"{name}-tiny", ROWS[name].max_bytes
    assert limit is None or row["num_bytes"] <= limit
    assert all(f"({view})" in row["quality"] for view in views)
    final = base / "final-plain"
    assert final.exists() == (bool(ROWS[name].final) and "--skip-final" not in options)
    weights = load_file(base / "weights" / f"{name}.safetensors")
    if final.exists():
        # The last weights of the last training, which saw val and is not judged by it.
        expected = load_file(final / "last.safetensors")
        assert all(torch.equal(weights[key], expected[key]) for key in expected)
        split = load_config(RunConfig, final / "config.yaml").data.train_split
        assert split == {"letnet_camvid": "train+val", "vnet_hippocampus": "all"}[name]
        assert "| final | the chosen way, on all of it | - |" in done.stdout
    elif "--skip-final" in options:
        expected = load_file(base / "plain" / "best.safetensors")
        assert all(torch.equal(weights[key], expected[key]) for key in expected)
        assert row["data"] == ROWS[name].data
        assert "on val, by the released file" in card
    assert any(value.dtype == torch.float16 for value in weights.values()) == ROWS[name].half
    if ROWS[name].sizes:
        require_best_size(base, card)


def require_best_size(base: Path, card: str) -> None:
    """The stored size is the better one of the two that a trial measures, and the card has both."""
    chosen = re.search(r"\| training \| (\w+): ", card)
    assert chosen is not None
    trained = json.loads((base / chosen[1] / "metrics.json").read_text())
    larger = json.loads((base / chosen[1] / "views.json").read_text())["384x384"]
    size = 384 if larger["AP"] > trained["AP"] else 64
    stored = load_model_file(base / "weights" / "detseg_n_bccd.safetensors").config.task.input
    assert (stored.height, stored.width) == (size, size)
    for side, text, figures in ((64, "64x64, as in training", trained), (384, "384x384", larger)):
        shown = f"**{text}**" if side == size else text
        assert f"| {shown} | {figures['AP']:.4f} | {figures['AP50']:.4f} |" in card


def test_an_input_of_another_size_is_stored(tmp_path: Path, scripts: None) -> None:
    from release_card import store

    source, target = package_of(tmp_path, 1.0), tmp_path / "larger.safetensors"
    store(source, target, half=False, max_bytes=None, size=(96, 160))
    before, after = load_model_file(source), load_model_file(target)
    assert (after.config.task.input.height, after.config.task.input.width) == (96, 160)
    assert after.config.model == before.config.model
    expected = before.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in after.model.state_dict().items())


def test_what_cannot_be_asked_for(
    tmp_path: Path, scripts: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from train_release import main

    for arguments, status, message in (
        (("--candidate", "plan"), 2, "no candidates plan; it has plain"),
        (("--fold", "0"), 2, "--fold takes some of the 0 folds"),
        (("--hours", "0"), 2, "--hours must be above 0"),
        (("--skip-final",), 2, "--skip-final: detseg_n_shapes has no last training"),
        (("--stage", "final"), 1, "no candidate of plain is finished"),
    ):
        monkeypatch.setattr("sys.argv", command("detseg_n_shapes", tmp_path, *arguments)[1:])
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as ended:
            sys.exit(main())
        signal.signal(signal.SIGTERM, before)
        assert ended.value.code == status
        assert message in capsys.readouterr().err


def test_rows_name_configurations_that_load(scripts: None, detseg_data: Path) -> None:
    from release_rows import CONFIGS, ROWS

    boxes = ["detseg_n_bccd", "detseg_n_shapes", "detseg_n_seg_shapes"]
    assert list(ROWS) == ["letnet_camvid", "vnet_hippocampus", *boxes]
    page = (REPOSITORY / "weights" / "README.md").read_text()
    for name, row in ROWS.items():
        assert f"python tools/release/train_release.py {name}`" in page
        for candidate in row.candidates.values():
            config = load_config(RunConfig, CONFIGS / candidate.config, candidate.settings)
            assert config.task.name == row.task
            assert config.data.val_split in ("val", "fold0-val")
            for view in row.views.values():
                assert view.keys() <= vars(config.task.postprocess).keys()


def package_of(tmp_path: Path, scale: float) -> Path:
    """A tiny detector whose weights are the usual ones times ``scale``."""
    torch.manual_seed(0)
    config = load_config(RunConfig, REPOSITORY / "configs/detection/shapes.yaml")
    package = ModelFileConfig(config.model, config.task, ("a", "b"), (1, 2))
    model, _ = package.build()
    weights = {name: value * scale if value.ndim > 1 else value for name, value in model.state_dict().items()}
    save_model_file(tmp_path / "source.safetensors", weights, package)
    return tmp_path / "source.safetensors"


@pytest.mark.slow
def test_a_candidate_goes_on_from_another(
    tmp_path: Path, scripts: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the choice and in the last training alike; the card speaks of both stages."""
    from release_rows import ROWS, Candidate
    from train_release import main

    row = ROWS["detseg_n_shapes"]
    (plain,) = row.candidates.values()
    # Its steps are too small to be seen, so its weights are those that it began with.
    second = Candidate(plain.config, ("train.optimizer.learning_rate=1.0e-12",), "a second stage", after="plain")
    (tmp_path / "few.yaml").write_text("{format: shapes, image_size: 64, num_train: 32, num_val: 8, max_side: 40}")
    row = replace(
        row,
        candidates={"second": second, "plain": plain},
        tiny=(*row.tiny, "train.batch_size=16", f"data.path={tmp_path / 'few.yaml'}"),
        final=("train.seed=1",),
        final_data="shapes, drawn anew",
    )
    monkeypatch.setitem(ROWS, "detseg_n_shapes", row)
    monkeypatch.setattr("train_release.best_of", lambda tried, primary: tried[-1])
    monkeypatch.setattr("sys.argv", command("detseg_n_shapes", tmp_path, "--candidate", "second")[1:])
    base = tmp_path / "detseg_n_shapes-tiny"

    def train_elsewhere_too(config: RunConfig, folder: Path, **settings: Any) -> None:
        train(config, folder, **settings)
        if folder.name == "final-plain":
            write_text(folder / "hardware.txt", "an abacus\n")

    monkeypatch.setattr("release_runs.train", train_elsewhere_too)
    before = signal.getsignal(signal.SIGTERM)
    status = main()
    signal.signal(signal.SIGTERM, before)
    assert status == 0

    released = load_file(base / "weights" / "detseg_n_shapes.safetensors")
    for folders, seed in ((("plain", "second"), 0), (("final-plain", "final-second"), 1)):
        first, then = (load_file(base / folder / "last.safetensors") for folder in folders)
        learned = [key for key, value in first.items() if value.ndim > 1]
        assert learned
        assert all(torch.allclose(then[key], first[key], rtol=0, atol=1e-6) for key in learned)
        assert all(load_config(RunConfig, base / folder / "config.yaml").train.seed == seed for folder in folders)
    assert all(torch.equal(released[key], then[key]) for key in then)
    assert not torch.equal(load_file(base / "plain" / "last.safetensors")[learned[0]], first[learned[0]])

    card = (base / "weights" / "README.md").read_text()
    assert "| epochs | 2 + 2 |" in card
    assert "| training | plain: the demo's training; then second: a second stage |" in card
    (hardware,) = (line for line in card.splitlines() if line.startswith("| hardware |"))
    assert re.fullmatch(r"\| hardware \| an abacus; [^;]+, torch [^;]+ \|", hardware)
    rows = [re.sub(r"[*]", "", line).split(" | ") for line in capsys.readouterr().out.splitlines()[-3:]]
    assert [cells[0] for cells in rows] == ["| plain", "| second", "| final"]
    both = records(base / "final-plain") + records(base / "final-second")
    assert sum(one["train_seconds"] for one in both) / 60 <= float(rows[-1][-1].removesuffix(" |")) + 0.05


def test_half_weights_are_whole_when_they_are_loaded(tmp_path: Path, scripts: None) -> None:
    from release_card import store

    source, target = package_of(tmp_path, 1.0), tmp_path / "half.safetensors"
    store(source, target, half=True, max_bytes=None)
    assert target.stat().st_size < 0.6 * source.stat().st_size
    before, stored = load_file(source), load_file(target)
    loaded = load_model_file(target).model.state_dict()
    for name, value in before.items():
        halved = value.is_floating_point() and value.ndim > 1
        assert stored[name].dtype == (torch.float16 if halved else value.dtype)
        assert loaded[name].dtype == value.dtype
        assert torch.equal(loaded[name], value.half().float() if halved else value)


def test_a_file_that_is_too_large_is_not_kept(tmp_path: Path, scripts: None) -> None:
    from release_card import store

    source, target = package_of(tmp_path, 1.0), tmp_path / "large.safetensors"
    limit = source.stat().st_size
    store(source, target, half=False, max_bytes=limit)
    with pytest.raises(ValueError, match=f"would have {limit:,} bytes"):
        store(source, target, half=False, max_bytes=limit - 1)
    assert not target.exists()
    with pytest.raises(ValueError, match="weights too large for 16 bits: backbone"):
        store(package_of(tmp_path, 1e8), target, half=True, max_bytes=None)
    assert not target.exists()


def test_sections_are_replaced_in_their_order(tmp_path: Path, scripts: None) -> None:
    from release_card import write_section

    page = tmp_path / "README.md"
    page.write_text("# Weights\n\nThe beginning.\n")
    write_section(page, "detseg_n_bccd", "cells")
    write_section(page, "letnet_camvid", "roads\n")
    write_section(page, "detseg_n_bccd", "more cells")
    assert (
        page.read_text()
        == "# Weights\n\nThe beginning.\n\n## letnet_camvid\n\nroads\n\n## detseg_n_bccd\n\nmore cells\n"
    )


def test_means_leave_out_what_has_no_truth(scripts: None) -> None:
    from release_runs import mean_figures

    several = [{"Dice": 0.5, "Dice/a": -1.0, "HD95": 2.0}, {"Dice": 0.75, "Dice/a": 0.25}, {"Dice/b": -1.0}]
    assert mean_figures(several) == {"Dice": 0.625, "Dice/a": 0.25, "HD95": 2.0, "Dice/b": -1.0}


def test_speed_is_that_of_the_typical_epoch(tmp_path: Path, scripts: None) -> None:
    """The second epoch was interrupted: its record has the seconds of its last part only."""
    from release_runs import Run

    config = load_config(RunConfig, REPOSITORY / "configs/detection/shapes.yaml", ["train.accumulate=2"])
    written = [
        {"epoch": 0, "step": 10, "train_seconds": 4.0, "wait_seconds": 1.0},
        {"epoch": 1, "step": 20, "train_seconds": 1.0, "wait_seconds": 0.0, "eval_seconds": 3.0},
        {"epoch": 2, "step": 30, "train_seconds": 5.0, "wait_seconds": 1.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in written))
    speed = Run(tmp_path, config, {}).speed
    # 10 steps of 2 batches of 8 in 4 seconds; 2.5 of 10 seconds; 10 and 3 seconds
    assert (speed.images_per_second, speed.waiting, speed.seconds) == (40.0, 0.25, 13.0)


def test_another_recipe_does_not_go_on_with_a_training(tmp_path: Path, scripts: None) -> None:
    from release_runs import complete

    path = REPOSITORY / "configs/detection/shapes.yaml"
    tiny = ["train.epochs=1", "task.input.height=32", "task.input.width=32", "train.num_threads=1"]
    first = complete(path, tiny, tmp_path / "run", "cpu", None)
    assert complete(path, tiny, tmp_path / "run", "cpu", None).figures == first.figures != {}
    for changed in ("augment.mosaic=0.25", "train.seed=1", "model.neck.depth=0.5", "task.postprocess.iou=0.5"):
        with pytest.raises(ValueError, match="holds a training with other settings"):
            complete(path, [*tiny, changed], tmp_path / "run", "cpu", None)
    # Of two settings of one key, the last counts.
    assert complete(path, ["train.epochs=3", *tiny], tmp_path / "run", "cpu", None).figures == first.figures
