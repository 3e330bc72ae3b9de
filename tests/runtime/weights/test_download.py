"""Downloads from a server on this machine, over real sockets."""

from __future__ import annotations

import hashlib
import io
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from detseg.runtime.weights import download as module
from detseg.runtime.weights import released, steady
from detseg.runtime.weights.download import EXIT_STOPPED, DownloadError, download, download_command
from detseg.runtime.weights.released import Release, ReleaseError, ReleaseTable, add_release

CONTENT = bytes(range(256)) * 1000
SIZE = len(CONTENT)
OTHER = bytes(reversed(CONTENT))
SHA256 = hashlib.sha256(CONTENT).hexdigest()
RELEASE = Release("net.safetensors", SHA256, SIZE, "semantic", "CamVid", "Apache-2.0", "mIoU 0.7 on val")
NOBODY = "http://127.0.0.1:9"  # the port of the service that discards; nobody runs it


class Handler(BaseHTTPRequestHandler):
    """What the server does is the first part of the path: ``/truncated/net.safetensors``."""

    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        self.server.headers_seen.append(dict(self.headers))
        getattr(self, f"do_{self.path.split('/')[1]}")()

    def log_message(self, *arguments: object) -> None:
        pass

    def send(self, content: bytes, status: int = 200, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(content)

    def do_good(self) -> None:
        self.send(CONTENT, Content_Length=SIZE)

    def do_unannounced(self) -> None:
        self.send(CONTENT)

    def do_chunked(self) -> None:
        self.protocol_version = "HTTP/1.1"
        pieces = [CONTENT[start : start + 100_000] for start in range(0, SIZE, 100_000)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        self.send(body + b"0\r\n\r\n", Transfer_Encoding="chunked", Connection="close")

    def do_chunked_break(self) -> None:
        self.protocol_version = "HTTP/1.1"
        self.send(b"%x\r\n%s" % (SIZE, CONTENT[:1000]), Transfer_Encoding="chunked", Connection="close")

    def do_other(self) -> None:
        self.send(OTHER, Content_Length=SIZE)

    def do_missing(self) -> None:
        self.send_error(404)

    def do_broken(self) -> None:
        self.send_error(503)

    def do_silent(self) -> None:
        self.close_connection = True

    def do_truncated(self) -> None:
        self.send(CONTENT[:100_000], Content_Length=SIZE)

    def do_truncated_unannounced(self) -> None:
        self.send(CONTENT[:100_000])

    def do_long(self) -> None:
        self.send(CONTENT + b"more", Content_Length=SIZE + 4)

    def do_endless(self) -> None:
        self.send(b"")
        try:
            while not self.server.ended.is_set():
                self.wfile.write(CONTENT)
                self.server.num_sent += SIZE
        except ConnectionError:
            self.server.hung_up.set()

    def do_half(self) -> None:
        self.send(CONTENT[: SIZE - 1000], Content_Length=SIZE)
        self.server.ended.wait(30)

    def do_dripping(self) -> None:
        """A byte now and then, which no limit on the wait for the next one notices."""
        self.send(CONTENT[:50_000], Content_Length=SIZE)
        self.drip(CONTENT[50_000:])

    def do_dripping_headers(self) -> None:
        self.drip(b"HTTP/1.0 200 OK\r\n" + b"x" * SIZE)

    def drip(self, content: bytes) -> None:
        try:
            for byte in content:
                if self.server.ended.wait(0.02):
                    return
                self.wfile.write(bytes([byte]))
        except ConnectionError:
            self.server.hung_up.set()

    def do_moved(self) -> None:
        self.send(b"", 302, Location="/good/net.safetensors")

    def do_circle(self) -> None:
        self.send(b"", 302, Location=self.path)

    def do_abroad(self) -> None:
        self.send(b"", 301, Location="http://example.org/net.safetensors")

    def do_local_name(self) -> None:
        self.send(b"", 301, Location="http://localhost.example.org/net.safetensors")

    def do_ftp(self) -> None:
        self.send(b"", 307, Location="ftp://127.0.0.1/net.safetensors")

    def do_file(self) -> None:
        self.send(b"", 302, Location="file:///etc/passwd")


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[str] = []
        self.headers_seen: list[dict[str, str]] = []
        self.num_sent = 0
        self.hung_up, self.ended = threading.Event(), threading.Event()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.ended.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One released model, ``net``, which is nowhere yet; it belongs into ``tmp_path / "mine"``."""
    path = tmp_path / "released.yaml"
    path.write_text("url: null")
    add_release("net", RELEASE, path)
    monkeypatch.setattr(released, "TABLE", path)
    monkeypatch.setattr(released, "_CHECKOUT", tmp_path / "checkout")
    monkeypatch.setenv("DETSEG_WEIGHTS", str(tmp_path / "mine"))
    return path


@pytest.mark.parametrize("way", ["good", "unannounced", "chunked", "moved"])
def test_a_file_arrives(way: str, server: Server, tmp_path: Path) -> None:
    path = download(RELEASE, tmp_path / "new" / "folder", f"{server.url}/{way}/")
    assert path == tmp_path / "new" / "folder" / "net.safetensors"
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]
    expected = [f"/{way}/net.safetensors"] + ["/good/net.safetensors"] * (way == "moved")
    assert server.requests == expected
    assert server.headers_seen[0]["User-Agent"].startswith("detseg/")


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("other", f"not the released file: its sha256 is {hashlib.sha256(OTHER).hexdigest()}, not {SHA256}"),
        ("missing", "the server answers 404 Not Found"),
        ("broken", "the server answers 503 Service Unavailable"),
        ("silent", "no answer: Remote end closed connection without response"),
        ("truncated", "ended after 100000 of 256000 bytes; try again"),
        ("truncated_unannounced", "ended after 100000 of 256000 bytes; try again"),
        ("chunked_break", "the connection broke: IncompleteRead"),
        ("long", "the server has 256004 bytes, the released file has 256000"),
        ("endless", "the server sends more than the 256000 bytes of the released file"),
        ("circle", "the server answers 302"),
        ("abroad", "addresses must begin with https:// (http:// for localhost only), got http://example.org/net"),
        ("local_name", "addresses must begin with https:// (http:// for localhost only), got http://localhost.example"),
        ("ftp", "addresses must begin with https:// (http:// for localhost only), got ftp://"),
        ("file", "the server answers 302"),
    ],
)
def test_nothing_else_is_kept(way: str, message: str, server: Server, tmp_path: Path) -> None:
    url = f"{server.url}/{way}"
    with pytest.raises(DownloadError, match=re.escape(message)) as caught:
        download(RELEASE, tmp_path, url)
    if way not in ("abroad", "local_name", "ftp"):
        assert str(caught.value).startswith(f"{url}/net.safetensors")
    assert list(tmp_path.iterdir()) == []
    if way == "endless":
        assert server.hung_up.wait(10)
        assert server.num_sent < 100 * SIZE, "hung up once it was too long"


def test_from_https_to_http_is_refused_even_on_this_machine() -> None:
    request = urllib.request.Request("https://127.0.0.1/net.safetensors")
    answer = io.BytesIO()
    with pytest.raises(DownloadError, match=r"leads from https to http://localhost/, which is refused"):
        module._Redirects().redirect_request(request, answer, 302, "Found", Message(), "http://localhost/")
    assert answer.closed
    followed = module._Redirects().redirect_request(request, answer, 302, "Found", Message(), "https://example.org/a")
    assert followed is not None
    assert followed.full_url == "https://example.org/a"


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(
        DownloadError, match=r"no answer: .*Connection refused; where there is no network, put the file"
    ):
        download(RELEASE, tmp_path / "new", NOBODY)
    assert not (tmp_path / "new").exists()


def test_no_tls(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"no answer: .*SSL"):
        download(RELEASE, tmp_path, server.url.replace("http:", "https:"))


def test_a_server_that_stops_answering(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMEOUT_SECONDS", 0.2)
    with pytest.raises(DownloadError, match="the connection broke: timed out; try again"):
        download(RELEASE, tmp_path, f"{server.url}/half")
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        pytest.raises(DownloadError, match="no answer: timed out; where there is no network"),
    ):
        download(RELEASE, tmp_path, f"http://127.0.0.1:{mute.getsockname()[1]}")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_sends_very_slowly(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steady, "WINDOW_SECONDS", 0.5)
    monkeypatch.setattr(steady, "ANSWER_SECONDS", 1.5)
    with pytest.raises(DownloadError, match=r"too slow: \d+ bytes in 0\.5 s, at least 10000 a second are needed; try"):
        download(RELEASE, tmp_path, f"{server.url}/dripping")
    assert server.hung_up.wait(60), "the connection is given up"
    with pytest.raises(DownloadError, match=r"no answer within 1\.5 s; try again, or put the file into"):
        download(RELEASE, tmp_path, f"{server.url}/dripping_headers")
    assert list(tmp_path.iterdir()) == []


def test_a_slow_disk_is_not_the_servers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steady, "WINDOW_SECONDS", 0.2)
    taken = []
    for piece in steady.steadily(iter([b"", *[b"x"] * 20])):
        taken.append(piece)
        time.sleep(0.05)
    assert b"".join(taken) == b"x" * 20


def test_plain_http_takes_no_proxy(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", NOBODY)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert download(RELEASE, tmp_path, f"{server.url}/good").read_bytes() == CONTENT


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("url", "message"),
    [
        (None, "released weights have no address yet; name the folder they are served from: --url https://..."),
        ("http://example.org/", "must begin with https:// (http:// for localhost only), got http://example.org/"),
        ("http://127.0.0.1.example.org", "must begin with https://"),
        ("HTTP://example.org", "must begin with https://"),
        ("file:///tmp", "must begin with https://"),
        ("https:///tmp", "must begin with https://"),
        ("/tmp", "must begin with https://"),
        ("", "must begin with https://"),
        ("https://example.org/?file=", "must be the address of a folder, without ? and #"),
    ],
)
def test_addresses(url: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=re.escape(message)):
        download_command(["net"], url=url)
    assert not (tmp_path / "mine").exists()


def test_the_table_has_the_address(table: Path, server: Server, tmp_path: Path) -> None:
    table.write_text(table.read_text().replace("url: null", f"url: {server.url}/good"))
    assert download_command(["net"]) == 0
    assert (tmp_path / "mine" / "net.safetensors").read_bytes() == CONTENT
    (tmp_path / "mine" / "net.safetensors").unlink()
    with pytest.raises(DownloadError, match="404"):
        download_command(["net"], url=f"{server.url}/missing")


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("chosen", [False, True])
def test_what_is_there_is_not_fetched(
    chosen: bool, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / ("chosen" if chosen else "mine")
    to = folder if chosen else None
    path = folder / "net.safetensors"
    assert download_command(["net"], to, f"{server.url}/good") == 0
    assert capsys.readouterr().out == f"net: {path}, 0.3 MB, sha256 as released\n"
    # No address is needed for what is here.
    assert download_command(["net"], to) == 0
    assert capsys.readouterr().out == f"net: already here, {path}\n"
    path.write_bytes(b"my own")
    with pytest.raises(ReleaseError, match=r"rename or remove it, then: detseg download net"):
        download_command(["net"], to, f"{server.url}/good")
    assert path.read_bytes() == b"my own"
    assert len(server.requests) == 1


@pytest.mark.usefixtures("table")
def test_names_are_checked_first(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no released weights are called nett; did you mean net\?"):
        download_command(["net", "nett"], url=f"{server.url}/good")
    with pytest.raises(DownloadError, match=r"weights go to a folder, and .*released\.yaml is a file"):
        download_command(["net"], tmp_path / "released.yaml", f"{server.url}/good")
    for options in ({"folder": tmp_path}, {"url": server.url}):
        with pytest.raises(ValueError, match="name the weights to download"):
            download_command([], **options)  # type: ignore[arg-type]
    assert server.requests == []


@pytest.mark.usefixtures("table")
def test_the_list(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def listed() -> str:
        assert download_command([]) == 0
        return capsys.readouterr().out

    head = "net: semantic, 0.3 MB\n  data:    CamVid\n  quality: mIoU 0.7 on val\n  license: Apache-2.0\n  here:    "
    assert listed() == f"{head}no\n"
    path = tmp_path / "mine" / "net.safetensors"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    assert listed() == f"{head}{path}\n"
    path.write_bytes(OTHER)
    assert listed().startswith(f"{head}{path} is not the released file: ")
    assert module.render_table(ReleaseTable()) == "no weights are released yet"


def start(table: Path, *arguments: object, before: str = "") -> subprocess.Popen[str]:
    """``detseg download`` with this table, in a process of its own."""
    code = f"""
import signal, sys
from pathlib import Path
from detseg.cli import main
from detseg.runtime.weights import released, steady
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever those who run the tests have made of it
released.TABLE = Path({str(table)!r})
{before}
sys.exit(main(["download", *{[str(argument) for argument in arguments]!r}]))
"""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_an_interrupted_download_leaves_nothing(table: Path, server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "chosen"
    process = start(table, "net", "--url", f"{server.url}/half", "--to", folder)
    deadline = time.monotonic() + 240
    while not (folder.exists() and sum(path.stat().st_size for path in folder.iterdir())):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not (folder / "net.safetensors").exists(), "its name is for whole files"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == EXIT_STOPPED == 130, errors
    assert output == ""
    assert "detseg download: stopped; nothing was left" in errors
    assert "Traceback" not in errors
    assert list(folder.iterdir()) == []


def test_a_full_disk(table: Path, server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "chosen"
    # A limit on the size of files makes the system refuse to write on, as a full disk does.
    limit: Any = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    process = start(table, "net", "--url", f"{server.url}/good", "--to", folder, before=limit)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 2, errors
    assert f"detseg download: could not write {folder / 'net.safetensors'}: " in errors
    assert "nothing was left behind" in errors
    assert "Traceback" not in errors
    assert list(folder.iterdir()) == []
