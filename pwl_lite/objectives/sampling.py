"""Which composition the cross pass trains: ways to draw one, from torch's random numbers; never all-S, never all-T."""

from collections.abc import Callable

import torch


def random_composition(num_blocks: int) -> str:
    """The authors' draw.

    Half of the time the first or the last blocks, up to a random cut, are the teacher's; else each block is by a fair coin.
    """
    if torch.rand(()) < 0.5:
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


SAMPLERS: dict[str, Callable[[int], str]] = {f.__name__: f for f in (random_composition, even_composition, prefix_composition)}
