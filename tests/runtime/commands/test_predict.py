from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detseg.runtime.commands.predict import predict_command
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.kinds import load_kind
from detseg.runtime.media.images import write_image
from detseg.runtime.model import Model
from detseg.runtime.runner import Finished
from detseg.runtime.sources.video_reader import Section, read_video
from detseg.runtime.tracking.counting import parse_place
from detseg.runtime.tracking.tracker import TrackerConfig
from detseg.structures import Detections


class OneBoxRunner:
    """Finds one dog in every image."""

    spec = InputSpec(64, 64)
    default_batch_size = 2
    max_in_flight = 1
    kind = load_kind("boxes")

    def submit(self, images: Sequence[np.ndarray], kept: Any = None) -> Finished:
        box = np.array([[1, 2, 9, 8]], np.float32)
        return Finished([Detections(box, np.array([0.5], np.float32), np.array([1])) for _ in images])


MODEL = Model(OneBoxRunner(), "detection", ("cat", "dog"), (1, 2))
GRAY = np.full((48, 64, 3), 90, np.uint8)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two images and a video of five frames in the folder ``in``; also the current folder is made for the test."""
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.png", "in/b.png"):
        write_image(tmp_path / name, GRAY)
    video = cv2.VideoWriter("in/footage.mp4", cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for _ in range(5):
        video.write(GRAY)
    video.release()
    return tmp_path


def predict(*names: str, output: str = "out", **settings: Any) -> int:
    return predict_command(MODEL, names, output=Path(output), **settings)


def listing(folder: str = "out") -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


def read_json(path: str) -> Any:
    return json.loads(Path(path).read_text())


def errors(folder: str = "out") -> dict[str, str]:
    lines = [json.loads(line) for line in Path(folder, "errors.jsonl").read_text().splitlines()]
    return {line["source"]: line["error"] for line in lines}


def images(folder: str = "out") -> list[str]:
    return [image["file_name"] for image in read_json(f"{folder}/detections_images.json")]


def test_results_sources_and_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert predict("in", save=["drawn", "coco", "csv"]) == 0
    tables = {"detections.json", "detections_images.json", "detections.csv"}
    assert listing() == {"a.png", "b.png", "footage.mp4", "sources.json", *tables}
    assert read_json("out/sources.json") == {"a.png": "in/a.png", "b.png": "in/b.png", "footage.mp4": "in/footage.mp4"}
    assert images() == ["in/a.png", "in/b.png"] + ["in/footage.mp4"] * 5
    said = capsys.readouterr().out
    assert "3 of 3 sources, 7 images; results are in out\nin/footage.mp4: 5 frames, complete\n" in said
    assert "objects found: dog 7\n" in said
    assert "ms per image: read " in said


def video(path: str, times: Sequence[Fraction], rate: int | None = None, codec: str = "pcm_s16le") -> None:
    """A video whose images stand at ``times``, in seconds, with sound of this ``rate``."""
    av = pytest.importorskip("av")
    with av.open(path, "w") as made:
        video = made.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.time_base = video.codec_context.time_base = Fraction(1, 60_000)
        sound = made.add_stream(codec, rate=rate) if rate else None
        if sound is not None:
            sound.layout = "mono"
        for time_s in times:
            image = av.VideoFrame.from_ndarray(GRAY, format="rgb24")
            image.pts, image.time_base = round(time_s * 60_000), Fraction(1, 60_000)
            made.mux(video.encode(image))
        made.mux(video.encode(None))
        if sound is not None and rate:
            for start in range(0, rate, 1024):
                piece = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
                piece.sample_rate, piece.pts, piece.time_base = rate, start, Fraction(1, rate)
                made.mux(sound.encode(piece))
            made.mux(sound.encode(None))


USUAL = [Fraction(number, 25) for number in range(25)]


def joined(path: str) -> None:
    """Two streams, one behind the other: times and sound begin anew in the middle."""
    video("half.ts", USUAL, 48_000, "aac")
    Path(path).write_bytes(Path("half.ts").read_bytes() * 2)


def sound_unknown(path: str) -> None:
    video(path, USUAL, 48_000)
    data = Path(path).read_bytes()
    assert data.count(b"sowt") == 1
    Path(path).write_bytes(data.replace(b"sowt", b"zzzz"))


STRANGE: list[tuple[str, Callable[[str], object], str | None]] = [
    # name, how it is made, the warning
    ("joined.ts", joined, "the sound ends at 1.0 s: its times go back there"),
    ("unknown.mov", sound_unknown, "its sound is left out: of an unknown codec"),
    ("high.mov", lambda path: video(path, USUAL, 192_000), None),
    ("odd.mov", lambda path: video(path, USUAL, 37_800), None),
    ("slow.mp4", lambda path: video(path, [Fraction(150 * number) for number in range(4)]), None),
    ("fast.mp4", lambda path: video(path, [Fraction(number, 3000) for number in range(40)]), None),
    ("mp3.avi", lambda path: video(path, USUAL, 44_100, "mp3"), None),
]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("name", "make", "warning"), STRANGE, ids=[name for name, *_ in STRANGE])
def test_a_strange_video_is_drawn_and_costs_nobody_else(
    name: str, make: Callable[[str], object], warning: str | None, recwarn: pytest.WarningsRecorder
) -> None:
    make(f"in/{name}")
    source = list(read_video(f"in/{name}"))
    assert predict("in/a.png", f"in/{name}", "in/b.png", save=["drawn", "coco"]) == 0
    assert images() == ["in/a.png", *[f"in/{name}"] * len(source), "in/b.png"]
    drawn = list(read_video(f"out/{Path(name).stem}.mp4"))
    assert len(drawn) == len(source)
    assert drawn[-1].time_s == pytest.approx(source[-1].time_s, rel=0.01)
    told = [str(one.message) for one in recwarn if name in str(one.message)]
    assert len(told) == (warning is not None)
    assert warning is None or warning in told[0]
    import av

    with av.open(f"out/{Path(name).stem}.mp4") as made:
        has_sound = name.endswith((".ts", ".mov", ".avi")) and name != "unknown.mov"
        assert [float(one.duration * one.time_base) for one in made.streams.audio] == (
            [pytest.approx(1.0, abs=0.1)] if has_sound else []
        )


def test_an_image_that_cannot_be_encoded_is_named_and_the_rest_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    write_image("in/wide.png", np.full((40, 70_000, 3), 90, np.uint8))
    Path("in/wide.png").rename("in/a wide.jpg")  # the content decides how it is read, the name how it is written
    assert predict("in", save=["drawn", "coco", "csv"]) == 1
    assert list(errors()) == ["in/a wide.jpg"]
    assert "70000x40 pixels cannot be encoded as .jpg" in errors()["in/a wide.jpg"]
    assert set(read_json("out/sources.json")) == {"a.png", "b.png", "footage.mp4"}
    assert images() == ["in/a wide.jpg", "in/a.png", "in/b.png"] + ["in/footage.mp4"] * 5
    captured = capsys.readouterr()
    assert "not written: in/a wide.jpg: " in captured.err
    assert "3 of 4 sources, 8 images" in captured.out


def test_one_frame_of_many_lasts_as_long_as_the_video() -> None:
    assert predict("in/footage.mp4", section=Section(every=100_000)) == 0
    info = cv2.VideoCapture("out/footage.mp4")
    assert info.get(cv2.CAP_PROP_FRAME_COUNT) / info.get(cv2.CAP_PROP_FPS) == pytest.approx(0.5, abs=0.05)


def test_only_what_cannot_be_read_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("in/anim.gif").write_bytes(b"GIF89a" + bytes(40))
    Path("in/phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    Path("in/named.png").write_bytes(b"\0\0\0\x18ftypavif" + bytes(40))
    write_image("#1 in front.png", GRAY)
    lines = "# images\n\n in/a.png \r\nin/anim.gif\nin/gone.png\n#1 in front.png\nin/phone.heic\nin/named.png\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines + "x" * 300 + "\nnothing/*.png\n"))
    assert predict("in/b.png", "-", save=["image"]) == 1
    assert listing() == {"a.png", "b.png", "#1 in front.png", "errors.jsonl", "sources.json"}
    found = errors()
    assert list(found) == ["in/anim.gif", "in/gone.png", "in/phone.heic", "x" * 300, "nothing/*.png", "in/named.png"]
    assert "it is GIF, which is not read; convert it to a video or PNG" in found["in/anim.gif"]
    assert "it is HEIC, which is not read; convert it to JPEG or PNG" in found["in/phone.heic"]
    assert "it is AVIF, which is not read" in found["in/named.png"]
    assert "3 of 9 sources, 3 images" in capsys.readouterr().out


def test_what_lies_in_a_folder_and_is_no_file_is_named() -> None:
    """A link to an image that is gone is a lost image."""
    Path("in/gone.png").symlink_to("nowhere.png")
    Path("in/loop.png").symlink_to("loop.png")
    os.mkfifo("in/pipe.png")
    Path("in/folder.png").mkdir()
    for output, name in (("out", "in"), ("out2", "in/*.png")):
        assert predict(name, save=["coco"], output=output) == 1
        assert errors(output) == {
            "in/gone.png": "in/gone.png: cannot be read: No such file or directory",
            "in/loop.png": "in/loop.png: cannot be read: Too many levels of symbolic links",
            "in/pipe.png": "in/pipe.png: cannot be read: not a regular file but a pipe, a socket or a device",
        }


def test_where_nothing_can_be_read_nothing_is_begun() -> None:
    with pytest.raises(ValueError, match=r"'gone\.png' does not exist; .*; nor can 1 other sources be read"):
        predict("gone.png", "gone.mp4")
    with pytest.raises(ValueError, match="--save: unknown nonsense"):
        predict("in/a.png", save=["nonsense"])
    assert listing(".") == {"in"}


def test_the_content_decides_what_a_source_is() -> None:
    shutil.copy("in/footage.mp4", "in/c.jpg")
    shutil.copy("in/footage.mp4", "in/download.part")
    shutil.copy("in/a.png", "in/d.mp4")
    assert predict("in", "in/download.part", "in/d.mp4", save=["drawn"]) == 0
    assert set(read_json("out/sources.json")) == {"a.png", "b.png", "c.mp4", "d.png", "footage.mp4", "download.mp4"}


@pytest.mark.parametrize(
    "stem",
    [b"cam 1:12 #[2] %04d", b"latin \xe4", b"x" * 251, "\u00e4".encode() * 125],
    ids=["signs", "latin", "a", "b"],
)
@pytest.mark.parametrize("suffix", [b".mp4", b".png"])
def test_any_name_is_read_written_and_told(stem: bytes, suffix: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(stem + suffix)
    shutil.copy(f"in/{'footage' if suffix == b'.mp4' else 'a'}{suffix.decode()}", f"in/{name}")
    output = os.fsdecode(b"out:\xe4")
    assert predict(f"in/{name}", output=output, save=["drawn", "image", "coco", "csv", "yolo"]) == 0
    assert name in listing(output)
    # Names of frames and lists are longer than that of the source.
    assert max(len(os.fsencode(one)) for one in listing(output) | listing(f"{output}/labels")) <= 255
    assert {entry for entry in listing(output) if entry.startswith(".")} == set()
    capsys.readouterr().out.encode("utf-8")


def test_results_of_another_run_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert predict("in/a.png", save=["drawn", "coco"]) == 0
    before = {path: path.read_bytes() for path in Path("out").iterdir()}
    for number in (2, 3):
        assert predict("in/b.png", save=["drawn", "coco"]) == 0
        assert images(f"out-{number}") == ["in/b.png"]
        said = capsys.readouterr().out
        assert f"out holds the results of another run; those of this one go to out-{number}\n" in said
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == before
    assert predict("in/b.png", save=["coco"], overwrite=True) == 0
    assert images() == ["in/b.png"]


@pytest.mark.parametrize(
    "name", ["detections.json", "detections_images.json", "detections.csv", "results.jsonl", "errors.jsonl"]
)
def test_tables_of_the_user_are_not_replaced(name: str) -> None:
    Path("out").mkdir()
    Path("out", name).write_text("mine")
    with pytest.raises(ValueError, match=f"out/{name} is there already"):
        predict("in/a.png", save=["coco", "csv", "jsonl"])
    assert listing() == {name}
    assert predict("in/a.png", "in/gone.png", save=["coco", "csv", "jsonl"], overwrite=True) == 1
    assert Path("out", name).read_text() != "mine"


def test_images_of_the_user_are_not_replaced() -> None:
    Path("out").mkdir()
    Path("out/a.png").symlink_to("../in/b.png")
    assert predict("in/a.png", "in/b.png", save=["drawn", "csv"]) == 1
    assert list(errors()) == ["in/a.png"]
    assert Path("out/a.png").is_symlink()
    assert set(read_json("out/sources.json")) == {"b.png"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_is_written_where_a_source_or_a_link_to_it_lies(overwrite: bool) -> None:
    Path("links").mkdir()
    Path("links/a.png").symlink_to("../in/a.png")
    for output in ("links", "in", "links/../in"):
        with pytest.raises(ValueError, match=r"where the source links/a\.png lies; name another output folder"):
            predict("links", output=output, overwrite=overwrite)
    assert listing("links") == {"a.png"}
    assert listing("in") == {"a.png", "b.png", "footage.mp4"}


def test_sources_of_one_name_are_told_apart() -> None:
    write_image("other/a.png", GRAY)
    assert predict("in/a.png", "other/a.png", save=["drawn", "image", "yolo"]) == 0
    assert read_json("out/sources.json") == {
        "a.png": "in/a.png", "labels/a.txt": "in/a.png", "a_2.png": "other/a.png", "labels/a_2.txt": "other/a.png"
    }  # fmt: skip


def test_a_full_disk_ends_the_run_and_leaves_what_was_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import errno

    from detseg import files

    flush = files._flush_to_disk

    def full(path: Path) -> None:
        if path.suffix == ".png" and Path("out/a.png").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(path)

    monkeypatch.setattr(files, "_flush_to_disk", full)
    with pytest.raises(OSError, match="No space left on device"):
        predict("in/a.png", "in/b.png", save=["drawn", "coco"])
    unfinished = {"detections.unfinished.jsonl", "detections_images.unfinished.jsonl", "sources.unfinished.jsonl"}
    assert listing() == {"a.png", "progress.unfinished.jsonl", *unfinished}
    assert "what was found before is kept in out: " in capsys.readouterr().err


class Camera(BaseHTTPRequestHandler):
    """Ten images a second, until ``num_images`` are sent; then nothing, but the connection stays."""

    num_images = 10_000
    done = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        jpeg = cv2.imencode(".jpg", GRAY)[1].tobytes()
        try:
            for _ in range(self.num_images):
                head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
                self.wfile.write(head + jpeg + b"\r\n")
                if self.done.wait(0.1):
                    return
            self.done.wait(60)
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def camera(request: pytest.FixtureRequest) -> Iterator[str]:
    done = threading.Event()
    handler = type("Handler", (Camera,), {"num_images": getattr(request, "param", 10_000), "done": done})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/cam.mjpg"
        done.set()
        server.shutdown()


def test_a_stream_without_time_stamps_is_timed_by_arrival(camera: str) -> None:
    begin = time.perf_counter()
    assert predict(camera, allow_url=True, section=Section(end_s=1.5), save=["coco"]) == 0
    took_s = time.perf_counter() - begin
    times = [image["time_s"] for image in read_json("out/detections_images.json")]
    assert len(times) < 30, "at 25 a second there would be 38"
    assert times == sorted(set(times))
    assert 1 < times[-1] < min(1.5, took_s)


CAMERA = """
import signal
import sys
from tests.runtime.commands.test_predict import predict

def unexpected(*_):
    raise AssertionError("the handler of the verb is not there")

number = int(sys.argv[2])
signal.signal(number, unexpected)
code = predict("in/a.png", sys.argv[1], "in/b.png", allow_url=True, save=["drawn", "coco", "csv"])
assert signal.getsignal(number) is unexpected
sys.exit(code)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("camera", [10_000, 12], indirect=True, ids=["live", "stalled"])
def test_a_signal_ends_a_camera_with_all_that_was_found(camera: str, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", CAMERA, camera, str(int(number))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    table = Path("out/detections_images.unfinished.jsonl")
    while process.poll() is None and not (table.exists() and table.read_text().count("\n") >= 5):
        time.sleep(0.05)
    time.sleep(1.0)  # after which what can stall has stalled
    process.send_signal(number)
    said, errors_said = process.communicate()
    assert process.returncode == 128 + number, errors_said
    found = images()
    assert found[0] == "in/a.png"
    assert len(found) > 5
    tables = {"detections.json", "detections_images.json", "detections.csv", "sources.json"}
    assert listing() == {"a.png", "cam.mp4", *tables}
    assert len(list(read_video("out/cam.mp4"))) == len(found) - 1
    last = re.match(rf"stopped by {number.name} in {re.escape(camera)}, after frame (\d+) at ", said)
    assert last is not None
    assert int(last[1]) >= len(found) - 2, "some may have been overtaken"
    assert "1 sources were not begun\n1 of 3 sources" in said
    assert re.search(rf"{re.escape(camera)}: {len(found) - 1} frames( \(live: .*\))?, stopped\n", said)


class WalkingRunner(OneBoxRunner):
    """Finds one dog that walks 10 pixels down with every image."""

    def __init__(self) -> None:
        self._step = 0

    def submit(self, images: Sequence[np.ndarray], kept: Any = None) -> Finished:
        found = []
        for _ in images:
            box = np.array([[20, 10 * self._step - 10, 40, 10 * self._step + 10]], np.float32)
            found.append(Detections(box, np.array([0.9], np.float32), np.array([1])))
            self._step += 1
        return Finished(found)


def test_objects_are_counted_where_they_cross_and_cut_out(capsys: pytest.CaptureFixture[str]) -> None:
    model = Model(WalkingRunner(), "detection", ("cat", "dog"), (1, 2))
    settings: Any = {"track": TrackerConfig(match_iou=0.1, new_match_iou=0.1), "save": ["drawn"], "crops": True}
    places = [parse_place("line:door=0,25,64,25", 1), parse_place("zone:0,15,64,15,64,48,0,48", 2)]
    assert predict_command(model, ["in/footage.mp4"], output=Path("out"), counts=places, **settings) == 0
    assert Path("out/counts.csv").read_text().splitlines() == [
        "file,frame,time_s,place,event,class,track_id,total,inside",
        "in/footage.mp4,2,0.2,zone 2,enter,dog,1,1,1",
        "in/footage.mp4,3,0.3,door,forward,dog,1,1,",
    ]
    assert "in/footage.mp4: door: 1 forward, 0 back; zone 2: 1 inside, 1 entered\n" in capsys.readouterr().out
    assert sorted(path.name for path in Path("out/crops/dog").iterdir()) == [
        f"footage_{number:06d}_1_id1.jpg" for number in range(5)
    ]
    # The line is on the images.
    frames = [frame.pixels.astype(int) for frame in read_video("out/footage.mp4")]
    assert np.abs(frames[0][25, 62] - 90).max() > 40
    with pytest.raises(ValueError, match="only followed objects are counted"):
        predict_command(model, ["in/footage.mp4"], output=Path("other"), counts=places)
