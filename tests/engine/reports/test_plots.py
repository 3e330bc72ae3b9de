from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from matplotlib.figure import Figure

from detseg.engine.reports.plots import plot_history


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


def drawn(figure: Figure) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """Axis label -> name of the curve -> its points."""
    return {
        axes.get_ylabel(): {
            str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines
        }
        for axes in figure.axes
    }


def test_each_entry_in_its_panel(tmp_path: Path, figures: list[Figure]) -> None:
    records: list[dict[str, Any]] = [
        {"epoch": 1, "step": 10, "seconds": 3.5, "loss": 3.0, "loss/box": 2.0, "learning_rate": 0.1},
        {
            "epoch": 2,
            "step": 20,
            "seconds": 3.4,
            "loss": float("nan"),
            "loss/box": 1.0,
            "learning_rate": 0.05,
            "AP": 0.2,
        },
        {
            "epoch": 3,
            "step": 30,
            "seconds": 3.4,
            "loss": 1.0,
            "loss/box": None,
            "learning_rate": 0.0,
            "AP": 0.3,
            "AP/a": 1,
        },
    ]
    plot_history(records, tmp_path / "history.png")
    assert matplotlib.image.imread(tmp_path / "history.png").std() > 0.01
    assert drawn(figures[0]) == {
        "loss": {"loss": ([1, 3], [3.0, 1.0]), "loss/box": ([1, 2], [2.0, 1.0])},
        "metric": {"AP": ([2, 3], [0.2, 0.3])},
        "learning rate": {"learning_rate": ([1, 2, 3], [0.1, 0.05, 0.0])},
    }
    assert [axes.get_xlabel() for axes in figures[0].axes] == ["epoch"] * 3


def test_a_single_curve_has_its_name(tmp_path: Path, figures: list[Figure]) -> None:
    plot_history([{"epoch": 0, "Dice": 0.5}, {"epoch": 1, "Dice": 0.6}], tmp_path / "history.png")
    legend = figures[0].axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["Dice"]


def test_twins_are_drawn_once_under_both_names(tmp_path: Path, figures: list[Figure]) -> None:
    records = [{"epoch": epoch, "loss": 1.0 / (1 + epoch), "loss/dice": 1.0 / (1 + epoch)} for epoch in range(3)]
    plot_history([*records, {"epoch": 3, "loss/other": 2.0}], tmp_path / "history.png")
    assert [str(line.get_label()) for line in figures[0].axes[0].lines] == ["loss = loss/dice", "loss/other"]


def test_panels_without_curves_are_left_out(tmp_path: Path, figures: list[Figure]) -> None:
    plot_history([{"step": 0, "loss": 3.0}, {"step": 100, "loss": 1.0}], tmp_path / "history.png")
    assert drawn(figures[0]) == {"loss": {"loss": ([0, 100], [3.0, 1.0])}}
    assert figures[0].axes[0].get_xlabel() == "step"


def test_own_panels(tmp_path: Path, figures: list[Figure]) -> None:
    plot_history([{"epoch": 1, "loss": 3.0, "seconds": 7}], tmp_path / "history.png", {"time": ["seconds"]})
    assert drawn(figures[0]) == {"time": {"seconds": ([1], [7])}}


@pytest.mark.parametrize("records", [[], [{"epoch": 0, "seconds": 1.0}], [{"loss": 1.0}]])
def test_nothing_to_draw_is_an_error(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=f"none of the {len(records)} records"):
        plot_history(records, tmp_path / "history.png")
    assert not list(tmp_path.iterdir())
