"""The settings of augmentation for volumes, as they stand in a YAML file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from detseg.augment.config import require_factors
from detseg.structures import Truth

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

    ``foreground``: the share of patches whose middle is a voxel of a class other than the background, as far as the
    border of the volume allows; first one of the classes that the volume has is chosen, all equally likely, then one of
    its voxels. All other patches are at a uniformly random place.

    Each change has a probability per patch under its own name, and beside it how far it goes. Lengths and turns are
    those of space, not of the voxel grid: a turn of a volume with thick slices remains a turn.

    - ``rotation``: turns about the right, the anterior and the superior axis, each by up to its angle in
      ``rotation_degrees``. With thick slices, turn about the axis across them only: ``[0, 0, 180]`` for axial ones.
    - ``scaling``: what the patch shows grows by one of ``scaling_factors``; a factor and its inverse are as likely.
    - ``elastic``: a smooth warp by cubic B-splines, as in the V-Net paper. The patch is divided into ``elastic_cells``
      cells along each axis, whose corners move at random along each axis by up to a share of the cell that lies in
      ``elastic_shift``. Up to 0.4 the warp cannot fold space.
    - ``flip``: a probability for each of the axes, right, anterior, superior. Set the first to 0 where classes differ
      by side, the second where they differ by front and back; ``task.postprocess.flip_axes`` names those that are left.
    - ``noise``: Gaussian noise with a standard deviation of up to ``noise_std``, in units of the normalized image.
    - ``blur``: a Gaussian with a standard deviation in ``blur_sigma`` voxels, for each axis its own.
    - ``brightness``: intensities multiplied by one of ``brightness_factors``.
    - ``contrast``: differences from the mean of the patch multiplied by one of ``contrast_factors``, within the range
      of intensities that the patch had.
    - ``low_resolution``: the patch reduced by one of ``low_resolution_factors`` (at most 1), by means of areas, and
      enlarged again.
    - ``gamma``, ``gamma_inverted``: intensities, mapped to 0 to 1, raised to a power in ``gamma_exponents``, and then
      brought back to the mean and standard deviation that they had; the second one does it to the negative image.

    Blur and low resolution are half as likely as nnU-Net's numbers say because nnU-Net changes half of the channels
    then, and here there is one.

    Raises:
        ValueError: for a value outside its range; the message names the field, the value and what is allowed.
    """

    truths: ClassVar[tuple[Truth, ...]] = ("volumes",)
    multi_scale: ClassVar[None] = None
    """All patches have one size, which is the task's."""
    close_mosaic_epochs: ClassVar[int] = 0
    """The last epochs are like all others: a patch never mixes volumes, so there is nothing to wean the model from."""

    name: Literal["volume"] = "volume"
    foreground: float = 0.33
    rotation: float = 0.2
    rotation_degrees: tuple[float, float, float] = (30.0, 30.0, 30.0)
    scaling: float = 0.2
    scaling_factors: tuple[float, float] = (0.7, 1.4)
    elastic: float = 0.0
    elastic_cells: int = 3
    elastic_shift: tuple[float, float] = (0.0, 0.3)
    flip: tuple[float, float, float] = (0.5, 0.5, 0.5)
    noise: float = 0.1
    noise_std: float = 0.1
    blur: float = 0.1
    blur_sigma: tuple[float, float] = (0.5, 1.0)
    brightness: float = 0.15
    brightness_factors: tuple[float, float] = (0.75, 1.25)
    contrast: float = 0.15
    contrast_factors: tuple[float, float] = (0.75, 1.25)
    low_resolution: float = 0.125
    low_resolution_factors: tuple[float, float] = (0.5, 1.0)
    gamma: float = 0.3
    gamma_inverted: float = 0.1
    gamma_exponents: tuple[float, float] = (0.7, 1.5)

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
