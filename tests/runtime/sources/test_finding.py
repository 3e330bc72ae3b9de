from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from detseg.runtime.media.images import write_image
from detseg.runtime.sources.finding import SourceError, expand_sources, find_sources, natural_key
from detseg.runtime.sources.video_reader import read_video
from detseg.runtime.volumes.volume_files import VOLUME_SUFFIXES


class MovieWriter:
    """A video of three frames."""

    def __init__(self, path: Path) -> None:
        self.writer = cv2.VideoWriter(str(path.absolute()), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
        assert self.writer.isOpened()

    def __enter__(self) -> None:
        for level in (0, 100, 200):
            self.writer.write(np.full((48, 64, 3), level, np.uint8))

    def __exit__(self, *_: object) -> None:
        self.writer.release()


NAMES = ("frame10.jpg", "frame2.png", "frame1.JPG", "sub/deep.webp", "Zebra.tiff", "apple.bmp")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six images, one of them in a subfolder, and a text file; also the current folder."""
    for name in NAMES:
        write_image(tmp_path / name, np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


IN_ORDER = ["apple.bmp", "frame1.JPG", "frame2.png", "frame10.jpg", "Zebra.tiff"]


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["frame2.png"], ["frame2.png"]),
        (["."], IN_ORDER),
        (["sub", "."], ["sub/deep.webp", *IN_ORDER]),
        (["frame*"], ["frame1.JPG", "frame2.png", "frame10.jpg"]),
        (["*"], IN_ORDER),
        (["**/*.webp"], ["sub/deep.webp"]),
        (["frame10.jpg", "frame*", "./frame2.png", "sub/../frame1.JPG"], ["frame10.jpg", "frame1.JPG", "frame2.png"]),
    ],
)
def test_sources_become_files_in_order(folder: Path, sources: list[str], expected: list[str]) -> None:
    assert [path.as_posix() for path in expand_sources(sources)] == expected
    assert [
        path.relative_to(folder).as_posix() for path in expand_sources(folder / s for s in sources)
    ] == expected or (sources[-1].startswith("sub/.."))


def test_a_name_with_brackets_is_a_file_first(folder: Path) -> None:
    write_image(folder / "frame[2].png", np.zeros((4, 4, 3), np.uint8))
    assert expand_sources(["frame[2].png"]) == [Path("frame[2].png")]


def test_a_named_file_may_have_any_suffix_if_its_content_is_an_image(folder: Path) -> None:
    (folder / "frame2.png").rename(folder / "frame2.dat")
    assert expand_sources(["frame2.dat"]) == [Path("frame2.dat")]


def test_a_damaged_image_is_left_to_the_reader(folder: Path) -> None:
    (folder / "frame2.png").write_bytes(b"")
    assert expand_sources(["frame2.png"]) == [Path("frame2.png")]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "no source was given"),
        (["frame3.png"], r"'frame3\.png' does not exist; in .* there is no 'frame3\.png'; near are .*frame2\.png"),
        (["suv/deep.webp"], r"there is no 'suv'; near are sub"),
        (["qqqqqqqqq"], r"there are apple\.bmp, frame1\.JPG, frame2\.png, frame10\.jpg, notes\.txt and 2 more"),
        (["notes.txt"], r"notes\.txt: not an image, by name \(\.bmp, .*\) nor by content"),
        (["*.gif"], r"glob \*\.gif: nothing matches"),
        (["*.txt"], r"1 matches, but no image among them"),
        (["frame2.png", "0"], "'0' does not exist"),
        (["rtsp://camera/1"], "'rtsp://camera/1' does not exist"),
    ],
)
def test_what_names_no_image_is_refused_with_help(folder: Path, sources: list[str], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        expand_sources(sources)


def test_a_folder_without_images_points_to_its_subfolders(folder: Path) -> None:
    (folder / "outer" / "inner").mkdir(parents=True)
    with pytest.raises(SourceError, match=r"for its subfolders use the glob outer/\*\*/\*\.\*"):
        expand_sources(["outer"])
    (folder / "outer" / "inner" / "text.txt").write_text("")
    with pytest.raises(SourceError, match=r"it has text\.txt"):
        expand_sources(["outer/inner"])


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Volumes among other files, in the current folder; sources are chosen by name, so they may be empty."""
    names = ("scan10.nii.gz", "scan2.NII.GZ", "scan1.nii", "._scan1.nii", ".nii.gz", "notes.gz", "a.nii.gz.txt")
    for name in (*names, "sub/deep.nii.gz", "sub/._deep.nii.gz", "empty/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.nii.gz").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["."], ["scan1.nii", "scan2.NII.GZ", "scan10.nii.gz"]),
        (["scan*"], ["scan1.nii", "scan2.NII.GZ", "scan10.nii.gz"]),
        (["scan2.NII.GZ", "sub"], ["scan2.NII.GZ", "sub/deep.nii.gz"]),
        (["**/*.nii.gz", "sub/deep.nii.gz"], ["scan10.nii.gz", "sub/deep.nii.gz"]),
        (["sub/.*", "scan1.nii"], None),
        (["._scan1.nii"], ["._scan1.nii"]),
    ],
)
def test_volumes_are_taken_by_the_end_of_their_name(
    scans: Path, sources: list[str], expected: list[str] | None
) -> None:
    if expected is None:
        with pytest.raises(SourceError, match=r"glob sub/\.\*: 1 matches, but no volume among them"):
            expand_sources(sources, VOLUME_SUFFIXES)
    else:
        assert [path.as_posix() for path in expand_sources(sources, VOLUME_SUFFIXES)] == expected


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "no source was given; name volume files"),
        (["notes.gz"], r"notes\.gz: not a volume, by name \(\.nii\.gz, \.nii, .*\.nhdr\)$"),
        (["empty"], r"folder empty: no volume in it \(\.nii\.gz, .*\); it has a\.png"),
        (["empty/*"], "1 matches, but no volume among them"),
        (["scan3.nii.gz"], "near are .*scan10.nii.gz"),
    ],
)
def test_what_names_no_volume_is_refused_with_help(scans: Path, sources: list[str], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        expand_sources(sources, VOLUME_SUFFIXES)


def test_volumes_are_no_images(scans: Path) -> None:
    with pytest.raises(SourceError, match=r"scan1\.nii: not an image, by name \(\.bmp, .*\) nor by content"):
        expand_sources(["scan1.nii"])


def test_natural_order() -> None:
    names = ["a1b10", "a1b9", "a", "B2", "b10", "2", "10", "a01b9"]
    assert sorted(names, key=natural_key) == ["2", "10", "a", "a01b9", "a1b9", "a1b10", "B2", "b10"]


def test_real_folders(detseg_data: Path) -> None:
    assert len(expand_sources([detseg_data / "coco-mini" / "val2017"])) == 80
    assert len(expand_sources([detseg_data / "camvid" / "*" / "images" / "*"])) == 468
    assert len(expand_sources([detseg_data / "hippocampus" / "imagesTr"], VOLUME_SUFFIXES)) == 208


def test_names_of_other_systems(folder: Path) -> None:
    (folder / "frame2.png").rename(folder / "frame2.jfif")
    (folder / "._apple.bmp").write_bytes(b"\0\5\x16\7")
    assert [path.name for path in expand_sources(["."])][2] == "frame2.jfif"
    assert "._apple.bmp" not in [path.name for path in expand_sources(["*"])]


def test_a_video_is_known_by_its_content_where_its_name_says_nothing(folder: Path) -> None:
    with MovieWriter(folder / "footage.mp4"):
        pass
    for name in ("noext", "phone.3gp"):
        shutil.copy(folder / "footage.mp4", folder / name)
        (source,) = find_sources([name])
        assert source.kind == "video"
        assert len(list(read_video(name))) == 3


def test_a_colon_in_a_name_is_no_protocol(folder: Path) -> None:
    name = "cam1:2026-01-01T12:30.mp4"
    with MovieWriter(folder / name):
        pass
    assert len(list(read_video(name))) == 3
    assert len(list(read_video(folder / name))) == 3


def test_a_name_that_is_not_utf_8_is_read(folder: Path) -> None:
    with MovieWriter(folder / "footage.mp4"):
        pass
    name = os.fsdecode(b"video_\xe4.mp4")
    (folder / "footage.mp4").rename(name)
    frames = list(read_video(name))
    assert len(frames) == 3
    assert frames[0].source == name


def test_volumes_of_other_formats_are_passed_over_with_a_word(tmp_path: Path) -> None:
    names = ("scan.nii.gz", "._scan.nii.gz", "scan.mha", "scan.nrrd", "old.mgz", "old.MNC", "pair.hdr", "pair.img")
    for name in (*names, "notes.txt"):
        (tmp_path / name).touch()
    with pytest.warns(UserWarning, match=r"2 volumes of other formats are passed over \(old\.mgz, old\.MNC\)"):
        found = [path.name for path in expand_sources([tmp_path], VOLUME_SUFFIXES)]
    assert found == ["pair.hdr", "scan.mha", "scan.nii.gz", "scan.nrrd"]
    with pytest.raises(SourceError, match=r"pair\.img: not a volume.*; header and voxels in two files: name the"):
        expand_sources([tmp_path / "pair.img"], VOLUME_SUFFIXES)


def test_a_folder_with_slices_is_a_volume_and_a_slice_is_none(tmp_path: Path) -> None:
    series = tmp_path / "study" / "chest.1"
    series.mkdir(parents=True)
    for number in range(3):
        (series / f"IM{number}").write_bytes(bytes(128) + b"DICM")
    (series / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "study" / "notes").mkdir()
    assert expand_sources([series], VOLUME_SUFFIXES) == [series]
    assert expand_sources([series.parent], VOLUME_SUFFIXES) == [series]
    (source,) = find_sources([str(series)], VOLUME_SUFFIXES)
    assert source.kind == "volume"
    with pytest.raises(SourceError, match=r"IM0: not a volume.*; it is DICOM: name the folder with the whole series"):
        expand_sources([series / "IM0"], VOLUME_SUFFIXES)


def test_what_is_there_and_no_file_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.png")
    Path("gone.png").symlink_to("nowhere.png")
    Path("loop").symlink_to("loop")
    for name in ("pipe.png", "gone.png", "loop"):
        with pytest.raises(SourceError, match=f"source '{name}' is neither a file nor a folder, but a pipe, a device"):
            find_sources([name])
