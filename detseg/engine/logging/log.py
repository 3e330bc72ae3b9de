"""What a run says while it goes on: progress bar, ``metrics.jsonl``, ``log.txt``, and callbacks."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from detseg.engine.logging.callbacks import Callback, RunStart
from detseg.files import SaveError, write_text
from detseg.structures import Metrics

RECORDS_NAME = "metrics.jsonl"
LOG_NAME = "log.txt"


def write_line(run_dir: Path, text: str) -> None:
    """Add ``text`` with the time to the ``log.txt`` of a run. Raises SaveError: it cannot be written."""
    _append(run_dir / LOG_NAME, f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S%z} {text}")


def _append(path: Path, line: str) -> None:
    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{line}\n")
    except OSError as error:
        free = shutil.disk_usage(path.parent).free / 1e6
        raise SaveError(f"could not write {path}: {error}; {free:.0f} MB free in {path.parent}") from error


class StepBar:
    """The bar of one epoch; ``update`` moves it by one step and shows the loss parts."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def update(self, parts: Mapping[str, float]) -> None:
        """One step is done; ``parts`` are the means of the epoch so far."""
        self._bar.set_postfix({name: f"{value:.3f}" for name, value in parts.items()}, refresh=False)
        self._bar.update()


class RunLog:
    """What one run says: records in ``metrics.jsonl``, lines on the screen and in ``log.txt``, and ``callbacks``; with
    ``enabled`` False (not the main process) nothing. ``bar``: on the screen too; bars only where that is a terminal.

    ``num_epochs_done`` of ``num_epochs``: records of later epochs, left by a process that was killed before it saved
    its state, are dropped.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        enabled: bool = True,
        num_epochs_done: int = 0,
        num_epochs: int = 0,
        bar: bool = True,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.run_dir = run_dir
        self.path = run_dir / RECORDS_NAME
        self.enabled = enabled
        self.bar = bar and enabled
        self._callbacks = tuple(callbacks) if enabled else ()
        self._said: set[str] = set()
        self._num_epochs = num_epochs
        self._seconds: list[float] = []
        if enabled:
            kept = [record for record in read_records(self.path) if record["epoch"] <= num_epochs_done]
            write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))

    def start(self, run: RunStart, lines: Iterable[str]) -> None:
        """Say ``lines``, and tell the callbacks that training begins."""
        for line in lines:
            self.say(line)
        for callback in self._callbacks:
            callback.on_start(run)

    @contextmanager
    def epoch_bar(self, epoch: int, num_epochs: int, num_steps: int, done: int) -> Iterator[StepBar]:
        """The progress bar of one epoch, counted from 0."""
        # None: only where standard error is a terminal.
        disable = None if self.bar else True
        with tqdm(
            total=num_steps,
            initial=done,
            desc=f"epoch {epoch + 1}/{num_epochs}",
            unit="step",
            disable=disable,
            leave=False,
            dynamic_ncols=True,
        ) as bar:
            yield StepBar(bar)

    def epoch_record(self, record: Mapping[str, Any]) -> None:
        """One line of ``metrics.jsonl`` and one on the screen; ``epoch`` counts from 1."""
        if not self.enabled:
            return
        _append(self.path, json.dumps(dict(record)))
        self._seconds.append(record.get("train_seconds", 0.0) + record.get("eval_seconds", 0.0))
        numbers = "  ".join(f"{name} {record[name]:.4g}" for name in _shown(record))
        self.say(f"epoch {record['epoch']}/{self._num_epochs}: {numbers}{self._remaining(record['epoch'])}")
        for callback in self._callbacks:
            callback.on_epoch(record)

    def _remaining(self, epoch: int) -> str:
        """How long the rest of the run will take, by the epochs of this process so far; nothing after the last one."""
        left = self._num_epochs - epoch
        return f"  ({duration(left * sum(self._seconds) / len(self._seconds))} left)" if left > 0 else ""

    def result(self, metrics: Metrics) -> None:
        """Tell the callbacks that the run is over."""
        for callback in self._callbacks:
            callback.on_result(self.run_dir, metrics)

    def say(self, text: str) -> None:
        """Say something on the screen, and in ``log.txt``."""
        if not self.enabled:
            return
        if self.bar:
            tqdm.write(text, file=sys.stderr)
        write_line(self.run_dir, text)

    def warn(self, text: str) -> None:
        """Say what the user should look at, once: as a warning on the screen, and in ``log.txt``."""
        if not self.enabled or text in self._said:
            return
        self._said.add(text)
        with tqdm.external_write_mode(file=sys.stderr):
            warnings.warn(text, stacklevel=3)
        write_line(self.run_dir, f"warning: {text}")

    def close(self) -> None:
        """Let the callbacks close what is open."""
        for callback in self._callbacks:
            callback.on_close()


def _shown(record: Mapping[str, Any]) -> list[str]:
    hidden = ("epoch", "step", "learning_rate", "wait_seconds", "eval_seconds", "num_skipped", "skipped")
    return [name for name in record if "/" not in name and name not in hidden][:5]


def duration(seconds: float) -> str:
    """``seconds`` for people: ``45 s``, ``12 min``, ``3 h 5 min``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def read_records(path: Path) -> list[dict[str, Any]]:
    """The complete records of a ``metrics.jsonl``; a last line that was cut off by a kill is left out.

    Raises:
        ValueError: a line is no record of an epoch.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [_parse_record(line, f"{path}, line {number}") for number, line in enumerate(lines[:-1], 1) if line]


def _parse_record(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:  # no JSON, or no UTF-8
        raise ValueError(f"{where}: damaged: {error}; correct or delete the line") from error
    if not isinstance(record, dict) or type(record.get("epoch")) is not int:
        raise ValueError(f"{where}: must be an object with a whole number `epoch`; correct or delete the line")
    return record
