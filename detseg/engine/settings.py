"""What a training run is made of: the schema of the YAML files under ``configs/``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from detseg.augment import AUGMENTS
from detseg.config import InputPath, choice, load_entry
from detseg.engine.ema import EMAConfig
from detseg.engine.optim import OptimizerConfig, ScheduleConfig
from detseg.models import MODELS
from detseg.models.base import ModelConfig
from detseg.structures import Truth
from detseg.tasks import TASKS
from detseg.tasks.base import TaskConfig


@runtime_checkable
class AugmentConfig(Protocol):
    """A frozen dataclass, what every entry of ``AUGMENTS`` names."""

    truths: ClassVar[tuple[Truth, ...]]
    """What samples may hold."""

    @property
    def name(self) -> str:
        """As in the table."""

    @property
    def close_mosaic_epochs(self) -> int:
        """In how many epochs, the last ones, samples are made of single images."""

    @property
    def multi_scale(self) -> tuple[float, float] | None:
        """The factors between which the loader draws the input size of each batch."""

    @property
    def mirrors(self) -> Mapping[str, str]:
        """What samples show mirrored, such as ``left and right``, and the setting that ends it."""

    def fitted_size(self, size: tuple[int, ...]) -> tuple[int, ...] | None:
        """The size into which a whole image is fitted for samples of ``size``; None where samples are parts at the size
        that the input has."""

    def build(self) -> Any:
        """What makes training samples; see :class:`detseg.data.loading.loader.TrainLoader`."""


@dataclass(frozen=True)
class DataConfig:
    """Where the data is and how it is read.

    ``path``: a folder in a known layout, a YAML, or the word ``shapes`` or ``blobs`` for a built-in set; ``format`` is
    needed only where the layout is ambiguous. ``description``: a data set's YAML whose keys, but ``path``, describe a
    folder that has none of its own. Splits of images are joined by ``+``, as in ``train+val``. ``num_workers``:
    processes that read and augment. ``cache``: decoded images, or volumes in the network's grid, kept in memory
    (``ram``) or outside the data set (``disk``); images for training reduced to ``cache_max_side`` pixels on the longer
    side where given. ``on_bad_image``: whether an image, mask or volume that cannot be used ends the run or is skipped;
    of each split at most ``max_bad_images`` are.
    """

    path: Literal["shapes", "blobs"] | InputPath = "shapes"
    format: str | None = None
    description: InputPath | None = None
    train_split: str = "train"
    val_split: str = "val"
    num_workers: int = 2
    cache: Literal["none", "ram", "disk"] = "none"
    cache_max_side: int | None = None
    on_bad_image: Literal["fail", "skip"] = "fail"
    max_bad_images: int = 10

    def __post_init__(self) -> None:
        for name in ("num_workers", "max_bad_images"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained.

    ``batch_size`` images go through the model at once, shared out among all processes; ``accumulate`` such batches make
    one optimizer step, normalized as if they were one. ``clip_norm`` limits the norm of the gradient. ``freeze`` holds
    the parts of the model of these names, for ``freeze_epochs`` epochs (None: for good); ``freeze_norms`` keeps the
    statistics of all batch norms.
    ``patience``: epochs without a better primary metric before the run ends. ``save_steps``: optimizer steps between
    saved states (None: once an epoch). ``weights``: a file to start from; ``partial_weights`` takes what fits of it.
    ``num_threads``: threads of torch on the CPU (None: as torch finds them).
    ``compile``: ``fused`` makes kernels of the model's steps with ``torch.compile``, ``graphs`` also replays them as
    CUDA graphs, so that a GPU does not wait for their launching; it takes minutes when an input size is first seen.
    Evaluation and the saved weights are the same model's, uncompiled.
    """

    epochs: int = 100
    batch_size: int = 16
    accumulate: int = 1
    seed: int = 0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    ema: EMAConfig | None = field(default_factory=EMAConfig)
    amp: Literal["none", "bf16", "fp16"] = "none"
    clip_norm: float | None = 10.0
    freeze: tuple[str, ...] = ()
    freeze_epochs: int | None = None
    freeze_norms: bool = False
    patience: int | None = None
    evaluate_epochs: int = 1
    eval_batch_size: int | None = None
    save_steps: int | None = None
    weights: InputPath | None = None
    partial_weights: bool = False
    channels_last: bool = True
    device: str = "auto"
    num_threads: int | None = None
    compile: Literal["none", "fused", "graphs"] = "none"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "evaluate_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("clip_norm", "patience", "save_steps", "freeze_epochs", "eval_batch_size", "num_threads"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive or null, got {value}")


@dataclass(frozen=True)
class RunConfig:
    """One training run, complete: what ``detseg train CONFIG.yaml`` reads and what it writes to the run folder."""

    model: ModelConfig = choice(MODELS)
    task: TaskConfig = choice(TASKS)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = choice(AUGMENTS, default="image")
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        truth = self.task.truth
        if truth not in self.augment.truths:
            fitting = [name for name in AUGMENTS if truth in load_entry(AUGMENTS, name).truths]
            raise ValueError(
                f"augment is {self.augment.name}, which makes samples with {' or '.join(self.augment.truths)}, but the "
                f"task {self.task.name} learns from {truth}; set augment.name: {' or '.join(fitting)}"
            )
