"""`pointing` and `attributes`, for lessons 08 and 11: what makes the attention of a decoder point?

Two decoders learn from the same hard faces (moved, turned, occluded) for the same number of epochs,
and their maps are held against the regions that decide each attribute on test faces that none of
them met.
"""

import shutil
import time
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from course_lib import files, runtime
from course_lib.data import ImageArrays, hard_faces
from course_lib.looking import (
    follows,
    pointing_at_one_place,
    pointing_game,
    score_localisation,
)
from course_lib.models import AttributeModel
from course_lib.models.backbones import save_weights
from course_lib.shapes import Bool
from course_lib.training import (
    DECODERS,
    RARE,
    AttributePredictor,
    Checkpoints,
    ClipGradients,
    TokenLoss,
    WarmupCosine,
    WeightedBCELoss,
    best_thresholds,
    fit,
    predict,
    score_attributes,
    threshold_scores,
)
from course_lib.world import ATTRIBUTES

from .common import cached_images, known_regions, workplace

__all__ = ["SEEDS", "answers_of", "faces_of", "run_decoder", "scores_of", "write_attributes"]

SEEDS = {
    "pointing": 5,
    "tokens that attend to each other": 2,
}  # how many; the first of each is shipped
FACES, VALID, TEST, WITH_REGIONS = 8_000, 2_000, 4_000, 1_500
BATCH, EPOCHS, LEARNING_RATE, WEIGHT_DECAY = 64, 12, 2e-3, 0.02


@cache
def faces_of(part: str) -> ImageArrays:
    """The faces of "train", "valid" or "test" in memory, kept until the study is done."""
    count = {"train": FACES, "valid": VALID, "test": TEST}[part]
    path = workplace("pointing") / f"{part}.safetensors"
    return cached_images(path, lambda: hard_faces(part, count), flip=part == "train")


@cache
def _regions() -> Bool[Tensor, "n attributes height width"]:
    """Of the first test faces."""
    return known_regions(hard_faces("test", WITH_REGIONS, regions=True))


def _train(decoder: str, seed: int) -> AttributeModel:
    train, valid = faces_of("train"), faces_of("valid")
    torch.manual_seed(seed)
    model = DECODERS[decoder]()
    model.decoder.head.bias.data = torch.logit(train.targets.mean(0))
    model.to(runtime.default_device())
    folder = workplace("pointing") / f"{decoder} {seed}"
    fit(
        model,
        DataLoader(train, BATCH, shuffle=True, drop_last=True),
        DataLoader(valid, 250),
        epochs=EPOCHS,
        seed=seed,
        loss_function=TokenLoss(WeightedBCELoss()),
        metrics={},
        optimizer=torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY),
        callbacks=[WarmupCosine(0.15), ClipGradients(1.0), Checkpoints(folder, minutes=2)],
    )
    shutil.rmtree(folder)
    return model.eval()


def run_decoder(decoder: str, seed: int) -> list[dict]:
    """One row: how well one decoder and seed points, and what it scores, on the test faces."""
    started = time.time()
    model = _train(decoder, seed)
    seconds = round(time.time() - started)
    torch.manual_seed(100 + seed)
    if seed == 0:  # what the recipe "attributes" ships
        files.save_tensors(_first(decoder), model.state_dict())
    return [{"seconds": seconds, **scores_of(model, DECODERS[decoder]())}]


def scores_of(model: AttributeModel, untrained: AttributeModel) -> dict[str, float | str]:
    """How well a trained model points, beside the baselines and an untrained one, and what it
    scores, on the test faces.
    """
    test, regions = faces_of("test"), _regions()
    images = test.images[:WITH_REGIONS].float() / 255
    maps, blank = (each.eval().attention_maps(images) for each in (model, untrained))
    looks = score_localisation(maps, regions, blank)
    lucky, hits = pointing_at_one_place(regions, maps.shape[-2:]), pointing_game(maps, regions)
    known = regions.flatten(-2).any(-1)
    scores = {
        f"{measure} {column}": values
        for measure, table in looks.table.items()
        for column, values in table.items()
    }
    scores |= {
        "pointing best place": torch.where(known, lucky.float(), torch.nan).nanmean(0),
        "pointing where it misses": torch.where(known & ~lucky, hits, torch.nan).nanmean(0),
        "follows map": follows(maps, regions),
        "follows untrained": follows(blank, regions),
    }
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        **{name: round(float(values.nanmean()), 4) for name, values in scores.items()},
        **answers_of(model),
        "pointing each": " ".join(f"{value:.2f}" for value in scores["pointing map"].tolist()),
    }


def answers_of(model: nn.Module) -> dict[str, float]:
    """What a trained model's answers score on the test faces, its thresholds chosen on the
    validation faces.
    """
    valid, test = faces_of("valid"), faces_of("test")
    logits, unseen = predict(model, valid).sigmoid(), predict(model, test).sigmoid()
    right = score_attributes(unseen, test.targets, names=ATTRIBUTES)
    tuned = best_thresholds(logits, valid.targets)
    right["f1_tuned"] = threshold_scores(unseen, test.targets, tuned)["f1"]
    scores = {
        name: round(float(right[name].mean()), 4)
        for name in ("average_precision", "f1", "f1_tuned")
    }
    rare = right["average_precision"][RARE].mean()
    return scores | {"average_precision rare": round(float(rare), 4)}


# ---- what ships ----------------------------------------------------------------------------------


def _first(decoder: str) -> Path:
    """Where the study leaves the weights of its first seed."""
    return workplace("attributes") / f"{decoder}.safetensors"


def write_attributes(path: Path) -> dict:
    """The first pointing decoder with its calibration and thresholds, and beside it the one whose
    tokens are mixed.
    """
    models = {}
    for decoder, build in DECODERS.items():
        if not _first(decoder).exists():
            run_decoder(decoder, 0)
        models[decoder] = build().eval()
        models[decoder].load_state_dict(files.load_tensors(_first(decoder))[0])
    valid, test = faces_of("valid"), faces_of("test")
    ready = AttributePredictor.ready(
        models["pointing"], ATTRIBUTES, predict(models["pointing"], valid), valid.targets
    )
    probabilities = ready.calibration(predict(models["pointing"], test)).sigmoid()
    f1 = threshold_scores(probabilities, test.targets, ready.thresholds)["f1"]
    ranked = score_attributes(probabilities, test.targets)["average_precision"]
    scores = {"f1": f1.mean(), "f1_rare": f1[RARE].mean(), "average_precision": ranked.mean()}
    save_weights(ready, path, names=ATTRIBUTES)
    save_weights(
        models["tokens that attend to each other"], path.with_name("attributes_mixed.safetensors")
    )
    shutil.rmtree(workplace("attributes"))
    return scores
