"""Sparse parity at a size that a chapter has no time for: all methods of chapter 9, and how they grow with bits and width.

    python benchmarks/parity.py                       # all points: measured, 50 minutes of one slow core
    python benchmarks/parity.py --max-minutes 10      # a slice of it; call it again to go on
    python benchmarks/parity.py --only n=50,k=5,width=32 --out runs/parity

Writes data/benchmarks/parity.json after every training, and goes on from what stands there: methods that are done are not
trained again. Only the teachers are, once for each point in a call, as their checkpoints are not kept; a seed gives the same
teacher on the same machine and number of threads, and a hash in the file says whether it was the same.
"""

import hashlib
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from slices import options, side_by_side, tuned

from pwl_lite.files import write_atomically
from pwl_lite.parity import SparseParity, Stack
from pwl_lite.parity_training import Hidden, Labels, Outputs, Stage, StreamLog, StreamSettings, train_stream
from pwl_lite.records import environment

DIMS = (4, 32, 128)
LENGTHS = (3200, 6400, 25_600)
EXTRACTIONS: dict[str, dict[str, Any]] = {  # options of the hidden layer's stage
    **{
        f"extraction, {kind}, {dim}": {"projection": kind, "dim": dim}
        for kind in ("gaussian", "sign", "orthogonal", "pca")
        for dim in DIMS
    },
    "extraction, no projection": {"projection": "none"},
    "extraction, pca in steps": {"projection": "pca", "steps": 4},
    "extraction, until it has settled": {"patience": 3},
    "extraction, cosine": {"loss": "cosine"},
    "extraction, no readout": {"readout": False},
    **{f"extraction, {length:,} samples": {"samples": length} for length in LENGTHS},
}
ONE_SHOT: dict[str, dict[str, float]] = {  # options of the teacher's outputs
    "one-shot": {},
    "one-shot, temperature 4": {"temperature": 4.0},
    "one-shot, half labels": {"alpha": 0.5},
}
ACROSS = {"progressive, the transition": 1, "progressive, the transition, slowly": 5}  # how many first stages long
ALL = (
    "cross entropy",
    *ONE_SHOT,
    "two checkpoints: before",
    "two checkpoints: inside",
    "two checkpoints: after",
    "progressive, a grid",
    *ACROSS,
    *EXTRACTIONS,
)
SLOPE = ("cross entropy", "one-shot", "two checkpoints: inside", "extraction, gaussian, 32")
LAYERS = {"extraction, layer 1": (1,), "extraction, layer 2": (2,), "extraction, layer after layer": (1, 2)}


@dataclass(frozen=True)
class Point:
    """One task and one pair of networks.

    Of each method's curve the record keeps accuracy and the vote's mean correlation with a support bit, one row a seed.

    Attributes:
        n, k: bits, and how many of them count.
        width: hidden units of the students.
        methods: what is trained.
        teacher_width: hidden units of the teachers.
        budget: most samples of a student, a first stage of the length `first` included; a longer one comes on top.
        teacher_budget: most samples of a teacher.
        first: samples of a first stage.
        rates: learning rates that are tried for every method, on seeds of their own; see `tuned` for those beyond.
        tuning_budget: most samples of a try.
        hidden_layers: of teachers and students.
    """

    n: int = 50
    k: int = 5
    width: int = 32
    methods: tuple[str, ...] = ALL
    teacher_width: int = 256
    budget: int = 3_200_000
    teacher_budget: int = 3_200_000
    first: int = 12_800
    rates: tuple[float, ...] = (0.25, 0.5, 1.0)
    tuning_budget: int = 1_280_000
    hidden_layers: int = 1

    @property
    def name(self) -> str:
        name = f"n={self.n},k={self.k},width={self.width}"
        return name if self.hidden_layers == 1 else f"{name},layers={self.hidden_layers}"


SMALLER = Point(methods=SLOPE, budget=1_280_000, tuning_budget=640_000)
POINTS = (
    Point(),
    *(replace(SMALLER, n=n) for n in (20, 30, 40)),
    *(replace(SMALLER, n=30, width=width) for width in (16, 64)),
    replace(SMALLER, n=30, hidden_layers=2, methods=(*SLOPE[:3], *LAYERS)),
)


class Teachers:
    """The teachers of a point: trained until all are finished, with their checkpoints."""

    def __init__(self, point: Point, seeds: Sequence[int], log_every: int):
        self.point, self.task = point, SparseParity(point.n, point.k, seed=0)
        sizes = {"width": point.teacher_width, "hidden_layers": point.hidden_layers}
        settings = StreamSettings(lr=0.5, log_every=log_every, stop_at=0.99, **sizes)
        begin = time.perf_counter()
        own = [100 + seed for seed in seeds]
        slowest = train_stream(self.task, [Labels(point.teacher_budget)], settings, own).samples[-1]
        # again, and half as long again: a teacher that has just learnt it is not yet sure of itself
        self.log = train_stream(self.task, [Labels(slowest * 3 // 2)], replace(settings, keep=True, stop_at=0.0), own)
        self.seconds = time.perf_counter() - begin
        self.transitions = self.log.transitions()
        self.final = self.log.checkpoint([len(self.log.checkpoints) - 1] * len(seeds))
        self.sha256 = hashlib.sha256(b"".join(p.numpy().tobytes() for p in self.final.parameters)).hexdigest()

    def at(self, moment: str) -> Stack:
        return self.log.checkpoint([getattr(t, moment) for t in self.transitions])

    def support_inside(self) -> list[float]:
        """For each seed: the vote's mean correlation with a support bit inside the transition."""
        support = self.log.bits[..., list(self.task.support)].abs().mean(-1)
        return [round(support[t.inside, seed].item(), 3) for seed, t in enumerate(self.transitions)]

    def across(self, count: int) -> list[list[int]]:
        """So many entries of each seed's log, evenly from the first accuracy of 0.55 to the end of its transition."""
        rises = [(self.log.accuracy[:, seed] >= 0.55).int().argmax().item() for seed in range(len(self.transitions))]
        ends = [(rise, t.after) for rise, t in zip(rises, self.transitions)]
        return [[round(a + (b - a) * i / (count - 1)) for a, b in ends] for i in range(count)]

    def stages(self, method: str, budget: int) -> list[Stage]:
        """A method as a list of stages, see chapter 9."""
        first = self.point.first
        rest = Outputs(self.final, budget - first)
        if method == "cross entropy":
            return [Labels(budget)]
        if method in ONE_SHOT:
            return [Outputs(self.final, budget, **ONE_SHOT[method])]
        if method in ACROSS:  # the teacher's plateau is left out
            pace = ACROSS[method] * first // 5
            return [*(Outputs(self.log.checkpoint(entries), pace) for entries in self.across(5)), rest]
        if method in LAYERS:
            layers = LAYERS[method]
            return [*(Hidden(self.final, first // len(layers), layer, dim=32) for layer in layers), rest]
        if method == "progressive, a grid":  # ten checkpoints evenly over the teacher's training, at the teacher's pace
            last = len(self.log.checkpoints) - 1
            entries = [round(last * i / 11) for i in range(1, 11)]
            pace = self.log.samples[-1] // 11
            return [*(Outputs(self.log.checkpoint([e] * len(self.final)), pace) for e in entries), rest]
        kind, _, option = method.partition(": ")
        if kind == "two checkpoints":
            return [Outputs(self.at(option), first), rest]
        most = budget // 4 if EXTRACTIONS[method].get("patience") else first  # of the first stage
        return [Hidden(self.final, **{"samples": most, **EXTRACTIONS[method]}), rest]


def trained(teachers: Teachers, method: str, seeds: Sequence[int], log_every: int) -> dict[str, Any]:
    """Choose the learning rate on other seeds, train, and tell what came of it."""
    point, begin = teachers.point, time.perf_counter()

    def run(lr: float, seeds: Sequence[int], budget: int) -> StreamLog:
        sizes = {"width": point.width, "hidden_layers": point.hidden_layers}
        settings = StreamSettings(lr=lr, log_every=log_every, stop_at=0.99, **sizes)
        return train_stream(teachers.task, teachers.stages(method, budget), settings, seeds)

    def score(lr: float) -> tuple[float, float]:
        log = run(lr, [1000 + seed for seed in seeds], point.tuning_budget)
        return statistics.median(log.samples_to()), -log.accuracy[-1].mean().item()

    tries = tuned(point.rates, score) if len(point.rates) > 1 else {}
    lr = min(tries, key=tries.__getitem__) if tries else point.rates[0]
    log = run(lr, seeds, point.budget)
    found = log.samples_to()
    return {
        "lr": lr,
        "samples to 99 %": [None if math.isinf(s) else int(s) for s in found],  # null: not within the budget
        "budget": sum(stage.samples for stage in teachers.stages(method, point.budget)),
        "curve": thinned(log),
        "accuracy at the end": [round(a, 4) for a in log.accuracy[-1].tolist()],
        "tries": {str(lr): None if math.isinf(m) else int(m) for lr, (m, _) in tries.items()},
        "seconds": round(time.perf_counter() - begin, 1),
    }


def thinned(log: StreamLog, factor: float = 1.2, moved: float = 0.05) -> dict[str, Any]:
    """A log's curves, for each seed, at entries a factor apart or where one has moved, and where its support is highest."""
    support = log.bits[..., list(log.task.support)].abs().mean(-1)
    values = torch.cat([log.accuracy, support], 1)
    entries = [0]
    for entry, samples in enumerate(log.samples[1:], start=1):
        last = entries[-1]
        if samples >= factor * log.samples[last] or (values[entry] - values[last]).abs().max() > moved:
            entries.append(entry)
    entries = sorted({*entries, len(log.samples) - 1, *support.argmax(0).tolist()})
    return {
        "samples": [log.samples[entry] for entry in entries],
        "accuracy": [[round(v, 3) for v in row] for row in log.accuracy[entries].T.tolist()],
        "support": [[round(v, 3) for v in row] for row in support[entries].T.tolist()],
    }


def measure(
    points: Sequence[Point],
    path: Path,
    seeds: Sequence[int],
    log_every: int,
    minutes: float,
    jobs: int = 1,
    say: Callable[[str], None] = print,
) -> bool:
    """Train what is not yet in the file; True when all is there."""
    found = json.loads(path.read_text()) if path.exists() else {"environment": environment("cpu"), "points": {}}
    end = time.perf_counter() + 60 * minutes
    for point in points:
        settings = {**asdict(point), "seeds": list(seeds), "log_every": log_every}
        settings = json.loads(json.dumps(settings))  # as they come back from the file
        entry = found["points"].setdefault(point.name, {"settings": settings, "methods": {}})
        if entry["settings"] != settings:
            sys.exit(f"{path}: {point.name} was measured with other settings; choose another --out, or delete the file")
        left = [m for m in point.methods if m not in entry["methods"]]
        if left and time.perf_counter() < end:
            teachers = Teachers(point, seeds, log_every)
            entry["teacher"] = {
                "samples to 99 %": [int(s) for s in teachers.log.samples_to()],
                "support inside": teachers.support_inside(),
                "sha256": teachers.sha256,
                "seconds": round(teachers.seconds, 1),
            }
            say(f"{point.name}: teachers, {teachers.seconds:.0f} s")
            work = partial(trained, teachers, seeds=seeds, log_every=log_every)
            for method, result in side_by_side(work, left, jobs, end):
                done = entry["methods"] | {method: result | {"teacher": teachers.sha256}}
                entry["methods"] = {m: done[m] for m in point.methods if m in done}  # in the order of the point
                write_atomically(path, json.dumps(found, indent=1) + "\n")
                say(f"{point.name}: {method}: {result['samples to 99 %']}")
        if len(entry["methods"]) < len(point.methods):
            say(f"{minutes:g} minutes are over; call again to go on")
            return False
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    names = [point.name for point in POINTS]
    chosen = options(__doc__, "point", names, "parity.json", arguments)
    torch.set_num_threads(1)  # the products are too small to share
    points = [point for point in POINTS if point.name in chosen.only]
    measure(points, chosen.out / "parity.json", range(chosen.seeds), 3200, chosen.max_minutes, chosen.jobs)


if __name__ == "__main__":
    main()
