"""Decoupled knowledge distillation."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, one_hot

from ..blocknet import state_hash
from .kd import check_temperature
from .objective import Objective


class DKD(Objective):
    """Hinton's divergence taken apart: how sure of the right class, and how the rest is spread, with weights of their own.

    In Hinton's KD the second part, what the teacher knows about the *wrong* classes, is weighted by how unsure the teacher
    is, so a good teacher hardly passes it on.

    Source: Zhao, Cui, Song, Qiu, Liang, *Decoupled Knowledge Distillation*, arXiv 2203.08679; defaults as in its CIFAR runs.

    Args:
        teacher: trained network, frozen from here on.
        student: the network to train.
        alpha: weight of the target-class part.
        beta: weight of the non-target part.
        temperature: T of the softmax; both parts are multiplied by T^2.
        warmup: share of the training over which the distillation's weight rises linearly to 1.

    Raises:
        TrainingError: the temperature is not above 0.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        warmup: float = 1 / 12,
    ):
        check_temperature(temperature)
        self.teacher = teacher.requires_grad_(False).eval()
        self.model = student
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.warmup = warmup

    def start_step(self, progress: float) -> None:
        self.progress = progress  # step by step: in a training of one epoch the warm-up would never end

    def terms(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            teacher_logits = self.teacher(images)
        logits = self.model(images)
        target_part, other_part = decoupled_divergence(logits, teacher_logits, targets.argmax(1), self.temperature)
        ramp = min(1.0, self.progress / self.warmup) if self.warmup else 1.0
        return {
            "ce": cross_entropy(logits.float(), targets),
            "target": ramp * self.alpha * target_part,
            "non-target": ramp * self.beta * other_part,
        }

    def settings(self) -> dict[str, Any]:
        return {
            "name": "dkd",
            "alpha": self.alpha,
            "beta": self.beta,
            "temperature": self.temperature,
            "warmup": self.warmup,
            "teacher": state_hash(self.teacher),
        }


def decoupled_divergence(logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """T^2 KL(teacher || student) of (target, all others) and of the others among themselves, means over the batch.

    With p the teacher's probability of the target, Hinton's divergence is the first plus (1 - p) times the second, image by
    image.

    Args:
        logits, teacher_logits: (batch, classes).
        labels: the right classes, (batch,).
        temperature: T > 0.
    """
    is_target = one_hot(labels, logits.shape[1]).bool()

    def right_or_not(x: Tensor) -> Tensor:
        """Log-probabilities of the right class, and of all others together: (batch, 2)."""
        x = log_softmax(x, 1)
        return torch.stack([x[is_target], x.masked_fill(is_target, -torch.inf).logsumexp(1)], 1)

    def among_others(x: Tensor) -> Tensor:
        return log_softmax(x[~is_target].view(len(x), -1), 1)

    both = logits.float() / temperature, teacher_logits.float() / temperature
    target, rest = (
        kl_div(*map(part, both), reduction="batchmean", log_target=True) for part in (right_or_not, among_others)
    )
    return temperature**2 * target, temperature**2 * rest
