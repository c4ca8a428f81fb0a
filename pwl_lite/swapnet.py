"""A teacher and a student as one network: compositions, loading orders, converters, `SwapNet`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, permutations, product

from torch import Tensor, nn

from .blocknet import BlockNet, boundary_shapes, channels_of, places_of
from .errors import CompositionError, NetworkError


class Converter(nn.Module):
    """The map between the feature spaces of student and teacher at one boundary: two linear maps on the channels.

    (batch, channels of the one, height, width) -> (batch, channels of the other, height, width), or with `tokens`
    (batch, tokens, channels of the one) -> (batch, tokens, channels of the other)
    """

    def __init__(self, student_channels: int, teacher_channels: int, tokens: bool = False):
        super().__init__()
        linear = nn.Linear if tokens else partial(nn.Conv2d, kernel_size=1)
        self.encoder = linear(teacher_channels, student_channels)
        self.decoder = linear(student_channels, teacher_channels)

    def forward(self, x: Tensor, to: str) -> Tensor:
        """Bring features into the space of the student (`to="S"`) or the teacher (`to="T"`)."""
        return self.encoder(x) if to == "S" else self.decoder(x)


class SwapNet(nn.Module):
    """A teacher and a student, cut into the same N blocks, as one network.

    images (batch, 3, height, width) -> logits (batch, classes)

    The teacher is frozen: no gradients, and always in evaluation mode, whatever `train()` is called with. Its batch-norm
    statistics would otherwise drift while the student trains, and the "teacher" at the end of loading would be another.

    Args:
        teacher, student: the pair.
        identity: no converters, features go over as they are. By default so where the widths agree at all boundaries, as in the
            authors' code: a student that is trained for it needs no converters then, and is better without (chapter 7).

    Raises:
        NetworkError: the two have a different number of blocks, or their features differ in places somewhere, or, with
            `identity`, in channels.
    """

    def __init__(self, teacher: BlockNet, student: BlockNet, identity: bool | None = None):
        super().__init__()
        if teacher.num_blocks != student.num_blocks:
            raise NetworkError(
                f"a teacher of {teacher.num_blocks} blocks and a student of {student.num_blocks}: expected the same number; "
                "cut both networks at the same places"
            )
        self.teacher = teacher.requires_grad_(False).eval()
        self.student = student
        self.converters = nn.ModuleList()
        pairs = list(zip(boundary_shapes(student), boundary_shapes(teacher), strict=True))
        if identity is None:
            identity = all(channels_of(s) == channels_of(t) for s, t in pairs)
        for i, (s, t) in enumerate(pairs, start=1):
            if places_of(s) != places_of(t):
                raise NetworkError(
                    f"after block {i} the student's features are {_places(s)}, the teacher's {_places(t)}: expected the same, "
                    "since converters act on channels only; pool at the same places in both"
                )
            if identity and channels_of(s) != channels_of(t):
                raise NetworkError(
                    f"after block {i} the student has {channels_of(s)} channels, the teacher {channels_of(t)}: expected as "
                    "many for identity=True; leave it out to have converters"
                )
            self.converters.append(Converter(channels_of(s), channels_of(t), tokens=len(s) == 2))
            if identity:
                self.converters[-1].encoder = self.converters[-1].decoder = nn.Identity()

    @property
    def num_blocks(self) -> int:
        return self.teacher.num_blocks

    @property
    def identity(self) -> bool:
        """Whether features go over as they are."""
        return all(isinstance(converter.encoder, nn.Identity) for converter in self.converters)

    def train(self, mode: bool = True) -> "SwapNet":
        super().train(mode)
        self.teacher.eval()
        return self

    def networks(self, composition: str) -> list[BlockNet]:
        """The network that each block is from. Raises CompositionError."""
        return [self.teacher if c == "T" else self.student for c in check_composition(composition, self.num_blocks)]

    def forward(self, images: Tensor, composition: str) -> Tensor:
        first = self.networks(composition)[0]
        return self.resume(first.embed(images), composition, start=0)

    def resume(self, x: Tensor, composition: str, start: int) -> Tensor:
        """Run blocks `start` .. N - 1 (0-based) and the head; `x` is what the block before `start` has put out.

        That block's output is in the space of *its* network, `composition[start - 1]`; this converts it where needed.
        With `start=0`, `x` is the output of `embed`.
        """
        networks = self.networks(composition)
        for i in range(start, self.num_blocks):
            if i > 0 and composition[i] != composition[i - 1]:  # a switch: change the feature space
                x = self.converters[i - 1](x, to=composition[i])
            x = networks[i].blocks[i](x)
        return networks[-1].head(x)


def _places(shape: tuple[int, ...]) -> str:
    return f"{shape[1:]} in height and width" if len(shape) == 3 else f"{shape[0]} tokens"


def check_composition(composition: str, num_blocks: int) -> str:
    """Return `composition` if it is one for `num_blocks` blocks. Raises CompositionError naming it if not."""
    if not isinstance(composition, str) or len(composition) != num_blocks or set(composition) - set("ST"):
        example = "T" * (num_blocks // 2) + "S" * (num_blocks - num_blocks // 2)
        raise CompositionError(
            f"composition {composition!r}: expected {num_blocks} letters of 'S' and 'T', such as {example!r}"
        )
    return composition


def covers(composition: str, other: str) -> bool:
    """Whether all teacher blocks of `other` are in `composition` too."""
    return all(have == "T" or want == "S" for have, want in zip(composition, other, strict=True))


def all_compositions(num_blocks: int) -> list[str]:
    """All 2^N compositions, by number of teacher blocks, from `SS..S` to `TT..T`."""
    return sorted(("".join(c) for c in product("TS", repeat=num_blocks)), key=lambda c: c.count("T"))


def loading_order(order: str | Sequence[int], num_blocks: int) -> tuple[int, ...]:
    """The sequence in which teacher blocks arrive, as block numbers 1 .. N.

    Args:
        order: `"prefix"` (1, 2, ...), `"suffix"` (N, N-1, ...), `"contiguous"` (from the middle outwards, so that the loaded
            blocks always hang together), or any permutation of 1 .. N.
        num_blocks: the number of blocks, N above.

    Raises:
        CompositionError: an unknown name, or not a permutation of 1 .. N.
    """
    blocks = range(1, num_blocks + 1)
    if order == "prefix":
        return tuple(blocks)
    if order == "suffix":
        return tuple(reversed(blocks))
    if order == "contiguous":
        middle = (num_blocks + 1) // 2
        return tuple(sorted(blocks, key=lambda b: (abs(b - middle), -b)))
    if isinstance(order, str) or sorted(order) != list(blocks):
        raise CompositionError(
            f"loading order {order!r}: expected 'prefix', 'suffix', 'contiguous' or a permutation of 1 to {num_blocks}, "
            f"such as {tuple(reversed(blocks))}"
        )
    return tuple(order)


def all_orders(num_blocks: int) -> list[tuple[int, ...]]:
    """All N! loading orders."""
    return list(permutations(range(1, num_blocks + 1)))


def contiguous_orders(num_blocks: int) -> list[tuple[int, ...]]:
    """The 2^(N-1) orders in which the loaded blocks always hang together: start anywhere, then grow to either side."""
    return [o for o in all_orders(num_blocks) if all(max(o[:k]) - min(o[:k]) == k - 1 for k in range(1, num_blocks + 1))]


def path(order: str | Sequence[int], num_blocks: int) -> list[str]:
    """The N + 1 compositions that a loading order passes through, from `SS..S` to `TT..T`. Raises CompositionError."""
    loaded: set[int] = set()
    compositions = ["S" * num_blocks]
    for block in loading_order(order, num_blocks):
        loaded.add(block)
        compositions.append("".join("T" if b in loaded else "S" for b in range(1, num_blocks + 1)))
    return compositions


@dataclass(frozen=True)
class Dip:
    """A step of a loading order after which accuracy is lower than before.

    Attributes:
        before: composition that the step begins with.
        after: the same with one more teacher block.
        points: by how many percentage points accuracy is lower.
    """

    before: str
    after: str
    points: float


def lattice_steps(num_blocks: int) -> list[tuple[str, str]]:
    """All pairs (composition, the same with one more teacher block): every step of every loading order."""
    return [(c, f"{c[:i]}T{c[i + 1 :]}") for c in all_compositions(num_blocks) for i in range(num_blocks) if c[i] == "S"]


@dataclass(frozen=True)
class OrderFreedom:
    """How far a pair is from being loadable in any order, in percentage points.

    Attributes:
        student: accuracy of the student alone, in percent.
        worst: the composition with the lowest accuracy.
        below: by how much it is below the student; 0 if none is.
        largest: the step with the largest loss of all loading orders; its points are 0 or negative if no step loses any.
    """

    student: float
    worst: str
    below: float
    largest: Dip


def order_freedom(accuracy: Mapping[str, float]) -> OrderFreedom:
    """What a lattice (composition -> percent) says about loading in any order. Raises KeyError if it is not complete."""
    num_blocks = len(next(iter(accuracy.keys())))  # of a Series too
    worst = min(all_compositions(num_blocks), key=accuracy.__getitem__)
    largest = max((Dip(a, b, accuracy[a] - accuracy[b]) for a, b in lattice_steps(num_blocks)), key=lambda dip: dip.points)
    student = accuracy["S" * num_blocks]
    return OrderFreedom(student, worst, student - accuracy[worst], largest)


def dips(accuracy: Mapping[str, float], order: str | Sequence[int]) -> list[Dip]:
    """The dips along a loading order.

    Args:
        accuracy: percent for each composition (a lattice, or at least the compositions of the path).
        order: as in `loading_order`.
    """
    steps = path(order, len(next(iter(accuracy.keys()))))
    drops = (Dip(a, b, accuracy[a] - accuracy[b]) for a, b in pairwise(steps))
    return [dip for dip in drops if dip.points > 0]
