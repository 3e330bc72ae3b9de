"""Whole files of further kinds: requests to the server, annotations in XML, colors, plans, run folders, and ONNX files
of other programs."""

from __future__ import annotations

import asyncio
import contextlib
import io
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bench import fuzz_mutate as mutate
from bench.fuzz_seeds import Kind, in_a_child

WORDS = (mutate.reworded, mutate.reworded, mutate.damaged)
BOUNDARY = "xxBOUNDARYxx"
VOC = """<annotation><folder>x</folder><filename>{name}.jpg</filename>
<size><width>64</width><height>48</height><depth>3</depth></size>
<object><name>a</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>
<bndbox><xmin>5</xmin><ymin>6</ymin><xmax>25</xmax><ymax>28</ymax></bndbox></object>
<object><name>b</name><bndbox><xmin>1.5</xmin><ymin>2</ymin><xmax>60</xmax><ymax>40</ymax></bndbox></object>
</annotation>
"""
RUN = """
model: {name: detector, backbone: {name: csp_darknet, width: 0.125}, neck: {name: pan, depth: 0.33}, head: dfl}
task: {name: detection, input: {height: 32, width: 32}}
data: {path: DATA, num_workers: 0}
augment: {mosaic: 0.0}
train: {epochs: 1, batch_size: 2, device: cpu, num_threads: 1, optimizer: {name: adamw, learning_rate: 1.0e-3}}
"""


def make_more_kinds(folder: Path, coco: Path) -> dict[str, Kind]:
    """The kinds; ``folder`` has the models ``boxes.onnx`` and ``volumes.onnx``, ``coco`` is a data set of boxes."""
    model = folder / "boxes.onnx"
    voc, plain = folder / "voc", folder / "foreign"
    _voc(voc)
    in_a_child(lambda: _quietly(lambda: _make(folder, coco, plain)))

    def send(path: Path, out: Path) -> list[str]:
        return [str(model), str(path)]

    def check(up: int) -> Callable[[Path, Path], list[str]]:
        return lambda path, out: ["check", str(path.parents[up]), "--json", str(out.with_suffix(".json"))]

    def split(up: int) -> Callable[[Path, Path], list[str]]:
        return lambda path, out: ["split", str(path.parents[up]), "--ratios", "5:5", "-o", str(out)]

    def colors(path: Path, out: Path) -> list[str]:
        return ["colors", str(model), "--colors", str(path), "-o", str(out / "legend.png")]

    def draw(path: Path, out: Path) -> list[str]:
        words = ["--colors", str(path), "--conf", "0", "--save", "drawn", "--device", "cpu"]
        return ["predict", str(model), str(folder / "a.png"), "-o", str(out), *words]

    def train(path: Path, out: Path) -> list[str]:
        return ["train", str(path), "data.path=nowhere", "-o", str(out)]

    def go_on(path: Path, out: Path) -> list[str]:
        again = out.with_name("again")
        shutil.rmtree(again, ignore_errors=True)
        shutil.copytree(path.parent, again)
        return ["train", "--resume", str(again)]

    def foreign(path: Path, out: Path) -> list[str]:
        words = ["--layout", "yolov8", "--names", "a,b", "--save", "csv", "--device", "cpu"]
        return ["predict", str(path), str(folder / "a.png"), "-o", str(out), *words]

    palette = b"a: [255, 0, 0]\nb: '#00ff7f'\n"
    run = {path.name: path.read_bytes() for path in (folder / "run").iterdir() if path.suffix in (".yaml", ".jsonl")}
    state = {"state.pt": (folder / "run/state.pt").read_bytes()}
    plans = {path.name: path.read_bytes() for path in (folder / "plans").glob("*.yaml")}
    graphs = [mutate.damaged, mutate.with_other_graph]
    annotation = {"Annotations/0.xml": (voc / "Annotations/0.xml").read_bytes()}
    lists = {"ImageSets/Main/train.txt": (voc / "ImageSets/Main/train.txt").read_bytes()}
    return {
        "requests": Kind(_requests(), [send], [mutate.damaged, mutate.reworded_request], run=Requests()),
        "XML": Kind(annotation, [check(1), split(1)], WORDS, voc),
        "lists": Kind(lists, [check(2), split(2)], WORDS, voc),
        "colors": Kind({"colors.yaml": palette}, [colors, draw], WORDS),
        "plans": Kind(plans, [train], WORDS),
        "records of runs": Kind(run, [go_on], WORDS, folder / "run"),
        "states of runs": Kind(state, [go_on], [mutate.damaged, mutate.with_damaged_member], folder / "run"),
        "foreign ONNX": Kind({"a.onnx": (plain / "yolo.onnx").read_bytes()}, [foreign], graphs),
    }


class Requests:
    """Sends files, as they would come over the wire, to a server in this process, and returns 0 for an answer with
    results, 2 for one that says what is wrong."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._app: Any = None

    def __call__(self, words: Sequence[str]) -> int:
        if self._loop is None:  # each process begins its own
            self._loop = asyncio.new_event_loop()
            self._loop.run_until_complete(self._begin(words[0]))
        return self._loop.run_until_complete(self._answer(Path(words[1]).read_bytes()))

    async def _begin(self, model: str) -> None:
        from detseg.api.models import load
        from detseg.server.app import make_app
        from detseg.server.settings import ServerSettings

        self._app = make_app(load(model, device="cpu"), ServerSettings(allow_url=True))
        self._lifespan = self._app.router.lifespan_context(self._app)
        await self._lifespan.__aenter__()

    async def _answer(self, message: bytes) -> int:
        head, _, body = message.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        parts = [part.decode("latin-1") for part in first.split(b" ")]
        method, target = (parts[0], parts[1]) if len(parts) > 1 else ("POST", "/predict")
        path, _, query = target.partition("?")
        pairs = [line.split(b":", 1) for line in lines if b":" in line]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode("latin-1"), "query_string": query.encode("latin-1"),
            "root_path": "", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8080),
            "headers": [(name.strip().lower(), value.strip()) for name, value in pairs],
        }  # fmt: skip
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[Any] = []

        async def receive() -> Any:
            return messages.pop() if messages else {"type": "http.disconnect"}

        async def send(one: Any) -> None:
            sent.append(one)

        await self._app(scope, receive, send)
        status = sent[0]["status"]
        if status >= 500:
            raise RuntimeError(f"answered with {status}: {sent[-1].get('body', b'')[:200]!r}")
        return 0 if status == 200 else 2


def _requests() -> dict[str, bytes]:
    still = cv2.resize(np.random.default_rng(5).integers(0, 256, (6, 8, 3), np.uint8), (64, 48))
    jpeg, png = (cv2.imencode(suffix, still)[1].tobytes() for suffix in (".jpg", ".png"))

    def request(first: str, kind: str, body: bytes) -> bytes:
        head = f"{first}\r\nhost: 127.0.0.1:8080\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
        return head.encode() + body

    parts = b"".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        f"Content-Type: image/{kind}\r\n\r\n".encode()
        + data
        + b"\r\n"
        for name, kind, data in (("a.jpg", "jpeg", jpeg), ("b.png", "png", png))
    )
    form = parts + f"--{BOUNDARY}--\r\n".encode()
    return {
        "image": request("POST /predict?confidence=0.5 HTTP/1.1", "image/jpeg", jpeg),
        "form": request("POST /predict HTTP/1.1", f"multipart/form-data; boundary={BOUNDARY}", form),
        "drawn": request("POST /draw?format=png HTTP/1.1", "image/png", png),
        "address": request("POST /predict HTTP/1.1", "application/json", b'{"url": "http://127.0.0.1:9/a.png"}'),
        "model": request("GET /model HTTP/1.1", "text/plain", b""),
    }


def _voc(folder: Path) -> None:
    from detseg.runtime.media.images import write_image

    rng = np.random.default_rng(3)
    for number in range(4):
        write_image(folder / f"JPEGImages/{number}.jpg", rng.integers(0, 256, (48, 64, 3), np.uint8))
        (folder / "Annotations").mkdir(exist_ok=True)
        (folder / f"Annotations/{number}.xml").write_text(VOC.format(name=number))
    (folder / "ImageSets/Main").mkdir(parents=True)
    (folder / "ImageSets/Main/train.txt").write_text("0\n1\n")
    (folder / "ImageSets/Main/val.txt").write_text("2\n3\n")


def _quietly(action: Callable[[], None]) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        action()


def _make(folder: Path, coco: Path, plain: Path) -> None:
    import onnx

    from detseg.cli import main

    (folder / "run.yaml").write_text(RUN.replace("DATA", str(coco)))
    if main(["train", str(folder / "run.yaml"), "-o", str(folder / "run")]) != 0:
        raise RuntimeError("the run could not be made")
    for path in (folder / "run").iterdir():
        if path.name not in ("config.yaml", "metrics.jsonl", "state.pt", ".lock"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / "plans").mkdir()
    if main(["plan", "blobs", "-o", str(folder / "plans/plan.yaml")]) != 0:
        raise RuntimeError("the plan could not be made")
    plain.mkdir()
    boxes = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 18]>
        g (float[1, 3, 64, 64] images) => (float[1, 6, 84] output0) <int64[3] flat = {0, 6, -1}> {
            a = Conv <strides = [8, 8], kernel_shape = [8, 8]> (images, weights)
            b = Reshape (a, flat)
            c = Slice (b, zero, count, two)
            output0 = Concat <axis = 2> (b, c)
        }"""
    )
    rng = np.random.default_rng(7)
    for name, values in {
        "weights": rng.normal(0, 0.1, (6, 3, 8, 8)).astype(np.float32),
        "zero": np.array([0]),
        "count": np.array([20]),
        "two": np.array([2]),
    }.items():
        boxes.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    onnx.save(boxes, plain / "yolo.onnx")
