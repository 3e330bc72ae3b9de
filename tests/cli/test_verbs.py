"""The command line: in this process where that shows the same, in real ones where signals or their number matter."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from detseg import __version__
from detseg.cli.verbs import EXIT_USER_ERROR, main
from detseg.models.backbones.csp_darknet import CSPDarknetConfig
from detseg.models.detector import DetectorConfig
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.weights import released
from detseg.tasks.detection import DetectionTaskConfig
from detseg.tasks.model_file import ModelFileConfig, save_model_file

TINY = """
model: {name: detector, backbone: {name: csp_darknet, width: 0.125}}
task: {name: detection, input: {height: 64, width: 64}}
data: {path: data/shapes.yaml, num_workers: 0}
train:
  epochs: 1
  batch_size: 4
  num_threads: 1
  device: cpu
  optimizer: {learning_rate: 1.0e-3}
"""
SHAPES = """
format: shapes
image_size: 64
num_train: 8
num_val: 4
min_objects: 1
max_objects: 2
min_side: 16
max_side: 30
"""
VERBS = {
    "check": ["DATA", "data", "--format", "--preview"],
    "split": ["--ratios", "--seed", "--output"],
    "config": ["KEY"],
    "configs": [],
    "train": ["MODEL --data DATA", "[key.sub=value ...]", "--resume", "--epochs", "--batch", "--output", "torchrun"],
    "eval": ["--weights", "--data", "--split", "--json", "--conf", "--device", "--size", "--flip", "--official"],
    "predict": ["SOURCE", "--save", "--conf", "--iou", "--device", "--fps"],
    "convert": ["FILE.safetensors", "--names", "--config", "--json"],
    "download": ["[NAME ...]", "--to", "--url"],
}
RUN_FILES = {"best.safetensors", "last.safetensors", "config.yaml", "metrics.json", "metrics.jsonl", "history.png"}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration of a run of two steps, in the current folder."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shapes.yaml").write_text(SHAPES)
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "tiny.yaml"


def detseg(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def exit_code_of(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of("--help") == 0
    text = capsys.readouterr().out
    assert all(f"\n    {verb} " in text for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(verb, "--help") == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: detseg {verb} ")
    assert all(word.lower() in text.lower() for word in VERBS[verb])


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of("--version") == 0
    assert capsys.readouterr().out == f"detseg {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "VERB"),
        (["learn"], "invalid choice: 'learn'"),
        (["train", "a.yaml", "--rezume", "x"], "unknown arguments: --rezume x"),
        (["eval", "a.safetensors", "b.safetensors"], "unknown arguments: b.safetensors"),
        (["train", "c2f_n", "--imgsz", "640"], "--imgsz; in detseg this is task.input.height and task.input.width"),
        (["predict", "a.safetensors", "b.png", "--save-txt"], "--save-txt; in detseg this is --save yolo"),
        (["train", "c2f_n", "--epochs", "0"], "expected a whole number of at least 1, got '0'"),
        (["train", "c2f_n", "--batch", "many"], "expected a whole number of at least 1, got 'many'"),
        (["predict", "a.safetensors"], "SOURCE"),
        (["predict", "a.safetensors", "b.png", "--conf", "high"], "invalid float value: 'high'"),
        (
            ["eval", "a.safetensors", "--size", "0x64"],
            "expected height x width, such as 360x480, or one number, got '0x64'",
        ),
        (["eval", "a.safetensors", "--scales", "1;2"], "expected numbers such as 0.75,1.0,1.25, got '1;2'"),
    ],
)
def test_usage_errors(arguments: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(*arguments) == EXIT_USER_ERROR
    assert message in capsys.readouterr().err


def test_a_mistake_is_one_line_and_exit_code_2(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases: list[tuple[list[object], str]] = [
        (["train", tiny, "train.epoch=3"], "detseg train: command line: train.epoch: unknown key"),
        (["train", tiny, "train.epochs=many"], "train.epochs"),
        (["train", tiny, "train.epochs=0"], "epochs must be at least 1, got 0"),
        (["train"], "detseg train: nothing to train is named: give a configuration or weights, such as c2f_n"),
        (["train", "train.epochs=3"], "nothing to train is named"),
        (["train", "nowhere.yaml"], "no configuration at nowhere.yaml; "),
        (["train", "c2f_nn", "--data", "shapes"], "nothing to train is called c2f_nn; did you mean c2f_n or "),
        (["train", "shapes", "--data", "shapes"], "say which: detection/shapes, instance/shapes, semantic/shapes"),
        (["train", "c2f_n"], "no data is named; give a folder or a YAML with --data, or --data shapes"),
        (["train", "vnet_s", "--data", "blobs", "--size", "64"], "--size: the task volume has no input size"),
        (["train", tiny, "imgsz=640"], "imgsz: unknown key; in detseg this is task.input.height and task.input.width"),
        (["train", tiny, "train.lr0=0.1"], "in detseg this is train.optimizer.learning_rate"),
        (["train", tiny, "--epochs", "3", "train.epochs=4"], "train.epochs is given twice"),
        (["train", tiny, "--device", "0,1"], "2 GPUs: CUDA_VISIBLE_DEVICES=0,1 torchrun --nproc-per-node 2"),
        (["train", tiny, "--device", "gpu"], "device gpu is not known; it may be auto, cpu, cuda"),
        (["train", tiny, "other.yaml"], f"got 2 things to train: {tiny}, other.yaml; name one"),
        (["train", "--resume", "nowhere"], "nowhere holds no config.yaml"),
        (
            ["train", "--resume", "nowhere", "train.seed=3"],
            "goes on with the run as it was begun, got train.seed=3",
        ),
        (["train", "--resume", "nowhere", "--size", "64"], "got --size; only data.path"),
        (["train", "--resume", "nowhere", "--seed", "1"], "To train longer: --resume nowhere --epochs N"),
        (["train", "--resume", "nowhere", "-o", "there"], "as it was begun, got -o"),
        (["train", tiny, "--resume", "nowhere"], f"as it was begun, got {tiny}"),
        (["eval", "nowhere.safetensors", "--data", "shapes"], "detseg eval: no model file at nowhere.safetensors"),
        (["eval", "nowhere.safetensors"], "name the data to evaluate on: --data"),
        (["eval", tiny], "name the weights to evaluate with --weights FILE"),
        (["predict", "nowhere.safetensors", tiny], "detseg predict: "),
        (["predict", "nowhere", tiny], "no model file at nowhere, and no released weights are called nowhere; "),
        (["eval", "nowhere", "--data", "shapes"], "no model file at nowhere, and no released weights"),
        (["export", "nowhere"], "no model file at nowhere, and no released weights"),
        (["download", "nowhere"], "detseg download: no released weights are called nowhere; "),
        (["download", "--to", "there"], "detseg download: name the weights to download"),
        (["check", "nowhere"], "detseg check: "),
        (["convert", "nowhere.pt", "-o", "a.safetensors"], "detseg convert: no file at nowhere.pt"),
        (["convert", tiny, "-o", "a.safetensors"], "must end in .pt, .pth, .onnx"),
    ]
    for arguments, message in cases:
        assert detseg(*arguments) == EXIT_USER_ERROR == 2, arguments
        said = capsys.readouterr()
        assert message in said.err, arguments
        assert len(said.err.splitlines()) == 1, arguments
        assert "Traceback" not in said.err
    assert sorted(path.name for path in tiny.parent.iterdir()) == ["data", "tiny.yaml"]


def test_an_unknown_key_is_told_where_it_stands_and_what_is_near(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.write_text(TINY + "  patiense: 3\n")
    assert detseg("train", tiny) == EXIT_USER_ERROR
    error = capsys.readouterr().err
    assert "tiny.yaml: train.patiense: unknown key" in error
    assert "patience" in error


def test_a_traceback_on_request(tiny: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.epoch"):
        detseg("--traceback", "train", tiny, "train.epoch=3")


ORDERS = [
    "CONFIG -o DIR train.seed=7 train.ema=null",
    "CONFIG train.seed=7 -o DIR train.ema=null",
    "CONFIG train.seed=7 train.ema=null -o DIR",
    "-o DIR CONFIG train.seed=7 train.ema=null",
    "train.seed=7 CONFIG -o DIR train.ema=null",
    "train.seed=7 -o DIR CONFIG train.ema=null",
    "train.seed=7 --output=DIR train.ema=null CONFIG",
]


@pytest.mark.parametrize("order", ORDERS)
def test_words_of_train_in_any_order(order: str, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A part that no model has ends the command after it has understood its words.
    words = order.replace("CONFIG", str(tiny)).replace("DIR", "elsewhere").split()
    assert main(["train", *words, "train.freeze=[everything]"]) == EXIT_USER_ERROR
    assert "the model has no part 'everything'" in capsys.readouterr().err
    assert detseg("train", *words, "train.batch_size=none") == EXIT_USER_ERROR
    assert "train.batch_size" in capsys.readouterr().err


def test_train_eval_predict_check(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny.parent
    # Without -o the folders are numbered.
    for name in ("tiny", "tiny-9", "tiny-old"):
        (folder / "runs" / name).mkdir(parents=True)
    assert detseg("train", tiny, "train.seed=7") == 0
    run_dir = Path("runs/tiny-10")
    assert {path.name for path in run_dir.iterdir()} >= RUN_FILES
    assert "seed: 7" in (run_dir / "config.yaml").read_text()
    model = run_dir / "best.safetensors"
    assert f"best model: {model}" in capsys.readouterr().out

    evaluated = folder / "evaluated"
    options = ["--data", "data/shapes.yaml", "--workers", 0, "--device", "cpu", "--json", "m.json", "-o", evaluated]
    assert detseg("eval", model, *options) == 0
    said = capsys.readouterr().out
    assert said.startswith("4 images of data/shapes.yaml, split val\n")
    assert "AP_medium" in said
    trained = json.loads((run_dir / "metrics.json").read_text())
    assert json.loads((folder / "m.json").read_text()) == trained
    assert json.loads((evaluated / "metrics.json").read_text()) == trained
    assert json.loads((evaluated / "detections.json").read_text()) == json.loads(
        (run_dir / "detections.json").read_text()
    )
    assert detseg("eval", tiny, "--weights", model, "--workers", 0, "--device", "cpu", "--json", "n.json") == 0
    assert json.loads((folder / "n.json").read_text()) == trained

    images = [run_dir / "history.png", run_dir / "confusion_matrix.png"]
    assert detseg("predict", model, *images, "-o", "seen", "--conf", 0.0001, "--max-det", 4, "--device", "cpu") == 0
    assert {path.name for path in (folder / "seen").iterdir()} == {
        "history.png", "confusion_matrix.png", "detections.json", "detections_images.json", "sources.json"
    }  # fmt: skip
    assert 0 < len(json.loads((folder / "seen" / "detections.json").read_text())) <= 8

    (folder / "broken.png").write_bytes(images[0].read_bytes()[:300])
    assert detseg("predict", model, images[0], "broken.png", "-o", "again", "--save", "image") == 1
    assert {path.name for path in (folder / "again").iterdir()} == {"history.png", "errors.jsonl", "sources.json"}

    assert detseg("check", "data/shapes.yaml", "--preview", "preview", "--config", tiny, "--json", "findings.json") == 0
    assert json.loads((folder / "findings.json").read_text())["exit_code"] == 0
    assert list((folder / "preview").iterdir())


def save_untrained(path: Path) -> Path:
    """The network of ``TINY`` as it is before it has learned anything."""
    config = ModelFileConfig(
        DetectorConfig(backbone=CSPDarknetConfig(width=0.125)),
        DetectionTaskConfig(input=InputSpec(64, 64)),
        ("circle", "square", "triangle"),
        (1, 2, 3),
    )
    torch.manual_seed(0)
    save_model_file(path, config.build()[0].state_dict(), config)
    return path


@pytest.fixture
def released_tiny(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """``tiny_shapes`` is released, with weights that have learned nothing; the address of its file."""
    folder = tiny.parent
    made = save_untrained(folder / "served" / "tiny_shapes.safetensors")
    monkeypatch.setattr(released, "TABLE", folder / "released.yaml")
    monkeypatch.setenv("DETSEG_WEIGHTS", str(folder / "mine"))
    (folder / "released.yaml").write_text("url: null")
    size = made.stat().st_size
    release = released.Release(made.name, released.sha256_of(made), size, "detection", "shapes", "Apache-2.0", "AP 0")
    released.add_release("tiny_shapes", release)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(made.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_released_weights_by_name(released_tiny: str, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("predict", "eval", "export"):
        assert detseg(verb, "tiny_shapes", *{"predict": [tiny], "eval": ["--data", "data/shapes.yaml"]}.get(verb, []))
        assert "get them: detseg download tiny_shapes" in capsys.readouterr().err
    assert detseg("download", "tiny_shapes", "--url", released_tiny) == 0
    mine = tiny.parent / "mine" / "tiny_shapes.safetensors"
    assert capsys.readouterr().out.startswith(f"tiny_shapes: {mine}, ")
    assert detseg("download") == 0
    assert f"  here:    {mine}\n" in capsys.readouterr().out

    on_cpu = ["--device", "cpu"]
    options = ["--data", "data/shapes.yaml", "--workers", 0, *on_cpu]
    for model in ("tiny_shapes", mine):
        assert detseg("eval", model, *options, "--json", f"{Path(model).stem}-{model == mine}.json") == 0
    assert Path("tiny_shapes-False.json").read_text() == Path("tiny_shapes-True.json").read_text()
    image = Path("image.png")
    assert cv2.imwrite(str(image), np.full((64, 64, 3), 90, np.uint8))
    assert detseg("predict", "tiny_shapes", image, "-o", "seen", *on_cpu) == 0
    assert Path("seen/image.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "name"), [([], "tiny_shapes.onnx"), (["--precision", "fp16"], "tiny_shapes_fp16.onnx")]
)
def test_released_weights_are_exported_to_the_current_folder(
    options: list[str], name: str, released_tiny: str, tiny: Path
) -> None:
    assert detseg("download", "tiny_shapes", "--url", released_tiny) == 0
    assert detseg("export", "tiny_shapes", *options) == 0
    assert Path(name).is_file()
    mine = tiny.parent / "mine"
    assert list(mine.iterdir()) == [mine / "tiny_shapes.safetensors"]


def test_check_shapes(capsys: pytest.CaptureFixture[str]) -> None:
    assert detseg("check", "shapes", "--fast") == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("circle", "square", "triangle", "train", "val", "test"))


def test_some_splits_are_looked_at_and_put_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    for seed, (split, count) in enumerate((("train", 3), ("valid", 2), ("test", 1))):
        (root / split / "images").mkdir(parents=True)
        (root / split / "labels").mkdir()
        for number in range(count):
            pixels = np.random.default_rng([seed, number]).integers(0, 256, (32, 32, 3), np.uint8)
            cv2.imwrite(str(root / split / "images" / f"{number}.png"), pixels)
            (root / split / "labels" / f"{number}.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    (root / "classes.txt").write_text("cat\n")
    assert main(["check", str(root), "--splits", "train, val"]) == 0
    assert "images" in (lines := capsys.readouterr().out.splitlines())[-3]
    assert lines[-3].split() == ["images", "3", "2"]
    assert main(["split", str(root), "--ratios", "3:2", "--splits", "train,val", "-o", str(tmp_path / "new")]) == 0
    assert "images               3    2" in capsys.readouterr().out
    assert main(["split", str(root), "--splits", "train,extra", "-o", str(tmp_path / "none")]) == 2
    assert "no split 'extra'; there is test, train, valid" in capsys.readouterr().err


def test_check_finds_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {
        "images": [{"id": 1, "file_name": "missing.png", "height": 20, "width": 20}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "area": 25, "iscrowd": 0}],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(content))
    assert detseg("check", tmp_path) == 2
    assert "missing.png" in capsys.readouterr().out


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """``start("detseg", ...)`` is a process of its own; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Until ``path`` is there and not empty."""
    while not (path.exists() and path.stat().st_size):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_ends_a_run_that_can_be_resumed(
    tiny: Path,
    start: Callable[..., subprocess.Popen[str]],
    number: signal.Signals,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_dir, weights = tiny.parent / "run", save_untrained(tiny.parent / "weights.safetensors")
    process = start("detseg", "train", tiny, "-o", run_dir, "train.epochs=6", f"train.weights={weights}")
    wait_for(run_dir / "metrics.jsonl", process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 75, errors
    assert f"stopped by {number.name} in epoch " in errors
    assert f"go on with: detseg train --resume {run_dir}" in errors
    num_done = len((run_dir / "metrics.jsonl").read_text().splitlines())
    assert 1 <= num_done < 6
    assert not (run_dir / "metrics.json").exists()

    # What it began from is in its state by now.
    weights.unlink()
    assert detseg("train", "--resume", run_dir) == EXIT_USER_ERROR
    assert f"train.weights: {str(weights)!r} not found" in capsys.readouterr().err
    assert detseg("train", "--resume", run_dir, "data.num_workers=1", "train.weights=null") == 0
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert {path.name for path in run_dir.iterdir()} >= RUN_FILES


def test_two_processes_make_one_run(tiny: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    address = ["--master-addr", "127.0.0.1", "--master-port", free_port()]
    launcher = ["torch.distributed.run", "--nproc-per-node", 2, *address, "-m"]
    process = start(*launcher, "detseg", "train", tiny, "train.epochs=2")
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    runs = tiny.parent / "runs"
    assert [path.name for path in runs.iterdir()] == ["tiny"]
    assert {path.name for path in (runs / "tiny").iterdir()} >= RUN_FILES
    assert output.count("best model: ") == 1
    lines = [json.loads(line) for line in (runs / "tiny" / "metrics.jsonl").read_text().splitlines()]
    # 8 images in batches of 4, whatever the number of processes
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 2), (2, 4)]
    # All four images were judged: one process alone finds the same on the same weights.
    model = runs / "tiny" / "best.safetensors"
    options = ["--data", "data/shapes.yaml", "--workers", 0, "--device", "cpu", "--batch-size", 2, "-o", "alone"]
    assert detseg("eval", model, *options) == 0
    together, alone = (
        json.loads((folder / "detections.json").read_text()) for folder in (runs / "tiny", tiny.parent / "alone")
    )
    assert {result["image_id"] for result in together} == {1, 2, 3, 4}
    assert len(together) == pytest.approx(len(alone), rel=0.02)
    metrics, expected = (
        json.loads((folder / "metrics.json").read_text()) for folder in (runs / "tiny", tiny.parent / "alone")
    )
    assert metrics == pytest.approx(expected, abs=0.01)
