"""Loggers that a run can be told to keep, by name in ``train.loggers``: a table, TensorBoard, Weights & Biases, MLflow.

All of them hear of a run by the one protocol, :class:`detseg.engine.logging.callbacks.Callback`. Nothing leaves the
machine unless the user's own settings of those programs say so: without ``WANDB_MODE`` W&B is offline, without
``MLFLOW_TRACKING_URI`` MLflow writes into the folder of the run, and neither reports of its use.
"""

from __future__ import annotations

import csv
import io
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detseg.engine.logging.callbacks import Callback, RunStart, TensorBoardLogger
from detseg.engine.logging.log import RECORDS_NAME, read_records
from detseg.files import read_text, storable, write_text
from detseg.structures import Metrics

_MOST_IMAGES = 12


class CsvLogger(Callback):
    """``metrics.csv``: a row for each epoch, a column for each number of ``metrics.jsonl``, whole after every epoch."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._records: list[Mapping[str, Any]] = []

    def on_start(self, run: RunStart) -> None:
        """Take up what an earlier process has left."""
        self._path = run.run_dir / "metrics.csv"
        self._records = list(read_records(run.run_dir / RECORDS_NAME))

    def on_epoch(self, record: Mapping[str, Any]) -> None:
        """One more row."""
        assert self._path is not None
        self._records.append(record)
        # An epoch without evaluation has fewer numbers; its cells are empty.
        columns = list(dict.fromkeys(name for one in self._records for name, value in one.items() if _is_number(value)))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._records)
        write_text(self._path, text.getvalue())


class WandbLogger(Callback):
    """Weights & Biases: offline in the folder of the run, unless ``WANDB_MODE`` says otherwise. The project is
    ``WANDB_PROJECT``, or detseg."""

    def __init__(self) -> None:
        self._run: Any = None

    def on_start(self, run: RunStart) -> None:
        """Begin, or go on with, the run.

        Raises:
            ModuleNotFoundError: the extra ``wandb`` is not installed.
        """
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "train.loggers: wandb is not installed: pip install 'detseg[wandb]', or leave it out"
            ) from error
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "detseg"),
            name=run.run_dir.name,
            id=_remembered(run.run_dir / "wandb.id", lambda: uuid.uuid4().hex[:8]),
            dir=str(run.run_dir),
            mode=None if os.environ.get("WANDB_MODE") else "offline",
            config={**run.config, **_facts(run)},
            resume="allow" if os.environ.get("WANDB_MODE") == "online" else None,
            reinit="finish_previous",
        )

    def on_epoch(self, record: Mapping[str, Any]) -> None:
        """One point on each curve."""
        self._run.log(_numbers(record), step=int(record["epoch"]))

    def on_result(self, run_dir: Path, metrics: Metrics) -> None:
        """The numbers of the best model, and images of what it finds."""
        import wandb

        self._run.summary.update({f"best/{name}": value for name, value in metrics.items()})
        images = [wandb.Image(str(path), caption=storable(path.stem)) for path in _images(run_dir)]
        if images:
            self._run.log({"validation": images})

    def on_close(self) -> None:
        """Complete the run."""
        if self._run is not None:
            self._run.finish()


class MlflowLogger(Callback):
    """MLflow: in the folder ``mlruns`` of the run, unless ``MLFLOW_TRACKING_URI`` names another place. The experiment
    is ``MLFLOW_EXPERIMENT_NAME``, or detseg."""

    def __init__(self) -> None:
        self._client: Any = None
        self._run_id = ""
        self._is_whole = False

    def on_start(self, run: RunStart) -> None:
        """Begin, or go on with, the run.

        Raises:
            ModuleNotFoundError: the extra ``mlflow`` is not installed.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        where = os.environ.get("MLFLOW_TRACKING_URI")
        if where is None:
            where = (run.run_dir / "mlruns").absolute().as_uri()
            # Files need no database and no server; MLflow asks that this be said.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        try:
            from mlflow import MlflowClient
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "train.loggers: mlflow is not installed: pip install 'detseg[mlflow]', or leave it out"
            ) from error
        self._client = MlflowClient(tracking_uri=where)
        self._run_id = _remembered(run.run_dir / "mlflow.id", lambda: self._begin(run))
        self._client.update_run(self._run_id, status="RUNNING")

    def on_epoch(self, record: Mapping[str, Any]) -> None:
        """One point on each curve."""
        for name, value in _numbers(record).items():
            self._client.log_metric(self._run_id, _allowed(name), value, step=int(record["epoch"]))

    def on_result(self, run_dir: Path, metrics: Metrics) -> None:
        """The numbers of the best model, the report, and images of what it finds."""
        for name, value in metrics.items():
            self._client.log_metric(self._run_id, _allowed(f"best/{name}"), value)
        if (run_dir / "report.html").exists():
            self._client.log_artifact(self._run_id, str(run_dir / "report.html"))
        for path in _images(run_dir):
            self._client.log_artifact(self._run_id, str(path), "validation")
        self._is_whole = True

    def on_close(self) -> None:
        """Say how the run ended."""
        if self._client is not None and self._run_id:
            self._client.set_terminated(self._run_id, "FINISHED" if self._is_whole else "KILLED")

    def _begin(self, run: RunStart) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "detseg")
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known is not None else self._client.create_experiment(name)
        run_id: str = self._client.create_run(experiment, run_name=run.run_dir.name).info.run_id
        for key, value in {**_flat(run.config), **_facts(run)}.items():
            self._client.log_param(run_id, _allowed(key), storable(str(value))[:500])
        return run_id


LOGGERS: dict[str, type[Callback]] = {
    "csv": CsvLogger,
    "tensorboard": TensorBoardLogger,
    "wandb": WandbLogger,
    "mlflow": MlflowLogger,
}
"""What ``train.loggers`` may name."""


def make_loggers(names: Sequence[str]) -> list[Callback]:
    """A logger for each of ``names``."""
    return [LOGGERS[name]() for name in dict.fromkeys(names)]


def _remembered(path: Path, make: Any) -> str:
    """What ``path`` holds, so that a run that goes on is the same one; else what ``make`` gives, kept there."""
    if path.exists():
        return read_text(path).strip()
    made: str = make()
    write_text(path, made + "\n")
    return made


def _facts(run: RunStart) -> dict[str, Any]:
    return {
        "num_parameters": run.num_parameters,
        "num_train": run.num_train,
        "num_val": run.num_val,
        "num_classes": len(run.class_names),
    }


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in record.items() if name not in ("epoch", "step") and _is_number(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their full keys, as on the command line."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat


def _allowed(name: str) -> str:
    """``name`` in letters that MLflow takes: class names may hold any. Its files cannot be called ``loss`` where a
    folder is, as for ``loss/box``, so a dot stands for the slash."""
    return "".join(one if one.isalnum() or one in "_-. " else "." if one == "/" else "_" for one in name)[:250]


def _images(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "images").glob("*.jpg"))[:_MOST_IMAGES]
