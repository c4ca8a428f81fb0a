"""Objectives: what a training step minimises, as named loss terms of one batch."""

from typing import Any

from ..blocknet import BlockNet
from ..errors import TrainingError, UnknownNameError
from ..swapnet import SwapNet
from .contrastive import CRD
from .curriculum import CurriculumExtraction, PCACurriculum, ProgressiveCheckpoints
from .dkd import DKD
from .features import AttentionTransfer, FeatureDistillation, FitNet, RelationalKD
from .kd import KD, kd_divergence
from .objective import Objective
from .progressive import AUTHORS, ProgressiveDistillation, feature_distance
from .projections import PROJECTIONS, projection_matrix
from .sampling import SAMPLERS, even_composition, prefix_composition, random_composition
from .supervised import Supervised

OBJECTIVES = {
    "supervised": lambda teacher, student: Supervised(student),
    "kd": KD,
    "dkd": DKD,
    "fitnet": FitNet,
    "attention": AttentionTransfer,
    "relational": RelationalKD,
    "crd": CRD,
    "checkpoints": lambda teacher, student, checkpoints=(), **settings: ProgressiveCheckpoints(
        [*checkpoints, teacher], student, **settings
    ),
    "extraction": CurriculumExtraction,
    "pca": PCACurriculum,
    "progressive": lambda teacher, student, identity=None, **settings: ProgressiveDistillation(
        SwapNet(teacher, student, identity), **settings
    ),
}


def build_objective(name: str, teacher: BlockNet, student: BlockNet, **settings: Any) -> Objective:
    """The objective of that name, to train `student` by.

    Args:
        name: one of `OBJECTIVES`; with `settings`, what `Objective.settings()` calls it.
        teacher: trained network (not used by `supervised`).
        student: the network to train.
        settings: of the objective's class.

    Raises:
        UnknownNameError: no such objective.
        TrainingError: it has no such setting.
    """
    if name not in OBJECTIVES:
        raise UnknownNameError("objective", name, OBJECTIVES)
    try:
        return OBJECTIVES[name](teacher, student, **settings)
    except TypeError as error:
        raise TrainingError(f"objective {name} with {settings}: {error}") from error


__all__ = [
    "AUTHORS",
    "CRD",
    "DKD",
    "KD",
    "OBJECTIVES",
    "PROJECTIONS",
    "SAMPLERS",
    "AttentionTransfer",
    "CurriculumExtraction",
    "FeatureDistillation",
    "FitNet",
    "Objective",
    "PCACurriculum",
    "ProgressiveCheckpoints",
    "ProgressiveDistillation",
    "RelationalKD",
    "Supervised",
    "build_objective",
    "even_composition",
    "feature_distance",
    "kd_divergence",
    "prefix_composition",
    "projection_matrix",
    "random_composition",
]
