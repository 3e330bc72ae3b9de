"""Images for a report, kept in memory and put into a page."""

from __future__ import annotations

from dataclasses import dataclass

from detseg.engine.reports.browse import Browsed
from detseg.evaluation.doubts import Doubt
from detseg.evaluation.hardest import BoxTally
from detseg.evaluation.objects.explore import BoxCounts
from detseg.evaluation.per_image import ImageTable


@dataclass(frozen=True, slots=True)
class ReportImage:
    """One image of a report: a file name, a caption, and a JPEG of up to 1600 pixels on the longer side."""

    name: str
    caption: str
    jpeg: bytes


@dataclass(frozen=True, slots=True)
class ReportImages:
    """What a report shows of a data set: ``examples`` spread over it, and the ``hardest``, the hardest first, with
    ``measure`` saying by what; of boxes also how many errors there are of each kind, and at each confidence. All that
    can be ``browsed``, in the order of the data set. ``doubts``: labels to look at again."""

    examples: tuple[ReportImage, ...] = ()
    hardest: tuple[ReportImage, ...] = ()
    measure: str = ""
    tally: BoxTally | None = None
    counts: BoxCounts | None = None
    browsed: tuple[Browsed, ...] = ()
    class_names: tuple[str, ...] = ()
    table: ImageTable | None = None
    doubts: tuple[Doubt, ...] = ()
