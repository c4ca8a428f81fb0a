"""Progressive weight loading: train a student whose blocks can be exchanged for the teacher's, one by one."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..blocknet import state_hash
from ..errors import TrainingError, UnknownNameError
from ..swapnet import SwapNet
from .kd import KD, kd_divergence
from .objective import Objective
from .sampling import SAMPLERS, Sandwich

AUTHORS: dict[str, Any] = {
    "alpha": 0.6,
    "temperature": 2.0,
    "sync": 1.0,
    "reconstruction": 1.0,
    "cross": 2.0,
    "converter_lr": 0.2,
    "running_norm_from": 1.0,
    "draws": 1,
    "sample": "random_composition",
}
"""The settings of the authors' code, for `ProgressiveDistillation(net, **AUTHORS)`."""


class ProgressiveDistillation(Objective):
    """The PWL objective: distil the student, and align its features with the teacher's so that blocks can be swapped.

    Four parts, each with a weight:

    - `ce`, `kd`: the student learns from labels and teacher (see `KD`);
    - `sync`: at every boundary, encoded teacher features match the student's and decoded student features the teacher's;
    - `reconstruction`: encoding and decoding, in either order, gives back what went in;
    - `cross`: the output of random compositions of both networks' blocks matches the teacher's output.

    Source: Kim, Lee, Choi, Lee, Cho, *Progressive Weight Loading*, arXiv 2509.22319. The authors' settings are `AUTHORS`; the
    defaults are those of this book's runs on CIFAR-10, see chapter 8.

    Args:
        net: teacher (trained, frozen), student and converters.
        alpha, temperature: as in `KD`; the temperature also softens the cross term.
        sync: weight of the synchronisation; two numbers are its weights at the start and at the end of the training, between
            which it falls (or rises) by the same factor in equal times. By default features come first, and what mixed
            compositions make of them later. The authors' weight is constant. With a strong start plain SGD may diverge; clip
            gradients then (`Recipe.clip`), or begin lower.
        reconstruction, cross: weights of the other parts.
        converter_lr: learning rate of the converters as a factor on the recipe's.
        running_norm_from: share of the training after which batch norm in the student's blocks uses its running averages
            during the cross pass, exactly as it will when it serves; these averages are then of the student alone. Before,
            it uses the statistics of the batch, which lets weights move fast, but the running averages then mix what the
            student sees alone and what it sees behind teacher blocks, and fit neither. By default from the middle on; in the
            authors' code never.
        draws: compositions in a cross pass; each gets its share of the batch, so more cost nothing. The authors take one.
        sample: draws one composition of the cross pass from the number of blocks: a function, or a name in `SAMPLERS`.
        drifting_teacher: leave the teacher's batch norm in training mode, as the authors' code does by mistake: its running
            averages change, so that what is loaded at the end is not the teacher that was trained. To show what that does.

    Raises:
        TrainingError: `running_norm_from` is not between 0 and 1, `draws` is below 1, or two weights of the synchronisation are
            not both above 0.
        UnknownNameError: there is no such sampler.
    """

    def __init__(
        self,
        net: SwapNet,
        alpha: float = 0.6,
        temperature: float = 2.0,
        sync: float | Sequence[float] = (20.0, 0.5),
        reconstruction: float = 0.5,
        cross: float = 8.0,
        converter_lr: float = 0.4,
        running_norm_from: float = 0.5,
        draws: int = 4,
        sample: str | Callable[[int], str] = "random_composition",
        drifting_teacher: bool = False,
    ):
        if not 0 <= running_norm_from <= 1:
            raise TrainingError(
                f"running_norm_from = {running_norm_from!r}: expected a share of the training from 0 (always) to 1 (never)"
            )
        if draws < 1:
            raise TrainingError(f"draws = {draws!r}: expected at least 1 composition in a cross pass")
        if not isinstance(sync, float | int) and (len(sync) != 2 or min(sync) <= 0):
            raise TrainingError(f"sync = {sync!r}: expected one weight, or two above 0, for start and end of the training")
        self.model = net
        self.kd = KD(net.teacher, net.student, alpha, temperature)
        self.sync = sync if isinstance(sync, float | int) else list(sync)
        self.reconstruction = reconstruction
        self.cross = cross
        self.converter_lr = converter_lr
        self.running_norm_from = running_norm_from
        self.draws = draws
        if isinstance(sample, str) and sample not in SAMPLERS:
            raise UnknownNameError("sample", sample, SAMPLERS)
        self.sample = SAMPLERS[sample]() if isinstance(sample, str) else sample
        self.drifting_teacher = drifting_teacher
        self._teacher = state_hash(net.teacher) if drifting_teacher else None  # what it was; later it is another
        self.step_progress = 0.0  # unlike `progress` it moves within an epoch

    def start_epoch(self, progress: float) -> None:
        super().start_epoch(progress)
        if isinstance(self.sample, Sandwich):
            self.sample.forget()

    def start_step(self, progress: float) -> None:
        self.step_progress = progress

    @property
    def sync_weight(self) -> float:
        """Of the synchronisation, now."""
        if isinstance(self.sync, float | int):
            return self.sync
        start, end = self.sync
        return start * (end / start) ** self.step_progress

    def terms(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        net = self.model
        net.teacher.train(self.drifting_teacher and net.training)
        with torch.no_grad():
            teacher_features = net.teacher.features(images)
            teacher_logits = net.teacher.head(teacher_features[-1])
        student_features = net.student.features(images)
        logits = net.student.head(student_features[-1])

        terms = self.kd.terms_of_logits(logits, teacher_logits, targets)
        sync, reconstruction = self.alignment(student_features[:-1], teacher_features[:-1])
        terms["sync"] = self.sync_weight * sync
        terms["reconstruction"] = self.reconstruction * reconstruction

        features = {"S": student_features, "T": teacher_features}
        with running_norm(net.student, self.progress >= self.running_norm_from):
            terms["cross"] = self.cross * self.cross_divergence(features, teacher_logits)
        return terms

    def cross_divergence(self, features: dict[str, list[Tensor]], teacher_logits: Tensor) -> Tensor:
        """The unweighted cross loss: each part of the batch runs through a composition of its own."""
        batch = len(teacher_logits)
        size = math.ceil(batch / self.draws)
        total = teacher_logits.new_zeros(())
        for part in (slice(first, first + size) for first in range(0, batch, size)):
            composition = self.sample(self.model.num_blocks)
            start = first_switch(composition)  # up to here it would repeat what one of the networks just did
            logits = self.model.resume(features[composition[0]][start - 1][part], composition, start)
            divergence = kd_divergence(logits, teacher_logits[part], self.kd.temperature)
            total = total + divergence * (len(logits) / batch)
            if isinstance(self.sample, Sandwich):
                self.sample.observe(composition, divergence)
        return total

    def alignment(self, student_features: list[Tensor], teacher_features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The unweighted synchronisation and reconstruction losses, averaged over the N - 1 boundaries."""
        sync, reconstruction = [], []
        for s, t, converter in zip(student_features, teacher_features, self.model.converters, strict=True):
            if self.model.identity:  # both directions are one, and nothing is lost on the way there and back
                sync.append(2 * feature_distance(s, t))
                reconstruction.append(t.new_zeros(()))
                continue
            encoded, decoded = converter(t, to="S"), converter(s, to="T")
            sync.append(feature_distance(s, encoded) + feature_distance(decoded, t))
            reconstruction.append(
                feature_distance(converter(encoded, to="T"), t) + feature_distance(converter(decoded, to="S"), s)
            )
        return torch.stack(sync).mean(), torch.stack(reconstruction).mean()

    def param_groups(self) -> list[dict[str, Any]]:
        student = [p for p in self.model.student.parameters() if p.requires_grad]
        converters = list(self.model.converters.parameters())
        return [{"params": student, "lr_scale": 1.0}, {"params": converters, "lr_scale": self.converter_lr}]

    def settings(self) -> dict[str, Any]:
        kd = self.kd.settings()
        return {
            **kd,
            "teacher": self._teacher or kd["teacher"],
            "name": "progressive",
            "sync": self.sync,
            "reconstruction": self.reconstruction,
            "cross": self.cross,
            "converter_lr": self.converter_lr,
            "running_norm_from": self.running_norm_from,
            "draws": self.draws,
            "sample": self.sample.__name__,
            "drifting_teacher": self.drifting_teacher,
            "identity": self.model.identity,
        }


def feature_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error plus one minus the cosine of the flattened maps; features (batch, channels, ...) -> scalar.

    The first term asks for the same values, the second for the same direction, however small the values are:
    `mse_loss(a, b) + (1 - cosine_similarity(a.flatten(1), b.flatten(1))).mean()`, computed with fewer passes over memory.
    """
    return _FeatureDistance.apply(a, b)


class _FeatureDistance(torch.autograd.Function):
    """Both terms, and their gradients, follow from three inner products per image: aa, bb and ab.

    Written as usual, the features are read and written some twenty times forwards and backwards, which takes longer than
    the convolutions of a training step do. Here they are read once, and the gradients are one weighted sum of a and b.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        # channels innermost: for tensors that are stored so this only changes the view
        flat_a, flat_b = (x.movedim(1, -1).flatten(1).float() for x in (a, b))
        aa, bb, ab = ((x * y).sum(1) for x, y in ((flat_a, flat_a), (flat_b, flat_b), (flat_a, flat_b)))
        norm_a, norm_b = aa.sqrt().clamp_min(1e-8), bb.sqrt().clamp_min(1e-8)
        cosine = ab / (norm_a * norm_b)
        ctx.stats = norm_a, norm_b, cosine
        return (aa + bb - 2 * ab).sum() / a.numel() + (1 - cosine).mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        norm_a, norm_b, cosine = ctx.stats
        mse, mean = 2 * grad / a.numel(), grad / len(a)
        mixed = -mse - mean / (norm_a * norm_b)  # what the one is pulled by the other

        def weighted(own: Tensor, norm: Tensor, other: Tensor) -> Tensor:
            shape = (-1,) + (1,) * (own.ndim - 1)
            pull = (mse + mean * cosine / norm**2).to(own.dtype).view(shape)
            return torch.addcmul(other.to(own.dtype) * mixed.to(own.dtype).view(shape), own, pull)

        return (
            weighted(a, norm_a, b) if ctx.needs_input_grad[0] else None,
            weighted(b, norm_b, a) if ctx.needs_input_grad[1] else None,
        )


def first_switch(composition: str) -> int:
    """The 0-based index of the first block whose network differs from the one before it."""
    return next(i for i in range(1, len(composition)) if composition[i] != composition[i - 1])


@contextmanager
def running_norm(student: nn.Module, on: bool) -> Iterator[None]:
    """If `on`, batch norm in `student` uses its running averages inside the block and leaves them as they are."""
    layers = [m for m in student.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    for layer in layers:
        layer.train(not on)
    try:
        yield
    finally:
        for layer in layers:
            layer.train()
