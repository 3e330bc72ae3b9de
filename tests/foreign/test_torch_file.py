from __future__ import annotations

import collections
import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detseg.foreign.limits import ForeignFileError, Limits
from detseg.foreign.records import GlobalName, Record
from detseg.foreign.torch_file import read_torch_file
from tests.foreign.files import archive, pickled, text

BOTH_FORMS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def saved(path: Path, content: Any, zipped: bool = True, **options: Any) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped, **options)
    return path


def assert_same(found: Any, expected: Any) -> None:
    """``expected`` is torch's own; bfloat16 is expected as float32."""
    if isinstance(expected, torch.Tensor):
        values = (expected.float() if expected.dtype == torch.bfloat16 else expected).detach().numpy()
        assert isinstance(found, np.ndarray)
        assert found.dtype == values.dtype
        assert found.shape == values.shape
        np.testing.assert_array_equal(found, values)
    elif isinstance(expected, dict):
        assert type(found) is dict
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert isinstance(found, list | tuple)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert type(found) is type(expected)
        assert found == expected


DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.complex128,
]  # fmt: skip


@BOTH_FORMS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_of_tensor(tmp_path: Path, dtype: torch.dtype, zipped: bool) -> None:
    values = torch.tensor([[0, 1, 2], [3, 100, 7]]).to(dtype)
    path = saved(tmp_path / "a.pt", {"x": values}, zipped)
    assert_same(read_torch_file(path).content, torch.load(path, weights_only=True))


@BOTH_FORMS
def test_types_without_a_storage_of_their_own(tmp_path: Path, zipped: bool) -> None:
    content = {str(kind): torch.tensor([1, 60000]).to(kind)[1:] for kind in (torch.uint16, torch.uint32, torch.uint64)}
    path = saved(tmp_path / "a.pt", content, zipped)
    assert_same(read_torch_file(path).content, content)


def views() -> dict[str, Any]:
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    return {
        "base": base,
        "transposed": base.permute(2, 0, 1),
        "slice": base[1, ::2, 1:3],
        "expanded": torch.ones(1, 3).expand(5, 3),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 4),
        "empty view": base[:, 3:],
        "parameter": torch.nn.Parameter(base[0], requires_grad=False),
        "overlapping": torch.arange(6).as_strided((3, 3), (1, 1)),
    }


@BOTH_FORMS
def test_views_of_shared_storages(tmp_path: Path, zipped: bool) -> None:
    path = saved(tmp_path / "a.pt", views(), zipped)
    content: Any = read_torch_file(path).content
    assert_same(content, torch.load(path, weights_only=True))
    assert np.shares_memory(content["base"], content["transposed"])
    assert np.shares_memory(content["base"], content["parameter"])
    assert not content["base"].flags.writeable
    assert not content["empty"].flags.writeable


PLAIN = {
    "ints": [0, 255, 256, 65536, -1, 2**31, -(2**70)],
    "floats": (0.5, float("inf"), -1e300),
    "text": "größer ✓ \n",
    "bytes": b"\x00\xff",
    "none": None,
    "truth": (True, False),
    "set": {1, "two"},
    "ordered": collections.OrderedDict(b=1, a=[]),
    "size": torch.Size([2, 3]),
    "device": torch.device("cuda", 1),
    1: {(2, "b"): 3},
}


@BOTH_FORMS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values(tmp_path: Path, protocol: int, zipped: bool) -> None:
    path = saved(tmp_path / "a.pt", PLAIN, zipped, pickle_protocol=protocol)
    expected = {**PLAIN, "ordered": {"b": 1, "a": []}, "size": (2, 3), "device": "cuda:1"}
    assert_same(read_torch_file(path).content, expected)


def test_what_is_not_known_becomes_a_record(tmp_path: Path) -> None:
    counted = collections.Counter(a=2)
    path = saved(tmp_path / "a.pt", {"path": Path("a/b"), "dtype": torch.float16, "counter": counted})
    content: Any = read_torch_file(path).content
    assert isinstance(content["path"], Record)
    assert content["path"].name in ("pathlib.PosixPath", "pathlib._local.PosixPath")
    assert content["path"].arguments == ("a", "b")
    assert content["dtype"] == GlobalName("torch.float16")
    assert content["counter"].name == "collections.Counter"
    assert content["counter"].arguments == ({"a": 2},)


@BOTH_FORMS
def test_numpy_scalars_are_numbers(tmp_path: Path, zipped: bool) -> None:
    content = {"f8": np.float64(0.25), "f4": np.float32(0.5), "i8": np.int64(-7), "b1": np.bool_(True)}
    path = saved(tmp_path / "a.pt", content, zipped)
    assert_same(read_torch_file(path).content, {"f8": 0.25, "f4": 0.5, "i8": -7, "b1": True})


def test_a_state_dict_with_its_metadata(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    path = saved(tmp_path / "a.pt", network.state_dict())
    assert_same(read_torch_file(path).content, dict(network.state_dict()))


def test_storages_alone_are_arrays(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", torch.arange(3, dtype=torch.int16).untyped_storage())
    np.testing.assert_array_equal(read_torch_file(path).content, np.array([0, 0, 1, 0, 2, 0], np.uint8))


def test_the_sha256_is_that_of_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", [1])
    assert read_torch_file(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_real_files(detseg_data: Path) -> None:
    path = detseg_data / "weights" / "yolox_nano_coco.pth"
    assert_same(read_torch_file(path).content, torch.load(path, weights_only=True, map_location="cpu"))
    content: Any = read_torch_file(detseg_data / "weights" / "yolov8n_bccd.pt").content
    assert content["model"].name == "ultralytics.nn.tasks.DetectionModel"
    assert content["train_args"]["imgsz"] == 320


def test_reading_loads_no_torch(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", views())
    code = f"""
import sys
from pathlib import Path
from detseg.foreign.torch_file import read_torch_file
read_torch_file(Path({str(path)!r}))
assert "torch" not in sys.modules and "pickle" not in sys.modules.keys() - before, sys.modules
"""
    code = "import sys, numpy\nbefore = set(sys.modules)" + code
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def sparse() -> torch.Tensor:
    return torch.eye(2).to_sparse()


def quantized() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8)


NOT_READ: list[tuple[str, Callable[[], object], str]] = [
    ("sparse", sparse, "to_dense"),
    ("quantized", quantized, "QUInt8Storage"),
    ("conjugate", lambda: torch.ones(2, dtype=torch.complex64).conj(), "resolve_conj"),
    ("float8", lambda: torch.ones(2).to(torch.float8_e4m3fn), "float8_e4m3fn"),
    ("meta", lambda: torch.ones(2, device="meta"), "meta"),
]


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(("make", "words"), [case[1:] for case in NOT_READ], ids=[case[0] for case in NOT_READ])
def test_tensors_that_are_not_read(tmp_path: Path, make: Callable[[], object], words: str) -> None:
    path = saved(tmp_path / "a.pt", {"x": make()})
    with pytest.raises(ForeignFileError, match=words) as raised:
        read_torch_file(path)
    assert str(raised.value).startswith(f"{path}: ")


OTHER_FILES = [
    (b"", "no file of torch.save"),
    (b"hello world", "no file of torch.save"),
    (b"\x80", "no file of torch.save"),
    (pickled(text("hello")), "magic number is 'hello'"),
    (b"\0" * 257 + b"ustar\x0000" + b"\0" * 300, "tar form"),
    (archive(pickled(b"N"), {"constants.pkl": b""}), "TorchScript"),
]


@pytest.mark.parametrize(("data", "words"), OTHER_FILES)
def test_files_of_another_kind(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(data)
    with pytest.raises(ForeignFileError, match=words):
        read_torch_file(path)


def test_missing_large_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ForeignFileError, match="no such file"):
        read_torch_file(tmp_path / "missing.pt")
    with pytest.raises(ForeignFileError, match="no such file"):
        read_torch_file(tmp_path)
    path = saved(tmp_path / "a.pt", [1])
    size = path.stat().st_size
    assert read_torch_file(path, Limits(max_file_bytes=size)).content == [1]
    with pytest.raises(ForeignFileError, match="larger than"):
        read_torch_file(path, Limits(max_file_bytes=size - 1))
