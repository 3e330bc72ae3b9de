"""A load on ``detseg serve`` over loopback: errors, answers per second, latency and memory; beside it LitServe.

    python bench/serve.py --model MODEL.onnx --images FOLDER [--requests 10000] [--at-a-time 64]
        [--peer-python PEER_ENV/bin/python] [--schemathesis SCHEMATHESIS_ENV/bin/schemathesis]

Requests are forms with one image each, in turn from the folder, over as many connections as there are requests at a
time; each connection sends the next when it has its answer. Client and server share the cores. Memory is that of the
server's processes, looked at after a tenth of the requests and at the end.

The peer lives in an environment of its own (``pip install litserve python-multipart`` and what detseg needs without
extras). Its server
calls the same model through ``detseg.load``, so decoding, network and NMS are the same code; it is measured one
image at a time and in batches of 8, with as many workers as cores. The programs take turns.

Schemathesis tries the server with what its own description allows, and does not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from detseg.runtime.sources.finding import expand_sources

REPOSITORY = Path(__file__).resolve().parent.parent
PEER = """
import sys
import litserve
import detseg

class Api(litserve.LitAPI):
    def setup(self, device):
        self.model = detseg.load(sys.argv[1], confidence=0.25, num_threads=1)
        self.kind, self.names = self.model.runner.kind, self.model.class_names
    def decode_request(self, request):
        return request["file"].file.read()
    def predict(self, given):
        many = isinstance(given, list)
        found = self.model(given if many else [given], batch_size=len(given) if many else 1)
        told = [self.kind.record(one.result, self.names) for one in found]
        return told if many else told[0]
    def batch(self, inputs):
        return list(inputs)
    def unbatch(self, output):
        return output
    def encode_response(self, output):
        return output

if __name__ == "__main__":
    size = int(sys.argv[3])
    api = Api(max_batch_size=size, batch_timeout=0.002) if size > 1 else Api()
    litserve.LitServer(api, accelerator="cpu", workers_per_device=int(sys.argv[4]), timeout=600).run(
        host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="error"
    )
"""


def processes_of(root: int) -> list[int]:
    """The process ``root`` and all that it has started."""
    found, parents = [root], {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue  # it has ended
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def memory_mb(root: int) -> float:
    """The resident memory of a process and all that it has started."""
    pages = 0
    for one in processes_of(root):
        try:
            pages += int(Path(f"/proc/{one}/statm").read_text().split()[1])
        except OSError:
            continue  # it has ended
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    """Until ``address`` answers with 200."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"the server has ended with {process.returncode}")
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (OSError, urllib.error.URLError):
            time.sleep(0.2)
    raise SystemExit(f"{address} did not answer")


def requests_of(images: list[Path], port: int) -> list[bytes]:
    """Whole requests, as they go over the line."""
    made = []
    for path in images:
        body = (
            f'--XX\r\nContent-Disposition: form-data; name="file"; filename="{path.name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode() + path.read_bytes() + b"\r\n--XX--\r\n"  # fmt: skip
        head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: multipart/form-data; boundary=XX\r\n"
        made.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return made


async def load(port: int, requests: list[bytes], num_requests: int, at_a_time: int, pid: int) -> dict[str, float]:
    """Send ``num_requests`` in all, ``at_a_time``, and tell what came of them."""
    numbers = iter(range(num_requests))
    seconds: list[float] = []
    errors: list[str] = []
    memory: list[float] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            begin = time.perf_counter()
            writer.write(requests[number % len(requests)])
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
            body = await reader.readexactly(length)
            seconds.append(time.perf_counter() - begin)
            if " 200 " not in head.partition("\r\n")[0] or b"detections" not in body:
                errors.append(head.partition("\r\n")[0])
            if number == num_requests // 10:
                memory.append(memory_mb(pid))
        writer.close()
        await writer.wait_closed()

    begin = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(at_a_time)))
    took_s = time.perf_counter() - begin
    memory.append(memory_mb(pid))
    ordered = sorted(seconds)
    return {
        "errors": len(errors),
        "images/s": len(seconds) / took_s,
        "median ms": 1000 * statistics.median(ordered),
        "p99 ms": 1000 * ordered[int(0.99 * len(ordered))],
        "MB early": memory[0],
        "MB end": memory[-1],
    }


@contextmanager
def server(command: Sequence[str], ready: str, environment: dict[str, str], log: Path | None = None) -> Iterator[int]:
    """A server within the block, once it is ``ready``; its process id. Whatever ends the block ends all that the server
    has started: it is in a session of its own."""
    with ExitStack() as stack:
        told = subprocess.DEVNULL if log is None else stack.enter_context(log.open("wb"))
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=told, env=environment, start_new_session=True
        )
        stack.callback(stop, process)
        wait_for(ready, process)
        yield process.pid


def ours(model: Path, port: int) -> AbstractContextManager[int]:
    """``detseg serve``."""
    command = [sys.executable, "-m", "detseg", "serve", str(model), "--port", str(port), "--conf", "0.25"]
    return server(command, f"http://127.0.0.1:{port}/ready", {**os.environ})


def peer(python: Path, model: Path, port: int, batch_size: int, folder: Path) -> AbstractContextManager[int]:
    """LitServe with the same model."""
    script = folder / "peer.py"
    script.write_text(PEER)
    command = [str(python), str(script), str(model), str(port), str(batch_size), str(os.cpu_count() or 1)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return server(command, f"http://127.0.0.1:{port}/health", environment, folder / "peer.txt")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and what it has started, also what left its session or lost its parent."""
    started = processes_of(process.pid)
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(30)
    for end, one in ((os.killpg, process.pid), *((os.kill, child) for child in started[1:])):
        with suppress(ProcessLookupError):
            end(one, signal.SIGKILL)
    process.wait()


def end_with_all(number: int, frame: object) -> NoReturn:
    """Leave all blocks."""
    raise SystemExit(128 + number)


def try_description(schemathesis: Path, model: Path, port: int, num_examples: int) -> int:
    """What Schemathesis says of the server; its exit code. That random bytes are no image is no fault."""
    # Bodies that fit the description may still be no image, and requests that do not fit it are known by FastAPI only
    # as far as it reads them: the body is ours to read, of any type.
    left_out = "positive_data_acceptance,unsupported_method,negative_data_rejection"
    command = [str(schemathesis), "run", f"http://127.0.0.1:{port}/openapi.json", "--exclude-checks", left_out]
    with ours(model, port):
        return subprocess.run([*command, "--max-examples", str(num_examples), "--seed", "1"], check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--at-a-time", type=int, default=64)
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--schemathesis", type=Path)
    parser.add_argument("--examples", type=int, default=100, help="of Schemathesis, for each path")
    options = parser.parse_args()
    requests = requests_of(expand_sources([options.images])[:100], options.port)
    rows: dict[str, dict[str, float]] = {}

    def measure(name: str, started: AbstractContextManager[int]) -> None:
        with started as pid:
            rows[name] = asyncio.run(load(options.port, requests, options.requests, options.at_a_time, pid))

    signal.signal(signal.SIGTERM, end_with_all)
    measure("detseg serve", ours(options.model, options.port))
    if options.peer_python:
        with tempfile.TemporaryDirectory() as folder:
            for size in (1, 8):
                name = f"LitServe, batches of {size}" if size > 1 else "LitServe"
                measure(name, peer(options.peer_python, options.model, options.port, size, Path(folder)))
        measure("detseg serve, again", ours(options.model, options.port))
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {options.requests:,} requests, {options.at_a_time} at a time\n"
    )
    names = list(next(iter(rows.values())))
    print(f"| | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(f'{row[one]:.0f}' for one in names)} |")
    print(json.dumps(rows), file=sys.stderr)
    if options.schemathesis:
        return try_description(options.schemathesis, options.model, options.port, options.examples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
