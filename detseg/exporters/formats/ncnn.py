"""Files of ncnn, for phones and small boards, made by pnnx: ``.param`` is the graph, ``.bin`` holds the weights."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import onnx

from detseg.exporters.base import ExportSettings
from detseg.exporters.formats.base import write_properties
from detseg.runtime.onnx.ncnn import INPUT
from detseg.tasks.base import Task

_SECONDS = 600.0


class NcnnFormat:
    """See :class:`detseg.exporters.formats.base.Format`."""

    name: ClassVar[str] = "ncnn"
    suffix: ClassVar[str] = ".param"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "pnnx", "ncnn")
    extra: ClassVar[str] = "'detseg[export,ncnn]'"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16")
    halves_itself: ClassVar[bool] = True
    is_any_size: ClassVar[bool] = False

    @staticmethod
    def form(task: Task) -> str:
        """Raw maps of boxes, as decoding is faster outside; of others the first."""
        return "raw" if "raw" in task.forms else task.forms[0]

    @staticmethod
    def refuse(task: Task, settings: ExportSettings) -> None:
        """Volumes and NMS."""
        if not task.spec.one_size:
            raise ValueError("ncnn is for images here, and this model is for volumes; take onnx or openvino")
        if settings.form in ("nms", "e2e"):
            raise ValueError(f"ncnn has no operator for the form {settings.form}; leave it out, for raw")

    @staticmethod
    def write(network: onnx.ModelProto, path: Path, settings: ExportSettings) -> Sequence[Path]:
        """Graph, weights and properties."""
        import pnnx

        (taken,) = network.graph.input
        shape = [side.dim_value for side in taken.type.tensor_type.shape.dim]
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "network.onnx"
            onnx.save(network, source)
            words = [pnnx.EXEC_PATH, str(source), f"inputshape=[{','.join(map(str, shape))}]"]
            words.append(f"fp16={int(settings.precision == 'fp16')}")
            done = subprocess.run(words, cwd=folder, capture_output=True, timeout=_SECONDS, check=False)
            param, weights = source.with_suffix(".ncnn.param"), source.with_suffix(".ncnn.bin")
            if done.returncode or not param.exists():
                raise ValueError(f"pnnx cannot convert the network to ncnn: {_reason(done.stdout + done.stderr)}")
            path.write_bytes(param.read_bytes())
            beside = path.with_suffix(".bin")
            beside.write_bytes(weights.read_bytes())
        names = [value.name for value in network.graph.output]
        network.metadata_props.add(key=INPUT, value=",".join([taken.name, *map(str, shape), *names]))
        return [beside, write_properties(network, path), path]


def _reason(printed: bytes) -> str:
    lines = [line.strip() for line in printed.decode(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if "not supported" in line or "error" in line.lower()]
    return "; ".join((told or lines[-1:])[:3])
