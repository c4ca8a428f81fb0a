"""Contrastive representation distillation."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..blocknet import BlockNet, channels_of, feature_shapes
from .features import FeatureDistillation, embedding


class CRD(FeatureDistillation):
    """Both networks' vectors of one image are closer to each other than to those of images of other classes.

    Two learned linear maps bring the last blocks' outputs to `dim` values of length 1. Each vector of the one network is
    compared with that of the same image by the other (positive), and with those of earlier images of other classes
    (negatives); the loss is that of telling the one from the others, in both directions.

    Source: Tian, Krishnan, Isola, *Contrastive Representation Distillation*, arXiv 1910.10699. One difference: the paper
    keeps the last vector of every training image and draws the negatives among them; here they are the last `negatives`
    images seen, which needs no image numbers and no memory that grows with the data set.

    Args:
        teacher, student, weight, alpha, temperature: as in `FeatureDistillation`.
        dim: length of the compared vectors.
        negatives: images that are remembered.
        sharpness: temperature tau of the similarity.
    """

    name = "crd"
    whole_batch = True  # what it remembers is of the images of one process

    def __init__(
        self,
        teacher: BlockNet,
        student: BlockNet,
        weight: float = 0.8,
        dim: int = 128,
        negatives: int = 4096,
        sharpness: float = 0.07,
        **options: Any,
    ):
        super().__init__(teacher, student, weight, **options)
        self.dim, self.negatives, self.sharpness = dim, negatives, sharpness
        s, t = (channels_of(feature_shapes(net)[-1]) for net in (student, teacher))
        device = next(student.parameters()).device
        maps = nn.ModuleDict({"student": nn.Linear(s, dim), "teacher": nn.Linear(t, dim)})
        self.model = nn.ModuleDict({"student": student, "maps": maps, "memory": _Memory(negatives, dim)}).to(device)

    def feature_term(self, student: list[Tensor], teacher: list[Tensor], labels: Tensor) -> Tensor:
        maps, memory = self.model["maps"], self.model["memory"]
        # copies, because the gradients need them as they are now, and `add` comes first
        students, teachers, classes = (x.clone() for x in (memory.student, memory.teacher, memory.labels))
        with torch.autocast(labels.device.type, enabled=False):  # the exponential of 1 / 0.07 magnifies rounding
            s = normalize(maps["student"](embedding(student)))
            t = normalize(maps["teacher"](embedding(teacher)))
            loss = contrast(s, t, teachers, labels, classes, self.sharpness)
            loss = loss + contrast(t, s, students, labels, classes, self.sharpness)
        memory.add(s.detach(), t.detach(), labels)
        return loss

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "dim": self.dim, "negatives": self.negatives, "sharpness": self.sharpness}


def contrast(
    anchors: Tensor, positives: Tensor, negatives: Tensor, labels: Tensor, negative_labels: Tensor, sharpness: float
) -> Tensor:
    """-log h of each positive pair, minus the sum of log(1 - h) over its negatives; mean over the batch.

    h = e / (e + N c) is the probability that a pair is positive, for e = exp(similarity / sharpness) and N negatives of which
    the mean of e is c: noise-contrastive estimation, equations 18 and 19 of the source, where c, a constant to the
    gradients, makes e a density. (The source's code takes c from the first batch; here it is that of the batch at hand.)

    Args:
        anchors, positives: (batch, dim), rows of length 1 that belong together.
        negatives: (N, dim), rows of length 1 from the positives' network; those of the anchor's own class, and those whose
            label is -1 (not filled yet), are left out.
        labels: of the anchors, (batch,).
        negative_labels: (N,).
        sharpness: temperature of the similarity.
    """
    positive = (anchors * positives).sum(1) / sharpness
    negative = anchors @ negatives.T / sharpness
    other = (negative_labels[None] != labels[:, None]) & (negative_labels[None] >= 0)
    counts = other.sum(1)
    filled = counts > 0
    if not filled.any():
        return positive.sum() * 0.0  # the first batch has nothing to be compared with
    with torch.no_grad():  # log(N c) = log of the sum of e over the negatives; a constant of the estimate
        log_noise = negative.masked_fill(~other, -torch.inf).logsumexp(1)[filled].mean()
    log_h = nn.functional.logsigmoid(positive - log_noise)
    log_not_h = nn.functional.logsigmoid(log_noise - negative).masked_fill(~other, 0.0).sum(1)
    return -(log_h + log_not_h)[filled].mean()


class _Memory(nn.Module):
    """The vectors of the last images, in a ring; buffers, so that a checkpoint holds them."""

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.register_buffer("student", torch.zeros(size, dim))
        self.register_buffer("teacher", torch.zeros(size, dim))
        self.register_buffer("labels", torch.full((size,), -1))
        self.register_buffer("next", torch.zeros((), dtype=torch.long))

    def add(self, student: Tensor, teacher: Tensor, labels: Tensor) -> None:
        student, teacher, labels = (x[-len(self.labels) :] for x in (student, teacher, labels))
        places = (self.next + torch.arange(len(labels), device=labels.device)) % len(self.labels)
        self.student[places], self.teacher[places], self.labels[places] = student, teacher, labels
        self.next.copy_((places[-1] + 1) % len(self.labels))
