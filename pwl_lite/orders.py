"""Which block next? The way from one composition to another, and the way whose accuracy over time is highest."""

from collections.abc import Callable, Mapping, Sequence

from .errors import CompositionError, StreamingError
from .manifest import needed_shards
from .swapnet import all_compositions, check_composition, covers, loading_order


def plan_order(
    order: str | Sequence[int],
    start: str,
    goal: str,
    accuracy: Mapping[str, float] | None,
    shard_bytes: Callable[[str], int | None],
) -> list[str]:
    """The compositions after `start` on the way to `goal`, block by block.

    Args:
        order: as in `loading_order`, or `best`. Blocks that `start` has or `goal` does not want are passed over.
        start, goal: compositions; every teacher block of `start` is one of `goal` too.
        accuracy: of each composition, in percent; only for `best`.
        shard_bytes: the bytes of a shard by its name; only for `best`.

    Raises:
        CompositionError: no such order.
        StreamingError: `best` without accuracies.
    """
    if order == "best":
        if accuracy is None:
            raise StreamingError(
                "order 'best': no measured lattice in the manifest; measure it and save it in extra['lattice']"
            )
        return best_path(accuracy, shard_bytes, start, goal)
    try:
        numbers = loading_order(order, len(start))
    except TypeError:
        raise CompositionError(f"loading order {order!r}: expected a name or block numbers") from None
    except CompositionError as error:
        raise CompositionError(str(error).replace("'prefix'", "'best', 'prefix'", 1)) from None
    steps, current = [], start
    for number in numbers:
        if current[number - 1] == "S" and goal[number - 1] == "T":
            current = _with_teacher(current, number)
            steps.append(current)
    return steps


def best_path(
    accuracy: Mapping[str, float], shard_bytes: Callable[[str], int | None], start: str, goal: str, shard_seconds: float = 0.0
) -> list[str]:
    """The compositions after `start` on the way to `goal` that lose the least accuracy over time.

    While the next block arrives, the composition that answers is worse than the goal by some points; the loss of a way is the
    sum of these points, each times how long it lasts: the bytes of the shards that the next composition needs and this one
    does not have, plus `shard_seconds` for each of them. The bandwidth is a common factor of all ways, as long as time
    is bytes: the best way is the same on every link.

    Exact: what a step costs depends on the two compositions alone (a converter is needed from the moment at which one side of
    its boundary is swapped until the other is), so the best way from each of the at most 2^N compositions follows from those of
    its successors.

    Args:
        accuracy: of each composition, in percent.
        shard_bytes: the bytes of a shard by its name; None for a converter that the pair does not have.
        start, goal: compositions.
        shard_seconds: time for a request of a shard, in units of the time for one byte.
    """
    loss: dict[str, float] = {goal: 0.0}
    following: dict[str, str] = {}
    between = [c for c in all_compositions(len(start)) if covers(c, start) and covers(goal, c) and c != goal]
    for here in reversed(between):  # those with more teacher blocks first: all successors are known
        options = {}
        for number in range(1, len(here) + 1):
            if here[number - 1] == "S" and goal[number - 1] == "T":
                there = _with_teacher(here, number)
                new = set(needed_shards(there)) - set(needed_shards(here))
                sizes = (shard_bytes(name) for name in new)
                time = sum(size + shard_seconds for size in sizes if size is not None)
                options[there] = (accuracy[goal] - accuracy[here]) * time + loss[there]
        following[here] = min(options, key=options.__getitem__)
        loss[here] = options[following[here]]
    steps, here = [], start
    while here != goal:
        here = following[here]
        steps.append(here)
    return steps


def best_composition(accuracy: Mapping[str, float] | None, start: str, fits: Callable[[str], bool]) -> str:
    """Of the compositions that can be loaded from `start` and fit into memory, the most accurate one.

    Without measured accuracies the one with the most teacher blocks, the first ones where there are several. Of more than 16
    blocks, which have too many compositions to try them all, only the first ones are loaded.
    """
    n = len(start)
    candidates = all_compositions(n) if n <= 16 else ["T" * k + start[k:] for k in range(n + 1)]
    reachable = [c for c in candidates if covers(c, start) and fits(c)]
    if not reachable:
        return start
    if accuracy is None:
        return max(reachable, key=lambda c: (c.count("T"), c))
    return max(reachable, key=lambda c: (accuracy[c], c.count("T")))


def _with_teacher(composition: str, number: int) -> str:
    return check_composition(f"{composition[: number - 1]}T{composition[number:]}", len(composition))
