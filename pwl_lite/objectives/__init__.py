"""Objectives: what a training step minimises, as named loss terms of one batch."""

from .contrastive import CRD
from .dkd import DKD
from .features import AttentionTransfer, FeatureDistillation, FitNet, RelationalKD
from .kd import KD, kd_divergence
from .objective import Objective
from .progressive import ProgressiveDistillation, feature_distance, random_composition
from .supervised import Supervised

__all__ = [
    "CRD",
    "DKD",
    "KD",
    "AttentionTransfer",
    "FeatureDistillation",
    "FitNet",
    "Objective",
    "ProgressiveDistillation",
    "RelationalKD",
    "Supervised",
    "feature_distance",
    "kd_divergence",
    "random_composition",
]
