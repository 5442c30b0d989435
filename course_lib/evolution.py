"""The training-evolution study of lesson 07: what helps the rare attributes, at one training
budget?

Every remedy trains the same model on the same faces for the same number of steps, from the same
five seeds, with the settings that its authors publish; thresholds and calibration come from
validation faces, scores from test faces.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, Sampler

from . import files, runtime
from .analysis.localisation import score_localisation
from .data.arrays import ImageArrays, TokenArrays, gather, load_images
from .data.faces import FaceDataset
from .data.population import ATTRIBUTES, CELEBA_RATES
from .data.samplers import BalancedSampler, CurriculumSampler, EnrichedFaces, rarest_weights
from .models.attributes import AttributeModel, PointingDecoder, TokenExtractor
from .models.inference import evaluating, to_model
from .shapes import Float
from .training.attribute_metrics import (
    best_thresholds,
    calibration_error,
    score_attributes,
    threshold_scores,
)
from .training.calibration import calibrate
from .training.callbacks import ClipGradients, WarmupCosine
from .training.checkpoints import Checkpoints
from .training.fit import fit
from .training.losses import (
    AsymmetricLoss,
    ClassBalancedLoss,
    FocalLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    TokenLoss,
    WeightedBCELoss,
)
from .training.stuck import AggressiveLoss, StuckDetector, red_flags

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
    "run_remedy",
    "train_remedy",
]

RARE = CELEBA_RATES < 0.05  # six of the 33 attributes
SEEDS = (0, 1, 2, 3, 4)
# the rarest attribute has over 200 positives in the last
FACES, VALID, TEST = 12_000, 3_000, 10_000
PIXELS, BATCH, EPOCHS, LEARNING_RATE, WEIGHT_DECAY = 56, 64, 5, 2e-3, 0.02
WITH_REGIONS = 1_000  # test faces on which attention is scored
LDAM_SCALE = 30.0  # from cosines to logits
Faces = ImageArrays | TokenArrays


class Remedy(NamedTuple):
    """What is changed: the loss (from frequencies and the number of images), and which images an
    epoch shows.
    """

    loss: Callable[[Tensor, int], nn.Module]
    # from targets, epochs, draws, seed
    sampler: Callable[[Tensor, int, int, int], Sampler] | None = None
    enriched: bool = False  # with faces drawn to have a rare attribute
    cosine: bool = False


def _weights(frequencies: Tensor, cap: float) -> Tensor:
    """Negatives over positives, no more than `cap`."""
    return ((1 - frequencies) / frequencies).clamp(1, cap)


def _naive(frequencies: Tensor, images: int) -> nn.Module:
    return WeightedBCELoss()


def _balanced(targets: Tensor, epochs: int, draws: int, seed: int) -> Sampler:
    return BalancedSampler(rarest_weights(targets), draws, seed)


def _curriculum(targets: Tensor, epochs: int, draws: int, seed: int) -> Sampler:
    return CurriculumSampler(rarest_weights(targets), epochs, draws, seed)


REMEDIES = {
    "naive BCE": Remedy(_naive),
    "weights up to 10": Remedy(lambda frequencies, n: WeightedBCELoss(_weights(frequencies, 10))),
    "weights up to 50": Remedy(lambda frequencies, n: WeightedBCELoss(_weights(frequencies, 50))),
    "focal": Remedy(lambda frequencies, n: FocalLoss(gamma=2)),
    "aggressive focal": Remedy(lambda frequencies, n: AggressiveLoss(frequencies, cap=50)),
    "class-balanced": Remedy(lambda frequencies, n: ClassBalancedLoss(frequencies, n)),
    "LDAM": Remedy(
        lambda frequencies, n: LDAMLoss(
            frequencies, _weights(frequencies, 10), EPOCHS * 3 // 5, scale=LDAM_SCALE
        ),
        cosine=True,
    ),
    "asymmetric": Remedy(lambda frequencies, n: AsymmetricLoss()),
    "logit-adjusted": Remedy(lambda frequencies, n: LogitAdjustedLoss(frequencies)),
    "balanced sampler": Remedy(_naive, _balanced),
    "curriculum": Remedy(_naive, _curriculum),
    "synthetic balancing": Remedy(_naive, enriched=True),
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


@cache
def _faces(part: str) -> ImageArrays:
    """One of "train", "enriched", "valid" and "test" in memory; drawn once, kept until the study is
    done.
    """
    kept = runtime.cache_dir("studies/evolution") / f"{part}.safetensors"
    if not kept.exists():
        faces = {
            "train": natural_faces,
            "enriched": lambda: enriched_faces(natural_faces()),
            "valid": lambda: FaceDataset(VALID, "valid", size=PIXELS, regions=False),
            "test": lambda: FaceDataset(TEST, "test", size=PIXELS, regions=False),
        }[part]()
        arrays = load_images(faces)
        files.save_tensors(kept, {"images": arrays.images, "targets": arrays.targets})
    tensors, _ = files.load_tensors(kept)
    return ImageArrays(tensors["images"], tensors["targets"], flip=part in ("train", "enriched"))


@cache
def _regions() -> Tensor:
    """Of the first test faces, where each attribute that is present is decided: `n attributes
    height width`.
    """
    known = gather(FaceDataset(WITH_REGIONS, "test", size=PIXELS), "regions", "target")
    return known["regions"] & known["target"].bool()[:, :, None, None]


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
    callbacks: Sequence[Any] = (),
) -> tuple[nn.Module, StuckDetector]:
    """Train an attribute model with one remedy: the model in evaluation mode, and what the stuck
    detector noted.

    `build` makes it, from the number of attributes and whether its logits are cosines, for the
    items of `train`. `steps` are those of an epoch, the same for every remedy, however many images
    it chooses from. Used in lesson 07.
    """
    remedy, frequencies = REMEDIES[name], train.targets.mean(0)
    torch.manual_seed(seed)
    model = build(len(frequencies), remedy.cosine)
    loss = remedy.loss(frequencies, len(train))
    if not (remedy.cosine or isinstance(loss, LogitAdjustedLoss)):
        head = getattr(model, "decoder", model).head
        # begin at the prior instead of learning it
        head.bias.data = torch.logit(frequencies).to(head.bias.device)
    model.to(runtime.default_device())
    sampler = (
        remedy.sampler(train.targets, epochs, steps * BATCH, seed)
        if remedy.sampler
        else RandomSampler(train, num_samples=steps * BATCH)
    )
    detector = StuckDetector(ATTRIBUTES)
    fit(
        model,
        DataLoader(train, BATCH, sampler=sampler),
        DataLoader(valid, 250),
        epochs=epochs,
        loss_function=TokenLoss(loss, WeightedBCELoss() if remedy.cosine else None),
        seed=seed,
        optimizer=torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY),
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


def run_remedy(remedy: str, seed: int) -> list[dict]:
    """One row: the scores of one remedy and seed on the test faces, at 0.5, at validation
    thresholds, calibrated.
    """
    started, folder = time.time(), runtime.cache_dir("studies/evolution") / f"{remedy} {seed}"
    train, valid, test = (
        _faces(part)
        for part in ("enriched" if REMEDIES[remedy].enriched else "train", "valid", "test")
    )
    model, detector = train_remedy(
        remedy, train, valid, seed, callbacks=[Checkpoints(folder, minutes=2)]
    )
    shutil.rmtree(folder)
    seconds = round(time.time() - started)
    logits, unseen = predict(model, valid, remedy), predict(model, test, remedy)
    probabilities, chosen = unseen.sigmoid(), best_thresholds(logits.sigmoid(), valid.targets)
    scores = score_attributes(probabilities, test.targets, names=ATTRIBUTES)
    tuned = threshold_scores(probabilities, test.targets, chosen)
    scores |= {
        f"{name}_tuned": tuned[name] for name in ("f1", "balanced_accuracy", "positive_rate")
    }
    mended = calibrate(logits, valid.targets)(unseen).sigmoid()
    scores["calibration_error_after"] = calibration_error(mended, test.targets)
    scores["valid_average_precision"] = score_attributes(logits.sigmoid(), valid.targets)[
        "average_precision"
    ]
    looks = score_localisation(
        model.attention_maps(test.images[:WITH_REGIONS].float() / 255), _regions()
    )
    scores |= {
        f"pointing_{name.replace(' ', '_')}": values
        for name, values in looks.table["pointing"].items()
    }
    groups = {"rare": torch.from_numpy(RARE), "all": torch.ones(len(RARE), dtype=torch.bool)}
    return [
        {
            "seconds": seconds,
            **{
                f"{name}_{group}": round(float(values[where].nanmean()), 4)
                for name, values in scores.items()
                for group, where in groups.items()
            },
            **{
                f"{name}_each": " ".join(f"{value:.3f}" for value in scores[name].tolist())
                for name in ("f1", "f1_tuned", "average_precision", "positive_rate")
            },
            "curve": [
                {
                    "positive_rate": round(epoch["positive_rate"], 4),
                    "accuracy": round(epoch["accuracy"], 4),
                    "f1_rare": round(float(np.mean(np.array(epoch["f1"])[RARE])), 4),
                }
                for epoch in detector.history
            ],
            "red_flags": len(red_flags(detector.history, ATTRIBUTES)),
        }
    ]


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


def evolution_table(rows: Sequence[dict], columns: dict[str, str] = COLUMNS) -> str:
    """All remedies in Markdown, in the order of `REMEDIES`: means over the seeds and 95 %
    intervals.

    Columns with a star use what was chosen on validation faces: thresholds, or the calibration.
    Shown in lesson 07.
    """
    lines = [f"| remedy | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for remedy in REMEDIES:
        cells = (
            "{:.3f} ± {:.3f}".format(*over_seeds(_scores(rows, remedy, score)))
            for score in columns.values()
        )
        lines.append(f"| {remedy} | {' | '.join(cells)} |")
    return "\n".join(lines)


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
