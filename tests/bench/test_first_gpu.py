from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def first_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    import first_gpu

    return first_gpu


def part(module: Any, program: str, limit_s: float = 60.0) -> Any:
    return module.Part("a part", ("-c", program), limit_s)


@pytest.mark.slow
def test_what_a_part_prints_is_kept_whatever_becomes_of_it(first_gpu: Any) -> None:
    environment = dict(os.environ)
    passed = first_gpu.run_part(part(first_gpu, "print('42 us')"), 60.0, environment)
    assert (passed.state, passed.output) == ("passed", "42 us\n")
    failed = first_gpu.run_part(part(first_gpu, "raise SystemExit('no GPU')"), 60.0, environment)
    assert (failed.state, failed.output) == ("failed", "no GPU\n")
    forever = "import time\nprint('begun', flush=True)\nwhile True: time.sleep(1)"
    ended = first_gpu.run_part(part(first_gpu, forever, 15.0), 60.0, environment)
    assert (ended.state, ended.output) == ("ended", "begun\n")
    late = first_gpu.run_part(part(first_gpu, "print('42 us')"), 1.0, environment)
    assert late.state == "not begun"
    page = first_gpu.page_of([passed, failed, ended, late], "a machine")
    for row in ("| a part | passed |", "| a part | failed |", "| a part | ended |", "| a part | not begun |"):
        assert row in page
    assert "no GPU" in page
    assert "42 us" in page


def test_the_parts_fit_into_nine_minutes(first_gpu: Any) -> None:
    parts = first_gpu.parts_of("cuda", False, Path("out"))
    assert [one.title for one in parts] == [
        "Tests on the device", "NMS: proof and times", "Training steps", "Inference",
    ]  # fmt: skip
    # The run as a whole ends with the last part that was begun.
    assert 520 + first_gpu.LEAST_SECONDS < 9 * 60
    for one in parts[1:]:
        script = Path(one.arguments[0])
        assert script.is_file()
        options = subprocess.run([sys.executable, "-c", f"import ast; ast.parse(open({str(script)!r}).read())"])
        assert options.returncode == 0
    for name in parts[0].arguments[5:]:
        assert (BENCH.parent / name).exists(), name


def test_a_part_that_fails_fails_the_command_after_the_others(
    first_gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [part(first_gpu, "raise SystemExit(3)"), part(first_gpu, "print('the table')")]
    monkeypatch.setattr(first_gpu, "parts_of", lambda *given: parts)
    monkeypatch.setattr(sys, "argv", ["first_gpu.py", "--device", "cpu", "--tiny", "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match="not passed: a part"):
        first_gpu.main()
    page = (tmp_path / "gpu.md").read_text()
    assert "No figure here is one of a GPU" in page
    assert "the table" in page
    assert "a part: passed" in capsys.readouterr().out


@pytest.mark.slow
def test_training_steps_are_measured_without_a_gpu(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(BENCH / "train_gpu.py"),
        "--device",
        "cpu",
        "--tiny",
        "--json",
        str(tmp_path / "all"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cases = json.loads((tmp_path / "all").read_text())["cases"]
    networks = [(case["network"], case["precision"]) for case in cases]
    assert networks == [(name, how) for name in ("detector n", "LETNet", "V-Net") for how in ("fp32", "bf16")]
    assert all(case["images_per_second"] > 0 for case in cases)
    lines = done.stdout.splitlines()
    assert any(line.startswith("| V-Net, 1") for line in lines)
    assert lines[-1].startswith("| 2 mosaics of 64 x 64 |")  # the table of what is drawn on the device
