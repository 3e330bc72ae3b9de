"""The made videos, by what they are said to hold. What the programs reach there is measured by hand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "bench" / "tracking.py"
    spec = importlib.util.spec_from_file_location("bench_tracking", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_tracking"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("scene", ["cross", "hide", "return", "crowd", "camera"])
def test_videos_hold_what_they_say(bench: ModuleType, scene: str) -> None:
    video = bench.make_video(scene, 5, seed=0)
    assert len(video) == 5 * bench.SECONDS
    again = bench.make_video(scene, 5, seed=0)
    seen: dict[int, list[int]] = {}
    for index, ((ids, boxes), found) in enumerate(video):
        assert len(set(ids.tolist())) == len(ids) == len(boxes)
        assert (boxes >= 0).all()
        assert (boxes[:, 2] <= bench.WIDTH).all()
        assert np.array_equal(found.boxes_xyxy, again[index][1].boxes_xyxy), "the same video each time"
        assert (np.diff(found.scores) <= 0).all()
        for number in ids.tolist():
            seen.setdefault(number, []).append(index)
    gaps = [max(np.diff(frames), default=1) for frames in seen.values()]
    if scene in ("hide", "return"):
        assert max(gaps) > 1
    if scene == "cross":
        assert max(gaps) == 1
    num_true, num_found = sum(len(ids) for (ids, _), _ in video), sum(len(found) for _, found in video)
    assert 0.6 < num_found / num_true < 1.3


def test_what_is_followed_perfectly_has_no_error(bench: ModuleType) -> None:
    pytest.importorskip("trackeval")
    truth = [one for one, _ in bench.make_video("cross", 5, seed=1)]
    assert bench.judge(truth, truth) == {"MOTA": 1.0, "IDF1": 1.0, "HOTA": pytest.approx(1.0)}
