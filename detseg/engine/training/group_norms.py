"""Batch norms whose statistics span all processes, so that many processes train as one with the whole batch."""

from __future__ import annotations

import sys
from typing import Any, ClassVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronize_norms(model: nn.Module, world_size: int) -> nn.Module:
    """``model`` with every batch norm taking the statistics of the batches of all ``world_size`` processes; what comes
    after the norm within its layer, as the activation in timm's, stays.

    Raises:
        ValueError: a batch norm is of a kind whose forward is not known, so that its share would be normalized alone.
    """
    if world_size == 1:
        return model
    together: dict[type[nn.Module], type[nn.Module]] = {
        nn.BatchNorm1d: GroupBatchNorm1d,
        nn.BatchNorm2d: GroupBatchNorm2d,
        nn.BatchNorm3d: GroupBatchNorm3d,
        **_with_activation(),
    }
    for name, module in model.named_modules():
        if not isinstance(module, _BatchNorm) or isinstance(module, _AcrossGroup):
            continue
        kind = together.get(type(module))
        if kind is None:
            layer = f"{type(module).__module__}.{type(module).__name__}"
            raise ValueError(
                f"the batch norm {name} is a {layer}, whose statistics cannot "
                f"span {world_size} processes; train in one process, or choose another backbone or norm"
            )
        module.__class__ = kind  # type: ignore[assignment]
    return model


class _NormAcrossGroup(torch.autograd.Function):
    """Batch normalization with the statistics of all processes: one exchange forward, one backward, in which the host
    waits for nothing. Backward is that of Ioffe and Szegedy (arXiv 1502.03167, section 3) with sums over all processes.

    Kept for backward are the input as it came and two numbers per channel.
    """

    @staticmethod
    def forward(
        context: Any, values: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The normalized ``values`` ``[B, C, ...]``, then mean and biased variance ``[C]`` of all processes' values
        and their number per channel ``[1]``, float32."""
        axes, along = _axes(values), _along(values)
        exact = values.float()  # a mean of many rounded to 8 bits is none
        variances, means = torch.var_mean(exact, axes, correction=0)
        row = torch.cat([means, variances, means.new_full((1,), values.numel() // values.shape[1])])
        means, variances, counts = torch.split(_of_all(row), [len(means), len(means), 1], dim=1)
        count = counts.sum(0)
        mean = (means * counts).sum(0) / count
        # The variance of all is the mean of the variances and the variance of the means.
        variance = ((variances + (means - mean).square()) * counts).sum(0) / count
        inverse = torch.rsqrt(variance + eps)
        normalized = (exact - mean.view(along)) * inverse.view(along)
        if weight is not None:
            normalized = normalized * weight.view(along)
        if bias is not None:
            normalized = normalized + bias.view(along)
        context.save_for_backward(values, weight, mean, inverse, count)
        context.has_bias = bias is not None
        context.mark_non_differentiable(mean, variance, count)
        return normalized.to(values.dtype), mean, variance, count

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        values, weight, mean, inverse, count = context.saved_tensors
        axes, along = _axes(values), _along(values)
        gradient = gradients[0].float()
        normalized = (values.float() - mean.view(along)) * inverse.view(along)
        # Those of weight and bias are this process's share, which is added to that of the others with all gradients.
        for_bias, for_weight = gradient.sum(axes), (gradient * normalized).sum(axes)
        sums = torch.stack([for_bias, for_weight])
        dist.all_reduce(sums)
        mean_gradient, mean_product = (sums / count).unbind()
        scale = inverse if weight is None else inverse * weight
        for_values = gradient - mean_gradient.view(along) - normalized * mean_product.view(along)
        for_values = (for_values * scale.view(along)).to(values.dtype)
        return for_values, None if weight is None else for_weight, for_bias if context.has_bias else None, None


def _axes(values: Tensor) -> list[int]:
    return [0, *range(2, values.ndim)]


def _along(values: Tensor) -> list[int]:
    return [1, -1, *[1] * (values.ndim - 2)]


def _of_all(row: Tensor) -> Tensor:
    """The ``row`` ``[N]`` of every process ``[W, N]``, which is a sum of rows that are 0 elsewhere: both NCCL and Gloo
    add tensors."""
    rows = row.new_zeros(dist.get_world_size(), len(row))
    rows[dist.get_rank()] = row
    dist.all_reduce(rows)
    return rows


class _AcrossGroup(_BatchNorm):
    """The forward of a batch norm over the batches of all processes. ``num_axes`` are those that its input may have.

    It replaces torch's ``SyncBatchNorm``, which is for GPUs only, forgets what a derived class does after the norm,
    waits for the host at every norm, and ends the graph of ``torch.compile`` there.
    """

    num_axes: ClassVar[tuple[int, ...]]

    def forward(self, values: Tensor) -> Tensor:
        """``[B, C, ...]`` -> the same shape and type, normalized by the statistics of every process's batch."""
        if not self.training:
            return super().forward(values)
        if values.ndim not in self.num_axes:
            allowed = " or ".join(map(str, self.num_axes))
            raise ValueError(f"this batch norm takes tensors of {allowed} axes, got {list(values.shape)}")
        normalized, mean, variance, count = _NormAcrossGroup.apply(values, self.weight, self.bias, self.eps)
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                rate = 1 / self.num_batches_tracked.float() if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
                self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), rate)
        out: Tensor = normalized
        return out


class GroupBatchNorm1d(_AcrossGroup, nn.BatchNorm1d):
    """:class:`torch.nn.BatchNorm1d` over all processes."""

    num_axes = (2, 3)


class GroupBatchNorm2d(_AcrossGroup, nn.BatchNorm2d):
    """:class:`torch.nn.BatchNorm2d` over all processes."""

    num_axes = (4,)


class GroupBatchNorm3d(_AcrossGroup, nn.BatchNorm3d):
    """:class:`torch.nn.BatchNorm3d` over all processes."""

    num_axes = (5,)


def _with_activation() -> dict[type[nn.Module], type[nn.Module]]:
    """timm's batch norm with dropout and activation behind it; nothing where no model can hold one."""
    layers: Any = sys.modules.get("timm.layers")
    if layers is None:
        return {}

    class GroupBatchNormAct2d(GroupBatchNorm2d, layers.BatchNormAct2d):  # type: ignore[misc]
        """``timm.layers.BatchNormAct2d`` over all processes."""

        def forward(self, values: Tensor) -> Tensor:
            if not self.training:
                return cast(Tensor, layers.BatchNormAct2d.forward(self, values))
            return cast(Tensor, cast(Any, self).act(cast(Any, self).drop(super().forward(values))))

    return {layers.BatchNormAct2d: GroupBatchNormAct2d}
