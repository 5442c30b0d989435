"""Roughly where attributes lie in CelebA's aligned photographs: a coarse truth where no exact one is
known.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..shapes import Bool, Float

__all__ = ["rough_boxes", "rough_regions"]

# Rows and columns, from and to, as shares of the square in the middle (178 × 178 of 178 × 218). Eyes,
# nose and corners of the mouth are at the same place in all aligned images, within a few pixels: the
# eyes at (0.39, 0.51) and (0.61, 0.51), the mouth's corners at (0.41, 0.74) and (0.59, 0.74).
BROWS = (0.36, 0.52, 0.26, 0.74)
EYES = (0.43, 0.60, 0.26, 0.74)
NOSE = (0.50, 0.72, 0.38, 0.62)
MOUTH = (0.66, 0.84, 0.34, 0.66)
LIP = (0.64, 0.76, 0.34, 0.66)  # what is between nose and mouth
CHIN = (0.78, 1.00, 0.28, 0.72)
CHEEKS = ((0.52, 0.74, 0.20, 0.42), (0.52, 0.74, 0.58, 0.80))
EARS = ((0.45, 0.85, 0.06, 0.28), (0.45, 0.85, 0.72, 0.94))
CROWN = (0.00, 0.34, 0.12, 0.88)  # above the eyebrows
SIDES = ((0.20, 0.95, 0.00, 0.24), (0.20, 0.95, 0.76, 1.00))
NECK = (0.90, 1.00, 0.20, 0.80)
HAIR = (CROWN, *SIDES)
JAW = ((0.62, 1.00, 0.20, 0.80),)

BOXES: dict[str, tuple] = {
    "5_o_Clock_Shadow": JAW,
    "Arched_Eyebrows": (BROWS,),
    "Bags_Under_Eyes": (EYES,),
    "Bald": (CROWN,),
    "Bangs": (CROWN,),
    "Big_Lips": (MOUTH,),
    "Big_Nose": (NOSE,),
    "Black_Hair": HAIR,
    "Blond_Hair": HAIR,
    "Brown_Hair": HAIR,
    "Bushy_Eyebrows": (BROWS,),
    "Double_Chin": (CHIN,),
    "Eyeglasses": (EYES,),
    "Goatee": (CHIN,),
    "Gray_Hair": HAIR,
    "High_Cheekbones": CHEEKS,
    "Mouth_Slightly_Open": (MOUTH,),
    "Mustache": (LIP,),
    "Narrow_Eyes": (EYES,),
    "No_Beard": JAW,
    "Pointy_Nose": (NOSE,),
    "Receding_Hairline": (CROWN,),
    "Rosy_Cheeks": CHEEKS,
    "Sideburns": SIDES,
    "Smiling": (MOUTH, *CHEEKS),
    "Straight_Hair": HAIR,
    "Wavy_Hair": HAIR,
    "Wearing_Earrings": EARS,
    "Wearing_Hat": (CROWN,),
    "Wearing_Lipstick": (MOUTH,),
    "Wearing_Necklace": (NECK,),
    "Wearing_Necktie": (NECK,),
}


def rough_boxes(names: Sequence[str], side: int = 28) -> Bool[Tensor, "attributes side side"]:
    """Where each attribute usually lies in an aligned photograph, cut as `CelebA` cuts it by
    default; empty for what has no place (Male, Young, Attractive).

    The same boxes for all images: a map that hits them may know the frame only, so its mean map
    belongs beside it.
    """
    boxes = torch.zeros(len(names), side, side, dtype=torch.bool)
    for mask, name in zip(boxes, names, strict=True):
        for box in BOXES.get(name, ()):
            top, bottom, left, right = (round(share * side) for share in box)
            mask[top:bottom, left:right] = True
    return boxes


def rough_regions(
    targets: Float[Tensor, "images attributes"], names: Sequence[str], side: int = 28
) -> Bool[Tensor, "images attributes side side"]:
    """The boxes of the attributes that each image has, for `score_localisation`; empty elsewhere."""
    return targets.bool()[:, :, None, None] & rough_boxes(names, side)
