"""Training on streams of fresh sequences, by any objective: what a student knows at which time."""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from .blocknet import BlockNet
from .errors import TrainingError
from .grammar import Grammar
from .language import after_start
from .objectives import Objective
from .parity import SparseParity

Stream = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
"""(count, generator) -> inputs (count, length) and targets (answers, classes), as probabilities."""

Measure = Callable[[BlockNet], dict[str, float]]
"""What to note of a network, by name."""


def parity_stream(task: SparseParity) -> Stream:
    """Bits as tokens 0 and 1, one answer each."""

    def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        inputs, labels = task.sample(count, generator)
        return (inputs > 0).long(), one_hot(labels, 2).float()

    return draw


def language_stream(grammar: Grammar) -> Stream:
    """Sentences behind a start mark; the targets are their tokens, each to be told from those before it."""

    def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        tokens = grammar.sample(count, generator).tokens
        return after_start(tokens, grammar.vocabulary), one_hot(tokens.flatten(), grammar.vocabulary).float()

    return draw


@dataclass(frozen=True)
class SequenceSettings:
    """How a network learns from a stream: Adam at a constant learning rate.

    Attributes:
        samples: length of the training, in sequences; rounded down to whole batches. Stages of an objective are shares of it.
        lr: learning rate.
        batch_size: fresh sequences in a step.
        log_every: sequences between entries of the log.
        keep: keep a copy of the network at each entry of the log (a teacher's checkpoints).
    """

    samples: int
    lr: float = 3e-3
    batch_size: int = 32
    log_every: int = 1600
    keep: bool = False

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise TrainingError(f"lr = {self.lr!r}: expected more than 0")
        if self.batch_size < 1 or self.samples < self.batch_size:
            raise TrainingError(
                f"{self.samples} samples in batches of {self.batch_size}: expected at least one sample a batch, and one batch"
            )
        if self.log_every < 1 or self.log_every % self.batch_size:
            raise TrainingError(f"log_every = {self.log_every}: expected a multiple of the batch of {self.batch_size}")


@dataclass
class SequenceLog:
    """What `train_sequences` saw.

    Attributes:
        samples: sequences seen at each entry, 0 first.
        values: what was measured, one list for each name.
        loss: sum of the objective's terms, mean of the steps since the entry before; nan at the first entry.
        checkpoints: a copy of the network at each entry, if kept.
    """

    samples: list[int] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)
    loss: list[float] = field(default_factory=list)
    checkpoints: list[BlockNet] = field(default_factory=list)

    def samples_to(self, name: str, level: float, falling: bool = False) -> float:
        """Sequences to the first entry at which `name` is at least (or, `falling`, at most) `level`; infinity if never."""
        sign = -1 if falling else 1
        reached = (n for n, value in zip(self.samples, self.values[name]) if sign * value >= sign * level)
        return float(next(reached, math.inf))


def train_sequences(
    objective: Objective,
    network: BlockNet,
    stream: Stream,
    settings: SequenceSettings,
    measure: Measure,
    seed: int,
    until: Callable[[dict[str, float]], bool] | None = None,
) -> SequenceLog:
    """Minimise an objective on fresh sequences; its model is changed in place.

    Args:
        objective: what to minimise; any of the package.
        network: the one that learns, a part of the objective's model; what is measured and kept.
        stream: where sequences come from.
        settings: how.
        measure: asked at every entry of the log.
        seed: of the sequences; give a student another one than its teacher, or it sees the same.
        until: end as soon as it says so of what was measured.

    Raises:
        TrainingError: the loss is no longer a number.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = _adam(objective, settings.lr)
    steps, log_steps = settings.samples // settings.batch_size, settings.log_every // settings.batch_size
    log = SequenceLog()
    _note(log, network, measure, 0, math.nan, settings.keep)
    objective.model.train()
    losses = []
    for step in range(1, steps + 1):
        if (step - 1) % log_steps == 0:
            objective.start_epoch((step - 1) / steps)
        objective.start_step((step - 1) / steps)
        loss = torch.stack(list(objective.terms(*stream(settings.batch_size, generator)).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        if step % log_steps and step < steps:
            continue
        mean = torch.stack(losses).mean().item()
        losses.clear()
        if not math.isfinite(mean):
            raise TrainingError(f"the loss is {mean} by step {step}: expected a number; lower lr = {settings.lr}")
        _note(log, network, measure, step * settings.batch_size, mean, settings.keep)
        if until is not None and until({name: values[-1] for name, values in log.values.items()}):
            break
    objective.model.eval()
    return log


def _adam(objective: Objective, lr: float) -> torch.optim.Adam:
    groups = [{"params": group["params"], "lr": lr * group["lr_scale"]} for group in objective.param_groups()]
    return torch.optim.Adam(groups, fused=True)


@torch.no_grad()
def _note(log: SequenceLog, network: BlockNet, measure: Measure, samples: int, loss: float, keep: bool) -> None:
    """Append what the network does now."""
    training = network.training
    network.eval()
    for name, value in measure(network).items():
        log.values.setdefault(name, []).append(float(value))
    log.samples.append(samples)
    log.loss.append(loss)
    if keep:
        log.checkpoints.append(deepcopy(network))
    network.train(training)
