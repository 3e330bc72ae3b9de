"""The settings of augmentation, as they stand in a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from detseg.structures import Target

if TYPE_CHECKING:
    from detseg.augment.pipeline import TrainPipeline

_PROBABILITIES = ("mosaic", "mixup", "copy_paste", "flip_horizontal", "flip_vertical", "rotate_90", "balance_classes")
_UPPER_LIMITS = {
    "degrees": 180.0,
    "translate": 1.0,
    "shear": 60.0,
    "perspective": 0.1,
    "hsv_hue": 0.5,
    "hsv_saturation": 1.0,
    "hsv_value": 1.0,
    "min_area_ratio": 1.0,
}
_GRAY_LEVELS = ("pad_value", "mask_fill")


@dataclass(frozen=True)
class AugmentConfig:
    """How training images are changed; the same for boxes, for masks of objects and for label masks.

    Raises:
        ValueError: for a value outside its range; the message names the field, the value and what is allowed.
    """

    targets: ClassVar[tuple[Target, ...]] = ("boxes", "instances", "masks")
    renamed: ClassVar[Mapping[str, str]] = {"close_last_epochs": "close_mosaic_epochs"}

    name: Literal["image"] = "image"
    mosaic: float = 1.0
    """Probability that four images around a random point make one."""
    mixup: float = 0.0
    """Probability of a blend with a second image."""
    copy_paste: float = 0.0
    """Probability that objects of a second image, each with probability one half, are pasted in front of what is there,
    along their masks; for the task instance only."""
    neighborhood: int | None = None
    """Of how many images mosaic, mixup and copy_paste take their partners; null: of all. Those of a neighborhood are
    next to each other in the order of the epoch, most of them in the same batch, so that each is decoded once. That is
    faster, and makes the images of a batch more alike."""
    close_mosaic_epochs: int = 10
    """In so many epochs, the last ones, mosaic, mixup and copy_paste are off, so that training ends on images as they
    are."""
    degrees: float = 0.0
    """Largest turn of the view, in degrees."""
    translate: float = 0.1
    """Largest shift of the view, as a share of the input size."""
    scale: tuple[float, float] = (0.5, 1.5)
    """Smallest and largest zoom of the view, as factors."""
    shear: float = 0.0
    """Largest shear of the view, in degrees."""
    perspective: float = 0.0
    """Largest relative change of scale from the middle of the image to its border, at most 0.1."""
    flip_horizontal: float = 0.5
    """Probability that left and right change places."""
    flip_vertical: float = 0.0
    """Probability that top and bottom change places."""
    rotate_90: float = 0.0
    """Probability of a quarter, half or three-quarter turn."""
    fit: tuple[int, int] | None = None
    """Height and width into which an image is fitted before the view is taken, its aspect ratio kept; null: the input
    size. It is no part of ``multi_scale``, and a quarter turn comes before it."""
    crop: bool = False
    """Shows a window of the input size at a uniformly random place of the zoomed image, not its middle. Along an axis
    where the image is smaller, it lies at a random place in the window. Turn, shear, perspective and flips are about
    the middle of the window. It takes the place of ``mosaic`` and ``translate``, which must be 0. Cityscapes is usually
    trained with ``{fit: [1024, 2048], crop: true, scale: [0.5, 2.0], mosaic: 0, translate: 0}`` and an input of 512 x
    1024."""
    balance_classes: float = 0.0
    """Probability that ``crop`` draws only from the windows that show a certain pixel. Its class is drawn evenly from
    those in the label mask of the image, whatever area they cover, and the pixel evenly from those of the class. A
    turn, a shear or the perspective may still move it out of sight."""
    hsv_hue: float = 0.015
    """Largest change of the hue, as a fraction of the color circle."""
    hsv_saturation: float = 0.7
    """Largest relative change of the saturation."""
    hsv_value: float = 0.4
    """Largest relative change of the brightness."""
    multi_scale: tuple[float, float] | None = None
    """Smallest and largest factor between which the loader draws one input size per batch; null: always the same
    size."""
    albumentations: list[Any] = field(default_factory=list)
    """Transforms of albumentations, such as ``{name: RandomGamma, params: {p: 0.5}}``, applied in this order after the
    geometry."""
    device: Literal["cpu", "model"] = "cpu"
    """Where images are drawn: ``cpu``, by the processes that load them, or ``model``, on the device of the model. Those
    processes then read, decode and send what is seen of each image, and draw masks; the device warps and blends the
    images and shifts their colors. What ``copy_paste`` and ``albumentations`` work on is drawn for them by the CPU. It
    is for GPUs that wait for their data; on a CPU it is slower. An image is the same within one gray level before its
    colors are shifted."""
    min_area_ratio: float = 0.1
    """A box is dropped where less than this share of it is left inside the image."""
    min_box_side: float = 2.0
    """A box is dropped where a side is under so many pixels."""
    max_box_aspect: float = 100.0
    """A box is dropped where one side is over so many times the other."""
    pad_value: int = 114
    """Gray level of pixels that no image covers, 0 to 255."""
    mask_fill: int = 255
    """Value in a label mask of pixels that no image covers; 255 is ignored."""

    def __post_init__(self) -> None:
        for name in _PROBABILITIES:
            self._require_range(name, 0, 1, "a probability from 0 to 1")
        for name, limit in _UPPER_LIMITS.items():
            self._require_range(name, 0, limit, f"from 0 to {limit:g}")
        for name in _GRAY_LEVELS:
            self._require_range(name, 0, 255, "from 0 to 255")
        if self.neighborhood is not None:
            self._require_range("neighborhood", 4, float("inf"), "at least 4 images, or null for all")
        self._require_range("close_mosaic_epochs", 0, float("inf"), "0 or more epochs")
        self._require_range("min_box_side", 0, float("inf"), "0 or more pixels")
        self._require_range("max_box_aspect", 1, float("inf"), "1 or more")
        require_factors("scale", self.scale)
        if self.multi_scale is not None:
            require_factors("multi_scale", self.multi_scale)
        if self.fit is not None and (len(self.fit) != 2 or min(self.fit) < 1):
            raise ValueError(f"fit must be a height and a width of at least 1, such as [1024, 2048]; got {self.fit}")
        if self.crop and (self.mosaic or self.translate):
            raise ValueError(
                "crop takes its window at a random place of a single image, so it leaves no room for mosaic and "
                f"translate: set mosaic: 0 and translate: 0 beside it, got {self.mosaic} and {self.translate}"
            )
        if self.balance_classes and not self.crop:
            raise ValueError(
                f"balance_classes says where crop takes its window: set crop: true beside it, or balance_classes: 0; "
                f"got {self.balance_classes} without crop"
            )
        for position, entry in enumerate(self.albumentations):
            _require_transform(entry, f"albumentations[{position}]")

    @property
    def mirrors(self) -> dict[str, str]:
        """What samples show mirrored, and the setting that ends it."""
        settings = {
            "left and right": ("flip_horizontal", self.flip_horizontal),
            "top and bottom": ("flip_vertical", self.flip_vertical),
        }
        return {side: f"augment.{name}=0" for side, (name, value) in settings.items() if value > 0}

    def fitted_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The size into which an image is fitted for samples of ``size``, (height, width)."""
        return self.fit or size

    def build(self) -> TrainPipeline:
        """The training pipeline of these settings; albumentations is imported only if they name a transform of it.

        Raises:
            ValueError: if an albumentations transform is unknown, refuses its parameters, or the package is not the one
                that this project works with.
        """
        from detseg.augment.albumentations_adapter import AlbumentationsAdapter
        from detseg.augment.color import HsvJitter
        from detseg.augment.compose import Fill
        from detseg.augment.geometry import BoxFilter, RandomView
        from detseg.augment.pipeline import TrainPipeline

        box_filter = BoxFilter(self.min_area_ratio, self.min_box_side, self.max_box_aspect)
        return TrainPipeline(
            mosaic=self.mosaic,
            mixup=self.mixup,
            copy_paste=self.copy_paste,
            rotate_90=self.rotate_90,
            balance_classes=self.balance_classes,
            fit=self.fit,
            view=RandomView(
                degrees=self.degrees,
                translate=self.translate,
                scale=self.scale,
                shear=self.shear,
                perspective=self.perspective,
                flip_horizontal=self.flip_horizontal,
                flip_vertical=self.flip_vertical,
                crop=self.crop,
            ),
            box_filter=box_filter,
            fill=Fill(self.pad_value, self.mask_fill),
            transform=(
                AlbumentationsAdapter(self.albumentations, box_filter, self.mask_fill) if self.albumentations else None
            ),
            color=HsvJitter(self.hsv_hue, self.hsv_saturation, self.hsv_value),
        )

    def _require_range(self, name: str, smallest: float, largest: float, allowed: str) -> None:
        value = getattr(self, name)
        if not smallest <= value <= largest:
            raise ValueError(f"{name} must be {allowed}, got {value}")


def require_factors(name: str, factors: tuple[float, float]) -> None:
    """Check a range of positive factors.

    Raises:
        ValueError: unless ``factors`` is (smallest, largest) with 0 < smallest <= largest.
    """
    if len(factors) != 2 or not 0 < factors[0] <= factors[1] < float("inf"):
        raise ValueError(f"{name} must be two factors, 0 < smallest <= largest, such as [0.5, 1.5]; got {factors}")


def _require_transform(entry: Any, where: str) -> None:
    example = "{name: RandomGamma, params: {p: 0.5}}"
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where} must be a mapping such as {example}, got {entry!r}")
    unknown = sorted(set(map(str, entry)) - {"name", "transform", "params", "transforms"})
    if unknown:
        raise ValueError(f"{where}: unknown key {', '.join(unknown)}; allowed are name, params and transforms")
    names = [entry[key] for key in ("name", "transform") if key in entry]
    if len(names) != 1 or not isinstance(names[0], str):
        raise ValueError(f"{where} needs exactly one name, such as {example}; got {dict(entry)}")
    if not isinstance(entry.get("params", {}), Mapping):
        raise ValueError(f"{where}: params must be a mapping of argument names to values, got {entry['params']!r}")
    nested = entry.get("transforms", [])
    if not isinstance(nested, list):
        raise ValueError(f"{where}: transforms must be a list of transforms, got {nested!r}")
    for position, inner in enumerate(nested):
        _require_transform(inner, f"{where}.transforms[{position}]")
