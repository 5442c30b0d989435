"""`finer` and `attributes_fine`, for lessons 09 to 11: what do four times as many tokens buy?

The shipped 7×7 pointing decoder grows to 14×14 tokens of 112-pixel faces and is trained on, on
people that are new to it. Beside it stand the shipped model itself and the same model trained on
at 7×7, with the same people at 56 pixels, the same steps and the same seeds. All are scored with
the same regions, on people that none of them met. Seeds decide the order of the faces and which are
mirrored; all runs start from the same shipped weights.
"""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.utils.data import DataLoader

from course_lib import files, runtime
from course_lib.data import ImageArrays, hard_faces
from course_lib.looking import (
    area_share,
    chance_of_pointing,
    energy,
    follows,
    iou_curve,
    pointing_at_one_place,
    pointing_game,
)
from course_lib.models import (
    AttributeModel,
    FinePointingDecoder,
    FineTokenExtractor,
    PointingDecoder,
    TokenExtractor,
    to_tokens,
)
from course_lib.models.backbones import save_weights
from course_lib.shapes import Bool
from course_lib.tables import Table
from course_lib.training import (
    RARE,
    AttributePredictor,
    Checkpoints,
    ClipGradients,
    TokenLoss,
    WarmupCosine,
    WeightedBCELoss,
    best_thresholds,
    course_attribute_predictor,
    fit,
    over_seeds,
    predict,
    score_attributes,
    threshold_scores,
)
from course_lib.world import ATTRIBUTES

from .common import cached_images, known_regions, workplace

__all__ = ["MODELS", "SEEDS", "SHIPPED", "finer_table", "run_model", "write_attributes_fine"]

SEEDS = range(3)
FACES, VALID, TEST, WITH_REGIONS = 8_000, 2_000, 4_000, 1_500
BATCH, EPOCHS, LEARNING_RATE, WEIGHT_DECAY = 32, 5, 1.5e-3, 0.02
NEW_PEOPLE = 1  # the seed of the training faces: those that the shipped 7×7 model met have 0

MODELS: dict[str, Callable[[], AttributeModel]] = {
    "14×14": lambda: AttributeModel(FineTokenExtractor(), FinePointingDecoder()),
    "7×7, trained on": lambda: AttributeModel(TokenExtractor(), PointingDecoder()),
}
SHIPPED = "7×7, shipped"

SIDE = 112  # of the regions, in pixels
WITHIN = (8, 4)  # of these: half a token's width, of 7×7 and of 14×14 tokens
PLACES = (14, 14)  # among which the luckiest fixed place is chosen, for all models
ABOVE = 0.5  # of a map's largest value: what counts as chosen for IoU


@cache
def _faces(part: str, pixels: int) -> ImageArrays:
    """The faces of "train", "valid" or "test" in memory: the same people at any size."""
    count = {"train": FACES, "valid": VALID, "test": TEST}[part]
    path = workplace("finer faces") / f"{part}_{pixels}_{count}.safetensors"
    seed = NEW_PEOPLE if part == "train" else 0
    return cached_images(
        path, lambda: hard_faces(part, count, size=pixels, seed=seed), flip=part == "train"
    )


@cache
def _regions() -> Bool[Tensor, "n attributes height width"]:
    """Of the first test faces, at 112 pixels, for all models."""
    return known_regions(hard_faces("test", WITH_REGIONS, regions=True, size=SIDE))


# ---- training ------------------------------------------------------------------------------------


def grown(coarse: AttributeModel) -> AttributeModel:
    """A 14×14 model that begins with what a 7×7 model knows.

    Half the size and a kernel of side 4 is the size and a kernel of side 8; four places that were
    one token are a token each, as if the other three were alike; positions are interpolated.
    """
    fine = MODELS["14×14"]()
    old = coarse.state_dict()
    first, last = "backbone.layers.0.0.weight", "backbone.layers.4.0.weight"
    old[first] = F.interpolate(old[first], scale_factor=2) / 4
    old[last] = old[last].sum((2, 3), keepdim=True)
    places = rearrange(old["decoder.positions"], "(rows columns) dim -> 1 dim rows columns", rows=7)
    places = F.interpolate(places, scale_factor=2, mode="bilinear")
    old["decoder.positions"] = to_tokens(places)[0]
    fine.load_state_dict(fine.state_dict() | old)
    return fine


def _train(name: str, seed: int) -> AttributeModel:
    torch.manual_seed(seed)
    shipped = course_attribute_predictor().model
    model = grown(shipped) if name == "14×14" else shipped
    train = _faces("train", model.backbone.pixels)
    folder = workplace("finer") / f"{name} {seed}"
    fit(
        model.to(runtime.default_device()),
        DataLoader(train, BATCH, shuffle=True, drop_last=True),
        epochs=EPOCHS,
        seed=seed,
        loss_function=TokenLoss(WeightedBCELoss()),
        metrics={},
        optimizer=torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY),
        callbacks=[WarmupCosine(0.15), ClipGradients(1.0), Checkpoints(folder, minutes=2)],
    )
    shutil.rmtree(folder)
    return model.eval()


def run_model(model: str, seed: int) -> list[dict]:
    """One row: how well one model and seed points, and what it answers, on the test faces."""
    started, computed = time.time(), _processor_seconds()
    if model == SHIPPED:
        trained, untrained = course_attribute_predictor().model, MODELS["7×7, trained on"]
        times = {}
    else:
        trained, untrained = _train(model, seed), MODELS[model]
        times = {
            "seconds": round(time.time() - started),
            "processor_seconds": round(_processor_seconds() - computed),
        }
        if model == "14×14" and seed == 0:  # what the recipe "attributes_fine" ships
            files.save_tensors(_first(), trained.state_dict())
    torch.manual_seed(100 + seed)
    blank = untrained().eval()
    return [
        {
            **times,
            "parameters": sum(p.numel() for p in trained.parameters()),
            **pointing_of(trained, blank, _test_images(trained), _regions()),
            **answers_of(trained),
        }
    ]


def _processor_seconds() -> float:
    """What this process has computed so far: no other program of the machine counts."""
    return sum(os.times()[:2])


# ---- scores --------------------------------------------------------------------------------------


def _test_images(model: AttributeModel) -> Tensor:
    return _faces("test", model.backbone.pixels).images[:WITH_REGIONS].float() / 255


def pointing_of(
    model: AttributeModel,
    untrained: AttributeModel,
    images: Tensor,
    regions: Bool[Tensor, "n attributes height width"],
) -> dict[str, float | str]:
    """How well the model's maps point, in pixels of the regions that do not depend on its grid."""
    maps, blank = (each.attention_maps(images) for each in (model, untrained))
    each = [
        _scores_of_one(*(tensor[:, [k]] for tensor in (maps, blank, regions)))
        for k in range(regions.shape[1])  # one at a time: all take gigabytes
    ]
    scores = {name: torch.tensor([one[name] for one in each]) for name in each[0]}
    rounded = {name: round(float(values.nanmean()), 4) for name, values in scores.items()}
    listed = " ".join(f"{value:.2f}" for value in scores["within 8 px map"].tolist())
    return rounded | {"within 8 px each": listed}


def _scores_of_one(maps: Tensor, blank: Tensor, regions: Tensor) -> dict[str, float]:
    """Of one attribute, the means over the images that have it; NaN where its region is unknown."""
    known = regions.flatten(-2).any(-1)
    mean_map = (maps * known[..., None, None]).sum(0) / known.sum(0).clamp(min=1)
    compared = {"map": maps, "mean map": mean_map.expand_as(maps), "untrained": blank}
    rows, grid, scores = maps.shape[-1], tuple(maps.shape[-2:]), {}
    for pixels in WITHIN:
        tolerance = pixels * rows / SIDE  # in token widths
        lucky = pointing_at_one_place(regions, PLACES, pixels * PLACES[0] / SIDE)
        for column, values in compared.items():
            hits = pointing_game(values, regions, tolerance)
            scores[f"within {pixels} px {column}"] = hits.nanmean()
            scores[f"within {pixels} px where the best place misses {column}"] = torch.where(
                lucky, torch.nan, hits
            ).nanmean()
        chances = chance_of_pointing(regions, grid, tolerance)
        scores[f"within {pixels} px chance"] = chances.nanmean()
        scores[f"within {pixels} px where the best place misses chance"] = torch.where(
            lucky, torch.nan, chances
        ).nanmean()
        scores[f"within {pixels} px best place"] = torch.where(
            known, lucky.float(), torch.nan
        ).nanmean()
    for column, values in compared.items():
        scores[f"energy {column}"] = energy(values, regions).nanmean()
        scores[f"IoU {column}"] = iou_curve(values, regions, (ABOVE,)).nanmean()
        scores[f"follows {column}"] = follows(values, regions)[0]
    area = torch.where(known, area_share(regions), torch.nan)
    scores["energy chance"] = area.nanmean()
    scores["IoU chance"] = _chance_of_iou(maps, area).nanmean()
    scores["follows chance"] = torch.where(known.any(), 0.0, torch.nan)
    return {name: float(value) for name, value in scores.items()}


def _chance_of_iou(maps: Tensor, area: Tensor) -> Tensor:
    """Of as many tokens anywhere: the expected intersection is the product of the two shares."""
    chosen = (maps >= ABOVE * maps.amax((-2, -1), keepdim=True)).float().mean((-2, -1))
    return chosen * area / (chosen + area - chosen * area)


def answers_of(model: AttributeModel) -> dict[str, float]:
    """What the model answers on the test faces, its thresholds chosen on the validation faces."""
    valid, test = (_faces(part, model.backbone.pixels) for part in ("valid", "test"))
    chosen_on, unseen = predict(model, valid).sigmoid(), predict(model, test).sigmoid()
    scores = score_attributes(unseen, test.targets, names=ATTRIBUTES)
    tuned = best_thresholds(chosen_on, valid.targets)
    scores["f1_tuned"] = threshold_scores(unseen, test.targets, tuned)["f1"]
    rows = {
        name: round(float(scores[name].mean()), 4)
        for name in ("average_precision", "f1", "f1_tuned")
    }
    rare = scores["average_precision"][RARE].mean()
    return rows | {"average_precision rare": round(float(rare), 4)}


MEASURES = {  # of the table, and what the rows call them
    "within 8 px": "within 8 px",
    "… where the best place misses": "within 8 px where the best place misses",
    "within 4 px": "within 4 px",
    "… where it misses": "within 4 px where the best place misses",
    "energy": "energy",
    "IoU": "IoU",
    "follows": "follows",
}
ANSWERS = {
    "AP": "average_precision",
    "AP rare": "average_precision rare",
    "F1*": "f1_tuned",
}


def finer_table(rows: Sequence[dict]) -> Table:
    """Each model's map beside its mean map, an untrained model's and chance: means over seeds with
    their 95 % intervals, which one seed does not have.
    """
    lines = [("tokens", *MEASURES, *ANSWERS)]
    for model in (*MODELS, SHIPPED):
        runs = [row for row in rows if row["model"] == model]
        for column in ("map", "mean map", "untrained", "chance"):
            names = [f"{name} {column}" for name in MEASURES.values()]
            if column == "map":
                names += ANSWERS.values()
            cells = [_cell([run[name] for run in runs]) for name in names]
            blanks = [""] * (len(lines[0]) - 1 - len(cells))
            label = f"**{model}**" if column == "map" else column
            lines.append((label, *cells, *blanks))
    return Table("", lines)


def _cell(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f}"
    mean, half = over_seeds(values)
    return f"{mean:.3f} ± {half:.3f}"


# ---- what ships ----------------------------------------------------------------------------------


def _first() -> Path:
    """Where the study leaves the weights of its first seed."""
    return workplace("attributes_fine") / "first.safetensors"


def write_attributes_fine(path: Path) -> dict:
    """The first seed of the 14×14 model with its calibration and thresholds."""
    if not _first().exists():
        files.save_tensors(_first(), _train("14×14", 0).state_dict())
    model = MODELS["14×14"]().eval()
    model.load_state_dict(files.load_tensors(_first())[0])
    valid, test = (_faces(part, model.backbone.pixels) for part in ("valid", "test"))
    ready = AttributePredictor.ready(model, ATTRIBUTES, predict(model, valid), valid.targets)
    probabilities = ready.calibration(predict(model, test)).sigmoid()
    f1 = threshold_scores(probabilities, test.targets, ready.thresholds)["f1"]
    ranked = score_attributes(probabilities, test.targets)["average_precision"]
    save_weights(ready, path, names=ATTRIBUTES)
    shutil.rmtree(workplace("attributes_fine"))
    return {"f1": f1.mean(), "f1_rare": f1[RARE].mean(), "average_precision": ranked.mean()}
