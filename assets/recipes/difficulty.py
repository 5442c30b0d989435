"""`difficulty`, for the README: how hard are the drawn faces, for a network that learns from them
alone?
"""

import shutil
from functools import cache
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import runtime
from course_lib.data import FaceDataset, gather
from course_lib.models.inference import evaluating, to_model
from course_lib.shapes import Float
from course_lib.tables import Table
from course_lib.training import best_thresholds, score_attributes, threshold_scores
from course_lib.world import ATTRIBUTES, CELEBA_RATES, DIFFICULTIES

from .common import train_steps, workplace

__all__ = ["SEEDS", "SIZES", "difficulty_table", "learn_faces"]

SEED = 30_000  # of everything drawn here, in the split "assets"
SIZES, SEEDS = (1_000, 4_000, 16_000), (0, 1, 2)
PIXELS, UNSEEN = 64, 4_000  # side of the images; of these half choose thresholds
RARE = CELEBA_RATES < 0.10


@cache
def _drawn(difficulty: str, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images as 8-bit numbers, and targets."""
    faces = FaceDataset(n, "assets", seed, difficulty, PIXELS, regions=False)
    items = gather(faces, "image", "target", small={"image": torch.uint8})
    return items["image"], items["target"]


def small_network() -> nn.Module:
    """Four strided convolutions with batch norm, a mean over places and one logit an attribute: 0.4
    M parameters.
    """
    widths = (3, 32, 64, 128, 256)
    blocks = [
        nn.Sequential(
            nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
        )
        for before, after in pairwise(widths)
    ]
    return nn.Sequential(
        *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], len(ATTRIBUTES))
    )


def learn_faces(
    difficulty: str, faces: int, seed: int, steps: int = 600, batch: int = 128
) -> list[dict]:
    """Train the small network with plain BCE on `faces` images; score it on unseen ones of every
    difficulty.
    """
    images, targets = _drawn(difficulty, max(SIZES), SEED)
    torch.manual_seed(seed)
    model = small_network().to(runtime.default_device(), memory_format=torch.channels_last)

    def draw(generator: torch.Generator, step: int) -> tuple[Tensor, Tensor]:
        pick = torch.randint(0, faces, (batch,), generator=generator)
        image = images[pick].float().contiguous(memory_format=torch.channels_last) / 255
        flip = torch.rand(batch, 1, 1, 1, generator=generator) < 0.5
        return torch.where(flip, image, image.flip(-1)), targets[pick]

    folder = workplace("difficulty") / f"{difficulty}_{faces}_{seed}"
    train_steps(model, draw, F.binary_cross_entropy_with_logits, steps, 3e-3, folder, seed * steps)
    shutil.rmtree(folder)
    rows = []
    for tested in DIFFICULTIES:
        unseen, truth = _drawn(tested, UNSEEN, SEED + 1)
        with evaluating(model), torch.no_grad():
            parts = [model(*to_model(model, part.float() / 255)) for part in unseen.split(500)]
        rows.append({"tested": tested, **score_groups(torch.cat(parts).cpu(), truth)})
    return rows


def score_groups(
    logits: Float[Tensor, "batch attributes"], targets: Float[Tensor, "batch attributes"]
) -> dict:
    """Accuracy, and of the rare and the other attributes F1 at 0.5, F1 at thresholds from the other
    half, and AP.
    """
    half, probabilities = len(targets) // 2, logits.double().sigmoid()
    thresholds = best_thresholds(probabilities[:half], targets[:half])
    usual = score_attributes(probabilities[half:], targets[half:], names=ATTRIBUTES)
    tuned = threshold_scores(probabilities[half:], targets[half:], thresholds)
    scores = {"f1": usual["f1"], "f1_tuned": tuned["f1"], "ap": usual["average_precision"]}
    return {"accuracy": round(float(usual["accuracy"].mean()), 4)} | {
        f"{name}_{group}": round(float(values[torch.from_numpy(chosen)].mean()), 4)
        for name, values in scores.items()
        for group, chosen in (("rare", RARE), ("common", ~RARE))
    }


def difficulty_table(rows: list[dict]) -> Table:
    """F1 of the rare, tested on the difficulty of the training: mean and range over the seeds."""
    title, score = "F1 on attributes under 10 %, threshold 0.5", "f1_rare"
    sizes = sorted({row["faces"] for row in rows})
    lines = [(title, *(f"{faces:,} faces" for faces in sizes))]
    for difficulty in DIFFICULTIES:
        cells = [_over_seeds(rows, score, difficulty, faces) for faces in sizes]
        lines.append((difficulty, *cells))
    return Table("", lines)


def _over_seeds(rows: list[dict], score: str, difficulty: str, faces: int) -> str:
    """The mean and the range."""
    setting = (difficulty, difficulty, faces)
    scores = [
        row[score] for row in rows if (row["difficulty"], row["tested"], row["faces"]) == setting
    ]
    return f"{np.mean(scores):.2f} ({min(scores):.2f}–{max(scores):.2f})"
