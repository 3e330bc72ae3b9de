"""What goes wrong around a run: a full disk, a dead worker, a damaged file. One message, and nothing is lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import get_worker_info

from detseg.cli.verbs import EXIT_USER_ERROR, main
from detseg.data.formats.shapes import ShapesDataset
from detseg.data.loading.worker_pool import WorkerDiedError
from detseg.engine.logging.log import read_records
from detseg.engine.run import train
from detseg.engine.settings import RunConfig
from detseg.engine.training.checkpoint import load_state
from detseg.runtime.media.images import ImageError

Tiny = Callable[..., RunConfig]
Fingerprint = Callable[[Path], dict[str, str]]

FULL_DISK = """
import resource, sys
from detseg.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(main(["train", *sys.argv[2:]]))
"""


def test_a_full_disk_is_one_message(tiny: Tiny, tmp_path: Path, fingerprint: Fingerprint) -> None:
    config = tiny()
    run_dir = tmp_path / "run"
    words = [str(tmp_path / "tiny.yaml"), "-o", str(run_dir)]
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, "300000", *words], capture_output=True, text=True, check=False
    )
    assert result.returncode == EXIT_USER_ERROR, result.stderr
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("detseg train: "))
    said = re.fullmatch(
        rf"detseg train: could not write {run_dir}/state\.pt: .*; it needs (\d+) MB, \d+ MB are free in {run_dir}; "
        "nothing was left behind",
        line,
    )
    assert said, line
    assert int(said[1]) >= 1
    assert "Traceback" not in result.stderr
    # The same command begins anew, and ends as if nothing had happened.
    train(config, run_dir, bar=False)
    train(config, tmp_path / "whole", bar=False)
    assert fingerprint(run_dir) == fingerprint(tmp_path / "whole")


def mishap(monkeypatch: pytest.MonkeyPatch, flag: Path, happen: Callable[[], object]) -> None:
    """Let it ``happen`` where a training image is read for the 22nd time, in the second epoch; ``flag`` counts."""
    read = ShapesDataset.read

    def read_or_die(self: ShapesDataset, index: int) -> Any:
        if self.split == "train" and flag.exists():
            flag.write_text(flag.read_text() + ".")
            if len(flag.read_text()) >= 22:
                happen()
        return read(self, index)

    monkeypatch.setattr(ShapesDataset, "read", read_or_die)


def die() -> None:
    assert get_worker_info() is not None
    os.kill(os.getpid(), signal.SIGKILL)


def refuse() -> None:
    raise ImageError("0.png: truncated")


@pytest.mark.parametrize(
    ("happen", "num_workers", "error", "message"),
    [
        (die, 1, WorkerDiedError, r"worker was ended by SIGKILL\. .*data\.num_workers"),
        (refuse, 0, ImageError, r"0\.png: truncated"),
    ],
)
def test_what_was_learned_before_is_saved(
    tiny: Tiny,
    tmp_path: Path,
    fingerprint: Fingerprint,
    monkeypatch: pytest.MonkeyPatch,
    happen: Callable[[], object],
    num_workers: int,
    error: type[Exception],
    message: str,
) -> None:
    config = tiny(f"data.num_workers={num_workers}", "augment.mosaic=0")
    train(config, tmp_path / "whole", bar=False)
    flag = tmp_path / "flag"
    mishap(monkeypatch, flag, happen)
    flag.write_text("")
    with pytest.raises(error, match=message):
        train(config, tmp_path / "run", bar=False)
    flag.unlink()
    assert load_state(tmp_path / "run")["progress"]["step"] >= 3
    said = (tmp_path / "run/log.txt").read_text()
    assert re.search(rf"is saved; .* go on with: detseg train --resume {tmp_path / 'run'}", said)
    train(config, tmp_path / "run", resume=True, bar=False)
    assert fingerprint(tmp_path / "run") == fingerprint(tmp_path / "whole")


def test_a_dead_worker_is_one_line(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny()
    (tmp_path / "flag").write_text("." * 22)
    mishap(monkeypatch, tmp_path / "flag", die)
    words = [str(tmp_path / "tiny.yaml"), "data.num_workers=1", "-o", str(tmp_path / "run")]
    assert main(["train", *words]) == EXIT_USER_ERROR
    assert "detseg train: a data loading worker was ended by SIGKILL" in capsys.readouterr().err
    assert not (tmp_path / "run/state.pt").exists()  # nothing was learned yet, so the command may be given again


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"epoch": 0, "loss": 1', r"metrics\.jsonl, line 1: damaged: .*; correct or delete the line"),
        ("\0\0\0", r"metrics\.jsonl, line 1: damaged"),
        ("[1, 2]", r"metrics\.jsonl, line 1: must be an object with a whole number `epoch`"),
        ('{"loss": 1}', r"metrics\.jsonl, line 1: must be an object"),
    ],
)
def test_a_broken_record_is_named(tiny: Tiny, tmp_path: Path, line: str, message: str) -> None:
    run_dir = tmp_path / "run"
    train(tiny("train.epochs=1"), run_dir, bar=False)
    (run_dir / "metrics.jsonl").write_text(f'{line}\n{{"epoch": 1}}\n')
    with pytest.raises(ValueError, match=message):
        train(tiny("train.epochs=1"), run_dir, resume=True, bar=False)


def test_a_record_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"epoch": 0}\n\n{"epoch": 1, "lo')
    assert read_records(path) == [{"epoch": 0}]
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(ValueError, match="line 1: damaged"):
        read_records(path)
