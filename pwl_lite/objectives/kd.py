"""Knowledge distillation on the outputs."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from ..blocknet import state_hash
from ..errors import TrainingError
from .objective import Objective


def kd_divergence(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of the softened outputs, mean over the batch.

    The factor T^2 keeps the size of the gradients independent of the temperature T.
    Source: Hinton, Vinyals, Dean, *Distilling the Knowledge in a Neural Network*, arXiv 1503.02531, section 2.

    Args:
        logits, teacher_logits: (batch, classes).
        temperature: T > 0; larger values show more of what the teacher thinks of the wrong classes.
    """
    log_p = log_softmax(logits.float() / temperature, dim=1)
    log_q = log_softmax(teacher_logits.float() / temperature, dim=1)
    return temperature**2 * kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def check_temperature(temperature: float) -> None:
    """Raises TrainingError unless it is above 0."""
    if not temperature > 0:
        raise TrainingError(f"temperature = {temperature!r}: expected more than 0; 1 leaves the outputs as they are")


class KD(Objective):
    """Hinton's distillation: (1 - alpha) cross entropy + alpha T^2 KL to the teacher.

    The teacher is frozen: no gradients, evaluation mode. The defaults are those of the PWL authors' code.

    Args:
        teacher: trained network.
        student: the network to train.
        alpha: weight of the teacher's word against the labels', 0 to 1.
        temperature: T of the softmax.

    Raises:
        TrainingError: `alpha` or `temperature` are out of range.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, alpha: float = 0.6, temperature: float = 2.0):
        if not 0 <= alpha <= 1:
            raise TrainingError(f"alpha = {alpha!r}: expected 0 (labels only) to 1 (the teacher's word only)")
        check_temperature(temperature)
        self.teacher = teacher.requires_grad_(False).eval()
        self.model = student
        self.alpha = alpha
        self.temperature = temperature

    def terms(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            teacher_logits = self.teacher(images)
        return self.terms_of_logits(self.model(images), teacher_logits, targets)

    def terms_of_logits(self, logits: Tensor, teacher_logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The two terms when both logits (batch, classes) are already known."""
        return {
            "ce": (1 - self.alpha) * cross_entropy(logits.float(), targets),
            "kd": self.alpha * kd_divergence(logits, teacher_logits, self.temperature),
        }

    def settings(self) -> dict[str, Any]:
        return {
            "name": "kd",
            "alpha": self.alpha,
            "temperature": self.temperature,
            "teacher": state_hash(self.teacher),
        }
