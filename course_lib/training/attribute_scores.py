"""How good predicted attributes are: scores at thresholds, ranking, calibration, and a predictor
that is ready to decide.
"""

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from .. import files, runtime
from ..models.attributes import (
    AttributeDecoder,
    AttributeModel,
    FinePointingDecoder,
    FineTokenExtractor,
    MixedTokenExtractor,
    PointingDecoder,
    TokenExtractor,
)
from ..models.backbones import fill
from ..shapes import Bool, Float
from ..world.population import ATTRIBUTES

__all__ = [
    "DECODERS",
    "AttributePredictor",
    "Calibration",
    "best_thresholds",
    "blind_accuracies",
    "calibrate",
    "calibration_error",
    "course_attribute_predictor",
    "score_attributes",
    "shipped_decoders",
    "threshold_scores",
]


def blind_accuracies(frequencies: Float[Tensor, " attributes"]) -> tuple[float, float]:
    """What two models score that never look: one that always says no, and one that says what is
    usual.

    Mean accuracies over attributes of which `frequencies` are the share of images that have them.
    Both have a balanced accuracy of one half. Derived in lesson 08.
    """
    return float((1 - frequencies).mean()), float(
        torch.maximum(frequencies, 1 - frequencies).mean()
    )


def threshold_scores(
    probabilities: Tensor, targets: Tensor, thresholds: Tensor | float = 0.5
) -> dict[str, Float[Tensor, " attributes"]]:
    """`f1`, `precision`, `recall`, `balanced_accuracy`, `accuracy` and `positive_rate` of each
    attribute.

    `thresholds` is one number or one an attribute. What divides by a count of zero is 0: the
    precision of a model that predicts nothing, or the recall where there is nothing to find. Raises
    ValueError for shapes that differ and values that are no probability or label. Derived in lesson
    08.
    """
    truth = checked_truth(probabilities, targets)
    positive = probabilities >= thresholds
    hits, predicted, present = (positive & truth).sum(0), positive.sum(0), truth.sum(0)
    rejected = (~positive & ~truth).sum(0)
    recall, specificity = _ratio(hits, present), _ratio(rejected, len(truth) - present)
    return {
        "f1": _ratio(2 * hits, predicted + present),
        "precision": _ratio(hits, predicted),
        "recall": recall,
        "balanced_accuracy": (recall + specificity) / 2,
        "accuracy": (hits + rejected) / len(truth),
        "positive_rate": predicted / len(truth),
    }


def best_thresholds(probabilities: Tensor, targets: Tensor) -> Float[Tensor, " attributes"]:
    """The threshold of each attribute at which F1 is highest: choose it on validation, use it on
    test.

    It is one of the attribute's own probabilities, the largest of those that tie. Raises ValueError
    as `threshold_scores` does, and for an attribute without positives or without negatives. Derived
    in lesson 08.
    """
    truth = checked_truth(probabilities, targets, both_kinds=True)
    ordered, order = probabilities.sort(0, descending=True)
    hits = truth.gather(0, order).cumsum(0)  # of predicting the first 1, 2, 3, ...
    predicted = torch.arange(1, len(truth) + 1, device=truth.device)[:, None]
    f1 = 2 * hits / (predicted + truth.sum(0))
    f1[:-1][ordered[:-1] == ordered[1:]] = -1  # no threshold cuts between equal probabilities
    return ordered.gather(0, f1.argmax(0, keepdim=True))[0]


def calibration_error(
    probabilities: Tensor, targets: Tensor, bins: int = 15
) -> Float[Tensor, " attributes"]:
    """How far probabilities are from frequencies, in bins of equal width, weighted by how many
    items are in each.

    0 means that of the images given 30 %, three in ten have the attribute. Raises ValueError as
    `threshold_scores` does. Guo et al., arXiv 1706.04599, here of the positive class. Derived in
    lesson 12.
    """
    checked_truth(probabilities, targets)
    which = (probabilities * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, targets.shape[1], dtype=torch.float64, device=targets.device)
    gaps.scatter_add_(0, which, (probabilities - targets).double())
    return (gaps.abs().sum(0) / len(targets)).float()


def score_attributes(
    probabilities: Tensor,
    targets: Tensor,
    thresholds: Tensor | float = 0.5,
    names: Sequence[str] | None = None,
) -> dict[str, Float[Tensor, " attributes"]]:
    """`threshold_scores`, and what no threshold moves: `average_precision`, `roc_auc`; and
    `calibration_error`.

    Raises ValueError as `threshold_scores` does, and for an attribute without positives or without
    negatives, by its name if `names` are given. Derived in lesson 08.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    truth = checked_truth(probabilities, targets, both_kinds=True, names=names)
    columns = list(zip(truth.T.cpu().numpy(), probabilities.detach().T.cpu().numpy(), strict=True))
    return {
        **threshold_scores(probabilities, targets, thresholds),
        "average_precision": probabilities.new_tensor(
            [average_precision_score(*column) for column in columns]
        ),
        "roc_auc": probabilities.new_tensor([roc_auc_score(*column) for column in columns]),
        "calibration_error": calibration_error(probabilities, targets),
    }


def _ratio(part: Tensor, whole: Tensor) -> Float[Tensor, " attributes"]:
    return part / whole.clamp(min=1)


def checked_truth(
    probabilities: Tensor,
    targets: Tensor,
    both_kinds: bool = False,
    names: Sequence[str] | None = None,
) -> Tensor:
    """The targets as booleans, if both are what they should be."""
    if probabilities.shape != targets.shape or probabilities.ndim != 2 or not len(probabilities):
        raise ValueError(
            f"probabilities have shape {tuple(probabilities.shape)} and targets"
            f" {tuple(targets.shape)}; expected the same (batch, attributes) with at least one row"
        )
    low, high = (edge.item() for edge in probabilities.aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"probabilities run from {low:g} to {high:g}; expected 0 to 1: use logits.sigmoid()"
            " (and look for NaN)"
        )
    truth = targets.bool()
    if not torch.equal(truth.to(targets.dtype), targets):
        raise ValueError(
            "targets hold other values than 0 and 1; expected labels: turn CelebA's -1 and 1 into"
            " them with (targets > 0).float()"
        )
    if both_kinds and len(one_sided := (truth.all(0) | ~truth.any(0)).nonzero()):
        index = one_sided[0].item()
        kind = "negative" if truth[0, index] else "positive"
        raise ValueError(
            f"attribute {index if names is None else repr(names[index])} has no {kind} among the "
            f"{len(truth)} targets; use a larger split, or leave the attribute out"
        )
    return truth


class Calibration(nn.Module):
    """Logits to logits whose sigmoid is a frequency: slope · logit + shift, a pair an attribute.
    See `calibrate`.
    """

    def __init__(self, slope: Float[Tensor, " attributes"], shift: Float[Tensor, " attributes"]):
        super().__init__()
        self.register_buffer("slope", slope)
        self.register_buffer("shift", shift)

    def forward(
        self, logits: Float[Tensor, "batch attributes"]
    ) -> Float[Tensor, "batch attributes"]:
        return self.slope * logits + self.shift


def calibrate(logits: Tensor, targets: Tensor) -> Calibration:
    """The `Calibration` that makes `targets` likeliest: a logistic regression on each attribute's
    one logit.

    `logits` and `targets` (0 or 1) are `batch attributes` of images that the model was not trained
    on. The order of images is kept, so average precision and ROC-AUC stay what they are. As in
    Platt's "Probabilistic outputs for support vector machines" (1999), a count of n positives asks
    for (n + 1) / (n + 2), not for 1, so that logits that separate the classes leave finite numbers.
    Raises ValueError for shapes that differ or logits that are not finite. Derived in lesson 12.
    """
    if (
        logits.ndim != 2
        or logits.shape != targets.shape
        or not len(logits)
        or not logits.isfinite().all()
    ):
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and targets {tuple(targets.shape)}; expected"
            " the same (batch, attributes), at least one row, and finite logits"
        )
    from sklearn.linear_model import LogisticRegression

    device = logits.device
    logits, targets = logits.detach().double().cpu(), targets.double().cpu()
    present = targets.sum(0)
    smoothed = torch.where(
        targets > 0, (present + 1) / (present + 2), 1 / (len(targets) - present + 2)
    )
    mean, spread = logits.mean(0), logits.std(0, correction=0).clamp(min=1e-6)
    slope, shift = torch.empty_like(mean), torch.empty_like(mean)
    both = torch.cat([torch.ones(len(logits)), torch.zeros(len(logits))])
    for k, column in enumerate(((logits - mean) / spread).T):
        # a target of 0.9 is a yes that weighs 0.9 and a no that weighs 0.1
        regression = LogisticRegression(C=1e10, tol=1e-8, solver="newton-cholesky").fit(
            torch.cat([column, column])[:, None],
            both,
            sample_weight=torch.cat([smoothed[:, k], 1 - smoothed[:, k]]),
        )
        slope[k] = regression.coef_.item() / spread[k]
        shift[k] = regression.intercept_.item() - slope[k] * mean[k]
    return Calibration(slope.float().to(device), shift.float().to(device))


# What makes the tokens and what attends to them, by how many tokens there are.
GRIDS: dict[int, tuple[type[TokenExtractor], type[PointingDecoder]]] = {
    49: (TokenExtractor, PointingDecoder),
    196: (FineTokenExtractor, FinePointingDecoder),
}


class AttributePredictor(nn.Module):
    """An attribute model ready to use: images to calibrated logits, and to yes or no by thresholds
    of its own.

    It looks at 49 `tokens` of a 56-pixel face (through `blocks` more residual blocks) or at 196 of a
    112-pixel face. All of it is in the `state_dict`, and its `config` builds it again, so that
    `ModelSerializer` keeps it as one thing. A new one is neither trained nor calibrated: see
    `ready`.
    """

    def __init__(
        self,
        names: Sequence[str] = ATTRIBUTES,
        token_dim: int = 96,
        dim: int = 96,
        pointing: bool = True,
        tokens: int = 49,
        blocks: int = 0,
    ):
        super().__init__()
        if tokens not in GRIDS:
            raise ValueError(
                f"no predictor looks at {tokens} tokens; choose 49 (7×7) or 196 (14×14)"
            )
        extractor, decoder = GRIDS[tokens]
        decoder = decoder if pointing else AttributeDecoder
        self.names = tuple(names)
        self.config = {
            "names": list(names),
            "token_dim": token_dim,
            "dim": dim,
            "pointing": pointing,
            "tokens": tokens,
            "blocks": blocks,
        }
        deeper = {"blocks": blocks} if blocks else {}
        self.model = AttributeModel(
            extractor(token_dim, **deeper),
            decoder(token_dim, len(self.names), dim=dim, tokens=tokens),
        )
        self.calibration = Calibration(torch.ones(len(self.names)), torch.zeros(len(self.names)))
        self.register_buffer("thresholds", torch.full((len(self.names),), 0.5))

    @classmethod
    def ready(
        cls, model: AttributeModel, names: Sequence[str], logits: Tensor, targets: Tensor
    ) -> Self:
        """`model` with the calibration and thresholds that its `logits` and the `targets` of
        validation images ask for.

        Raises ValueError for a number of names other than that of the model's attributes, and what
        `calibrate` and `best_thresholds` refuse.
        """
        if len(names) != logits.shape[-1]:
            raise ValueError(
                f"there are {len(names)} names and {logits.shape[-1]} attributes in the logits;"
                " give the names of these, in order"
            )
        predictor = cls(
            names,
            model.backbone.token_dim,
            model.decoder.queries.shape[1],
            isinstance(model.decoder, PointingDecoder),
            len(model.decoder.positions),
            model.backbone.blocks,
        )
        predictor.model, predictor.calibration = model, calibrate(logits, targets)
        predictor.thresholds = best_thresholds(
            predictor.calibration(logits).sigmoid(), targets
        ).float()
        return predictor.to(next(model.parameters()).device).eval()

    def forward(self, images: Tensor) -> Float[Tensor, "batch attributes"]:
        """Logits of images `batch 3 height width` in [0, 1], in evaluation mode: their sigmoid is
        calibrated.
        """
        return self.calibration(self.model(images))

    def decide(self, images: Tensor) -> Bool[Tensor, "batch attributes"]:
        """Whether each image has each attribute, at the attribute's own threshold."""
        return self(images).sigmoid() >= self.thresholds


def course_attribute_predictor(tokens: int = 49) -> AttributePredictor:
    """A shipped predictor: a pointing decoder on tokens that see little, taught hard faces. Used in
    lesson 10.

    It looks at 49 `tokens` (7×7 of a 56-pixel face) or at 196 (14×14 of a 112-pixel face). Raises
    ValueError for another number.
    """
    name = "attributes_fine" if tokens == 196 else "attributes"
    source = f"weights/{name}.safetensors"
    weights, facts = files.load_tensors(runtime.assets(source))
    predictor = AttributePredictor(facts["names"], tokens=tokens)
    fill(predictor, weights, source)
    return predictor.eval()


# Two attribute models: tokens that see little, and tokens that attention has mixed before.
DECODERS: dict[str, Callable[[], AttributeModel]] = {
    "pointing": lambda: AttributeModel(TokenExtractor(), PointingDecoder()),
    "tokens that attend to each other": lambda: AttributeModel(
        MixedTokenExtractor(), AttributeDecoder(96)
    ),
}


def shipped_decoders() -> dict[str, AttributeModel]:
    """Both models by the names of `DECODERS`, with the shipped weights. Used in lessons 09 and
    11.
    """
    mixed = DECODERS["tokens that attend to each other"]()
    tensors, _ = files.load_tensors(runtime.assets("weights/attributes_mixed.safetensors"))
    fill(mixed, tensors, "weights/attributes_mixed.safetensors")
    return {
        "pointing": course_attribute_predictor().model,
        "tokens that attend to each other": mixed.eval(),
    }
