"""Small transformers for sequences of tokens, as networks of blocks: for bits with one answer, for a language with many."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .blocknet import BlockNet
from .errors import DataError, NetworkError, UnknownNameError
from .networks import EncoderLayer

ANSWERS = ("last", "all")


@dataclass(frozen=True)
class TransformerConfig:
    """What a transformer for sequences is made of.

    Attributes:
        vocabulary: different tokens, 0 .. vocabulary - 1.
        length: tokens of a sequence.
        width: channels of a token.
        layers: of the transformer; each is a block, so at least 2.
        heads: attention heads; they share the width.
        num_classes: logits of an answer.
        answers: `last`, one answer, where the last token is, or `all`, one at every token.
        causal: a token sees only itself and those before it (a decoder), else all (an encoder).
        joint: a token has a vector of its own for each place; else the sum of one for the token and one for the place.
        mlp_ratio: hidden width of each layer's MLP over `width`.
    """

    vocabulary: int
    length: int
    width: int = 32
    layers: int = 2
    heads: int = 4
    num_classes: int = 2
    answers: str = "last"
    causal: bool = True
    joint: bool = False
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        if self.answers not in ANSWERS:
            raise UnknownNameError("answers", self.answers, ANSWERS)
        for name in ("vocabulary", "length", "width", "heads", "num_classes"):
            if getattr(self, name) < 1:
                raise NetworkError(f"transformer with {name} = {getattr(self, name)!r}: expected at least 1")
        if self.width % self.heads:
            raise NetworkError(
                f"transformer of width {self.width} with {self.heads} heads: expected heads that divide the width"
            )


def transformer(config: TransformerConfig, seed: int | None = None) -> BlockNet:
    """Build a transformer with fresh random weights; its layers are torch's own, with the norm first.

    tokens (batch, length), whole numbers of any type -> logits (batch, num_classes), or, with `answers="all"`,
    (batch * length, num_classes), sequence by sequence: one row for an answer, as every objective expects it.

    Args:
        config: sizes.
        seed: of the start; by default torch's random numbers go on.

    Raises:
        NetworkError: fewer than two layers.
    """
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        blocks = [Layer(config) for _ in range(config.layers)]
        return BlockNet(TokenEmbed(config), blocks, Answers(config), input_shape=(config.length,))


class TokenEmbed(nn.Module):
    """Make each token a vector that knows its place: (batch, length) -> (batch, length, width)."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        rows = config.vocabulary * (config.length if config.joint else 1)
        self.tokens = nn.Embedding(rows, config.width)
        self.positions = None if config.joint else nn.Parameter(torch.randn(1, config.length, config.width))
        first = torch.arange(config.length) * (config.vocabulary if config.joint else 0)  # row of token 0 at each place
        self.register_buffer("first", first, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        vectors = self.tokens(tokens.long() + self.first)
        return vectors if self.positions is None else vectors + self.positions


class Layer(EncoderLayer):
    """The layer of `networks.vit`, with a causal mask that it carries itself: features (batch, length, width) -> the same."""

    def __init__(self, config: TransformerConfig):
        hidden = round(config.width * config.mlp_ratio)
        options = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        super().__init__(config.width, config.heads, hidden, **options)
        mask = nn.Transformer.generate_square_subsequent_mask(config.length) if config.causal else None
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features, src_mask=self.mask, is_causal=self.mask is not None)


class Answers(nn.Module):
    """Norm and classifier, at the last token or at all: (batch, length, width) -> (answers, classes)."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.answers = config.answers
        self.norm = nn.LayerNorm(config.width)  # layers with the norm first leave their sum unnormalised
        self.classifier = nn.Linear(config.width, config.num_classes)

    def forward(self, features: Tensor) -> Tensor:
        features = features[:, -1] if self.answers == "last" else features.flatten(0, 1)
        return self.classifier(self.norm(features))


def after_start(tokens: Tensor, vocabulary: int) -> Tensor:
    """What a causal network reads to predict each of `tokens` (batch, length): a start mark, then all but the last.

    The start mark is the number after those of the tokens, `vocabulary`; so the network has one more of them.
    """
    return torch.cat([torch.full_like(tokens[:, :1], vocabulary), tokens[:, :-1]], 1)


def divergence(exact: Tensor, logits: Tensor) -> Tensor:
    """KL(exact || network) of each answer, in nats: what it loses against one who knows the exact probabilities.

    Args:
        exact: probabilities (..., classes).
        logits: as many numbers as `exact` has, in any shape, as a network with `answers="all"` gives them.

    Returns:
        (...), float64; 0 only where the network gives the exact probabilities.
    """
    predicted = logits.double().view(exact.shape).log_softmax(-1)
    return (torch.special.xlogy(exact, exact) - exact * predicted).sum(-1)


def linear_probe(features: Tensor, symbols: Tensor, classes: int, ridge: float = 1.0) -> Tensor:
    """How often a linear map of the features finds a symbol, place by place.

    One map for each place, by least squares against the symbols' one-hot vectors, fitted on the first half of the rows and
    judged on the second.

    Args:
        features: (rows, places, channels).
        symbols: int64 (rows, places).
        classes: different symbols.
        ridge: penalty on the squared size of the map.

    Returns:
        (places,), share of right answers.

    Raises:
        DataError: fewer than two rows, or features and symbols that are not of the same rows and places.
    """
    if features.shape[:2] != symbols.shape or len(features) < 2:
        raise DataError(
            f"features {tuple(features.shape)}, symbols {tuple(symbols.shape)}: expected the same rows, at least 2, and places"
        )
    half = len(features) // 2
    x = features.detach().double().transpose(0, 1)  # (places, rows, channels)
    x = torch.cat([x, torch.ones_like(x[..., :1])], -1)
    y = nn.functional.one_hot(symbols.T, classes).double()
    known, asked = x[:, :half], x[:, half:]
    gram = known.transpose(1, 2) @ known + ridge * torch.eye(x.shape[-1], dtype=x.dtype)
    maps = torch.linalg.solve(gram, known.transpose(1, 2) @ y[:, :half])
    return ((asked @ maps).argmax(-1) == symbols.T[:, half:]).double().mean(1)
