"""A small language whose every probability is known: a probabilistic context-free grammar, sampled and computed exactly."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2

import torch
from torch import Tensor

from .errors import DataError

MOST_SENTENCES = 2**20  # of an enumeration


@dataclass(frozen=True)
class Sentences:
    """Sampled sentences and the trees they were made by.

    Attributes:
        tokens: (count, length), int64.
        tree: symbols of each level, the root's first, the tokens last: (count, 1), (count, 2), (count, 4), ...
    """

    tokens: Tensor
    tree: list[Tensor]

    def ancestors(self, level: int) -> Tensor:
        """The symbol of `level` above each token, (count, length)."""
        symbols = self.tree[level]
        return symbols.repeat_interleave(self.tokens.shape[1] // symbols.shape[1], dim=1)


class Grammar:
    """A probabilistic context-free grammar whose trees are binary and all of one height.

    A symbol of level l becomes two symbols of level l + 1, by one of its rules; those of the last level are the tokens. So
    sentences of a grammar with L levels of rules have 2^L tokens. Which tokens belong together is known from their places, the
    symbols above them are not: they have to be inferred. Given some tokens of a sentence, `posteriors` does that exactly.

    Args:
        rules: for each level, from the root down, the probabilities (symbols, symbols below, symbols below) that a symbol
            becomes a left and a right one.
        start: probabilities of the root's symbols; by default all the same.

    Raises:
        DataError: no rules, shapes that do not follow each other, or probabilities that do not sum to 1.
    """

    def __init__(self, rules: Sequence[Tensor], start: Tensor | None = None):
        if not rules:
            raise DataError("a grammar without rules: expected at least one level of them")
        self.rules = [rule.double() for rule in rules]
        roots = len(rules[0])
        self.start = torch.full((roots,), 1 / roots, dtype=torch.float64) if start is None else start.double()
        self.symbols = [roots, *(rule.shape[-1] for rule in rules)]
        for level, rule in enumerate(self.rules):
            above, below = self.symbols[level : level + 2]
            if rule.shape != (above, below, below):
                raise DataError(f"rules of level {level} of shape {tuple(rule.shape)}: expected {(above, below, below)}")
        for name, table in [("start", self.start[None]), *((f"rules of level {i}", r) for i, r in enumerate(self.rules))]:
            sums = table.flatten(1).sum(1)
            if (table < 0).any() or not torch.allclose(sums, torch.ones_like(sums)):
                raise DataError(f"{name}: expected probabilities that sum to 1, not to {sums.tolist()}")

    @classmethod
    def random(cls, levels: int, symbols: int, weights: Sequence[float] = (0.6, 0.4), seed: int = 0) -> "Grammar":
        """Draw a grammar: each symbol gets as many rules as there are weights, their probabilities.

        No pair of symbols is made by two symbols, so a whole sentence has one tree only; the beginning of one may have many.

        Args:
            levels: of rules; sentences have 2^levels tokens.
            symbols: of each level.
            weights: probabilities of a symbol's rules, 1 in all.
            seed: of the draw.

        Raises:
            DataError: there are not enough pairs for so many rules, or no levels.
        """
        if levels < 1 or symbols * len(weights) > symbols**2:
            raise DataError(
                f"{levels} levels, {len(weights)} rules for each of {symbols} symbols: expected at least one level, and "
                f"at most {symbols} rules, as there are {symbols**2} pairs"
            )
        generator = torch.Generator().manual_seed(seed)
        rules = []
        for _ in range(levels):
            pairs = torch.randperm(symbols**2, generator=generator)[: symbols * len(weights)].view(symbols, -1)
            table = torch.zeros(symbols, symbols**2, dtype=torch.float64)
            table.scatter_(1, pairs, torch.tensor(weights, dtype=torch.float64).expand(symbols, -1))
            rules.append(table.view(symbols, symbols, symbols))
        return cls(rules)

    @property
    def levels(self) -> int:
        return len(self.rules)

    @property
    def length(self) -> int:
        """Tokens of a sentence."""
        return 2**self.levels

    @property
    def vocabulary(self) -> int:
        """Different tokens."""
        return self.symbols[-1]

    def describe(self, level: int, above: str = "ABCDEFGHIJKLMNOP", below: str = "ABCDEFGHIJKLMNOP") -> str:
        """The rules of one level for people, one symbol a line: `A -> BC 0.6 | DA 0.4`."""
        lines = []
        for symbol, table in enumerate(self.rules[level]):
            found = sorted(((table[a, b].item(), below[a] + below[b]) for a, b in table.nonzero().tolist()), reverse=True)
            lines.append(f"{above[symbol]} -> " + " | ".join(f"{pair} {p:.2g}" for p, pair in found))
        return "\n".join(lines)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Sentences:
        """Fresh sentences with their trees."""
        tree = [torch.multinomial(self.start, count, replacement=True, generator=generator)[:, None]]
        for rule, below in zip(self.rules, self.symbols[1:]):
            pairs = rule.flatten(1)[tree[-1].flatten()]
            drawn = torch.multinomial(pairs, 1, generator=generator)[:, 0]
            tree.append(torch.stack([drawn // below, drawn % below], -1).view(count, -1))
        return Sentences(tree[-1], tree)

    def inside(self, evidence: Tensor) -> list[Tensor]:
        """The inside algorithm: how probable the evidence below each node of the tree is, given the node's symbol.

        Args:
            evidence: (batch, length, vocabulary), 1 for what a token may be and 0 for what it is not: one 1 where the token
                was seen, ones everywhere where it was not.

        Returns:
            For each level, the root's first, (batch, nodes, symbols), float64.
        """
        messages = [evidence.double()]
        for rule in reversed(self.rules):
            left, right = messages[0][:, 0::2], messages[0][:, 1::2]
            messages.insert(0, torch.einsum("bnl,slr,bnr->bns", left, rule, right))
        return messages

    def probability(self, tokens: Tensor, seen: Tensor | None = None) -> Tensor:
        """Of each sentence, or of its seen tokens alone: tokens (batch, length), seen as in `posteriors` -> (batch,)."""
        return self.inside(self._evidence(tokens, seen))[0][:, 0] @ self.start

    def posteriors(self, tokens: Tensor, seen: Tensor | None = None) -> list[Tensor]:
        """Exact probabilities of every symbol of the tree, given the seen tokens: inside upwards, outside downwards.

        Args:
            tokens: (batch, length); what is not seen does not matter.
            seen: bool, (length,) or (batch, length); by default all.

        Returns:
            For each level, the root's first, the tokens' last, (batch, nodes, symbols).

        Raises:
            DataError: the seen tokens of a sentence are impossible together.
        """
        inside = self.inside(self._evidence(tokens, seen))
        outside = [self.start.expand(len(tokens), 1, -1)]
        for rule, below in zip(self.rules, inside[1:]):
            left, right = below[:, 0::2], below[:, 1::2]
            pair = (
                torch.einsum("bns,slr,bnr->bnl", outside[-1], rule, right),
                torch.einsum("bns,slr,bnl->bnr", outside[-1], rule, left),
            )
            outside.append(torch.stack(pair, 2).flatten(1, 2))
        joint = [a * b for a, b in zip(inside, outside)]
        totals = joint[0].sum((1, 2))
        if not (totals > 0).all():
            index = int((totals > 0).int().argmin())
            raise DataError(f"sentence {index}, {tokens[index].tolist()}: expected one that the grammar can make")
        return [j / j.sum(-1, keepdim=True) for j in joint]

    def next_token(self, tokens: Tensor, window: int | None = None, height: int | None = None) -> Tensor:
        """Exact probabilities of each token given those before it, or given some of them.

        Args:
            tokens: sentences (batch, length).
            window: only so many tokens right before it are known: 0 for none, 1 for what a bigram model can know, ...
            height: only those are known that share its subtree of this height: 0 for none, 1 for the other half of a pair, ...

        Returns:
            (batch, length, vocabulary), float64; the first token's has nothing to go by.

        Raises:
            DataError: as in `posteriors`; or a window or height that is not there.
        """
        for name, value, most in (("window", window, self.length), ("height", height, self.levels)):
            if value is not None and not 0 <= value <= most:
                raise DataError(f"{name} = {value}: expected 0 to {most}")
        place = torch.arange(self.length)
        behind = place[:, None] - place  # row: the token that is asked for
        seen = behind > 0
        if window is not None:
            seen &= behind <= window
        if height is not None:
            seen &= place[:, None] >> height == place >> height
        asked = tokens.repeat_interleave(self.length, 0)
        found = self.posteriors(asked, seen.repeat(len(tokens), 1))[-1].view(len(tokens), self.length, self.length, -1)
        return found.diagonal(dim1=1, dim2=2).transpose(1, 2)

    def all_sentences(self) -> Tensor:
        """Every sequence of tokens, possible or not, (vocabulary^length, length); small grammars only.

        Raises:
            DataError: there are too many.
        """
        if self.length * log2(self.vocabulary) > log2(MOST_SENTENCES):
            raise DataError(
                f"all {self.vocabulary}^{self.length} sequences: expected at most {MOST_SENTENCES:,}; use sample(count) instead"
            )
        return torch.cartesian_prod(*[torch.arange(self.vocabulary)] * self.length)

    def _evidence(self, tokens: Tensor, seen: Tensor | None) -> Tensor:
        if tokens.ndim != 2 or tokens.shape[1] != self.length:
            raise DataError(f"tokens of shape {tuple(tokens.shape)}: expected (batch, {self.length})")
        if tokens.min() < 0 or tokens.max() >= self.vocabulary:
            raise DataError(f"tokens from {tokens.min()} to {tokens.max()}: expected 0 to {self.vocabulary - 1}")
        evidence = torch.nn.functional.one_hot(tokens, self.vocabulary).double()
        if seen is None:
            return evidence
        return torch.where(seen.expand(tokens.shape)[..., None], evidence, 1.0)


def starts(length: int) -> list[int]:
    """For each place of a sentence, the height of the largest subtree that begins there: 0 for the right half of a pair.

    A token with height z can be predicted from others only through symbols z + 1 levels above the tokens; the first token,
    with nothing before it, gets the height of the whole tree.
    """
    return [(place & -place).bit_length() - 1 if place else length.bit_length() - 1 for place in range(length)]
