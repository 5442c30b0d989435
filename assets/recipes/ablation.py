"""`ablation`, `personality` and `lesson_tokens`: what does each part of the personality model add?

For lesson 07, six arms learn from the same tokens of the frozen extractors, with the same loop and the same number
of epochs, and are tested on speakers whom none of them met. Beside them stand the floor, a speaker
look-up and the ceiling.
"""

import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from course_lib import files, runtime
from course_lib.data import ClipDataset
from course_lib.looking import score_localisation
from course_lib.models import (
    CompletePersonalityModel,
    DynamicFeatureExtractor,
    SideBySideModel,
    StaticFeatureExtractor,
    TokenPersonalityModel,
)
from course_lib.models.attention import recording
from course_lib.models.backbones import save_weights
from course_lib.models.inference import evaluating, to_model
from course_lib.shapes import Float
from course_lib.tables import Table
from course_lib.training import (
    Checkpoints,
    Run,
    Scores,
    TokenDataset,
    WarmupCosine,
    bootstrap_counts,
    concordance,
    fit,
    floor_prediction,
    interval,
    mean_accuracy,
    score_traits,
    speaker_lookup,
    stored_tokens,
)
from course_lib.world import TRAITS

from .common import workplace

__all__ = [
    "ARMS",
    "BASELINES",
    "personality_table",
    "run_arm",
    "write_lesson_tokens",
    "write_personality",
]

FACE, MOTION = 2048, 1024  # widths of the extractors' tokens
SEEDS = (0, 1, 2, 3, 4)
EPOCHS, BATCH = 16, 32  # these, chosen on the validation clips, serve all arms
LEARNING_RATE, WEIGHT_DECAY, DROPOUT = 3e-3, 0.5, 0.1


class Arm(NamedTuple):
    """A model, and what it is given of face and motion tokens."""

    build: Callable[[], nn.Module]
    inputs: Callable[[Tensor, Tensor], tuple[Tensor, ...]]


def _mean(tokens: Float[Tensor, "n tokens dim"]) -> Float[Tensor, "n dim"]:
    return tokens.mean(dim=1, dtype=torch.float32)


ARMS = {
    "static only": Arm(
        lambda: SideBySideModel(FACE, dropout_rate=DROPOUT), lambda face, motion: (_mean(face),)
    ),
    "dynamic only": Arm(
        lambda: SideBySideModel(MOTION, dropout_rate=DROPOUT), lambda face, motion: (_mean(motion),)
    ),
    "concatenation": Arm(
        lambda: SideBySideModel(FACE, MOTION, dropout_rate=DROPOUT),
        lambda face, motion: (_mean(face), _mean(motion)),
    ),
    "one-key attention": Arm(
        lambda: CompletePersonalityModel(FACE, MOTION, dropout_rate=DROPOUT),
        lambda face, motion: (_mean(face), _mean(motion)),
    ),
    "per moment, then mean": Arm(
        lambda: SideBySideModel(FACE, MOTION, dropout_rate=DROPOUT),
        lambda face, motion: (_mean(face), motion),
    ),
    "token attention": Arm(
        lambda: TokenPersonalityModel(dropout_rate=DROPOUT), lambda face, motion: (face, motion)
    ),
}


# ---- the clips -----------------------------------------------------------------------------------

CLIPS = {
    "train": ClipDataset(2_800, "assets", 20_002),
    "valid": ClipDataset(400, "assets", 20_003),
    "test": ClipDataset(600, "test", 0),
}  # no speaker in two of them


@cache
def clip_tokens(part: str) -> dict[str, Tensor]:
    """Tokens and truth of the training, validation or test clips; drawn once, kept in the cache
    folder.
    """
    device = runtime.default_device()
    static = StaticFeatureExtractor().eval().to(device, memory_format=torch.channels_last)
    dynamic = DynamicFeatureExtractor().eval().to(device)
    also = ("region",) if part == "test" else ()
    return stored_tokens(CLIPS[part], static, dynamic, also) | CLIPS[part].labels()


# ---- tokens small enough to ship, so that the models of lesson 07 train in seconds ---------------

LESSON_CLIPS = {"train": 1_600, "valid": 200, "test": 400}


def write_lesson_tokens(path: Path, width: int = 64) -> dict:
    """The mean face token and the motion tokens of some of these clips, on their first principal
    components.
    """
    data, tensors, scores = {part: clip_tokens(part) for part in LESSON_CLIPS}, {}, {}
    for name in ("face_tokens", "motion_tokens"):
        tokens = {part: values[name][: LESSON_CLIPS[part]].float() for part, values in data.items()}
        if name == "face_tokens":
            tokens = {part: values.mean(dim=1, keepdim=True) for part, values in tokens.items()}
        mean, axes, scores[f"{name}_variance"] = principal_axes(
            tokens["train"].flatten(0, 1), width
        )
        tensors |= {
            f"{part}.{name}": ((values - mean) @ axes).half() for part, values in tokens.items()
        }
    tensors |= {
        f"{part}.{name}": values[name][: LESSON_CLIPS[part]]
        for part, values in data.items()
        for name in ("traits", "expected", "speaker", "moment")
    }
    files.save_tensors(
        path,
        tensors,
        {"static": StaticFeatureExtractor().hash, "dynamic": DynamicFeatureExtractor().hash},
    )
    return scores


def principal_axes(
    tokens: Float[Tensor, "n dim"],
    width: int,
) -> tuple[Float[Tensor, " dim"], Float[Tensor, "dim width"], float]:
    """The mean, the `width` directions of most variance, and the share of the variance that they
    hold.
    """
    mean = tokens.mean(dim=0)
    variances, axes = torch.linalg.eigh((tokens - mean).T.cov())
    return mean, axes[:, -width:].flip(1), float(variances[-width:].sum() / variances.sum())


# ---- one training run ----------------------------------------------------------------------------


class _Curve:
    """The validation loss of every epoch."""

    def __init__(self):
        self.losses: list[float] = []

    def after_epoch(self, run: Run) -> None:
        self.losses.append(run.log["valid_loss"])


def train_arm(
    name: str,
    seed: int,
    train: dict[str, Tensor],
    valid: dict[str, Tensor],
    epochs: int = EPOCHS,
    callbacks: tuple[Any, ...] = (),
) -> tuple[nn.Module, list[float]]:
    """Train one arm on `face_tokens`, `motion_tokens` and `traits`; the model, and its validation
    loss by epoch.
    """
    arm, curve = ARMS[name], _Curve()
    torch.manual_seed(seed)
    model = arm.build().to(runtime.default_device())
    seen, unseen = (
        TokenDataset(
            *arm.inputs(data["face_tokens"], data["motion_tokens"]),
            traits=data["traits"],
            shuffle=data is train,
        )
        for data in (train, valid)
    )
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    fit(
        model,
        DataLoader(seen, BATCH, shuffle=True, drop_last=True),
        DataLoader(unseen, 100),
        epochs=epochs,
        optimizer=optimizer,
        callbacks=[WarmupCosine(), curve, *callbacks],
        seed=1_000 * seed,
    )
    return model.eval(), curve.losses


@torch.no_grad()
def predict(name: str, model: nn.Module, data: dict[str, Tensor]) -> dict[str, Tensor]:
    """The `prediction` for every clip and, of the arm with tokens, where its attention lies in time
    and space.

    `moments` (`n 8`): the pooled attention, mean over heads. `places` (`n 49`): what each face
    token's answer counts, times how much it listens to the deciding moment.
    """
    tokens = name == "token attention"
    attention = model.cross_attention.attention if tokens else None
    parts: dict[str, list[Tensor]] = {}
    for chosen in torch.arange(len(data["traits"])).split(100):
        inputs = ARMS[name].inputs(data["face_tokens"][chosen], data["motion_tokens"][chosen])
        with recording(attention) if tokens else nullcontext(), evaluating(model):
            answer = {"prediction": model(*to_model(model, *inputs))}
        if tokens:
            cross, deciding = model.cross_attention, data["moment"][chosen]
            weights = attention.last_attn_weights.mean(dim=1)
            answer |= {
                "moments": cross.last_pooled_weights.mean(dim=1),
                "places": cross.last_importance * weights[torch.arange(len(chosen)), :, deciding],
            }
        for key, value in answer.items():
            parts.setdefault(key, []).append(value.cpu())
    return {key: torch.cat(values) for key, values in parts.items()}


# ---- the study -----------------------------------------------------------------------------------


def _floor(train: dict[str, Tensor], test: dict[str, Tensor]) -> Tensor:
    return floor_prediction(train["traits"], len(test["traits"]))


def _lookup(train: dict[str, Tensor], test: dict[str, Tensor]) -> Tensor:
    known, asked = (
        [f"{part} {speaker}" for speaker in data["speaker"].tolist()]
        # numbers begin at 0 in every part
        for part, data in (("train", train), ("test", test))
    )
    return speaker_lookup(train["traits"], known, asked)


BASELINES = {
    "floor": _floor,
    "speaker look-up": _lookup,
    "ceiling": lambda train, test: test["expected"],
}


def run_arm(arm: str) -> list[dict]:
    """A row for each seed of an arm and one for all of them, with intervals over speakers and
    seeds.

    Every run is kept in the cache folder, so that one that is cut off costs no other.
    """
    test, seeds = clip_tokens("test"), (0,) if arm in BASELINES else SEEDS
    answers = [_answer(arm, seed) for seed in seeds]
    scores = [
        score_traits(tensors["prediction"], test["traits"], test["speaker"])
        for tensors, _ in answers
    ]
    rows = [
        {"seed": seed} | _by_trait(score) | facts | _looks(tensors, test)
        for seed, score, (tensors, facts) in zip(seeds, scores, answers, strict=True)
    ]
    best = [
        score_traits(
            _answer("token attention", seed)[0]["prediction"], test["traits"], test["speaker"]
        )
        for seed in SEEDS
    ]
    ours = scores * (len(SEEDS) // len(scores))
    behind = [
        Scores(token.value - other.value, token.resampled - other.resampled)
        for token, other in zip(best, ours, strict=True)
    ]
    overall = {
        "seeds": len(scores),
        "ccc": _over_seeds(scores),
        "token_minus_this": _over_seeds(behind),
    }
    return [*rows, overall] if arm in ARMS else [rows[0] | overall]


def _answer(arm: str, seed: int) -> tuple[dict[str, Tensor], dict]:
    """What one run says about the test clips, with its cost; from the cache folder if it was done
    before.
    """
    train, test = clip_tokens("train"), clip_tokens("test")
    if arm in BASELINES:
        return {"prediction": BASELINES[arm](train, test)}, {}
    path = workplace("ablation") / f"{arm}, seed {seed}.safetensors"
    if not path.exists():
        started = time.time()
        model, curve = train_arm(arm, seed, train, clip_tokens("valid"))
        facts = {
            "seconds": round(time.time() - started, 1),
            "parameters": sum(p.numel() for p in model.parameters()),
        }
        if seed == SEEDS[0]:
            facts["valid_loss"] = [round(loss, 5) for loss in curve]
        answer = predict(arm, model, test)
        if arm == "token attention":
            torch.manual_seed(seed)
            untrained = predict(arm, ARMS[arm].build().to(runtime.default_device()), test)
            answer |= {f"untrained_{key}": value for key, value in untrained.items()}
        files.save_tensors(path, answer, facts)
    return files.load_tensors(path)


def _by_trait(scores: Scores) -> dict[str, dict[str, float]]:
    return {
        name: {
            trait: round(float(value), 4)
            for trait, value in zip((*TRAITS, "mean"), row, strict=True)
        }
        for name, row in (("accuracies", scores.value[0]), ("cccs", scores.value[1]))
    }


def _over_seeds(scores: list[Scores], seed: int = 0) -> dict[str, float]:
    """The mean CCC over seeds, with a 95 % interval in which speakers and seeds are both drawn
    again.
    """
    resampled = torch.stack([score.resampled[:, 1, -1] for score in scores], 1)
    shares = bootstrap_counts(len(scores), len(resampled), seed) / len(scores)
    low, high = interval((shares * resampled).sum(1))
    value = np.mean([float(score.value[1, -1]) for score in scores])
    return {
        "mean": round(float(value), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


def _looks(tensors: dict[str, Tensor], test: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Of the arm with tokens: does its attention peak on the deciding moment, and does it lie on
    the deciding region?

    Each beside the mean map of all clips, an untrained model and chance.
    """
    if "moments" not in tensors:
        return {}
    hits = {
        name: (moments.argmax(dim=1) == test["moment"]).float().mean().item()
        for name, moments in (
            ("map", tensors["moments"]),
            ("mean map", tensors["moments"].mean(dim=0, keepdim=True)),
            ("untrained", tensors["untrained_moments"]),
        )
    }
    maps, untrained = (
        tensors[name].unflatten(1, (7, 7))[:, None].expand(-1, len(TRAITS), -1, -1)
        for name in ("places", "untrained_places")
    )
    space = score_localisation(maps, test["region"], untrained)
    looks = {
        "moment": hits | {"chance": 1 / tensors["moments"].shape[1]},
        **{
            measure: {column: space.mean(measure, column) for column in space.table[measure]}
            for measure in ("pointing", "energy")
        },
    }
    return {
        name: {key: round(value, 4) for key, value in scores.items()}
        for name, scores in looks.items()
    }


# ---- the model that ships ------------------------------------------------------------------------


def write_personality(path: Path) -> dict:
    """A `TokenPersonalityModel` on the tokens of both shipped extractors: the first run of the arm
    with attention.
    """
    train, valid, test = (clip_tokens(part) for part in ("train", "valid", "test"))
    checkpoints = workplace("personality")
    model, _ = train_arm(
        "token attention", SEEDS[0], train, valid, callbacks=(Checkpoints(checkpoints),)
    )
    answer = predict("token attention", model, test)
    floor = floor_prediction(train["traits"], len(test["traits"]))
    save_weights(
        model,
        path,
        backbone="personality",
        static=StaticFeatureExtractor().hash,
        dynamic=DynamicFeatureExtractor().hash,
    )
    shutil.rmtree(checkpoints)
    scores = {
        "top_moment_decides": (answer["moments"].argmax(1) == test["moment"]).float().mean(),
        "top_moment_chance": 1 / answer["moments"].shape[1],
    }
    answers = {"floor": floor, "model": answer["prediction"], "ceiling": test["expected"]}
    for name, traits in answers.items():
        for score, measure in (("accuracy", mean_accuracy), ("ccc", concordance)):
            values = measure(traits, test["traits"])
            scores[f"{score}_{name}"] = values.mean()
            for trait, value in zip(TRAITS, values, strict=True):
                scores[f"{score}_{name}_{trait}"] = value
    return scores


def personality_table(scores: dict[str, float]) -> Table:
    """The shipped personality model on the ablation's test clips, of unseen speakers, as the README
    shows it.
    """
    rows = [("mean accuracy / CCC", "mean", *TRAITS)]
    for name in ("floor", "model", "ceiling"):
        ends = ("", *(f"_{trait}" for trait in TRAITS))
        pairs = [(scores[f"accuracy_{name}{end}"], scores[f"ccc_{name}{end}"]) for end in ends]
        rows.append((name, *(f"{accuracy:.3f} / {ccc:.2f}" for accuracy, ccc in pairs)))
    return Table(
        f"Attention is strongest on the deciding moment in {scores['top_moment_decides']:.0%} of"
        f" the clips (chance {scores['top_moment_chance']:.1%}).",
        rows,
    )
