"""What the letterbox kernel compiles to for real GPUs, which needs none; and that it wants one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

ARCHITECTURES = (75, 80, 90)

COMPILE = """
import json, subprocess, sys, tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from detseg.ops.kernels.letterbox import NUM_WARPS, TILE, letterbox

tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
types = {"pixels": "*u8", "table": "*i64", "height": "i32", "width": "i32", "pad_value": "i32"}
found = []
for architecture in json.loads(sys.argv[1]):
    for dtype, interleaved in (("fp32", False), ("fp16", True), ("bf16", True)):
        fixed = {"INTERLEAVED": interleaved, "REVERSED": False, "ROWS": TILE[0], "COLUMNS": TILE[1]}
        signature = {name: types.get(name, "fp32") for name in letterbox.arg_names}
        signature |= {"out": "*" + dtype} | dict.fromkeys(fixed, "constexpr")
        # what a launch finds out of aligned memory and an input of 640 x 640
        aligned = {(index,): [["tt.divisibility", 16]] for index in range(5)}
        compiled = triton.compile(
            ASTSource(letterbox, signature, fixed, aligned),
            target=GPUTarget("cuda", architecture, 32),
            options={"num_warps": NUM_WARPS, "enable_fp_fusion": False},
        )
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            Path(file.name).write_bytes(compiled.asm["cubin"])
            usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
        found.append((architecture, dtype, compiled.asm["ptx"], usage))
print(json.dumps(found))
"""


def run_without_interpreter(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def compiled() -> list[tuple[int, str, str, str]]:
    done = run_without_interpreter(COMPILE, json.dumps(ARCHITECTURES))
    assert done.returncode == 0, done.stderr
    found: list[tuple[int, str, str, str]] = json.loads(done.stdout)
    assert [architecture for architecture, *_ in found] == [sm for sm in ARCHITECTURES for _ in range(3)]
    return found


def test_divisions_are_rounded_and_nothing_is_fused(compiled: list[tuple[int, str, str, str]]) -> None:
    for architecture, dtype, ptx, _ in compiled:
        assert "div.rn.f32" in ptx, (architecture, dtype)
        for inexact in ("div.full", "div.approx", "rcp.approx", "fma.rn.f32", "fma.rn.f64"):
            assert inexact not in ptx, (architecture, dtype, inexact)


def test_half_precision_is_rounded_to_nearest(compiled: list[tuple[int, str, str, str]]) -> None:
    """In the interpreter bfloat16 is cut off, so that only the compiled kernel can show this."""
    for architecture, dtype, ptx, _ in compiled:
        if dtype == "fp16":
            assert "cvt.rn.f16" in ptx, architecture
        if dtype == "bf16" and architecture >= 80:  # below it is put together from integer operations
            assert "cvt.rn.bf16" in ptx, architecture


def test_stores_are_wide_and_registers_suffice(compiled: list[tuple[int, str, str, str]]) -> None:
    for architecture, dtype, ptx, usage in compiled:
        width = "v4" if dtype == "fp32" else "v2"  # four values of a thread at once
        assert f"st.global.{width}.b32" in ptx, (architecture, dtype)
        assert "ld.local" not in ptx, (architecture, dtype)
        assert "st.local" not in ptx, (architecture, dtype)
        assert "LOCAL:0" in usage, (architecture, dtype, usage)
        assert "STACK:0" in usage, (architecture, dtype, usage)


def test_tensors_on_the_cpu_are_refused() -> None:
    done = run_without_interpreter(
        "import torch\n"
        "from detseg.ops.letterbox import letterbox_into\n"
        "from detseg.runtime.inputs.geometry import InputSpec\n"
        "pixels, table = torch.zeros(16, dtype=torch.uint8), torch.zeros(1, 7, dtype=torch.int64)\n"
        "letterbox_into(pixels, table, InputSpec(8, 8), torch.zeros(1, 3, 8, 8))\n"
    )
    assert "ValueError: the letterbox kernel takes tensors on a GPU, got cpu" in done.stderr
