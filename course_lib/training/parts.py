"""What a model of layers is trained to lower, and how its layers are scored. Derived in lesson 10."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.parts import Layers
from ..shapes import Float

__all__ = ["layer_iou", "part_loss"]


def part_loss(logits: Layers, layers: Layers, weight: Float[Tensor, " parts"]) -> Float[Tensor, ""]:
    """Cross-entropy of every pixel, weighted by part, plus the soft Dice loss of every layer.

    Cross-entropy alone cares for a part by its area, and brows are a hundredth of the image; Dice
    asks for the overlap, whatever the size, and where a part is absent for an empty layer.
    Milletari et al., arXiv 1606.04797.
    """
    pixels = F.binary_cross_entropy_with_logits(logits, layers, reduction="none").mean((0, 2, 3))
    covered = logits.sigmoid()
    overlap = (covered * layers).sum((2, 3))
    dice = 1 - (2 * overlap + 1) / ((covered + layers).sum((2, 3)) + 1)
    return 10 * (weight * pixels).mean() + dice.mean()


def layer_iou(layers: Layers, truth: Layers) -> Float[Tensor, "batch parts"]:
    """Intersection over union of the pixels that are more than half covered; NaN where there are
    none in either.
    """
    said, true = layers > 0.5, truth > 0.5
    union = (said | true).flatten(2).sum(2)
    return torch.where(union > 0, (said & true).flatten(2).sum(2) / union, torch.nan)
