from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detseg.foreign.limits import ForeignFileError
from detseg.foreign.records import Record, module_tensors
from detseg.foreign.torch_file import read_torch_file

CLASSES = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(2)
        self.register_buffer("grid", torch.ones(2, 2), persistent=False)
        self.register_buffer("scale", torch.full((1,), 3.0))
        self.register_buffer("nothing", None)
        self.gain = nn.Parameter(torch.zeros(2))
        self.skip = None

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(3), nn.Sequential(Block(2), nn.SiLU())])
        self.shared = self.blocks[0].conv
        self.names = {0: "cell"}
"""
SAVE = """
import sys
import torch
import classes_of_a_user
torch.manual_seed(0)
network = classes_of_a_user.Network().half()
network.hook = network.blocks[0].forward
for form, zipped in (("zip", True), ("legacy", False)):
    torch.save({"model": network, "epoch": 3}, f"{form}.pt", _use_new_zipfile_serialization=zipped)
torch.save(network.state_dict(), "state.pt")
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files of a network whose classes are not here: only the child process could import them."""
    folder = tmp_path_factory.mktemp("saved")
    (folder / "classes_of_a_user.py").write_text(CLASSES)
    (folder / "save.py").write_text(SAVE)
    subprocess.run([sys.executable, "-W", "ignore", "save.py"], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_the_state_dict_of_a_pickled_module(saved: Path, form: str) -> None:
    content: Any = read_torch_file(saved / f"{form}.pt").content
    network = content["model"]
    assert isinstance(network, Record)
    assert network.name == "classes_of_a_user.Network"
    assert network.state["names"] == {0: "cell"}
    assert content["epoch"] == 3
    found, expected = module_tensors(network), torch.load(saved / "state.pt", weights_only=True)
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())
        assert found[name].dtype == tensor.numpy().dtype


def module(parameters: Any = None, buffers: Any = None, modules: Any = None, **state: Any) -> Record:
    parts = {"_parameters": parameters or {}, "_buffers": buffers or {}, "_modules": modules or {}}
    return Record("a.Module", (), parts | state)


def test_buffers_of_old_modules_are_all_persistent() -> None:
    value = np.ones(2)
    assert module_tensors(module(buffers={"b": value})) == {"b": value}
    assert module_tensors(module(buffers={"b": value}, _non_persistent_buffers_set={"b"})) == {}


def endless() -> Record:
    parent = module()
    child = module(modules={"parent": parent})
    parent.state["_modules"]["child"] = child  # type: ignore[index]
    return parent


def doubled() -> Record:
    """40 modules, each in the next twice: 2**40 names."""
    inner = module()
    for _ in range(40):
        inner = module(modules={"a": inner, "b": inner})
    return inner


def deep() -> Record:
    inner = module()
    for _ in range(200):
        inner = module(modules={"a": inner})
    return inner


NO_MODULES = [
    (lambda: Record("pathlib.Path", ("a",)), "pathlib.Path is no pickled"),
    (lambda: Record("a.B", (), {"_parameters": {}, "_buffers": {}}), "no pickled"),
    (lambda: Record("a.B", (), {"_parameters": [], "_buffers": {}, "_modules": {}}), "no pickled"),
    (lambda: module(modules={"x": 1}), "int at 'x.' is no pickled"),
    (lambda: module(parameters={"x": 1}), "x is a int"),
    (lambda: module(parameters={1: np.ones(1)}), "1 as a name"),
    (lambda: module(modules={"x" * 2000: module()}), "as a name"),
    (endless, "contains itself"),
    (doubled, "too many"),
    (deep, "too many"),
]


@pytest.mark.parametrize(("make", "words"), NO_MODULES)
def test_what_is_no_module_is_refused(make: Any, words: str) -> None:
    with pytest.raises(ForeignFileError, match=words):
        module_tensors(make())
