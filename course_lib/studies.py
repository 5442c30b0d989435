"""How each stored result is made: experiments too long for a lesson, whose tables the lessons show.

`python -m course_lib assets NAME` runs one; a run that is cut off goes on with the first setting
that is missing.
"""

import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from . import files, runtime
from .ablation import ARMS, BASELINES, run_arm
from .data.drawn import FaceDataset
from .evolution import run_remedy
from .pointing import SEEDS as POINTING_SEEDS
from .pointing import run_decoder
from .shapes import Float
from .training.attribute_scores import best_thresholds, score_attributes, threshold_scores
from .training.fit import fit_steps
from .training.remedies import REMEDIES
from .training.remedies import SEEDS as REMEDY_SEEDS
from .world.camera import DIFFICULTIES
from .world.population import ATTRIBUTES, CELEBA_RATES

__all__ = ["STUDIES", "Study", "difficulty_table", "run_study", "transfer_table"]

SEED = 30_000  # of everything drawn here, in the split "assets"


@dataclass(frozen=True)
class Study:
    """What `run_study` runs: `run(**setting)` gives the rows of one setting."""

    run: Callable[..., list[dict]]
    settings: tuple[dict, ...]
    minutes: int  # of all settings on two cores
    processes: int = 1  # of one thread each, where a run is too small for more


def run_study(name: str, folder: str | Path | None = None) -> dict:
    """Make one stored result again: a table of rows, with its seed, the torch version and the
    minutes it took.

    Raises ValueError for an unknown name.
    """
    if name not in STUDIES:
        raise ValueError(f"no study {name!r}; the studies are {', '.join(STUDIES)}")
    study, workplace = STUDIES[name], runtime.cache_dir(f"studies/{name}")
    kept = [workplace / f"setting_{number}.json" for number in range(len(study.settings))]
    missing = [
        (study.run, setting, path)
        for setting, path in zip(study.settings, kept, strict=True)
        if not path.exists()
    ]
    if study.processes == 1:
        for number, part in enumerate(missing, start=len(kept) - len(missing) + 1):
            _run_setting(*part)
            print(f"{name}: {number} of {len(kept)} settings", flush=True)
    else:
        with ProcessPoolExecutor(
            study.processes, get_context("spawn"), torch.set_num_threads, (1,)
        ) as pool:
            for part in as_completed([pool.submit(_run_setting, *part) for part in missing]):
                part.result()  # raises what the process raised
                print(
                    f"{name}: {sum(path.exists() for path in kept)} of {len(kept)} settings",
                    flush=True,
                )
    done = [files.read_json(path) for path in kept]
    result = {
        "study": name,
        "seed": SEED,
        "torch": torch.__version__,
        "minutes": round(sum(part["seconds"] for part in done) / 60 / study.processes, 1),
        "rows": [row for part in done for row in part["rows"]],
    }
    files.write_json(
        (Path(folder) if folder else runtime.assets("results")) / f"{name}.json", result
    )
    shutil.rmtree(workplace)
    return result


def _run_setting(run: Callable[..., list[dict]], setting: dict, kept: Path) -> None:
    """Run one setting and keep its rows, so that a study that is cut off does not run it again."""
    runtime.setup(SEED, quiet=True)
    started = time.time()
    rows = [setting | row for row in run(**setting)]
    files.write_json(kept, {"rows": rows, "seconds": time.time() - started})


# ---- difficulty: how hard the drawn faces are, for a network that learns from them alone ---------

PIXELS, UNSEEN = 64, 4_000  # side of the images; of these half choose thresholds
RARE = CELEBA_RATES < 0.10


@cache
def _drawn(difficulty: str, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images as 8-bit numbers and targets, drawn by two workers."""
    faces = FaceDataset(n, "assets", seed, difficulty, PIXELS, regions=False)
    batches = list(
        tqdm(DataLoader(faces, 100, num_workers=2), f"drawing {difficulty}", mininterval=20)
    )
    return (
        torch.cat([(batch["image"] * 255).byte() for batch in batches]),
        torch.cat([batch["target"] for batch in batches]),
    )


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
    model = small_network().to(memory_format=torch.channels_last)

    def loss_at(step: int) -> Tensor:
        pick = torch.randint(0, faces, (batch,))
        image = images[pick].float().contiguous(memory_format=torch.channels_last) / 255
        flipped = torch.where(torch.rand(batch, 1, 1, 1) < 0.5, image, image.flip(-1))
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(flipped)
        return F.binary_cross_entropy_with_logits(logits.float(), targets[pick])

    checkpoint = runtime.cache_dir("studies/difficulty") / f"{difficulty}_{faces}_{seed}.pt"
    fit_steps(model, loss_at, steps, 3e-3, checkpoint, seed * steps)
    checkpoint.unlink()
    model.eval()
    rows = []
    for tested in DIFFICULTIES:
        unseen, truth = _drawn(tested, UNSEEN, SEED + 1)
        with torch.no_grad():
            logits = torch.cat([model(part.float() / 255) for part in unseen.split(500)])
        rows.append({"tested": tested, **score_groups(logits, truth)})
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


SIZES, SEEDS = (1_000, 4_000, 16_000), (0, 1, 2)


def difficulty_table(rows: list[dict], title: str, score: str) -> str:
    """One score, tested on the difficulty of the training: mean and range over the seeds."""
    sizes = sorted({row["faces"] for row in rows})
    return _table(
        title,
        [f"{faces:,} faces" for faces in sizes],
        {
            difficulty: [_scores(rows, score, difficulty, difficulty, faces) for faces in sizes]
            for difficulty in DIFFICULTIES
        },
    )


def transfer_table(rows: list[dict], score: str = "ap_rare") -> str:
    """A classifier trained on one difficulty (rows) and tested on each (columns), with the most
    training images.
    """
    most = max(row["faces"] for row in rows)
    return _table(
        f"AP, rare attributes, {most:,} faces",
        [f"on {name}" for name in DIFFICULTIES],
        {
            f"trained on {difficulty}": [
                _scores(rows, score, difficulty, tested, most) for tested in DIFFICULTIES
            ]
            for difficulty in DIFFICULTIES
        },
    )


def _scores(rows: list[dict], score: str, trained: str, tested: str, faces: int) -> list[float]:
    """The score of each seed."""
    return [
        row[score]
        for row in rows
        if (row["difficulty"], row["tested"], row["faces"]) == (trained, tested, faces)
    ]


def _table(title: str, columns: list[str], rows: dict[str, list[list[float]]]) -> str:
    lines = [
        [title, *columns],
        *([name, *map(_mean_and_range, cells)] for name, cells in rows.items()),
    ]
    header, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([header, "|---" * (len(columns) + 1) + "|", *body])


def _mean_and_range(scores: list[float]) -> str:
    return f"{np.mean(scores):.2f} ({min(scores):.2f}–{max(scores):.2f})"


STUDIES = {
    "difficulty": Study(
        learn_faces,
        tuple(
            {"difficulty": difficulty, "faces": faces, "seed": seed}
            for difficulty, seed, faces in product(DIFFICULTIES, SEEDS, SIZES)
        ),
        45,
    ),
    "ablation": Study(run_arm, tuple({"arm": arm} for arm in (*reversed(ARMS), *BASELINES)), 30),
    "evolution": Study(
        run_remedy,
        tuple({"remedy": remedy, "seed": seed} for seed, remedy in product(REMEDY_SEEDS, REMEDIES)),
        60,
        processes=2,
    ),
    "pointing": Study(
        run_decoder,
        tuple(
            {"decoder": decoder, "seed": seed}
            for decoder, seeds in POINTING_SEEDS.items()
            for seed in range(seeds)
        ),
        25,
        processes=2,
    ),
}
