"""Processes of a Ray cluster, each with a model, that do shares of a list."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from detseg.runtime.commands.predict import predict_command
from detseg.runtime.commands.shards import Shard
from detseg.runtime.model import Model
from detseg.runtime.sources.finding import Source
from detseg.runtime.stop import StopSignals

LOCAL = "local"
_ADDRESS = re.compile(r"local|auto|[^/\s]+:\d{1,5}")
_MAX_ENDS = 5
"""How often the process that does a share may end before its time."""
_STORE_BYTES = 200_000_000
"""Ray's store of objects holds the list of sources, and nothing of images."""
_LOOK_S = 0.2

Prepare = Callable[[], tuple[Model, dict[str, Any]]]
"""Loads the model, and gives what else :func:`predict_command` is told."""


@dataclass(frozen=True)
class Cluster:
    """Which cluster is asked (``local``: this machine, for this run only), for how many processes (None: as many as it
    has room for) and cores for each; ``wants_gpus``: each has a GPU of its own, where there are any."""

    address: str = LOCAL
    num_workers: int | None = None
    num_threads: int = 1
    wants_gpus: bool = True

    def __post_init__(self) -> None:
        if not _ADDRESS.fullmatch(self.address):
            raise ValueError(
                f"--ray takes HOST:PORT of a cluster, auto (the one that this machine belongs to) or nothing (this "
                f"machine only), got {self.address!r}"
            )
        if self.num_workers is not None and self.num_workers < 1:
            raise ValueError(f"--ray-workers must be at least 1, got {self.num_workers}")


class Worker:
    """A process of the cluster with the model. All that it reads and writes must be where it is for the others, too."""

    def __init__(self, prepare: Prepare, folder: str) -> None:
        self._prepare = prepare
        self._folder = folder

    def start(self) -> tuple[Any, Sequence[str], Any]:
        """Load the model; returns how its inputs are described, what is saved, and how objects are tracked.

        Raises:
            ValueError: the folder that names are relative to is not there, or as the model's loading.
        """
        try:
            os.chdir(self._folder)
        except OSError as error:
            raise ValueError(
                f"{self._folder} is not on {os.uname().nodename} ({error.strerror}); all machines of the cluster must "
                "see the same folders"
            ) from error
        self._model, self._arguments = self._prepare()
        save = self._arguments.get("save")
        chosen = [*(self._model.runner.kind.default_save if save is None else save)]
        if self._arguments.get("crops"):
            chosen.append("crops")
        return self._model.runner.spec, chosen, self._arguments.get("track")

    def predict(self, found: Sequence[Source], shard: Shard, output: Path) -> tuple[int, list[str]]:
        """Do a share; returns the exit code, and the warnings on the way."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            code = predict_command(
                self._model, (), found=found, shard=shard, resume=True, output=output, **self._arguments
            )
        return code, [str(one.message) for one in caught]


class Pool:
    """The workers of a run."""

    def __init__(self, ray: Any, cluster: Cluster, prepare: Prepare, stop: StopSignals) -> None:
        self._ray = ray
        known = ray.exceptions
        self._has_ended = (known.RayActorError, known.WorkerCrashedError, known.OutOfMemoryError)
        self._stop = stop
        self._prepare = prepare
        has_gpus = cluster.wants_gpus and ray.cluster_resources().get("GPU", 0) >= 1
        self._needs = {"num_cpus": cluster.num_threads, "num_gpus": int(has_gpus)}
        self.num_workers = cluster.num_workers or max(1, sum(map(self._room, ray.nodes())))
        self.num_ends = 0
        """How many workers have ended before their time."""
        self._busy: dict[Any, tuple[Any, Shard | None]] = {}

    def _room(self, node: Mapping[str, Any]) -> int:
        """How many workers ``node`` has room for."""
        names = {"CPU": self._needs["num_cpus"], "GPU": self._needs["num_gpus"]}
        has = node["Resources"] if node["Alive"] else {}
        return int(min(has.get(name, 0) // amount for name, amount in names.items() if amount))

    def first(self) -> Any:
        """Start all workers; what the first one that is ready says of the model."""
        for _ in range(self.num_workers):
            self._start()
        while not self._stop.requested.is_set():
            for reference in self._done():
                try:
                    return self._get(reference)
                except self._has_ended as error:
                    self._replace(reference, error)

        raise ValueError("stopped before any process of the cluster was ready; the cluster may have no room")

    def run(self, found: Sequence[Source], folders: Mapping[Shard, Path]) -> None:
        """Have all shares done, each into its folder; returns early when the run is told to stop."""
        listed = self._ray.put(list(found))
        sizes = {shard: len(shard.positions([source.title for source in found])) for shard in folders}
        waiting = deque(folders)
        told: set[str] = set()
        ends: Counter[Shard] = Counter()
        with tqdm(
            desc="predict", unit="source", total=sum(sizes.values()), leave=False, dynamic_ncols=True, disable=None
        ) as bar:
            while waiting or any(shard is not None for _, shard in self._busy.values()):
                for reference in self._done():
                    worker, shard = self._busy[reference]
                    try:
                        given = self._get(reference)
                    except self._has_ended as error:
                        self._replace(reference, error)
                        given = None
                    else:
                        del self._busy[reference]
                    if shard is not None:
                        if given is None or given[0] > 2:  # a signal for the worker alone
                            ends[shard] += 1
                            if ends[shard] == _MAX_ENDS:
                                raise ValueError(
                                    f"the process that did share {shard} has ended {_MAX_ENDS} times before its time, "
                                    f"such as for want of memory; the same command with --resume goes on"
                                )
                            waiting.appendleft(shard)
                        else:
                            bar.update(sizes[shard])
                            for text in sorted({*given[1]} - told):
                                warnings.warn(text, stacklevel=2)
                                told.add(text)
                    if given is not None and waiting:
                        shard = waiting.popleft()
                        self._busy[worker.predict.remote(listed, shard, folders[shard].absolute())] = (worker, shard)
                if self._stop.requested.is_set():
                    return

    def _start(self) -> None:
        worker = self._ray.remote(**self._needs)(Worker).remote(self._prepare, str(Path.cwd()))
        self._busy[worker.start.remote()] = (worker, None)

    def _replace(self, reference: Any, error: Exception) -> None:
        """Another worker for one that has ended."""
        worker, _ = self._busy.pop(reference)
        self._ray.kill(worker)
        self.num_ends += 1
        if self.num_ends > _MAX_ENDS * self.num_workers:
            raise ValueError(f"{self.num_ends} processes of the cluster have ended before their time: {error}")
        self._start()

    def _done(self) -> list[Any]:
        """What is done by now, after a moment."""
        done, _ = self._ray.wait(list(self._busy), timeout=_LOOK_S)
        return list(done)

    def _get(self, reference: Any) -> Any:
        """What a worker gives. Raises what it has raised."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from None


@contextmanager
def connected(cluster: Cluster) -> Iterator[Any]:
    """Ray, connected; a cluster that was started for this run ends with it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers of each run
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "configure_logging": True}
    if cluster.address == LOCAL:
        num_workers = cluster.num_workers or max(1, (os.cpu_count() or 1) // cluster.num_threads)
        options |= {"num_cpus": num_workers * cluster.num_threads, "object_store_memory": _STORE_BYTES}
        options |= {"include_dashboard": False}
    ray.init(address=cluster.address, **options)
    try:
        yield ray
    finally:
        ray.shutdown()
