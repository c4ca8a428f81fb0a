"""A network cut into blocks: `embed -> block 1 .. block N -> head`, the form in which networks can be swapped."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from .errors import NetworkError


class BlockNet(nn.Module):
    """A classifier cut into N blocks that can be swapped one by one.

    images (batch, channels, height, width) -> logits (batch, classes)

    Features are maps (batch, channels, height, width), or tokens (batch, tokens, channels) as transformers have them.
    `embed` belongs to block 1 and `head` to block N: they travel, and are swapped, together with them.

    Args:
        embed: images -> what block 1 expects.
        blocks: the N blocks, N >= 2; each maps features to features.
        head: features of block N -> logits.
        input_shape: (channels, height, width) of one image; used to measure the network.
        config: how to build the network again (see `networks.build_network`), or None for a network built elsewhere.

    Raises:
        NetworkError: fewer than two blocks.
    """

    def __init__(
        self,
        embed: nn.Module,
        blocks: Iterable[nn.Module],
        head: nn.Module,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        config: dict | None = None,
    ):
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(blocks)
        self.head = head
        self.input_shape = tuple(input_shape)
        self.config = config
        if len(self.blocks) < 2:
            raise NetworkError(f"a network of {len(self.blocks)} blocks: expected at least 2, or there is nothing to swap")

    @property
    def num_blocks(self) -> int:
        return len(self.blocks)

    def features(self, images: Tensor) -> list[Tensor]:
        """The outputs of blocks 1 .. N for images (batch, channels, height, width)."""
        outputs = []
        x = self.embed(images)
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images)[-1])

    def part(self, index: int) -> nn.ModuleDict:
        """Everything that travels with block `index` (0-based): the block, and `embed` or `head` at the ends."""
        part = nn.ModuleDict({"block": self.blocks[index]})
        if index == 0:
            part["embed"] = self.embed
        if index == self.num_blocks - 1:
            part["head"] = self.head
        return part


def num_params(module: nn.Module) -> int:
    """The number of parameters."""
    return sum(p.numel() for p in module.parameters())


def num_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers (batch-norm statistics are needed too, so they count)."""
    return sum(t.numel() * t.element_size() for t in module.state_dict().values())


def state_hash(module: nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of the full state, buffers included: equal means nothing changed."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def count_macs(module: nn.Module, x: Tensor) -> tuple[int, Tensor]:
    """Multiply-accumulates of `module` on one batch `x`, and its output.

    Convolutions and matrix products are counted (torch's counter, two FLOPs to a multiply-accumulate); norms, activations
    and pooling are not, as is usual.
    """
    modes = {m: m.training for m in module.modules()}
    fused = torch.backends.mha.get_fastpath_enabled()
    module.eval()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter cannot see into a fused transformer layer,
    try:
        # nor into fused attention on a CPU
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            output = module(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for m, mode in modes.items():
            m.training = mode
    return counter.get_total_flops() // 2, output


def block_macs(net: BlockNet) -> list[int]:
    """Multiply-accumulates for one image, block by block (embed with the first block, head with the last)."""
    x = torch.zeros(1, *net.input_shape, device=next(net.parameters()).device)
    embed, x = count_macs(net.embed, x)
    macs = []
    for block in net.blocks:
        n, x = count_macs(block, x)
        macs.append(n)
    head, _ = count_macs(net.head, x)
    macs[0] += embed
    macs[-1] += head
    return macs


def feature_shapes(net: BlockNet) -> list[tuple[int, ...]]:
    """Shapes of one image's features after blocks 1 .. N: (channels, height, width), or (tokens, channels)."""
    x = torch.zeros(1, *net.input_shape, device=next(net.parameters()).device)
    shapes = []
    _, x = count_macs(net.embed, x)
    for block in net.blocks:
        _, x = count_macs(block, x)
        shapes.append(tuple(x.shape[1:]))
    return shapes


def boundary_shapes(net: BlockNet) -> list[tuple[int, ...]]:
    """Shapes of one image's features at the N - 1 boundaries between blocks."""
    return feature_shapes(net)[:-1]


def channels_of(shape: tuple[int, ...]) -> int:
    """The number of channels of one image's features."""
    return shape[0] if len(shape) == 3 else shape[-1]


def places_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Where one image's features have values: (height, width) of a map, (tokens,) of tokens."""
    return shape[1:] if len(shape) == 3 else shape[:-1]


def channels_first(features: Tensor) -> Tensor:
    """Maps as they are; tokens (batch, tokens, channels) -> (batch, channels, tokens)."""
    return features if features.ndim == 4 else features.transpose(1, 2)
