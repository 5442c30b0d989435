"""Losses for binary attributes of which some are rare: weights, focusing, margins, shifted logits,
and two penalties.

Each takes logits and targets, `batch attributes`, and returns their mean, computed in float32 at
least. Where classes were meant to exclude each other (class-balanced, LDAM), an attribute is a
problem of two classes, present and absent.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.drawn import Layers
from ..data.samplers import effective_numbers
from ..shapes import Float

__all__ = [
    "AsymmetricLoss",
    "ClassBalancedLoss",
    "FocalLoss",
    "LDAMLoss",
    "LogitAdjustedLoss",
    "TokenLoss",
    "WeightedBCELoss",
    "calculate_aggressive_pos_weights",
    "focal_terms",
    "head_diversity_penalty",
    "inverse_frequencies",
    "part_loss",
    "prediction_diversity_penalty",
    "prior_logits",
]

# frequencies are the share of images that have the attribute
PerAttribute = Tensor | np.ndarray | Sequence[float]

CRITICAL = 0.05


class WeightedBCELoss(nn.Module):
    """Binary cross-entropy in which a positive counts `pos_weight` times (a number, or one an
    attribute).

    `pos_weight` = negatives / positives makes both classes weigh the same.
    """

    def __init__(self, pos_weight: PerAttribute | float | None = None):
        super().__init__()
        self.register_buffer("pos_weight", _pos_weight(pos_weight))

    def forward(self, logits: Tensor, targets: Tensor) -> Float[Tensor, ""]:
        logits, targets = _pair(logits, targets, self.pos_weight)
        return _mean(
            F.binary_cross_entropy_with_logits(
                logits, targets, pos_weight=self.pos_weight, reduction="none"
            ),
            logits,
        )


class FocalLoss(nn.Module):
    """Cross-entropy that looks away from what is already right: w (1 − p_t)^γ · −log p_t, p_t of
    the true answer.

    The weight `pos_weight` of positives stays outside: taken into p_t (as exp(−weighted BCE) does)
    it makes p_t^w of p_t and switches the focusing off for the very positives it is meant for. Lin
    et al., arXiv 1708.02002.
    """

    def __init__(self, gamma: float = 2.0, pos_weight: PerAttribute | float | None = None):
        super().__init__()
        self.gamma = _at_least_zero("gamma", gamma)
        self.register_buffer("pos_weight", _pos_weight(pos_weight))

    def forward(self, logits: Tensor, targets: Tensor) -> Float[Tensor, ""]:
        logits, targets = _pair(logits, targets, self.pos_weight)
        return _mean(focal_terms(logits, targets, self.gamma, self.pos_weight), logits)


def focal_terms(
    logits: Float[Tensor, "batch attributes"],
    targets: Float[Tensor, "batch attributes"],
    gamma: float,
    pos_weight: Tensor | None = None,
) -> Float[Tensor, "batch attributes"]:
    """w (1 − p_t)^γ · −log p_t of every image and attribute: `FocalLoss` before its mean. Derived
    in lesson 08.
    """
    log_right = F.logsigmoid((2 * targets - 1) * logits)  # log p_t, of the true answer
    # the floor keeps a gradient of 0 · ∞ away where the factor is 0 and gamma below 1
    focus = (-torch.expm1(log_right)).clamp(min=1e-30) ** gamma  # (1 − p_t)^γ
    weight = 1 if pos_weight is None else targets * pos_weight + 1 - targets
    return weight * focus * -log_right


class ClassBalancedLoss(nn.Module):
    """Cross-entropy weighted by 1 / E, where n images are worth E = (1 − β^n) / (1 − β) different
    ones.

    The two weights of an attribute, for its `frequencies` × `images` positives and for its
    negatives, are scaled to sum to 2. β = 0 weighs nothing, β → 1 by inverse frequency; between
    them it is 1 / (1 − β) that must be compared with the number of positives. Cui et al., arXiv
    1901.05555.
    """

    def __init__(self, frequencies: PerAttribute, images: int, beta: float = 0.9999):
        super().__init__()
        if not (0 <= beta < 1 and images >= 1):
            raise ValueError(
                f"beta is {beta} and images {images}; expected 0 ≤ beta < 1, such as 0.9999, and"
                " the number of training images"
            )
        positive = _frequencies(frequencies)
        worth = effective_numbers(images * torch.stack([positive, 1 - positive]), beta)
        weights = (2 / worth / (1 / worth).sum(0)).float()
        self.register_buffer("positive_weight", weights[0])
        self.register_buffer("negative_weight", weights[1])

    def forward(self, logits: Tensor, targets: Tensor) -> Float[Tensor, ""]:
        logits, targets = _pair(logits, targets, self.positive_weight)
        weight = _by_truth(targets, self.positive_weight, self.negative_weight)
        return _mean(weight * -F.logsigmoid(_right(logits, targets)), logits)


class LDAMLoss(nn.Module):
    """Cross-entropy with a margin that the true answer must win by, larger for the rarer class: Δ ∝
    n^(−1/4).

    The largest margin of all is `largest_margin`. A margin means something only where logits are
    bounded: they are meant to be cosines, of normalised features with normalised weights, which
    `scale` stretches. `pos_weight` is deferred: it counts from epoch `weight_from` on (call
    `set_epoch`), when the features have formed without it. Cao et al., arXiv 1906.07413.
    """

    def __init__(
        self,
        frequencies: PerAttribute,
        pos_weight: PerAttribute | float | None = None,
        weight_from: int = 0,
        largest_margin: float = 0.5,
        scale: float = 30.0,
    ):
        super().__init__()
        positive = _frequencies(frequencies)
        margins = torch.stack([positive, 1 - positive]) ** -0.25
        margins *= largest_margin / margins.max()
        self.register_buffer("positive_margin", margins[0])
        self.register_buffer("negative_margin", margins[1])
        self.register_buffer("pos_weight", _pos_weight(pos_weight))
        self.scale, self.weight_from, self.epoch = scale, weight_from, 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins, counted from 0."""
        self.epoch = epoch

    def forward(self, logits: Tensor, targets: Tensor) -> Float[Tensor, ""]:
        logits, targets = _pair(logits, targets, self.positive_margin)
        won_by = _right(logits, targets) - _by_truth(
            targets, self.positive_margin, self.negative_margin
        )
        weight = _weight(targets, self.pos_weight) if self.epoch >= self.weight_from else 1
        return _mean(weight * -F.logsigmoid(self.scale * won_by), logits)


class AsymmetricLoss(nn.Module):
    """Focal loss that forgives negatives more: γ− > γ+, and none is left where p ≤ `shift`.

    Positives: (1 − p)^γ+ · −log p. Negatives: q^γ− · −log(1 − q) with q = max(p − shift, 0). Ridnik
    et al., arXiv 2009.14119.
    """

    def __init__(
        self, gamma_negative: float = 4.0, gamma_positive: float = 1.0, shift: float = 0.05
    ):
        super().__init__()
        self.gamma_negative = _at_least_zero("gamma_negative", gamma_negative)
        self.gamma_positive = _at_least_zero("gamma_positive", gamma_positive)
        if not 0 <= shift < 1:
            raise ValueError(f"shift is {shift}; expected a probability below 1, such as 0.05")
        self.shift = shift

    def forward(self, logits: Tensor, targets: Tensor) -> Float[Tensor, ""]:
        logits, targets = _pair(logits, targets)
        # log(1 − q), which stays finite where 1 − q is 0 in floating point
        log_absent = torch.logaddexp(
            F.logsigmoid(-logits), logits.new_tensor(self.shift).log()
        ).clamp(max=0)
        present = _power(torch.sigmoid(-logits), self.gamma_positive) * F.logsigmoid(logits)
        absent = _power(-torch.expm1(log_absent), self.gamma_negative) * log_absent
        return _mean(-_by_truth(targets, present, absent), logits)


class LogitAdjustedLoss(nn.Module):
    """Cross-entropy of logits + τ log(π / (1 − π)): the prior π is given, so the logits learn only
    what it leaves.

    Use the plain logits at test time. With τ = 1 their threshold 0 aims at balanced accuracy: the
    form for two classes of Menon et al., arXiv 2007.07314.
    """

    def __init__(self, frequencies: PerAttribute, tau: float = 1.0):
        super().__init__()
        self.register_buffer("prior", tau * prior_logits(_frequencies(frequencies)))

    def forward(self, logits: Tensor, targets: Tensor) -> Float[Tensor, ""]:
        logits, targets = _pair(logits, targets, self.prior)
        return _mean(
            F.binary_cross_entropy_with_logits(logits + self.prior, targets, reduction="none"),
            logits,
        )


def calculate_aggressive_pos_weights(
    frequencies: PerAttribute, cap: float = 50.0, names: Sequence[str] | None = None
) -> Float[Tensor, " attributes"]:
    """1 / (f + 0.001), no smaller than 1 and no larger than `cap`: weights for the positives that
    many recipes have.

    For what is rare it is nearly `inverse_frequencies`; for what half of the images have it is 2,
    not 1. Attributes under 5 % are named in a printed sentence. Raises ValueError for frequencies
    that are not between 0 and 1, a `cap` below 1, and names of another number.
    """
    frequencies = _frequencies(frequencies, names)
    if not cap >= 1:
        raise ValueError(f"cap is {cap}; expected at least 1, the smallest weight, such as 50")
    weights = aggressive_weights(frequencies, cap)
    critical = [index for index in frequencies.argsort().tolist() if frequencies[index] < CRITICAL]
    if critical:
        print(
            f"{len(critical)} of {len(weights)} attributes are critical (under {CRITICAL:.0%}): "
            + ", ".join(
                f"{names[index] if names is not None else index} ({frequencies[index]:.2%}, weight"
                f" {weights[index]:.1f})"
                for index in critical
            )
        )
    return weights


def aggressive_weights(
    frequencies: Float[Tensor, " attributes"], cap: float
) -> Float[Tensor, " attributes"]:
    """The formula of `calculate_aggressive_pos_weights`, without its checks."""
    return (1 / (frequencies + 0.001)).clamp(1, cap)


def inverse_frequencies(
    frequencies: Float[Tensor, " attributes"], cap: float
) -> Float[Tensor, " attributes"]:
    """Negatives over positives, (1 − f) / f, no smaller than 1 and no larger than `cap`.

    With this weight for positives both classes weigh the same. Derived in lesson 08.
    """
    return ((1 - frequencies) / frequencies).clamp(1, cap)


def prior_logits(frequencies: Float[Tensor, " attributes"]) -> Float[Tensor, " attributes"]:
    """log(f / (1 − f)): the logit whose sigmoid is the frequency, where a bias should begin.

    Lin et al., arXiv 1708.02002, section 4.1. Derived in lesson 08.
    """
    return torch.logit(frequencies)


class TokenLoss(nn.Module):
    """A loss for a `PointingDecoder`: `loss` of its logits, and while it trains `token_loss` of its
    tokens' logits.

    `token_loss` is `loss` itself unless given: with `LDAMLoss` it must be, since tokens have no
    cosines.
    """

    def __init__(
        self,
        loss: Callable[[Tensor, Tensor], Tensor],
        token_loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    ):
        super().__init__()
        self.loss, self.token_loss = loss, token_loss or loss

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins to a loss that wants to know."""
        if hasattr(self.loss, "set_epoch"):
            self.loss.set_epoch(epoch)

    def forward(
        self, outputs: Tensor | tuple[Tensor, Tensor], targets: Tensor
    ) -> Float[Tensor, ""]:
        if isinstance(outputs, Tensor):  # the decoder is in evaluation mode
            return self.loss(outputs, targets)
        logits, token_logits = outputs
        return self.loss(logits, targets) + self.token_loss(token_logits, targets)


def head_diversity_penalty(weights: Float[Tensor, "batch heads queries keys"]) -> Float[Tensor, ""]:
    """How much two heads of one query overlap: the mean over pairs of the dot product of their
    maps.

    1 for equal one-hot maps, 0 for maps that share no key, and 1 / keys for uniform ones: a model
    gets nearly all of this by spreading out, so read the entropy beside it. The weights must carry
    a gradient: recorded ones do not. Raises ValueError for a single head. Derived in lesson 08.
    """
    heads = weights.shape[1]
    if heads < 2:
        raise ValueError(
            f"the weights have {heads} head, and overlap needs two; build the attention with"
            " heads=2 or more"
        )
    all_pairs = weights.sum(1).square().sum(-1)
    with_itself = weights.square().sum((1, -1))
    return ((all_pairs - with_itself) / (heads * (heads - 1))).mean()


def prediction_diversity_penalty(logits: Tensor, frequencies: PerAttribute) -> Float[Tensor, ""]:
    """How far the mean probability of an attribute in a batch is from its frequency, in nats (KL),
    averaged.

    It is 0 where they agree and grows without bound for a model that says no to everything. It
    takes probabilities because the share of logits above a threshold has no gradient. Raises
    ValueError for logits that are not `batch attributes` and frequencies that are not between 0 and
    1.
    """
    frequencies = _frequencies(frequencies).to(logits.device)
    if logits.ndim != 2 or logits.shape[1] != len(frequencies) or not len(logits):
        raise ValueError(
            f"logits have shape {tuple(logits.shape)}; expected (batch, {len(frequencies)}), one"
            " column a frequency and at least one row"
        )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_yes, log_no = (
        (F.logsigmoid(signed).logsumexp(0) - np.log(len(logits))) for signed in (logits, -logits)
    )
    return _mean(
        frequencies * (frequencies.log() - log_yes)
        + (1 - frequencies) * ((-frequencies).log1p() - log_no),
        logits,
    )


def _right(logits: Tensor, targets: Tensor) -> Tensor:
    """The logit of the true answer: its sigmoid is p_t."""
    return (2 * targets - 1) * logits


def _by_truth(targets: Tensor, present: Tensor, absent: Tensor | float) -> Tensor:
    """One value where the attribute is present, another where it is absent."""
    return targets * present + (1 - targets) * absent


def _weight(targets: Tensor, pos_weight: Tensor | None) -> Tensor | float:
    return 1.0 if pos_weight is None else _by_truth(targets, pos_weight, 1.0)


def _power(probability: Tensor, gamma: float) -> Tensor:
    """probability ** gamma; the floor keeps a gradient of 0 · ∞ away where probability is 0 and
    gamma below 1.
    """
    return probability.clamp(min=1e-30) ** gamma


def _pair(
    logits: Tensor, targets: Tensor, per_attribute: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Both in the precision to compute in, if they fit; half precision would overflow at weight ×
    scale × logit.
    """
    if logits.ndim != 2 or logits.shape != targets.shape or not len(logits):
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and targets {tuple(targets.shape)}; expected"
            " the same (batch, attributes) with at least one row, because broadcasting would"
            " compare the wrong labels"
        )
    if not targets.is_floating_point():
        raise ValueError(
            f"targets are {targets.dtype}; expected floats, 0 for absent and 1 for present: use "
            "targets.float()"
        )
    if (targets * (1 - targets)).any():  # NaN counts as true
        wrong = targets[(targets * (1 - targets)) != 0][0].item()
        raise ValueError(
            f"a target is {wrong}; expected 0 or 1: turn CelebA's -1 and 1 into them with "
            "(targets > 0).float()"
        )
    if per_attribute is not None and per_attribute.ndim and len(per_attribute) != logits.shape[1]:
        raise ValueError(
            f"logits have {logits.shape[1]} attributes and the loss was built for"
            f" {len(per_attribute)}; give it the frequencies or weights of the attributes the model"
            " predicts"
        )
    precise = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(precise), targets.to(precise)


def _mean(losses: Tensor, logits: Tensor) -> Float[Tensor, ""]:
    """The mean, unless logits are NaN or infinite; only a mean that is not finite costs a look at
    them.
    """
    mean = losses.mean()
    if not mean.isfinite() and len(broken := (~logits.isfinite()).nonzero()):
        row, attribute = broken[0].tolist()
        raise ValueError(
            f"logits[{row}, {attribute}] is {logits[row, attribute].item()}; expected finite"
            " numbers, so lower the learning rate or look for NaN in the images"
        )
    return mean


def _frequencies(
    frequencies: PerAttribute, names: Sequence[str] | None = None
) -> Float[Tensor, " attributes"]:
    frequencies = torch.as_tensor(frequencies, dtype=torch.float32)
    if frequencies.ndim != 1 or (names is not None and len(names) != len(frequencies)):
        count = "one an attribute" if names is None else f"one for each of the {len(names)} names"
        raise ValueError(
            f"frequencies have shape {tuple(frequencies.shape)}; expected {count}: use"
            " targets.mean(0)"
        )
    for index in (~((frequencies > 0) & (frequencies < 1))).nonzero().flatten().tolist():
        name, value = index if names is None else repr(names[index]), frequencies[index].item()
        missing = {0: "positive", 1: "negative"}.get(value)
        remedy = (
            f"there is no {missing} to learn from, so use more images or leave the attribute out"
            if missing
            else "divide percentages by 100, and look for NaN in the labels"
        )
        raise ValueError(
            f"the frequency of attribute {name} is {value:g}; expected a share between 0 and 1:"
            f" {remedy}"
        )
    return frequencies


def _pos_weight(weight: PerAttribute | float | None) -> Tensor | None:
    if weight is None:
        return None
    weight = torch.as_tensor(weight, dtype=torch.float32)
    if weight.ndim > 1 or not ((weight > 0) & weight.isfinite()).all():
        raise ValueError(
            f"pos_weight is {weight.tolist()}; expected one positive number, or one an attribute"
        )
    return weight


def _at_least_zero(name: str, value: float) -> float:
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} is {value}; expected a number from 0 (no focusing) on, such as 2")
    return value


def part_loss(logits: Layers, layers: Layers, weight: Float[Tensor, " parts"]) -> Float[Tensor, ""]:
    """Cross-entropy of every pixel, weighted by part: brows are a hundredth of the image.

    Like the squared error it is least at the mean of all answers, which is what a flow needs: a
    weight that depends on the part alone changes nothing of that.
    """
    pixels = F.binary_cross_entropy_with_logits(logits, layers, reduction="none")
    return 10 * (weight * pixels.mean((0, 2, 3))).mean()
