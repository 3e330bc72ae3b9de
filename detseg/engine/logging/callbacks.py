"""What is told of a training run as it goes on: the user's own code, and loggers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detseg.config_files import to_yaml
from detseg.files import storable
from detseg.runtime.media.images import read_image
from detseg.structures import Metrics

_NUM_IMAGES = 12


@dataclass(frozen=True)
class RunStart:
    """A run that is about to train: where it writes, its resolved configuration as plain data, and what it is made of.

    ``num_epochs_done`` is above 0 where it goes on.
    """

    run_dir: Path
    config: Mapping[str, Any]
    class_names: tuple[str, ...]
    num_parameters: int
    num_train: int
    num_val: int
    num_epochs_done: int = 0


class Callback:
    """Derive from it and define what you want to hear of; the rest does nothing. Called in the main process only.

    An error in a callback ends the run, whose state is saved; go on with ``resume``.
    """

    def on_start(self, run: RunStart) -> None:
        """Training begins."""

    def on_epoch(self, record: Mapping[str, Any]) -> None:
        """An epoch is over. ``record`` is what ``metrics.jsonl`` says of it: ``epoch`` (from 1), ``step``, ``loss``,
        ``loss/<part>``, ``learning_rate``, seconds, and the metrics where it was evaluated."""

    def on_result(self, run_dir: Path, metrics: Metrics) -> None:
        """The run is over; ``metrics`` are those of its best model, all files are written."""

    def on_close(self) -> None:
        """The run ends, in whatever way: close what is open."""


class TensorBoardLogger(Callback):
    """Curves of all numbers of a run in its folder ``tensorboard``, its configuration, images of what the best model
    finds, and its settings beside its metrics, where several runs can be compared."""

    def __init__(self) -> None:
        self._board: Any = None
        self._run: RunStart | None = None

    def on_start(self, run: RunStart) -> None:
        """Open the log; what it has of epochs that are done again is hidden."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self._run = run
        self._board = SummaryWriter(str(run.run_dir / "tensorboard"), purge_step=run.num_epochs_done + 1)
        self._board.add_text(
            "configuration", "".join(f"    {line}\n" for line in storable(to_yaml(run.config)).splitlines())
        )

    def on_epoch(self, record: Mapping[str, Any]) -> None:
        """One point on each curve."""
        for name, value in record.items():
            if name not in ("epoch", "step") and isinstance(value, int | float):
                self._board.add_scalar(name, value, int(record["epoch"]))
        self._board.flush()

    def on_result(self, run_dir: Path, metrics: Metrics) -> None:
        """Images, and settings with metrics."""
        from torch.utils.tensorboard.summary import hparams

        for path in sorted((run_dir / "images").glob("*.jpg"))[:_NUM_IMAGES]:
            self._board.add_image(storable(f"validation/{path.stem}"), read_image(path), dataformats="HWC")
        assert self._run is not None
        best = {f"best/{name}": value for name, value in metrics.items() if "/" not in name}
        # In the file of the run itself; add_hparams would begin another run.
        for summary in hparams(_plain_settings(self._run.config), best):  # type: ignore[no-untyped-call]
            self._board.file_writer.add_summary(summary)
        for name, value in best.items():
            self._board.add_scalar(name, value)
        self._board.flush()

    def on_close(self) -> None:
        """Flush and close."""
        if self._board is not None:
            self._board.close()


def _plain_settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings that are one number, text or truth value, by their full keys."""
    plain: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            plain |= _plain_settings(value, f"{prefix}{key}.")
        elif isinstance(value, bool | int | float | str):
            plain[f"{prefix}{key}"] = storable(value) if isinstance(value, str) else value
    return plain
