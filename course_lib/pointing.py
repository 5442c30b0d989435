"""The pointing study of lessons 07 and 09: what makes the attention of an attribute decoder point?

Two decoders learn from the same hard faces (moved, turned, occluded) for the same number of epochs,
and their maps are held against the regions that decide each attribute on test faces that none of
them met.
"""

import shutil
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from . import files, runtime
from .data.arrays import ImageArrays, gather, load_images
from .data.drawn import FaceDataset
from .looking.localisation import follows, pointing_at_one_place, pointing_game, score_localisation
from .models.attributes import (
    AttributeDecoder,
    AttributeModel,
    MixedTokenExtractor,
    PointingDecoder,
    TokenExtractor,
)
from .models.backbones import fill, save_weights
from .shapes import Bool
from .training.attribute_scores import (
    AttributePredictor,
    best_thresholds,
    course_attribute_predictor,
    score_attributes,
    threshold_scores,
)
from .training.callbacks import ClipGradients, WarmupCosine
from .training.checkpoints import Checkpoints
from .training.fit import fit
from .training.losses import TokenLoss, WeightedBCELoss
from .training.remedies import RARE, over_seeds, predict
from .world.population import ATTRIBUTES

__all__ = [
    "DECODERS",
    "SEEDS",
    "hard_faces",
    "pointing_table",
    "run_decoder",
    "shipped_decoders",
    "write_attributes",
]

SEEDS = {"pointing": 5, "tokens that hear each other": 2}  # how many; the first of each is shipped
FACES, VALID, TEST, WITH_REGIONS = 8_000, 2_000, 4_000, 1_500
PIXELS, BATCH, EPOCHS, LEARNING_RATE, WEIGHT_DECAY = 56, 64, 12, 2e-3, 0.02

DECODERS: dict[str, Callable[[], AttributeModel]] = {
    "pointing": lambda: AttributeModel(TokenExtractor(), PointingDecoder()),
    "tokens that hear each other": lambda: AttributeModel(
        MixedTokenExtractor(), AttributeDecoder(96)
    ),
}


def hard_faces(part: str, n: int, regions: bool = False) -> FaceDataset:
    """Faces whose place, size and turn differ, so that where things usually are is not where they
    are.
    """
    return FaceDataset(n, part, difficulty="hard", size=PIXELS, regions=regions)


@cache
def _faces(part: str) -> ImageArrays:
    """The faces of "train", "valid" or "test" in memory; drawn once, kept until the study is done."""
    kept = runtime.cache_dir("studies/pointing") / f"{part}.safetensors"
    if not kept.exists():
        arrays = load_images(hard_faces(part, {"train": FACES, "valid": VALID, "test": TEST}[part]))
        files.save_tensors(kept, {"images": arrays.images, "targets": arrays.targets})
    tensors, _ = files.load_tensors(kept)
    return ImageArrays(tensors["images"], tensors["targets"], flip=part == "train")


@cache
def _regions() -> Bool[Tensor, "n attributes height width"]:
    """Of the first test faces, where each attribute that is present is decided."""
    known = gather(hard_faces("test", WITH_REGIONS, regions=True), "regions", "target")
    return known["regions"] & known["target"].bool()[:, :, None, None]


def _train(decoder: str, seed: int) -> AttributeModel:
    train, valid = _faces("train"), _faces("valid")
    torch.manual_seed(seed)
    model = DECODERS[decoder]()
    model.decoder.head.bias.data = torch.logit(train.targets.mean(0))
    model.to(runtime.default_device())
    folder = runtime.cache_dir("studies/pointing") / f"{decoder} {seed}"
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
    model, test, regions = _train(decoder, seed), _faces("test"), _regions()
    seconds, images = round(time.time() - started), test.images[:WITH_REGIONS].float() / 255
    torch.manual_seed(100 + seed)
    maps, untrained = (
        model.attention_maps(images),
        DECODERS[decoder]().eval().attention_maps(images),
    )
    looks = score_localisation(maps, regions, untrained)
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
        "follows untrained": follows(untrained, regions),
    }
    logits, unseen = predict(model, _faces("valid")).sigmoid(), predict(model, test).sigmoid()
    right = score_attributes(unseen, test.targets, names=ATTRIBUTES)
    right["f1_tuned"] = threshold_scores(
        unseen, test.targets, best_thresholds(logits, _faces("valid").targets)
    )["f1"]
    scores |= {name: right[name] for name in ("average_precision", "f1", "f1_tuned")}
    if seed == 0:  # what the recipe "attributes" ships
        files.save_tensors(_kept(decoder), model.state_dict())
    return [
        {
            "seconds": seconds,
            "parameters": sum(p.numel() for p in model.parameters()),
            **{name: round(float(values.nanmean()), 4) for name, values in scores.items()},
            "average_precision rare": round(float(right["average_precision"][RARE].mean()), 4),
            "pointing each": " ".join(f"{value:.2f}" for value in scores["pointing map"].tolist()),
        }
    ]


# ---- what is shipped, and what came out ----------------------------------------------------------


def _kept(decoder: str) -> Path:
    return runtime.cache_dir("recipes") / f"{decoder}.safetensors"


def write_attributes(path: Path) -> dict:
    """The first pointing decoder with its calibration and thresholds, and beside it the one whose
    tokens are mixed.
    """
    models = {}
    for decoder, build in DECODERS.items():
        if not _kept(decoder).exists():
            run_decoder(decoder, 0)
        models[decoder] = build().eval()
        models[decoder].load_state_dict(files.load_tensors(_kept(decoder))[0])
    valid, test = _faces("valid"), _faces("test")
    ready = AttributePredictor.ready(
        models["pointing"], ATTRIBUTES, predict(models["pointing"], valid), valid.targets
    )
    probabilities = ready.calibration(predict(models["pointing"], test)).sigmoid()
    found = threshold_scores(probabilities, test.targets, ready.thresholds)
    scores = {
        "f1": found["f1"].mean(),
        "f1_rare": found["f1"][RARE].mean(),
        "average_precision": (
            score_attributes(probabilities, test.targets)["average_precision"].mean()
        ),
    }
    save_weights(ready, path, names=ATTRIBUTES)
    save_weights(
        models["tokens that hear each other"], path.with_name("attributes_mixed.safetensors")
    )
    return scores


def shipped_decoders() -> dict[str, AttributeModel]:
    """Both models by the names of `DECODERS`, with the shipped weights. Used in lessons 07 and 09."""
    mixed = DECODERS["tokens that hear each other"]()
    tensors, _ = files.load_tensors(runtime.assets("weights/attributes_mixed.safetensors"))
    fill(mixed, tensors, "weights/attributes_mixed.safetensors")
    return {
        "pointing": course_attribute_predictor().model,
        "tokens that hear each other": mixed.eval(),
    }


POINTING = {
    "pointing": "pointing map",
    "mean map": "pointing mean map",
    "untrained": "pointing untrained",
    "chance": "pointing chance",
    "best place": "pointing best place",
    "where it misses": "pointing where it misses",
    "energy": "energy map",
    "follows": "follows map",
    "AP": "average_precision",
    "AP rare": "average_precision rare",
}


def pointing_table(rows: list[dict], columns: dict[str, str] = POINTING) -> str:
    """Both decoders in Markdown: means over the seeds and 95 % intervals. Shown in lessons 07 and
    09.
    """
    lines = [f"| tokens | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for decoder in DECODERS:
        runs = [row for row in rows if row["decoder"] == decoder]
        cells = (
            "{:.3f} ± {:.3f}".format(*over_seeds([row[score] for row in runs]))
            for score in columns.values()
        )
        lines.append(f"| {decoder} | {' | '.join(cells)} |")
    return "\n".join(lines)
