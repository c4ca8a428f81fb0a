"""The same network in fewer bytes: saved in another precision, and measured in it."""

import copy
from pathlib import Path

import torch

from .datasets import Dataset
from .evaluation import accuracy, evaluate_lattice
from .hardware import default_device
from .manifest import read_manifest
from .precision import Precision, is_weight, quantise
from .store import load_blocks, save_blocks
from .swapnet import SwapNet


def convert(
    folder: str | Path, target: str | Path, precision: Precision, data: Dataset | None = None, compress: bool = False
) -> dict[str, float] | None:
    """Save the network of `folder` in `target` with its weights in another precision.

    Args:
        folder: what `save_blocks` wrote.
        target: another folder.
        precision: see `precision.Precision`.
        data: measure all compositions of what was saved on its test images; without, the lattice that the manifest tells
            is left out, since it was measured at another precision.
        compress: see `save_blocks`.

    Returns:
        Composition -> accuracy in percent, also in the new manifest's `extra`; None without data or for a single network.

    Raises:
        StoreError, SaveError, UnknownNameError: as reading and writing do.
    """
    manifest = read_manifest(folder)
    about = {key: manifest[key] for key in ("classes", "mean", "std")}
    extra = {key: value for key, value in manifest["extra"].items() if key not in ("lattice", "accuracy")}
    net = load_blocks(folder)
    save_blocks(net, target, dtype=precision, compress=compress, extra=extra, **about)
    if data is None or not isinstance(net, SwapNet):
        return None
    stored = load_blocks(target).to(default_device())
    lattice = evaluate_lattice(stored, data.test.to(default_device())).set_index("composition").accuracy.round(2).to_dict()
    save_blocks(net, target, dtype=precision, compress=compress, extra={**extra, "lattice": lattice}, **about)
    return lattice


def bytes_on_the_way(folder: str | Path) -> dict[str, int]:
    """Bytes of a pair's shards: `student` before the first answer, `teacher`, `prefix` (all of the prefix order), `all`."""
    shards = {name: entry["bytes"] for name, entry in read_manifest(folder)["shards"].items()}
    of = {kind: sum(n for name, n in shards.items() if name.startswith(kind)) for kind in ("student", "teacher", "encoder")}
    return {
        "student": of["student"],
        "teacher": of["teacher"],
        "prefix": of["student"] + of["teacher"] + of["encoder"],
        "all": sum(shards.values()),
    }


def with_leading_bits(net: SwapNet, bits: int) -> SwapNet:
    """A copy whose teacher has only the leading `bits` of its int8 weights: what a teacher sent bit by bit is by then.

    The way of ProgressiveNet (arXiv 2110.00916): high-order bits first, the rest later, no byte more than the teacher's own.

    Args:
        net: the pair.
        bits: 1 to 8, the sign included.
    """
    net = copy.deepcopy(net)
    step = 2 ** (8 - bits)
    with torch.no_grad():
        for weight in filter(is_weight, net.teacher.parameters()):
            values, scale = quantise(weight)
            coarse = torch.floor(values.float() / step) * step + (step - 1) / 2  # the middle of those that begin so
            weight.copy_(coarse * scale.view(-1, *(1,) * (weight.ndim - 1)))
    return net


def accuracy_by_bits(net: SwapNet, data: Dataset, bits: range = range(2, 9)) -> dict[int, float]:
    """Accuracy in percent of the teacher with only the leading bits of its weights, on the test images."""
    split = data.test.to(default_device())
    return {n: accuracy(with_leading_bits(net, n).to(default_device()), split, "T" * net.num_blocks) for n in bits}
