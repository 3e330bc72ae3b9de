"""The settings of augmentation for volumes, as they stand in a YAML file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from detseg.augment.config import require_factors
from detseg.structures import Target

if TYPE_CHECKING:
    from detseg.augment.volume import VolumeTrainPipeline
    from detseg.augment.volume_intensity import RandomIntensity
    from detseg.augment.volume_warp import RandomWarp

_INTENSITY = ("noise", "blur", "brightness", "contrast", "low_resolution", "gamma", "gamma_inverted")
_PROBABILITIES = ("foreground", "rotation", "scaling", "elastic", *_INTENSITY)
_FACTORS = ("scaling_factors", "brightness_factors", "contrast_factors", "low_resolution_factors", "gamma_exponents")
_MAX_ELASTIC_SHIFT = 0.4
"""Cubic B-splines whose control points move by less than 1 / 2.48 of their distance along each axis cannot fold space
(Choi and Lee, "Injectivity conditions of 2D and 3D uniform cubic B-spline functions", 2000)."""


@dataclass(frozen=True)
class VolumeAugmentConfig:
    """How patches are taken from training volumes and changed. The defaults are those of nnU-Net (version 2).

    Each change has a probability per patch under its own name, and beside it how far it goes. Lengths and turns are
    those of space, not of the voxel grid: a turn of a volume with thick slices remains a turn.

    Blur and low resolution are half as likely as nnU-Net's numbers say because nnU-Net changes half of the channels
    then, and here there is one.

    Raises:
        ValueError: for a value outside its range; the message names the field, the value and what is allowed.
    """

    targets: ClassVar[tuple[Target, ...]] = ("volumes",)
    multi_scale: ClassVar[None] = None
    """All patches have one size, which is the task's."""
    device: ClassVar[Literal["cpu"]] = "cpu"
    """Patches are made by the processes that load them."""
    close_mosaic_epochs: ClassVar[int] = 0
    """The last epochs are like all others: a patch never mixes volumes, so there is nothing to wean the model from."""

    name: Literal["volume"] = "volume"
    foreground: float = 0.33
    """Share of patches whose middle is a voxel of a class other than the background, as far as the border of the volume
    allows. First one of the classes that the volume has is chosen, all equally likely, then one of its voxels. All
    other patches are at a uniformly random place."""
    rotation: float = 0.2
    """Probability of a turn about the right, the anterior and the superior axis."""
    rotation_degrees: tuple[float, float, float] = (30.0, 30.0, 30.0)
    """Largest turn about the right, the anterior and the superior axis, in degrees. With thick slices, turn about the
    axis across them only: ``[0, 0, 180]`` for axial ones."""
    scaling: float = 0.2
    """Probability that what the patch shows is enlarged or reduced."""
    scaling_factors: tuple[float, float] = (0.7, 1.4)
    """Smallest and largest factor of ``scaling``; a factor and its inverse are as likely."""
    elastic: float = 0.0
    """Probability of a smooth warp by cubic B-splines, as in the V-Net paper."""
    elastic_cells: int = 3
    """Cells along each axis of the patch, whose corners the warp moves at random."""
    elastic_shift: tuple[float, float] = (0.0, 0.3)
    """Smallest and largest share of a cell by which corners move along each axis; up to 0.4 the warp cannot fold
    space."""
    flip: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Probabilities of a mirror image along the axes right, anterior, superior. Set the first to 0 where classes differ
    by side, the second where they differ by front and back; ``task.postprocess.flip_axes`` names those that are
    left."""
    noise: float = 0.1
    """Probability of Gaussian noise."""
    noise_std: float = 0.1
    """Largest standard deviation of the noise, in units of the normalized image."""
    blur: float = 0.1
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.5, 1.0)
    """Smallest and largest standard deviation of the blur in voxels, for each axis its own."""
    brightness: float = 0.15
    """Probability that all intensities are multiplied by a factor."""
    brightness_factors: tuple[float, float] = (0.75, 1.25)
    """Smallest and largest factor of ``brightness``."""
    contrast: float = 0.15
    """Probability that differences from the mean of the patch are multiplied by a factor, within the range of
    intensities that the patch had."""
    contrast_factors: tuple[float, float] = (0.75, 1.25)
    """Smallest and largest factor of ``contrast``."""
    low_resolution: float = 0.125
    """Probability that the patch is reduced, by means of areas, and enlarged again."""
    low_resolution_factors: tuple[float, float] = (0.5, 1.0)
    """Smallest and largest factor of the reduction, at most 1."""
    gamma: float = 0.3
    """Probability that intensities, mapped to 0 to 1, are raised to a power and then brought back to the mean and
    standard deviation that they had."""
    gamma_inverted: float = 0.1
    """Probability that the negative image is changed as by ``gamma``."""
    gamma_exponents: tuple[float, float] = (0.7, 1.5)
    """Smallest and largest power of ``gamma`` and ``gamma_inverted``."""

    def __post_init__(self) -> None:
        for name in _PROBABILITIES:
            _require_numbers(name, (getattr(self, name),), 1, 1, "a probability from 0 to 1")
        _require_numbers("flip", self.flip, 3, 1, "three probabilities from 0 to 1, such as [0.5, 0.5, 0.5]")
        for name in _FACTORS:
            require_factors(name, getattr(self, name))
        _require_numbers(
            "rotation_degrees", self.rotation_degrees, 3, 180, "three angles from 0 to 180, such as [30, 30, 30]"
        )
        _require_numbers("low_resolution_factors", self.low_resolution_factors, 2, 1, "two factors of at most 1")
        _require_numbers("noise_std", (self.noise_std,), 1, float("inf"), "0 or more")
        _require_range("blur_sigma", self.blur_sigma, float("inf"), "two numbers of voxels, 0 <= smallest <= largest")
        _require_range(
            "elastic_shift",
            self.elastic_shift,
            _MAX_ELASTIC_SHIFT,
            f"two shares of a cell, 0 <= smallest <= largest <= {_MAX_ELASTIC_SHIFT} (beyond which the warp may fold)",
        )
        if self.elastic_cells < 1:
            raise ValueError(f"elastic_cells must be at least 1, got {self.elastic_cells}")

    @property
    def mirrors(self) -> dict[str, str]:
        """What samples show mirrored, and the setting that ends it."""
        mirrored = {}
        for axis, side in enumerate(("left and right", "front and back", "top and bottom")):
            if self.flip[axis] > 0:
                without = (0.0 if other == axis else value for other, value in enumerate(self.flip))
                mirrored[side] = f"augment.flip=[{','.join(f'{value:g}' for value in without)}]"
        return mirrored

    @property
    def neighborhood(self) -> None:
        """None: patches are of single volumes."""

    def fitted_size(self, size: tuple[int, ...]) -> None:
        """None: patches have the resolution of the input."""

    @property
    def warps(self) -> bool:
        """Whether any patch is turned, scaled or bent."""
        return max(self.rotation, self.scaling, self.elastic) > 0

    @property
    def changes_intensity(self) -> bool:
        """Whether the intensities of any patch are changed."""
        return any(getattr(self, name) > 0 for name in _INTENSITY)

    def build(self) -> VolumeTrainPipeline:
        """The training pipeline of these settings; MONAI takes seconds to import, which happens only if they need it.

        Raises:
            ValueError: if MONAI is needed and not installed.
        """
        from detseg.augment.volume import VolumeTrainPipeline

        try:
            warp = self._build_warp() if self.warps else None
            intensity = self._build_intensity() if self.changes_intensity else None
        except ModuleNotFoundError as error:
            raise ValueError(
                f"volumes need the extra `medical`: pip install 'detseg[medical]' (missing: {error.name})"
            ) from error
        return VolumeTrainPipeline(self.foreground, self.flip, warp, intensity)

    def _build_warp(self) -> RandomWarp:
        from detseg.augment.volume_warp import RandomWarp

        return RandomWarp(
            rotation=self.rotation,
            rotation_degrees=self.rotation_degrees,
            scaling=self.scaling,
            scaling_factors=self.scaling_factors,
            elastic=self.elastic,
            elastic_cells=self.elastic_cells,
            elastic_shift=self.elastic_shift,
        )

    def _build_intensity(self) -> RandomIntensity:
        from detseg.augment.volume_intensity import RandomIntensity

        return RandomIntensity(
            noise=self.noise,
            noise_std=self.noise_std,
            blur=self.blur,
            blur_sigma=self.blur_sigma,
            brightness=self.brightness,
            brightness_factors=self.brightness_factors,
            contrast=self.contrast,
            contrast_factors=self.contrast_factors,
            low_resolution=self.low_resolution,
            low_resolution_factors=self.low_resolution_factors,
            gamma=self.gamma,
            gamma_inverted=self.gamma_inverted,
            gamma_exponents=self.gamma_exponents,
        )


def _require_numbers(name: str, values: tuple[float, ...], length: int, largest: float, allowed: str) -> None:
    if len(values) != length or not all(0 <= value <= largest for value in values):
        raise ValueError(f"{name} must be {allowed}, got {values[0] if length == 1 else values}")


def _require_range(name: str, values: tuple[float, float], largest: float, allowed: str) -> None:
    if len(values) != 2 or not 0 <= values[0] <= values[1] <= largest:
        raise ValueError(f"{name} must be {allowed}; got {values}")
