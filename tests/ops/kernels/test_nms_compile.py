"""What the NMS kernels compile to for GPUs that are not here: launches as they are shipped, up to the driver."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # Triton compiles for half a minute

ARCHITECTURES = (75, 80, 90)

# `launch_nms` itself runs, so that types, constants and options are those of a real launch. Triton is told of a GPU of
# which there is nothing but the architecture, and every launch ends after its compilation.
COMPILE = """
import json, subprocess, sys, tempfile
from itertools import product
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from detseg.ops.kernels.nms import launch_nms, launch_nms_of_maps
from detseg.ops.nms import empty_outputs


class Described:
    def __init__(self, architecture):
        self.target = GPUTarget("cuda", architecture, 32)

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return self.target.arch

    def get_current_stream(self, device):
        return 0


def compile_only(function, *arguments, grid, warmup, **options):
    compiled = run(function, *arguments, grid=grid, warmup=True, **options)
    if compiled.hash not in known:
        known.add(compiled.hash)
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            Path(file.name).write_bytes(compiled.asm["cubin"])
            usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
        found.append({
            "kernel": function.__name__, "architecture": architecture, "case": case, "usage": usage,
            "ptx": compiled.asm["ptx"], "fusion": compiled.metadata.enable_fp_fusion,
        })


found, known = [], set()
tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
run, JITFunction.run = JITFunction.run, compile_only
for architecture, cases in json.loads(sys.argv[1]):
    driver.set_active(Described(architecture))
    for case in cases:
        dtype, num_classes, multi_label, class_agnostic, labeled = case
        if isinstance(num_classes, str):  # the kind of a head with 80 classes
            kind, reg_max = num_classes, 16 if num_classes == "dfl" else 1
            channels = {"dfl": 64, "ltrb": 4, "yolox": 5}[kind] + 80
            levels = [torch.zeros(2, channels, side, side, dtype=getattr(torch, dtype)) for side in (80, 40, 20)]
            out = empty_outputs(levels[0], 300)
            kept = torch.ones(80, dtype=torch.bool) if labeled else None
            launch_nms_of_maps(
                levels, kept, kind, (8, 16, 32), reg_max, 0.25, 0.7, 300, multi_label, class_agnostic,
                30_000, out,
            )
            continue
        # Scores as a detector's maps have them: class by class.
        boxes_xyxy, scores = torch.zeros(2, 8400, 4), torch.zeros(2, num_classes, 8400).transpose(1, 2)
        labels = torch.zeros(2, 8400, dtype=torch.int64) if labeled else None
        inputs = (tensor.to(getattr(torch, dtype)) for tensor in (boxes_xyxy, scores))
        out = empty_outputs(boxes_xyxy, 300)
        launch_nms(*inputs, labels, 0.25, 0.7, 300, multi_label, class_agnostic, 30_000, out)
print(json.dumps(found))
"""

BROKEN_ASSEMBLER = """#!/bin/sh
if [ "$1" = --version ]; then
    exec "$ASSEMBLER" --version
fi
echo 'this assembler is broken' >&2
exit 1
"""

# number type, classes, multi-label, class-agnostic, labels given
EVERY_BRANCH = [
    ("float32", 80, False, False, False),
    ("float32", 80, True, True, False),
    ("float32", 1, False, False, True),
    ("float16", 80, False, True, False),
    ("float16", 80, True, False, False),
    ("bfloat16", 80, True, False, False),
    ("float16", 1, False, True, True),
]
USUAL = EVERY_BRANCH[:2] + EVERY_BRANCH[4:5]
MAPS = [
    ("float16", "dfl", True, False, False),
    ("float32", "yolox", False, True, True),
    ("bfloat16", "ltrb", True, False, True),
]
NO_CLASSES = ("float32", 0, True, False, False)

Compiled = dict[str, Any]


def run_without_interpreter(script: str, *arguments: str, cache: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(cache), **more}
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[Compiled]:
    cases = [(75, USUAL + MAPS[:1]), (80, USUAL + MAPS[:1]), (90, [*EVERY_BRANCH, NO_CLASSES, *MAPS])]
    assert tuple(architecture for architecture, _ in cases) == ARCHITECTURES
    done = run_without_interpreter(COMPILE, json.dumps(cases), cache=tmp_path_factory.mktemp("triton"))
    assert done.returncode == 0, done.stderr
    found: list[Compiled] = json.loads(done.stdout)
    return found


def name_of(variant: Compiled) -> str:
    return f"{variant['kernel']} for sm_{variant['architecture']}, {variant['case']}"


def greedy_variants(compiled: list[Compiled]) -> list[Compiled]:
    """Of those where there is something to suppress."""
    found = [variant for variant in compiled if variant["kernel"] == "greedy" and variant["case"] != list(NO_CLASSES)]
    assert len(found) > len(ARCHITECTURES)
    return found


def test_every_kernel_compiles_for_every_architecture(compiled: list[Compiled]) -> None:
    kernels = {"collect", "collect_from_map", "scores_from_map", "limit", "rank", "merge", "greedy"}
    for architecture in ARCHITECTURES:
        found = [variant for variant in compiled if variant["architecture"] == architecture]
        assert {variant["kernel"] for variant in found} == kernels
        assert all(f".target sm_{architecture}" in variant["ptx"] for variant in found)


def test_arithmetic_is_rounded_to_nearest_and_not_fused(compiled: list[Compiled]) -> None:
    for variant in compiled:
        assert variant["fusion"] is False, name_of(variant)
        for inexact in ("div.full", "div.approx", "rcp.", "fma.rn.f32", "mad.f32", ".ftz"):
            assert inexact not in variant["ptx"], (name_of(variant), inexact)
    assert all("div.rn.f32" in variant["ptx"] for variant in greedy_variants(compiled))


def test_stored_rows_are_read_after_a_barrier(compiled: list[Compiled]) -> None:
    for variant in greedy_variants(compiled):
        assert rows_are_read_after_a_barrier(variant["ptx"]), name_of(variant)
        assert not rows_are_read_after_a_barrier(variant["ptx"].replace("bar.sync", "nop")), name_of(variant)
        assert "ld.global.nc" not in variant["ptx"], name_of(variant)  # reads what may be out of date


def rows_are_read_after_a_barrier(ptx: str) -> bool:
    """Whether the threads meet between the stores of a chunk's rows and the branch back to the next chunk."""
    instructions = re.findall(r"^\s*(?:@%\w+\s+)?([a-z][\w.:]*)", ptx, re.MULTILINE)
    first_store = next(i for i, instruction in enumerate(instructions) if instruction.startswith("st.global"))
    branch = instructions.index("bra", first_store)
    chunk = instructions[first_store:branch]
    last_store = max(i for i, instruction in enumerate(chunk) if instruction.startswith("st.global"))
    return "bar.sync" in chunk[last_store:]


def test_scores_are_read_sixteen_bytes_at_a_time(compiled: list[Compiled]) -> None:
    """Neighbors in memory are read together, and nobody waits until others see that a place was taken."""
    collecting = [variant for variant in compiled if variant["kernel"] == "collect" and variant["case"][1] == 80]
    assert len(collecting) > len(ARCHITECTURES)
    for variant in collecting:
        loads = re.findall(r"\bld\.global\.([\w.]+)", variant["ptx"])
        assert loads, name_of(variant)
        assert set(loads) == {"v4.b32"}, (name_of(variant), loads)
        assert "atom.global.gpu.relaxed.add" in variant["ptx"], name_of(variant)
        assert "acq_rel" not in variant["ptx"], name_of(variant)


def test_logits_of_maps_are_read_sixteen_bytes_at_a_time(compiled: list[Compiled]) -> None:
    collecting = [variant for variant in compiled if variant["kernel"] == "collect_from_map"]
    assert {variant["case"][1] for variant in collecting} == {"dfl", "ltrb", "yolox"}
    for variant in collecting:
        assert "ld.global.v4.b32" in variant["ptx"], name_of(variant)
        assert "atom.global.gpu.relaxed.add" in variant["ptx"], name_of(variant)
        assert "acq_rel" not in variant["ptx"], name_of(variant)


def test_registers_suffice(compiled: list[Compiled]) -> None:
    """Nothing is kept in memory for want of registers."""
    for variant in compiled:
        assert "STACK:0 " in variant["usage"], (name_of(variant), variant["usage"])
        assert "LOCAL:0 " in variant["usage"], (name_of(variant), variant["usage"])
        assert not re.search(r"\b(ld|st)\.local", variant["ptx"]), name_of(variant)


def test_what_cannot_be_compiled_is_said(tmp_path: Path) -> None:
    import triton

    assembler = tmp_path / "ptxas"
    assembler.write_text(BROKEN_ASSEMBLER)
    assembler.chmod(0o755)
    real = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    done = run_without_interpreter(
        COMPILE,
        json.dumps([(75, USUAL[:1])]),
        cache=tmp_path / "cache",
        TRITON_PTXAS_PATH=str(assembler),
        ASSEMBLER=str(real),
    )
    assert done.returncode != 0
    assert "RuntimeError: Triton could not compile or run the NMS kernels on cpu" in done.stderr
    assert "task.postprocess.nms_backend=torchvision" in done.stderr
