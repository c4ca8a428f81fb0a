"""Weights in fewer bytes: half precision, and int8 with a scale for each output channel.

Weights with two or more dimensions are stored smaller. Vectors (biases, norms and their statistics) are few and stay as they
are; only beside int8 weights, where they would be a tenth of the bytes, they and the scales are float16 if their values fit.
Loading gives the rounded values in the network's own type, so that what is measured after `round_weights` is what a device
will run.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .errors import StoreError, UnknownNameError
from .shards import empty_pages

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8}
KINDS = ("teacher", "student", "encoder", "decoder", "network")
HALF = torch.finfo(torch.float16)
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

    Symmetric: the largest value of an output channel becomes 127 or -127. Scales are float16 where all of them are normal
    numbers of that type (off by 1 in 2,048 at most), else float32.
    """
    largest = weight.detach().float().flatten(1).abs().amax(1)
    scale = torch.where(largest > 0, largest / 127, torch.ones_like(largest))
    if HALF.smallest_normal <= scale.min() and scale.max() <= HALF.max:
        scale = scale.half()
    steps = weight.detach().float() / _per_channel(scale.float(), weight)
    return steps.round().clamp(-127, 127).to(torch.int8), scale


def dequantise(steps: Tensor, scale: Tensor) -> Tensor:
    """int8 values (out, ...) and scales (out,) -> the float32 weight."""
    return torch.mul(steps, _per_channel(scale.float(), steps), out=empty_pages(steps.shape, torch.float32))


def _per_channel(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *(1,) * (weight.ndim - 1))


def to_store(module: nn.Module, dtype: torch.dtype, source: str) -> dict[str, Tensor]:
    """The state of `module` as a shard holds it: its weights in `dtype`, or as int8 values and their scales.

    Args:
        module: any; its tensors may lie on any device.
        dtype: one of `PRECISIONS`.
        source: names the shard in errors.

    Raises:
        StoreError: a weight has values that `dtype` cannot hold.
    """
    weights = {name for name, parameter in module.named_parameters() if is_weight(parameter)}
    stored: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        if name in weights:
            stored |= _weight_to_store(name, tensor, dtype, source)
        else:
            stored[name] = tensor.half() if dtype == torch.int8 and _is_vector_of_halves(tensor) else tensor
    return stored


def _is_vector_of_halves(tensor: Tensor) -> bool:
    return tensor.ndim == 1 and tensor.dtype == torch.float32 and bool((tensor.abs() <= HALF.max).all())


def _weight_to_store(name: str, weight: Tensor, dtype: torch.dtype, source: str) -> dict[str, Tensor]:
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
    """The tensors of a shard, int8 weights multiplied out, and float32 what else is beside them. `source` names it in errors.

    Raises:
        StoreError: values and scales do not fit together.
    """
    loaded = {name: tensor for name, tensor in tensors.items() if not name.endswith(SCALE)}
    scales = tensors.keys() - loaded.keys()
    if scales:  # a small view would keep the pages in which all has arrived
        wide = {torch.float16: torch.float32}
        loaded = {n: t if t.dtype == torch.int8 else t.to(wide.get(t.dtype, t.dtype), copy=True) for n, t in loaded.items()}
    for key in scales:
        name, scale = key.removesuffix(SCALE), tensors[key]
        steps = loaded.get(name)
        fits = steps is not None and steps.dtype == torch.int8 and steps.ndim > 1 and scale.shape == steps.shape[:1]
        if not fits or scale.dtype not in (torch.float16, torch.float32):
            raise StoreError(f"{source}: {key!r} fits no int8 weight; it is damaged: save it again")
        loaded[name] = dequantise(steps, scale)
    return loaded


def is_weight(parameter: Tensor) -> bool:
    """Whether a parameter is stored in the smaller type."""
    return parameter.ndim > 1 and parameter.is_floating_point()


def round_weights(module: nn.Module, dtype: torch.dtype) -> None:
    """Round `module` to what `dtype` can hold, in place, as saving and loading does."""
    module.load_state_dict(from_store(to_store(module, dtype, "rounding"), "rounding"))
