"""ResNet for small images as a `BlockNet`: one block per stage.

Source: He, Zhang, Ren, Sun, *Deep Residual Learning for Image Recognition*, arXiv 1512.03385, with a 3x3 stem and no pooling in
front, as its CIFAR networks have.
"""

from dataclasses import asdict, dataclass

from torch import Tensor, nn
from torch.nn.functional import relu

from ..blocknet import BlockNet
from ..errors import NetworkError

OF_EACH_STAGE = ("widths", "depths", "hidden", "strides")


@dataclass(frozen=True)
class ResNetConfig:
    """What a ResNet is made of.

    Attributes:
        widths: channels of each stage.
        depths: residual blocks (two 3x3 convolutions each) of each stage.
        num_classes: number of logits.
        separable: make the 3x3 convolutions of the stages depthwise separable (3x3 on each channel, then 1x1 across them),
            with about a ninth of the weights.
        hidden: channels between the two convolutions of a residual block, for each stage; by default as many as `widths`.
            Fewer save weights while what a stage hands on keeps its width.
        strides: by what each stage divides height and width; by default the first by 1, the others by 2.
        stem: channels of a 2x2 convolution in front instead of the 3x3 one (24 for a whitening stem, see `vgg.whiten_stem`,
            which is not trained and needs no gradients where they are largest); 0 for the 3x3 one.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    num_classes: int = 10
    separable: bool = False
    hidden: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    stem: int = 0

    def __post_init__(self) -> None:
        for name in OF_EACH_STAGE:
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists come from JSON
        stages = {name: list(value) for name in OF_EACH_STAGE if (value := getattr(self, name))}
        if len({len(values) for values in stages.values()}) != 1 or not all(min(values) > 0 for values in stages.values()):
            found = " and ".join(f"{name} {values}" for name, values in stages.items())
            raise NetworkError(f"ResNet of {found}: expected as many of the one as of the other, all above 0")


def resnet(config: ResNetConfig) -> BlockNet:
    """Build a ResNet with fresh random weights; images (batch, 3, 32, 32) -> logits (batch, num_classes)."""
    channels = config.stem or config.widths[0]
    if config.stem:
        embed = nn.Sequential(nn.Conv2d(3, channels, 2), nn.ReLU())
    else:
        embed = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
    blocks = []
    strides = config.strides or (1, *[2] * (len(config.widths) - 1))
    stages = zip(config.widths, config.depths, config.hidden or config.widths, strides, strict=True)
    for width, depth, hidden, stride in stages:
        layers = []
        for i in range(depth):
            layers.append(ResidualBlock(channels, width, stride if i == 0 else 1, config.separable, hidden))
            channels = width
        blocks.append(nn.Sequential(*layers))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, config.num_classes))
    net = BlockNet(embed, blocks, head, config={"family": "resnet", **asdict(config), **_lists(config)})
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            reached = module.weight[0, 0].numel() * module.out_channels / module.groups  # outputs that an input goes into
            nn.init.normal_(module.weight, std=(2 / reached) ** 0.5)  # He's start
    return net


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + two 3x3 convolutions of x); where the shape changes, the shortcut is a 1x1 convolution.

    (batch, channels, height, width) -> (batch, width, height / stride, width / stride), with `hidden` channels (by default
    `width`) between the two convolutions.
    """

    def __init__(self, channels: int, width: int, stride: int = 1, separable: bool = False, hidden: int | None = None):
        super().__init__()
        hidden = hidden or width
        self.residual = nn.Sequential(
            *_convolution(channels, hidden, stride, separable),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            *_convolution(hidden, width, 1, separable),
            nn.BatchNorm2d(width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            # Every stride-th pixel first, then a convolution without a stride: the same as one with it, which hangs in training
            # with fewer than 8 channels on CPUs with AVX2 and no more (oneDNN of torch 2.13, channels last).
            pixels = [nn.MaxPool2d(1, stride)] if stride != 1 else []
            self.shortcut = nn.Sequential(*pixels, nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.shortcut(x) + self.residual(x))


def _convolution(channels: int, width: int, stride: int, separable: bool) -> list[nn.Module]:
    if not separable:
        return [nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)]
    depthwise = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
    return [depthwise, nn.Conv2d(channels, width, 1, bias=False)]


def _lists(config: ResNetConfig) -> dict[str, list[int]]:
    return {name: list(getattr(config, name)) for name in OF_EACH_STAGE}
