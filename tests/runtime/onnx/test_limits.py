from __future__ import annotations

import itertools
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from detseg.config import to_dict
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.onnx import limits
from detseg.runtime.onnx.file import OnnxFileError
from detseg.runtime.onnx.model import OnnxModel

METADATA = {
    "format": 1,
    "version": "0.1",
    "task": "semantic",
    "form": "logits",
    "class_names": ["a", "b", "c"],
    "category_ids": [0, 1, 2],
    "input": to_dict(InputSpec(8, 8)),
    "postprocess": {},
}
IMAGES = np.zeros((1, 3, 8, 8), np.float32)
END = " m = ReduceMax <keepdims = 0> (big) logits = Add (images, m)"


def graph(body: str, end: str = END) -> str:
    return f"g (float[batch, 3, h, w] images) => (float[batch, 3, h, w] logits) {{ {body}{end} }}"


def doubled(start: str, times: int) -> str:
    """``start`` twice as long ``times`` times over."""
    names = [start, *(f"a{index}" for index in range(times - 1)), "big"]
    return " ".join(f"{name} = Concat <axis = 0> ({before}, {before})" for before, name in itertools.pairwise(names))


PADS = "pads = Constant <value = int64[8] {0, 0, 0, 0, 0, 0, 900000, 900000}> ()"
HUNGRY = {
    "constant of shape": "n = Constant <value = int64[1] {1000000000000}> () big = ConstantOfShape (n)",
    "doubled": doubled("images", 33),
    "doubled constant": "c = Constant <value = float[2] {1.0, 1.0}> () " + doubled("c", 40),
    "pad": f"{PADS} big = Pad (images, pads)",
    "resize": "s = Constant <value = float[4] {1.0, 1.0, 90000.0, 90000.0}> () big = Resize (images, , s)",
    "expand": "n = Constant <value = int64[4] {1000000000, 3, 8, 8}> () big = Expand (images, n)",
    "tile": "n = Constant <value = int64[4] {100, 1, 100, 100}> () big = Tile (images, n)",
    "outer product": (
        "n = Constant <value = int64[2] {-1, 1}> () k = Constant <value = int64[2] {1, -1}> () "
        + doubled("images", 13).replace("big", "long")
        + " column = Reshape (long, n) row = Reshape (long, k) big = MatMul (column, row)"
    ),
    "range": (
        "s = Constant <value = int64 {0}> () e = Constant <value = int64 {1000000000000}> () "
        "d = Constant <value = int64 {1}> () r = Range (s, e, d) big = Cast <to = 1> (r)"
    ),
}

# The arena belongs to the process, so that a small one needs a process of its own.
IN_A_SMALL_ARENA = """
import json, sys
from pathlib import Path
import numpy as np
from detseg.runtime.onnx import limits
from detseg.runtime.onnx.model import OnnxModel
limits.usable_memory = lambda: 400_000_000
found = {}
for path in sys.argv[1:]:
    try:
        OnnxModel(path, 1).run(np.zeros((1, 3, 8, 8), np.float32))
        found[path] = "ran"
    except ValueError as error:
        found[path] = str(error)
status = Path("/proc/self/status")  # of Linux
peaks = [line.split()[1] for line in status.read_text().splitlines() if "VmHWM" in line] if status.exists() else [0]
print(json.dumps([found, int(peaks[0])]))
"""


def test_networks_take_no_more_memory_than_the_limit(save_onnx: Any) -> None:
    fine = save_onnx(graph("", "logits = Add (images, images)"), metadata=METADATA, name="fine.onnx")
    hungry = {
        name: save_onnx(graph(body), metadata=METADATA, name=f"{number}.onnx")
        for number, (name, body) in enumerate(HUNGRY.items())
    }
    done = subprocess.run(
        [sys.executable, "-c", IN_A_SMALL_ARENA, *map(str, hungry.values()), str(fine)],
        capture_output=True,
        text=True,
        check=True,
    )
    found, kilobytes = json.loads(done.stdout)
    for path in hungry.values():
        assert found[str(path)].startswith(f"{path}: ONNX Runtime ")
        assert "GB in one piece where" in found[str(path)]
        assert "\n" not in found[str(path)]
    assert found[str(fine)] == "ran"
    assert done.stderr == ""
    assert kilobytes < 600_000


def test_a_run_is_stopped_when_its_time_is_over(save_onnx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = " ".join(f"a{index + 1} = MatMul (a{index}, a{index})" for index in range(300))
    expand = "n = Constant <value = int64[4] {1, 3, 900, 900}> () i = Identity (images) a0 = Resize (i, , , n) "
    path = save_onnx(graph(expand + slow + " big = Identity (a300)"), metadata=METADATA)
    model = OnnxModel(path, 1)
    monkeypatch.setattr(limits, "MAX_SECONDS", 0.2)
    with pytest.raises(OnnxFileError, match=r"failed on a batch of 1x3x8x8: stopped after .* the limit for one batch"):
        model.run(IMAGES)
    monkeypatch.undo()
    assert OnnxModel(save_onnx(graph("", "logits = Add (images, images)"), metadata=METADATA)).run(IMAGES)


def test_errors_of_a_run_are_one_line_with_the_path(save_onnx: Any, capfd: pytest.CaptureFixture[str]) -> None:
    body = "n = Constant <value = int64[2] {-1, 7}> () big = Reshape (images, n)"
    path = save_onnx(graph(body), metadata=METADATA)
    with pytest.raises(OnnxFileError, match=r"model\.onnx: ONNX Runtime \S+ failed on a batch of 1x3x8x8: ") as caught:
        OnnxModel(path, 1).run(IMAGES)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_file_that_is_one_of_the_other_format_too_is_read_as_onnx(save_onnx: Any) -> None:
    """ONNX Runtime takes a file for one of its own format by four of its bytes."""
    path = save_onnx(graph("", "logits = Add (images, images)"), metadata=METADATA)
    path.write_bytes(b"\x12\x06xxORTM" + path.read_bytes())  # the name of the producer
    assert path.read_bytes()[4:8] == b"ORTM"
    assert np.array_equal(OnnxModel(path, 1).run(IMAGES)["logits"], IMAGES)
