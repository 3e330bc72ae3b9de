"""What every evaluator offers, so that trainer and command line need not know the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from detseg.structures import Metrics

EvaluatorState = dict[str, NDArray[Any]]


class Evaluator(Protocol):
    """Gathers the predictions for a data set image by image, then judges them all at once.

    Several processes evaluate a share each. They exchange their :meth:`state`, whose arrays hold int64 or float64 and
    differ between processes in the length of the first dimension only, so that tensor collectives can carry them; then
    ``evaluator.merge(states)`` gives every process the whole. A process that saw no image has a state too.
    """

    def update(self, image_id: int, prediction: Any, truth: Any, /) -> None:
        """Add one image.

        Raises:
            ValueError: the image was added before, or its values cannot be judged.
        """

    def compute(self) -> Metrics:
        """The metrics over all images added since the last :meth:`reset`.

        Raises:
            ValueError: no image was added.
        """

    def classes_without_truth(self) -> tuple[str, ...]:
        """The classes of which the ground truth holds nothing, so that nothing can be said about finding them.

        Raises:
            ValueError: no image was added.
        """

    def diagnose(self) -> dict[str, float]:
        """Further numbers for a report, by name as in metrics, that take longer and say what the metrics come from."""

    def error_table(self) -> list[list[str]]:
        """What goes wrong with each class, as rows of cells under a row of names; nothing where a report has it from
        elsewhere, as of boxes."""

    def facts(self) -> dict[str, str]:
        """What ``metrics.json`` says of how the metrics came about, beside the numbers."""

    def write_artifacts(self, folder: Path, names: Mapping[int, str] | None = None) -> None:
        """Write what is worth keeping beside the metrics: images, and results in the form of the official tool.
        ``names`` are those of the files by the ids of their images.

        Raises:
            ValueError: no image was added.
            SaveError: a file cannot be written.
        """

    def reset(self) -> None:
        """Forget all images."""

    def state(self) -> EvaluatorState:
        """All that was added, as arrays by name."""

    def merge(self, states: Sequence[EvaluatorState]) -> None:
        """Replace all that was added by the union of ``states``, which include this evaluator's own.

        Raises:
            ValueError: an image is in more than one state, or a state is not of this kind of evaluator.
        """
