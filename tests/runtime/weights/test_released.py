"""The table of released weights, and how a name becomes a file."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

import detseg
from detseg.config import ConfigError
from detseg.runtime.weights import released
from detseg.runtime.weights.released import (
    Release,
    ReleaseError,
    ReleaseTable,
    add_release,
    find_model,
    find_release,
    read_table,
    search_folders,
    sha256_of,
    weights_folder,
)

CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ROWS = f"""
# Two models.
url: null
weights:
  letnet_camvid: {{file: letnet_camvid.safetensors, sha256: {SHA256}, num_bytes: 7, task: semantic,
    data: CamVid, license: Apache-2.0, quality: mIoU 0.7 on val}}
  detseg_n_bccd: {{file: detseg_n_bccd.onnx, sha256: {SHA256}, num_bytes: 7, task: detection,
    data: BCCD, license: MIT, quality: AP 0.6 on val}}
"""


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two released models that are nowhere; the folder where a user's are looked for. There is no checkout."""
    table = tmp_path / "released.yaml"
    table.write_text(ROWS)
    monkeypatch.setattr(released, "TABLE", table)
    monkeypatch.setattr(released, "_CHECKOUT", tmp_path / "checkout")
    monkeypatch.setenv("DETSEG_WEIGHTS", str(tmp_path / "mine"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "mine"


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_the_shipped_table_tells_of_the_shipped_files() -> None:
    table = read_table()
    folder = Path(detseg.__file__).parents[1] / "weights"
    files = sorted(path.name for path in folder.glob("*") if path.suffix in (".safetensors", ".onnx"))
    assert sorted(release.file for release in table.weights.values()) == files
    for release in table.weights.values():
        assert sha256_of(folder / release.file) == release.sha256
        assert (folder / release.file).stat().st_size == release.num_bytes


def test_a_name_is_looked_up_in_the_checkout_and_then_among_the_users_data(user_folder: Path, tmp_path: Path) -> None:
    mine = put(user_folder / "letnet_camvid.safetensors")
    in_checkout = put(tmp_path / "checkout" / "weights" / "letnet_camvid.safetensors")
    # Without its project file the folder beside the package is not a checkout, and may hold anything.
    assert search_folders() == [user_folder]
    assert find_model("letnet_camvid") == mine
    put(tmp_path / "checkout" / "pyproject.toml")
    assert search_folders() == [tmp_path / "checkout" / "weights", user_folder]
    assert find_model("letnet_camvid") == find_model(Path("letnet_camvid")) == in_checkout
    in_checkout.unlink()
    assert find_model("letnet_camvid") == mine


@pytest.mark.parametrize(
    "path",
    ["letnet_camvid.safetensors", "detseg_n_bccd.onnx", "./letnet_camvid", "a/letnet_camvid", "/letnet_camvid", "a.b"],
)
def test_a_path_stays_what_it_is(path: str, user_folder: Path) -> None:
    put(user_folder / "letnet_camvid.safetensors")
    assert find_model(path) == Path(path)


def test_a_file_comes_before_a_release_and_a_folder_after_it(user_folder: Path) -> None:
    Path("runs").mkdir()
    assert find_model("runs") == Path("runs")
    mine = put(user_folder / "letnet_camvid.safetensors")
    Path("letnet_camvid").mkdir()
    assert find_model("letnet_camvid") == mine
    put(Path("detseg_n_bccd"))
    assert find_model("detseg_n_bccd") == Path("detseg_n_bccd")


def test_weights_that_are_not_here(user_folder: Path) -> None:
    for open_model in (find_model, detseg.load):
        with pytest.raises(FileNotFoundError) as caught:
            open_model("letnet_camvid")
        assert str(caught.value) == (
            f"the released weights letnet_camvid are not on this machine (looked in {user_folder}); "
            "get them: detseg download letnet_camvid"
        )


@pytest.mark.usefixtures("user_folder")
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("letnet_camwid", "did you mean letnet_camvid? there are: letnet_camvid, detseg_n_bccd"),
        ("zzz", "zzz; there are: letnet_camvid, detseg_n_bccd"),
    ],
)
def test_an_unknown_name(name: str, hint: str) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        find_model(name)
    assert str(caught.value).startswith(f"no model file at {name}, and no released weights are called {name}; ")
    assert str(caught.value).endswith(hint)


def test_nothing_is_released(user_folder: Path) -> None:
    released.TABLE.write_text("weights: {}")
    with pytest.raises(FileNotFoundError, match="no released weights are called letnet_camvid; none are released yet"):
        find_model("letnet_camvid")


def test_another_file_of_the_name_is_refused(user_folder: Path) -> None:
    path = put(user_folder / "letnet_camvid.safetensors", b"welghts")
    wrong = hashlib.sha256(b"welghts").hexdigest()
    advice = "rename or remove it, then: detseg download letnet_camvid"
    message = f"{path} is not the released file: its sha256 is {wrong}, not {SHA256}; {advice}"
    with pytest.raises(ReleaseError, match=re.escape(message)):
        find_model("letnet_camvid")


def test_find_release_in_chosen_folders(user_folder: Path, tmp_path: Path) -> None:
    release = read_table()["letnet_camvid"]
    put(user_folder / release.file)
    assert find_release(release) == user_folder / release.file
    assert find_release(release, [tmp_path / "elsewhere"]) is None


@pytest.mark.parametrize(
    ("platform", "variable", "value", "folder"),
    [
        ("linux", "XDG_DATA_HOME", "/data", "/data"),
        ("linux", "XDG_DATA_HOME", "relative", "/home/me/.local/share"),
        ("linux", "XDG_DATA_HOME", "", "/home/me/.local/share"),
        ("linux", "LOCALAPPDATA", "/local", "/home/me/.local/share"),
        ("darwin", "XDG_DATA_HOME", "/data", "/home/me/Library/Application Support"),
        ("win32", "LOCALAPPDATA", "/local", "/local"),
        ("win32", "XDG_DATA_HOME", "/data", "/home/me/AppData/Local"),
    ],
)
def test_the_users_folder(
    platform: str, variable: str, value: str, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setenv("DETSEG_WEIGHTS", "")
    assert weights_folder() == Path(folder) / "detseg" / "weights"
    monkeypatch.setenv("DETSEG_WEIGHTS", "~/models")
    assert weights_folder() == Path("/home/me/models")


def test_add_release(user_folder: Path) -> None:
    before = read_table()
    first = before["letnet_camvid"]
    added = Release("vnet.safetensors", "0" * 64, 12, "volume", "Hippocampus: MSD", "CC BY-SA 4.0", "Dice 0.89")
    add_release("vnet", added)
    better = Release(first.file, "1" * 64, 13, "semantic", "CamVid", "Apache-2.0", "mIoU 0.72 on val")
    add_release("letnet_camvid", better)
    assert read_table() == ReleaseTable(None, {**before.weights, "letnet_camvid": better, "vnet": added})
    assert list(read_table().weights) == ["letnet_camvid", "detseg_n_bccd", "vnet"]
    assert released.TABLE.read_text().startswith("# Two models.\nurl: null\nweights:\n  letnet_camvid:\n    file: ")


def test_a_release_needs_the_name_of_its_file(user_folder: Path) -> None:
    before = released.TABLE.read_text()
    with pytest.raises(ValueError, match=r"weights\.vnet\.file must be vnet and a suffix, got 'letnet_camvid\.saf"):
        add_release("vnet", read_table()["letnet_camvid"])
    assert released.TABLE.read_text() == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("file: letnet_camvid.safetensors", "file: ../letnet_camvid.safetensors", "must be a plain name that ends in"),
        ("file: letnet_camvid.safetensors", "file: letnet_camvid.pt", "must be a plain name that ends in"),
        ("file: letnet_camvid.safetensors", "file: let.net.safetensors", "must be a plain name that ends in"),
        (f"sha256: {SHA256}", f"sha256: {SHA256[:-1]}", "sha256 must be 64 lower-case hexadecimal digits"),
        (f"sha256: {SHA256}", f"sha256: {SHA256.upper()}", "sha256 must be 64 lower-case hexadecimal digits"),
        ("num_bytes: 7", "num_bytes: 0", "num_bytes must be at least 1, got 0"),
        ("task: semantic", "task: boxes", "weights.letnet_camvid.task: expected"),
        ("data: CamVid, ", "", "weights.letnet_camvid.data: missing key"),
    ],
)
def test_a_bad_table(old: str, new: str, message: str, user_folder: Path) -> None:
    assert old in ROWS
    released.TABLE.write_text(ROWS.replace(old, new, 1))
    with pytest.raises(ConfigError, match=re.escape(message)):
        find_model("letnet_camvid")
