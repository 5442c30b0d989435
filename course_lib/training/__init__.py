"""Training: the loop, what happens around it, losses, scores, and models on disk."""

from .callbacks import (
    ClipGradients,
    EarlyStopping,
    MetricLog,
    Plateau,
    Progress,
    Timing,
    WarmupCosine,
)
from .checkpoints import Checkpoints, ModelSerializer
from .evaluation import evaluate
from .fit import fit
from .losses import (
    AsymmetricLoss,
    ClassBalancedLoss,
    FocalLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    calculate_aggressive_pos_weights,
    head_diversity_penalty,
    prediction_diversity_penalty,
)
from .metrics import concordance

__all__ = [
    "AsymmetricLoss",
    "Checkpoints",
    "ClassBalancedLoss",
    "ClipGradients",
    "EarlyStopping",
    "FocalLoss",
    "LDAMLoss",
    "LogitAdjustedLoss",
    "MetricLog",
    "ModelSerializer",
    "Plateau",
    "Progress",
    "Timing",
    "WarmupCosine",
    "calculate_aggressive_pos_weights",
    "concordance",
    "evaluate",
    "fit",
    "head_diversity_penalty",
    "prediction_diversity_penalty",
]
