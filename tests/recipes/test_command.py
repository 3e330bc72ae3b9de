"""Runs begun by name, and gone on with for longer."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
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


CLAIM = """
import os, sys, time
from pathlib import Path
from detseg.engine.distributed import join_group, leave_group
from detseg.recipes.command import run_folder
with run_folder(None, "x") as folder:
    group, device = join_group("cpu")  # as the run in it does
    told = group.gather_json(str(folder), device)
    (folder / f"rank{group.rank}.txt").write_text(sys.argv[1] + " ".join(told))
    leave_group()
"""


@pytest.mark.slow
def test_jobs_of_several_processes_that_begin_together_have_folders_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "claim.py").write_text(CLAIM)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [probe.getsockname()[1] for probe in (one, other)]
    jobs = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"),
                *("claim.py", f"{port} "),
            ],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for port in ports
    ]
    assert [job.wait(120) for job in jobs] == [0, 0]
    said = {path.relative_to(tmp_path / "runs"): path.read_text() for path in (tmp_path / "runs").glob("*/*")}
    assert sorted(map(str, said)) == ["x-2/rank0.txt", "x-2/rank1.txt", "x/rank0.txt", "x/rank1.txt"]
    for folder in ("x", "x-2"):
        port = said[Path(folder, "rank0.txt")].split()[0]
        assert {said[Path(folder, f"rank{rank}.txt")] for rank in (0, 1)} == {f"{port} runs/{folder} runs/{folder}"}
    assert {text.split()[0] for text in said.values()} == set(map(str, ports))
