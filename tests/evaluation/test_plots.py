"""Images are drawn for any number of classes, and hold what they should."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from detseg.evaluation.objects.calibration import Calibration
from detseg.evaluation.objects.confusion import ConfusionMatrix
from detseg.evaluation.objects.f1 import F1Curve
from detseg.evaluation.objects.precision_recall import PrecisionRecallCurve
from detseg.evaluation.plots import (
    plot_calibration,
    plot_case_scores,
    plot_class_scores,
    plot_confusion_matrix,
    plot_f1_curves,
    plot_pixel_confusion,
    plot_pr_curves,
)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is saved."""
    saved: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *args: object, **kwargs: object) -> None:
        saved.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def curves(num_classes: int) -> list[PrecisionRecallCurve]:
    """Class ``i`` has precision ``(i + 1) / num_classes`` at every recall."""
    recall = np.linspace(0, 1, 101)
    return [
        PrecisionRecallCurve(f"_class ${i}$", 0.5, recall, np.full(101, (i + 1) / num_classes), 1 - recall)
        for i in range(num_classes)
    ]


@pytest.mark.parametrize(("num_classes", "num_entries"), [(1, 2), (10, 11), (11, 7), (80, 7)])
def test_pr_curves(tmp_path: Path, figures: list[Figure], num_classes: int, num_entries: int) -> None:
    plot_pr_curves(curves(num_classes), tmp_path / "pr.png")
    assert matplotlib.image.imread(tmp_path / "pr.png").std() > 0.01
    axes = figures[0].axes[0]
    assert len(axes.lines) == num_classes + 1
    assert axes.lines[-1].get_ydata() == pytest.approx(np.full(101, (num_classes + 1) / 2 / num_classes))
    entries = [text.get_text() for text in axes.get_legend().get_texts()]
    assert len(entries) == num_entries
    assert entries[0] == rf"1.000  _class \${num_classes - 1}\$"


def test_pr_curves_of_one_threshold_only(tmp_path: Path) -> None:
    first, second = curves(2)
    other = PrecisionRecallCurve("b", 0.75, second.recall, second.precision, second.confidences)
    for wrong in ([], [first, other]):
        with pytest.raises(ValueError, match="expected curves at one IoU threshold"):
            plot_pr_curves(wrong, tmp_path / "pr.png")
    assert not list(tmp_path.iterdir())


def f1_curve(name: str, num_right: int, num_objects: int = 10) -> F1Curve:
    """So many right boxes of scores 0.9, 0.8, ..., then a wrong one at 0.05."""
    right = np.append(np.arange(1, num_right + 1), num_right)
    confidences = np.append(0.9 - 0.1 * np.arange(num_right), 0.05)
    return F1Curve(name, 0.5, confidences, right, np.arange(1, num_right + 2), num_objects)


@pytest.mark.parametrize(("num_classes", "num_entries"), [(1, 1), (10, 10), (11, 6), (80, 6)])
def test_f1_curves(tmp_path: Path, figures: list[Figure], num_classes: int, num_entries: int) -> None:
    plot_f1_curves([f1_curve(f"class_${n}$", 1 + n % 8) for n in range(num_classes)], tmp_path / "f1.png")
    assert matplotlib.image.imread(tmp_path / "f1.png").std() > 0.01
    axes = figures[0].axes[0]
    assert len(axes.lines) == num_classes + num_entries, "a line for each class, a dot for each that has a name"
    entries = [text.get_text() for text in axes.get_legend().get_texts()]
    assert len(entries) == num_entries
    best = min(num_classes, 8)
    assert entries[0] == rf"{2 * best / (best + 10):.3f}  class_\${best - 1}\$ at {1 - best / 10:.2f}"


def test_f1_goes_down_to_the_last_box(tmp_path: Path, figures: list[Figure]) -> None:
    # Two of three objects are found: one at 0.9, the other at 0.4 after one box without an object; two more follow.
    curve = F1Curve("a", 0.5, np.array([0.9, 0.6, 0.4, 0.1]), np.array([1, 1, 2, 2]), np.array([1, 2, 3, 5]), 3)
    plot_f1_curves([curve], tmp_path / "f1.png")
    line, dot = figures[0].axes[0].lines
    assert line.get_drawstyle() == "steps-pre"
    expected = [[0.1, 4 / 8], [0.4, 4 / 6], [0.6, 2 / 5], [0.9, 2 / 4]]
    assert line.get_xydata().tolist() == [pytest.approx(point) for point in expected]
    assert dot.get_xydata().tolist() == [pytest.approx([0.4, 4 / 6])]


def test_f1_of_nothing_found(tmp_path: Path, figures: list[Figure]) -> None:
    plot_f1_curves([f1_curve("a", 0)], tmp_path / "f1.png")
    nothing = np.zeros(0, np.int64)
    plot_f1_curves([F1Curve("a", 0.5, nothing.astype(float), nothing, nothing, 3)], tmp_path / "none_found.png")
    for figure in figures:
        assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["0.000  a"]
    with pytest.raises(ValueError, match="at least one curve"):
        plot_f1_curves([], tmp_path / "none.png")


def test_calibration(tmp_path: Path, figures: list[Figure]) -> None:
    num_boxes, precision = np.zeros(20, np.int64), np.zeros(20)
    num_boxes[[10, 19]], precision[[10, 19]] = (4, 8), (0.25, 0.75)
    plot_calibration(Calibration(num_boxes, precision, precision), tmp_path / "calibration.png")
    assert matplotlib.image.imread(tmp_path / "calibration.png").std() > 0.01
    shares, counts = figures[0].axes
    assert [(bar.get_x(), bar.get_height()) for bar in shares.patches] == [
        (0.5, 0.25),
        (pytest.approx(0.95), 0.75),
    ]
    assert [bar.get_height() for bar in counts.patches] == [4, 8]


@pytest.mark.parametrize(("num_classes", "num_texts"), [(1, 1), (20, 20), (21, 0), (80, 0), (300, 0)])
def test_confusion_matrix(tmp_path: Path, figures: list[Figure], num_classes: int, num_texts: int) -> None:
    matrix = ConfusionMatrix([f"${i}" for i in range(num_classes)])
    matrix.counts[np.arange(num_classes), np.arange(num_classes)] = 4
    plot_confusion_matrix(matrix, tmp_path / "confusion.png")
    assert matplotlib.image.imread(tmp_path / "confusion.png").std() > 0.01
    axes = figures[0].axes[0]
    assert axes.images[0].get_array().sum() == num_classes
    assert [text.get_text() for text in axes.texts] == ["4"] * num_texts
    if num_classes <= 250:
        assert [text.get_text() for text in axes.get_yticklabels()][-2:] == [rf"\${num_classes - 1}", "background"]


def test_long_names_leave_room_for_the_matrix(tmp_path: Path, figures: list[Figure]) -> None:
    names = ["a class whose name says all there is to be said " * 3 + str(number) for number in range(3)]
    plot_confusion_matrix(ConfusionMatrix(names), tmp_path / "confusion.png")
    labels = [text.get_text() for text in figures[0].axes[0].get_yticklabels()]
    assert labels[2] == "a class whose name says…e said 2"
    assert len(labels[2]) <= 33
    # The matrix has a good part of the image.
    assert figures[0].axes[0].get_position().width > 0.3


@pytest.mark.parametrize("num_classes", [1, 21, 22, 255])
@pytest.mark.parametrize("num_ignored", [0, 100])
def test_pixel_confusion(tmp_path: Path, figures: list[Figure], num_classes: int, num_ignored: int) -> None:
    counts = np.zeros((num_classes, num_classes + 1), np.int64)
    counts[np.arange(num_classes), np.arange(num_classes)] = 300
    counts[0, -1] = num_ignored
    plot_pixel_confusion(counts, [f"${i}" for i in range(num_classes)], tmp_path / "confusion.png")
    assert matplotlib.image.imread(tmp_path / "confusion.png").std() > 0.01
    axes = figures[0].axes[0]
    shown = axes.images[0].get_array()
    assert shown.shape == (num_classes, num_classes + bool(num_ignored))
    assert np.asarray(shown).sum(axis=1) == pytest.approx(np.ones(num_classes))
    percents = ["75", "25"] if num_ignored else ["100"]
    texts = [text.get_text() for text in axes.texts]
    assert texts == (percents + ["100"] * (num_classes - 1) if num_classes <= 21 else [])
    if num_classes <= 22:
        last = rf"\${num_classes - 1}"
        assert [text.get_text() for text in axes.get_yticklabels()][-1] == last
        assert [text.get_text() for text in axes.get_xticklabels()][-1] == ("ignored" if num_ignored else last)


@pytest.mark.parametrize("num_classes", [1, 11, 41, 255])
def test_class_scores(tmp_path: Path, figures: list[Figure], num_classes: int) -> None:
    scores = {f"${i}": (i + 1) / num_classes for i in range(num_classes)}
    plot_class_scores(scores, 0.5, "IoU", tmp_path / "iou.png")
    assert matplotlib.image.imread(tmp_path / "iou.png").std() > 0.01
    axes = figures[0].axes[0]
    assert [bar.get_width() for bar in axes.patches] == sorted(scores.values())
    assert [text.get_text() for text in axes.get_yticklabels()][-1] == rf"\${num_classes - 1}"
    assert list(axes.lines[0].get_xdata()) == [0.5, 0.5]


@pytest.mark.parametrize("num_classes", [2, 41, 254])
def test_case_scores(tmp_path: Path, figures: list[Figure], num_classes: int) -> None:
    scores = {f"${i}": np.array([0.0, 0.2, 0.3, 0.6, 1.0]) for i in range(num_classes - 1)}
    plot_case_scores({**scores, "none": np.empty(0)}, "Dice", tmp_path / "dice.png")
    assert matplotlib.image.imread(tmp_path / "dice.png").std() > 0.01
    axes = figures[0].axes[0]
    # from the first to the third quartile, in the order of the classes from the top
    assert [(bar.get_x(), bar.get_width()) for bar in axes.patches] == [(0.2, pytest.approx(0.4))] * (num_classes - 1)
    assert axes.patches[0].get_y() == pytest.approx(num_classes - 1 - 0.3)
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert (names[0], names[-1]) == (r"\$0 (5)", "none (0)")
    dots = axes.collections[0].get_offsets()
    assert dots[:, 0].tolist() == [0.0, 0.2, 0.3, 0.6, 1.0]
    assert np.abs(dots[:, 1] - (num_classes - 1)).max() < 0.5


def test_evaluation_imports_neither_matplotlib_nor_torch() -> None:
    script = (
        "import sys\n"
        "from detseg.evaluation import plots, report\n"
        "from detseg.evaluation.labels import dice, miou\n"
        "from detseg.evaluation.objects import coco_map\n"
        "print([name for name in ('matplotlib', 'torch', 'pycocotools', 'scipy') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
