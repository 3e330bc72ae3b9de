"""What a training run is made of: the schema of the YAML files under ``configs/``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from detseg.augment import AUGMENTS
from detseg.config import InputPath, choice, load_entry
from detseg.engine.training.ema import EMAConfig
from detseg.engine.training.optim import OptimizerConfig, ScheduleConfig
from detseg.models import MODELS
from detseg.models.base import ModelConfig
from detseg.runtime.onnx.cores import require_threads
from detseg.structures import Target
from detseg.tasks import TASKS
from detseg.tasks.base import TaskConfig


@runtime_checkable
class AugmentConfig(Protocol):
    """A frozen dataclass, what every entry of ``AUGMENTS`` names."""

    targets: ClassVar[tuple[Target, ...]]
    """What samples may hold."""

    @property
    def name(self) -> str:
        """As in the table."""

    @property
    def close_mosaic_epochs(self) -> int:
        """In how many epochs, the last ones, samples are made of single images."""

    @property
    def neighborhood(self) -> int | None:
        """How many samples one is combined with others of, next to each other in the order of an epoch; None: all."""

    @property
    def multi_scale(self) -> tuple[float, float] | None:
        """The factors between which the loader draws the input size of each batch."""

    @property
    def device(self) -> str:
        """Where images are drawn: on the ``cpu``, or where the ``model`` is, of samples that were only planned."""

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
    """Where the data is and how it is read."""

    path: Literal["shapes", "blobs"] | InputPath = "shapes"
    """A folder in a known layout, a YAML that describes a data set, or the word ``shapes`` or ``blobs`` for a built-in
    set."""
    format: str | None = None
    """The layout, by name; needed only where it is ambiguous."""
    description: InputPath | None = None
    """A data set's YAML whose keys, but ``path``, describe a folder that has none of its own."""
    train_split: str = "train"
    """What is learned from; splits of images are joined by ``+``, as in ``train+val``."""
    val_split: str = "val"
    """What is judged by; splits of images are joined by ``+``."""
    num_workers: int = 2
    """Processes that read and augment; 0: the training process does it itself."""
    cache: Literal["none", "ram", "disk"] = "none"
    """Decoded images, or volumes in the network's grid, are kept in memory (``ram``) or outside the data set
    (``disk``)."""
    cache_max_side: int | None = None
    """Pixels of the longer side to which cached training images are reduced; null: as they are."""
    reduced_decoding: bool = True
    """Whether training decodes JPEGs at a half, a quarter or an eighth of their size where no more of them is ever
    shown: several times faster for photographs of many megapixels. Boxes stay exact; images with masks are decoded
    whole."""
    tiles: tuple[int, int] | None = None
    """Height and width of tiles, in pixels of the images, that are learned from and judged by in place of the images:
    for small objects in large images. Boxes and masks are cut with them, and an object of which a tile shows less than
    a tenth is left out there. To judge whole images, give `detseg eval` the same `--tiles`. Each image is decoded
    anew for each of its tiles; `cache: disk` spares that. null: images as they are."""
    tile_overlap: float = 0.2
    """Share by which tiles overlap, from 0 to 0.9."""
    on_bad_image: Literal["fail", "skip"] = "fail"
    """Whether an image, mask or volume that cannot be used ends the run or is skipped."""
    max_bad_images: int = 10
    """How many of each split may be skipped, at most."""

    def __post_init__(self) -> None:
        for name in ("num_workers", "max_bad_images"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.tiles is not None and min(self.tiles) < 1:
            raise ValueError(f"tiles must be a positive height and width, such as [640, 640], got {list(self.tiles)}")
        if not 0 <= self.tile_overlap <= 0.9:
            raise ValueError(f"tile_overlap must lie between 0 and 0.9, got {self.tile_overlap}")


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained."""

    renamed_values: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "compile": {"fused": "default", "graphs": "reduce-overhead"}
    }

    epochs: int = 100
    """How often the training set is gone through."""
    batch_size: int = 16
    """Images that go through the model at once, shared out among all processes."""
    accumulate: int = 1
    """Batches that make one optimizer step, normalized as if they were one."""
    seed: int = 0
    """Seed of everything random: first weights, order of the samples, augmentation."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """How the weights are changed."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """How the learning rate changes over the run."""
    ema: EMAConfig | None = field(default_factory=EMAConfig)
    """The moving average of the weights, which is what is evaluated and saved; null: there is none."""
    amp: Literal["none", "bf16", "fp16"] = "none"
    """Mixed precision of the network: ``bf16``, or ``fp16`` with a scaled loss."""
    clip_norm: float | None = 10.0
    """Largest norm of the gradient; longer ones are shortened. null: any."""
    freeze: tuple[str, ...] = ()
    """Parts of the model, by name, that are held as they are, such as ``backbone``."""
    freeze_epochs: int | None = None
    """For how many epochs the parts in ``freeze`` are held; null: for good."""
    freeze_norms: bool = False
    """Whether all batch norms keep their statistics."""
    patience: int | None = None
    """Epochs without a better primary metric before the run ends; null: it never ends early."""
    evaluate_epochs: int = 1
    """Epochs from one evaluation to the next; the last epoch is always evaluated."""
    eval_batch_size: int | None = None
    """Images at once in evaluation; null: as in training."""
    eval_precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the network in evaluation; with ``bf16`` and ``fp16`` the numbers are those of a model that is used
    so."""
    val_loss: bool = True
    """Whether evaluations give the loss on the validation split too (``val_loss``), for which the network runs over it
    once more."""
    save_steps: int | None = None
    """Optimizer steps between saved states, from which a run goes on; null: once an epoch."""
    weights: InputPath | None = None
    """A file to start from."""
    partial_weights: bool = False
    """Whether what fits of ``weights`` is taken and the rest starts anew; false: all must fit."""
    channels_last: bool = True
    """Whether images and weights lie in memory with their channels last."""
    device: str = "auto"
    """Where it runs: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or ``xpu``."""
    num_threads: int | None = None
    """Threads of torch on the CPU; null: as torch finds them."""
    compile: Literal["none", "default", "reduce-overhead"] = "none"
    """The mode of ``torch.compile``: ``default`` makes kernels of the model's steps, which ``reduce-overhead`` also
    replays as CUDA graphs, so that a GPU does not wait for their launching; ``none``: the model runs as it is.
    Compiling takes minutes when an input size is first seen.
    Evaluation and the saved weights are the same model's, uncompiled."""
    tf32: bool = True
    """Whether GPUs compute float32 convolutions and products of matrices in TF32, which has 10 bits of mantissa and is
    several times as fast; false: in float32. It matters with ``amp: none`` on NVIDIA's from Ampere on."""
    loggers: tuple[Literal["csv", "tensorboard", "wandb", "mlflow"], ...] = ("csv", "tensorboard")
    """What keeps the numbers of the run beside ``metrics.jsonl``: ``csv`` (``metrics.csv``), ``tensorboard``, and as
    extras ``wandb`` (offline unless ``WANDB_MODE`` is set) and ``mlflow`` (in the run's folder unless
    ``MLFLOW_TRACKING_URI`` is set)."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "evaluate_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("clip_norm", "patience", "save_steps", "freeze_epochs", "eval_batch_size", "num_threads"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive or null, got {value}")
        if self.num_threads is not None:
            require_threads(self.num_threads)


@dataclass(frozen=True)
class RunConfig:
    """One training run, complete: what ``detseg train CONFIG.yaml`` reads and what it writes to the run folder."""

    model: ModelConfig = choice(MODELS)
    """The network that learns."""
    task: TaskConfig = choice(TASKS)
    """What is predicted: boxes, masks or labels of volumes; with input, loss and postprocessing."""
    data: DataConfig = field(default_factory=DataConfig)
    """Where the data is and how it is read."""
    augment: AugmentConfig = choice(AUGMENTS, default="image")
    """How training samples are changed; ``image`` for boxes and masks, ``volume`` for volumes."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How long, how fast and on what the model is trained."""

    def __post_init__(self) -> None:
        target = self.task.target
        if target not in self.augment.targets:
            fitting = [name for name in AUGMENTS if target in load_entry(AUGMENTS, name).targets]
            raise ValueError(
                f"augment is {self.augment.name}, which makes samples with {' or '.join(self.augment.targets)}, but "
                f"the "
                f"task {self.task.name} learns from {target}; set augment.name: {' or '.join(fitting)}"
            )
