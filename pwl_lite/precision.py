"""Weights in fewer bytes: half precision, and int8 with a scale for each output channel.

Only weights with two or more dimensions are stored smaller. Biases, norms and statistics stay as they are: they are few, and
may exceed a small type's range. Loading gives the rounded values in the network's own type, so that what is measured after
`round_weights` is what a device will run.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .errors import StoreError, UnknownNameError
from .shards import empty_pages

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8}
KINDS = ("teacher", "student", "encoder", "decoder", "network")
SCALE = "::scale"  # the name of an int8 weight's scales is the weight's own with this behind it

Precision = torch.dtype | Mapping[str, torch.dtype] | None
"""The type of stored weights, one for all, or one for each kind of shard (`teacher`, `student`, `encoder`, `decoder`,
`network`); None, or a kind that is not named, leaves weights as they are."""


def precision_of(shard: str, precision: Precision) -> torch.dtype | None:
    """The type in which the weights of a shard, such as `student-2`, are stored; None for their own.

    Raises:
        UnknownNameError: the type is none of `PRECISIONS`, or there is no such kind of shard.
    """
    for kind in precision if isinstance(precision, Mapping) else ():
        if kind not in KINDS:
            raise UnknownNameError("kind of shard", kind, KINDS)
    dtype = precision.get(shard.rpartition("-")[0]) if isinstance(precision, Mapping) else precision
    if dtype is not None and dtype not in PRECISIONS.values():
        raise UnknownNameError("precision", dtype, PRECISIONS)
    return dtype


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest int8 values of a weight (out, ...), and the scales (out,) by which they are multiplied when loaded.

    Symmetric: the largest value of an output channel becomes 127 or -127.
    """
    largest = weight.detach().float().flatten(1).abs().amax(1)
    scale = torch.where(largest > 0, largest / 127, torch.ones_like(largest))
    steps = weight.detach().float() / _per_channel(scale, weight)
    return steps.round().clamp(-127, 127).to(torch.int8), scale


def dequantise(steps: Tensor, scale: Tensor) -> Tensor:
    """int8 values (out, ...) and scales (out,) -> the float32 weight."""
    return torch.mul(steps, _per_channel(scale, steps), out=empty_pages(steps.shape, torch.float32))


def _per_channel(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *(1,) * (weight.ndim - 1))


def to_store(name: str, weight: Tensor, dtype: torch.dtype, source: str) -> dict[str, Tensor]:
    """What a shard holds of a weight: itself in `dtype`, or its int8 values and their scales. `source` names it in errors.

    Raises:
        StoreError: the weight has values that `dtype` cannot hold.
    """
    if dtype == torch.int8:
        if not weight.isfinite().all():
            raise StoreError(f"{source}: {name} has values that are not finite, which int8 cannot hold; train it again")
        steps, scale = quantise(weight)
        return {name: steps, name + SCALE: scale}
    stored = weight.to(dtype)
    if stored.isinf().sum() > weight.isinf().sum():
        raise StoreError(f"{source}: {name} has values beyond {dtype}; save it with a larger dtype")
    return {name: stored}


def from_store(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors of a shard with int8 weights multiplied out. Raises StoreError where values and scales don't fit together."""
    loaded = {name: tensor for name, tensor in tensors.items() if not name.endswith(SCALE)}
    scales = tensors.keys() - loaded.keys()
    if scales:  # a small view would keep the pages in which all has arrived
        loaded = {name: tensor if tensor.dtype == torch.int8 else tensor.clone() for name, tensor in loaded.items()}
    for key in scales:
        name, scale = key.removesuffix(SCALE), tensors[key]
        steps = loaded.get(name)
        fits = steps is not None and steps.dtype == torch.int8 and steps.ndim > 1 and scale.shape == steps.shape[:1]
        if not fits or scale.dtype != torch.float32:
            raise StoreError(f"{source}: {key!r} fits no int8 weight; it is damaged: save it again")
        loaded[name] = dequantise(steps, scale)
    return loaded


def is_weight(parameter: Tensor) -> bool:
    """Whether a parameter is stored in the smaller type."""
    return parameter.ndim > 1 and parameter.is_floating_point()


def round_weights(module: nn.Module, dtype: torch.dtype) -> None:
    """Round all weights of `module` to what `dtype` can hold, in place, as saving and loading does."""
    with torch.no_grad():
        for parameter in filter(is_weight, module.parameters()):
            parameter.copy_(from_store(to_store("weight", parameter, dtype, "rounding"), "rounding")["weight"])
