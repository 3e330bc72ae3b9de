"""Rules that hold for every test: no network, no update checks, few threads, and real data only through DETSEG_DATA."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Before anything imports albumentations, numpy, ONNX Runtime or torch.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# GPU kernels run in Triton's interpreter, on the CPU; TRITON_INTERPRET=0 runs them on a GPU.
os.environ.setdefault("TRITON_INTERPRET", "1")

_DATA = os.environ.get("DETSEG_DATA")


def pytest_configure(config: pytest.Config) -> None:
    if _DATA and not Path(_DATA).is_dir():
        raise pytest.UsageError(f"DETSEG_DATA={_DATA} is not a folder; correct it, or unset it to skip the data tests")


@pytest.fixture(scope="session")
def detseg_data() -> Path:
    """The folder of real data and reference vectors."""
    if not _DATA:
        pytest.skip("DETSEG_DATA is not set: no real data here")
    return Path(_DATA).resolve()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Any:
    """With DETSEG_DATA set, a test that is skipped for want of it fails: its figures must not go unchecked."""
    return _refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Any:
    """The same for a whole file that is skipped."""
    return _refuse_skip((yield))


def _refuse_skip(report: Any) -> Any:
    if _DATA and report.skipped and isinstance(report.longrepr, tuple) and "DETSEG_DATA" in report.longrepr[2]:
        report.outcome = "failed"
        report.longrepr = f"skipped although DETSEG_DATA={_DATA} is set: {report.longrepr[2]}"
    return report


@pytest.fixture
def waits() -> Any:
    """``with waits() as counted``: ``counted.names`` is what would make the host wait for a GPU."""
    from tests.host_waits import counted_waits

    return counted_waits


@pytest.fixture
def in_forked_child() -> Callable[[Callable[[], object]], str]:
    """``run(work)``: what ``work`` gives in a forked child, as text, or its error; a child that hangs is ended."""

    def run(work: Callable[[], object]) -> str:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(60)
            try:
                found = repr(work())
            except BaseException as error:  # noqa: BLE001 - the child ends here, whatever happens
                found = repr(error)
            os.write(writer, found.encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            found = pipe.read()
        assert os.waitpid(child, 0)[1] == 0, "the child hung, or crashed"
        return found

    return run


def _is_local(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True  # a Unix socket
    host = str(address[0]).partition("%")[0]
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Connections and name look-ups that would leave this machine raise PermissionError."""
    patch = pytest.MonkeyPatch()

    def guard(name: str, original: Any) -> Any:
        def guarded(self: socket.socket, address: Any) -> Any:
            if not _is_local(address):
                raise PermissionError(f"tests use no network: {name}({address!r})")
            return original(self, address)

        return guarded

    for name in ("connect", "connect_ex"):
        patch.setattr(socket.socket, name, guard(name, getattr(socket.socket, name)))
    look_up = socket.getaddrinfo

    def guarded_look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in (None, socket.gethostname()) and not _is_local((name,)):
            raise PermissionError(f"tests use no network: getaddrinfo({host!r})")
        return look_up(host, *args, **kwargs)

    patch.setattr(socket, "getaddrinfo", guarded_look_up)
    yield
    patch.undo()
