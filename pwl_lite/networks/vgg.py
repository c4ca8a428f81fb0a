"""VGG as a `BlockNet`: plain stacks of 3x3 convolutions, batch norm and pooling.

Source of the family: Simonyan and Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition*,
arXiv 1409.1556 (with batch norm, as everybody uses it since). The whitening stem, the identity-like start of the
convolutions and pooling before the norm are from Jordan, *94% on CIFAR-10 in 3.29 Seconds on a Single GPU*,
arXiv 2404.00498.
"""

import re
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from ..blocknet import BlockNet
from ..errors import NetworkError


@dataclass(frozen=True)
class VGGConfig:
    """What a VGG is made of.

    Attributes:
        layers: one string per block, read from left to right: `64` is a 3x3 convolution to 64 channels, `64s` a depthwise
            separable one (3x3 on each channel, then 1x1 across them: about a ninth of the weights), `M` halves height
            and width by taking maxima. `"64 M 64"` is a convolution, pooling, a convolution; batch norm and GELU
            follow each convolution (after the pooling, where it is cheaper).
        num_classes: number of logits.
        stem: channels of the 2x2 convolution in front (twice the 12 values of a patch, 24, for a whitening stem, see
            `whiten_stem`); 0 for none.
        norm_scale: learn the scale of the batch norms; without, it stays 1 and only their shift is learned, which then
            stands a far higher learning rate (`Recipe.bias_lr`).
        logit_scale: the logits are multiplied by it; below 1 it tempers the start of training at high learning rates.
    """

    layers: tuple[str, ...]
    num_classes: int = 10
    stem: int = 0
    norm_scale: bool = True
    logit_scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))  # lists come from JSON
        for block in self.layers:
            if not re.fullmatch(r"\d+s?( M)?( \d+s?( M)?)*", block):
                raise NetworkError(
                    f"VGG block {block!r}: expected convolutions such as '64' or '64s', with or without one 'M' behind each, "
                    "separated by single spaces"
                )


def vgg(config: VGGConfig) -> BlockNet:
    """Build a VGG with fresh random weights; images (batch, 3, 32, 32) -> logits (batch, num_classes)."""
    channels = 3
    embed: nn.Module = nn.Identity()
    if config.stem:
        embed = nn.Sequential(nn.Conv2d(3, config.stem, kernel_size=2), nn.GELU())
        channels = config.stem
    blocks = []
    for layers in config.layers:
        block, channels = _block(layers, channels)
        blocks.append(block)
    classifier = nn.Linear(channels, config.num_classes)
    head = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), classifier, Scale(config.logit_scale))
    if not config.norm_scale:
        for module in nn.ModuleList(blocks).modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.requires_grad_(False)
    return BlockNet(embed, blocks, head, config={"family": "vgg", **asdict(config), "layers": list(config.layers)})


class Scale(nn.Module):
    """Multiply by a constant."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def _block(layers: str, channels: int) -> tuple[nn.Sequential, int]:
    modules: list[nn.Module] = []
    words = layers.split()
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "M":
            continue  # placed between the convolution before it and that convolution's norm
        width = int(word.rstrip("s"))
        if word.endswith("s"):
            modules.append(nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False))
            modules.append(nn.Conv2d(channels, width, 1, bias=False))
        else:
            modules.append(nn.Conv2d(channels, width, 3, padding=1, bias=False))
            if width >= channels:
                nn.init.dirac_(modules[-1].weight[:channels].data)  # start as "pass through": signal reaches deep layers
        if following == "M":
            modules.append(nn.MaxPool2d(2))
        modules += [nn.BatchNorm2d(width), nn.GELU()]
        channels = width
    return nn.Sequential(*modules), channels


def whiten_stem(net: BlockNet, images: Tensor, eps: float = 5e-4) -> None:
    """Set the 2x2 stem so that it decorrelates the pixels of a patch, and keep its filters fixed from then on.

    The filters are the eigenvectors of the covariance of all 2x2x3 patches, each scaled to unit variance, once with
    either sign. A network then learns faster, since it need not find out first that neighbouring pixels are alike.

    Args:
        net: a network whose `embed` begins with a convolution of kernel 2 (a VGG with `stem=24`); one without is left
            as it is, so that a script can call this for every network.
        images: normalised training images (batch, 3, height, width); a few thousand are enough.
        eps: added to the eigenvalues, so that directions that hold only noise are not blown up.

    Raises:
        NetworkError: the stem has not twice as many channels as a patch has values.
    """
    convolutions = (m for m in net.embed.modules() if isinstance(m, nn.Conv2d))
    conv = next((m for m in convolutions if m.kernel_size == (2, 2) and m.stride == (1, 1)), None)  # no transformer's patches
    if conv is None:
        return
    patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
    size = patches.shape[1]
    if conv.out_channels != 2 * size:
        raise NetworkError(f"a stem of {conv.out_channels} channels: whitening patches of {size} values needs {2 * size}")
    variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (directions / (variances + eps).sqrt()).T.reshape(size, *conv.weight.shape[1:])
    with torch.no_grad():
        conv.weight.copy_(torch.cat([filters, -filters]))
        conv.bias.zero_()
    conv.weight.requires_grad_(False)
