"""Chapter 10 at a size that a chapter has no time for: five seeds with a teacher each, larger budgets, rates tuned alike.

    python benchmarks/transformers.py                   # both tasks: measured, 55 minutes of one slow core
    python benchmarks/transformers.py --max-minutes 10  # a slice of it; call it again to go on
    python benchmarks/transformers.py --only parity --out runs/transformers

Writes data/benchmarks/transformers.json after every method, and goes on from what stands there. Teachers are trained again
in every call, as their checkpoints are not kept; a hash in the file says whether they were the same.
"""

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from slices import options, side_by_side, tuned
from torch.nn.functional import cross_entropy

from pwl_lite.blocknet import BlockNet, state_hash
from pwl_lite.errors import TrainingError
from pwl_lite.files import write_atomically
from pwl_lite.grammar import Grammar
from pwl_lite.language import TransformerConfig, after_start, divergence, transformer
from pwl_lite.language_training import SequenceLog, SequenceSettings, Stream, language_stream, parity_stream, train_sequences
from pwl_lite.objectives import KD, CurriculumExtraction, Objective, PCACurriculum, ProgressiveCheckpoints, Supervised
from pwl_lite.parity import SparseParity, correlations, phase_transition, vote
from pwl_lite.records import environment

EXTRACTIONS: dict[str, dict[str, Any]] = {  # options of the first block's stage
    "extraction": {},
    "extraction, no projection": {"projection": "none"},
    "extraction, sign": {"projection": "sign"},
    "extraction, orthogonal": {"projection": "orthogonal"},
    "extraction, pca": {"projection": "pca"},
    "extraction, 4 numbers": {"dim": 4},
    "extraction, cosine": {"loss": "cosine"},
}
CHECKPOINTS = {  # which of the teacher's come first
    "checkpoint before": "before",
    "progressive": "inside",
    "checkpoint after": "after",
    "progressive, a grid": "grid",
}
METHODS = ("cross entropy", "one-shot", *CHECKPOINTS, *EXTRACTIONS, "principal components in steps")
ON_LANGUAGE = tuple(m for m in METHODS if m not in ("extraction, sign", "extraction, orthogonal", "extraction, cosine"))
ALONE = {"alpha": 1.0, "temperature": 1.0}  # the teacher's word alone, as in the papers


@dataclass(frozen=True)
class Sizes:
    """Of one task.

    Attributes:
        budget: most samples of a student.
        teacher_budget: most samples of a teacher.
        first: share of a student's budget for all stages before the last.
        log_every: samples between entries of the log.
        rates: learning rates that are tried for every method; see `tuned` for those beyond.
        tuning_seeds: how many other students (of the first teacher) each rate is tried on.
        methods: what is trained.
    """

    budget: int
    teacher_budget: int
    first: float
    log_every: int = 800
    rates: tuple[float, ...] = (0.003, 0.01, 0.03)
    tuning_seeds: int = 2
    methods: tuple[str, ...] = METHODS


class Parity:
    """The parity of chapter 10: bits are tokens, each has a vector of its own at each place."""

    sizes = Sizes(budget=38_400, teacher_budget=76_800, first=0.125)
    figure = "samples to 99 %"

    def __init__(self, n: int = 12, k: int = 3):
        self.about = {"n": n, "k": k}
        self.task = SparseParity(n, k, seed=0)
        self.bits, self.labels = self.task.sample(1024, torch.Generator().manual_seed(2**31 - 1))
        self.stream: Stream = parity_stream(self.task)

    def network(self, width: int, seed: int) -> BlockNet:
        return transformer(TransformerConfig(2, self.task.n, width=width, heads=width // 8, joint=True), seed)

    def know(self, net: BlockNet) -> dict[str, float]:
        logits = net((self.bits > 0).long())
        single = [(bit,) for bit in self.task.support]
        return {
            "accuracy": (logits.argmax(1) == self.labels).float().mean().item(),
            "support": correlations(vote(logits), self.bits, single).values.abs().mean().item(),
            "loss": cross_entropy(logits, self.labels).item(),
        }

    def finished(self, known: dict[str, float]) -> bool:
        """Of a teacher; a student is finished earlier."""
        return known["loss"] < 0.01

    def reached(self, known: dict[str, float]) -> bool:
        return known["accuracy"] >= 0.99

    def moments(self, log: SequenceLog) -> dict[str, list[int]]:
        """Inside the transition the vote leans on support bits most; see `phase_transition` for before and after."""
        found = phase_transition(log.values["accuracy"], log.values["support"])
        return {"before": [found.before], "inside": [found.inside], "after": [found.after]}

    def result(self, log: SequenceLog) -> float:
        return log.samples_to("accuracy", 0.99)


class Language:
    """The grammar of chapter 10: the next token is told at every place."""

    sizes = Sizes(budget=51_200, teacher_budget=76_800, first=0.1, log_every=1600, methods=ON_LANGUAGE)
    figure = "excess in the end"

    def __init__(self, levels: int = 3, symbols: int = 6):
        self.about = {"levels": levels, "symbols": symbols}
        self.grammar = Grammar.random(levels=levels, symbols=symbols, weights=(0.6, 0.4), seed=0)
        test = self.grammar.sample(256, torch.Generator().manual_seed(2**31 - 1)).tokens
        self.inputs = after_start(test, self.grammar.vocabulary)
        self.exact = self.grammar.next_token(test)
        self.knowers = [self.grammar.next_token(test, height=height) for height in range(levels + 1)]
        self.stream: Stream = language_stream(self.grammar)

    def network(self, width: int, seed: int) -> BlockNet:
        sizes = {"width": width, "heads": width // 8, "num_classes": self.grammar.vocabulary, "answers": "all"}
        return transformer(TransformerConfig(self.grammar.vocabulary + 1, self.grammar.length, **sizes), seed)

    def know(self, net: BlockNet) -> dict[str, float]:
        logits = net(self.inputs)
        known = {f"from knower {h}": divergence(k, logits).mean().item() for h, k in enumerate(self.knowers)}
        return {"excess": divergence(self.exact, logits).mean().item(), **known}

    def finished(self, known: dict[str, float]) -> bool:
        """Never: there is always something left to learn."""
        return False

    reached = finished

    def moments(self, log: SequenceLog) -> dict[str, list[int]]:
        """Inside: most like those who know subtrees of height 1, and 2; before: of height 0; after: half-way from 2 to the end.

        A language is not learnt at once, so there is no plateau: these are the grammar's own stages. Height 0 is passed so soon
        that "before" may be the first entry of the log, and the same as that of height 1.
        """
        entries = range(1, len(log.samples))
        near = [min(entries, key=log.values[f"from knower {h}"].__getitem__) for h in (0, 1, 2)]
        return {"before": near[:1], "inside": near[1:], "after": [(near[2] + entries[-1]) // 2]}

    def result(self, log: SequenceLog) -> float:
        return log.values["excess"][-1]


Task = Parity | Language


@dataclass(frozen=True)
class Teacher:
    """A trained network, and what a curriculum may take from its training."""

    network: BlockNet
    log: SequenceLog
    moments: dict[str, list[int]]

    def at(self, moment: str) -> list[BlockNet]:
        return [self.log.checkpoints[entry] for entry in self.moments[moment]]


def teacher_of(task: Task, seed: int, sizes: Sizes) -> Teacher:
    """Train the teacher of one seed, four heads of size 8."""
    net = task.network(32, 100 + seed)
    settings = SequenceSettings(sizes.teacher_budget, lr=3e-3, log_every=sizes.log_every, keep=True)
    log = train_sequences(Supervised(net), net, task.stream, settings, task.know, 100 + seed, task.finished)
    last = len(log.samples) - 1
    grid = [round(last * i / 6) for i in range(1, 6)]  # five checkpoints evenly over the teacher's training
    return Teacher(net, log, {**task.moments(log), "grid": grid})


def objective_of(method: str, teacher: Teacher, student: BlockNet, first: float, seed: int) -> Objective:
    """A method for one student; what it draws is decided by the seed."""
    if method == "cross entropy":
        return Supervised(student)
    if method == "one-shot":
        return KD(teacher.network, student, **ALONE)
    if method in CHECKPOINTS:
        early = teacher.at(CHECKPOINTS[method])
        shares = [first / len(early)] * len(early)
        return ProgressiveCheckpoints([*early, teacher.network], student, [*shares, 1 - first], **ALONE)
    if method == "principal components in steps":  # a hint beside the outputs, on the same block
        return PCACurriculum(teacher.network, student, block=1, until=first, **ALONE)
    return CurriculumExtraction(teacher.network, student, shares=[first], seed=seed, **EXTRACTIONS[method], **ALONE)


def student_of(task: Task, method: str, teacher: Teacher, lr: float, seed: int, sizes: Sizes) -> SequenceLog:
    """Train a student with two heads of size 8."""
    student = task.network(16, seed)
    torch.manual_seed(seed)  # of an objective's learned maps; projections have a seed of their own
    objective = objective_of(method, teacher, student, sizes.first, seed)
    settings = SequenceSettings(sizes.budget, lr=lr, log_every=sizes.log_every)
    return train_sequences(objective, student, task.stream, settings, task.know, seed, task.reached)


def trained(task: Task, method: str, teachers: Sequence[Teacher], sizes: Sizes) -> dict[str, Any]:
    """Choose the learning rate on other seeds, train a student for each teacher, and tell what came of it."""
    begin, tries = time.perf_counter(), {}

    def score(lr: float) -> tuple[float, float]:
        try:
            logs = [student_of(task, method, teachers[0], lr, 1000 + i, sizes) for i in range(sizes.tuning_seeds)]
        except TrainingError:  # a loss that is no number any more: the rate is too large
            tries[lr] = [math.inf] * sizes.tuning_seeds
            return math.inf, math.inf
        tries[lr] = [task.result(log) for log in logs]
        # who does not get there counts as twice the budget; where none does, the loss says which rate came closest
        return (
            statistics.fmean(min(result, 2 * sizes.budget) for result in tries[lr]),
            statistics.fmean(log.values.get("loss", [0.0])[-1] for log in logs),
        )

    scores = tuned(sizes.rates, score)
    lr = min(scores, key=scores.__getitem__)
    logs = [student_of(task, method, teacher, lr, seed, sizes) for seed, teacher in enumerate(teachers)]
    return {
        "lr": lr,
        task.figure: [finite(task.result(log)) for log in logs],
        "tries": {str(rate): [finite(result) for result in found] for rate, found in tries.items()},
        "samples": max((log.samples for log in logs), key=len),
        "curves": {name: [[round(v, 4) for v in log.values[name]] for log in logs] for name in logs[0].values},
        "seconds": round(time.perf_counter() - begin, 1),
    }


def finite(value: float) -> float | None:
    """None (null in the file) for what was not reached."""
    return round(value, 4) if math.isfinite(value) else None


def measure(
    name: str,
    task: Task,
    sizes: Sizes,
    seeds: int,
    path: Path,
    minutes: float,
    jobs: int = 1,
    say: Callable[[str], None] = print,
) -> bool:
    """Train what is not yet in the file; True when all is there."""
    found = json.loads(path.read_text()) if path.exists() else {"environment": environment("cpu"), "tasks": {}}
    settings = json.loads(json.dumps({**task.about, **asdict(sizes), "seeds": seeds}))  # as they come back from the file
    entry = found["tasks"].setdefault(name, {"settings": settings, "methods": {}})
    if entry["settings"] != settings:
        sys.exit(f"{path}: {name} was measured with other settings; choose another --out, or delete the file")
    begin, methods = time.perf_counter(), entry["methods"]
    left = [method for method in sizes.methods if method not in methods]
    if left and minutes > 0:
        teachers = [teacher_of(task, seed, sizes) for seed in range(seeds)]
        entry["teachers"] = {
            "state": [state_hash(teacher.network) for teacher in teachers],
            "samples": [teacher.log.samples[-1] for teacher in teachers],
            "checkpoints": {m: [[t.log.samples[e] for e in t.moments[m]] for t in teachers] for m in CHECKPOINTS.values()},
            "in the end": [{k: round(v[-1], 4) for k, v in teacher.log.values.items()} for teacher in teachers],
        }
        say(f"{name}: teachers, {time.perf_counter() - begin:.0f} s")

        def work(method: str) -> dict[str, Any]:
            return trained(task, method, teachers, sizes)

        for method, result in side_by_side(work, left, jobs, begin + 60 * minutes):
            methods[method] = result
            entry["methods"] = {m: methods[m] for m in sizes.methods if m in methods}
            write_atomically(path, json.dumps(found) + "\n")
            say(f"{name}: {method}: {task.figure}: {result[task.figure]}")
    if len(methods) < len(sizes.methods):
        say(f"{minutes:g} minutes are over; call again to go on")
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    tasks = {"parity": Parity, "language": Language}
    chosen = options(__doc__, "task", list(tasks), "transformers.json", arguments)
    torch.set_num_threads(1)  # the products are too small to share
    end = time.perf_counter() + 60 * chosen.max_minutes
    for name in chosen.only:
        path, left = chosen.out / "transformers.json", (end - time.perf_counter()) / 60
        if not measure(name, tasks[name](), tasks[name].sizes, chosen.seeds, path, left, chosen.jobs):
            break


if __name__ == "__main__":
    main()
