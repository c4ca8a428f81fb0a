"""ResNet for small images as a `BlockNet`: one block per stage.

Source: He, Zhang, Ren, Sun, *Deep Residual Learning for Image Recognition*, arXiv 1512.03385, with a 3x3 stem and no pooling in
front, as its CIFAR networks have.
"""

from dataclasses import asdict, dataclass

from torch import Tensor, nn
from torch.nn.functional import relu

from ..blocknet import BlockNet
from ..errors import NetworkError


@dataclass(frozen=True)
class ResNetConfig:
    """What a ResNet is made of.

    Attributes:
        widths: channels of each stage; every stage but the first halves height and width.
        depths: residual blocks (two 3x3 convolutions each) of each stage.
        num_classes: number of logits.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    num_classes: int = 10

    def __post_init__(self) -> None:
        for name in ("widths", "depths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists come from JSON
        if len(self.widths) != len(self.depths) or not all(n > 0 for n in (*self.widths, *self.depths)):
            raise NetworkError(
                f"ResNet of widths {list(self.widths)} and depths {list(self.depths)}: expected as many of the one as of the "
                "other, all above 0"
            )


def resnet(config: ResNetConfig) -> BlockNet:
    """Build a ResNet with fresh random weights; images (batch, 3, 32, 32) -> logits (batch, num_classes)."""
    channels = config.widths[0]
    embed = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
    blocks = []
    for stage, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
        layers = []
        for i in range(depth):
            layers.append(ResidualBlock(channels, width, stride=2 if i == 0 and stage > 0 else 1))
            channels = width
        blocks.append(nn.Sequential(*layers))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, config.num_classes))
    net = BlockNet(embed, blocks, head, config={"family": "resnet", **asdict(config), **_lists(config)})
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + two 3x3 convolutions of x); where the shape changes, the shortcut is a 1x1 convolution.

    (batch, channels, height, width) -> (batch, width, height / stride, width / stride)
    """

    def __init__(self, channels: int, width: int, stride: int = 1):
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.shortcut(x) + self.residual(x))


def _lists(config: ResNetConfig) -> dict[str, list[int]]:
    return {"widths": list(config.widths), "depths": list(config.depths)}
