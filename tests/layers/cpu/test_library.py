"""The compiled library: where it is kept, and what is said where it cannot be made."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from detseg.layers.cpu import library as module
from detseg.layers.cpu.library import compiled, library
from detseg.models.letnet import LETNetConfig


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    library.cache_clear()
    yield
    library.cache_clear()


def test_without_a_compiler_the_plain_layers_learn_and_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DETSEG_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    model = LETNetConfig().build(2).train().to(memory_format=torch.channels_last)
    with pytest.warns(UserWarning, match="no compiler no-such-compiler") as caught:
        model(torch.rand(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)).sum().backward()
    assert len([one for one in caught if "no-such-compiler" in str(one.message)]) == 1
    assert model.classifier.weight.grad is not None
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(shutil.which("false") is None, reason="there is no program that fails")
def test_a_compiler_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DETSEG_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    with pytest.warns(UserWarning, match="false failed"):
        assert library() is None


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_what_was_compiled_is_used_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DETSEG_CACHE", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    source = tmp_path / "source"
    source.mkdir()
    (source / "one.cpp").write_text('extern "C" int one() { return 1; }\n')
    monkeypatch.setattr(module, "SOURCES", source)
    path = compiled()
    written = path.stat().st_mtime_ns
    assert compiled() == path
    assert path.stat().st_mtime_ns == written
    (source / "one.cpp").write_text('extern "C" int one() { return 2; }\n')
    assert compiled() != path
    assert sorted(path.parent.iterdir()) == sorted([path, compiled()])
