"""Which block next: the best way is the best of all N! ways, for any lattice and any sizes of shards."""

import random
from itertools import pairwise, permutations

import pytest

from pwl_lite.errors import CompositionError, StreamingError
from pwl_lite.manifest import needed_shards, shard_names
from pwl_lite.orders import best_composition, best_path, plan_order
from pwl_lite.swapnet import all_compositions, covers, path


def loss_of(way: list[str], accuracy: dict[str, float], size: dict[str, int], shard_seconds: float = 0.0) -> float:
    """What a way (start included) loses over time, counted step by step."""
    loss, held = 0.0, set(needed_shards(way[0]))
    for here, there in pairwise(way):
        new = set(needed_shards(there)) - held
        loss += (accuracy[way[-1]] - accuracy[here]) * sum(size[name] + shard_seconds for name in new)
        held = set(needed_shards(there))
    return loss


def all_ways(start: str, goal: str) -> list[list[str]]:
    missing = [i for i, (have, want) in enumerate(zip(start, goal)) if have != want]
    ways = []
    for order in permutations(missing):
        ways.append([start])
        for i in order:
            ways[-1].append(ways[-1][-1][:i] + "T" + ways[-1][-1][i + 1 :])
    return ways


def problem(n: int, choose: random.Random) -> tuple[dict[str, float], dict[str, int]]:
    accuracy = {c: choose.uniform(10, 95) for c in all_compositions(n)}
    return accuracy, {name: choose.choice([1, 50, 1000, choose.randrange(1, 5000)]) for name in shard_names("swapnet", n)}


@pytest.mark.parametrize("n", [2, 3, 4, 5])
@pytest.mark.parametrize("shard_seconds", [0.0, 300.0])
def test_best_path_is_the_best_of_all_ways(n, shard_seconds):
    choose = random.Random(n)
    for _ in range(25):
        accuracy, size = problem(n, choose)
        way = ["S" * n, *best_path(accuracy, size.__getitem__, "S" * n, "T" * n, shard_seconds)]
        ways = all_ways("S" * n, "T" * n)
        assert way in ways
        losses = [loss_of(w, accuracy, size, shard_seconds) for w in ways]
        assert loss_of(way, accuracy, size, shard_seconds) == pytest.approx(min(losses))


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_best_path_from_any_start_to_any_goal(n):
    choose = random.Random(10 + n)
    pairs = [(a, b) for a in all_compositions(n) for b in all_compositions(n) if covers(b, a)]
    for start, goal in choose.sample(pairs, min(len(pairs), 60)):
        accuracy, size = problem(n, choose)
        way = [start, *best_path(accuracy, size.__getitem__, start, goal)]
        ways = all_ways(start, goal)
        assert way in ways
        assert loss_of(way, accuracy, size) == pytest.approx(min(loss_of(w, accuracy, size) for w in ways))


def test_prefix_is_not_always_best():
    """The last block alone helps most and is small: it comes first, though it costs a decoder."""
    accuracy = {"SSS": 50.0, "TSS": 51.0, "STS": 51.0, "SST": 80.0, "TTS": 52.0, "TST": 81.0, "STT": 85.0, "TTT": 90.0}
    size = {name: 100 for name in shard_names("swapnet", 3)}
    best = best_path(accuracy, size.__getitem__, "SSS", "TTT")
    assert best == path("suffix", 3)[1:]
    assert loss_of(["SSS", *best], accuracy, size) < loss_of(path("prefix", 3), accuracy, size)
    size["teacher-3"] = 100_000  # now the others had better come while it is awaited
    assert best_path(accuracy, size.__getitem__, "SSS", "TTT")[-1] == "TTT"
    assert best_path(accuracy, size.__getitem__, "SSS", "TTT")[-2] == "TTS"


def test_converters_count():
    """With equal accuracies on the way, the way with the smaller converters is best."""
    accuracy = {c: 50.0 for c in all_compositions(2)} | {"TT": 60.0}
    size = {name: 100 for name in shard_names("swapnet", 2)} | {"encoder-1": 5_000}
    assert best_path(accuracy, size.__getitem__, "SS", "TT") == ["ST", "TT"]
    size |= {"encoder-1": 10, "decoder-1": 5_000}
    assert best_path(accuracy, size.__getitem__, "SS", "TT") == ["TS", "TT"]


def test_converters_that_are_not_there_cost_nothing():
    accuracy = {"SS": 50.0, "TS": 51.0, "ST": 52.0, "TT": 60.0}
    size = {"student-1": 10, "student-2": 10, "teacher-1": 100, "teacher-2": 100}
    assert best_path(accuracy, size.get, "SS", "TT") == ["ST", "TT"]
    assert best_path(accuracy, size.get, "SS", "TT", shard_seconds=1e6) == ["ST", "TT"]  # nor a request
    size["teacher-2"] = 300
    assert best_path(accuracy, size.get, "SS", "TT") == ["TS", "TT"]


def test_nothing_to_do_is_no_step():
    accuracy, size = problem(3, random.Random(0))
    assert best_path(accuracy, size.__getitem__, "TST", "TST") == []
    assert plan_order("prefix", "TTT", "TTT", None, size.__getitem__) == []


@pytest.mark.parametrize(
    ("order", "start", "goal", "steps"),
    [
        ("prefix", "SSSS", "TTTT", ["TSSS", "TTSS", "TTTS", "TTTT"]),
        ("suffix", "SSSS", "TTTT", ["SSST", "SSTT", "STTT", "TTTT"]),
        ("contiguous", "SSSS", "TTTT", ["STSS", "STTS", "TTTS", "TTTT"]),
        ((3, 1, 4, 2), "SSSS", "TTTT", ["SSTS", "TSTS", "TSTT", "TTTT"]),
        ("prefix", "STSS", "TTTT", ["TTSS", "TTTS", "TTTT"]),
        ("suffix", "SSSS", "TTSS", ["STSS", "TTSS"]),
        ([4, 3, 2, 1], "SSTS", "SSTT", ["SSTT"]),
    ],
)  # fmt: skip
def test_blocks_that_are_there_or_not_wanted_are_passed_over(order, start, goal, steps):
    assert plan_order(order, start, goal, None, lambda name: 1) == steps


def test_wrong_orders():
    for order in ("best ", "Prefix", (1, 2), (1, 2, 2), 5, None, ("a", 1, 2), (1, None, 2)):
        with pytest.raises(CompositionError, match="loading order"):
            plan_order(order, "SSS", "TTT", None, lambda name: 1)
    with pytest.raises(StreamingError, match=r"'best': no measured lattice.*measure it"):
        plan_order("best", "SSS", "TTT", None, lambda name: 1)


def test_best_composition_is_the_most_accurate_that_fits():
    choose = random.Random(3)
    for _ in range(30):
        accuracy, _ = problem(4, choose)
        start = choose.choice(all_compositions(4))
        memory = {c: choose.randrange(100) for c in all_compositions(4)}
        fitting = [c for c in all_compositions(4) if covers(c, start) and memory[c] < 50]
        best = best_composition(accuracy, start, lambda c: memory[c] < 50)  # noqa: B023
        assert best == (max(fitting, key=accuracy.__getitem__) if fitting else start)
        most = best_composition(None, start, lambda c: memory[c] < 50)  # noqa: B023
        assert most == (max(fitting, key=lambda c: (c.count("T"), c)) if fitting else start)


def test_best_composition_of_very_many_blocks():
    start = "S" * 500 + "T" + "S" * 499
    assert best_composition(None, start, lambda c: c.count("T") <= 10) == "T" * 9 + start[9:]
    assert best_composition(None, start, lambda c: False) == start
