"""Vision transformer for small images as a `BlockNet`: equal groups of encoder layers as blocks.

Source: Dosovitskiy and others, *An Image is Worth 16x16 Words*, arXiv 2010.11929. The encoder layers are torch's own, with
the norm first. Features are tokens, (batch, tokens, channels).
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear

from ..blocknet import BlockNet
from ..errors import NetworkError, UnknownNameError


@dataclass(frozen=True)
class ViTConfig:
    """What a vision transformer is made of.

    Attributes:
        width: channels of a token.
        depths: encoder layers of each block.
        heads: attention heads; they share the width.
        num_classes: number of logits.
        patch: side of a patch in pixels.
        image_size: side of an image in pixels.
        mlp_ratio: hidden width of each layer's MLP over `width`.
        pool: what the head sees: `mean` of all tokens, or a `class` token in front of them.
        dropout: share of activations dropped while training.
    """

    width: int
    depths: tuple[int, ...]
    heads: int
    num_classes: int = 10
    patch: int = 4
    image_size: int = 32
    mlp_ratio: float = 4.0
    pool: str = "mean"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "depths", tuple(self.depths))  # lists come from JSON
        if self.pool not in ("mean", "class"):
            raise UnknownNameError("pool", self.pool, ["mean", "class"])
        if self.width % self.heads:
            raise NetworkError(f"ViT of width {self.width} with {self.heads} heads: expected heads that divide the width")
        if not 0 <= self.dropout < 1:
            raise NetworkError(f"ViT with dropout = {self.dropout!r}: expected a share from 0 to below 1")
        if self.image_size % self.patch:
            raise NetworkError(f"images of {self.image_size} pixels in patches of {self.patch}: expected a whole number")


def vit(config: ViTConfig) -> BlockNet:
    """Build a vision transformer with fresh random weights; images (batch, 3, size, size) -> logits (batch, num_classes)."""
    blocks = [nn.Sequential(*(_layer(config) for _ in range(depth))) for depth in config.depths]
    shape = (3, config.image_size, config.image_size)
    about = {"family": "vit", **asdict(config), "depths": list(config.depths)}
    return BlockNet(PatchEmbed(config), blocks, Head(config), input_shape=shape, config=about)


def _layer(config: ViTConfig) -> nn.Module:
    hidden = round(config.width * config.mlp_ratio)
    options = {"dropout": config.dropout, "activation": "gelu", "batch_first": True, "norm_first": True}
    return EncoderLayer(config.width, config.heads, hidden, **options)


class EncoderLayer(nn.TransformerEncoderLayer):
    """torch's own layer. Training on a CPU it is computed here, in plain steps: torch's attention is made for longer sequences,
    and with it a step of the `cifar` teacher takes 1.6 times as long (bf16, two cores)."""

    def forward(self, tokens: Tensor, **mask: Any) -> Tensor:
        """(batch, tokens, width) -> the same; `mask` as torch's layer takes it (`src_mask`, `is_causal`)."""
        as_ours = self.norm_first and self.self_attn.batch_first and mask.keys() <= {"src_mask", "is_causal"}
        if not (self.training and as_ours and tokens.device.type == "cpu"):
            return super().forward(tokens, **mask)
        tokens = tokens + self.dropout1(self._attend(self.norm1(tokens), mask.get("src_mask")))
        hidden = self.dropout(self.activation(self.linear1(self.norm2(tokens))))
        return tokens + self.dropout2(self.linear2(hidden))

    def _attend(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        own = self.self_attn
        batch, places, width = tokens.shape
        mixed = linear(tokens, own.in_proj_weight, own.in_proj_bias).view(batch, places, 3, own.num_heads, -1)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)  # (batch, heads, places, width of a head) each
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        weights = dropout(weights, own.dropout, self.training)
        return own.out_proj((weights @ value).transpose(1, 2).reshape(batch, places, width))


class PatchEmbed(nn.Module):
    """Cut an image into patches and make each a token that knows its place.

    (batch, 3, size, size) -> (batch, tokens, width); the class token, if there is one, comes first.
    """

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.patches = nn.Conv2d(3, config.width, config.patch, stride=config.patch)
        tokens = (config.image_size // config.patch) ** 2
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.width)) if config.pool == "class" else None
        self.positions = nn.Parameter(0.02 * torch.randn(1, tokens + (config.pool == "class"), config.width))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        return tokens + self.positions


class Head(nn.Module):
    """Norm, pooling and classifier: (batch, tokens, width) -> (batch, classes)."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.pool = config.pool
        self.norm = nn.LayerNorm(config.width)  # layers with the norm first leave their sum unnormalised
        self.classifier = nn.Linear(config.width, config.num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.norm(tokens)
        return self.classifier(tokens[:, 0] if self.pool == "class" else tokens.mean(1))
