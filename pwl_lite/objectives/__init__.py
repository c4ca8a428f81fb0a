"""Objectives: what a training step minimises, as named loss terms of one batch."""

from .kd import KD, kd_divergence
from .objective import Objective
from .progressive import ProgressiveDistillation, feature_distance, random_composition
from .supervised import Supervised

__all__ = [
    "KD",
    "Objective",
    "ProgressiveDistillation",
    "Supervised",
    "feature_distance",
    "kd_divergence",
    "random_composition",
]
