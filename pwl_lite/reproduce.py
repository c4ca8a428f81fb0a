"""`pwl reproduce`: teacher, plain KD student and PWL student of one profile, as records and weights on disk."""

import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from .blocknet import BlockNet, block_macs, num_bytes, num_params
from .datasets import Dataset, load_dataset
from .errors import UnknownNameError
from .evaluation import accuracy, evaluate_lattice
from .hardware import default_device
from .networks import build_network, whiten_stem
from .objectives import KD, Objective, ProgressiveDistillation, Supervised
from .profiles import Profile, get_profile
from .records import Record, environment
from .store import save_blocks
from .swapnet import SwapNet
from .training import Recipe, resolve, train

STORED = torch.float16  # shipped weights have half the bytes; what is recorded is the accuracy of exactly these


def reproduce(
    profile: str | Profile,
    dataset: str | Dataset | None = None,
    family: str | None = None,
    seed: int = 0,
    teacher_seed: int | None = None,
    resume: bool = False,
    max_minutes: float | None = None,
    root: str | Path = "runs",
    progress: bool | None = None,
    save_weights: bool = True,
) -> dict[str, Record]:
    """Train and measure what a profile describes: teacher, student by plain KD, student by PWL for the same steps.

    Args:
        profile: `quick`, `cifar` or `paper`, or a profile of your own.
        dataset: a name for `load_dataset` or a data set; by default the profile's.
        family: of the networks; by default VGG, or that of a profile of your own.
        seed: of the students (start, order of the images, draws), and of the teacher unless `teacher_seed` is given.
        teacher_seed: use, or first train, the teacher of this seed.
        resume: go on where an interrupted call stopped, at the last finished epoch.
        max_minutes: stop where one more epoch would take longer than this in all; call again with `resume`.
        root: gets `results/` (records), `weights/` (shards) and `cache/checkpoints/`.
        progress: as in `train`.
        save_weights: write the shards of the PWL pair.

    Returns:
        The records `teacher`, `kd` and `pwl`; each is also written as soon as it is measured. Accuracies are those of the last
        epoch on the full test split.

    Raises:
        UnknownNameError, DataError, TrainingError, SaveError: as the parts do.
        TrainingPaused: `max_minutes` are used up before the last epoch.
    """
    if isinstance(profile, str):
        profile = get_profile(profile, family or "vgg")
    if family not in (None, profile.family):
        raise UnknownNameError("family", family, [profile.family])
    configs = profile.pair
    data = dataset if isinstance(dataset, Dataset) else load_dataset(dataset or profile.dataset)
    teacher_seed = seed if teacher_seed is None else teacher_seed
    run = _Reproduction(profile, data, Path(root), progress, max_minutes)

    teacher = run.network(configs[0], teacher_seed)
    history = run.train("teacher", Supervised(teacher), profile.teacher, teacher_seed, resume or teacher_seed != seed)
    round_weights(teacher, STORED)
    lattice = {"T" * teacher.num_blocks: accuracy(teacher, run.test)}
    records = {"teacher": run.record("teacher", teacher_seed, Supervised(teacher), history, lattice, teacher=teacher)}

    student = run.network(configs[1], seed)
    kd = KD(teacher, student)
    history = run.train("kd", kd, profile.student, seed, resume)
    round_weights(student, STORED)
    lattice = {"S" * student.num_blocks: accuracy(student, run.test)}
    records["kd"] = run.record("kd", seed, kd, history, lattice, teacher=teacher, student=student)

    with torch.random.fork_rng():
        torch.manual_seed(seed)  # of the converters; the student starts as the KD student did
        net = SwapNet(teacher, run.network(configs[1], seed))
    pwl = ProgressiveDistillation(net, **profile.progressive)
    history = run.train("pwl", pwl, profile.student, seed, resume)
    round_weights(net, STORED)
    table = evaluate_lattice(net, run.test).set_index("composition")
    lattice = table.accuracy.to_dict()
    weights = run.name(seed) if save_weights else None
    if weights:
        about = {"classes": data.classes, "mean": data.mean, "std": data.std}
        extra = {"lattice": lattice, "run": weights, "data_sha256": data.sha256}
        save_blocks(net, run.root / "weights" / weights, **about, dtype=STORED, extra=extra)
    records["pwl"] = run.record(
        "pwl", seed, pwl, history, lattice, teacher=teacher, student=net.student, weights=weights, table=table
    )
    return records


def fresh_network(config: dict[str, Any], data: Dataset, seed: int) -> BlockNet:
    """An untrained network for the classes of `data`: weights by `seed`, the stem, if any, whitened on training images."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = build_network({**config, "num_classes": data.num_classes})
    sample = data.train.subset(min(5000, len(data.train)))
    whiten_stem(net, sample.normalise(sample.images))
    return net


def round_weights(module: nn.Module, dtype: torch.dtype) -> None:
    """Round all weights with two or more dimensions to what `dtype` can hold, in place, as `save_blocks(dtype=)` does."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.to(dtype))


class _Reproduction:
    """What the three trainings of one call share."""

    def __init__(self, profile: Profile, data: Dataset, root: Path, progress: bool | None, max_minutes: float | None):
        self.profile, self.data, self.root, self.progress = profile, data, root, progress
        self.device = default_device()
        self.deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self.test = data.test.to(self.device)

    def name(self, seed: int) -> str:
        return f"{self.data.name}-{self.profile.family}-{self.profile.name}-seed{seed}"

    def network(self, config: dict[str, Any], seed: int) -> BlockNet:
        return fresh_network(config, self.data, seed).to(self.device)

    def train(self, experiment: str, objective: Objective, recipe: Recipe, seed: int, resume: bool) -> list[dict[str, Any]]:
        checkpoint = self.root / "cache" / "checkpoints" / f"{experiment}-{self.name(seed)}.pt"
        recipe = replace(recipe, seed=seed)
        left = None if self.deadline is None else max(0.0, self.deadline - time.monotonic()) / 60
        options = {"checkpoint": checkpoint, "resume": resume, "max_minutes": left, "progress": self.progress}
        return train(objective, self.data, recipe, **options)

    def record(
        self,
        experiment: str,
        seed: int,
        objective: Objective,
        history: list[dict[str, Any]],
        lattice: dict[str, float],
        teacher: BlockNet,
        student: BlockNet | None = None,
        weights: str | None = None,
        table: pd.DataFrame | None = None,
    ) -> Record:
        profile = self.profile.with_seed(seed)
        recipe = resolve(profile.teacher if experiment == "teacher" else profile.student, self.device)
        record = Record(
            experiment=experiment,
            run=self.name(seed),
            profile=self.profile.name,
            dataset=self.data.name,
            family=self.profile.family,
            seed=seed,
            objective=objective.settings(),
            recipe=asdict(recipe),
            teacher=_size(teacher),
            student=_size(student) if student is not None else None,
            lattice={composition: round(percent, 2) for composition, percent in lattice.items()},
            agreement={} if table is None else table.agreement.round(2).to_dict(),
            costs={} if table is None else table[["bytes", "macs"]].to_dict("index"),
            history=history,
            weights=weights,
            environment=environment(self.device, self.data.sha256),
            seconds=round(sum(epoch["seconds"] for epoch in history), 1),
            finished=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        record.save(self.root / "results")
        return record


def _size(net: BlockNet) -> dict[str, Any]:
    return {"params": num_params(net), "bytes": num_bytes(net), "macs": sum(block_macs(net)), "config": net.config}
