"""Runs: trainings of one profile's teacher and students, as records and weights on disk; `pwl reproduce` is three of them."""

import contextlib
import copy
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from .blocknet import BlockNet, block_macs, num_bytes, num_params, state_hash
from .datasets import Dataset, load_dataset
from .distributed import processes
from .errors import RecordError, StoreError, TrainingError, UnknownNameError
from .evaluation import accuracy, evaluate_lattice, recalibrated
from .hardware import default_device
from .networks import build_network, whiten_stem
from .objectives import Objective, Supervised, build_objective
from .precision import round_weights
from .profiles import Config, Profile, get_profile
from .records import Record, data_folder, environment, load_record
from .stitching import fit_converters
from .store import load_blocks, save_blocks
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
        teacher_seed: use, or first train, the teacher of this seed; its weights are taken from `root`, or from those that come
            with the package.
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
    data = dataset if isinstance(dataset, Dataset) else load_dataset(dataset or profile.dataset)
    teacher_seed = seed if teacher_seed is None else teacher_seed
    runner = Runner(profile, data, root=root, progress=progress, max_minutes=max_minutes)
    stored = runner.stored_teacher(teacher_seed) if teacher_seed != seed else None
    teacher, record = stored or runner.teacher(teacher_seed, resume or teacher_seed != seed)
    kd = runner.student("kd", {"name": "kd"}, teacher, seed, resume)
    progressive = {"name": "progressive", **profile.progressive}
    return {"teacher": record, "kd": kd, "pwl": runner.student("pwl", progressive, teacher, seed, resume, save_weights)}


def run_name(dataset: str, profile: Profile, seed: int) -> str:
    """Of a run, such as `cifar10-vgg-cifar-seed0`."""
    return f"{dataset}-{profile.family}-{profile.name}-seed{seed}"


class Runner:
    """Trains and measures the networks of one profile on one data set.

    Args:
        profile: networks and recipes.
        data: what to train and to measure on.
        root, progress, max_minutes: as in `reproduce`.
    """

    def __init__(
        self,
        profile: Profile,
        data: Dataset,
        root: str | Path = "runs",
        progress: bool | None = None,
        max_minutes: float | None = None,
    ):
        self.profile, self.root, self.progress = profile, Path(root), progress
        self.device = default_device()
        self.deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self.measure_on(data)

    def measure_on(self, data: Dataset) -> None:
        """Take other data from here on."""
        self.data, self.test = data, data.test.to(self.device)

    def name(self, seed: int) -> str:
        """Of a run with that seed, see `run_name`."""
        return run_name(self.data.name, self.profile, seed)

    def teacher(
        self, seed: int, resume: bool = False, experiment: str = "teacher", flips: bool = False, save_weights: bool = False
    ) -> tuple[BlockNet, Record]:
        """The trained teacher, its weights rounded as they are shipped, and its record.

        With `flips`, a second record, `<experiment>-flips`, holds its accuracy with test-time flips (see `predict`). With
        `save_weights`, `stored_teacher` finds it from now on; shards of a pair that have its name are replaced.
        """
        net = self._network(0, seed)
        objective = Supervised(net)
        recipe = replace(self.profile.teacher, seed=seed)
        history = self._train(experiment, objective, recipe, resume)
        round_weights(net, STORED)
        all_teacher = "T" * net.num_blocks

        def record(name: str, weights: str | None = None, **about: bool) -> Record:
            lattice = {all_teacher: accuracy(net, self.test, **about)}
            return self._record(name, objective, recipe, history, lattice, teacher=net, about=about, weights=weights)

        if flips:
            record(f"{experiment}-flips", flips=True)
        return net, record(experiment, self._save(net, seed) if save_weights else None)

    def stored_teacher(self, seed: int) -> tuple[BlockNet, Record] | None:
        """The teacher that an earlier run has left in `root`, or that comes with the package; None if there is none."""
        name = self.name(seed)
        for folder in (self.root, data_folder()):
            with contextlib.suppress(RecordError, StoreError):
                record = load_record("teacher", name, folder / "results")
                stored = load_blocks(folder / "weights" / name)
                net = (stored.teacher if isinstance(stored, SwapNet) else stored).to(self.device)
                same_network = record.teacher["config"] == net.config == self._network(0, seed).config
                of_machine = {key: record.recipe[key] for key in ("precision", "channels_last")}  # what they were there
                same_recipe = Recipe(**record.recipe) == replace(self.profile.teacher, seed=seed, **of_machine)
                if same_network and same_recipe and record.environment["data_sha256"] == self.data.sha256:
                    return net, record
        return None

    def student(
        self,
        experiment: str,
        objective: dict[str, Any],
        teacher: BlockNet,
        seed: int,
        resume: bool = False,
        save_weights: bool = False,
        start: str | None = None,
        stitch: bool = False,
        recalibrate: bool = False,
        training_of: str | None = None,
        curve: bool = False,
        **changes: Any,
    ) -> Record:
        """Train a student and record it.

        Args:
            experiment: folder of the record.
            objective: `name` and settings, see `build_objective`.
            teacher: as `teacher()` gives it.
            seed: of start, order of the images, and draws.
            resume: go on from the checkpoint if there is one.
            save_weights: write the shards of a network of both.
            start: begin with the student of this seed of another experiment, instead of a fresh one.
            stitch: fit the converters by least squares on 1,000 training images: before the training of an objective that
                has converters, after that of another, so that its student can be swapped too.
            recalibrate: measure each composition with student norms that are estimated for it (`evaluation.recalibrated`).
            training_of: another experiment that trains the same: its checkpoint is taken, nothing is trained twice.
            curve: measure the student after each epoch; its accuracy stands in the record's history.
            changes: to the profile's recipe for students.

        Raises:
            TrainingError: the experiment to start from has no checkpoint of this seed, or none of its last epoch.
        """
        teacher = copy.deepcopy(teacher)  # an objective may leave it changed, and other runs need the same one
        how = {"start": start, "stitch": stitch, "recalibrate": recalibrate, "training_of": training_of, "curve": curve}
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # of what an objective adds (converters, regressors); the student has a start of its own
            student = self._network(1, seed)
            if start:
                student.load_state_dict(self._student_of(start, seed))
            built = build_objective(teacher=teacher, student=student, **objective)
            net = built.model if isinstance(built.model, SwapNet) else None
            if stitch and net is None:
                net = SwapNet(teacher, student, identity=False)
        examples = self.data.train.subset(min(1000, len(self.data.train)))
        if stitch and net is built.model:
            fit_converters(net, examples.normalise(examples.images).to(self.device))
        recipe = replace(self.profile.student, **{"seed": seed, **changes})
        measure = (lambda: {"accuracy": round(accuracy(student, self.test), 2)}) if curve else None
        begins: dict[str, Any] = {"start": start, "weights": state_hash(student)} if start else {}
        if stitch and net is built.model:
            begins["stitch"] = True
        begun = None if training_of else begins  # that of the other experiment is taken as it is
        history = self._train(training_of or experiment, built, recipe, resume or training_of is not None, measure, begun)
        if stitch and net is not built.model:
            fit_converters(net, examples.normalise(examples.images).to(self.device))
        about = {key: value for key, value in how.items() if value}
        if net is None:
            round_weights(student, STORED)
            lattice = {"S" * student.num_blocks: accuracy(student, self.test)}
            return self._record(experiment, built, recipe, history, lattice, teacher, student, about=about)
        round_weights(net, STORED)
        table = evaluate_lattice(net, self.test).set_index("composition")
        if recalibrate:
            for composition in table.index.drop("T" * net.num_blocks):
                fitted = recalibrated(net, composition, examples.to(self.device))
                table.loc[composition, "accuracy"] = accuracy(fitted, self.test, composition)
        lattice = table.accuracy.to_dict()
        weights = self._save(net, seed, lattice=lattice) if save_weights else None
        measured = {} if recalibrate else {"agreement": table.agreement.round(2).to_dict()}
        measured |= {"costs": table[["bytes", "macs"]].to_dict("index"), "weights": weights, "about": about}
        return self._record(experiment, built, recipe, history, lattice, teacher, student, **measured)

    def _save(self, net: SwapNet | BlockNet, seed: int, **extra: Any) -> str:
        """Write the shards of a network of this seed; return the name of their folder in `weights/`."""
        name = self.name(seed)
        data = {"classes": self.data.classes, "mean": self.data.mean, "std": self.data.std}
        extra |= {"run": name, "data_sha256": self.data.sha256}
        save_blocks(net, self.root / "weights" / name, **data, dtype=STORED, extra=extra)
        return name

    def _student_of(self, experiment: str, seed: int) -> dict[str, torch.Tensor]:
        """The weights of the student that another experiment has left in its checkpoint."""
        path = self._checkpoint(experiment, seed)
        if not path.exists():
            raise TrainingError(f"start from experiment {experiment!r}: no checkpoint {path}; train it first")
        checkpoint = torch.load(path, map_location=self.device, weights_only=True)
        done, epochs = len(checkpoint["history"]), json.loads(checkpoint["run"])["recipe"]["epochs"]
        if done < epochs:
            raise TrainingError(f"start from experiment {experiment!r}: {done} of {epochs} epochs are done; finish it first")
        state = checkpoint["model"]
        prefix = "student." if any(key.startswith("student.") for key in state) else ""
        return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}

    def _network(self, role: int, seed: int) -> BlockNet:
        return fresh_network(self.profile.pair[role], self.data, seed).to(self.device)

    def _checkpoint(self, experiment: str, seed: int) -> Path:
        return self.root / "cache" / "checkpoints" / f"{experiment}-{self.name(seed)}.pt"

    def _train(
        self,
        experiment: str,
        objective: Objective,
        recipe: Recipe,
        resume: bool,
        after_epoch: Callable[[], dict[str, float]] | None = None,
        begins: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        checkpoint = self._checkpoint(experiment, recipe.seed)
        left = None if self.deadline is None else max(0.0, self.deadline - time.monotonic()) / 60
        options = {"checkpoint": checkpoint, "resume": resume, "max_minutes": left, "progress": self.progress}
        return train(objective, self.data, recipe, after_epoch=after_epoch, begins=begins, **options)

    def _record(
        self,
        experiment: str,
        objective: Objective,
        recipe: Recipe,
        history: list[dict[str, Any]],
        lattice: dict[str, float],
        teacher: BlockNet,
        student: BlockNet | None = None,
        about: dict[str, Any] | None = None,
        **measured: Any,
    ) -> Record:
        record = Record(
            experiment=experiment,
            run=self.name(recipe.seed),
            profile=self.profile.name,
            dataset=self.data.name,
            family=self.profile.family,
            seed=recipe.seed,
            objective={**objective.settings(), **(about or {})},
            recipe=asdict(resolve(recipe, self.device)),
            teacher=_size(teacher),
            student=_size(student) if student is not None else None,
            lattice={composition: round(percent, 2) for composition, percent in lattice.items()},
            history=history,
            environment=environment(self.device, self.data.sha256),
            seconds=round(sum(epoch["seconds"] for epoch in history), 1),
            finished=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            **measured,
        )
        try:
            found = load_record(experiment, record.run, self.root / "results")
        except RecordError:  # none yet, or none that can be read
            found = None
        processes().wait()  # all have looked before one writes, so that all decide alike
        if found is not None and replace(record, environment=found.environment, finished=found.finished) == found:
            return found  # nothing was trained since: when and where it was stays as it is
        record.save(self.root / "results")
        return record


def fresh_network(config: Config, data: Dataset, seed: int) -> BlockNet:
    """An untrained network for the classes of `data`: weights by `seed`, the stem, if any, whitened on training images."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = build_network({**config, "num_classes": data.num_classes})
    sample = data.train.subset(min(5000, len(data.train)))
    whiten_stem(net, sample.normalise(sample.images))
    return net


def _size(net: BlockNet) -> dict[str, Any]:
    return {"params": num_params(net), "bytes": num_bytes(net), "macs": sum(block_macs(net)), "config": net.config}
