"""Training small networks on streams of sparse parity: all seeds at once, in stages that are a method's whole definition.

Cross entropy is `[Labels(n)]`, one-shot distillation `[Outputs(teacher, n)]`, progressive distillation one `Outputs` for
each checkpoint, curriculum extraction a `Hidden` for each layer and then `Outputs`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .errors import TrainingError, UnknownNameError
from .objectives.curriculum import has_settled
from .objectives.projections import ROW_LOSSES, projection_matrix, standardised
from .parity import SparseParity, Stack, Transition, correlations, parity_mlp, phase_transition, vote

Losses = Callable[[list[Tensor], Tensor, Tensor, float], Tensor]
"""(outputs of all layers of the students, inputs, labels, progress of the stage) -> one loss for each seed."""


@dataclass(frozen=True)
class Labels:
    """Learn from the labels, by cross entropy, for so many samples."""

    samples: int

    def begin(self, task: SparseParity, student: Stack, seeds: Sequence[int]) -> tuple[Losses, list[Tensor]]:
        return lambda layers, inputs, labels, progress: _cross_entropy(layers[-1], labels), []


@dataclass(frozen=True)
class Outputs:
    """Learn from a teacher's outputs.

    The loss is the cross entropy to softmax(logits / temperature) of the teacher; as in the code of arXiv 2410.05464 the
    student's own logits are not softened. At a temperature near 0 a trained teacher says what the labels say.

    Attributes:
        teacher: one network for each seed.
        samples: length of the stage.
        temperature: of the teacher's softmax.
        alpha: weight of the teacher against the labels'; the paper uses the teacher alone.
    """

    teacher: Stack
    samples: int
    temperature: float = 1.0
    alpha: float = 1.0

    def begin(self, task: SparseParity, student: Stack, seeds: Sequence[int]) -> tuple[Losses, list[Tensor]]:
        _check_teacher(self.teacher, student)

        def losses(layers: list[Tensor], inputs: Tensor, labels: Tensor, progress: float) -> Tensor:
            with torch.no_grad():
                target = (self.teacher.layers(inputs)[-1] / self.temperature).softmax(-1)
            distilled = -(target * layers[-1].log_softmax(-1)).sum(-1).mean(-1)
            if self.alpha == 1:
                return distilled
            return self.alpha * distilled + (1 - self.alpha) * _cross_entropy(layers[-1], labels)

        return losses, []


@dataclass(frozen=True)
class Hidden:
    """Match a projection of a teacher's hidden layer: a stage of curriculum extraction (arXiv 2503.17494).

    Attributes:
        teacher: one network for each seed.
        samples: length of the stage.
        layer: number of the hidden layer, 1 the first, of teacher and student.
        projection: kind, see `projection_matrix`; each seed has one of its own.
        dim: of the projected features; by default the student's width (the teacher's for `none`).
        loss: `mse` or `cosine`, of targets that vary by 1.
        readout: the student's units go through a learned linear map first; else they are compared as they are.
        steps: components are released in so many steps over the stage, for a PCA curriculum (see `PCACurriculum`).
        patience: end the stage before its samples are used up, as soon as its loss, mean over the seeds, has stopped falling
            for so many entries of the log (see `has_settled`); 0 for never.
    """

    teacher: Stack
    samples: int
    layer: int = 1
    projection: str = "gaussian"
    dim: int | None = None
    loss: str = "mse"
    readout: bool = True
    steps: int = 1
    patience: int = 0

    def begin(self, task: SparseParity, student: Stack, seeds: Sequence[int]) -> tuple[Losses, list[Tensor]]:
        _check_teacher(self.teacher, student)
        most = min(len(student.weights), len(self.teacher.weights)) - 1
        if not 1 <= self.layer <= most:
            raise TrainingError(f"layer = {self.layer}: expected a hidden layer, 1 to {most}")
        if self.loss not in ROW_LOSSES:
            raise UnknownNameError("loss", self.loss, ROW_LOSSES)
        width, channels = (net.weights[self.layer - 1].shape[1] for net in (student, self.teacher))
        dim = self.dim or (channels if self.projection == "none" else width)
        if not self.readout and dim != width:
            raise TrainingError(f"dim = {dim} without a readout: expected {width}, the student's width; or use readout=True")
        matrices, maps, biases = [], [], []
        generators = [torch.Generator().manual_seed(1_000_003 * seed + self.layer) for seed in seeds]
        examples = torch.stack([task.sample(max(1000, 4 * dim), g)[0] for g in generators])
        features = self.teacher.layers(examples)[self.layer - 1]
        for g, rows in zip(generators, features):
            matrices.append(projection_matrix(self.projection, channels, dim, g, rows))
            maps.append((torch.rand(width, dim, generator=g) * 2 - 1) / math.sqrt(width))  # as nn.Linear starts
            biases.append((torch.rand(1, dim, generator=g) * 2 - 1) / math.sqrt(width))
        matrix, extra = torch.stack(matrices), [torch.stack(maps), torch.stack(biases)] if self.readout else []
        shift, factor = standardised(features @ matrix, centre=self.readout)

        def losses(layers: list[Tensor], inputs: Tensor, labels: Tensor, progress: float) -> Tensor:
            with torch.no_grad():
                target = (self.teacher.layers(inputs)[self.layer - 1] @ matrix - shift) * factor
            rows = layers[self.layer - 1]
            rows = torch.baddbmm(extra[1], rows, extra[0]) if extra else rows
            released = math.ceil(dim * min(self.steps, 1 + math.floor(progress * self.steps)) / self.steps)
            if released < dim:
                rows, target = rows[..., :released], target[..., :released]
            return ROW_LOSSES[self.loss](rows, target) * (released / dim)

        return losses, extra


Stage = Labels | Outputs | Hidden


@dataclass(frozen=True)
class StreamSettings:
    """How a network learns from a stream: plain SGD at a constant learning rate, as the papers' teachers.

    Attributes:
        lr: learning rate; one number, or one for each seed (a whole sweep in one run).
        batch_size: fresh samples in a step. The papers take 1; more of them fill a processor.
        width: units of a hidden layer.
        hidden_layers: of the network.
        log_every: samples between entries of the log.
        test_samples: fresh samples, the same at each entry, on which accuracy and correlations are measured.
        keep: keep the network at each entry of the log (a teacher's checkpoints).
        stop_at: end as soon as all seeds are at least so accurate in the last stage; 0 for never.
    """

    lr: float | tuple[float, ...] = 0.1
    batch_size: int = 32
    width: int = 32
    hidden_layers: int = 1
    log_every: int = 6400
    test_samples: int = 4096
    keep: bool = False
    stop_at: float = 0.0

    def __post_init__(self) -> None:
        for name in ("batch_size", "log_every", "test_samples"):
            if getattr(self, name) < 1:
                raise TrainingError(f"stream: {name} = {getattr(self, name)!r}: expected at least 1")
        if self.log_every % self.batch_size:
            raise TrainingError(f"log_every = {self.log_every}: expected a multiple of the batch of {self.batch_size}")


@dataclass
class StreamLog:
    """What `train_stream` saw; T entries, S seeds.

    Attributes:
        task: what was to be learnt.
        seeds: of the networks.
        samples: seen by each network at each entry, all stages together.
        accuracy: (T, S), share of right answers, standard error at most 0.5 / sqrt(test_samples).
        bits: (T, S, n), correlation of the vote with each single bit.
        monomials: (T, S, 2^k - 1), with `task.monomials()`.
        loss: (T, S), of the last step; nan where a network has diverged (its accuracy is then about 1/2).
        checkpoints: the networks at each entry, if kept.
        networks: at the end.
    """

    task: SparseParity
    seeds: tuple[int, ...]
    samples: list[int] = field(default_factory=list)
    accuracy: Tensor = field(default_factory=lambda: torch.empty(0))
    bits: Tensor = field(default_factory=lambda: torch.empty(0))
    monomials: Tensor = field(default_factory=lambda: torch.empty(0))
    loss: Tensor = field(default_factory=lambda: torch.empty(0))
    checkpoints: list[Stack] = field(default_factory=list)
    networks: Stack | None = None

    def samples_to(self, accuracy: float = 0.99) -> list[float]:
        """Samples to the first entry that is at least so accurate, for each seed; infinity where none is."""
        reached = (self.accuracy >= accuracy).T.tolist()
        return [next((float(n) for n, hit in zip(self.samples, hits) if hit), math.inf) for hits in reached]

    def transitions(self, low: float = 0.55, high: float = 0.99) -> list[Transition]:
        """The phase transition of each seed, see `phase_transition`."""
        support = self.bits[..., list(self.task.support)].abs().mean(-1)
        logs = zip(self.accuracy.T.tolist(), support.T.tolist())
        return [phase_transition(accuracy, correlation, low, high) for accuracy, correlation in logs]

    def checkpoint(self, entries: Sequence[int]) -> Stack:
        """The kept networks at one entry of the log for each seed."""
        if not self.checkpoints:
            raise TrainingError("no checkpoints were kept: train with StreamSettings(keep=True)")
        nets = [self.checkpoints[entry].pick([seed]) for seed, entry in enumerate(entries)]
        return Stack(
            tuple(torch.cat(parts) for parts in zip(*(net.weights for net in nets))),
            tuple(torch.cat(parts) for parts in zip(*(net.biases for net in nets))),
        )


def train_stream(task: SparseParity, stages: Sequence[Stage], settings: StreamSettings, seeds: Sequence[int]) -> StreamLog:
    """Train one network for each seed through all stages.

    The seed decides a network's start, its samples and its projections, so a run of several seeds gives the same as one
    run for each (up to rounding).

    Args:
        task: what to learn.
        stages: one after the other; samples of a stage are rounded down to whole batches.
        settings: how.
        seeds: one for each network; give a student other seeds than its teacher, or it sees the same samples.

    Raises:
        TrainingError: no stages, a stage shorter than a batch, or as many learning rates as there are not seeds.
        UnknownNameError: a stage names a projection or loss that is not there.
    """
    lrs = [settings.lr] * len(seeds) if isinstance(settings.lr, float | int) else list(settings.lr)
    if len(lrs) != len(seeds) or not seeds:
        raise TrainingError(f"lr = {settings.lr}: expected one number, or one for each of the {len(seeds)} seeds")
    if not stages or any(stage.samples < settings.batch_size for stage in stages):
        lengths = [stage.samples for stage in stages]
        raise TrainingError(f"stages of {lengths} samples: expected at least one stage, of at least {settings.batch_size}")
    rate = torch.tensor(lrs).view(-1, 1, 1)
    student = Stack.of([parity_mlp(task.n, settings.width, settings.hidden_layers, seed) for seed in seeds])
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    log = StreamLog(task, tuple(seeds), networks=student)
    log_steps = settings.log_every // settings.batch_size
    test = task.sample(settings.test_samples, torch.Generator().manual_seed(2**31 - 1))  # no seed is likely to be this
    entries: list[tuple[Tensor, ...]] = []
    _measure(log, entries, test, torch.full((len(seeds),), math.nan), settings.keep)
    seen = 0
    for number, stage in enumerate(stages):
        losses, extra = stage.begin(task, student, seeds)
        parameters = [p.requires_grad_() for p in (*student.parameters, *extra)]
        steps = stage.samples // settings.batch_size
        means: list[float] = []  # of the loss, between entries of the log
        for first in range(0, steps, log_steps):
            size = min(log_steps, steps - first)
            shape = (size, settings.batch_size, task.n)
            chunk = torch.stack([torch.randint(0, 2, shape, generator=g, dtype=torch.int8) for g in generators], 1) * 2 - 1
            total = torch.zeros(())
            for step, (bits, labels) in enumerate(zip(chunk, task.labels(chunk)), start=first):
                inputs = bits.float()
                loss = losses(student.layers(inputs), inputs, labels, step / steps)
                gradients = torch.autograd.grad(loss.sum(), parameters, allow_unused=True)
                total += loss.detach().mean()
                with torch.no_grad():
                    for p, gradient in zip(parameters, gradients):
                        if gradient is not None:  # layers that this stage does not reach rest
                            p.sub_(rate * gradient)
            seen += size * settings.batch_size
            log.samples.append(seen)
            _measure(log, entries, test, loss.detach(), settings.keep)
            means.append(total.item() / size)
            if isinstance(stage, Hidden) and stage.patience and has_settled(means, stage.patience):
                break
            if number == len(stages) - 1 and settings.stop_at and (entries[-1][0] >= settings.stop_at).all():
                break
    log.networks = student.pick(range(len(seeds)))
    log.accuracy, log.bits, log.monomials, log.loss = (torch.stack(column) for column in zip(*entries))
    return log


@torch.no_grad()
def _measure(log: StreamLog, entries: list[tuple[Tensor, ...]], test: tuple[Tensor, Tensor], loss: Tensor, keep: bool) -> None:
    """Append what the networks do now."""
    inputs, labels = test
    logits = log.networks.layers(inputs.expand(len(log.seeds), -1, -1))[-1]
    if not log.samples:
        log.samples.append(0)
    subsets = [(bit,) for bit in range(log.task.n)] + log.task.monomials()
    values = correlations(vote(logits), inputs, subsets).values
    accuracy = (logits.argmax(-1) == labels).float().mean(-1)
    entries.append((accuracy, values[:, : log.task.n], values[:, log.task.n :], loss))
    if keep:
        log.checkpoints.append(log.networks.pick(range(len(log.seeds))))


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape).mean(-1)


def _check_teacher(teacher: Stack, student: Stack) -> None:
    if len(teacher) != len(student):
        raise TrainingError(f"{len(teacher)} teachers for {len(student)} students: expected one for each; see Stack.pick")
