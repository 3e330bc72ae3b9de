"""``bench/volumes.py``: what it counts."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from detseg.runtime.volumes.nifti import write_label_values

PATH = Path(__file__).parents[2] / "bench" / "volumes.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_volumes", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_what_a_program_takes(bench: ModuleType) -> None:
    used = bench.run([sys.executable, "-S", "-c", "import time; held = b'1' * 300_000_000; time.sleep(0.1)"])
    # It begins with what its parent holds, so that there is no upper bound.
    assert used.gigabytes >= 0.3
    assert used.seconds >= 0.1
    assert 0 < used.processor_seconds < 60
    with pytest.raises(RuntimeError, match="it is broken"):
        bench.run([sys.executable, "-S", "-c", "raise SystemExit('it is broken')"])


def test_dice_of_each_class_is_the_mean_over_cases(bench: ModuleType, tmp_path: Path) -> None:
    for folder in ("truth", "found"):
        (tmp_path / folder).mkdir()
    truth, found = np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 2), np.uint8)
    truth[0] = [[1, 1], [2, 2]]
    found[0] = [[1, 1], [2, 0]]
    for name, labels in (("a", found), ("b", truth)):
        write_label_values(tmp_path / f"truth/{name}.nii", truth, np.eye(4))
        write_label_values(tmp_path / f"found/{name}.nii", labels, np.eye(4))
    truths = {f"{name}.nii": tmp_path / f"truth/{name}.nii" for name in "ab"}
    assert bench._dice(tmp_path / "found", truths) == pytest.approx([1.0, (2 / 3 + 1) / 2])
