from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from detseg.data.checks import images
from detseg.data.checks.images import inspect_images


def bitmap(path: Path, changed: Sequence[int] = ()) -> Path:
    """An image of 120x100 pixels as 36,054 bytes, of which those at ``changed`` differ."""
    header = b"BM" + (36054).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    header += (40).to_bytes(4, "little") + (120).to_bytes(4, "little") + (100).to_bytes(4, "little")
    header += (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24)
    content = np.frombuffer(header.ljust(36054, b"\x07"), np.uint8).copy()
    content[list(changed)] ^= 1
    path.write_bytes(content.tobytes())
    return path


@pytest.mark.parametrize("at_once", [1, 3, 1024])
def test_headers_alone_tell_the_same_files_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(images, "_AT_ONCE", at_once)
    changes = {"a": [], "copy": [], "begin": [60], "end": [36053], "middle": [18000], "other": [18001], "same": [18000]}
    paths = [bitmap(tmp_path / f"{name}.bmp", changed) for name, changed in changes.items()]
    (tmp_path / "link.bmp").symlink_to(paths[4])
    os.link(paths[2], tmp_path / "hard.bmp")
    (tmp_path / "damaged.bmp").write_bytes(b"BM")
    paths += [tmp_path / f"{name}.bmp" for name in ("link", "hard", "damaged", "missing")]
    groups = []
    for decode in (False, True):
        states = inspect_images(paths, decode)
        assert list(states) == paths
        digests = [states[path].digest for path in paths]
        groups.append([digests.index(digest) for digest in digests])
        assert [states[path].size for path in paths] == [(100, 120)] * 9 + [None, None]
        assert digests[-1] is None
    assert groups[0] == groups[1]
    assert len(set(groups[0])) == 7
    # A bar is for terminals.
    assert capfd.readouterr() == ("", "")
