"""The steps of an explorer, one by one: a map to lay over a face, which attributes to list, where a
model is blind.
"""

from torch import Tensor

from ..shapes import Bool, Float

__all__ = ["attribute_map", "attributes_of_rarity", "blind_spots"]


def attribute_map(
    weights: Float[Tensor, "heads attributes tokens"], attribute: int, head: int = -1
) -> Float[Tensor, "rows columns"]:
    """Where one attribute's query looks, on the square grid of tokens; head -1 is the mean over the
    heads.

    Derived in lesson 10.
    """
    looked = weights[:, attribute]
    looked = looked.mean(0) if head < 0 else looked[head]
    return looked.unflatten(0, (round(len(looked) ** 0.5), -1))


def attributes_of_rarity(frequencies: Float[Tensor, " attributes"], rarity: str) -> list[int]:
    """The attributes that are "rare" (under 10 %), "common" (over 30 %) or "all", by index, the
    rarest first.

    Derived in lesson 10.
    """
    chosen = {"all": frequencies >= 0, "rare": frequencies < 0.10, "common": frequencies > 0.30}[
        rarity
    ]
    return [k for k in frequencies.argsort(stable=True).tolist() if chosen[k]]


def blind_spots(
    probabilities: Float[Tensor, "samples attributes"],
    thresholds: Float[Tensor, " attributes"],
    truth: Float[Tensor, "samples attributes"],
    hits: Float[Tensor, "samples attributes"],
) -> dict[str, Bool[Tensor, "samples attributes"]]:
    """Which attributes of which images were "missed", a "false alarm", or "found off region", while
    looking elsewhere.

    From its threshold on an attribute is predicted. `hits` is the share of the strongest patches
    that are on the region. NaN in `truth` or `hits` is unknown, and what is unknown is no mistake.
    Derived in lesson 10.
    """
    predicted = probabilities >= thresholds
    return {
        "missed": (truth == 1) & ~predicted,
        "false alarm": (truth == 0) & predicted,
        "found off region": (truth == 1) & predicted & (hits < 0.5),
    }
