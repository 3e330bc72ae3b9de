"""Where OpenCV has no FFmpeg, videos are refused in one line, and nothing else reads them in its place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

SCRIPT = """
import sys
import cv2
import numpy as np
from detseg.runtime.media.opencv_video import NoFFmpegError
from detseg.runtime.media.images import ImageError
from detseg.runtime.media.video_file import OpenCVVideo
from detseg.runtime.sources.video_reader import read_video

assert cv2.VideoCapture("a.avi").isOpened(), "OpenCV has other decoders"
try:
    list(read_video("a.avi"))
except ImageError as error:
    print(error)
try:
    with OpenCVVideo("b.avi", 10.0) as video:
        video.append(np.zeros((48, 64, 3), np.uint8), "zeros")
except NoFFmpegError as error:
    print(error)
except OSError as error:
    print(error.__cause__)
"""


def test_without_ffmpeg(tmp_path: Path) -> None:
    video = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    video.write(np.zeros((48, 64, 3), np.uint8))
    video.release()
    repository = str(Path(__file__).parents[3])
    environment = {**os.environ, "OPENCV_VIDEOIO_PRIORITY_FFMPEG": "0", "PYTHONPATH": repository}
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    without = (
        "the OpenCV that is installed here was built without FFmpeg, which videos need; `pip install "
        "opencv-python-headless` brings one that has it"
    )
    assert process.stdout.splitlines() == [f"a.avi: {without}", without]
    assert [path.name for path in tmp_path.iterdir()] == ["a.avi"]
