"""Probabilities that mean what they say, and an attribute model that carries its calibration and
its thresholds.
"""

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import files, runtime
from ..data.population import ATTRIBUTES
from ..models.attributes import AttributeDecoder, AttributeModel, PointingDecoder, TokenExtractor
from ..models.backbones import fill
from ..shapes import Bool, Float
from .attribute_metrics import best_thresholds

__all__ = ["AttributePredictor", "Calibration", "calibrate", "course_attribute_predictor"]


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
    Raises ValueError for shapes that differ or logits that are not finite. Derived in lesson 07.
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
    logits, targets = logits.detach().double(), targets.double()
    present = targets.sum(0)
    wanted = torch.where(
        targets > 0, (present + 1) / (present + 2), 1 / (len(targets) - present + 2)
    )
    mean, spread = logits.mean(0), logits.std(0, correction=0).clamp(min=1e-6)
    ordered = (logits - mean) / spread
    slope, shift = (
        torch.ones_like(mean, requires_grad=True),
        torch.logit(wanted.mean(0)).requires_grad_(),
    )
    optimizer = torch.optim.LBFGS(
        [slope, shift], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
    )

    def unlikelihood() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(slope * ordered + shift, wanted)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(unlikelihood)
    slope, shift = slope.detach() / spread, (shift - slope * mean / spread).detach()
    return Calibration(slope.float(), shift.float())


class AttributePredictor(nn.Module):
    """An attribute model ready to use: images to calibrated logits, and to yes or no by thresholds
    of its own.

    All of it is in the `state_dict`, and its `config` builds it again, so that `ModelSerializer`
    keeps it as one thing. A new one is neither trained nor calibrated: see `ready`. Derived in
    lesson 07.
    """

    def __init__(
        self,
        names: Sequence[str] = ATTRIBUTES,
        token_dim: int = 96,
        dim: int = 96,
        pointing: bool = True,
    ):
        super().__init__()
        self.names, decoder = tuple(names), PointingDecoder if pointing else AttributeDecoder
        self.config = {
            "names": list(names),
            "token_dim": token_dim,
            "dim": dim,
            "pointing": pointing,
        }
        self.model = AttributeModel(
            TokenExtractor(token_dim), decoder(token_dim, len(self.names), dim=dim)
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


def course_attribute_predictor() -> AttributePredictor:
    """The shipped predictor: a `PointingDecoder` on tokens that see little, taught hard faces. Used
    in lesson 08.
    """
    tensors, facts = files.load_tensors(runtime.assets("weights/attributes.safetensors"))
    predictor = AttributePredictor(facts["names"])
    fill(predictor, tensors, "weights/attributes.safetensors")
    return predictor.eval()
