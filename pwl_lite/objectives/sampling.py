"""Which composition the cross pass trains: ways to draw one, from torch's random numbers; never all-S, never all-T."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..distributed import processes
from ..swapnet import all_compositions

CUT_SHARE = 0.5  # of the draws of `random_composition`


def random_composition(num_blocks: int) -> str:
    """The authors' draw.

    Half of the time the first or the last blocks, up to a random cut, are the teacher's; else each block is by a fair coin.
    """
    if torch.rand(()) < CUT_SHARE:
        cut = int(torch.randint(1, num_blocks, ()))
        first, second = "TS" if torch.rand(()) < 0.5 else "ST"
        return first * cut + second * (num_blocks - cut)
    while True:
        composition = "".join("T" if coin else "S" for coin in torch.rand(num_blocks) < 0.5)
        if len(set(composition)) == 2:
            return composition


def even_composition(num_blocks: int) -> str:
    """Each of the 2^N - 2 mixed compositions is as likely as any other."""
    number = int(torch.randint(1, 2**num_blocks - 1, ()))  # its binary digits, without 0...0 and 1...1
    return "".join("T" if number >> i & 1 else "S" for i in range(num_blocks))


def prefix_composition(num_blocks: int) -> str:
    """The first blocks, up to an even draw of 1 to N - 1, are the teacher's: only what the prefix order needs."""
    cut = int(torch.randint(1, num_blocks, ()))
    return "T" * cut + "S" * (num_blocks - cut)


class Sandwich:
    """In turn the composition with the highest recent loss, the one with the lowest, and a random one.

    Source of the idea: Yu and others, *BigNAS*, arXiv 2003.11142, which trains the smallest, the biggest and random
    sub-networks of one network at each step. Losses are forgotten at the start of each epoch, so that a resumed training
    draws as an uninterrupted one does.
    """

    __name__ = "sandwich"

    def __init__(self) -> None:
        self.losses: dict[str, float] = {}
        self.turn = 0

    def __call__(self, num_blocks: int) -> str:
        unseen = [c for c in all_compositions(num_blocks) if len(set(c)) == 2 and c not in self.losses]
        self.turn += 1
        if unseen:
            return unseen[0]
        if self.turn % 3 == 0:
            return even_composition(num_blocks)
        return (max if self.turn % 3 == 1 else min)(self.losses, key=self.losses.__getitem__)

    def observe(self, composition: str, loss: Tensor) -> None:
        """Take note of what a composition lost (a scalar)."""
        value = float(processes().mean(loss.detach()))
        self.losses[composition] = 0.9 * self.losses.get(composition, value) + 0.1 * value

    def forget(self) -> None:
        """At the start of an epoch."""
        self.losses.clear()
        self.turn = 0


SAMPLERS: dict[str, Callable[[], Callable[[int], str]]] = {
    "random_composition": lambda: random_composition,
    "even_composition": lambda: even_composition,
    "prefix_composition": lambda: prefix_composition,
    "sandwich": Sandwich,
}
