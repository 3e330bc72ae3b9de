from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detseg.cli.verbs import EXIT_USER_ERROR, main
from detseg.tasks.model_file import load_model_file
from tests.conversion.checkpoints import build, save, yolov8_weights


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build("detection/c2f_n", 2)
    source = save(yolov8_weights(model), tmp_path / "w.pt")
    output, said = tmp_path / "out.safetensors", tmp_path / "report.json"
    arguments = ["convert", str(source), "-o", str(output), "--names", "cat,dog", "--json", str(said)]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert digest in text
    assert "355 mapped, 0 unused, 0 missing" in text
    report = json.loads(said.read_text())
    assert report["sha256"] == digest
    assert report["class_names"] == ["cat", "dog"]
    assert {pair["model"] for pair in report["mapped"]} == model.state_dict().keys()
    assert load_model_file(output).config.class_names == ("cat", "dog")
    assert main(arguments) == EXIT_USER_ERROR
    assert capsys.readouterr().err == f"detseg convert: {output} exists; remove it, or choose another name\n"


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    weights = yolov8_weights(build("detection/c2f_n", 2))
    torch.save({"model": weights, "trap": _Trap(trace)}, tmp_path / "w.pt")
    tool = Path(__file__).parents[2] / "tools/convert.py"
    arguments = [str(tmp_path / "w.pt"), "-o", str(tmp_path / "out.safetensors"), "--names", "a,b"]
    subprocess.run([sys.executable, tool, *arguments], check=True, capture_output=True)
    assert (tmp_path / "out.safetensors").is_file()
    assert not trace.exists()
