"""Findings: what is wrong with a data set, each with a code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["info", "warning", "error"]
EXIT_CODES: Mapping[Severity, int] = {"info": 0, "warning": 1, "error": 2}


@dataclass(frozen=True, slots=True)
class Code:
    """What a code stands for: an error breaks or falsifies training, a warning is survived, an info worth knowing."""

    severity: Severity
    title: str
    remedy: str


CODES: Mapping[str, Code] = {
    "D001": Code("warning", "degenerate box", "readers drop it: correct its corners or delete it"),
    "D002": Code("warning", "box reaches outside the image", "readers clip it: correct its corners"),
    "D003": Code("warning", "duplicate box", "delete all but one: each copy counts as an object"),
    "D004": Code("error", "unknown category", "add the category to the list of classes or correct the annotation"),
    "D005": Code("error", "malformed annotation", "correct or delete the entry"),
    "D006": Code("error", "box entirely outside the image", "correct or delete it: no pixel of it can be learned"),
    "D007": Code("warning", "field that cannot be used", "correct it, or leave it out: boxes are read without it"),
    "D008": Code("info", "category left out", "nothing, if it only groups others"),
    "D009": Code("error", "object without outline", "outline it, or learn boxes: the task detection"),
    "D010": Code("warning", "outline that encloses nothing", "draw it again, or delete it: the object has no pixel"),
    "D011": Code("warning", "outline reaches outside the image", "readers cut it: correct its corners"),
    "D012": Code("warning", "box and outline disagree", "correct the one that is wrong: each is learned from as it is"),
    "D013": Code("error", "mask that cannot be used", "save it for the size of its image, or outline the object again"),
    "D014": Code("warning", "shape that is no object", "nothing, or draw it as a box or polygon, if it is to be found"),
    "D015": Code("warning", "polygons that may be key points", "say kpt_shape in the YAML; null if they are polygons"),
    "D100": Code("error", "unreadable annotation file", "restore or correct the file"),
    "D101": Code("error", "missing image", "add the image or delete its entry"),
    "D102": Code("error", "corrupt image", "replace the image or delete its entry"),
    "D103": Code("error", "image size differs from the annotation", "annotate the image that is there"),
    "D104": Code("info", "image without objects", "nothing, if it is meant as background"),
    "D105": Code("info", "image in no split", "list it, if it is meant to be used"),
    "D106": Code(
        "error", "identifier or image used twice", "give every entry its own identifier, list each image once"
    ),
    "D107": Code("error", "image path leaves the data set", "keep the images inside the folder of images"),
    "D201": Code(
        "error", "same image in two splits", "keep it in one split: `detseg split` makes splits without leakage"
    ),
    "D202": Code("warning", "class missing in a split", "`detseg split` makes stratified splits"),
    "D203": Code("warning", "same image twice in a split", "delete all but one"),
    "D204": Code("warning", "class that occurs nowhere", "nothing, if it is still to come; else take it off the list"),
    "D205": Code(
        "warning", "class in several spellings", "make it one with `classes: {OLD: NEW}` in the YAML, if it is one"
    ),
    "D301": Code("error", "missing mask", "add the mask or take the image away"),
    "D302": Code("error", "corrupt mask", "replace the mask or take it away with its image"),
    "D303": Code(
        "error", "wrong kind of mask", "save the number of the class of every pixel in one channel of 8 bits, as PNG"
    ),
    "D304": Code(
        "error", "unknown value in a mask", "add it to `names:` or `ignore_index:` in the YAML, or correct the mask"
    ),
    "D305": Code("warning", "mask without any class", "label the image or take it away: nothing is learned from it"),
    "D306": Code("info", "mask without image", "add the image, if it is meant to be used"),
    "D307": Code("error", "names of the classes unknown", "write the YAML or the classes.txt that is described there"),
    "D308": Code("info", "split without truth", "nothing, if it is only to be predicted"),
    "D309": Code("error", "split without images", "add images, or correct where they are looked for"),
    "D310": Code("error", "only one class", "name at least two: the background is one"),
    "D311": Code(
        "error", "split without a labeled pixel", "label it, or leave it out: it can be neither learned nor judged"
    ),
    "D312": Code("info", "smoothed masks", "nothing, if the classes come out as meant: look at `check --preview`"),
    "D501": Code("info", "label in doubt", "look at it: a model is sure of something else, and one of both is wrong"),
    "D401": Code("error", "unusable volume", "replace the file or take it away with its labels"),
    "D402": Code("error", "unusable labels", "replace the file or take it away with its volume"),
    "D403": Code("error", "labels on another grid", "resample the labels to the volume, or correct the wrong header"),
    "D404": Code("error", "unknown value in labels", "add it to `names:` in the YAML, or correct the labels"),
    "D406": Code(
        "warning",
        "header in doubt",
        "correct it, or make sure that what is used is right",
    ),
    "D407": Code("warning", "structure that training does not see", "train with a smaller task.input.spacing"),
    "D405": Code("warning", "labels without any structure", "label the volume, if something is to be found in it"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: ``file`` is the file to look at, ``annotation_ids`` the entries in it (COCO's annotation id, the
    position of the VOC object or the YOLO line, counted from 1), ``message`` what was received and what is allowed."""

    code: str
    file: str
    message: str
    annotation_ids: tuple[int | str, ...] = ()
    split: str | None = None

    def __post_init__(self) -> None:
        assert self.code in CODES, self.code

    @property
    def severity(self) -> Severity:
        """The severity of the code."""
        return CODES[self.code].severity

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain data, with the severity and the remedy of its code."""
        return {
            "code": self.code,
            "severity": self.severity,
            "title": CODES[self.code].title,
            "split": self.split,
            "file": self.file,
            "annotation_ids": list(self.annotation_ids),
            "message": self.message,
            "remedy": CODES[self.code].remedy,
        }
