"""Training over two machines, made of network namespaces of this one, with processes killed at random.

    python bench/nodes.py [--kills 50] [--ranks 2] [--one-node]

Each rank is a process in a namespace of its own with an address of its own; they meet over gloo. First the run is done
by as many ranks on one machine, then by two machines: the files must be the same, bit by bit. Then it is done again and
again, while a rank that chance chooses is killed at a time that chance chooses; the others must end within 10 seconds
with one message together, and the run that goes on must end as the others did. ``--one-node``: all ranks on
addresses of the loopback device, which needs no permission to make namespaces.

Making namespaces is for root. Prints a line for what was seen, and ends with 0 if all was as it must be.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from detseg.engine.run import train as _loaded  # so that ranks, which are forked, need not wait for torch
from detseg.engine.training.checkpoint import STATE_NAME

_CONFIG = """
model: {name: detector, backbone: {name: csp_darknet, width: 0.125}}
task: {name: detection, input: {height: 64, width: 64}}
data: {path: shapes.yaml, num_workers: WORKERS}
train: {epochs: 2, batch_size: 4, num_threads: 1, device: cpu, save_steps: 1}
"""
_SHAPES = """
format: shapes
image_size: 64
num_train: 16
num_val: 4
min_objects: 1
max_objects: 2
min_side: 16
max_side: 30
"""
_NAMES = ("detseg-a", "detseg-b")
_ADDRESSES = ("10.98.76.1", "10.98.76.2")
_CLONE_NEWNET = 0x40000000
_MANY_S = 300.0


@contextmanager
def namespaces() -> Iterator[None]:
    """Two, with a cable between them."""
    with ExitStack() as stack:
        for name in _NAMES:
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
        _ip("link", "add", "left", "netns", _NAMES[0], "type", "veth", "peer", "name", "right", "netns", _NAMES[1])
        for name, address, device in zip(_NAMES, _ADDRESSES, ("left", "right"), strict=True):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
            for one in (device, "lo"):
                _ip("-n", name, "link", "set", one, "up")
        yield


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Run:
    """The processes of one run, which train in ``folder``."""

    def __init__(self, folder: Path, run_dir: Path, num_ranks: int, port: int, two_nodes: bool) -> None:
        self.folder = folder
        self.logs = [folder / f"rank{rank}.txt" for rank in range(num_ranks)]
        self.pids: list[int] = []
        self.codes: dict[int, int] = {}
        goes_on = (run_dir / STATE_NAME).exists()
        for rank in range(num_ranks):
            pid = os.fork()
            if not pid:
                try:
                    os.setsid()
                    with self.logs[rank].open("w") as log:
                        os.dup2(log.fileno(), 1)
                        os.dup2(log.fileno(), 2)
                    if two_nodes:
                        _enter(_NAMES[rank * 2 // num_ranks])
                        os.environ["GLOO_SOCKET_IFNAME"] = ("left", "right")[rank * 2 // num_ranks]
                    os.environ |= {
                        "RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(num_ranks), "MASTER_PORT": str(port),
                        "MASTER_ADDR": _ADDRESSES[0] if two_nodes else "127.0.0.1",
                    }  # fmt: skip
                    os._exit(_train(folder, run_dir, goes_on))
                except BaseException:  # noqa: BLE001 - of a child, whatever it is
                    traceback.print_exc()
                    sys.stderr.flush()
                    os._exit(3)
            self.pids.append(pid)

    def wait(self, seconds: float) -> bool:
        """Whether all have ended within ``seconds``."""
        end = time.monotonic() + seconds
        while len(self.codes) < len(self.pids) and time.monotonic() < end:
            for pid in self.pids:
                if pid not in self.codes and os.waitpid(pid, os.WNOHANG)[0]:
                    self.codes[pid] = 1
            time.sleep(0.01)
        return len(self.codes) == len(self.pids)

    def end(self) -> None:
        """Kill what is left, with what it has started."""
        for pid in self.pids:
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.wait(10)

    def messages(self) -> list[str]:
        """What they have said of a fault."""
        text = "".join(log.read_text() for log in self.logs)
        return [line for line in text.splitlines() if line.startswith("detseg train: ") or "Traceback" in line]


assert _loaded is not None


def _train(folder: Path, run_dir: Path, goes_on: bool) -> int:
    from detseg.cli import main

    words = ["--resume", str(run_dir)] if goes_on else [str(folder / "tiny.yaml"), "-o", str(run_dir)]
    return main(["train", *words])


def _enter(name: str) -> None:
    with open(f"/var/run/netns/{name}") as namespace:  # noqa: PTH123
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the namespace {name}")


def fingerprint(run_dir: Path) -> dict[str, str]:
    """What a run has learned, and what it has said of it but for times."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    kept = [{name: value for name, value in one.items() if not name.endswith("seconds")} for one in records]
    files = {name: (run_dir / name).read_bytes() for name in ("last.safetensors", "best.safetensors")}
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()} | {"records": json.dumps(kept)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0, help="processes that read, of each rank")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=10.0, help="seconds in which the others must end")
    parser.add_argument("--one-node", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "tiny.yaml").write_text(_CONFIG.replace("WORKERS", str(options.workers)))
        (folder / "shapes.yaml").write_text(_SHAPES)
        os.chdir(folder)
        if not options.one_node:
            stack.enter_context(namespaces())
        return _all(options, folder)


def _all(options: argparse.Namespace, folder: Path) -> int:
    port = 29600

    def start(run_dir: Path, two_nodes: bool = not options.one_node) -> Run:
        nonlocal port
        port += 1
        return Run(folder, run_dir, options.ranks, port, two_nodes)

    whole = start(folder / "whole", two_nodes=False)
    assert whole.wait(_MANY_S), whole.messages()
    expected = fingerprint(folder / "whole")
    begin = time.monotonic()
    run = start(folder / "apart")
    assert run.wait(_MANY_S), run.messages()
    took_s = time.monotonic() - begin
    same = fingerprint(folder / "apart") == expected
    print(f"{options.ranks} ranks, {took_s:.1f} s; as on one node, bit by bit: {same}", flush=True)
    chance, seconds, num_runs, faults = random.Random(options.seed), [], 0, [] if same else ["apart"]
    while len(seconds) < options.kills:
        num_runs += 1
        run_dir = folder / f"run{num_runs}"
        while True:
            run = start(run_dir)
            if len(seconds) == options.kills or run.wait(chance.uniform(0.2, 1.0) * took_s):
                assert run.wait(_MANY_S), run.messages()
                break
            victim = chance.choice([rank for rank, pid in enumerate(run.pids) if pid not in run.codes])
            os.kill(run.pids[victim], signal.SIGKILL)
            begin = time.monotonic()
            ended = run.wait(options.limit)
            seconds.append(time.monotonic() - begin)
            said = run.messages()
            if not ended or len(said) > 1 or (said and f"rank {victim} " not in said[0]):
                faults.append(f"kill {len(seconds)}, of rank {victim}: ended {ended}, said {said}")
                print(faults[-1], flush=True)
            run.end()
        if not (run_dir / "last.safetensors").exists() or fingerprint(run_dir) != expected:
            faults.append(f"run {num_runs} became another one")
            print(faults[-1], run.messages(), flush=True)
        shutil.rmtree(run_dir, ignore_errors=True)
    if seconds:
        print(
            f"{len(seconds)} kills in {num_runs} runs; all ended after {statistics.median(seconds):.1f} s in the "
            f"median, {max(seconds):.1f} s at most; faults: {len(faults)}"
        )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
