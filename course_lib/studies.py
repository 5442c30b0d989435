"""How each stored result is made: experiments too long for a lesson, whose tables the lessons show.

`python -m course_lib assets NAME` runs one; a run that is cut off goes on with the first setting that is missing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from . import files, runtime
from .data.faces import DIFFICULTIES, FaceDataset
from .data.population import ATTRIBUTES, CELEBA_RATES
from .shapes import Bool, Float
from .training.fit import fit_steps

__all__ = ["STUDIES", "Study", "difficulty_table", "run_study", "transfer_table"]

SEED = 30_000                                           # of everything drawn here, in the split "assets"


@dataclass(frozen=True)
class Study:
    """What `run_study` runs: `run(**setting)` gives the rows of one setting."""

    run: Callable[..., list[dict]]
    settings: tuple[dict, ...]
    minutes: int                                        # of all settings on two cores


def run_study(name: str, folder: str | Path | None = None) -> dict:
    """Make one stored result again: a table of rows, with its seed, the torch version and the minutes it took.

    Raises ValueError for an unknown name.
    """
    if name not in STUDIES:
        raise ValueError(f"no study {name!r}; the studies are {', '.join(STUDIES)}")
    study, kept = STUDIES[name], runtime.cache_dir("studies") / f"{name}.json"
    runtime.setup(SEED, quiet=True)
    done = files.read_json(kept) if kept.exists() else []
    for number, setting in enumerate(study.settings[len(done):], start=len(done) + 1):
        started = time.time()
        rows = [setting | row for row in study.run(**setting)]
        done.append({"rows": rows, "seconds": time.time() - started})
        files.write_json(kept, done)
        print(f"{name}: {number} of {len(study.settings)} settings", flush=True)
    result = {"study": name, "seed": SEED, "torch": torch.__version__,
              "minutes": round(sum(part["seconds"] for part in done) / 60, 1),
              "rows": [row for part in done for row in part["rows"]]}
    files.write_json((Path(folder) if folder else runtime.assets("results")) / f"{name}.json", result)
    kept.unlink()
    return result


# ---- difficulty: how hard the drawn faces are, for a network that learns from them alone -----------------------------

PIXELS, UNSEEN = 64, 4_000                              # side of the images; of these half choose thresholds
RARE = CELEBA_RATES < 0.10


@cache
def _drawn(difficulty: str, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images as 8-bit numbers and targets, drawn by two workers."""
    faces = FaceDataset(n, "assets", seed, difficulty, PIXELS, regions=False)
    batches = list(tqdm(DataLoader(faces, 100, num_workers=2), f"drawing {difficulty}", mininterval=20))
    return (torch.cat([(batch["image"] * 255).byte() for batch in batches]),
            torch.cat([batch["target"] for batch in batches]))


def small_network() -> nn.Module:
    """Four strided convolutions with batch norm, a mean over places and one logit an attribute: 0.4 M parameters."""
    widths = (3, 32, 64, 128, 256)
    blocks = [nn.Sequential(nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
              for before, after in pairwise(widths)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], len(ATTRIBUTES)))


def learn_faces(difficulty: str, faces: int, seed: int, steps: int = 600, batch: int = 128) -> list[dict]:
    """Train the small network with plain BCE on `faces` images; score it on unseen ones of every difficulty."""
    images, targets = _drawn(difficulty, max(SIZES), SEED)
    torch.manual_seed(seed)
    model = small_network().to(memory_format=torch.channels_last)

    def loss_at(step: int) -> Tensor:
        pick = torch.randint(0, faces, (batch,))
        image = images[pick].float().contiguous(memory_format=torch.channels_last) / 255
        flipped = torch.where(torch.rand(batch, 1, 1, 1) < 0.5, image, image.flip(-1))
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(flipped)
        return F.binary_cross_entropy_with_logits(logits.float(), targets[pick])

    checkpoint = runtime.cache_dir("studies") / f"{difficulty}_{faces}_{seed}.pt"
    fit_steps(model, loss_at, steps, 3e-3, checkpoint, seed * steps)
    checkpoint.unlink()
    model.eval()
    rows = []
    for tested in DIFFICULTIES:
        unseen, truth = _drawn(tested, UNSEEN, SEED + 1)
        with torch.no_grad():
            logits = torch.cat([model(part.float() / 255) for part in unseen.split(500)])
        rows.append({"tested": tested, **score_attributes(logits, truth.bool())})
    return rows


def score_attributes(logits: Float[Tensor, "batch attributes"], truth: Bool[Tensor, "batch attributes"]) -> dict:
    """Accuracy, and of the rare and the other attributes F1 at 0.5, F1 at thresholds from the other half, and AP."""
    half = len(truth) // 2
    positive, judged = logits[half:] > 0, truth[half:]
    thresholds = [_best_threshold(*pair) for pair in zip(logits[:half].T, truth[:half].T, strict=True)]
    tuned = logits[half:] > torch.stack(thresholds)
    precision = average_precision_score(judged, logits[half:], average=None)
    scores = {"f1": _f1(positive, judged), "f1_tuned": _f1(tuned, judged), "ap": torch.from_numpy(precision)}
    return {"accuracy": round(float((positive == judged).float().mean()), 4)} | {
        f"{name}_{group}": round(float(values[torch.from_numpy(chosen)].mean()), 4)
        for name, values in scores.items() for group, chosen in (("rare", RARE), ("common", ~RARE))}


def _f1(positive: Bool[Tensor, "batch attributes"], truth: Bool[Tensor, "batch attributes"]) -> Tensor:
    both = (positive & truth).sum(0)
    return 2 * both / (positive.sum(0) + truth.sum(0)).clamp(min=1)


def _best_threshold(logits: Float[Tensor, " batch"], truth: Bool[Tensor, " batch"]) -> Tensor:
    """The logit above which F1 is highest."""
    ordered, order = logits.sort(descending=True)
    hits, chosen = truth[order].cumsum(0), torch.arange(1, len(truth) + 1)
    return ordered[(2 * hits / (chosen + truth.sum())).argmax()] - 1e-6


SIZES, SEEDS = (1_000, 4_000, 16_000), (0, 1, 2)


def difficulty_table(rows: list[dict], title: str, score: str) -> str:
    """One score, tested on the difficulty of the training: mean and range over the seeds."""
    sizes = sorted({row["faces"] for row in rows})
    lines = [f"| {title} | " + " | ".join(f"{faces:,} faces" for faces in sizes) + " |",
             "|---" * (len(sizes) + 1) + "|"]
    for difficulty in DIFFICULTIES:
        cells = ([row[score] for row in rows if (row["difficulty"], row["tested"], row["faces"])
                  == (difficulty, difficulty, faces)] for faces in sizes)
        lines.append(f"| {difficulty} | " + " | ".join(_mean_and_range(cell) for cell in cells) + " |")
    return "\n".join(lines)


def transfer_table(rows: list[dict], score: str = "ap_rare") -> str:
    """A classifier trained on one difficulty (rows) and tested on each (columns), with the most training images."""
    most = max(row["faces"] for row in rows)
    lines = [f"| AP, rare attributes, {most:,} faces | " + " | ".join(f"on {name}" for name in DIFFICULTIES) + " |",
             "|---" * (len(DIFFICULTIES) + 1) + "|"]
    for difficulty in DIFFICULTIES:
        cells = ([row[score] for row in rows if (row["difficulty"], row["tested"], row["faces"])
                  == (difficulty, tested, most)] for tested in DIFFICULTIES)
        lines.append(f"| trained on {difficulty} | " + " | ".join(_mean_and_range(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _mean_and_range(scores: list[float]) -> str:
    return f"{np.mean(scores):.2f} ({min(scores):.2f}–{max(scores):.2f})"


STUDIES = {"difficulty": Study(learn_faces, tuple({"difficulty": difficulty, "faces": faces, "seed": seed}
                               for difficulty, seed, faces in product(DIFFICULTIES, SEEDS, SIZES)), 45)}
