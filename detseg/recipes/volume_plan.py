"""A configuration for a set of volumes by rules, each with its reason.

Spacing, patch, levels and strides follow nnU-Net (Isensee et al., Nature Methods 2021, supplementary note 2, and the
residual presets of Isensee et al., MICCAI 2024); what differs is said where it does. Memory is not looked up but
counted: what training keeps of a forward pass is asked of the network itself, without computing it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from detseg.models.vnet import VNetConfig
from detseg.volumes import Shape3, Spacing

ANISOTROPIC = 3.0
"""From this ratio of spacings on slices count as thick, and from this ratio of sides a stack as thin."""
LOW_PERCENTILE = 10.0
"""The percentile of the spacing across thick slices that is taken: interpolation across them would be invention."""
SMALLEST_SIDE = 4
"""No axis is halved below this."""
MOST_LEVELS = 6
FIRST_SIDE = 256
"""The patch begins as a cube with as many voxels as one of this side, and shrinks until it fits."""
LEAST_BATCH = 2
LARGEST_SHARE = 0.05
"""A batch holds no more than this share of all voxels of the training set, beyond the least batch."""
WIDTH, MAX_WIDTH = 16, 320
NUM_STEPS = 10_000
"""Ours, for the size of this network: nnU-Net takes 250,000, whatever the data."""
_STATE_COPIES = 5
"""Of each weight: itself, its gradient, two moments of AdamW, and the moving average."""
_WORK_SHARE = 1.25
"""What is in use beside what is kept: gradients on their way, workspaces of convolutions, pieces of memory lost."""
_CACHE_BYTES = 4e9


@dataclass(frozen=True)
class VolumeFacts:
    """What a plan is made of. ``shapes`` and ``spacings`` ``[N, 3]``: voxels and millimeters toward right, front and
    top; ``channels``: names, none where there is one; ``mirrored``: whether each axis may be mirrored, and ``unlike``,
    names of classes that forbid it."""

    class_names: tuple[str, ...]
    channels: tuple[str, ...]
    shapes: Any
    spacings: Any
    shares: tuple[float, ...]
    mirrored: tuple[bool, bool, bool] = (True, True, True)
    unlike: str = ""

    @property
    def num_channels(self) -> int:
        """How many values each voxel has."""
        return max(1, len(self.channels))


@dataclass(frozen=True)
class VolumePlan:
    """The settings of a run by their dotted names, in an order for reading, and the reason for each."""

    settings: dict[str, Any]
    reasons: dict[str, str]
    memory_gb: float
    """What training takes at once, by count."""


@dataclass
class _Draft:
    settings: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, value: Any, reason: str) -> None:
        self.settings[name] = value
        self.reasons[name] = reason


def plan_volumes(facts: VolumeFacts, memory_gb: float = 8.0) -> VolumePlan:
    """A configuration for training on these volumes with ``memory_gb`` of memory.

    Raises:
        ValueError: the memory is not enough for the smallest patch.
    """
    draft = _Draft()
    spacing, thick = target_spacing(facts.spacings, facts.shapes)
    draft.put("task.input.spacing", list(spacing), _why_spacing(facts, spacing, thick))
    _plan_intensity(draft, facts)
    resampled = facts.shapes * facts.spacings / np.array(spacing)
    median = np.maximum(1, np.median(resampled, axis=0).round().astype(int))
    patch, strides = _fit_patch(facts, spacing, median, memory_gb)
    network = network_for(facts.num_channels, strides)
    per_patch, fixed = _memory(network, len(facts.class_names), patch)
    largest = max(LEAST_BATCH, int(LARGEST_SHARE * resampled.prod(axis=1).sum() / math.prod(patch)))
    fitting = max(LEAST_BATCH, int((memory_gb * 1e9 - fixed) / per_patch))
    batch = min(largest, fitting, len(facts.shapes))
    draft.put(
        "task.patch",
        list(patch),
        f"the median volume at this spacing is {_by(median)} (right, front, top); the largest patch of its proportions "
        f"of which {LEAST_BATCH} fit into {memory_gb:g} GB, sides multiples of their strides; small volumes are padded",
    )
    draft.put("model.name", "vnet", "residual encoder and decoder")
    draft.put("model.in_channels", facts.num_channels, "channels of the data")
    draft.put("model.width", WIDTH, "channels at full resolution, doubled at each level")
    draft.put("model.max_width", MAX_WIDTH, "as nnU-Net limits it")
    draft.put("model.kernel_size", 3, "as nnU-Net")
    draft.put("model.norm", "instance", "batches are small")
    draft.put(
        "model.num_convolutions",
        list(network.num_convolutions),
        f"{len(network.num_convolutions)} levels: each axis is halved while it keeps {SMALLEST_SIDE} voxels",
    )
    draft.put("model.strides", [list(stride) for stride in strides], _why_strides(strides, thick))
    draft.put("task.loss", {"name": "dice", "dice": 1.0, "cross_entropy": 1.0}, "Dice and cross-entropy, as nnU-Net")
    _plan_augmentation(draft, facts, spacing, thick)
    kept = 4 * resampled.prod(axis=1).sum() * (facts.num_channels + 0.25)
    cache = "ram" if kept < _CACHE_BYTES else "disk"
    draft.put("data.cache", cache, f"all volumes at this spacing take {kept / 1e9:.2f} GB")
    draft.put(
        "train.batch_size",
        batch,
        f"{fitting} patches fit into the memory; no more than {LARGEST_SHARE:.0%} of all voxels at once, and "
        f"{LEAST_BATCH} at least",
    )
    steps = math.ceil(len(facts.shapes) / batch)
    epochs = max(10, math.ceil(NUM_STEPS / steps))
    draft.put("train.epochs", epochs, f"some {epochs * steps:,} steps of {steps} to an epoch; nnU-Net takes 250,000")
    draft.put("train.evaluate_epochs", max(1, epochs // 12), "a dozen evaluations")
    draft.put("train.optimizer.name", "adamw", "ours, as in the configurations of detseg for volumes; so what follows")
    draft.put("train.optimizer.learning_rate", 2e-3, "as for the hippocampus")
    draft.put("train.optimizer.weight_decay", 1e-2, "as there")
    draft.put("train.schedule", {"kind": "cosine", "warmup_epochs": 1}, "down to nothing at the end")
    draft.put("train.ema", {"decay": 0.999, "ramp": 200}, "the average of the last thousand steps is what is kept")
    return VolumePlan(draft.settings, draft.reasons, (fixed + batch * per_patch) / 1e9)


def target_spacing(spacings: Any, shapes: Any) -> tuple[Spacing, int | None]:
    """The spacing for all volumes, and the axis across thick slices, None where there is none.

    The median of each axis; where one axis has a spacing of more than ``ANISOTROPIC`` times, and fewer voxels than a
    third of, those of the others, its tenth percentile.
    """
    spacing, shape = np.median(spacings, axis=0), np.median(shapes, axis=0)
    axis = int(spacing.argmax())
    others = [other for other in range(3) if other != axis]
    thick = spacing[axis] > ANISOTROPIC * spacing[others].max()
    if thick and shape[axis] * ANISOTROPIC < shape[others].min():
        low = np.percentile(spacings[:, axis], LOW_PERCENTILE)
        # Not finer than the others: those decide what the network sees.
        spacing[axis] = max(low, spacing[others].max())
    right, front, top = (float(f"{step:.4g}") for step in spacing)
    return (right, front, top), axis if thick else None


def pooling(patch: Shape3, spacing: Spacing) -> tuple[Shape3, ...]:
    """The strides between levels: at each an axis is halved if it has the voxels for it, and if its spacing is less
    than twice the smallest of those that do, so that voxels become cubes first."""
    size, steps = list(map(float, patch)), list(spacing)
    strides: list[Shape3] = []
    while len(strides) < MOST_LEVELS - 1:
        able = [axis for axis in range(3) if size[axis] >= 2 * SMALLEST_SIDE]
        if not able:
            break
        finest = min(steps[axis] for axis in able)
        stride = [2 if axis in able and steps[axis] < 2 * finest else 1 for axis in range(3)]
        size = [length / step for length, step in zip(size, stride, strict=True)]
        steps = [length * step for length, step in zip(steps, stride, strict=True)]
        strides.append((stride[0], stride[1], stride[2]))
    return tuple(strides)


def network_for(num_channels: int, strides: tuple[Shape3, ...]) -> VNetConfig:
    """The V-Net with a level more than there are ``strides``."""
    return VNetConfig(
        in_channels=num_channels,
        width=WIDTH,
        max_width=MAX_WIDTH,
        num_convolutions=(1, *[2] * len(strides)),
        kernel_size=3,
        norm="instance",
        strides=strides,
    )


def memory_of_training(network: VNetConfig, num_classes: int, patch: Shape3, batch_size: int) -> float:
    """The bytes that a step of training takes, in float32."""
    per_patch, fixed = _memory(network, num_classes, patch)
    return fixed + batch_size * per_patch


def _memory(network: VNetConfig, num_classes: int, patch: Shape3) -> tuple[float, float]:
    """Bytes for each patch, and those that do not depend on their number."""
    sizes: dict[int, int] = {}
    held: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        # Held, so that no other one gets its place.
        held.append(tensor)
        sizes[storage._cdata] = storage.nbytes()
        return tensor

    with torch.device("meta"):
        model = network.build(num_classes).train()
        images = torch.zeros(1, network.in_channels, *patch)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = model(images)
            loss = torch.nn.functional.cross_entropy(logits, torch.zeros(1, *patch, dtype=torch.long))
    assert loss.is_meta
    weights = sum(parameter.nbytes for parameter in model.parameters())
    kept = sum(sizes.values()) - sum(sizes.get(one.untyped_storage()._cdata, 0) for one in model.parameters())
    return _WORK_SHARE * kept, float(_STATE_COPIES * weights)


def _fit_patch(
    facts: VolumeFacts, spacing: Spacing, median: Any, memory_gb: float
) -> tuple[Shape3, tuple[Shape3, ...]]:
    """The largest patch of which ``LEAST_BATCH`` fit, and its strides."""
    # A cube in space, no larger than the median volume.
    cube = 1 / np.array(spacing)
    sides = cube * (FIRST_SIDE**3 / cube.prod()) ** (1 / 3)
    patch, strides = _rounded(np.minimum(sides, median), spacing)
    allowed = memory_gb * 1e9
    while memory_of_training(network_for(facts.num_channels, strides), len(facts.class_names), patch, LEAST_BATCH) > (
        allowed
    ):
        # The axis that sees most of its volume has most to give.
        smaller = np.array(patch, np.float64)
        stride = np.prod(np.array(strides), axis=0)
        order = np.argsort(-(smaller / median))
        for axis in order:
            if smaller[axis] - stride[axis] >= 2 * SMALLEST_SIDE:
                smaller[axis] -= stride[axis]
                break
        else:
            raise ValueError(
                f"{memory_gb:g} GB are not enough for {LEAST_BATCH} patches of {_by(patch)} voxels of "
                f"{facts.num_channels} channels; give --memory more"
            )
        patch, strides = _rounded(smaller, spacing)
    return patch, strides


def _rounded(sides: Any, spacing: Spacing) -> tuple[Shape3, tuple[Shape3, ...]]:
    """``sides`` as multiples of what their strides make, at least that: small volumes are padded."""
    patch = tuple(max(1, round(float(side))) for side in sides)
    strides = pooling((patch[0], patch[1], patch[2]), spacing)
    if not strides:
        # A network has two levels at least.
        strides = ((2, 2, 2),)
    whole = np.prod(np.array(strides), axis=0)
    depth, height, width = (int(math.ceil(side / step) * step) for side, step in zip(patch, whole, strict=True))
    return (depth, height, width), strides


def _plan_intensity(draft: _Draft, facts: VolumeFacts) -> None:
    channels = facts.channels
    is_ct = [name.upper() == "CT" for name in channels]
    if len(channels) > 1:
        draft.put(
            "task.input.channels",
            [{"name": name, "intensity": "ct" if ct else "zscore"} for name, ct in zip(channels, is_ct, strict=True)],
            "each channel by itself: CT by the statistics of its structures, others to mean 0 and deviation 1",
        )
    elif any(is_ct):
        reason = "CT has absolute values: clipped to percentiles of the structures and normalized by their statistics"
        draft.put("task.input.intensity", "ct", reason)
    else:
        draft.put("task.input.intensity", "zscore", "intensities have no absolute meaning outside of CT")


def _plan_augmentation(draft: _Draft, facts: VolumeFacts, spacing: Spacing, thick: int | None) -> None:
    draft.put("augment.name", "volume", "the changes and probabilities of nnU-Net")
    flips = [0.5 if mirrored else 0.0 for mirrored in facts.mirrored]
    reason = f"not along axes that tell {facts.unlike} apart" if facts.unlike else "along all axes"
    draft.put("augment.flip", flips, f"mirrored {reason}")
    axes = [axis for axis in range(3) if facts.mirrored[axis]]
    if axes:
        draft.put("task.postprocess.flip_axes", axes, "along which prediction may mirror: as training does")
    if thick is not None:
        degrees = [180.0 if axis == thick else 0.0 for axis in range(3)]
        draft.put("augment.rotation_degrees", degrees, "slices are thick: turned within their plane only")


def _why_spacing(facts: VolumeFacts, spacing: Spacing, thick: int | None) -> str:
    lowest, highest = facts.spacings.min(axis=0), facts.spacings.max(axis=0)
    median = "x".join(f"{step:.4g}" for step in np.median(facts.spacings, axis=0))
    found = f"of {len(facts.spacings)} volumes, median {median} mm, from {_mm(lowest)} to {_mm(highest)}"
    if thick is not None and spacing[thick] < float(np.median(facts.spacings[:, thick])):
        return f"{found}; across thick slices the tenth percentile"
    return f"{found}; the median"


def _why_strides(strides: tuple[Shape3, ...], thick: int | None) -> str:
    if any(1 in stride for stride in strides):
        return "axes with larger spacing, or fewer voxels, are halved later or not at all"
    return "all axes are halved alike"


def _by(lengths: Any) -> str:
    return "x".join(str(int(length)) for length in lengths)


def _mm(lengths: Any) -> str:
    return "x".join(f"{length:.4g}" for length in lengths)
