from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.config import ConfigError, load_config
from detseg.engine.logging.callbacks import Callback, RunStart, TensorBoardLogger
from detseg.engine.logging.loggers import LOGGERS, CsvLogger, MlflowLogger, WandbLogger, make_loggers
from detseg.engine.settings import TrainConfig
from detseg.runtime.media.images import write_image
from detseg.structures import Metrics

FIRST = {"epoch": 1, "step": 3, "loss": 2.5, "loss/box": 1.5, "learning_rate": 0.1, "skipped": ["a.png"]}
SECOND = {"epoch": 2, "step": 6, "loss": 2.0, "loss/box": 1.0, "learning_rate": 0.05, "AP": 0.25, "AP/red, blue": 0.5}
BEST = Metrics({"AP": 0.25, "AP/red, blue": 0.5}, primary="AP")


def tell(loggers: list[Callback], run_dir: Path) -> None:
    """All that a run of two epochs tells."""
    run_dir.mkdir(parents=True, exist_ok=True)
    for number in range(2):
        write_image(run_dir / "images" / f"{number:06d}_a.jpg", np.full((24, 32, 3), 90, np.uint8))
    (run_dir / "report.html").write_text("<p>report</p>")
    start = RunStart(run_dir, {"train": {"epochs": 2, "freeze": []}, "model": {"name": "x"}}, ("red, blue",), 10, 8, 4)
    for logger in loggers:
        logger.on_start(start)
    for record in (FIRST, SECOND):
        with (run_dir / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        for logger in loggers:
            logger.on_epoch(record)
    for logger in loggers:
        logger.on_result(run_dir, BEST)
        logger.on_close()


def test_a_table_of_all_epochs(tmp_path: Path) -> None:
    tell([CsvLogger()], tmp_path)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "step", "loss", "loss/box", "learning_rate", "AP", "AP/red, blue"]
    assert [(row["epoch"], row["loss"], row["AP"]) for row in rows] == [("1", "2.5", ""), ("2", "2.0", "0.25")]
    # A run that goes on keeps the rows that are there.
    later = CsvLogger()
    later.on_start(RunStart(tmp_path, {}, (), 1, 1, 1, 2))
    later.on_epoch({"epoch": 3, "step": 9, "loss": 1.0})
    assert [row.split(",")[0] for row in (tmp_path / "metrics.csv").read_text().splitlines()] == [
        "epoch",
        "1",
        "2",
        "3",
    ]


def test_tensorboard_has_curves_images_and_settings(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tell([TensorBoardLogger()], tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags: dict[str, Any] = events.Tags()
    assert {"loss", "loss/box", "learning_rate", "AP", "best/AP"} <= set(tags["scalars"])
    assert [(point.step, point.value) for point in events.Scalars("learning_rate")] == [
        (1, pytest.approx(0.1)), (2, pytest.approx(0.05)),
    ]  # fmt: skip
    assert tags["images"] == ["validation/000000_a", "validation/000001_a"]
    assert "epochs: 2" in events.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "_hparams_/session_start_info" in events.summary_metadata
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1, "one run, not one more for its settings"


def test_loggers_are_chosen_by_name(tmp_path: Path) -> None:
    assert [type(one) for one in make_loggers(["csv", "tensorboard", "csv"])] == [CsvLogger, TensorBoardLogger]
    (tmp_path / "config.yaml").write_text("loggers: [csv, comet]\n")
    with pytest.raises(ConfigError, match="comet"):
        load_config(TrainConfig, tmp_path / "config.yaml")
    assert set(LOGGERS) == {"csv", "tensorboard", "wandb", "mlflow"}


@pytest.mark.parametrize(("logger", "package"), [(WandbLogger, "wandb"), (MlflowLogger, "mlflow")])
def test_what_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logger: type[Callback], package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{package} is not installed: pip install 'detseg\[{package}\]'"):
        logger().on_start(RunStart(tmp_path, {}, (), 1, 1, 1))


@pytest.mark.slow
def test_mlflow_keeps_a_run_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from mlflow import MlflowClient

    tell([MlflowLogger()], tmp_path / "run")
    client = MlflowClient(tracking_uri=(tmp_path / "run" / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("detseg").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["train.epochs"] == "2"
    assert run.data.params["num_train"] == "8"
    assert [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "loss")] == [
        (1, 2.5), (2, 2.0),
    ]  # fmt: skip
    assert run.data.metrics["best.AP.red_ blue"] == 0.5
    assert {one.path for one in client.list_artifacts(run.info.run_id)} == {"report.html", "validation"}
    # A run that goes on is the same one.
    again = MlflowLogger()
    again.on_start(RunStart(tmp_path / "run", {}, (), 1, 1, 1, 2))
    again.on_close()
    assert [one.info.status for one in client.search_runs([run.info.experiment_id])] == ["KILLED"]


@pytest.mark.slow
def test_wandb_stays_offline(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "import test_loggers as here\n"
        "here.tell([here.WandbLogger()], Path(sys.argv[1]))\n"
        "import wandb; print(wandb.run)\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    command = [sys.executable, "-c", code, str(tmp_path / "run"), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    (record,) = folder.glob("run-*.wandb")
    content = record.read_bytes()
    # The names of curves and settings are in the record as they are.
    for name in (b"learning_rate", b"best/AP", b"loss/box", b"num_parameters"):
        assert name in content
    assert list((folder / "files" / "media" / "images").glob("*.jpg"))
