"""Sparse parity: the task in which one sees why a curriculum helps; its small networks, and what they know of the support."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import torch
from torch import Tensor, nn

from .blocknet import BlockNet
from .errors import DataError, TrainingError

MOST_BITS = 20  # of an exact sum: 2^20 inputs of 20 bits take 84 MB


@dataclass(frozen=True)
class SparseParity:
    """The label is the product of k of n random bits; every sample is fresh.

    Inputs (..., n) are +1 or -1, each with probability 1/2; the label is 1 where the product over the support is +1, else 0.
    Nothing but all k bits together tells anything about the label: it is uncorrelated with every smaller product. So a
    network has to find the support among the n-over-k candidates without being told when it is close.

    Args:
        n: bits.
        k: of them matter.
        support: their numbers, 0 .. n - 1; by default drawn by `seed`.
        seed: of the support.

    Raises:
        DataError: k does not fit n, or the support is not k different bits.
    """

    n: int
    k: int
    support: tuple[int, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.n:
            raise DataError(f"parity of k = {self.k} of n = {self.n} bits: expected 1 <= k <= n")
        if self.support is None:
            drawn = torch.randperm(self.n, generator=torch.Generator().manual_seed(self.seed))[: self.k]
            object.__setattr__(self, "support", tuple(sorted(drawn.tolist())))
        object.__setattr__(self, "support", tuple(self.support))
        if len(set(self.support)) != self.k or not all(0 <= bit < self.n for bit in self.support):
            raise DataError(f"support {self.support}: expected {self.k} different numbers from 0 to {self.n - 1}")

    def labels(self, inputs: Tensor) -> Tensor:
        """Inputs (..., n) of +-1 -> classes (...), int64."""
        return (inputs[..., list(self.support)].prod(-1) > 0).long()

    def sample(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Fresh inputs (count, n), float32, and their labels (count,)."""
        inputs = torch.randint(0, 2, (count, self.n), generator=generator, dtype=torch.int8) * 2 - 1
        return inputs.float(), self.labels(inputs)

    def all_inputs(self) -> Tensor:
        """Every input once, (2^n, n): with it, means over inputs are exact.

        Raises:
            DataError: n is too large for that.
        """
        if self.n > MOST_BITS:
            raise DataError(f"all 2^{self.n} inputs: expected at most {MOST_BITS} bits; use sample(count) instead")
        numbers = torch.arange(2**self.n)[:, None]
        return 1.0 - 2.0 * (numbers >> torch.arange(self.n) & 1)

    def monomials(self, degree: int | None = None) -> list[tuple[int, ...]]:
        """All products of 1 .. `degree` (by default k) bits of the support, as tuples of bit numbers, short ones first."""
        degrees = range(1, (self.k if degree is None else degree) + 1)
        return [subset for d in degrees for subset in combinations(self.support, d)]


def parity_mlp(n: int, width: int, hidden_layers: int = 1, seed: int | None = None) -> BlockNet:
    """A ReLU network for n bits, with torch's standard start: n -> width -> ... -> 2 logits.

    Each layer is a block: the hidden ones first, the output layer last; so any objective for networks of blocks applies.
    The two-layer network of the papers (arXiv 2410.05464, 2503.17494) has one hidden layer.

    Args:
        n: bits; inputs are (batch, n).
        width: units of each hidden layer.
        hidden_layers: at least 1.
        seed: of the start; by default torch's random numbers go on.

    Raises:
        TrainingError: sizes below 1.
    """
    if min(n, width, hidden_layers) < 1:
        raise TrainingError(f"n = {n}, width = {width}, hidden_layers = {hidden_layers}: expected at least 1 of each")
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        sizes = [n] + [width] * hidden_layers
        hidden = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(sizes)]
        return BlockNet(nn.Identity(), [*hidden, nn.Linear(width, 2)], nn.Identity(), input_shape=(n,))


@dataclass(frozen=True)
class Stack:
    """S networks of the same sizes as one: weights (S, out, in) and biases (S, 1, out) of each layer.

    Products of small matrices hardly use a processor; with the seeds as a further dimension, one product does for all of them
    what would be S.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    @classmethod
    def of(cls, networks: Sequence[BlockNet]) -> "Stack":
        """Copies of networks that `parity_mlp` built, all with the same sizes."""
        layers = [[m for m in net.blocks.modules() if isinstance(m, nn.Linear)] for net in networks]
        same = list(zip(*layers, strict=True))
        return cls(
            tuple(torch.stack([layer.weight.detach() for layer in group]) for group in same),
            tuple(torch.stack([layer.bias.detach()[None] for layer in group]) for group in same),
        )

    def __len__(self) -> int:
        return len(self.weights[0])

    @property
    def parameters(self) -> list[Tensor]:
        return [*self.weights, *self.biases]

    def layers(self, inputs: Tensor) -> list[Tensor]:
        """Outputs of all layers for inputs (S, batch, n): the hidden ones (S, batch, width), then logits (S, batch, 2)."""
        outputs: list[Tensor] = []
        for weight, bias in zip(self.weights, self.biases):
            x = outputs[-1].relu() if outputs else inputs
            outputs.append(torch.baddbmm(bias, x, weight.transpose(1, 2)))
        return [x.relu() for x in outputs[:-1]] + outputs[-1:]

    def network(self, index: int) -> BlockNet:
        """Network `index` as one of its own."""
        width, n = self.weights[0].shape[1:]
        net = parity_mlp(n, width, len(self.weights) - 1)
        linear = [m for m in net.blocks.modules() if isinstance(m, nn.Linear)]
        for layer, weight, bias in zip(linear, self.weights, self.biases, strict=True):
            layer.weight.data.copy_(weight[index])
            layer.bias.data.copy_(bias[index, 0])
        return net

    def pick(self, indices: Sequence[int]) -> "Stack":
        """The networks at these positions, in this order; one may come up repeatedly."""
        index = torch.as_tensor(list(indices))
        return Stack(tuple(w.detach()[index] for w in self.weights), tuple(b.detach()[index] for b in self.biases))


def vote(logits: Tensor) -> Tensor:
    """How sure of class 1 a network is, from -1 to 1: logits (..., 2) -> p(1) - p(0), (...)."""
    return ((logits[..., 1] - logits[..., 0]) / 2).tanh()


@dataclass(frozen=True)
class Correlations:
    """Estimates (..., monomials) of E[value x monomial], and their standard errors (0 where the mean is exact)."""

    values: Tensor
    errors: Tensor


def correlations(
    values: Tensor, inputs: Tensor, subsets: Sequence[Sequence[int]], normalise: bool = False, exact: bool = False
) -> Correlations:
    """Correlation of some function of the inputs with monomials, that is its Fourier coefficients on the cube.

    The coefficient of a subset A is E[f(x) prod_{i in A} x_i]. Of `vote(logits)` they say which parts of the parity a
    network has found; of a hidden layer (`features.T`) or a projection of it, what a student could learn from there.

    Args:
        values: f of each input, (..., batch).
        inputs: (batch, n), all of them for an exact answer or a sample.
        subsets: bit numbers of each monomial; the empty one asks for the mean.
        normalise: divide by the standard deviation of f, which gives the Pearson correlation, for units of any scale.
        exact: the inputs are all 2^n, so there is no error.

    Raises:
        DataError: values and inputs are not of the same batch, or a subset names a bit that is not there.
    """
    n = inputs.shape[-1]
    if values.shape[-1] != len(inputs):
        raise DataError(f"values of {values.shape[-1]} inputs, but {len(inputs)} inputs: expected one value for each")
    if not all(0 <= bit < n for subset in subsets for bit in subset):
        raise DataError(f"monomials {list(subsets)}: expected bits from 0 to {n - 1}")
    signs = torch.stack([inputs[:, list(subset)].prod(1) for subset in subsets], dim=1)  # (batch, monomials)
    if normalise:
        values = values / values.std(-1, correction=0, keepdim=True).clamp_min(1e-12)
    means = values @ signs / len(inputs)
    if exact:
        return Correlations(means, torch.zeros_like(means))
    # a sign squared is 1, so the mean square of f x sign is that of f
    variance = values.square().mean(-1, keepdim=True) - means.square()
    return Correlations(means, (variance.clamp_min(0) / len(inputs)).sqrt())


@dataclass(frozen=True)
class Transition:
    """Where a training's phase transition is: positions in its log."""

    before: int
    inside: int
    after: int


def phase_transition(
    accuracy: Sequence[float], correlation: Sequence[float], low: float = 0.55, high: float = 0.99
) -> Transition:
    """Find the phase transition in a log: a long plateau at chance, then a sudden rise.

    Source: Panigrahi and others, arXiv 2410.05464: in the transition, and only there, the teacher's outputs are correlated
    with single bits of the support. The paper picks checkpoints by eye; this rule is this book's.

    Args:
        accuracy: share of right answers at each log entry.
        correlation: of the output with the single bits of the support (their mean size) at each log entry.
        low: on the plateau accuracy stays below this.
        high: from here on the task is learnt.

    Returns:
        Three entries. `after` is the first one with an accuracy of at least `high`, `inside` the one with the highest
        correlation up to there, `before` the one in the middle of the plateau.

    Raises:
        TrainingError: the log shows no transition.
    """
    reached = [i for i, value in enumerate(accuracy) if value >= high]
    if not reached or accuracy[0] >= low:
        raise TrainingError(
            f"accuracy from {accuracy[0]:.3f} to at most {max(accuracy):.3f}: expected a rise from below {low} to {high}; "
            "train longer, or with another learning rate"
        )
    after = reached[0]
    plateau = next(i for i, value in enumerate(accuracy) if value >= low)
    inside = max(range(after + 1), key=lambda i: correlation[i])
    return Transition(before=plateau // 2, inside=inside, after=after)
