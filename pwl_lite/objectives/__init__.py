"""Objectives: what a training step minimises, as named loss terms of one batch."""

from .contrastive import CRD
from .dkd import DKD
from .features import AttentionTransfer, FeatureDistillation, FitNet, RelationalKD
from .kd import KD, kd_divergence
from .objective import Objective
from .progressive import ProgressiveDistillation, feature_distance
from .sampling import even_composition, prefix_composition, random_composition
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
    "even_composition",
    "feature_distance",
    "kd_divergence",
    "prefix_composition",
    "random_composition",
]
