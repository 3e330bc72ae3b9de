"""The weights that the project releases: what each is trained on, in which ways, and what it must keep to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@dataclass(frozen=True)
class Candidate:
    """One way to train: a configuration below ``configs/``, what is changed in it, and both in words.

    ``after``: the candidate of the same row whose last weights it goes on from; None: it begins anew.
    """

    config: str
    settings: tuple[str, ...]
    about: str
    after: str | None = None


@dataclass(frozen=True)
class Row:
    """One file of weights.

    ``candidates`` are compared on val, by the mean over ``num_folds`` folds where there are any. The best way is then
    trained once more with the settings ``final`` (on more data, so that nothing is left to judge it by); without such
    settings, its best weights are those of the release, with the one of ``sizes`` (height and width of the input,
    beside those of training) that is best on val: many a model sees more in images that are larger than those it
    learned from (FixRes, arXiv:1906.06423). ``views``: other ways to look at an image, measured beside the usual one,
    as settings of the task's postprocessing. ``half``: weights are stored in 16 bits. ``tiny``: settings with which the
    whole road can be tried in a minute.
    """

    task: Literal["detection", "instance", "semantic", "volume"]
    title: str
    data: str
    data_license: str
    goal: str
    candidates: Mapping[str, Candidate]
    tiny: tuple[str, ...]
    final: tuple[str, ...] = ()
    final_data: str = ""
    num_folds: int | None = None
    views: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    sizes: tuple[tuple[int, int], ...] = ()
    half: bool = False
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        # The weights of a last training on val as well have nothing by which a size could be chosen.
        assert not (self.final and self.sizes)


_BRIEF = ("train.epochs=2", "train.evaluate_epochs=2", "train.schedule.warmup_epochs=1", "data.num_workers=0")

_ROADS_IN_WINDOWS = (
    "train.batch_size=4",
    "data.num_workers=0",
    "task.crop=[240, 320]",
    "augment.scale=[0.7, 1.8]",
)

_ROADS_WITH_LOVASZ = (
    *_ROADS_IN_WINDOWS,
    "train.ema.decay=0.998",
    "task.loss.class_weights=none",
    "task.loss.lovasz=1.0",
)

_AGAIN = ("train.optimizer.learning_rate=5.0e-4", "train.schedule.warmup_epochs=1")

ROWS: dict[str, Row] = {
    "letnet_camvid": Row(
        task="semantic",
        title="LETNet, 11 classes of road scenes at 360x480",
        data="CamVid in SegNet's split, train (367 images), chosen on val (101)",
        data_license="see the authors' terms (Brostow, Fauqueur and Cipolla, 2009)",
        goal="70.5 % mIoU on test is the paper's",
        candidates={
            "plain": Candidate("release/letnet_camvid.yaml", (), "the paper's schedule, with EMA"),
            "no_ema": Candidate("release/letnet_camvid.yaml", ("train.ema=null",), "without EMA"),
            "ohem": Candidate("release/letnet_camvid.yaml", ("task.loss.ohem.threshold=0.7",), "hard pixels only"),
            "lovasz": Candidate(
                "release/letnet_camvid.yaml",
                ("task.loss.class_weights=none", "task.loss.lovasz=1.0"),
                "with a Lovasz term instead of class weights",
            ),
            "short": Candidate(
                "release/letnet_camvid.yaml",
                (
                    *_ROADS_IN_WINDOWS,
                    "train.epochs=60",
                    "train.schedule.warmup_epochs=2",
                    "train.evaluate_epochs=10",
                    "train.ema.decay=0.999",
                ),
                "60 epochs in windows of 240x320, for a machine without a GPU",
            ),
            "short_lovasz": Candidate(
                "release/letnet_camvid.yaml",
                (*_ROADS_WITH_LOVASZ, *_AGAIN, "train.epochs=24", "train.evaluate_epochs=6"),
                "24 epochs more, with a Lovasz term instead of class weights",
                after="short",
            ),
            "short_lovasz_again": Candidate(
                "release/letnet_camvid.yaml",
                (*_ROADS_WITH_LOVASZ, *_AGAIN, "train.epochs=40", "train.evaluate_epochs=10"),
                "40 epochs more of that",
                after="short_lovasz",
            ),
            "short_lovasz_fast": Candidate(
                "release/letnet_camvid.yaml",
                (
                    *_ROADS_WITH_LOVASZ,
                    "train.optimizer.learning_rate=5.0e-3",
                    "train.schedule.warmup_epochs=2",
                    "train.epochs=50",
                    "train.evaluate_epochs=10",
                ),
                "50 epochs more of that, at ten times the learning rate",
                after="short_lovasz_again",
            ),
            "fast_lovasz": Candidate(
                "release/letnet_camvid.yaml",
                (
                    *_ROADS_WITH_LOVASZ,
                    "train.optimizer.learning_rate=1.0e-2",
                    "train.schedule.warmup_epochs=2",
                    "train.epochs=80",
                    "train.evaluate_epochs=10",
                ),
                "80 epochs in windows of 240x320, with the Lovasz term from the start, at ten times the learning rate",
            ),
        },
        tiny=(
            *_BRIEF,
            "task.input.height=32",
            "task.input.width=40",
            "augment.fit=[32, 40]",
            "task.crop=null",
            "train.batch_size=32",
        ),
        final=("data.train_split=train+val",),
        final_data="train and val (468 images), by the schedule that was best on val",
        views={"flip": {"flip": True}, "flip, 3 scales": {"flip": True, "scales": (0.75, 1.0, 1.25)}},
    ),
    "vnet_hippocampus": Row(
        task="volume",
        title="V-Net, 3x3x3 kernels, anterior and posterior hippocampus in MRI",
        data="Medical Segmentation Decathlon, task 4: 208 volumes, 5-fold cross-validation",
        data_license="CC BY-SA 4.0",
        goal="mean Dice 0.89",
        candidates={
            "plain": Candidate("release/vnet_hippocampus.yaml", (), "60 epochs"),
            "long": Candidate("release/vnet_hippocampus.yaml", ("train.epochs=150",), "150 epochs"),
            "strong": Candidate(
                "release/vnet_hippocampus.yaml",
                ("augment.rotation=0.5", "augment.scaling=0.5", "augment.elastic=0.5"),
                "60 epochs; turned, scaled and bent half of the time",
            ),
            "strong_long": Candidate(
                "release/vnet_hippocampus.yaml",
                (
                    "train.epochs=120",
                    "train.optimizer.weight_decay=0.1",
                    "augment.rotation=0.5",
                    "augment.scaling=0.5",
                    "augment.elastic=0.5",
                ),
                "120 epochs, weight decay 0.1; turned, scaled and bent half of the time",
            ),
            "short": Candidate(
                "release/vnet_hippocampus.yaml", ("train.epochs=12", "train.evaluate_epochs=4"), "12 epochs"
            ),
            "short_all_flips": Candidate(
                "release/vnet_hippocampus.yaml",
                (
                    "train.epochs=12",
                    "train.evaluate_epochs=4",
                    "augment.flip=[0.5,0.5,0.5]",
                    "task.postprocess.flip_axes=[0,1,2]",
                ),
                "12 epochs, mirror images along all three axes",
            ),
        },
        tiny=(
            *_BRIEF,
            "model.width=2",
            "model.num_convolutions=[1, 1]",
            "task.patch=[24, 32, 24]",
            "train.batch_size=8",
        ),
        final=("data.train_split=all",),
        final_data="all 208 volumes of the Decathlon's hippocampus, by the schedule that was best on volumes left out",
        num_folds=5,
        views={"mirrored": {"flip": True}},
        max_bytes=16_000_000,
    ),
    "detseg_n_bccd": Row(
        task="detection",
        title="a small detector of blood cells",
        data="BCCD, train (205 images), chosen on val (87)",
        data_license="MIT",
        goal="AP 0.60, AP50 0.90 on val",
        candidates={
            "scratch": Candidate("detection/bccd.yaml", (), "the C2f detector of size n from scratch, 320 px"),
            "finetune": Candidate(
                "detection/bccd_finetune.yaml", (), "from the official YOLOX-Nano weights (Apache-2.0), 416 px"
            ),
            "scratch_long": Candidate(
                "detection/bccd.yaml",
                ("train.epochs=200", "task.input.height=416", "task.input.width=416"),
                "from scratch, 416 px, 200 epochs",
            ),
            "finetune_long": Candidate(
                "detection/bccd_finetune.yaml", ("train.epochs=100",), "from YOLOX-Nano, 416 px, 100 epochs"
            ),
        },
        tiny=(*_BRIEF, "task.input.height=64", "task.input.width=64", "data.cache_max_side=64"),
        sizes=((384, 384), (448, 448), (480, 480), (512, 512), (576, 576)),
        half=True,
        max_bytes=8_000_000,
    ),
    "detseg_n_shapes": Row(
        task="detection",
        title="a detector of the built-in shapes, for demonstrations and tests",
        data="shapes, drawn by detseg itself",
        data_license="Apache-2.0",
        goal="what the demo and the tests use",
        candidates={"plain": Candidate("detection/shapes.yaml", (), "the demo's training")},
        tiny=(*_BRIEF, "task.input.height=64", "task.input.width=64", "train.batch_size=32"),
    ),
    "detseg_n_seg_shapes": Row(
        task="instance",
        title="the built-in shapes with their outlines, for demonstrations and tests",
        data="shapes, drawn by detseg itself",
        data_license="Apache-2.0",
        goal="mask AP50 0.90 on val",
        candidates={"plain": Candidate("instance/shapes.yaml", (), "the shipped configuration")},
        tiny=(*_BRIEF, "task.input.height=64", "task.input.width=64", "train.batch_size=32"),
        max_bytes=7_000_000,
    ),
}
