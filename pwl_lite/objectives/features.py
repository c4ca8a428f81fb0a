"""Distillation on features: FitNet, attention transfer, relational KD. (Contrastive: `contrastive`.)"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize, smooth_l1_loss

from ..blocknet import BlockNet, channels_first, channels_of, feature_shapes, places_of
from ..errors import NetworkError
from ..swapnet import Converter
from .kd import KD
from .objective import Objective


class FeatureDistillation(Objective):
    """Labels, as much of Hinton's KD as `alpha` says, and one term that compares the features of both networks.

    Args:
        teacher: trained network, frozen from here on.
        student: the network to train.
        weight: of the feature term.
        alpha, temperature: as in `KD`; by default the outputs of the teacher are not used, as in the papers.
    """

    name: str  # of the method, in records and as the name of the loss term

    def __init__(self, teacher: BlockNet, student: BlockNet, weight: float, alpha: float = 0.0, temperature: float = 4.0):
        self.kd = KD(teacher, student, alpha, temperature)
        self.teacher, self.student, self.weight = teacher, student, weight
        self.model: nn.Module = student

    @abstractmethod
    def feature_term(self, student: list[Tensor], teacher: list[Tensor], labels: Tensor) -> Tensor:
        """The unweighted term, from the outputs of all blocks of both networks and the labels (batch,)."""

    def terms(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            teacher_features = self.teacher.features(images)
            teacher_logits = self.teacher.head(teacher_features[-1])
        student_features = self.student.features(images)
        terms = self.kd.terms_of_logits(self.student.head(student_features[-1]), teacher_logits, targets)
        term = self.feature_term(student_features, teacher_features, targets.argmax(1))
        return {**terms, self.name: self.weight * term}

    def settings(self) -> dict[str, Any]:
        return {**self.kd.settings(), "name": self.name, "weight": self.weight}


class FitNet(FeatureDistillation):
    """The student's features of one block, mapped by a learned regressor, match the teacher's (a "hint").

    The regressor is a linear map on the channels and is thrown away after training. The paper trains it and the blocks up
    to the hint in a stage of their own; here, as in most comparisons since, the hint is one more term all along.

    Source: Romero, Ballas, Kahou, Chassang, Gatta, Bengio, *FitNets: Hints for Thin Deep Nets*, arXiv 1412.6550.

    Args:
        teacher, student, weight, alpha, temperature: as in `FeatureDistillation`.
        block: number 1 .. N of the block whose output is compared; by default the middle one.

    Raises:
        NetworkError: there is no such block, or the two outputs differ in height or width.
    """

    name = "fitnet"

    def __init__(self, teacher: BlockNet, student: BlockNet, weight: float = 100.0, block: int | None = None, **options: Any):
        super().__init__(teacher, student, weight, **options)
        self.block = student.num_blocks // 2 if block is None else block
        s, t = matched_channels(student, teacher, self.block)
        regressor = Converter(s, t, tokens=len(feature_shapes(student)[self.block - 1]) == 2).decoder
        regressor.to(next(student.parameters()).device)
        self.model = nn.ModuleDict({"student": student, "regressor": regressor})

    def feature_term(self, student: list[Tensor], teacher: list[Tensor], labels: Tensor) -> Tensor:
        mapped = self.model["regressor"](student[self.block - 1])
        return mse_loss(mapped.float(), teacher[self.block - 1].float())

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "block": self.block}


class AttentionTransfer(FeatureDistillation):
    """After each block, the student looks at the same places as the teacher.

    Source: Zagoruyko, Komodakis, *Paying More Attention to Attention*, arXiv 1612.03928 (activation-based, squares); the
    weight is that of its code.

    Args:
        teacher, student, weight, alpha, temperature: as in `FeatureDistillation`.

    Raises:
        NetworkError: the outputs of a block differ in height or width.
    """

    name = "attention"

    def __init__(self, teacher: BlockNet, student: BlockNet, weight: float = 1000.0, **options: Any):
        super().__init__(teacher, student, weight, **options)
        for block in range(1, student.num_blocks + 1):
            matched_channels(student, teacher, block)

    def feature_term(self, student: list[Tensor], teacher: list[Tensor], labels: Tensor) -> Tensor:
        pairs = zip(student, teacher, strict=True)
        return torch.stack([mse_loss(attention_map(s), attention_map(t)) for s, t in pairs]).sum()


class RelationalKD(FeatureDistillation):
    """Distances and angles between the images of a batch are the same for both networks.

    An image is represented by the mean over all places of the last block's output.

    Source: Park, Kim, Lu, Cho, *Relational Knowledge Distillation*, arXiv 1904.05068; weights as in its code.

    Args:
        teacher, student, alpha, temperature: as in `FeatureDistillation`.
        distance: weight of the pairwise distances (each relative to the batch's mean distance).
        angle: weight of the angles of all triples.
        weight: of both together.
    """

    name = "relational"
    whole_batch = True

    def __init__(
        self,
        teacher: BlockNet,
        student: BlockNet,
        distance: float = 25.0,
        angle: float = 50.0,
        weight: float = 1.0,
        **options: Any,
    ):
        super().__init__(teacher, student, weight, **options)
        self.distance, self.angle = distance, angle

    def feature_term(self, student: list[Tensor], teacher: list[Tensor], labels: Tensor) -> Tensor:
        s, t = embedding(student), embedding(teacher)
        with torch.autocast(s.device.type, enabled=False):  # cosines of 8 bits would drown the differences
            distance = smooth_l1_loss(relative_distances(s), relative_distances(t))
            angle = smooth_l1_loss(angles(s), angles(t))
        return self.distance * distance + self.angle * angle

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "distance": self.distance, "angle": self.angle}


def matched_channels(student: BlockNet, teacher: BlockNet, block: int) -> tuple[int, int]:
    """Channels after block 1 .. N of both networks.

    Raises:
        NetworkError: there is no such block, or the features differ in height or width (or number of tokens).
    """
    if not 1 <= block <= student.num_blocks:
        raise NetworkError(f"block {block}: expected a number from 1 to {student.num_blocks}")
    s, t = (feature_shapes(net)[block - 1] for net in (student, teacher))
    if places_of(s) != places_of(t):
        raise NetworkError(
            f"after block {block} the student's features have the places {places_of(s)}, the teacher's {places_of(t)}: "
            "choose a block after which they agree"
        )
    return channels_of(s), channels_of(t)


def attention_map(features: Tensor) -> Tensor:
    """Mean square over the channels at each place, scaled to length 1: maps or tokens -> (batch, places)."""
    return normalize(channels_first(features).float().square().mean(1).flatten(1))


def embedding(features: Sequence[Tensor]) -> Tensor:
    """One vector per image: the last block's output, mean over places -> (batch, channels)."""
    return channels_first(features[-1]).float().flatten(2).mean(2)


def relative_distances(x: Tensor) -> Tensor:
    """Euclidean distances between all rows of x (batch, channels), divided by their mean -> (batch, batch)."""
    squares = (x[:, None] - x).square().sum(2)
    apart = ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    # the root of an exact 0 has no gradient, so it is only taken where rows differ from themselves
    distances = torch.zeros_like(squares).masked_scatter(apart, squares[apart].clamp_min(1e-12).sqrt())
    return distances / distances[apart].mean()


def angles(x: Tensor) -> Tensor:
    """Cosine of the angle at j between i and k, for all triples of rows of x (batch, channels) -> (batch, batch, batch)."""
    directions = normalize(x[None] - x[:, None], dim=2)  # [j, i]: from row j to row i
    return directions @ directions.transpose(1, 2)
