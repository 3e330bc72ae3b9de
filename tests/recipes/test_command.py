"""Runs begun by name, and gone on with for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from detseg.engine.logging.log import RECORDS_NAME, read_records
from detseg.recipes.command import resume_run, start_run
from detseg.recipes.plan import Options

SMALL = (
    "model={name: detector, backbone: {name: csp_darknet, depth: 0.33, width: 0.125}}",
    "data.num_workers=0",
    "train.num_threads=1",
)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "shapes.yaml"
    path.write_text(
        "{format: shapes, num_train: 5, num_val: 2, image_size: 64, min_side: 16, max_side: 24, max_objects: 2}"
    )
    return path


def epochs(run: Path) -> list[int]:
    return [record["epoch"] for record in read_records(run / RECORDS_NAME)]


def test_a_run_that_is_over_goes_on_for_longer(data: Path) -> None:
    options = Options(data=str(data), epochs=1, size=(64, 64), batch_size=4)
    result = start_run("c2f_n", options, SMALL, bar=False)
    assert result.run_dir == Path("runs/c2f_n")
    assert epochs(result.run_dir) == [1]
    moved = data.with_name("it's moved.yaml")
    moved.write_text(data.read_text())
    resume_run(result.run_dir, Options(data=str(moved), epochs=3), bar=False)
    assert epochs(result.run_dir) == [1, 2, 3]
    with pytest.raises(ValueError, match="has trained for 3 epochs already, and is to end after 2"):
        resume_run(result.run_dir, Options(epochs=2), bar=False)
    # What it found is where the next begins.
    tuned = start_run(result.run_dir, Options(data=str(data), epochs=1), SMALL[1:], bar=False)
    assert tuned.run_dir == Path("runs/c2f_n-2")
    assert tuned.best.is_file()


@pytest.mark.parametrize(
    ("options", "overrides", "what"),
    [
        (Options(size=(64, 64)), (), "--size"),
        (Options(batch_size=2), (), "train.batch_size=2"),
        (Options(batch_size="auto"), (), "--batch auto"),
        (Options(), ("train.optimizer.learning_rate=1",), "train.optimizer.learning_rate=1"),
    ],
)
def test_a_resumed_run_learns_as_it_was_begun(options: Options, overrides: tuple[str, ...], what: str) -> None:
    with pytest.raises(ValueError, match=f"got {what}; only .* To train longer: --resume run --epochs N; .* train run"):
        resume_run(Path("run"), options, overrides)
