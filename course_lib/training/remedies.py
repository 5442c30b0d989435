"""Remedies for rare attributes: each is a loss, a sampler or new faces; how one is trained, and
what a study of them shows.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, Sampler

from .. import runtime
from ..data.arrays import ImageArrays, TokenArrays
from ..data.drawn import FaceDataset
from ..data.samplers import BalancedSampler, CurriculumSampler, EnrichedFaces, rarest_weights
from ..models.attributes import AttributeModel, PointingDecoder, TokenExtractor
from ..models.inference import evaluating, to_model
from ..shapes import Float
from ..tables import Table
from ..world.population import ATTRIBUTES, CELEBA_RATES
from .callbacks import ClipGradients, WarmupCosine
from .fit import fit
from .losses import (
    AsymmetricLoss,
    ClassBalancedLoss,
    FocalLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    TokenLoss,
    WeightedBCELoss,
    inverse_frequencies,
    prior_logits,
)
from .stuck import AggressiveLoss, StuckDetector

__all__ = [
    "RARE",
    "REMEDIES",
    "SEEDS",
    "SUMMARY",
    "Remedy",
    "chosen_remedy",
    "enriched_faces",
    "evolution_table",
    "over_seeds",
    "paired_gain",
    "predict",
    "train_remedy",
]

RARE = CELEBA_RATES < 0.05  # six of the 33 attributes

SEEDS = (0, 1, 2, 3, 4)

# the rarest attribute has over 200 positives in the last
FACES, VALID, TEST = 12_000, 3_000, 10_000

PIXELS, BATCH, EPOCHS, LEARNING_RATE, WEIGHT_DECAY = 56, 64, 5, 2e-3, 0.02

LDAM_SCALE = 30.0  # from cosines to logits

Faces = ImageArrays | TokenArrays


class Remedy(NamedTuple):
    """What is changed: the loss (from frequencies and the number of images), which images an epoch
    shows, and where the biases of the classifiers begin.
    """

    loss: Callable[[Tensor, int], nn.Module]
    # from targets, epochs, draws, seed
    sampler: Callable[[Tensor, int, int, int], Sampler] | None = None
    enriched: bool = False  # with faces drawn to have a rare attribute
    cosine: bool = False
    prior: bool = True  # biases begin at the logit of the frequency, else at 0


def _naive(frequencies: Tensor, images: int) -> nn.Module:
    return WeightedBCELoss()


def _weighted(frequencies: Tensor, cap: float) -> nn.Module:
    return WeightedBCELoss(inverse_frequencies(frequencies, cap))


def _balanced(targets: Tensor, epochs: int, draws: int, seed: int) -> Sampler:
    return BalancedSampler(rarest_weights(targets), draws, seed)


def _curriculum(targets: Tensor, epochs: int, draws: int, seed: int) -> Sampler:
    return CurriculumSampler(rarest_weights(targets), epochs, draws, seed)


REMEDIES = {
    "naive BCE": Remedy(_naive),
    "weights up to 10": Remedy(lambda frequencies, n: _weighted(frequencies, 10)),
    "weights up to 50": Remedy(lambda frequencies, n: _weighted(frequencies, 50)),
    "focal": Remedy(lambda frequencies, n: FocalLoss(gamma=2)),
    "aggressive focal": Remedy(lambda frequencies, n: AggressiveLoss(frequencies, cap=50)),
    "class-balanced": Remedy(lambda frequencies, n: ClassBalancedLoss(frequencies, n)),
    "LDAM": Remedy(
        lambda frequencies, n: LDAMLoss(
            frequencies, inverse_frequencies(frequencies, 10), EPOCHS * 3 // 5, scale=LDAM_SCALE
        ),
        cosine=True,
        prior=False,  # its head has no bias
    ),
    "asymmetric": Remedy(lambda frequencies, n: AsymmetricLoss()),
    # its loss adds the prior
    "logit-adjusted": Remedy(lambda frequencies, n: LogitAdjustedLoss(frequencies), prior=False),
    "balanced sampler": Remedy(_naive, _balanced),
    "curriculum": Remedy(_naive, _curriculum),
    "synthetic balancing": Remedy(_naive, enriched=True),
}
REMEDIES |= {
    f"{name}, zero bias": REMEDIES[name]._replace(prior=False)
    for name in ("naive BCE", "weights up to 50", "focal", "balanced sampler")
}


# ---- the faces -----------------------------------------------------------------------------------
def natural_faces() -> FaceDataset:
    """The training faces, with attributes as frequent as in the population."""
    return FaceDataset(FACES, "train", size=PIXELS, regions=False)


def enriched_faces(natural: FaceDataset, share: float = 0.3) -> EnrichedFaces:
    """The same faces, and others drawn to have a rare attribute, until those are `share` of all."""
    return EnrichedFaces(
        natural, [name for name, rare in zip(ATTRIBUTES, RARE, strict=True) if rare], share
    )


# ---- one run -------------------------------------------------------------------------------------
def whole_model(attributes: int, cosine: bool) -> AttributeModel:
    """What the study trains: tokens that see little, and a decoder that points."""
    return AttributeModel(
        TokenExtractor(64), PointingDecoder(64, attributes, dim=64, cosine=cosine)
    )


def train_remedy(
    name: str,
    train: Faces,
    valid: Faces,
    seed: int = 0,
    epochs: int = EPOCHS,
    steps: int = FACES // BATCH,
    build: Callable[[int, bool], nn.Module] = whole_model,
    learning_rate: float = LEARNING_RATE,
    callbacks: Sequence[Any] = (),
    names: Sequence[str] = ATTRIBUTES,
) -> tuple[nn.Module, StuckDetector]:
    """Train an attribute model with one remedy: the model in evaluation mode, and what the stuck
    detector noted.

    `build` makes it, from the number of attributes and whether its logits are cosines, for the
    items of `train`, whose attributes are `names`. `steps` are those of an epoch, the same for every
    remedy, however many images it chooses from. Used in lesson 08.
    """
    remedy, frequencies = REMEDIES[name], train.targets.mean(0)
    torch.manual_seed(seed)
    model = build(len(frequencies), remedy.cosine)
    loss = remedy.loss(frequencies, len(train))
    if remedy.prior:
        head = getattr(model, "decoder", model).head
        head.bias.data = prior_logits(frequencies).to(head.bias.device)
    model.to(runtime.default_device())
    sampler = (
        remedy.sampler(train.targets, epochs, steps * BATCH, seed)
        if remedy.sampler
        else RandomSampler(train, num_samples=steps * BATCH)
    )
    detector = StuckDetector(names)
    fit(
        model,
        DataLoader(train, BATCH, sampler=sampler),
        DataLoader(valid, 250),
        epochs=epochs,
        loss_function=TokenLoss(loss, WeightedBCELoss() if remedy.cosine else None),
        seed=seed,
        optimizer=torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=WEIGHT_DECAY),
        callbacks=[detector, WarmupCosine(0.15), ClipGradients(1.0), *callbacks],
    )
    return model.eval(), detector


@torch.no_grad()
def predict(
    model: nn.Module, faces: Faces, remedy: str = "naive BCE"
) -> Float[Tensor, "n attributes"]:
    """The logits of all images in memory; cosines are stretched as they were for the loss."""
    with evaluating(model):
        logits = torch.cat(
            [model(*to_model(model, inputs)).cpu() for inputs in faces.batches()]
        ).double()
    return logits * (LDAM_SCALE if REMEDIES[remedy].cosine else 1)


# ---- what came out -------------------------------------------------------------------------------
COLUMNS = {
    "positive rate": "positive_rate_all",
    "rare": "positive_rate_rare",
    "F1": "f1_all",
    "F1*": "f1_tuned_all",
    "F1 rare": "f1_rare",
    "F1 rare*": "f1_tuned_rare",
    "AP rare": "average_precision_rare",
    "ROC-AUC": "roc_auc_all",
    "balanced acc.": "balanced_accuracy_all",
    "ECE": "calibration_error_all",
    "ECE*": "calibration_error_after_all",
}

SUMMARY = {
    "F1 rare": "f1_rare",
    "F1 rare*": "f1_tuned_rare",
    "AP rare": "average_precision_rare",
    "F1 all*": "f1_tuned_all",
    "calibration error": "calibration_error_all",
}


def over_seeds(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The mean, and half the width of its 95 % t interval."""
    spread = np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(stats.t.ppf(0.975, len(values) - 1) * spread)


def _scores(rows: Sequence[dict], remedy: str, score: str) -> Float[np.ndarray, " seeds"]:
    return np.array(
        [row[score] for row in sorted(rows, key=lambda row: row["seed"]) if row["remedy"] == remedy]
    )


def evolution_table(rows: Sequence[dict], columns: dict[str, str] = COLUMNS) -> Table:
    """All remedies, in the order of the rows: means over the seeds and 95 % intervals.

    Columns with a star use what was chosen on validation faces: thresholds, or the calibration.
    Shown in lesson 08.
    """
    lines = [("remedy", *columns)]
    for remedy in dict.fromkeys(row["remedy"] for row in rows):
        means = [over_seeds(_scores(rows, remedy, score)) for score in columns.values()]
        lines.append((remedy, *(f"{mean:.3f} ± {half:.3f}" for mean, half in means)))
    return Table("", lines)


def paired_gain(
    rows: Sequence[dict],
    remedy: str,
    score: str,
    over: str = "naive BCE",
    over_score: str | None = None,
) -> tuple[float, float]:
    """How much better than `over`, seed by seed: the mean difference, and half the width of its 95
    % t interval.
    """
    return over_seeds(_scores(rows, remedy, score) - _scores(rows, over, over_score or score))


def chosen_remedy(rows: Sequence[dict]) -> str:
    """The remedy that ranks the rare attributes best on the validation faces; the test faces have
    no say.
    """
    return max(
        REMEDIES, key=lambda remedy: _scores(rows, remedy, "valid_average_precision_rare").mean()
    )
