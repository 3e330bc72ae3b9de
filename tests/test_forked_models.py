"""A model that has worked goes on working in processes that come after it: forked, spawned, or a server's workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WEIGHTS = Path(__file__).parents[1] / "weights" / "detseg_n_shapes.safetensors"
DEADLINE_S = 120

SCRIPT = '''
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import Client, Listener

import numpy as np

import detseg

path, way, num_threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
images = [np.random.default_rng(seed).integers(0, 256, (64 + 32 * seed, 96, 3), dtype=np.uint8) for seed in range(3)]
model = None


def load():
    return detseg.load(path, num_threads=num_threads, confidence=0.001)


def results():
    """Of all images, from as many threads."""
    found = [None] * len(images)

    def work(number):
        (prediction,) = (model or load()).predict(images[number])
        found[number] = [part.tolist() for part in (prediction.result.boxes_xyxy, prediction.result.scores)]

    work(0)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def child(pipe):
    pipe.send(results())


def by_multiprocessing(expected):
    context = multiprocessing.get_context(way)
    for _ in range(2 if way == "fork" else 1):
        here, there = context.Pipe()
        process = context.Process(target=child, args=(there,), daemon=True)
        process.start()
        assert here.poll(60), "the child hangs"
        assert here.recv() == expected
        process.join(30)
        assert process.exitcode == 0, process.exitcode


def serve(listener):
    """A worker of a server that ends as the interpreter does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        with listener.accept() as connection:
            if connection.recv() == "who":
                connection.send(os.getpid())
            else:
                connection.send(results())


def by_server(expected):
    """Loaded and warmed up before two workers are forked, as servers with preloading do."""
    listener = Listener()
    workers = []
    for _ in range(2):
        worker = os.fork()
        if worker == 0:
            serve(listener)
        workers.append(worker)
    for _ in range(4):
        with Client(listener.address) as connection:
            connection.send("predict")
            assert connection.poll(60), "a worker hangs"
            assert connection.recv() == expected
    for worker in workers:
        os.kill(worker, signal.SIGTERM)
        assert os.waitpid(worker, 0)[1] == 0


if __name__ == "__main__":
    signal.alarm(100)
    model = load()
    expected = results()
    assert all(len(boxes) for boxes, _ in expected)
    (by_server if way == "server" else by_multiprocessing)(expected)
    assert results() == expected, "the parent goes on"
    print("done")
'''


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from detseg.exporters.command import export_command

    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    assert export_command(WEIGHTS, path) == 0
    return path


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no forks")
@pytest.mark.parametrize("form", ["torch", "onnx"])
@pytest.mark.parametrize(
    ("way", "num_threads"), [("fork", 1), ("fork", 2), ("server", 2), ("spawn", 2), ("forkserver", 2)]
)
def test_processes_that_come_after_a_prediction(
    tmp_path: Path, exported: Path, form: str, way: str, num_threads: int
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    path = WEIGHTS if form == "torch" else exported
    command = [sys.executable, str(script), str(path), way, str(num_threads)]
    environment = {**os.environ, "PYTHONPATH": str(WEIGHTS.parents[1]), "OMP_NUM_THREADS": str(num_threads)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False, env=environment)
    assert (done.returncode, done.stdout.split()) == (0, ["done"]), done.stderr
