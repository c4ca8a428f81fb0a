"""Recipe and `train()`: the only training loop."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR
from tqdm.auto import tqdm

from .datasets import Dataset, augment
from .distributed import processes, share_batch_norm
from .errors import TrainingError, TrainingPaused, UnknownNameError
from .files import atomic_path
from .hardware import default_device, speed_features
from .muon import MuonSGD, is_filter
from .objectives import Objective

CHECK_EVERY = 20  # steps between looks at the losses: often enough to stop early, rare enough not to slow a GPU
CHECKPOINT_SCHEMA = 1
MUON_DECAY = 0.1  # with it, and a learning rate of 0.1 to 0.3, the filters of a layer keep a length of about 1


@dataclass(frozen=True)
class Recipe:
    """How an objective is minimised.

    Attributes:
        epochs: passes over the training split.
        batch_size: images per step; a last, smaller batch of an epoch is left out.
        lr: highest learning rate.
        optimizer: `sgd` (Nesterov momentum), `adamw`, or `muon` (for the filters of convolutions, `sgd` for the rest).
        momentum: of SGD.
        muon_lr: highest learning rate of Muon, whose steps do not depend on the size of the gradients.
        bias_lr: factor on the learning rate for biases and norms.
        weight_decay: on weights with two or more dimensions (not on biases and norms, nor on Muon's filters: theirs is
            `MUON_DECAY`).
        schedule: `one_cycle` (linear up for `warmup` of the steps, then linear down to almost 0) or `cosine`.
        warmup: share of the steps of `one_cycle` that go up.
        clip: gradients are scaled down to this length (L2 norm over all parameters) where they are longer; 0 for no limit.
        label_smoothing: share of the target spread evenly over all classes.
        flip: mirror images left and right: `True` (each time at random), `False`, or `alternate`: every second epoch each image
            is mirrored, half of them beginning with the first epoch, so that any two epochs show both views of all images.
        crop: augmentation, see `datasets.augment` (in pixels, 0 for none).
        cutout: the same.
        precision: `fp32`, `bf16` (autocast; weights stay fp32) or `auto` (bf16 where the processor has units for it).
        channels_last: memory format of images and weights, or `auto` (where convolutions gain from it).
        seed: of the order of the images, the augmentation and whatever the objective draws.
    """

    epochs: int
    batch_size: int = 128
    lr: float = 0.05
    optimizer: str = "sgd"
    momentum: float = 0.9
    muon_lr: float = 0.1
    bias_lr: float = 1.0
    weight_decay: float = 5e-4
    schedule: str = "one_cycle"
    warmup: float = 0.25
    clip: float = 0.0
    label_smoothing: float = 0.0
    flip: bool | str = True
    crop: int = 2
    cutout: int = 0
    precision: str = "auto"
    channels_last: bool | str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, valid in (
            ("optimizer", ("sgd", "adamw", "muon")),
            ("schedule", ("one_cycle", "cosine")),
            ("precision", ("auto", "fp32", "bf16")),
            ("channels_last", ("auto", True, False)),
            ("flip", ("alternate", True, False)),
        ):
            if getattr(self, name) not in valid:
                raise UnknownNameError(name, getattr(self, name), map(str, valid))
        for names, fits, expected in (
            (("epochs", "batch_size", "lr"), lambda x: x > 0, "a number above 0"),
            (("muon_lr", "bias_lr", "weight_decay", "clip"), lambda x: x >= 0, "a number, not below 0"),
            (("momentum", "warmup", "label_smoothing"), lambda x: 0 <= x <= 1, "a number from 0 to 1"),
        ):
            for name in names:
                value = getattr(self, name)
                if not isinstance(value, int | float) or not fits(value):
                    raise TrainingError(f"recipe: {name} = {value!r}: expected {expected}")


def train(
    objective: Objective,
    data: Dataset,
    recipe: Recipe,
    *,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    max_minutes: float | None = None,
    progress: bool | None = None,
    device: str | torch.device | None = None,
    after_epoch: Callable[[], dict[str, Any]] | None = None,
    begins: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Minimise `objective` on `data.train`; its model is changed in place and left in evaluation mode.

    The same seed gives the same weights on the same machine and number of threads. All random numbers of an epoch
    follow from the seed and the epoch's number, so a resumed run ends exactly where an uninterrupted one does.

    Args:
        objective: what to minimise.
        data: only its training split is used.
        recipe: how. Under `accelerate launch` each process takes its share of every batch of `batch_size`, and losses,
            gradients and batch norms are those of the whole batch.
        checkpoint: file written (whole or not at all) after each epoch.
        resume: go on from `checkpoint` if it is there.
        max_minutes: stop where one more epoch would take longer than this in all; at least one epoch is trained. Needs a
            `checkpoint`, from which another call with `resume` goes on.
        progress: show a bar with loss terms and time left; by default unless the variable PWL_PROGRESS is `0`.
        device: by default a GPU if there is one.
        after_epoch: called after each epoch, with the model in evaluation mode; what it returns joins the epoch's entry. Its
            time is not counted.
        begins: what decides the weights at the start beside the seed ({} if nothing does): a checkpoint of a training that
            began otherwise is not resumed. By default not compared.

    Returns:
        A dictionary for each epoch, with `epoch`, `loss` (the mean of each term), `lr`, `seconds` and what `after_epoch` adds.

    Raises:
        TrainingError: a loss that is not a number; fewer images than one batch; a checkpoint of another run; a limit on the
            time without a checkpoint; a batch that does not divide by the number of processes; an objective that needs the
            whole batch in one (`Objective.whole_batch`).
        TrainingPaused: `max_minutes` are used up before the last epoch.
        SaveError: the checkpoint could not be written.
    """
    world = processes()  # first: it gives each process a GPU of its own
    device = torch.device(device or default_device())
    split = data.train.to(device)
    steps = len(split) // recipe.batch_size
    if steps == 0:
        raise TrainingError(
            f"{len(split)} training images: expected at least one batch of {recipe.batch_size}; lower batch_size"
        )
    if world.count > 1 and objective.whole_batch:
        raise TrainingError(
            f"{type(objective).__name__} in {world.count} processes: it needs all images of a batch in one; start a single one"
        )
    if recipe.batch_size % world.count:
        raise TrainingError(f"batch_size = {recipe.batch_size}: expected a multiple of the {world.count} processes")
    if max_minutes is not None and checkpoint is None:
        raise TrainingError(f"max_minutes = {max_minutes}: expected a checkpoint too, or the time would be lost")
    recipe = resolve(recipe, device)
    bf16 = recipe.precision == "bf16"
    memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    model = objective.model.to(device, memory_format=memory_format)
    for teacher in objective.teachers:
        teacher.to(device)
    share_batch_norm(model)
    optimizer = _optimizer(objective, recipe)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    scheduler = _scheduler(optimizer, recipe, steps)

    history: list[dict[str, Any]] = []
    run = _Run(objective, recipe, data.sha256 if checkpoint else "", optimizer, scheduler, history, begins)
    if resume and checkpoint and Path(checkpoint).exists():
        run.restore(Path(checkpoint), device)
    if world.highest(len(history), device) != len(history):
        raise TrainingError(f"checkpoint {checkpoint}: not every process finds it; use a folder that all machines share")

    show = world.main and (progress if progress is not None else os.environ.get("PWL_PROGRESS") != "0")
    total = recipe.epochs * steps
    begin = time.perf_counter()
    with tqdm(total=total, initial=len(history) * steps, disable=not show, unit="step", mininterval=1) as bar:
        for epoch in range(len(history) + 1, recipe.epochs + 1):
            started = time.perf_counter()
            objective.start_epoch((epoch - 1) / recipe.epochs)
            model.train()
            sums: dict[str, Tensor] = {}
            with _random_numbers_of(recipe.seed, epoch):
                for step, (images, targets) in enumerate(_batches(split, recipe, memory_format, epoch), start=1):
                    objective.start_step(((epoch - 1) * steps + step - 1) / total)
                    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                        terms = objective.terms(images, targets)
                    optimizer.zero_grad(set_to_none=True)
                    torch.stack(list(terms.values())).sum().backward()
                    world.average_gradients(model)
                    if recipe.clip:
                        nn.utils.clip_grad_norm_(trained, recipe.clip)
                    optimizer.step()
                    scheduler.step()
                    sums = {name: sums.get(name, 0) + value.detach() for name, value in terms.items()}
                    bar.update()
                    if step % CHECK_EVERY == 0 or step == steps:
                        totals = world.mean(torch.stack([value.float() for value in sums.values()])).tolist()
                        means = {name: total / step for name, total in zip(sums, totals, strict=True)}
                        _check_finite(means, epoch, step, recipe)
                        bar.set_postfix(epoch=epoch, **{k: f"{v:.3f}" for k, v in means.items()}, refresh=False)
            entry = {
                "epoch": epoch,
                "loss": {name: round(value, 5) for name, value in means.items()},
                "lr": scheduler.get_last_lr()[0],
                "seconds": round(time.perf_counter() - started, 2),
            }
            if after_epoch:
                model.eval()
                entry |= after_epoch()
            history.append(entry)
            if checkpoint:
                run.save(Path(checkpoint))
            now = time.perf_counter()
            over = -1.0 if max_minutes is None else (now - begin) + (now - started) - 60 * max_minutes  # with one more epoch
            if world.highest(over, device) > 0 and epoch < recipe.epochs:
                raise TrainingPaused(f"paused after epoch {epoch} of {recipe.epochs}: go on from {checkpoint} with resume")
    model.eval()
    return history


@dataclass
class _Run:
    """What a checkpoint holds, and what it must agree on to be resumed."""

    objective: Objective
    recipe: Recipe
    data: str
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
    history: list[dict[str, Any]]
    begins: dict[str, Any] | None

    def fingerprint(self) -> str:
        parts = {"objective": self.objective.settings(), "recipe": asdict(self.recipe), "data": {"sha256": self.data}}
        if self.begins:
            parts["begins"] = self.begins
        return json.dumps(parts, sort_keys=True)

    def save(self, path: Path) -> None:
        state = {
            "schema": CHECKPOINT_SCHEMA,
            "run": self.fingerprint(),
            "model": self.objective.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "history": self.history,
        }
        with atomic_path(path) as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError as error:  # torch reports a full disk this way
                raise OSError((str(error).splitlines() or [type(error).__name__])[0]) from error

    def restore(self, path: Path, device: torch.device) -> None:
        try:
            state = torch.load(path, map_location=device, weights_only=True)
            schema, fingerprint = state["schema"], state["run"]
        except Exception as error:  # torch, zipfile and pickle each raise errors of their own for damaged files
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise TrainingError(f"checkpoint {path}: cannot be read ({reason}); delete it to start anew") from error
        if schema != CHECKPOINT_SCHEMA:
            raise TrainingError(f"checkpoint {path}: schema {schema!r}, expected {CHECKPOINT_SCHEMA}; delete it to start anew")
        if self.begins is None:
            self.begins = json.loads(fingerprint).get("begins")
        if fingerprint != self.fingerprint():
            raise TrainingError(
                f"checkpoint {path}: is of another run ({_difference(fingerprint, self.fingerprint())}); "
                "resume with the same settings, or delete it to start anew"
            )
        self.objective.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.history.extend(state["history"])


def _difference(stored: str, wanted: str) -> str:
    """The settings in which two fingerprints differ, for people."""
    flat = [{f"{part}.{k}": v for part, d in json.loads(run).items() for k, v in d.items()} for run in (stored, wanted)]
    keys = [k for k in {**flat[0], **flat[1]} if flat[0].get(k) != flat[1].get(k)]
    return ", ".join(f"{k}: {flat[0].get(k)!r} there, {flat[1].get(k)!r} here" for k in keys)


def resolve(recipe: Recipe, device: str | torch.device) -> Recipe:
    """The recipe with each `auto` replaced by what it means on `device`; this is what a record should hold."""
    found = speed_features(device)
    bf16 = found["bf16"] if recipe.precision == "auto" else recipe.precision == "bf16"
    channels_last = found["channels_last"] if recipe.channels_last == "auto" else recipe.channels_last
    return replace(recipe, precision="bf16" if bf16 else "fp32", channels_last=channels_last)


def _optimizer(objective: Objective, recipe: Recipe) -> torch.optim.Optimizer:
    groups = []
    for group in objective.param_groups():
        kinds: dict[str, list[Tensor]] = {"weight": [], "filter": [], "bias": []}
        for p in group["params"]:
            kind = "bias" if p.ndim <= 1 else "filter" if recipe.optimizer == "muon" and is_filter(p) else "weight"
            kinds[kind].append(p)
        lrs = {"bias": recipe.lr * recipe.bias_lr, "weight": recipe.lr, "filter": recipe.muon_lr}
        decays = {"bias": 0.0, "weight": recipe.weight_decay, "filter": MUON_DECAY}
        groups += [
            {"params": params, "lr": lrs[kind] * group["lr_scale"], "weight_decay": decays[kind], "muon": kind == "filter"}
            for kind, params in kinds.items()
            if params
        ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups)
    if recipe.optimizer == "muon":
        return MuonSGD(groups, recipe.momentum)
    return torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=recipe.momentum > 0)


def _scheduler(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> LRScheduler:
    total = recipe.epochs * steps
    if recipe.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=total)
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=total + 1,  # it is asked once more after the last step
        pct_start=recipe.warmup,
        anneal_strategy="linear",
        cycle_momentum=False,
        div_factor=5,
        final_div_factor=20,
    )


@contextmanager
def _random_numbers_of(seed: int, epoch: int) -> Iterator[None]:
    """Inside, torch's random numbers follow from seed and epoch alone; outside, they are as if nothing had been drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(seed * 1_000_003 + epoch)
        yield


def _batches(split: Any, recipe: Recipe, memory_format: torch.memory_format, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of augmented, normalised images (batch, 3, height, width) and smoothed targets (batch, classes)."""
    mirrored = _alternate(len(split), recipe.seed, epoch).to(split.images.device) if recipe.flip == "alternate" else None
    order = torch.randperm(len(split)).to(split.images.device)
    for index in order.split(recipe.batch_size):
        if len(index) < recipe.batch_size:
            return
        # every process draws for the whole batch and keeps its share, so that their number changes nothing
        flip = recipe.flip if mirrored is None else mirrored[index]
        images = augment(split.images[index], flip=flip, crop=recipe.crop, cutout=recipe.cutout)
        images, labels = (processes().share(batch) for batch in (images, split.labels[index]))
        targets = one_hot(labels, split.num_classes).float()
        targets = targets * (1 - recipe.label_smoothing) + recipe.label_smoothing / split.num_classes
        yield split.normalise(images).contiguous(memory_format=memory_format), targets


def _alternate(images: int, seed: int, epoch: int) -> Tensor:
    """Which images (images,) are mirrored in this epoch.

    Source: Jordan, *94% on CIFAR-10 in 3.29 Seconds on a Single GPU*, arXiv 2404.00498, section 3.6.
    """
    first = torch.rand(images, generator=torch.Generator().manual_seed(seed)) < 0.5
    return first ^ (epoch % 2 == 0)


def _check_finite(means: dict[str, float], epoch: int, step: int, recipe: Recipe) -> None:
    for name, value in means.items():
        if not math.isfinite(value):
            raise TrainingError(
                f"loss term {name!r} is {value} in epoch {epoch}, by step {step}: expected a finite number; "
                f"lower the learning rate (lr = {recipe.lr}) or use precision='fp32', then start anew"
            )
