"""Accuracy, agreement with the teacher, and the whole lattice of compositions."""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator

import pandas as pd
import torch
from torch import Tensor, nn

from .blocknet import BlockNet, block_macs, count_macs, num_bytes
from .datasets import Split
from .swapnet import SwapNet, all_compositions

BATCH = 500  # images at a time; small enough for the caches of a laptop, large enough for a GPU


@torch.no_grad()
def predict(net: Callable[[Tensor], Tensor], split: Split, composition: str | None = None, flips: bool = False) -> Tensor:
    """Logits (images, classes) of a network in evaluation mode on all images of `split`, in order, on the split's device.

    Args:
        net: a network, or a `SwapNet` together with a `composition`.
        split: the images; those of a batch are copied to the device of the network.
        composition: such as `"TTSS"`, for a `SwapNet`.
        flips: the mean of the logits for an image and for its mirror image (test-time augmentation, at twice the time).
    """
    if isinstance(net, nn.Module):
        net.eval()
    args = () if composition is None else (composition,)

    def logits(images: Tensor) -> Tensor:
        return net(images, *args).float()

    def both(images: Tensor) -> Tensor:
        return (logits(images) + logits(images.flip(-1))) / 2

    return torch.cat([(both if flips else logits)(images).to(labels.device) for images, labels in _batches(net, split)])


def accuracy(net: Callable[[Tensor], Tensor], split: Split, composition: str | None = None, flips: bool = False) -> float:
    """Percent of the images of `split` that a network classifies rightly (see `predict`)."""
    return 100 * float((predict(net, split, composition, flips).argmax(1) == split.labels).float().mean())


def _batches(net: Callable[[Tensor], Tensor], split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images on the device of the network's weights, where training has left it, and labels where they are."""
    weight = next(net.parameters(), None) if isinstance(net, nn.Module) else None
    device = split.images.device if weight is None else weight.device
    for images, labels in split.batches(BATCH):
        yield images.to(device), labels


def lattice_logits(net: SwapNet, images: Tensor) -> dict[str, Tensor]:
    """The logits (batch, classes) of all 2^N compositions.

    Compositions that begin alike share that work: block i runs once for each of the 2^i ways to fill blocks 1 .. i,
    not 2^N times.
    """
    return dict(_walk(net, images, ""))


def _walk(net: SwapNet, x: Tensor, begun: str) -> Iterator[tuple[str, Tensor]]:
    i = len(begun)
    if i == net.num_blocks:
        yield begun, (net.teacher if begun[-1] == "T" else net.student).head(x)
        return
    for letter, network in (("S", net.student), ("T", net.teacher)):
        if i == 0:
            inputs = network.embed(x)
        else:
            inputs = x if letter == begun[-1] else net.converters[i - 1](x, to=letter)
        yield from _walk(net, network.blocks[i](inputs), begun + letter)


@torch.no_grad()
def evaluate_lattice(net: SwapNet, split: Split) -> pd.DataFrame:
    """Every composition measured on all images of `split`.

    Returns:
        One row per composition, in the order of `all_compositions`, with columns `composition`, `accuracy` (percent),
        `agreement` (percent of the images where it answers as the teacher does, right or wrong), `bytes` (of the blocks and
        converters that the composition runs) and `macs` (multiply-accumulates for one image).
    """
    net.eval()
    right: dict[str, int] = defaultdict(int)
    agreed: dict[str, int] = defaultdict(int)
    teacher = "T" * net.num_blocks
    for images, labels in _batches(net, split):
        answers = {c: logits.argmax(1).to(labels.device) for c, logits in lattice_logits(net, images).items()}
        for c, answer in answers.items():
            right[c] += int((answer == labels).sum())
            agreed[c] += int((answer == answers[teacher]).sum())
    costs = composition_costs(net)
    rows = [
        {
            "composition": c,
            "accuracy": 100 * right[c] / len(split),
            "agreement": 100 * agreed[c] / len(split),
            "bytes": costs[c][0],
            "macs": costs[c][1],
        }
        for c in all_compositions(net.num_blocks)
    ]
    return pd.DataFrame(rows)


@torch.no_grad()
def recalibrated(net: SwapNet, composition: str, split: Split) -> SwapNet:
    """A copy whose student norms hold the statistics of what they see in this composition, on the images of `split`.

    The teacher's norms stay as they are. A recalibrated composition costs two numbers for each channel of its student norms.

    Raises:
        CompositionError: no composition.
    """
    net = copy.deepcopy(net).eval()
    for block, network in enumerate(net.networks(composition)):
        for module in network.blocks[block].modules() if network is net.student else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.reset_running_stats()
                module.momentum = None  # the plain mean over all batches
                module.train()
    for images, _ in _batches(net, split):
        net(images, composition)
    return net.eval()


def composition_costs(net: SwapNet) -> dict[str, tuple[int, int]]:
    """Bytes, and multiply-accumulates for one image, of what each composition runs: its blocks and converters."""
    blocks = {}
    for letter, network in (("S", net.student), ("T", net.teacher)):
        for i, macs in enumerate(block_macs(network)):
            blocks[i, letter] = num_bytes(network.part(i)), macs
    switches = {}
    for i, (converter, shapes) in enumerate(zip(net.converters, _boundary_inputs(net), strict=True), start=1):
        for to, module, x in (("S", converter.encoder, shapes["T"]), ("T", converter.decoder, shapes["S"])):
            switches[i, to] = num_bytes(module), count_macs(module, x)[0]
    costs = {}
    for c in all_compositions(net.num_blocks):
        parts = [blocks[i, letter] for i, letter in enumerate(c)]
        parts += [switches[i, c[i]] for i in range(1, len(c)) if c[i] != c[i - 1]]
        costs[c] = sum(p[0] for p in parts), sum(p[1] for p in parts)
    return costs


@torch.no_grad()
def _boundary_inputs(net: SwapNet) -> list[dict[str, Tensor]]:
    """One image's features of both networks at each boundary."""
    device = next(net.parameters()).device

    def features(network: BlockNet) -> list[Tensor]:
        return network.features(torch.zeros(1, *network.input_shape, device=device))[:-1]

    return [{"S": s, "T": t} for s, t in zip(features(net.student), features(net.teacher), strict=True)]
