"""What a run says while it goes on: progress bar, ``metrics.jsonl``, TensorBoard and curves."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from detseg.files import write_text

RECORDS_NAME = "metrics.jsonl"
LOG_NAME = "log.txt"


def write_line(run_dir: Path, text: str) -> None:
    """Add ``text`` with the time to the ``log.txt`` of a run."""
    with (run_dir / LOG_NAME).open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S%z} {text}\n")


class StepBar:
    """The bar of one epoch; ``update`` moves it by one step and shows the loss parts."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def update(self, parts: Mapping[str, float]) -> None:
        """One step is done; ``parts`` are the means of the epoch so far."""
        self._bar.set_postfix({name: f"{value:.3f}" for name, value in parts.items()}, refresh=False)
        self._bar.update()


class RunLog:
    """Writes the records of one run to ``run_dir``; with ``enabled`` False (not the main process) nothing.

    ``num_epochs_done``: records of later epochs, left by a process that was killed before it saved its state, are
    dropped.
    """

    def __init__(self, run_dir: Path, *, enabled: bool = True, num_epochs_done: int = 0, bar: bool = True) -> None:
        self.run_dir = run_dir
        self.path = run_dir / RECORDS_NAME
        self.enabled = enabled
        self.bar = bar and enabled
        self._said: set[str] = set()
        self._board: Any = None
        if enabled:
            kept = [record for record in read_records(self.path) if record["epoch"] < num_epochs_done]
            write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=num_epochs_done)

    @contextmanager
    def epoch_bar(self, epoch: int, num_epochs: int, num_steps: int, done: int) -> Iterator[StepBar]:
        """The progress bar of one epoch."""
        description = f"epoch {epoch + 1}/{num_epochs}"
        with tqdm(
            total=num_steps, initial=done, desc=description, unit="step", disable=not self.bar, leave=False
        ) as bar:
            yield StepBar(bar)

    def epoch_record(self, record: Mapping[str, Any]) -> None:
        """One line of ``metrics.jsonl``, one point on each curve of TensorBoard, one line on the screen; what is no
        number stands in the first only."""
        if not self.enabled:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(record)) + "\n")
        for name, value in record.items():
            if name not in ("epoch", "step", "skipped"):
                self._board.add_scalar(name, value, int(record["epoch"]))
        self._board.flush()
        if self.bar:
            hidden = ("epoch", "step", "learning_rate", "wait_seconds", "eval_seconds", "num_skipped", "skipped")
            shown = [name for name in record if "/" not in name and name not in hidden]
            tqdm.write(f"epoch {record['epoch'] + 1}: " + "  ".join(f"{name} {record[name]:.4g}" for name in shown[:5]))

    def warn(self, text: str) -> None:
        """Say what the user should look at, once: as a warning on the screen, and in ``log.txt``."""
        if not self.enabled or text in self._said:
            return
        self._said.add(text)
        with tqdm.external_write_mode(file=sys.stderr):
            warnings.warn(text, stacklevel=3)
        write_line(self.run_dir, f"warning: {text}")

    def close(self) -> None:
        """Flush and close what is open."""
        if self._board is not None:
            self._board.close()


def read_records(path: Path) -> list[dict[str, Any]]:
    """The complete records of a ``metrics.jsonl``; a last line that was cut off by a kill is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]
