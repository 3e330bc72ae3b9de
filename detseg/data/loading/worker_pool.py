"""A function applied to a stream of items in worker processes, results in order; on top of torch's DataLoader.

The DataLoader moves the tensors and keeps the processes. This module adds what training for hours needs: workers that
outlive a signal to the whole process group, errors that arrive whole, and an explanation when a worker dies.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import shutil
import signal
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from pickle import PicklingError
from typing import Any, Generic, TypeVar

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

Item = TypeVar("Item")
Result = TypeVar("Result")

_SHARED_MEMORY = Path("/dev/shm")
_SECONDS_TO_STOP = 1.0
_SECONDS_TO_DIE = 5.0
_SECONDS_TO_END = 60.0  # releasing its memory takes a while
_ADVICE = "Use fewer workers (train: data.num_workers, eval: --workers), or 0 to load in the main process"
MAX_WORKERS = 1024
"""Each is a process of some hundred megabytes."""
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_of_parents: list[Any] = []
"""Loaders that a forked child has inherited. It never lets go of them, which would end the workers of its parent."""


class WorkerDiedError(ChildProcessError):
    """A worker process ended without a Python error: killed, out of memory, or crashed in native code."""


class WorkerPool(Generic[Item, Result]):
    """``job(item)`` for streams of items, in ``num_workers`` processes that live from the first stream to ``close``.

    With ``num_workers`` 0 the job runs in this process. Results do not depend on the number of workers as long as
    ``job`` is a pure function. Workers ignore SIGINT and SIGTERM, which often go to the whole process group: the main
    process decides when to stop, after it has saved its state. A forked child starts workers of its own.
    """

    def __init__(self, job: Callable[[Item], Result], num_workers: int, pin_memory: bool = False) -> None:
        if num_workers < 0:
            raise ValueError(f"num_workers must be 0 (load in the main process) or more, got {num_workers}")
        if num_workers > MAX_WORKERS:
            raise ValueError(f"num_workers must be at most {MAX_WORKERS}, got {num_workers}")
        self._job = job
        self._num_workers = num_workers
        self._pin_memory = pin_memory
        self._stream = _Stream[Item]()
        self._loader: DataLoader[Any] | None = None
        self._results: Iterator[Any] = iter(())
        self._processes: list[BaseProcess] = []
        self._num_runs = 0
        self._owner = os.getpid()

    def run(self, items: Iterable[Item]) -> Iterator[Result]:
        """The results of ``items``, in their order; one run at a time. Of a run that is left early the rest is dropped.

        Raises:
            WorkerDiedError: when a worker process ended without a Python error.
            Exception: what ``job`` raised, with the traceback in the worker as its cause.
        """
        self._num_runs += 1
        this_run = self._num_runs
        self._results = self._start(items)
        while True:
            if this_run != self._num_runs or os.getpid() != self._owner:
                raise RuntimeError(
                    "these results ended when others were asked for, the workers were closed or this process was forked"
                )
            try:
                outcome = next(self._results)
            except StopIteration:
                return
            except RuntimeError as error:
                raise self._explained(error) from error
            except (ConnectionError, EOFError, FileNotFoundError) as error:
                self._await_deaths()
                raise self._explained(error) from error
            if isinstance(outcome, _Failure):
                raise outcome.error from _WorkerTraceback(outcome.text)
            yield outcome

    def close(self) -> None:
        """End the workers; those that do not end by themselves are killed. A later run starts new ones."""
        self._leave_to_parent()
        self._num_runs += 1
        # Without references the DataLoader tells its workers to leave, unless a traceback still holds it.
        self._results, self._loader = iter(()), None
        deadline = time.monotonic() + _SECONDS_TO_STOP
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        self._processes = []

    def _leave_to_parent(self) -> None:
        """In a forked child: forget the workers, which are those of the parent."""
        if os.getpid() == self._owner:
            return
        _of_parents.append((self._loader, self._results))
        self._results, self._loader = iter(()), None
        self._processes, self._stream = [], _Stream[Item]()
        self._owner = os.getpid()

    def _start(self, items: Iterable[Item]) -> Iterator[Any]:
        self._leave_to_parent()
        self._stream.items = items
        if self._loader is not None:
            return iter(self._loader)
        self._loader = DataLoader(
            _Jobs(self._job),
            batch_size=None,
            sampler=self._stream,
            num_workers=self._num_workers,
            collate_fn=_unchanged,
            worker_init_fn=_prepare_worker,
            pin_memory=self._pin_memory,
            persistent_workers=self._num_workers > 0,
            # Otherwise every run draws a number from torch's global generator, which training saves and restores.
            generator=torch.Generator(),
        )
        if self._num_workers == 0:
            return iter(self._loader)
        before = multiprocessing.active_children()
        handler = signal.getsignal(signal.SIGCHLD)
        with _stop_signals_held():
            results = iter(self._loader)
        if handler is not None and threading.current_thread() is threading.main_thread():
            # torch's handler raises in the middle of whatever runs when a worker dies, be it an optimizer step or a
            # checkpoint. Without it the death is noticed while waiting for the next result.
            signal.signal(signal.SIGCHLD, handler)
        self._processes = [process for process in multiprocessing.active_children() if process not in before]
        # Registered after the DataLoader's own, thus called before it, which would wait for workers not told to end.
        atexit.register(_close, weakref.ref(self))
        return results

    def _await_deaths(self) -> None:
        """Of workers that died while what they had sent was taken from them: their exit codes come a moment later.

        A process that ends closes its files first, and with them its sentinel; only then has it an exit code.
        """
        if not self._processes:
            return
        ended = wait([process.sentinel for process in self._processes], _SECONDS_TO_DIE)
        for process in self._processes:
            if process.sentinel in ended:
                process.join(_SECONDS_TO_END)

    def _explained(self, error: Exception) -> Exception:
        codes = [process.exitcode for process in self._processes if process.exitcode is not None]
        if not codes:
            return error
        self.close()
        ends = " and ".join(_describe_exit(code) for code in codes)
        return WorkerDiedError(
            f"a data loading worker {ends}. Usual causes: too little memory (SIGKILL), too little shared memory "
            f"(SIGBUS; {_free_shared_memory()}), a crash in a decoder (SIGSEGV). {_ADVICE}"
        )


class _Stream(Sampler[Item]):
    """What the DataLoader iterates over: exchanged before each run."""

    def __init__(self) -> None:
        self.items: Iterable[Item] = ()

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)


class _Jobs(Dataset[Any]):
    """The job as a data set; in a worker, errors become values, since the DataLoader would rewrite their messages."""

    def __init__(self, job: Callable[[Any], Any]) -> None:
        self._job = job

    def __getitem__(self, item: Any) -> Any:
        if get_worker_info() is None:
            return self._job(item)
        try:
            result = self._job(item)
            _share(result)
        except Exception as error:  # noqa: BLE001 (it is raised again in the main process)
            return _Failure(_picklable(error), traceback.format_exc())
        return result


@dataclass(frozen=True, slots=True)
class _Failure:
    error: Exception
    text: str


class _WorkerTraceback(Exception):  # noqa: N818 (shown as the cause of an error, never raised itself)
    """The traceback of an error where it happened, in a worker process."""

    def __str__(self) -> str:
        return f"in a data loading worker:\n{self.args[0]}"


def _picklable(error: Exception) -> Exception:
    # Exceptions whose constructor wants more than the message, for example, cannot be rebuilt in the main process.
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except (TypeError, AttributeError, PicklingError):
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _share(value: Any) -> None:
    """Move the tensors in a result to shared memory now: a failure in the DataLoader's own thread would hang."""
    if isinstance(value, Tensor):
        try:
            value.share_memory_()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise WorkerDiedError(
                f"a batch does not fit into shared memory ({_free_shared_memory()}): {error}. {_ADVICE}"
            ) from error
    elif is_dataclass(value):
        for part in fields(value):
            _share(getattr(value, part.name))
    elif isinstance(value, Mapping):
        for part in value.values():
            _share(part)
    elif isinstance(value, list | tuple):
        for part in value:
            _share(part)


def _unchanged(value: Any) -> Any:
    return value


@contextmanager
def _stop_signals_held() -> Iterator[None]:
    """Processes started in this block do not see a stop signal before they are ready to ignore it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows, where no signal reaches a worker
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare_worker(worker_id: int) -> None:
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
    cv2.setNumThreads(0)
    threading.Thread(target=_end_with_main_process, daemon=True).start()


def _end_with_main_process() -> None:
    """End this worker once the main process is gone, also by SIGKILL.

    torch looks at the parent's process id for that, which is the fork server's where workers come from one; and that
    lives as long as they do.
    """
    main_process = multiprocessing.parent_process()
    if main_process is not None:
        main_process.join()
        os._exit(1)


def _close(pool: weakref.ref[WorkerPool[Any, Any]]) -> None:
    alive = pool()
    if alive is not None:
        alive.close()


def _describe_exit(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _free_shared_memory() -> str:
    if not _SHARED_MEMORY.is_dir():
        return "this system has no /dev/shm"
    return f"{shutil.disk_usage(_SHARED_MEMORY).free / 1e6:,.0f} MB free in {_SHARED_MEMORY}"
