"""`evolution`, for lesson 08: what helps the rare attributes, at one training budget?

Every remedy trains the same model on the same faces for the same number of steps, from the same
five seeds (lesson 08 lists its settings beside those that its authors publish); thresholds and
calibration come from validation faces, scores from test faces. Biases begin at the prior, or, in
the arms with "zero bias" in their name, at 0.
"""

import shutil
import time
from functools import cache

import numpy as np
import torch
from torch import Tensor

from course_lib.data import FaceDataset, ImageArrays
from course_lib.looking import score_localisation
from course_lib.training import (
    RARE,
    Checkpoints,
    best_thresholds,
    calibrate,
    calibration_error,
    enriched_faces,
    predict,
    red_flags,
    score_attributes,
    threshold_scores,
    train_remedy,
)
from course_lib.training.remedies import PIXELS, REMEDIES, TEST, VALID, natural_faces
from course_lib.world import ATTRIBUTES

from .common import cached_images, known_regions, workplace

__all__ = ["run_remedy"]

WITH_REGIONS = 1_000  # test faces on which attention is scored


FACES = {
    "train": natural_faces,
    "enriched": lambda: enriched_faces(natural_faces()),
    "valid": lambda: FaceDataset(VALID, "valid", size=PIXELS, regions=False),
    "test": lambda: FaceDataset(TEST, "test", size=PIXELS, regions=False),
}


@cache
def _faces(part: str) -> ImageArrays:
    """One part of `FACES` in memory, kept until the study is done."""
    path = workplace("evolution") / f"{part}.safetensors"
    return cached_images(path, FACES[part], flip=part in ("train", "enriched"))


@cache
def _regions() -> Tensor:
    """Of the first test faces: `n attributes height width`."""
    return known_regions(FaceDataset(WITH_REGIONS, "test", size=PIXELS))


def run_remedy(remedy: str, seed: int) -> list[dict]:
    """One row: the scores of one remedy and seed on the test faces, at 0.5, at validation
    thresholds, calibrated.
    """
    started, folder = time.time(), workplace("evolution") / f"{remedy} {seed}"
    train = _faces("enriched" if REMEDIES[remedy].enriched else "train")
    valid, test = _faces("valid"), _faces("test")
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
