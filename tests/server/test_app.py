"""Requests over HTTP on loopback, and what comes back."""

from __future__ import annotations

import concurrent.futures
import http.client
import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import pytest

from detseg.runtime.media.images import decode_image
from detseg.server.settings import MAX_IMAGES
from tests.server.conftest import NAMES, Serve, form_of, some_image

PNG = {"Content-Type": "image/png"}
FOUND = [
    {"class": "left", "class_index": 0, "score": 0.9, "box_xyxy": [16.0, 8.0, 32.0, 24.0]},
    {"class": "right", "class_index": 1, "score": 0.4, "box_xyxy": [16.0, 8.0, 32.0, 24.0]},
]


def wait_until(is_so: object) -> None:
    end = time.monotonic() + 20
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_image_as_it_is_and_in_a_form(serve: Serve) -> None:
    with serve() as client:
        answer = client.ask("/predict", some_image(), PNG)
        assert answer.status == 200
        assert answer.json == {"images": [{"file": "", "height": 48, "width": 64, "detections": FOUND}]}
        assert client.ask("/predict", some_image(), {}).status == 200, "of whatever type it is said to be"
        body, headers = form_of(("a.png", some_image()), ("b ü.jpg", some_image(20, 30, ".jpg")))
        images = client.ask("/predict", body, headers).json["images"]
        assert [(one["file"], one["height"], one["width"]) for one in images] == [
            ("a.png", 48, 64),
            ("b ü.jpg", 20, 30),
        ]
        assert images[0]["detections"] == FOUND


@pytest.mark.parametrize(("confidence", "count"), [("0.25", 2), ("0.4", 2), ("0.40001", 1), ("0.9", 0), ("1", 0)])
def test_the_threshold_of_a_request(serve: Serve, confidence: str, count: int) -> None:
    """As everywhere, boxes count that score above it: as float32 0.4 is a little above 0.4, and 0.9 below 0.9."""
    with serve() as client:
        (image,) = client.ask(f"/predict?confidence={confidence}", some_image(), PNG).json["images"]
    assert image["detections"] == FOUND[:count]


def test_a_drawn_image(serve: Serve) -> None:
    with serve() as client:
        plain = decode_image(some_image(), "plain")
        for name, kind in (("jpeg", "image/jpeg"), ("png", "image/png")):
            answer = client.ask(f"/draw?format={name}", some_image(), PNG)
            assert (answer.status, answer.headers["content-type"]) == (200, kind)
            drawn = decode_image(answer.body, "drawn")
            assert drawn.shape == plain.shape
            assert np.abs(drawn.astype(int) - plain).max() > 100
        unmarked = client.ask("/draw?format=png&confidence=1", some_image(), PNG)
        assert np.array_equal(decode_image(unmarked.body, "drawn"), plain)
        body, headers = form_of(("a.png", some_image()), ("b.png", some_image()))
        assert client.ask("/draw", body, headers).status == 422


BAD = [
    # path, body, headers, status, words
    ("/predict", b"no image", PNG, 422, "not an image of a supported format"),
    ("/predict", b"", PNG, 422, "no image in the request"),
    ("/predict", some_image()[:-30], PNG, 422, "truncated"),
    ("/predict", b"x" * 30_001, PNG, 413, "more than 30,000 bytes"),
    ("/predict", some_image(100, 101), PNG, 413, "101x100 pixels, allowed are 10,000"),
    ("/predict?confidence=0.1", some_image(), PNG, 422, "confidence: Input should be greater than or equal to 0.25"),
    ("/predict?confidence=nan", some_image(), PNG, 422, "confidence"),
    ("/predict?conf=0.5", some_image(), PNG, 422, "no setting conf; there is confidence"),
    ("/predict?confidence=0.5&confidence=0.3", some_image(), PNG, 422, "several times"),
    ("/predict/", some_image(), PNG, 404, "Not Found"),
    ("/predict", some_image(), {**PNG, "Content-Encoding": "gzip"}, 415, "Content-Encoding gzip; send images as they"),
    ("/draw?format=gif", some_image(), PNG, 422, "format: Input should be 'jpeg' or 'png', got 'gif'"),
    ("/predict", form_of(("a.png", some_image()))[0][:-9], form_of()[1], 400, "cut off"),
    ("/predict", b"rubbish--XX--\r\n", {"Content-Type": "multipart/form-data; boundary=XX"}, 400, "cannot be read"),
    ("/predict", b"--XX--", {"Content-Type": "multipart/form-data"}, 400, "cannot be read"),
    ("/predict", b"--XX--\r\n", {"Content-Type": "multipart/form-data; boundary=XX"}, 422, "no image"),
    ("/predict", b'{"url": "http://127.0.0.1/"}', {"Content-Type": "application/json"}, 403, "no network addresses"),
    ("/nowhere", some_image(), PNG, 404, "Not Found"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "words"), BAD, ids=[str(number) for number in range(len(BAD))]
)
def test_what_cannot_be_answered(
    serve: Serve, path: str, body: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    with serve(max_bytes=30_000, max_pixels=10_000) as client:
        answer = client.ask(path, body, headers)
        assert (answer.status, words in answer.json["detail"]) == (status, True), answer.body
        assert client.ask("/predict", some_image(), PNG).status == 200, "the next request is answered"


def test_a_body_without_a_length_has_the_same_limit(serve: Serve) -> None:
    with serve(max_bytes=1000) as client:
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)
        connection.request("POST", "/predict", iter([b"x" * 600] * 2), PNG, encode_chunked=True)
        assert connection.getresponse().status == 413
        connection.close()


def test_too_many_images_in_a_form(serve: Serve) -> None:
    with serve() as client:
        body, headers = form_of(*[("a.png", some_image())] * (MAX_IMAGES + 1))
        answer = client.ask("/predict", body, headers)
        assert (answer.status, "Too many files" in answer.json["detail"]) == (400, True)
        body, headers = form_of(*[("a.png", some_image())] * MAX_IMAGES)
        assert len(client.ask("/predict", body, headers).json["images"]) == MAX_IMAGES


def test_slow_senders_are_not_waited_for(serve: Serve) -> None:
    with serve(body_s=0.2) as client, socket.create_connection(("127.0.0.1", client.port)) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc")
        assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("begin", [b"", b"P", b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"])
def test_connections_without_a_request_are_not_kept(serve: Serve, begin: bytes) -> None:
    """Neither before the first request nor after it."""
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with serve(body_s=0.2) as client:
        for before in [b"", *([whole] if begin else [])]:
            with socket.create_connection(("127.0.0.1", client.port), timeout=30) as idle:
                idle.sendall(before)
                if before:
                    assert idle.recv(1000).startswith(b"HTTP/1.1 200 OK")
                idle.sendall(begin)
                while part := idle.recv(1000):
                    assert part in b'{"status":"runs"}'


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/model", "/metrics", "/openapi.json"])
def test_what_can_be_asked_has_a_head(serve: Serve, path: str) -> None:
    with serve() as client:
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)
        connection.request("HEAD", path)
        head = connection.getresponse()
        assert (head.status, head.read()) == (200, b"")
        connection.request("GET", path)
        whole = connection.getresponse()
        assert len(whole.read()) == int(whole.headers["content-length"])
        assert head.headers["content-type"] == whole.headers["content-type"]
        connection.request("HEAD", "/predict")
        assert connection.getresponse().status == 405
        connection.close()


def test_senders_that_go_away_hold_nothing_up(serve: Serve) -> None:
    with serve(queue=1) as client:
        with socket.create_connection(("127.0.0.1", client.port)) as gone:
            gone.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc")
            wait_until(lambda: client.ask("/predict", some_image(), PNG).status == 429)
        wait_until(lambda: client.ask("/predict", some_image(), PNG).status == 200)


def test_images_of_many_requests_make_batches_and_further_requests_get_429(serve: Serve) -> None:
    with serve(queue=9, batch_size=4, batch_wait_s=0.0) as client, concurrent.futures.ThreadPoolExecutor(9) as pool:
        client.runner.gate.clear()
        client.runner.batch_sizes.clear()
        answers = [pool.submit(client.ask, "/predict", some_image(), PNG)]
        wait_until(lambda: client.runner.batch_sizes == [1])
        answers += [pool.submit(client.ask, "/predict", some_image(), PNG) for _ in range(8)]
        wait_until(lambda: b"detseg_images_waiting 8" in client.ask("/metrics").body)
        refused = client.ask("/predict", some_image(), PNG)
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert client.ask("/health").status == client.ask("/ready").status == 200, "not for predictions only"
        client.runner.gate.set()
        assert {future.result().status for future in answers} == {200}
        assert all(future.result().json["images"][0]["detections"] == FOUND for future in answers)
        assert client.runner.batch_sizes == [1, 4, 4]


def test_one_image_that_the_network_fails_on_costs_no_other(serve: Serve) -> None:
    with serve(batch_size=4, batch_wait_s=0.3) as client:
        client.runner.fail_on_red = True
        body, headers = form_of(*[("a.png", some_image())] * 2)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            good = pool.submit(client.ask, "/predict", body, headers)
            bad = pool.submit(client.ask, "/predict", some_image(red=255), PNG)
        assert (good.result().status, bad.result().status) == (200, 500)
        assert bad.result().json == {"detail": "the server failed at this request (RuntimeError); its log says more"}
        assert b'detseg_requests_total{path="/predict",status="500"} 1' in client.ask("/metrics").body
        assert max(client.runner.batch_sizes) == 3


def test_counters(serve: Serve) -> None:
    with serve() as client:
        for _ in range(3):
            client.ask("/predict", some_image(), PNG)
        client.ask("/predict", b"x", PNG)
        client.ask("/" + "x" * 50)
        answer = client.ask("/metrics")
        lines = answer.body.decode().splitlines()
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert 'detseg_requests_total{path="/predict",status="200"} 3' in lines
        assert 'detseg_requests_total{path="/predict",status="422"} 1' in lines
        assert 'detseg_requests_total{path="other",status="404"} 1' in lines, "names of others are not kept"
        assert "detseg_request_seconds_count 3" in lines
        assert 'detseg_request_seconds_bucket{le="+Inf"} 3' in lines
        assert "detseg_images_total 4" in lines, "with that of the start"
        assert "detseg_requests_under_way 0" in lines


def test_what_is_served_is_told(serve: Serve) -> None:
    with serve(max_bytes=1000) as client:
        assert client.ask("/model").json == {
            "task": "detection",
            "results": "boxes",
            "classes": list(NAMES),
            "lowest_confidence": 0.25,
            "max_bytes": 1000,
            "max_pixels": 50_000_000,
        }
        described = client.ask("/openapi.json").json
        assert described["paths"].keys() == {"/predict", "/draw", "/health", "/ready", "/model", "/metrics"}
        body = described["paths"]["/predict"]["post"]["requestBody"]["content"]
        assert {"image/jpeg", "multipart/form-data", "application/octet-stream"} < body.keys()
        assert "application/json" not in body, "addresses are not opened"


def test_the_page_is_whole_and_loads_nothing_from_elsewhere(serve: Serve) -> None:
    with serve(token="secret") as client:
        for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
            answer = client.ask(path)
            assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (200, kind)
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert b"http" not in answer.body
        assert client.ask("/docs").status == 401
    with serve() as client:
        assert client.ask("/docs").status == 404


def test_a_token(serve: Serve) -> None:
    with serve(token="se cret") as client:
        for path in ("/predict", "/draw"):
            assert client.ask(path, some_image(), PNG).status == 401
        for path in ("/model", "/metrics"):
            assert client.ask(path).status == 401
            assert client.ask(path, headers={"Authorization": "Bearer secret"}).status == 401
            assert client.ask(path, headers={"Authorization": "Basic se cret"}).status == 401
            assert client.ask(path, headers={"Authorization": "bearer se cret"}).status == 200
        for path in ("/", "/health", "/ready", "/openapi.json"):
            assert client.ask(path).status == 200
        assert client.ask("/predict", some_image(), {**PNG, "Authorization": "Bearer se cret"}).status == 200
        assert client.ask("/model", headers={"Host": "name.example", "Authorization": "Bearer se cret"}).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:8080"}, 200),
        ({"Host": "[::1]:8080"}, 200),
        ({"Host": "127.0.0.1:1", "Origin": "http://127.0.0.1:1"}, 200),
        ({"Host": "127.0.0.1:1", "Origin": "http://127.0.0.1:2"}, 403),
        ({"Host": "127.0.0.1:1", "Origin": "null"}, 403),
        ({"Host": "127.0.0.1:1", "Origin": "https://page.example"}, 403),
        ({"Host": "page.example"}, 403),
        ({"Host": "127.0.0.1.page.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": "10.0.0.1"}, 403),
    ],
)
def test_pages_of_other_sites_get_nothing_without_a_token(serve: Serve, headers: dict[str, str], status: int) -> None:
    with serve() as client:
        assert client.ask("/predict", some_image(), {**PNG, **headers}).status == status


@contextmanager
def files(content: dict[str, bytes]) -> Iterator[int]:
    """A server of files on loopback; ``/away`` leads to an address that is no HTTP."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            moved = {"/away": "file:///etc/hostname", "/ftp": "ftp://127.0.0.1/a", "/moved": "/a.png"}.get(self.path)
            self.send_response(302 if moved else 200 if self.path in content else 404)
            if moved:
                self.send_header("Location", moved)
            self.end_headers()
            self.wfile.write(content.get(self.path, b""))

        def log_message(self, *words: object) -> None:
            """Silent."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_addresses_where_they_are_allowed(serve: Serve) -> None:
    content = {"/a.png": some_image(), "/large": b"x" * 50_001, "/text": b"hello"}
    with files(content) as port, serve(allow_url=True, max_bytes=50_000) as client:

        def ask(url: object) -> tuple[int, str]:
            body = json.dumps({"url": url}).encode()
            answer = client.ask("/predict", body, {"Content-Type": "application/json"})
            return answer.status, answer.body.decode()

        here = f"http://127.0.0.1:{port}"
        for address in (f"{here}/a.png", f"{here}/moved"):
            status, text = ask(address)
            assert (status, json.loads(text)["images"][0]["file"]) == (200, address)
            assert json.loads(text)["images"][0]["detections"] == FOUND
        for address, words in (
            (f"{here}/large", "more than 50,000 bytes"),
            (f"{here}/text", "not an image"),
            (f"{here}/none", "404"),
            (f"{here}/away", "not allowed"),
            (f"{here}/ftp", "is no address of http"),
            ("file:///etc/hostname", "is no address of http"),
            ("http://", "is no address of http"),
            ("http://[", "is no address of http"),
            ("http://127.0.0.1:1/", "cannot be opened"),
            ("http://127.0.0.1:99999/", "cannot be opened"),
            (f"{here}/a b", "cannot be opened"),
        ):
            status, text = ask(address)
            assert (status, words in text) == (422, True), text
        assert ask(3)[0] == 422
        assert client.ask("/predict", b"[", {"Content-Type": "application/json"}).status == 400
        assert client.ask("/predict", b"[" * 20_000, {"Content-Type": "application/json"}).status == 400


def test_pixels_of_all_requests_together_are_limited(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images of 6,000 pixels do not fit at once; both are answered all the same."""
    monkeypatch.setattr("detseg.server.service.MAX_PIXELS_AT_A_TIME", 1)
    with serve(max_pixels=10_000) as client, concurrent.futures.ThreadPoolExecutor(2) as pool:
        client.runner.gate.clear()
        answers = [pool.submit(client.ask, "/predict", some_image(60, 100), PNG) for _ in range(2)]
        wait_until(lambda: b"detseg_requests_under_way 2" in client.ask("/metrics").body)
        time.sleep(0.1)
        assert b"detseg_images_waiting 0" in client.ask("/metrics").body, "the second is not even decoded"
        client.runner.gate.set()
        assert {future.result().status for future in answers} == {200}
        assert client.runner.batch_sizes == [1, 1, 1]


def test_exif_and_grey_images(serve: Serve) -> None:
    with serve() as client:
        encoded, data = cv2.imencode(".png", np.full((10, 20), 200, np.uint8))
        assert encoded
        (image,) = client.ask("/predict", data.tobytes(), PNG).json["images"]
        assert (image["height"], image["width"], len(image["detections"])) == (10, 20, 2)


def test_clients_that_use_one_connection(serve: Serve) -> None:
    with serve() as client:
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)
        for _ in range(3):
            connection.request("POST", "/predict", some_image(), PNG)
            assert json.loads(connection.getresponse().read())["images"][0]["detections"] == FOUND
        connection.close()
